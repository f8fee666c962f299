"""Every kind of image comes in upright, opaque and 8-bit; every patch finds back to its pixels."""

import io
import math
import struct
import sys
import warnings
import zlib
from datetime import UTC, datetime
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch
from IPython import display
from PIL import Image, features

from vit_tutorial.data import ImageSet
from vit_tutorial.images import fit_image, normalize, open_image
from vit_tutorial.weights import load_checkpoint

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def red_left_blue_right(width=8, height=4):
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Ways in


def test_path_string_bytes_file_image_array_and_tensor_give_the_same_picture(tmp_path):
    pixels = noise(5, 7)
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    with path.open("rb") as file, Image.open(path) as lazy:
        sources = [path, str(path), path.read_bytes(), file, lazy, pixels, tensor]
        for source in sources:
            image = open_image(source)
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.new("RGB", (3, 2)).save(tmp_path / "mine.png")
    assert open_image("~/mine.png").size == (3, 2)


def test_the_source_image_is_left_as_it_was():
    source = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    opened = open_image(source)
    opened.putpixel((0, 0), GREEN)
    assert source.mode == "RGBA"
    assert source.getpixel((0, 0)) == (255, 0, 0, 0)
    plain = Image.new("RGB", (3, 2), RED)
    open_image(plain).putpixel((0, 0), GREEN)
    assert plain.getpixel((0, 0)) == RED


def uploads() -> dict:
    """A red PNG as upload buttons and displays hold it."""
    content = encoded(Image.new("RGB", (3, 2), RED), "PNG")
    item = {"name": "cat.png", "type": "image/png", "size": 1, "content": memoryview(content)}
    return {
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "ipywidgets 8, one file": item,
        "ipywidgets 8, value": (item,),
        "ipywidgets 7, value": {"cat.png": {"metadata": {"name": "cat.png"}, "content": content}},
        "Colab": {"cat.png": content},
        "Colab, list of values": [content],
        "ipywidgets.Image": ipywidgets.Image(value=content),
        "IPython.display.Image": display.Image(data=content),
        "an open file": io.BytesIO(content),
    }


@pytest.mark.parametrize("kind", uploads())
def test_an_upload_is_opened(kind):
    assert open_image(uploads()[kind]).getpixel((2, 1)) == RED


def test_an_upload_button_itself_is_opened():
    button = ipywidgets.FileUpload()
    item = uploads()["ipywidgets 8, one file"]
    button.value = ({**item, "last_modified": datetime.now(UTC)},)
    assert open_image(button).size == (3, 2)


def test_several_uploads_and_broken_ones_are_named():
    two = {"a.png": b"1", "b.png": b"2"}
    with pytest.raises(ValueError, match=r"got 2 uploads \(a\.png, b\.png\): give one of them"):
        open_image(two)
    with pytest.raises(ValueError, match=r"a\.png: not an image"):
        open_image({"a.png": b"1"})
    for nothing in ({}, (), ipywidgets.FileUpload()):
        with pytest.raises(ValueError, match="nothing has been uploaded"):
            open_image(nothing)


@pytest.mark.parametrize(
    "address",
    ["https://example.org/cat.jpg", "HTTP://A.B/C", "file:///cat.jpg", "data:image/png;base64,AA"],
)
def test_an_address_is_answered_with_the_remedy(address):
    for source in (address, Path(address)):
        with pytest.raises(ValueError, match="is an address: download the image"):
            open_image(source)


@pytest.mark.parametrize("name", ["cat\0.jpg", "x" * 5000])
def test_a_name_that_no_file_can_have_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_image(name)


def test_a_path_in_the_place_of_pixels_is_answered_with_the_remedy():
    with pytest.raises(ValueError, match=r"tensor of pixels, got 'cat\.jpg': `fit_image` opens"):
        normalize("cat.jpg", [0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\), got str: see `prepare`"):
        load_checkpoint("digits")[0]("cat.jpg")
    with pytest.raises(ValueError, match=r"must be a tensor, got 'pets': `image_folder` reads"):
        ImageSet("pets", torch.zeros(1).long(), ("a",), "pets")


def test_a_telephones_photograph_names_what_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "renamed.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it was not installed
    with pytest.raises(ValueError, match=r"renamed\.jpg: .* in HEIC, .*pip install pillow-heif"):
        open_image(path)
    path.write_bytes(b"\0\0\0\x18ftypisom" + b"\0" * 40)  # a film
    with pytest.raises(ValueError, match=r"renamed\.jpg: not an image that Pillow can read"):
        open_image(path)


def test_a_telephones_photograph_is_opened_by_pillow_heif(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = pillow_heif.from_pillow(Image.new("RGB", (64, 48), RED))
    photo.save(tmp_path / "photo.heic", quality=-1)
    seen = open_image(tmp_path / "photo.heic")
    assert seen.size == (64, 48)
    np.testing.assert_allclose(seen.getpixel((9, 9)), RED, atol=4)


def test_avif_needs_a_newer_pillow_and_a_broken_one_is_no_image(tmp_path, monkeypatch):
    (tmp_path / "photo.avif").write_bytes(b"\0\0\0\x18ftypavif" + b"\0" * 40)
    for there, sentence in (
        (True, "not an image that Pillow can read"),
        (False, "Pillow 11.3: `pip"),
    ):
        monkeypatch.setattr(features, "check", lambda _, there=there: there)
        with pytest.raises(ValueError, match=sentence):
            open_image(tmp_path / "photo.avif")


def test_avif_is_opened():
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    seen = open_image(encoded(Image.new("RGB", (64, 48), RED), "AVIF"))
    np.testing.assert_allclose(seen.getpixel((9, 9)), RED, atol=4)


# Kinds of image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation, form):
    upright = Image.new("L", (24, 16), 255)
    upright.paste(0, (0, 0, 12, 8))  # the top left quarter is black
    turns = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_TOP_BOTTOM],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in turns[orientation]:  # how a camera with that orientation stores the scene
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encoded(stored, form, exif=exif), mode="L")
    assert image.size == (24, 16)
    quarters = [bool(q) for q in (np.asarray(image)[[3, 12]][:, [4, 18]] < 128).flat]
    assert quarters == [True, False, False, False]
    assert open_image(image, mode="L").size == (24, 16)  # not turned a second time


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_photograph_with_broken_exif_still_opens():
    broken = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"
    assert open_image(encoded(red_left_blue_right(), "JPEG", exif=broken)).size == (8, 4)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 128)), (255, 127, 127)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), RED),
        (Image.new("LA", (2, 2), (0, 0)), WHITE),
        (Image.new("LA", (2, 2), (100, 255)), (100, 100, 100)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), WHITE),
        (Image.new("1", (2, 2), 0), (0, 0, 0)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), RED),
        (Image.new("RGB", (2, 2), GREEN).convert("YCbCr"), (0, 254, 0)),
        (Image.new("RGB", (2, 2), BLUE).quantize(2), BLUE),
    ],
    ids="clear half opaque LA-clear LA grey 1-white 1-black CMYK YCbCr palette".split(),
)
def test_modes_become_rgb_with_transparency_on_white(source, expected):
    assert open_image(source).getpixel((0, 0)) == expected
    grey = open_image(source, mode="L")
    assert grey.mode == "L"
    assert grey.getpixel((1, 1)) == Image.new("RGB", (1, 1), expected).convert("L").getpixel((0, 0))


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_of_a_png_becomes_white(mode):
    image = red_left_blue_right().convert(mode)
    clear = image.getpixel((0, 0))
    opened = open_image(encoded(image, "PNG", transparency=clear))
    assert opened.getpixel((0, 0)) == WHITE
    assert opened.getpixel((7, 0)) != WHITE


def test_a_palette_with_an_alpha_per_colour_lies_on_white():
    image = red_left_blue_right().quantize(2)
    alphas = bytes([0, 255] if image.getpixel((0, 0)) == 0 else [255, 0])
    opened = open_image(encoded(image, "PNG", transparency=alphas))
    assert (opened.getpixel((0, 0)), opened.getpixel((7, 0))) == (WHITE, BLUE)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(form):
    if form == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow was built without WebP")
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as animation:
        animation.seek(2)  # there are three
    assert open_image(data).getpixel((0, 0)) == RED


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_files_are_scaled_not_clipped(form):
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    expected = np.round(levels / 257)
    np.testing.assert_array_equal(
        open_image(encoded(Image.fromarray(levels), form), mode="L"), expected
    )


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)),
        Image.frombytes("I;16B", (3, 1), struct.pack(">3H", 0, 32768, 65535)),
        Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.int32)),
        Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)),
    ],
    ids=["I;16", "I;16B", "I", "F"],
)
def test_deep_grey_images_are_scaled_not_clipped(image):
    assert [open_image(image, mode="L").getpixel((x, 0)) for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("values", [[-1, 5], [0, 65536]])
def test_a_32_bit_image_out_of_range_is_refused(values):
    with pytest.raises(ValueError, match=r"the PIL image: .*int32"):
        open_image(Image.fromarray(np.array([values], dtype=np.int32)))


TWELVE = np.array([[0, 1024, 4095]], dtype=np.uint16)


def with_significant_bits(png: bytes, bits: int) -> bytes:
    """Say in a grey PNG how many bits are in use, right behind its header."""
    part = b"sBIT" + bytes([bits])
    part = struct.pack(">I", 1) + part + struct.pack(">I", zlib.crc32(part))
    return png[:33] + part + png[33:]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "array", "tensor", "PIL"])
def test_twelve_bits_in_sixteen_are_warned_of_and_opened_by_their_range(form):
    image = Image.fromarray(TWELVE)
    ways = {"array": TWELVE, "tensor": torch.from_numpy(TWELVE), "PIL": image}
    source = ways[form] if form in ways else encoded(image, form)
    with pytest.warns(UserWarning, match=r"no value above 4,095 .* 12 bits .*\(0, 4095\)"):
        seen = open_image(source, mode="L")
    np.testing.assert_array_equal(seen, [[0, 4, 16]])
    seen = open_image(source, mode="L", value_range=(0, 4095))
    np.testing.assert_array_equal(seen, [[0, 64, 255]])
    seen = open_image(source, mode="L", value_range=(1024, 2048))
    np.testing.assert_array_equal(seen, [[0, 0, 255]])
    seen = open_image(source, mode="L", value_range=(0, 65535))
    np.testing.assert_array_equal(seen, [[0, 4, 16]])


def test_a_file_that_says_how_many_bits_are_in_use_is_believed():
    image = Image.fromarray(TWELVE)
    for source in (
        with_significant_bits(encoded(image, "PNG"), 12),
        encoded(image, "TIFF", tiffinfo={281: 4095}),
    ):
        np.testing.assert_array_equal(open_image(source, mode="L"), [[0, 64, 255]])
        with Image.open(io.BytesIO(source)) as lazy:
            np.testing.assert_array_equal(open_image(lazy, mode="L"), [[0, 64, 255]])


def test_numbers_of_any_type_open_by_their_range():
    hounsfield = np.array([[-1024, 0, 3071]], dtype=np.int16)
    seen = open_image(hounsfield, mode="L", value_range=(-1024, 3071))
    np.testing.assert_array_equal(seen, [[0, 64, 255]])
    seen = open_image(np.array([[0.0, 127.5, 255.0]]), mode="L", value_range=(0, 255))
    np.testing.assert_array_equal(seen, [[0, 128, 255]])
    grey = encoded(Image.fromarray(np.array([[50, 100, 200]], dtype=np.uint8)), "PNG")
    seen = open_image(grey, mode="L", value_range=(0, 100))
    np.testing.assert_array_equal(seen, [[128, 255, 255]])
    with pytest.raises(ValueError, match="black below white, got"):
        open_image(hounsfield, value_range=(5, 5))
    with pytest.raises(ValueError, match=r"int16; .*value_range=\(black, white\)"):
        open_image(hounsfield)


def colour_png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colours (H, W, 3), which Pillow does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    "value_range", [(5, 1), (0,), (0, 1, 2), 255, ("a", "b"), (0, math.inf), (math.nan, 1)]
)
def test_a_range_that_is_none_is_refused(value_range):
    with pytest.raises(ValueError, match=r"value_range must be \(black, white\)"):
        open_image(np.zeros((2, 2), np.uint16), value_range=value_range)


def test_eight_bits_are_not_darkened_by_a_range_of_twelve():
    for source in (Image.new("RGB", (4, 4), RED), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"it has 8 bits, .* 4095 is white: give it without"):
            open_image(source, value_range=(0, 4095))
    assert open_image(Image.new("L", (4, 4), 50), value_range=(0, 100)).getpixel((0, 0))[0] == 128


def test_dark_colours_of_sixteen_bits_are_warned_of():
    values = np.array([[[0, 1024, 4095]]], dtype=np.uint16)
    with pytest.warns(UserWarning, match=r"the upper 8 bits, up to 15 of 255 here: .*value_range"):
        open_image(colour_png(values))
    with pytest.raises(ValueError, match="the upper 8 bits"):
        open_image(colour_png(values), value_range=(0, 4095))
    assert open_image(values, value_range=(0, 4095)).getpixel((0, 0)) == (0, 64, 255)
    assert open_image(colour_png(values * 16)).getpixel((0, 0)) == (0, 64, 255)


# Arrays and tensors


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255]], dtype=np.uint8), [0, 255]),
        (np.array([[0, 65535]], dtype=np.uint16), [0, 255]),
        (np.array([[257, 51400]], dtype=">u2"), [1, 200]),
        (np.array([[0, 0.5, 1]], dtype=np.float64), [0, 128, 255]),
        (np.array([[0, 1]], dtype=np.float16), [0, 255]),
        (np.array([[-1e-9, 1 + 1e-7]]), [0, 255]),
        (np.array([[False, True]]), [0, 255]),
    ],
    ids=["uint8", "uint16", "big-endian", "float64", "float16", "rounding", "bool"],
)
def test_array_numbers_keep_their_meaning(array, expected):
    for form in (array, array[:, :, None], np.repeat(array[:, :, None], 3, axis=2)):
        np.testing.assert_array_equal(open_image(form, mode="L"), [expected])


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.bool, torch.bfloat16, torch.float16, torch.float32]
)
def test_tensors_of_every_type_open(dtype):
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    tensor = torch.tensor([[[0, top]], [[0, 0]], [[0, 0]]]).to(dtype)  # (3, 1, 2)
    assert open_image(tensor).getpixel((1, 0)) == RED
    assert open_image(tensor[0]).getpixel((1, 0)) == WHITE


def test_a_tensor_with_gradient_and_other_strides_opens():
    tensor = torch.rand(3, 4, 6).transpose(1, 2).requires_grad_()
    expected = (tensor.detach().permute(1, 2, 0).numpy() * 255).round()
    np.testing.assert_array_equal(open_image(tensor), expected)


def test_four_channels_are_colour_and_alpha():
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    assert open_image(array).getpixel((0, 0)) == WHITE
    assert open_image(torch.from_numpy(array).permute(2, 0, 1)).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("shape", "dtype", "value", "words"),
    [
        ((5,), "uint8", 0, r"\(5,\)"),
        ((2, 3, 4, 3), "uint8", 0, r"\(2, 3, 4, 3\)"),
        ((5, 5, 5), "uint8", 0, r"\(5, 5, 5\)"),
        ((2, 5, 2), "uint8", 0, r"\(2, 5, 2\)"),
        ((0, 5), "uint8", 0, r"\(0, 5\)"),
        ((5, 5), "int64", 0, "int64"),
        ((5, 5), "int32", 0, "int32"),
        ((5, 5), "complex64", 0, "complex64"),
        ((5, 5), "float32", 1.5, "1.5"),
        ((5, 5), "float32", -0.5, "-0.5"),
        ((5, 5), "float32", 255.0, "255"),
        ((5, 5), "float32", float("nan"), "nan"),
        ((5, 5), "float32", float("inf"), "inf"),
    ],
)
def test_wrong_numbers_are_refused_by_name(library, shape, dtype, value, words):
    array = np.zeros(shape, dtype)
    if array.size:
        array.flat[-1] = value
    with pytest.raises(ValueError, match=words):
        open_image(torch.from_numpy(array) if library == "torch" else array)


def test_swapped_axes_are_refused():
    with pytest.raises(ValueError, match=r"\(H, W, C\).*\(3, 8, 8\)"):
        open_image(np.zeros((3, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"\(C, H, W\).*\(8, 8, 3\)"):
        open_image(torch.zeros(8, 8, 3))


def test_text_arrays_are_refused():
    with pytest.raises(ValueError, match="floats from 0 to 1"):
        open_image(np.array([["a", "b"]]))


# What cannot be opened


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.png"):
        open_image(tmp_path / "nothing.png")


def test_a_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"folder .*{tmp_path.name}"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"just text", b"\x89PNG\r\n\x1a\n", b"<svg></svg>", b"BM"]
)
def test_what_is_not_an_image_is_refused_by_name(content, tmp_path):
    path = tmp_path / "thing.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"thing\.png: ") as raised:
        open_image(path)
    assert "<" not in str(raised.value)  # no <_io.BufferedReader ...>
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=f"the {len(content)} bytes given"):
        open_image(content)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_refused_by_name(form, tmp_path):
    path = tmp_path / "cut.img"
    data = encoded(Image.fromarray(noise(64, 64)), form)
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"cut\.img: "):
        open_image(path)


def test_a_truncated_image_opened_by_pil_is_refused():
    data = encoded(Image.fromarray(noise(64, 64)), "PNG")
    with Image.open(io.BytesIO(data[:3000])) as lazy, pytest.raises(ValueError, match="PIL image"):
        open_image(lazy)


def test_a_broken_file_names_the_open_file(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no")
    with path.open("rb") as file, pytest.raises(ValueError, match=r"broken\.jpg"):
        open_image(file)
    with pytest.raises(ValueError, match="the open file"):
        open_image(io.BytesIO(b"no"))


def bomb(width, height):
    """A PNG that promises width x height pixels in under 100 bytes."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("action", ["ignore", "default", "error"])
def test_a_decompression_bomb_is_refused_before_decoding(action):
    limit, side = Image.MAX_IMAGE_PIXELS, 40_000
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        filters = list(warnings.filters)
        with pytest.raises(ValueError, match=rf"refused .*{side**2} pixels.*limit of \d+"):
            open_image(bomb(side, side))
        assert warnings.filters == filters
    assert seen == []
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_photograph_of_a_telephone_is_no_bomb(monkeypatch):
    """108 megapixels are more than Pillow's limit, at which it warns; at twice that it raises."""
    assert 108e6 < 2 * Image.MAX_IMAGE_PIXELS
    photo = encoded(red_left_blue_right(12, 9), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    assert open_image(photo).size == (12, 9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match=r"refused .*set PIL\.Image\.MAX_IMAGE_PIXELS higher"):
        open_image(photo)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ValueError, match="no pixels"):
        fit_image(Image.new("L", (5, 0)), 8)


@pytest.mark.parametrize("source", [None, 3, [[1, 2]], {"path": "a"}])
def test_another_type_is_refused_by_name(source):
    with pytest.raises(ValueError, match=f"got {type(source).__name__}"):
        open_image(source)


@pytest.mark.parametrize("mode", ["RGBA", "rgb", "", None])
def test_another_mode_is_refused(mode):
    with pytest.raises(ValueError, match='"RGB" or "L"'):
        open_image(Image.new("RGB", (2, 2)), mode=mode)


# Fitting


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("img_size", [7, (5, 9), (9, 5), [4, 6], np.int64(8)])
@pytest.mark.parametrize("size", [(30, 20), (20, 30), (5, 5), (1, 40), (40, 1), (1, 1), (3, 1000)])
def test_every_shape_fits_every_size(size, img_size, fit):
    height, width = img_size if isinstance(img_size, tuple | list) else (img_size, img_size)
    for mode, channels in (("RGB", 3), ("L", 1)):
        fitted = fit_image(Image.new(mode, size, "white"), img_size, fit=fit)
        assert fitted.pixels.shape == (channels, height, width)
        assert fitted.pixels.dtype == torch.uint8
        assert fitted.pixels.is_contiguous()
        assert fitted.fit == fit
        assert fitted.original.size == size
        seen = fitted.pixels == 255
        assert seen.any()
        assert seen.all() or fit == "pad"
        assert min(fitted.view().size) >= 1


def test_a_picture_of_the_right_size_stays_as_it_is():
    pixels = noise(6, 10)
    for fit in ("crop", "pad", "resize"):
        fitted = fit_image(Image.fromarray(pixels), (6, 10), fit=fit)
        assert fitted.box == (0, 0, 10, 6)
        np.testing.assert_array_equal(fitted.pixels.permute(1, 2, 0), pixels)


def test_crop_takes_the_largest_centred_part():
    assert fit_image(Image.new("RGB", (30, 20)), 8).box == (5, 0, 25, 20)
    assert fit_image(Image.new("RGB", (20, 30)), 8).box == (0, 5, 20, 25)
    assert fit_image(Image.new("RGB", (30, 20)), (8, 4)).box == (10, 0, 20, 20)
    image = Image.new("RGB", (30, 20), RED)
    image.paste(BLUE, (5, 0, 25, 20))
    assert (fit_image(image, 8).pixels[2] == 255).all()


def test_a_crop_that_begins_between_two_pixels_keeps_its_place():
    ramp = np.tile(np.arange(20, dtype=np.uint8) * 10, (15, 1))
    fitted = fit_image(Image.fromarray(ramp), 60)
    assert fitted.box == (2.5, 0, 17.5, 15)
    x = 2.5 + (np.arange(60) + 0.5) / 4 - 0.5  # in pixels of the original, counted from a centre
    np.testing.assert_allclose(fitted.pixels[0, 30, 10:50], 10 * x[10:50], atol=0.6)


def test_nothing_outside_a_crop_leaks_into_it():
    image = Image.new("RGB", (3000, 1000), RED)
    image.paste(BLUE, (1000, 0, 2000, 1000))
    assert (fit_image(image, 8).pixels.reshape(3, -1) == torch.tensor([[0], [0], [255]])).all()


def test_pad_keeps_the_whole_image_on_grey():
    fitted = fit_image(Image.new("RGB", (40, 20), RED), 8, fit="pad")
    assert fitted.box == (0, -10, 40, 30)
    np.testing.assert_array_equal(fitted.pixels[0, :, 0], [128, 128, 255, 255, 255, 255, 128, 128])
    np.testing.assert_array_equal(fitted.pixels[2, :, 7], [128, 128, 0, 0, 0, 0, 128, 128])
    grey = fit_image(Image.new("L", (20, 40), 0), 8, fit="pad")
    np.testing.assert_array_equal(grey.pixels[0, 3], [128, 128, 0, 0, 0, 0, 128, 128])


def test_resize_stretches_the_whole_image():
    fitted = fit_image(red_left_blue_right(40, 10), 20, fit="resize")
    assert fitted.box == (0, 0, 40, 10)
    assert (fitted.pixels[0, :, :8] == 255).all()
    assert (fitted.pixels[2, :, 12:] == 255).all()


def test_shrinking_averages_instead_of_picking_pixels():
    checks = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    pixels = fit_image(Image.fromarray(checks.astype(np.uint8)), 8).pixels
    assert (pixels.int() - 128).abs().max() <= 3


def test_a_photograph_held_upright_is_fitted_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as sideways:
        for source in (data, sideways):
            assert fit_image(source, 8).original.size == (20, 40)


@pytest.mark.parametrize(
    "img_size", [0, -1, (0, 5), (5, -5), (1, 2, 3), (5,), 2.5, "8", None, (4.0, 4)]
)
def test_a_size_that_is_not_positive_whole_numbers_is_refused(img_size):
    with pytest.raises(ValueError, match="positive int or"):
        fit_image(Image.new("RGB", (5, 5)), img_size)


def test_an_unknown_fit_is_refused():
    with pytest.raises(ValueError, match=r'"crop", "pad" or "resize", got .stretch.'):
        fit_image(Image.new("RGB", (5, 5)), 8, fit="stretch")


def test_the_view_shows_what_the_network_sees():
    image = red_left_blue_right(40, 20)
    assert fit_image(image, 8).view().size == (20, 20)
    padded = fit_image(image, 8, fit="pad").view()
    assert padded.size == (40, 40)
    assert padded.getpixel((3, 3)) == (128, 128, 128)
    assert padded.getpixel((3, 20)) == RED
    stretched = fit_image(image, (8, 16), fit="resize").view()
    assert stretched.size == (40, 20)
    width, height = fit_image(image, 8, fit="resize").view().size
    assert width == height
    assert width * height == pytest.approx(40 * 20, rel=0.05)


def test_the_view_made_small_is_what_the_network_reads():
    image = Image.fromarray(noise(50, 90)).resize((360, 200), Image.Resampling.BICUBIC)
    for fit in ("crop", "pad", "resize"):
        fitted = fit_image(image, (12, 16), fit=fit)
        again = fit_image(fitted.view(), (12, 16), fit="resize")
        difference = (fitted.pixels.int() - again.pixels.int()).abs().float()
        assert difference.mean() < 2.5, fit


# The way back


GEOMETRIES = [
    ((48, 32), 16, (4, 4)),
    ((32, 48), 16, (2, 4)),
    ((50, 30), (12, 18), (4, 6)),
    ((31, 77), (16, 8), (8, 2)),
    ((24, 24), 24, (3, 5)),
    ((5, 3), 32, (8, 8)),
    ((1, 60), 16, (4, 4)),
]


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize(("size", "img_size", "grid"), GEOMETRIES)
def test_one_lit_patch_lights_exactly_its_box(size, img_size, grid, fit):
    fitted = fit_image(Image.new("L", size), img_size, fit=fit)
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    total = np.zeros((size[1], size[0]))
    for row, col in np.ndindex(grid):
        one = np.zeros(grid)
        one[row, col] = 1
        lit = fitted.to_original(one, smooth=False)
        left, top, right, bottom = fitted.patch_box(row, col, grid)
        inside = ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))
        np.testing.assert_array_equal(lit, inside.astype(np.float32))
        total += lit
    left, top, right, bottom = fitted.box
    seen = ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))
    np.testing.assert_array_equal(total, seen)  # every pixel in the view has exactly one patch


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("size", [(96, 64), (80, 130), (160, 60)])
def test_patches_lie_where_the_network_saw_the_pixels(size, fit):
    """Draw a random map on the original: the network's patches then show its numbers."""
    grid, img_size = (4, 6), (32, 48)
    levels = np.random.default_rng(1).integers(0, 256, grid)
    blank = fit_image(Image.new("L", size), img_size, fit=fit)
    drawn = blank.to_original(levels, smooth=False).astype(np.uint8)
    pixels = fit_image(Image.fromarray(drawn), img_size, fit=fit).pixels[0]
    middles = pixels.reshape(4, 8, 6, 8)[:, 3:5, :, 3:5].float().mean(dim=(1, 3))  # (rows, columns)
    whole = 0
    for row, col in np.ndindex(grid):
        left, top, right, bottom = blank.patch_box(row, col, grid)
        if left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]:
            assert middles[row, col] == pytest.approx(levels[row, col], abs=12)
            whole += 1
    assert whole >= 6


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("size", [(48, 32), (31, 77), (40, 40)])
def test_a_linear_ramp_comes_back_as_that_ramp(size, fit):
    grid = (8, 6)
    fitted = fit_image(Image.new("L", size), (16, 12), fit=fit)
    boxes = np.array([[fitted.patch_box(r, c, grid) for c in range(6)] for r in range(8)])
    centre_x, centre_y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    drawn = fitted.to_original(3 * centre_x - 2 * centre_y + 5)
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    between = (x >= centre_x.min()) & (x <= centre_x.max())
    between &= (y >= centre_y.min()) & (y <= centre_y.max())
    assert between.sum() > 100
    np.testing.assert_allclose(drawn[between], (3 * x - 2 * y + 5)[between], atol=1e-3)


def test_beyond_the_outer_centres_the_map_stays_constant():
    fitted = fit_image(Image.new("L", (8, 8)), 8)
    drawn = fitted.to_original(np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(drawn[0], [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    np.testing.assert_allclose(drawn, np.repeat(drawn[:1], 8, axis=0))


@pytest.mark.parametrize("smooth", [True, False])
def test_pixels_outside_a_crop_get_zero(smooth):
    fitted = fit_image(Image.new("L", (30, 10)), 8)
    drawn = fitted.to_original(torch.ones(2, 2, requires_grad=True), smooth=smooth)
    assert drawn.dtype == np.float32
    assert drawn.shape == (10, 30)
    assert (drawn[:, 10:20] == 1).all()
    assert drawn.sum() == 100


def test_the_map_of_a_padded_image_covers_it():
    fitted = fit_image(Image.new("L", (30, 10)), 9, fit="pad")
    rows = np.repeat([[1.0], [2.0], [3.0]], 3, axis=1)  # the middle row of patches is the image
    np.testing.assert_array_equal(fitted.to_original(rows, smooth=False), np.full((10, 30), 2))


@pytest.mark.parametrize(
    ("grid_map", "words"),
    [
        (np.zeros(4), r"\(4,\)"),
        (torch.zeros(1, 2, 2), r"\(1, 2, 2\)"),
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.array([[0, np.nan]]), "finite"),
        (torch.tensor([[0, torch.inf]]), "finite"),
    ],
)
def test_what_is_not_a_grid_of_numbers_is_refused(grid_map, words):
    with pytest.raises(ValueError, match=words):
        fit_image(Image.new("L", (8, 8)), 8).to_original(grid_map)


@pytest.mark.parametrize(("row", "col"), [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_patch_outside_the_grid_is_refused(row, col):
    with pytest.raises(ValueError, match="2x3 patches has no patch"):
        fit_image(Image.new("L", (8, 8)), 8).patch_box(row, col, (2, 3))

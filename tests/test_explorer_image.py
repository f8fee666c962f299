"""Images are made ready in JavaScript as Pillow and `fit_image` make them."""

import base64
import io
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
import torch
from javascript import in_chromium, program
from PIL import Image, ImageOps
from skimage import data
from sklearn.datasets import load_sample_image

from vit_tutorial import fit_image, load_checkpoint, open_image, prepare
from vit_tutorial.weights import BUNDLED

FIT = """
  return data.map(({ image, channels, size, fit }) => fitImage(opaque(image, channels), size, fit));
"""
FITS = ("crop", "pad", "resize")


@cache
def photographs() -> list[np.ndarray]:
    """Ten, of colour or grey; every other one upright, of sides that nothing divides."""
    named = (
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "immunohistochemistry",
        "hubble_deep_field",
    )
    arrays = [getattr(data, name)() for name in (*named, "camera", "coins")]
    arrays += [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    cut = [array[n : 301 - 3 * n, : 281 - 7 * n] for n, array in enumerate(arrays)]
    return [array.swapaxes(0, 1).copy() if n % 2 else array for n, array in enumerate(cut)]


def given(array: np.ndarray) -> dict:
    """An image as JavaScript has it."""
    height, width = array.shape[:2]
    return {"width": width, "height": height, "channels": array.size // (height * width),
            "data": np.ascontiguousarray(array)}  # fmt: skip


def rgba(image: Image.Image) -> dict:
    return given(np.asarray(image.convert("RGBA")))


def test_ten_photographs_are_those_of_fit_image(javascript):
    """Smaller, larger and as large; square and not, cropped, padded and stretched."""
    sizes = [32, (64, 96), 224, (7, 320)]
    cases, expected = [], []
    for n, array in enumerate(photographs()):
        for k, size in enumerate(sizes):
            fit = FITS[(n + k) % 3]
            grey = array.ndim == 2 or (n + k) % 4 == 0
            original = open_image(array, mode="L" if grey else "RGB")
            cases.append(
                {"image": given(array), "channels": 1 if grey else 3, "size": size, "fit": fit}
            )
            expected.append(fit_image(original, size, fit=fit))
    came = javascript(["image.js"], FIT, cases)
    for found, fitted in zip(came, expected, strict=True):
        np.testing.assert_allclose(found["box"], fitted.box, rtol=0, atol=1e-9)
        off = found["pixels"].astype(int) - fitted.pixels.flatten().numpy().astype(int)
        assert np.abs(off).max() <= 1
        assert (
            off != 0
        ).mean() < 1e-3  # to tell a copy of Pillow's arithmetic from something like it


def test_views_of_any_size_lie_where_they_lie_in_python(javascript):
    """Small pictures to small sizes, with all that halves and single pixels do."""
    rng = np.random.default_rng(0)
    cases, expected = [], []
    for n in range(90):
        height, width, *size = (int(side) for side in rng.integers(1, 14, 4))
        array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        fit = FITS[n % 3]
        cases.append({"image": given(array), "channels": 3, "size": size, "fit": fit})
        expected.append(fit_image(array, tuple(size), fit=fit))
    for found, fitted in zip(javascript(["image.js"], FIT, cases), expected, strict=True):
        np.testing.assert_allclose(found["box"], fitted.box, rtol=0, atol=1e-9)
        off = found["pixels"].astype(int) - fitted.pixels.flatten().numpy().astype(int)
        assert np.abs(off).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_lies_on_white(javascript, channels):
    colours = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
    colours[:4, :, 3], colours[4:8, :, 3] = 0, 255
    body = f"  return opaque(data, {channels}).data;"
    plain = np.asarray(open_image(colours, mode="L" if channels == 1 else "RGB"))
    came = javascript(["image.js"], body, given(colours))
    np.testing.assert_array_equal(came, plain.ravel())


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_both_filters_are_pillows(javascript, name):
    array = photographs()[1]
    cases = [(50, 40, None), (600, 333, None), (31, 64, (10.25, 3.5, 200.75, 90.125))]
    image = Image.fromarray(array)
    body = """
  const { image, name, cases } = data;
  return cases.map(([wide, high, box]) => resize(image, wide, high, name, box ?? undefined).data);
"""
    came = javascript(["image.js"], body, {"image": given(array), "name": name, "cases": cases})
    for found, (width, height, box) in zip(came, cases, strict=True):
        resized = image.resize((width, height), Image.Resampling[name.upper()], box=box)
        off = found.astype(int) - np.asarray(resized).ravel().astype(int)
        assert np.abs(off).max() <= 1
        assert (off != 0).mean() < 1e-3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('fitImage(data, 4, "stretch")', "fit must be crop, pad or resize, got stretch"),
        ('resize(data, 2, 2, "lanczos")', "the filters are bilinear and bicubic, got lanczos"),
    ],
)
def test_an_unknown_fit_or_filter_is_refused(javascript, call, said):
    body = f"  try {{ {call}; }} catch (error) {{ return error.message; }}"
    assert javascript(["image.js"], body, given(photographs()[0][:9, :9])) == said


# ---- From a file, in a browser ----


def file_of(image: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


DECODE = """
  const fileOf = async ({ text, type }) => (await fetch(`data:${type};base64,${text}`)).blob();
"""


def test_the_page_says_the_same_percentages_as_python(browser, tmp_path):
    model, card = load_checkpoint("cifar10")
    body = (
        DECODE
        + """
  const vit = new VisionTransformer(data.config, readSafetensors(data.weights));
  const answers = [];
  for (const file of data.files) {
    const image = opaque(await decodeImage(await fileOf(file)), 3);
    const input = normalize(fitImage(image, 32).pixels, data.mean, data.std);
    answers.push(softmax(vit.forward(input).logits));
  }
  return answers;
"""
    )
    images = [Image.fromarray(array) for array in photographs()]
    files = [{"text": file_of(image, "png"), "type": "image/png"} for image in images]
    weights = (BUNDLED / "cifar10.safetensors").read_bytes()
    code = program(tmp_path, ["image.js", "safetensors.js", "vit.js"], body)
    about = {"config": asdict(card.config), "mean": card.mean, "std": card.std}
    came = in_chromium(browser, code, {**about, "weights": weights, "files": files})
    for found, image in zip(came, images, strict=True):
        with torch.no_grad():
            expected = model(prepare(image, card, model)[1])[0].softmax(dim=0)
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=0.01)


def test_a_file_is_decoded_upright_and_its_colours_are_kept(browser, tmp_path):
    """By each orientation of EXIF; transparent, grey, with a palette, and of many rows."""
    picture = Image.fromarray(photographs()[1])
    images, files = [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        text = file_of(picture, "jpeg", exif=exif, quality=95)
        files.append({"text": text, "type": "image/jpeg"})
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(base64.b64decode(text))))
        images.append(upright.convert("RGBA"))
    clear = picture.convert("RGBA")
    clear.putalpha(Image.fromarray(photographs()[0][:, :, 0]).resize(clear.size))
    tall = picture.resize((30, 1300))
    for image in (clear, picture.convert("L"), picture.convert("P"), tall):
        files.append({"text": file_of(image, "png"), "type": "image/png"})
        images.append(image.convert("RGBA"))
    body = (
        DECODE
        + """
  const images = [];
  for (const file of data) images.push(await decodeImage(await fileOf(file)));
  return images;
"""
    )
    came = in_chromium(browser, program(tmp_path, ["image.js"], body), files)
    for n, (found, image) in enumerate(zip(came, images, strict=True)):
        assert (found["width"], found["height"]) == image.size
        off = np.abs(found["data"].astype(int) - np.asarray(image).ravel().astype(int))
        if n < 8:  # decoders of JPEG differ by a little
            assert off.mean() < 1
        elif n > 8:
            assert off.max() == 0
        else:  # canvases hold colours that are multiplied with what they cover
            seen = np.asarray(image)[:, :, 3].astype(float).ravel() / 255
            assert (off.reshape(-1, 4) * seen[:, None]).max() <= 2


def test_what_is_no_image_is_refused(browser, tmp_path):
    body = (
        DECODE
        + """
  try { await decodeImage(await fileOf(data)); } catch (error) { return error.message; }
"""
    )
    code = program(tmp_path, ["image.js"], body)
    text = base64.b64encode(b"no picture").decode()
    said = in_chromium(browser, code, {"text": text, "type": "image/png"})
    assert said == "the file is not an image that this browser can read"

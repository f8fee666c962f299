"""Any image of yours -> the pixels a network reads, and its patch grid -> back onto your image.

`open_image` makes one upright, opaque 8-bit picture out of whatever an image file can be.
`fit_image` gives it the size the network was built for and remembers which part of the original
that was, so that one number per patch can be drawn where it belongs: on the original pixels.
`prepare` does all of it for a network, whose `Reading` says what it expects.
"""

import io
import math
import operator
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor, nn

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the original
Size = int | tuple[int, int]  # the side of a square, or (height, width), in pixels
Source = str | Path | bytes | BinaryIO | Image.Image | np.ndarray | Tensor | Mapping | tuple
# what the formats of telephones call themselves, at the beginning of a file
HEIF = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC")
HEIF |= dict.fromkeys((b"avif", b"avis"), "AVIF")


def open_image(
    source: Source, *, mode: str = "RGB", value_range: tuple[float, float] | None = None
) -> Image.Image:
    """Open any image as an upright, opaque picture with 8 bits per channel.

    The camera's orientation (EXIF) is applied, transparency is laid on white, an animation gives
    its first frame, 16 bits are scaled to 8, and "L" weighs colours to grey by ITU-R 601. A colour
    profile (ICC) is not applied, as in the training of most networks.

    Args:
        source: A path, the bytes of a file, an open binary file, a PIL image, an array (H, W) or
            (H, W, 1|3|4), or a tensor (H, W) or (1|3|4, H, W). Numbers are uint8, uint16, bool, or
            floats from 0 to 1 (PIL's mode "F" too; mode "I" holds 0 to 65535). Also what an upload
            button of ipywidgets or Colab gives, if it is of one file.
        mode: "RGB" or "L" (grey).
        value_range: The values that become black and white, for numbers of any type. Without it
            16 bits are 0 to 65535, or what the file says of itself; a warning says where they look
            like 12 bits, of a microscope, in a file of 16.

    Raises:
        FileNotFoundError: no file there.
        ValueError: not an image, a broken or empty one, one beyond twice
            `PIL.Image.MAX_IMAGE_PIXELS` (a small file can unpack to gigabytes), or numbers of
            another shape, type or range.

    Examples:
        >>> open_image(np.array([[0, 65535]], dtype=np.uint16)).getpixel((1, 0))
        (255, 255, 255)
        >>> open_image(np.array([[0, 4095]], dtype=np.uint16), value_range=(0, 4095)).getpixel(
        ...     (1, 0)
        ... )
        (255, 255, 255)
        >>> open_image(Image.new("RGBA", (4, 2), "#ff000080")).getpixel((0, 0))
        (255, 127, 127)
    """
    if mode not in ("RGB", "L"):
        raise ValueError(f'mode must be "RGB" or "L", got {mode!r}')
    require_value_range(value_range)
    if isinstance(source, np.ndarray | Tensor):
        return _opaque(_from_array(source, value_range), mode)
    content, name = _uploaded(source)
    if isinstance(content, Image.Image):
        return _decode(content, "the PIL image", mode, value_range)
    if isinstance(content, bytes):
        name = name or f"the {len(content)} bytes given"
        return _decode(io.BytesIO(content), name, mode, value_range)
    if isinstance(content, str | os.PathLike):
        path = Path(content).expanduser()
        if os.path.isdir(path):  # which takes a name of any length
            raise ValueError(
                f"expected an image file, got the folder {path}: give a file in it, or all as "
                f"{path / '*.jpg'}"
            )
        if not os.path.exists(path):
            if re.match(r"(https?|ftp|file|data|s3|gs):", str(content), re.IGNORECASE):
                raise ValueError(
                    f"{content!s:.200} is an address: download the image, and give its file"
                )
            raise FileNotFoundError(f"there is no file {str(content)!r:.200}")
        with path.open("rb") as file:
            return _decode(file, str(path), mode, value_range)
    if hasattr(content, "read"):
        name = str(getattr(content, "name", "the open file"))
        return _decode(content, name, mode, value_range)
    raise ValueError(
        "expected a path, bytes, a binary file, a PIL image, a numpy array or a torch tensor, "
        f"got {type(source).__name__}"
    )


def require_value_range(value_range: tuple[float, float] | None) -> None:
    """See that a range of values, if there is one, is (black, white), two numbers.

    Raises:
        ValueError: it is not, or black is not below white.
    """
    try:
        low, high = (0, 1) if value_range is None else value_range
        sound = -math.inf < low < high < math.inf
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            f"value_range must be (black, white), black below white, got {value_range}"
        )


@dataclass(frozen=True, eq=False)
class FittedImage:
    """An image at the network's size, and where that view lies on the original.

    `pixels` is uint8 (C, H, W). `original` is the upright picture, W0 wide and H0 high. `box` is
    the view's left, top, right and bottom edge in pixels of the original; the view of a padded
    image reaches outside it. All three fits are this one linear map, so patches find back exactly.
    """

    pixels: Tensor
    original: Image.Image
    box: Box
    fit: str

    def to_original(self, grid_map: np.ndarray | Tensor, *, smooth: bool = True) -> np.ndarray:
        """Draw one number per patch onto the original: (rows, columns) -> float32 (H0, W0).

        The numbers sit at the patch centres; between them they are interpolated bilinearly, beyond
        the outermost they stay constant. `smooth=False` fills each patch with its number. Pixels
        that the network did not see get 0.

        Raises:
            ValueError: not a grid (rows, columns) of finite numbers.

        Examples:
            >>> fitted = fit_image(Image.new("RGB", (6, 2)), img_size=8)  # sees the middle 2x2
            >>> fitted.to_original(np.array([[1, 2], [3, 4]]), smooth=False)
            array([[0., 0., 1., 2., 0., 0.],
                   [0., 0., 3., 4., 0., 0.]], dtype=float32)
        """
        if isinstance(grid_map, Tensor):
            grid_map = grid_map.detach().cpu().float().numpy()
        grid_map = np.asarray(grid_map, dtype=np.float32)
        if grid_map.ndim != 2 or not grid_map.size:
            raise ValueError(f"expected a grid (rows, columns), got shape {grid_map.shape}")
        if not np.isfinite(grid_map).all():
            raise ValueError("expected a grid of finite numbers, got NaN or infinity among them")
        left, top, right, bottom = self.box
        width, height = self.original.size
        rows = _patch_weights(height, top, bottom, grid_map.shape[0], smooth)  # (H0, rows)
        columns = _patch_weights(width, left, right, grid_map.shape[1], smooth)  # (W0, columns)
        return rows @ grid_map @ columns.T  # (H0, W0)

    def patch_box(self, row: int, col: int, grid: tuple[int, int]) -> Box:
        """Find one patch of a grid (rows, columns): its left, top, right, bottom on the original.

        A patch of a padded image can lie outside the original, partly or completely.

        Raises:
            ValueError: a patch that the grid does not have.

        Examples:
            >>> fit_image(Image.new("RGB", (6, 2)), img_size=8).patch_box(0, 1, grid=(2, 2))
            (3.0, 0.0, 4.0, 1.0)
        """
        rows, columns = grid
        if not (0 <= row < rows and 0 <= col < columns):
            raise ValueError(f"a grid of {rows}x{columns} patches has no patch ({row}, {col})")
        left, top, right, bottom = self.box
        wide, high = (right - left) / columns, (bottom - top) / rows
        start = left + col * wide, top + row * high
        return *start, left + (col + 1) * wide, top + (row + 1) * high

    def part(self, box: Box | None) -> "FittedImage":
        """Narrow the view to a part of it: left, top, right, bottom in pixels of `pixels`.

        What `RecordedAttention.box` says of the patches, so that their maps are drawn where they
        look. None is all of it.

        Examples:
            >>> fit_image(Image.new("RGB", (8, 8)), img_size=4).part((1, 1, 3, 4)).box
            (2.0, 2.0, 6.0, 8.0)
        """
        _, height, width = self.pixels.shape
        if box is None or tuple(box) == (0, 0, width, height):
            return self
        left, top, right, bottom = self.box
        wide, high = (right - left) / width, (bottom - top) / height
        seen = (
            left + box[0] * wide,
            top + box[1] * high,
            left + box[2] * wide,
            top + box[3] * high,
        )
        columns, rows = (slice(max(0, round(box[i])), max(1, round(box[i + 2]))) for i in (0, 1))
        return replace(self, pixels=self.pixels[:, rows, columns], box=seen)

    def view(self) -> Image.Image:
        """Show what the network sees, as sharp as the original: cropped, padded or stretched."""
        _, height, width = self.pixels.shape
        left, top, right, bottom = self.box
        scale = ((right - left) * (bottom - top) / (width * height)) ** 0.5  # keeps the pixel count
        return _render(self.original, self.box, round(width * scale), round(height * scale))


def fit_image(image: Source, img_size: Size, *, fit: str = "crop") -> FittedImage:
    """Give an image the size a network reads: uint8 (C, H, W), with the way back.

    A PIL image of mode "L" stays grey (C = 1); everything else goes through `open_image` to RGB.

    Args:
        image: What `open_image` opens.
        img_size: The side of a square, or (height, width), in pixels.
        fit: "crop" keeps the largest centred part that has the proportions of `img_size`. "pad"
            keeps all of the image and fills the rest with mid-grey (128), which is close to zero
            once normalised. "resize" keeps all of the image and stretches it.

    Raises:
        ValueError: a size that is not positive, an unknown fit, or an image that cannot be opened.

    Examples:
        >>> fit_image(Image.new("RGB", (640, 480)), 32).box
        (80.0, 0.0, 560.0, 480.0)
        >>> fit_image(Image.new("RGB", (640, 480)), 32, fit="pad").box
        (0.0, -80.0, 640.0, 560.0)
    """
    try:
        pair = img_size if isinstance(img_size, tuple | list) else (img_size, img_size)
        height, width = (operator.index(side) for side in pair)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(f"img_size must be a positive int or (height, width), got {img_size!r}")
    if fit not in ("crop", "pad", "resize"):
        raise ValueError(f'fit must be "crop", "pad" or "resize", got {fit!r}')
    grey = isinstance(image, Image.Image) and image.mode == "L"
    original = open_image(image, mode="L" if grey else "RGB")
    box = _view_box(original.size, (width, height), fit)
    pixels = torch.from_numpy(np.array(_render(original, box, width, height)))
    pixels = pixels.reshape(height, width, -1).permute(2, 0, 1).contiguous()  # (C, H, W)
    return FittedImage(pixels, original, box, fit)


def normalize(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> Tensor:
    """Turn uint8 pixels into what the network reads: (..., C, H, W) -> float32, same shape.

    Scales to 0..1, subtracts each channel's mean and divides by its standard deviation. Where a GPU
    must not be waited for, give these as tensors (C,) on the device of the images.

    Raises:
        ValueError: images that are not uint8, or another number of channels than of means.

    Examples:
        >>> normalize(torch.full((1, 1, 1), 255, dtype=torch.uint8), [0.5], [0.25]).item()
        2.0
    """
    if not isinstance(images, Tensor):
        raise ValueError(
            f"expected a tensor of pixels, got {images!r:.60}: `fit_image` opens an image file, "
            f"`prepare` makes it ready for a network"
        )
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 pixels from 0 to 255, got {images.dtype}")
    if images.ndim < 3 or not images.shape[-3] == len(mean) == len(std):
        raise ValueError(
            f"{len(mean)} means and {len(std)} standard deviations need images of shape "
            f"(..., {len(mean)}, H, W), got {tuple(images.shape)}"
        )
    mean_, std_ = (
        torch.as_tensor(v, dtype=torch.float32, device=images.device).view(-1, 1, 1)
        for v in (mean, std)
    )
    return (images / 255 - mean_) / std_


# ---- For one network -----------------------------------------------------------------------------


class ReadsImages(Protocol):
    """What says how a network reads images: a `Reading`, or the `Card` of a checkpoint."""

    @property
    def size(self) -> Size | None:
        """Pixels of an image; None where the network takes any size."""

    @property
    def mean(self) -> Sequence[float]:
        """For each channel, in units of 0..1."""

    @property
    def std(self) -> Sequence[float]:
        """For each channel, in units of 0..1."""

    @property
    def classes(self) -> Sequence[str]:
        """The name of each logit."""


@dataclass(frozen=True)
class Reading:
    """How a network reads images: their size, each channel's mean and std in 0..1, its classes.

    Whoever explains a network of their own says it with this; a checkpoint's `Card` says it, too.

    Examples:
        >>> reading = Reading(size=224, mean=[0.5] * 3, std=[0.5] * 3, classes=["cat", "dog"])
        >>> fitted, pixels = prepare(Image.new("RGB", (640, 480)), reading)
        >>> fitted.box, pixels.shape
        ((80.0, 0.0, 560.0, 480.0), torch.Size([1, 3, 224, 224]))
    """

    size: Size | None
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str]


def prepare(
    image: Source,
    reading: ReadsImages,
    model: nn.Module | None = None,
    *,
    fit: str = "crop",
    size: Size | None = None,
) -> tuple[FittedImage, Tensor]:
    """Make an image ready for a network: what it sees of it, and the pixels (1, C, H, W) it reads.

    Args:
        image: what `open_image` opens.
        reading: how the network reads images; with one channel the image becomes grey.
        model: the network. The pixels get the type and device of its weights, and the size in its
            `config`, if it has one there: after `resized` this is no longer that of its card.
        fit: as in `fit_image`.
        size: another one than the network's own.

    Raises:
        ValueError: an image that cannot be opened, an unknown fit, or no size to give the image.
    """
    own = getattr(getattr(model, "config", None), "img_size", None)
    size = size or own or reading.size
    if size is None:
        raise ValueError("the network reads images of any size: choose one, as in size=224")
    mode = colour_mode(len(reading.mean))
    fitted = fit_image(open_image(image, mode=mode), size, fit=fit)
    pixels = normalize(fitted.pixels[None], reading.mean, reading.std)
    first = None if model is None else next(model.parameters(), None)
    return fitted, pixels if first is None else pixels.to(first)


def colour_mode(channels: int) -> str:
    """Return the mode in which a network of so many channels reads images: "L" is grey."""
    return "L" if channels == 1 else "RGB"


def class_index(target: int | str, classes: Sequence[str]) -> int:
    """Find a class by its name, in upper or lower case, or by its number.

    Examples:
        >>> class_index("Cat", ["dog", "cat"]), class_index("0", ["dog", "cat"])
        (1, 0)

    Raises:
        ValueError: there is none; which names come near.
    """
    text = str(target).strip().casefold()
    names = [name.casefold() for name in classes]
    if isinstance(target, str) and target in classes:
        return classes.index(target)
    if isinstance(target, str) and names.count(text) == 1:
        return names.index(text)
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    near = [name for name, low in zip(classes, names, strict=True) if text and text in low]
    near += [classes[names.index(low)] for low in get_close_matches(text, names, 6)]
    near = list(dict.fromkeys(near))[:6] or [*classes[:12], *(["..."] if len(classes) > 12 else [])]
    raise ValueError(
        f"target must be a class ({'; '.join(near)}) or its number from 0 to {len(classes) - 1}, "
        f"got {target!r}"
    )


def name_of(image: Any) -> str:
    """Say what an image is called: its file's name, or "image" where there is no file.

    Examples:
        >>> name_of("photos/cat.jpg"), name_of(np.zeros((2, 2)))
        ('cat.jpg', 'image')
    """
    named = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    return Path(named).name or "image"


# ---- How it is done ------------------------------------------------------------------------------


def _view_box(original: tuple[int, int], target: tuple[int, int], fit: str) -> Box:
    """Place a view with the proportions of `target` (width, height) on an original."""
    if fit == "resize":
        return (0.0, 0.0, float(original[0]), float(original[1]))
    scales = [old / new for old, new in zip(original, target, strict=True)]
    edges = []
    for old, new in zip(original, target, strict=True):
        if fit == "crop":
            side = new * min(scales)
            start = (old - side) / 2
        else:  # padding is an integer number of target pixels: a pixel is either image or padding
            inner = min(new, max(1, round(old / max(scales))))
            side = new * old / inner
            start = -((new - inner) // 2) * old / inner
        edges.append((start, start + side))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _render(image: Image.Image, box: Box, width: int, height: int) -> Image.Image:
    """Resample the box to width x height; what lies outside the image is mid-grey."""
    width, height = max(1, width), max(1, height)
    left, top, right, bottom = box
    inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    x0, x1 = (round((x - left) / (right - left) * width) for x in inside[::2])
    y0, y1 = (round((y - top) / (bottom - top) * height) for y in inside[1::2])
    # Pillow's filter is wide, which keeps fine patterns from aliasing, but it reaches out of a box:
    # cut first, so that no pixel outside the view leaks into it.
    x, y = math.floor(inside[0]), math.floor(inside[1])
    cut = image.crop((x, y, math.ceil(inside[2]), math.ceil(inside[3])))
    inside = inside[0] - x, inside[1] - y, inside[2] - x, inside[3] - y
    resized = cut.resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BICUBIC, box=inside)
    canvas = Image.new(image.mode, (width, height), "#808080")
    canvas.paste(resized, (x0, y0))
    return canvas


def _patch_weights(count: int, start: float, stop: float, patches: int, smooth: bool) -> np.ndarray:
    """Weigh the patches along one axis for each of its pixels: (count, patches)."""
    position = (np.arange(count) + 0.5 - start) / (stop - start) * patches  # unit: one patch
    inside = (position >= 0) & (position < patches)
    if smooth:
        centre = np.clip(position - 0.5, 0, patches - 1)[:, None]
        weights = np.clip(1 - np.abs(centre - np.arange(patches)), 0, None)
    else:
        weights = np.floor(position)[:, None] == np.arange(patches)
    return (weights * inside[:, None]).astype(np.float32)


def _uploaded(source: Any) -> tuple[Any, str]:
    """Take the one file, and its name, out of what an upload button or a display object holds.

    ipywidgets 8 gives a tuple of {"name": ..., "content": ...}, 7 and Colab a dict by name.
    """
    if isinstance(source, bytearray | memoryview):
        return bytes(source), ""
    if isinstance(source, Mapping) and "content" in source:
        return bytes(source["content"]), str(source.get("name", ""))
    files: list[Any] = []
    if isinstance(source, Mapping):
        for name, value in source.items():
            content = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(content, bytes | bytearray | memoryview):
                files.append({"name": name, "content": content})
    elif isinstance(source, tuple | list):
        files = [{"content": file} if isinstance(file, bytes) else file for file in source]
        files = [file for file in files if isinstance(file, Mapping) and "content" in file]
    if len(files) > 1:
        names = ", ".join(str(file.get("name")) for file in files)
        raise ValueError(
            f"expected one image, got {len(files)} uploads ({names}): give one of them"
        )
    if files:
        return _uploaded(files[0])
    if isinstance(source, Mapping | tuple | list) and not source:
        raise ValueError("nothing has been uploaded: expected one image")
    if isinstance(source, Mapping | tuple | list | str | bytes | os.PathLike | Image.Image):
        return source, ""
    for name in ("value", "data", "filename"):  # of widgets, of IPython.display.Image
        inside = getattr(source, name, None)
        if isinstance(inside, bytes | memoryview | Mapping | tuple):
            return _uploaded(inside)
    return source, ""


def _decode(
    source: Any, name: str, mode: str, value_range: tuple[float, float] | None
) -> Image.Image:
    """Decode an image or a binary file, and say in one sentence what is wrong with it."""
    try:
        with (
            warnings.catch_warnings()
        ):  # twice the limit is refused: 108 megapixels are a telephone's
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else _open(source)
            if 0 in image.size:
                raise ValueError("it has no pixels")
            deep_colour = ";16" in str(getattr(image, "tile", ""))  # as in "RGB;16B"
            own_range = _range_in_file(image)
            image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits
            array = np.asarray(image)
            fits = image.mode == "I" and array.min() >= 0 and array.max() <= 65535
            array = array.astype(np.uint16) if fits else array
            return _opaque(_from_array(array, value_range or own_range, name), mode)
        if deep_colour:
            _require_bright(image, name, value_range)
            value_range = None
        image = _opaque(image, mode)
        return image if value_range is None else _from_array(np.asarray(image), value_range)
    except UnidentifiedImageError:
        raise ValueError(f"{name}: not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name}: refused before decoding: {error}. If you trust the file, make it smaller, or "
            f"set PIL.Image.MAX_IMAGE_PIXELS higher"
        ) from None
    except Exception as error:  # a broken file can make a decoder raise anything
        raise ValueError(f"{name}: cannot be read as an image: {error}") from error


def _open(file: BinaryIO) -> Image.Image:
    """Open an image file by Pillow, or by pillow-heif, if that is installed."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(12)
        file.seek(0)
        kind = HEIF.get(head[8:12]) if head[4:8] == b"ftyp" else None
        if kind is None or (kind == "AVIF" and features.check("avif")):  # a broken one
            raise
    if kind == "AVIF":
        raise ValueError(
            "it is in AVIF, which needs Pillow 11.3: `pip install --upgrade pillow`, or save it as "
            "JPEG or PNG"
        )
    try:
        pillow_heif = import_module("pillow_heif")
    except ModuleNotFoundError:
        raise ValueError(
            "it is in HEIC, which needs pillow-heif: `pip install pillow-heif` (it is the extra "
            "`heic` of vit-tutorial), or save it as JPEG or PNG"
        ) from None
    pillow_heif.register_heif_opener()
    return Image.open(file)


def _range_in_file(image: Image.Image) -> tuple[float, float] | None:
    """Return the values of black and white that a TIFF or PNG of 16 bits says it has."""
    if tags := getattr(image, "tag_v2", None):
        bits, low, high = (tags.get(number) for number in (258, 280, 281))
        low, high = (v[0] if isinstance(v, tuple) else v for v in (low, high))
        if high and (low or 0) < high:
            return float(low or 0), float(high)
        bits = bits[0] if isinstance(bits, tuple) else bits
        return (0.0, 2.0**bits - 1) if bits and 8 < bits < 16 else None
    file = getattr(image, "fp", None)
    if image.format == "PNG" and file is not None:
        place = file.tell()
        file.seek(0)
        before, found, after = file.read(4096).partition(b"sBIT")  # stands among the first parts
        file.seek(place)
        if found and b"IDAT" not in before and 8 < after[0] < 16:
            return 0.0, 2.0 ** after[0] - 1
    return None


def _require_bright(image: Image.Image, name: str, value_range: tuple[float, float] | None) -> None:
    """Warn where colours of 16 bits, of which Pillow reads the upper 8, seem to have fewer."""
    brightest = int(np.asarray(image.convert("RGB")).max())
    if value_range is None and not 0 < brightest < 64:
        return
    sentence = (
        f"{name}: of 16-bit colours Pillow reads the upper 8 bits, up to {brightest} of 255 here: "
        f"read the file to an array by another library, and give that with its value_range"
    )
    if value_range is not None:
        raise ValueError(sentence)
    warnings.warn(sentence, stacklevel=4)


def _from_array(
    array: np.ndarray | Tensor,
    value_range: tuple[float, float] | None = None,
    name: str = "the array",
) -> Image.Image:
    shape = tuple(array.shape)
    is_tensor = isinstance(array, Tensor)
    channels = 1 if len(shape) == 2 else shape[0 if is_tensor else -1] if len(shape) == 3 else 0
    if channels not in (1, 3, 4) or 0 in shape:
        order = "a tensor (H, W) or (C, H, W)" if is_tensor else "an array (H, W) or (H, W, C)"
        raise ValueError(f"expected {order} with C = 1, 3 or 4 and some pixels, got shape {shape}")
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # bfloat16 too
        array = (array.movedim(0, -1) if len(shape) == 3 else array).numpy()
    array = array[:, :, 0] if array.ndim == 3 and channels == 1 else array
    return Image.fromarray(_to_uint8(array, value_range, name))


def _to_uint8(array: np.ndarray, value_range: tuple[float, float] | None, name: str) -> np.ndarray:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if value_range is not None and kind in "uif":
        low, high = value_range
        if size == 1 and high > 255:
            raise ValueError(
                f"it has 8 bits, values from 0 to 255, and value_range says that {high:g} is "
                f"white: give it without value_range"
            )
        if not np.isfinite(array).all():
            raise ValueError("expected finite numbers, got NaN or infinity among them")
        return np.rint(np.clip((array.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(
            np.uint8
        )
    if (kind, size) == ("u", 1):
        return array
    if (kind, size) == ("u", 2):
        if 0 < (brightest := int(array.max())) < 2**14:
            bits = next(bits for bits in (8, 10, 12, 14) if brightest < 2**bits)
            warnings.warn(
                f"{name} has 16 bits, and no value above {brightest:,} of 65,535, so it looks "
                f"dark: are there {bits} bits in use? Then give value_range=(0, {2**bits - 1}); "
                f"value_range=(0, 65535) if it is as dark as that",
                stacklevel=4,
            )
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 is 255 * 257
    if kind == "b":
        return array.astype(np.uint8) * 255
    if kind != "f":
        raise ValueError(
            f"expected uint8, uint16, bool or floats from 0 to 1, got {array.dtype}; numbers of "
            f"another kind need value_range=(black, white)"
        )
    low, high = array.min(), array.max()
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # NaN fails too; the margin is for rounding
        raise ValueError(
            f"expected floats from 0 to 1, got {low:.4g} to {high:.4g}; numbers of another range "
            f"need value_range=(black, white)"
        )
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """Lay transparency on white, and convert to "RGB" or "L"."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)

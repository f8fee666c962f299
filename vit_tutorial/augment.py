"""Random changes that leave the label true, for a batch at once, drawn for each image.

What is drawn (`draw_...`) is apart from what is done with it. Random numbers come from PyTorch's
own generator of the device. No function waits for a GPU: no number is read in between, and none is
copied to it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Device = torch.device | str | None


# ---- shift and mirror ----


def draw_crop_flip(
    count: int, padding: int, flip: bool, device: Device = None
) -> tuple[Tensor, Tensor]:
    """Draw one shift and one flip per image: (B, 2) integer pixels in +-`padding`, and (B,) bool.

    Raises:
        ValueError: a negative count or padding.
    """
    if count < 0 or padding < 0:
        raise ValueError(f"count and padding must not be negative, got {count} and {padding}")
    shift = torch.randint(-padding, padding + 1, (count, 2), device=device)
    flipped = torch.rand(count, device=device) < (0.5 if flip else 0.0)
    return shift, flipped


def crop_flip(images: Tensor, shift: Tensor, flipped: Tensor) -> Tensor:
    """Shift each image by (down, right) pixels and mirror some: (B, C, H, W) -> (B, C, H, W).

    The same as padding by reflection, cropping and flipping, but as one gather of pixels.

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> row = torch.tensor([[[[1, 2, 3]]]])
        >>> crop_flip(row, torch.tensor([[0, 1]]), torch.tensor([False])).flatten().tolist()
        [2, 3, 2]
    """
    _require_images(images)
    batch, _, height, width = images.shape
    _require_shape("shift", shift, batch, 2)
    _require_shape("flipped", flipped, batch)
    # the source row of every target row, and the source column of every target column
    rows = torch.arange(height, device=images.device) + shift[:, :1]  # (B, H)
    columns = torch.arange(width, device=images.device) + shift[:, 1:]  # (B, W)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    return _pick(images, rows[:, :, None], columns[:, None, :])


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold any index back into 0..size-1, the border pixel itself not repeated."""
    last = size - 1
    return last - (last - index % max(2 * last, 1)).abs()


def _pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take the pixel (rows, columns), which broadcast to (B, H, W), for every pixel."""
    index = rows * images.shape[3] + columns  # (B, H, W)
    index = index.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


# ---- TrivialAugment: one operation of random strength for each image ----


class Operation(NamedTuple):
    """What TrivialAugment may do: images (b, C, H, W) uint8, one strength for each -> images."""

    apply: Callable[[Tensor, Tensor], Tensor]
    weakest: float
    strongest: float
    signed: bool  # half of the images get the strength with a minus


def _moved(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take the pixel nearest to (rows, columns), as for `_pick`; black outside the image."""
    height, width = images.shape[2:]
    rows, columns = rows.round().long(), columns.round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    picked = _pick(images, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
    return picked * inside[:, None]


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row (1, H, 1) and column (1, 1, W) of every pixel."""
    rows = torch.arange(images.shape[2], device=images.device, dtype=torch.float32)
    columns = torch.arange(images.shape[3], device=images.device, dtype=torch.float32)
    return rows[None, :, None], columns[None, None, :]


def _shear_x(images: Tensor, slope: Tensor) -> Tensor:
    rows, columns = _coordinates(images)
    return _moved(images, rows, columns + slope[:, None, None] * (rows + 0.5))


def _translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    rows, columns = _coordinates(images)
    return _moved(images, rows, columns - pixels.trunc()[:, None, None])


def _transposed(apply: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Do along the rows what `apply` does along the columns."""
    return lambda images, strength: apply(images.mT, strength).mT


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    rows, columns = _coordinates(images)
    middle_row, middle_column = ((side - 1) / 2 for side in images.shape[2:])
    y, x = rows - middle_row, columns - middle_column
    cos = degrees.deg2rad().cos()[:, None, None]
    sin = degrees.deg2rad().sin()[:, None, None]
    return _moved(images, sin * x + cos * y + middle_row, cos * x - sin * y + middle_column)


def _blend(images: Tensor, other: Tensor | float, strength: Tensor) -> Tensor:
    """Go from `other` to the image and beyond: other + (1 + strength) (image - other)."""
    images, factor = images.float(), 1 + strength[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Luminance (b, 1, H, W), integers: ITU-R BT.601. Grey images are their own."""
    if images.shape[1] != 3:
        return images.float().mean(dim=1, keepdim=True)
    red, green, blue = images.float().split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor()


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, 0.0, strength)


def _color(images: Tensor, strength: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _grey(images), strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean(dim=(1, 2, 3), keepdim=True), strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    if min(images.shape[2:]) <= 2:  # no pixel has eight neighbours
        return images
    kernel = torch.ones(images.shape[1], 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5  # of 13; integers are exact also where a GPU rounds factors
    smooth = images.float()
    inner = F.conv2d(smooth, kernel, groups=images.shape[1]) / 13
    smooth[:, :, 1:-1, 1:-1] = inner.round()  # the border stays as it is
    return _blend(images, smooth, strength)


def _posterize(images: Tensor, lost_bits: Tensor) -> Tensor:
    step = 2 ** lost_bits.round().to(torch.int32)[:, None, None, None]
    return (images // step * step).to(torch.uint8)


def _solarize(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold[:, None, None, None], 255 - images, images)


def _autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    low = images.amin(dim=(2, 3), keepdim=True).float()
    reach = images.amax(dim=(2, 3), keepdim=True).float() - low
    stretched = (images - low) * 255 / reach.clamp(min=1)  # integers stay integers
    return torch.where(reach > 0, stretched.clamp(0, 255).to(torch.uint8), images)


def _equalize(images: Tensor, strength: Tensor) -> Tensor:
    """Make every brightness about equally frequent, in each channel for itself."""
    levels = images.flatten(2).long()  # (b, C, H*W)
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    up_to = counts.cumsum(dim=2)
    brightest = counts.gather(2, levels.amax(dim=2, keepdim=True))  # how many are
    step = (levels.shape[2] - brightest) // 255  # (b, C, 1)
    below = F.pad(up_to, (1, -1))  # how many are darker
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    changed = table.gather(2, levels).view_as(images).to(torch.uint8)
    return torch.where(step[..., None] > 0, changed, images)


# Names, ranges and meaning are those of TrivialAugment Wide (Müller & Hutter 2021, arXiv
# 2103.10158), as in torchvision.
OPERATIONS = {
    "Identity": Operation(lambda images, strength: images, 0.0, 0.0, False),
    "ShearX": Operation(_shear_x, 0.0, 0.99, True),
    "ShearY": Operation(_transposed(_shear_x), 0.0, 0.99, True),
    "TranslateX": Operation(_translate_x, 0.0, 32.0, True),  # pixels
    "TranslateY": Operation(_transposed(_translate_x), 0.0, 32.0, True),
    "Rotate": Operation(_rotate, 0.0, 135.0, True),  # degrees
    "Brightness": Operation(_brightness, 0.0, 0.99, True),
    "Color": Operation(_color, 0.0, 0.99, True),
    "Contrast": Operation(_contrast, 0.0, 0.99, True),
    "Sharpness": Operation(_sharpness, 0.0, 0.99, True),
    "Posterize": Operation(_posterize, 0.0, 6.0, False),  # bits that are lost
    "Solarize": Operation(_solarize, 255.0, 0.0, False),  # brighter pixels are turned round
    "AutoContrast": Operation(_autocontrast, 0.0, 0.0, False),
    "Equalize": Operation(_equalize, 0.0, 0.0, False),
}
BINS = 31  # strengths, from weakest to strongest


class TrivialDraw(NamedTuple):
    """What `trivial_augment` does with each of B images."""

    order: Tensor  # (B,): the images, dealt out to the operations in turn, in equal parts
    first: int  # the operation that is dealt to first
    bins: Tensor  # (B,): the strength, from 0 to BINS - 1
    negative: Tensor  # (B,) bool: with a minus, where the operation has signs
    changed: Tensor  # (B,) bool: the others stay as they are


def draw_trivial_augment(count: int, share: float = 1.0, device: Device = None) -> TrivialDraw:
    """Draw what TrivialAugment does with `count` images, a `share` of which is changed.

    Raises:
        ValueError: a negative count, or a share outside 0..1.
    """
    _require_shares(count, share=share)
    return TrivialDraw(
        order=torch.randperm(count, device=device),
        first=int(torch.randint(len(OPERATIONS), ())),  # on the CPU: nobody waits for it
        bins=torch.randint(BINS, (count,), device=device),
        negative=torch.rand(count, device=device) < 0.5,
        changed=torch.rand(count, device=device) < share,
    )


def trivial_augment(images: Tensor, draw: TrivialDraw) -> Tensor:
    """Do to each image what was drawn for it: uint8 (B, C, H, W) -> uint8 (B, C, H, W).

    Each operation runs once, on its part of the batch, and every part has a size known beforehand.

    Raises:
        ValueError: images of another type or number.
    """
    _require_images(images)
    if images.dtype != torch.uint8 or len(draw.order) != len(images):
        raise ValueError(
            f"expected {len(draw.order)} uint8 images, got {len(images)} of {images.dtype}"
        )
    operations = list(OPERATIONS.values())
    operations = operations[draw.first :] + operations[: draw.first]
    result = images.clone()
    for operation, chosen in zip(operations, draw.order.tensor_split(len(operations)), strict=True):
        if not len(chosen):
            continue
        reach = operation.strongest - operation.weakest
        strength = operation.weakest + reach * draw.bins[chosen] / (BINS - 1)
        if operation.signed:
            strength = torch.where(draw.negative[chosen], -strength, strength)
        result[chosen] = operation.apply(images[chosen], strength)
    return torch.where(draw.changed[:, None, None, None], result, images)


# ---- rectangles that are lost, images that are blended ----


def draw_erase(count: int, size: tuple[int, int], share: float, device: Device = None) -> Tensor:
    """Draw a rectangle for a `share` of the images: (B, 1, H, W) bool, False where it is.

    It takes 2% to 33% of the image, and its height is 0.3 to 3.3 times its width (Zhong et al.
    2017, arXiv 1708.04896); what reaches over the border is cut to fit.

    Raises:
        ValueError: a negative count, or a share outside 0..1.
    """
    _require_shares(count, share=share)
    area = size[0] * size[1] * torch.empty(count, device=device).uniform_(0.02, 0.33)
    ratio = torch.empty(count, device=device).uniform_(math.log(0.3), math.log(3.3)).exp()
    height = (area * ratio).sqrt().round().clamp(1, size[0])
    width = (area / ratio).sqrt().round().clamp(1, size[1])
    top = (torch.rand(count, device=device) * (size[0] - height + 1)).floor()
    left = (torch.rand(count, device=device) * (size[1] - width + 1)).floor()
    chosen = torch.rand(count, device=device) < share
    return ~(_boxes(size, top, left, top + height, left + width) & chosen[:, None, None, None])


def erase(pixels: Tensor, keep: Tensor) -> Tensor:
    """Set normalised pixels (B, C, H, W) to 0, the mean colour, outside `keep` (B, 1, H, W).

    Raises:
        ValueError: shapes that do not fit.
    """
    _require_images(pixels)
    _require_shape("keep", keep, len(pixels), 1, *pixels.shape[2:])
    return pixels * keep


def draw_mix(
    count: int, size: tuple[int, int], mixup: float, cutmix: float, device: Device = None
) -> tuple[Tensor, Tensor]:
    """Draw a partner (B,) for each image, and how much of its own pixels it keeps (B, 1, H, W).

    A share `mixup` of the images keeps the same part of every pixel, from Beta(0.8, 0.8) (Zhang et
    al. 2017, arXiv 1710.09412). A share `cutmix` keeps all but a rectangle of random size, whose
    middle is anywhere (Yun et al. 2019, arXiv 1905.04899). The rest keeps everything.

    Raises:
        ValueError: a negative count, or shares that are negative or more than 1 together.
    """
    _require_shares(count, mixup=mixup, cutmix=cutmix, together=mixup + cutmix)
    # Beta(0.8, 0.8) from two even numbers: PyTorch's own Beta does not run on every device
    # (Devroye 1996, "Random variate generation in one line of code", after Ulrich 1984)
    radius = (1 - torch.rand(count, device=device) ** (2 / (2 * 0.8 - 1))).sqrt()
    blend = 0.5 + 0.5 * radius * (2 * math.pi * torch.rand(count, device=device)).cos()
    row, column = torch.rand(2, count, device=device)  # of the middle, from 0 to 1
    half = 0.5 * (1 - torch.rand(count, device=device)).sqrt()  # of a side, so that areas are even
    box = _boxes(
        size,
        ((row - half) * size[0]).round(),
        ((column - half) * size[1]).round(),
        ((row + half) * size[0]).round(),
        ((column + half) * size[1]).round(),
    )
    kind = torch.rand(count, device=device)[:, None, None, None]
    weight = torch.where(kind < mixup, blend[:, None, None, None], 1.0)
    weight = torch.where((kind >= mixup) & (kind < mixup + cutmix), (~box).float(), weight)
    return torch.randperm(count, device=device), weight.expand(count, 1, *size)


def mix(pixels: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Blend each image with its partner: (B, C, H, W) -> (B, C, H, W), after normalisation.

    Raises:
        ValueError: shapes that do not fit, or pixels that are integers.
    """
    _require_images(pixels)
    _require_shape("weight", weight, len(pixels), 1, *pixels.shape[2:])
    return _blended("pixels", pixels, partner, weight)


def mix_targets(targets: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Blend each image's targets (B, classes) with its partner's, by their share of the pixels.

    Raises:
        ValueError: shapes that do not fit, or targets that are integers.
    """
    _require_shape("weight", weight, len(targets), 1, *weight.shape[2:])
    return _blended("targets", targets, partner, weight.mean(dim=(1, 2, 3))[:, None])


def draw_order(batch: int, num_patches: int, device: Device = None) -> Tensor:
    """Shuffle the patches of each image on its own: (B, N), every row a permutation of 0..N-1.

    The first V of a row are the patches that stay visible.

    Examples:
        >>> draw_order(2, 4).sort(dim=1).values.tolist()
        [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    return torch.rand(batch, num_patches, device=device).argsort(dim=1)


def _blended(name: str, values: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    _require_shape("partner", partner, len(values))
    if not values.is_floating_point():
        raise ValueError(f"expected {name} as floating-point numbers, got {values.dtype}")
    weight = weight.to(values.dtype)
    return weight * values + (1 - weight) * values[partner]


def _boxes(
    size: tuple[int, int], top: Tensor, left: Tensor, bottom: Tensor, right: Tensor
) -> Tensor:
    """Mark rectangles, one per image, last row and column excluded: (B, 1, H, W) bool."""
    rows = torch.arange(size[0], device=top.device)[None, :]
    columns = torch.arange(size[1], device=top.device)[None, :]
    rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # (B, H)
    columns = (columns >= left[:, None]) & (columns < right[:, None])  # (B, W)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _require_images(images: Tensor) -> None:
    if images.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(images.shape)}")


def _require_shape(name: str, values: Tensor, *shape: int) -> None:
    if values.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {tuple(values.shape)}")


def _require_shares(count: int, **shares: float) -> None:
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in 0..1, got {share}")

"""Lesson 01: the right functions, from the library, and the mistakes that its checks know by name.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

# ---- Right ---------------------------------------------------------------------------------------


def one_patch(image: Tensor, index: int, p: int) -> Tensor:
    """Cut out one patch: (C, H, W) -> (C, P, P)."""
    column = F.unfold(image[None], kernel_size=p, stride=p)[0, :, index]
    return column.reshape(len(image), p, p)


def unfold(images: Tensor, p: int) -> Tensor:
    """Cut images: (B, C, H, W) -> (B, N, C*P*P)."""
    return F.unfold(images, kernel_size=p, stride=p).transpose(1, 2)


def fold(patches: Tensor, p: int, grid: tuple[int, int]) -> Tensor:
    """Put patches back together: (B, N, C*P*P) -> (B, C, H, W)."""
    size = (grid[0] * p, grid[1] * p)
    return F.fold(patches.transpose(1, 2), output_size=size, kernel_size=p, stride=p)


def mended(stripes: Tensor, p: int, grid: tuple[int, int]) -> Tensor:
    """Make patches of the stripes of a plain reshape, (B, N, C*P*P) both."""
    return unfold(stripes.reshape(len(stripes), -1, grid[0] * p, grid[1] * p), p)


def in_one_row(image: Tensor, p: int) -> Tensor:
    """Lay all patches side by side: (C, H, W) -> (C, P, N*P)."""
    c = len(image)
    patches = F.unfold(image[None], kernel_size=p, stride=p)[0].T.reshape(-1, c, p, p)
    return torch.cat(list(patches), dim=2)


def pixel_std(images: Tensor) -> Tensor:
    """Measure each channel over all pixels: uint8 (B, C, H, W) -> float64 (C,)."""
    by_channel = _scaled(images).numpy().swapaxes(0, 1).reshape(images.shape[1], -1)
    return torch.from_numpy(by_channel.std(axis=1))


# ---- Wrong ---------------------------------------------------------------------------------------

# 01.1
GRIDS = {
    "Rows and columns are swapped: the height is cut into rows.": lambda h, w, p: (w // p, h // p),
    "You count pixels, not patches: a patch takes `patch_size` of them in each direction.": (
        lambda h, w, p: (h, w)
    ),
    "You divide by all the pixels of a patch. Along one side, how many does a patch take?": (
        lambda h, w, p: (h // p**2, w // p**2)
    ),
    "One row and one column too many.": lambda h, w, p: (h // p + 1, w // p + 1),
    "Right for squares only: the height is used for both.": lambda h, w, p: (h // p, h // p),
    "Right for squares only: the width is used for both.": lambda h, w, p: (w // p, w // p),
}


def _cut(place: Callable[[int, int, int], tuple[int, int]]) -> Callable:
    """Cut out the patch whose row and column `place(index, rows, columns)` tells."""

    def cut(image: Tensor, index: int, p: int) -> Tensor:
        row, column = place(index, image.shape[1] // p, image.shape[2] // p)
        return image[:, row * p : (row + 1) * p, column * p : (column + 1) * p]

    return cut


def _cut_unscaled(image: Tensor, index: int, p: int) -> Tensor:
    row, column = divmod(index, image.shape[2] // p)
    return image[:, row : row + p, column : column + p]


def _cut_by_pixels(image: Tensor, index: int, p: int) -> Tensor:
    row, column = divmod(index, image.shape[2])
    return image[:, row * p : (row + 1) * p, column * p : (column + 1) * p]


def _cut_without_channels(image: Tensor, index: int, p: int) -> Tensor:
    row, column = divmod(index, image.shape[2] // p)
    return image[row * p : (row + 1) * p, column * p : (column + 1) * p]


# 01.2
CUTS = {
    "Row and column are swapped: the height of the image comes before its width.": _cut(
        lambda i, r, c: (i % c, i // c)
    ),
    "You divide by the number of rows. Patches are counted along a row: how many are in one?": _cut(
        lambda i, r, c: (i // r, i % r)
    ),
    "You count down the columns; patches are counted along the rows, like words on a page.": _cut(
        lambda i, r, c: (i % r, i // r)
    ),
    "One too far: patches are counted from 0.": _cut(lambda i, r, c: divmod(i + 1, c)),
    "One too few: patches are counted from 0.": _cut(lambda i, r, c: divmod(i - 1, c)),
    "The row and column of the patch are right, but pixels are asked for: patch row 2 does not "
    "begin at pixel row 2.": _cut_unscaled,
    "You divide by the width in pixels. How many patches are in one row?": _cut_by_pixels,
    "The first axis of the image is its channels. Keep all of them, and cut the other two.": (
        _cut_without_channels
    ),
}


def plain_reshape(images: Tensor, p: int) -> Tensor:
    """Cut stripes instead of patches: (B, C, H, W) -> (B, N, C*P*P)."""
    b, c, h, w = images.shape
    return images.reshape(b, (h // p) * (w // p), c * p * p)


def _by_pattern(pattern: str) -> Callable[[Tensor, int], Tensor]:
    return lambda images, p: rearrange(images, pattern, p=p, q=p)


def _grid_swapped(images: Tensor, p: int) -> Tensor:
    b, c, h, w = images.shape
    blocks = images.reshape(b, c, w // p, p, h // p, p)
    return rearrange(blocks, "b c r p s q -> b (r s) (c p q)")


def _batch_mixed(images: Tensor, p: int) -> Tensor:
    patches = rearrange(images, "b c (r p) (s q) -> (r s) b (c p q)", p=p, q=p)
    return patches.reshape(len(images), -1, patches.shape[-1])


# 01.3
PATCHIFIES = {
    "The numbers were reshaped without moving any: patch 0 is a stripe of the first channel. A "
    "reshape keeps the reading order, and a patch is not in one piece in reading order. An axis "
    "must change places in between.": plain_reshape,
    "Each of your patches holds one channel only: the channels are still in front of the grid of "
    "patches when you flatten. Move them inside the patch.": (
        lambda images, p: rearrange(images, "b c (r p) (s q) -> b (c r s) (p q)", p=p, q=p).reshape(
            len(images), -1, images.shape[1] * p * p
        )
    ),
    "The right pixels in another order: inside a patch, all of channel 0 comes first, then channel "
    "1, and so on; yours has the channels of each pixel side by side.": (
        _by_pattern("b c (r p) (s q) -> b (r s) (p q c)")
    ),
    "The patches are counted down the columns; they are counted along the rows.": (
        _by_pattern("b c (r p) (s q) -> b (s r) (c p q)")
    ),
    "Every patch is mirrored along its diagonal: its rows and columns are swapped.": (
        _by_pattern("b c (r p) (s q) -> b (r s) (c q p)")
    ),
    "The grid and the patches are mirrored along the diagonal: rows and columns are swapped.": (
        _by_pattern("b c (r p) (s q) -> b (s r) (c q p)")
    ),
    "Your patches are made of pixels far apart. When the height is split in two axes, the slow one "
    "(which patch) must stand before the fast one (which pixel in it).": (
        _by_pattern("b c (p r) (q s) -> b (r s) (c p q)")
    ),
    "Rows and columns of the grid are swapped: the height gives the rows. Right for squares "
    "only.": _grid_swapped,
    "The images of the batch got mixed: the batch must stay the first axis.": _batch_mixed,
    "The axes are (B, C*P*P, N): the last two are swapped. One patch should be one row.": (
        _by_pattern("b c (r p) (s q) -> b (c p q) (r s)")
    ),
    "The patches are right but not flat: one patch should be one vector of C*P*P numbers.": (
        _by_pattern("b c (r p) (s q) -> b (r s) c p q")
    ),
    "The patches are right but stand on a grid: flatten it to one sequence of N.": (
        _by_pattern("b c (r p) (s q) -> b r s (c p q)")
    ),
}


def _by_unpattern(pattern: str) -> Callable[[Tensor, int, tuple[int, int]], Tensor]:
    return lambda patches, p, grid: rearrange(patches, pattern, r=grid[0], s=grid[1], p=p, q=p)


def _plain_back(patches: Tensor, p: int, grid: tuple[int, int]) -> Tensor:
    return patches.reshape(len(patches), -1, grid[0] * p, grid[1] * p)


def _not_interleaved(patches: Tensor, p: int, grid: tuple[int, int]) -> Tensor:
    blocks = rearrange(patches, "b n (c p q) -> b c n p q", p=p, q=p)
    return blocks.reshape(len(patches), -1, grid[0] * p, grid[1] * p)


# 01.4
UNPATCHIFIES = {
    "The numbers were reshaped without moving any, and the picture is scrambled: an axis must "
    "change places in between.": _plain_back,
    "The channels are in place, but a pixel row of the image runs through several patches: each "
    "pixel axis must stand right behind the patch axis of its direction before you merge.": (
        _not_interleaved
    ),
    "You read the grid as (columns, rows); it is (rows, columns). Right for squares only.": (
        _by_unpattern("b (s r) (c p q) -> b c (s p) (r q)")
    ),
    "You read the patches down the columns; they are counted along the rows.": (
        _by_unpattern("b (s r) (c p q) -> b c (r p) (s q)")
    ),
    "Every patch is mirrored along its diagonal: its rows and columns are swapped.": (
        _by_unpattern("b (r s) (c q p) -> b c (r p) (s q)")
    ),
    "The image is mirrored along its diagonal: height and width are swapped.": (
        _by_unpattern("b (r s) (c p q) -> b c (s q) (r p)")
    ),
    "Inside a patch, all of channel 0 comes first; you read the channels of each pixel side by "
    "side.": _by_unpattern("b (r s) (p q c) -> b c (r p) (s q)"),
    "The patches are torn apart: in the height, the patch row is the slow axis and must stand "
    "before the pixel row. The same holds for the width.": (
        _by_unpattern("b (r s) (c p q) -> b c (p r) (q s)")
    ),
    "The channels are the last axis; they belong right behind the batch: (B, C, H, W).": (
        _by_unpattern("b (r s) (c p q) -> b (r p) (s q) c")
    ),
}


def _unpatchified(stripes: Tensor, p: int, grid: tuple[int, int]) -> Tensor:
    return fold(stripes, p, grid).reshape(stripes.shape)


# 01.5
MENDED = {
    "Nothing has changed: cutting undoes putting together, so that the stripes come back as they "
    "were. By which step were they made? Undo that one.": lambda stripes, p, grid: stripes.clone(),
    "You undo a `patchify`; but the stripes never went through it. They were made by `reshape` "
    "alone: undo that.": _unpatchified,
    "This is the images, as they should be. One step is left: cut them, the right way.": (
        lambda stripes, p, grid: stripes.reshape(len(stripes), -1, grid[0] * p, grid[1] * p)
    ),
    "Height and width are swapped: the grid is (rows, columns). Right for squares only.": (
        lambda stripes, p, grid: unfold(
            stripes.reshape(len(stripes), -1, grid[1] * p, grid[0] * p), p
        )
    ),
}


# 01.6
ROWS = {
    "The numbers were reshaped without moving any: this cuts stripes, not patches.": (
        lambda image, p: image.reshape(len(image), p, -1)
    ),
    "The patches are right at first, but then they are reshaped without moving an axis: each "
    "pixel row of the result must run through all patches.": (
        lambda image, p: unfold(image[None], p)[0].reshape(len(image), p, -1)
    ),
    "The patches are taken down the columns; they are counted along the rows.": (
        lambda image, p: rearrange(image, "c (r p) (s q) -> c p (s r q)", p=p, q=p)
    ),
    "Every patch is mirrored along its diagonal: its rows and columns are swapped.": (
        lambda image, p: rearrange(image, "c (r p) (s q) -> c q (r s p)", p=p, q=p)
    ),
    "The patches stand below each other; they should stand side by side: (C, P, N*P).": (
        lambda image, p: rearrange(image, "c (r p) (s q) -> c (r s p) q", p=p, q=p)
    ),
    "The pixels of different patches are mixed: in the width, the number of the patch is the slow "
    "axis and must stand before the pixel column.": (
        lambda image, p: rearrange(image, "c (r p) (s q) -> c p (q r s)", p=p, q=p)
    ),
    "There is one axis too many: the result is one picture (C, P, N*P), without a batch.": (
        lambda image, p: in_one_row(image, p)[None]
    ),
    "The patches are right but separate: merge them to one picture (C, P, N*P).": (
        lambda image, p: rearrange(image, "c (r p) (s q) -> (r s) c p q", p=p, q=p)
    ),
}


def _scaled(images: Tensor) -> Tensor:
    return images.double() / 255


# 01.7
STDS = {
    "This is the mean of the standard deviations of single images: it leaves out how the images "
    "differ from each other, and is too small. Take all pixels of a channel together.": (
        lambda images: _scaled(images).std(dim=(2, 3)).mean(dim=0)
    ),
    "You average the variances of single images: it leaves out how the images differ from each "
    "other. Take all pixels of a channel together.": (
        lambda images: _scaled(images).var(dim=(2, 3)).mean(dim=0).sqrt()
    ),
    "This says how the means of the images differ, and leaves out what goes on inside an image. "
    "Take all pixels of a channel together.": (
        lambda images: _scaled(images).mean(dim=(2, 3)).std(dim=0)
    ),
    "You take the deviation at each place of the image, and average over the places. Take all "
    "pixels of a channel together.": lambda images: _scaled(images).std(dim=0).mean(dim=(1, 2)),
    "In units of 0 to 255; it should be in units of 0 to 1.": (
        lambda images: _scaled(images).std(dim=(0, 2, 3)) * 255
    ),
    "This is the variance; the standard deviation is its square root.": (
        lambda images: _scaled(images).var(dim=(0, 2, 3))
    ),
    "All channels are taken together; each has its own standard deviation.": (
        lambda images: _scaled(images).std()
    ),
    "Every channel gets the same number, that of all channels together; each has its own.": (
        lambda images: repeat(_scaled(images).std(), "-> c", c=images.shape[1])
    ),
    "This is the mean, not the standard deviation.": (
        lambda images: _scaled(images).mean(dim=(0, 2, 3))
    ),
}

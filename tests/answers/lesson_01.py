"""Lesson 01: right answers, each another way; wrong ones and the cause that must be named."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

# ---- 01.1: how many patches ----


def count_by_divmod(height, width, patch_size):
    (rows, rest), (columns, rest_too) = divmod(height, patch_size), divmod(width, patch_size)
    if rest or rest_too:
        raise ValueError(f"{height}x{width} pixels hold no whole patches of {patch_size}")
    return [rows, columns]


def count_by_ranges(height, width, patch_size):
    rows, columns = len(range(0, height, patch_size)), len(range(0, width, patch_size))
    if (rows * patch_size, columns * patch_size) != (height, width):
        raise ValueError("no whole patches")
    return rows, columns


def count_by_numpy(height, width, patch_size):
    if np.any(np.array([height, width]) % patch_size):
        raise ValueError("no whole patches")
    return tuple(np.array([height, width]) // patch_size)


def counted(grid, refused=lambda h, w, p: h % p or w % p, error=ValueError):
    def count(height, width, patch_size):
        if refused(height, width, patch_size):
            raise error("does not fit")
        return grid(height, width, patch_size)

    return count


def grid(h, w, p):
    return h // p, w // p


# ---- 01.2: one patch ----


def cut_by_blocks(image, index, patch_size):
    blocks = image.unfold(1, patch_size, patch_size).unfold(2, patch_size, patch_size)
    return blocks.flatten(1, 2)[:, index]


def cut_by_counting(image, index, patch_size):
    top = left = 0
    for _ in range(index):
        left += patch_size
        if left == image.shape[2]:
            top, left = top + patch_size, 0
    return image[..., top : top + patch_size, left : left + patch_size]


def cut_at(place, channels=True):
    def cut(image, index, p):
        rows, columns = image.shape[1] // p, image.shape[2] // p
        row, column = place(index, rows, columns)
        return image[:, row * p : row * p + p, column * p : column * p + p]

    return cut


def cut_unscaled(image, index, p):
    row, column = divmod(index, image.shape[2] // p)
    return image[:, row : row + p, column : column + p]


def cut_by_pixels(image, index, p):
    row, column = divmod(index, image.shape[2])
    return image[:, row * p : row * p + p, column * p : column * p + p]


def cut_without_channels(image, index, p):
    row, column = divmod(index, image.shape[2] // p)
    return image[row * p : row * p + p, column * p : column * p + p]


def cut_flat(image, index, p):
    return cut_by_blocks(image, index, p).flatten()


# ---- 01.3: patchify ----


def patchify_by_einops(images, patch_size):
    return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=patch_size, q=patch_size)


def patchify_by_loops(images, patch_size):
    rows = []
    for top in range(0, images.shape[2], patch_size):
        for left in range(0, images.shape[3], patch_size):
            patch = images[:, :, top : top + patch_size, left : left + patch_size]
            rows.append(patch.flatten(start_dim=1))
    return torch.stack(rows, dim=1)


def patchify_by_unfold(images, patch_size):
    return F.unfold(images, patch_size, stride=patch_size).mT


def patchify_by_windows(images, patch_size):
    windows = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def patchify_by_chunks(images, patch_size):
    bands = images.split(patch_size, dim=2)
    patches = [p for band in bands for p in band.split(patch_size, dim=3)]
    return torch.stack([p.flatten(1) for p in patches], dim=1)


def pattern(text):
    return lambda images, p: rearrange(images, text, p=p, q=p)


def patchify_plain(images, p):
    b, c, h, w = images.shape
    return images.reshape(b, (h // p) * (w // p), c * p * p)


def patchify_channels_in_front(images, p):
    b, c, h, w = images.shape
    split = images.reshape(b, c, h // p, p, w // p, p).permute(0, 1, 2, 4, 3, 5)
    return split.reshape(b, (h // p) * (w // p), c * p * p)


def patchify_grid_swapped(images, p):
    b, c, h, w = images.shape
    split = images.reshape(b, c, w // p, p, h // p, p).permute(0, 2, 4, 1, 3, 5)
    return split.reshape(b, (h // p) * (w // p), c * p * p)


def patchify_batch_mixed(images, p):
    b, c, h, w = images.shape
    split = images.reshape(b, c, h // p, p, w // p, p).permute(2, 4, 0, 1, 3, 5)
    return split.reshape(b, (h // p) * (w // p), c * p * p)


def patchify_square_only(images, p):
    b, c, h, w = images.shape
    side = int((h * w) ** 0.5) // p
    split = images.reshape(b, c, side, p, side, p)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, side * side, c * p * p)


def patchify_viewed(images, p):
    b, c, h, w = images.shape
    split = images.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return split.view(b, -1, c * p * p)


def patchify_detached(images, p):
    return patchify_by_einops(images.detach(), p)


def patchify_in_place(images, p):
    images *= 1.5
    return patchify_by_einops(images, p)


def patchify_rounded(images, p):
    return patchify_by_einops(images, p).half().to(images.dtype)


# ---- 01.4: unpatchify ----


def unpatchify_by_loops(patches, patch_size, grid):
    b, _, length = patches.shape
    c, p = length // patch_size**2, patch_size
    bands = []
    for row in range(grid[0]):
        band = [patches[:, row * grid[1] + k].reshape(b, c, p, p) for k in range(grid[1])]
        bands.append(torch.cat(band, dim=3))
    return torch.cat(bands, dim=2)


def unpatchify_by_fold(patches, patch_size, grid):
    size = [count * patch_size for count in grid]
    return F.fold(patches.mT, size, patch_size, stride=patch_size)


def unpatchify_by_einops(patches, patch_size, grid):
    return rearrange(
        patches, "b (r s) (c p q) -> b c (r p) (s q)", r=grid[0], p=patch_size, q=patch_size
    )


def back(text):
    return lambda patches, p, grid: rearrange(patches, text, r=grid[0], s=grid[1], p=p, q=p)


def unpatchify_plain(patches, p, grid):
    return patches.reshape(patches.shape[0], -1, grid[0] * p, grid[1] * p)


def unpatchify_not_interleaved(patches, p, grid):
    b, n, length = patches.shape
    blocks = patches.reshape(b, n, length // p**2, p * p).transpose(1, 2)
    return blocks.reshape(b, -1, grid[0] * p, grid[1] * p)


def unpatchify_three_channels(patches, p, grid):
    blocks = patches.reshape(len(patches), grid[0], grid[1], 3, p, p)
    blocks = blocks.permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(len(patches), 3, grid[0] * p, grid[1] * p)


# ---- 01.5: mend the stripes ----


def mend_by_view(stripes, patch_size, grid):
    rows, columns = grid
    images = stripes.reshape(len(stripes), -1, rows, patch_size, columns, patch_size)
    return images.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def mend_by_places(stripes, patch_size, grid):
    shape = (1, stripes[0].numel() // (grid[0] * grid[1] * patch_size**2))
    shape += (grid[0] * patch_size, grid[1] * patch_size)
    places = patchify_by_einops(torch.arange(stripes[0].numel()).reshape(shape), patch_size)
    return stripes.flatten(1)[:, places[0]]


def mend_as_if_patched(stripes, p, grid):
    return unpatchify_by_einops(stripes, p, grid).reshape(stripes.shape)


def mend_round_trip(stripes, p, grid):
    return patchify_by_einops(unpatchify_by_einops(stripes, p, grid), p)


def mend_swapped(stripes, p, grid):
    return patchify_by_einops(stripes.reshape(len(stripes), -1, grid[1] * p, grid[0] * p), p)


# ---- 01.6: one row ----


def row_by_bands(image, patch_size):
    return torch.cat(image.split(patch_size, dim=1), dim=2)


def row_by_einops(image, patch_size):
    return rearrange(image, "c (r p) w -> c p (r w)", p=patch_size)


def row_by_patches(image, patch_size):
    patches = patchify_by_einops(image[None], patch_size)[0]
    return rearrange(patches, "n (c p q) -> c p (n q)", p=patch_size, q=patch_size)


def row(text):
    return lambda image, p: rearrange(image, text, p=p, q=p)


def row_reshaped_patches(image, p):
    return patchify_by_einops(image[None], p).reshape(len(image), p, -1)


# ---- 01.7: the standard deviation of a channel ----


def std_by_torch(images):
    return (images / 255).std(dim=(0, 2, 3))


def std_by_moments(images):
    x = images.double() / 255
    mean = x.mean(dim=(0, 2, 3))
    return ((x**2).mean(dim=(0, 2, 3)) - mean**2).sqrt()


def std_by_numpy(images):
    x = images.numpy() / 255
    return np.array([x[:, channel].std() for channel in range(x.shape[1])])


def std_as_list(images):
    return [(images[:, k].float() / 255).std().item() for k in range(images.shape[1])]


RIGHT = {
    "01.1": [count_by_divmod, count_by_ranges, count_by_numpy],
    "01.2": [cut_by_blocks, cut_by_counting],
    "01.3": [
        patchify_by_einops,
        patchify_by_loops,
        patchify_by_unfold,
        patchify_by_windows,
        patchify_by_chunks,
    ],
    "01.4": [unpatchify_by_loops, unpatchify_by_fold, unpatchify_by_einops],
    "01.5": [mend_by_view, mend_by_places],
    "01.6": [row_by_bands, row_by_einops, row_by_patches],
    "01.7": [std_by_torch, std_by_moments, std_by_numpy, std_as_list],
}

WRONG = {
    "01.1": {
        "swapped": (counted(lambda h, w, p: (w // p, h // p)), "swapped"),
        "the product": (counted(lambda h, w, p: h // p * (w // p)), "got one, 64"),
        "fractions": (counted(lambda h, w, p: (h / p, w / p)), "whole numbers, got the float 8.0"),
        "pixels": (counted(lambda h, w, p: (h, w)), "count pixels"),
        "area of a patch": (counted(lambda h, w, p: (h // p**2, w // p**2)), "Along one side"),
        "one too many": (counted(lambda h, w, p: (h // p + 1, w // p + 1)), "too many"),
        "height twice": (counted(lambda h, w, p: (h // p, h // p)), "the height is used for both"),
        "width twice": (counted(lambda h, w, p: (w // p, w // p)), "the width is used for both"),
        "by luck": (counted(lambda h, w, p: (8, 8)), r"224×224 .* expected \(14, 14\), got \(8, 8"),
        "never refuses": (counted(grid, lambda h, w, p: False), "lost without a word"),
        "width only": (counted(grid, lambda h, w, p: w % p), "look at the width only"),
        "height only": (counted(grid, lambda h, w, p: h % p), "look at the height only"),
        "by area": (counted(grid, lambda h, w, p: h * w % p**2), "That the areas fit is not"),
        "asserts": (counted(grid, error=AssertionError), "yours raises AssertionError"),
        "refuses oblongs": (counted(grid, lambda h, w, p: h != w), "32×48 .* refused it: does not"),
        "three numbers": (lambda h, w, p: (1, 2, 3), "got a tuple of length 3"),
        "two arguments": (lambda h, w: (1, 2), "must take 3 arguments"),
    },
    "01.2": {
        "swapped": (cut_at(lambda i, r, c: (i % c, i // c)), "swapped"),
        "by rows": (cut_at(lambda i, r, c: divmod(i, r)), "divide by the number of rows"),
        "down": (cut_at(lambda i, r, c: (i % r, i // r)), "count down the columns"),
        "one too far": (cut_at(lambda i, r, c: divmod(i + 1, c)), "One too far"),
        "one too few": (cut_at(lambda i, r, c: divmod(i - 1, c)), "One too few"),
        "not times P": (cut_unscaled, "pixels are asked for"),
        "by pixels": (cut_by_pixels, "divide by the width in pixels"),
        "no channels": (cut_without_channels, "first axis of the image is its channels"),
        "flat": (cut_flat, r"shape \(3, 4, 4\), got \(48,\)"),
        "nothing": (lambda image, index, p: None, "returned None"),
        "always the first": (lambda image, index, p: image[:, :p, :p], r"Right for \d+ of"),
    },
    "01.3": {
        "plain reshape": (patchify_plain, "patch 0 is a stripe of the first channel"),
        "channels in front": (patchify_channels_in_front, "holds one channel only"),
        "channels last": (pattern("b c (r p) (s q) -> b (r s) (p q c)"), "side by side"),
        "down the columns": (pattern("b c (r p) (s q) -> b (s r) (c p q)"), "down the columns"),
        "patch mirrored": (pattern("b c (r p) (s q) -> b (r s) (c q p)"), "Every patch is mirror"),
        "all mirrored": (pattern("b c (r p) (s q) -> b (s r) (c q p)"), "grid and the patches are"),
        "far apart": (pattern("b c (p r) (q s) -> b (r s) (c p q)"), "pixels far apart"),
        "grid swapped": (patchify_grid_swapped, "Rows and columns of the grid are swapped"),
        "batch mixed": (patchify_batch_mixed, "images of the batch got mixed"),
        "axes swapped": (pattern("b c (r p) (s q) -> b (c p q) (r s)"), "last two are swapped"),
        "not flat": (pattern("b c (r p) (s q) -> b (r s) c p q"), "right but not flat"),
        "on a grid": (pattern("b c (r p) (s q) -> b r s (c p q)"), "stand on a grid"),
        "square only": (
            patchify_square_only,
            r"(?s)side, p, side, p.*stopped with RuntimeError.*1 of 7 .* that are not square",
        ),
        "view": (patchify_viewed, r"split.view\(b, -1, c \* p \* p\).*stopped with RuntimeError"),
        "detached": (patchify_detached, "no gradient reaches `images`"),
        "in place": (patchify_in_place, "changes `images`"),
        "half precision": (patchify_rounded, r"Right for \d of 7 inputs"),
    },
    "01.4": {
        "plain reshape": (unpatchify_plain, "picture is scrambled"),
        "not interleaved": (unpatchify_not_interleaved, "runs through several patches"),
        "grid swapped": (back("b (s r) (c p q) -> b c (s p) (r q)"), r"as \(columns, rows\)"),
        "down the columns": (back("b (s r) (c p q) -> b c (r p) (s q)"), "down the columns"),
        "patch mirrored": (back("b (r s) (c q p) -> b c (r p) (s q)"), "Every patch is mirrored"),
        "mirrored": (back("b (r s) (c p q) -> b c (s q) (r p)"), "height and width are swapped"),
        "channels last": (back("b (r s) (p q c) -> b c (r p) (s q)"), "side by side"),
        "torn apart": (back("b (r s) (c p q) -> b c (p r) (q s)"), "torn apart"),
        "channels at the end": (back("b (r s) (c p q) -> b (r p) (s q) c"), "are the last axis"),
        "three channels": (
            unpatchify_three_channels,
            r"(?s)stopped with RuntimeError.*runs for 6 of 8 inputs.*other than 3 channels",
        ),
        "detached": (
            lambda x, p, g: unpatchify_by_fold(x.detach(), p, g),
            "no gradient reaches `x`",
        ),
        "nothing": (lambda x, p, g: None, "returned None"),
    },
    "01.5": {
        "as if patched": (mend_as_if_patched, "never went through it"),
        "round trip": (mend_round_trip, "Nothing has changed"),
        "unchanged": (lambda stripes, p, grid: stripes, "Nothing has changed"),
        "images": (unpatchify_plain, "One step is left"),
        "swapped": (mend_swapped, "Height and width are swapped"),
        "first of all": (lambda x, p, g: torch.zeros_like(x), "Right for 0 of 7"),
    },
    "01.6": {
        "plain reshape": (lambda x, p: x.reshape(len(x), p, -1), "cuts stripes, not patches"),
        "reshaped at the end": (row_reshaped_patches, "run through all patches"),
        "down the columns": (row("c (r p) (s q) -> c p (s r q)"), "down the columns"),
        "mirrored": (row("c (r p) (s q) -> c q (r s p)"), "mirrored along its diagonal"),
        "below each other": (row("c (r p) (s q) -> c (r s p) q"), "stand side by side"),
        "mixed": (row("c (r p) (s q) -> c p (q r s)"), "different patches are mixed"),
        "a batch": (lambda x, p: row_by_bands(x, p)[None], "one axis too many"),
        "separate": (row("c (r p) (s q) -> (r s) c p q"), "right but separate"),
        "flat patches": (lambda x, p: patchify_by_einops(x[None], p)[0], r"got \(6, 48\)"),
    },
    "01.7": {
        "of single images": (
            lambda x: (x / 255).std(dim=(2, 3)).mean(dim=0),
            "mean of the standard deviations of single images",
        ),
        "variances of single images": (
            lambda x: (x / 255).var(dim=(2, 3)).mean(dim=0).sqrt(),
            "average the variances",
        ),
        "of the means": (lambda x: (x / 255).mean(dim=(2, 3)).std(dim=0), "means of the images"),
        "at each place": (lambda x: (x / 255).std(dim=0).mean(dim=(1, 2)), "at each place"),
        "in 0 to 255": (lambda x: x.float().std(dim=(0, 2, 3)), "units of 0 to 255"),
        "variance": (lambda x: (x / 255).var(dim=(0, 2, 3)), "its square root"),
        "all channels": (lambda x: (x / 255).std(), "channels are taken together"),
        "all channels, repeated": (
            lambda x: (x / 255).std().repeat(x.shape[1]),
            "Every channel gets the same number",
        ),
        "the mean": (lambda x: (x / 255).mean(dim=(0, 2, 3)), "This is the mean"),
        "uint8": (lambda x: x.flatten(2).std(dim=(0, 2)), "stopped with RuntimeError"),
        "nothing": (lambda x: None, "returned None"),
        "a word": (lambda x: "0.25", "got the str 0.25"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "01.1": ("//", "%", "divmod"),
    "01.2": ("//", "%", "divmod", "row * p", "image["),
    "01.3": ("rearrange(", "(0, 2, 4, 1, 3, 5)", "b (r s) (c p q)", "unfold("),
    "01.4": ("rearrange(", "(0, 3, 1, 4, 2, 5)", "b c (r p) (s q)", "fold("),
    "01.5": ("reshape(", "patchify("),
    "01.6": ("rearrange(", "c p (r s q)", "torch.cat", "permute("),
    "01.7": ("(0, 2, 3)", "/ 255"),
}

"""Images cut into patches: where they lie, what numbers they hold, how many there are."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from vit_tutorial.plots.photographs import photo_axes
from vit_tutorial.plots.style import FAINT, INK, PALETTE, STYLE, closed, require_rgb

CHANNELS = ("red", "green", "blue")
MARK = PALETTE[1]
TINTS = np.array([(255, 60, 50), (50, 200, 70), (95, 135, 255)])  # of a channel at its brightest


def cut_up(
    image: NDArray, patch_size: int, order: Sequence[int] | None = None, line: int = 2
) -> NDArray[np.uint8]:
    """Draw white lines between the patches of an image: uint8 (H, W, 3) -> uint8 (H, W, 3).

    Args:
        image: the picture.
        patch_size: side of a patch in pixels.
        order: the patch that stands at each position, row by row; by default each at its own.
        line: width of the lines in pixels.

    Raises:
        ValueError: not uint8 RGB, sides that `patch_size` does not divide, or an order that does
            not hold every patch once.

    Examples:
        >>> picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        >>> cut_up(picture, 1, order=[3, 2, 1, 0], line=0)[..., 0].tolist()
        [[9, 6], [3, 0]]
    """
    rows, columns = _grid(image, patch_size)
    order = range(rows * columns) if order is None else order
    if sorted(int(i) for i in order) != list(range(rows * columns)):
        raise ValueError(f"order must hold each of the {rows * columns} patches once")
    blocks = image.reshape(rows, patch_size, columns, patch_size, 3).swapaxes(1, 2)
    blocks = blocks.reshape(-1, patch_size, patch_size, 3)[np.asarray(order)]
    blocks = blocks.reshape(rows, columns, patch_size, patch_size, 3)
    drawn = blocks.swapaxes(1, 2).reshape(image.shape).copy()
    before, after = line // 2, line - line // 2
    for edge in range(patch_size, image.shape[0], patch_size):
        drawn[edge - before : edge + after] = 255
    for edge in range(patch_size, image.shape[1], patch_size):
        drawn[:, edge - before : edge + after] = 255
    return drawn


def patch_grid(image: NDArray, patch_size: int) -> Figure:
    """Draw an image as its pixels, and again cut into patches that are numbered row by row.

    Raises:
        ValueError: not uint8 RGB (H, W, 3), or sides that `patch_size` does not divide.
    """
    rows, columns = _grid(image, patch_size)
    zoom = max(1, 512 // max(image.shape[:2]))
    large = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    with plt.rc_context(STYLE):
        height = min(4.2 * image.shape[0] / image.shape[1], 4.8)
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, height + 0.4))
        _pixels(left, large, f"{image.shape[0]}×{image.shape[1]} pixels")
        _pixels(
            right,
            cut_up(large, zoom * patch_size, line=3),
            f"{rows}×{columns} patches of {patch_size}×{patch_size} pixels",
        )
        for i in range(rows * columns):
            row, column = divmod(i, columns)
            side = zoom * patch_size
            text = right.text((column + 0.5) * side, (row + 0.5) * side, str(i), color="white")
            text.set(ha="center", va="center", fontsize=9)
            text.set_path_effects([withStroke(linewidth=2.2, foreground=INK)])
    return closed(figure)


def patch_numbers(patch: NDArray) -> Figure:
    """Draw one patch: its colours, its channels as numbers, and all of them as one row.

    Args:
        patch: uint8 (3, P, P).

    Raises:
        ValueError: another shape or type.
    """
    if patch.dtype != np.uint8 or patch.ndim != 3 or patch.shape[::2] != (3, patch.shape[1]):
        raise ValueError(f"expected uint8 (3, P, P), got {patch.dtype} {patch.shape}")
    side = patch.shape[1]
    tinted = np.rint(patch[..., None] / 255 * TINTS[:, None, None]).astype(np.uint8)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9, 3.7))
        grid = figure.add_gridspec(2, 4, height_ratios=[2.3, 0.75])
        axes = [figure.add_subplot(grid[0, k]) for k in range(4)]
        _pixels(axes[0], patch.transpose(1, 2, 0), f"the patch, {side}×{side} pixels")
        for channel, name in enumerate(CHANNELS):
            _pixels(axes[channel + 1], tinted[channel], f"channel {channel}: {name}")
            for (row, column), value in np.ndenumerate(patch[channel]):
                axes[channel + 1].text(
                    column, row, str(value), color="white", ha="center", va="center"
                )
        strip = figure.add_subplot(grid[1, :])
        length = patch.size
        strip.imshow(tinted.reshape(1, length, 3), aspect="auto", interpolation="nearest")
        if length <= 64:
            for index, value in enumerate(patch.ravel()):
                text = strip.text(index, 0, str(value), color="white", rotation=90, fontsize=8)
                text.set(ha="center", va="center")
        strip.set_xticks(np.arange(3) * side**2, [str(k * side**2) for k in range(3)])
        strip.set(yticks=[], xlabel=f"the same {length} numbers in one row: index in the vector")
        strip.spines[:].set_visible(False)
    return closed(figure)


def number_tables(
    tables: Sequence[NDArray], owner: NDArray, titles: Sequence[str], row_name: str = "row"
) -> Figure:
    """Draw tables of integers; the colour of a number says which patch it belongs to.

    Args:
        tables: of shape (rows, columns); the first is the image, of the others each row is named.
        owner: the patch of each number, from 0 to 3; owner[5] is that of the number 5.
        titles: one for each table.
        row_name: what a row of the later tables is.

    Raises:
        ValueError: another number of titles, or more than four patches.
    """
    if len(tables) != len(titles):
        raise ValueError(f"{len(tables)} tables need as many titles, got {len(titles)}")
    if owner.min() < 0 or owner.max() > 3:
        raise ValueError(f"owner must be from 0 to 3, got {owner.min()} to {owner.max()}")
    paint = np.array([to_rgb(colour) for colour in (*PALETTE[:3], "#555555")])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(tables), figsize=(3.0 * len(tables), 2.9), squeeze=False)
        for k, (axis, table, title) in enumerate(zip(axes[0], tables, titles, strict=True)):
            _pixels(axis, paint[owner[table]], title)
            for (row, column), value in np.ndenumerate(table):
                axis.text(column, row, value, color="white", ha="center", va="center", fontsize=12)
            for edge in range(1, table.shape[0]):
                axis.axhline(edge - 0.5, color="white", linewidth=1 if k == 0 else 5)
            for edge in range(1, table.shape[1]):
                axis.axvline(edge - 0.5, color="white", linewidth=1)
            if k:
                axis.set_yticks(
                    range(len(table)), [f"{row_name} {row}" for row in range(len(table))]
                )
                axis.tick_params(left=False)
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in paint]
        names = [f"patch {i}" for i in range(owner.max() + 1)]
        figure.legend(
            handles[: len(names)], names, loc="outside lower center", ncols=4, frameon=False
        )
    return closed(figure)


def patch_sources(
    image: NDArray, indices: Sequence[NDArray], titles: Sequence[str], subject: str = "patch"
) -> Figure:
    """Draw where in an image the numbers of a patch come from: a row for each way of cutting.

    Args:
        image: uint8 (3, H, W).
        indices: for each way, the indices of the patch's numbers in the flattened image.
        titles: one for each way.
        subject: what the numbers make up.

    Raises:
        ValueError: another shape or type, an index outside the image, or another number of titles.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or len(image) != 3:
        raise ValueError(f"expected uint8 (3, H, W), got {image.dtype} {image.shape}")
    if len(indices) != len(titles):
        raise ValueError(f"{len(indices)} ways need as many titles, got {len(titles)}")
    if any(way.min() < 0 or way.max() >= image.size for way in indices):
        raise ValueError(f"an image of {image.size} numbers has no such index")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(indices), 3, figsize=(7.6, 2.75 * len(indices)), squeeze=False
        )
        for row, (way, title) in enumerate(zip(indices, titles, strict=True)):
            marked = np.zeros(image.size, dtype=bool)
            marked[np.asarray(way)] = True
            for channel, axis in enumerate(axes[row]):
                marks = marked.reshape(image.shape)[channel]
                faded = 150 + 0.4 * image[channel, ..., None].repeat(3, axis=-1)
                faded[marks] = 255 * np.array(to_rgb(MARK))
                _pixels(axis, faded.astype(np.uint8), f"{CHANNELS[channel]} channel")
                axis.set_xlabel(
                    f"{marks.sum()} of its numbers", color=INK if marks.any() else FAINT
                )
            axes[row, 0].set_ylabel(title)
        figure.suptitle(f"Orange: where the numbers of {subject} come from", x=0.02, ha="left")
    return closed(figure)


def patch_row(patches: NDArray) -> Figure:
    """Draw patches side by side in one long row, numbered: uint8 (N, P, P, 3).

    Raises:
        ValueError: another shape or type.
    """
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[3] != 3:
        raise ValueError(f"expected uint8 (N, P, P, 3), got {patches.dtype} {patches.shape}")
    count, side = patches.shape[:2]
    gap = max(1, side // 16)
    framed = np.pad(
        patches, ((0, 0), (0, 0), (gap, gap), (0, 0)), mode="constant", constant_values=255
    )
    wide = framed.shape[2]
    strip = framed.transpose(1, 0, 2, 3).reshape(side, count * wide, 3)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9, 9 * side / (count * wide) + 0.55))
        axes.imshow(strip, interpolation="nearest")
        shown = range(0, count, 1 if count <= 12 else 5)
        axes.set_xticks([(i + 0.5) * wide - 0.5 for i in shown], [str(i) for i in shown])
        axes.set(yticks=[], xlabel="patch number")
        axes.spines[:].set_visible(False)
    return closed(figure)


def token_cost(patch_sizes: Sequence[int], tokens: Sequence[int], title: str) -> Figure:
    """Draw the length T of the sequence, and the T² pairs of tokens, against the patch size.

    Raises:
        ValueError: another number of tokens than of patch sizes.
    """
    if len(patch_sizes) != len(tokens):
        raise ValueError(f"{len(patch_sizes)} patch sizes need as many T, got {len(tokens)}")
    lengths = np.asarray(tokens)
    curves = (("T² = {:,} pairs", lengths**2, "s"), ("T = {:,} tokens", lengths, "o"))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4))
        for colour, (name, values, marker) in zip((MARK, PALETTE[0]), curves, strict=True):
            axes.plot(patch_sizes, values, marker=marker, color=colour)
            for x, value in zip(patch_sizes[:-1], values[:-1], strict=True):
                _beside(axes, f"{value:,}", (x, value), (5, 7), color=colour, fontsize=9)
            end = (patch_sizes[-1], values[-1])
            _beside(axes, name.format(end[1]), end, (10, -4), color=colour, weight="bold")
        axes.set(xscale="log", yscale="log", title=title, xlabel="patch size P (pixels)")
        axes.set_xticks(patch_sizes, [str(size) for size in patch_sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set(xlim=(min(patch_sizes) / 1.15, max(patch_sizes) * 3), ylabel="how many")
        axes.set_ylim(min(lengths) / 3, max(lengths) ** 2 * 5)
        axes.grid(axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
    return closed(figure)


def patch_cover(images: Sequence[NDArray], patch_size: int, titles: Sequence[str]) -> Figure:
    """Draw pictures under the grid of their whole patches; what no patch covers is crossed out.

    Args:
        images: uint8 (H, W, 3), any sizes.
        patch_size: side of a patch in pixels.
        titles: one for each picture.

    Raises:
        ValueError: another number of titles, or pictures that are not uint8 RGB.
    """
    if len(images) != len(titles):
        raise ValueError(f"{len(images)} pictures need as many titles, got {len(titles)}")
    for image in images:
        require_rgb(image)
    with plt.rc_context(STYLE):
        ratios = [image.shape[1] / image.shape[0] for image in images]
        width = 9.0
        height = min(width / sum(ratios), 3.6)
        figure, axes = plt.subplots(
            1, len(images), figsize=(width, height + 0.7), width_ratios=ratios, squeeze=False
        )
        for axis, image, title in zip(axes[0], images, titles, strict=True):
            photo_axes(axis, image, title)
            rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
            bottom, right = rows * patch_size - 0.5, columns * patch_size - 0.5
            x = np.arange(columns + 1) * patch_size - 0.5
            y = np.arange(rows + 1) * patch_size - 0.5
            axis.vlines(x, -0.5, bottom, color="white", linewidth=0.7)
            axis.hlines(y, -0.5, right, color="white", linewidth=0.7)
            high, wide = image.shape[0] - 0.5, image.shape[1] - 0.5
            for box in ((-0.5, bottom, wide, high), (right, -0.5, wide, bottom)):
                if box[0] < box[2] and box[1] < box[3]:
                    axis.add_patch(_crossed(*box))
            axis.set_xlabel(f"{rows}×{columns} = {rows * columns} patches")
    return closed(figure)


def _beside(
    axes: Axes, words: str, point: tuple[float, float], points: tuple[float, float], **style: Any
) -> None:
    """Write words that many points to the right of a point, and above it."""
    axes.annotate(words, point, points, textcoords="offset points", **style)


def _crossed(left: float, top: float, right: float, bottom: float) -> plt.Rectangle:
    return plt.Rectangle(
        (left, top), right - left, bottom - top, facecolor=MARK, edgecolor="white", hatch="////",
        linewidth=0,
    )  # fmt: skip


def _pixels(axes: Axes, image: NDArray, title: str) -> None:
    """Show an image as its pixels, each a square of one colour."""
    axes.imshow(image, interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _grid(image: NDArray, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches, once the image is seen to have whole ones."""
    require_rgb(image)
    height, width = image.shape[:2]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"{height}x{width} pixels cannot be cut into {patch_size}x{patch_size} patches"
        )
    return height // patch_size, width // patch_size

"""What a patch embedding does: filters, their outputs, and what each token has seen."""

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vit_tutorial.plots.style import FAINT, HEAT, INK, PALETTE, STYLE, closed, require_rgb

# Numbers below zero are blue, above orange, zero white: as far apart for any kind of colour vision.
SIGNED = LinearSegmentedColormap.from_list("signed", [PALETTE[0], "#ffffff", PALETTE[1]])
MARKERS = "os^D"


def embedding_by_hand(patch: NDArray, filters: NDArray, bias: NDArray) -> Figure:
    """Draw how one patch becomes a token: a row for each filter, from the pixels to one number.

    Args:
        patch: (P, P).
        filters: (D, P, P).
        bias: (D,).

    Raises:
        ValueError: shapes that do not fit together.
    """
    if patch.ndim != 2 or filters.shape[1:] != patch.shape or bias.shape != filters.shape[:1]:
        raise ValueError(
            f"expected (P, P), (D, P, P) and (D,), got {patch.shape}, {filters.shape}, {bias.shape}"
        )
    count = len(filters)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            count, 4, figsize=(8.6, 1.85 * count + 0.35), width_ratios=[1, 1, 1, 1.7], squeeze=False
        )
        for k, row in enumerate(grid):
            products = patch * filters[k]
            limit = max(float(np.abs(filters).max()), 1e-12)
            largest = float(np.abs(patch).max())
            _table(row[0], patch, matplotlib.colormaps["Greys_r"], (-1.2 * largest, largest))
            _table(row[1], filters[k], SIGNED, (-limit, limit))
            _table(row[2], products, SIGNED, (-1e9, 1e9))
            for axis, sign in zip(row[1:3], "×=", strict=True):
                axis.text(-0.22, 0.5, sign, transform=axis.transAxes, fontsize=16, va="center")
            total = products.sum()
            row[3].set(xticks=[], yticks=[], box_aspect=1 / 1.7)
            row[3].spines[:].set_visible(False)
            sum_label = f"{total:g} {'+' if bias[k] >= 0 else '−'} {abs(bias[k]):g}  ="
            sum_text = row[3].text(0.62, 0.5, sum_label, transform=row[3].transAxes, fontsize=13)
            result_text = row[3].text(0.68, 0.5, f"{total + bias[k]:g}", transform=row[3].transAxes)
            sum_text.set(va="center", ha="right")
            result_text.set(fontsize=18, weight="bold", color=PALETTE[0], va="center")
            row[3].set_xlabel(f"number {k} of the token")
            row[1].set_xlabel(f"filter {k}")
        for axis, title in zip(
            grid[0], ("patch", "filter", "products", "sum, plus bias"), strict=True
        ):
            axis.set_title(title, loc="center")
    return closed(figure)


def filter_pictures(filters: NDArray, title: str, columns: int = 16) -> Figure:
    """Draw filters as small pictures, each scaled to its own largest number; grey is zero.

    Args:
        filters: (K, 3, P, P), or (K, 1, P, P) for grey images.
        title: what they are.
        columns: how many in a row; they are numbered row by row.

    Raises:
        ValueError: another shape.
    """
    tiles = as_pictures(filters)
    rows = -(-len(tiles) // columns)
    side = tiles.shape[1]
    sheet = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1, 3), 255, dtype=np.uint8)
    for k, tile in enumerate(tiles):
        top, left = (k // columns) * (side + 1), (k % columns) * (side + 1)
        sheet[top : top + side, left : left + side] = tile
    with plt.rc_context(STYLE):
        height = 8.4 * sheet.shape[0] / sheet.shape[1]
        figure, axes = plt.subplots(figsize=(8.8, height + 0.45))
        axes.imshow(sheet, interpolation="nearest")
        axes.set(title=title, xticks=[])
        axes.set_yticks(
            [(side + 1) * row + (side - 1) / 2 for row in range(rows)],
            [str(row * columns) for row in range(rows)],
        )
        axes.tick_params(left=False)
        axes.spines[:].set_visible(False)
    return closed(figure)


def filter_view(
    filter: NDArray, photo: NDArray, responses: NDArray, most: NDArray, least: NDArray
) -> NDArray[np.uint8]:
    """Paint a filter beside a photograph and its output for each patch: uint8 (320, 864, 3).

    On the left the filter, below it the patches that it answers to with the largest numbers
    (orange frame) and the smallest (blue frame). On the right the outputs: orange above zero, blue
    below, white at zero.

    Args:
        filter: (3, P, P).
        photo: uint8 (H, W, 3), square.
        responses: (rows, columns), as many rows as columns.
        most: uint8 (K, P, P, 3).
        least: uint8 (K, P, P, 3).

    Raises:
        ValueError: another shape or type.
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape != (len(photo), len(photo), 3):
        raise ValueError(f"photo must be uint8 (H, H, 3), got {photo.dtype} {photo.shape}")
    if responses.ndim != 2 or len(set(responses.shape)) != 1:
        raise ValueError(f"responses must be square, got {responses.shape}")
    picture = as_pictures(filter[None])[0]
    for patches in (most, least):
        if patches.dtype != np.uint8 or patches.shape[1:] != picture.shape:
            raise ValueError(
                f"patches must be uint8 (K, {picture.shape[0]}, {picture.shape[1]}, 3), got "
                f"{patches.dtype} {patches.shape}"
            )
    view = np.full((320, 864, 3), 255, dtype=np.uint8)
    view[:180, :180] = _enlarged(picture, 180, 180)
    for top, patches, colour in ((196, most, PALETTE[1]), (264, least, PALETTE[0])):
        side = min(40, 172 // len(patches) - 4)
        view[top : top + 56, :180] = _rgb(colour)
        view[top + 4 : top + 52, 4:176] = 255
        for k, patch in enumerate(patches):
            left = 8 + k * (side + 2)
            view[top + 8 : top + 8 + side, left : left + side] = _enlarged(patch, side, side)
    view[:, 204:524] = _enlarged(photo, 320, 320)
    limit = max(float(np.abs(responses).max()), 1e-12)
    heat = (SIGNED(responses / limit / 2 + 0.5)[..., :3] * 255).astype(np.uint8)
    view[:, 544:] = 200  # a frame, as much of the map may be white
    view[1:-1, 545:-1] = _enlarged(heat, 318, 318)
    return view


def response_maps(
    picture: NDArray, maps: Sequence[NDArray], titles: Sequence[str], xlabels: Sequence[str]
) -> Figure:
    """Draw the outputs of one filter, for several ways to apply it: blue below zero, orange above.

    Args:
        picture: uint8 (H, W, 3), what the filter gets; it is drawn first, every pixel a square.
        maps: (rows, columns) each; their squares are drawn as large as they fit.
        titles: one for each.
        xlabels: a remark below each.

    Raises:
        ValueError: another number of titles or remarks, or a picture of another shape.
    """
    if not len(maps) == len(titles) == len(xlabels):
        raise ValueError(f"{len(maps)} maps need as many titles and remarks")
    require_rgb(picture)
    limit = max(float(np.abs(one).max()) for one in maps)
    with plt.rc_context(STYLE):
        columns = 1 + len(maps)
        figure, axes = plt.subplots(1, columns, figsize=(2.3 * columns, 2.7), squeeze=False)
        axes[0, 0].imshow(picture, interpolation="nearest")
        axes[0, 0].set(title="the picture", xticks=[], yticks=[])
        axes[0, 0].set_xlabel("{1}×{0} pixels".format(*picture.shape), color=FAINT)
        axes[0, 0].spines[:].set_visible(False)
        for axis, one, title, below in zip(axes[0, 1:], maps, titles, xlabels, strict=True):
            image = axis.imshow(one, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set(title=title, xticks=[], yticks=[])
            axis.set_xlabel(below, color=FAINT)
            axis.spines[:].set_color("#cccccc")
            axis.spines[:].set_visible(True)
        figure.colorbar(image, ax=axes, shrink=0.75, label="the filter's output")
    return closed(figure)


def pattern_gains(
    patterns: NDArray, shares: NDArray, gains: Mapping[str, NDArray], shown: int | None = None
) -> Figure:
    """Draw how strongly networks pass patterns on, with the patterns below.

    Args:
        patterns: (K, 3, P, P), the most frequent first.
        shares: (K,), how much of the patches each makes up, 0 to 1.
        gains: the name of a network -> (K,), from 0 up.
        shown: how many to draw, the first ones; by default all.

    Raises:
        ValueError: another number of shares or gains than of patterns.
    """
    count = len(patterns)
    if any(len(values) != count for values in (shares, *gains.values())):
        raise ValueError(f"{count} patterns need as many shares and gains")
    tiles = as_pictures(patterns)[:shown]
    count = len(tiles)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9, 4.1))
        grid = figure.add_gridspec(2, 1, height_ratios=[9, 1])
        axes = figure.add_subplot(grid[0])
        for k, (name, values) in enumerate(gains.items()):
            colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
            axes.plot(
                range(count), values[:shown], color=colour, marker=marker, markersize=4, label=name
            )
        axes.set(
            ylabel="gain",
            ylim=(0, None),
            xlim=(-0.6, count - 0.4),
            title="How strongly each pattern is passed on",
        )
        axes.tick_params(labelbottom=False)
        axes.grid(axis="y", color="#e6e6e6")
        axes.legend(frameon=False, loc="lower right")
        strip = figure.add_subplot(grid[1])
        for k, tile in enumerate(tiles):
            strip.imshow(
                tile, interpolation="nearest", extent=(k - 0.42, k + 0.42, 0, 0.84), aspect="equal"
            )
        strip.set(xlim=(-0.6, count - 0.4), ylim=(-0.05, 0.89), yticks=[])
        strip.set_xticks(range(count), [_percent(k, shares[k]) for k in range(count)], fontsize=8)
        strip.set_xlabel("pattern; below its number, how much of all differences it makes up")
        strip.spines[:].set_visible(False)
        strip.tick_params(bottom=False)
    return closed(figure)


def touched_pixels(maps: Sequence[NDArray], titles: Sequence[str]) -> Figure:
    """Draw which pixels a vector depends on, and how much: yellow most, dark not at all.

    Args:
        maps: (H, W) each, from 0 up; each is drawn relative to its own largest.
        titles: one for each.

    Raises:
        ValueError: another number of titles, or a map below 0.
    """
    if len(maps) != len(titles):
        raise ValueError(f"{len(maps)} maps need as many titles, got {len(titles)}")
    if any(not one.min() >= 0 for one in maps):
        raise ValueError("maps must be 0 or more")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(maps), figsize=(2.2 * len(maps), 2.75), squeeze=False)
        for axis, one, title in zip(axes[0], maps, titles, strict=True):
            axis.imshow(one, cmap=HEAT, vmin=0, vmax=max(one.max(), 1e-12), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=10)
            axis.set_xlabel(f"{(one > 0).sum():,} of {one.size:,} pixels", color=FAINT)
            axis.spines[:].set_visible(False)
    return closed(figure)


def readout_curves(curves: Mapping[str, Sequence[float]], chance: float, title: str) -> Figure:
    """Draw how much can be read off after each number of blocks, in percent.

    Args:
        curves: the name of what is read -> the accuracy after 0, 1, 2 ... blocks.
        chance: what guessing gives.
        title: what is shown.

    Raises:
        ValueError: curves of different lengths, or none.
    """
    lengths = {len(values) for values in curves.values()}
    if len(lengths) != 1:
        raise ValueError(f"expected curves of one length, got {sorted(lengths)}")
    blocks = range(lengths.pop())
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.6, 3.6))
        for k, (name, values) in enumerate(curves.items()):
            colour, marker = PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]
            axes.plot(blocks, values, color=colour, marker=marker, label=name)
            axes.annotate(
                f"{values[0]:.0f}%", (0, values[0]), (-9, -4), textcoords="offset points",
                color=colour, ha="right",
            )  # fmt: skip
        axes.axhline(chance, color=FAINT, linestyle=":", linewidth=1)
        axes.text(blocks[-1], chance + 2, "guessing", color=FAINT, ha="right")
        axes.set(title=title, xlabel="after how many blocks", ylabel="read off right (%)")
        axes.set(ylim=(0, 102), xlim=(-0.5, blocks[-1] + 0.25), xticks=list(blocks))
        axes.legend(frameon=False, loc="center right")
    return closed(figure)


def as_pictures(filters: NDArray) -> NDArray[np.uint8]:
    """Scale each filter to its own largest number: (K, C, P, P) -> uint8 (K, P, P, 3).

    Raises:
        ValueError: another shape, or channels that are neither 1 nor 3.
    """
    if filters.ndim != 4 or filters.shape[1] not in (1, 3):
        raise ValueError(f"expected filters of shape (K, 3, P, P), got {filters.shape}")
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    scaled = np.rint(127.5 + 127.5 * filters / np.maximum(largest, 1e-12)).astype(np.uint8)
    return np.broadcast_to(scaled.transpose(0, 2, 3, 1), (*scaled[:, 0].shape, 3))


def _enlarged(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Repeat pixels until the size is reached."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return picture[rows][:, columns]


def _rgb(colour: str) -> NDArray[np.uint8]:
    return np.rint(255 * np.array(to_rgb(colour))).astype(np.uint8)


def _percent(number: int, share: float) -> str:
    return f"{number}\n{share:.0%}" if share >= 0.005 else str(number)


def _table(
    axes: Axes, numbers: NDArray, colours: matplotlib.colors.Colormap, span: tuple[float, float]
) -> None:
    """Draw a table of numbers on tinted squares."""
    axes.imshow(numbers, cmap=colours, vmin=span[0], vmax=span[1], alpha=0.6)
    for (row, column), value in np.ndenumerate(numbers):
        axes.text(
            column,
            row,
            f"{value:g}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=12,
            color=INK,
        )
    frame = Rectangle((-0.5, -0.5), numbers.shape[1], numbers.shape[0], fill=False)
    frame.set(edgecolor="#bbbbbb", linewidth=1)
    axes.add_patch(frame)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

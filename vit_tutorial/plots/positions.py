"""Positions: as waves, as clock hands, how alike they are, and what shuffling changes."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vit_tutorial.plots.style import FAINT, HEAT, INK, PALETTE, STYLE, closed


def logit_pairs(pairs: Mapping[str, tuple[NDArray, NDArray]], labels: Sequence[str]) -> Figure:
    """Draw the logits of networks for a picture (ring) and for its shuffled copy (dot).

    Args:
        pairs: title -> two arrays (classes,), before and after; one panel for each.
        labels: what the logits are called.

    Raises:
        ValueError: no pairs, or arrays with another number of logits than of labels.
    """
    rows = {title: np.asarray(pair, dtype=float) for title, pair in pairs.items()}
    if not rows or any(row.shape != (2, len(labels)) for row in rows.values()):
        shapes = [row.shape for row in rows.values()]
        raise ValueError(f"expected pairs of {len(labels)} logits, got the shapes {shapes}")
    y = range(len(labels))
    with plt.rc_context(STYLE):
        height = 0.27 * len(labels) + 1.1
        figure, axes = plt.subplots(1, len(rows), figsize=(4.3 * len(rows), height), squeeze=False)
        for axis, (title, (before, after)) in zip(axes[0], rows.items(), strict=True):
            axis.hlines(y, before, after, color=PALETTE[1], linewidth=2, zorder=1)
            ring = axis.scatter(before, y, s=75, color=PALETTE[0], label="as it is")
            ring.set(facecolor="none", linewidth=1.6)
            axis.scatter(after, y, s=22, color=PALETTE[1], label="shuffled")
            axis.set_yticks(y, labels)
            axis.invert_yaxis()
            axis.set(title=title, xlabel="logit")
            axis.spines["left"].set_visible(False)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="y", color="#eeeeee")
            axis.set_axisbelow(True)
        axes[0][-1].legend(loc="lower right", frameon=True, framealpha=0.9)
    return closed(figure)


def waves(table: NDArray, shown: Sequence[int] = (0, 2, 4, 6)) -> Figure:
    """Draw some entries of a table of positions as curves along the positions: (n, dim).

    Raises:
        ValueError: a table that has not two axes, or an entry that it does not have.
    """
    table = np.asarray(table, dtype=float)
    if table.ndim != 2 or not shown or max(shown) >= table.shape[1]:
        raise ValueError(f"a table {table.shape} cannot show the entries {list(shown)}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(shown), 1, figsize=(7.6, 0.85 * len(shown) + 0.7), sharex=True, squeeze=False
        )
        for axis, entry in zip(axes[:, 0], shown, strict=True):
            axis.plot(table[:, entry], "o-", color=PALETTE[0], markersize=3, linewidth=1.2)
            axis.set(ylim=(-1.15, 1.15), yticks=[-1, 0, 1])
            axis.set_ylabel(f"entry {entry}", rotation=0, ha="right", va="center", labelpad=12)
            axis.grid(axis="y", color="#eeeeee")
        axes[0, 0].set_title("Fast entries tell neighbours apart, slow ones tell far from near")
        axes[-1, 0].set_xlabel("position")
    return closed(figure)


def clock_hands(
    panels: Mapping[str, Sequence[tuple[float, float, str]]], distinct: bool = False
) -> Figure:
    """Draw vectors as hands of a clock: title -> (x, y, label) of each hand, one panel for each.

    Args:
        panels: the vectors of every panel; all are drawn to one scale.
        distinct: give hands colours that set them apart, instead of light to dark in their order.

    Raises:
        ValueError: no panel, or one without a hand.
    """
    if not panels or not all(panels.values()):
        raise ValueError("expected at least one panel, each with at least one hand")
    longest = max(np.hypot(x, y) for hands in panels.values() for x, y, _ in hands)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 3.1), squeeze=False)
        for axis, (title, hands) in zip(axes[0], panels.items(), strict=True):
            axis.add_patch(plt.Circle((0, 0), longest, fill=False, color="#dddddd"))
            for index, (x, y, label) in enumerate(hands):
                shade = plt.get_cmap("Blues")(0.4 + 0.55 * index / max(len(hands) - 1, 1))
                colour = PALETTE[index % len(PALETTE)] if distinct else shade
                arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "mutation_scale": 13}
                axis.annotate("", (x, y), (0, 0), arrowprops={**arrow, "shrinkA": 0, "shrinkB": 0})
                far = 1 + 0.12 * longest / max(np.hypot(x, y), 1e-9)
                side = "center" if abs(x) < 0.5 * longest else "left" if x > 0 else "right"
                axis.text(far * x, far * y, label, ha=side, va="center", color=INK)
            limit = 1.4 * longest
            axis.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return closed(figure)


def position_maps(
    maps: Mapping[str, NDArray], marks: Sequence[tuple[int, int] | None] = (), unit: str = ""
) -> Figure:
    """Draw a number for every patch of a grid, in maps side by side with one scale of colours.

    Args:
        maps: title -> (rows, columns); grids may differ.
        marks: for every map the patch (row, column) that is outlined, or None.
        unit: what the numbers are.

    Raises:
        ValueError: no maps, one that has not two axes, or another number of marks than of maps.
    """
    arrays = {title: np.asarray(map_, dtype=float) for title, map_ in maps.items()}
    if not arrays or any(array.ndim != 2 for array in arrays.values()):
        shapes = [array.shape for array in arrays.values()]
        raise ValueError(f"expected maps of shape (rows, columns), got {shapes}")
    if marks and len(marks) != len(arrays):
        raise ValueError(f"{len(arrays)} maps need as many marks, got {len(marks)}")
    low = min(array.min() for array in arrays.values())
    high = max(array.max() for array in arrays.values())
    with plt.rc_context(STYLE):
        width = min(2.9 * len(arrays) + 0.7, 9.0)
        figure, axes = plt.subplots(
            1, len(arrays), figsize=(width, width / len(arrays) + 0.25), squeeze=False
        )
        for index, (axis, (title, array)) in enumerate(zip(axes[0], arrays.items(), strict=True)):
            _patches(axis, array, low, high)
            axis.set(title=title, xlabel="column")
            mark = marks[index] if marks else None
            if mark is not None:
                _outline(axis, *mark)
        axes[0, 0].set_ylabel("row")
        bar = figure.colorbar(
            axes[0, 0].images[0], ax=axes[0].tolist(), shrink=0.75, aspect=18, label=unit
        )
        bar.outline.set_visible(False)
    return closed(figure)


def position_views(
    similarities: Mapping[str, NDArray], grid: tuple[int, int], query: tuple[int, int]
) -> Figure:
    """Draw what `PositionExplorer` shows, for every kind of positions beside each other.

    Above: how alike the query patch is to each. Below: the same for every patch, as small maps.
    Each kind has its own scale of colours.

    Raises:
        ValueError: similarities that are not (N, N) for this grid, or a query outside it.
    """
    rows, columns = grid
    patches = rows * columns
    tables = {name: np.asarray(table, dtype=float) for name, table in similarities.items()}
    if not tables or any(table.shape != (patches, patches) for table in tables.values()):
        shapes = [table.shape for table in tables.values()]
        raise ValueError(f"a {rows}x{columns} grid has tables {(patches, patches)}, got {shapes}")
    if query[0] not in range(rows) or query[1] not in range(columns):
        raise ValueError(f"query must be on the {rows}x{columns} grid, got {query}")
    with plt.rc_context(STYLE):
        width = min(2.9 * len(tables) + 0.4, 9.0)
        figure, axes = plt.subplots(
            2, len(tables), figsize=(width, 2 * width / len(tables) + 0.6), squeeze=False
        )
        for (above, below), (name, table) in zip(axes.T, tables.items(), strict=True):
            low, high = table.min(), table.max()
            one = table[query[0] * columns + query[1]].reshape(grid)
            image = _patches(above, one, low, high)
            above.set(title=name)
            _outline(above, *query)
            bar = figure.colorbar(
                image, ax=above, orientation="horizontal", shrink=0.8, aspect=24, pad=0.02
            )
            bar.set_ticks([low, high], labels=[f"{low:.2f}", f"{high:.2f}"])
            bar.outline.set_visible(False)
            _atlas(below, table, grid, low, high)
            _outline(below, *query)
        axes[0, 0].set_ylabel("row")
        axes[1, 0].set_ylabel("row")
        for axis in axes[1]:
            axis.set_xlabel("column")
        figure.suptitle(
            f"Cosine similarity: of the patch in row {query[0]}, column {query[1]} with each; "
            "below, of every patch with each",
            x=0.01,
            ha="left",
            fontsize=10,
            color=FAINT,
        )
    return closed(figure)


def _patches(axis: Axes, values: NDArray, low: float, high: float):
    """Draw one colour per patch, with white lines between and the numbers of rows and columns."""
    image = axis.imshow(values, cmap=HEAT, vmin=low, vmax=high, interpolation="nearest")
    for edge in range(1, values.shape[0]):
        axis.axhline(edge - 0.5, color="white", linewidth=0.8)
    for edge in range(1, values.shape[1]):
        axis.axvline(edge - 0.5, color="white", linewidth=0.8)
    _number(axis, *values.shape)
    return image


def _number(axis: Axes, rows: int, columns: int) -> None:
    """Write the numbers of rows and columns, not too many."""
    axis.set_yticks(range(0, rows, -(-rows // 8)))
    axis.set_xticks(range(0, columns, -(-columns // 8)))
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)


def _outline(axis: Axes, row: int, column: int) -> None:
    """Frame a patch in two colours, so that it shows on any heat."""
    for colour, width in ((INK, 4.0), ("white", 1.6)):
        frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False)
        frame.set(edgecolor=colour, linewidth=width, zorder=5, clip_on=False)
        axis.add_patch(frame)


def _atlas(axis: Axes, table: NDArray, grid: tuple[int, int], low: float, high: float) -> None:
    """Draw a small map for every patch, each where its patch is."""
    rows, columns = grid
    gap = max(1, max(grid) // 6)
    sheet = np.full((rows, rows + gap, columns, columns + gap), np.nan)
    sheet[:, :rows, :, :columns] = table.reshape(rows, columns, rows, columns).swapaxes(1, 2)
    sheet = np.roll(sheet, (gap // 2, gap // 2), axis=(1, 3))
    canvas = sheet.reshape(rows * (rows + gap), columns * (columns + gap))
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    image = axis.imshow(np.ma.masked_invalid(canvas), HEAT, extent=extent, interpolation="nearest")
    image.set_clim(low, high)
    _number(axis, rows, columns)

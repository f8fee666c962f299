"""What a smaller network costs and brings: curves with intervals, merged patches."""

from collections.abc import Mapping, Sequence
from string import ascii_letters

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from vit_tutorial.plots.style import ACCENT, FAINT, INK, PALETTE, STYLE, closed, require_rgb

GRID = "#e8e8e8"
MARKS = "osD^v"
Triple = tuple[float, float, float]  # a number, and the ends of its interval or range


def interval_curves(
    x: Sequence[float],
    curves: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str = "test images correct, %",
    *,
    level: tuple[str, float] | None = None,
    backwards: bool = False,
) -> Figure:
    """Draw numbers against what was changed: a line for each rule, its intervals as a band.

    Args:
        x: how much was changed.
        curves: name -> (3, len(x)): the number, and the lower and the upper end of its interval.
        xlabel: what `x` is.
        ylabel: what was measured.
        level: the name of a dashed line across, and where it lies.
        backwards: whether the largest `x` stands on the left.

    Raises:
        ValueError: no curve, more than there are colours, another shape, or a number outside its
            interval.
    """
    tables = {name: np.asarray(curve, dtype=float) for name, curve in curves.items()}
    if not 1 <= len(tables) <= len(PALETTE):
        raise ValueError(f"expected 1 to {len(PALETTE)} curves, got {len(tables)}")
    for name, table in tables.items():
        if table.shape != (3, len(x)):
            raise ValueError(f"{name}: expected (3, {len(x)}) numbers, got {table.shape}")
        if not ((table[1] <= table[0]) & (table[0] <= table[2])).all():
            raise ValueError(f"{name}: a number lies outside its interval")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.4, 3.6))
        for i, (name, (middle, low, high)) in enumerate(tables.items()):
            axes.fill_between(x, low, high, color=PALETTE[i], alpha=0.18, linewidth=0)
            axes.plot(x, middle, marker=MARKS[i], markersize=5, color=PALETTE[i], label=name)
        if level is not None:
            axes.axhline(level[1], color=FAINT, linewidth=1, linestyle="--", zorder=1)
            axes.annotate(
                level[0], (1, level[1]), (0, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=FAINT, fontsize=9,
            )  # fmt: skip
        axes.set_xticks(list(x), [f"{value:g}" for value in x])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if backwards:
            axes.invert_xaxis()
        if len(tables) > 1:
            axes.legend(frameon=False, loc="lower left")
    return closed(figure)


def trade_offs(rows: Mapping[str, tuple[Triple, Triple, float]]) -> Figure:
    """Draw what every change costs and brings, in three columns side by side.

    The first row is what all are compared with; a dashed line goes down from it.

    Args:
        rows: name -> accuracy in percent with its interval, how many times as fast with its
            range, and how many thousand bytes.

    Raises:
        ValueError: no rows, a number outside its range, or one of the last two not above 0.
    """
    if not rows:
        raise ValueError("expected at least one row, got none")
    for name, (*triples, size) in rows.items():
        for middle, low, high in triples:
            if not low <= middle <= high:
                raise ValueError(f"{name}: {middle} must lie within {low} to {high}")
        if not size > 0 or not triples[1][1] > 0:
            raise ValueError(f"{name}: speeds and sizes must be above 0")
    ys = np.arange(len(rows))
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(9.4, 0.36 * len(rows) + 1.1), sharey=True
        )
        accuracies, speeds = [row[0] for row in rows.values()], [row[1] for row in rows.values()]
        for axes, triples in ((left, accuracies), (middle, speeds)):
            for y, (value, low, high) in zip(ys, triples, strict=True):
                axes.hlines(y, low, high, color=ACCENT, linewidth=2)
                axes.plot([value], [y], "o", color=ACCENT, markersize=6)
            axes.axvline(triples[0][0], color=FAINT, linestyle="--", linewidth=1)
        sizes = [row[2] for row in rows.values()]
        right.barh(ys, sizes, height=0.62, color=PALETTE[2])
        for y, size in zip(ys, sizes, strict=True):
            right.annotate(f"{size:,.0f}", (size, y), (4, 0), textcoords="offset points",
                           va="center", fontsize=9)  # fmt: skip
        left.set(title="Accuracy, %")
        middle.set(title="Times as fast")
        right.set(title="Thousand bytes", xlim=(0, 1.22 * max(sizes)), xticks=[])
        _times(middle, speeds)
        left.set_yticks(ys, list(rows))
        left.set_ylim(len(rows) - 0.4, -0.6)
        for axes in (left, middle, right):
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_axisbelow(True)
            axes.grid(axis="x", color=GRID, linewidth=0.8)
    return closed(figure)


def _times(axes: Axes, triples: Sequence[Triple]) -> None:
    """Scale an axis so that twice as fast is as far from 1 as half as fast."""
    low = min(0.55, *(triple[1] for triple in triples))
    high = max(1.85, *(triple[2] for triple in triples))
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.9 * low, 1.1 * high)
    ticks = [power for power in range(-8, 9) if 0.9 * low <= 2.0**power <= 1.1 * high]
    step = -(-len(ticks) // 4)  # or their names would run into each other
    ticks = [power for power in ticks if power % step == 0]
    axes.set_xticks([2.0**power for power in ticks])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"×{tick:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def merged_patches(picture: NDArray, groups: Mapping[str, NDArray]) -> Figure:
    """Draw which patches have become one token: each token in the mean colour of its patches.

    The pieces of a token that lie apart carry the same letter.

    Args:
        picture: uint8 (H, W, 3).
        groups: title -> (rows, columns) of integers, the same for patches of one token.

    Raises:
        ValueError: no colour picture, no groups, or numbers that are not a table.
    """
    require_rgb(picture)
    if not groups or any(np.ndim(table) != 2 for table in groups.values()):
        raise ValueError("expected at least one table (rows, columns) of group numbers")
    columns = min(len(groups), 4)
    lines = -(-len(groups) // columns)
    height, width = picture.shape[:2]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(9.2, lines * (9.2 / columns * height / width + 0.45)),
            squeeze=False,
        )
        for axes in grid.flat:
            axes.axis("off")
        for axes, (title, table) in zip(grid.flat, groups.items(), strict=False):
            painted = _painted(picture, np.asarray(table))
            axes.imshow(painted, extent=(0, width, height, 0))
            _borders(axes, np.asarray(table), height, width)
            _letters(axes, np.asarray(table), painted)
            axes.set_title(title, fontsize=10)
    return closed(figure)


def _painted(picture: NDArray, table: NDArray) -> NDArray[np.uint8]:
    """Paint each group of patches in its mean colour; a patch alone stays a photograph."""
    rows = np.arange(picture.shape[0]) * table.shape[0] // picture.shape[0]
    columns = np.arange(picture.shape[1]) * table.shape[1] // picture.shape[1]
    wide, painted = table[np.ix_(rows, columns)], picture.copy()
    for number in np.unique(table):
        if (table == number).sum() > 1:
            painted[wide == number] = picture[wide == number].mean(axis=0).round()
    return painted


def _borders(axes: Axes, table: NDArray, height: int, width: int) -> None:
    """Draw a line between neighbours that are not in one group."""
    high, across = height / table.shape[0], width / table.shape[1]
    for row, column in np.argwhere(table[:, 1:] != table[:, :-1]):
        x = (column + 1) * across
        axes.plot([x, x], [row * high, (row + 1) * high], color="white", linewidth=1)
    for row, column in np.argwhere(table[1:] != table[:-1]):
        y = (row + 1) * high
        axes.plot([column * across, (column + 1) * across], [y, y], color="white", linewidth=1)


def _letters(axes: Axes, table: NDArray, painted: NDArray) -> None:
    """Write a letter on each piece of the groups that are in several pieces."""
    height, width = painted.shape[0] / table.shape[0], painted.shape[1] / table.shape[1]
    letters = iter(ascii_letters)
    for number in np.unique(table):
        pieces = _pieces(np.argwhere(table == number).tolist())
        if len(pieces) < 2:
            continue
        letter = next(letters, "?")
        for row, column in (piece[0] for piece in pieces):
            y, x = (row + 0.5) * height, (column + 0.5) * width
            dark = painted[int(y), int(x)].mean() < 140
            axes.text(
                x, y, letter, ha="center", va="center", weight="bold",
                color="white" if dark else INK,
            )  # fmt: skip


def _pieces(places: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Part places (row, column) into pieces whose places touch along a side."""
    left, pieces = {(row, column) for row, column in places}, []
    for row, column in places:
        waiting, piece = [(row, column)], []
        while waiting:
            place = waiting.pop()
            if place in left:
                left.remove(place)
                piece.append(place)
                r, c = place
                waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        pieces += [piece] if piece else []
    return pieces

"""Two networks side by side: accuracy under changes, how far they see."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vit_tutorial.plots.style import FAINT, HEAT, INK, PALETTE, STYLE, closed

MARKS = ("o", "s", "^", "D")
Box = tuple[float, float, float, float]  # top, left, bottom, right; the last two excluded


def setting_curves(
    panels: Mapping[str, tuple[str, Sequence[float | str], Mapping[str, NDArray]]],
    ylabel: str,
    *,
    chance: float | None = None,
) -> Figure:
    """Draw what networks reach at each setting of something: their mean, and a band for all runs.

    Args:
        panels: title -> what is set, its settings (numbers, or words set evenly apart), and name
            of a network -> (runs, settings).
        ylabel: what was measured, on the axis that all panels share.
        chance: what guessing reaches, a thin line.

    Raises:
        ValueError: no panel, more networks than marks, or numbers of another shape.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    for title, (_, settings, networks) in panels.items():
        shapes = [np.shape(runs) for runs in networks.values()]
        right = all(len(shape) == 2 and shape[1] == len(settings) for shape in shapes)
        if not 1 <= len(networks) <= len(MARKS) or not right:
            raise ValueError(
                f"{title}: expected (runs, {len(settings)}) for 1 to {len(MARKS)} networks, got "
                f"{shapes}"
            )
    columns = min(len(panels), 2 if len(panels) == 4 else 3)
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        size = (min(9.2, 3.3 * columns + 1.2), 2.75 * lines + 0.35)
        figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.axis("off")
        for axes, (title, (xlabel, settings, networks)) in zip(
            grid.flat, panels.items(), strict=False
        ):
            _settings_panel(axes, settings, networks, chance)
            axes.set(title=title, xlabel=xlabel)
        for line in grid:
            line[0].set_ylabel(ylabel)
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return closed(figure)


def _settings_panel(
    axes: Axes,
    settings: Sequence[float | str],
    networks: Mapping[str, NDArray],
    chance: float | None,
) -> None:
    named = any(isinstance(setting, str) for setting in settings)
    x = np.arange(len(settings)) if named else np.asarray(settings, dtype=float)
    for i, (name, runs) in enumerate(networks.items()):
        runs, colour = np.asarray(runs, dtype=float), PALETTE[i]
        axes.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.18, lw=0)
        axes.plot(x, runs.mean(axis=0), MARKS[i] + "-", color=colour, label=name, markersize=5)
    if chance is not None:
        axes.axhline(chance, color=FAINT, linewidth=1.2, linestyle="--", label="guessing")
    if named:
        axes.set_xticks(x, [str(setting) for setting in settings])
    axes.margins(x=0.06)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)


def influence_maps(
    maps: Mapping[str, NDArray], boxes: Mapping[str, Box] | None = None, title: str = ""
) -> Figure:
    """Draw how much each pixel counts, in rows of up to four maps, each to its own maximum.

    The square root of a share is what is coloured: a linear scale would show one bright spot.

    Args:
        maps: title -> (H, W), from 0 up; all of one size.
        boxes: title -> the part of its map that is framed, in pixels; what lies outside the map
            is cut off.
        title: what the maps show.

    Raises:
        ValueError: no maps, maps of several sizes or with numbers below 0, or a box without a map.
    """
    boxes = boxes or {}
    arrays = {name: np.asarray(values, dtype=float) for name, values in maps.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"expected maps (H, W) of one size, got {sorted(shapes)}")
    if any(not (array >= 0).all() for array in arrays.values()):
        raise ValueError("expected maps from 0 up, got a number below 0 or none")
    if unknown := set(boxes) - set(arrays):
        raise ValueError(f"there is no map for the boxes {sorted(unknown)}; there are {[*arrays]}")
    height, width = next(iter(shapes))
    columns = min(len(arrays), 4)
    lines = -(-len(arrays) // columns)
    side = 2.2
    with plt.rc_context(STYLE):
        size = (side * columns + 0.2, (side * height / width + 0.35) * lines + 0.35)
        figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
        for axes in grid.flat[len(arrays) :]:
            axes.axis("off")
        for axes, (name, array) in zip(grid.flat, arrays.items(), strict=False):
            most = max(array.max(), 1e-30)
            axes.imshow(
                array, cmap=HEAT, norm=PowerNorm(0.5, vmin=0, vmax=most), interpolation="nearest"
            )
            axes.set(title=name, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if name in boxes:
                _frame(axes, boxes[name], height, width)
        if title:
            figure.suptitle(title, x=0.02, ha="left")
    return closed(figure)


def _frame(axes: Axes, box: Box, height: int, width: int) -> None:
    """Frame a box in two colours, so that it shows on any heat."""
    top, left = max(box[0], 0), max(box[1], 0)
    bottom, right = min(box[2], height), min(box[3], width)
    for colour, line in ((INK, 4.0), ("white", 1.8)):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top, fill=False,
                edgecolor=colour, linewidth=line, clip_on=False,
            )
        )  # fmt: skip

"""Learning without labels: pictures in a table, accuracy by labels, curves side by side."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_tutorial.plots.photographs import photo_axes
from vit_tutorial.plots.style import FAINT, PALETTE, STYLE, closed

MARKS = ("o", "s", "^", "D", "v")


def picture_table(
    pictures: Sequence[Sequence[NDArray]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    *,
    smooth: bool = True,
) -> Figure:
    """Draw pictures in a table, a name for each row and each column.

    Args:
        pictures: rows of pictures uint8 (H, W, 3), or (H, W) for grey ones.
        rows: a name for each.
        columns: a name for each.
        title: what is seen.
        smooth: enlarge smoothly, as photographs want it; else every pixel is a square.

    Raises:
        ValueError: other numbers of names than of pictures, or something that is no picture.
    """
    if not rows or not columns or [len(row) for row in pictures] != [len(columns)] * len(rows):
        raise ValueError(
            f"{len(rows)} rows and {len(columns)} columns of names need as many pictures, got "
            f"rows of {[len(row) for row in pictures]}"
        )
    for picture in (picture for row in pictures for picture in row):
        grey = picture.ndim == 2
        if picture.dtype != np.uint8 or not (grey or picture.shape[2:] == (3,)):
            raise ValueError(
                f"expected pictures uint8 (H, W, 3) or (H, W), got {picture.dtype} {picture.shape}"
            )
    side = min(1.6, 8.4 / len(columns))  # inches
    with plt.rc_context(STYLE):
        size = (side * len(columns) + 1.5, side * len(rows) + 0.35 + 0.3 * bool(title))
        figure, grid = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
        for line, row in zip(grid, pictures, strict=True):
            for axis, picture in zip(line, row, strict=True):
                photo_axes(axis, picture, "")
                axis.images[0].set_interpolation("lanczos" if smooth else "nearest")
        for axis, name in zip(grid[:, 0], rows, strict=True):
            axis.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        for axis, name in zip(grid[0], columns, strict=True):
            axis.set_title(name, loc="center", fontsize=10)
        figure.suptitle(title, x=0.02, ha="left")
    return closed(figure)


def few_label_curves(
    counts: Sequence[int],
    methods: Mapping[str, NDArray],
    xlabel: str = "labelled images of each class",
) -> Figure:
    """Draw accuracy against the number of labels: a dot for each draw, a line through the means.

    Args:
        counts: how many labels there were.
        methods: name -> (draws, counts), in percent.
        xlabel: what is counted.

    Raises:
        ValueError: no methods, more than there are marks, or numbers of another shape.
    """
    if not 1 <= len(methods) <= len(MARKS):
        raise ValueError(f"expected 1 to {len(MARKS)} methods, got {len(methods)}")
    for name, values in methods.items():
        if np.ndim(values) != 2 or np.shape(values)[1] != len(counts):
            raise ValueError(f"{name}: expected (draws, {len(counts)}), got {np.shape(values)}")
    positions = np.arange(len(counts))
    spread = np.linspace(-0.12, 0.12, len(methods)) if len(methods) > 1 else np.zeros(1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8))
        for index, (name, values) in enumerate(methods.items()):
            values, colour = np.asarray(values, dtype=float), PALETTE[index]
            x = positions + spread[index]
            axes.scatter(
                np.broadcast_to(x, values.shape), values,
                s=16, color=colour, alpha=0.45, linewidth=0,
            )  # fmt: skip
            axes.plot(
                x, values.mean(axis=0), color=colour, marker=MARKS[index], markersize=7, label=name,
                markeredgecolor="white", linewidth=1.6,
            )  # fmt: skip
        axes.set_xticks(positions, [f"{count:,}" for count in counts])
        axes.set(xlabel=xlabel, ylabel="right on the test set, %")
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
        figure.legend(loc="outside right center", frameon=False)
    return closed(figure)


def curve_panels(
    panels: Mapping[str, Mapping[str, NDArray]],
    xlabel: str,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw curves in panels side by side with the same axes, the same names in every panel.

    Args:
        panels: title -> name of a curve -> (n,), one number for each step.
        xlabel: what is counted, from 0.
        levels: what a dashed line across every panel is called -> where it lies.

    Raises:
        ValueError: no panel, no curve, or panels with other curves than the first.
    """
    names = list(next(iter(panels.values()), {}))
    if not 1 <= len(names) <= len(PALETTE) or any(list(p) != names for p in panels.values()):
        raise ValueError(
            f"expected panels with the same 1 to {len(PALETTE)} curves, got "
            f"{[list(panel) for panel in panels.values()]}"
        )
    with plt.rc_context(STYLE):
        size = (2.7 * len(panels) + 0.6, 3.2)
        figure, grid = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
        for axes, (title, curves) in zip(grid[0], panels.items(), strict=True):
            for index, (name, values) in enumerate(curves.items()):
                axes.plot(values, color=PALETTE[index], linewidth=1.8, label=name)
            for name, value in (levels or {}).items():
                axes.axhline(value, color=FAINT, linewidth=1.2, linestyle="--", label=name)
            axes.set(title=title, xlabel=xlabel)
            axes.grid(axis="y", color="#eeeeee")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return closed(figure)

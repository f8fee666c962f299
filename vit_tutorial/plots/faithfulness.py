"""Is a map faithful? What a network outputs while patches vanish, and scores beside random ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from vit_tutorial.plots.style import ACCENT, FAINT, HEAT, INK, PALETTE, STYLE, closed, require_rgb

MARKERS, FLOOR = "osD^v", "random"


def removal_curves(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    xlabel: str,
    ylabel: str = "probability of the correct class",
    shares: ArrayLike | None = None,
) -> Figure:
    """Draw what a network outputs while patches are removed or put back, one panel for each way.

    The curve called "random", if there is one, is the floor and is drawn as a broken grey line.
    The area under each curve stands beside its name.

    Args:
        panels: title -> name of a method -> values from no patches to all.
        xlabel: what is counted from 0 to 100% along the horizontal axis.
        ylabel: what the values are.
        shares: of the patches, from 0 to 1, at each value; by default equal steps.

    Raises:
        ValueError: no panels, more than five curves besides the floor, or values that are not a
            finite row of at least two, or not one for each of the shares.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    rows = {
        title: {name: np.asarray(values, dtype=float) for name, values in curves.items()}
        for title, curves in panels.items()
    }
    for curves in rows.values():
        if len(set(curves) - {FLOOR}) > len(MARKERS):
            raise ValueError(f"expected at most {len(MARKERS)} curves and {FLOOR!r}")
        for name, values in curves.items():
            if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
                raise ValueError(f"{name}: expected finite values in a row, got {values.shape}")
            if shares is not None and np.shape(shares) != values.shape:
                raise ValueError(f"{len(values)} values of {name}, but shares {np.shape(shares)}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(rows), figsize=(4.5 * len(rows) + 0.2, 3.7), sharey=True, squeeze=False
        )
        for axis, (title, curves) in zip(axes[0], rows.items(), strict=True):
            colours = iter(zip(PALETTE, MARKERS, strict=True))
            for name, values in curves.items():
                x = np.linspace(0, 1, len(values)) if shares is None else np.asarray(shares)
                area = (np.diff(x) * (values[1:] + values[:-1])).sum() / 2  # trapezes
                label = f"{name}, area {area:.2f}"
                if name == FLOOR:
                    axis.plot(x, values, "--", color=INK, linewidth=1.6, label=label, zorder=4)
                    continue
                colour, marker = next(colours)
                axis.plot(x, values, marker=marker, markersize=4, color=colour, label=label)
            axis.set(title=title, xlabel=xlabel, xlim=(-0.02, 1.02))
            axis.xaxis.set_major_formatter(PercentFormatter(1))
            axis.grid(axis="y", color="#e8e8e8", linewidth=0.8)
            axis.legend(frameon=False, fontsize=9)
        axes[0, 0].set(ylabel=ylabel, ylim=(0, None))
    return closed(figure)


def method_scores(
    rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, bool], title: str = ""
) -> Figure:
    """Draw scores of methods with their intervals, one panel per metric; random ones as a band.

    By its difference on the same images a method is drawn filled and in blue where it is better
    than random, filled and in orange where it is worse, and hollow where neither is shown.

    Args:
        rows: as `faithfulness.faithfulness_table` gives them: "method", "metric", "mean", "low" and
            "high", and "gain_low" and "gain_high", the ends of its gain over random on the same
            images. The method "random" is the floor.
        metrics: the metrics to draw -> whether a higher value is better.
        title: stands above all panels.

    Raises:
        ValueError: no metrics, or a metric for which a method (or the random one) has no row.
    """
    by_key = {(row["method"], row["metric"]): row for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    missing = [(m, metric) for metric in metrics for m in methods if (m, metric) not in by_key]
    if not metrics or FLOOR not in methods or missing:
        raise ValueError(
            f"expected a row for {FLOOR!r} and every method and metric, got {len(rows)} rows for "
            f"{len(methods)} methods and {len(metrics)} metrics"
        )
    methods.remove(FLOOR)
    with plt.rc_context({**STYLE, "figure.constrained_layout.wspace": 0.06}):
        figure, axes = plt.subplots(
            1,
            len(metrics),
            figsize=(min(2.15 * len(metrics) + 1.3, 9.4), 0.34 * len(methods) + 1.35),
            sharey=True,
            squeeze=False,
        )
        for axis, (metric, higher) in zip(axes[0], metrics.items(), strict=True):
            floor = by_key[FLOOR, metric]
            axis.axvspan(floor["low"], floor["high"], color=FAINT, alpha=0.22, lw=0)
            axis.axvline(floor["mean"], color=FAINT, linewidth=1.2, linestyle="--")
            for y, method in enumerate(methods):
                _interval(axis, y, by_key[method, metric])
            axis.set_title(metric, loc="center", fontsize=10)
            axis.set_xlabel("higher is better →" if higher else "← lower is better", fontsize=9)
            axis.tick_params(axis="y", length=0)
            axis.tick_params(axis="x", labelsize=9)
            axis.xaxis.set_major_locator(MaxNLocator(3))
            axis.spines["left"].set_visible(False)
        axes[0, 0].set_yticks(range(len(methods)), methods)
        axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
        figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return closed(figure)


def _interval(axis: Axes, y: int, row: Mapping[str, Any]) -> None:
    """Draw a mean with its interval; filled where the method is better or worse than random."""
    better, worse = row["gain_low"] > 0, row["gain_high"] < 0
    colour = ACCENT if better else PALETTE[1] if worse else FAINT
    axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
    face = colour if better or worse else "white"
    axis.plot(row["mean"], y, "o", color=colour, markerfacecolor=face, markersize=6)


def pixel_row(pictures: Sequence[NDArray], titles: Sequence[str]) -> Figure:
    """Draw small pictures side by side as a network sees them, every pixel a square.

    Args:
        pictures: uint8 (H, W, 3).
        titles: one over each.

    Raises:
        ValueError: no pictures, another number of titles, or a picture of another shape.
    """
    if not len(pictures) or len(pictures) != len(titles):
        raise ValueError(f"{len(pictures)} pictures need as many titles, got {len(titles)}")
    for picture in pictures:
        require_rgb(picture)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(pictures), figsize=(2.3 * len(pictures), 2.65), squeeze=False
        )
        for axis, picture, title in zip(axes[0], pictures, titles, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, loc="center", fontsize=10)
            axis.spines[:].set_visible(False)
    return closed(figure)


def question_maps(
    picture: NDArray, maps: NDArray, questions: Sequence[str], methods: Sequence[str]
) -> Figure:
    """Draw a collage of four pictures, and beside it maps of it for several questions.

    Each map is drawn from its least to its greatest number, and thin lines part the four quarters.
    Its best patch is framed; several where they are equally good, but none where all are.

    Args:
        picture: uint8 (H, W, 3).
        maps: (questions, methods, rows, columns), finite.
        questions: the queries, a row of maps each.
        methods: how the maps were made, a column each.

    Raises:
        ValueError: a picture or maps of another shape, or numbers that are not finite.
    """
    require_rgb(picture)
    if maps.ndim != 4 or maps.shape[:2] != (len(questions), len(methods)):
        raise ValueError(
            f"{len(questions)} questions and {len(methods)} methods need maps (questions, methods, "
            f"rows, columns), got {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise ValueError("expected maps of finite numbers, got NaN or infinity among them")
    count, width = len(questions), 1.5
    height, patches = maps.shape[2:]
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(width * (count + len(methods)) + 0.5, width * count + 0.45))
        grid = figure.add_gridspec(
            count, len(methods) + 1, width_ratios=[count, *[1.0] * len(methods)]
        )
        left = figure.add_subplot(grid[:, 0])
        left.imshow(picture, interpolation="nearest")
        left.set(xticks=[], yticks=[])
        _quarters(left, *picture.shape[:2])
        for (row, column), axis in (
            ((row, column), figure.add_subplot(grid[row, column + 1]))
            for row in range(count)
            for column in range(len(methods))
        ):
            heat = maps[row, column]
            axis.imshow(heat, cmap=HEAT, interpolation="nearest")
            for y, x in np.argwhere((heat == heat.max()) & (heat > heat.min())).tolist():
                for colour, line in (("white", 3.0), (PALETTE[1], 1.6)):
                    box = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False)
                    box.set(edgecolor=colour, linewidth=line, clip_on=False)
                    axis.add_patch(box)
            _quarters(axis, height, patches)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(methods[column], loc="center", fontsize=10)
            if column == 0:
                axis.set_ylabel(questions[row], fontsize=11)
    return closed(figure)


def _quarters(axis: Axes, height: int, width: int) -> None:
    """Part four quarters by thin lines, and take the frame away."""
    axis.axhline(height / 2 - 0.5, color="white", linewidth=1.0)
    axis.axvline(width / 2 - 0.5, color="white", linewidth=1.0)
    axis.spines[:].set_visible(False)

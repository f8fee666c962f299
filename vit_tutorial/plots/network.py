"""A whole network: its parts in a row, where its numbers are, how it starts, what it predicts."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray

from vit_tutorial.plots.style import ACCENT, FAINT, INK, PALETTE, STYLE, closed

SMALLEST_LABEL = 0.04  # a share of a bar that has room for its number


def network_stages(
    names: Sequence[str], shapes: Sequence[str], notes: Sequence[str], title: str
) -> Figure:
    """Draw a network as a row of boxes: names inside, what comes out below, a note above each.

    Raises:
        ValueError: lists of different lengths.
    """
    if not len(names) == len(shapes) == len(notes):
        raise ValueError(
            f"{len(names)} names need as many shapes and notes, got {len(shapes)} and {len(notes)}"
        )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(1.15 * len(names), 1.9))
        for x, (name, shape, note) in enumerate(zip(names, shapes, notes, strict=True)):
            box = FancyBboxPatch((x - 0.36, -0.3), 0.72, 0.6, boxstyle="round,pad=0.03")
            box.set(facecolor="#e8f0f7" if note else "#f4f4f4", edgecolor=ACCENT if note else FAINT)
            axes.add_patch(box)
            axes.text(x, 0, name, ha="center", va="center", fontsize=9)
            axes.text(x, -0.5, shape, ha="center", va="center", fontsize=9, color=ACCENT)
            axes.text(x, 0.5, note, ha="center", va="center", fontsize=8, color=INK)
            if x:
                arrow = dict(arrowstyle="->", color=FAINT, shrinkA=0, shrinkB=0)
                axes.annotate("", (x - 0.39, 0), (x - 0.61, 0), arrowprops=arrow)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(-0.7, 0.7), title=title)
        axes.axis("off")
    return closed(figure)


def share_bars(
    bars: Mapping[str, Mapping[str, float]], totals: Sequence[str], title: str
) -> Figure:
    """Draw one bar per row, cut into the shares of its parts; zero parts are left out.

    Args:
        bars: the name of a row -> the name of a part -> its amount, the same parts in every row.
        totals: what each bar is the total of, written beside it.
        title: what is shown.

    Raises:
        ValueError: rows of other parts, more parts than colours, amounts below zero or all zero,
            or another number of totals than of rows.
    """
    parts = list(next(iter(bars.values()), {}))
    amounts = np.array([list(row.values()) for row in bars.values()], dtype=float)
    if not parts or any(list(row) != parts for row in bars.values()) or len(totals) != len(bars):
        raise ValueError(f"{len(bars)} rows need the same parts and {len(bars)} totals")
    if len(parts) > len(PALETTE):
        raise ValueError(f"expected at most {len(PALETTE)} parts, got {len(parts)}")
    if not (amounts >= 0).all() or not amounts.sum(1).all():
        raise ValueError(f"amounts must be 0 or more, and not all 0, got {amounts.tolist()}")
    widths = amounts / amounts.sum(axis=1, keepdims=True)
    rows = np.arange(len(bars))
    with plt.rc_context({**STYLE, "figure.constrained_layout.use": False}):  # faster by half
        figure, axes = plt.subplots(figsize=(8.6, 0.7 * len(bars) + 1.2))
        figure.subplots_adjust(left=0.13, right=0.86, bottom=0.3, top=0.84)
        left = np.zeros(len(bars))
        for part, colour, width in zip(parts, PALETTE, widths.T, strict=False):
            axes.barh(rows, width, left=left, height=0.62, color=colour, label=part)
            for row, share in enumerate(width):
                if share >= SMALLEST_LABEL:
                    middle = left[row] + share / 2
                    axes.text(middle, row, f"{share:.0%}", ha="center", va="center", color="white")
            left += width
        for row, total in enumerate(totals):
            axes.text(1.015, row, total, va="center")
        axes.set_yticks(rows, list(bars))
        axes.set(xlim=(0, 1), ylim=(len(bars) - 0.5, -0.5), xticks=[], title=title)
        axes.spines[:].set_visible(False)
        axes.tick_params(left=False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(parts), frameon=False)
    return closed(figure)


def token_spreads(by_start: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw the spread of the tokens before the first block and after each, one line per start.

    Args:
        by_start: what a line is called -> standard deviations, all of one number, above 0.
        title: what is seen.

    Raises:
        ValueError: no lines or more than colours, lines of different lengths, or a spread that is
            not above 0.
    """
    lengths = {len(values) for values in by_start.values()}
    if len(lengths) != 1 or len(by_start) > len(PALETTE):
        raise ValueError(
            f"expected 1 to {len(PALETTE)} lines of one length, got {len(by_start)} of lengths "
            f"{sorted(lengths)}"
        )
    if not all(value > 0 for values in by_start.values() for value in values):
        raise ValueError("every spread must be above 0, to be drawn in powers of ten")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.0, 3.4))
        for (label, values), colour in zip(by_start.items(), PALETTE, strict=False):
            axes.plot(values, color=colour, linewidth=2, marker="o", markersize=4)
            axes.annotate(
                label, (len(values) - 1, values[-1]), (8, 0), textcoords="offset points",
                color=colour, va="center",
            )  # fmt: skip
        blocks = lengths.pop() - 1
        axes.set(
            yscale="log",
            xlim=(-0.2, blocks * 1.25),
            xticks=range(blocks + 1),
            xlabel="after block (0: as the tokens enter)",
            ylabel="std of the tokens",
            title=title,
        )
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    return closed(figure)


def loss_against_lead(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw a loss against how far the correct class's logit stands above the others.

    Args:
        x: the lead of the correct logit.
        curves: what a curve is called -> one loss for each x.
        levels: what a dashed line across is called -> where it lies.
        title: what is seen.

    Raises:
        ValueError: a curve of another length than `x`, or more curves than colours.
    """
    if len(curves) > len(PALETTE) or any(len(curve) != len(x) for curve in curves.values()):
        raise ValueError(
            f"expected at most {len(PALETTE)} curves of {len(x)} points, got "
            f"{[len(curve) for curve in curves.values()]}"
        )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.0, 3.4))
        for label, level in levels.items():
            axes.axhline(level, color=FAINT, linewidth=1, linestyle="--")
            axes.annotate(
                label, (x[-1], level), (0, 3), textcoords="offset points", color=FAINT, ha="right"
            )
        for (label, curve), colour in zip(curves.items(), PALETTE, strict=False):
            axes.plot(x, curve, color=colour, linewidth=2, label=label)
        axes.set(
            xlim=(x[0], x[-1]),
            ylim=(0, None),
            xlabel="how far the correct class's logit stands above the others",
            ylabel="loss",
            title=title,
        )
        axes.legend(loc="upper right", frameon=False)
    return closed(figure)


def image_predictions(
    images: NDArray, labels: Sequence[str], predictions: Sequence[str], columns: int = 12
) -> Figure:
    """Draw small images with the predictions above them, wrong ones in orange with the truth.

    Args:
        images: uint8 (n, H, W) or (n, H, W, 3).
        labels: what each shows.
        predictions: the predicted classes.
        columns: how many stand in a row.

    Raises:
        ValueError: another number of labels or predictions than of images, or no images.
    """
    if not len(images) == len(labels) == len(predictions) or not len(images):
        raise ValueError(
            f"{len(images)} images need as many labels and predictions, at least one; got "
            f"{len(labels)} and {len(predictions)}"
        )
    rows = -(-len(images) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(0.75 * columns, 0.95 * rows), squeeze=False
        )
        for axes in grid.flat:
            axes.axis("off")
        for axes, image, label, predicted in zip(
            grid.flat, images, labels, predictions, strict=False
        ):
            _draw_prediction(axes, image, label, predicted)
    return closed(figure)


def _draw_prediction(axes: Axes, image: NDArray, label: str, predicted: str) -> None:
    correct = label == predicted
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    text = axes.set_title(
        predicted if correct else f"{predicted}, not {label}", loc="center", fontsize=9
    )
    text.set_color(INK if correct else PALETTE[1])
    text.set_fontweight("normal" if correct else "bold")

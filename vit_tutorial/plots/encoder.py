"""The encoder block: its wiring, the stream through it, norms, activations, gradients."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from vit_tutorial.plots.style import FAINT, HEAT, INK, PALETTE, STYLE, closed

STREAM, ATTENTION, MLP, NORM = INK, PALETTE[0], PALETTE[1], PALETTE[2]
WIRINGS = ("pre-norm", "post-norm")
MARKERS = "os^D"


def block_wirings(kinds: Sequence[str] = WIRINGS) -> Figure:
    """Draw how a block is wired, a row for each kind: the stream is the line below.

    Raises:
        ValueError: a kind that is neither "pre-norm" nor "post-norm".
    """
    for kind in kinds:
        if kind not in WIRINGS:
            raise ValueError(f"a kind of wiring is one of {WIRINGS}, got {kind!r}")
    with plt.rc_context(STYLE):
        figure, rows = plt.subplots(
            len(kinds), 1, figsize=(8.6, 1.75 * len(kinds) + 0.1), squeeze=False
        )
        for axes, kind in zip(rows[:, 0], kinds, strict=True):
            axes.set(xlim=(-0.4, 14.1), ylim=(-0.75, 1.8), aspect="equal")
            axes.axis("off")
            axes.set_title(kind)
            _wire(axes, (-0.3, 0), (14.0, 0), width=3.2)
            axes.text(-0.3, -0.45, "x", ha="left", va="center", style="italic")
            axes.text(14.0, -0.62, "to the next block", ha="right", va="center", color=FAINT)
            for start, name, colour in ((0.5, "attention", ATTENTION), (7.0, "MLP", MLP)):
                _half(axes, start, kind == "pre-norm", name, colour)
    return closed(figure)


def _half(axes: Axes, start: float, pre: bool, name: str, colour: str) -> None:
    """Draw half a block: a branch that leaves the stream, computes, and is added to it."""
    fork, plus = start, start + (5.4 if pre else 3.9)
    _wire(axes, (fork, 0), (fork, 1.3), arrow=False)
    _wire(axes, (fork, 1.3), (plus, 1.3), arrow=False)
    _wire(axes, (plus, 1.3), (plus, 0.28))
    if pre:
        _box(axes, start + 1.45, 1.3, "norm", NORM)
        _box(axes, start + 3.65, 1.3, name, colour)
    else:
        _box(axes, start + 1.95, 1.3, name, colour)
        _box(axes, start + 5.35, 0, "norm", NORM)
    axes.add_patch(Circle((plus, 0), 0.27, facecolor="white", edgecolor=STREAM, zorder=3))
    axes.text(plus, -0.01, "+", ha="center", va="center", fontsize=13, zorder=4)


def _wire(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float = 1.4,
    arrow: bool = True,
) -> None:
    style = "-|>" if arrow else "-"
    how = dict(arrowstyle=style, color=STREAM, linewidth=width, shrinkA=0, shrinkB=0)
    axes.annotate("", end, start, arrowprops=how, zorder=1)


def _box(axes: Axes, x: float, y: float, name: str, colour: str) -> None:
    box = FancyBboxPatch((x - 0.85, y - 0.33), 1.7, 0.66, boxstyle="round,pad=0,rounding_size=0.12")
    box.set(facecolor=colour, edgecolor="white", linewidth=1.5, zorder=3)
    axes.add_patch(box)
    axes.text(x, y - 0.02, name, color="white", ha="center", va="center", weight="bold", zorder=4)


def stream_lengths(lengths: NDArray, added: NDArray, cosines: NDArray) -> Figure:
    """Draw how long the stream's vectors are after each half-block, and how like the input.

    Half-blocks stand as they come: attention of layer 0, MLP of layer 0, attention of layer 1 ...

    Args:
        lengths: (1 + n,) the mean length of the stream, at the input and after each half-block.
        added: (n,) the mean length of what each half-block added.
        cosines: (1 + n,) the mean cosine of the stream with the input.

    Raises:
        ValueError: another shape, or a number of half-blocks that is not even.
    """
    count = len(added)
    if lengths.shape != (1 + count,) or cosines.shape != (1 + count,) or count % 2:
        raise ValueError(
            f"expected lengths and cosines of an even number of half-blocks and one more, got "
            f"{lengths.shape} and {cosines.shape} with {count} half-blocks"
        )
    positions = np.arange(1 + count)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), width_ratios=[1.35, 1])
        for first, name, colour in ((0, "attention adds", ATTENTION), (1, "MLP adds", MLP)):
            left.bar(positions[1 + first :: 2], added[first::2], 0.62, color=colour, label=name)
        left.plot(positions, lengths, "o-", color=STREAM, label="the stream")
        left.set(ylabel="mean length of a token", title="How long the vectors are", ylim=(0, None))
        left.legend(frameon=False, loc="upper left", ncols=3, columnspacing=1.0)
        left.set_ylim(0, 1.28 * max(lengths.max(), added.max()))
        right.plot(positions, cosines, "o-", color=STREAM)
        right.axhline(0, color=FAINT, linewidth=0.8)
        right.set(
            ylabel="mean cosine with the input", title="How like the input", ylim=(-0.1, 1.08)
        )
        for axes in (left, right):
            axes.set_xticks([0, *(positions[2::2] - 0.5)], ["input", *map(str, range(count // 2))])
            axes.tick_params(axis="x", length=0)
            axes.set(xlim=(-0.6, count + 0.6), xlabel="layer (attention, then MLP)")
            for edge in positions[:-1:2] + 0.5:
                axes.axvline(edge, color="#e4e4e4", linewidth=0.8, zorder=0)
    return closed(figure)


def token_stacks(stacks: NDArray, titles: Sequence[str], form: str = "{:g}") -> Figure:
    """Draw small batches of tokens side by side: images stacked, a row for a token, its entries.

    The colour follows the number in a cell, from the least to the greatest of each batch.

    Args:
        stacks: (n, B, T, D), one batch for each title.
        titles: one for each batch.
        form: how a number is written.

    Raises:
        ValueError: another shape, or another number of titles.
    """
    if stacks.ndim != 4 or len(stacks) != len(titles):
        raise ValueError(
            f"expected stacks (n, B, T, D) and n titles, got {stacks.shape} and {len(titles)}"
        )
    count, images, tokens, width = stacks.shape
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            images,
            count,
            figsize=(min(9.2, 0.42 * width * count + 1.6), 0.235 * images * tokens + 0.75),
            squeeze=False,
        )
        for (image, i), axes in np.ndenumerate(grid):
            table, low, high = stacks[i, image], stacks[i].min(), stacks[i].max()
            axes.imshow(table, cmap=HEAT, vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
            for (row, column), value in np.ndenumerate(table):
                cell = axes.text(column, row, form.format(value), ha="center", va="center")
                cell.set(fontsize=9, color="white" if value <= (low + high) / 2 else INK)
            axes.set(xticks=[], yticks=range(tokens) if i == 0 else [])
            axes.tick_params(length=0, labelsize=8, labelcolor=FAINT)
            axes.spines[:].set_visible(False)
            if image == 0:
                axes.set_title(titles[i], fontsize=10)
            if i == 0:
                axes.set_ylabel(f"image {image}")
        figure.supxlabel("entries of a token (a row for each token)", fontsize=9, color=FAINT)
    return closed(figure)


def activation_curves(x: NDArray, curves: Mapping[str, NDArray]) -> Figure:
    """Draw activation functions, and how far the others are from the first.

    Raises:
        ValueError: no curve, or one of another length than `x`.
    """
    if not curves or any(curve.shape != x.shape for curve in curves.values()):
        raise ValueError(f"expected curves of shape {x.shape}")
    (exact_name, exact), *others = curves.items()
    styles = [("-", PALETTE[0]), ("--", PALETTE[1]), (":", INK), ("-.", PALETTE[2])]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
        for i, (name, curve) in enumerate(curves.items()):
            line, colour = styles[i % len(styles)]
            left.plot(x, curve, line, color=colour, label=name, linewidth=3.5 if i == 0 else 1.8)
        left.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
        left.axvline(0, color="#dddddd", linewidth=0.8, zorder=0)
        left.set(xlabel="x", ylabel="activation", title="Activation functions")
        left.legend(frameon=False, loc="upper left")
        for i, (name, curve) in enumerate(others, start=1):
            line, colour = styles[i % len(styles)]
            right.plot(x, np.abs(curve - exact), line, color=colour, label=name, linewidth=1.8)
        right.set(xlabel="x", ylabel=f"distance from {exact_name}", yscale="log", ylim=(1e-7, 1))
        right.set_title(f"How far from {exact_name}")
        right.legend(frameon=False, loc="upper right", ncols=2)
    return closed(figure)


def gradient_lengths(panels: Mapping[str, Mapping[str, NDArray]]) -> Figure:
    """Draw gradient lengths layer by layer on a logarithmic axis: a line through the middle run.

    Args:
        panels: title -> name of a curve -> (runs, layers), positive.

    Raises:
        ValueError: no panel, or a curve of another shape or not positive.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    for runs in (runs for curves in panels.values() for runs in curves.values()):
        if runs.ndim != 2 or not (runs > 0).all():
            raise ValueError(f"expected positive lengths (runs, layers), got {runs.shape}")
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(
            1, len(panels), figsize=(min(9.0, 4.6 * len(panels)), 3.5), sharey=True, squeeze=False
        )
        for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
            for i, (name, runs) in enumerate(curves.items()):
                layers, colour = np.arange(runs.shape[1]), PALETTE[i % len(PALETTE)]
                axes.fill_between(layers, runs.min(0), runs.max(0), color=colour, alpha=0.15, lw=0)
                axes.plot(
                    layers, np.median(runs, axis=0), MARKERS[i % 4] + "-", color=colour,
                    label=name, markersize=4,
                )  # fmt: skip
            axes.set(xlabel="layer", title=title, yscale="log")
            _plain_log(axes)
        row[0, 0].set_ylabel("length of the gradient")
        row[0, 0].legend(frameon=False)
    return closed(figure)


def run_curves(
    x: Sequence[float],
    curves: Mapping[str, NDArray],
    xlabel: str,
    ylabel: str,
    *,
    logarithmic: bool = False,
    guide: tuple[str, NDArray] | None = None,
) -> Figure:
    """Draw what was measured in several runs: a line through the middle one, a band for all.

    Args:
        x: where it was measured.
        curves: name -> (runs, len(x)), finite.
        xlabel: what `x` is.
        ylabel: what was measured.
        logarithmic: both axes, for positive numbers.
        guide: the name and the values of a thin line to compare with.

    Raises:
        ValueError: a curve of another shape, or numbers that the axes cannot show.
    """
    least = 0 if logarithmic else -np.inf
    for runs in curves.values():
        if (
            runs.ndim != 2
            or runs.shape[1] != len(x)
            or not (np.isfinite(runs) & (runs > least)).all()
        ):
            raise ValueError(f"expected finite numbers (runs, {len(x)}), got {runs.shape}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 3.3))
        if guide:
            axes.plot(x, guide[1], "--", color=FAINT, label=guide[0], linewidth=1.2)
        for i, (name, runs) in enumerate(curves.items()):
            middle, colour = np.median(runs, axis=0), PALETTE[i % len(PALETTE)]
            axes.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.15, lw=0)
            marker = MARKERS[i % 4] if len(x) <= 12 else ""
            axes.plot(x, middle, marker=marker, color=colour, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if logarithmic:
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(list(x), [f"{value:g}" for value in x])
            axes.xaxis.set_minor_locator(NullLocator())
            _plain_log(axes)
        else:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return closed(figure)


def _plain_log(axes: Axes) -> None:
    """Write the numbers of a logarithmic y axis plainly: 0.1, 0.2, 0.5, 1."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#eeeeee")

"""Several processes: what goes round a ring, and when a step computes and sends."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from vit_tutorial.plots.style import FAINT, INK, PALETTE, STYLE, closed

PARTIAL, COMPLETE, MOVES = "#cfe0f1", "#bfe5d6", PALETTE[1]
FORWARD, BACKWARD, SENDING = "#9cc3e6", PALETTE[0], PALETTE[1]
PER_ROW = 3  # panels of a ring beside each other


def ring_rounds(
    states: NDArray, messages: Sequence[Sequence[tuple[int, int, int]]], form: str = "{:g}"
) -> Figure:
    """Draw a ring round by round: what each worker holds of each chunk, and what is sent next.

    Args:
        states: (rounds + 1, N, N), what worker i has of chunk j: at first, and after each round.
        messages: for each round (from, to, chunk), all sent at the same time.
        form: how a number is written.

    Raises:
        ValueError: states of another shape, or messages for another number of rounds.
    """
    rounds, workers = len(messages), states.shape[-1]
    if states.shape != (rounds + 1, workers, workers):
        raise ValueError(f"expected (rounds + 1, N, N) and {rounds} rounds, got {states.shape}")
    sums = states[0].sum(axis=0)  # of each chunk
    lines = -(-(rounds + 1) // PER_ROW)
    with plt.rc_context(STYLE):
        size = (min(9.2, PER_ROW * (0.72 * workers + 0.8)), lines * (0.46 * workers + 1.0))
        figure, grid = plt.subplots(lines, PER_ROW, figsize=size, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        arrived: list[tuple[int, int]] = []
        for index, (axes, state) in enumerate(zip(grid.flat, states, strict=False)):
            sent = list(messages[index]) if index < rounds else []
            title = "at first" if index == 0 else f"after round {index - 1}"
            _ring_state(axes, state, sums, arrived, form)
            for start, stop, chunk in sent:
                _message(axes, start, stop, chunk, workers)
            axes.set_title(title)
            arrived = [(to, chunk) for _, to, chunk in sent]
        handles = [
            Rectangle(
                (0, 0), 1, 1, facecolor=PARTIAL, edgecolor="white", label="a part of the sum"
            ),
            Rectangle((0, 0), 1, 1, facecolor=COMPLETE, edgecolor="white", label="the whole sum"),
            Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=INK, label="has just arrived"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return closed(figure)


def _ring_state(
    axes: Axes, state: NDArray, sums: NDArray, arrived: Sequence[tuple[int, int]], form: str
) -> None:
    workers = len(state)
    for worker in range(workers):
        axes.text(worker + 0.5, -0.12, f"{worker}", ha="center", va="bottom", color=FAINT)
        for chunk in range(workers):
            value = state[worker, chunk]
            complete = bool(np.isclose(value, sums[chunk]))
            box = Rectangle(
                (worker + 0.06, chunk + 0.08), 0.7, 0.84,
                facecolor=COMPLETE if complete else PARTIAL, edgecolor="none",
            )  # fmt: skip
            if (worker, chunk) in arrived:
                box.set(edgecolor=INK, linewidth=1.3)
            axes.add_patch(box)
            axes.text(worker + 0.41, chunk + 0.5, form.format(value), ha="center", va="center",
                      weight="bold" if complete else "normal")  # fmt: skip
    axes.text(-0.14, -0.12, "worker", ha="right", va="bottom", color=FAINT, fontsize=8)
    for chunk in range(workers):
        axes.text(-0.14, chunk + 0.5, f"chunk {chunk}", ha="right", va="center", color=FAINT,
                  fontsize=8)  # fmt: skip
    axes.set(xlim=(-0.85, workers + 0.3), ylim=(workers + 0.1, -0.5))


def _message(axes: Axes, start: int, stop: int, chunk: int, workers: int) -> None:
    """Draw an arrow to the right neighbour; over the edge, out on one side and in on the other."""
    how = dict(arrowstyle="-|>", color=MOVES, linewidth=1.6, shrinkA=0, shrinkB=0)
    y = chunk + 0.5
    if stop > start:
        axes.annotate("", (stop + 0.08, y), (start + 0.74, y), arrowprops=how)
        return
    axes.annotate("", (workers + 0.22, y), (start + 0.74, y), arrowprops=how)
    axes.annotate("", (0.08, y - 0.3), (-0.12, y - 0.3), arrowprops=how)


def step_timelines(
    steps: Mapping[str, tuple[float, float, Sequence[tuple[float, float]]]],
    limit: float | None = None,
) -> Figure:
    """Draw when a training step computes and when it sends, one step below the other.

    Args:
        steps: name -> when its forward pass ends, when its backward pass ends, and for each bucket
            when it begins and ends to be sent; seconds from the beginning of the step.
        limit: the end of the time axis, in seconds; by default that of the longest step. What goes
            on beyond it has an arrow there.

    Raises:
        ValueError: no steps, or a forward pass that ends after the backward pass.
    """
    if not steps:
        raise ValueError("expected at least one step, got none")
    for name, (forward, computed, _) in steps.items():
        if not 0 < forward <= computed:
            raise ValueError(
                f"{name}: the forward pass must end before the backward pass, got {forward} and "
                f"{computed}"
            )
    ends = [max([computed, *(end for _, end in sends)]) for _, computed, sends in steps.values()]
    last = limit or max(ends)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 1.1 + 0.78 * len(steps)))
        for index, (forward, computed, sends) in enumerate(steps.values()):
            bars = [(0, 1e3 * forward), (1e3 * forward, 1e3 * (computed - forward))]
            axes.broken_barh(bars, (index, 0.36), facecolors=[FORWARD, BACKWARD], edgecolor="white")
            line = [(1e3 * begin, 1e3 * (end - begin)) for begin, end in sends]
            if line:  # edges would hide what is narrow
                edges = ["white" if wide > 10 * last else SENDING for _, wide in line]
                axes.broken_barh(line, (index + 0.38, 0.3), facecolors=SENDING, edgecolors=edges,
                                 linewidth=0.6)  # fmt: skip
            lost = 1 - computed / ends[index]
            axes.annotate(f"{1e3 * ends[index]:.3g} ms, {lost:.0%} of it only waiting",
                          (0, index - 0.04), (2, 0), textcoords="offset points", va="bottom",
                          fontsize=8.5, color=INK)  # fmt: skip
            if ends[index] > last:
                axes.plot(1e3 * last * 1.03, index + 0.53, ">", color=SENDING, clip_on=False)
        axes.set_yticks([index + 0.34 for index in range(len(steps))], list(steps))
        axes.tick_params(axis="y", length=0)
        axes.set(
            xlim=(0, 1e3 * last * 1.02),
            ylim=(len(steps) - 0.12, -0.42),
            xlabel="milliseconds since the step began",
        )
        axes.spines["left"].set_visible(False)
        handles = [
            Patch(color=FORWARD, label="forward"),
            Patch(color=BACKWARD, label="backward"),
            Patch(color=SENDING, label="a bucket on its way"),
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False)
    return closed(figure)

"""One network on another task: how a probe is chosen, methods compared, classes of pixels."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from vit_tutorial.plots.photographs import photo_axes
from vit_tutorial.plots.style import ACCENT, FAINT, INK, PALETTE, STYLE, closed

GRID = "#e8e8e8"
OPACITY = 0.7  # of a class painted over a picture


def probe_curve(scores: Mapping[float, ArrayLike], chosen: float) -> Figure:
    """Draw the accuracy of a probe over its strength: a dot for each fold, a line for their mean.

    Args:
        scores: strength, above 0 -> accuracy in percent of each fold.
        chosen: one of the strengths, to be marked.

    Raises:
        ValueError: no scores, a strength that is not above 0, or a choice that is not among them.
    """
    values = {strength: np.asarray(folds, dtype=float) for strength, folds in scores.items()}
    if not values or min(values) <= 0 or chosen not in values:
        raise ValueError(
            f"expected scores for strengths above 0, and {chosen} among them, got {list(values)}"
        )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 3.2))
        strengths = sorted(values)
        axes.plot(strengths, [values[s].mean() for s in strengths], color=ACCENT, label="mean")
        for index, strength in enumerate(strengths):
            axes.plot(
                [strength] * len(values[strength]), values[strength], "o", color=ACCENT, alpha=0.4,
                markersize=5, mew=0, label=None if index else "one fold",
            )  # fmt: skip
        axes.axvline(chosen, color=PALETTE[1], linewidth=1.5, zorder=1)
        axes.annotate(
            f"chosen: {chosen:g}", (chosen, 0), (5, 5), color=PALETTE[1], weight="bold",
            xycoords=("data", "axes fraction"), textcoords="offset points",
        )  # fmt: skip
        axes.set(xscale="log", xlabel="strength C (left: tightly bound)")
        axes.set_ylabel("accuracy on the fold left out, %")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return closed(figure)


def interval_bars(
    results: Mapping[str, tuple[float, float, float]],
    xlabel: str,
    chance: float | None = None,
) -> Figure:
    """Draw a number with its interval for each method, below each other.

    Args:
        results: name -> (value, lower end, upper end).
        xlabel: what was measured.
        chance: what guessing gives; it is marked.

    Raises:
        ValueError: no results, or a value outside its interval.
    """
    for name, (value, low, high) in results.items():
        if not low <= value <= high:
            raise ValueError(f"{name}: {value} must lie in its interval, {low} to {high}")
    if not results:
        raise ValueError("expected at least one result, got none")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.6, 0.42 * len(results) + 1.1))
        for y, (value, low, high) in enumerate(results.values()):
            axes.plot([low, high], [y, y], color=ACCENT, alpha=0.35, linewidth=7,
                      solid_capstyle="butt")  # fmt: skip
            axes.plot(value, y, "o", color=ACCENT, markersize=7, mec="white")
            axes.text(1.11, y, f"{value:.1f}", transform=axes.get_yaxis_transform(),
                      ha="right", va="center", weight="bold")  # fmt: skip
        if chance is not None:
            axes.axvline(chance, color=FAINT, linewidth=1, linestyle="--", zorder=1)
            axes.annotate(
                "guessing", (chance, 1), (4, -2), color=FAINT, va="top",
                xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
        axes.set_yticks(range(len(results)), list(results))
        axes.set(ylim=(len(results) - 0.4, -0.75), xlabel=xlabel)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return closed(figure)


def label_maps(
    pictures: NDArray, maps: Mapping[str, NDArray], classes: Sequence[str], title: str = ""
) -> Figure:
    """Draw pictures in a row, and below them the class of every pixel, painted over the picture.

    There the picture is in pale grey. Class 0 is the background, and is not painted.

    Args:
        pictures: uint8 (n, H, W, 3).
        maps: what a row is -> classes, integers (n, H, W).
        classes: their names, class 0 first.
        title: over the figure.

    Raises:
        ValueError: pictures of another kind, maps of another shape, or a class without a name.
    """
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise ValueError(
            f"expected pictures uint8 (n, H, W, 3), got {pictures.dtype} {pictures.shape}"
        )
    for name, map_ in maps.items():
        if map_.shape != pictures.shape[:3]:
            raise ValueError(f"{name}: expected classes {pictures.shape[:3]}, got {map_.shape}")
        if not 0 <= map_.min() <= map_.max() < len(classes):
            raise ValueError(f"{name}: {len(classes)} names, but classes up to {map_.max()}")
    if not maps or not len(pictures) or len(classes) > len(PALETTE) + 1:
        raise ValueError(
            f"expected pictures, maps and up to {len(PALETTE) + 1} classes, got {len(pictures)}, "
            f"{len(maps)} and {len(classes)}"
        )
    order = (1, 0, *range(2, len(PALETTE)))  # orange first: it is seen on most photographs
    colours = np.array([to_rgb(PALETTE[index]) for index in order]) * 255
    rows = {"picture": pictures}
    pale = 110 + 0.55 * pictures.mean(axis=3, keepdims=True).repeat(3, axis=3)
    for name, map_ in maps.items():
        colour = colours[np.maximum(map_, 1) - 1]  # (n, H, W, 3)
        alpha = OPACITY * (map_ > 0)[..., None]
        rows[name] = np.rint(pale + alpha * (colour - pale)).astype(np.uint8)
    side = min(1.45, 8.6 / len(pictures))
    ratio = pictures.shape[1] / pictures.shape[2]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(rows),
            len(pictures),
            figsize=(side * len(pictures) + 0.5, side * ratio * len(rows) + 0.6),
            squeeze=False,
        )
        for line, (name, row) in zip(grid, rows.items(), strict=True):
            for axes, picture in zip(line, row, strict=True):
                photo_axes(axes, picture, "")
            line[0].set_ylabel(name, color=INK)
        patches = [
            Patch(color=colours[index] / 255, label=name) for index, name in enumerate(classes[1:])
        ]
        figure.legend(handles=patches, loc="outside upper right", ncols=len(patches), frameon=False)
        figure.suptitle(title, x=0.02, ha="left")
    return closed(figure)

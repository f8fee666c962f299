"""What the page of a live network shows, as a still picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vit_tutorial.plots.photographs import photo_axes
from vit_tutorial.plots.spotlight import Scale, in_percent, map_shares, spotlight
from vit_tutorial.plots.style import FAINT, INK, MAP, PALETTE, STYLE, closed, require_rgb

DIVERGING = "RdBu_r"  # for what rises and falls: white is 0


def live_view(
    photo: NDArray,
    maps: Mapping[str, NDArray],
    answers: Mapping[str, NDArray],
    classes: Sequence[str],
    *,
    scale: Scale | None = None,
    title: str = "",
    caption: str = "",
    top: int = 5,
) -> Figure:
    """Draw a picture as a network got it, where it looks, and what is answered: before and after.

    Args:
        photo: uint8 (H, W, 3), with what is hidden. Without a `scale`, the first map is its
            spotlight.
        maps: title -> (rows, columns).
        answers: name of a network -> (2, classes), probabilities before the changes and after.
        classes: what they are called; the `top` likeliest are shown.
        scale: one for all maps, from less than 0 to as much above; by default each has its own.
        title: stands above the picture.
        caption: stands below everything.
        top: how many classes are shown.

    Raises:
        ValueError: no colour picture, no map, no network, or probabilities for another number of
            classes.
    """
    require_rgb(photo)
    shapes = {name: np.shape(pair) for name, pair in answers.items()}
    if not maps or not answers or any(s != (2, len(classes)) for s in shapes.values()):
        raise ValueError(
            f"expected a map, and probabilities (2, {len(classes)}) of each network, got {shapes}"
        )
    heats = {name: np.asarray(heat, dtype=np.float64) for name, heat in maps.items()}
    likeliest = np.max([np.max(pair, axis=0) for pair in answers.values()], axis=0)
    best = np.argsort(likeliest)[::-1][:top][::-1]
    with plt.rc_context(STYLE):
        widths = [1.0, *[0.8] * len(heats), 1.1]
        figure, axes = plt.subplots(
            1, len(widths), figsize=(3.0 * sum(widths), 3.1), width_ratios=widths
        )
        first, *middle, bars = axes
        lit = spotlight(photo, next(iter(heats.values()))) if scale is None else photo
        photo_axes(first, lit, title)
        for place, (name, heat) in zip(middle, heats.items(), strict=True):
            colours = MAP if scale is None else DIVERGING
            image = place.imshow(map_shares(heat, scale), cmap=colours, vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
            place.set_title(name, fontsize=9)
            ends = (in_percent(float(heat.min())), in_percent(float(heat.max())))
            place.set_xlabel(f"{ends[0]} to {ends[1]}", fontsize=8, color=FAINT)
        if scale is not None:
            bar = figure.colorbar(image, ax=middle[-1], shrink=0.6, aspect=20, pad=0.02)
            bar.set_ticks([0, 0.5, 1], labels=[in_percent(scale[0]), "0", in_percent(scale[1])])
            bar.outline.set_visible(False)
        _answers(bars, answers, classes, best)
        figure.supxlabel(caption, x=0.02, ha="left", fontsize=10)
    return closed(figure)


def _answers(
    axes: Any, answers: Mapping[str, NDArray], classes: Sequence[str], shown: NDArray
) -> None:
    """Draw a bar for each class and network, and a line where it was before the changes."""
    thick = 0.8 / len(answers)
    for i, (name, (before, after)) in enumerate(answers.items()):
        y = np.arange(len(shown)) + thick * ((len(answers) - 1) / 2 - i)
        axes.barh(y, after[shown], height=0.9 * thick, color=PALETTE[i], label=name)
        axes.vlines(before[shown], y - thick / 2, y + thick / 2, color=INK, linewidth=1.6)
    axes.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0%", "50%", "100%"))
    axes.set_yticks(range(len(shown)), [classes[label] for label in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_title("what it says; a line: before", fontsize=9)
    if len(answers) > 1:
        axes.legend(loc="lower right", fontsize=8, frameon=False)

"""Photographs, and what a network predicts for them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vit_tutorial.plots.style import ACCENT, STYLE, closed


def probabilities(classes: Sequence[str], values: Sequence[float], top: int = 5) -> Figure:
    """Draw the `top` most probable classes as bars, the number in words beside each.

    Raises:
        ValueError: another number of values than of classes.
    """
    _require_as_many(classes, values)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.5, 0.4 * top + 0.4))
        _bars(axes, classes, values, top)
    return closed(figure)


def photo_row(photos: Sequence[NDArray], titles: Sequence[str]) -> Figure:
    """Draw pictures side by side, a title over each.

    Raises:
        ValueError: another number of titles than of pictures.
    """
    if len(photos) != len(titles):
        raise ValueError(f"{len(photos)} pictures need as many titles, got {len(titles)}")
    with plt.rc_context(STYLE):
        ratios = [photo.shape[1] / photo.shape[0] for photo in photos]
        figure, axes = plt.subplots(
            1,
            len(photos),
            figsize=(2.6 * sum(ratios) + 0.3, 3.0),
            width_ratios=ratios,
            squeeze=False,
        )
        for axis, photo, title in zip(axes[0], photos, titles, strict=True):
            photo_axes(axis, photo, title)
    return closed(figure)


def photo_grid(photos: Sequence[NDArray], titles: Sequence[str], title: str = "") -> Figure:
    """Draw many pictures in rows of up to four, a title over each.

    Raises:
        ValueError: no pictures, or another number of titles than of pictures.
    """
    if not photos or len(photos) != len(titles):
        raise ValueError(f"{len(photos)} pictures need as many titles, got {len(titles)}")
    columns = min(4, len(photos))
    rows = -(-len(photos) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows, columns, figsize=(2.6 * columns + 0.3, 2.9 * rows + 0.4), squeeze=False
        )
        for axes in grid.flat:
            axes.axis("off")
        for axes, photo, name in zip(grid.flat, photos, titles, strict=False):
            axes.axis("on")
            photo_axes(axes, photo, name)
        figure.suptitle(title, x=0.02, ha="left")
    return closed(figure)


def frame(axes: Axes, box: tuple[float, float, float, float]) -> None:
    """Outline a box in two colours, so that it shows on any photograph."""
    left, top, right, bottom = box
    for colour, width in (("white", 3.0), (ACCENT, 1.5)):
        outline = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top)
        outline.set(fill=False, edgecolor=colour, linewidth=width)
        axes.add_patch(outline)


def photo_axes(axes: Axes, photo: NDArray, title: str) -> None:
    """Show a photograph in `axes`, smoothly enlarged, without a frame."""
    axes.imshow(photo, interpolation="lanczos", cmap="gray", vmin=0, vmax=255)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def predicted(axes: Axes, classes: Sequence[str], values: Sequence[float]) -> None:
    """Draw what a network predicts: the most probable classes, or the number it says."""
    axes.set_title("What it predicts")
    if len(classes) > 1 or 0 <= values[0] <= 1:
        _bars(axes, classes, values, top=5)
        return
    axes.set_axis_off()  # a regression
    axes.text(0.5, 0.5, f"{classes[0]}: {values[0]:.4g}", ha="center", transform=axes.transAxes)


def _bars(axes: Axes, classes: Sequence[str], values: Sequence[float], top: int) -> None:
    order = np.argsort(values)[::-1][:top]
    shares = np.asarray(values)[order]
    colours = [ACCENT, *["#9db8d2"] * (len(order) - 1)]
    axes.barh(range(len(order)), shares, color=colours, height=0.62)
    for y, share in enumerate(shares):
        axes.text(share + 0.02, y, f"{share:.0%}", va="center")
    axes.set_yticks(range(len(order)), [classes[i] for i in order])
    axes.set(xlim=(0, 1.15), xticks=[], ylim=(len(order) - 0.4, -0.6))
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.tick_params(left=False)


def _require_as_many(classes: Sequence[str], values: Sequence[float]) -> None:
    """Check before a figure is opened, or the error would leave it behind."""
    if len(classes) != len(values):
        raise ValueError(f"{len(classes)} classes need as many values, got {len(values)}")

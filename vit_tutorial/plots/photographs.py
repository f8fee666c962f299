"""Photographs, what a network predicts for them, and where it looked."""

from collections.abc import Sequence
from functools import cache

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from vit_tutorial.plots.style import ACCENT, FAINT, HEAT, STYLE, closed


def overlay(photo: NDArray, heat: NDArray, strength: float = 0.8) -> NDArray[np.uint8]:
    """Paint heat over a photograph: uint8 (H, W, 3) and (H, W) in 0..1 -> uint8 (H, W, 3).

    Opacity is `strength` times the heat, so no heat leaves the photograph untouched.

    Raises:
        ValueError: a photograph that is not uint8 RGB, heat of another size or outside 0..1, or a
            strength outside 0..1.

    Examples:
        >>> grey = np.full((1, 2, 3), 128, dtype=np.uint8)
        >>> overlay(grey, np.array([[0.0, 1.0]]), strength=1.0)[0].tolist()
        [[128, 128, 128], [254, 232, 56]]
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo must be uint8 (H, W, 3), got {photo.dtype} {photo.shape}")
    if heat.shape != photo.shape[:2]:
        raise ValueError(f"a photo of {photo.shape[:2]} needs heat of that shape, got {heat.shape}")
    if not (heat.min() >= 0 and heat.max() <= 1):  # also refuses NaN
        raise ValueError(f"heat must lie in 0..1, got {heat.min():.3g} to {heat.max():.3g}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in 0..1, got {strength}")
    colours = _cividis()[np.rint(heat * 255).astype(np.uint8)]  # (H, W, 3)
    alpha = (strength * heat).astype(np.float32)[..., None]
    return np.rint(photo + alpha * (colours - photo)).astype(np.uint8)


@cache
def _cividis() -> NDArray[np.float32]:
    """The 256 colours, 0..255."""
    table = matplotlib.colormaps[HEAT](np.arange(256))[:, :3]
    return (table * 255).astype(np.float32)


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


def explanation(
    photo: NDArray,
    view: tuple[float, float, float, float],
    classes: Sequence[str],
    values: Sequence[float],
    heat: NDArray,
    method: str = "attention rollout",
) -> Figure:
    """Draw what the network was given, what it predicts, and where it looked, side by side.

    Args:
        photo: uint8 (H, W, 3).
        view: left, top, right, bottom of the network's view, in pixels of `photo`.
        classes: the names, as many as `values`; without any, the middle is left out.
        values: probabilities, or, with one class, any number.
        heat: (H, W), 0 outside of its view; drawn from its least to its greatest.
        method: by which it was found.

    Raises:
        ValueError: another number of values than of classes, or heat of another size or below 0.
    """
    _require_as_many(classes, values)
    if not heat.min() >= 0:  # also refuses NaN
        raise ValueError(f"heat must be 0 or more, got {heat.min():.3g}")
    lowest, highest = (heat[heat > 0].min(), heat.max()) if heat.any() else (0.0, 1.0)
    spread = max(float(highest - lowest), 1e-12)
    painted = overlay(photo, np.clip((heat - lowest) / spread, 0, 1))
    width = 3.0 * min(max(photo.shape[1] / photo.shape[0], 0.5), 2.0)
    with plt.rc_context(STYLE):
        widths = [width, 2.6, width] if classes else [width, width]
        figure, (left, *middle, right) = plt.subplots(
            1, len(widths), figsize=(sum(widths) + 0.4, 3.2), width_ratios=widths
        )
        photo_axes(left, photo, "What it was given")
        if view[0] > 0 or view[1] > 0:  # a part of it
            _frame(left, view)
            left.set_xlabel("inside the frame: what the network sees", color=FAINT)
        else:
            left.set_xlabel("the network sees all of it", color=FAINT)
        if classes:
            _predicted(middle[0], classes, values)
        photo_axes(right, painted, "Where it looked")
        right.set_xlabel(f"{method}, from least (clear) to most (yellow)", color=FAINT)
    return closed(figure)


def map_grid(
    photo: NDArray, heats: NDArray, rows: Sequence[str], columns: Sequence[str], title: str = ""
) -> Figure:
    """Draw maps over one photograph in a table, each relative to its own maximum.

    Args:
        photo: uint8 (H, W, 3).
        heats: (rows, columns, H, W), from 0 up.
        rows: a name for each.
        columns: a name for each.
        title: what the maps show.

    Raises:
        ValueError: heats of another size than the photograph, or another number of names.
    """
    if heats.ndim != 4 or heats.shape[:2] != (len(rows), len(columns)):
        raise ValueError(
            f"{len(rows)} rows and {len(columns)} columns need heats (rows, columns, H, W), got "
            f"{heats.shape}"
        )
    painted = [[overlay(photo, heat / max(heat.max(), 1e-12)) for heat in row] for row in heats]
    ratio = photo.shape[0] / photo.shape[1]
    side = min(1.5, 8.8 / len(columns), 6.0 / len(rows) / ratio)  # inches: a page holds them all
    with plt.rc_context(STYLE):
        size = (side * len(columns) + 0.5, side * ratio * len(rows) + 0.6)
        figure, grid = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
        for line, pictures in zip(grid, painted, strict=True):
            for axis, picture in zip(line, pictures, strict=True):
                photo_axes(axis, picture, "")
        for axis, name in zip(grid[:, 0], rows, strict=True):
            axis.set_ylabel(name)
        for axis, name in zip(grid[0], columns, strict=True):
            axis.set_title(name, loc="center")
        figure.suptitle(title, x=0.02, ha="left")
    return closed(figure)


def attention_view(
    photo: NDArray,
    heat: NDArray,
    maps: NDArray,
    *,
    query: tuple[float, float, float, float] | None = None,
    chosen: tuple[slice, slice] | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Draw one map over a photograph, and beside it those of all heads (columns) and layers (rows).

    Args:
        photo: uint8 (H, W, 3).
        heat: (H, W), from 0 up; drawn relative to its maximum.
        maps: (layers, heads, rows, columns), each drawn relative to its own maximum.
        query: left, top, right, bottom of the patch that looks, in pixels of `photo`.
        chosen: the layers and the heads that `heat` comes from; they are framed.
        title: stands above the photograph.
        caption: stands below both.

    Raises:
        ValueError: heat of another size than the photograph, or maps of another shape.
    """
    if maps.ndim != 4:
        raise ValueError(f"expected maps (layers, heads, rows, columns), got {maps.shape}")
    layers, heads, rows, columns = maps.shape
    painted = overlay(photo, heat / max(float(heat.max()), 1e-12), strength=0.88)
    shares = maps / np.maximum(maps.max(axis=(2, 3), keepdims=True), 1e-12)
    sheet = np.ones((layers * (rows + 1), heads * (columns + 1), 3))
    for layer in range(layers):
        for head in range(heads):
            top, left = layer * (rows + 1), head * (columns + 1)
            tile = matplotlib.colormaps[HEAT](shares[layer, head])[..., :3]
            sheet[top : top + rows, left : left + columns] = tile
    with plt.rc_context(STYLE):
        ratios = [photo.shape[1] / photo.shape[0], heads * columns / (layers * rows)]
        ratios[1] = min(max(ratios[1], 0.4), 1.6)
        size = (4.2 * min(sum(ratios), 4) + 0.6, 4.9)
        figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=size, width_ratios=ratios)
        photo_axes(left_axes, painted, title)
        if query is not None:
            _frame(left_axes, query)
        right_axes.imshow(sheet, interpolation="nearest")
        right_axes.set_title("Every head of every layer")
        right_axes.set_xticks(np.arange(heads) * (columns + 1) + columns / 2 - 0.5, range(heads))
        right_axes.set_yticks(np.arange(layers) * (rows + 1) + rows / 2 - 0.5, range(layers))
        right_axes.set(xlabel="head", ylabel="layer")
        right_axes.tick_params(length=0)
        right_axes.spines[:].set_visible(False)
        if chosen is not None:
            tops, lefts = (
                range(*part.indices(n)) for part, n in zip(chosen, (layers, heads), strict=True)
            )
            box = (
                lefts[0] * (columns + 1), tops[0] * (rows + 1),
                (lefts[-1] + 1) * (columns + 1) - 1, (tops[-1] + 1) * (rows + 1) - 1,
            )  # fmt: skip
            _frame(right_axes, box)
        left_axes.set_xlabel(caption, loc="left", labelpad=8)
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


def _frame(axes: Axes, box: tuple[float, float, float, float]) -> None:
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


def _predicted(axes: Axes, classes: Sequence[str], values: Sequence[float]) -> None:
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

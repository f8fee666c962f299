"""Where a network looked: each map twice, as a spotlight on the photograph and as it is.

The scale of a map goes from its 5th to its 98.5th percentile, so that one patch that takes almost
everything does not hide the others; every legend says where it begins and ends. Cells are drawn as
they are, never smoothed: between the middles of two patches nothing was measured.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from vit_tutorial.plots.photographs import frame, photo_axes, predicted
from vit_tutorial.plots.style import FAINT, MAP, STYLE, closed, heat_colours, require_rgb

PERCENTILES = (5.0, 98.5)  # of a map's numbers, where its scale begins and ends
DARK = 0.22  # of its lightness is left of what is not attended to
Scale = tuple[float, float]
View = tuple[float, float, float, float]
Paint = Callable[[NDArray, NDArray, View | None], NDArray[np.uint8]]
Form = Callable[[float], str]  # writes a number of a map


def in_percent(share: float) -> str:
    """Write a share in percent, with two digits that count.

    Examples:
        >>> in_percent(0.234), in_percent(-0.0234), in_percent(0.00234)
        ('23%', '-2.3%', '0.23%')
    """
    return f"{share:.{0 if abs(share) >= 0.0995 else 1 if abs(share) >= 0.00995 else 2}%}"


def in_numbers(value: float) -> str:
    """Write a number without a unit, with two digits that count."""
    return f"{value:.2g}"


def map_scale(heat: NDArray) -> Scale:
    """Return where the scale of a map begins and ends: its 5th and its 98.5th percentile.

    Raises:
        ValueError: a map that is not (rows, columns) of finite numbers.

    Examples:
        >>> map_scale(np.linspace(0, 2, 201)[None])
        (0.1, 1.97)
    """
    heat = np.asarray(heat, dtype=np.float64)
    if heat.ndim != 2 or not heat.size or not np.isfinite(heat).all():
        raise ValueError(f"expected a map (rows, columns) of finite numbers, got {heat.shape}")
    low, high = np.percentile(heat, PERCENTILES)
    return float(low), float(high)


def map_shares(heat: NDArray, scale: Scale | None = None) -> NDArray[np.float64]:
    """Place each number of a map on its scale, from 0 to 1: (rows, columns) -> (rows, columns).

    The scale is that of `map_scale`, if no other is given.

    Where the scale has no length, since almost all numbers are equal, what is larger gets 1 and
    what is smaller 0; of a map of one number only, each gets 1, or 0 if it is 0.

    Raises:
        ValueError: a map that is not (rows, columns) of finite numbers.

    Examples:
        >>> map_shares(np.array([[0.0, 0.0, 5.0, 0.0]])).tolist()
        [[0.0, 0.0, 1.0, 0.0]]
    """
    low, high = scale or map_scale(heat)
    heat = np.asarray(heat, dtype=np.float64)
    if high > low:
        return np.clip((heat - low) / (high - low), 0, 1)
    least = min(float(heat.min()), 0.0) if heat.min() == heat.max() else low
    return (heat > least).astype(np.float64)


def spotlight(
    photo: NDArray, heat: NDArray, view: View | None = None, scale: Scale | None = None
) -> NDArray[np.uint8]:
    """Leave a photograph as it is where a map is greatest, and grey and dark where it is least.

    Args:
        photo: uint8 (H, W, 3).
        heat: (rows, columns), a number for each patch.
        view: left, top, right, bottom of what the patches cover, in pixels of `photo`; outside, it
            is dark. None: all of it.
        scale: where the map's scale begins and ends, if not as `map_scale` says.

    Raises:
        ValueError: a photograph that is not uint8 RGB, or a map that is not one of finite numbers.

    Examples:
        >>> white = np.full((1, 2, 3), 255, dtype=np.uint8)
        >>> spotlight(white, np.array([[0.0, 1.0]]))[0].tolist()
        [[56, 56, 56], [255, 255, 255]]
    """
    share = _on_pixels(photo, map_shares(heat, scale), view)[..., None]
    grey = photo @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (H, W)
    return np.rint(share * photo + (1 - share) * DARK * grey[..., None]).astype(np.uint8)


def overlay(photo: NDArray, heat: NDArray, view: View | None = None) -> NDArray[np.uint8]:
    """Paint a map over a photograph, the more opaque the greater: what `spotlight` takes.

    It is what most tools draw, and it hides the data: a bright patch of a bright photograph and a
    patch that is attended to look alike.

    Raises:
        ValueError: as for `spotlight`.
    """
    share = _on_pixels(photo, map_shares(heat), view)
    colours = heat_colours(MAP)[np.rint(share * 255).astype(np.uint8)].astype(np.float32)
    return np.rint(photo + 0.8 * share[..., None] * (colours - photo)).astype(np.uint8)


def _on_pixels(photo: NDArray, shares: NDArray, view: View | None) -> NDArray[np.float32]:
    """Give each pixel the number of the patch that its middle lies in, 0 outside: (H, W)."""
    require_rgb(photo)
    height, width = photo.shape[:2]
    left, top, right, bottom = view or (0, 0, width, height)
    cells = []
    for pixels, start, stop, count in (
        (height, top, bottom, shares.shape[0]),
        (width, left, right, shares.shape[1]),
    ):
        middles = np.arange(pixels) + 0.5
        cell = np.floor((middles - start) * count / (stop - start)).astype(int)
        cells.append(np.where((cell < 0) | (cell >= count), count, cell))
    padded = np.pad(shares, (0, 1)).astype(np.float32)  # the last row and column: outside
    return padded[np.ix_(*cells)]


def map_pair(
    photo: NDArray, heat: NDArray, query: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Put a map twice into one picture: spotlight, and the map itself, (H, 2 W + 8, 3).

    Args:
        photo: uint8 (H, W, 3), what the patches cover.
        heat: (rows, columns).
        query: row and column of the patch that looks; it is framed in both.

    Raises:
        ValueError: as for `spotlight`.
    """
    cells = heat_colours(MAP)[np.rint(255 * _on_pixels(photo, map_shares(heat), None)).astype(int)]
    halves = [spotlight(photo, heat), cells]
    if query is not None:
        height, width = photo.shape[:2]
        left, top, right, bottom = map(round, _cell(query, heat.shape, (0, 0, width, height)))
        for half in halves:
            for inset, colour in enumerate((255, 0, 255)):
                rows = [top + inset, bottom - inset - 1]
                columns = [left + inset, right - inset - 1]
                half[rows[0] : rows[1] + 1, columns] = colour
                half[rows, columns[0] : columns[1] + 1] = colour
    gap = np.full((len(photo), 8, 3), 255, dtype=np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def strongest(heat: NDArray) -> tuple[int, int] | None:
    """Return row and column of the greatest number of a map, or None if several are.

    Examples:
        >>> strongest(np.array([[0, 1], [3, 2]])), strongest(np.ones((2, 2)))
        ((1, 0), None)
    """
    places = np.argwhere(heat == heat.max())
    return (int(places[0][0]), int(places[0][1])) if len(places) == 1 else None


def explanation(
    photo: NDArray,
    view: View,
    classes: Sequence[str],
    values: Sequence[float],
    heat: NDArray,
    method: str = "attention rollout",
    *,
    form: Form = in_percent,
    paint: Paint = spotlight,
) -> Figure:
    """Draw what the network was given, what it predicts, where it looked, and the map itself.

    Args:
        photo: uint8 (H, W, 3).
        view: left, top, right, bottom of what the patches cover, in pixels of `photo`.
        classes: the names, as many as `values`; without any, they are left out.
        values: probabilities, or, with one class, any number.
        heat: (rows, columns), a number from 0 up for each patch.
        method: by which it was found.
        form: how a number of the map is written.
        paint: `spotlight` or `overlay`.

    Raises:
        ValueError: another number of values than of classes, or a map with numbers below 0.
    """
    if len(classes) != len(values):
        raise ValueError(f"{len(classes)} classes need as many values, got {len(values)}")
    if not np.min(heat) >= 0:  # also refuses NaN
        raise ValueError(f"heat must be 0 or more, got {np.min(heat):.3g}")
    painted = paint(photo, heat, view)
    wide = 2.7 * min(max(photo.shape[1] / photo.shape[0], 0.5), 1.6)
    map_wide = 2.7 * min(max((view[2] - view[0]) / (view[3] - view[1]), 0.5), 1.6) + 0.2
    widths = [wide, *([2.0] if classes else []), wide, map_wide]
    with plt.rc_context(STYLE):
        figure, (first, *middle, lit, raw) = plt.subplots(
            1, len(widths), figsize=(sum(widths) + 0.5, 3.7), width_ratios=widths
        )
        for axes in (first, lit):
            axes.set_anchor("N")
        photo_axes(first, photo, "What it was given")
        part = view[0] > 0 or view[1] > 0
        if part:
            frame(first, view)
        sees = "inside the frame: what it sees" if part else "the network sees all of it"
        first.set_xlabel(sees, color=FAINT)
        if classes:
            predicted(middle[0], classes, values)
        photo_axes(lit, painted, "Where it looked")
        lit.set_xlabel("bright: most" if paint is spotlight else "painted: most", color=FAINT)
        _map_axes(raw, heat, view, method, form)
        _ring(lit, heat, view)
    return closed(figure)


def map_row(
    photo: NDArray,
    heats: Sequence[NDArray],
    titles: Sequence[str],
    *,
    view: View | None = None,
    query: tuple[int, int] | None = None,
    scale: Scale | None = None,
    form: Form = in_percent,
) -> Figure:
    """Draw maps side by side: above, a spotlight on the photograph, below, the map itself.

    Args:
        photo: uint8 (H, W, 3).
        heats: of each (rows, columns).
        titles: one for each.
        view: as for `spotlight`.
        query: row and column of the patch that looks; it is framed.
        scale: one for all maps; by default each has its own.
        form: how a number is written.

    Raises:
        ValueError: no maps, or another number of titles.
    """
    if not len(heats) or len(heats) != len(titles):
        raise ValueError(f"{len(heats)} maps need as many titles, got {len(titles)}")
    height, width = photo.shape[:2]
    seen = view or (0.0, 0.0, float(width), float(height))
    painted = [spotlight(photo, np.asarray(heat), view, scale) for heat in heats]
    side = min(2.3, 9.4 / len(heats))
    with plt.rc_context(STYLE):
        size = (side * len(heats) + 0.3, side * (height / width) * 2 + 1.1)
        figure, grid = plt.subplots(2, len(heats), figsize=size, squeeze=False)
        for axes, heat, picture, title in zip(grid.T, heats, painted, titles, strict=True):
            photo_axes(axes[0], picture, title)
            _ring(axes[0], np.asarray(heat), seen)
            _map_axes(axes[1], np.asarray(heat), seen, "", form, scale)
            if query is not None:
                rows, columns = np.shape(heat)
                frame(axes[0], _cell(query, (rows, columns), seen))
                frame(axes[1], (query[1], query[0], query[1] + 1, query[0] + 1))
    return closed(figure)


def map_grid(
    photo: NDArray,
    heats: NDArray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    *,
    query: tuple[int, int] | None = None,
    notes: Sequence[Sequence[str]] = (),
) -> Figure:
    """Draw a photograph, and beside it a table of maps, each on a scale of its own.

    Args:
        photo: uint8 (H, W, 3), what the patches cover.
        heats: (rows, columns, patch rows, patch columns).
        rows: a name for each.
        columns: a name for each.
        title: what the maps show.
        query: row and column of the patch that looks; it is framed.
        notes: (rows, columns), what stands below each map.

    Raises:
        ValueError: heats of another shape, or another number of names or notes.
    """
    if heats.ndim != 4 or heats.shape[:2] != (len(rows), len(columns)):
        raise ValueError(
            f"{len(rows)} rows and {len(columns)} columns need heats (rows, columns, patch rows, "
            f"patch columns), got {heats.shape}"
        )
    if notes and [len(line) for line in notes] != [len(columns)] * len(rows):
        raise ValueError(f"expected {len(rows)} rows of {len(columns)} notes")
    require_rgb(photo)
    ratio = photo.shape[0] / photo.shape[1]
    side = min(1.5, 6.4 / len(columns), 6.0 / len(rows) / ratio)  # inches: a page holds them all
    beside = min(1.8, side * len(rows) * ratio)
    with plt.rc_context(STYLE):
        below = 0.22 * len(rows) if notes else 0.0
        tall = max(side * len(rows), beside) * ratio + below + 0.8
        size = (side * len(columns) + beside + 0.7, tall)
        figure = plt.figure(figsize=size)
        parts: Any = figure.subfigures(1, 2, width_ratios=[beside + 0.1, size[0] - beside - 0.1])
        left, right = parts
        beside_all = left.subplots()
        photo_axes(beside_all, photo, "the photograph")
        beside_all.set_anchor("N")
        whole = (0.0, 0.0, float(photo.shape[1]), float(photo.shape[0]))
        if query is not None:
            frame(beside_all, _cell(query, heats.shape[2:], whole))
        grid = right.subplots(len(rows), len(columns), squeeze=False)
        for line, maps in zip(grid, heats, strict=True):
            for axes, heat in zip(line, maps, strict=True):
                _cells(axes, heat, whole)
                axes.set(xticks=[], yticks=[])
                if query is not None:
                    frame(axes, (query[1], query[0], query[1] + 1, query[0] + 1))
        for line, words in zip(grid, notes, strict=False):
            for axes, note in zip(line, words, strict=True):
                axes.set_xlabel(note, fontsize=8, labelpad=1)
        for axes, name in zip(grid[:, 0], rows, strict=True):
            axes.set_ylabel(name)
        for axes, name in zip(grid[0], columns, strict=True):
            axes.set_title(name, loc="center")
        figure.suptitle(title, x=0.02, ha="left")
        note = "bright: most; each map from its 5th to its 98.5th percentile"
        figure.supxlabel(note, x=0.02, ha="left", fontsize=9, color=FAINT)
    return closed(figure)


def attention_view(
    photo: NDArray,
    heat: NDArray,
    maps: NDArray,
    *,
    query: tuple[int, int] | None = None,
    chosen: tuple[slice, slice] | None = None,
    title: str = "",
    caption: str = "",
    form: Form = in_percent,
    paint: Paint = spotlight,
) -> Figure:
    """Draw one map twice, and beside it those of all heads (columns) and layers (rows).

    Args:
        photo: uint8 (H, W, 3), what the patches cover.
        heat: (rows, columns).
        maps: (layers, heads, rows, columns), each drawn on a scale of its own.
        query: row and column of the patch that looks; it is framed.
        chosen: the layers and the heads that `heat` comes from; they are framed.
        title: stands above the photograph.
        caption: stands below.
        form: how a number of the map is written.
        paint: `spotlight` or `overlay`.

    Raises:
        ValueError: maps of another shape.
    """
    if maps.ndim != 4:
        raise ValueError(f"expected maps (layers, heads, rows, columns), got {maps.shape}")
    layers, heads, rows, columns = maps.shape
    height, width = photo.shape[:2]
    seen = (0.0, 0.0, float(width), float(height))
    painted = paint(photo, heat, None)
    with plt.rc_context(STYLE):
        wide = 3.6 * min(width / height, 1.6)
        sheet = 3.6 * min(max(heads * columns / (layers * rows), 0.4), 1.6)
        figure, (lit, raw, all_heads) = plt.subplots(
            1, 3, figsize=(2 * wide + sheet + 0.9, 4.7), width_ratios=[wide, wide, sheet]
        )
        photo_axes(lit, painted, title)
        lit.set_anchor("N")
        _ring(lit, heat, seen)
        _map_axes(raw, heat, seen, "The map itself", form)
        if query is not None:
            frame(lit, _cell(query, (rows, columns), seen))
            frame(raw, (query[1], query[0], query[1] + 1, query[0] + 1))
        _sheet(all_heads, maps, chosen)
        figure.supxlabel(caption, x=0.02, ha="left", fontsize=10)
    return closed(figure)


def _sheet(axes: Axes, maps: NDArray, chosen: tuple[slice, slice] | None) -> None:
    """Draw small maps (layers, heads, rows, columns) in a table."""
    layers, heads, rows, columns = maps.shape
    sheet = np.ones((layers * (rows + 1), heads * (columns + 1), 3))
    for layer, head in np.ndindex(layers, heads):
        top, left = layer * (rows + 1), head * (columns + 1)
        tile = matplotlib.colormaps[MAP](map_shares(maps[layer, head]))[..., :3]
        sheet[top : top + rows, left : left + columns] = tile
    axes.imshow(sheet, interpolation="nearest")
    axes.set_title("Every head of every layer")
    axes.set_xticks(np.arange(heads) * (columns + 1) + columns / 2 - 0.5, map(str, range(heads)))
    axes.set_yticks(np.arange(layers) * (rows + 1) + rows / 2 - 0.5, map(str, range(layers)))
    axes.set(xlabel="head", ylabel="layer", anchor="N")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if chosen is not None:
        tops, lefts = (
            range(*part.indices(n)) for part, n in zip(chosen, (layers, heads), strict=True)
        )
        box = (
            lefts[0] * (columns + 1), tops[0] * (rows + 1),
            (lefts[-1] + 1) * (columns + 1) - 1, (tops[-1] + 1) * (rows + 1) - 1,
        )  # fmt: skip
        frame(axes, box)


def _cells(axes: Axes, heat: NDArray, view: View, scale: Scale | None = None) -> None:
    """Draw a map's numbers as cells of the shape that its patches have on the photograph."""
    rows, columns = heat.shape
    tall, wide = (view[3] - view[1]) / rows, (view[2] - view[0]) / columns
    axes.imshow(
        map_shares(heat, scale), cmap=MAP, vmin=0, vmax=1, interpolation="nearest",
        aspect=tall / wide,
    )  # fmt: skip
    axes.spines[:].set_visible(False)


def _map_axes(
    axes: Axes, heat: NDArray, view: View, title: str, form: Form, scale: Scale | None = None
) -> None:
    """Draw a map with numbered rows and columns, and its scale below."""
    _cells(axes, heat, view, scale)
    axes.set(title=title, anchor="N")
    axes.set_xlabel(" ", labelpad=20)  # room for the scale
    for axis, count in ((axes.xaxis, heat.shape[1]), (axes.yaxis, heat.shape[0])):
        axis.set_ticks(range(0, count, -(-count // 8)))
    axes.tick_params(length=0, labelsize=8, labelcolor=FAINT)
    place = strongest(heat)
    if place is not None:
        row, column = place
        for colour, width in (("white", 3.2), ("#111111", 1.2)):
            axes.add_patch(
                Circle((column, row), 0.62, fill=False, edgecolor=colour, lw=width, clip_on=False)
            )
    low, high = (form(value) for value in scale or map_scale(heat))
    bar = axes.inset_axes((0.22, -0.17, 0.56, 0.05))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=MAP, aspect="auto")
    bar.set(xticks=[], yticks=[])
    bar.spines[:].set_visible(False)
    for x, align, words in ((-0.04, "right", f"≤ {low}"), (1.04, "left", f"≥ {high}")):
        text = bar.text(x, 0.5, words, ha=align, va="center", transform=bar.transAxes)
        text.set(fontsize=8, color=FAINT)


def _ring(axes: Axes, heat: NDArray, view: View) -> None:
    """Circle the strongest patch on the photograph, if one is."""
    place = strongest(heat)
    if place is None:
        return
    left, top, right, bottom = _cell(place, heat.shape, view)
    middle = ((left + right - 1) / 2, (top + bottom - 1) / 2)
    radius = 0.62 * max(right - left, bottom - top)
    for colour, width in (("#111111", 3.2), ("#ffd54a", 1.6)):
        axes.add_patch(
            Circle(middle, radius, fill=False, edgecolor=colour, lw=width, clip_on=False)
        )


def _cell(place: tuple[int, int], grid: tuple[int, ...], view: View) -> View:
    """Return left, top, right, bottom of a patch (row, column) in pixels of the photograph."""
    (row, column), (left, top, right, bottom) = place, view
    high, wide = (bottom - top) / grid[0], (right - left) / grid[1]
    return (
        left + column * wide,
        top + row * high,
        left + (column + 1) * wide,
        top + (row + 1) * high,
    )

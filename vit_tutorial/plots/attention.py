"""Attention: three tokens by hand, tables of weights, heads, what a scale and a long sequence do.

Queries are drawn in the first colour of the palette, keys in the second, values in the third.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from vit_tutorial.plots.style import FAINT, HEAT, INK, PALETTE, STYLE, closed

QUERY, KEY, VALUE, OUTPUT = PALETTE[:4]
OTHERS = (PALETTE[3], INK, FAINT)  # what is neither query nor key nor value
MARKERS = "osD^"


def attention_by_hand(
    queries: NDArray, keys: NDArray, values: NDArray, weights: NDArray, outputs: NDArray
) -> Figure:
    """Draw attention among a few tokens in the plane: arrows, the table of weights, the blends.

    Args:
        queries: (T, 2), as are `keys`, `values` and `outputs`.
        keys: what the queries are compared with.
        values: what is blended.
        weights: (T, T), a row for each query.
        outputs: one blend of the values for each query.

    Raises:
        ValueError: another shape.
    """
    count = len(queries)
    for name, points in dict(queries=queries, keys=keys, values=values, outputs=outputs).items():
        if points.shape != (count, 2):
            raise ValueError(f"expected {name} of shape ({count}, 2), got {points.shape}")
    _require_table(weights, (count, count))
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(9.2, 3.5), width_ratios=[1.05, 0.95, 1.05]
        )
        for points, letter, colour in ((keys, "k", KEY), (queries, "q", QUERY)):
            _arrows(left, points, letter, colour)
        _plane(left, np.concatenate([queries, keys, np.zeros((1, 2))]), 0.45)
        left.set_title("queries and keys")
        _table(middle, weights, "weights", sums=True)
        middle.set_box_aspect(1)
        middle.set(xlabel="of key", ylabel="for query")
        right.add_patch(Polygon(values, facecolor=VALUE, alpha=0.13, edgecolor="none"))
        step = np.ptp(values) * 0.035
        for points, letter, colour in ((values, "v", VALUE), (outputs, "out ", OUTPUT)):
            right.scatter(*points.T, s=46, color=colour, zorder=3, clip_on=False)
            for i, (x, y) in enumerate(points):
                right.text(x + step, y + step, f"{letter}{i}", color=colour, weight="bold")
        _plane(right, values, np.ptp(values) * 0.16)
        right.set_title("values and outputs")
    return closed(figure)


def _arrows(axes: Axes, points: NDArray, letter: str, colour: str) -> None:
    """Draw vectors from the origin, a name at the tip of each; a zero vector is a dot."""
    for i, (x, y) in enumerate(points):
        length = np.hypot(x, y)
        away = np.array([x, y]) / length if length else np.array([-1.0, 0.9])
        if length:
            axes.annotate(
                "", (x, y), (0, 0), arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=2)
            )
        else:
            axes.plot(0, 0, "o", color=colour, zorder=3)
        name = axes.text(x + 0.22 * away[0], y + 0.22 * away[1], f"{letter}{i}", color=colour)
        name.set(ha="center", va="center", weight="bold")


def _plane(axes: Axes, points: NDArray, margin: float) -> None:
    """Give a plane equal units, integers on its axes and thin lines through the origin."""
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#dddddd", linewidth=0.8, zorder=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set(xlabel="first number", ylabel="second number")


def weight_tables(tables: Sequence[NDArray], titles: Sequence[str]) -> Figure:
    """Draw small tables of numbers side by side, a row for each query.

    Tables of weights, all from 0 to 1, are coloured, and each row's sum stands beside it. Others
    stay white. What is not a number is hatched.

    Args:
        tables: each (queries, keys).
        titles: one for each.

    Raises:
        ValueError: another number of titles, or something that is not a table.
    """
    if len(tables) != len(titles):
        raise ValueError(f"{len(tables)} tables need as many titles, got {len(titles)}")
    for table in tables:
        _require_table(table, table.shape)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(tables), figsize=(min(3.1 * len(tables), 9.2), 3.0), squeeze=False
        )
        for axis, table, title in zip(axes[0], tables, titles, strict=True):
            are_weights = np.nanmin(table) >= 0 and np.nanmax(table) <= 1
            _table(axis, table, title, sums=bool(are_weights))
            axis.set_xlabel("key")
        axes[0, 0].set_ylabel("query")
    return closed(figure)


def _table(axes: Axes, table: NDArray, title: str, sums: bool) -> None:
    """Draw a table with its numbers; with `sums`, coloured as weights, and with the rows' sums."""
    rows, columns = table.shape
    displayed = np.where(np.isfinite(table), table, 0.0) if sums else np.zeros(table.shape)
    axes.imshow(displayed, cmap=HEAT if sums else "binary", vmin=0, vmax=1, aspect="auto")
    size = 10 if columns <= 4 else 8
    for (row, column), value in np.ndenumerate(table):
        text = f"{value:.2f}" if sums else f"{value:.3g}".replace("-", "−")
        if np.isnan(value):
            text = "NaN"
            axes.add_patch(_cell(row, column, hatch="////", facecolor="white", edgecolor="#bbbbbb"))
        elif np.isinf(value):
            text = "−∞" if value < 0 else "∞"
        dark = sums and displayed[row, column] < 0.55 and not np.isnan(value)
        number = axes.text(column, row, text, ha="center", va="center", fontsize=size)
        number.set_color("white" if dark else INK)
        if not sums:
            axes.add_patch(_cell(row, column, fill=False, edgecolor="#cccccc", linewidth=0.8))
    if sums:
        for row, total in enumerate(table.sum(axis=1)):
            even = abs(total - 1) < 5e-3
            shown = "NaN" if np.isnan(total) else f"{total:.2f}"
            text = axes.text(columns - 0.4, row, f"= {shown}", va="center", fontsize=size)
            text.set(color=FAINT if even else PALETTE[1], weight="normal" if even else "bold")
    axes.set(title=title, xticks=range(columns), yticks=range(rows))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for labels, colour in ((axes.get_xticklabels(), KEY), (axes.get_yticklabels(), QUERY)):
        for label in labels:
            label.set(color=colour, weight="bold")


def _cell(row: int, column: int, **how: object) -> Rectangle:
    cell = Rectangle((column - 0.5, row - 0.5), 1, 1)
    cell.set(**how)
    return cell


def score_scales(
    dims: Sequence[int],
    variances: NDArray,
    entropies: Mapping[str, NDArray],
    reactions: Mapping[str, NDArray],
) -> Figure:
    """Draw, against the width d of queries and keys, what scores grow to and what weights do.

    Args:
        dims: the widths.
        variances: of the scores, before any scale.
        entropies: for each scale by name, entropy as a share of the greatest, 0 to 1.
        reactions: for each scale, how much the weights change with the query, above 0.

    Raises:
        ValueError: a curve of another length than `dims`.
    """
    for curve in (variances, *entropies.values(), *reactions.values()):
        if len(curve) != len(dims):
            raise ValueError(f"{len(dims)} widths need curves as long, got one of {len(curve)}")
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.2, 3.3))
        left.plot(dims, dims, color="#cccccc", linewidth=5, label="d", solid_capstyle="round")
        left.plot(dims, variances, "o-", color=INK, label="measured")
        left.set(yscale="log", title="variance of the scores")
        left.yaxis.set_minor_locator(NullLocator())
        left.legend(frameon=False, loc="upper left")
        for axes, curves in ((middle, entropies), (right, reactions)):
            for index, (name, curve) in enumerate(curves.items()):
                axes.plot(dims, curve, marker=MARKERS[index], color=OTHERS[-1 - index], label=name)
        middle.set_ylim(0, 1.08)
        middle.axhline(1, color=FAINT, linewidth=0.8, linestyle=":")
        middle.set_title("entropy of the weights / ln T")
        right.set(yscale="log", title="how much weights react to the query")
        right.yaxis.set_minor_locator(NullLocator())
        figure.legend(
            *middle.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
        )
        for axes in (left, middle, right):
            axes.set(xscale="log", xlabel="width d of a query")
            axes.set_xticks(dims, [str(d) for d in dims])
            axes.xaxis.set_minor_locator(NullLocator())
    return closed(figure)


def weight_bars(weights: NDArray, title: str, subtitle: str = "") -> Figure:
    """Draw the weights of one query as bars, a line where an even share would be.

    Raises:
        ValueError: not one row of weights that are 0 or more.
    """
    if weights.ndim != 1 or not (weights >= 0).all():
        raise ValueError(f"expected weights (T,) from 0 up, got {weights.shape}")
    count = len(weights)
    with plt.rc_context({**STYLE, "figure.constrained_layout.use": False}):
        figure, axes = plt.subplots(figsize=(7.2, 2.4))
        figure.subplots_adjust(left=0.09, right=0.985, top=0.8, bottom=0.2)
        axes.bar(range(count), weights, color=QUERY, width=0.75)
        name = f"an even share, 1/{count}"
        axes.axhline(1 / count, color=FAINT, linewidth=1.2, linestyle="--", label=name)
        axes.legend(frameon=False, loc="upper right", labelcolor=FAINT)
        axes.set(xlabel="key", ylabel="weight", ylim=(0, 1), xlim=(-0.6, count - 0.4))
        axes.set_xticks(range(count))
        figure.text(0.09, 0.93, title, fontsize=11)
        figure.text(0.09, 0.85, subtitle, fontsize=10, color=FAINT)
    return closed(figure)


def token_tables(tables: Sequence[NDArray], titles: Sequence[str]) -> Figure:
    """Draw tables of names "token.channel"; the colour of a cell says the token of its origin.

    Args:
        tables: integers (rows, columns, 2), the token and the channel of each cell.
        titles: one for each table.

    Raises:
        ValueError: another shape, or another number of titles.
    """
    if len(tables) != len(titles):
        raise ValueError(f"{len(tables)} tables need as many titles, got {len(titles)}")
    if any(table.ndim != 3 or table.shape[2] != 2 for table in tables):
        raise ValueError("expected tables of shape (rows, columns, 2)")
    most = max(int(table[..., 0].max()) for table in tables)
    widths = [table.shape[1] for table in tables]
    with plt.rc_context(STYLE):
        width = min(0.46 * sum(widths) + 0.75 * len(tables), 9.2)
        figure, axes = plt.subplots(
            1, len(tables), figsize=(width, 2.5), width_ratios=widths, squeeze=False
        )
        for axis, table, title in zip(axes[0], tables, titles, strict=True):
            axis.imshow(table[..., 0], cmap=HEAT, vmin=0, vmax=max(most, 1), aspect="auto")
            for row, column in np.ndindex(table.shape[:2]):
                token, channel = table[row, column]
                cell = axis.text(column, row, f"{token}.{channel}", ha="center", va="center")
                cell.set(fontsize=9, color="white" if token <= most / 2 else INK)
            axis.set(title=title, xticks=[], yticks=range(table.shape[0]))
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            axis.set_ylabel("row" if axis is axes[0, 0] else "")
    return closed(figure)


def offset_maps(maps: NDArray, titles: Sequence[str], even: float) -> Figure:
    """Draw where heads look, seen from the query in the middle: weight by rows and columns away.

    Args:
        maps: (n, 2 * reach + 1, 2 * reach + 1), the mean weight at each offset.
        titles: one for each map.
        even: the weight that every token would get if all got the same.

    Raises:
        ValueError: another shape, or another number of titles.
    """
    if maps.ndim != 3 or maps.shape[1] != maps.shape[2] or maps.shape[1] % 2 == 0:
        raise ValueError(f"expected maps (n, odd, odd), got {maps.shape}")
    if len(titles) != len(maps):
        raise ValueError(f"{len(maps)} maps need as many titles, got {len(titles)}")
    reach, columns = maps.shape[1] // 2, min(len(maps), 4)
    rows = -(-len(maps) // columns)
    edges = (-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(min(9.2, 2.3 * columns + 0.6), 2.05 * rows + 0.5),
            squeeze=False,
            sharex=True,
            sharey=True,
        )
        for axis in axes.flat[len(maps) :]:
            axis.set_visible(False)
        for axis, heat, title in zip(axes.flat, maps, titles, strict=False):
            axis.imshow(heat, cmap=HEAT, vmin=0, extent=edges, interpolation="nearest")
            _square(axis, (-0.5, -0.5, 0.5, 0.5))
            axis.set_title(f"{title}\nmost: {heat.max() / even:.1f}× even", fontsize=9)
            axis.set(xticks=[-reach, 0, reach], yticks=[-reach, 0, reach])
            axis.spines[:].set_visible(False)
        figure.supxlabel("columns away from the query", fontsize=10)
        figure.supylabel("rows away", fontsize=10)
    return closed(figure)


def _square(axes: Axes, box: tuple[float, float, float, float]) -> None:
    """Outline a box in two colours, so that it shows on any heat."""
    left, top, right, bottom = box
    for colour, width in (("white", 3.4), (QUERY, 1.8)):
        outline = Rectangle((left, top), right - left, bottom - top, fill=False)
        outline.set(edgecolor=colour, linewidth=width)
        axes.add_patch(outline)


def cost_curves(
    lengths: Sequence[int], seconds: Mapping[str, NDArray], mebibytes: Mapping[str, NDArray]
) -> Figure:
    """Draw time and memory against the number of tokens T, both axes logarithmic.

    Raises:
        ValueError: a curve of another length than `lengths`.
    """
    for curve in (*seconds.values(), *mebibytes.values()):
        if len(curve) != len(lengths):
            raise ValueError(f"{len(lengths)} lengths need curves as long, got {len(curve)}")
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7))
        for axes, curves, label in (
            (left, {k: 1000 * np.asarray(v) for k, v in seconds.items()}, "milliseconds"),
            (right, mebibytes, "mebibytes"),
        ):
            for index, (name, curve) in enumerate(curves.items()):
                axes.plot(lengths, curve, marker=MARKERS[index], color=OTHERS[index], label=name)
            axes.set(xscale="log", yscale="log", xlabel="tokens T", ylabel=label)
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
            axes.grid(color="#eeeeee")
            axes.legend(frameon=False, loc="upper left")
        left.set_title("time for T tokens")
        right.set_title("memory of the result")
    return closed(figure)


def loss_curves(losses: Mapping[str, Sequence[float]], chance: float) -> Figure:
    """Draw training losses, step by step, with a line for the loss of guessing.

    Raises:
        ValueError: no losses, or more curves than there are colours to tell them apart.
    """
    if not 1 <= len(losses) <= len(OTHERS):
        raise ValueError(f"expected 1 to {len(OTHERS)} curves, got {len(losses)}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 3.1))
        for (name, values), colour in zip(losses.items(), OTHERS, strict=False):
            axes.plot(values, color=colour, label=name, linewidth=1.6)
        axes.axhline(chance, color=FAINT, linewidth=1, linestyle="--")
        axes.annotate(
            "guessing", (1, chance), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", color=FAINT,
        )  # fmt: skip
        axes.set(xlabel="training step", ylabel="loss (cross-entropy)", ylim=(0, chance * 1.2))
        axes.legend(frameon=False, loc="lower left")
    return closed(figure)


def _require_table(table: NDArray, shape: tuple[int, ...]) -> None:
    if table.ndim != 2 or table.shape != shape:
        raise ValueError(f"expected a table of weights {shape}, got {table.shape}")

"""Looking inside: every head in numbers, the paths that rollout counts, principal filters."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from vit_tutorial.plots.embedding import as_pictures
from vit_tutorial.plots.style import FAINT, INK, PALETTE, STYLE, closed

MARKS = ("o", "s", "^", "D")


def head_dots(
    panels: Mapping[str, Mapping[str, NDArray]],
    landmarks: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw a dot for every head against its layer, a panel for each number that is measured.

    Args:
        panels: what is measured -> name of a network -> (layers, heads).
        landmarks: what is measured -> name of a value to compare with -> that value.

    Raises:
        ValueError: no panel, more networks than marks, or numbers that are not (layers, heads).
    """
    landmarks = landmarks or {}
    if not panels or not all(1 <= len(networks) <= len(MARKS) for networks in panels.values()):
        raise ValueError(f"expected at least one panel, each of 1 to {len(MARKS)} networks")
    for networks in panels.values():
        for name, numbers in networks.items():
            if np.ndim(numbers) != 2:
                raise ValueError(f"{name}: expected (layers, heads), got {np.shape(numbers)}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.7), squeeze=False)
        for axis, (title, networks) in zip(axes[0], panels.items(), strict=True):
            for index, (name, numbers) in enumerate(networks.items()):
                _dots(axis, np.asarray(numbers), index, name)
            for name, value in landmarks.get(title, {}).items():
                axis.axhline(
                    value, color=FAINT, linewidth=1.4, linestyle="--", label=name, zorder=0
                )
            axis.set(xlabel="layer", title=title)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.margins(y=0.14)
            axis.grid(axis="y", color="#eeeeee")
            axis.set_axisbelow(True)
        named = {}
        for axis in axes[0]:
            handles, names = axis.get_legend_handles_labels()
            named |= dict(zip(names, handles, strict=True))
        figure.legend(
            named.values(), named, loc="outside lower center", ncols=len(named), frameon=False
        )
    return closed(figure)


def _dots(axis: Axes, numbers: NDArray, index: int, name: str) -> None:
    """Draw the heads of each layer beside each other, so that equal ones do not hide."""
    layers, heads = numbers.shape
    spread = np.linspace(-0.24, 0.24, heads) if heads > 1 else np.zeros(1)
    positions = np.arange(layers)[:, None] + spread
    colour = PALETTE[index]
    axis.scatter(
        positions, numbers, marker=MARKS[index], s=44, color="white" if index else colour,
        edgecolor=colour, linewidth=1.6, label=name, zorder=3 - index,
    )  # fmt: skip


def token_paths(tables: NDArray, query: int, names: Sequence[str], title: str = "") -> Figure:
    """Draw how one token's share goes back through layers, path by path, to its origin.

    Orange lines go to another token, blue ones stay. The wider, the more goes along.

    Args:
        tables: (layers, T, T), the oldest first; row i says what token i takes from each, sum 1.
        query: the token on the right that is followed back.
        names: of the T tokens.
        title: what is seen.

    Raises:
        ValueError: tables of another shape, rows that do not add up to 1, or no such token.
    """
    tables = np.asarray(tables, dtype=float)
    if tables.ndim != 3 or tables.shape[1:] != (len(names), len(names)):
        raise ValueError(f"{len(names)} tokens need (layers, T, T), got {tables.shape}")
    if not np.allclose(tables.sum(axis=-1), 1):
        raise ValueError("expected rows that add up to 1")
    if query not in range(len(names)):
        raise ValueError(f"query must be from 0 to {len(names) - 1}, got {query}")
    shares = [np.eye(len(names))[query]]
    for table in tables[::-1]:
        shares.insert(0, shares[0] @ table)
    with plt.rc_context(STYLE):
        size = (2.3 * len(tables) + 2.2, 0.85 * len(names) + 1.1)
        figure, axis = plt.subplots(figsize=size)
        for layer, table in enumerate(tables):
            parts = shares[layer + 1][:, None] * table
            for i, j in np.argwhere(parts > 1e-9).tolist():
                _path(axis, (layer, j), (layer + 1, i), float(parts[i, j]))
        for level, row in enumerate(shares):
            for token, share in enumerate(row):
                _token(axis, level, token, share)
        axis.set_yticks(range(len(names)), names)
        levels = ["comes in", *(f"after layer {layer}" for layer in range(len(tables)))]
        axis.set_xticks(range(len(levels)), levels)
        axis.set(xlim=(-0.3, len(tables) + 0.3), ylim=(len(names) - 0.5, -0.5))
        axis.set_title(title)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    return closed(figure)


def _path(axis: Axes, start: tuple[int, int], stop: tuple[int, int], part: float) -> None:
    colour = PALETTE[0] if start[1] == stop[1] else PALETTE[1]
    x, y = zip(start, stop, strict=True)
    axis.plot(x, y, color=colour, alpha=0.55, linewidth=1 + 11 * part, solid_capstyle="butt")
    label = axis.text(sum(x) / 2, sum(y) / 2, f"{part:.3g}", fontsize=9, color=colour)
    label.set(ha="center", va="center")
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.9})


def _token(axis: Axes, level: int, token: int, share: float) -> None:
    taken = share > 1e-9
    axis.scatter(
        level, token, s=880, color="white", edgecolor=INK if taken else "#cccccc",
        linewidth=1.4 if taken else 1.0, zorder=4,
    )  # fmt: skip
    text = axis.text(level, token, f"{share:.3g}", ha="center", va="center", zorder=5, fontsize=9)
    text.set(color=INK if taken else "#aaaaaa", weight="bold" if taken else "normal")


def component_shares(components: NDArray, shares: Mapping[str, NDArray], title: str = "") -> Figure:
    """Draw principal components as pictures, and above each how much of all filters it makes up.

    Args:
        components: (K, 3, P, P) or (K, 1, P, P), the first one first.
        shares: name of a network -> (K,), from 0 to 1; the pictures belong to the first of them.
        title: what is seen.

    Raises:
        ValueError: components of another shape, no network, or another number of shares.
    """
    tiles = as_pictures(components)
    if not shares or any(np.shape(values) != (len(tiles),) for values in shares.values()):
        raise ValueError(f"{len(tiles)} components need as many shares")
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9, 3.6))
        grid = figure.add_gridspec(2, 1, height_ratios=[4.5, 1])
        axes = figure.add_subplot(grid[0])
        for index, (name, values) in enumerate(shares.items()):
            axes.plot(
                values, marker=MARKS[index], color=PALETTE[index], markersize=5, label=name,
                markerfacecolor="white" if index else PALETTE[index],
            )  # fmt: skip
        axes.set(xlim=(-0.6, len(tiles) - 0.4), ylim=(0, None), title=title)
        axes.set_ylabel("share of the variance")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.tick_params(labelbottom=False, bottom=False)
        axes.grid(axis="y", color="#eeeeee")
        axes.legend(frameon=False, loc="upper right")
        strip = figure.add_subplot(grid[1])
        for x, tile in enumerate(tiles):
            box = (x - 0.43, x + 0.43, 0, 0.86)
            strip.imshow(tile, interpolation="nearest", extent=box, aspect="equal")
        strip.set(xlim=(-0.6, len(tiles) - 0.4), ylim=(-0.05, 0.91), yticks=[])
        strip.set_xticks(range(len(tiles)), [str(x) for x in range(len(tiles))], fontsize=8)
        strip.set_xlabel("principal component")
        strip.spines[:].set_visible(False)
        strip.tick_params(length=0)
    return closed(figure)

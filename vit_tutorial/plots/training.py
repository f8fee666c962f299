"""A training and its results: curves, augmentation, what ingredients are worth, mistakes."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vit_tutorial.plots.photographs import photo_axes
from vit_tutorial.plots.style import ACCENT, FAINT, HEAT, INK, PALETTE, STYLE, closed

WRONG, NORMAL, GRID = PALETTE[1], PALETTE[2], "#e8e8e8"
FEW = 12  # points up to which each is marked on its line
MOST_COUNTED = 20  # classes up to which a confusion matrix has its counts written in
MOST_STACKED = 7  # rows of a gallery that stand below each other


def training_curve(
    rows: Sequence[Mapping[str, float]],
    chance: float | None = None,
    bands: Mapping[str, ArrayLike] | None = None,
    measured: str = "Test accuracy",
) -> Figure:
    """Draw loss and test accuracy over the epochs, the last value of each beside its line.

    Args:
        rows: with "epoch", "loss" and, where it was measured, "test_accuracy" in percent.
        chance: the loss of guessing, ln C for C equally frequent classes; it is marked, and so is
            the accuracy of guessing, exp(-chance).
        bands: "loss" or "test_accuracy" -> (2, epochs), the lowest and the highest value that is
            normal after epoch 1, 2, ...; there may be more epochs than rows.
        measured: what the accuracy is, where it was measured on other images than the test set's.

    Raises:
        ValueError: no rows, or bands of another name or shape.
    """
    edges = {name: np.asarray(band, dtype=float) for name, band in (bands or {}).items()}
    if not rows:
        raise ValueError("expected at least one row, got none")
    for name, band in edges.items():
        if name not in ("loss", "test_accuracy") or band.ndim != 2 or len(band) != 2:
            raise ValueError(
                f'bands are of "loss" or "test_accuracy", (2, epochs), got {name!r} {band.shape}'
            )
    last = max(max(row["epoch"] for row in rows), *(band.shape[1] for band in edges.values()), 2)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
        for axes, name, colour in ((left, "loss", PALETTE[0]), (right, "test_accuracy", WRONG)):
            points = np.array([(r["epoch"], r[name]) for r in rows if name in r]).reshape(-1, 2)
            if name in edges:
                low, high = edges[name]
                epochs = np.arange(1, len(low) + 1)
                axes.fill_between(epochs, low, high, color=NORMAL, alpha=0.18, lw=0, label="normal")
            marker = "o" if len(points) <= FEW else ""
            axes.plot(*points.T, marker=marker, markersize=4, color=colour, linewidth=2)
            if len(points):
                _name_the_end(axes, points[-1], "{:.2f}" if axes is left else "{:.1f}%", colour)
            axes.set(xlabel="epoch", xlim=(1 - 0.02 * last, last * 1.02))
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.grid(axis="y", color=GRID, linewidth=0.8)
        left.set(title="Training loss", ylabel="cross-entropy")
        right.set(title=measured, ylabel="percent", ylim=(0, 100))
        if chance is not None:
            _mark(left, chance, "guessing")
            _mark(right, 100 * np.exp(-chance), "guessing")
        left.set_ylim(0, 1.08 * max(left.get_ylim()[1], chance or 0))
        for axes in (left, right):
            if axes.get_legend_handles_labels()[0]:  # outside, where no line can run through it
                axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.02, 0.97))
    return closed(figure)


def _name_the_end(axes: Axes, point: NDArray, form: str, colour: str) -> None:
    axes.annotate(
        form.format(point[1]), tuple(point), (6, 0), textcoords="offset points", color=colour,
        va="center", weight="bold", annotation_clip=False,
    )  # fmt: skip


def _mark(axes: Axes, level: float, name: str) -> None:
    """Draw a dashed line across, named at its right end."""
    axes.axhline(level, color=FAINT, linewidth=1, linestyle="--", zorder=1)
    axes.annotate(
        name, (1, level), (0, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", color=FAINT,
    )  # fmt: skip


def runs_and_band(first: ArrayLike, others: ArrayLike, ylabel: str) -> Figure:
    """Draw further runs against the band of the first ones, as differences from the band's mean.

    A dot stands where a run is outside the band.

    Args:
        first: (runs, epochs), which make the band, from the lowest to the highest.
        others: (runs, epochs), a line for each.
        ylabel: what was measured.

    Raises:
        ValueError: other shapes, or other numbers of epochs.
    """
    band, runs = np.asarray(first, dtype=float), np.asarray(others, dtype=float)
    if band.ndim != 2 or runs.ndim != 2 or band.shape[1] != runs.shape[1] or not band.size:
        raise ValueError(f"expected twice (runs, epochs), got {band.shape} and {runs.shape}")
    mean, low, high = band.mean(axis=0), band.min(axis=0), band.max(axis=0)
    epochs = np.arange(1, band.shape[1] + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.2, 3.3))
        axes.fill_between(
            epochs, low - mean, high - mean, color=NORMAL, alpha=0.3, lw=0,
            label=f"band of the first {len(band)}",
        )  # fmt: skip
        for i, run in enumerate(runs):
            outside = (run < low) | (run > high)
            label = "each of the others" if not i else None
            axes.plot(epochs, run - mean, color=FAINT, linewidth=1, label=label)
            label = "outside" if not i else None
            axes.plot(epochs[outside], (run - mean)[outside], "o", color=WRONG, markersize=5,
                      label=label)  # fmt: skip
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.legend(frameon=False)
    return closed(figure)


def sick_curves(
    runs: Sequence[Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    chance: float | None = None,
    xlabel: str = "training step",
) -> Figure:
    """Draw runs side by side on the same axes, titled A, B, C, ...: what is wrong with each?

    Args:
        runs: for each column, the name of a curve -> its training losses, one per step, and its
            accuracies in percent on validation images, measured evenly, the last time at the end.
            The first curve of a column is the one to look at; the others are drawn faintly.
        chance: the loss of guessing, marked. Losses above twice that run out of the picture, which
            then says how far they go.
        xlabel: what is counted.

    Raises:
        ValueError: no runs, a column without a curve, or a curve without losses or accuracies.
    """
    if not runs or not all(runs):
        raise ValueError(f"expected runs with at least one curve each, got {len(runs)} runs")
    curves = [pair for run in runs for pair in run.values()]
    if not all(len(losses) and len(accuracies) for losses, accuracies in curves):
        sizes = [(len(losses), len(accuracies)) for losses, accuracies in curves]
        raise ValueError(f"every curve needs losses and accuracies, got {sizes} of them")
    finite = np.concatenate([np.asarray(losses, dtype=float) for losses, _ in curves])
    highest = finite[np.isfinite(finite)].max(initial=1e-3)
    top = 2 * chance if chance else 1.05 * highest
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2,
            len(runs),
            figsize=(min(9.2, 2.1 * len(runs) + 1.2), 3.9),
            sharex=True,
            sharey="row",
            squeeze=False,
        )
        for column, (upper, lower) in enumerate(grid.T):
            upper.set_title(chr(ord("A") + column), weight="bold")
            for i, (name, (losses, accuracies)) in enumerate(runs[column].items()):
                how = dict(color=FAINT, linewidth=1.2) if i else dict(color=ACCENT, linewidth=1.6)
                front = 2 if i else 3
                upper.plot(range(1, len(losses) + 1), losses, label=name, zorder=front, **how)
                steps = len(losses) * np.arange(1, len(accuracies) + 1) / len(accuracies)
                lower.plot(steps, accuracies, zorder=front, **how)
                most = np.nanmax([0, *losses])
                if i == 0 and most > top:
                    label = f"↑ up to {most:.3g}"
                    upper.text(0.97, 0.97, label, transform=upper.transAxes, color=ACCENT,
                               ha="right", va="top", fontsize=9)  # fmt: skip
            for axes, level in ((upper, chance), (lower, chance and 100 * np.exp(-chance))):
                axes.grid(axis="y", color=GRID, linewidth=0.8)
                if level is not None:
                    axes.axhline(level, color=FAINT, linewidth=1, linestyle="--", zorder=1,
                                 label="guessing" if axes is upper else None)  # fmt: skip
        grid[0, 0].set(ylabel="training loss", ylim=(0, top))
        grid[1, 0].set(ylabel="validation accuracy, %", ylim=(0, 100))
        figure.supxlabel(xlabel, fontsize=10)
        longest = max(grid[0], key=lambda axes: len(axes.get_legend_handles_labels()[0]))
        handles, names = longest.get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(
                handles, names, loc="outside upper right", ncols=len(names), frameon=False
            )
    return closed(figure)


def lr_finder_curve(
    rates: Sequence[float], losses: Sequence[float], chosen: float | None = None
) -> Figure:
    """Draw the loss against a learning rate that rises step by step, and the rate that was chosen.

    Dots are what was measured, the line is the average of each with its neighbours. What rises
    above one and a half times the first loss runs out of the picture.

    Args:
        rates: above 0.
        losses: one for each rate; the last may be infinite or not a number.
        chosen: one rate, to be marked.

    Raises:
        ValueError: fewer than two rates, rates that are not above 0, other numbers of losses, or no
            loss that is a finite number.
    """
    x, y = np.asarray(rates, dtype=float), np.asarray(losses, dtype=float)
    if x.ndim != 1 or len(x) < 2 or x.shape != y.shape or not (x > 0).all():
        raise ValueError(
            f"expected two or more rates above 0 with a loss each, got {x.shape} and {y.shape}"
        )
    finite = np.isfinite(y)
    if not finite.any():
        raise ValueError("expected at least one loss that is a finite number, got none")
    x, y = x[finite], y[finite]
    window = np.ones(2 * (len(y) // 30) + 1)  # centred, or the line would lag behind the dots
    line = np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.0, 3.4))
        axes.plot(x, y, "o", color=FAINT, alpha=0.35, markersize=3.5, mew=0, label="each step")
        axes.plot(x, line, color=ACCENT, linewidth=2, label="average with neighbours")
        axes.set(
            xscale="log",
            xlim=(min(rates), max(rates)),
            xlabel="learning rate",
            ylabel="loss (cross-entropy)",
        )
        axes.set_ylim(0 if y.min() < 0.3 * y[0] else 0.9 * y.min(), 1.5 * y[0])
        if chosen is not None:
            axes.axvline(chosen, color=WRONG, linewidth=1.5)
            axes.annotate(
                f"chosen: {chosen:.2g}", (chosen, 1), (-5, -4), va="top", ha="right", color=WRONG,
                xycoords=("data", "axes fraction"), textcoords="offset points", weight="bold",
            )  # fmt: skip
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.legend(frameon=False, loc="lower left")
    return closed(figure)


def ablation_bars(names: Sequence[str], values: Sequence[Sequence[float]], baseline: str) -> Figure:
    """Draw what each change does to the accuracy: a bar from the baseline's mean to its own.

    Sorted, the best on top. A dot is a seed; the grey band holds the seeds of the baseline, so a
    bar that ends inside it may be a random difference.

    Args:
        names: what was changed, the baseline among them.
        values: for each name, the test accuracy of every seed in percent.
        baseline: one of the names.

    Raises:
        ValueError: other numbers of names and values, a name without a value, or no such baseline.
    """
    if len(names) != len(values) or not all(len(seeds) for seeds in values):
        sizes = [len(seeds) for seeds in values]
        raise ValueError(f"{len(names)} names need a value or more each, got {sizes} values")
    if baseline not in names:
        raise ValueError(f"the baseline must be one of {', '.join(names)}, got {baseline!r}")
    means = np.array([np.mean(seeds) for seeds in values])
    own = values[list(names).index(baseline)]
    base = float(np.mean(own))
    order = np.argsort(-means, kind="stable")
    lowest, highest = min(map(min, values)), max(map(max, values))
    margin = max(0.05 * (highest - lowest), 0.2)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 0.36 * len(names) + 1.2))
        axes.axvspan(min(own), max(own), color="#ececec", lw=0, zorder=0)
        axes.axvline(base, color=INK, linewidth=1)
        for y, index in enumerate(order):
            mean, is_base = means[index], names[index] == baseline
            colour = INK if is_base else ACCENT if mean > base else WRONG
            tint = 0.55 * np.array(to_rgb(colour)) + 0.45
            axes.barh(y, mean - base, left=base, height=0.62, color=tint, lw=0)
            seeds = values[index]
            axes.plot(seeds, [y] * len(seeds), "o", color=colour, markersize=4.5, mec="white")
            gain = "" if is_base else _signed(mean - base)
            axes.text(1.08, y, f"{mean:.1f}", transform=axes.get_yaxis_transform(),
                      ha="right", va="center", weight="bold" if is_base else "normal")  # fmt: skip
            axes.text(1.185, y, gain, transform=axes.get_yaxis_transform(),
                      ha="right", va="center", color=colour, weight="bold")  # fmt: skip
        axes.set_yticks(range(len(names)), [names[i] for i in order])
        for label, index in zip(axes.get_yticklabels(), order, strict=True):
            label.set(weight="bold" if names[index] == baseline else "normal")
        axes.set(
            xlim=(lowest - margin, highest + margin),
            ylim=(len(names) - 0.4, -0.6),
            xlabel="test accuracy, percent (a dot is a seed, a bar ends at their mean)",
        )
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return closed(figure)


def _signed(difference: float) -> str:
    text = f"{difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def confusion_matrix(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw how often each class (a row) was taken for each (a column), coloured by its share.

    Correct predictions stand on the diagonal; their share, the recall, is written beside the row.
    Up to 20 classes, the counts are written in the cells.

    Args:
        confusion: (C, C) counts.
        classes: the C names.

    Raises:
        ValueError: a table of another shape, or counts below 0.
    """
    counts = np.asarray(confusion)
    count = len(classes)
    if counts.shape != (count, count) or not count or (counts < 0).any():
        raise ValueError(
            f"{count} classes need counts of shape ({count}, {count}), 0 or more, "
            f"got {counts.shape}"
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    cell = min(0.5, 6.2 / count)  # inches
    side = max(cell * count, 1.7)
    name_room = 0.008 * (size := min(10.0, 45 * cell)) * max(map(len, classes))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            figsize=(side + name_room + 2.2, max(side + 0.75 * name_room + 0.75, 2.5))
        )
        norm = PowerNorm(0.5, 0, 1)  # rare mistakes are seen, too
        picture = axes.imshow(shares, cmap=HEAT, norm=norm)
        if count <= MOST_COUNTED:
            for (row, column), number in np.ndenumerate(counts):
                dark, weight = shares[row, column] < 0.25, "bold" if row == column else "normal"
                colour = INK if not dark else "white" if number else "#5d6f96"
                axes.text(column, row, f"{number:g}", ha="center", va="center", color=colour,
                          fontsize=0.9 * size, weight=weight)  # fmt: skip
        axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), classes)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.tick_params(length=0, labelsize=size)
        axes.spines[:].set_visible(False)
        axes.set_title("recall", loc="right", fontsize=9, color=FAINT, ha="left")
        for row, total in enumerate(totals[:, 0]):
            label = f"{shares[row, row]:.0%}" if total else "no images"
            axes.annotate(
                label, (1, row), (5, 0), xycoords=("axes fraction", "data"), va="center",
                textcoords="offset points", color=INK if total else FAINT, fontsize=0.9 * size,
            )  # fmt: skip
        bar = figure.colorbar(picture, ax=axes, shrink=0.8, aspect=22, pad=0.05)
        bar.set_label("share of the true class")
        bar.set_ticks([0, 0.05, 0.25, 0.5, 1], labels=["0", "5%", "25%", "50%", "100%"])
        bar.minorticks_off()
        bar.outline.set_visible(False)
    return closed(figure)


def worst_mistakes(
    images: NDArray,
    truths: Sequence[str],
    predictions: Sequence[str],
    confidences: Sequence[float],
    most: int = 12,
) -> Figure:
    """Draw the misclassified images of which the network was surest, the worst first.

    Args:
        images: uint8 (n, H, W) or (n, H, W, 3).
        truths: what each shows.
        predictions: the predicted classes.
        confidences: how sure it was, 0 to 1.
        most: how many are shown.

    Raises:
        ValueError: no images, another shape, or other numbers of names or confidences.
    """
    counts = (len(truths), len(predictions), len(confidences))
    if not _are_pictures(images) or set(counts) != {len(images)}:
        raise ValueError(
            "expected images uint8 (n, H, W) or (n, H, W, 3), n > 0, each with its true class, the "
            f"class given and a confidence; got {images.dtype} {images.shape} and {counts}"
        )
    order = np.argsort(-np.asarray(confidences, dtype=float), kind="stable")[:most]
    titles = [f"{predictions[i]}, {confidences[i]:.0%}" for i in order]
    width = max(1.45, 0.085 * max(map(len, titles)))  # inches
    columns = min(len(order), max(1, int(9.0 / width)))
    lines = -(-len(order) // columns)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            lines, columns, figsize=(width * columns + 0.1, 1.95 * lines), squeeze=False
        )
        for axes in grid.flat:
            axes.axis("off")
        for axes, index, title in zip(grid.flat, order, titles, strict=False):
            photo_axes(axes, images[index], "")
            axes.images[0].set_interpolation("nearest")  # the pixels that the network saw
            axes.set_title(title, loc="center", fontsize=10)
            axes.title.set(color=WRONG, weight="bold")
            axes.text(0.5, -0.04, f"is: {truths[index]}", transform=axes.transAxes, fontsize=10,
                      ha="center", va="top")  # fmt: skip
    return closed(figure)


def augmentation_gallery(
    rows: Mapping[str, NDArray], captions: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Draw what operations do to an image: a row for each, from one strength to the next.

    More than seven rows stand in two blocks, side by side.

    Args:
        rows: the name of an operation -> uint8 (n, H, W) or (n, H, W, 3), as many in every row.
        captions: the name of an operation -> what to write below its images, the strengths.

    Raises:
        ValueError: no rows, rows of different shapes, or captions of another name or number.
    """
    captions = captions or {}
    shapes = {images.shape for images in rows.values()}
    if len(shapes) != 1 or not all(_are_pictures(images) for images in rows.values()):
        raise ValueError(
            f"expected rows of images uint8 (n, H, W) or (n, H, W, 3), of one shape, got {shapes}"
        )
    count, height, width = next(iter(shapes))[:3]
    for name, texts in captions.items():
        if name not in rows or len(texts) != count:
            raise ValueError(
                f"captions of {name!r}: {len(texts)} for {count} images of {list(rows)}"
            )
    blocks = 2 if len(rows) > MOST_STACKED else 1
    lines = -(-len(rows) // blocks)
    step = height / width * 1.06 + (0.26 if captions else 0.02)  # from row to row, in image widths
    name_inches = 0.085 * max(map(len, rows)) + 0.2
    inch = min(1.1, (9.0 / blocks - name_inches) / (1.06 * count))  # the width of an image
    name_room = name_inches / inch  # beside a row, in image widths
    wide = name_room + 1.06 * count
    with plt.rc_context({**STYLE, "figure.constrained_layout.use": False}):  # faster
        figure = plt.figure(figsize=(inch * wide * blocks + 0.1, inch * step * lines + 0.1))
        axes = figure.add_axes((0, 0, 1, 1))
        for i, (name, images) in enumerate(rows.items()):
            left, top = i // lines * wide + name_room, i % lines * step
            axes.text(left - 0.1, top + height / width / 2, name, ha="right", va="center")
            for column, image in enumerate(images):
                x = left + 1.06 * column
                axes.imshow(image, extent=(x, x + 1, top + height / width, top), cmap="gray",
                            vmin=0, vmax=255, interpolation="nearest")  # fmt: skip
                if name in captions:
                    axes.text(x + 0.5, top + height / width + 0.05, captions[name][column],
                              ha="center", va="top", fontsize=8, color=FAINT)  # fmt: skip
        axes.set(xlim=(0, wide * blocks + 0.02), ylim=(step * lines, -0.04), aspect="equal")
        axes.axis("off")
    return closed(figure)


def _are_pictures(images: NDArray) -> bool:
    grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    return images.dtype == np.uint8 and grey_or_colour and len(images) > 0

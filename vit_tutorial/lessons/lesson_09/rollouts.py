"""Lesson 09: what a learner's law, mask of patches or interval is held against."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vit_tutorial.lessons.exercises import Wrong, call, describe, expect_tensor

Layers = list[Tensor]
CLOSE = 0.12  # of half an interval: four times what chance does to 2000 repetitions


def _join(fuse: Callable[[Tensor], Tensor], which: slice = slice(None)) -> Callable:
    """Make a rollout from a way to join heads, and the layers that take part."""

    def roll(weights: Layers) -> Tensor:
        joined = torch.eye(weights[0].shape[-1]).to(weights[0])
        for layer in weights[which]:
            joined = (fuse(layer) + torch.eye(layer.shape[-1]).to(layer)) / 2 @ joined
        return joined.expand(len(weights[0]), -1, -1)

    return roll


def _by_rows(weights: Layers) -> Tensor:
    """Follow all rows from the newest layer down: no layer is mixed with the identity."""
    rows = torch.eye(weights[0].shape[-1]).to(weights[0])
    rows = rows.expand(len(weights[0]), -1, -1)
    for layer in reversed(weights):
        rows = rows / 2 + rows @ layer.mean(1) / 2
    return rows


def _by_numpy(weights: Layers) -> Tensor:
    images = []
    for image in range(len(weights[0])):
        joined = np.eye(weights[0].shape[-1])
        for layer in weights:
            heads = layer[image].numpy()
            joined = (sum(heads[h] / len(heads) for h in range(len(heads))) @ joined + joined) / 2
        images.append(torch.from_numpy(joined).to(weights[0]))
    return torch.stack(images)


def _rows_of_one(table: Tensor) -> Tensor:
    return table / table.sum(-1, keepdim=True)


RIGHT_ROLLOUTS = [_join(lambda w: w.mean(1)), _by_rows, _by_numpy]
WRONG_ROLLOUTS: dict[str, Callable] = {
    "reads head 0 alone": _join(lambda w: w[:, 0]),
    "takes the largest of the heads, scaled to rows of 1": (
        _join(lambda w: _rows_of_one(w.amax(1)))
    ),
    "squares the weights and scales the rows to 1 again, so that every map is too sharp": (
        _join(lambda w: _rows_of_one(w.mean(1) ** 2))
    ),
    "never looks at the layers after the third": _join(lambda w: w.mean(1), slice(3)),
}


def hear(law: Callable, roll: Callable) -> bool:
    """Ask a law about one rollout; see that the weights it makes are some that attention can have.

    Raises:
        Wrong: the weights are impossible, or the verdict is neither True nor False.
    """

    def guarded(weights: Any) -> Tensor:
        if not isinstance(weights, list | tuple) or not weights:
            raise Wrong(f"`roll` takes a list of tensors, got {describe(weights)}.")
        for layer in weights:
            if not isinstance(layer, Tensor) or layer.ndim != 4 or layer.shape[2] != layer.shape[3]:
                raise Wrong(f"`roll` takes a list of (B, h, T, T), got {describe(layer)} in it.")
            off = (layer.sum(-1) - 1).abs().max().item()
            if not off < 1e-5 or layer.min() < 0:
                raise Wrong(
                    "Your law tries weights that no softmax makes: each row of (B, h, T, T) must "
                    "be 0 or more and sum to 1. What a function does with others proves nothing."
                )
        return roll(list(weights))

    verdict = law(guarded)
    if verdict is None:
        raise Wrong("Your function returned None: is its `return` missing?")
    if isinstance(verdict, Tensor) and verdict.dtype == torch.bool and verdict.numel() == 1:
        verdict = verdict.item()
    if not isinstance(verdict, bool | np.bool_):
        raise Wrong(f"Expected True or False, got {describe(verdict)}.")
    return bool(verdict)


# ---- Patches that a learner marks ----


def patches_of(answer: Callable, maps: Tensor, count: int, side: int, seed: int) -> Tensor:
    """Return the patches (B, rows, columns) that an answer marks, once its pixels make patches."""
    size = (len(maps), maps.shape[1] * side, maps.shape[2] * side)
    came = expect_tensor(call(answer, maps, count, side, seed), torch.zeros(size).bool())
    blocks = came.reshape(len(maps), maps.shape[1], side, maps.shape[2], side)
    whole = blocks.permute(0, 1, 3, 2, 4).flatten(3)
    if not (whole.all(-1) == whole.any(-1)).all():
        raise Wrong(
            "The pixels that are marked do not make whole patches: each element must be repeated "
            "several times in a row. (The whole mask, laid down several times, is another thing.)"
        )
    return whole.all(-1)


def judge_patches(marked: Tensor, maps: Tensor, count: int) -> None:
    """See that the marked patches are `count`, and none of them below one that is not marked."""
    found = marked.flatten(1).sum(1)
    if (found != count).any():
        wrong = int(found[(found != count).nonzero()[0, 0]])
        tied = len(maps.flatten().unique()) < maps.numel()
        raise Wrong(
            f"{count} patches should be marked, {wrong} are"
            + (": equal numbers on the limit all get in, or none of them." if tied else ".")
        )
    low = maps.masked_fill(~marked, torch.inf).flatten(1).amin(1)
    high = maps.masked_fill(marked, -torch.inf).flatten(1).amax(1)
    if (low < high).any():
        highest = maps.masked_fill(~marked, -torch.inf).flatten(1).amax(1)
        lowest = maps.masked_fill(marked, torch.inf).flatten(1).amin(1)
        if (highest <= lowest).all():
            raise Wrong("These are the patches with the smallest numbers.")
        raise Wrong("A patch is marked whose number is below that of one that is not.")


def judge_ties(share: Tensor, answer: Callable, maps: Tensor, count: int) -> None:
    """See that equal patches come in turn by chance, repeatably, and each image by its own."""
    if share.max() > 0.99 and share.min() < 0.01:
        raise Wrong(
            "Of equal patches always the same ones are marked, in every image: a map of zeros "
            "would point at a corner. Break ties at random, for each image anew."
        )
    if share.max() > 1.6 * share.mean() or share.min() < 0.4 * share.mean():
        raise Wrong("Equal patches are not marked equally often: is the random order an even one?")
    again, other = (patches_of(answer, maps, count, 2, seed) for seed in (1, 2))
    if not torch.equal(again, patches_of(answer, maps, count, 2, 1)):
        raise Wrong("The same seed marks other patches when called again: is `seed` used?")
    if torch.equal(again, other):
        raise Wrong("Two seeds mark the same patches: is `seed` used?")


# ---- Intervals ----


def interval_of(came: Any) -> tuple[float, float]:
    """Return the two ends as numbers.

    Raises:
        Wrong: they are something else.
    """
    try:
        low, high = (float(end) for end in came)
    except (TypeError, ValueError):
        raise Wrong(f"Expected two numbers, low and high, got {describe(came)}.") from None
    if not np.isfinite([low, high]).all():
        raise Wrong(f"Expected two finite numbers, got {low:g} and {high:g}.")
    return low, high


def judge_interval(came: tuple[float, float], ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare with what theory says of the mean of so many values: 1.96 standard errors."""
    gaps, root = ours - theirs, len(ours) ** 0.5
    half = 1.96 * gaps.std() / root

    def off(middle: float, width: float) -> float:
        """Tell how far the ends are away, in half widths."""
        return float(np.abs(np.array(came) - [middle - width, middle + width]).max() / width)

    if off(gaps.mean(), half) < CLOSE:
        return
    if came[0] > came[1]:
        raise Wrong("The first number is above the second: low comes first.")
    if came[0] == came[1]:
        raise Wrong(
            "Both ends are equal. If all images are drawn once, their mean is always the same: "
            "draw with replacement."
        )
    apart = 1.96 * np.sqrt(ours.var() + theirs.var()) / root
    causes = (
        (
            "The images are drawn for each method separately. Then the spread that both have in "
            "common counts twice: draw differences.",
            gaps.mean(),
            apart,
        ),
        (
            "This is where single differences lie, not where their mean does: it lies much closer.",
            gaps.mean(),
            1.96 * gaps.std(),
        ),
        ("These are the middle 90%.", gaps.mean(), half * 1.645 / 1.96),
        ("These are the middle 99%.", gaps.mean(), half * 2.576 / 1.96),
        ("This is the interval of `ours` alone.", ours.mean(), 1.96 * ours.std() / root),
        ("This is the interval of `theirs` alone.", theirs.mean(), 1.96 * theirs.std() / root),
        (
            "These are half the images or fewer: draw as many as there are.",
            gaps.mean(),
            half * 1.41,
        ),
        (
            "The difference is taken without its sign: then no method is ever the worse one.",
            np.abs(gaps).mean(),
            1.96 * np.abs(gaps).std() / root,
        ),
        ("The sign is turned round: ours less theirs.", -gaps.mean(), half),
    )
    nearest = min(causes, key=lambda cause: off(*cause[1:]))
    if off(*nearest[1:]) < CLOSE:
        raise Wrong(nearest[0])
    raise Wrong(
        f"For {len(gaps)} differences with the mean {gaps.mean():.3f} and the deviation "
        f"{gaps.std():.3f}, about {gaps.mean() - half:.4f} to {gaps.mean() + half:.4f} was "
        f"expected, got {came[0]:.4f} to {came[1]:.4f}."
    )

"""The exercises of lesson 09: is the map right?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vit_tutorial.lessons.exercises import Wrong, call, compare, describe, exercise, expect_tensor
from vit_tutorial.lessons.lesson_09 import mistakes
from vit_tutorial.lessons.lesson_09.rollouts import (
    RIGHT_ROLLOUTS,
    WRONG_ROLLOUTS,
    ask,
)

# ---- 09.1 ----------------------------------------------------------------------------------------


@exercise(
    "09.1",
    title="Back on the grid",
    difficulty=1,
    minutes=6,
    hints=(
        "Two steps: leave out the tokens that are no patches, then give the rest the shape of the "
        "grid. A slice does the first.",
        "Neither the number of rows nor that of columns has to be guessed: both are in `grid`. The "
        "batch stays in front.",
    ),
)
def my_map_of_row(answer: Any) -> str:
    """Check `my_map_of_row(row (B, T), grid, num_prefix) -> (B, rows, columns)`."""
    tall = torch.rand(2, 1 + 64)
    output = call(answer, tall, (16, 4), 1)  # here a square would fit, too
    if isinstance(output, Tensor) and output.shape[-2:] == (8, 8):
        raise Wrong(
            "A 16×4 grid has become 8×8: the side is guessed from the number of tokens. Take rows "
            "and columns from `grid`."
        )
    _works_without_one_prefix(answer)
    inputs = [
        (tall, (16, 4), 1),
        (torch.rand(2, 1 + 6), (2, 3), 1),
        (torch.rand(1, 1 + 6), (3, 2), 1),
        (torch.rand(3, 12, dtype=torch.float64), (4, 3), 0),
        (torch.rand(2, 5 + 8), (2, 4), 5),
        (torch.rand(5 + 9, 3).T, (3, 3), 5),
        (torch.rand(2, 2 + 5), (1, 5), 2),
        (torch.zeros(1, 1 + 4), (2, 2), 1),
    ]
    compare(answer, mistakes.on_the_grid, inputs, mistakes.GRIDS)
    return f"Every patch at its place on {len(inputs)} grids, with 0, 1, 2 and 5 tokens in front."


def _works_without_one_prefix(answer: Callable) -> None:
    """Name the cause where other numbers of prefix tokens stop with an exception."""
    call(answer, torch.rand(2, 7), (2, 3), 1)
    for prefix in (0, 5):
        try:
            call(answer, torch.rand(2, prefix + 6), (2, 3), prefix)
        except (RuntimeError, IndexError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise Wrong(
                f"It works for one prefix token. For a row (2, {prefix + 6}), the grid (2, 3) and "
                f"num_prefix={prefix} it stops ({reason}): is `num_prefix` used?"
            ) from None


# ---- 09.2 ----------------------------------------------------------------------------------------


@exercise(
    "09.2",
    title="A row without anything",
    difficulty=2,
    minutes=8,
    hints=(
        "Mix first: both parts have shapes that fit, since a matrix (T, T) repeats itself along "
        "the batch.",
        "Which shape must the sums have so that each stands beside its own row? Reductions have an "
        "option that keeps the axis that they sum over.",
        "For rows without anything there is a function that takes one tensor where a condition "
        "holds, and another where it does not. What it does not take may be NaN.",
    ),
)
def my_mixed(answer: Any) -> str:
    """Check `my_mixed(fused (B, T, T), residual) -> (B, T, T)`."""
    one = torch.rand(1, 4, 4) + 0.1
    # a batch of one takes any shape
    compare(answer, mistakes.mixed, [(one, 0.5), (one, 0.2)], mistakes.MIXES)
    empty = torch.rand(2, 5, 5)
    empty[0, 2], empty[1, 0], empty[1, 4] = 0, 0, 0
    inputs = [
        (one, 0.5),
        (one, 0.2),
        (torch.rand(3, 3, 3), 0.5),  # as many images as tokens
        (torch.rand(2, 4, 4) * torch.tensor([1.0, 9.0])[:, None, None], 0.5),
        (torch.rand(2, 6, 6, dtype=torch.float64) ** 3, 0.3),
        (torch.rand(2, 5, 5).transpose(1, 2), 0.8),
        (torch.rand(2, 4, 4), 0.0),
        (torch.rand(1, 4, 4), 1.0),
        (empty, 0.5),
        (empty, 0.0),
        (torch.zeros(1, 3, 3), 0.0),
    ]
    compare(answer, mistakes.mixed, inputs, mistakes.MIXES)
    return f"Right for {len(inputs)} layers: every row sums to 1, and an empty row keeps its token."


# ---- 09.3 ----------------------------------------------------------------------------------------


@exercise(
    "09.3",
    title="A law that finds them all",
    difficulty=3,
    minutes=18,
    hints=(
        "Three of the four faults are in how heads are joined. For how many layers does the result "
        "tell most plainly what was done to the heads, and what must it be then?",
        "The fourth treats heads rightly, and shows only in deep networks. Rollout of some layers "
        "and rollout of the layers after them: what should their product be?",
        "Compute what should come out, compare with a tolerance, and say False at the first "
        "difference. Weights need several heads that differ, and you may ask more than once.",
    ),
)
def my_law(answer: Any) -> str:
    """Check `my_law(roll) -> bool`, against right rollouts and wrong ones."""
    verdicts = [ask(answer, roll) for roll in RIGHT_ROLLOUTS]
    missed = [fault for fault, roll in WRONG_ROLLOUTS.items() if ask(answer, roll)]
    if not any(verdicts):
        raise Wrong(
            "Your law says False of right rollouts, too. What does it ask for that need not hold? "
            "(Rounding is no crime: compare with a tolerance.)"
        )
    if not all(verdicts):
        raise Wrong(
            f"Your law says False of {verdicts.count(False)} of {len(verdicts)} right rollouts. "
            f"Those differ by rounding alone: compare with a tolerance."
        )
    count = len(WRONG_ROLLOUTS)
    if missed:
        raise Wrong(
            f"{count - len(missed)} of {count} are found. Your law lets one through that "
            f"{missed[0]}. What weights would show it?"
        )
    return f"All {count} found, and {len(verdicts)} right ones, written differently, let go."


# ---- 09.4 ----------------------------------------------------------------------------------------


@exercise(
    "09.4",
    title="Chefer's rule",
    difficulty=2,
    minutes=12,
    hints=(
        "Start with the identity and go through both lists together, from the first layer on.",
        "In each layer: multiply number by number, drop what is below zero, and only then take the "
        "mean over heads. Which axis is that of the heads?",
        "R grows by a matrix product with the layer's matrix on its left. A matrix (T, T) fits "
        "itself to a batch. At the end, one row is wanted.",
    ),
)
def my_chefer(answer: Any) -> str:
    """Check `my_chefer(weights, gradients, query) -> (B, T)`."""
    inputs = [
        (*_layers(layers, batch, heads, tokens, dtype), query)
        for layers, batch, heads, tokens, dtype, query in (
            (3, 2, 3, 5, torch.float64, 0),
            (4, 1, 2, 6, torch.float64, 3),
            (1, 2, 4, 4, torch.float32, 1),
            (5, 3, 1, 5, torch.float32, 4),
            (2, 4, 4, 4, torch.float64, 0),
        )
    ]
    weights, gradients = _layers(3, 2, 2, 5, torch.float64)
    inputs += [(weights, [0 * layer for layer in gradients], 2)]
    compare(answer, mistakes.chefer, inputs, mistakes.RULES)
    return (
        f"Equal to a walk down from the newest layer, for {len(inputs)} networks with 1 to 5 "
        f"layers, and without a NaN where all gradients are 0."
    )


def _layers(
    layers: int, batch: int, heads: int, tokens: int, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """Draw weights and gradients, large enough that every layer matters."""
    size = (layers, batch, heads, tokens, tokens)
    return list((2 * torch.randn(size)).softmax(-1).to(dtype)), list(
        2 * torch.randn(size).to(dtype)
    )


# ---- 09.5 ----------------------------------------------------------------------------------------


@exercise(
    "09.5",
    title="The best patches, as pixels",
    difficulty=3,
    minutes=15,
    hints=(
        "If the patches are shuffled first and sorted afterwards, equal ones stay in the shuffled "
        "order, as long as the sort is a stable one. `argsort` has an option for it.",
        "You then hold places within the shuffled row. Looking them up in the shuffle gives the "
        "patches. Mark them in a row of False, for each image its own.",
        "A patch becomes side × side pixels: repeat every row and every column of the mask, each "
        "element several times in a row.",
    ),
)
def my_best_pixels(answer: Any) -> str:
    """Check `my_best_pixels(maps, count, side, seed) -> (B, H, W) bool`."""
    for shape, count, side in (
        ((2, 3, 4), 5, 2),
        ((1, 4, 4), 1, 3),
        ((3, 2, 5), 10, 1),
        ((2, 4, 2), 0, 4),
    ):
        maps = torch.randn(shape)
        _judge_patches(_patches_of(answer, maps, count, side, 0), maps, count)
    flat = torch.zeros(200, 3, 4)
    half = torch.tensor([[2.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]]).expand(200, -1, -1)
    for maps, count in ((flat, 3), (half, 6)):
        marked = _patches_of(answer, maps, count, 2, 1)
        _judge_patches(marked, maps, count)
        share = marked.float().mean(0)[maps[0] == 0]  # each of the equal ones
        _judge_ties(share, answer, maps, count)
    return "Right with and without ties, which are broken at random, and alike for the same seed."


def _patches_of(answer: Callable, maps: Tensor, count: int, side: int, seed: int) -> Tensor:
    """Return the patches (B, rows, columns) that an answer marks, once its pixels make patches."""
    size = (len(maps), maps.shape[1] * side, maps.shape[2] * side)
    pixels = expect_tensor(call(answer, maps, count, side, seed), torch.zeros(size).bool())
    blocks = pixels.reshape(len(maps), maps.shape[1], side, maps.shape[2], side)
    patches = blocks.permute(0, 1, 3, 2, 4).flatten(3)  # (B, rows, columns, side * side)
    if not (patches.all(-1) == patches.any(-1)).all():
        raise Wrong(
            "The pixels that are marked do not make whole patches: each element must be repeated "
            "several times in a row. (The whole mask, laid down several times, is another thing.)"
        )
    return patches.all(-1)


def _judge_patches(marked: Tensor, maps: Tensor, count: int) -> None:
    """See that the marked patches are `count`, and none of them below one that is not marked."""
    counts = marked.flatten(1).sum(1)
    if (counts != count).any():
        wrong = int(counts[counts != count][0])
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


def _judge_ties(share: Tensor, answer: Callable, maps: Tensor, count: int) -> None:
    """See that equal patches come in turn by chance, repeatably, and each image by its own."""
    if share.max() > 0.99 and share.min() < 0.01:
        raise Wrong(
            "Of equal patches always the same ones are marked, in every image: a map of zeros "
            "would point at a corner. Break ties at random, for each image anew."
        )
    if share.max() > 1.6 * share.mean() or share.min() < 0.4 * share.mean():
        raise Wrong("Equal patches are not marked equally often: is the random order an even one?")
    again, other = (_patches_of(answer, maps, count, 2, seed) for seed in (1, 2))
    if not torch.equal(again, _patches_of(answer, maps, count, 2, 1)):
        raise Wrong("The same seed marks other patches when called again: is `seed` used?")
    if torch.equal(again, other):
        raise Wrong("Two seeds mark the same patches: is `seed` used?")


# ---- 09.6 ----------------------------------------------------------------------------------------


@exercise(
    "09.6",
    title="Deletion, for any network",
    difficulty=3,
    minutes=18,
    hints=(
        "Keep one copy of the images and remove one patch more in each step, from each image its "
        "own. Ask the model before the first and after every step: how many answers is that?",
        "Row and column of a patch on the grid: divide its index by the number of columns. Times "
        "`side`, and you are at its first pixel.",
        "The axis goes from 0 to 1, so N steps are how wide each? The area of a step is its width "
        "times the mean of its two ends; torch has a function for such areas.",
    ),
)
def my_deletion(answer: Any) -> str:
    """Check `my_deletion(model, images, targets, order, side) -> (B,)`."""
    inputs = list(_deletion_inputs())
    compare(answer, mistakes.deletion, inputs, mistakes.DELETIONS)
    return f"Equal to a loop over masks for {len(inputs)} networks and grids, square or not."


def _deletion_inputs() -> Any:
    for batch, channels, rows, columns, side, dtype in (
        (3, 2, 2, 3, 2, torch.float64),
        (2, 1, 3, 2, 1, torch.float32),
        (1, 3, 1, 4, 2, torch.float64),
        (4, 1, 2, 2, 3, torch.float64),
    ):
        size = (batch, channels, rows * side, columns * side)
        images = torch.randn(size).to(dtype) + 0.3
        layer = torch.nn.Linear(images[0].numel(), 4).to(dtype)
        layer.weight.data = 0.6 * torch.randn(layer.weight.shape).to(dtype)

        def model(images: Tensor, layer: torch.nn.Linear = layer) -> Tensor:
            return layer(images.flatten(1))

        order = torch.rand(batch, rows * columns).argsort(dim=1)
        yield model, images, torch.randint(4, (batch,)), order, side


# ---- 09.7 ----------------------------------------------------------------------------------------


@exercise(
    "09.7",
    title="The pointing game",
    difficulty=1,
    minutes=8,
    hints=(
        "Where is the best patch? Flatten each map, ask for the place of its largest number, and "
        "turn that one number into a row and a column.",
        "Four comparisons for each image, joined by `&`. Which edges belong to the box?",
    ),
)
def my_points_at(answer: Any) -> str:
    """Check `my_points_at(maps (B, rows, columns), boxes (B, 4)) -> (B,) bool`."""
    inputs = []
    for rows, columns in ((3, 5), (6, 2), (4, 4), (1, 7)):
        maps = torch.rand(60, rows, columns)
        top, left = torch.randint(rows, (60,)), torch.randint(columns, (60,))
        bottom = top + 1 + (torch.rand(60) * (rows - top)).long()
        right = left + 1 + (torch.rand(60) * (columns - left)).long()
        inputs += [(maps, torch.stack([top, bottom, left, right], dim=1))]
    inputs += [(torch.rand(1, 2, 3, dtype=torch.float64) - 2, torch.tensor([[0, 2, 0, 3]]))]
    compare(answer, mistakes.points, inputs, mistakes.POINTS)
    return f"Right for {sum(len(maps) for maps, _ in inputs)} maps and boxes, to the very edge."


# ---- 09.8 ----------------------------------------------------------------------------------------

CLOSE = 0.12  # of half an interval: four times what chance does to 2000 repetitions


@exercise(
    "09.8",
    title="Are they different?",
    difficulty=2,
    minutes=12,
    hints=(
        "What is it that has a mean, image by image? Compute it before anything is drawn.",
        "One repetition: as many images as there are, drawn with replacement, so that some come "
        "twice and others not at all; then their mean. The interval is of 2000 such means.",
        "The middle 95% leave out as much below as above; `np.percentile` takes both at once.",
    ),
)
def my_paired_interval(answer: Any) -> str:
    """Check `my_paired_interval(ours, theirs, seed) -> (low, high)`."""
    rng = np.random.default_rng(0)
    for n, spread, gap in ((900, 0.1, 0.0), (250, 3.0, -1.0), (400, 0.2, 0.05)):
        images = rng.normal(0.4, spread, n)  # what both methods have in common
        theirs = images + rng.normal(0, spread / 5, n)
        ours = images + gap + rng.normal(0, spread / 5, n)
        interval = _interval_of(call(answer, ours, theirs, 3))
        _judge_interval(interval, ours, theirs)
    if _interval_of(call(answer, ours, theirs, 3)) != interval:
        raise Wrong("The same seed gives another interval when called again: is `seed` used?")
    if _interval_of(call(answer, ours, theirs, 4)) == interval:
        raise Wrong("Another seed gives the same interval to the last digit: is `seed` used?")
    return "As wide as theory says, for three pairs of methods, and five times narrower than apart."


def _interval_of(output: Any) -> tuple[float, float]:
    """Return the two ends as numbers.

    Raises:
        Wrong: they are something else.
    """
    try:
        low, high = (float(end) for end in output)
    except (TypeError, ValueError):
        raise Wrong(f"Expected two numbers, low and high, got {describe(output)}.") from None
    if not np.isfinite([low, high]).all():
        raise Wrong(f"Expected two finite numbers, got {low:g} and {high:g}.")
    return low, high


def _judge_interval(interval: tuple[float, float], ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare with what theory says of the mean of so many values: 1.96 standard errors."""
    gaps, root = ours - theirs, len(ours) ** 0.5
    half = 1.96 * gaps.std() / root

    def error(middle: float, width: float) -> float:
        """Tell how far the ends are away, in half widths."""
        return float(np.abs(np.array(interval) - [middle - width, middle + width]).max() / width)

    if error(gaps.mean(), half) < CLOSE:
        return
    if interval[0] > interval[1]:
        raise Wrong("The first number is above the second: low comes first.")
    if interval[0] == interval[1]:
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
    nearest = min(causes, key=lambda cause: error(*cause[1:]))
    if error(*nearest[1:]) < CLOSE:
        raise Wrong(nearest[0])
    raise Wrong(
        f"For {len(gaps)} differences with the mean {gaps.mean():.3f} and the deviation "
        f"{gaps.std():.3f}, about {gaps.mean() - half:.4f} to {gaps.mean() + half:.4f} was "
        f"expected, got {interval[0]:.4f} to {interval[1]:.4f}."
    )

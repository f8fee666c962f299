"""The exercises of lesson 12: smaller and faster."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.lessons.exercises import (
    Wrong,
    call,
    compare,
    describe,
    exercise,
    expect_tensor,
    require_output,
)
from vit_tutorial.lessons.lesson_12 import mistakes


def _tensors(output: Any, count: int, what: str) -> tuple[Tensor, ...]:
    """Return an output if it is so many tensors.

    Raises:
        Wrong: it is something else.
    """
    if not isinstance(output, tuple | list) or len(output) != count:
        raise Wrong(f"Expected {what}; got {describe(output)}.")
    for part in output:
        if not isinstance(part, Tensor):
            raise Wrong(f"Expected {what}; one of them is {describe(part)}.")
    return tuple(output)


def _joined(answer: Callable, join: Callable[..., Tensor], count: int, what: str) -> Callable:
    """Make one tensor of the several that an answer returns, so that it can be compared."""

    @wraps(answer)
    def joined(*arguments: Any) -> Tensor:
        output = require_output(answer(*arguments))
        return join(arguments, *_tensors(output, count, what))

    return joined


# ---- 12.1 ----------------------------------------------------------------------------------------


@exercise(
    "12.1",
    title="How many times as fast?",
    difficulty=1,
    minutes=8,
    hints=(
        "A round timed both. Which of the two times belongs above the line, if twice as fast is to "
        "give 2?",
        "First one ratio for each round, then the three numbers of all ratios. With four ratios, "
        "two are in the middle.",
    ),
)
def my_speedup(answer: Any) -> str:
    """Check `my_speedup(seconds (n,), base (n,)) -> (3,)`."""
    inputs: list[tuple] = []
    for rounds in (1, 2, 5, 6, 9):
        base = torch.rand(rounds) + 0.2
        inputs += [(base * (torch.rand(rounds) + 0.3), base)]
    slow = torch.tensor([1.0, 1.0, 40.0, 1.0, 1.2])  # something else ran in the third round
    inputs += [(slow, slow * torch.tensor([2.0, 2.1, 1.9, 2.3, 0.5])), (slow, slow.flip(0))]
    compare(answer, mistakes.speedup, inputs, mistakes.SPEEDUPS)
    return (
        f"Right for {len(inputs)} tables of times, even and odd numbers of rounds, and one with a "
        f"slow moment."
    )


# ---- 12.2 ----------------------------------------------------------------------------------------


@exercise(
    "12.2",
    title="What did it cost?",
    difficulty=2,
    minutes=12,
    hints=(
        "For each image the difference is 1 (now right, before wrong), -1 or 0. What is asked for "
        "is the mean of these numbers, and how sure it is.",
        "A mean of n numbers has a standard error: their standard deviation (with n - 1) divided "
        "by the root of n. The interval goes 1.96 of them to each side.",
        "Subtracting one bool from another is refused. Make numbers of them first. And percent: "
        "all three numbers times 100.",
    ),
)
def my_change(answer: Any) -> str:
    """Check `my_change(before (n,), after (n,)) -> (3,)`."""
    inputs: list[tuple] = []
    for count, right, kept in ((40, 0.9, 0.9), (100, 0.6, 0.8), (360, 0.97, 0.98), (25, 0.5, 0.4)):
        before = torch.rand(count) < right
        same = torch.rand(count) < kept
        inputs += [(before, torch.where(same, before, ~before))]
    inputs += [(~torch.eye(30)[0].bool(), ~torch.eye(30)[1].bool())]  # one lost, one won
    compare(answer, mistakes.change, inputs, mistakes.CHANGES)
    return f"Right for {len(inputs)} pairs of networks, better and worse ones, on 25 to 360 images."


# ---- 12.3 ----------------------------------------------------------------------------------------


@exercise(
    "12.3",
    title="Whole numbers for each row",
    difficulty=1,
    minutes=10,
    hints=(
        "The scale of a row is a length of one step: 127 steps reach its largest absolute number. "
        "Keep the axis when you take the maximum, or the scales become one row.",
        "How many steps is each number? A division, and then to the nearest whole number.",
        "A row of zeros has a largest number of 0, and 0 / 0 is NaN. Any scale above 0 will do for "
        "it: see to it that the scale never *is* 0.",
    ),
)
def my_quantized(answer: Any) -> str:
    """Check `my_quantized(values (rows, n)) -> whole (rows, n) int8, scale (rows, 1)`."""
    what = "two tensors, the whole numbers and the scales"

    def scales(arguments: tuple, integers: Tensor, scale: Tensor) -> Tensor:
        values = arguments[0]
        if integers.dtype != torch.int8:
            raise Wrong(f"The whole numbers must be of type torch.int8, got {integers.dtype}.")
        expect_tensor(integers, values.to(torch.int8))
        if scale.shape == (len(values),):
            raise Wrong(
                f"The scales have the shape {tuple(scale.shape)}, and must be a column "
                f"({len(values)}, 1), so that whole * scale fits."
            )
        scale = expect_tensor(scale, values[:, :1])
        zero = values.eq(0).all(dim=1, keepdim=True)  # any scale above 0 will do there
        if scale[zero].eq(0).any():
            raise Wrong(
                "A row of zeros has got the scale 0, and 0 / 0 is NaN; what becomes of NaN in "
                "int8 is chance. Its scale must be above 0."
            )
        return torch.where(zero, 0.0, scale)

    def as_floats(arguments: tuple, integers: Tensor, scale: Tensor) -> Tensor:
        return integers.to(arguments[0])

    rows = torch.randn(6, 9) * torch.logspace(-3, 3, 6)[:, None]
    lonely = torch.randn(3, 8)
    lonely[1, 5] = 90.0
    zeros = torch.randn(4, 5)
    zeros[2] = 0
    lower = torch.cat([torch.full((3, 1), 0.3), -torch.rand(3, 6) - 1], dim=1)
    inputs = [(rows,), (lonely,), (torch.randn(1, 30),), (lower,), (zeros,)]
    inputs += [(torch.randn(5, 4, dtype=torch.float64),), (torch.randn(6, 4).T,)]
    inputs += [(torch.rand(4, 6) + 3,)]
    for (table,) in inputs:
        table[:, 0] = table[:, 0].abs()  # every row has a number above 0, but for that of zeros
    compare(_joined(answer, scales, 2, what), mistakes.scales, inputs, mistakes.SCALES)
    compare(_joined(answer, as_floats, 2, what), mistakes.integers, inputs, mistakes.ROUNDINGS)
    return (
        f"Right for {len(inputs)} tables: rows large and small, a single large number, a row of "
        f"zeros, rows that lie almost wholly below 0."
    )


# ---- 12.4 ----------------------------------------------------------------------------------------


@exercise(
    "12.4",
    title="Where the error comes from",
    difficulty=2,
    minutes=15,
    hints=(
        "The largest whole number of 8 bits is 127, of 4 bits 7, of 3 bits 3. Write it with a "
        "power of 2.",
        "Lay the table out as (rows, groups, numbers of a group); then everything happens along "
        "the last axis, as for rows before. Put it back into its shape at the end.",
        "The length of a row is the root of the sum of its squares. Divide the length of what is "
        "lost by the length of what was there.",
    ),
)
def my_rounding_error(answer: Any) -> str:
    """Check `my_rounding_error(weight (rows, n), bits, group) -> (rows,)`."""
    inputs: list[tuple] = []
    for shape, bits, group in (
        ((5, 12), 8, 12),
        ((4, 12), 4, 3),
        ((6, 16), 3, 8),
        ((3, 10), 2, 5),
        ((2, 24), 6, 4),
        ((7, 6), 5, 2),
    ):
        inputs += [(torch.randn(shape), bits, group)]
    lonely = torch.randn(4, 16)
    lonely[2, 3] = 50.0
    inputs += [(lonely, 8, 16), (lonely, 8, 4), (lonely.double(), 4, 4)]
    inputs += [(torch.randn(12, 4).T, 4, 6)]
    compare(answer, mistakes.rounding_error, inputs, mistakes.ERRORS)
    errors = [call(answer, lonely, 8, group)[2].item() for group in (16, 4)]
    return (
        f"Right for {len(inputs)} tables. For the row with one large number, groups of 4 make the "
        f"error {errors[0] / errors[1]:.1f} times as small."
    )


# ---- 12.5 ----------------------------------------------------------------------------------------


@exercise(
    "12.5",
    title="A gate for each head",
    difficulty=2,
    minutes=12,
    hints=(
        "A gate g multiplies everything that a head hands on for one image: g * y. By the chain "
        "rule, the slope of the loss along g, at g = 1, is a sum of products. Over what?",
        "Numbers of a head stand next to each other along D. Cut D into heads, with a head's "
        "numbers last.",
        "Three things happen, in this order: a sum (tokens and numbers of a head), an absolute "
        "value, a mean (images).",
    ),
)
def my_head_importance(answer: Any) -> str:
    """Check `my_head_importance(handed_on (B, T, D), gradient (B, T, D), num_heads) -> (h,)`."""
    inputs: list[tuple] = []
    for batch, tokens, heads, wide in ((3, 5, 2, 4), (1, 4, 3, 2), (4, 2, 1, 6), (2, 7, 4, 4)):
        y, g = torch.randn(2, batch, tokens, heads * wide)
        inputs += [(y, g, heads)]
    y, g = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    inputs += [(y, g, 3), (y, torch.zeros_like(g), 2)]
    inputs += [(torch.randn(3, 5, 8).transpose(0, 1), torch.randn(5, 3, 8), 2)]
    compare(answer, mistakes.importance, inputs, mistakes.IMPORTANCE)
    return (
        f"Right for {len(inputs)} layers, from one head to four, also where nothing depends on any."
    )


# ---- 12.6 ----------------------------------------------------------------------------------------


@exercise(
    "12.6",
    title="Fewer heads, for good",
    difficulty=3,
    minutes=20,
    hints=(
        "Where does a head of `qkv` lie? The rows are three parts of D, for queries, keys and "
        "values. In each part, head k has the d rows from k * d on.",
        "Give the rows axes of their own: (3, heads, d, D). Then choosing heads is one index, and "
        "putting it back together is one reshape. The bias goes the same way.",
        "What `proj` reads are the heads side by side: its columns. Its rows go back into the "
        "stream, which is as wide as before.",
    ),
)
def my_pruned(answer: Any) -> str:
    """Check `my_pruned(qkv, bias, proj, num_heads, keep) -> qkv, bias, proj`, with fewer heads."""
    what = "three tensors: qkv, its bias, proj"

    def join(arguments: tuple, qkv: Tensor, bias: Tensor, proj: Tensor) -> Tensor:
        dim, width = len(arguments[2]), len(arguments[4]) * (len(arguments[2]) // arguments[3])
        shapes = {"qkv": (3 * width, dim), "bias": (3 * width,), "proj": (dim, width)}
        for (name, shape), part in zip(shapes.items(), (qkv, bias, proj), strict=True):
            turned = name == "proj" and tuple(part.shape) == (width, dim)
            if tuple(part.shape) != shape and not (turned or part.numel() == 3 * width**2):
                raise Wrong(
                    f"With {len(arguments[4])} of {arguments[3]} heads and a width of {dim}, "
                    f"`{name}` must have the shape {shape}; got {tuple(part.shape)}."
                )
        return torch.cat([qkv.flatten(), bias.flatten(), proj.flatten()])

    inputs: list[tuple] = []
    for heads, wide, keep in (
        (4, 3, [0, 2]),
        (3, 4, [2]),
        (4, 2, [3, 1]),
        (2, 5, [1]),
        (3, 2, [2, 0, 1]),
        (6, 2, [5, 0, 3, 4]),
    ):
        dim = heads * wide
        inputs += [
            (torch.randn(3 * dim, dim), torch.randn(3 * dim), torch.randn(dim, dim), heads, keep)
        ]
    compare(_joined(answer, join, 3, what), mistakes.pruned, inputs, mistakes.PRUNED)
    return (
        f"Right for {len(inputs)} layers: the heads that are left do what they did, in the order "
        f"of `keep`."
    )


# ---- 12.7 ----------------------------------------------------------------------------------------


@exercise(
    "12.7",
    title="Two tokens become one",
    difficulty=2,
    minutes=12,
    hints=(
        "A token of five patches is the mean of five. With one more patch it is the mean of six: "
        "by what must each of the two be multiplied, and by what is the sum divided?",
        "Put the new token and its size where `b` is, in a copy. Only then take out `a`: before "
        "that, the numbers of the tokens are still right.",
    ),
)
def my_merge(answer: Any) -> str:
    """Check `my_merge(tokens (T, D), sizes (T,), a, b) -> tokens (T-1, D), sizes (T-1,)`."""
    what = "two tensors, the tokens and their sizes"

    def join(arguments: tuple, tokens: Tensor, sizes: Tensor) -> Tensor:
        if sizes.ndim != 1 or tokens.ndim != 2 or len(sizes) != len(tokens):
            raise Wrong(
                f"Expected tokens (T - 1, D) and as many sizes (T - 1,); got "
                f"{tuple(tokens.shape)} and {tuple(sizes.shape)}."
            )
        return torch.cat([tokens, sizes[:, None].to(tokens)], dim=1)

    inputs: list[tuple] = []
    for tokens, dim, a, b in (
        (6, 3, 2, 1),
        (6, 3, 1, 3),
        (6, 3, 2, 5),
        (5, 2, 0, 4),
        (4, 1, 3, 0),
        (2, 4, 0, 1),
    ):
        sizes = torch.randint(1, 7, (tokens,)).float()
        inputs += [(torch.randn(tokens, dim), sizes, a, b)]
    inputs += [(torch.randn(7, 2, dtype=torch.float64), torch.arange(1.0, 8).double(), 4, 3)]
    inputs += [(torch.randn(3, 5).T, torch.tensor([3.0, 1.0, 1.0, 2.0, 4.0]), 1, 4)]
    compare(_joined(answer, join, 2, what), mistakes.merge, inputs, mistakes.MERGED)
    return f"Right for {len(inputs)} pairs, with `a` before and behind `b`, of sizes alike and not."


# ---- 12.8 ----------------------------------------------------------------------------------------


@exercise(
    "12.8",
    title="What the teacher says",
    difficulty=3,
    minutes=15,
    hints=(
        "Two parts, weighted with share and 1 - share. The second is the cross-entropy of lesson "
        "07, as it always was.",
        "The first is the sum over classes of p * (ln p - ln q), a mean over images, with p of the "
        "teacher and q of the student, both from logits that were divided by the temperature.",
        "How does the size of that part's gradient change with the temperature? The text says "
        "which factor makes up for it.",
    ),
)
def my_distillation(answer: Any) -> str:
    """Check `my_distillation(logits, taught, labels, temperature, share) -> ()`."""
    inputs: list[tuple] = []
    for batch, classes, temperature, share in (
        (4, 3, 2.0, 0.9),
        (1, 10, 3.0, 0.5),
        (5, 4, 1.5, 0.3),
        (6, 5, 0.5, 0.7),
        (3, 2, 4.0, 1.0),
        (4, 6, 2.5, 0.0),
    ):
        logits, taught = 3 * torch.randn(2, batch, classes)
        inputs += [(logits, taught, torch.randint(classes, (batch,)), temperature, share)]
    sure = 40 * F.one_hot(torch.tensor([1, 0, 2]), 3).double()
    inputs += [(torch.randn(3, 3, dtype=torch.float64), sure, torch.tensor([1, 0, 2]), 2.0, 0.6)]
    loss = call(answer, *inputs[0])
    if isinstance(loss, Tensor) and loss.shape == (4,):
        raise Wrong("This is a loss for each image; asked for was their mean, one number.")
    compare(answer, mistakes.distilled, inputs, mistakes.DISTILLED)
    return (
        f"Right for {len(inputs)} batches, with temperatures from 0.5 to 4 and a teacher that is "
        f"very sure."
    )

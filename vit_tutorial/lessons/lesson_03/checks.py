"""The exercises of lesson 03: positions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.lessons.exercises import Wrong, call, compare, describe, exercise, expect_tensor
from vit_tutorial.lessons.lesson_03 import mistakes

# ---- 03.1 ----------------------------------------------------------------------------------------


@exercise(
    "03.1",
    title="Does it notice the order?",
    difficulty=2,
    minutes=10,
    hints=(
        "Run the network twice: on the tokens as they are, and on a copy with its patches in a "
        "random order. Which token must stay where it is?",
        "`torch.randperm(n)` gives the numbers 0 to n-1 in a random order, and a tensor can be "
        "indexed with it along the axis of the tokens. Put CLS back in front with `torch.cat`.",
        "A sum taken in another order may differ in its last digit. PyTorch has a function that "
        "tells whether two tensors are equal up to rounding.",
    ),
)
def notices_order(answer: Any) -> str:
    """Check `notices_order(network, tokens (B, T, D)) -> bool`."""
    tokens = torch.randn(3, 17, 8) + 2
    cases = mistakes.networks(tokens.shape[1], tokens.shape[2])
    verdicts = [_truth(call(answer, network, tokens)) for network, _ in cases.values()]
    right = [notices for _, notices in cases.values()]
    if verdicts == right:
        return (
            f"Right for all {len(cases)} networks. Such a test finds positions that are the same "
            f"for all tokens, which no shape and no error message would tell you."
        )
    for cause, test in mistakes.ORDER_TESTS[1:]:
        if verdicts == [test(network, tokens) for network, _ in cases.values()]:
            raise Wrong(cause)
    first = next(i for i in range(len(right)) if verdicts[i] != right[i])
    does, name = ("notices" if right[first] else "does not notice"), list(cases)[first]
    raise Wrong(
        f"Right for {sum(map(bool.__eq__, verdicts, right))} of {len(right)} networks. One that "
        f"{name} {does} the order; your function says otherwise."
    )


def _truth(output: Any) -> bool:
    if isinstance(output, Tensor) and output.numel() > 1:
        raise Wrong(
            f"Expected one answer, True or False, got {describe(output)}: one for each number?"
        )
    if not isinstance(output, bool | Tensor) and type(output).__name__ != "bool":  # numpy's, too
        raise Wrong(f"Expected True or False, got {describe(output)}.")
    return bool(output)


# ---- 03.2 ----------------------------------------------------------------------------------------


@exercise(
    "03.2",
    title="Add the positions",
    difficulty=1,
    minutes=8,
    hints=(
        "There is a row for every token, and the same rows serve every image of the batch. "
        "Adding is one operation; PyTorch repeats an axis of length 1 as often as needed.",
        "That repeating is also the danger: positions of a single row are repeated for every "
        "token, and nobody complains. Compare their shape with what it must be.",
        "The shape must be (1, T, D), with T and D read from the tokens. A shape can be compared "
        "with a tuple. If they differ, `raise ValueError(...)` with both in the message.",
    ),
)
def my_add_positions(answer: Any) -> str:
    """Check `my_add_positions(tokens (B, T, D), positions (1, T, D)) -> (B, T, D)`."""
    inputs = [
        (torch.randn(2, 5, 4), torch.randn(1, 5, 4)),
        (torch.randn(3, 3, 3), torch.randn(1, 3, 3)),
        (torch.randn(1, 1, 6), torch.randn(1, 1, 6)),
        (torch.randn(2, 9, 8).double(), torch.randn(1, 9, 8).double()),
        (torch.randn(4, 8, 6).mT, torch.randn(1, 8, 6).mT),  # strided
        (torch.randn(2, 5, 4, requires_grad=True), torch.randn(1, 5, 4, requires_grad=True)),
    ]
    compare(answer, torch.add, inputs, mistakes.ADD_CAUSES)
    tokens = torch.randn(3, 5, 4)
    for shape, what in (
        ((1, 1, 4), "one row for all tokens"),
        ((3, 1, 4), "one row for each image, the same for all of its tokens"),
        ((1, 4), "one row and two axes"),
        ((1, 4, 4), "a row too few: CLS has none"),
        ((3, 5, 4), "other ones for each image"),
    ):
        try:
            call(answer, tokens, torch.randn(shape))
        except ValueError:
            continue
        except (RuntimeError, IndexError) as error:
            raise Wrong(
                f"Right for positions that fit. Positions of shape {shape} are {what}: your "
                f"function stops with {type(error).__name__}; expected a ValueError of your own."
            ) from None
        raise Wrong(
            f"Right for positions that fit. But tokens of shape (3, 5, 4) and positions of shape "
            f"{shape}, which are {what}, are added without a word; expected a ValueError."
        )
    return "Right: every token gets its own row, and five shapes that do not fit are refused."


# ---- 03.3 ----------------------------------------------------------------------------------------


@exercise(
    "03.3",
    title="How alike are two positions?",
    difficulty=1,
    minutes=8,
    hints=(
        "The cosine of the angle between two vectors is their dot product divided by both of "
        "their lengths. What do you get if the vectors have length 1 already?",
        "Divide every row by its length first (`keepdim=True` keeps the shapes fitting). Then one "
        "matrix product gives all dot products of rows with rows.",
    ),
)
def my_similarity(answer: Any) -> str:
    """Check `my_similarity(positions (N, D)) -> (N, N)`."""
    inputs = [
        (torch.randn(6, 4),),
        (torch.randn(4, 7).double(),),
        (torch.randn(5, 5) * torch.tensor([0.01, 0.1, 1, 10, 100])[:, None],),
        (torch.randn(8, 12)[::2, ::3],),
        (torch.randn(3, 2, requires_grad=True),),
        (torch.randn(1, 3),),
    ]
    compare(
        answer,
        lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1),
        inputs,
        mistakes.ALIKE_CAUSES,
    )
    return f"Right for {len(inputs)} sets of vectors, also where some are 10,000 times longer."


# ---- 03.4 ----------------------------------------------------------------------------------------


@exercise(
    "03.4",
    title="Sines and cosines",
    difficulty=2,
    minutes=12,
    hints=(
        "Three steps: the frequencies, one for each pair, of shape (dim/2,); all angles, of shape "
        "(n, dim/2); then their sines and cosines, taking turns, of shape (n, dim).",
        "`torch.arange` with a step of 2 gives all values of 2i. An axis of length 1 behind the "
        "positions makes PyTorch multiply each with every frequency.",
        "To let them take turns, lay the sines and the cosines on top of each other along a new "
        "last axis, then join the last two axes. Or make an empty matrix and fill every second "
        "column of it.",
    ),
)
def my_sincos_1d(answer: Any) -> str:
    """Check `my_sincos_1d(positions (n,), dim) -> (n, dim)`."""
    inputs = [
        (torch.arange(7.0), 4),
        (torch.arange(7.0, dtype=torch.float64), 8),
        (torch.tensor([0.0, 1.5, -3.0, 100.0], dtype=torch.float64), 12),
        (torch.arange(20.0, dtype=torch.float64)[3::4], 6),
        (torch.tensor([3.0]), 4),
        (torch.linspace(0, 2, 5, dtype=torch.float64, requires_grad=True), 16),
        (torch.tensor([4.0, 1.0, 4.0]), 2),
    ]

    def in_float32(positions: Tensor, dim: int) -> Tensor:  # frequencies may be taken in float32
        return expect_tensor(
            call(answer, positions, dim), mistakes.sincos_by_hand(positions, dim)
        ).float()

    causes = {
        cause: lambda p, d, f=f: f(p, d).float() for cause, f in mistakes.SINCOS_CAUSES.items()
    }
    compare(in_float32, lambda p, d: mistakes.sincos_by_hand(p, d).float(), inputs, causes)
    return (
        f"Right for {len(inputs)} inputs, whole places and places between: the formula, number by "
        f"number."
    )


# ---- 03.5 ----------------------------------------------------------------------------------------


@exercise(
    "03.5",
    title="Rows and columns",
    difficulty=2,
    minutes=10,
    hints=(
        "First find the row and the column of every patch, as two vectors of N numbers. Lesson 01 "
        "has the rule that leads from the number of a patch to its row and column.",
        "Then `sincos_1d` twice: once for the rows, once for the columns. How wide may each be, "
        "so that both together have `dim` entries?",
        "The two results stand side by side: `torch.cat` along the axis of the entries.",
    ),
)
def my_sincos_2d(answer: Any) -> str:
    """Check `my_sincos_2d(grid, dim) -> (rows * columns, dim)`."""
    inputs = [((2, 3), 8), ((3, 2), 4), ((4, 4), 12), ((1, 5), 8), ((5, 1), 8), ((3, 7), 16)]

    def in_float32(*arguments: Any) -> Any:
        output = call(answer, *arguments)
        is_float = isinstance(output, Tensor) and output.is_floating_point()
        return output.float() if is_float else output

    for grid, dim in inputs:
        table = in_float32(grid, dim)
        if isinstance(table, Tensor) and table.shape == (grid[0] * grid[1], 2 * dim):
            raise Wrong(
                f"Expected {dim} entries for each patch, got {2 * dim}: row and column share them."
            )
    compare(in_float32, mistakes.grid_by_hand, inputs, mistakes.GRID_CAUSES)
    return f"Right on {len(inputs)} grids, wide ones and tall ones."


# ---- 03.6 ----------------------------------------------------------------------------------------


@exercise(
    "03.6",
    title="Rotate in pairs",
    difficulty=2,
    minutes=12,
    hints=(
        "Take the first number of every pair, `x[..., 0::2]`, and the second: both have shape "
        "(..., T, d/2), like the angles.",
        "A pair (a, b) turned by t becomes (a cos t - b sin t, a sin t + b cos t). Both come from "
        "the old a and b.",
        "To put the results back as neighbours, lay them on top of each other along a new last "
        "axis and join the last two axes.",
    ),
)
def my_rotate(answer: Any) -> str:
    """Check `my_rotate(x (..., T, d), angles (T, d/2)) -> (..., T, d)`."""
    inputs = [
        (torch.randn(5, 8), torch.randn(5, 4)),
        (torch.randn(2, 3, 6, 4), torch.randn(6, 2) * 10),
        (torch.randn(2, 7, 12).double(), torch.randn(7, 6).double()),
        (torch.randn(3, 8, 4).mT, torch.randn(4, 4)),  # strided; T = d/2
        (torch.randn(2, 3, 2, requires_grad=True), torch.randn(3, 1)),
        (torch.randn(4, 8), torch.zeros(4, 4)),
    ]
    compare(answer, mistakes.turned, inputs, mistakes.TURN_CAUSES)
    return f"Right for {len(inputs)} inputs: the same as a product of complex numbers."


# ---- 03.7 ----------------------------------------------------------------------------------------


@exercise(
    "03.7",
    title="Stretch the positions",
    difficulty=3,
    minutes=15,
    hints=(
        "Four steps: take the row of CLS out; lay the other rows out as an image with D channels, "
        "(1, D, rows, columns); stretch it; read it row by row again, with CLS in front.",
        "einops says the second step in one line; without it, move the channels to the front "
        "before you lay out the grid. Draw on paper where row 0, 1, ... must land.",
        "`F.interpolate` takes `size=(rows, columns)`, `mode=` and `antialias=True`.",
    ),
)
def my_resample(answer: Any) -> str:
    """Check `my_resample(positions (1, 1 + N, D), old_grid, new_grid) -> (1, 1 + N', D)`."""
    inputs = [
        (torch.randn(1, 1 + 4 * 4, 3), (4, 4), (6, 6)),
        (torch.randn(1, 1 + 3 * 5, 4), (3, 5), (5, 4)),
        (torch.randn(1, 1 + 6 * 4, 2).double(), (6, 4), (3, 7)),
        (torch.randn(1, 5, 1 + 8 * 8).mT, (8, 8), (5, 5)),  # strided
        (torch.randn(1, 1 + 2 * 3, 4, requires_grad=True), (2, 3), (3, 2)),
        (torch.randn(1, 1 + 7 * 7, 2), (7, 7), (14, 14)),
    ]
    for positions, old, new in inputs:
        output = call(answer, positions, old, new)
        if isinstance(output, Tensor) and output.shape[1:] == (new[0] * new[1], positions.shape[2]):
            raise Wrong("The row of CLS is lost: the new positions need it too, in front.")
    compare(answer, mistakes.resampled, inputs, mistakes.RESAMPLE_CAUSES)
    return (
        f"Right for {len(inputs)} pairs of grids: larger and smaller ones, tall and wide ones, and "
        f"CLS keeps its row to the bit."
    )

"""The exercise of lesson 00: the strongest patch."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.lessons.exercises import Wrong, call, describe, exercise
from vit_tutorial.lessons.lesson_00 import mistakes

GRIDS = [(2, 3), (3, 2), (4, 4), (1, 6), (6, 1), (3, 7), (7, 3), (8, 8)]


@exercise(
    "00.1",
    title="The strongest patch",
    difficulty=1,
    minutes=5,
    hints=(
        "A grid of 2 × 3 has 6 patches, and there are 7 weights. Whose is the extra one, and where "
        "does it stand?",
        "Leave CLS out and find where the largest of the other weights stands: tensors have a "
        "method that tells. Call it i, counted from 0. In a grid with 3 columns the patches 0, 1 "
        "and 2 are the first row: where is patch 4?",
        "The row is how often a whole row fits into i; the column is what remains. Python has an "
        "operator for each. What do you divide by: the number of rows, or of columns?",
    ),
)
def strongest_patch(answer: Any) -> str:
    """Check `strongest_patch(weights (T,), grid) -> (row, column)`."""
    inputs = list(_inputs())
    places = [_place(call(answer, weights, grid)) for weights, grid in inputs]
    for (pick, wrong_pick), (place, wrong_place) in product(mistakes.PICKS, mistakes.PLACES):
        answers = (place(int(pick(weights)), *grid) for weights, grid in inputs)
        if all(map(tuple.__eq__, places, answers)):
            if causes := f"{wrong_pick} {wrong_place}".strip():
                raise Wrong(causes)
            return (
                f"Right for all {len(inputs)} inputs, also on grids that are not square and where "
                f"CLS attends most to itself."
            )
    right = [divmod(int(weights[1:].argmax()), grid[1]) for weights, grid in inputs]
    first = next(k for k in range(len(inputs)) if places[k] != right[k])
    rows, columns = inputs[first][1]
    raise Wrong(
        f"Right for {sum(map(tuple.__eq__, places, right))} of {len(inputs)} inputs. For one grid "
        f"of {rows} rows and {columns} columns, expected {right[first]}, got {places[first]}."
    )


def _inputs() -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield attention weights and grids: at random, and with the largest where it is missed."""
    for rows, columns in GRIDS:
        last = rows * columns
        for largest in (None, 0, 1, last, last // 2 + 1):
            scores = torch.randn(1 + last)
            if largest is not None:
                scores[largest] = 9.0
            yield scores.softmax(dim=0), (rows, columns)
    yield torch.randn(7, dtype=torch.float64).softmax(dim=0), (2, 3)
    yield torch.randn(7).softmax(dim=0).requires_grad_(), (3, 2)  # as in a network under training


def _place(output: Any) -> tuple[int, int]:
    """Read a returned (row, column): two whole numbers, plain or in tensors."""
    if isinstance(output, int) or getattr(output, "ndim", 1) == 0:
        raise Wrong(
            f"Expected two numbers, (row, column), got one, {int(output)}: the patch's place in "
            f"the sequence. Where is that on the grid?"
        )
    try:
        pair = [value.item() if hasattr(value, "item") else value for value in output]
    except (TypeError, RuntimeError, ValueError):  # not a sequence, or not of single numbers
        pair = []
    if len(pair) != 2:
        raise Wrong(f"Expected two numbers, (row, column), got {describe(output)}.")
    for name, value in zip(("row", "column"), pair, strict=True):
        if not isinstance(value, int):
            raise Wrong(f"The {name} must be a whole number to count with, got {describe(value)}.")
    return pair[0], pair[1]

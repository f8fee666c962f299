"""The exercises of lesson 01: images to patches and back."""

import operator
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.lessons.exercises import (
    Wrong,
    call,
    compare,
    describe,
    exercise,
    name_cause,
    require_gradients,
    require_output,
)
from vit_tutorial.lessons.lesson_01 import mistakes

# ---- 01.1 ----------------------------------------------------------------------------------------

FITTING = [(32, 32, 4), (224, 224, 16), (32, 48, 4), (48, 32, 4), (6, 9, 3), (8, 8, 8), (5, 7, 1)]
TOO_HIGH = [(30, 32, 4), (301, 448, 16)]  # the height does not fit
TOO_WIDE = [(32, 30, 4), (288, 451, 16)]
BOTH = [(2, 8, 4), (30, 30, 4), (6, 6, 9), (2, 2, 4), (6, 24, 12)]  # areas that do fit among them


@exercise(
    "01.1",
    title="How many patches?",
    difficulty=1,
    minutes=5,
    hints=(
        "Draw an image of 6 pixels high and 9 wide, cut into patches of 3×3. How many rows of "
        "patches are there? The height gives the rows, the width the columns.",
        "Python has two divisions: one gives fractions, the other whole numbers. And it has an "
        "operator that tells what is left over.",
        "Look at the height and at the width each on its own, before you divide, and "
        "`raise ValueError(...)` when something is left over of either.",
    ),
)
def count_patches(answer: Any) -> str:
    """Check `count_patches(height, width, patch_size) -> (rows, columns)`."""
    grids = []
    for size in FITTING:
        try:
            grids.append(_pair(call(answer, *size)))
        except ValueError as error:
            raise Wrong(
                f"An image of {size[0]}×{size[1]} pixels does hold whole patches of {size[2]}×"
                f"{size[2]}, but your function refused it: {error}"
            ) from None
    expected = [(h // p, w // p) for h, w, p in FITTING]
    if grids != expected:
        name_cause(grids, FITTING, mistakes.GRIDS, operator.eq)
        k = next(k for k in range(len(grids)) if grids[k] != expected[k])
        h, w, p = FITTING[k]
        raise Wrong(
            f"{h}×{w} pixels in patches of {p}×{p}: expected {expected[k]}, got {grids[k]}."
        )
    refused = {size: _refuses(answer, size) for size in TOO_HIGH + TOO_WIDE + BOTH}
    if not any(refused.values()):
        raise Wrong(
            "30×32 pixels are accepted for patches of 4×4, though 30 / 4 is not whole: the rest "
            "would be lost without a word. Raise ValueError."
        )
    if not any(map(refused.get, TOO_HIGH)):
        raise Wrong("You look at the width only: 30×32 pixels in patches of 4×4 must be refused.")
    if not any(map(refused.get, TOO_WIDE)):
        raise Wrong("You look at the height only: 32×30 pixels in patches of 4×4 must be refused.")
    for (h, w, p), is_refused in refused.items():
        if not is_refused:
            raise Wrong(
                f"{h}×{w} pixels in patches of {p}×{p} must be refused: each side on its own must "
                f"be a multiple of {p}. That the areas fit is not enough."
            )
    return (
        f"Right for {len(FITTING)} sizes, square or not, and {len(refused)} sizes that hold no "
        f"whole patches are refused."
    )


def _refuses(answer: Callable, size: tuple[int, int, int]) -> bool:
    try:
        call(answer, *size)
    except ValueError:
        return True
    except (AssertionError, ZeroDivisionError, TypeError, RuntimeError) as error:
        raise Wrong(
            f"A size that does not fit must raise ValueError, so that a caller can tell it from "
            f"other mistakes; yours raises {type(error).__name__}."
        ) from None
    return False


def _pair(output: Any) -> tuple[int, int]:
    if isinstance(output, int | float):
        raise Wrong(
            f"Expected two numbers, (rows, columns), got one, {output}. From the product alone "
            f"nobody can tell a 2×8 grid from a 4×4 one."
        )
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise Wrong(f"Expected two numbers, (rows, columns), got {describe(output)}.")
    for value in output:
        if isinstance(value, bool) or not hasattr(value, "__index__"):  # NumPy's ints have it, too
            raise Wrong(
                f"Rows and columns are counted: they must be whole numbers, got {describe(value)}."
            )
    return operator.index(output[0]), operator.index(output[1])


# ---- 01.2 ----------------------------------------------------------------------------------------


@exercise(
    "01.2",
    title="Cut out one patch",
    difficulty=1,
    minutes=7,
    hints=(
        "Lesson 00 asked nearly the same: from the number of a patch to its row and column. How "
        "many patches are in one row of this image?",
        "Take patches of 4×4. The patch in row 0 begins at pixel row 0, the one in row 1 at pixel "
        "row 4. Where does the one in row r begin, and where does it end?",
        "The result is a slice of the image along its last two axes. The first axis, the channels, "
        "is kept whole: a lone colon does that.",
    ),
)
def cut_patch(answer: Any) -> str:
    """Check `cut_patch(image (C, H, W), index, patch_size) -> (C, P, P)`."""
    inputs = []
    for c, h, w, p in [(3, 8, 12, 4), (3, 12, 8, 4), (1, 6, 14, 2), (2, 14, 6, 2), (3, 4, 4, 4)]:
        image = torch.randn(c, h, w, dtype=torch.float64)
        count = (h // p) * (w // p)
        inputs += [(image, i, p) for i in sorted({0, 1 % count, count // 2, count - 1})]
    inputs.append((torch.randn(12, 8, 3).permute(2, 0, 1), 3, 4))  # as from a photograph
    compare(answer, mistakes.one_patch, inputs, mistakes.CUTS)
    return f"Right for {len(inputs)} patches, the first and the last among them, square or not."


# ---- 01.3 ----------------------------------------------------------------------------------------


@exercise(
    "01.3",
    title="Patchify",
    difficulty=2,
    minutes=15,
    hints=(
        "The same three steps as for the 4×4 table, with two more axes in front: B and C. Write "
        "down the six axes after the first step, each with its length.",
        "After the split: batch, channel, patch row, pixel row, patch column, pixel column. You "
        "want: batch, patch row, patch column, channel, pixel row, pixel column. Number the first "
        "list from 0 and write the second in those numbers: that is what `permute` takes.",
        "Last, merge axes: the two that say *which* patch become N, the three that say *which "
        "number in it* become C*P*P. After `permute`, `.view` cannot merge (the numbers lie in "
        "another order); `.reshape` can.",
    ),
)
def my_patchify(answer: Any) -> str:
    """Check `my_patchify(images (B, C, H, W), patch_size) -> (B, N, C*P*P)`."""
    inputs = _image_batches()
    other_channels = {OTHER_CHANNELS: lambda images, p: images.shape[1] != 3}
    compare(answer, mistakes.unfold, inputs, mistakes.PATCHIFIES, other_channels)
    require_gradients(answer, inputs[1], mistakes.unfold)
    return (
        f"Right for {len(inputs)} batches: square or not, one channel or several, and equal to "
        f"PyTorch's own `F.unfold` number by number."
    )


OTHER_CHANNELS = "of other than 3 channels: take C from the input."


def _image_batches() -> list[tuple[Tensor, int]]:
    return [
        (torch.randn(2, 3, 8, 12, dtype=torch.float64), 4),
        (torch.randn(3, 3, 12, 8).requires_grad_(), 4),  # as in a network under training
        (torch.randn(1, 1, 6, 10), 2),
        (torch.randn(2, 4, 4, 4), 4),  # one patch
        (torch.randn(2, 3, 2, 5), 1),  # patches of one pixel
        (torch.randn(2, 12, 9, 3).permute(0, 3, 2, 1), 3),  # not in reading order
        (torch.randn(2, 6, 8, 3).permute(0, 3, 1, 2), 2),  # channels last in memory
    ]


# ---- 01.4 ----------------------------------------------------------------------------------------


@exercise(
    "01.4",
    title="Put the picture back together",
    difficulty=2,
    minutes=10,
    hints=(
        "Walk the way of `patchify` backwards: split, swap, merge. How many channels there are "
        "follows from the length of a patch.",
        "Split (B, N, C*P*P) into six axes: batch, patch row, patch column, channel, pixel row, "
        "pixel column. In which order must they stand so that two neighbours merge to H and two "
        "to W?",
        "Before the merge: batch, channel, patch row, pixel row, patch column, pixel column. "
        "Number the axes you have from 0 and write this list in those numbers.",
    ),
)
def my_unpatchify(answer: Any) -> str:
    """Check `my_unpatchify(patches (B, N, C*P*P), patch_size, grid) -> (B, C, H, W)`."""
    inputs = []
    for images, p in _image_batches():
        grid = (images.shape[2] // p, images.shape[3] // p)
        inputs.append(
            (torch.randn_like(mistakes.unfold(images, p)).requires_grad_(len(inputs) == 1), p, grid)
        )
    inputs.append((torch.randn(12, 6, 2).permute(2, 1, 0), 2, (3, 2)))  # not in reading order
    other_channels = {OTHER_CHANNELS: lambda patches, p, grid: patches.shape[2] != 3 * p * p}
    compare(answer, mistakes.fold, inputs, mistakes.UNPATCHIFIES, other_channels)
    require_gradients(answer, inputs[1], mistakes.fold)
    return (
        f"Right for {len(inputs)} batches, with 1, 3 and 4 channels: every pixel is back in its "
        f"place."
    )


# ---- 01.5 ----------------------------------------------------------------------------------------


@exercise(
    "01.5",
    title="Mend the stripes",
    difficulty=3,
    minutes=10,
    hints=(
        "Did the plain reshape throw numbers away, or move any? In which order do they stand now?",
        "A reshape can be undone by a reshape. What was the shape before? `grid` and `patch_size` "
        "give two of its four lengths, the batch is known, and the last follows.",
        "Once you have the images back, everything that you need for the second step is in this "
        "lesson.",
    ),
)
def mend(answer: Any) -> str:
    """Check `mend(stripes (B, N, C*P*P), patch_size, grid) -> (B, N, C*P*P)`."""
    inputs = []
    for images, p in _image_batches():
        stripes = mistakes.plain_reshape(images.detach(), p)
        inputs.append((stripes, p, (images.shape[2] // p, images.shape[3] // p)))
    compare(answer, mistakes.mended, inputs, mistakes.MENDED)
    return (
        f"Right for {len(inputs)} batches: the plain reshape loses nothing, it only calls the "
        f"wrong numbers a patch."
    )


# ---- 01.6 ----------------------------------------------------------------------------------------


@exercise(
    "01.6",
    title="All patches in one row",
    difficulty=2,
    minutes=8,
    hints=(
        "Name the axes of the image: c, r (patch row), p (pixel row), s (patch column), q (pixel "
        "column). Which of them make up the height of the result, which its width?",
        "The height of the result is one patch: p alone. Its width runs through all patches, row "
        "by row, and through the pixel columns of each.",
        "With einops it is one line, like `patchify`, but without a batch and with another right "
        "side. With tensors: split, permute, merge.",
    ),
)
def one_row(answer: Any) -> str:
    """Check `one_row(image (C, H, W), patch_size) -> (C, P, N*P)`."""
    inputs = [
        (torch.randn(3, 8, 12, dtype=torch.float64), 4),
        (torch.randn(3, 12, 8), 4),
        (torch.randn(1, 6, 10), 2),
        (torch.randn(2, 3, 6), 1),
        (torch.randn(12, 9, 3).permute(2, 1, 0), 3),
    ]
    compare(answer, mistakes.in_one_row, inputs, mistakes.ROWS)
    return f"Right for {len(inputs)} images, square or not."


# ---- 01.7 ----------------------------------------------------------------------------------------


@exercise(
    "01.7",
    title="The standard deviation of a channel",
    difficulty=2,
    minutes=10,
    hints=(
        "Which numbers belong together? All pixels of one channel, of every image. So which of the "
        "four axes go, and which stays?",
        "Turn the numbers to floats between 0 and 1 first: tensors of type uint8 have no standard "
        "deviation, and their sums overflow.",
        "`Tensor.std` takes a tuple of axes. One step over three axes at once; two steps, one "
        "after the other, give something else.",
    ),
)
def channel_std(answer: Any) -> str:
    """Check `channel_std(images uint8 (B, C, H, W)) -> (C,)`."""

    @wraps(answer)
    def in_float32(images: Tensor) -> Any:
        output = require_output(answer(images))
        try:  # a list of numbers is as good
            return torch.as_tensor(output).to(torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"Expected a tensor of shape (C,), got {describe(output)}.") from None

    def shrunk(right: Callable) -> Callable:
        return lambda images: right(images).to(torch.float32)

    inputs = [(_batch(60, 3, 20, 28),), (_batch(40, 1, 32, 24),), (_batch(30, 4, 30, 30),)]
    compare(
        in_float32,
        shrunk(mistakes.pixel_std),
        inputs,
        {cause: shrunk(f) for cause, f in mistakes.STDS.items()},
    )
    return f"Right for {len(inputs)} sets of images, with 1, 3 and 4 channels."


def _batch(n: int, c: int, h: int, w: int) -> Tensor:
    """Make images that differ in brightness and in contrast, as photographs do."""
    light = 60 + 130 * torch.rand(n, c, 1, 1)
    contrast = (
        torch.linspace(5, 40, n)[:, None, None, None] * torch.linspace(0.5, 1, c)[:, None, None]
    )
    return (light + contrast * torch.randn(n, c, h, w)).clamp(0, 255).to(torch.uint8)

"""The exercises of lesson 10: ViT and CNN."""

from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.lessons.exercises import (
    Wrong,
    as_integer,
    call,
    compare,
    compare_numbers,
    describe,
    exercise,
    expect_tensor,
)
from vit_tutorial.lessons.lesson_10 import mistakes

# ---- 10.1 A part of each class -------------------------------------------------------------------


@exercise(
    "10.1",
    title="A part of each class",
    difficulty=1,
    minutes=10,
    hints=(
        "One class after the other. Where does the label occur? That gives a row of places.",
        "A random order of k things, from a generator that you have seeded, and of it the first "
        "few. How many? Round, and never take none.",
    ),
)
def my_subset(answer: Any) -> str:
    """Check `my_subset(labels (n,), share, seed) -> places (m,)`."""
    blocks = torch.arange(4).repeat_interleave(torch.tensor([40, 10, 6, 26]))
    mixed = blocks[torch.randperm(82)]
    few = torch.tensor([3, 7, 3, 3, 7, 3, 3, 7, 3, 3])  # classes need not be numbered 0, 1, ...
    cases = [(blocks, 0.1), (mixed, 0.1), (mixed, 0.5), (few, 0.2), (blocks, 1.0), (mixed, 0.013)]
    for labels, share in cases:
        places = _places(call(answer, labels, share, 0), labels)
        _right_counts(labels, places, share)
        if not torch.equal(places.sort().values, _places(call(answer, labels, share, 0), labels)):
            raise Wrong(
                "The same seed gives another choice when it is asked again. Take your random "
                "numbers from a generator that you seed yourself."
            )
    times = torch.zeros(82)
    for seed in range(60):
        times[_places(call(answer, mixed, 0.5, seed), mixed)] += 1
    if (times == 60).any() and (times == 0).any():
        raise Wrong(
            "Every seed chooses the same images, so there is no chance in it: an image that comes "
            "late in its class is never taken."
        )
    if (times == 0).any() or (times == 60).any():
        raise Wrong(
            "In 60 seeds, some images of a class were always taken, or never: each must "
            "have the same chance."
        )
    return f"Right for {len(cases)} sets of labels, small classes and large; 60 seeds are fair."


def _places(output: Any, labels: Tensor) -> Tensor:
    """Return sorted places, if that is what they are."""
    if isinstance(output, Tensor) and output.dtype == torch.bool:
        raise Wrong(f"This is a mask of shape {tuple(output.shape)}; places, numbers, are wanted.")
    if not isinstance(output, Tensor) or output.ndim != 1 or output.is_floating_point():
        got = describe(output)
        got += f" of type {output.dtype}" if isinstance(output, Tensor) else ""
        raise Wrong(f"Expected places (m,), whole numbers in a tensor; got {got}.")
    if not len(output) or output.min() < 0 or output.max() >= len(labels):
        raise Wrong(f"Places of {len(labels)} labels go from 0 to {len(labels) - 1}; got {output}.")
    if len(output.unique()) < len(output):
        raise Wrong(
            f"{len(output)} places, but only {len(output.unique())} different ones: an image was "
            f"drawn twice. Draw without putting back (and return places, not labels)."
        )
    return output.long().sort().values


def _right_counts(labels: Tensor, places: Tensor, share: float) -> None:
    """See that each class has its share."""
    wanted, got = mistakes.counts(labels, share), mistakes.counts(labels[places], 1.0)
    if got == wanted:
        return
    for cause, rule in mistakes.COUNTS.items():
        if got == rule(labels, share):
            raise Wrong(cause)
    if sum(got.values()) == sum(wanted.values()):
        raise Wrong(
            "As many images as there should be, but not the right number of each class: they were "
            "drawn from all classes together."
        )
    label = next(label for label in wanted if got.get(label) != wanted[label])
    size = int((labels == label).sum())
    raise Wrong(
        f"Class {label} has {size} images, and a share of {share:g} of them is wanted: "
        f"{wanted[label]}. You chose {got.get(label, 0)}."
    )


# ---- 10.2 Is one better? -------------------------------------------------------------------------


@exercise(
    "10.2",
    title="Is one better than the other?",
    difficulty=2,
    minutes=12,
    hints=(
        "Subtract image by image first. What three values can a difference have, and what does 0 "
        "say about an image?",
        "The mean of these n differences is what you want to know. How far the mean of n numbers "
        "strays: their standard deviation, divided by the root of n.",
        "All in percentage points, in the order that the docstring says.",
    ),
)
def my_difference(answer: Any) -> str:
    """Check `my_difference(right_a (n,), right_b (n,)) -> (3,)`."""
    inputs = []
    for count, both, only_a, only_b in ((400, 300, 30, 10), (1000, 700, 20, 60), (20, 9, 4, 3)):
        kinds = torch.tensor([3] * both + [1] * only_a + [2] * only_b)
        kinds = torch.cat([kinds, torch.zeros(count - len(kinds), dtype=torch.long)])
        kinds = kinds[torch.randperm(count)]
        inputs.append(((kinds & 1).bool(), (kinds & 2).bool()))
    inputs.append((torch.rand(500) < 0.8, torch.rand(500) < 0.7))
    inputs.append((inputs[0][0], inputs[0][0]))
    compare(answer, mistakes.paired, inputs, mistakes.DIFFERENCES)
    narrow, wide = (mistakes.reach(rule(*inputs[0])) for rule in (mistakes.paired, mistakes.apart))
    return (
        f"Right for {len(inputs)} pairs of networks. For the first of them the interval is ±"
        f"{narrow:.1f} points; had they been asked about different images, ±{wide:.1f}."
    )


# ---- 10.3 Shuffled pieces ------------------------------------------------------------------------


@exercise(
    "10.3",
    title="Shuffled pieces",
    difficulty=1,
    minutes=10,
    hints=(
        "Lesson 01 had a function that cuts images into flat patches, and one that undoes it. What "
        "is left to do is between the two.",
        "Each image has an order of its own. To pick along axis 1, with other places for each "
        "image, there is `gather`, or indexing with two index tensors, one for the image.",
    ),
)
def my_shuffled(answer: Any) -> str:
    """Check `my_shuffled(images (n, C, H, W), piece, order (n, N)) -> (n, C, H, W)`."""
    inputs: list[tuple] = []
    for batch, channels, height, width, piece in (
        (3, 3, 8, 12, 4),
        (2, 1, 12, 8, 4),
        (4, 2, 6, 6, 2),
        (1, 3, 4, 10, 2),
        (2, 1, 3, 5, 1),
    ):
        pieces = (height // piece) * (width // piece)
        order = torch.stack([torch.randperm(pieces) for _ in range(batch)])
        inputs.append((torch.rand(batch, channels, height, width), piece, order))
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    inputs.append((pixels, 2, torch.stack([torch.arange(16), torch.arange(16).flip(0)])))
    inputs.append((torch.rand(2, 3, 8, 12).transpose(2, 3), 4, inputs[0][2][:2]))
    compare(answer, mistakes.shuffled, inputs, mistakes.SHUFFLES)
    return f"Right for {len(inputs)} batches, high and wide, floats and bytes."


# ---- 10.4 Where a square hurts -------------------------------------------------------------------


class _Small(nn.Module):
    """A network with random weights whose answer depends on where things are."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.look = nn.Linear(channels * height * width, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return self.head(self.look(images.flatten(1)).tanh()) * 4


@exercise(
    "10.4",
    title="Where a square hurts",
    difficulty=2,
    minutes=15,
    hints=(
        "How many places are there for a square of 2 patches on 5 columns: 5, 4 or 2? The square "
        "moves by one patch.",
        "Every picture starts from the untouched image: copy it, then paint. From patches to "
        "pixels: which rows of pixels does a square cover that begins in patch row r?",
        "All pictures can go through the network in one batch. Take the softmax, and of it the "
        "label. What do you subtract from what?",
    ),
)
def my_occlusion_table(answer: Any) -> str:
    """Check `my_occlusion_table(model, image (C, H, W), label, patch_size, size)`."""
    inputs: list[tuple] = []
    for channels, grid, patch_size, size, label in (
        (1, (3, 4), 2, 1, 2),
        (3, (4, 3), 2, 2, 0),
        (2, (3, 5), 3, 2, 3),
        (1, (4, 4), 3, 3, 1),
        (1, (5, 4), 1, 3, 0),
    ):
        height, width = grid[0] * patch_size, grid[1] * patch_size
        model = _Small(channels, height, width, 4).eval().requires_grad_(False)
        inputs.append((model, torch.randn(channels, height, width) + 1, label, patch_size, size))
    compare(answer, mistakes.occlusion_table, inputs, mistakes.OCCLUSIONS)
    return (
        f"Right for {len(inputs)} networks and grids, high and wide. This table, for four sizes "
        f"and two networks, is what the instrument above has computed."
    )


# ---- 10.5 Receptive field ------------------------------------------------------------------------


@exercise(
    "10.5",
    title="How much a feature can see",
    difficulty=2,
    minutes=12,
    hints=(
        "Before the first layer a feature is a pixel: it sees 1. A layer with kernel k reads k "
        "features side by side; the outermost two are k - 1 steps apart.",
        "How many pixels is one step? At first 1. After a layer with stride 2, features that lie "
        "next to each other are twice as many pixels apart as before.",
        "A layer's own stride does not change what this layer sees. It changes the step for those "
        "that come after it.",
    ),
)
def my_receptive_field(answer: Any) -> str:
    """Check `my_receptive_field(layers) -> int`."""
    resnet = [(3, 1)] * 7 + [(3, 2)] + [(3, 1)] * 5 + [(3, 2)] + [(3, 1)] * 5
    plans: list[mistakes.Layers] = [
        [(3, 1)],
        [(3, 1), (3, 1)],
        [(4, 4)],
        [(3, 2), (3, 1)],
        [(5, 1), (3, 2), (3, 2), (1, 1)],
        [(7, 2), (3, 2), (3, 1), (3, 2), (3, 1)],
        resnet,
        [(1, 1)],
        [(2, 3), (4, 1), (3, 2)],
    ]

    def case(layers: mistakes.Layers) -> str:
        return f"For the layers {layers}, (kernel, stride),"

    inputs = [(plan,) for plan in plans]
    compare_numbers(answer, mistakes.field, inputs, mistakes.FIELDS, case, as_integer)
    return (
        f"Right for {len(plans)} networks. The seventh is our ResNet, without its head: "
        f"{mistakes.field(resnet)} pixels, more than the image has."
    )


# ---- 10.6 What a feature does see ----------------------------------------------------------------


class _Features(nn.Module):
    """Two convolutions with random weights, the first with a stride: (B, C, H, W) -> a grid."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 5, 3, stride, padding=1)
        self.second = nn.Conv2d(5, 4, (3, 5), padding=(1, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images -> features."""
        return self.second((2 * self.first(images)).tanh()).tanh()


@exercise(
    "10.6",
    title="What a feature does see",
    difficulty=3,
    minutes=20,
    hints=(
        "Gradients with respect to pixels: a copy of the images that asks for gradients, the "
        "features of it, one number made of them, and `torch.autograd.grad`.",
        "Images of a batch do not mix. So the sum over images and channels, at the one place, has "
        "for each image the gradient that it would have alone.",
        "Signs must not cancel: not between colours, and not between images. When does the "
        "absolute value come? What comes last is the division.",
    ),
)
def my_effective_field(answer: Any) -> str:
    """Check `my_effective_field(features, images (B, C, H, W), place) -> (H, W)`."""
    inputs: list[tuple] = []
    for batch, channels, height, width, stride, place in (
        (3, 3, 8, 10, 1, (2, 7)),
        (2, 1, 9, 7, 2, (4, 1)),
        (4, 2, 8, 12, 2, (1, 3)),
        (1, 3, 6, 9, 1, (0, 0)),
    ):
        inputs.append(
            (_Features(channels, stride), torch.randn(batch, channels, height, width), place)
        )
    inputs.append((_Features(2, 1).double(), torch.randn(2, 2, 7, 8).double(), (6, 2)))
    right = mistakes.effective(*inputs[0])
    output = expect_tensor(call(answer, *inputs[0]), right)
    total = float(output.sum())
    if abs(total - 1) > 1e-3 and (output >= 0).all():
        if torch.allclose(output / total, right, atol=1e-5):
            raise Wrong(f"The map is right, but it adds up to {total:.3g}: shares add up to 1.")
    compare(answer, mistakes.effective, inputs, mistakes.EFFECTIVES)
    network, images, place = inputs[0]
    answer(network, images.clone(), place)
    if any(parameter.grad is not None for parameter in network.parameters()):
        raise Wrong("The network's own parameters have gradients afterwards: ask for the pixels'.")
    return f"Right for {len(inputs)} networks, with and without a stride, also at the border."

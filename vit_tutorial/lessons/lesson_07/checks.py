"""The exercises of lesson 07: training."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.lessons.exercises import (
    Wrong,
    as_number,
    call,
    compare,
    compare_numbers,
    describe,
    exercise,
    expect_tensor,
    name_cause,
    require_output,
)
from vit_tutorial.lessons.lesson_07 import mistakes
from vit_tutorial.lessons.lesson_07.patients import CAUSES, PATIENTS
from vit_tutorial.lessons.lesson_07.training_checks import (
    Probe,
    alike,
    decay_of,
    first_losses,
    judge_calls,
    judge_decay,
    train,
)
from vit_tutorial.model import VisionTransformer, ViTConfig

# ---- 07.1 One step -------------------------------------------------------------------------------


@exercise(
    "07.1",
    title="One training step",
    difficulty=2,
    minutes=10,
    hints=(
        "Six things happen: old gradients go, the network answers, the loss is measured, gradients "
        "are computed, they are shortened, the weights move. Only the first may change its place.",
        "`backward` adds to what is in the gradients already. So what must happen before it, in "
        "every step?",
        "`torch.nn.utils` has a function that shortens all gradients together. It can only "
        "shorten what is there already, and only helps if the weights have not moved yet.",
    ),
)
def my_train_step(answer: Any) -> str:
    """Check `my_train_step(model, optimizer, images, labels, clip_norm) -> loss`."""
    try:
        trained = train(answer)
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
        raise Wrong(
            "The weights move between the network's answer and `backward`: PyTorch finds that the "
            "numbers it needs for the gradients have changed."
        ) from None
    right = train(mistakes.train_step)
    if alike(trained, right, 1e-4):  # PyTorch divides by norm + 1e-6, the formula by norm
        return "Three steps of two trainings end with the same weights as the reference's."
    for cause, wrong in mistakes.STEPS.items():
        if alike(trained, train(wrong)):
            raise Wrong(cause)
    start = train(lambda model, *_: 0.0)
    if alike(trained[1:], start[1:]):
        raise Wrong(
            "The weights have not moved: is a step of the optimizer missing, or does it find no "
            "gradients (cleared again, or not computed yet)?"
        )
    if not alike(trained[1:], right[1:]):
        raise Wrong("After three steps the weights are other ones than they should be.")
    losses, expected = first_losses(trained[0]), first_losses(right[0])
    raise Wrong(f"The weights are right; the losses should be {expected}, got {losses}")


# ---- 07.2 The data contract ----------------------------------------------------------------------


@exercise(
    "07.2",
    title="A split that leaks nothing",
    difficulty=2,
    minutes=10,
    hints=(
        "A mask picks images: `images[held_out]` are the held-out ones. `~` turns a mask round.",
        "Means and deviations are two numbers for each channel. Over which three of the four "
        "dimensions do they run? `keepdim=True` lets them fit back onto the images.",
        "They are measured once. Which images may have a say in them, and which get them applied? "
        "These are different questions.",
    ),
)
def my_normalised_split(answer: Any) -> str:
    """Check `my_normalised_split(images, held_out) -> (training pixels, validation pixels)`."""
    inputs = list(_split_inputs())

    def joined(images: Tensor, held_out: Tensor) -> Tensor:
        pair = answer(images, held_out)
        kept = int((~held_out).sum())
        sizes = [(kept, *images.shape[1:]), (len(images) - kept, *images.shape[1:])]
        return _joined(pair, sizes, torch.float32, "training pixels and validation pixels")

    causes = {cause: _flat(split) for cause, split in mistakes.SPLITS.items()}
    compare(joined, _flat(mistakes.normalised), inputs, causes)
    return f"No held-out image had a say in the numbers, in any of {len(inputs)} splits."


def _split_inputs() -> Iterator[tuple[Tensor, Tensor]]:
    for count, channels, height, width in ((12, 3, 4, 4), (9, 1, 3, 5), (20, 3, 2, 6)):
        images = torch.randint(0, 200, (count, channels, height, width))
        images = images + 10 * torch.arange(channels).view(1, -1, 1, 1)
        held_out = torch.arange(count) % 3 == 1
        images[held_out] //= 2  # the held-out images are darker
        yield images.to(torch.uint8), held_out


def _joined(pair: Any, sizes: list[tuple[int, ...]], dtype: torch.dtype, what: str) -> Tensor:
    """Check a pair of tensors, and lay them in a row."""
    require_output(pair)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise Wrong(f"Return two tensors, {what}; got {describe(pair)}.")
    if all(isinstance(part, Tensor) for part in pair) and sizes[0] != sizes[1]:
        if [tuple(part.shape) for part in pair] == sizes[::-1]:
            raise Wrong(f"The two come in the wrong order: first {what}.")
    for part, size in zip(pair, sizes, strict=True):
        expect_tensor(part, torch.zeros(size, dtype=dtype))
    return torch.cat([part.flatten() for part in pair])


def _flat(function: Callable) -> Callable[..., Tensor]:
    """Lay the tensors that a function returns in a row."""
    return lambda *arguments: torch.cat([part.flatten() for part in function(*arguments)])


# ---- 07.3 Soft targets ---------------------------------------------------------------------------


@exercise(
    "07.3",
    title="Soft targets",
    difficulty=1,
    minutes=8,
    hints=(
        "Start with hard targets, 1 and 0: `F.one_hot` makes them from labels, as whole numbers.",
        "A share of each row, called `smoothing`, is taken away and dealt out to all K classes "
        "alike, the right one included. So what does every class get?",
    ),
)
def my_soft_targets(answer: Any) -> str:
    """Check `my_soft_targets(labels, num_classes, smoothing) -> (B, classes)`."""
    inputs = [
        (torch.randint(classes, (count,)), classes, smoothing)
        for count, classes, smoothing in ((6, 10, 0.1), (5, 3, 0.3), (1, 2, 0.05), (7, 4, 0.0))
    ]
    compare(answer, _targets_of_torch, inputs, mistakes.TARGETS)
    return "The same targets as those in `F.cross_entropy(..., label_smoothing=...)`."


def _targets_of_torch(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Read the targets off the gradient of PyTorch's loss, which is softmax - targets."""
    logits = torch.zeros(len(labels), num_classes, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum").backward()
    assert logits.grad is not None
    return (1 / num_classes - logits.grad).float()


# ---- 07.4 CutMix ---------------------------------------------------------------------------------


@exercise(
    "07.4",
    title="CutMix",
    difficulty=3,
    minutes=15,
    hints=(
        "First the box: which of its rows and columns are inside the image? A slice that starts "
        "below 0 counts from the other end in Python.",
        "Work on a copy: the partner's pixels must be those it had at the beginning, and the "
        "caller keeps the images.",
        "The targets follow the pixels: which share of the H * W pixels does an image keep? The "
        "part of the box outside the image replaces nothing.",
    ),
)
def my_cutmix(answer: Any) -> str:
    """Check `my_cutmix(images, targets, partner, box) -> (images, targets)`."""
    inputs = list(_cutmix_inputs())

    def joined(images: Tensor, targets: Tensor, partner: Tensor, box: tuple) -> Tensor:
        sizes = [tuple(images.shape), tuple(targets.shape)]
        pair = answer(images, targets, partner, box)
        return _joined(pair, sizes, images.dtype, "images and targets")

    causes = {cause: _flat(mix) for cause, mix in mistakes.CUTMIXES.items()}
    compare(joined, _flat(mistakes.cutmix), inputs, causes)
    return f"Pixels and targets agree for {len(inputs)} boxes, those over the border included."


def _cutmix_inputs() -> Iterator[tuple]:
    boxes = [(1, 4, 2, 5), (-2, 3, 4, 9), (3, 20, -5, 2), (0, 6, 0, 8), (2, 2, 3, 6)]
    for box in boxes:
        images = torch.randn(5, 3, 6, 8)
        yield images, torch.eye(5)[torch.randperm(5)], torch.tensor([1, 2, 3, 4, 0]), box
    images = torch.randn(3, 1, 4, 5).double().mT  # not contiguous, (3, 1, 5, 4)
    targets = torch.rand(3, 4).double()
    yield images, targets / targets.sum(1, keepdim=True), torch.tensor([0, 2, 1]), (-1, 2, 1, 3)


# ---- 07.5 The learning rate ----------------------------------------------------------------------


@exercise(
    "07.5",
    title="Warm-up and cosine",
    difficulty=2,
    minutes=10,
    hints=(
        "Two cases. During the warm-up it is a straight line, and the very first step should "
        "already do something.",
        "After the warm-up: which share of the steps that are left has passed? It goes from 0 to "
        "1. Multiply it by pi, and its cosine goes from 1 to -1.",
        "A number that goes from 1 to -1 becomes one that goes from 1 to 0: add something, then "
        "divide by something.",
    ),
)
def my_lr_factor(answer: Any) -> str:
    """Check `my_lr_factor(step, total_steps, warmup_steps) -> float`."""
    plans = [(100, 10), (37, 5), (50, 1), (20, 0), (64, 32)]
    inputs = [(step, *plan) for plan in plans for step in range(plan[0] + 1)]

    def case(step: int, total: int, warmup: int) -> str:
        return f"In step {step} of {total}, {warmup} of them warm-up,"

    compare_numbers(answer, mistakes.factor, inputs, mistakes.FACTORS, case)
    return f"Right in every step of {len(plans)} plans, one of them without a warm-up."


# ---- 07.6 What decays ----------------------------------------------------------------------------


@exercise(
    "07.6",
    title="What decays and what does not",
    difficulty=2,
    minutes=10,
    hints=(
        "`model.named_parameters()` gives pairs of a name and a parameter. Sort each into one of "
        "two lists.",
        "Biases and norms have one dimension. The matrices of linear layers have two; how many "
        "has the weight of the patch projection?",
        "Which two parameters have three dimensions and are no weights of a layer? They have to "
        "be told by their names.",
    ),
)
def my_parameter_groups(answer: Any) -> str:
    """Check `my_parameter_groups(model, weight_decay) -> list of groups`."""
    small = ViTConfig(img_size=8, patch_size=4, in_chans=2, embed_dim=8, depth=2, num_heads=2)
    configs = [
        small,
        replace(small, pool="mean", pos_embed="rope"),
        replace(small, pos_embed="sincos"),
    ]
    count = 0
    for decay, config in zip((0.05, 0.3, 0.1), configs, strict=True):
        model = VisionTransformer(config)
        decays = decay_of(answer(model, decay), model)
        for name, parameter in model.named_parameters():
            judge_decay(name, parameter, decays[name], decay)
            count += 1
    return f"All {count} parameters of three networks are in the right group, each of them once."


# ---- 07.7 Accuracy -------------------------------------------------------------------------------


@exercise(
    "07.7",
    title="An accuracy to be trusted",
    difficulty=2,
    minutes=12,
    hints=(
        "Add up how many answers are right and how many images there were, over all batches. "
        "Divide once, at the end.",
        "A network has a mode: `model.training` tells which, and two methods change it. Which one "
        "is for measuring, and which one was it in before?",
        "Measuring needs no gradients: `torch.no_grad()` or `torch.inference_mode()` around the "
        "loop.",
    ),
)
def my_accuracy(answer: Any) -> str:
    """Check `my_accuracy(model, batches) -> percent`."""
    for training in (True, False):
        for sizes in ((4, 4, 1), (3,), (2, 5, 7, 1)):
            batches = [(torch.randn(size, 5), torch.randint(5, (size,))) for size in sizes]
            batches[-1] = (batches[-1][0], batches[-1][0].argmax(1))  # all of the last are right
            model = Probe(training)
            copies = [(images.clone(), labels.clone()) for images, labels in batches]
            percent = answer(model, copies)
            judge_calls(model, training)
            _judge_accuracy(as_number(require_output(percent)), batches)
    return "Right for batches of any size, in evaluation mode, and the mode is as it was."


def _judge_accuracy(percent: float, batches: list[tuple[Tensor, Tensor]]) -> None:
    agree = partial(math.isclose, rel_tol=1e-5, abs_tol=1e-5)
    right = mistakes.accuracy(batches)
    if agree(percent, right):
        return
    name_cause([percent], [(batches,)], mistakes.ACCURACIES, agree)
    sizes = ", ".join(str(len(labels)) for _, labels in batches)
    raise Wrong(f"For batches of {sizes} images it should be {right:.2f}; got {percent:.2f}.")


# ---- 07.8 Reading a confusion matrix -------------------------------------------------------------


@exercise(
    "07.8",
    title="Recall and precision",
    difficulty=2,
    minutes=10,
    hints=(
        "What the network got right stands on the diagonal. It is divided by two different sums.",
        "A row holds all images that *are* of a class, a column all *predicted* so. Recall "
        "asks about the first, precision about the second.",
        "A class that was never predicted has an empty column. 0 divided by 0 is no number; here "
        "it shall be 0, and so shall it be for an empty row.",
    ),
)
def my_recall_precision(answer: Any) -> str:
    """Check `my_recall_precision(confusion) -> (classes, 2)`."""
    inputs = [(torch.randint(1, 30, (classes, classes)),) for classes in (3, 10, 2)]
    never_predicted = torch.randint(1, 9, (4, 4))
    never_predicted[:, 2] = 0
    not_there = torch.randint(1, 9, (5, 5))
    not_there[1] = 0
    inputs += [(never_predicted,), (not_there,)]
    compare(answer, _by_counting, inputs, mistakes.READINGS)
    return f"Right for {len(inputs)} matrices, also for a class that was never predicted."


def _by_counting(confusion: Tensor) -> Tensor:
    """Write every image down as a pair (true, predicted), and count."""
    pairs = [
        (true, predicted)
        for true, row in enumerate(confusion.tolist())
        for predicted, images in enumerate(row)
        for _ in range(images)
    ]
    table = torch.zeros(len(confusion), 2)
    for c in range(len(confusion)):
        for column in (0, 1):
            of_class = [pair for pair in pairs if pair[column] == c]
            hits = [pair for pair in of_class if pair == (c, c)]
            table[c, column] = len(hits) / max(len(of_class), 1)
    return table


# ---- 07.9 Diagnosis ------------------------------------------------------------------------------


@exercise(
    "07.9",
    title="Five patients",
    difficulty=3,
    minutes=15,
    hints=(
        "For each patient ask two things. Does the loss of the training images fall, and how far? "
        "Does the validation accuracy follow it?",
        "A loss that jumps far above ln 10 speaks of the steps or of what they see; one that "
        "sticks at a certain number speaks of the loss itself. Exercise 06.5 computed that number.",
        "Where the training loss is healthy and the validation accuracy is not, the training "
        "is innocent: look at the data. One of the two such patients has exactly the healthy loss.",
    ),
)
def my_diagnosis(answer: Any) -> str:
    """Check `my_diagnosis() -> {patient: cause}`."""
    diagnoses = call(answer)
    if not isinstance(diagnoses, dict) or set(diagnoses) != set(PATIENTS):
        raise Wrong(f"Expected a dictionary with the keys A to E, got {describe(diagnoses)}.")
    for letter, cause in diagnoses.items():
        if cause not in CAUSES:
            known = ", ".join(f'"{name}"' for name in CAUSES)
            raise Wrong(f"{letter}: {cause!r} is none of the causes. They are {known}.")
    wrong = [letter for letter in sorted(diagnoses) if diagnoses[letter] != PATIENTS[letter]]
    if wrong:
        because = mistakes.AGAINST[diagnoses[wrong[0]]]
        raise Wrong(f"{5 - len(wrong)} of 5 are right. Patient {wrong[0]} is not: {because}")
    return "All five. You have seen them before they cost you a week."

"""The exercises of lesson 13: learning without labels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.lessons.exercises import Wrong, call, compare, describe, exercise, expect_tensor
from vit_tutorial.lessons.lesson_13 import mistakes
from vit_tutorial.model import VisionTransformer, ViTConfig

Inputs = list[tuple[Any, ...]]


def _orders(batch: int, count: int) -> Tensor:
    """Return a permutation of 0..count-1 for each image, (batch, count), no two of them alike."""
    while True:
        order = torch.rand(batch, count).argsort(dim=1)
        if len(order.unique(dim=0)) == batch:
            return order


# ---- 13.1 ----------------------------------------------------------------------------------------


@exercise(
    "13.1",
    title="Which patches are hidden",
    difficulty=1,
    minutes=8,
    hints=(
        "What is asked of a patch is its rank: is its number among the smallest of its row?",
        "Sort one row by hand: [0.7, 0.1, 0.9, 0.4]. What does `argsort` give, and what are the "
        "ranks? The one undoes the other.",
        "Two ways lead there: sort twice, or find in each row the number that is just small enough "
        "and compare with it.",
    ),
)
def my_masks(answer: Any) -> str:
    """Check `my_masks(noise (B, N), num_visible) -> (B, N) bool`."""
    inputs: Inputs = [
        (torch.tensor([[0.7, 0.1, 0.9, 0.4], [0.2, 0.8, 0.3, 0.6]]), 2),
        (torch.rand(5, 16), 4),
        (torch.rand(3, 9), 1),
        (torch.rand(4, 7), 6),
        (torch.rand(1, 12), 3),
        (10 * torch.randn(6, 10), 5),  # not from 0 to 1
        (torch.rand(3, 8, dtype=torch.float64), 2),
        (torch.rand(9, 4).T, 3),
    ]
    for arguments in inputs:
        expect_tensor(call(answer, *arguments), mistakes.masks(*arguments))

    def as_integers(function: Callable) -> Callable:
        return lambda noise, num_visible: function(noise, num_visible).long()

    causes = {cause: as_integers(wrong) for cause, wrong in mistakes.MASKS.items()}
    compare(as_integers(answer), as_integers(mistakes.masks), inputs, causes)
    return f"Right for {len(inputs)} batches: exactly so many patches in each image, its own ones."


# ---- 13.2 ----------------------------------------------------------------------------------------


@exercise(
    "13.2",
    title="Back in place",
    difficulty=2,
    minutes=12,
    hints=(
        "First as many tokens as patches: the visible ones, and one mask token for each hidden "
        "patch. In which order do they stand, compared with `order`?",
        "Place i holds what belongs to patch order[i]. For patch p you need the i with order[i] = "
        "p. That is the inverse of a permutation, and you have met what computes it in 13.1.",
        "Each image has its own places. `gather` wants indices of the shape of its result, (B, N, "
        "D); `scatter` goes the other way and needs no inverse.",
    ),
)
def my_unshuffle(answer: Any) -> str:
    """Check `my_unshuffle(encoded (B, V, D), mask_token (D,), order (B, N)) -> (B, N, D)`."""
    inputs: Inputs = []
    for batch, count, visible, dim in (
        (2, 4, 2, 3),
        (3, 6, 2, 4),
        (2, 9, 1, 2),
        (2, 5, 4, 3),
        (4, 7, 3, 1),
        (2, 4, 4, 2),  # nothing is hidden
    ):
        inputs += [(torch.randn(batch, visible, dim), torch.randn(dim), _orders(batch, count))]
    inputs += [(torch.randn(2, 2, 3).double(), torch.randn(3).double(), _orders(2, 6))]
    inputs += [(torch.randn(3, 2, 4).transpose(0, 1), torch.randn(4), _orders(2, 5))]
    compare(answer, mistakes.unshuffle, inputs, mistakes.UNSHUFFLED)
    return f"Right for {len(inputs)} batches, each image with an order of its own."


# ---- 13.3 ----------------------------------------------------------------------------------------


def _networks() -> list[VisionTransformer]:
    """Small networks with random parameters everywhere, in float64."""
    networks = []
    for pool, positions, size in (
        ("cls", "learned", (8, 12)),
        ("mean", "sincos", (12, 8)),
        ("cls", "sincos", (8, 8)),
        ("mean", "learned", (4, 16)),
    ):
        config = ViTConfig(
            img_size=size, patch_size=4, in_chans=2, embed_dim=8, depth=2, num_heads=2,
            mlp_ratio=2.0, pool=pool, pos_embed=positions,
        )  # fmt: skip
        vit = VisionTransformer(config).double().eval()
        for parameter in vit.parameters():
            parameter.data = torch.randn_like(parameter) * 0.5
            parameter.requires_grad_(False)
        networks.append(vit)
    return networks


@exercise(
    "13.3",
    title="An encoder that sees a part",
    difficulty=3,
    minutes=15,
    hints=(
        "`vit.embed` gives all tokens as they enter block 0, with positions, CLS in front if there "
        "is one. Which of them may go on?",
        "Patch 0 is token `vit.config.num_prefix`. Take the tokens in front and those of the "
        "patches apart, choose among the latter, and join them again.",
        "The blocks do not care how many tokens there are. After the last one comes the final "
        "norm, as in `forward_features`.",
    ),
)
def my_encode_visible(answer: Any) -> str:
    """Check `my_encode_visible(vit, images, visible (B, V)) -> (B, prefix + V, D)`."""
    inputs: Inputs = []
    for vit, count in zip(_networks(), (3, 2, 3, 1), strict=True):
        images = torch.randn(3, 2, *vit.config.image_hw, dtype=torch.float64)
        inputs += [(vit, images, _orders(3, vit.config.num_patches)[:, :count])]
    vit = inputs[0][0]
    images = torch.randn(2, 2, 8, 12, dtype=torch.float64)
    inputs += [(vit, images, torch.tensor([[5, 0, 2], [1, 4, 3]]))]
    compare(answer, mistakes.encode_visible, inputs, mistakes.ENCODED)
    vit, images, visible = inputs[-1]
    lengths: list[int] = []
    hook = vit.blocks[0].register_forward_pre_hook(
        lambda block, inputs: lengths.append(inputs[0].shape[1])
    )
    try:
        answer(vit, images, visible)
    finally:
        hook.remove()
    if lengths and max(lengths) > visible.shape[1] + 1:
        raise Wrong(
            f"The numbers are right, but {max(lengths)} tokens go through the blocks where "
            f"{visible.shape[1] + 1} are visible: nothing is saved."
        )
    return f"Right for {len(inputs)} networks and masks, with CLS and without."


# ---- 13.4 ----------------------------------------------------------------------------------------


@exercise(
    "13.4",
    title="Only what was hidden counts",
    difficulty=2,
    minutes=12,
    hints=(
        "Cut the images into patches first, as the encoder does; the package has a function. "
        "Then one error for each patch, (B, N).",
        "Normalised: each row of pixels minus its own mean, divided by the root of its variance "
        "plus 1e-6. Both are taken over the last axis, which must be kept to be subtracted.",
        "Indexing (B, N) numbers with (B, N) of True and False gives one long row of those where "
        "it is True.",
    ),
)
def my_masked_loss(answer: Any) -> str:
    """Check `my_masked_loss(predicted, images, patch_size, hidden, norm_pixels) -> ()`."""
    inputs: Inputs = []
    for batch, channels, size, patch, norm in (
        (3, 3, (8, 12), 4, False),
        (3, 1, (8, 8), 2, True),
        (2, 3, (12, 8), 4, True),
        (4, 2, (6, 9), 3, False),
        (2, 3, (8, 4), 4, True),
    ):
        rows, columns = size[0] // patch, size[1] // patch
        images = torch.randn(batch, channels, *size) + torch.randn(batch, 1, 1, 1)
        predicted = torch.randn(batch, rows * columns, channels * patch**2)
        order = _orders(batch, rows * columns)
        # not the same number in every image
        hidden = order >= torch.arange(batch)[:, None] % (rows * columns - 1) + 1
        inputs += [(predicted, images, patch, hidden, norm)]
    predicted, images, patch, hidden, _ = inputs[0]
    flat = images.clone()
    flat[:, :, :4] = 0.3  # patches of one colour
    flat[:, :, 4:] = flat[:, :, 4:] * 0.003  # and faint ones, where 1e-6 is felt
    inputs += [(predicted, flat, patch, hidden, True)]
    inputs += [(predicted.double(), images.double(), patch, hidden, True)]
    compare(answer, mistakes.masked_loss, inputs, mistakes.LOSSES)
    return f"Right for {len(inputs)} batches, also for patches of a single colour."


# ---- 13.5 ----------------------------------------------------------------------------------------


@exercise(
    "13.5",
    title="The slow teacher",
    difficulty=1,
    minutes=6,
    hints=(
        "A weighted mean of two tensors whose weights add up to 1, once for each pair.",
        "The student's parameters carry gradients. What is computed from them does too, unless you "
        "say otherwise; lesson 07 had two ways.",
    ),
)
def my_teacher_step(answer: Any) -> str:
    """Check `my_teacher_step(teacher, student, momentum)`, lists of tensors -> such a list."""
    inputs: Inputs = []
    for shapes, momentum in (
        ([(3, 2), (4,)], 0.9),
        ([(2,)], 0.996),
        ([(2, 3), (1,), (2, 2, 2)], 0.25),
        ([(3,)], 0.0),
        ([(3,), (2,)], 1.0),
    ):
        teacher = [torch.randn(shape) for shape in shapes]
        student = [torch.randn(shape, requires_grad=True) for shape in shapes]
        inputs += [(teacher, student, momentum)]
    outputs = []
    for arguments in inputs:
        output = call(answer, *arguments)
        if not isinstance(output, list | tuple) or len(output) != len(arguments[0]):
            raise Wrong(
                f"Expected a list of {len(arguments[0])} tensors, got {describe(output)}; the "
                f"teacher has {len(arguments[0])}."
            )
        for tensor, old in zip(output, arguments[0], strict=True):
            expect_tensor(tensor, old)
        outputs.append(output)

    def flat(function: Callable) -> Callable:
        return lambda teacher, student, momentum: torch.cat(
            [tensor.detach().flatten() for tensor in function(teacher, student, momentum)]
        )

    causes = {cause: flat(wrong) for cause, wrong in mistakes.TEACHERS.items()}
    compare(flat(answer), flat(mistakes.teacher_step), inputs, causes)
    if any(tensor.requires_grad for output in outputs for tensor in output):
        raise Wrong(
            "The numbers are right, but the teacher carries the student's gradients: it would keep "
            "the whole history of the training, and learn by it. It is an average, no more."
        )
    return f"Right for {len(inputs)} pairs of teacher and student, and free of gradients."


# ---- 13.6 ----------------------------------------------------------------------------------------


@exercise(
    "13.6",
    title="DINO's loss",
    difficulty=3,
    minutes=18,
    hints=(
        "One pair first: teacher's weights for a view (B, K), student's logarithms for another (B, "
        "K). The cross-entropy is a sum over K, then a mean over the images.",
        "The centre is a mean of the teacher's scores, so it is subtracted from scores, before the "
        "temperature. The student is not centred.",
        "The teacher's views are the first of the student's, in the same order. Which pairs of "
        "them are one and the same picture? And nothing may flow back into the teacher.",
    ),
)
def my_dino_loss(answer: Any) -> str:
    """Check `my_dino_loss(student (v, B, K), teacher (g, B, K), center, ...) -> ()`."""
    inputs: Inputs = []
    for views, of_teacher, batch, count, student_temp, teacher_temp in (
        (2, 2, 3, 4, 0.1, 0.04),
        (2, 1, 4, 3, 0.5, 0.2),
        (4, 2, 2, 5, 0.3, 0.7),
        (3, 3, 1, 6, 1.0, 0.5),
    ):
        student = torch.randn(views, batch, count)
        teacher = torch.randn(of_teacher, batch, count)
        inputs += [(student, teacher, torch.randn(count) * 0.5, student_temp, teacher_temp)]
    student, teacher, center, *temps = inputs[2]
    inputs += [(student.double(), teacher.double(), center.double(), *temps)]
    inputs += [(60 * student, 60 * teacher, 60 * center, *temps)]  # exp(200) is no float32
    compare(answer, mistakes.dino_loss, inputs, mistakes.DINO_LOSSES)
    student, teacher = student.requires_grad_(), teacher.requires_grad_()
    loss = call(answer, student, teacher, center, *temps)
    if loss.requires_grad:
        graph, edges = [loss.grad_fn], set()
        while graph:
            node = graph.pop()
            variable = getattr(node, "variable", None)
            if variable is not None:
                edges.add(tuple(variable.shape))
            graph += [following for following, _ in node.next_functions if following is not None]
        if tuple(teacher.shape) in edges:
            raise Wrong(
                "The number is right, but a gradient flows back into the teacher: it would learn "
                "to be easy to predict. It learns from nobody, it is an average of the student."
            )
        if tuple(student.shape) in edges:
            return f"Right for {len(inputs)} sets of views, and only the student learns from it."
    raise Wrong(
        "The number is right, but no gradient reaches the student: nothing would be learned. Is "
        "the whole computation without gradients?"
    )

"""The exercises of lesson 04: attention."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.lessons.exercises import compare, exercise, require_gradients
from vit_tutorial.lessons.lesson_04 import mistakes

# ---- 04.1 ----------------------------------------------------------------------------------------


@exercise(
    "04.1",
    title="A softmax that survives",
    difficulty=1,
    minutes=8,
    hints=(
        "Which number could you subtract from every score of a row, so that no exponential is "
        "infinite? After the subtraction none should be above 0.",
        "Each row needs its own. Reduce along the last axis only, and keep that axis with length "
        "1, so that the result still fits beside the scores: reductions take an option for it.",
    ),
)
def my_softmax(answer: Any) -> str:
    """Check `my_softmax(scores (..., n)) -> (..., n)`."""
    inf, softmax = torch.inf, partial(torch.softmax, dim=-1)
    inputs = [
        (torch.randn(5),),
        (torch.randn(2, 3, 4),),
        (torch.randn(3, 3),),
        (torch.randn(2, 4, 4, dtype=torch.float64),),
        (torch.randn(4, 3).T,),
        (torch.tensor([[1.0, -inf, 0.5], [-inf, -inf, 2.0], [0.0, 1.0, 2.0]]),),
        (torch.tensor([1000.0, 1001.0, 999.0]),),
        (torch.tensor([[1000.0, 1001.0], [-1000.0, -1001.0]]),),
        (torch.tensor([[0.0, 2000.0, 1.0], [3.0, 2.0, -2000.0]]),),
        (torch.tensor([-120.0, 0.0, 1.0, 2.0, 0.0, 1.0]),),  # here the mean would do
        (torch.randn(2, 5).requires_grad_(),),
    ]
    compare(answer, softmax, inputs, mistakes.SOFTMAX)
    require_gradients(answer, (torch.randn(2, 3).requires_grad_(),), softmax)
    return (
        f"Equal to the library's for {len(inputs)} inputs, with scores from −∞ to 2000, along the "
        f"last axis of tensors with one to three axes."
    )


# ---- 04.2 ----------------------------------------------------------------------------------------


def _attention_inputs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return q, k, v: with no, one and two axes in front; strided; large."""
    shapes = [(5, 3), (1, 2), (2, 4, 6), (3, 5, 5), (2, 3, 5, 4)]
    inputs = [tuple(torch.randn(3, *shape)) for shape in shapes]
    inputs += [tuple(torch.randn(3, 2, 6, 3, dtype=torch.float64))]
    inputs += [tuple(torch.randn(3, 2, 4, 6).transpose(-2, -1))]
    large = torch.randn(3, 2, 4, 5)
    inputs += [(60 * large[0], 60 * large[1], large[2])]
    return inputs


@exercise(
    "04.2",
    title="Attention in one line",
    difficulty=2,
    minutes=10,
    hints=(
        "Write down the shapes. Scores are (..., T, T), one row for each query: which of q and k "
        "must be turned round so that the product has that shape, and which two axes of it?",
        "`@` multiplies the last two axes and repeats for those in front. To swap two axes of a "
        "tensor and leave the others, name both, counted from the end.",
        "Three steps in this order: scores divided by the square root of the width of one query; "
        "a softmax along the keys; a product with the values.",
    ),
)
def my_attention(answer: Any) -> str:
    """Check `my_attention(q, k, v) -> (..., T, d)`."""
    inputs = _attention_inputs()
    compare(answer, mistakes.fused, inputs, mistakes.ATTENTION)
    require_gradients(answer, torch.randn(3, 4, 2).requires_grad_().unbind(), mistakes.fused)
    return (
        f"Equal to PyTorch's fused attention for {len(inputs)} inputs: with and without batch and "
        f"heads, in both precisions, and with scores in the thousands."
    )


# ---- 04.3 ----------------------------------------------------------------------------------------


@exercise(
    "04.3",
    title="Where not to look",
    difficulty=2,
    minutes=10,
    hints=(
        "Which score gives a weight of exactly 0? And must it be there before the softmax or "
        "after it?",
        "The softmax must share everything among the keys that are left, so it has to know of the "
        "mask. Tensors have a method that writes one number wherever a mask is True; mind which "
        "places you want it to write to.",
    ),
)
def my_masked_attention(answer: Any) -> str:
    """Check `my_masked_attention(q, k, v, allowed (T, T)) -> (..., T, d)`."""

    def some(tokens: int) -> Tensor:  # neither symmetric nor without a key
        return (torch.rand(tokens, tokens) < 0.5) | torch.eye(tokens, dtype=torch.bool)

    inputs: list[tuple] = [
        (*torch.randn(3, 5, 3), torch.ones(5, 5).tril().bool()),
        (*torch.randn(3, 4, 4), torch.ones(4, 4).triu().bool()),
        (*torch.randn(3, 2, 6, 4), some(6)),
        (*torch.randn(3, 2, 3, 5, 4), some(5)),
        (*torch.randn(3, 3, 7, 2, dtype=torch.float64), some(7)),
        (*torch.randn(3, 2, 4, 6).transpose(-2, -1), some(6).T),
        (*torch.randn(3, 2, 4, 3), torch.ones(4, 4, dtype=torch.bool)),
    ]
    q, k, v = torch.randn(3, 2, 5, 4)
    q[..., 0], k[:, 4, 0] = 2.0, 300.0  # the last key would take everything
    inputs += [(q, k, v, torch.ones(5, 5).tril().bool())]
    compare(answer, mistakes.fused, inputs, mistakes.MASKED)
    return (
        f"Equal to PyTorch's fused attention with the same mask, for {len(inputs)} inputs, and a "
        f"forbidden key stays without influence even where its score is a hundred times the others."
    )


# ---- 04.4 ----------------------------------------------------------------------------------------


@exercise(
    "04.4",
    title="Split the heads",
    difficulty=1,
    minutes=7,
    hints=(
        "Cut first, move then. Cutting the last axis in two, D into h times d, keeps every token "
        "together: which shape has the tensor after that?",
        "It is (B, T, h, d). Two of these axes must change places, and reshape cannot do that.",
    ),
)
def my_split_heads(answer: Any) -> str:
    """Check `my_split_heads(x (B, T, D), num_heads) -> (B, num_heads, T, D / num_heads)`."""
    inputs = [
        (torch.randn(2, 5, 8), 2),
        (torch.randn(1, 4, 6), 3),
        (torch.randn(3, 4, 16), 4),
        (torch.randn(2, 3, 5), 1),
        (torch.randn(2, 6, 3, dtype=torch.float64), 3),
        (torch.randn(2, 8, 5).transpose(1, 2), 4),
        (torch.randn(3, 3, 9).requires_grad_(), 3),
    ]
    compare(answer, lambda x, h: torch.stack(x.chunk(h, dim=-1), dim=1), inputs, mistakes.SPLIT)
    return f"Right for {len(inputs)} inputs: every head has its part of every token."


# ---- 04.5 ----------------------------------------------------------------------------------------


@exercise(
    "04.5",
    title="Multi-head attention",
    difficulty=3,
    minutes=18,
    hints=(
        "Six steps, and the shape after each: one linear map (B, T, 3D); three parts (B, T, D); "
        "heads split (B, h, T, d); attention (B, h, T, d); heads joined (B, T, D); the last map.",
        "Your functions from before do two of the steps. If attention of yours takes any axes in "
        "front, it takes (B, h) as well.",
        "Joining is splitting backwards: first move the axis of the heads behind the tokens, then "
        "put the last two axes together.",
    ),
)
def my_multi_head(answer: Any) -> str:
    """Check `my_multi_head(x, qkv_weight, qkv_bias, proj_weight, proj_bias, num_heads)`."""
    inputs: list[tuple] = []
    for batch, tokens, width, heads in (
        (2, 5, 8, 2),
        (3, 4, 12, 3),
        (1, 7, 6, 1),
        (4, 4, 16, 4),
        (2, 9, 6, 6),
    ):
        inputs += [(*_layer(batch, tokens, width), heads)]
    double = [part.double() for part in _layer(2, 3, 8)]
    x, *parameters = _layer(2, 8, 8)
    inputs += [(*double, 4), (x.transpose(1, 2), *parameters, 2)]
    compare(answer, mistakes.library, inputs, mistakes.MULTI_HEAD)
    x, *parameters = _layer(2, 3, 4)
    require_gradients(answer, (x.requires_grad_(), *parameters, 2), mistakes.library)
    return (
        f"Equal to PyTorch's multi-head attention for {len(inputs)} layers with random weights, "
        f"from 1 to 6 heads. It will work in a Vision Transformer, and in lesson 06 it does."
    )


def _layer(batch: int, tokens: int, width: int) -> list[Tensor]:
    """Return tokens and the parameters of a layer, weights large enough for uneven attention."""
    shapes = [(batch, tokens, width), (3 * width, width), (3 * width,), (width, width), (width,)]
    scales = [1.0, 2 * width**-0.5, 1.0, width**-0.5, 1.0]
    return [torch.randn(shape) * scale for shape, scale in zip(shapes, scales, strict=True)]


# ---- 04.6 ----------------------------------------------------------------------------------------


@exercise(
    "04.6",
    title="A head that always looks one way",
    difficulty=2,
    minutes=12,
    hints=(
        "Where is patch i on the grid? In lesson 00 you turned the number of a patch into its row "
        "and column.",
        "Add the step to row and column, then ask of each whether it is still inside. Only then "
        "turn the two back into one number: how many patches lie in the rows above?",
        "Start with a matrix of zeros and set one entry in each row to 1. For an empty step, what "
        "does the matrix look like?",
    ),
)
def my_looking_head(answer: Any) -> str:
    """Check `my_looking_head(grid, step) -> (N, N)`."""
    grids = [(3, 4), (4, 3), (1, 5), (3, 3), (5, 1)]
    steps = [(0, -1), (0, 1), (-1, 0), (1, 1), (2, -1), (0, 2), (0, 0)]
    inputs = [(grid, step) for grid in grids for step in steps]
    compare(answer, mistakes.always_looking, inputs, mistakes.LOOKING)
    return f"Right for {len(inputs)} grids and steps; no head looks across the edge of the picture."

"""The exercises of lesson 02: patch embedding and the CLS token."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_tutorial.lessons.exercises import (
    Wrong,
    as_integer,
    call,
    compare,
    compare_numbers,
    describe,
    exercise,
    require_gradients,
)
from vit_tutorial.lessons.lesson_02 import mistakes
from vit_tutorial.lessons.lesson_02.module_checks import (
    require_parameters,
    require_tokens,
    require_training,
    with_explained_errors,
)

# ---- 02.1 ----------------------------------------------------------------------------------------

# height, width, patch size, channels, D
SIZES = [(32, 32, 4, 3, 96), (8, 8, 2, 1, 64), (224, 224, 16, 3, 768), (224, 224, 32, 3, 768),
         (32, 48, 4, 3, 192), (64, 48, 8, 4, 32), (6, 9, 3, 2, 5), (16, 16, 16, 3, 10)]  # fmt: skip


@exercise(
    "02.1",
    title="How many parameters?",
    difficulty=1,
    minutes=5,
    hints=(
        "One filter first. It has a weight for every number of a patch: how many numbers has a "
        "patch of P×P pixels with C channels?",
        "Each filter has one bias as well, and there are D filters.",
        "Not all that you are given is needed. Which of it does one filter never get to know?",
    ),
)
def embedding_parameters(answer: Any) -> str:
    """Check `embedding_parameters(height, width, patch_size, in_chans, dim) -> int`."""

    def case(h: int, w: int, p: int, c: int, d: int) -> str:
        return f"For images of {h}×{w} pixels and {c} channels, patches of {p}×{p} and D = {d}"

    compare_numbers(answer, _conv_parameters, SIZES, mistakes.COUNTS, case, as_integer)
    return (
        f"Right for {len(SIZES)} networks, ViT-B/16 among them: {_conv_parameters(*SIZES[2]):,}. "
        f"The size of the image plays no part."
    )


def _conv_parameters(h: int, w: int, p: int, c: int, d: int) -> int:
    layer = nn.Conv2d(c, d, p, stride=p, device="meta")
    return sum(parameter.numel() for parameter in layer.parameters())


# ---- 02.2 ----------------------------------------------------------------------------------------


@exercise(
    "02.2",
    title="Patch embedding without a convolution",
    difficulty=2,
    minutes=12,
    hints=(
        "Two steps: cut the images into flat patches, (B, N, C*P*P), then multiply by a matrix. "
        "You wrote the first step in lesson 01, and `patchify` is imported. Where does P stand?",
        "Make each filter one row of C*P*P numbers, in the order in which `patchify` flattens a "
        "patch: channel by channel, row by row. That is the order in which `weight` lies already.",
        "(B, N, C*P*P) times (C*P*P, D) gives (B, N, D). Your flattened filters are (D, C*P*P): "
        "swap the two axes. The bias is added to every token, and PyTorch fits (D,) to (B, N, D) "
        "by itself.",
    ),
)
def my_patch_embed(answer: Any) -> str:
    """Check `my_patch_embed(images, weight (D, C, P, P), bias (D,)) -> (B, N, D)`."""
    inputs = [
        _embedding(2, 3, 8, 12, 4, 10),
        _embedding(3, 3, 12, 8, 4, 48, grad=True),
        _embedding(2, 1, 6, 10, 2, 7, dtype=torch.float32),
        _embedding(1, 4, 5, 5, 5, 100),  # one patch
        _embedding(2, 3, 2, 5, 1, 6),  # patches of one pixel
        _embedding(4, 3, 9, 6, 3, 4, strided=True),
    ]
    watched = _Watched(answer)
    compare(watched, mistakes.convolved, inputs, mistakes.EMBEDS)
    require_gradients(watched, inputs[1], mistakes.convolved)
    if watched.convolved:
        raise Wrong(
            "The numbers are right, but they come from a convolution. This exercise is to build it "
            "from what you know: cut the patches, multiply, add."
        )
    return (
        f"Right for {len(inputs)} batches, square or not, with 1, 3 and 4 channels: equal to "
        f"PyTorch's convolution, and so are the gradients of images, weights and bias."
    )


def _embedding(
    b: int,
    c: int,
    h: int,
    w: int,
    p: int,
    d: int,
    dtype: torch.dtype = torch.float64,
    grad: bool = False,
    strided: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(b, c, h, w, dtype=dtype)
    weight = torch.randn(d, c, p, p, dtype=dtype)
    if strided:  # the same shapes, but the numbers do not lie in this order
        images = torch.randn(b, w, h, c, dtype=dtype).permute(0, 3, 2, 1)
        weight = torch.randn(p, p, c, d, dtype=dtype).permute(3, 2, 0, 1)
    bias = 3 * torch.randn(d, dtype=dtype)
    return images.requires_grad_(grad), weight.requires_grad_(grad), bias.requires_grad_(grad)


class _Watched(TorchFunctionMode):
    """Call an answer, and remember whether a convolution was used."""

    def __init__(self, answer: Callable) -> None:
        super().__init__()
        self.convolved = False
        wraps(answer)(self)  # for its name and its arguments
        self._answer = answer

    def __call__(self, *arguments: Any) -> Any:
        with self:
            return self._answer(*arguments)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.convolved |= "conv" in getattr(func, "__name__", "")
        return func(*args, **(kwargs or {}))


# ---- 02.3 ----------------------------------------------------------------------------------------


@exercise(
    "02.3",
    title="Weights from another library",
    difficulty=2,
    minutes=8,
    hints=(
        "Write down the first six numbers of one row of `weight`, for C = 3: which pixel and which "
        "channel does each belong to?",
        "Split the long axis into three: pixel row, pixel column, channel. Then move the channels "
        "in front of the two others.",
        "How many channels there are follows from the length of a row and from P. With einops it "
        'is one line, and the pattern begins with "d (p q c)".',
    ),
)
def kernel_from_linear(answer: Any) -> str:
    """Check `kernel_from_linear(weight (D, P*P*C), patch_size) -> (D, C, P, P)`."""
    inputs = [
        (torch.randn(10, 48, dtype=torch.float64), 4),
        (torch.randn(6, 4 * 4), 4),
        (torch.randn(5, 9 * 4), 3),
        (torch.randn(4, 2 * 2 * 5), 2),
        (torch.randn(27, 8).T, 3),  # not in reading order
    ]
    compare(answer, mistakes.as_kernel, inputs, mistakes.KERNELS)
    return (
        f"Right for {len(inputs)} layers, with 1, 3, 4 and 5 channels: every weight meets the "
        f"pixel and the channel that it was learned for."
    )


# ---- 02.4 ----------------------------------------------------------------------------------------


@exercise(
    "02.4",
    title="Tokens first, then the norm",
    difficulty=2,
    minutes=10,
    hints=(
        "The convolution's result has the D numbers of a token in axis 1, spread over D maps. "
        "Before anything else, make it (B, N, D), with the tokens row by row. The lesson's "
        "definition has that line.",
        "Then each token by itself: subtract the mean of its D numbers and divide by the root of "
        "their variance plus 1e-6. Over which axis, once the shape is (B, N, D)?",
        "`F.layer_norm(x, (D,), eps=...)` normalises the last axis. By hand: `var` and `std` "
        "divide by D - 1 unless you pass `correction=0`.",
    ),
)
def normed_tokens(answer: Any) -> str:
    """Check `normed_tokens(maps (B, D, rows, columns)) -> (B, N, D)`."""
    inputs = [  # spread so far that no library's epsilon tells
        (30 + 20 * torch.randn(2, 6, 3, 4),),
        (20 * torch.randn(2, 5, 5, 5),),  # the norm fits every axis
        ((20 * torch.randn(1, 8, 4, 2)).requires_grad_(),),
        (20 * torch.randn(3, 3, 4, 7).permute(0, 2, 3, 1) * torch.arange(1, 4),),
        (20 * torch.randn(2, 4, 4, 4),),
    ]
    compare(with_explained_errors(answer), mistakes.normed, inputs, mistakes.NORMS)
    return (
        f"Right for {len(inputs)} batches, also where D equals the width of the grid and the wrong "
        f"axis would fit: every token has mean 0 and variance 1."
    )


# ---- 02.5 ----------------------------------------------------------------------------------------


@exercise(
    "02.5",
    title="CLS in front",
    difficulty=1,
    minutes=8,
    hints=(
        "There is one CLS token, and every image of the batch needs it. What shape must it have so "
        "that it can be joined to (B, N, D) along the tokens?",
        "`Tensor.expand` repeats an axis of length 1 without copying a number; -1 keeps a length "
        "as it is. B is known from `tokens`.",
        "`torch.cat` joins tensors along one axis. Which of the three axes counts the tokens? And "
        "the order in the list is the order in the result.",
    ),
)
def my_add_cls(answer: Any) -> str:
    """Check `my_add_cls(tokens (B, N, D), cls_token (1, 1, D)) -> (B, N + 1, D)`."""
    inputs = []
    for b, n, d in [(2, 6, 4), (1, 64, 96), (5, 1, 3), (3, 3, 3), (4, 4, 4)]:
        dtype = torch.float32 if n == 64 else torch.float64
        inputs.append((torch.randn(b, n, d, dtype=dtype), torch.randn(1, 1, d, dtype=dtype)))
    inputs.append((torch.randn(4, 7, 2).permute(2, 1, 0), torch.randn(4, 1, 1).permute(2, 1, 0)))
    gradients = tuple(value.clone().requires_grad_() for value in inputs[0])
    explained = with_explained_errors(answer)
    compare(explained, mistakes.with_cls, [gradients, *inputs], mistakes.CLS_PLACES)
    require_gradients(explained, gradients, mistakes.with_cls)
    return (
        f"Right for {len(inputs) + 1} batches of 1 to 5 images. The gradients of all images meet "
        f"in the one CLS token: that is how it is learned."
    )


# ---- 02.6 ----------------------------------------------------------------------------------------


@exercise(
    "02.6",
    title="A module with a CLS token of its own",
    difficulty=3,
    minutes=15,
    hints=(
        "`__init__` makes two things and keeps them: a convolution whose stride is its kernel "
        "size, and one vector for CLS. PyTorch learns a tensor only if it is an `nn.Parameter` "
        "and stands directly on `self`.",
        "`forward` is what you have done by now: the convolution's result, (B, D, rows, columns), "
        "becomes tokens (B, N, D), and CLS goes in front, once for each image of *this* batch.",
        "Whatever is done to an `nn.Parameter` (`.to(...)`, `* 0.02`, `.expand(...)`) makes a new "
        "tensor that is none. Make the numbers first and wrap them last.",
    ),
)
def my_tokens(answer: Any) -> str:
    """Check `MyTokens(patch_size, in_chans, dim)`: (B, C, H, W) -> (B, N + 1, dim)."""
    if not isinstance(answer, type) or not issubclass(answer, nn.Module):
        raise Wrong(f"Expected the class, made from `nn.Module`, got {describe(answer)}.")
    for p, c, d, height, width in [(4, 3, 10, 8, 12), (2, 1, 5, 10, 4)]:
        model = call(answer, p, c, d)
        require_parameters(model, p, c, d)
        for parameter in model.parameters():  # a fresh CLS token may be zero, which proves nothing
            nn.init.normal_(parameter)
        require_tokens(model, c, height, width)
        require_training(model, c, height, width)
    return (
        "Right for two networks: CLS is a parameter, it moves and trains with the network, and "
        "one serves batches of any size."
    )


# ---- 02.7 ----------------------------------------------------------------------------------------


@exercise(
    "02.7",
    title="The mean of some patches",
    difficulty=3,
    minutes=10,
    hints=(
        "Two sums for each image: one of the kept tokens, one of how many they are. Every image "
        "may keep another number of them.",
        "`keep` is (B, N), the tokens are (B, N, D): an axis is missing, and `keep[..., None]` "
        "adds it. Then what is not kept can be set to 0 before you sum.",
        "`x * 0` is not 0 if x is NaN or infinite. `torch.where` or `masked_fill` *replace* the "
        "number. For the second sum, `keep.sum(...)` counts the True.",
    ),
)
def mean_of_kept(answer: Any) -> str:
    """Check `mean_of_kept(tokens (B, N, D), keep bool (B, N)) -> (B, D)`."""
    inputs = []
    for b, n, d in [(2, 6, 4), (3, 9, 3), (1, 5, 2), (4, 4, 4)]:
        tokens = torch.randn(b, n, d, dtype=torch.float64)
        keep = torch.rand(b, n) < 0.5
        keep[:, -1] = True
        keep[:, 0] = False
        inputs.append((tokens, keep))
    inputs.append((torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)))
    spoiled = torch.randn(2, 4, 3, dtype=torch.float64)
    spoiled[:, 1] = float("nan")
    inputs.append((spoiled, torch.tensor([[True, False, True, True], [False, False, False, True]])))
    compare(answer, mistakes.kept_mean, inputs, mistakes.MEANS)
    return (
        f"Right for {len(inputs)} batches, also where another number is kept for each image, and "
        f"where the rest is NaN."
    )

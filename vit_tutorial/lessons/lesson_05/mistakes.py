"""Lesson 05: the right functions, from the library, and the mistakes that its checks know by name.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Piece = Callable[[Tensor], Tensor]

# ---- 05.1 LayerNorm ------------------------------------------------------------------------------


def _norm(
    axis: int | tuple[int, ...] = -1, correction: int = 0, outside: bool = False
) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """Return a normalisation over other axes, with another variance, or eps outside the root."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        variance = x.var(dim=axis, correction=correction, keepdim=True)
        spread = variance.sqrt() + eps if outside else (variance + eps).sqrt()
        return (x - x.mean(dim=axis, keepdim=True)) / spread * weight + bias

    return norm


def _over_all(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + eps).sqrt() * weight + bias


def _with(change: Callable) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """Return a function of (x, deviations, variance, weight, bias, eps) as a normalisation."""

    def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        deviations = x - x.mean(dim=-1, keepdim=True)
        variance = deviations.square().mean(dim=-1, keepdim=True)
        return change(x, deviations, variance, weight, bias, eps)

    return norm


UNBIASED = (
    "You divide the sum of squares by D - 1, as `var` and `std` do by default. LayerNorm divides "
    "by D: it describes these D numbers, it does not estimate from a sample."
)
OUTSIDE = "`eps` stands outside the root: add it to the variance, before the root is taken."
LAYER_NORMS: dict[str, Callable] = {
    f"{UNBIASED} And {OUTSIDE[0].lower()}{OUTSIDE[1:]}": _norm(correction=1, outside=True),
    UNBIASED: _norm(correction=1),
    OUTSIDE: _norm(outside=True),
    "You normalise over the tokens: each entry would depend on all patches. Take the last axis, "
    "the entries of one token.": lambda x, w, b, e: _norm(axis=max(x.ndim - 2, 0))(x, w, b, e),
    "You normalise over the batch: what a network says of an image would depend on the others. "
    "Take the last axis.": _norm(axis=0),
    "One mean and variance for everything that came: take them along the last axis, for each token "
    "on its own.": _over_all,
    "`eps` is left out: where all entries are the same, that is 0 / 0.": _with(
        lambda x, d, v, w, b, e: d / v.sqrt() * w + b
    ),
    "You divide by the variance: the root is missing.": _with(
        lambda x, d, v, w, b, e: d / (v + e) * w + b
    ),
    "The mean is not subtracted.": _with(lambda x, d, v, w, b, e: x / (v + e).sqrt() * w + b),
    "`weight` is not used.": _with(lambda x, d, v, w, b, e: d / (v + e).sqrt() + b),
    "`bias` is not used.": _with(lambda x, d, v, w, b, e: d / (v + e).sqrt() * w),
    "`weight` and `bias` are not used: they come after the division.": _with(
        lambda x, d, v, w, b, e: d / (v + e).sqrt()
    ),
    "The bias is added before the weight is multiplied: the other way round.": _with(
        lambda x, d, v, w, b, e: (d / (v + e).sqrt() + b) * w
    ),
    "The mean square of x itself takes the variance's place (that is RMSNorm): square the "
    "deviations from the mean.": _with(
        lambda x, d, v, w, b, e: d / (x.square().mean(-1, keepdim=True) + e).sqrt() * w + b
    ),
    "Nothing is subtracted and x itself is squared: that is RMSNorm, another normalisation.": _with(
        lambda x, d, v, w, b, e: x / (x.square().mean(-1, keepdim=True) + e).sqrt() * w + b
    ),
}

# ---- 05.2 and 05.3 GELU and MLP ------------------------------------------------------------------


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


GELUS: dict[str, Callable] = {
    "This is the tanh approximation: close, but not equal. The exact GELU uses erf.": _tanh_gelu,
    "This is the sigmoid approximation, x times sigmoid(1.702 x): the exact GELU uses erf.": (
        lambda x: x * torch.sigmoid(1.702 * x)
    ),
    "This is a ReLU.": F.relu,
    "This is SiLU, x times sigmoid(x): here the factor is Phi, of the normal distribution.": F.silu,
    "This is Phi itself; it is still to be multiplied by x.": torch.special.ndtr,
    "Phi needs erf of x / √2, not of x.": lambda x: x * (1 + torch.erf(x)) / 2,
    "The half is missing: your Phi runs from 0 to 2.": lambda x: x * (1 + torch.erf(x / 2**0.5)),
    "The 1 is missing: your Phi runs from -½ to ½.": lambda x: x * torch.erf(x / 2**0.5) / 2,
    "You multiply by erf, not by Phi.": lambda x: x * torch.erf(x / 2**0.5),
    "The factor is the height of the bell curve; Phi is the area below it, left of x.": (
        lambda x: x * torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
    ),
}


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """By the library's functions."""
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def _mlp_with(activation: Piece) -> Callable:
    return lambda x, w1, b1, w2, b2: F.linear(activation(F.linear(x, w1, b1)), w2, b2)


MLPS: dict[str, Callable] = {
    "The activation is a ReLU: take the GELU.": _mlp_with(F.relu),
    "The GELU is the tanh approximation: take the exact one.": _mlp_with(_tanh_gelu),
    "No activation stands between the layers: then the two are one linear layer.": _mlp_with(
        lambda x: x
    ),
    "A GELU follows the second layer too: only the first has one.": (lambda *a: F.gelu(mlp(*a))),
    "The GELU follows the second layer; it belongs between the two.": (
        lambda x, w1, b1, w2, b2: F.gelu(F.linear(F.linear(x, w1, b1), w2, b2))
    ),
    "The GELU comes before the first layer; it belongs between the two.": (
        lambda x, w1, b1, w2, b2: F.linear(F.linear(F.gelu(x), w1, b1), w2, b2)
    ),
    "x is added at the end: the block does that, not the MLP.": lambda x, *w: x + mlp(x, *w),
    "The biases are left out.": lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1)), w2),
    "The first bias is left out.": (
        lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1)), w2, b2)
    ),
    "The second bias is left out.": (
        lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1, b1)), w2)
    ),
    "The first bias is added behind the GELU: it belongs to the first layer.": (
        lambda x, w1, b1, w2, b2: F.linear(F.gelu(F.linear(x, w1)) + b1, w2, b2)
    ),
}

# ---- 05.4 The block ------------------------------------------------------------------------------


def block(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    """Pre-norm."""
    middle = torch.add(x, attention(norm1(x)))
    return torch.add(middle, mlp(norm2(middle)))


def _post_norm(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    x = norm1(x + attention(x))
    return norm2(x + mlp(x))


def _outside_the_branch(
    x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece
) -> Tensor:
    x = x + norm1(attention(x))
    return x + norm2(mlp(x))


def _on_the_stream(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    x = norm1(x)
    x = norm2(x + attention(x))
    return x + mlp(x)


def _no_additions(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    return mlp(norm2(attention(norm1(x))))


def _first_not_added(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    x = attention(norm1(x))
    return x + mlp(norm2(x))


def _second_not_added(
    x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece
) -> Tensor:
    return mlp(norm2(x + attention(norm1(x))))


def _side_by_side(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    return x + attention(norm1(x)) + mlp(norm2(x))


def _input_twice(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    return x + mlp(norm2(x + attention(norm1(x))))


def _swapped_halves(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    x = x + mlp(norm2(x))
    return x + attention(norm1(x))


def _swapped_norms(x: Tensor, norm1: Piece, attention: Piece, norm2: Piece, mlp: Piece) -> Tensor:
    return block(x, norm2, attention, norm1, mlp)


BLOCKS: dict[str, Callable] = {
    "This is post-norm: the norms stand behind the additions, on the stream itself. In a pre-norm "
    "block they stand inside the branches.": _post_norm,
    "The norms come after attention and after the MLP; each half normalises before it computes.": (
        _outside_the_branch
    ),
    "The stream itself is normalised, so what came in is lost: only the branch gets the normalised "
    "tokens.": _on_the_stream,
    "Nothing is added: what comes in must stay, and each half adds to it.": _no_additions,
    "The first half is not added: its result takes the place of the stream.": _first_not_added,
    "The second half is not added: its result takes the place of the stream.": _second_not_added,
    "Both halves read the block's input. The MLP must read the stream after attention has been "
    "added.": _side_by_side,
    "The MLP's result is added to the block's input: what attention added is lost.": _input_twice,
    "The MLP comes first: tokens talk, then think.": _swapped_halves,
    "The norms are swapped: `norm1` belongs to attention, `norm2` to the MLP.": _swapped_norms,
}

"""Attention as learners write it: what is wrong, the cause to name, and the library's own.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

NO_LONGER_A_NUMBER = (
    "NaN for large scores: their exponentials are infinite. Subtract something from the scores "
    "first; from all of a row the same, it changes no weight."
)


# ---- The library's -------------------------------------------------------------------------------


def fused(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """PyTorch's own attention, in the layout that all of its versions take: (B, h, T, d)."""
    four = [part.reshape(-1, 1, *part.shape[-2:]) for part in (q, k, v)]
    return F.scaled_dot_product_attention(*four, attn_mask=allowed).reshape(q.shape)


def library(x: Tensor, wqkv: Tensor, bqkv: Tensor, w: Tensor, b: Tensor, h: int) -> Tensor:
    """PyTorch's own multi-head attention; it wants the tokens first."""
    tokens = x.transpose(0, 1)
    out, _ = F.multi_head_attention_forward(
        tokens, tokens, tokens, x.shape[-1], h, wqkv, bqkv, None, None, False, 0.0, w, b,
        need_weights=False,
    )  # fmt: skip
    return out.transpose(0, 1)


# ---- 04.1 A softmax ------------------------------------------------------------------------------


def _naive(scores: Tensor, dim: int) -> Tensor:
    return scores.exp() / scores.exp().sum(dim=dim, keepdim=True)


def _less(scores: Tensor, less: Tensor) -> Tensor:
    """Softmax along the last axis after something is subtracted."""
    exponentials = (scores - less).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


SOFTMAX: dict[str, Callable] = {
    NO_LONGER_A_NUMBER: lambda s: _naive(s, -1),
    "Every column adds up to 1, not every row: softmax over the wrong axis?": (
        lambda s: s.softmax(dim=0)
    ),
    "The axis before the last adds up to 1: softmax over the wrong axis?": (
        lambda s: s.softmax(dim=max(-2, -s.ndim))
    ),
    "Over the wrong axis: `dim=1` is the last one for a table only; the last is always -1.": (
        lambda s: s.softmax(dim=min(1, s.ndim - 1))
    ),
    "Over the wrong axis, and NaN for large scores: each row alone must add up to 1.": (
        lambda s: _naive(s, 0)
    ),
    "All numbers together add up to 1: each row along the last axis must do so by itself.": (
        lambda s: s.flatten().softmax(dim=0).view(s.shape)
    ),
    "All numbers together are the sum you divide by, and large ones give NaN: each row needs "
    "its own sum.": lambda s: s.exp() / s.exp().sum(),
    "You subtract the largest of all scores. In a row far below it every exponential becomes "
    "0, and 0/0 is NaN: each row needs its own.": lambda s: _less(s, s.max()),
    "You subtract the mean. One large score among small ones is still far above it: subtract "
    "what none can be above.": lambda s: _less(s, s.mean(dim=-1, keepdim=True)),
    "You subtract the smallest. The others are above it, and their exponentials can be "
    "infinite.": lambda s: _less(s, s.amin(dim=-1, keepdim=True)),
    "These are the exponentials; nothing makes them add up to 1 yet.": (
        lambda s: (s - s.amax(dim=-1, keepdim=True)).exp()
    ),
    "You divide the scores by their sum: where is the exponential?": (
        lambda s: s / s.sum(dim=-1, keepdim=True)
    ),
    "These are the logarithms of the weights.": lambda s: s.log_softmax(dim=-1),
    "Rows are right where you cut large scores off only by chance: cutting changes the "
    "differences between them. Subtract instead.": lambda s: _naive(s.clamp(-80, 80), -1),
}


# ---- 04.2 Attention ------------------------------------------------------------------------------


def _weights(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    """Return the weights; the right scale is one over the square root of d."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (q @ k.transpose(-2, -1) * scale).softmax(dim=-1)


def _softmax_overflows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _naive(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, -1) @ v


ATTENTION: dict[str, Callable] = {
    "Nothing scales the scores: divide them by the square root of d.": (
        lambda q, k, v: _weights(q, k, 1.0) @ v
    ),
    "You divide the scores by d: it is the square root of d.": (
        lambda q, k, v: _weights(q, k, 1 / q.shape[-1]) @ v
    ),
    "You multiply the scores by the square root of d: divide.": (
        lambda q, k, v: _weights(q, k, q.shape[-1] ** 0.5) @ v
    ),
    "You divide by the square root of the number of tokens T: d is the width of a query, the "
    "last axis.": lambda q, k, v: _weights(q, k, q.shape[-2] ** -0.5) @ v,
    "The weights of a row do not add up to 1: you scale after the softmax, not before.": (
        lambda q, k, v: _weights(q, k, 1.0) / q.shape[-1] ** 0.5 @ v
    ),
    "q and k are swapped: a row of the scores must belong to a query, a column to a key.": (
        lambda q, k, v: _weights(k, q) @ v
    ),
    "Rows do not add up to 1, columns do: softmax over the wrong axis? It belongs along the "
    "keys.": lambda q, k, v: _weights(k, q).transpose(-2, -1) @ v,
    "The softmax is over the first axis, which is batch or queries: it belongs along the keys, "
    "the last one.": lambda q, k, v: (
        (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=0) @ v
    ),
    "`dim=1` is the axis of the keys only while there is no batch: count from the end.": (
        lambda q, k, v: (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=1) @ v
    ),
    "There is no softmax: scores can be negative and add up to anything.": (
        lambda q, k, v: q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 @ v
    ),
    "The weights are blended with the keys: it is the values that are handed over.": (
        lambda q, k, v: _weights(q, k) @ k
    ),
    "These are the weights; what is missing is the blend of the values.": (
        lambda q, k, v: _weights(q, k)
    ),
    "The table of weights is on its side: it multiplies the values by what each key gives, not "
    "by what each query takes.": lambda q, k, v: _weights(q, k).transpose(-2, -1) @ v,
    NO_LONGER_A_NUMBER: _softmax_overflows,
}


# ---- 04.3 With a mask ----------------------------------------------------------------------------


def _masked(q: Tensor, k: Tensor, v: Tensor, forbidden: Tensor, fill: float = -torch.inf) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return scores.masked_fill(forbidden, fill).softmax(dim=-1) @ v


def _renormalised(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    left = _weights(q, k) * allowed
    return left / left.sum(dim=-1, keepdim=True) @ v


MASKED: dict[str, Callable] = {
    "Rows do not add up to 1: a weight set to 0 after the softmax is lost, nobody else gets "
    "it.": lambda q, k, v, a: _weights(q, k) * a @ v,
    "The mask is inverted: True means that the query may look.": (
        lambda q, k, v, a: _masked(q, k, v, a)
    ),
    "The mask does nothing: forbidden keys still get their weight.": (
        lambda q, k, v, a: _weights(q, k) @ v
    ),
    "A score of 0 forbids nothing: e^0 = 1. Which score gives a weight of 0?": (
        lambda q, k, v, a: _masked(q, k, v, ~a, fill=0.0)
    ),
    "The mask is on its side: `allowed[i, j]` is for query i and key j.": (
        lambda q, k, v, a: _masked(q, k, v, ~a.T)
    ),
    "On paper this is right. But where a forbidden key had taken everything, what is left is 0 "
    "and its sum too: NaN. Keep that key out before the softmax.": _renormalised,
    "The mask is added as the numbers 0 and 1: it must make the difference between a score "
    "and none.": lambda q, k, v, a: (
        (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + a).softmax(dim=-1) @ v
    ),
    "NaN: 0 times infinity is not a number. Write the infinite score only where it belongs.": (
        lambda q, k, v, a: (
            (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + ~a * -torch.inf).softmax(-1) @ v
        )
    ),
    "The scale is missing: the scores are divided by the square root of d, here too.": (
        lambda q, k, v, a: _masked(q * q.shape[-1] ** 0.5, k, v, ~a)
    ),
    "The values of forbidden keys are set to 0, but their weights stay and are lost.": (
        lambda q, k, v, a: _weights(q, k).where(a, 0.0) @ v
    ),
}


# ---- 04.4 and 04.5 Heads -------------------------------------------------------------------------

SPLIT: dict[str, Callable] = {
    "The shape is right, the numbers are not: a reshape alone moves nothing, so a head holds "
    "pieces of a few tokens instead of a piece of each.": (
        lambda x, h: x.reshape(x.shape[0], h, x.shape[1], -1)
    ),
    "The axes are (B, T, h, d): the heads must come before the tokens.": (
        lambda x, h: x.unflatten(-1, (h, -1))
    ),
    "The numbers are dealt out in turn, as (d h): head 0 must get the first d of every token, "
    "side by side.": lambda x, h: x.unflatten(-1, (-1, h)).permute(0, 3, 1, 2),
    "The last two axes are swapped: (B, h, T, d), not (B, h, d, T).": (
        lambda x, h: x.unflatten(-1, (h, -1)).permute(0, 2, 3, 1)
    ),
    "Heads in front of the batch: (B, h, T, d), not (h, B, T, d).": (
        lambda x, h: x.unflatten(-1, (h, -1)).permute(2, 0, 1, 3)
    ),
}


def _split(x: Tensor, heads: int) -> Tensor:
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def _join(x: Tensor) -> Tensor:
    return torch.cat(x.unbind(dim=1), dim=-1)


def _view_split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], heads, x.shape[1], -1)


def _view_join(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[2], -1)


def _dealt(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)


def _undealt(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(2)


def _heads(
    parts: Callable = lambda qkv, h: [_split(part, h) for part in qkv.chunk(3, dim=-1)],
    attend: Callable = lambda q, k, v, width: _weights(q, k) @ v,
    join: Callable = _join,
    project: Callable = F.linear,
) -> Callable:
    """Build multi-head attention of exchangeable parts, right by default."""

    def attention(x: Tensor, wqkv: Tensor, bqkv: Tensor, w: Tensor, b: Tensor, h: int) -> Tensor:
        q, k, v = parts(F.linear(x, wqkv, bqkv), h)
        return project(join(attend(q, k, v, x.shape[-1])), w, b)

    return attention


def _from_layout(pattern: tuple[int, int, int]) -> Callable:
    """Take q, k and v from the qkv layer's outputs in another order."""
    return lambda qkv, h: [_split(qkv.chunk(3, dim=-1)[i], h) for i in pattern]


def _head_by_head(qkv: Tensor, h: int) -> list[Tensor]:
    """Read the outputs as (h three d): q, k and v of head 0, then those of head 1."""
    return [part.squeeze(3).transpose(1, 2) for part in qkv.unflatten(-1, (h, 3, -1)).split(1, 3)]


def _over_batch(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    """Let every token look at the same place in the other images."""
    q, k, v = (part.transpose(0, 2) for part in (q, k, v))
    return (_weights(q, k) @ v).transpose(0, 2)


def _over_heads(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return (_weights(q, k) @ v).transpose(1, 2)


VIEW_SPLIT = _heads(parts=lambda qkv, h: [_view_split(p, h) for p in qkv.chunk(3, dim=-1)])
SPLIT_MESSAGE = (
    "The heads are split by a reshape alone, which moves nothing: a head holds pieces of a few "
    "tokens instead of a piece of each."
)
JOIN_MESSAGE = (
    "The heads are joined by a reshape alone: the axis of the heads stands before the tokens and "
    "must move behind them first, or numbers of different tokens share a row."
)
MULTI_HEAD: dict[str, Callable] = {
    SPLIT_MESSAGE: VIEW_SPLIT,
    JOIN_MESSAGE: _heads(join=_view_join),
    f"{SPLIT_MESSAGE} And they are joined the same way.": _heads(
        parts=lambda qkv, h: [_view_split(p, h) for p in qkv.chunk(3, dim=-1)], join=_view_join
    ),
    "You divide by the square root of D, the width of a token: d is the width of one head.": (
        _heads(attend=lambda q, k, v, width: _weights(q, k, width**-0.5) @ v)
    ),
    "Nothing scales the scores: divide them by the square root of the width of a head.": _heads(
        attend=lambda q, k, v, width: _weights(q, k, 1.0) @ v
    ),
    "You divide by d: it is the square root of d.": _heads(
        attend=lambda q, k, v, width: _weights(q, k, 1 / q.shape[-1]) @ v
    ),
    "The weights of a row do not add up to 1: you scale after the softmax, not before.": _heads(
        attend=lambda q, k, v, width: _weights(q, k, 1.0) * q.shape[-1] ** -0.5 @ v
    ),
    "Columns add up to 1, rows do not: softmax over the wrong axis?": _heads(
        attend=lambda q, k, v, width: _weights(k, q).transpose(-2, -1) @ v
    ),
    "The softmax is over the axis of the heads: it belongs along the keys, the last axis.": _heads(
        attend=lambda q, k, v, width: (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=1) @ v
    ),
    "q and k are swapped: of the 3D outputs the first D are the queries.": _heads(
        parts=_from_layout((1, 0, 2))
    ),
    "The 3D outputs are queries, keys and values, in this order; yours is another.": _heads(
        parts=_from_layout((0, 2, 1))
    ),
    "The 3D outputs are read as values, keys, queries: the order is queries, keys, values.": (
        _heads(parts=_from_layout((2, 1, 0)))
    ),
    "The outputs of the qkv layer are read head by head, as (h three d): the queries of all heads "
    "come first, (three h d).": _heads(parts=_head_by_head),
    "The numbers are dealt out to the heads in turn, as (d h): a head gets d that lie side by "
    "side, (h d).": _heads(
        parts=lambda qkv, h: [_dealt(p, h) for p in qkv.chunk(3, dim=-1)], join=_undealt
    ),
    "The heads are joined as (d h): first comes the whole output of head 0, then that of head 1.": (
        _heads(join=_undealt)
    ),
    "Attention runs over the batch: a token looks at other images, not at the other tokens of its "
    "own.": _heads(attend=_over_batch),
    "Attention runs over the heads: the axes T and d must be the last two.": _heads(
        attend=_over_heads
    ),
    "The last linear layer is missing.": _heads(project=lambda x, w, b: x),
    "proj_weight is on its side: nn.Linear multiplies by the transposed weight.": _heads(
        project=lambda x, w, b: x @ w + b
    ),
    "proj_bias is missing.": _heads(project=lambda x, w, b: F.linear(x, w)),
    "qkv_bias is missing.": lambda x, wqkv, bqkv, w, b, h: library(
        x, wqkv, torch.zeros_like(bqkv), w, b, h
    ),
    "There is only one head: num_heads makes no difference.": lambda x, wqkv, bqkv, w, b, h: (
        library(x, wqkv, bqkv, w, b, 1)
    ),
}


# ---- 04.6 A head that looks one way --------------------------------------------------------------


def _looking(
    target: Callable[[int, int, int, int], tuple[int, int] | int | None], signed: int = 1
) -> Callable:
    """Build a table of weights from where the patch at (row, column) looks, None for nowhere."""

    def weights(grid: tuple[int, int], step: tuple[int, int]) -> Tensor:
        rows, columns = grid
        table = torch.zeros(rows * columns, rows * columns)
        for query in range(len(table)):
            row, column = query // columns + signed * step[0], query % columns + signed * step[1]
            key = target(row, column, rows, columns)
            if isinstance(key, tuple):
                key = key[0] * columns + key[1]
            if key is not None:
                table[query, key if key >= 0 else query] = 1
        return table

    return weights


def _inside(row: int, column: int, rows: int, columns: int) -> bool:
    return 0 <= row < rows and 0 <= column < columns


def _by_shift(grid: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """Step in the sequence, with no eye for the end of a row."""
    count = grid[0] * grid[1]
    keys = torch.arange(count) + step[0] * grid[1] + step[1]
    outside = (keys < 0) | (keys >= count)
    return F.one_hot(torch.where(outside, torch.arange(count), keys), count).float()


always_looking = _looking(
    lambda r, c, rows, columns: (r, c) if _inside(r, c, rows, columns) else -1
)


LOOKING: dict[str, Callable] = {
    "You step in the sequence: the first patch of a row looks at the last of the row above, at "
    "the other side of the picture.": _by_shift,
    "You go round the edge: a patch at the border sees the other side of the picture.": (
        _looking(lambda r, c, rows, columns: (r % rows, c % columns))
    ),
    "A patch whose step leads out looks at nothing: its row must add up to 1 too, on itself.": (
        _looking(lambda r, c, rows, columns: (r, c) if _inside(r, c, rows, columns) else None)
    ),
    "Outside the grid you stop at the border: the patch must look at itself, not at the last "
    "one on its way.": _looking(
        lambda r, c, rows, columns: (min(max(r, 0), rows - 1), min(max(c, 0), columns - 1))
    ),
    "It looks the opposite way: the key is where the query is, plus the step.": _looking(
        lambda r, c, rows, columns: (r, c) if _inside(r, c, rows, columns) else -1, signed=-1
    ),
    "The table is on its side: entry [i, j] is for query i and key j.": (
        lambda grid, step: always_looking(grid, step).T
    ),
    "The step is (down, right), the row first; yours is (right, down).": (
        lambda grid, step: always_looking(grid, step[::-1])
    ),
    "Rows and columns of the grid are swapped: a row holds `grid[1]` patches.": (
        lambda grid, step: always_looking(grid[::-1], step)
    ),
}

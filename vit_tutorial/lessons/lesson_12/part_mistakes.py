"""Heads and tokens taken away as learners do it: what is right, and mistakes with their cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# ---- Importance of heads -------------------------------------------------------------------------


def importance(handed_on: Tensor, gradient: Tensor, num_heads: int) -> Tensor:
    """The right importance: one gate after the other."""
    wide = handed_on.shape[-1] // num_heads
    found = []
    for head in range(num_heads):
        own = slice(head * wide, (head + 1) * wide)
        slopes = torch.einsum("btd,btd->b", handed_on[..., own], gradient[..., own])
        found.append(slopes.abs().mean())
    return torch.stack(found)


def _by_head(values: Tensor, heads: int) -> Tensor:
    """Cut the width into heads: (B, T, D) -> (B, T, h, d)."""
    return values.unflatten(-1, (heads, -1))


IMPORTANCE: dict[str, Callable] = {
    "The absolute value comes too early: one gate multiplies everything that a head hands on, so "
    "first add it all up, with its signs, and then take the absolute value.": lambda y, g, h: (
        _by_head((y * g).abs(), h).sum(dim=(1, 3)).mean(0)
    ),
    "The absolute value comes for each token. There is one gate for all tokens of an image.": (
        lambda y, g, h: _by_head(y * g, h).sum(3).abs().sum(1).mean(0)
    ),
    "The absolute value comes after the mean: images that pull in opposite directions would "
    "cancel.": lambda y, g, h: _by_head(y * g, h).sum(dim=(1, 3)).mean(0).abs(),
    "The absolute value is missing: it counts how far the loss moves, not which way.": (
        lambda y, g, h: _by_head(y * g, h).sum(dim=(1, 3)).mean(0)
    ),
    "The gradient alone tells how the loss hangs on what is handed on, not on the gate: the slope "
    "along the gate has both.": lambda y, g, h: _by_head(g, h).sum(dim=(1, 3)).abs().mean(0),
    "This asks how much a head hands on, and leaves the gradient out.": (
        lambda y, g, h: _by_head(y, h).sum(dim=(1, 3)).abs().mean(0)
    ),
    "The width is cut the wrong way: the d numbers of a head stand next to each other.": (
        lambda y, g, h: (y * g).unflatten(-1, (-1, h)).sum(dim=(1, 2)).abs().mean(0)
    ),
    "The sum over the images instead of their mean.": lambda y, g, h: (
        _by_head(y * g, h).sum(dim=(1, 3)).abs().sum(0)
    ),
    "You take the mean over tokens and numbers. The gate multiplies all of them: it is a sum.": (
        lambda y, g, h: _by_head(y * g, h).mean(dim=(1, 3)).abs().mean(0)
    ),
}

# ---- Heads taken away ----------------------------------------------------------------------------

Kept = Sequence[int]


def pruned(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
    """The right weights, flat one after the other."""
    dim = proj.shape[0]
    wide = proj.shape[1] // num_heads
    columns = [head * wide + i for head in keep for i in range(wide)]
    rows = [part * dim + column for part in range(3) for column in columns]
    return torch.cat([qkv[rows].flatten(), bias[rows], proj[:, columns].flatten()])


def _cut(
    rows: Callable[[int, int, Kept], list[int]], columns: Callable[[int, int, Kept], list[int]]
) -> Callable[..., Tensor]:
    """Build a pruning from the rows and columns that it keeps, of (D, heads, keep)."""

    def made(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
        r, c = rows(proj.shape[0], num_heads, keep), columns(proj.shape[0], num_heads, keep)
        return torch.cat([qkv[r].flatten(), bias[r], proj[:, c].flatten()])

    return made


def _columns(dim: int, heads: int, keep: Kept) -> list[int]:
    wide = dim // heads
    return [head * wide + i for head in keep for i in range(wide)]


def _rows(dim: int, heads: int, keep: Kept) -> list[int]:
    return [part * dim + column for part in range(3) for column in _columns(dim, heads, keep)]


def _gone(heads: int, keep: Kept) -> list[int]:
    return [head for head in range(heads) if head not in keep]


PRUNED: dict[str, Callable] = {
    "These are the heads that were to go.": _cut(
        lambda d, h, k: _rows(d, h, _gone(h, k)), lambda d, h, k: _columns(d, h, _gone(h, k))
    ),
    "The heads come in the order in which they were; `keep` says the order.": _cut(
        lambda d, h, k: _rows(d, h, sorted(k)), lambda d, h, k: _columns(d, h, sorted(k))
    ),
    "`qkv` is cut as if a head's queries, keys and values stood together. First come the queries "
    "of all heads, then the keys of all, then the values.": _cut(
        lambda d, h, k: [head * 3 * (d // h) + i for head in k for i in range(3 * (d // h))],
        _columns,
    ),
    "The heads of `qkv` come head by head: first all queries, then all keys, then all values, in "
    "the smaller layer, too.": _cut(
        lambda d, h, k: [
            part * d + head * (d // h) + i for head in k for part in range(3) for i in range(d // h)
        ],
        _columns,
    ),
    "The d numbers of a head stand next to each other in the width; you take every h-th.": _cut(
        lambda d, h, k: [part * d + i * h + head for part in range(3) for head in k
                         for i in range(d // h)],
        lambda d, h, k: [i * h + head for head in k for i in range(d // h)],
    ),
    "The columns of `proj` do not follow: it must read the heads that are left, in their order.": (
        _cut(_rows, lambda d, h, k: list(range(len(k) * (d // h))))
    ),
}  # fmt: skip


def rows_of_proj(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
    """Cut the rows of `proj`: the mistake of those who take it for a layer like the others."""
    columns = _columns(proj.shape[0], num_heads, keep)
    rows = _rows(proj.shape[0], num_heads, keep)
    return torch.cat([qkv[rows].flatten(), bias[rows], proj[columns].flatten()])


def columns_of_qkv(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
    """Cut the width that `qkv` reads, which all heads share."""
    columns = _columns(proj.shape[0], num_heads, keep)
    rows = _rows(proj.shape[0], num_heads, keep)
    return torch.cat([qkv[rows][:, columns].flatten(), bias[rows], proj[:, columns].flatten()])


PRUNED |= {
    "You cut the rows of `proj`. Its columns read the heads; its rows are the width that goes back "
    "to the stream, and stay.": rows_of_proj,
    "You cut the columns of `qkv`. All heads read the whole width; what a head makes are rows.": (
        columns_of_qkv
    ),
}

# ---- Tokens merged -------------------------------------------------------------------------------


def merge(tokens: Tensor, sizes: Tensor, a: int, b: int) -> Tensor:
    """The right tokens, with the sizes as one more column: (T - 1, D + 1)."""
    both = torch.cat([tokens * sizes[:, None], sizes[:, None]], dim=1)
    table = torch.eye(len(tokens)).to(tokens)
    table[b] += table[a]
    both = (table @ both)[[i for i in range(len(tokens)) if i != a]]
    return torch.cat([both[:, :-1] / both[:, -1:], both[:, -1:]], dim=1)


def _merged(
    mean: Callable[[Tensor, Tensor, int, int], Tensor],
    size: Callable[[Tensor, int, int], Tensor] = lambda s, a, b: s[a] + s[b],
    into: Callable[[int, int], int] = lambda a, b: b,
    leave: Callable[[int, int], int] = lambda a, b: a,
) -> Callable[[Tensor, Tensor, int, int], Tensor]:
    """Build a merge of exchangeable parts."""

    def made(tokens: Tensor, sizes: Tensor, a: int, b: int) -> Tensor:
        tokens, counts = tokens.clone(), sizes.clone()
        tokens[into(a, b)], counts[into(a, b)] = mean(tokens, sizes, a, b), size(sizes, a, b)
        stay = [i for i in range(len(tokens)) if i != leave(a, b)]
        return torch.cat([tokens[stay], counts[stay, None]], dim=1)

    return made


def _weighted(x: Tensor, s: Tensor, a: int, b: int) -> Tensor:
    return (x[a] * s[a] + x[b] * s[b]) / (s[a] + s[b])


MERGED: dict[str, Callable] = {
    "This is the mean of the two tokens, whatever their sizes: a token of five patches and a token "
    "of one must not count alike.": _merged(lambda x, s, a, b: (x[a] + x[b]) / 2),
    "The tokens are added, and not divided: the merged one would be as long as all its patches "
    "together.": _merged(lambda x, s, a, b: x[a] * s[a] + x[b] * s[b]),
    "The sizes do not follow: the merged token has as many patches as both together.": _merged(
        _weighted, size=lambda s, a, b: s[b]
    ),
    "The merged token counts as one patch more, but `a` may have had several.": _merged(
        _weighted, size=lambda s, a, b: s[b] + 1
    ),
    "The weights are exchanged: each token counts with its own size.": _merged(
        lambda x, s, a, b: (x[a] * s[b] + x[b] * s[a]) / (s[a] + s[b])
    ),
    "The merged token stands in the place of `a`. It is `a` that goes.": _merged(
        _weighted, into=lambda a, b: a, leave=lambda a, b: b
    ),
    "Token `a` is gone, and nothing of it has come into `b`.": _merged(
        lambda x, s, a, b: x[b], size=lambda s, a, b: s[b]
    ),
    "Token `a` is still there.": lambda x, s, a, b: torch.cat(
        [x.index_put((torch.tensor(b),), _weighted(x, s, a, b)), s[:, None]], dim=1
    ),
    "`a` is removed first, and then `b` is another token where it stood behind `a`.": (
        lambda x, s, a, b: _removed_first(x, s, a, b)
    ),
}


def _removed_first(tokens: Tensor, sizes: Tensor, a: int, b: int) -> Tensor:
    """Put the merged token where `b` was, in a table that is already one shorter."""
    stay = [i for i in range(len(tokens)) if i != a]
    tokens, counts = tokens.clone(), sizes.clone()
    new, both = _weighted(tokens, sizes, a, b), sizes[a] + sizes[b]
    tokens, counts = tokens[stay], counts[stay]
    at = min(b, len(stay) - 1)
    tokens[at], counts[at] = new, both
    return torch.cat([tokens, counts[:, None]], dim=1)

"""Heads as learners measure them: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Grid = tuple[int, int]

# ---- One head's map ------------------------------------------------------------------------------


def _between_patches(weights: Tensor, head: int, grid: Grid, num_prefix: int) -> Tensor:
    """Lay one head's table out as (B, rows, columns of the query, rows, columns of the key)."""
    patches = weights.select(1, head)[:, num_prefix:, num_prefix:]
    return patches.unflatten(2, grid).unflatten(1, grid)


def head_map(weights: Tensor, head: int, query: Grid, grid: Grid, num_prefix: int) -> Tensor:
    """The right map, in even shares of all T tokens."""
    table = _between_patches(weights, head, grid, num_prefix)
    return table[:, query[0], query[1]] * weights.shape[-1]


def _row(weights: Tensor, head: int, token: int, start: int, grid: Grid) -> Tensor:
    keys = weights[:, head, token, start : start + grid[0] * grid[1]]
    return keys.reshape(-1, *grid) * weights.shape[-1]


HEAD_MAPS: dict[str, Callable] = {
    "This is the column of the patch, which tells who attends to *it*: in weights[..., i, j] the "
    "query is i.": lambda w, h, q, g, p: (
        _between_patches(w, h, g, p)[..., q[0], q[1]] * w.shape[-1]
    ),
    "The token is counted without the prefix: the first patch is not token 0 where CLS stands in "
    "front.": lambda w, h, q, g, p: _row(w, h, q[0] * g[1] + q[1], p, g),
    "The map begins with the prefix: keys before the patches belong to CLS and have no place in "
    "it.": lambda w, h, q, g, p: _row(w, h, p + q[0] * g[1] + q[1], 0, g),
    "Prefix tokens are forgotten on both sides: they move the query's token, and they must not be "
    "drawn.": lambda w, h, q, g, p: _row(w, h, q[0] * g[1] + q[1], 0, g),
    "Patches are counted row by row, and a row holds `grid[1]` of them; you use the number of "
    "rows.": lambda w, h, q, g, p: _row(w, h, p + q[0] * g[0] + q[1], p, g),
    "The query is (row, column); yours is read as (column, row).": (
        lambda w, h, q, g, p: _row(w, h, p + q[1] * g[1] + q[0], p, g)
    ),
    "These are the weights. The unit is missing: an even share of all T tokens must be 1.": (
        lambda w, h, q, g, p: head_map(w, h, q, g, p) / w.shape[-1]
    ),
    "You divide by T: an even share is 1/T, and must become 1.": (
        lambda w, h, q, g, p: head_map(w, h, q, g, p) / w.shape[-1] ** 2
    ),
    "You take N, the number of patches, for the even share: CLS is one of the T tokens, too.": (
        lambda w, h, q, g, p: head_map(w, h, q, g, p) * (g[0] * g[1] / w.shape[-1])
    ),
    "Each map is scaled to its own maximum: then nobody sees how much it is.": (
        lambda w, h, q, g, p: (lambda m: m / m.amax((1, 2), keepdim=True))(head_map(w, h, q, g, p))
    ),
    "The patches of a map add up to the same whatever CLS takes: do not share out what is not "
    "drawn.": lambda w, h, q, g, p: (lambda m: m / m.sum((1, 2), keepdim=True) * w.shape[-1])(
        head_map(w, h, q, g, p)
    ),
    "The map is on its side: (rows, columns), with the columns last.": (
        lambda w, h, q, g, p: head_map(w, h, q, g, p).mT
    ),
    "The map has the right shape, but its numbers are laid out column by column.": (
        lambda w, h, q, g, p: head_map(w, h, q, g, p).flatten(1).reshape(-1, *g[::-1]).mT
    ),
    "This is the mean over the heads: only one was asked for.": (
        lambda w, h, q, g, p: head_map(w.mean(1, keepdim=True), 0, q, g, p)
    ),
}

# ---- Among how many tokens -----------------------------------------------------------------------


def _entropy(weights: Tensor, floor: float | None = None) -> Tensor:
    """-sum w ln w along the last axis, a w of 0 counting nothing: (..., T) -> (...)."""
    tiny = torch.finfo(weights.dtype).tiny if floor is None else floor
    return -(weights * weights.clamp_min(tiny).log()).sum(dim=-1)


def shared_among(weights: Tensor) -> Tensor:
    """The right number for each head."""
    return _entropy(weights).exp().mean(dim=2).mean(dim=0)


SHARED: dict[str, Callable] = {
    "NaN: a weight of 0 has the logarithm minus infinity, and 0 times that is not a number. In "
    "the limit w ln w is 0.": lambda w: (-(w * w.log()).sum(-1)).exp().mean((0, 2)),
    "This is the entropy H itself; what is asked for is e to the power of it.": (
        lambda w: _entropy(w).mean((0, 2))
    ),
    "You average the entropies and take the exponential last. Take it for each query, then the "
    "mean.": lambda w: _entropy(w).mean((0, 2)).exp(),
    "You average the weights before you measure. The mean of many narrow rows is wide: measure "
    "each row, then average.": lambda w: _entropy(w.mean((0, 2))).exp(),
    "The sign is missing: ln w is negative, so H is minus the sum of w ln w.": (
        lambda w: (-_entropy(w)).exp().mean((0, 2))
    ),
    "The logarithm is to base 2 and the power to base e: both must have the same base.": (
        lambda w: (_entropy(w) / math.log(2)).exp().mean((0, 2))
    ),
    "The sum runs over the queries: entropy belongs along a row, the last axis.": (
        lambda w: _entropy(w.mT).exp().mean((0, 2))
    ),
    "This is 1 over the sum of the squared weights: also a number of tokens, but not the one that "
    "entropy gives.": lambda w: (1 / w.square().sum(-1)).mean((0, 2)),
    "You count the tokens that have any weight at all: the larger ones must count for more.": (
        lambda w: (w > 0).sum(-1).to(w).mean((0, 2))
    ),
    **{
        f"You add {small:g} inside the logarithm. It hides the NaN, and every number is a little "
        "wrong: make an exception of the zeros instead.": (
            lambda w, small=small: (-(w * (w + small).log()).sum(-1)).exp().mean((0, 2))
        )
        for small in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
    },
}

# ---- Attention distance --------------------------------------------------------------------------


def _places(grid: Grid, like: Tensor) -> Tensor:
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).to(like)


def _straight(grid: Grid, like: Tensor) -> Tensor:
    places = _places(grid, like)
    return torch.linalg.vector_norm(places[:, None] - places, dim=-1)


def _distance(
    between: Callable[[Grid, Tensor], Tensor] = _straight,
    cut: Callable[[Tensor, int, int], Tensor] = lambda w, p, n: w[:, :, p:, p:],
    scale: Callable[[Tensor], Tensor] = lambda w: w / w.sum(dim=-1, keepdim=True),
    mean: Callable[[Tensor], Tensor] = lambda far: far.sum(dim=-1).mean(dim=(0, 2)),
) -> Callable:
    """Build an attention distance of exchangeable parts, right by default."""

    def distance(weights: Tensor, grid: Grid, num_prefix: int) -> Tensor:
        patches = scale(cut(weights, num_prefix, grid[0] * grid[1]))
        return mean(patches * between(grid, weights))

    return distance


def _along_the_sequence(grid: Grid, like: Tensor) -> Tensor:
    numbers = torch.arange(grid[0] * grid[1]).to(like)
    return (numbers[:, None] - numbers).abs()


def _grid_swapped(grid: Grid, like: Tensor) -> Tensor:
    return _straight(grid[::-1], like)


attention_distance = _distance()


def _overall(weights: Tensor, grid: Grid, num_prefix: int) -> Tensor:
    """Divide once, by all attention to patches, so that some queries count for more."""
    patches = weights[:, :, num_prefix:, num_prefix:]
    far = (patches * _straight(grid, weights)).sum(dim=(0, 2, 3))
    return far / patches.sum(dim=(0, 2, 3))


DISTANCES: dict[str, Callable] = {
    "You subtract the numbers of the patches: the patch below is then a whole row away. Turn "
    "numbers into rows and columns first.": _distance(between=_along_the_sequence),
    "Rows and columns of the grid are swapped: patches are counted row by row, and a row holds "
    "`grid[1]` of them.": _distance(between=_grid_swapped),
    "You do not divide by what a row gives to patches: a head that looks at CLS seems near.": (
        _distance(scale=lambda w: w)
    ),
    "The prefix tokens stand in front; you cut off the last ones.": _distance(
        cut=lambda w, p, n: w[:, :, :n, :n]
    ),
    "These are squared distances: the root is missing.": _distance(
        between=lambda g, like: _straight(g, like).square()
    ),
    "You add rows and columns apart. The distance is a straight line: the root of the sum of "
    "their squares.": _distance(
        between=lambda g, like: (_places(g, like)[:, None] - _places(g, like)).abs().sum(-1)
    ),
    "You take the larger of rows and columns apart. The distance is a straight line: the root of "
    "the sum of their squares.": _distance(
        between=lambda g, like: (_places(g, like)[:, None] - _places(g, like)).abs().amax(-1)
    ),
    "The columns are divided by their sums: each row must add up to 1, a row for each query.": (
        _distance(scale=lambda w: w / w.sum(dim=-2, keepdim=True))
    ),
    "The mean runs over keys as well: sum over the keys, and take the mean over images and "
    "queries.": _distance(mean=lambda far: far.mean(dim=(0, 2, 3))),
    "You divide once, by all attention to patches together. Then queries that look at CLS count "
    "for less: each row is divided by its own sum.": _overall,
}

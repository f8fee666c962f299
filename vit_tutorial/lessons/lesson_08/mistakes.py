"""Heads measured and rollout, as learners write them: what is right, and mistakes with their cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int]

# ---- 08.1 One head's map -------------------------------------------------------------------------


def _between_patches(weights: Tensor, head: int, grid: Grid, num_prefix: int) -> Tensor:
    """Lay one head's matrix out as (B, rows, columns of the query, rows, columns of the key)."""
    patches = weights.select(1, head)[:, num_prefix:, num_prefix:]
    return patches.unflatten(2, grid).unflatten(1, grid)


def head_map(weights: Tensor, head: int, query: Grid, grid: Grid, num_prefix: int) -> Tensor:
    """The right map, in even shares of all T tokens."""
    matrix = _between_patches(weights, head, grid, num_prefix)
    return matrix[:, query[0], query[1]] * weights.shape[-1]


def _row(weights: Tensor, head: int, token: int, start: int, grid: Grid) -> Tensor:
    keys = weights[:, head, token, start : start + grid[0] * grid[1]]
    return keys.reshape(-1, *grid) * weights.shape[-1]


def _scaled_to_maximum(weights: Tensor, *where: Any) -> Tensor:
    heat = head_map(weights, *where)
    return heat / heat.amax((1, 2), keepdim=True)


def _shared_among_patches(weights: Tensor, *where: Any) -> Tensor:
    heat = head_map(weights, *where)
    return heat / heat.sum((1, 2), keepdim=True) * weights.shape[-1]


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
    "Each map is scaled to its own maximum: then nobody sees how much it is.": _scaled_to_maximum,
    "The patches of a map add up to the same whatever CLS takes: do not share out what is not "
    "drawn.": _shared_among_patches,
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

# ---- 08.2 Among how many tokens ------------------------------------------------------------------


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

# ---- 08.3 Attention distance ---------------------------------------------------------------------


def _places(grid: Grid, like: Tensor) -> Tensor:
    return torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).to(like)


def _straight(grid: Grid, like: Tensor) -> Tensor:
    places = _places(grid, like)
    return torch.linalg.vector_norm(places[:, None] - places, dim=-1)


def _distance(
    between: Callable[[Grid, Tensor], Tensor] = _straight,
    cut: Callable[[Tensor, int, int], Tensor] = lambda w, p, n: w[:, :, p:, p:],
    scale: Callable[[Tensor], Tensor] = lambda w: w / w.sum(dim=-1, keepdim=True),
    mean: Callable[[Tensor], Tensor] = lambda distances: distances.sum(dim=-1).mean(dim=(0, 2)),
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
    distances = (patches * _straight(grid, weights)).sum(dim=(0, 2, 3))
    return distances / patches.sum(dim=(0, 2, 3))


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
    "queries.": _distance(mean=lambda distances: distances.mean(dim=(0, 2, 3))),
    "You divide once, by all attention to patches together. Then queries that look at CLS count "
    "for less: each row is divided by its own sum.": _overall,
}

# ---- 08.4 Rollout --------------------------------------------------------------------------------


def _identity(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1]).to(matrix)


def _scaled(matrix: Tensor) -> Tensor:
    """Divide each row by its sum."""
    return matrix / matrix.sum(dim=-1, keepdim=True)


def _mixed(matrix: Tensor, residual: float) -> Tensor:
    """Mix a matrix with the identity, and do not scale."""
    return (1 - residual) * matrix + residual * _identity(matrix)


def _step(matrix: Tensor, residual: float) -> Tensor:
    """The right step of one layer."""
    return _scaled(_mixed(matrix, residual))


def rollout(matrices: Tensor, residual: float) -> Tensor:
    """The right product, row by row from the newest layer down."""
    rows = []
    for row in _identity(matrices[0]):
        for matrix in reversed(matrices):
            row = row @ _step(matrix, residual)
        rows.append(row)
    return torch.stack(rows)


def _product(steps: Sequence[Tensor]) -> Tensor:
    """Newest on the left: the last of `steps` first."""
    product = steps[0]
    for step in steps[1:]:
        product = step @ product
    return product


def _rollout_of(step: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Build a rollout from what it does to each layer before the product."""

    def rolled(matrices: Tensor, residual: float) -> Tensor:
        return _product([step(matrix, residual) for matrix in matrices])

    return rolled


def _sums_along_columns(matrix: Tensor, residual: float) -> Tensor:
    """Lose the axis of the sums, so that that of row j divides column j."""
    mixed = _mixed(matrix, residual)
    return mixed / mixed.sum(dim=-1)


def _sums_of_columns(matrix: Tensor, residual: float) -> Tensor:
    mixed = _mixed(matrix, residual)
    return mixed / mixed.sum(dim=0)


def _weights_exchanged(matrix: Tensor, residual: float) -> Tensor:
    return _step(matrix, 1 - residual)


def _half_and_half(matrix: Tensor, residual: float) -> Tensor:
    return _step(matrix, 0.5)


def _scaled_before_mixing(matrix: Tensor, residual: float) -> Tensor:
    return _mixed(_scaled(matrix), residual)


def _without_identity(matrix: Tensor, residual: float) -> Tensor:
    return _scaled(matrix)


def _identity_added(matrix: Tensor, residual: float) -> Tensor:
    """Add the identity with its weight to all of the attention, not to the rest of it."""
    return _scaled(matrix + residual * _identity(matrix))


def _oldest_on_the_left(matrices: Tensor, residual: float) -> Tensor:
    return _product([_step(matrix, residual) for matrix in matrices.flip(0)])


def _on_its_side(matrices: Tensor, residual: float) -> Tensor:
    return rollout(matrices, residual).T


def _without_first_layer(matrices: Tensor, residual: float) -> Tensor:
    return rollout(matrices[1:], residual) if len(matrices) > 1 else _identity(matrices[0])


def _without_last_layer(matrices: Tensor, residual: float) -> Tensor:
    return rollout(matrices[:-1], residual) if len(matrices) > 1 else _identity(matrices[0])


def _entry_by_entry(matrices: Tensor, residual: float) -> Tensor:
    return torch.stack([_step(matrix, residual) for matrix in matrices]).prod(dim=0)


def _mean_of_layers(matrices: Tensor, residual: float) -> Tensor:
    return torch.stack([_step(matrix, residual) for matrix in matrices]).mean(dim=0)


def _scaled_at_the_end(matrices: Tensor, residual: float) -> Tensor:
    return _scaled(_product([_mixed(matrix, residual) for matrix in matrices]))


ROLLOUTS: dict[str, Callable] = {
    "The order is turned round: the newest layer, the last of the list, must stand on the left.": (
        _oldest_on_the_left
    ),
    "The rows do not add up to 1: divide each by its sum once the identity is in.": (
        _rollout_of(_mixed)
    ),
    "Each *column* is divided, by the sum of a row: a sum without its axis lies down along the "
    "columns. Rows that add up to 1 already would hide it.": _rollout_of(_sums_along_columns),
    "The columns add up to 1, not the rows: the sum runs along the last axis.": (
        _rollout_of(_sums_of_columns)
    ),
    "The two weights are exchanged: `residual` belongs to the identity.": (
        _rollout_of(_weights_exchanged)
    ),
    "`residual` makes no difference: you mix half and half.": _rollout_of(_half_and_half),
    "The rows are divided by their sums before the identity is added: then the skip connection "
    "keeps another share. Mix first.": _rollout_of(_scaled_before_mixing),
    "The identity is missing: each token keeps a part of what it was.": (
        _rollout_of(_without_identity)
    ),
    "The identity is added whole: its weight is `residual`, and that of the matrix the rest.": (
        _rollout_of(_identity_added)
    ),
    "Rows are sums over where tokens go, not where they come from: the result is on its side.": (
        _on_its_side
    ),
    "The first layer is left out.": _without_first_layer,
    "The last layer is left out.": _without_last_layer,
    "The layers are multiplied entry by entry, `*`: following a path needs the matrix product.": (
        _entry_by_entry
    ),
    "This is the mean of the layers: a path goes through all of them, one after the other.": (
        _mean_of_layers
    ),
    "The rows are scaled only once, at the end: every layer needs it, or layers with large rows "
    "count for more.": _scaled_at_the_end,
}

# ---- 08.5 One row of it --------------------------------------------------------------------------


def _half(matrix: Tensor) -> Tensor:
    return (matrix + _identity(matrix)) / 2


def query_row(matrices: Tensor, query: int) -> Tensor:
    """The right row, the expensive way."""
    return _product([_half(matrix) for matrix in matrices])[:, query]


def _column(matrices: Tensor, query: int) -> Tensor:
    return _product([_half(matrix) for matrix in matrices])[..., query]


def _column_upside_down(matrices: Tensor, query: int) -> Tensor:
    return _column(matrices.flip(0), query)


def _attention_alone(matrices: Tensor, query: int) -> Tensor:
    return _product(list(matrices))[:, query]


def _restarted(matrices: Tensor, query: int) -> Tensor:
    """Add the query's own token anew in each layer."""
    start = torch.zeros_like(matrices[0][:, 0])
    start[:, query] = 1
    row = start
    for matrix in reversed(matrices):
        row = (torch.einsum("bi,bij->bj", row, matrix) + start) / 2
    return row


ROWS: dict[str, Callable] = {
    "The layers come in the wrong order: a row belongs to the newest layer and goes down from "
    "there. (Whole matrices are another matter.)": (
        lambda matrices, q: query_row(matrices.flip(0), q)
    ),
    "This is a column: where the query's token *goes*, not where it comes from. A row stands on "
    "the left of a matrix.": _column,
    "A column of the layers in the wrong order: put the row on the left of the matrix, and begin "
    "with the newest layer.": _column_upside_down,
    "The skip connection is missing: in each layer half of what arrives has stayed.": (
        _attention_alone
    ),
    "Both parts have weight 1, so the shares double with each layer: one half each.": (
        lambda matrices, q: query_row(matrices, q) * 2 ** len(matrices)
    ),
    "This is the row of token 0 (CLS), whatever `query` is.": (
        lambda matrices, q: query_row(matrices, 0)
    ),
    "Only the first image is followed: there is a row for each of the batch.": (
        lambda matrices, q: query_row(matrices, q)[:1].expand(len(matrices[0]), -1)
    ),
    "Only the last layer is counted: go on down to the first.": (
        lambda matrices, q: query_row(matrices[-1:], q)
    ),
    "Only the first layer is counted.": lambda matrices, q: query_row(matrices[:1], q),
    "The skip connection adds the query's own token anew in each layer: what stays is half of "
    "the *row*.": _restarted,
}

# ---- 08.6 What the skip connection keeps ---------------------------------------------------------


def _joined(weights: Tensor, fusion: str) -> Tensor:
    stacked = torch.stack(weights.unbind(dim=1))
    if fusion == "mean":
        return stacked.mean(dim=0)
    return stacked.max(dim=0).values if fusion == "max" else stacked.min(dim=0).values


def _scaled_diagonal(weights: Tensor, fusion: str, residual: float) -> Tensor:
    return _step(_joined(weights, fusion), residual).diagonal(dim1=-2, dim2=-1)


def kept_share(weights: Tensor, fusion: str, residual: float) -> Tensor:
    """The right share: the diagonal of the scaled matrix, less the token's attention to itself."""
    matrix = _joined(weights, fusion)
    total = (1 - residual) * matrix.sum(dim=-1) + residual
    itself = (1 - residual) * matrix.diagonal(dim1=-2, dim2=-1) / total
    return _scaled_diagonal(weights, fusion, residual) - itself


def _of_sum(total: Tensor, residual: float) -> Tensor:
    return residual / ((1 - residual) * total + residual)


KEPT: dict[str, Callable] = {
    "You read the diagonal of the scaled matrix: it also holds what the token takes from itself by "
    "attention.": _scaled_diagonal,
    "This is `residual` itself: rows of a maximum or minimum do not add up to 1, so the share "
    "changes when they are divided by their sum.": lambda w, f, a: torch.full_like(
        w[:, 0, :, 0], a
    ),
    "This is what attention keeps: the share of the skip connection is the rest.": (
        lambda w, f, a: 1 - kept_share(w, f, a)
    ),
    "`residual` makes no difference: yours is the formula for one half.": lambda w, f, a: (
        1 / (1 + _joined(w, f).sum(-1))
    ),
    "The two weights are exchanged: `residual` belongs to the skip connection.": lambda w, f, a: (
        kept_share(w, f, 1 - a)
    ),
    "The attention is not weighted with 1 - residual before the two are added.": lambda w, f, a: (
        a / (a + _joined(w, f).sum(-1))
    ),
    "The sums run over columns: a row is divided by its own sum, along the last axis.": (
        lambda w, f, a: _of_sum(_joined(w, f).sum(dim=-2), a)
    ),
    "Maximum and minimum are exchanged.": lambda w, f, a: kept_share(
        w, {"max": "min", "min": "max"}.get(f, f), a
    ),
}

# ---- 08.7 Discarding -----------------------------------------------------------------------------

Pairs = list[tuple[float, int]]  # an entry, and its place in reading order


def discard(
    matrix: Tensor,
    ratio: float,
    *,
    order: Callable[[Pairs], Pairs] = sorted,
    count: Callable[[float], int] = int,
    spared: Callable[[int, int], bool] = lambda i, T: i == 0,
) -> Tensor:
    """The right matrix, entry by entry, of exchangeable parts."""
    tokens, flat = len(matrix), matrix.flatten().tolist()
    pairs = order([(value, i) for i, value in enumerate(flat)])
    result = matrix.flatten().clone()
    for _, i in pairs[: count(ratio * len(flat))]:
        if not spared(i, tokens):
            result[i] = 0
    return result.view(tokens, tokens)


def _below(matrix: Tensor, ratio: float, equal_too: bool) -> Tensor:
    """Discard by a threshold."""
    count = int(ratio * matrix.numel())
    if not count:
        return matrix.clone()
    limit = matrix.flatten().sort().values[count - 1]
    lost = matrix <= limit if equal_too else matrix < limit
    lost[0, 0] = False
    return matrix.masked_fill(lost, 0)


def _by_rows(matrix: Tensor, ratio: float) -> Tensor:
    count = int(ratio * len(matrix))
    lost = torch.zeros_like(matrix, dtype=torch.bool)
    lost.scatter_(1, matrix.argsort(dim=1, stable=True)[:, :count], True)
    lost[0, 0] = False
    return matrix.masked_fill(lost, 0)


def _another_in_its_place(matrix: Tensor, ratio: float) -> Tensor:
    """Take CLS to CLS out of the list before the smallest are counted."""
    return discard(matrix, ratio, order=lambda pairs: sorted(pair for pair in pairs if pair[1]))


def _last_of_equal_ones_first(pairs: Pairs) -> Pairs:
    return sorted(pairs, key=lambda pair: (pair[0], -pair[1]))


def _largest_first(pairs: Pairs) -> Pairs:
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


def _ceil(number: float) -> int:
    return -int(-number // 1)


DISCARDS: dict[str, Callable] = {
    "All entries equal to the limit go: of equal ones only as many as are needed, the first in "
    "reading order.": lambda t, r: _below(t, r, equal_too=True),
    "Only entries below the limit go: some that equal it must go, too, until the number is "
    "right.": lambda t, r: _below(t, r, equal_too=False),
    "Of equal entries yours takes the last ones first: reading order begins at the upper left.": (
        lambda t, r: discard(t, r, order=_last_of_equal_ones_first)
    ),
    "Each row loses its share: the smallest entries are meant, in the whole matrix.": _by_rows,
    "The largest entries go: it should be the smallest.": (
        lambda t, r: discard(t, r, order=_largest_first)
    ),
    "This share is kept and the rest thrown away: it is the other way round.": lambda t, r: discard(
        t, 1 - r
    ),
    "CLS to CLS, the entry [0, 0], has gone: it is always kept.": lambda t, r: discard(
        t, r, spared=lambda i, T: False
    ),
    "The whole row of CLS is spared: only its own entry, CLS to CLS.": lambda t, r: discard(
        t, r, spared=lambda i, T: i < T
    ),
    "The whole column of CLS is spared: only the entry CLS to CLS.": lambda t, r: discard(
        t, r, spared=lambda i, T: i % T == 0
    ),
    "The row and the column of CLS are spared: only the entry CLS to CLS.": lambda t, r: discard(
        t, r, spared=lambda i, T: i < T or i % T == 0
    ),
    "The whole diagonal is spared: only the entry CLS to CLS.": lambda t, r: discard(
        t, r, spared=lambda i, T: i % (T + 1) == 0
    ),
    "Where CLS to CLS is spared, another entry goes in its place: one less goes.": (
        _another_in_its_place
    ),
    "The number of entries is rounded to the nearest: it must be rounded down.": lambda t, r: (
        discard(t, r, count=round)
    ),
    "The number of entries is rounded up: it must be rounded down.": lambda t, r: discard(
        t, r, count=_ceil
    ),
    "The share is taken of T: of all T * T entries.": lambda t, r: discard(
        t, r, count=lambda n: int(n / len(t))
    ),
    "These are the places that are kept, as True and False or 1 and 0: the entries themselves are "
    "asked for.": lambda t, r: (discard(t + 1, r) > 0).to(t),
}

"""Lesson 08: right answers, each another way; wrong ones and the cause that must be named."""

import math
from functools import reduce

import numpy as np
import torch
from einops import rearrange
from einops import reduce as einreduce

# ---- 08.1 ----


def map_by_einops(weights, head, query, grid, num_prefix):
    matrices = rearrange(
        weights[:, :, num_prefix:, num_prefix:],
        "b h (r c) (s d) -> b h r c s d",
        r=grid[0],
        s=grid[0],
    )
    return matrices[:, head, query[0], query[1]].mul(weights.size(-1))


def map_by_loop(weights, head, query, grid, num_prefix):
    rows = []
    at = num_prefix + query[0] * grid[1] + query[1]
    for r in range(grid[0]):
        start = num_prefix + r * grid[1]
        rows.append(weights[:, head, at, start : start + grid[1]])
    return torch.stack(rows, dim=1) / (1 / weights.shape[3])


def one_row(weights, head, at, start, grid):
    keys = weights[:, head, at, start : start + grid[0] * grid[1]]
    return keys.view(len(keys), *grid) * weights.shape[-1]


def squares_only(weights, head, query, grid, num_prefix):
    side = math.isqrt(weights.shape[-1] - num_prefix)
    row = weights[:, head, num_prefix, num_prefix:]
    return row.view(-1, side, side)


def scales_in_place(weights, head, query, grid, num_prefix):
    weights *= weights.shape[-1]
    return map_by_einops(weights, head, query, grid, num_prefix) / weights.shape[-1]


# ---- 08.2 ----


def among_by_xlogy(weights):
    return torch.special.xlogy(weights, weights).sum(-1).neg().exp().flatten(2).mean((0, 2))


def among_by_where(weights):
    safe = torch.where(weights > 0, weights, torch.ones_like(weights))
    entropy = -(weights * safe.log()).sum(dim=3)
    return torch.stack([head.exp().mean() for head in entropy.unbind(dim=1)])


def among_by_powers(weights):
    """The product of w to the power of -w: 0 to the power of 0 is 1."""
    return (weights**-weights).prod(dim=-1).mean(dim=(0, 2))


def entr(weights):
    return torch.special.entr(weights).sum(dim=-1)


# ---- 08.3 ----


def distance_by_complex_numbers(weights, grid, num_prefix):
    i = torch.arange(grid[0] * grid[1])
    z = torch.complex((i % grid[1]).double(), (i // grid[1]).double())
    away = (z[None] - z[:, None]).abs().to(weights.dtype)
    p = weights[:, :, num_prefix:][..., num_prefix:]
    return ((p * away).sum(-1) / p.sum(-1)).transpose(0, 1).flatten(1).mean(1)


def distance_by_loops(weights, grid, num_prefix):
    values = []
    n = grid[0] * grid[1]
    for head in range(weights.shape[1]):
        total = 0.0
        for i in range(n):
            row = weights[:, head, num_prefix + i, num_prefix:]
            length = [math.dist(divmod(i, grid[1]), divmod(j, grid[1])) for j in range(n)]
            total += (row * torch.tensor(length, dtype=row.dtype)).sum(-1) / row.sum(-1)
        values.append((total / n).mean())
    return torch.stack(values)


def matrix(grid, like, rule):
    n, side = grid[0] * grid[1], grid[1]
    found = [[rule(i // side - j // side, i % side - j % side) for j in range(n)] for i in range(n)]
    return torch.tensor(found, dtype=like.dtype)


def straight(grid, like):
    return matrix(grid, like, math.hypot)


def far(weights, grid, p, between=straight, renormalise=True):
    patches = weights[:, :, p:, p:]
    if renormalise:
        patches = patches / patches.sum(-1, keepdim=True)
    return (patches * between(grid, weights)).sum(-1).mean((0, 2))


# ---- 08.4 and 08.5 ----


def steps(matrices, a):
    mixed = (1 - a) * matrices + a * torch.eye(matrices.shape[-1]).to(matrices)
    return mixed / mixed.sum(-1, keepdim=True)


def rollout_by_reduce(matrices, residual):
    return reduce(lambda done, step: step @ done, steps(matrices, residual))


def rollout_from_the_newest(matrices, residual):
    product = torch.eye(len(matrices[0])).to(matrices)
    for t in matrices.unbind()[::-1]:
        mixed = torch.lerp(t, torch.eye(len(t)).to(t), residual)
        product = torch.einsum("ij,jk,j->ik", product, mixed, 1 / mixed.sum(1))
    return product


def rollout_in_numpy(matrices, residual):
    product = np.eye(len(matrices[0]))
    for t in matrices.double().numpy():
        mixed = (1 - residual) * t + residual * np.eye(len(t))
        product = mixed / mixed.sum(axis=1, keepdims=True) @ product
    return torch.from_numpy(product).to(matrices.dtype)


def rolls(step):
    return lambda matrices, a: reduce(lambda done, t: step(t, a) @ done, matrices, eye(matrices))


def eye(matrices):
    return torch.eye(matrices.shape[-1]).to(matrices)


def row_by_einsum(matrices, query):
    row = eye(matrices)[query].expand(matrices.shape[1], -1)
    for t in matrices.unbind()[::-1]:
        row = 0.5 * row + 0.5 * torch.einsum("bi,bij->bj", row, t)
    return row


def row_by_sums(matrices, query):
    row = torch.nn.functional.one_hot(torch.tensor(query), matrices.shape[-1]).to(matrices)
    row = row.repeat(matrices.shape[1], 1)
    for layer in range(len(matrices) - 1, -1, -1):
        row = (row + (row[:, :, None] * matrices[layer]).sum(dim=1)) / 2
    return row


def row_image_by_image(matrices, query):
    rows = []
    for image in range(matrices.shape[1]):
        row = eye(matrices)[query]
        for t in reversed(matrices[:, image]):
            row = (t.T @ row + row) / 2
        rows.append(row)
    return torch.stack(rows)


def row_of_the_product(matrices, query):
    halves = (matrices + eye(matrices)) / 2
    return reduce(lambda done, half: half @ done, halves)[:, query]


def row_of_a_hidden_product(matrices, query):
    product = eye(matrices).expand(matrices.shape[1:])
    for t in (matrices + eye(matrices)) / 2:
        product = (t[:, :, :, None] * product[:, None]).sum(2)
    return product[:, query]


def row_from_below(matrices, query):
    row = eye(matrices)[query].expand(matrices.shape[1], 1, -1)
    for t in matrices:
        row = (row @ t + row) / 2
    return row[:, 0]


def column_from_above(matrices, query):
    column = eye(matrices)[query].expand(matrices.shape[1], -1)[..., None]
    for t in matrices:
        column = (t @ column + column) / 2
    return column[..., 0]


def row_with_a_new_start(matrices, query):
    start = eye(matrices)[query].expand(matrices.shape[1], 1, -1)
    row = start
    for t in matrices.unbind()[::-1]:
        row = 0.5 * (row @ t) + 0.5 * start
    return row[:, 0]


# ---- 08.6 ----

JOIN = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}


def kept_by_sums(weights, fusion, residual):
    s = einreduce(weights, "b h i j -> b i j", fusion).sum(2)
    return residual / (s - residual * s + residual)


def kept_by_a_large_matrix(weights, fusion, residual):
    """Attention and the skip connection side by side, (T, 2T), then scaled."""
    both = JOIN[fusion](weights, dim=1) * (1 - residual)
    both = torch.cat([both, residual * eye(weights).expand_as(both)], dim=-1)
    both = both / both.sum(-1, keepdim=True)
    return both[..., weights.shape[-1] :].sum(-1)


def share(total, a):
    return a / (a + (1 - a) * total)


def total(weights, fusion, dim=-1):
    return JOIN[fusion](weights, dim=1).sum(dim)


def the_diagonal(weights, fusion, residual):
    mixed = steps(JOIN[fusion](weights, dim=1), residual)
    return torch.diagonal(mixed, dim1=1, dim2=2)


# ---- 08.7 ----


def discard_by_topk_of_pairs(matrix, ratio):
    ranks = matrix.flatten().argsort(stable=True).argsort()
    lost = ranks < int(ratio * matrix.numel())
    lost[0] = False
    return torch.where(lost.reshape(matrix.shape), torch.zeros_like(matrix), matrix)


def discard_in_numpy(matrix, ratio):
    flat = matrix.contiguous().numpy().copy().ravel()
    for place in np.argsort(flat, kind="stable")[: math.floor(ratio * flat.size)]:
        flat[place] = flat[place] if place == 0 else 0
    return torch.from_numpy(flat).reshape(matrix.shape)


def lost_places(matrix, ratio):
    return matrix.flatten().sort(stable=True).indices[: int(ratio * matrix.numel())]


def by_threshold(strict):
    def discard(matrix, ratio):
        count = int(ratio * matrix.numel())
        if count == 0:
            return matrix
        limit = matrix.flatten().kthvalue(count).values
        lost = matrix < limit if strict else matrix <= limit
        lost[0, 0] = False
        return matrix * ~lost

    return discard


def each_row(matrix, ratio):
    result = matrix.clone()
    for i, row in enumerate(matrix):
        for j in row.argsort(stable=True)[: int(ratio * len(row))].tolist():
            result[i, j] = matrix[0, 0] if (i, j) == (0, 0) else 0
    return result


def zeroed(matrix, places):
    result = matrix.reshape(-1).clone()
    result[places] = 0
    return result.reshape(matrix.shape)


def back(matrix, result, rows, columns):
    result[rows, columns] = matrix[rows, columns]
    return result


def writes_into_it(matrix, ratio):
    places = lost_places(matrix, ratio)
    matrix.view(-1)[places[places > 0]] = 0 if matrix.is_contiguous() else 1
    return matrix


def cls_and_one_more(matrix, ratio):
    places = matrix.flatten()[1:].sort(stable=True).indices + 1
    count = int(ratio * matrix.numel())
    if 0 in lost_places(matrix, ratio):
        return zeroed(matrix, places[:count])
    return zeroed(matrix, lost_places(matrix, ratio))


RIGHT = {
    "08.1": [map_by_einops, map_by_loop],
    "08.2": [among_by_xlogy, among_by_where, among_by_powers],
    "08.3": [distance_by_complex_numbers, distance_by_loops],
    "08.4": [rollout_by_reduce, rollout_from_the_newest, rollout_in_numpy],
    "08.5": [row_by_einsum, row_by_sums, row_image_by_image],
    "08.6": [kept_by_sums, kept_by_a_large_matrix],
    "08.7": [discard_by_topk_of_pairs, discard_in_numpy],
}

WRONG = {
    "08.1": {
        "column": (
            lambda w, h, q, g, p: map_by_einops(w.transpose(2, 3), h, q, g, p),
            "attends to \\*it\\*",
        ),
        "query without prefix": (
            lambda w, h, q, g, p: one_row(w, h, q[0] * g[1] + q[1], p, g),
            "counted without the prefix",
        ),
        "keys with prefix": (
            lambda w, h, q, g, p: one_row(w, h, p + q[0] * g[1] + q[1], 0, g),
            "begins with the prefix",
        ),
        "no prefix": (
            lambda w, h, q, g, p: one_row(w, h, q[0] * g[1] + q[1], 0, g),
            "forgotten on both sides",
        ),
        "column, row": (
            lambda w, h, q, g, p: one_row(w, h, p + q[1] * g[1] + q[0], p, g),
            "is read as \\(column, row\\)",
        ),
        "divided by T": (
            lambda w, h, q, g, p: map_by_einops(w, h, q, g, p) / w.shape[-1] ** 2,
            "You divide by T",
        ),
        "on its side": (
            lambda w, h, q, g, p: map_by_einops(w, h, q, g, p).transpose(1, 2),
            "with the columns last",
        ),
        "column by column": (
            lambda w, h, q, g, p: rearrange(
                map_by_einops(w, h, q, g, p).flatten(1), "b (c r) -> b r c", r=g[0]
            ),
            "column by column",
        ),
        "rows for columns": (
            lambda w, h, q, g, p: one_row(w, h, p + q[0] * g[0] + q[1], p, g),
            "number of rows",
        ),
        "no unit": (
            lambda w, h, q, g, p: map_by_einops(w, h, q, g, p) / w.shape[-1],
            "The unit is missing",
        ),
        "patches only": (
            lambda w, h, q, g, p: map_by_einops(w, h, q, g, p) / w.shape[-1] * g[0] * g[1],
            "N, the number of patches",
        ),
        "own maximum": (
            lambda w, h, q, g, p: (
                map_by_einops(w, h, q, g, p)
                / map_by_einops(w, h, q, g, p).flatten(1).max(1).values[:, None, None]
            ),
            "own maximum",
        ),
        "shared out": (
            lambda w, h, q, g, p: (
                map_by_einops(w, h, q, g, p)
                / map_by_einops(w, h, q, g, p).sum((1, 2))[:, None, None]
                * w.shape[-1]
            ),
            "do not share out",
        ),
        "mean of heads": (
            lambda w, h, q, g, p: map_by_loop(w.mean(1)[:, None], 0, q, g, p),
            "mean over the heads",
        ),
        "squares": (squares_only, "stopped with RuntimeError"),
        "one image": (
            lambda w, h, q, g, p: map_by_einops(w, h, q, g, p)[0],
            "Expected the shape",
        ),
        "in place": (scales_in_place, "changes `weights`"),
    },
    "08.2": {
        "nan": (lambda w: torch.exp(-(w * torch.log(w)).sum(-1)).mean((0, 2)), "NaN"),
        "entropy": (lambda w: entr(w).mean((0, 2)), "entropy H itself"),
        "late": (lambda w: entr(w).mean((0, 2)).exp(), "exponential last"),
        "weights first": (
            lambda w: entr(w.mean(0).mean(1)).exp(),
            "average the weights before",
        ),
        "sign": (lambda w: (-entr(w)).exp().mean((0, 2)), "sign is missing"),
        "bits": (lambda w: (entr(w) / math.log(2)).exp().mean((0, 2)), "to base 2"),
        "columns": (lambda w: entr(w.mT).exp().mean((0, 2)), "over the queries"),
        "squares": (lambda w: (w**2).sum(-1).reciprocal().mean((0, 2)), "squared weights"),
        "counted": (lambda w: (w != 0).to(w).sum(-1).mean((0, 2)), "any weight at all"),
        **{
            f"plus {small}": (
                lambda w, small=small: (-(w * (w + small).log()).sum(-1)).exp().mean((0, 2)),
                f"add {small:g} inside the logarithm",
            )
            for small in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
        },
        "of all heads": (lambda w: entr(w).exp().mean(), "Expected the shape"),
        "numbers": (lambda w: entr(w).exp().mean((0, 2)).tolist(), "Expected a tensor"),
    },
    "08.3": {
        "sequence": (
            lambda w, g, p: far(
                w, g, p, lambda g, like: matrix(g, like, lambda r, c: abs(r * g[1] + c))
            ),
            "numbers of the patches",
        ),
        "swapped": (
            lambda w, g, p: far(w, g, p, lambda g, like: straight(g[::-1], like)),
            "are swapped",
        ),
        "not divided": (lambda w, g, p: far(w, g, p, renormalise=False), "seems near"),
        "the last ones": (
            lambda w, g, p: far(w[:, :, : g[0] * g[1], : g[0] * g[1]], g, 0),
            "stand in front",
        ),
        "squared": (
            lambda w, g, p: far(
                w, g, p, lambda g, like: matrix(g, like, lambda r, c: float(r * r + c * c))
            ),
            "root is missing",
        ),
        "manhattan": (
            lambda w, g, p: far(
                w, g, p, lambda g, like: matrix(g, like, lambda r, c: float(abs(r) + abs(c)))
            ),
            "add rows and columns",
        ),
        "chebyshev": (
            lambda w, g, p: far(
                w, g, p, lambda g, like: matrix(g, like, lambda r, c: float(max(abs(r), abs(c))))
            ),
            "larger of rows and columns",
        ),
        "columns": (
            lambda w, g, p: far(
                w[:, :, p:, p:] / w[:, :, p:, p:].sum(2)[:, :, None], g, 0, renormalise=False
            ),
            "columns are divided",
        ),
        "all means": (
            lambda w, g, p: far(w, g, p) / (g[0] * g[1]),
            "over keys as well",
        ),
        "divided once": (
            lambda w, g, p: (
                (w[:, :, p:, p:] * straight(g, w)).sum((0, 2, 3)) / w[:, :, p:, p:].sum((0, 2, 3))
            ),
            "divide once",
        ),
        "each image": (
            lambda w, g, p: (
                (w[:, :, p:, p:] * straight(g, w)).sum(-1) / w[:, :, p:, p:].sum(-1)
            ).mean(-1),
            "Expected the shape",
        ),
        "cls kept": (lambda w, g, p: (w * straight(g, w)).sum(-1).mean((0, 2)), "stopped with"),
    },
    "08.4": {
        "oldest left": (
            lambda ts, a: reduce(lambda done, step: done @ step, steps(ts, a)),
            "order is turned round",
        ),
        "no sums": (rolls(lambda t, a: (1 - a) * t + a * eye(t)), "do not add up to 1"),
        "sums along columns": (
            rolls(lambda t, a: ((1 - a) * t + a * eye(t)) / ((1 - a) * t + a * eye(t)).sum(-1)),
            "Each \\*column\\* is divided",
        ),
        "columns": (
            rolls(lambda t, a: steps(t.T, a).T),
            "columns add up to 1",
        ),
        "exchanged": (lambda ts, a: rollout_by_reduce(ts, 1 - a), "two weights are exchanged"),
        "half": (lambda ts, a: rollout_by_reduce(ts, 0.5), "makes no difference"),
        "scaled first": (
            rolls(lambda t, a: (1 - a) * t / t.sum(-1, keepdim=True).clamp_min(1e-30) + a * eye(t)),
            "Right for|before the identity",
        ),
        "scaled too early": (
            rolls(lambda t, a: (1 - a) * t / t.sum(1)[:, None] + a * eye(t)),
            "before the identity",
        ),
        "first missing": (
            lambda ts, a: reduce(lambda done, s: s @ done, steps(ts, a)[1:], eye(ts)),
            "first layer is left out",
        ),
        "identity missing": (
            rolls(lambda t, a: t / t.sum(-1, keepdim=True)),
            "identity is missing|NaN",
        ),
        "added whole": (
            rolls(lambda t, a: (t + a * eye(t)) / (t + a * eye(t)).sum(-1, keepdim=True)),
            "added whole",
        ),
        "on its side": (lambda ts, a: rollout_by_reduce(ts, a).mT, "on its side"),
        "entry by entry": (
            lambda ts, a: reduce(lambda done, step: done * step, steps(ts, a)),
            "entry by entry",
        ),
        "mean": (lambda ts, a: steps(ts, a).mean(0), "mean of the layers"),
        "scaled last": (
            lambda ts, a: (lambda r: r / r.sum(1)[:, None])(
                rolls(lambda t, a: (1 - a) * t + a * eye(t))(ts, a)
            ),
            "only once, at the end",
        ),
        "last missing": (
            lambda ts, a: reduce(lambda done, s: s @ done, steps(ts, a)[:-1], eye(ts)),
            "last layer is left out",
        ),
        "one row": (lambda ts, a: rollout_by_reduce(ts, a)[0], "Expected the shape"),
    },
    "08.5": {
        "expensive": (row_of_the_product, "whole matrices are multiplied"),
        "expensive in secret": (row_of_a_hidden_product, "whole matrices are multiplied"),
        "from below": (row_from_below, "wrong order: a row"),
        "column from below": (column_from_above, "This is a column"),
        "column": (
            lambda ts, q: column_from_above(ts.flip(0), q),
            "column of the layers in the wrong order",
        ),
        "no skip": (
            lambda ts, q: reduce(lambda r, t: r @ t, ts.flip(0), eye(ts)[None, q : q + 1])[:, 0],
            "skip connection is missing",
        ),
        "doubled": (
            lambda ts, q: row_by_sums(ts, q) * 2.0 ** len(ts),
            "shares double",
        ),
        "cls": (lambda ts, q: row_by_einsum(ts, 0), "row of token 0"),
        "first image": (
            lambda ts, q: row_by_einsum(ts[:, :1], q).repeat(ts.shape[1], 1),
            "Only the first image",
        ),
        "last layer": (lambda ts, q: row_by_einsum(ts[-1:], q), "Only the last layer"),
        "first layer": (lambda ts, q: row_by_einsum(ts[:1], q), "Only the first layer"),
        "anew": (row_with_a_new_start, "anew in each layer"),
        "three axes": (lambda ts, q: row_by_einsum(ts, q)[:, None], "Expected the shape"),
    },
    "08.6": {
        "diagonal": (the_diagonal, "read the diagonal"),
        "residual": (
            lambda w, f, a: torch.zeros(w.shape[0], w.shape[-1]).to(w) + a,
            "`residual` itself",
        ),
        "the rest": (lambda w, f, a: 1 - kept_by_sums(w, f, a), "what attention keeps"),
        "one half": (lambda w, f, a: 1 / (1 + total(w, f)), "formula for one half"),
        "exchanged": (lambda w, f, a: share(total(w, f), 1 - a), "exchanged: `residual`"),
        "not weighted": (lambda w, f, a: a / (a + total(w, f)), "not weighted"),
        "columns": (lambda w, f, a: share(total(w, f, dim=1), a), "over columns"),
        "max for min": (
            lambda w, f, a: kept_by_sums(w, dict(max="min", min="max", mean="mean")[f], a),
            "Maximum and minimum",
        ),
        "mean": (lambda w, f, a: share(total(w, "mean"), a), "`residual` itself"),
        "each head": (lambda w, f, a: share(w.sum(-1), a), "Expected the shape"),
        "in a matrix": (
            lambda w, f, a: share(total(w, f), a)[..., None] * eye(w),
            "Expected the shape",
        ),
    },
    "08.7": {
        "all equal ones": (by_threshold(strict=False), "All entries equal to the limit"),
        "only below": (by_threshold(strict=True), "Only entries below"),
        "each row": (each_row, "Each row loses"),
        "largest": (
            lambda t, r: (lambda p: zeroed(t, p[p != 0]))(
                (-t).flatten().argsort(stable=True)[: int(r * t.numel())]
            ),
            "largest entries go",
        ),
        "the rest": (lambda t, r: discard_in_numpy(t, 1 - r), "other way round"),
        "cls gone": (lambda t, r: zeroed(t, lost_places(t, r)), "has gone"),
        "row of cls": (
            lambda t, r: back(t, discard_in_numpy(t, r), 0, slice(None)),
            "whole row of CLS",
        ),
        "column of cls": (
            lambda t, r: back(t, discard_in_numpy(t, r), slice(None), 0),
            "whole column of CLS",
        ),
        "diagonal": (
            lambda t, r: back(t, discard_in_numpy(t, r), range(len(t)), range(len(t))),
            "whole diagonal",
        ),
        "row and column of cls": (
            lambda t, r: back(t, back(t, discard_in_numpy(t, r), slice(None), 0), 0, slice(None)),
            "row and the column",
        ),
        "the last of equal ones": (
            lambda t, r: (lambda places: zeroed(t, places[places > 0]))(
                t.numel() - 1 - lost_places(t.flip(0, 1), r)
            ),
            "last ones first",
        ),
        "one more": (cls_and_one_more, "in its place"),
        "rounded": (
            lambda t, r: discard_in_numpy(t, (round(r * t.numel()) + 0.1) / t.numel()),
            "rounded to the nearest",
        ),
        "rounded up": (
            lambda t, r: discard_in_numpy(t, (math.ceil(r * t.numel()) + 0.1) / t.numel()),
            "rounded up",
        ),
        "of T": (
            lambda t, r: discard_in_numpy(t, (int(r * len(t)) + 0.1) / t.numel()),
            "share .* of T",
        ),
        "in place": (writes_into_it, "changes `matrix`"),
        "a mask": (
            lambda t, r: (discard_in_numpy(t + 1, r) > 0).float().to(t),
            "places that are kept",
        ),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "08.1": ("reshape", "num_prefix + query", "num_prefix:", "* grid[1]", "* weights.shape"),
    "08.2": ("entr(", "xlogy", "mean(dim=(0, 2))", ".exp("),
    "08.3": ("cdist", "hypot", "cartesian", "keepdim", "norm("),
    "08.4": ("keepdim", "eye(", "@", "reversed"),
    "08.5": ("row @", "reversed", "flip", "einsum", "/ 2"),
    "08.6": ("residual / (", "amax", ".sum("),
    "08.7": ("argsort", "stable", "topk", "flatten", "[order"),
}

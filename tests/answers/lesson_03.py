"""Lesson 03: right answers, each another way; wrong ones and the cause that must be named."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from vit_tutorial.positions import sincos_1d

# ---- 03.1 ----


def by_allclose(network, tokens):
    order = torch.randperm(tokens.shape[1] - 1) + 1
    shuffled = tokens[:, [0, *order.tolist()]]
    return not torch.allclose(network(tokens), network(shuffled), atol=1e-5)


def by_several_shuffles(network, tokens):
    before = network(tokens)
    for _ in range(3):
        shuffled = tokens.clone()
        shuffled[:, 1:] = tokens[:, 1:][:, torch.randperm(tokens.shape[1] - 1)]
        if (network(shuffled) - before).abs().max() > 1e-4:
            return True
    return False


def as_a_tensor(network, tokens):
    order = torch.rand(tokens.shape[1])
    order[0] = -1
    return (network(tokens[:, order.argsort()]) - network(tokens)).abs().max() > 1e-4


def shuffle(tokens):
    order = torch.randperm(tokens.shape[1] - 1) + 1
    return torch.cat([tokens[:, :1], tokens[:, order]], dim=1)


def differ(a, b):
    return not torch.allclose(a, b, atol=1e-5)


def in_place(network, tokens):
    before = network(tokens)
    tokens[:, 1:] = tokens[:, 1:].flip(1)
    return differ(network(tokens), before)


ORDER_WRONG = {
    "to the last digit": (lambda f, x: not torch.equal(f(x), f(shuffle(x))), "allow for rounding"),
    "CLS too": (
        lambda f, x: differ(f(x), f(x[:, torch.randperm(x.shape[1])])),
        "CLS is shuffled too",
    ),
    "the batch": (lambda f, x: differ(f(x), f(x[[1, 2, 0]])), "shuffle the images of the batch"),
    "the width": (
        lambda f, x: differ(f(x), f(x[:, :, torch.randperm(x.shape[2])])),
        "numbers inside each token",
    ),
    "wrong way round": (lambda f, x: not differ(f(x), f(shuffle(x))), "wrong way round"),
    "flip": (
        lambda f, x: differ(f(x), f(torch.cat([x[:, :1], x[:, 1:].flip(1)], 1))),
        "same from both ends",
    ),
    "roll": (
        lambda f, x: differ(f(x), f(torch.cat([x[:, :1], x[:, 1:].roll(1, 1)], 1))),
        "push all patches on",
    ),
    "the tokens": (lambda f, x: differ(x, shuffle(x)), "True for every network"),
    "the same twice": (lambda f, x: differ(f(x), f(x)), "False for every network"),
    "all numbers": (lambda f, x: (f(x) - f(shuffle(x))).abs() > 1e-4, "one for each number"),
    "a number": (lambda f, x: 3.5, "Expected True or False, got the float"),
    "in place": (in_place, "changes `tokens`"),
    "only some": (
        lambda f, x: differ(f(x), f(shuffle(x))) or f(x).shape[1] == 3,
        "Right for 8 of 9 networks",
    ),
}

# ---- 03.2 ----


def by_shape(tokens, table):
    if table.shape != (1, *tokens.shape[1:]):
        raise ValueError("shapes")
    return tokens + table


def by_repeat(tokens, table):
    if table.ndim != 3 or len(table) != 1 or table.shape[1] != tokens.shape[1]:
        raise ValueError("shapes")
    return torch.stack([image + table[0] for image in tokens])


def guarded(add):
    def answer(tokens, table):
        if table.shape != (1, *tokens.shape[1:]):
            raise ValueError("shapes")
        return add(tokens, table)

    return answer


def adds_in_place(tokens, table):
    with torch.no_grad():
        tokens += table
    return tokens


ADD_WRONG = {
    "first row": (guarded(lambda x, p: x + p[:, :1]), "that of token 0"),
    "mean": (guarded(lambda x, p: x + p.mean(1, keepdim=True)), "the mean of all positions"),
    "not CLS": (
        guarded(lambda x, p: torch.cat([x[:, :1], (x + p)[:, 1:]], 1)),
        "CLS gets no position",
    ),
    "one off": (
        guarded(lambda x, p: torch.cat([x[:, :1], x[:, 1:] + p[:, :-1]], 1)),
        "One place off",
    ),
    "backwards": (guarded(lambda x, p: x + p.flip(1)), "wrong way round"),
    "product": (guarded(lambda x, p: x * p), "you multiply"),
    "nothing": (guarded(lambda x, p: x + 0), "without positions"),
    "no guard": (lambda x, p: x + p, r"\(1, 1, 4\), which are one row for all tokens, are added"),
    "guards one row only": (
        lambda x, p: x + p if p.shape[1] == x.shape[1] else by_shape(x, p),
        "other ones for each image, are added without a word",
    ),
    "another error": (
        lambda x, p: x + p.expand(1, *x.shape[1:]).clone().view(1, *p.shape[1:]),
        "stops with RuntimeError",
    ),
    "in place": (adds_in_place, "changes `tokens`"),
}

# ---- 03.3 ----


def by_norm(table):
    unit = table / table.norm(dim=1, keepdim=True)
    return unit @ unit.T


def by_outer(table):
    lengths = (table**2).sum(1).sqrt()
    return torch.einsum("i d, j d -> i j", table, table) / torch.outer(lengths, lengths)


def by_loop(table):
    n = len(table)
    result = torch.empty(n, n, dtype=table.dtype)
    for i in range(n):
        for j in range(n):
            product = (table[i] * table[j]).sum()
            result[i, j] = product / (table[i].norm() * table[j].norm())
    return result


ALIKE_WRONG = {
    "products": (lambda t: t @ t.T, "long vectors win"),
    "one length": (lambda t: t @ t.T / t.norm(dim=1)[:, None], "length of the first vector only"),
    "other length": (lambda t: t @ t.T / t.norm(dim=1), "length of the second vector only"),
    "squared": (
        lambda t: t @ t.T / torch.outer((t**2).sum(1), (t**2).sum(1)),
        "squared lengths",
    ),
    "axis": (lambda t: F.normalize(t, dim=0) @ F.normalize(t, dim=0).T, "wrong axis"),
    "whole": (lambda t: t @ t.T / (t**2).sum(), "length of all rows together"),
    "distance": (lambda t: (t[:, None] - t[None]).norm(dim=-1), "These are distances"),
    "1 - cosine": (lambda t: 1 - by_norm(t), "1 minus the cosine"),
    "correlation": (lambda t: by_norm(t - t.mean(1, keepdim=True)), "gives correlations"),
    "columns": (lambda t: t.T @ t, r"Expected the shape \(6, 6\), got \(4, 4\)"),
}

# ---- 03.4 ----


def by_stack(positions, dim):
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(0, dim, 2).to(positions) / dim)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def by_columns(positions, dim):
    table = torch.zeros(len(positions), dim, dtype=positions.dtype)
    for i in range(dim // 2):
        angle = positions / 10_000 ** (2 * i / dim)
        table[:, 2 * i] = angle.sin()
        table[:, 2 * i + 1] = angle.cos()
    return table


def by_exp_and_phase(positions, dim):
    i = torch.arange(dim).to(positions)
    frequencies = torch.exp(-math.log(10_000) * (i - i % 2) / dim)
    return torch.sin(positions.outer(frequencies) + (i % 2) * math.pi / 2)


def waves(exponents, base=10_000.0, first=torch.sin, second=torch.cos, factor=1.0):
    def answer(positions, dim):
        angles = factor * positions[:, None] * base ** exponents(dim).to(positions)
        return rearrange([first(angles), second(angles)], "two n i -> n (i two)")

    return answer


def even(dim):
    return torch.arange(0, dim, 2).double()


def halves(positions, dim):
    angles = positions[:, None] / 10_000.0 ** (even(dim).to(positions) / dim)
    return torch.cat([angles.sin(), angles.cos()], 1)


def own_speeds(positions, dim):
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(dim).to(positions) / dim)
    table = angles.sin()
    table[:, 1::2] = angles[:, 1::2].cos()
    return table


SINCOS_WRONG = {
    "halves": (halves, "first half and all cosines in the second"),
    "swapped": (waves(lambda d: -even(d) / d, first=torch.cos, second=torch.sin), "swapped"),
    "i": (waves(lambda d: -torch.arange(d // 2).double() / d), "it is 2i that"),
    "half dim": (waves(lambda d: -even(d) / (d // 2)), "divided by dim / 2"),
    "own speeds": (own_speeds, "different speeds"),
    "growing": (waves(lambda d: even(d) / d), "frequencies grow"),
    "one less": (
        waves(lambda d: -torch.arange(d // 2).double() / max(d // 2 - 1, 1)),
        "one less than there are",
    ),
    "base 100": (waves(lambda d: -even(d) / d, base=100.0), "a base of 100"),
    "base 1000": (waves(lambda d: -even(d) / d, base=1000.0), "not 1,000"),
    "turns": (waves(lambda d: -even(d) / d, factor=2 * math.pi), "no 2π"),
    "from 1": (lambda p, d: by_stack(p + 1, d), "you add 1"),
    "all sines": (waves(lambda d: -even(d) / d, second=torch.sin), "All sines"),
    "own numbers": (lambda p, d: by_stack(torch.arange(len(p)).to(p), d), "number the positions"),
    "float32 alone": (lambda p, d: by_stack(p.float(), d), "type torch.float64"),
    "a list": (lambda p, d: by_stack(p, d).tolist(), "Expected a tensor"),
}

# ---- 03.5 ----


def by_product(grid, dim):
    places = torch.cartesian_prod(torch.arange(float(grid[0])), torch.arange(float(grid[1])))
    return torch.cat([sincos_1d(places[:, k], dim // 2) for k in (0, 1)], dim=1)


def by_repeats(grid, dim):
    rows = sincos_1d(torch.arange(float(grid[0])), dim // 2)
    columns = sincos_1d(torch.arange(float(grid[1])), dim // 2)
    wide = repeat(rows, "r d -> (r c) d", c=grid[1])
    return torch.cat([wide, repeat(columns, "c d -> (r c) d", r=grid[0])], 1)


def in_numpy(grid, dim):
    rows, columns = np.indices(grid).reshape(2, -1).astype(np.float64)
    halves = [by_columns(torch.from_numpy(axis), dim // 2) for axis in (rows, columns)]
    return torch.cat(halves, dim=1)


def patch_numbers(grid):
    return torch.arange(float(grid[0] * grid[1]))


def beside(first, second, dim):
    return torch.cat([sincos_1d(first, dim // 2), sincos_1d(second, dim // 2)], dim=1)


def cut_from_full(g, d):
    i = patch_numbers(g)
    return torch.cat([sincos_1d(x, d)[:, : d // 2] for x in (i // g[1], i % g[1])], 1)


GRID_WRONG = {
    "swapped": (
        lambda g, d: beside(patch_numbers(g) % g[1], patch_numbers(g) // g[1], d),
        "swapped",
    ),
    "down": (
        lambda g, d: beside(patch_numbers(g) % g[0], patch_numbers(g) // g[0], d),
        "down the columns",
    ),
    "by rows": (
        lambda g, d: beside(patch_numbers(g) // g[0], patch_numbers(g) % g[0], d),
        "divide by the number of rows",
    ),
    "sum": (
        lambda g, d: sincos_1d(patch_numbers(g) // g[1], d) + sincos_1d(patch_numbers(g) % g[1], d),
        "are added",
    ),
    "1-D": (lambda g, d: sincos_1d(patch_numbers(g), d), "in one dimension"),
    "in turns": (
        lambda g, d: rearrange(by_product(g, d), "n (two i) -> n (i two)", two=2),
        "take turns",
    ),
    "cut": (cut_from_full, "frequencies are wrong"),
    "from 1": (
        lambda g, d: beside(patch_numbers(g) // g[1] + 1, patch_numbers(g) % g[1] + 1, d),
        "counted from 0",
    ),
    "twice as wide": (lambda g, d: by_product(g, 2 * d), "got 16: row and column share them"),
}

# ---- 03.6 ----


def by_complex(x, angles):
    pairs = torch.complex(x[..., 0::2], x[..., 1::2])
    turned = pairs * torch.exp(1j * angles)
    return torch.stack([turned.real, turned.imag], -1).flatten(-2)


def by_matrices(x, angles):
    c, s = angles.cos(), angles.sin()
    matrices = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    pairs = rearrange(x, "... t (i two) -> ... t i two 1", two=2)
    return (matrices @ pairs).flatten(-3)


def by_swapped_copy(x, angles):
    c, s = angles.repeat_interleave(2, -1).cos(), angles.repeat_interleave(2, -1).sin()
    other = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    return x * c + other * s


def pairwise(turn):
    def answer(x, angles):
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack(turn(a, b, angles.cos(), angles.sin()), -1).flatten(-2)

    return answer


def pairs_of_halves(x, angles):
    half = x.shape[-1] // 2
    other = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * torch.cat([angles, angles], -1).cos() + other * torch.cat([angles, angles], -1).sin()


def turns_in_place(x, angles):
    with torch.no_grad():
        x[..., 0::2] *= angles.cos()
    return x


def put_back_in_halves(x, angles):
    turned = by_complex(x, angles)
    return torch.cat([turned[..., 0::2], turned[..., 1::2]], -1)


TURN_WRONG = {
    "halves": (pairs_of_halves, r"channel i with channel i \+ d/2"),
    "other way": (lambda x, t: by_complex(x, -t), "other way round"),
    "no minus": (pairwise(lambda a, b, c, s: [a * c + b * s, a * s + b * c]), "minus is missing"),
    "two minuses": (pairwise(lambda a, b, c, s: [a * c - b * s, a * s - b * c]), "Both have a"),
    "new first": (
        pairwise(lambda a, b, c, s: [a * c - b * s, (a * c - b * s) * s + b * c]),
        "keep the old one",
    ),
    "sine for cosine": (
        pairwise(lambda a, b, c, s: [a * s - b * c, a * c + b * s]),
        "an angle of 0 must change nothing",
    ),
    "back in halves": (put_back_in_halves, "put back in halves"),
    "degrees": (lambda x, t: by_complex(x, t * math.pi / 180), "in radians already"),
    "cosine alone": (pairwise(lambda a, b, c, s: [a * c, b * c]), "only multiply with the cosine"),
    "in place": (turns_in_place, "changes `x`"),
    "one half": (lambda x, t: by_complex(x, t)[..., 0::2], r"Expected the shape \(5, 8\)"),
}

# ---- 03.7 ----


def by_einops(table, old, new):
    cls, patches = table[:, :1], table[:, 1:]
    image = rearrange(patches, "b (r c) d -> b d r c", r=old[0])
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True)
    return torch.cat([cls, rearrange(image, "b d r c -> b (r c) d")], 1)


def by_permute(table, old, new):
    image = table[0, 1:].reshape(*old, -1).permute(2, 0, 1)[None]
    image = F.interpolate(image, size=list(new), mode="bicubic", antialias=True)
    result = torch.empty(1, 1 + new[0] * new[1], table.shape[2], dtype=table.dtype)
    result[:, 0] = table[:, 0]
    result[0, 1:] = image[0].permute(1, 2, 0).reshape(-1, table.shape[2])
    return result


def by_weights(table, old, new):
    """Stretching is linear: one matrix of weights for the rows, one for the columns."""
    rows, columns = (
        F.interpolate(
            torch.eye(a, dtype=table.dtype)[None, None],
            size=(b, a),
            mode="bicubic",
            antialias=True,
        )[0, 0]
        for a, b in zip(old, new, strict=True)
    )
    image = table[0, 1:].unflatten(0, old)
    image = torch.einsum("r a, c b, a b d -> r c d", rows, columns, image)
    return torch.cat([table[0, :1], image.flatten(0, 1)])[None]


def resampling(lay_out=None, stretch=None, read=None, join=None):
    """The right steps, with one of them replaced."""

    def answer(table, old, new):
        cls, patches = table[:, :1], table[:, 1:]
        image = (
            lay_out(patches, old)
            if lay_out
            else rearrange(patches, "b (r c) d -> b d r c", r=old[0])
        )
        how = {"size": new, "mode": "bicubic", "antialias": True}
        image = stretch(image, new) if stretch else F.interpolate(image, **how)
        rows = read(image) if read else rearrange(image, "b d r c -> b (r c) d")
        return join(cls, rows) if join else torch.cat([cls, rows], 1)

    return answer


def as_a_line(table, old, new):
    return F.interpolate(table.mT, size=new[0] * new[1] + 1, mode="linear").mT


def patches_as_a_line(table, old, new):
    line = F.interpolate(table[:, 1:].mT, size=new[0] * new[1], mode="linear").mT
    return torch.cat([table[:, :1], line], 1)


def stretched(**how):
    return resampling(stretch=lambda x, new: F.interpolate(x, size=new, **how))


RESAMPLE_WRONG = {
    "CLS too": (as_a_line, "CLS is stretched together with the patches"),
    "a line": (patches_as_a_line, "as one long line"),
    "old swapped": (
        resampling(lambda x, old: rearrange(x, "b (r c) d -> b d r c", r=old[1])),
        "swapped when the old positions",
    ),
    "new swapped": (
        resampling(
            stretch=lambda x, new: F.interpolate(x, new[::-1], mode="bicubic", antialias=True)
        ),
        r"taken as \(columns, rows\)",
    ),
    "read down": (
        resampling(read=lambda x: rearrange(x, "b d r c -> b (c r) d")),
        "read down its columns",
    ),
    "reshape": (
        resampling(lambda x, old: x.reshape(1, x.shape[2], *old)),
        "`reshape` alone scrambles",
    ),
    "nearest": (stretched(mode="nearest"), "nearest old row"),
    "bilinear": (stretched(mode="bilinear", antialias=True), "This is bilinear interpolation;"),
    "plain bilinear": (stretched(mode="bilinear"), "bilinear interpolation, without"),
    "no antialias": (stretched(mode="bicubic"), "antialias=True` is missing"),
    "corners": (stretched(mode="bicubic", align_corners=True), "corner patches upon each other"),
    "CLS last": (resampling(join=lambda cls, x: torch.cat([x, cls], 1)), "stands at the end"),
    "CLS zero": (
        resampling(join=lambda cls, x: torch.cat([torch.zeros_like(cls), x], 1)),
        "zeros stand in its place",
    ),
    "CLS lost": (resampling(join=lambda cls, x: x), "row of CLS is lost"),
}

RIGHT = {
    "03.1": [by_allclose, by_several_shuffles, as_a_tensor],
    "03.2": [by_shape, by_repeat],
    "03.3": [by_norm, by_outer, by_loop],
    "03.4": [by_stack, by_columns, by_exp_and_phase],
    "03.5": [by_product, by_repeats, in_numpy],
    "03.6": [by_complex, by_matrices, by_swapped_copy],
    "03.7": [by_einops, by_permute, by_weights],
}
WRONG = {
    "03.1": ORDER_WRONG,
    "03.2": ADD_WRONG,
    "03.3": ALIKE_WRONG,
    "03.4": SINCOS_WRONG,
    "03.5": GRID_WRONG,
    "03.6": TURN_WRONG,
    "03.7": RESAMPLE_WRONG,
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "03.1": ("allclose", "tokens[:, 1:]", "shape[1] - 1"),
    "03.2": ("tokens + table", "tokens.shape[1:]", "table.shape !="),
    "03.3": ("normalize", "@", ".T", "cosine_similarity"),
    "03.4": ("rearrange", "stack", "** -", "10_000 **", ".flatten"),
    "03.5": ("cartesian_prod", "// 2", "divmod", "patch_coordinates"),
    "03.6": ("stack(", "flatten", "cos() -", "rearrange"),
    "03.7": ("rearrange", "permute", "mT", '"b (r c) d'),
}

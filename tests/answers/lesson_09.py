"""Answers to the exercises of lesson 09, right and wrong, as learners write them."""

import numpy as np
import torch
from einops import rearrange

# ---- 09.1 ----


def grid_by_einops(row, grid, num_prefix):
    return rearrange(row[:, num_prefix:], "b (r c) -> b r c", r=grid[0], c=grid[1])


def grid_by_rows(row, grid, num_prefix):
    lines = row[:, num_prefix:].split(grid[1], dim=1)
    return torch.stack(lines, dim=1)


# ---- 09.2 ----


def mix_by_rows(fused, residual):
    identity = torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
    a = torch.lerp(fused, identity.expand_as(fused), residual)
    empty = a.sum(-1) == 0
    a = a + empty[..., None] * identity
    return a / a.sum(-1)[..., None]


def mix_by_normalize(fused, residual):
    a = (1 - residual) * fused
    a.diagonal(dim1=1, dim2=2).add_(residual)
    a = torch.nn.functional.normalize(a, p=1, dim=-1)
    zero = a.abs().sum(-1) == 0
    a.diagonal(dim1=1, dim2=2)[zero] = 1
    return a


def before(fused, residual):
    return (1 - residual) * fused + residual * torch.eye(fused.shape[-1], dtype=fused.dtype)


def mix(sums, mend=True):
    def answer(fused, residual):
        a = before(fused, residual)
        out = a / sums(a)
        if mend:
            return torch.where(a.sum(-1, keepdim=True) > 0, out, torch.eye(a.shape[-1]).to(a))
        return out

    return answer


def with_epsilon(fused, residual):
    a = before(fused, residual)
    return a / (a.sum(-1, keepdim=True) + 1e-12)


def in_place(fused, residual):
    fused *= 1 - residual
    return fused + residual * torch.eye(fused.shape[-1], dtype=fused.dtype)


# ---- 09.3 ----


def draw(layers, heads=3, batch=1, tokens=4):
    return list(torch.randn(layers, batch, heads, tokens, tokens).double().mul(2).softmax(-1))


def oracle(roll):
    weights = draw(6, batch=2)
    joined = torch.eye(4).double()
    for layer in weights:
        joined = (layer.mean(1) + torch.eye(4)) / 2 @ joined
    return torch.allclose(roll(weights), joined)


def by_powers(roll):
    """The same layer six times is the sixth power of one; and one layer is what it must be."""
    layer = draw(1, heads=5)
    once = roll(layer)[0]
    if (once - (layer[0][0].mean(0) + torch.eye(4)) / 2).abs().max() > 1e-8:
        return False
    return bool((roll(layer * 6)[0] - torch.linalg.matrix_power(once, 6)).abs().max() < 1e-8)


def rows_only(roll):
    return torch.allclose(roll(draw(3)).sum(-1), torch.ones(4).double())


def one_head(roll):
    weights = draw(1, heads=1)
    return torch.allclose(roll(weights), (weights[0].mean(1) + torch.eye(4)) / 2)


def one_layer(roll):
    weights = draw(1, heads=3)
    return torch.allclose(roll(weights), (weights[0].mean(1) + torch.eye(4)) / 2)


def halves(roll):
    weights = draw(6, heads=1)
    return torch.allclose(roll(weights[3:]) @ roll(weights[:3]), roll(weights))


def to_the_last_bit(roll):
    weights = draw(6, batch=2)
    joined = torch.eye(4).double()
    for layer in weights:
        joined = (layer.mean(1) + torch.eye(4)) / 2 @ joined
    return torch.equal(roll(weights), joined.expand(2, -1, -1))


def symmetric(roll):
    joined = roll(draw(2))
    return torch.allclose(joined, joined.mT)


def impossible(roll):
    weights = [torch.rand(1, 2, 4, 4).double()]
    return torch.allclose(roll(weights), (weights[0].mean(1) + torch.eye(4)) / 2)


# ---- 09.4 ----


def chefer_by_rows(weights, gradients, query):
    row = torch.zeros(weights[0].shape[0], 1, weights[0].shape[-1], dtype=weights[0].dtype)
    row[:, 0, query] = 1
    for w, g in list(zip(weights, gradients, strict=True))[::-1]:
        row = row + row @ (w * g).relu().mean(1)
    return row[:, 0]


def chefer_by_product(weights, gradients, query):
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype)
    whole = identity
    for w, g in zip(weights, gradients, strict=True):
        whole = (identity + torch.clamp(w * g, min=0).mean(dim=1)) @ whole
    return whole[..., query, :]


def rule(speaks, step=lambda r, a: r + a @ r, pick=lambda r, q: r[:, q], flip=(1, 1)):
    def answer(weights, gradients, query):
        r = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype).repeat(len(weights[0]), 1, 1)
        for w, g in zip(weights[:: flip[0]], gradients[:: flip[1]], strict=True):
            r = step(r, speaks(w, g))
        return pick(r, query)

    return answer


def positive(w, g):
    return (w * g).clamp(min=0).mean(1)


# ---- 09.5 ----


def pixels_by_kron(maps, count, side, seed):
    rng = np.random.default_rng(seed)
    marked = np.zeros(maps.shape, dtype=bool)
    for image, heat in zip(marked, maps.numpy(), strict=True):
        by_size = np.lexsort((rng.random(heat.size), -heat.ravel()))
        image.flat[by_size[:count]] = True
    return torch.from_numpy(np.kron(marked, np.ones((1, side, side), dtype=bool)))


def pixels_by_jitter(maps, count, side, seed):
    """Ranks of equal numbers are equal; a random number below 1 parts them."""
    flat = maps.flatten(1)
    ranks = (flat[:, :, None] > flat[:, None, :]).sum(-1).double()
    noise = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).double()
    order = (ranks + noise).argsort(dim=1, descending=True)
    marked = order.argsort(dim=1) < count
    marked = marked.view(maps.shape)
    return (
        marked[:, :, None, :, None]
        .repeat(1, 1, side, 1, side)
        .reshape(len(maps), maps.shape[1] * side, -1)
    )


def enlarge(marked, side):
    return marked.repeat_interleave(side, 1).repeat_interleave(side, 2)


def pixels(order):
    def answer(maps, count, side, seed):
        found = order(maps.flatten(1), seed)[:, :count]
        marked = torch.zeros(maps.shape, dtype=torch.bool).flatten(1).scatter(1, found, True)
        return enlarge(marked.view(maps.shape), side)

    return answer


def limit(maps, count, side, seed):
    flat = maps.flatten(1)
    best = flat.topk(count, dim=1).values if count else flat[:, :0]
    limits = best[:, -1:] if count else torch.full((len(maps), 1), torch.inf)
    return enlarge((flat >= limits).view(maps.shape), side)


def one_shuffle(flat, seed):
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    return shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]


def unseeded(flat, seed):
    shuffle = torch.rand(flat.shape).argsort(dim=1)
    return shuffle.gather(1, flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))


def always_seed_0(flat, seed):
    shuffle = torch.rand(flat.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    return shuffle.gather(1, flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))


def not_looked_up(flat, seed):
    shuffle = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)


def tiled(maps, count, side, seed):
    return pixels_by_kron(maps, count, 1, seed).repeat(1, side, side)


# ---- 09.6 ----


def deletion_by_masks(model, images, targets, order, side):
    """All N + 1 images of one image in one batch."""
    areas = []
    rows, columns = images.shape[2] // side, images.shape[3] // side
    for image, target, patches in zip(images, targets, order, strict=True):
        when = patches.argsort()  # patch -> the step in which it goes
        steps = torch.arange(len(patches) + 1)
        stays = (when[None] >= steps[:, None]).view(-1, 1, rows, columns)
        stays = stays.repeat_interleave(side, 2).repeat_interleave(side, 3)
        with torch.no_grad():
            curve = model(image[None] * stays).softmax(1)[:, target]
        areas.append((curve.sum() - (curve[0] + curve[-1]) / 2) / len(patches))
    return torch.stack(areas)


def deletion(area, shown=None, said=None, gone=None, flip=False, first=False, by_rows=False):
    def answer(model, images, targets, order, side):
        result = []
        for i, image in enumerate(images):
            patches = order[0 if first else i].tolist()
            patches = patches[::-1] if flip else patches
            curve = []
            for step in range(len(patches) + 1):
                mask = torch.zeros_like(image)
                for p in gone(patches, step) if gone else patches[:step]:
                    r, c = divmod(p, image.shape[1 if by_rows else 2] // side)
                    mask[:, r * side : (r + 1) * side, c * side : (c + 1) * side] = 1
                x = shown(image, mask) if shown else image * (1 - mask)
                logits = model(x[None])[0].detach()
                curve.append(said(logits, targets[i]) if said else logits.softmax(0)[targets[i]])
            result.append(area(torch.stack(curve)))
        return torch.stack(result)

    return answer


def trapezes(curve):
    return torch.trapezoid(curve) / (len(curve) - 1)


def spoils_images(model, images, targets, order, side):
    columns = images.shape[3] // side
    for i, patches in enumerate(order.tolist()):
        for p in patches:
            r, c = divmod(p, columns)
            images[i, :, r * side : (r + 1) * side, c * side : (c + 1) * side] = 0
    return model(images).softmax(1)[:, 0]


# ---- 09.7 ----


def points_by_mask(maps, boxes):
    rows, columns = torch.arange(maps.shape[1])[:, None], torch.arange(maps.shape[2])
    top, bottom, left, right = (edge[:, None, None] for edge in boxes.T)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    best = maps == maps.amax((1, 2), keepdim=True)
    return (inside & best).any((1, 2))


def points_by_crops(maps, boxes):
    return torch.stack(
        [
            heat[t:b, left:right].max() == heat.max()
            for heat, (t, b, left, right) in zip(maps, boxes.tolist(), strict=True)
        ]
    )


def points(inside, place=lambda i, rows, columns: (i // columns, i % columns), least=False):
    def answer(maps, boxes):
        flat = maps.flatten(1)
        index = flat.argmin(1) if least else flat.argmax(1)
        r, c = place(index, *maps.shape[1:])
        return inside(r, c, *boxes.T)

    return answer


def in_box(r, c, t, b, left, right):
    return (r >= t) & (r < b) & (c >= left) & (c < right)


# ---- 09.8 ----


def interval_by_loop(ours, theirs, seed):
    rng = np.random.default_rng(seed)
    gaps = np.array([a - b for a, b in zip(ours, theirs, strict=True)])
    means = sorted(np.mean(rng.choice(gaps, len(gaps))) for _ in range(2000))
    return means[50], means[1949]


def interval_by_pairs(ours, theirs, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(ours), (2000, len(ours)), generator=generator).numpy()
    means = ours[drawn].mean(1) - theirs[drawn].mean(1)
    return tuple(np.quantile(means, [0.025, 0.975]))


def interval(values=lambda a, b: a - b, percent=(2.5, 97.5), means=True, share=1, replace=True):
    def answer(ours, theirs, seed):
        rng, v = np.random.default_rng(seed), values(ours, theirs)
        if not means:
            return tuple(np.percentile(rng.choice(v, (2000, len(v))), percent))
        if not replace:
            found = np.array([rng.permutation(v).mean() for _ in range(20)]).round(12)
            return tuple(np.percentile(found, percent))
        drawn = rng.integers(len(v), size=(2000, int(len(v) * share)))
        return tuple(np.percentile(v[drawn].mean(1), percent))

    return answer


def apart(ours, theirs, seed):
    rng, n = np.random.default_rng(seed), len(ours)
    one, other = rng.integers(n, size=(2, 2000, n))
    return tuple(np.percentile(ours[one].mean(1) - theirs[other].mean(1), [2.5, 97.5]))


def always_the_same(ours, theirs, seed):
    return interval()(ours, theirs, 0)


def never_the_same(ours, theirs, seed):
    return interval()(ours, theirs, None)


RIGHT = {
    "09.1": [grid_by_einops, grid_by_rows],
    "09.2": [mix_by_rows, mix_by_normalize],
    "09.3": [oracle, by_powers],
    "09.4": [chefer_by_rows, chefer_by_product],
    "09.5": [pixels_by_kron, pixels_by_jitter],
    "09.6": [deletion_by_masks, deletion(trapezes)],
    "09.7": [points_by_mask, points_by_crops],
    "09.8": [interval_by_loop, interval_by_pairs, interval()],
}

WRONG = {
    "09.1": {
        "square": (
            lambda r, g, p: r[:, p:].reshape(len(r), *[int((r.shape[1] - p) ** 0.5)] * 2),
            "16×4 grid has become 8×8",
        ),
        "one token": (lambda r, g, p: r[:, 1:].reshape(len(r), *g), "is `num_prefix` used"),
        "from the end": (
            lambda r, g, p: r[:, : r.shape[1] - p].reshape(len(r), *g),
            "from the end",
        ),
        "column by column": (
            lambda r, g, p: r[:, p:].reshape(-1, g[1], g[0]).mT,
            "column by column",
        ),
        "swapped": (lambda r, g, p: r[:, p:].reshape(-1, g[1], g[0]), "swapped"),
        "first image": (lambda r, g, p: r[0, p:].reshape(g), "Only the first image"),
        "squeezed": (lambda r, g, p: grid_by_einops(r, g, p).squeeze(), "lost its axis"),
        "maximum": (
            lambda r, g, p: grid_by_einops(r, g, p) / r[:, p:].amax(1)[:, None, None],
            "divided by its maximum",
        ),
        "sum": (
            lambda r, g, p: grid_by_einops(r, g, p) / r[:, p:].sum(1)[:, None, None],
            "divided by its sum",
        ),
    },
    "09.2": {
        "popular": (
            lambda f, r: before(f, r) / before(f, r).sum(-1),
            "Column j is divided by the sum of row j",
        ),
        "columns by rows": (
            mix(lambda a: a.sum(-1)[:, None]),
            "Column j is divided by the sum of row j",
        ),
        "own columns": (mix(lambda a: a.sum(1, keepdim=True)), "Every column sums to 1"),
        "whole table": (mix(lambda a: a.sum((1, 2), keepdim=True)), "sum of its whole matrix"),
        "first image": (mix(lambda a: a[:1].sum(-1, keepdim=True)), "sums of the first one"),
        "maximum": (mix(lambda a: a.amax(-1, keepdim=True), mend=False), "by their maximum"),
        "NaN": (mix(lambda a: a.sum(-1, keepdim=True), mend=False), "becomes NaN"),
        "epsilon": (with_epsilon, "stays a row of zeros"),
        "spread": (
            lambda f, r: torch.where(
                before(f, r).sum(-1, keepdim=True) > 0,
                before(f, r) / before(f, r).sum(-1, keepdim=True),
                torch.tensor(1 / f.shape[-1], dtype=f.dtype),
            ),
            "spread over all tokens",
        ),
        "not scaled": (before, "Nothing scales the rows"),
        "scaled first": (
            lambda f, r: before(mix_by_rows(f, 0.0), r),
            "before the identity is mixed in",
        ),
        "half": (lambda f, r: mix_by_rows(f, 0.5), "`residual` is not used"),
        "other share": (lambda f, r: mix_by_rows(f, 1 - r), "here it is that of the attention"),
        "full size": (
            lambda f, r: mix_by_rows(f + r * torch.eye(f.shape[1], dtype=f.dtype), 0.0),
            "keeps its full size",
        ),
        "no identity": (lambda f, r: mix_by_rows(f, 0.0), "identity is missing"),
        "in place": (in_place, "changes `fused`"),
    },
    "09.3": {
        "rows": (rows_only, r"0 of 4 are found.*reads head 0"),
        "one head": (one_head, r"1 of 4 are found.*reads head 0"),
        "one layer": (one_layer, r"3 of 4 are found.*never looks at the layers"),
        "halves": (halves, "1 of 4 are found|2 of 4 are found"),
        "exact": (to_the_last_bit, r"of 3 right rollouts.*rounding"),
        "symmetric": (symmetric, "says False of right rollouts, too"),
        "always False": (lambda roll: False, "says False of right rollouts, too"),
        "always True": (lambda roll: True, "0 of 4 are found"),
        "impossible": (impossible, "weights that no softmax makes"),
        "a number": (
            lambda roll: (roll(draw(2)).sum(-1) - 1).abs().max(),
            "Expected True or False",
        ),
        "not a list": (lambda roll: bool(roll(draw(2)[0]).sum()), "takes a list of"),
        "nothing": (lambda roll: None, "`return` missing"),
    },
    "09.4": {
        "clamped late": (rule(lambda w, g: (w * g).mean(1).clamp(min=0)), "Drop it in each head"),
        "not clamped": (rule(lambda w, g: (w * g).mean(1)), "negative products count as 0"),
        "absolute": (rule(lambda w, g: (w * g).abs().mean(1)), "absolute value"),
        "gradients": (rule(lambda w, g: g.relu().mean(1)), "weights are missing"),
        "weights": (rule(lambda w, g: w.mean(1)), "gradients are missing"),
        "sum": (rule(lambda w, g: (w * g).relu().sum(1)), "heads are summed"),
        "largest": (rule(lambda w, g: (w * g).relu().amax(1)), "largest of the heads"),
        "wrong side": (rule(positive, lambda r, a: r + r @ a), "wrong way round"),
        "last first": (rule(positive, flip=(-1, -1)), "from the last to the first|wrong way round"),
        "mispaired": (rule(positive, flip=(1, -1)), "gradients of another"),
        "mispaired weights": (rule(positive, flip=(-1, 1)), "that of the weights"),
        "forgets": (rule(positive, lambda r, a: a @ r), "forgotten in each layer"),
        "adds tables": (rule(positive, lambda r, a: r + a), "adds its own matrix only"),
        "scaled": (
            rule(
                positive,
                lambda r, a: (
                    (a + torch.eye(a.shape[-1])).to(r)
                    / (a + torch.eye(a.shape[-1])).sum(-1, keepdim=True).to(r)
                    @ r
                ),
            ),
            "scaled to a sum of 1",
        ),
        "column": (rule(positive, pick=lambda r, q: r[:, :, q]), "column of R"),
        "row 0": (rule(positive, pick=lambda r, q: r[:, 0]), "Always the row of token 0"),
        "without itself": (
            rule(positive, pick=lambda r, q: (r - torch.eye(r.shape[1]).to(r))[:, q]),
            "without the 1",
        ),
    },
    "09.5": {
        "limit": (limit, "equal numbers on the limit"),
        "corner": (
            pixels(lambda flat, seed: flat.argsort(dim=1, descending=True, stable=True)),
            "point at a corner",
        ),
        "one shuffle": (pixels(one_shuffle), "in every image"),
        "no seed": (pixels(unseeded), "marks other patches when called again"),
        "seed 0": (pixels(always_seed_0), "Two seeds mark the same"),
        "smallest": (pixels(lambda flat, seed: flat.argsort(1)), "smallest numbers"),
        "not looked up": (pixels(not_looked_up), "number is below"),
        "tiled": (tiled, "do not make whole patches"),
        "numbers": (
            lambda m, c, s, seed: pixels_by_kron(m, c, s, seed).float(),
            "numbers of type torch.bool",
        ),
        "patches": (lambda m, c, s, seed: pixels_by_kron(m, c, 1, seed), "Expected the shape"),
        "one more": (
            lambda m, c, s, seed: pixels_by_kron(m, c + 1, s, seed),
            "patches should be marked",
        ),
    },
    "09.6": {
        "mean": (deletion(lambda c: c.mean()), "mean of the N \\+ 1 values"),
        "left": (deletion(lambda c: c[:-1].mean()), "left end only"),
        "right": (deletion(lambda c: c[1:].mean()), "right end only"),
        "width 1": (deletion(torch.trapezoid), "steps of width 1"),
        "late": (deletion(lambda c: trapezes(c[1:])), "begins with one patch"),
        "early": (deletion(lambda c: trapezes(c[:-1])), "ends before the last"),
        "N + 1": (deletion(lambda c: torch.trapezoid(c) / len(c)), r"1/\(N \+ 1\)"),
        "logits": (deletion(trapezes, said=lambda z, t: z[t]), "These are logits"),
        "logarithms": (deletion(trapezes, said=lambda z, t: z.log_softmax(0)[t]), "logarithms"),
        "highest": (
            deletion(trapezes, said=lambda z, t: z.softmax(0).max()),
            "whatever class has it",
        ),
        "insertion": (deletion(trapezes, shown=lambda x, m: x * m), "put back on an empty image"),
        "backwards": (deletion(trapezes, flip=True), "go in the reverse order"),
        "one at a time": (
            deletion(trapezes, gone=lambda p, k: p[max(k - 1, 0) : k]),
            "Only one patch is gone",
        ),
        "first order": (deletion(trapezes, first=True), "patches of the first one"),
        "rows": (deletion(trapezes, by_rows=True), "number of \\*columns\\*"),
        "mean colour": (
            deletion(
                trapezes, shown=lambda x, m: torch.where(m > 0, x.mean((1, 2), keepdim=True), x)
            ),
            "image's own mean",
        ),
        "spoils": (spoils_images, "changes `images`"),
    },
    "09.7": {
        "rows": (
            points(in_box, lambda i, rows, columns: (i // rows, i % rows)),
            "division by the number of \\*rows\\*",
        ),
        "swapped": (
            points(in_box, lambda i, rows, columns: (i % columns, i // columns)),
            "Rows and columns are swapped",
        ),
        "edge in": (
            points(lambda r, c, t, b, x, y: (r >= t) & (r <= b) & (c >= x) & (c <= y)),
            "edge is counted in",
        ),
        "edge out": (
            points(lambda r, c, t, b, x, y: (r > t) & (r < b) & (c > x) & (c < y)),
            "first row and column",
        ),
        "tlbr": (points(lambda r, c, t, x, b, y: in_box(r, c, t, b, x, y)), "read as top, left"),
        "columns first": (
            points(lambda r, c, x, y, t, b: in_box(r, c, t, b, x, y)),
            "Rows and columns are swapped",
        ),
        "smallest": (points(in_box, least=True), "smallest number"),
        "outside": (points(lambda *given: ~in_box(*given)), "is outside"),
        "row alone": (points(lambda r, c, t, b, x, y: (r >= t) & (r < b)), "Only the row"),
        "numbers": (lambda m, b: points_by_mask(m, b).float(), "numbers of type torch.bool"),
    },
    "09.8": {
        "apart": (apart, "separately"),
        "single": (interval(means=False), "single differences"),
        "90": (interval(percent=(5, 95)), "middle 90%"),
        "99": (interval(percent=(0.5, 99.5)), "middle 99%"),
        "ours": (interval(lambda a, b: a), "`ours` alone"),
        "theirs": (interval(lambda a, b: b), "`theirs` alone"),
        "half": (interval(share=0.5), "half the images"),
        "absolute": (interval(lambda a, b: np.abs(a - b)), "without its sign"),
        "turned": (interval(lambda a, b: b - a), "sign is turned round"),
        "high first": (interval(percent=(97.5, 2.5)), "low comes first"),
        "no replacement": (interval(replace=False), "Both ends are equal"),
        "no seed": (never_the_same, "another interval when called again"),
        "seed 0": (always_the_same, "same interval to the last digit"),
        "one number": (lambda a, b, seed: (a - b).mean(), "Expected two numbers"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "09.1": ("reshape(", "num_prefix:]", "unflatten", "row[:,"),
    "09.2": ("keepdim=True", "torch.where", "torch.eye(", "unsqueeze"),
    "09.3": ("mean(1)", "roll(longer", "allclose", "+ identity) / 2"),
    "09.4": ("clamp(", "mean(dim=1)", "r + a @ r", "relu"),
    "09.5": ("gather", "scatter", "repeat_interleave", "stable=True"),
    "09.6": ("trapezoid(", "softmax(1)", "// side", "dx="),
    "09.7": ("argmax(", "// maps", "unbind", "top <= row"),
    "09.8": ("rng.integers", "ours - theirs", "[2.5, 97.5]", "choice("),
}

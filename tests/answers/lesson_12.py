"""Lesson 12: right answers, each another way; wrong ones and the cause that must be named."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

# ---- 12.1 ----


def speedup_by_numpy(seconds, base):
    ratios = base.numpy() / seconds.numpy()
    found = [np.median(ratios), ratios.min(), ratios.max()]
    return torch.tensor([float(number) for number in found])


def speedup_by_quantiles(seconds, base):
    return torch.quantile(base / seconds, torch.tensor([0.5, 0.0, 1.0]))


def three(ratios):
    return torch.stack([ratios.quantile(0.5), ratios.amin(), ratios.amax()])


# ---- 12.2 ----


def change_by_moments(before, after):
    each = [100.0 * (int(a) - int(b)) for a, b in zip(after, before, strict=True)]
    middle = sum(each) / len(each)
    spread = sum((value - middle) ** 2 for value in each) / (len(each) - 1)
    reach = 1.96 * (spread / len(each)) ** 0.5
    return torch.tensor([middle, middle - reach, middle + reach])


def change_by_tensors(before, after):
    each = after.float().sub(before.float()).mul(100)
    reach = 1.96 * each.std() / each.numel() ** 0.5
    return each.mean() + reach * torch.tensor([0.0, -1.0, 1.0])


def interval(each, reach):
    return torch.stack([each.mean(), each.mean() - reach, each.mean() + reach])


def differences(before, after):
    return 100 * (after.float() - before.float())


def error(each):
    return each.std() / len(each) ** 0.5


# ---- 12.3 ----


def quantized_row_by_row(values):
    rows, scales = [], []
    for row in values:
        scale = max(row.abs().max().item(), 1e-20) / 127
        rows.append((row / scale).round().to(torch.int8))
        scales.append([scale])
    return torch.stack(rows), torch.tensor(scales, dtype=values.dtype)


def quantized_by_norm(values):
    scale = torch.linalg.vector_norm(values, float("inf"), dim=-1, keepdim=True) / 127
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.clamp(torch.round(values / scale), -127, 127).to(torch.int8), scale


def by_scale(rule, rounding=torch.round):
    def made(values):
        scale = rule(values).clamp(min=1e-20)
        whole = (rounding(values / scale).long() + 128) % 256 - 128
        return whole.to(torch.int8), scale.expand(len(values), 1).clone()

    return made


def largest(values):
    return values.abs().amax(1, keepdim=True)


# ---- 12.4 ----


def error_by_einops(weight, bits, group):
    parts = rearrange(weight, "r (g n) -> r g n", n=group)
    top = 2 ** (bits - 1) - 1
    scale = parts.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-20) / top
    near = rearrange((parts / scale).round() * scale, "r g n -> r (g n)")
    return torch.linalg.norm(weight - near, dim=1) / torch.linalg.norm(weight, dim=1)


def error_by_loops(weight, bits, group):
    top, found = (1 << (bits - 1)) - 1, []
    for row in weight:
        lost = 0.0
        for at in range(0, len(row), group):
            part = row[at : at + group]
            step = part.abs().max() / top
            lost = lost + ((part / step).round() * step - part).pow(2).sum()
        found.append((lost / row.pow(2).sum()).sqrt())
    return torch.stack(found)


def errors(top=lambda bits: 2 ** (bits - 1) - 1, wide=lambda w, g: g, tell=None):
    def made(weight, bits, group):
        parts = weight.reshape(len(weight), -1, wide(weight, group))
        scale = parts.abs().amax(-1, keepdim=True) / top(bits)
        off = ((parts / scale).round() * scale).reshape(weight.shape) - weight
        return tell(off, weight) if tell else off.norm(dim=1) / weight.norm(dim=1)

    return made


# ---- 12.5 ----


def importance_by_autograd(handed_on, gradient, num_heads):
    """With gates that are there, on a loss that is linear."""
    gates = torch.ones(len(handed_on), num_heads, dtype=handed_on.dtype, requires_grad=True)
    gated = handed_on.unflatten(-1, (num_heads, -1)) * gates[:, None, :, None]
    (gated.flatten(2) * gradient).sum().backward()
    return gates.grad.abs().mean(dim=0)


def importance_by_einops(handed_on, gradient, num_heads):
    parts = rearrange(handed_on * gradient, "b t (h d) -> h b (t d)", h=num_heads)
    return parts.sum(dim=-1).abs().mean(dim=-1)


def cut(values, heads):
    return rearrange(values, "b t (h d) -> b h t d", h=heads)


# ---- 12.6 ----


def pruned_by_axes(qkv, bias, proj, num_heads, keep):
    dim = proj.shape[0]
    qkv = qkv.reshape(3, num_heads, -1, dim)[:, keep].reshape(-1, dim)
    bias = bias.reshape(3, num_heads, -1)[:, keep].flatten()
    return qkv, bias, proj.unflatten(1, (num_heads, -1))[:, keep].flatten(1)


def pruned_by_mask(qkv, bias, proj, num_heads, keep):
    d = proj.shape[1] // num_heads
    columns = torch.cat([torch.arange(k * d, (k + 1) * d) for k in keep])
    parts = [part[columns] for part in qkv.chunk(3)]
    return torch.cat(parts), torch.cat([b[columns] for b in bias.chunk(3)]), proj[:, columns]


def columns_of(dim, heads, keep):
    d = dim // heads
    return [k * d + i for k in keep for i in range(d)]


def by_rows(rows, columns):
    def made(qkv, bias, proj, num_heads, keep):
        r = rows(len(proj), num_heads, keep)
        return qkv[r], bias[r], proj[:, columns(len(proj), num_heads, keep)]

    return made


def rows_of(dim, heads, keep):
    return [part * dim + c for part in range(3) for c in columns_of(dim, heads, keep)]


def others(heads, keep):
    return [head for head in range(heads) if head not in keep]


def cuts_rows_of_proj(qkv, bias, proj, num_heads, keep):
    small, short, _ = pruned_by_axes(qkv, bias, proj, num_heads, keep)
    return small, short, proj[columns_of(len(proj), num_heads, keep)]


def zeroes(qkv, bias, proj, num_heads, keep):
    proj = proj.clone()
    proj[:, columns_of(len(proj), num_heads, others(num_heads, keep))] = 0
    return qkv, bias, proj


# ---- 12.7 ----


def merged_by_lists(tokens, sizes, a, b):
    rows, counts = list(tokens), sizes.tolist()
    rows[b] = (rows[a] * counts[a] + rows[b] * counts[b]) / (counts[a] + counts[b])
    counts[b] += counts[a]
    del rows[a], counts[a]
    return torch.stack(rows), torch.tensor(counts, dtype=sizes.dtype)


def merged_by_matrix(tokens, sizes, a, b):
    table = torch.eye(len(sizes), dtype=tokens.dtype)
    table[b, a] = 1
    table = table[torch.arange(len(sizes)) != a]
    counts = table @ sizes
    return table @ (tokens * sizes[:, None]) / counts[:, None], counts


def merges(mean, size=lambda s, a, b: s[a] + s[b], stay=lambda a, b: b, gone=lambda a, b: a):
    def made(tokens, sizes, a, b):
        tokens, counts = tokens.clone(), sizes.clone()
        tokens[stay(a, b)] = mean(tokens, sizes, a, b)
        counts[stay(a, b)] = size(sizes, a, b)
        left = torch.arange(len(sizes)) != gone(a, b)
        return tokens[left], counts[left]

    return made


def weighted(x, s, a, b):
    return torch.lerp(x[a], x[b], s[b] / (s[a] + s[b]))


def removes_first(tokens, sizes, a, b):
    new, both = weighted(tokens, sizes, a, b), sizes[a] + sizes[b]
    left = torch.arange(len(sizes)) != a
    tokens, counts = tokens[left].clone(), sizes[left].clone()
    at = min(b, len(counts) - 1)
    tokens[at], counts[at] = new, both
    return tokens, counts


def in_place(tokens, sizes, a, b):
    tokens[b] = weighted(tokens, sizes, a, b)
    return merged_by_lists(tokens, sizes, a, b)


# ---- 12.8 ----


def distilled_by_shares(logits, taught, labels, temperature, share):
    p = (taught / temperature).softmax(dim=1)
    entropy = -torch.special.xlogy(p, p).sum(dim=1)
    cross = F.cross_entropy(logits / temperature, p, reduction="none")
    soft = temperature**2 * (cross - entropy).mean()
    return share * soft + (1 - share) * F.cross_entropy(logits, labels)


def distilled_by_kl_div(logits, taught, labels, temperature, share):
    ours = F.log_softmax(logits / temperature, dim=-1)
    theirs = F.log_softmax(taught / temperature, dim=-1)
    soft = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1).mean()
    right = logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(dim=1)
    return share * temperature * temperature * soft - (1 - share) * right.mean()


def kl(z, y):
    return F.kl_div(z.log_softmax(1), y.softmax(1), reduction="batchmean")


def losses(soft, factor=lambda t: t**2, hard=lambda z, labels, t: F.cross_entropy(z, labels)):
    return lambda z, y, labels, t, a: a * factor(t) * soft(z, y, t) + (1 - a) * hard(z, labels, t)


def usual(z, y, t):
    return kl(z / t, y / t)


RIGHT = {
    "12.1": [speedup_by_numpy, speedup_by_quantiles],
    "12.2": [change_by_moments, change_by_tensors],
    "12.3": [quantized_row_by_row, quantized_by_norm],
    "12.4": [error_by_einops, error_by_loops],
    "12.5": [importance_by_autograd, importance_by_einops],
    "12.6": [pruned_by_axes, pruned_by_mask],
    "12.7": [merged_by_lists, merged_by_matrix],
    "12.8": [distilled_by_shares, distilled_by_kl_div],
}
WRONG = {
    "12.1": {
        "upside down": (lambda s, b: three(s / b), "upside down"),
        "of medians": (
            lambda s, b: torch.stack(
                [b.quantile(0.5) / s.quantile(0.5), (b / s).min(), (b / s).max()]
            ),
            "one median by another",
        ),
        "extremes": (
            lambda s, b: torch.stack([(b / s).quantile(0.5), b.min() / s.max(), b.max() / s.min()]),
            "fastest with the slowest",
        ),
        "mean": (
            lambda s, b: torch.stack([(b / s).mean(), (b / s).min(), (b / s).max()]),
            "mean of the ratios",
        ),
        "means": (
            lambda s, b: torch.stack([b.mean() / s.mean(), (b / s).min(), (b / s).max()]),
            "one mean by another",
        ),
        "lower median": (
            lambda s, b: torch.stack([(b / s).median(), (b / s).min(), (b / s).max()]),
            "even number of rounds",
        ),
        "exchanged": (lambda s, b: three(b / s)[[0, 2, 1]], "exchanged"),
        "another order": (lambda s, b: three(b / s)[[1, 0, 2]], "order is median"),
        "one number": (lambda s, b: (b / s).quantile(0.5), "Expected the shape"),
        "a tuple": (lambda s, b: tuple(three(b / s)), "Expected a tensor"),
    },
    "12.2": {
        "turned": (
            lambda b, a: interval(differences(a, b), 1.96 * error(differences(a, b))),
            "sign is turned",
        ),
        "not paired": (
            lambda b, a: (lambda p, q, n: 100 * (q - p + 1.96 * ((p * (1 - p) + q * (1 - q)) / n)
                          .sqrt() * torch.tensor([0.0, -1.0, 1.0])))(
                b.float().mean(), a.float().mean(), len(b)
            ),
            "had seen different images",
        ),
        "single images": (
            lambda b, a: interval(differences(b, a), 1.96 * differences(b, a).std()),
            "how far single images",
        ),
        "by n": (
            lambda b, a: interval(differences(b, a), 1.96 * differences(b, a).std() / len(a)),
            "you divide by n",
        ),
        "one error": (
            lambda b, a: interval(differences(b, a), error(differences(b, a))),
            "one standard error",
        ),
        "shares": (lambda b, a: change_by_tensors(b, a) / 100, "percent were asked for"),
        "only changed": (
            lambda b, a: interval(
                differences(b, a)[a != b], 1.96 * error(differences(b, a)[a != b])
            ),
            "leave them out|they count",
        ),
        "of after": (
            lambda b, a: interval(differences(b, a), 196 * error(a.float())),
            "deviation is taken of the answers",
        ),
        "no sign": (
            lambda b, a: interval(differences(b, a).abs(), 1.96 * error(differences(b, a).abs())),
            "without their sign",
        ),
        "of numpy": (
            lambda b, a: interval(
                differences(b, a), 1.96 * differences(b, a).std(correction=0) / len(a) ** 0.5
            ),
            "n instead of n - 1",
        ),
        "of bools": (lambda b, a: (a - b).float().mean(), "stopped with|could not use"),
    },
    "12.3": {
        "nan": (
            lambda v: ((v / (largest(v) / 127)).round().to(torch.int8), largest(v) / 127),
            "0 / 0 is NaN",
        ),
        "one scale": (
            by_scale(lambda v: v.abs().max().reshape(1, 1) / 127),
            "One scale for the whole table",
        ),
        "not absolute": (
            by_scale(lambda v: v.amax(1, keepdim=True) / 127),
            "not the largest \\*absolute\\*",
        ),
        "128": (by_scale(lambda v: largest(v) / 128), "wraps round"),
        "255": (by_scale(lambda v: largest(v) / 255), "run over"),
        "cut off": (by_scale(lambda v: largest(v) / 127, torch.trunc), "cut off"),
        "down": (by_scale(lambda v: largest(v) / 127, torch.floor), "round down"),
        "range": (
            by_scale(lambda v: (v.amax(1, keepdim=True) - v.amin(1, keepdim=True)) / 255),
            "lowest to the highest",
        ),
        "one over": (
            lambda v: (lambda w, s: (w, 1 / s))(*quantized_by_norm(v)),
            "1 / scale",
        ),
        "floats": (
            lambda v: (lambda w, s: (w.float(), s))(*quantized_by_norm(v)),
            "type torch.int8",
        ),
        "a row of scales": (
            lambda v: (lambda w, s: (w, s[:, 0]))(*quantized_by_norm(v)),
            "must be a column",
        ),
        "restored": (lambda v: torch.mul(*quantized_by_norm(v)), "Expected two tensors"),
    },
    "12.4": {
        "rows": (errors(wide=lambda w, g: w.shape[1]), "groups make no difference"),
        "parts": (errors(wide=lambda w, g: w.shape[1] // g), "into `group` parts"),
        "127": (errors(top=lambda bits: 127), "`bits` make no difference"),
        "no sign bit": (errors(top=lambda bits: 2**bits - 1), "one bit is the sign"),
        "one too large": (errors(top=lambda bits: 2 ** (bits - 1)), "one too large"),
        "not relative": (errors(tell=lambda off, w: off.norm(dim=1)), "error itself"),
        "squares": (
            errors(tell=lambda off, w: off.square().sum(1) / w.square().sum(1)),
            "roots are missing",
        ),
        "one number": (
            errors(tell=lambda off, w: (off.norm() / w.norm()).repeat(len(w))),
            "One number for the whole table",
        ),
        "entry by entry": (
            errors(tell=lambda off, w: (off / w).abs().mean(1)),
            "number by number",
        ),
        "largest": (
            errors(tell=lambda off, w: off.abs().amax(1) / w.abs().amax(1)),
            "largest error of a row",
        ),
        "a column": (
            errors(tell=lambda off, w: (off.norm(dim=1) / w.norm(dim=1))[:, None]),
            "Expected the shape",
        ),
    },
    "12.5": {
        "too early": (
            lambda y, g, h: cut((y * g).abs(), h).sum(dim=(2, 3)).mean(0),
            "comes too early",
        ),
        "each token": (
            lambda y, g, h: cut(y * g, h).sum(3).abs().sum(2).mean(0),
            "for each token",
        ),
        "too late": (
            lambda y, g, h: cut(y * g, h).sum(dim=(2, 3)).mean(0).abs(),
            "after the mean",
        ),
        "no absolute": (
            lambda y, g, h: cut(y * g, h).sum(dim=(2, 3)).mean(0),
            "absolute value is missing",
        ),
        "gradient": (
            lambda y, g, h: cut(g, h).sum(dim=(2, 3)).abs().mean(0),
            "gradient alone",
        ),
        "handed on": (
            lambda y, g, h: cut(y, h).sum(dim=(2, 3)).abs().mean(0),
            "leaves the gradient out",
        ),
        "every h-th": (
            lambda y, g, h: rearrange(y * g, "b t (d h) -> b h t d", h=h).sum((2, 3)).abs().mean(0),
            "cut the wrong way",
        ),
        "sum": (
            lambda y, g, h: cut(y * g, h).sum(dim=(2, 3)).abs().sum(0),
            "instead of their mean",
        ),
        "means": (
            lambda y, g, h: cut(y * g, h).mean(dim=(2, 3)).abs().mean(0),
            "it is a sum",
        ),
        "each image": (
            lambda y, g, h: cut(y * g, h).sum(dim=(2, 3)).abs(),
            "Expected the shape",
        ),
    },
    "12.6": {
        "the others": (
            by_rows(
                lambda d, h, k: rows_of(d, h, others(h, k)),
                lambda d, h, k: columns_of(d, h, others(h, k)),
            ),
            "were to go|must have the shape",
        ),
        "sorted": (
            by_rows(
                lambda d, h, k: rows_of(d, h, sorted(k)),
                lambda d, h, k: columns_of(d, h, sorted(k)),
            ),
            "`keep` says the order",
        ),
        "head by head": (
            by_rows(
                lambda d, h, k: [q * 3 * (d // h) + i for q in k for i in range(3 * (d // h))],
                columns_of,
            ),
            "stood together",
        ),
        "mixed up": (
            by_rows(
                lambda d, h, k: [p * d + c for q in k for p in range(3)
                                 for c in columns_of(d, h, [q])],
                columns_of,
            ),
            "in the smaller layer, too",
        ),
        "every h-th": (
            by_rows(
                lambda d, h, k: [p * d + i * h + q for p in range(3) for q in k
                                 for i in range(d // h)],
                lambda d, h, k: [i * h + q for q in k for i in range(d // h)],
            ),
            "every h-th",
        ),
        "first columns": (
            by_rows(rows_of, lambda d, h, k: list(range(len(k) * (d // h)))),
            "do not follow",
        ),
        "rows of proj": (cuts_rows_of_proj, "cut the rows of `proj`"),
        "zeroed": (zeroes, r"`qkv` must have the shape"),
        "only qkv": (
            lambda q, b, p, h, k: (*pruned_by_axes(q, b, p, h, k)[:2], p),
            "`proj` must have the shape",
        ),
        "two": (lambda q, b, p, h, k: pruned_by_axes(q, b, p, h, k)[:2], "Expected three tensors"),
    },
    "12.7": {
        "plain mean": (merges(lambda x, s, a, b: (x[a] + x[b]) / 2), "whatever their sizes"),
        "not divided": (merges(lambda x, s, a, b: x[a] * s[a] + x[b] * s[b]), "not divided"),
        "old size": (merges(weighted, size=lambda s, a, b: s[b]), "sizes do not follow"),
        "one more": (merges(weighted, size=lambda s, a, b: s[b] + 1), "one patch more"),
        "exchanged": (
            merges(lambda x, s, a, b: (x[a] * s[b] + x[b] * s[a]) / (s[a] + s[b])),
            "weights are exchanged",
        ),
        "in the place of a": (
            merges(weighted, stay=lambda a, b: a, gone=lambda a, b: b),
            "It is `a` that goes",
        ),
        "dropped": (
            merges(lambda x, s, a, b: x[b], size=lambda s, a, b: s[b]),
            "nothing of it",
        ),
        "removed first": (removes_first, "`a` is removed first"),
        "in place": (in_place, "changes `tokens`"),
        "sizes as column": (
            lambda x, s, a, b: (lambda t, c: (t, c[:, None]))(*merged_by_lists(x, s, a, b)),
            "as many sizes",
        ),
        "tokens alone": (lambda x, s, a, b: merged_by_lists(x, s, a, b)[0], "Expected two tensors"),
    },
    "12.8": {
        "no factor": (losses(usual, factor=lambda t: 1), "squared is missing"),
        "factor T": (losses(usual, factor=lambda t: t), "takes T squared"),
        "share": (
            lambda z, y, labels, t, a: distilled_by_shares(z, y, labels, t, 1 - a),
            "share is exchanged",
        ),
        "swapped": (losses(lambda z, y, t: kl(y / t, z / t)), "Teacher and student are exchanged"),
        "multiplied": (losses(lambda z, y, t: kl(z * t, y * t)), "temperature multiplies"),
        "teacher only": (losses(lambda z, y, t: kl(z, y / t)), "Only the teacher"),
        "student only": (losses(lambda z, y, t: kl(z / t, y)), "Only the student"),
        "labels too": (
            losses(usual, hard=lambda z, labels, t: F.cross_entropy(z / t, labels)),
            "labels are compared at the temperature",
        ),
        "cross-entropy": (
            losses(lambda z, y, t: F.cross_entropy(z / t, (y / t).softmax(1))),
            "never becomes 0",
        ),
        "mean of classes": (
            losses(lambda z, y, t: usual(z, y, t) / z.shape[1]),
            r"images \*and\* classes",
        ),
        "sum": (losses(lambda z, y, t: usual(z, y, t) * len(z)), "sum over the images"),
        "hard teacher": (
            losses(lambda z, y, t: F.cross_entropy(z / t, y.argmax(1))),
            "teacher's best class",
        ),
        "each image": (
            lambda z, y, labels, t, a: F.cross_entropy(z, labels, reduction="none"),
            "a loss for each image",
        ),
    },
}  # fmt: skip

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "12.1": ("base / seconds", "quantile(", ".min()", ".amin("),
    "12.2": (".std()", "after.float", "** 0.5"),
    "12.3": ("keepdim", ".round()", "clamp", "/ scale)", "amax"),
    "12.4": ("reshape(", "unflatten", "keepdim", "** (bits - 1) - 1", ".norm("),
    "12.5": (".abs().mean", "unflatten", "rearrange", "sum(dim"),
    "12.6": ("[:, keep]", "unflatten", "rearrange", ".reshape("),
    "12.7": ("/ (sizes", "torch.cat", "index", "* sizes"),
    "12.8": ("kl_div", "log_softmax", "batchmean", "temperature**2", "** 2"),
}

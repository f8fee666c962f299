"""Smaller and faster as learners make it: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# ---- 12.1 Ratios of times ------------------------------------------------------------------------


def speedup(seconds: Tensor, base: Tensor) -> Tensor:
    """The right three numbers: median, lowest and highest of the ratios, round by round."""
    ordered = (base / seconds).sort().values
    middle = len(ordered) // 2
    return torch.stack([ordered[[middle, -middle - 1]].mean(), ordered[0], ordered[-1]])


def _three(ratios: Tensor) -> Tensor:
    return torch.stack([ratios.quantile(0.5), ratios.min(), ratios.max()])


SPEEDUPS: dict[str, Callable] = {
    "This is upside down: twice as fast must be 2, and half the time gives 0.5 here.": (
        lambda s, b: _three(s / b)
    ),
    "You divide one median by another. Rounds belong together: what slowed down a round slowed "
    "down both of its calls. Divide first.": lambda s, b: torch.stack(
        [b.quantile(0.5) / s.quantile(0.5), (b / s).min(), (b / s).max()]
    ),
    "You compare the fastest with the slowest of different rounds: both numbers of a ratio come "
    "from one round.": lambda s, b: torch.stack(
        [(b / s).quantile(0.5), b.min() / s.max(), b.max() / s.min()]
    ),
    "The first number is the mean of the ratios. One slow moment moves a mean as far as it likes; "
    "the median stays.": lambda s, b: torch.stack([(b / s).mean(), (b / s).min(), (b / s).max()]),
    "You divide one mean by another: a single slow round decides it. Divide round by round, and "
    "take the median.": lambda s, b: torch.stack(
        [b.mean() / s.mean(), (b / s).min(), (b / s).max()]
    ),
    "With an even number of rounds two ratios are in the middle, and the median is their mean. "
    "(`torch.median` takes the lower one.)": lambda s, b: torch.stack(
        [(b / s).median(), (b / s).min(), (b / s).max()]
    ),
    "Lowest and highest are exchanged: median, lowest, highest.": (
        lambda s, b: _three(b / s)[[0, 2, 1]]
    ),
    "The order is median, lowest, highest.": lambda s, b: _three(b / s)[[1, 0, 2]],
}

# ---- 12.2 What a change costs --------------------------------------------------------------------


def change(before: Tensor, after: Tensor) -> Tensor:
    """The right three numbers, in percent: the difference and its 95% interval."""
    count = len(before)
    better = (after & ~before).sum().double()
    worse = (before & ~after).sum().double()
    middle = (better - worse) / count
    variance = ((better + worse) / count - middle**2) * count / (count - 1)
    reach = 1.96 * (variance / count).sqrt()
    return (100 * torch.stack([middle, middle - reach, middle + reach])).float()


def _apart(before: Tensor, after: Tensor) -> Tensor:
    p, q, n = before.double().mean(), after.double().mean(), len(before)
    reach = 1.96 * ((p * (1 - p) + q * (1 - q)) / n).sqrt()
    return (100 * torch.stack([q - p, q - p - reach, q - p + reach])).float()


def _reach(gaps: Tensor) -> Tensor:
    """The right reach of the interval of a mean of differences."""
    return 1.96 * gaps.std() / len(gaps) ** 0.5


def _paired(
    reach: Callable[[Tensor], Tensor], sign: int = 1, scale: float = 100
) -> Callable[[Tensor, Tensor], Tensor]:
    """Build an interval around the mean of the differences, with its own reach."""

    def interval(before: Tensor, after: Tensor) -> Tensor:
        gaps = sign * (after.double() - before.double())
        middle, width = gaps.mean(), reach(gaps)
        return (scale * torch.stack([middle, middle - width, middle + width])).float()

    return interval


CHANGES: dict[str, Callable] = {
    "The sign is turned round: what is lost must be below 0.": _paired(_reach, sign=-1),
    "You treat the two as if they had seen different images. Both have named the same ones: take "
    "the difference for each image, then the interval of its mean.": _apart,
    "This is how far single images lie from the mean. A mean of n is √n times as sure.": _paired(
        lambda gaps: 1.96 * gaps.std()
    ),
    "The deviation of the mean is the deviation of the differences / √n; you divide by n.": _paired(
        lambda gaps: 1.96 * gaps.std() / len(gaps)
    ),
    "This is one standard error to each side, which holds the truth in two cases of three. For "
    "95% it takes 1.96 of them.": _paired(lambda gaps: gaps.std() / len(gaps) ** 0.5),
    "You give shares; percent were asked for.": _paired(_reach, scale=1),
    "Images whose answer did not change have a difference of 0, and they count: you leave them "
    "out.": lambda b, a: _paired(_reach)(b[b != a], a[b != a]),
    "The deviation is taken of the answers after the change, not of the differences.": (
        lambda b, a: _paired(lambda gaps: 1.96 * a.double().std() / len(gaps) ** 0.5)(b, a)
    ),
    "The differences are taken without their sign: lost and won answers must cancel.": (
        lambda b, a: _paired(_reach)(torch.zeros_like(b), a != b)
    ),
    "`std` was divided by n instead of n - 1: for a sample it is n - 1.": _paired(
        lambda gaps: 1.96 * gaps.std(correction=0) / len(gaps) ** 0.5
    ),
}

# ---- 12.3 Whole numbers --------------------------------------------------------------------------


def _largest(values: Tensor) -> Tensor:
    return values.abs().amax(dim=1, keepdim=True)


def scales(values: Tensor) -> Tensor:
    """The right scales (rows, 1); 0 stands where a row is 0 and any scale will do."""
    return torch.linalg.vector_norm(values, math.inf, dim=1, keepdim=True) / 127


def integers(values: Tensor) -> Tensor:
    """The right whole numbers."""
    return _rounded(values, torch.round)


def _rounded(values: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    return rounding(values / scales(values).clamp(min=1e-30))


def _zero(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Give rows of zeros the 0 that stands for any scale."""

    def scale(values: Tensor) -> Tensor:
        scales = rule(values).expand(len(values), 1)
        return torch.where(_largest(values) > 0, scales, 0.0)

    return scale


SCALES: dict[str, Callable] = {
    "One scale for the whole table: a single large row then leaves the others a few steps each. "
    "Each row has its own.": _zero(lambda v: v.abs().max().reshape(1, 1) / 127),
    "The largest number of a row, not the largest *absolute* one: a number far below 0 then runs "
    "over.": _zero(lambda v: v.amax(dim=1, keepdim=True) / 127),
    "The scale is the largest / 128, and 128 does not fit into int8: it wraps round to -128.": (
        _zero(lambda v: _largest(v) / 128)
    ),
    "The scale is the largest / 255, and the whole numbers run over: 8 bits with a sign end at "
    "127.": _zero(lambda v: _largest(v) / 255),
    "The scale runs from the lowest to the highest number of a row. Ours is symmetric: 0 stays 0, "
    "and the scale is the largest absolute number / 127.": _zero(
        lambda v: (v.amax(1, keepdim=True) - v.amin(1, keepdim=True)) / 255
    ),
    "What you return as scale is 1 / scale: whole * scale must be near the values.": _zero(
        lambda v: 127 / _largest(v).clamp(min=1e-30)
    ),
    "These are the largest numbers. A scale is one step of 127.": _zero(_largest),
}
ROUNDINGS: dict[str, Callable] = {
    "The numbers are cut off, not rounded: that is twice the error.": (
        lambda v: _rounded(v, torch.trunc)
    ),
    "You round down (`floor`): the errors then all have one sign, and add up.": (
        lambda v: _rounded(v, torch.floor)
    ),
    "The signs are lost.": lambda v: _rounded(v, torch.round).abs(),
}

# ---- 12.4 Where the error comes from -------------------------------------------------------------


def rounding_error(weight: Tensor, bits: int, group: int) -> Tensor:
    """The right error of each row, relative to the row."""
    largest = 2 ** (bits - 1) - 1
    errors = []
    for row in weight:
        parts = [part * 1.0 for part in row.split(group)]
        scales = [max(part.abs().max().item(), 1e-30) / largest for part in parts]
        lost = [p - (p / s).round() * s for p, s in zip(parts, scales, strict=True)]
        errors.append(torch.cat(lost).square().sum().sqrt() / row.square().sum().sqrt())
    return torch.stack(errors)


def _error(
    largest: Callable[[int], float] = lambda bits: 2 ** (bits - 1) - 1,
    size: Callable[[Tensor, int], int] = lambda weight, group: group,
    measure: Callable[[Tensor, Tensor], Tensor] = lambda lost, w: lost.norm(dim=1) / w.norm(dim=1),
) -> Callable[[Tensor, int, int], Tensor]:
    """Build an error of exchangeable parts, right by default."""

    def error(weight: Tensor, bits: int, group: int) -> Tensor:
        wide = size(weight, group)
        parts = weight.reshape(len(weight), -1, wide)
        scale = parts.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / largest(bits)
        near = ((parts / scale).round() * scale).reshape(weight.shape)
        return measure(weight - near, weight)

    return error


def _across_rows(weight: Tensor, bits: int, group: int) -> Tensor:
    """Share a scale between numbers of different rows."""
    parts = weight.mT.reshape(-1, group)
    scale = parts.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / (2 ** (bits - 1) - 1)
    near = ((parts / scale).round() * scale).reshape(weight.mT.shape).mT
    return (weight - near).norm(dim=1) / weight.norm(dim=1)


ERRORS: dict[str, Callable] = {
    "The groups make no difference: you have one scale for a whole row.": _error(
        size=lambda weight, group: weight.shape[1]
    ),
    "You cut each row into `group` parts. A part has `group` numbers.": _error(
        size=lambda weight, group: weight.shape[1] // group
    ),
    "`bits` make no difference: the largest whole number is always 127.": _error(lambda bits: 127),
    "The largest whole number is 2 to the power of (bits - 1), minus 1: one bit is the sign.": (
        _error(lambda bits: 2**bits - 1)
    ),
    "The largest whole number is one too large: with 8 bits it is 127, not 128.": _error(
        lambda bits: 2 ** (bits - 1)
    ),
    "This is the error itself. Relative to the row means divided by the row's own length.": _error(
        measure=lambda lost, w: lost.norm(dim=1)
    ),
    "You divide number by number. Divide the length of the error by the length of the row.": (
        _error(
            measure=lambda lost, w: (lost / w.where(w != 0, torch.ones_like(w))).abs().mean(dim=1)
        )
    ),
    "These are squares: the roots are missing.": _error(
        measure=lambda lost, w: lost.square().sum(1) / w.square().sum(1)
    ),
    "One number for the whole table: one for each row was asked for.": _error(
        measure=lambda lost, w: (lost.norm() / w.norm()).expand(len(w))
    ),
    "This is the largest error of a row, relative to its largest number; asked for were lengths, "
    "the roots of sums of squares.": _error(
        measure=lambda lost, w: lost.abs().amax(dim=1) / w.abs().amax(dim=1)
    ),
    "The groups run across rows: a group is made of neighbours in one row.": _across_rows,
}

# ---- 12.5 Importance of heads --------------------------------------------------------------------


def importance(handed_on: Tensor, gradient: Tensor, num_heads: int) -> Tensor:
    """The right importance: one gate after the other."""
    wide = handed_on.shape[-1] // num_heads
    gates = []
    for head in range(num_heads):
        own = slice(head * wide, (head + 1) * wide)
        slopes = torch.einsum("btd,btd->b", handed_on[..., own], gradient[..., own])
        gates.append(slopes.abs().mean())
    return torch.stack(gates)


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

# ---- 12.6 Heads taken away -----------------------------------------------------------------------

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

    def cut(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
        r, c = rows(proj.shape[0], num_heads, keep), columns(proj.shape[0], num_heads, keep)
        return torch.cat([qkv[r].flatten(), bias[r], proj[:, c].flatten()])

    return cut


def _columns(dim: int, heads: int, keep: Kept) -> list[int]:
    wide = dim // heads
    return [head * wide + i for head in keep for i in range(wide)]


def _rows(dim: int, heads: int, keep: Kept) -> list[int]:
    return [part * dim + column for part in range(3) for column in _columns(dim, heads, keep)]


def _gone(heads: int, keep: Kept) -> list[int]:
    return [head for head in range(heads) if head not in keep]


def _rows_of_proj(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
    """Cut the rows of `proj`: the mistake of those who take it for a layer like the others."""
    columns = _columns(proj.shape[0], num_heads, keep)
    rows = _rows(proj.shape[0], num_heads, keep)
    return torch.cat([qkv[rows].flatten(), bias[rows], proj[columns].flatten()])


def _columns_of_qkv(qkv: Tensor, bias: Tensor, proj: Tensor, num_heads: int, keep: Kept) -> Tensor:
    """Cut the width that `qkv` reads, which all heads share."""
    columns = _columns(proj.shape[0], num_heads, keep)
    rows = _rows(proj.shape[0], num_heads, keep)
    return torch.cat([qkv[rows][:, columns].flatten(), bias[rows], proj[:, columns].flatten()])


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
        lambda d, h, k: [
            part * d + i * h + head for part in range(3) for head in k for i in range(d // h)
        ],
        lambda d, h, k: [i * h + head for head in k for i in range(d // h)],
    ),
    "The columns of `proj` do not follow: it must read the heads that are left, in their order.": (
        _cut(_rows, lambda d, h, k: list(range(len(k) * (d // h))))
    ),
    "You cut the rows of `proj`. Its columns read the heads; its rows are the width that goes back "
    "to the stream, and stay.": _rows_of_proj,
    "You cut the columns of `qkv`. All heads read the whole width; what a head makes are rows.": (
        _columns_of_qkv
    ),
}

# ---- 12.7 Tokens merged --------------------------------------------------------------------------


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

    def merged(tokens: Tensor, sizes: Tensor, a: int, b: int) -> Tensor:
        tokens, counts = tokens.clone(), sizes.clone()
        tokens[into(a, b)], counts[into(a, b)] = mean(tokens, sizes, a, b), size(sizes, a, b)
        stay = [i for i in range(len(tokens)) if i != leave(a, b)]
        return torch.cat([tokens[stay], counts[stay, None]], dim=1)

    return merged


def _weighted(x: Tensor, s: Tensor, a: int, b: int) -> Tensor:
    return (x[a] * s[a] + x[b] * s[b]) / (s[a] + s[b])


def _removed_first(tokens: Tensor, sizes: Tensor, a: int, b: int) -> Tensor:
    """Put the merged token where `b` was, in a table that is already one shorter."""
    stay = [i for i in range(len(tokens)) if i != a]
    tokens, counts = tokens.clone(), sizes.clone()
    new, both = _weighted(tokens, sizes, a, b), sizes[a] + sizes[b]
    tokens, counts = tokens[stay], counts[stay]
    index = min(b, len(stay) - 1)
    tokens[index], counts[index] = new, both
    return torch.cat([tokens, counts[:, None]], dim=1)


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
        _removed_first
    ),
}


# ---- 12.8 Learning from a teacher ----------------------------------------------------------------


def distilled(
    logits: Tensor, taught: Tensor, labels: Tensor, temperature: float, share: float
) -> Tensor:
    """The right loss, as sums of single images."""
    total = logits.new_zeros(())
    for student, teacher, label in zip(logits, taught, labels.tolist(), strict=True):
        p, q = (teacher / temperature).softmax(0), (student / temperature).log_softmax(0)
        soft = (p * ((teacher / temperature).log_softmax(0) - q)).sum()
        total = total + share * temperature**2 * soft
        total = total - (1 - share) * student.log_softmax(0)[label]
    return total / len(logits)


def _distilled(
    soft: Callable[[Tensor, Tensor, float], Tensor] = lambda z, y, t: _divergence(z / t, y / t),
    factor: Callable[[float], float] = lambda t: t**2,
    hard: Callable[[Tensor, Tensor, float], Tensor] = lambda z, labels, t: F.cross_entropy(
        z, labels
    ),
    shares: Callable[[float], tuple[float, float]] = lambda share: (share, 1 - share),
) -> Callable[..., Tensor]:
    """Build a loss of exchangeable parts, right by default."""

    def loss(z: Tensor, y: Tensor, labels: Tensor, t: float, share: float) -> Tensor:
        soft_share, hard_share = shares(share)
        return soft_share * factor(t) * soft(z, y, t) + hard_share * hard(z, labels, t)

    return loss


def _divergence(z: Tensor, y: Tensor) -> Tensor:
    """KL(softmax(y) || softmax(z)), a mean over images."""
    return F.kl_div(z.log_softmax(-1), y.log_softmax(-1), reduction="batchmean", log_target=True)


DISTILLED: dict[str, Callable] = {
    "The temperature squared is missing: dividing the logits by T makes the gradients T² times as "
    "small.": _distilled(factor=lambda t: 1),
    "The factor is T; it takes T squared.": _distilled(factor=lambda t: t),
    "The share is exchanged: it belongs to what the teacher says.": _distilled(
        shares=lambda share: (1 - share, share)
    ),
    "Teacher and student are exchanged: the divergence is weighted with the shares of the "
    "teacher.": _distilled(soft=lambda z, y, t: _divergence(y / t, z / t)),
    "The temperature multiplies. It divides the logits: a higher one makes softer targets.": (
        _distilled(soft=lambda z, y, t: _divergence(z * t, y * t))
    ),
    "Only the teacher is softened: both are compared at the same temperature.": _distilled(
        soft=lambda z, y, t: _divergence(z, y / t)
    ),
    "Only the student is softened: both are compared at the same temperature.": _distilled(
        soft=lambda z, y, t: _divergence(z / t, y)
    ),
    "The labels are compared at the temperature, too: there it is 1, as in any training.": (
        _distilled(hard=lambda z, labels, t: F.cross_entropy(z / t, labels))
    ),
    "This is the cross-entropy with the teacher's shares. It never becomes 0, not even for a "
    "student that says the same: the teacher's own entropy is in it.": _distilled(
        soft=lambda z, y, t: F.cross_entropy(z / t, (y / t).softmax(-1))
    ),
    "The divergence is a mean over images *and* classes: it is C times too small. Sum over the "
    "classes.": _distilled(soft=lambda z, y, t: _divergence(z / t, y / t) / z.shape[-1]),
    "The divergence is a sum over the images: the mean was asked for.": _distilled(
        soft=lambda z, y, t: len(z) * _divergence(z / t, y / t)
    ),
    "The shares are not weighted: the divergence and the cross-entropy are just added.": _distilled(
        shares=lambda share: (1, 1)
    ),
    "This takes the teacher's best class for the label: all else that it knows is lost.": (
        _distilled(
            soft=lambda z, y, t: F.cross_entropy(z / t, y.argmax(-1)),
        )
    ),
}

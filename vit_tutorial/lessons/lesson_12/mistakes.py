"""Smaller and faster as learners make it: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# ---- Ratios of times -----------------------------------------------------------------------------


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

# ---- What a change costs -------------------------------------------------------------------------


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


def _paired(
    reach: Callable[[Tensor], Tensor], sign: int = 1, scale: float = 100
) -> Callable[[Tensor, Tensor], Tensor]:
    """Build an interval around the mean of the differences, with its own reach."""

    def made(before: Tensor, after: Tensor) -> Tensor:
        each = sign * (after.double() - before.double())
        middle, far = each.mean(), reach(each)
        return (scale * torch.stack([middle, middle - far, middle + far])).float()

    return made


CHANGES: dict[str, Callable] = {
    "The sign is turned round: what is lost must be below 0.": _paired(
        lambda each: 1.96 * each.std() / len(each) ** 0.5, sign=-1
    ),
    "You treat the two as if they had seen different images. Both have named the same ones: take "
    "the difference for each image, then the interval of its mean.": _apart,
    "This is how far single images lie from the mean. A mean of n is √n times as sure.": _paired(
        lambda each: 1.96 * each.std()
    ),
    "The deviation of the mean is the deviation of the differences / √n; you divide by n.": _paired(
        lambda each: 1.96 * each.std() / len(each)
    ),
    "This is one standard error to each side, which holds the truth in two cases of three. For "
    "95% it takes 1.96 of them.": _paired(lambda each: each.std() / len(each) ** 0.5),
    "You give shares; percent were asked for.": _paired(
        lambda each: 1.96 * each.std() / len(each) ** 0.5, scale=1
    ),
    "Images whose answer did not change have a difference of 0, and they count: you leave them "
    "out.": lambda b, a: _paired(lambda each: 1.96 * each.std() / len(each) ** 0.5)(
        b[b != a], a[b != a]
    ),
    "The deviation is taken of the answers after the change, not of the differences.": (
        lambda b, a: _paired(lambda each: 1.96 * a.double().std() / len(each) ** 0.5)(b, a)
    ),
    "The differences are taken without their sign: lost and won answers must cancel.": (
        lambda b, a: _paired(lambda each: 1.96 * each.std() / len(each) ** 0.5)(
            torch.zeros_like(b), a != b
        )
    ),
    "`std` was divided by n instead of n - 1: for a sample it is n - 1.": _paired(
        lambda each: 1.96 * each.std(correction=0) / len(each) ** 0.5
    ),
}

# ---- Whole numbers -------------------------------------------------------------------------------


def _largest(values: Tensor) -> Tensor:
    return values.abs().amax(dim=1, keepdim=True)


def scales(values: Tensor) -> Tensor:
    """The right scales (rows, 1); 0 stands where a row is 0 and any scale will do."""
    return torch.linalg.vector_norm(values, math.inf, dim=1, keepdim=True) / 127


def whole_numbers(values: Tensor) -> Tensor:
    """The right whole numbers."""
    return _rounded(values, torch.round)


def _rounded(values: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    return rounding(values / scales(values).clamp(min=1e-30))


def _zero(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Give rows of zeros the 0 that stands for any scale."""

    def made(values: Tensor) -> Tensor:
        found = rule(values).expand(len(values), 1)
        return torch.where(_largest(values) > 0, found, 0.0)

    return made


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

# ---- Where the error comes from ------------------------------------------------------------------


def rounding_error(weight: Tensor, bits: int, group: int) -> Tensor:
    """The right error of each row, relative to the row."""
    largest = 2 ** (bits - 1) - 1
    errors = []
    for row in weight:
        parts = [part * 1.0 for part in row.split(group)]
        scales = [max(part.abs().max().item(), 1e-30) / largest for part in parts]
        off = [p - (p / s).round() * s for p, s in zip(parts, scales, strict=True)]
        errors.append(torch.cat(off).square().sum().sqrt() / row.square().sum().sqrt())
    return torch.stack(errors)


def _error(
    largest: Callable[[int], float] = lambda bits: 2 ** (bits - 1) - 1,
    size: Callable[[Tensor, int], int] = lambda weight, group: group,
    measure: Callable[[Tensor, Tensor], Tensor] = lambda off, w: off.norm(dim=1) / w.norm(dim=1),
) -> Callable[[Tensor, int, int], Tensor]:
    """Build an error of exchangeable parts, right by default."""

    def made(weight: Tensor, bits: int, group: int) -> Tensor:
        wide = size(weight, group)
        parts = weight.reshape(len(weight), -1, wide)
        scale = parts.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / largest(bits)
        near = ((parts / scale).round() * scale).reshape(weight.shape)
        return measure(weight - near, weight)

    return made


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
        measure=lambda off, w: off.norm(dim=1)
    ),
    "You divide number by number. Divide the length of the error by the length of the row.": (
        _error(measure=lambda off, w: (off / w.where(w != 0, torch.ones_like(w))).abs().mean(dim=1))
    ),
    "These are squares: the roots are missing.": _error(
        measure=lambda off, w: off.square().sum(1) / w.square().sum(1)
    ),
    "One number for the whole table: one for each row was asked for.": _error(
        measure=lambda off, w: (off.norm() / w.norm()).expand(len(w))
    ),
    "This is the largest error of a row, relative to its largest number; asked for were lengths, "
    "the roots of sums of squares.": _error(
        measure=lambda off, w: off.abs().amax(dim=1) / w.abs().amax(dim=1)
    ),
    "The groups run across rows: a group is made of neighbours in one row.": _across_rows,
}

# ---- Learning from a teacher ---------------------------------------------------------------------


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

    def made(z: Tensor, y: Tensor, labels: Tensor, t: float, share: float) -> Tensor:
        ours, theirs = shares(share)
        return ours * factor(t) * soft(z, y, t) + theirs * hard(z, labels, t)

    return made


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
    "Teacher and student are exchanged: the divergence is weighted with the shares of the teacher.": (  # noqa: E501
        _distilled(soft=lambda z, y, t: _divergence(y / t, z / t))
    ),
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

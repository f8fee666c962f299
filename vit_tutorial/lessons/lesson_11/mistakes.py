"""Transfer as learners write it: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# ---- The nearest mean ----------------------------------------------------------------------------


def _sums_and_counts(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the features of each class: (C, D), and count its examples: (C, 1)."""
    member = torch.nn.functional.one_hot(labels).to(features)  # (n, C)
    return member.T @ features, member.sum(dim=0)[:, None]


def _to_each(queries: Tensor, points: Tensor) -> Tensor:
    """Squared distances, (m, D) and (k, D) -> (m, k), in double precision and without products."""
    return (queries.double()[:, None] - points.double()).square().sum(dim=-1)


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """The mean of each class, (C, D), in double precision."""
    sums, counts = _sums_and_counts(features.double(), labels)
    return sums / counts


def nearest_mean(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """The right classes."""
    return _to_each(queries, class_means(features, labels)).min(dim=1).indices


def _by(score: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Name the class whose mean has the highest score."""
    return lambda f, y, q: score(q.double(), class_means(f, y)).argmax(dim=1)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _standardised(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    mean, std = features.mean(dim=0), features.std(dim=0)
    return nearest_mean((features - mean) / std, labels, (queries - mean) / std)


NEAREST: dict[str, Callable] = {
    "The largest product favours a class whose mean is long, even where another mean is nearer; "
    "what is asked for is the smallest distance.": _by(lambda q, means: q @ means.T),
    "These are angles (cosines): lengths are lost. What is asked for is the straight-line "
    "distance.": _by(lambda q, means: _unit(q) @ _unit(means).T),
    "This is the class that is farthest away: the smallest distance is wanted.": _by(_to_each),
    "The features of a class are added up, but not divided by how many there are.": (
        lambda f, y, q: _to_each(q, _sums_and_counts(f.double(), y)[0]).argmin(dim=1)
    ),
    "This is the class of the nearest single example. Take the mean of each class first.": (
        lambda f, y, q: y[_to_each(q, f).argmin(dim=1)]
    ),
    "Each class's sum is divided by the number of all examples: divide by those of the class.": (
        lambda f, y, q: _to_each(q, _sums_and_counts(f.double(), y)[0] / len(y)).argmin(dim=1)
    ),
    "You add up differences axis by axis. The straight-line distance squares them first.": _by(
        lambda q, means: -(q[:, None] - means).abs().sum(dim=-1)
    ),
    "You take the largest difference of all axes. The straight-line distance adds up their "
    "squares.": _by(lambda q, means: -(q[:, None] - means).abs().amax(dim=-1)),
    "This is the mean of the distances to the examples of a class, and not the distance to their "
    "mean.": lambda f, y, q: (lambda sums, counts: (sums / counts).T)(
        *_sums_and_counts(_to_each(q, f).sqrt().T.contiguous(), y)
    ).argmin(dim=1),
    "The signs get lost: differences that point in opposite ways cancel. Square them before they "
    "are added up.": _by(lambda q, means: -(q[:, None] - means).sum(dim=-1).abs()),
    "You take the median of each class, and not the mean.": (
        lambda f, y, q: _to_each(
            q, torch.stack([f[y == c].median(dim=0).values for c in range(int(y.max()) + 1)])
        ).argmin(dim=1)
    ),
    "Features are standardised before they are compared: that is another distance.": _standardised,
    "The classes are counted from 1; labels begin at 0.": (
        lambda f, y, q: nearest_mean(f, y, q) + 1
    ),
}

# ---- Folding a standardisation -------------------------------------------------------------------


def folded(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """The right layer, in double precision on the way."""
    wide, b = weight.double(), bias.double()
    new = wide @ torch.diag(1 / std.double())
    return new.to(weight), (b - (new * mean.double()).sum(dim=1)).to(bias)


def _joined(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """Make one tensor of a weight and a bias: (rows, columns + 1)."""

    def joined(*arguments: Tensor) -> Tensor:
        weight, bias = function(*arguments)
        return torch.cat([weight.flatten(1), bias[:, None]], dim=1)

    return joined


FOLDED: dict[str, Callable] = {
    what: _joined(function)
    for what, function in {
        "The bias has not changed: where a feature is 0, the old layer saw −μ / σ.": (
            lambda w, b, m, s: (w / s, b)
        ),
        "The weight has not changed: each column must be divided by its deviation.": (
            lambda w, b, m, s: (w, b - (w / s) @ m)
        ),
        "The mean has to be divided by σ, too, before it goes into the bias: use the *new* weight "
        "for the shift.": lambda w, b, m, s: (w / s, b - w @ m),
        "The sign of the shift is turned round: the mean is subtracted from the features.": (
            lambda w, b, m, s: (w / s, b + (w / s) @ m)
        ),
        "You multiply by σ. Features are divided by it, so the weight must be, too.": (
            lambda w, b, m, s: (w * s, b - (w * s) @ m)
        ),
        "The weight is multiplied by σ, and the mean divided by it: both must be divided.": (
            lambda w, b, m, s: (w * s, b - (w / s) @ m)
        ),
        "Each *row* is divided by a deviation. A deviation belongs to a feature, a column.": (
            lambda w, b, m, s: (w / s[:, None], b - (w / s[:, None]) @ m)
        ),
        "The bias is divided by something, too: only the weight and the mean are.": (
            lambda w, b, m, s: (w / s, (b - (w / s) @ m) / s.mean())
        ),
        "You divide by the variance, σ². Standardising divides by σ.": (
            lambda w, b, m, s: (w / s**2, b - (w / s**2) @ m)
        ),
        "The mean is not weighted: every class gets the same shift.": (
            lambda w, b, m, s: (w / s, b - (m / s).sum())
        ),
        "The weight is right, but the shift replaces the bias: the old one must stay in it.": (
            lambda w, b, m, s: (w / s, -(w / s) @ m)
        ),
        "A small number is added to σ. It is above 0, so nothing can be divided by zero, and every "
        "number is a little wrong.": (
            lambda w, b, m, s: (w / (s + 1e-3), b - (w / (s + 1e-3)) @ m)
        ),
    }.items()
}

# ---- Another normalisation -----------------------------------------------------------------------


def renormalised(
    weight: Tensor,
    bias: Tensor,
    old_mean: Tensor,
    old_std: Tensor,
    new_mean: Tensor,
    new_std: Tensor,
) -> tuple[Tensor, Tensor]:
    """The right projection: solved for raw pixels first, then for the new way."""
    w, b, old_m, old_s, new_m, new_s = (
        t.double() for t in (weight, bias, old_mean, old_std, new_mean, new_std)
    )
    raw = torch.einsum("dcpq,c->dcpq", w, 1 / old_s)
    raw_bias = b - torch.einsum("dcpq,c->d", raw, old_m)
    new = torch.einsum("dcpq,c->dcpq", raw, new_s)
    return new.to(weight), (raw_bias + torch.einsum("dcpq,c->d", raw, new_m)).to(bias)


def _axis(x: Tensor) -> Tensor:
    return x[:, None, None]


def _total(weight: Tensor, shift: Tensor) -> Tensor:
    """Sum weights times a shift for each channel: (D, C, P, P) and (C,) -> (D,)."""
    return (weight * _axis(shift)).sum(dim=(1, 2, 3))


RENORMALISED: dict[str, Callable] = {
    what: _joined(function)
    for what, function in {
        "The ratio of the deviations is upside down: z is multiplied by the *new* one, to get the "
        "pixel back.": lambda w, b, om, os, nm, ns: (
            w * _axis(os / ns),
            b + _total(w, (nm - om) / os),
        ),
        "The sign of the shift is turned round: it is the new mean minus the old one.": (
            lambda w, b, om, os, nm, ns: (w * _axis(ns / os), b - _total(w, (nm - om) / os))
        ),
        "The shift is divided by the new deviation. x, which the weights expect, is in units of "
        "the old one.": lambda w, b, om, os, nm, ns: (
            w * _axis(ns / os),
            b + _total(w, (nm - om) / ns),
        ),
        "The shift is multiplied by the *new* weight. In the formula it stands beside z, not "
        "inside its factor.": lambda w, b, om, os, nm, ns: (
            w * _axis(ns / os),
            b + _total(w * _axis(ns / os), (nm - om) / os),
        ),
        "Old and new are exchanged: this turns a network for the new way into one for the old.": (
            lambda w, b, om, os, nm, ns: renormalised(w, b, nm, ns, om, os)
        ),
        "The bias has not changed.": lambda w, b, om, os, nm, ns: (w * _axis(ns / os), b),
        "The weight has not changed.": lambda w, b, om, os, nm, ns: (
            w,
            b + _total(w, (nm - om) / os),
        ),
        "The shift is not divided by the old deviation.": lambda w, b, om, os, nm, ns: (
            w * _axis(ns / os),
            b + _total(w, nm - om),
        ),
        "The ratio of the channels is laid along the columns of the patch: give it its axis, the "
        "one of the channels.": lambda w, b, om, os, nm, ns: (
            w * (ns / os),
            b + _total(w, (nm - om) / os),
        ),
        "The shift is laid along the columns of the patch: give it its axis, the one of the "
        "channels.": lambda w, b, om, os, nm, ns: (
            w * _axis(ns / os),
            b + (w * ((nm - om) / os)).sum(dim=(1, 2, 3)),
        ),
        "Ratio and shift are laid along the columns of the patch: give them their axis, the one "
        "of the channels.": lambda w, b, om, os, nm, ns: (
            w * (ns / os),
            b + (w * ((nm - om) / os)).sum(dim=(1, 2, 3)),
        ),
        "The shift counts once for each channel. It is added to every *pixel*, so all weights of "
        "the channel count: their sum, not their mean.": lambda w, b, om, os, nm, ns: (
            w * _axis(ns / os),
            b + (w * _axis((nm - om) / os)).mean(dim=(2, 3)).sum(dim=1),
        ),
        "One ratio for all channels: each has its own.": lambda w, b, om, os, nm, ns: (
            w * (ns / os).mean(),
            b + _total(w, (nm - om) / os),
        ),
        "The shift is added to the bias as it is, without the weights: a token is a weighted sum "
        "of the pixels.": lambda w, b, om, os, nm, ns: (
            w * _axis(ns / os),
            b + ((nm - om) / os).sum(),
        ),
    }.items()
}

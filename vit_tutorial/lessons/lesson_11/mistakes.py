"""Transfer as learners write it: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# ---- 11.1 The nearest mean -----------------------------------------------------------------------


def _sums_and_counts(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the features of each class: (K, D), and count its examples: (K, 1)."""
    member = torch.nn.functional.one_hot(labels).to(features)  # (n, K)
    return member.T @ features, member.sum(dim=0)[:, None]


def _to_each(queries: Tensor, points: Tensor) -> Tensor:
    """Squared distances, (m, D) and (k, D) -> (m, k), in double precision and without products."""
    return (queries.double()[:, None] - points.double()).square().sum(dim=-1)


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """The mean of each class, (K, D), in double precision."""
    sums, counts = _sums_and_counts(features.double(), labels)
    return sums / counts


def nearest_mean(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """The right classes."""
    return _to_each(queries, class_means(features, labels)).min(dim=1).indices


def _by(score: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """Choose the class whose mean has the highest score."""
    return lambda f, y, q: score(q.double(), class_means(f, y)).argmax(dim=1)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _standardised(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    mean, std = features.mean(dim=0), features.std(dim=0)
    return nearest_mean((features - mean) / std, labels, (queries - mean) / std)


def _mean_of_distances(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    distances = _to_each(queries, features).sqrt()  # (m, n)
    return class_means(distances.T, labels).argmin(dim=0)


def _nearest_median(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    classes = range(int(labels.max()) + 1)
    medians = torch.stack([features[labels == c].median(dim=0).values for c in classes])
    return _to_each(queries, medians).argmin(dim=1)


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
    "mean.": _mean_of_distances,
    "The signs get lost: differences that point in opposite ways cancel. Square them before they "
    "are added up.": _by(lambda q, means: -(q[:, None] - means).sum(dim=-1).abs()),
    "You take the median of each class, and not the mean.": _nearest_median,
    "Features are standardised before they are compared: that is another distance.": _standardised,
    "The classes are counted from 1; labels begin at 0.": (
        lambda f, y, q: nearest_mean(f, y, q) + 1
    ),
}

# ---- 11.2 Folding a standardisation --------------------------------------------------------------


def folded(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """The right layer, in double precision on the way."""
    wide, b = weight.double(), bias.double()
    new = wide @ torch.diag(1 / std.double())
    return new.to(weight), (b - (new * mean.double()).sum(dim=1)).to(bias)


def joined(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """Make one tensor of a weight and a bias: (rows, columns + 1)."""

    def layer(*arguments: Tensor) -> Tensor:
        weight, bias = function(*arguments)
        return torch.cat([weight.flatten(1), bias[:, None]], dim=1)

    return layer


FOLDED: dict[str, Callable] = {
    cause: joined(function)
    for cause, function in {
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

# ---- 11.3 Another normalisation ------------------------------------------------------------------


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
    cause: joined(function)
    for cause, function in {
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

# ---- 11.4 A rate for each layer ------------------------------------------------------------------


def layer_rates(names: list[str], depth: int, rate: float, decay: float) -> dict[str, float]:
    """The right rates: a power of the decay for the layers above."""
    return {name: rate * decay ** (depth + 1 - level_of(name, depth)) for name in names}


def level_of(name: str, depth: int) -> int:
    """0 for what comes before the blocks, i + 1 for block i, depth + 1 for what comes after."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return depth + 1 if parts[0] in ("norm", "head") else 0


def as_tensor(rates: dict[str, float], names: list[str]) -> Tensor:
    """Lay rates out in the order of the names."""
    return torch.tensor([float(rates[name]) for name in names], dtype=torch.float64)


def _from(level: Callable[[str, int], int], power: Callable[[int, int], float]) -> Callable:
    return lambda names, depth, rate, decay: as_tensor(
        {name: rate * decay ** power(level(name, depth), depth) for name in names}, names
    )


def _usual(level: int, depth: int) -> int:
    return depth + 1 - level


def _final_norm_below(name: str, depth: int) -> int:
    return 0 if name.startswith("norm") else level_of(name, depth)


def _one_digit(name: str, depth: int) -> int:
    return int(name[7]) + 1 if name.startswith("blocks.") else level_of(name, depth)


def _norms_on_top(name: str, depth: int) -> int:
    return depth + 1 if "norm" in name else level_of(name, depth)


def _tables_on_top(name: str, depth: int) -> int:
    return depth + 1 if name in ("cls_token", "pos_embed") else level_of(name, depth)


RATES: dict[str, Callable] = {
    "The order is turned round: the head learns fastest, and the patch projection most slowly.": (
        _from(level_of, lambda level, depth: level)
    ),
    "You are one power off: the last block learns at η · d, and only what comes after it at η.": (
        _from(level_of, lambda level, depth: max(depth - level, 0))
    ),
    "CLS, positions and patch projection learn at the rate of block 0: they lie one layer below "
    "it.": _from(lambda name, depth: max(level_of(name, depth), 1), _usual),
    "The final norm is treated like what comes before the blocks. It comes after them.": _from(
        _final_norm_below, _usual
    ),
    "Of the number of a block only one digit is read: block 11 is not block 1.": _from(
        _one_digit, _usual
    ),
    'Every name with "norm" in it gets the highest rate: the norms inside a block belong to the '
    "block.": _from(_norms_on_top, _usual),
    "CLS and positions get the highest rate: they come before the blocks.": _from(
        _tables_on_top, _usual
    ),
    "The head decays, too: it learns at η.": _from(
        level_of, lambda level, depth: depth + 2 - level
    ),
    "Rates fall in equal steps. With a decay, each is a *share* of the one above: a power.": (
        lambda names, depth, rate, decay: as_tensor(
            {n: rate * (1 - (1 - decay) * (depth + 1 - level_of(n, depth))) for n in names}, names
        )
    ),
    "All layers learn at one rate.": _from(level_of, lambda level, depth: 0),
    "The blocks all learn at one rate.": _from(
        lambda name, depth: depth if name.startswith("blocks") else level_of(name, depth), _usual
    ),
    "These are the shares: the rate η is missing.": (
        lambda names, depth, rate, decay: as_tensor(
            {n: decay ** (depth + 1 - level_of(n, depth)) for n in names}, names
        )
    ),
    "Rates rise: the decay is divided by.": _from(level_of, lambda level, depth: level - depth - 1),
}

# ---- 11.5 A test loop ----------------------------------------------------------------------------


def measured(loss: float, predictions: Tensor, labels: Tensor) -> Tensor:
    """Lay a result out in one row: the loss, the predictions, the labels."""
    return torch.cat([torch.tensor([loss]), predictions.float(), labels.float()])


def _outputs(model: Callable, batches: list[dict[str, Tensor]]) -> list[tuple[Tensor, ...]]:
    """For each batch its loss (1,), its logits and its labels."""
    with torch.no_grad():
        outputs = [model(**batch) for batch in batches]
    return [
        (output.loss.reshape(1), output.logits, batch["labels"])
        for output, batch in zip(outputs, batches, strict=True)
    ]


def test_loop(model: Callable, batches: list[dict[str, Tensor]]) -> Tensor:
    """The right result."""
    losses, logits, labels = map(torch.cat, zip(*_outputs(model, batches), strict=True))
    sizes = torch.tensor([len(batch["labels"]) for batch in batches])
    return measured(float((losses * sizes).sum() / sizes.sum()), logits.argmax(1), labels)


def _changed(change: Callable[[list], tuple[float, Tensor, Tensor]]) -> Callable:
    return lambda model, batches: measured(*change(_outputs(model, batches)))


def _weighted(parts: list) -> float:
    return sum(float(loss) * len(y) for loss, _, y in parts) / sum(len(y) for *_, y in parts)


def _predicted(parts: list) -> Tensor:
    return torch.cat([logits.argmax(1) for _, logits, _ in parts])


def _true(parts: list) -> Tensor:
    return torch.cat([y for *_, y in parts])


LOOPS: dict[str, Callable] = {
    "The loss is the mean of the batches' means. A batch counts as often as it has images.": (
        _changed(lambda p: (sum(float(loss) for loss, *_ in p) / len(p), _predicted(p), _true(p)))
    ),
    "The predictions stand where the true classes belong as well: nothing would be measured.": (
        _changed(lambda p: (_weighted(p), _predicted(p), _predicted(p)))
    ),
    "The true classes stand where the predictions belong as well: everything would be right.": (
        _changed(lambda p: (_weighted(p), _true(p), _true(p)))
    ),
    "Predictions and true classes are exchanged: predictions come first.": _changed(
        lambda p: (_weighted(p), _true(p), _predicted(p))
    ),
    "The loss is a sum over the batches: divide by the number of images.": _changed(
        lambda p: (sum(float(loss) for loss, *_ in p), _predicted(p), _true(p))
    ),
    "The loss is the sum over all images: divide by their number.": _changed(
        lambda p: (_weighted(p) * len(_true(p)), _predicted(p), _true(p))
    ),
    "This is the loss of the last batch alone.": _changed(
        lambda p: (float(p[-1][0]), _predicted(p), _true(p))
    ),
    "These are the classes with the *lowest* logits.": _changed(
        lambda p: (_weighted(p), torch.cat([z.argmin(1) for _, z, _ in p]), _true(p))
    ),
    "The loss counts every batch by the size of the first one, and the last batch is smaller.": (
        _changed(
            lambda p: (
                sum(float(loss) * len(p[0][2]) for loss, *_ in p) / len(_true(p)),
                _predicted(p),
                _true(p),
            )
        )
    ),
}

# ---- 11.6 Mean IoU -------------------------------------------------------------------------------


def _table(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each true class (a row) were called each (a column); 255 left out."""
    kept = true != 255
    pairs = true[kept] * num_classes + predicted[kept]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes).double()


def _mean_of(
    share: Callable[[Tensor, Tensor, Tensor], Tensor],
    absent: Callable[[Tensor], Tensor] = lambda values: values.nanmean(),
    table: Callable[[Tensor, Tensor, int], Tensor] = _table,
) -> Callable:
    """Build a mean over classes of a share of (both, true, called), NaN where nothing is."""

    def mean(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
        counts = table(predicted, true, num_classes)
        return absent(share(counts.diagonal(), counts.sum(1), counts.sum(0))).float()

    return mean


def _iou(both: Tensor, true: Tensor, called: Tensor) -> Tensor:
    return both / (true + called - both)


mean_iou = _mean_of(_iou)


def _ignored_counts(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """Pixels without a label count as wrong: they make the union larger."""
    ious = [
        ((predicted == c) & (true == c)).sum() / ((predicted == c) | (true == c)).sum()
        for c in range(num_classes)
    ]
    return torch.stack(ious).nanmean()


def _each_image(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    pairs = zip(predicted, true, strict=True)
    return torch.stack([mean_iou(p, t, num_classes) for p, t in pairs]).nanmean()


def _each_image_each_class(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    ious = []
    for p, t in zip(predicted, true, strict=True):
        table = _table(p, t, num_classes)
        ious.append(_iou(table.diagonal(), table.sum(1), table.sum(0)))
    return torch.stack(ious).nanmean(dim=0).nanmean().float()


def _right_pixels(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    kept = true != 255
    return (predicted == true)[kept].float().mean()


IOUS: dict[str, Callable] = {
    "This is the share of pixels that are classified correctly. IoU is asked of each class.": (
        _right_pixels
    ),
    "A class that is in neither map counts as 0: leave it out of the mean.": _mean_of(
        _iou, lambda values: values.nan_to_num(0).mean()
    ),
    "A class that is in neither map counts as 1: leave it out of the mean.": _mean_of(
        _iou, lambda values: values.nan_to_num(1).mean()
    ),
    "NaN: a class that is in neither map has a union of 0. Leave it out of the mean.": _mean_of(
        _iou, lambda values: values.mean()
    ),
    "A class that was called somewhere but is nowhere true is left out. It occurs in one of the "
    "maps, so it counts, with 0.": _mean_of(
        lambda both, true, called: torch.where(true > 0, _iou(both, true, called), torch.nan)
    ),
    "A class that is true somewhere but was never called is left out. It occurs in one of the "
    "maps, so it counts, with 0.": _mean_of(
        lambda both, true, called: torch.where(called > 0, _iou(both, true, called), torch.nan)
    ),
    "Pixels marked 255 count: what was predicted there makes the union larger.": _ignored_counts,
    "This is the mean over images of each image's mean IoU: count over all images together, then "
    "divide.": _each_image,
    "Each class has the mean of its IoU in each image: count over all images together, then "
    "divide.": _each_image_each_class,
    "You divide by the pixels that *are* the class (its recall). Those that were only called so "
    "belong to the union, too.": _mean_of(lambda both, true, called: both / true),
    "You divide by the pixels that were *called* the class (its precision). Those that are it and "
    "were missed belong to the union, too.": _mean_of(lambda both, true, called: both / called),
    "You divide by the sum of both areas. Pixels in both maps are then counted twice: take the "
    "intersection off once.": _mean_of(lambda both, true, called: both / (true + called)),
    "This is twice the intersection over the sum of both areas (Dice, or F1): another measure.": (
        _mean_of(lambda both, true, called: 2 * both / (true + called))
    ),
    "Class 0 is left out: the background is a class as well.": _mean_of(
        _iou, lambda values: values[1:].nanmean()
    ),
    "All intersections are divided by all unions. Divide class by class, then take the mean.": (
        _mean_of(lambda both, true, called: both.sum() / (true + called - both).sum())
    ),
}

"""Rates, loops and maps of classes as learners write them: what is right, and what goes wrong.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# ---- A rate for each layer -----------------------------------------------------------------------


def layer_rates(names: list[str], depth: int, rate: float, decay: float) -> dict[str, float]:
    """The right rates, from the bottom up: each layer's number times the decay on top of it."""
    return _rates(lambda level: depth + 1 - level, depth)(names, depth, rate, decay)


def level_of(name: str, depth: int) -> int:
    """0 for what comes before the blocks, i + 1 for block i, depth + 1 for what comes after."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return depth + 1 if parts[0] in ("norm", "head") else 0


def _rates(power: Callable[[int], int], depth: int, level: Callable = level_of) -> Callable:
    def rates(names: list[str], depth: int, rate: float, decay: float) -> dict[str, float]:
        return {name: rate * decay ** power(level(name, depth)) for name in names}

    return rates


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
        lambda name, depth: level_of(name, depth), lambda level, depth: depth + 2 - level
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

# ---- A test loop ---------------------------------------------------------------------------------


def measured(loss: float, predictions: Tensor, labels: Tensor) -> Tensor:
    """Lay a result out in one row: the loss, the predictions, the labels."""
    return torch.cat([torch.tensor([loss]), predictions.float(), labels.float()])


def _asked(model: Callable, batches: list[dict[str, Tensor]]) -> list[tuple[Tensor, ...]]:
    """For each batch its loss (1,), its logits and its labels."""
    with torch.no_grad():
        outputs = [model(**batch) for batch in batches]
    return [
        (output.loss.reshape(1), output.logits, batch["labels"])
        for output, batch in zip(outputs, batches, strict=True)
    ]


def test_loop(model: Callable, batches: list[dict[str, Tensor]]) -> Tensor:
    """The right result."""
    losses, logits, labels = map(torch.cat, zip(*_asked(model, batches), strict=True))
    sizes = torch.tensor([len(batch["labels"]) for batch in batches])
    return measured(float((losses * sizes).sum() / sizes.sum()), logits.argmax(1), labels)


def _changed(change: Callable[[list], tuple[float, Tensor, Tensor]]) -> Callable:
    return lambda model, batches: measured(*change(_asked(model, batches)))


def _weighted(parts: list) -> float:
    return sum(float(loss) * len(y) for loss, _, y in parts) / sum(len(y) for *_, y in parts)


def _named(parts: list) -> Tensor:
    return torch.cat([logits.argmax(1) for _, logits, _ in parts])


def _true(parts: list) -> Tensor:
    return torch.cat([y for *_, y in parts])


LOOPS: dict[str, Callable] = {
    "The loss is the mean of the batches' means. A batch counts as often as it has images.": (
        _changed(lambda p: (sum(float(loss) for loss, *_ in p) / len(p), _named(p), _true(p)))
    ),
    "The predictions stand where the true classes belong as well: nothing would be measured.": (
        _changed(lambda p: (_weighted(p), _named(p), _named(p)))
    ),
    "The true classes stand where the predictions belong as well: everything would be right.": (
        _changed(lambda p: (_weighted(p), _true(p), _true(p)))
    ),
    "Predictions and true classes are exchanged: predictions come first.": _changed(
        lambda p: (_weighted(p), _true(p), _named(p))
    ),
    "The loss is a sum over the batches: divide by the number of images.": _changed(
        lambda p: (sum(float(loss) for loss, *_ in p), _named(p), _true(p))
    ),
    "The loss is the sum over all images: divide by their number.": _changed(
        lambda p: (_weighted(p) * len(_true(p)), _named(p), _true(p))
    ),
    "This is the loss of the last batch alone.": _changed(
        lambda p: (float(p[-1][0]), _named(p), _true(p))
    ),
    "These are the classes with the *lowest* logits.": _changed(
        lambda p: (_weighted(p), torch.cat([z.argmin(1) for _, z, _ in p]), _true(p))
    ),
    "The loss counts every batch by the size of the first one, and the last batch is smaller.": (
        _changed(
            lambda p: (
                sum(float(loss) * len(p[0][2]) for loss, *_ in p) / len(_true(p)),
                _named(p),
                _true(p),
            )
        )
    ),
}

# ---- Mean IoU ------------------------------------------------------------------------------------


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
    "This is the share of pixels that are named rightly. IoU is asked of each class.": (
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

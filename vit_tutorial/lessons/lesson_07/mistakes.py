"""Lesson 07: what is right, and mistakes that learners make, with what to say of each."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]

# ---- 07.1 ----------------------------------------------------------------------------------------


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    clip_norm: float,
    order: str = "z f b c s",
    loss_of: Callable = F.cross_entropy,
    clip: Callable = nn.utils.clip_grad_norm_,
) -> float:
    """Do the parts of a step in some order: zero, forward, backward, clip, step."""
    loss = torch.zeros(())
    for part in order.split():
        if part == "z":
            optimizer.zero_grad()
        elif part == "f":
            loss = loss_of(model(images), labels)
        elif part == "b":
            loss.backward()
        elif part == "c":
            clip(model.parameters(), clip_norm)
        else:
            optimizer.step()
    return loss.item()


def _step(order: str = "z f b c s", **changes: Callable) -> Callable:
    return lambda *arguments: train_step(*arguments, order=order, **changes)


def _clip_apart(parameters, clip_norm: float) -> None:
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, clip_norm)


def _loss_after(model, optimizer, images, labels, clip_norm):
    train_step(model, optimizer, images, labels, clip_norm)
    return F.cross_entropy(model(images), labels).item()


_NO_CLEAR = (
    "Old gradients are never cleared: `backward` adds to them, so each step also repeats those "
    "before it."
)
_NO_CLIP = (
    "When the weights move, the gradients are as long as they were: has `clip_norm` been used, and "
    "between which two other things?"
)
STEPS: dict[str, Callable] = {
    _NO_CLEAR: _step("f b c s"),
    "Gradients are cleared at the end only: what the model held before the first step still "
    "counts in it.": _step("f b c s z"),
    _NO_CLIP: _step("z f b s"),
    f"{_NO_CLEAR} And: {_NO_CLIP[0].lower()}{_NO_CLIP[1:]}": _step("f b s"),
    f"{_NO_CLEAR} And they are shortened too late, after the weights have moved.": (
        _step("f b s c")
    ),
    "Every number of the gradient is cut off by itself, which turns its direction: shorten all "
    "together, by their norm.": _step(clip=nn.utils.clip_grad_value_),
    "Each tensor is shortened by itself, which turns the direction of the whole gradient: shorten "
    "all together.": _step(clip=_clip_apart),
    "There is a softmax before the loss, which brings its own.": (
        _step(loss_of=lambda logits, labels: F.cross_entropy(logits.softmax(1), labels))
    ),
    "The loss is a sum over the batch: then twice the images would mean twice the gradient. Take "
    "the mean.": (
        _step(loss_of=lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum"))
    ),
    "The loss is measured again after the step. Return the one that the step was made from: it "
    "costs nothing.": _loss_after,
}

# ---- 07.2 ----------------------------------------------------------------------------------------

_PIXELS = (0, 2, 3)


def _stats(images: Tensor, dims: tuple = _PIXELS, correction: int = 0) -> tuple[Tensor, Tensor]:
    mean = images.mean(dims, keepdim=True)
    return mean, images.std(dims, correction=correction, keepdim=True)


def normalised(
    images: Tensor,
    held_out: Tensor,
    measure: Callable = lambda train, held: (_stats(train), _stats(train)),
) -> tuple[Tensor, Tensor]:
    """Split and normalise, in float64 on the way; `measure` may measure something wrong."""
    parts = images[~held_out].double() / 255, images[held_out].double() / 255
    numbers = measure(*parts)
    (a, b) = ((part - mean) / std for part, (mean, std) in zip(parts, numbers, strict=True))
    return a.float(), b.float()


def _split(measure: Callable) -> Callable:
    return lambda images, held_out: normalised(images, held_out, measure)


def _both(stats: tuple) -> tuple:
    return stats, stats


def _mean_of_stds(train: Tensor) -> tuple[Tensor, Tensor]:
    return _stats(train)[0], _stats(train, (2, 3))[1].mean(0, keepdim=True)


def _no_mean(train: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, dtype=torch.float64), _stats(train)[1]


def _no_std(train: Tensor) -> tuple[Tensor, Tensor]:
    return _stats(train)[0], torch.ones(1, dtype=torch.float64)


def _variance(train: Tensor) -> tuple[Tensor, Tensor]:
    return _stats(train)[0], _stats(train)[1] ** 2


SPLITS: dict[str, Callable] = {
    "The numbers are measured on all images: the held-out ones have had a say in them. That is a "
    "leak, if a small one.": _split(lambda t, h: _both(_stats(torch.cat([t, h])))),
    "The held-out images are normalised by their own numbers. The network must see them as it saw "
    "the training images: a darker image must look darker.": (
        _split(lambda t, h: (_stats(t), _stats(h)))
    ),
    "The numbers are measured on the held-out images.": _split(lambda t, h: _both(_stats(h))),
    "One mean and one deviation for all channels: each channel has its own.": (
        _split(lambda t, h: _both(_stats(t, (0, 1, 2, 3))))
    ),
    "Every pixel has a mean of its own here; a channel has one for all its pixels.": (
        _split(lambda t, h: _both(_stats(t, (0,))))
    ),
    "The deviation is a mean of the deviations of single images. That is too small: images differ "
    "from each other, too. Take it over all pixels at once.": (
        _split(lambda t, h: _both(_mean_of_stds(t)))
    ),
    "`std` divides by the number of pixels less one, unless you tell it `correction=0`.": (
        _split(lambda t, h: _both(_stats(t, correction=1)))
    ),
    "The mean is not taken away.": _split(lambda t, h: _both(_no_mean(t))),
    "The pixels are not divided by the deviation.": _split(lambda t, h: _both(_no_std(t))),
    "The pixels are divided by the variance: its root is missing.": (
        _split(lambda t, h: _both(_variance(t)))
    ),
    "The held-out images are not normalised at all.": _split(
        lambda t, h: (_stats(t), (torch.zeros(1).double(), torch.ones(1).double()))
    ),
}

# ---- 07.3 ----------------------------------------------------------------------------------------


def _targets(right: Callable, other: Callable) -> Callable:
    def make(labels: Tensor, classes: int, smoothing: float) -> Tensor:
        hot = F.one_hot(labels, classes).bool()
        return torch.where(hot, right(smoothing, classes), other(smoothing, classes)).float()

    return make


TARGETS: dict[str, Callable] = {
    "The others share it among themselves here. It is dealt out to all K classes, the right one "
    "included.": _targets(lambda s, c: 1 - s, lambda s, c: s / (c - 1)),
    "A row does not sum to 1: the right class gets its part of what is dealt out, too.": (
        _targets(lambda s, c: 1 - s, lambda s, c: s / c)
    ),
    "A row sums to more than 1: what is dealt out must be taken away first.": (
        _targets(lambda s, c: 1 + s / c, lambda s, c: s / c)
    ),
    "Every class gets all of `smoothing` here: it is one share for all of them together.": (
        _targets(lambda s, c: 1 - s, lambda s, c: s)
    ),
    "These are hard targets: nothing is smoothed.": _targets(lambda s, c: 1.0, lambda s, c: 0.0),
    "The right class gets the small part: `smoothing` is the share that is taken away.": (
        _targets(lambda s, c: s + (1 - s) / c, lambda s, c: (1 - s) / c)
    ),
}

# ---- 07.4 ----------------------------------------------------------------------------------------


def _clipped(box: tuple, height: int, width: int) -> tuple[int, int, int, int]:
    top, bottom, left, right = box
    return max(top, 0), min(bottom, height), max(left, 0), min(right, width)


def cutmix(
    images: Tensor,
    targets: Tensor,
    partner: Tensor,
    box: tuple,
    clip: Callable = _clipped,
    share_of: Callable = lambda inside, box, size: inside,
    turned: bool = False,
    mixed: bool = True,
    target_partner: Callable = lambda partner: partner,
) -> tuple[Tensor, Tensor]:
    """Paste a box of the partner into every image; the rest can be done wrong."""
    height, width = images.shape[2:]
    top, bottom, left, right = clip(box, height, width)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    if turned:
        mask = ~mask
    inside = mask.double().mean().item()
    share = share_of(inside, box, (height, width))
    if mixed:
        targets = (1 - share) * targets + share * targets[target_partner(partner)]
    return torch.where(mask, images[partner], images), targets


def _box_area(inside: float, box: tuple, size: tuple) -> float:
    return (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])


def _cutmix(**changes) -> Callable:
    return lambda *arguments: cutmix(*arguments, **changes)


CUTMIXES: dict[str, Callable] = {
    "The pixels are right. The share in the targets counts the whole box: the part of it outside "
    "the image replaces nothing.": _cutmix(share_of=_box_area),
    "The pixels are right, the targets are the wrong way round: an image keeps what is outside "
    "the box.": _cutmix(share_of=lambda inside, box, size: 1 - inside),
    "The targets are not mixed: the image shows two things, and its target must say so.": (
        _cutmix(mixed=False)
    ),
    "The targets are mixed half and half, whatever the size of the box.": (
        _cutmix(share_of=lambda inside, box, size: 0.5)
    ),
    "The box keeps the image's own pixels, and everything around it is the partner's.": (
        _cutmix(turned=True)
    ),
    "A slice from a negative number counts from the other end in Python: a box that begins "
    "outside the image begins at 0.": _cutmix(clip=lambda box, height, width: box),
    "Rows and columns are swapped: the box is (top, bottom, left, right).": (
        _cutmix(clip=lambda box, h, w: _clipped((box[2], box[3], box[0], box[1]), h, w))
    ),
    "The box is read as (top, left, bottom, right); it is (top, bottom, left, right).": (
        _cutmix(clip=lambda box, h, w: _clipped((box[0], box[2], box[1], box[3]), h, w))
    ),
    "The pixels come from `partner`, the targets from somebody else.": (
        _cutmix(target_partner=lambda partner: torch.arange(len(partner)).roll(1))
    ),
}

# ---- 07.5 ----------------------------------------------------------------------------------------


def factor(
    step: int,
    total: int,
    warmup: int,
    rise: Callable = lambda s, w: (s + 1) / w,
    fall: Callable = lambda p: (1 + math.cos(math.pi * p)) / 2,
) -> float:
    """Warm-up and decay; `fall` gets the share of the steps after the warm-up that has passed."""
    if step < warmup:
        return rise(step, warmup)
    return fall((step - warmup) / (total - warmup))


def _factor(**changes: Callable) -> Callable:
    return lambda step, total, warmup: factor(step, total, warmup, **changes)


def _cosine_over_all_steps(step: int, total: int, warmup: int) -> float:
    rising = (step + 1) / warmup if step < warmup else 1.0
    return rising * (1 + math.cos(math.pi * step / total)) / 2


FACTORS: dict[str, Callable] = {
    "The first step has a factor of 0, so it does nothing: count it as the first of the warm-up.": (
        _factor(rise=lambda s, w: s / w)
    ),
    "There is no warm-up: the first steps come with the full rate.": (_factor(rise=lambda s, w: 1)),
    "The cosine counts from the very first step, so that it jumps where the warm-up ends. Which "
    "share of the steps *after* the warm-up has passed?": (
        lambda s, t, w: (s + 1) / w if s < w else (1 + math.cos(math.pi * s / t)) / 2
    ),
    "Warm-up and cosine are multiplied, so that the full rate is never reached.": (
        _cosine_over_all_steps
    ),
    "This is a straight line down; a cosine was asked for.": _factor(fall=lambda p: 1 - p),
    "After the warm-up the rate goes below 0: a cosine runs from 1 to -1, a factor from 1 to 0.": (
        _factor(fall=lambda p: math.cos(math.pi * p))
    ),
    "A quarter of a wave falls fastest at the end; half a wave, brought to 1 ... 0, was asked "
    "for.": _factor(fall=lambda p: math.cos(math.pi / 2 * p)),
    "After the warm-up the factor rises again: the sign of the cosine.": (
        _factor(fall=lambda p: (1 - math.cos(math.pi * p)) / 2)
    ),
    "After the warm-up it stays at 1.": _factor(fall=lambda p: 1.0),
    "It should be 1 right after the warm-up and 0 at the end; yours is from 2 to 0.": (
        _factor(fall=lambda p: 1 + math.cos(math.pi * p))
    ),
    "The cosine is taken of degrees; Python counts in radians.": (
        _factor(fall=lambda p: (1 + math.cos(180 * p)) / 2)
    ),
}

# ---- 07.7 ----------------------------------------------------------------------------------------


def accuracy(batches: Batches) -> float:
    """Percent of all images."""
    hits = torch.cat([images.argmax(1) == labels for images, labels in batches])
    return 100 * hits.double().mean().item()


def _of_batches(batches: Batches) -> float:
    return sum(accuracy([batch]) for batch in batches) / len(batches)


ACCURACIES: dict[str, Callable] = {
    "This is a mean of the batches' accuracies: the last batch is smaller, and its images count "
    "too much.": _of_batches,
    "This is the accuracy of the last batch alone.": lambda batches: accuracy(batches[-1:]),
    "This is the accuracy of the first batch alone: a `return` inside the loop?": (
        lambda batches: accuracy(batches[:1])
    ),
    "This is a share; percent was asked for.": lambda batches: accuracy(batches) / 100,
    "The count is divided by the number of batches, not of images.": (
        lambda batches: accuracy(batches) * sum(len(b[1]) for b in batches) / len(batches)
    ),
    "The count is not divided by the number of images.": (
        lambda batches: accuracy(batches) / 100 * sum(len(b[1]) for b in batches)
    ),
    "Every batch is taken to be as large as the first.": (
        lambda batches: (
            accuracy(batches)
            * sum(len(b[1]) for b in batches)
            / (len(batches) * len(batches[0][1]))
        )
    ),
}

# ---- 07.8 ----------------------------------------------------------------------------------------


def _reading(recall: Callable, precision: Callable, empty: float = 0.0) -> Callable:
    def read(confusion: Tensor) -> Tensor:
        counts = confusion.double()
        table = torch.stack([recall(counts), precision(counts)], dim=1)
        return table.nan_to_num(empty).float()

    return read


def _by_row(counts: Tensor) -> Tensor:
    return counts.diagonal() / counts.sum(1)


def _by_column(counts: Tensor) -> Tensor:
    return counts.diagonal() / counts.sum(0)


def _by_all(counts: Tensor) -> Tensor:
    return counts.diagonal() / counts.sum()


READINGS: dict[str, Callable] = {
    "Recall and precision have changed places: a row of the matrix is a true class.": (
        _reading(_by_column, _by_row)
    ),
    "Both are divided by the sum of a row; precision asks what happened in a column.": (
        _reading(_by_row, _by_row)
    ),
    "Both are divided by the sum of a column; recall asks what happened in a row.": (
        _reading(_by_column, _by_column)
    ),
    "Both are divided by all images.": _reading(_by_all, _by_all),
    "0 divided by 0 is no number: a class that was never predicted shall have precision 0.": (
        _reading(_by_row, _by_column, empty=math.nan)
    ),
}

# ---- 07.9: what speaks against a wrong diagnosis, whoever the patient is -------------------------

AGAINST = {
    "rate too high": (
        "steps that are far too long throw the loss above where it began, again and again, and "
        "without any period."
    ),
    "rate too low": "a loss that hardly moves would be a smooth, nearly straight line.",
    "not cleared": "the steps would go on in old directions, and still learn rather well.",
    "not shuffled": "the loss would repeat one pattern in every epoch, which has 17 steps.",
    "other labels": "where labels mean nothing, the accuracy stays at that of guessing.",
    "softmax twice": "the training loss could not come below its floor of 1.46.",
    "validation not normalised": (
        "the training would not notice: its loss would be the healthy one, step by step."
    ),
    "too few images": (
        "a handful of images is soon known by heart: a loss of nearly 0 long before the end."
    ),
}

"""Lesson 14: what is right, and mistakes that learners make, with what to say of each."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- 14.1 Shares of unequal size -----------------------------------------------------------------


def joint_gradient(gradients: Tensor, counts: Tensor) -> Tensor:
    """The right mean: an empty share brings nothing, not even its NaN."""
    sums = torch.where(counts[:, None] > 0, gradients * counts[:, None], 0.0)
    return (sums.sum(dim=0) / counts.sum()).to(gradients)


def _clean(gradients: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts[:, None] > 0, gradients, 0.0)


JOINTS: dict[str, Callable] = {
    "This is the plain mean of the shares: an image of a small share then counts for more than one "
    "of a large share.": lambda g, c: _clean(g, c).mean(dim=0),
    "This is the plain mean of the shares that have images: an image of a small share then counts "
    "for more than one of a large share.": lambda g, c: g[c > 0].mean(dim=0),
    "Right, but for a share without images: the mean of nothing is NaN, and 0 times NaN is NaN. "
    "Such a share must be left out.": lambda g, c: ((g * c[:, None]).sum(dim=0) / c.sum()).to(g),
    "The plain mean, and a share without images makes it NaN.": lambda g, c: g.mean(dim=0),
    "This is a sum over all images. The gradient of a mean loss is a mean: how many images are "
    "there in all?": lambda g, c: (_clean(g, c) * c[:, None]).sum(dim=0).to(g),
    "You divide by the number of shares. Divide by the number of images.": lambda g, c: (
        (_clean(g, c) * c[:, None]).sum(dim=0) / len(c)
    ).to(g),
    "The gradients are added up. Each is a mean already: weigh them by their images, and divide by "
    "all.": lambda g, c: _clean(g, c).sum(dim=0),
    "Upside down: a share counts for *more* the more images it has.": lambda g, c: (
        (_clean(g, c) / c.clamp(min=1)[:, None]).sum(dim=0)
        / (1 / c.clamp(min=1)).where(c > 0, 0.0).sum()
    ),
}

# ---- 14.2 Accumulate -----------------------------------------------------------------------------


def accumulated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    most: int,
    weight: Callable[[int, int, int], float] = lambda size, total, parts: size / total,
    clear: str = "first",
    drop_last: bool = False,
) -> list[Tensor]:
    """Add up the gradients of parts, each with a weight; right by default."""
    parts = list(zip(images.split(most), labels.split(most), strict=True))
    if drop_last and len(parts) > 1:
        parts = [part for part in parts if len(part[1]) == most] or parts[:1]
    if clear == "first":
        model.zero_grad()
    for part, answers in parts:
        if clear == "each":
            model.zero_grad()
        loss = F.cross_entropy(model(part), answers)
        (loss * weight(len(part), len(images), len(parts))).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def _accumulate(**changes) -> Callable:
    return lambda *arguments: accumulated(*arguments, **changes)


ACCUMULATIONS: dict[str, Callable] = {
    "Every part counts alike, though the last one is smaller: its images count for more. Weigh "
    "each part by its images.": _accumulate(weight=lambda size, total, parts: 1 / parts),
    "The gradients of the parts are added up as they are: the result is as many times too long as "
    "there are parts.": _accumulate(weight=lambda size, total, parts: 1.0),
    "What the model held before you began is still in the gradients: `backward` adds.": (
        _accumulate(clear="never")
    ),
    "What the model held before you began is still in the gradients. And every part counts alike, "
    "though the last one is smaller.": (
        _accumulate(clear="never", weight=lambda size, total, parts: 1 / parts)
    ),
    "Gradients are cleared before each part, so that only the last one is left.": (
        _accumulate(clear="each")
    ),
    "Gradients are cleared before each part, and only the last part is left, whole.": (
        _accumulate(clear="each", weight=lambda size, total, parts: 1.0)
    ),
    "The last, smaller part is left out.": _accumulate(
        drop_last=True, weight=lambda size, total, parts: 1 / parts
    ),
    "The last, smaller part is left out, and the others are divided by the number of all images.": (
        _accumulate(drop_last=True)
    ),
    "This is a sum over images: the whole batch would give their mean.": (
        _accumulate(weight=lambda size, total, parts: float(size))
    ),
    "Each part is divided by `most`, which is its number of images: it is a mean already.": (
        _accumulate(weight=lambda size, total, parts: size / total / size)
    ),
}

# ---- 14.4 One round of the ring ------------------------------------------------------------------


def ring_round(
    parts: Tensor,
    step: int,
    chunk: Callable[[int, int, int], int] = lambda worker, step, n: worker - step,
    to: Callable[[int, int], int] = lambda worker, n: worker + 1,
    add: Callable[[int, int], bool] = lambda step, n: step < n - 1,
    keeps: bool = True,
) -> Tensor:
    """Pass one chunk of each worker on; right by default."""
    n, after = len(parts), parts.clone()
    for worker in range(n):
        which, other = chunk(worker, step, n) % n, to(worker, n) % n
        arrives = parts[worker, which]
        after[other, which] = parts[other, which] + arrives if add(step, n) else arrives
        if not keeps:
            after[worker, which] = 0
    return after


def _ring(**changes) -> Callable:
    return lambda parts, step: ring_round(parts, step, **changes)


RINGS: dict[str, Callable] = {
    "Chunks go the wrong way: to the left neighbour.": _ring(to=lambda worker, n: worker - 1),
    "Every worker sends the chunk of its own number, in every round. In round `step` it sends the "
    "one that it got in the round before.": _ring(chunk=lambda worker, step, n: worker),
    "Every worker sends chunk number `step`: then all of them send the same one, and one line "
    "waits for the other.": _ring(chunk=lambda worker, step, n: step),
    "The chunk that is sent moves the wrong way: worker + step. What a worker got in the last "
    "round came from its left.": _ring(chunk=lambda worker, step, n: worker + step),
    "The number of the chunk is one too low: in round 0 a worker sends the chunk of its own "
    "number.": _ring(chunk=lambda worker, step, n: worker - step - 1),
    "The number of the chunk is one too high: in round 0 a worker sends the chunk of its own "
    "number.": _ring(chunk=lambda worker, step, n: worker - step + 1),
    "What arrives always takes the place of what was there: in the first G - 1 rounds it must be "
    "added.": _ring(add=lambda step, n: False),
    "What arrives is always added: from round G - 1 on the chunks are whole sums, and take the "
    "place of what was there.": _ring(add=lambda step, n: True),
    "The adding goes on for a round too long: G chunks of G workers are complete after G - 1 "
    "rounds.": _ring(add=lambda step, n: step < n),
    "The adding ends a round too early: G - 1 others have something to add.": (
        _ring(add=lambda step, n: step < n - 2)
    ),
    "A sender keeps what it has: it sends a copy.": _ring(keeps=False),
}

# ---- 14.5 How long does it take ------------------------------------------------------------------


def sending(
    numbers: int,
    processes: int,
    gigabits: float,
    bytes_each: int,
    share: Callable[[int], float] = lambda n: 2 * (n - 1) / n,
    bits: int = 8,
    giga: float = 1e9,
) -> float:
    """Seconds of a ring all-reduce; right by default."""
    return numbers * bytes_each * share(processes) * bits / (gigabits * giga)


def _sending(**changes) -> Callable:
    return lambda *arguments: sending(*arguments, **changes)


SENDINGS: dict[str, Callable] = {
    "A gigabit is a billion bits, and a byte has eight of them: you take it for a gigabyte.": (
        _sending(bits=1)
    ),
    "A factor of 64 is between yours and the truth: bits and bytes, the wrong way round.": (
        _sending(bits=1 / 8)
    ),
    "The whole gradient is counted once. Each process sends (G - 1) chunks of G while they are "
    "added up, and as many while they are handed out.": _sending(share=lambda n: 1.0),
    "The whole gradient is counted twice: of its G chunks each process sends G - 1, twice.": (
        _sending(share=lambda n: 2.0)
    ),
    "Only half of the way is counted: first the chunks are added up, then the sums are handed "
    "out.": _sending(share=lambda n: (n - 1) / n),
    "You count what one process would send that hands everything to every other: the ring sends "
    "chunks, each a G-th of the gradient.": _sending(share=lambda n: 2.0 * (n - 1)),
    "You count what all processes send together. Their lines are different ones, and work at the "
    "same time.": _sending(share=lambda n: 2.0 * (n - 1) / n * n),
    "Giga is a thousand million in networks, not 2 to the power of 30.": _sending(giga=2.0**30),
    "A number has `bytes_each` bytes.": lambda numbers, n, speed, size: sending(
        numbers, n, speed, 1
    ),
    "Four bytes a number are right for float32 only: use `bytes_each`.": (
        lambda numbers, n, speed, size: sending(numbers, n, speed, 4)
    ),
}

# ---- 14.6 Send while you compute -----------------------------------------------------------------


def step_end(computed: float, ready: list[float], seconds: list[float]) -> float:
    """When all is computed and all has arrived, from the last bucket backwards."""
    starts = [
        max(start + sum(seconds[first:last]) for first, start in enumerate(ready[: last + 1]))
        for last in range(len(ready))
    ]
    return max([computed, *(a + b for a, b in zip(starts, seconds, strict=True))])


def _no_waiting_for_the_line(computed: float, ready: list[float], seconds: list[float]) -> float:
    return max([computed, *(a + b for a, b in zip(ready, seconds, strict=True))])


def _only_the_sends(computed: float, ready: list[float], seconds: list[float]) -> float:
    return step_end(-math.inf, ready, seconds) if ready else 0.0


STEP_ENDS: dict[str, Callable] = {
    "There is one line: a bucket that is full waits until the one before has arrived.": (
        _no_waiting_for_the_line
    ),
    "Everything is sent after the backward pass. Buckets need not wait for it: they may go as soon "
    "as they are full.": lambda c, r, s: c + sum(s),
    "A bucket is sent before it is full: it may begin at `ready`, not earlier.": (
        lambda c, r, s: max(c, sum(s))
    ),
    "The line is taken to be busy from the first bucket on. Between two buckets it may have "
    "nothing to send.": lambda c, r, s: max(c, (r[0] if r else 0.0) + sum(s)),
    "This is when the last bucket arrives. If there is none, or all arrive early, the step still "
    "has to finish computing.": _only_the_sends,
    "Only the last bucket is looked at: those before it may hold up the line.": (
        lambda c, r, s: max(c, r[-1] + s[-1]) if r else c
    ),
    "This adds the time of sending to that of computing, from the first bucket on.": (
        lambda c, r, s: c + step_end(0.0, r, s) if r else c
    ),
    "Nothing waits for what is being sent: the optimizer needs the sums of all buckets.": (
        lambda c, r, s: c
    ),
}

# ---- 14.7 A larger batch, a higher rate ----------------------------------------------------------


def rate(
    step: int,
    base_rate: float,
    base_batch: int,
    batch: int,
    warmup_steps: int,
    power: float,
    start: Callable[[float, float], float] = lambda base, high: base,
    scale: Callable[[float, float], float] = lambda times, power: times**power,
    progress: Callable[[int, int], float] = lambda step, warmup: (step + 1) / warmup,
) -> float:
    """The rate of a step; right by default."""
    high = base_rate * scale(batch / base_batch, power)
    if step >= warmup_steps:
        return high
    low = start(base_rate, high)
    return low + (high - low) * progress(step, warmup_steps)


def _rate(**changes) -> Callable:
    return lambda *arguments: rate(*arguments, **changes)


RATES: dict[str, Callable] = {
    "The rate begins at 0. Here the warm-up begins at the base rate, which is known to be safe.": (
        _rate(start=lambda base, high: 0.0)
    ),
    "The first step of the warm-up must be above the base rate already, and its last one has the "
    "full rate: count steps from 1.": _rate(progress=lambda step, warmup: step / warmup),
    "The last step of the warm-up is not at the full rate: it has `warmup_steps` steps.": (
        _rate(progress=lambda step, warmup: (step + 1) / (warmup + 1))
    ),
    "The warm-up is missing: the full rate comes at once.": _rate(
        start=lambda base, high: high, progress=lambda step, warmup: 1.0
    ),
    "The rate is multiplied by the ratio of the batches whatever `power` is: 1 is the linear rule, "
    "1/2 that of the root, 0 leaves it alone.": _rate(scale=lambda times, power: times),
    "The ratio is multiplied by `power`: it is to be raised to it.": (
        _rate(scale=lambda times, power: times * power)
    ),
    "Upside down: a larger batch gets a higher rate.": _rate(
        scale=lambda times, power: times**-power
    ),
    "The base rate is left out in the end: after the warm-up it should be the scaled rate.": (
        lambda step, base, b, batch, warmup, power: (
            base if step >= warmup else rate(step, base, b, batch, warmup, power)
        )
    ),
    "The rate is that of the base batch all the time.": (
        lambda step, base, b, batch, warmup, power: base
    ),
}

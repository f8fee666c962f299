"""Lesson 14: right answers, each another way; wrong ones and the cause that must be named."""

import torch
import torch.nn.functional as F
from torch import nn

# ---- 14.1 ----


def joint_by_loop(gradients, counts):
    total = torch.zeros_like(gradients[0])
    for row, count in zip(gradients, counts.tolist(), strict=True):
        if count:
            total = total + row * count
    return total / counts.sum().item()


def joint_by_nan_to_num(gradients, counts):
    return torch.einsum("nk,n->k", gradients.nan_to_num(0.0), (counts / counts.sum()).to(gradients))


def joint_by_repeating(gradients, counts):
    """Give each image the mean of its share, and take the mean over images."""
    return gradients.repeat_interleave(counts, dim=0).mean(dim=0)


def clean(gradients):
    return gradients.nan_to_num(0.0)


# ---- 14.2 ----


def accumulated_by_autograd(model, images, labels, most):
    total = [torch.zeros_like(p) for p in model.parameters()]
    for start in range(0, len(images), most):
        part, answers = images[start : start + most], labels[start : start + most]
        loss = F.cross_entropy(model(part), answers, reduction="sum") / len(images)
        found = torch.autograd.grad(loss, list(model.parameters()))
        total = [a + b for a, b in zip(total, found, strict=True)]
    return total


def accumulated_and_divided(model, images, labels, most):
    for p in model.parameters():
        p.grad = None
    for part, answers in zip(images.split(most), labels.split(most), strict=True):
        nn.CrossEntropyLoss(reduction="sum")(model(part), answers).backward()
    return tuple(p.grad / len(labels) for p in model.parameters())


def parts_with(weight, clear="first", reduction="mean"):
    def answer(model, images, labels, most):
        if clear == "first":
            model.zero_grad()
        pieces = list(zip(images.split(most), labels.split(most), strict=True))
        for part, answers in pieces:
            if clear == "each":
                model.zero_grad()
            loss = F.cross_entropy(model(part), answers, reduction=reduction)
            (loss * weight(len(part), len(images), len(pieces))).backward()
        return [p.grad for p in model.parameters()]

    return answer


def only_full_parts(model, images, labels, most):
    kept = len(images) // most * most or len(images)
    return accumulated_by_autograd(model, images[:kept], labels[:kept], most)


def all_at_once(model, images, labels, most):
    return accumulated_by_autograd(model, images, labels, len(images))


def one_more_part(model, images, labels, most):
    model(images[len(images) :])
    return accumulated_by_autograd(model, images, labels, most)


# ---- 14.3 ----


def share_in_one_piece(order, step, batch_size, rank, world_size):
    size = batch_size // world_size
    start = step * batch_size + rank * size
    return order[start : start + size]


def share_by_arange(order, step, batch_size, rank, world_size):
    return order[torch.arange(rank, batch_size, world_size) + step * batch_size]


# ---- 14.4 ----


def round_by_rolling(parts, step):
    n = len(parts)
    workers = torch.arange(n)
    chunks = (workers - step) % n
    right = workers.roll(-1)
    after = parts.clone()
    arrives = parts[workers, chunks]
    after[right, chunks] = arrives + parts[right, chunks] * (step < n - 1)
    return after


def round_one_after_the_other(parts, step):
    """No chunk is on its way twice in a round, so it does not matter who goes first."""
    n, after = len(parts), parts.clone()
    for worker in range(n):
        chunk, right = (worker - step) % n, (worker + 1) % n
        if step < n - 1:
            after[right, chunk] += after[worker, chunk]
        else:
            after[right, chunk] = after[worker, chunk]
    return after


def round_from_the_receiver(parts, step):
    n = parts.shape[0]
    rows = []
    for me in range(n):
        mine = list(parts[me].unbind())
        left = me - 1  # Python counts -1 from the end, too
        chunk = (left - step) % n
        mine[chunk] = parts[left, chunk] + (mine[chunk] if step < n - 1 else 0)
        rows.append(torch.stack(mine))
    return torch.stack(rows)


def ring(chunk=lambda w, s, n: w - s, right=1, adds=lambda s, n: s < n - 1):
    def answer(parts, step):
        n, after = len(parts), parts.clone()
        for w in range(n):
            c, to = chunk(w, step, n) % n, (w + right) % n
            came = parts[w, c]
            mine = parts[to, c]
            after[to, c] = mine + came if adds(step, n) else came
        return after

    return answer


def moves_the_chunk(parts, step):
    after = round_by_rolling(parts, step)
    for w in range(len(parts)):
        after[w, (w - step) % len(parts)] = 0
    return after


def in_place(parts, step):
    parts.copy_(round_by_rolling(parts, step))
    return parts


# ---- 14.5 ----


def sending_by_rounds(parameters, processes, gigabits, bytes_each):
    per_round = 8 * parameters * bytes_each / processes / gigabits / 1e9
    return torch.tensor(sum(per_round for _ in range(2 * processes - 2)), dtype=torch.float64)


def sending(factor):
    return lambda p, n, g, b: p * b * 8 / (g * 1e9) * factor(n)


def ring_share(n):
    return 2 * (n - 1) / n


# ---- 14.6 ----


def end_by_recursion(computed, ready, seconds):
    def arrives(bucket):
        if bucket < 0:
            return 0.0
        return max(ready[bucket], arrives(bucket - 1)) + seconds[bucket]

    return max(computed, arrives(len(ready) - 1))


def end_by_events(computed, ready, seconds):
    """Play it in time: whenever the line is free, take the next bucket that is full."""
    clock, waiting = 0.0, list(zip(ready, seconds, strict=True))
    while waiting:
        full, takes = waiting.pop(0)
        if clock < full:
            clock = full
        clock += takes
    return clock if clock > computed else computed


def ends_apart(computed, ready, seconds):
    return max([computed, *(r + s for r, s in zip(ready, seconds, strict=True))])


# ---- 14.7 ----


def rate_by_lerp(step, base_rate, base_batch, batch, warmup_steps, power):
    done = 1.0 if step >= warmup_steps else (step + 1) / warmup_steps
    high = torch.tensor(base_rate * (batch / base_batch) ** power, dtype=torch.float64)
    return torch.lerp(torch.tensor(base_rate, dtype=torch.float64), high, done)


def rate_with(start, done=lambda s, w: (s + 1) / w, high=lambda b, k, p: b * k**p):
    def answer(step, base_rate, base_batch, batch, warmup_steps, power):
        top = high(base_rate, batch / base_batch, power)
        if step >= warmup_steps:
            return top
        low = start(base_rate, top)
        return low + (top - low) * done(step, warmup_steps)

    return answer


RIGHT = {
    "14.1": [joint_by_loop, joint_by_nan_to_num, joint_by_repeating],
    "14.2": [accumulated_by_autograd, accumulated_and_divided],
    "14.3": [share_in_one_piece, share_by_arange],
    "14.4": [round_by_rolling, round_one_after_the_other, round_from_the_receiver],
    "14.5": [sending_by_rounds],
    "14.6": [end_by_recursion, end_by_events],
    "14.7": [rate_by_lerp],
}

WRONG = {
    "14.1": {
        "plain mean": (lambda g, c: clean(g).mean(0), "plain mean of the shares: an image"),
        "plain mean of filled": (lambda g, c: g[c > 0].mean(0), "the shares that have images"),
        "nan": (lambda g, c: (g * c[:, None]).sum(0).div(c.sum()).to(g), "0 times NaN is NaN"),
        "nan mean": (lambda g, c: g.mean(0), "makes it NaN"),
        "sum": (lambda g, c: (clean(g) * c[:, None]).sum(0).to(g), "sum over all images"),
        "by shares": (
            lambda g, c: (clean(g) * c[:, None]).sum(0).div(len(c)).to(g),
            "number of shares",
        ),
        "added": (lambda g, c: clean(g).sum(0), "added up"),
        "upside down": (
            lambda g, c: (g[c > 0] / c[c > 0][:, None]).sum(0) / (1 / c[c > 0]).sum().to(g),
            "Upside down",
        ),
        "a number": (lambda g, c: 1.0, "Expected a tensor"),
        "float32": (lambda g, c: joint_by_loop(g, c).float(), "numbers of type torch.float64"),
    },
    "14.2": {
        "mean of means": (parts_with(lambda b, n, k: 1 / k), "Every part counts alike"),
        "sum of means": (parts_with(lambda b, n, k: 1.0), "as many times too long"),
        "left over": (parts_with(lambda b, n, k: b / n, clear=""), "before you began"),
        "left over, means": (
            parts_with(lambda b, n, k: 1 / k, clear=""),
            "before you began.*counts alike",
        ),
        "each cleared": (parts_with(lambda b, n, k: b / n, clear="each"), "only the last one"),
        "each cleared, whole": (
            parts_with(lambda b, n, k: 1.0, clear="each"),
            "only the last part is left, whole",
        ),
        "sum": (parts_with(lambda b, n, k: 1.0, reduction="sum"), "sum over images"),
        "each divided": (parts_with(lambda b, n, k: 1 / n), "it is a mean already"),
        "last missing": (only_full_parts, "last, smaller part is left out"),
        "last missing, all": (
            lambda m, x, y, most: [
                g * ((len(x) // most * most or len(x)) / len(x))
                for g in only_full_parts(m, x, y, most)
            ],
            "divided by the number of all images",
        ),
        "all at once": (all_at_once, "at most"),
        "empty part": (one_more_part, "no images at all"),
        "nothing": (lambda m, x, y, most: None, "returned None"),
        "one row": (
            lambda m, x, y, most: torch.cat(
                [g.flatten() for g in accumulated_by_autograd(m, x, y, most)]
            ),
            "Return a list",
        ),
        "twice": (
            lambda m, x, y, most: [2 * g for g in accumulated_by_autograd(m, x, y, most)],
            "another one",
        ),
    },
    "14.3": {
        "everything": (lambda o, s, b, r, w: o[s * b : (s + 1) * b], "rank. has no effect"),
        "batch each": (
            lambda o, s, b, r, w: o[(s * w + r) * b : (s * w + r + 1) * b],
            "is a part of one batch|all processes together",
        ),
        "first batch": (lambda o, s, b, r, w: o[:b][r::w], "images of another batch"),
        "strided order": (lambda o, s, b, r, w: o[r::w][s : s + b // w], "is in two|another batch"),
        "places": (
            lambda o, s, b, r, w: torch.arange(s * b, (s + 1) * b)[r::w],
            "places in .order.",
        ),
        "from rank": (lambda o, s, b, r, w: o[s * b : (s + 1) * b][r:], "two shares|twice"),
        "one each": (lambda o, s, b, r, w: o[s * b + r : s * b + r + 1], "in no share"),
        "unequal": (
            lambda o, s, b, r, w: (
                o[s * b : (s + 1) * b][: b - w + 1] if r == 0 else o[(s + 1) * b - w + r :][:1]
            ),
            "all should have",
        ),
        "a list": (
            lambda o, s, b, r, w: o[s * b : (s + 1) * b][r::w].tolist(),
            "Expected a tensor",
        ),
    },
    "14.4": {
        "to the left": (ring(right=-1), "wrong way: to the left"),
        "own chunk": (ring(lambda w, s, n: w), "own number, in every round"),
        "chunk step": (ring(lambda w, s, n: s), "chunk number .step."),
        "plus": (ring(lambda w, s, n: w + s), "moves the wrong way"),
        "too low": (ring(lambda w, s, n: w - s - 1), "too low"),
        "too high": (ring(lambda w, s, n: w - s + 1), "too high"),
        "never adds": (ring(adds=lambda s, n: False), "always takes the place"),
        "always adds": (ring(adds=lambda s, n: True), "always added"),
        "adds too long": (ring(adds=lambda s, n: s < n), "a round too long"),
        "adds too short": (ring(adds=lambda s, n: s < n - 2), "a round too early"),
        "moves": (moves_the_chunk, "sends a copy|Right for"),
        "in place": (in_place, "changes `parts`"),
    },
    "14.5": {
        "bytes": (sending(lambda n: ring_share(n) / 8), "for a gigabyte"),
        "upside down": (sending(lambda n: ring_share(n) / 64), "factor of 64"),
        "once": (sending(lambda n: 1.0), "counted once"),
        "twice": (sending(lambda n: 2.0), "counted twice"),
        "half of the way": (sending(lambda n: (n - 1) / n), "Only half"),
        "to everybody": (sending(lambda n: 2.0 * (n - 1)), "every other"),
        "gibi": (sending(lambda n: ring_share(n) * 1e9 / 2**30), "Giga is"),
        "four bytes": (lambda p, n, g, b: sending(ring_share)(p, n, g, 4), "Four bytes"),
        "no bytes": (lambda p, n, g, b: sending(ring_share)(p, n, g, 1), "has .bytes_each. bytes"),
        "other": (sending(lambda n: 1.7), "Right for"),
    },
    "14.6": {
        "no queue": (ends_apart, "There is one line"),
        "after": (lambda c, r, s: c + sum(s), "after the backward pass"),
        "too early": (lambda c, r, s: max(c, sum(s)), "before it is full"),
        "no gaps": (lambda c, r, s: max(c, (r[0] if r else 0) + sum(s)), "busy from the first"),
        "the last alone": (lambda c, r, s: max(c, r[-1] + s[-1]) if r else c, "Only the last"),
        "computing forgotten": (lambda c, r, s: end_by_recursion(0.0, r, s), "finish computing"),
        "computed alone": (lambda c, r, s: c, "Nothing waits"),
        "added": (lambda c, r, s: c + end_by_recursion(0, r, s) if r else c, "adds the time"),
        "words": (lambda c, r, s: "soon", "Expected one number"),
    },
    "14.7": {
        "from zero": (rate_with(lambda b, h: 0.0), "begins at 0"),
        "a step late": (rate_with(lambda b, h: b, lambda s, w: s / w), "count steps from 1"),
        "never there": (rate_with(lambda b, h: b, lambda s, w: (s + 1) / (w + 1)), "last step"),
        "no warm-up": (rate_with(lambda b, h: h), "missing"),
        "linear": (rate_with(lambda b, h: b, high=lambda b, k, p: b * k), "whatever .power. is"),
        "times power": (rate_with(lambda b, h: b, high=lambda b, k, p: b * k * p), "raised to it"),
        "upside down": (rate_with(lambda b, h: b, high=lambda b, k, p: b * k**-p), "Upside down"),
        "base": (lambda s, b, *_: b, "base batch all the time"),
        "back to base": (
            lambda s, b, bb, bs, w, p: b if s >= w else rate_by_lerp(s, b, bb, bs, w, p),
            "should be the scaled rate",
        ),
        "additive": (rate_with(lambda b, h: b, high=lambda b, k, p: b + k * p), "Right for"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "14.1": ("counts > 0", "[filled]", "@", "nansum"),
    "14.2": ("len(part) / len(images)", "zip(", "reduction"),
    "14.3": ("[rank::", "rank::world_size", "step * batch_size"),
    "14.4": ("worker - step", "% G", "clone("),
    "14.5": ("1e9 / 8", "/ processes", "2 * (processes"),
    "14.6": ("max(", "free ="),
    "14.7": ("**", "(step + 1)", "high - base"),
}

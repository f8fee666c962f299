"""Lesson 07: right answers, each another way; wrong ones and the cause that must be named."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from vit_tutorial import augment
from vit_tutorial.lessons.lesson_07.patients import PATIENTS
from vit_tutorial.optimizers import parameter_groups

# ---- 07.1 ----


def step_with_cleared_gradients(model, optimizer, images, labels, clip_norm):
    model.train()
    loss = -model(images).log_softmax(1).gather(1, labels[:, None]).mean()
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    for parameter in model.parameters():
        parameter.grad *= (clip_norm / (norm + 1e-6)).clamp(max=1)
    optimizer.step()
    return float(loss.detach())


def step_as_the_formula_says(extra):
    """Clipping by hand: PyTorch adds 1e-6 to the norm, others 1e-8, the formula nothing."""

    def answer(model, optimizer, images, labels, clip_norm):
        model.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        norm = math.sqrt(sum((p.grad**2).sum().item() for p in model.parameters()))
        if norm > clip_norm:
            for parameter in model.parameters():
                parameter.grad *= clip_norm / (norm + extra)
        optimizer.step()
        return loss.item()

    return answer


def step_on_itself(model, optimizer, images, labels, clip_norm):
    optimizer.zero_grad(set_to_none=False)
    loss = nn.CrossEntropyLoss()(model(images), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(list(model.parameters()), clip_norm)
    optimizer.step()
    return loss.detach()


def step(order, result=lambda loss: loss.item(), loss_of=F.cross_entropy, clip=None):
    clip = clip or nn.utils.clip_grad_norm_

    def answer(model, optimizer, images, labels, clip_norm):
        for part in order.split():
            if part == "zero":
                optimizer.zero_grad()
            elif part == "loss":
                loss = loss_of(model(images), labels)
            elif part == "back":
                loss.backward()
            elif part == "clip":
                clip(model.parameters(), clip_norm)
            else:
                optimizer.step()
        return result(loss)

    return answer


def clip_each(parameters, clip_norm):
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, clip_norm)


def loss_after(model, optimizer, images, labels, clip_norm):
    step("zero loss back clip step")(model, optimizer, images, labels, clip_norm)
    return F.cross_entropy(model(images), labels).item()


# ---- 07.2 ----


def split_by_loops(images, held_out):
    train = images[~held_out].float()
    held = images[held_out].float()
    for c in range(images.shape[1]):
        mean, std = train[:, c].mean(), train[:, c].std(correction=0)
        train[:, c], held[:, c] = (train[:, c] - mean) / std, (held[:, c] - mean) / std
    return train, held


def split_by_moments(images, held_out):
    pixels = images / 255
    train = pixels[~held_out]
    mean = train.double().mean((0, 2, 3), keepdim=True)
    std = ((train.double() ** 2).mean((0, 2, 3), keepdim=True) - mean**2).sqrt()
    whole = ((pixels - mean) / std).float()
    return whole[~held_out], whole[held_out]


def stats(x, dims=(0, 2, 3), correction=0):
    return x.mean(dims, keepdim=True), x.std(dims, keepdim=True, correction=correction)


def split(measure, measure_held=None, order=slice(None), scale=255):
    def answer(images, held_out):
        train, held = images[~held_out] / scale, images[held_out] / scale
        mean, std = measure(train, held)
        other_mean, other_std = (measure_held or measure)(train, held)
        return ((train - mean) / std, (held - other_mean) / other_std)[order]

    return answer


# ---- 07.3 ----


def targets_by_scatter(labels, num_classes, smoothing):
    targets = torch.full((len(labels), num_classes), smoothing / num_classes)
    return targets.scatter_add(1, labels[:, None], torch.full((len(labels), 1), 1 - smoothing))


def targets_by_eye(labels, num_classes, smoothing):
    return torch.lerp(
        torch.eye(num_classes)[labels],
        torch.full((len(labels), num_classes), 1 / num_classes),
        smoothing,
    )


def targets(right, other):
    def answer(labels, classes, s):
        found = torch.full((len(labels), classes), float(other(s, classes)))
        found[torch.arange(len(labels)), labels] = float(right(s, classes))
        return found

    return answer


# ---- 07.4 ----


def cutmix_by_slices(images, targets, partner, box):
    height, width = images.shape[2:]
    rows = slice(max(box[0], 0), min(box[1], height))
    columns = slice(max(box[2], 0), min(box[3], width))
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partner][:, :, rows, columns]
    theirs = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return mixed, targets + theirs * (targets[partner] - targets)


def cutmix_by_the_package(images, targets, partner, box):
    weight = torch.ones(len(images), 1, *images.shape[2:], dtype=images.dtype)
    for row in range(images.shape[2]):
        for column in range(images.shape[3]):
            if box[0] <= row < box[1] and box[2] <= column < box[3]:
                weight[:, :, row, column] = 0
    return augment.mix(images, partner, weight), augment.mix_targets(targets, partner, weight)


def cutmix(
    read=lambda b: b,
    share=None,
    start=0,
    inverted=False,
    target_partner=lambda p: p,
    in_place=False,
):
    def answer(images, targets, partner, box):
        height, width = images.shape[2:]
        top, bottom, left, right = read(box)
        keep = torch.ones(height, width)
        keep[max(top, start) : min(bottom, height), max(left, start) : min(right, width)] = 0
        if inverted:
            keep = 1 - keep
        keep = keep.to(images.dtype)
        own = keep.mean() if share is None else share(keep.mean(), box, height * width)
        mixed = images if in_place else images.clone()
        mixed.copy_(keep * images + (1 - keep) * images[partner])
        return mixed, own * targets + (1 - own) * targets[target_partner(partner)]

    return answer


# ---- 07.5 ----


def factor_by_sine(step, total_steps, warmup_steps):
    if step >= warmup_steps:
        left = (total_steps - step) / (total_steps - warmup_steps)
        return math.sin(math.pi / 2 * left) ** 2
    return step / warmup_steps + 1 / warmup_steps


def factor_in_torch(step, total_steps, warmup_steps):
    warm = torch.tensor((step + 1) / max(warmup_steps, 1)).clamp(max=1)
    passed = max(step - warmup_steps, 0) / (total_steps - warmup_steps)
    return warm * (0.5 + 0.5 * torch.tensor(math.pi * passed).cos())


def factor(rise=lambda s, w: (s + 1) / w, fall=lambda p: 0.5 * (1 + math.cos(math.pi * p))):
    return lambda s, t, w: rise(s, w) if s < w else fall((s - w) / (t - w))


# ---- 07.6 ----


def groups_by_module(model, weight_decay):
    decaying = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    known = {id(p) for p in decaying}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [{"params": rest, "weight_decay": 0}, {"params": decaying, "weight_decay": weight_decay}]


def one_group_each(model, weight_decay):
    return [
        {
            "params": [p],
            "weight_decay": weight_decay * (name.endswith("weight") and "norm" not in name),
        }
        for name, p in model.named_parameters()
    ]


def groups(decays, pick=lambda name, p: p, twice=False):
    def answer(model, weight_decay):
        found = [], []
        for name, p in model.named_parameters():
            found[bool(decays(name, p))].append(pick(name, p))
        if twice:
            found[0].append(found[1][0])
        return [
            {"params": found[1], "weight_decay": weight_decay},
            {"params": found[0], "weight_decay": 0.0},
        ]

    return answer


def is_matrix(name, p):
    return p.ndim > 1 and name not in ("pos_embed", "cls_token")


def no_rest(model, weight_decay):
    return groups(is_matrix)(model, weight_decay)[:1]


def default_decay(model, weight_decay):
    decaying, rest = groups(is_matrix)(model, weight_decay)
    return [decaying, {"params": rest["params"]}]


# ---- 07.7 ----


def accuracy_with_finally(model, batches):
    was_training = model.training
    try:
        with torch.inference_mode():
            model.eval()
            hits = [(model(x).argmax(1) == y).float() for x, y in batches]
    finally:
        model.train(was_training)
    return torch.cat(hits).mean() * 100


@torch.no_grad()
def accuracy_all_at_once(model, batches):
    mode = model.training
    model = model.eval()
    said = model(torch.cat([x for x, _ in batches])).argmax(1)
    model.train(mode)
    return 100 * (said == torch.cat([y for _, y in batches])).sum().item() / len(said)


def accuracy(result, mode="eval", back="was", gradients=False):
    """`result` gets hits and images of every batch."""

    def answer(model, batches):
        was = model.training
        if mode == "eval":
            model.eval()
        with torch.set_grad_enabled(gradients):
            counts = [((model(x).argmax(1) == y).sum().item(), len(y)) for x, y in batches]
        if back == "was":
            model.train(was)
        elif back == "train":
            model.train()
        return result(counts)

    return answer


def of_all(counts):
    return 100 * sum(hits for hits, _ in counts) / sum(size for _, size in counts)


# ---- 07.8 ----


def reading_by_loop(confusion):
    found = []
    for c in range(len(confusion)):
        hits, row, column = confusion[c, c], confusion[c].sum(), confusion[:, c].sum()
        found.append([hits / row if row else 0.0, hits / column if column else 0.0])
    return torch.tensor(found)


def reading_by_clamp(confusion):
    sums = torch.stack([confusion.sum(1), confusion.sum(0)])
    return (confusion.diag() / sums.clamp(min=1)).T


def reading(recall, precision):
    return lambda c: torch.stack(
        [
            (c.diag() / c.sum(recall)).nan_to_num(0),
            (c.diag() / c.sum(precision)).nan_to_num(0),
        ],
        dim=1,
    )


def not_a_number(c):
    return torch.stack([c.diag() / c.sum(1), c.diag() / c.sum(0)], dim=1)


# ---- 07.9 ----


def diagnosis():
    return dict(PATIENTS)


def diagnosis_backwards():
    return {letter: PATIENTS[letter] for letter in "EDCBA"}


def mistaken(**letters):
    return lambda: PATIENTS | letters


RIGHT = {
    "07.1": [
        step_with_cleared_gradients,
        step_on_itself,
        *(step_as_the_formula_says(extra) for extra in (0, 1e-12, 1e-8, 1e-7, 1e-6)),
    ],
    "07.2": [split_by_loops, split_by_moments],
    "07.3": [targets_by_scatter, targets_by_eye],
    "07.4": [cutmix_by_slices, cutmix_by_the_package],
    "07.5": [factor_by_sine, factor_in_torch],
    "07.6": [groups_by_module, one_group_each, parameter_groups],
    "07.7": [accuracy_with_finally, accuracy_all_at_once],
    "07.8": [reading_by_loop, reading_by_clamp],
    "07.9": [diagnosis, diagnosis_backwards],
}

WRONG = {
    "07.1": {
        "never cleared": (step("loss back clip step"), "never cleared"),
        "cleared at the end": (step("loss back clip step zero"), "at the end only"),
        "cleared before the step": (step("loss back zero clip step"), "have not moved"),
        "no step": (step("zero loss back clip"), "have not moved"),
        "no backward": (step("zero loss clip step"), "have not moved"),
        "never clipped": (step("zero loss back step"), "as long as they were"),
        "clipped after": (step("zero loss back step clip"), "as long as they were"),
        "clipped before": (step("zero loss clip back step"), "as long as they were"),
        "step before backward": (step("loss clip step zero back"), "between the network's answer"),
        "clipped too late": (step("loss back step clip"), "And they are shortened too late"),
        "two faults": (step("loss back step"), "never cleared.*And: when the weights move"),
        "values clipped": (
            step("zero loss back clip step", clip=nn.utils.clip_grad_value_),
            "turns its direction",
        ),
        "clipped one by one": (
            step("zero loss back clip step", clip=clip_each),
            "Each tensor is shortened by itself",
        ),
        "softmax": (
            step("zero loss back clip step", loss_of=lambda x, y: F.cross_entropy(x.softmax(1), y)),
            "a softmax before the loss",
        ),
        "sum": (
            step(
                "zero loss back clip step",
                loss_of=lambda x, y: F.cross_entropy(x, y, reduction="sum"),
            ),
            "sum over the batch",
        ),
        "loss after": (loss_after, "measured again after the step"),
        "tensor": (step("zero loss back clip step", lambda loss: loss), "plain number"),
        "None": (step("zero loss back clip step", lambda loss: None), "`return` missing"),
        "twice": (step("zero loss back clip step step"), "other ones than they should"),
        "loss of another kind": (
            step("zero loss back clip step", lambda loss: 2 * loss.item()),
            "the losses should be",
        ),
    },
    "07.2": {
        "leak": (split(lambda t, h: stats(torch.cat([t, h]))), "That is a leak"),
        "each its own": (split(lambda t, h: stats(t), lambda t, h: stats(h)), "their own numbers"),
        "held-out numbers": (split(lambda t, h: stats(h)), "measured on the held-out"),
        "one for all channels": (
            split(lambda t, h: stats(t, (0, 1, 2, 3))),
            "each channel has its own",
        ),
        "each pixel": (split(lambda t, h: stats(t, (0,))), "Every pixel has a mean"),
        "mean of deviations": (
            split(lambda t, h: (stats(t)[0], stats(t, (2, 3))[1].mean(0, keepdim=True))),
            "deviations of single images",
        ),
        "less one": (split(lambda t, h: stats(t, correction=1)), "correction=0"),
        "no mean": (split(lambda t, h: (0, stats(t)[1])), "mean is not taken away"),
        "no deviation": (split(lambda t, h: (stats(t)[0], 1)), "not divided by the deviation"),
        "variance": (split(lambda t, h: (stats(t)[0], stats(t)[1] ** 2)), "root is missing"),
        "held out raw": (
            split(lambda t, h: stats(t), lambda t, h: (0, 1)),
            "not normalised at all",
        ),
        "order": (split(lambda t, h: stats(t), order=slice(None, None, -1)), "wrong order"),
        "one tensor": (lambda images, held_out: images / 255, "Return two tensors"),
        "uint8": (lambda i, h: (i[~h], i[h]), "torch.float32"),
    },
    "07.3": {
        "among the others": (targets(lambda s, c: 1 - s, lambda s, c: s / (c - 1)), "all K cl"),
        "not to the right one": (targets(lambda s, c: 1 - s, lambda s, c: s / c), "not sum to 1"),
        "not taken away": (targets(lambda s, c: 1 + s / c, lambda s, c: s / c), "more than 1"),
        "everyone all": (targets(lambda s, c: 1 - s, lambda s, c: s), "for all of them"),
        "hard": (targets(lambda s, c: 1, lambda s, c: 0), "nothing is smoothed"),
        "swapped": (targets(lambda s, c: s + (1 - s) / c, lambda s, c: (1 - s) / c), "small part"),
        "whole numbers": (lambda labels, c, s: F.one_hot(labels, c), "torch.float32"),
        "one row": (lambda labels, c, s: torch.full((c,), 1 / c), "Expected the shape"),
    },
    "07.4": {
        "whole box": (
            cutmix(share=lambda own, b, area: 1 - (b[1] - b[0]) * (b[3] - b[2]) / area),
            "counts the whole box",
        ),
        "wrong way": (cutmix(share=lambda own, b, area: 1 - own), "wrong way round"),
        "not mixed": (cutmix(share=lambda own, b, area: 1), "not mixed"),
        "half": (cutmix(share=lambda own, b, area: 0.5), "half and half"),
        "inverted": (cutmix(inverted=True), "keeps the image's own pixels"),
        "negative slice": (cutmix(start=-100), "counts from the other end"),
        "columns first": (cutmix(read=lambda b: (*b[2:], *b[:2])), "Rows and columns"),
        "corners": (cutmix(read=lambda b: (b[0], b[2], b[1], b[3])), "read as"),
        "other partner": (
            cutmix(target_partner=lambda p: torch.arange(len(p)).roll(1)),
            "somebody else",
        ),
        "in place": (cutmix(in_place=True), "changes `images`"),
        "images alone": (lambda i, t, p, b: i, "Return two tensors"),
        "nothing done": (lambda i, t, p, b: (i, t), "Right for 1 of 6"),
    },
    "07.5": {
        "starts at 0": (factor(rise=lambda s, w: s / w), "first step has a factor of 0"),
        "no warm-up": (factor(rise=lambda s, w: 1), "There is no warm-up"),
        "from the start": (
            lambda s, t, w: (s + 1) / w if s < w else 0.5 * (1 + math.cos(math.pi * s / t)),
            "jumps where the warm-up ends",
        ),
        "product": (
            lambda s, t, w: min(1, (s + 1) / max(w, 1)) * 0.5 * (1 + math.cos(math.pi * s / t)),
            "never reached",
        ),
        "line": (factor(fall=lambda p: 1 - p), "straight line down"),
        "below 0": (factor(fall=lambda p: math.cos(math.pi * p)), "below 0"),
        "quarter": (factor(fall=lambda p: math.cos(math.pi / 2 * p)), "quarter of a wave"),
        "rises": (factor(fall=lambda p: 0.5 * (1 - math.cos(math.pi * p))), "rises again"),
        "constant": (factor(fall=lambda p: 1), "stays at 1"),
        "double": (factor(fall=lambda p: 1 + math.cos(math.pi * p)), "from 2 to 0"),
        "degrees": (factor(fall=lambda p: 0.5 * (1 + math.cos(180 * p))), "radians"),
        "other": (factor(fall=lambda p: (1 - p) ** 2), "In step 11 of 100"),
        "a word": (lambda s, t, w: "half", "Expected one number"),
    },
    "07.6": {
        "all": (groups(lambda name, p: True), "its decay should be 0"),
        "by name": (groups(lambda name, p: "weight" in name), "is the gain of a norm"),
        "biases": (groups(lambda name, p: is_matrix(name, p) or "bias" in name), "is a bias"),
        "by dimensions": (groups(lambda name, p: p.ndim > 1), "is a token"),
        "positions": (
            groups(lambda name, p: p.ndim > 1 and name != "cls_token"),
            "the table of positions",
        ),
        "two dimensions": (groups(lambda name, p: p.ndim == 2), "shape of a convolution's"),
        "none": (groups(lambda name, p: False), "should be 0.05, got 0"),
        "the rest is missing": (no_rest, "is in no group"),
        "default": (default_decay, "has no weight_decay.*0.01"),
        "twice": (groups(is_matrix, twice=True), "twice, or in two"),
        "names": (groups(is_matrix, lambda name, p: name), "the parameters alone"),
        "copies": (groups(is_matrix, lambda name, p: p.detach().clone()), "a copy"),
        "a list of parameters": (lambda model, decay: list(model.parameters()), "dictionaries"),
    },
    "07.7": {
        "mean of batches": (
            accuracy(lambda c: 100 * sum(h / n for h, n in c) / len(c)),
            "mean of the batches' accuracies",
        ),
        "last batch": (accuracy(lambda c: of_all(c[-1:])), "last batch alone"),
        "first batch": (accuracy(lambda c: of_all(c[:1])), "first batch alone"),
        "share": (accuracy(lambda c: of_all(c) / 100), "This is a share"),
        "by batches": (accuracy(lambda c: 100 * sum(h for h, _ in c) / len(c)), "number of batc"),
        "hits": (accuracy(lambda c: sum(h for h, _ in c)), "not divided"),
        "equal batches": (
            accuracy(lambda c: 100 * sum(h for h, _ in c) / (len(c) * c[0][1])),
            "as large as the first",
        ),
        "training mode": (accuracy(of_all, mode="as it was"), "in training mode while"),
        "left in eval": (accuracy(of_all, back="never"), "came in training mode"),
        "left in train": (accuracy(of_all, back="train"), "came in evaluation mode"),
        "gradients": (accuracy(of_all, gradients=True), "recorded for gradients"),
        "not called": (lambda model, batches: 50.0, "never called"),
        "None": (accuracy(lambda c: None), "`return` missing"),
        "errors": (accuracy(lambda c: 100 - of_all(c)), "it should be"),
    },
    "07.8": {
        "swapped": (reading(0, 1), "changed places"),
        "rows": (reading(1, 1), "sum of a row"),
        "columns": (reading(0, 0), "sum of a column"),
        "all": (
            lambda c: (c.diag() / c.sum())[:, None].expand(-1, 2),
            "divided by all images",
        ),
        "0 / 0": (not_a_number, "0 divided by 0"),
        "turned": (lambda c: reading(1, 0)(c).T, "Expected the shape"),
        "whole numbers": (lambda c: torch.stack([c.diag(), c.diag()], 1), "torch.float32"),
    },
    "07.9": {
        "B": (mistaken(B="rate too low"), "4 of 5 are right. Patient B is not: a loss that hard"),
        "A": (mistaken(A="not cleared"), "Patient A is not: the steps would go on"),
        "two": (
            mistaken(C="too few images", E="validation not normalised"),
            "3 of 5 .* Patient C is not: a handful",
        ),
        "D": (mistaken(D="rate too high"), "Patient D is not: steps that are far too long"),
        "D other": (mistaken(D="other labels"), "labels mean nothing"),
        "all sorted": (lambda: dict.fromkeys("ABCDE", "not shuffled"), "1 of 5 .* every epoch"),
        "all softmax": (lambda: dict.fromkeys("ABCDE", "softmax twice"), "floor of 1.46"),
        "unknown": (mistaken(A="bad luck"), "'bad luck' is none of the causes"),
        "a patient missing": (lambda: {"A": "softmax twice"}, "the keys A to E"),
        "a list": (lambda: list(PATIENTS.values()), "the keys A to E"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "07.1": ("zero_grad", "clip_grad_norm_", ".item()", "optimizer.step()"),
    "07.2": ("(0, 2, 3)", "~held_out", ".mean(", "channel_stats"),
    "07.3": ("1 - smoothing", "smoothing /", "(1 - s"),
    "07.4": ("max(", "min(", "clone", "[partner]"),
    "07.5": ("step + 1", "0.5", "math.", "cos("),
    "07.6": ("ndim", "endswith", "> 1", "named_parameters():"),
    "07.7": (".eval()", ".train(", ".argmax", ".sum("),
    "07.8": ("diagonal(", ".sum(", "clamp", "nan_to_num"),
    "07.9": tuple(f"{letter}: {cause}" for letter, cause in PATIENTS.items()),
}

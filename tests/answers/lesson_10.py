"""Lesson 10: right answers, each another way; wrong ones and the cause that must be named."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

# ---- 10.1 ----


def subset_by_sorting_noise(labels, share, seed):
    """Give each image a random number, and take the smallest of each class."""
    noise = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    taken = []
    for label in set(labels.tolist()):
        inside = [i for i in range(len(labels)) if labels[i] == label]
        inside.sort(key=lambda i: noise[i].item())
        taken += inside[: max(1, round(share * len(inside)))]
    return torch.tensor(taken)


def subset_in_numpy(labels, share, seed):
    chance, taken = np.random.default_rng(seed), []
    for label in np.unique(labels.numpy()):
        (inside,) = np.nonzero(labels.numpy() == label)
        count = max(1, int(share * len(inside) + 0.5))
        taken.append(chance.choice(inside, count, replace=False))
    return torch.from_numpy(np.concatenate(taken))


def by_class(count, pick=None):
    """Make a subset, with the number of images and the picking given."""

    def subset(labels, share, seed):
        generator = torch.Generator().manual_seed(seed)
        taken = []
        for label in labels.unique():
            inside = (labels == label).nonzero().flatten()
            order = (
                torch.randperm(len(inside), generator=generator)
                if pick is None
                else pick(len(inside), generator)
            )
            taken.append(inside[order[: count(share, len(inside), labels)]])
        return torch.cat(taken)

    return subset


def right_count(share, size, labels):
    return max(1, round(share * size))


def subset_of_all(labels, share, seed):
    sizes = labels.unique(return_counts=True)[1].tolist()
    wanted = sum(right_count(share, size, labels) for size in sizes)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(labels), generator=generator)[:wanted]


# ---- 10.2 ----


def difference_by_numpy(right_a, right_b):
    gaps = right_a.numpy().astype(float) - right_b.numpy().astype(float)
    reach = 1.96 * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return torch.tensor([100 * (gaps.mean() + side * reach) for side in (0, -1, 1)]).double()


def difference_by_covariance(right_a, right_b):
    """The variance of a difference: both variances less twice the covariance."""
    table = torch.stack([right_a, right_b]).double()
    cov = torch.cov(table)
    error = ((cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]) / len(right_a)).sqrt()
    middle = table[0].mean() - table[1].mean()
    return 100 * (middle + 1.96 * error * torch.tensor([0.0, -1.0, 1.0]).double())


def around(gaps, error, z=1.96):
    return 100 * torch.stack([gaps.mean(), gaps.mean() - z * error, gaps.mean() + z * error])


def with_error(error, z=1.96):
    def made(a, b):
        gaps = a.double() - b.double()
        return around(gaps, error(gaps), z)

    return made


def unpaired(a, b):
    p, q, n = a.double().mean(), b.double().mean(), len(a)
    error = ((p * (1 - p) + q * (1 - q)) / (n - 1)).sqrt()
    return 100 * torch.stack([p - q, p - q - 1.96 * error, p - q + 1.96 * error])


def ends_apart(a, b):
    """From the ends of two intervals."""
    ends = []
    for right in (a, b):
        error = right.double().std() / len(right) ** 0.5
        ends.append((right.double().mean() - 1.96 * error, right.double().mean() + 1.96 * error))
    middle = a.double().mean() - b.double().mean()
    return 100 * torch.stack([middle, ends[0][0] - ends[1][1], ends[0][1] - ends[1][0]])


# ---- 10.3 ----


def shuffled_by_einops(images, piece, order):
    rows = images.shape[2] // piece
    cut = rearrange(images, "b c (r p) (s q) -> b (r s) c p q", p=piece, q=piece)
    cut = torch.stack([one[places] for one, places in zip(cut, order, strict=True)])
    return rearrange(cut, "b (r s) c p q -> b c (r p) (s q)", r=rows)


def shuffled_by_pixels(images, piece, order):
    """For each pixel, the number of the pixel that it comes from."""
    b, c, h, w = images.shape
    columns = w // piece
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    come = order[:, (y // piece * columns + x // piece).flatten()]  # (b, h * w)
    row = come // columns * piece + (y % piece).flatten()
    column = come % columns * piece + (x % piece).flatten()
    index = (row * w + column)[:, None].expand(-1, c, -1)
    return images.flatten(2).gather(2, index).reshape(b, c, h, w)


def shuffled_in_place(images, piece, order):
    result = shuffled_by_einops(images, piece, order)
    images.copy_(result)
    return images


# ---- 10.4 ----


def table_by_loop(model, image, label, patch_size, size):
    rows, columns = image.shape[1] // patch_size, image.shape[2] // patch_size
    before = model(image[None]).softmax(-1)[0, label]
    table = torch.zeros(rows - size + 1, columns - size + 1)
    for r in range(rows - size + 1):
        for c in range(columns - size + 1):
            hidden = image.clone()
            top, left, side = r * patch_size, c * patch_size, size * patch_size
            hidden[:, top : top + side, left : left + side] = 0
            table[r, c] = before - model(hidden[None]).softmax(-1)[0, label]
    return table


def table_by_unfold(model, image, label, patch_size, size):
    """The masks by a convolution turned round: a one at a place becomes a square of ones."""
    rows, columns = image.shape[1] // patch_size, image.shape[2] // patch_size
    places = (rows - size + 1) * (columns - size + 1)
    ones = torch.eye(places).reshape(places, 1, rows - size + 1, columns - size + 1)
    masks = F.conv_transpose2d(ones, torch.ones(1, 1, size, size))
    masks = masks.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
    said = F.log_softmax(model(torch.cat([image[None], image * (1 - masks)])), 1).exp()[:, label]
    return (said[0] - said[1:]).view(rows - size + 1, -1)


def variant(score=None, step=1, area=None, keep=False, end=0):
    """Make a table, with one thing changed."""

    def made(model, image, label, p, k):
        def chance(shown):
            return model(shown[None]).softmax(-1)[0, label]

        told = score or (lambda before, after, m, hidden, label: before - after)
        rows = range(0, image.shape[1] // p - k + 1 - end, step or k)
        columns = range(0, image.shape[2] // p - k + 1 - end, step or k)
        hidden, lines = image.clone(), []
        for r in rows:
            line = []
            for c in columns:
                hidden = hidden if keep else image.clone()
                side = k if area == "pixels" else k * p
                hidden[:, r * p : r * p + side, c * p : c * p + side] = 0
                line.append(told(chance(image), chance(hidden), model, hidden, label))
            lines.append(torch.stack(line))
        return torch.stack(lines)

    return made


# ---- 10.5 ----


def field_by_counting(layers):
    """Follow the pixels themselves: who can reach the middle feature?"""
    reached = {0}
    for kernel, stride in layers[::-1]:
        reached = {at * stride + offset for at in reached for offset in range(kernel)}
    return max(reached) - min(reached) + 1


def field_by_a_sum(layers):
    steps = [1]
    for _, stride in layers:
        steps.append(steps[-1] * stride)
    return 1 + sum((kernel - 1) * step for (kernel, _), step in zip(layers, steps, strict=False))


def upwards(layers, seen=1, less=1, own=False, last=False):
    step = 1
    for kernel, stride in layers:
        step = step * stride if own else step
        seen += (kernel - less) * step
        step = stride if last else step if own else step * stride
    return seen


# ---- 10.6 ----


def effective_by_backward(features, images, place):
    x = images.detach().requires_grad_()
    with torch.enable_grad():
        value = features(x)[..., place[0], place[1]].sum()
    (g,) = torch.autograd.grad(value, [x])
    table = torch.einsum("bchw->hw", g.abs())
    return table / table.sum()


def effective_by_jacobian(features, images, place):
    """One image at a time, by the Jacobian of all channels; they are summed with their signs."""
    tables = []
    for image in images:

        def one(x):
            return features(x[None])[0, :, place[0], place[1]]

        jacobian = torch.autograd.functional.jacobian(one, image)  # (D, C, H, W)
        tables.append(jacobian.sum(0).abs().sum(0))
    total = torch.stack(tables).sum(0)
    return (total / total.sum()).detach()


def gradient(features, images, place, pick=lambda f, at: f[:, :, at[0], at[1]]):
    x = images.clone().requires_grad_()
    return torch.autograd.grad(pick(features(x), place).sum(), x)[0]


def share(table):
    return table / table.sum()


def swapped_place(features, images, place):
    turned = place[::-1]
    features(images)[0, 0][turned]  # off the grid, for some
    return effective_by_backward(features, images, turned)


def by_network_backward(features, images, place):
    x = images.clone().requires_grad_()
    features(x)[:, :, place[0], place[1]].sum().backward()
    return share(x.grad.abs().sum((0, 1)))


RIGHT = {
    "10.1": [subset_by_sorting_noise, subset_in_numpy],
    "10.2": [difference_by_numpy, difference_by_covariance],
    "10.3": [shuffled_by_einops, shuffled_by_pixels],
    "10.4": [table_by_loop, table_by_unfold],
    "10.5": [field_by_counting, field_by_a_sum],
    "10.6": [effective_by_backward, effective_by_jacobian],
}

WRONG = {
    "10.1": {
        "down": (by_class(lambda s, n, _: max(1, int(s * n))), "round down"),
        "up": (by_class(lambda s, n, _: math.ceil(s * n)), "round up"),
        "none": (by_class(lambda s, n, _: round(s * n)), "class is missing"),
        "all alike": (
            by_class(lambda s, n, y: max(1, round(s * len(y) / len(y.unique())))),
            "same number of images",
        ),
        "from all": (subset_of_all, "from all classes together"),
        "first": (by_class(right_count, lambda n, _: torch.arange(n)), "no chance in it"),
        "twice": (
            by_class(right_count, lambda n, g: torch.randint(n, (n,), generator=g)),
            "drawn twice",
        ),
        "unseeded": (
            by_class(right_count, lambda n, _: torch.randperm(n)),
            "same seed gives another choice",
        ),
        "from the first half": (
            by_class(
                right_count,
                lambda n, g: torch.cat(
                    [torch.zeros(1).long(), torch.randperm(n - 1, generator=g) + 1]
                ),
            ),
            "same chance",
        ),
        "mask": (
            lambda y, s, seed: (
                torch.zeros(len(y)).bool().index_fill(0, subset_by_sorting_noise(y, s, seed), True)
            ),
            "a mask",
        ),
        "labels": (lambda y, s, seed: y[subset_by_sorting_noise(y, s, seed)], "return places"),
        "list": (
            lambda y, s, seed: subset_by_sorting_noise(y, s, seed).tolist(),
            "Expected places",
        ),
        "one too many": (
            by_class(lambda s, n, _: min(n, 1 + max(1, round(s * n)))),
            "of them is wanted",
        ),
    },
    "10.2": {
        "unpaired": (unpaired, "different images"),
        "of one image": (with_error(lambda g: g.std()), "of a single image"),
        "by n": (with_error(lambda g: g.std() / len(g)), "by the root of n less"),
        "variance": (with_error(lambda g: g.var() / len(g)), "root is missing"),
        "by n, not n - 1": (
            with_error(lambda g: (g.var(correction=0) / len(g)).sqrt()),
            "not by n - 1",
        ),
        "b minus a": (lambda a, b: difference_by_numpy(b, a), "b minus a"),
        "shares": (lambda a, b: difference_by_numpy(a, b) / 100, "These are shares"),
        "one side": (with_error(lambda g: g.std() / len(g) ** 0.5, 1.645), "1.645 leaves"),
        "one error": (with_error(lambda g: g.std() / len(g) ** 0.5, 1.0), "one standard error"),
        "low first": (lambda a, b: difference_by_numpy(a, b)[[1, 0, 2]], "difference, low, high"),
        "high first": (lambda a, b: difference_by_numpy(a, b)[[0, 2, 1]], "exchanged"),
        "ends": (ends_apart, "ends of two intervals"),
        "only where they differ": (
            lambda a, b: (
                difference_by_numpy(a[a != b], b[a != b])
                if (a != b).sum() > 1
                else torch.full((3,), torch.nan).double()
            ),
            "Only the images on which",
        ),
        "float32": (lambda a, b: difference_by_numpy(a, b).float(), "numbers of type"),
        "a tuple": (lambda a, b: tuple(difference_by_numpy(a, b).tolist()), "Expected a tensor"),
    },
    "10.3": {
        "inverse": (
            lambda x, p, o: shuffled_by_einops(x, p, torch.argsort(o)),
            "other way round",
        ),
        "one order": (
            lambda x, p, o: shuffled_by_einops(x, p, o[[0]].repeat(len(x), 1)),
            "order of the first one",
        ),
        "column by column": (
            lambda x, p, o: rearrange(
                torch.stack(
                    [
                        one[places]
                        for one, places in zip(
                            rearrange(x, "b c (r p) (s q) -> b (s r) c p q", p=p, q=p),
                            o,
                            strict=True,
                        )
                    ]
                ),
                "b (s r) c p q -> b c (r p) (s q)",
                r=x.shape[2] // p,
            ),
            "column by column",
        ),
        "on their sides": (
            lambda x, p, o: rearrange(
                rearrange(shuffled_by_einops(x, p, o), "b c (r p) (s q) -> b c r s p q", p=p, q=p),
                "b c r s p q -> b c (r q) (s p)",
            ),
            "lies on its side",
        ),
        "nothing": (lambda x, p, o: x + 0, "Nothing has moved"),
        "floats": (lambda x, p, o: shuffled_by_einops(x, p, o).float(), "numbers of type"),
        "in place": (shuffled_in_place, "changes `images`"),
        "squares only": (
            lambda x, p, o: shuffled_by_einops(
                x[:, :, : min(x.shape[2:]), : min(x.shape[2:])], p, o
            ),
            "stopped with|Expected the shape",
        ),
        "pixels": (
            lambda x, p, o: x.flatten(2)[:, :, torch.randperm(x.shape[2] * x.shape[3])].reshape(
                x.shape
            ),
            "Right for",
        ),
    },
    "10.4": {
        "left": (variant(lambda b, a, m, h, y: a), "that is left"),
        "sign": (variant(lambda b, a, m, h, y: a - b), "sign is turned"),
        "logits": (
            lambda m, x, y, p, k: variant(
                lambda b, a, _, h, y: m(x[None])[0, y] - m(h[None])[0, y]
            )(m, x, y, p, k),
            "These are logits",
        ),
        "stays": (variant(keep=True), "Squares stay"),
        "own size": (variant(step=0), "by its own size"),
        "pixels": (variant(area="pixels"), "has `size` pixels"),
        "on its side": (lambda *given: table_by_loop(*given).T, "on its side"),
        "named": (
            lambda m, x, y, p, k: table_by_loop(m, x, m(x[None])[0].argmax().item(), p, k),
            "the one that the network names; ",
        ),
        "relative": (variant(lambda b, a, m, h, y: (b - a) / b), "divided by"),
        "too few": (variant(end=1), "last row and the last column"),
        "in place": (
            lambda m, x, y, p, k: (x.mul_(0), table_by_loop(m, x, y, p, k))[1],
            "changes `x`",
        ),
        "flat": (lambda *given: table_by_loop(*given).flatten(), "Expected the shape"),
    },
    "10.5": {
        "no strides": (lambda ls: field_by_a_sum([(k, 1) for k, _ in ls]), "Strides are forgotten"),
        "own stride": (lambda ls: upwards(ls, own=True), "for the layer itself"),
        "whole kernels": (lambda ls: upwards(ls, less=0), "Each layer adds its kernel; "),
        "whole kernels from 0": (lambda ls: upwards(ls, seen=0, less=0), "you start from 0"),
        "from 0": (lambda ls: upwards(ls, seen=0), "You start from 0"),
        "last stride": (lambda ls: upwards(ls, last=True), "Only the last stride"),
        "product": (lambda ls: int(np.prod([k for k, _ in ls])), "multiply the kernels"),
        "wrong order": (lambda ls: field_by_a_sum(list(reversed(ls))), "wrong order"),
        "squared": (lambda ls: field_by_a_sum(ls) ** 2, "pixels squared"),
        "one side": (lambda ls: field_by_a_sum(ls) // 2, "to one side"),
        "a pair": (lambda ls: (1, 1), "Expected one number"),
        "half": (lambda ls: field_by_a_sum(ls) / 2, "Expected one whole number"),
        "one more": (lambda ls: field_by_a_sum(ls) + 1, "it should be 3; got 4, 1 too many"),
    },
    "10.6": {
        "everywhere": (
            lambda f, x, at: share(gradient(f, x, at, lambda g, _: g).abs().sum((0, 1))),
            "over all places",
        ),
        "images cancel": (
            lambda f, x, at: share(gradient(f, x, at).mean(0).abs().sum(0)),
            "Images cancel",
        ),
        "colours cancel": (
            lambda f, x, at: share(gradient(f, x, at).sum(1).abs().mean(0)),
            "Colours cancel",
        ),
        "signs": (lambda f, x, at: share(gradient(f, x, at).sum((0, 1))), "no absolute value"),
        "squares": (
            lambda f, x, at: share((gradient(f, x, at) ** 2).sum((0, 1))),
            "squared",
        ),
        "column, row": (
            swapped_place,
            "\\(column, row\\)|stopped with IndexError",
        ),
        "first image": (
            lambda f, x, at: effective_by_backward(f, x[:1], at),
            "Only the first image",
        ),
        "first channel": (
            lambda f, x, at: share(
                gradient(f, x, at, lambda g, at: g[:, 0, at[0], at[1]]).abs().sum((0, 1))
            ),
            "first channel",
        ),
        "each channel": (
            lambda f, x, at: share(
                sum(
                    gradient(f, x, at, lambda g, at, d=d: g[:, d, at[0], at[1]]).abs()
                    for d in range(4)
                ).sum((0, 1))
            ),
            "each channel of the features",
        ),
        "not divided": (lambda f, x, at: gradient(f, x, at).abs().sum((0, 1)), "adds up to"),
        "of the maximum": (
            lambda f, x, at: (lambda m: m / m.max())(gradient(f, x, at).abs().sum((0, 1))),
            "adds up to",
        ),
        "times the pixels": (
            lambda f, x, at: share((gradient(f, x, at) * x).abs().sum((0, 1))),
            "multiply gradients by",
        ),
        "grads left": (by_network_backward, "own parameters have gradients"),
        "colours kept": (
            lambda f, x, at: share(gradient(f, x, at).abs().sum(0)),
            "Expected the shape",
        ),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "10.1": ("randperm(", "nonzero", "torch.Generator", "max(round"),
    "10.2": (".std()", "** 0.5", "right_a.double", "sqrt("),
    "10.3": ("unpatchify", "torch.arange(len", "[:, :, None]", "expand_as"),
    "10.4": (".clone()", "softmax(", "r * patch_size", "image[None]"),
    "10.5": ("(kernel - 1) *", "step *=", "reversed("),
    "10.6": ("requires_grad", ".abs()", ".sum(", "features(pixels)["),
}

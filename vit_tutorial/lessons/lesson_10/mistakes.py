"""ViT and CNN as learners compare them: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# ---- 10.1 A part of each class -------------------------------------------------------------------


def counts(labels: Tensor, share: float, rule: Callable[[float], int] = round) -> dict[int, int]:
    """Tell how many of each class are wanted: at least one."""
    sizes = {int(label): int((labels == label).sum()) for label in labels.unique()}
    return {label: max(rule(share * count), 1) for label, count in sizes.items()}


def _all_alike(labels: Tensor, share: float) -> dict[int, int]:
    sizes = counts(labels, 1.0)
    equal_size = max(round(share * len(labels) / len(sizes)), 1)
    return {label: min(equal_size, size) for label, size in sizes.items()}


def _some_none(labels: Tensor, share: float) -> dict[int, int]:
    sizes = counts(labels, 1.0)
    wanted = {label: round(share * size) for label, size in sizes.items()}
    return {label: count for label, count in wanted.items() if count}


COUNTS: dict[str, Callable[[Tensor, float], dict[int, int]]] = {
    "You round down, as `int` does: 10% of 26 images is 2.6, and the nearest whole number is "
    "asked for.": (lambda labels, share: counts(labels, share, math.floor)),
    "You round up: `round` is asked for.": lambda labels, share: counts(labels, share, math.ceil),
    "A class is missing: where the share rounds to no image, one must be taken.": _some_none,
    "Every class has the same number of images. Asked for is a share of each class: large ones "
    "keep more.": _all_alike,
}

# ---- 10.2 Is one better? -------------------------------------------------------------------------


def _interval(middle: Tensor, error: Tensor, z: float = 1.96) -> Tensor:
    return 100 * torch.stack([middle, middle - z * error, middle + z * error])


def paired(right_a: Tensor, right_b: Tensor) -> Tensor:
    """The right numbers, from a count of the images on which the two networks differ."""
    n = len(right_a)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    middle = (only_a - only_b) / n
    variance = (only_a + only_b - n * middle**2) / (n - 1)
    mean, error = torch.tensor([middle, (variance / n) ** 0.5], dtype=torch.float64)
    return _interval(mean, error)


def reach(interval: Tensor) -> float:
    """Half of an interval's width, in points."""
    return float(interval[2] - interval[1]) / 2


def _moments(right_a: Tensor, right_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean difference, and the variances of both."""
    a, b = right_a.double(), right_b.double()
    return a.mean() - b.mean(), a.var(), b.var()


def apart(right_a: Tensor, right_b: Tensor) -> Tensor:
    """The interval for two networks that were asked about different images."""
    middle, of_a, of_b = _moments(right_a, right_b)
    return _interval(middle, ((of_a + of_b) / len(right_a)).sqrt())


def _gaps(right_a: Tensor, right_b: Tensor) -> Tensor:
    return right_a.double() - right_b.double()


def _by(error: Callable[[Tensor], Tensor], z: float = 1.96) -> Callable[[Tensor, Tensor], Tensor]:
    def interval(right_a: Tensor, right_b: Tensor) -> Tensor:
        gaps = _gaps(right_a, right_b)
        return _interval(gaps.mean(), error(gaps), z)

    return interval


def _standard(gaps: Tensor) -> Tensor:
    return gaps.std() / len(gaps) ** 0.5


def _where_they_differ(right_a: Tensor, right_b: Tensor) -> Tensor:
    gaps = _gaps(right_a, right_b)[right_a != right_b]  # none at all: NaN, without a warning
    variance = (gaps - gaps.mean()).square().sum() / (len(gaps) - 1)
    return _interval(gaps.mean(), (variance / len(gaps)).sqrt())


DIFFERENCES: dict[str, Callable] = {
    "You add the variances of both networks, as if they had been asked about different images. "
    "They saw the same ones: subtract image by image first.": apart,
    "The interval is that of a single image: the mean of n strays less, by the root of n.": _by(
        lambda gaps: gaps.std()
    ),
    "You divide the deviation by n; the mean of n strays by the root of n less.": _by(
        lambda gaps: gaps.std() / len(gaps)
    ),
    "This is the variance divided by n; its root is missing.": _by(
        lambda gaps: gaps.var() / len(gaps)
    ),
    "The deviation is divided by n, not by n - 1.": _by(
        lambda gaps: gaps.std(correction=0) / len(gaps) ** 0.5
    ),
    "b minus a was computed: it is a minus b.": lambda a, b: paired(b, a),
    "These are shares: percentage points were asked for.": lambda a, b: paired(a, b) / 100,
    "1.645 leaves 5% on one side alone; 1.96 leaves 2.5% on each.": _by(_standard, 1.645),
    "The reach is one standard error; 95% takes 1.96 of them.": _by(_standard, 1.0),
    "The order is: difference, low, high.": lambda a, b: paired(a, b)[torch.tensor([1, 0, 2])],
    "The order is: difference, low, high; low and high are exchanged.": (
        lambda a, b: paired(a, b)[torch.tensor([0, 2, 1])]
    ),
    "You subtract the ends of two intervals. That is wider than the interval of the difference: "
    "both networks would have to be unlucky at once, in opposite ways.": (
        lambda a, b: _interval(
            _gaps(a, b).mean(), (a.double().std() + b.double().std()) / len(a) ** 0.5
        )
    ),
    "Only the images on which the networks differ are counted. Those on which they agree say "
    "something, too: that there is no difference.": _where_they_differ,
}

# ---- 10.3 Shuffled pieces ------------------------------------------------------------------------


def shuffled(images: Tensor, piece: int, order: Tensor) -> Tensor:
    """The right picture, piece by piece."""
    result, columns = torch.empty_like(images), images.shape[3] // piece
    for image, places in enumerate(order.tolist()):
        for target, source in enumerate(places):
            (r, c), (s, d) = (divmod(index, columns) for index in (target, source))
            result[image, :, r * piece : (r + 1) * piece, c * piece : (c + 1) * piece] = images[
                image, :, s * piece : (s + 1) * piece, d * piece : (d + 1) * piece
            ]
    return result


def _turned(images: Tensor) -> Tensor:
    return images.transpose(2, 3)


def _rows_too_long(images: Tensor, piece: int, order: Tensor) -> Tensor:
    """Cut as if a row of the grid had as many pieces as a column."""
    batch, channels, height, width = images.shape
    flat = images.reshape(batch, channels, width, height)
    return shuffled(flat, piece, order).reshape(images.shape)


def _turned_pieces(images: Tensor, piece: int) -> Tensor:
    rows, columns = images.shape[2] // piece, images.shape[3] // piece
    cut = images.unflatten(3, (columns, piece)).unflatten(2, (rows, piece))  # n C r p s q
    return cut.transpose(3, 5).flatten(4, 5).flatten(2, 3)


SHUFFLES: dict[str, Callable] = {
    "The order is used the other way round: order[:, i] is the piece that comes to place i, not "
    "the place to which piece i goes.": lambda x, p, o: shuffled(x, p, o.argsort(dim=1)),
    "All images get the order of the first one.": (
        lambda x, p, o: shuffled(x, p, o[:1].expand(len(x), -1))
    ),
    "Pieces are counted column by column; they lie row by row.": (
        lambda x, p, o: _turned(shuffled(_turned(x), p, o))
    ),
    "The pieces are at their places, but each lies on its side: inside a piece, rows must stay "
    "rows.": lambda x, p, o: _turned_pieces(shuffled(x, p, o), p),
    "Nothing has moved.": lambda x, p, o: x.clone(),
    "Rows and columns are mixed up where the image is not square: a row of the grid holds W / "
    "piece pieces.": _rows_too_long,
}


# ---- 10.4 Where a square hurts -------------------------------------------------------------------


def _pictures(image: Tensor, patch_size: int, size: int, step: int = 1) -> tuple[Tensor, int, int]:
    """Return every picture with a square on it, and the number of rows and columns of places."""
    rows = (image.shape[1] // patch_size - size) // step + 1
    columns = (image.shape[2] // patch_size - size) // step + 1
    y = torch.arange(image.shape[1]) // patch_size
    x = torch.arange(image.shape[2]) // patch_size
    first_row = (torch.arange(rows * columns) // columns * step)[:, None]
    first_column = (torch.arange(rows * columns) % columns * step)[:, None]
    in_rows = (y >= first_row) & (y < first_row + size)  # (places, H)
    in_columns = (x >= first_column) & (x < first_column + size)  # (places, W)
    hidden = in_rows[:, :, None] & in_columns[:, None, :]
    return image * ~hidden[:, None], rows, columns


def _probabilities(model: Callable, images: Tensor) -> Tensor:
    return model(images).exp() / model(images).exp().sum(dim=1, keepdim=True)


def occlusion_table(
    model: Callable, image: Tensor, label: int, patch_size: int, size: int, step: int = 1
) -> Tensor:
    """The right table: how far the probability falls, for a square that moves by one patch."""
    pictures, rows, columns = _pictures(image, patch_size, size, step)
    before = _probabilities(model, image[None])[0, label]
    return (before - _probabilities(model, pictures)[:, label]).reshape(rows, columns)


def _cumulative(m: Callable, image: Tensor, label: int, p: int, k: int) -> Tensor:
    pictures, rows, columns = _pictures(image, p, k)
    covered = ((pictures != image).any(dim=1).cumsum(dim=0) > 0)[:, None]
    fall = _probabilities(m, image[None])[0, label] - _probabilities(m, image * ~covered)[:, label]
    return fall.reshape(rows, columns)


def _of(image: Tensor, p: int, k: int, value: Callable[[Tensor], Tensor]) -> Tensor:
    pictures, rows, columns = _pictures(image, p, k)
    return value(pictures).reshape(rows, columns)


def _in_pixels(m: Callable, image: Tensor, label: int, p: int, k: int) -> Tensor:
    """Hide `size` pixels from the first of each place."""
    _, rows, columns = _pictures(image, p, k)
    pictures = image.repeat(rows * columns, 1, 1, 1)
    for index in range(rows * columns):
        r, c = divmod(index, columns)
        pictures[index, :, r * p : r * p + k, c * p : c * p + k] = 0
    before = _probabilities(m, image[None])[0, label]
    return (before - _probabilities(m, pictures)[:, label]).reshape(rows, columns)


OCCLUSIONS: dict[str, Callable] = {
    "This is the probability that is left; asked for is how far it falls.": (
        lambda m, x, y, p, k: _of(x, p, k, lambda shown: _probabilities(m, shown)[:, y])
    ),
    "The sign is turned round: a fall is what there was before minus what is left.": (
        lambda m, x, y, p, k: -occlusion_table(m, x, y, p, k)
    ),
    "These are logits: take the softmax first.": (
        lambda m, x, y, p, k: _of(x, p, k, lambda shown: m(x[None])[0, y] - m(shown)[:, y])
    ),
    "Squares stay where they were: each picture must start from the untouched image. Something "
    "paints on the same tensor again and again.": _cumulative,
    "The square moves by its own size; it must move by one patch.": (
        lambda m, x, y, p, k: occlusion_table(m, x, y, p, k, step=k)
    ),
    "The square has `size` pixels: it has `size` patches, of `patch_size` pixels each.": _in_pixels,
    "The table is on its side: rows of the table are rows of the image.": (
        lambda m, x, y, p, k: occlusion_table(m, x, y, p, k).mT
    ),
    "The class is the one that the network names; it must be `label`.": (
        lambda m, x, y, p, k: occlusion_table(m, x, int(m(x[None]).argmax()), p, k)
    ),
    "The class is the one that the network names with the square on; it must be `label`.": (
        lambda m, x, y, p, k: _of(
            x,
            p,
            k,
            lambda shown: (
                _probabilities(m, x[None])[0, y] - _probabilities(m, shown).max(dim=1).values
            ),
        )
    ),
    "The fall is divided by what there was before; it is asked for in probability.": (
        lambda m, x, y, p, k: occlusion_table(m, x, y, p, k) / _probabilities(m, x[None])[0, y]
    ),
    "The last row and the last column of places are missing: with R rows of patches a square of "
    "`size` has R - size + 1 places.": lambda m, x, y, p, k: occlusion_table(m, x, y, p, k)[
        :-1, :-1
    ],
}


# ---- 10.5 Receptive field ------------------------------------------------------------------------

Layers = list[tuple[int, int]]


def field(layers: Layers) -> int:
    """The right number of pixels, from the last layer down: n features need (n - 1) s + k."""
    seen = 1
    for kernel, stride in reversed(layers):
        seen = (seen - 1) * stride + kernel
    return seen


def _upwards(
    layers: Layers, start: int = 1, less: int = 1, own: bool = False, strides: bool = True
) -> int:
    seen, step = start, 1
    for kernel, stride in layers:
        step *= stride if own and strides else 1
        seen += (kernel - less) * step
        step *= stride if strides and not own else 1
    return seen


def _last_stride(layers: Layers) -> int:
    seen, step = 1, 1
    for kernel, stride in layers:
        seen += (kernel - 1) * step
        step = stride
    return seen


FIELDS: dict[str, Callable[[Layers], int]] = {
    "Strides are forgotten: after a layer with stride 2, neighbours are twice as many pixels "
    "apart.": lambda layers: _upwards(layers, strides=False),
    "A layer's stride counts for the layer itself; it only counts for those after it.": (
        lambda layers: _upwards(layers, own=True)
    ),
    "Each layer adds its kernel; the outermost features of a kernel of k are k - 1 steps apart.": (
        lambda layers: _upwards(layers, less=0)
    ),
    "Each layer adds its kernel, and you start from 0; kernels overlap by one feature.": (
        lambda layers: _upwards(layers, start=0, less=0)
    ),
    "You start from 0: before any layer, a pixel sees itself.": (
        lambda layers: _upwards(layers, start=0)
    ),
    "Only the last stride counts in yours; the steps of all layers before multiply.": _last_stride,
    "You multiply the kernels: two kernels of 3 see 5 pixels, not 9.": (
        lambda layers: math.prod(kernel for kernel, _ in layers)
    ),
    "The layers are gone through in the wrong order.": lambda layers: field(layers[::-1]),
    "These are the pixels squared: one direction was asked for.": lambda layers: field(layers) ** 2,
    "This is the reach to one side; count both sides and the middle.": (
        lambda layers: field(layers) // 2
    ),
}


# ---- 10.6 What a feature does see ----------------------------------------------------------------


def _gradients(features: Callable, images: Tensor, place: tuple[int, int]) -> Tensor:
    """Return each image's gradient of the sum over channels at a place: (B, C, H, W)."""
    gradients = []
    for image in images:
        pixels = image.detach().clone().requires_grad_()
        value = features(pixels[None])[0, :, place[0], place[1]].sum()
        gradients.append(torch.autograd.grad(value, pixels)[0])
    return torch.stack(gradients)


def _shares(table: Tensor) -> Tensor:
    return table / table.sum()


def effective(features: Callable, images: Tensor, place: tuple[int, int]) -> Tensor:
    """The right map, image by image."""
    return _shares(_gradients(features, images, place).abs().sum(dim=1).mean(dim=0))


def _everywhere(features: Callable, images: Tensor, place: tuple[int, int]) -> Tensor:
    pixels = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(features(pixels).sum(), pixels)
    return _shares(gradient.abs().sum(dim=1).mean(dim=0))


def _each_channel(features: Callable, images: Tensor, place: tuple[int, int]) -> Tensor:
    pixels = images.detach().clone().requires_grad_()
    total = torch.zeros_like(pixels)
    values = features(pixels)[:, :, place[0], place[1]].sum(dim=0)
    for value in values:
        total = total + torch.autograd.grad(value, pixels, retain_graph=True)[0].abs()
    return _shares(total.sum(dim=1).mean(dim=0))


def _scaled_to_maximum(features: Callable, images: Tensor, place: tuple[int, int]) -> Tensor:
    shares = effective(features, images, place)
    return shares / shares.max()


EFFECTIVES: dict[str, Callable] = {
    "The sum runs over all places: only the features at `place` count.": _everywhere,
    "Images cancel each other: you average gradients with their signs. Take absolute values "
    "first.": lambda f, x, place: _shares(_gradients(f, x, place).mean(dim=0).abs().sum(dim=0)),
    "Colours cancel each other: you sum gradients over the channels of the image before you take "
    "the absolute value.": (
        lambda f, x, place: _shares(_gradients(f, x, place).sum(dim=1).abs().mean(dim=0))
    ),
    "There is no absolute value at all: shares cannot be below 0.": (
        lambda f, x, place: _shares(_gradients(f, x, place).sum(dim=1).mean(dim=0))
    ),
    "The gradients are squared: absolute values were asked for.": (
        lambda f, x, place: _shares(_gradients(f, x, place).square().sum(dim=1).mean(dim=0))
    ),
    "The place is (row, column); yours is read as (column, row).": (
        lambda f, x, place: effective(f, x, place[::-1])
    ),
    "Only the first image counts.": lambda f, x, place: effective(f, x[:1], place),
    "Each image was turned into shares, and then you took the mean: take the mean first, so that "
    "an image with small gradients counts little.": (
        lambda f, x, place: _shares(
            torch.stack([_shares(g.abs().sum(dim=0)) for g in _gradients(f, x, place)]).mean(dim=0)
        )
    ),
    "Only the first channel of the features is asked.": (
        lambda f, x, place: effective(lambda pixels: f(pixels)[:, :1], x, place)
    ),
    "You take the absolute values for each channel of the features and add them up. Asked for is "
    "the gradient of their sum.": _each_channel,
    "The map is scaled to its maximum: shares add up to 1.": _scaled_to_maximum,
    "You multiply gradients by the pixels; the gradient alone was asked for.": (
        lambda f, x, place: _shares((_gradients(f, x, place) * x).abs().sum(dim=1).mean(dim=0))
    ),
}

"""Lesson 09: what is right, and mistakes that learners make, with what to say of each.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]
Layers = list[Tensor]

# ---- 09.1 A row of tokens, back on its grid ------------------------------------------------------


def on_the_grid(row: Tensor, grid: Grid, num_prefix: int) -> Tensor:
    """Fill the places one by one."""
    result = row.new_zeros(len(row), *grid)
    for r in range(grid[0]):
        for c in range(grid[1]):
            result[:, r, c] = row[:, num_prefix + r * grid[1] + c]
    return result


def _placed(change: Callable) -> Callable:
    return lambda row, grid, p: change(on_the_grid(row, grid, p))


GRIDS: dict[str, Callable] = {
    "The prefix is taken from the end: its tokens stand in front.": (
        lambda row, grid, p: row[:, : row.shape[1] - p].reshape(len(row), *grid)
    ),
    "The patches are laid down column by column: the first `columns` of them are the upper row.": (
        lambda row, grid, p: row[:, p:].reshape(len(row), grid[1], grid[0]).mT
    ),
    "Rows and columns of the grid are swapped.": (
        lambda row, grid, p: row[:, p:].reshape(len(row), grid[1], grid[0])
    ),
    "Only the first image of the batch is there.": (lambda row, grid, p: row[0, p:].reshape(grid)),
    "A batch of one has lost its axis: (1, rows, columns) was wanted.": (
        _placed(lambda placed: placed.squeeze())
    ),
    "The map is divided by its maximum: numbers stay as they are. (And for a map of zeros it "
    "would be 0/0.)": _placed(lambda placed: placed / placed.amax((1, 2), keepdim=True)),
    "The map is divided by its sum: numbers stay as they are, what CLS keeps for itself is part of "
    "the story.": _placed(lambda placed: placed / placed.sum((1, 2), keepdim=True)),
}

# ---- 09.2 The rows of a layer --------------------------------------------------------------------


def mixed(fused: Tensor, residual: float) -> Tensor:
    """Mix with the identity and scale, image by image and row by row."""
    result = fused.clone()
    for image in range(len(fused)):
        for i in range(fused.shape[1]):
            row = (1 - residual) * fused[image, i]
            row[i] += residual
            if row.sum() > 0:
                result[image, i] = row / row.sum()
            else:
                result[image, i] = torch.eye(fused.shape[1], dtype=fused.dtype)[i]
    return result


def _before(fused: Tensor, residual: float) -> Tensor:
    """Mix, and do not scale."""
    return (1 - residual) * fused + residual * torch.eye(fused.shape[1], dtype=fused.dtype)


def _scaled(sums: Callable[[Tensor], Tensor], empty_is_identity: bool = True) -> Callable:
    """Divide by something that is not the row's own sum; by default an empty row is mended."""

    def mix(fused: Tensor, residual: float) -> Tensor:
        a = _before(fused, residual)
        result = a / sums(a)
        if not empty_is_identity:
            return result
        return torch.where(a.sum(-1, keepdim=True) > 0, result, torch.eye(a.shape[1]).to(a))

    return mix


def _scaled_first(fused: Tensor, residual: float) -> Tensor:
    return _before(mixed(fused, 0.0), residual)


def _empty_as(value: Callable[[int], float]) -> Callable:
    def mix(fused: Tensor, residual: float) -> Tensor:
        a = _before(fused, residual)
        sums = a.sum(-1, keepdim=True)
        return torch.where(sums > 0, a / sums, torch.full_like(a, value(a.shape[1])))

    return mix


_COLUMNS = (
    "Column j is divided by the sum of row j: sums of shape (T,) are laid along the columns. Keep "
    "the axis that is summed."
)
_OWN_COLUMNS = "Every column sums to 1, not every row: summed over the wrong axis?"
_TOTAL = "Each image is divided by the sum of its whole matrix: every row has a sum of its own."
_FIRST = "All images are divided by the sums of the first one: images must not know of each other."
_PAIRS = [
    (_COLUMNS, lambda a: a.sum(-1)[:, None]),
    (_OWN_COLUMNS, lambda a: a.sum(-2, keepdim=True)),
    (_TOTAL, lambda a: a.sum((1, 2), keepdim=True)),
    (_FIRST, lambda a: a[:1].sum(-1, keepdim=True)),
    (
        "The rows are divided by their maximum, not by their sum.",
        lambda a: a.amax(-1, keepdim=True),
    ),
]
MIXES: dict[str, Callable] = {cause: _scaled(sums) for cause, sums in _PAIRS}
MIXES |= {
    f"{cause} (And a row of zeros is 0/0.)": _scaled(sums, empty_is_identity=False)
    for cause, sums in _PAIRS
}
MIXES |= {
    "A row of zeros becomes NaN, 0/0: it should keep its own token.": (
        _scaled(lambda a: a.sum(-1, keepdim=True), empty_is_identity=False)
    ),
    "A row of zeros stays a row of zeros: whatever its token had collected below is lost. It "
    "should keep its own token.": _empty_as(lambda tokens: 0.0),
    "A row of zeros is spread over all tokens: it should keep its own token.": (
        _empty_as(lambda tokens: 1 / tokens)
    ),
    "Nothing scales the rows after the identity is mixed in.": _before,
    "The rows are scaled before the identity is mixed in. Then a row that is long (a sure one) "
    "and a short one count alike: mix first.": _scaled_first,
    "`residual` is not used: attention and identity are added half and half.": (
        lambda fused, residual: mixed(fused, 0.5)
    ),
    "`residual` is the share of the identity; here it is that of the attention.": (
        lambda fused, residual: mixed(fused, 1 - residual)
    ),
    "The attention keeps its full size beside the identity: its share is 1 − residual.": (
        lambda fused, residual: mixed(fused + residual * torch.eye(fused.shape[1]).to(fused), 0.0)
    ),
    "The identity is missing.": lambda fused, residual: mixed(fused, 0.0),
}

# ---- 09.4 Chefer's rule --------------------------------------------------------------------------


def chefer(weights: Layers, gradients: Layers, query: int) -> Tensor:
    """Follow one row down from the newest layer, head by head."""
    row = torch.zeros(len(weights[0]), weights[0].shape[-1]).to(weights[0])
    row[:, query] = 1
    for w, g in zip(reversed(weights), reversed(gradients), strict=True):
        product = w * g
        positive = torch.where(product > 0, product, torch.zeros_like(product))
        heads = [torch.einsum("bi,bij->bj", row, positive[:, h]) for h in range(w.shape[1])]
        row = row + sum(heads) / len(heads)
    return row


def _rule(
    evidence: Callable[[Tensor, Tensor], Tensor] = lambda w, g: (w * g).clamp_min(0).mean(1),
    step: Callable[[Tensor, Tensor], Tensor] = lambda r, a: r + a @ r,
    pick: Callable[[Tensor, int], Tensor] = lambda r, query: r[:, query],
    turn: tuple[int, int] = (1, 1),
) -> Callable:
    def relevance(weights: Layers, gradients: Layers, query: int) -> Tensor:
        r = torch.eye(weights[0].shape[-1]).to(weights[0]).expand(len(weights[0]), -1, -1)
        for w, g in zip(weights[:: turn[0]], gradients[:: turn[1]], strict=True):
            r = step(r, evidence(w, g))
        return pick(r, query)

    return relevance


RULES: dict[str, Callable] = {
    "What speaks against is dropped after the mean over heads: then a head that is for the class "
    "and one that is against it cancel. Drop it in each head.": (
        _rule(lambda w, g: (w * g).mean(1).clamp_min(0))
    ),
    "What speaks against the class is still there: negative products count as 0.": (
        _rule(lambda w, g: (w * g).mean(1))
    ),
    "What speaks against the class counts as if it spoke for it: that is the absolute value.": (
        _rule(lambda w, g: (w * g).abs().mean(1))
    ),
    "The weights are missing: multiply each with its gradient.": _rule(
        lambda w, g: g.clamp_min(0).mean(1)
    ),
    "The gradients are missing: this would be the same map for every class.": (
        _rule(lambda w, g: w.mean(1))
    ),
    "The heads are summed: take their mean.": _rule(lambda w, g: (w * g).clamp_min(0).sum(1)),
    "The largest of the heads is taken: it is their mean.": (
        _rule(lambda w, g: (w * g).clamp_min(0).amax(1))
    ),
    "The product stands the wrong way round: token i collects what the others had *below*, so the "
    "layer's matrix stands on the left of R.": _rule(step=lambda r, a: r + r @ a),
    "The layers are taken from the last to the first: R grows from the first layer on.": (
        _rule(turn=(-1, -1))
    ),
    "Weights of one layer are multiplied with gradients of another: one of the lists is "
    "reversed.": _rule(turn=(1, -1)),
    "One of the lists is reversed, and it is that of the weights.": _rule(turn=(-1, 1)),
    "What a token had already collected is forgotten in each layer: the rule adds to R.": (
        _rule(step=lambda r, a: a @ r)
    ),
    "Each layer adds its own matrix only. It must be multiplied with what the tokens have "
    "collected so far.": _rule(step=lambda r, a: r + a),
    "The rows are scaled to a sum of 1. That is rollout; here nothing is scaled.": (
        _rule(step=lambda r, a: F.normalize(a + torch.eye(a.shape[-1]).to(a), p=1, dim=-1) @ r)
    ),
    "This is a column of R: who reads the query's token. A row says what has come to it.": (
        _rule(pick=lambda r, query: r[..., query])
    ),
    "Always the row of token 0, whatever the query.": _rule(pick=lambda r, query: r[:, 0]),
    "R without the 1 on its diagonal: the query's own share is part of the row.": (
        _rule(pick=lambda r, query: (r - torch.eye(r.shape[-1]).to(r))[:, query])
    ),
}

# ---- 09.6 Deletion -------------------------------------------------------------------------------


def deletion(
    model: Callable,
    images: Tensor,
    targets: Tensor,
    order: Tensor,
    side: int,
    area: Callable = lambda curve: float(((curve[:-1] + curve[1:]) / 2).mean()),
    shown: Callable = lambda image, mask: image * ~mask,
    score: Callable = lambda logits, target: logits.softmax(0)[target],
    pick: Callable = lambda order, i: order[i],
    removed: Callable = lambda order, step: order[:step],
    per_row: Callable = lambda image, side: image.shape[2] // side,
) -> Tensor:
    """Show each image with its first 0, 1, ..., N patches under a mask; parts may be wrong."""
    areas = []
    for i, image in enumerate(images):
        patches, curve = pick(order, i).tolist(), []
        for step in range(len(patches) + 1):
            mask = torch.zeros(image.shape[1:], dtype=torch.bool)
            for patch in removed(patches, step):
                row, column = divmod(patch, per_row(image, side))
                mask[row * side : (row + 1) * side, column * side : (column + 1) * side] = True
            with torch.no_grad():
                logits = model(shown(image, mask)[None])[0]
            curve.append(float(score(logits, targets[i])))
        areas.append(area(np.array(curve)))
    return torch.tensor(areas, dtype=images.dtype)


def _deletes(**wrong: Callable) -> Callable:
    return lambda *arguments: deletion(*arguments, **wrong)


DELETIONS: dict[str, Callable] = {
    "This is the mean of the N + 1 values. The two ends, which are the same for every order, count "
    "too much: between two points, take the mean of both.": (
        _deletes(area=lambda curve: curve.mean())
    ),
    "Each step counts with its left end only: between two points, take the mean of both.": (
        _deletes(area=lambda curve: curve[:-1].mean())
    ),
    "Each step counts with its right end only: where is the whole image?": (
        _deletes(area=lambda curve: curve[1:].mean())
    ),
    "The area is that of N steps of width 1: the axis goes from 0 to 1, so a step is 1/N wide.": (
        _deletes(area=lambda curve: ((curve[:-1] + curve[1:]) / 2).sum())
    ),
    "The curve begins with one patch removed already: the whole image is its first point.": (
        _deletes(area=lambda curve: ((curve[1:-1] + curve[2:]) / 2).mean())
    ),
    "The curve ends before the last patch is removed.": (
        _deletes(area=lambda curve: ((curve[:-2] + curve[1:-1]) / 2).mean())
    ),
    "A step is 1/(N + 1) wide here: N patches make N steps.": (
        _deletes(area=lambda curve: ((curve[:-1] + curve[1:]) / 2).sum() / len(curve))
    ),
    "These are logits: the probability comes from a softmax over the classes.": (
        _deletes(score=lambda logits, target: logits[target])
    ),
    "These are logarithms of the probability.": (
        _deletes(score=lambda logits, target: logits.log_softmax(0)[target])
    ),
    "The highest probability is watched, whatever class has it: watch that of the target.": (
        _deletes(score=lambda logits, target: logits.softmax(0).max())
    ),
    "Patches are put back on an empty image, or they go in the reverse order: both have the same "
    "area, and both are the other end of the map.": (
        _deletes(pick=lambda order, i: order[i].flip(0))
    ),
    "Only one patch is gone at a time, and comes back before the next one goes.": (
        _deletes(removed=lambda patches, step: patches[max(step - 1, 0) : step])
    ),
    "All images lose the patches of the first one: each has an order of its own.": (
        _deletes(pick=lambda order, i: order[0])
    ),
    "Row and column of a patch come from a division by the number of *columns*; here it is the "
    "number of rows.": _deletes(per_row=lambda image, side: image.shape[1] // side),
    "A removed patch becomes the image's own mean: in normalised images, 0 is the mean colour.": (
        _deletes(shown=lambda image, mask: torch.where(mask, image.mean((1, 2), True), image))
    ),
}

# ---- 09.7 The pointing game ----------------------------------------------------------------------


def points(
    maps: Tensor,
    boxes: Tensor,
    inside: Callable = lambda r, c, top, bottom, left, right: (
        top <= r < bottom and left <= c < right
    ),
    best: Callable = max,
    place: Callable = lambda index, rows, columns: (index // columns, index % columns),
) -> Tensor:
    """Find the best patch of each map by going through all of them; parts may be wrong."""
    hits = []
    rows, columns = maps.shape[1:]
    for heat, box in zip(maps, boxes.tolist(), strict=True):
        numbers = heat.flatten().tolist()
        index = numbers.index(best(numbers))
        hits.append(bool(inside(*place(index, rows, columns), *box)))
    return torch.tensor(hits)


def _plays(**wrong: Callable) -> Callable:
    return lambda maps, boxes: points(maps, boxes, **wrong)


POINTS: dict[str, Callable] = {
    "Row and column come from a division by the number of *rows*: there are as many patches in a "
    "row as there are columns.": _plays(place=lambda i, rows, columns: (i // rows, i % rows)),
    "Rows and columns are swapped: those of the best patch, or those of the box, in which the rows "
    "come first.": (_plays(place=lambda i, rows, columns: (i % columns, i // columns))),
    "The edge is counted in: bottom and right are just outside the box.": (
        _plays(inside=lambda r, c, t, b, left, right: t <= r <= b and left <= c <= right)
    ),
    "The first row and column of the box are left out: top and left belong to it.": (
        _plays(inside=lambda r, c, t, b, left, right: t < r < b and left < c < right)
    ),
    "The box is read as top, left, bottom, right: it is top, bottom, left, right.": (
        _plays(inside=lambda r, c, t, b, left, right: t <= r < left and b <= c < right)
    ),
    "This is the patch with the smallest number.": _plays(best=min),
    "It is asked whether the patch is outside.": (
        _plays(inside=lambda r, c, t, b, left, right: not (t <= r < b and left <= c < right))
    ),
    "Only the row is asked about: the column must be inside, too.": (
        _plays(inside=lambda r, c, t, b, left, right: t <= r < b)
    ),
}

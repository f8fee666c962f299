"""What learners get wrong in lesson 03: functions with a mistake each, and what to say of it.

Where a right function is needed to compare with, it is written another way than the package's.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BASE = 10_000.0

# ---- 03.1 ----------------------------------------------------------------------------------------


def _shuffled(tokens: Tensor) -> Tensor:
    order = torch.randperm(tokens.shape[1] - 1)
    return torch.cat([tokens[:, :1], tokens[:, 1:][:, order]], dim=1)


def _differ(first: Tensor, second: Tensor) -> bool:
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-4)


# How order may be tested, right first; and what is wrong otherwise.
ORDER_TESTS: list[tuple[str, Callable[[Callable, Tensor], bool]]] = [
    ("", lambda network, x: _differ(network(x), network(_shuffled(x)))),
    (
        "You ask whether the outputs are equal to the last digit. Sums taken in another order are "
        "rounded otherwise, so that a network that does not notice seems to: allow for rounding.",
        lambda network, x: not torch.equal(network(x), network(_shuffled(x))),
    ),
    (
        "CLS is shuffled too. It must keep its place in front, or every network that reads its "
        "answer from there changes, whether it knows positions or not.",
        lambda network, x: _differ(network(x), network(x[:, torch.randperm(x.shape[1])])),
    ),
    (
        "You shuffle the images of the batch: tokens are along the second axis.",
        lambda network, x: _differ(network(x), network(x.flip(0))),
    ),
    (
        "You shuffle the numbers inside each token: tokens are along the second axis.",
        lambda network, x: _differ(network(x), network(x[..., torch.randperm(x.shape[2])])),
    ),
    (
        "The answer is the wrong way round: True means that the output changes.",
        lambda network, x: not _differ(network(x), network(_shuffled(x))),
    ),
    (
        "To turn the order round is one shuffle of many, and a special one: a network with "
        "positions that are the same from both ends does not notice it. Take a random order.",
        lambda network, x: _differ(network(x), network(torch.cat([x[:, :1], x[:, 1:].flip(1)], 1))),
    ),
    (
        "To push all patches on by one place is a special shuffle: a network that looks at "
        "neighbours alone hardly notices it. Take a random order.",
        lambda network, x: _differ(
            network(x), network(torch.cat([x[:, :1], x[:, 1:].roll(1, 1)], 1))
        ),
    ),
    (
        "You say True for every network. Compare what the network returns, not what it is given.",
        lambda network, x: True,
    ),
    (
        "You say False for every network: is the shuffled copy the one that the network is given?",
        lambda network, x: False,
    ),
]


def networks(tokens: int, width: int) -> dict[str, tuple[Callable[[Tensor], Tensor], bool]]:
    """Small networks, what they do -> (function of the tokens, whether it notices their order)."""
    table, one = torch.randn(1, tokens, width), torch.randn(1, 1, width)
    half = torch.randn(1, tokens - 1, width)
    mirrored = torch.cat([one, half + half.flip(1)], dim=1)

    def cls_looks(x: Tensor) -> Tensor:
        weights = (x[:, :1] @ x[:, 1:].mT / width).softmax(dim=-1)
        return (x[:, :1] + weights @ x[:, 1:].sin())[:, 0]

    return {
        "answers the same to everything": (lambda x: torch.ones(len(x), 3), False),
        "takes the mean of its tokens": (lambda x: x.mean(dim=1), False),
        "lets CLS look at the patches, without positions": (cls_looks, False),
        "adds a vector for each place": (lambda x: cls_looks(x + table), True),
        "adds one vector to all tokens": (lambda x: cls_looks(x + one), False),
        "adds positions that are the same from both ends": (
            lambda x: cls_looks(x + mirrored),
            True,
        ),
        "multiplies each patch with the next": (
            lambda x: (x[:, 1:] * x[:, 1:].roll(1, 1)).sum(dim=(1, 2))[:, None] / 100,
            True,
        ),
        "takes the mean of all numbers": (lambda x: x.mean(dim=(1, 2))[:, None], False),
        "takes the mean over all images": (
            lambda x: x.mean(dim=(0, 1)).expand(len(x), -1),
            False,
        ),
    }


# ---- 03.2 ----------------------------------------------------------------------------------------

ADD_CAUSES: dict[str, Callable] = {
    "All tokens get the same row, that of token 0: then no token knows its place.": (
        lambda x, p: x + p[:, :1]
    ),
    "All tokens get the same vector, the mean of all positions: then no token knows its place.": (
        lambda x, p: x + p.mean(dim=1, keepdim=True)
    ),
    "CLS gets no position. There is a row for every token, CLS included.": (
        lambda x, p: torch.cat([x[:, :1], x[:, 1:] + p[:, 1:]], dim=1)
    ),
    "One place off: the patches get the rows before theirs.": (
        lambda x, p: torch.cat([x[:, :1], x[:, 1:] + p[:, :-1]], dim=1)
    ),
    "The positions run the wrong way round.": lambda x, p: x + p.flip(1),
    "Positions are added to the tokens; you multiply.": lambda x, p: x * p,
    "You return the tokens as they came, without positions.": lambda x, p: x.clone(),
}


# ---- 03.3 ----------------------------------------------------------------------------------------


def _products(x: Tensor) -> Tensor:
    return x @ x.mT


def _lengths(x: Tensor) -> Tensor:
    return x.norm(dim=1, keepdim=True)


ALIKE_CAUSES: dict[str, Callable] = {
    "These are plain dot products: long vectors win. Divide by the lengths.": _products,
    "You divide by the length of the first vector only; the cosine takes both lengths.": (
        lambda x: _products(x) / _lengths(x)
    ),
    "You divide by the length of the second vector only; the cosine takes both lengths.": (
        lambda x: _products(x) / _lengths(x).mT
    ),
    "You divide by squared lengths: each vector's length counts once.": (
        lambda x: _products(x) / (_lengths(x) * _lengths(x).mT) ** 2
    ),
    "The lengths are taken along the wrong axis: a position is one row.": (
        lambda x: _products(F.normalize(x, dim=0))
    ),
    "You divide everything by the length of all rows together; each row has its own.": (
        lambda x: _products(x / x.norm())
    ),
    "These are distances, which are 0 where positions are the same; expected cosines.": (
        lambda x: torch.cdist(x, x)
    ),
    "This is 1 minus the cosine, a distance; expected the cosine itself.": (
        lambda x: 1 - _products(F.normalize(x, dim=1))
    ),
    "You take the mean out of every row first: that gives correlations, not cosines.": (
        lambda x: _products(F.normalize(x - x.mean(dim=1, keepdim=True), dim=1))
    ),
}


# ---- 03.4 ----------------------------------------------------------------------------------------


def sincos_by_hand(positions: Tensor, dim: int) -> Tensor:
    """The formula, number by number, in float64."""
    rows = [
        [
            (math.cos if entry % 2 else math.sin)(p / BASE ** (entry // 2 * 2 / dim))
            for entry in range(dim)
        ]
        for p in positions.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, dim).to(positions.dtype)


def _sincos(
    positions: Tensor, frequencies: Tensor, pair: tuple[Callable, Callable] = (torch.sin, torch.cos)
) -> Tensor:
    """What comes of the frequencies that were taken, sine and cosine taking turns."""
    angles = positions[:, None] * frequencies.to(positions)
    return torch.stack([wave(angles) for wave in pair], dim=-1).flatten(1)


def _powers(exponents: Tensor, base: float = BASE) -> Tensor:
    return base ** -exponents.double()


def _even(dim: int) -> Tensor:
    return torch.arange(0, dim, 2).double()


SINCOS_CAUSES: dict[str, Callable] = {
    "All sines stand in the first half and all cosines in the second. Here they take turns: entry "
    "0 is a sine, entry 1 the cosine of the same angle, entry 2 the next sine.": (
        lambda p, d: _sincos(p, _powers(_even(d) / d)).unflatten(1, (-1, 2)).mT.flatten(1)
    ),
    "Sine and cosine are swapped: the sine stands first.": (
        lambda p, d: _sincos(p, _powers(_even(d) / d), (torch.cos, torch.sin))
    ),
    "The frequencies fall too slowly: an exponent that runs through 0, 1, 2, ... where it is 2i "
    "that is divided by dim, or a base of 100 where it is 10,000 (both come to the same).": (
        lambda p, d: _sincos(p, _powers(torch.arange(d // 2) / d))
    ),
    "2i is divided by dim / 2; the formula divides it by dim.": (
        lambda p, d: _sincos(p, _powers(_even(d) / (d / 2)))
    ),
    "Sine and cosine of a pair turn at different speeds: entry 2i + 1 takes the frequency of "
    "entry 2i.": lambda p, d: torch.where(
        torch.arange(d) % 2 == 0,
        (p[:, None] * _powers(torch.arange(d) / d).to(p)).sin(),
        (p[:, None] * _powers(torch.arange(d) / d).to(p)).cos(),
    ),
    "The frequencies grow where they should fall: the exponent has a minus, or else the position "
    "is divided.": lambda p, d: _sincos(p, _powers(-_even(d) / d)),
    "The slowest frequency is 1 / base exactly: you divide by one less than there are. In the "
    "formula the exponent is 2i / dim.": (
        lambda p, d: _sincos(p, _powers(torch.arange(d // 2) / max(d // 2 - 1, 1)))
    ),
    "The base is 10,000 here, not 1,000.": lambda p, d: _sincos(p, _powers(_even(d) / d, 1000.0)),
    "There is no 2π in the formula: the angle is position times frequency, in radians.": (
        lambda p, d: _sincos(p, 2 * math.pi * _powers(_even(d) / d))
    ),
    "The positions are given: you add 1 to them.": (
        lambda p, d: _sincos(p + 1, _powers(_even(d) / d))
    ),
    "All sines: every second entry must be a cosine.": (
        lambda p, d: _sincos(p, _powers(_even(d) / d), (torch.sin, torch.sin))
    ),
    "You number the positions yourself; take those that are given, which need not be 0, 1, 2.": (
        lambda p, d: _sincos(torch.arange(len(p)).to(p), _powers(_even(d) / d))
    ),
}


# ---- 03.5 ----------------------------------------------------------------------------------------


def grid_by_hand(grid: tuple[int, int], dim: int) -> Tensor:
    """Encode every patch of a grid, one by one: the row beside the column."""
    rows, columns = grid
    vectors = [
        torch.cat(
            [sincos_by_hand(torch.tensor([float(place)]), dim // 2)[0] for place in (row, column)]
        )
        for row in range(rows)
        for column in range(columns)
    ]
    return torch.stack(vectors)


def _numbers(grid: tuple[int, int]) -> Tensor:
    return torch.arange(float(grid[0] * grid[1]))


def _pair(first: Tensor, second: Tensor, dim: int) -> Tensor:
    return torch.cat([sincos_by_hand(first, dim // 2), sincos_by_hand(second, dim // 2)], dim=1)


GRID_CAUSES: dict[str, Callable] = {
    "Row and column are swapped: the first half of the vector is for the row.": (
        lambda g, d: _pair(_numbers(g) % g[1], _numbers(g) // g[1], d)
    ),
    "You go down the columns; patches are counted along the rows, like words on a page.": (
        lambda g, d: _pair(_numbers(g) % g[0], _numbers(g) // g[0], d)
    ),
    "You divide by the number of rows. How many patches does one row hold?": (
        lambda g, d: _pair(_numbers(g) // g[0], _numbers(g) % g[0], d)
    ),
    "The encodings of row and column are added; they stand side by side, half the width each, so "
    "that they cannot be mixed up.": (
        lambda g, d: sincos_by_hand(_numbers(g) // g[1], d) + sincos_by_hand(_numbers(g) % g[1], d)
    ),
    "This encodes the number of the patch, in one dimension: patches one above the other are "
    "neighbours too.": lambda g, d: sincos_by_hand(_numbers(g), d),
    "Row and column take turns; the row has the first half of the vector, the column the second.": (
        lambda g, d: (
            _pair(_numbers(g) // g[1], _numbers(g) % g[1], d).unflatten(1, (2, -1)).mT.flatten(1)
        )
    ),
    "Each half is cut out of an encoding of the full width, so that its frequencies are wrong: "
    "encode row and column with half the width.": lambda g, d: torch.cat(
        [
            sincos_by_hand(_numbers(g) // g[1], d)[:, : d // 2],
            sincos_by_hand(_numbers(g) % g[1], d)[:, : d // 2],
        ],
        dim=1,
    ),
    "Rows and columns are counted from 0.": (
        lambda g, d: _pair(_numbers(g) // g[1] + 1, _numbers(g) % g[1] + 1, d)
    ),
}


# ---- 03.6 ----------------------------------------------------------------------------------------


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotation as a product of complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(pairs * turn).flatten(-2)


def _from(first: Callable, second: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    """Pairs (a, b) of neighbours, and what becomes of each."""

    def wrong(x: Tensor, angles: Tensor) -> Tensor:
        a, b, c, s = x[..., 0::2], x[..., 1::2], angles.cos(), angles.sin()
        return torch.stack([first(a, b, c, s), second(a, b, c, s)], dim=-1).flatten(-2)

    return wrong


def _halves(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    c, s = angles.cos(), angles.sin()
    return torch.cat([a * c - b * s, a * s + b * c], dim=-1)


TURN_CAUSES: dict[str, Callable] = {
    "You pair channel i with channel i + d/2. Such a rotation exists in other code, and needs "
    "other weights; here neighbours form a pair: 0 and 1, 2 and 3, ...": _halves,
    "The rotation goes the other way round: check the sign of the sines.": (
        _from(lambda a, b, c, s: a * c + b * s, lambda a, b, c, s: b * c - a * s)
    ),
    "A minus is missing: this is no rotation, lengths change. (1, 0) turned by 90 degrees is "
    "(0, 1); (0, 1) turned by 90 degrees is (-1, 0).": (
        _from(lambda a, b, c, s: a * c + b * s, lambda a, b, c, s: a * s + b * c)
    ),
    "Both have a minus: this is no rotation, lengths change.": (
        _from(lambda a, b, c, s: a * c - b * s, lambda a, b, c, s: a * s - b * c)
    ),
    "The second number of each pair is computed from the new first one: keep the old one.": (
        _from(
            lambda a, b, c, s: a * c - b * s,
            lambda a, b, c, s: (a * c - b * s) * s + b * c,
        )
    ),
    "Sine and cosine are swapped: an angle of 0 must change nothing.": (
        _from(lambda a, b, c, s: a * s - b * c, lambda a, b, c, s: a * c + b * s)
    ),
    "The pairs are turned rightly, but put back in halves: first all first numbers, then all "
    "second ones. Each must return to its own channel.": (
        lambda x, angles: turned(x, angles).unflatten(-1, (-1, 2)).mT.flatten(-2)
    ),
    "The angles are in radians already.": lambda x, angles: turned(x, torch.deg2rad(angles)),
    "You only multiply with the cosine; the other number of the pair takes part too.": (
        _from(lambda a, b, c, s: a * c, lambda a, b, c, s: b * c)
    ),
}


# ---- 03.7 ----------------------------------------------------------------------------------------


def _stretched(
    image: Tensor, size: tuple[int, int], mode: str = "bicubic", antialias: bool = True
) -> Tensor:
    options = {"antialias": antialias} if mode in ("bicubic", "bilinear") else {}
    return F.interpolate(image, size=tuple(size), mode=mode, **options)


def _as_image(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Row by row: (1, 1 + N, D) -> (1, D, rows, columns)."""
    return table[:, 1:].mT.reshape(1, -1, *grid)


def _as_table(prefix: Tensor, image: Tensor) -> Tensor:
    return torch.cat([prefix, image.flatten(2).mT], dim=1)


def resampled(table: Tensor, old: tuple[int, int], new: tuple[int, int], **options: Any) -> Tensor:
    """Stretch a table with one prefix row, channels first and back again."""
    return _as_table(table[:, :1], _stretched(_as_image(table, old), new, **options))


RESAMPLE_CAUSES: dict[str, Callable] = {
    "CLS is stretched together with the patches, as if all were one line. It has no place in the "
    "image: take its row out first, and put it back unchanged.": (
        lambda t, old, new: F.interpolate(t.mT, size=1 + new[0] * new[1], mode="linear").mT
    ),
    "The patches are stretched as one long line. Lay them out as an image of rows and columns "
    "first: a patch is also a neighbour of the one below.": lambda t, old, new: torch.cat(
        [t[:, :1], F.interpolate(t[:, 1:].mT, size=new[0] * new[1], mode="linear").mT], dim=1
    ),
    "Rows and columns are swapped when the old positions are laid out as an image.": (
        lambda t, old, new: _as_table(t[:, :1], _stretched(_as_image(t, old[::-1]), new))
    ),
    "The new grid is taken as (columns, rows): it is (rows, columns).": (
        lambda t, old, new: _as_table(t[:, :1], _stretched(_as_image(t, old), new[::-1]))
    ),
    "The stretched image is read down its columns; patches are counted along the rows.": (
        lambda t, old, new: _as_table(t[:, :1], _stretched(_as_image(t, old), new).mT)
    ),
    "A `reshape` alone scrambles the positions: their channels are last, an image has them first. "
    "Move the axis, then lay out the grid.": lambda t, old, new: _as_table(
        t[:, :1], _stretched(t[:, 1:].reshape(1, -1, *old), new)
    ),
    "This takes the nearest old row for each new place; asked for is bicubic.": (
        lambda t, old, new: resampled(t, old, new, mode="nearest")
    ),
    "This is bilinear interpolation; asked for is bicubic.": (
        lambda t, old, new: resampled(t, old, new, mode="bilinear")
    ),
    "This is bilinear interpolation, without antialiasing; asked for is bicubic, with it.": (
        lambda t, old, new: resampled(t, old, new, mode="bilinear", antialias=False)
    ),
    "`antialias=True` is missing: onto a smaller grid, rows would be skipped instead of mixed.": (
        lambda t, old, new: resampled(t, old, new, antialias=False)
    ),
    "`align_corners=True` lays the corner patches upon each other; leave it at False, which lays "
    "the edges of the pictures upon each other.": lambda t, old, new: _as_table(
        t[:, :1],
        F.interpolate(_as_image(t, old), size=new, mode="bicubic", align_corners=True),
    ),
    "The row of CLS stands at the end; it belongs in front.": lambda t, old, new: resampled(
        t, old, new
    ).roll(-1, 1),
    "The row of CLS is lost: zeros stand in its place.": lambda t, old, new: _as_table(
        torch.zeros_like(t[:, :1]), _stretched(_as_image(t, old), new)
    ),
}

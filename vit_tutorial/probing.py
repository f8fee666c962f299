"""Find out by trials where each token of a network looks, and which tokens its head reads.

Both are measured, not read off its layers: so patches may be rectangles or overlap, and the network
may resize or crop the image itself. A trial runs the network, up to its first attention, on an
image in which some rows or columns of pixels are changed: about 120 such images for 224x224 pixels,
which take as long as 3 to 8 whole passes (as 100, where nearly all of the network is convolutions
that make the tokens). Whether tokens keep their order from layer to layer takes a pass of four
images, what the head reads one more of one. What is found is kept for a network, a size and a type
of image until its weights or settings change (`places_of`, `head_reads`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vit_tutorial.calls import FusedCall, maps_of
from vit_tutorial.modes import attributes_kept
from vit_tutorial.watching import Watch, derivatives

Box = tuple[float, float, float, float]
Read = Callable[[Any, int], list[Tensor]]  # an output, and the images that it is of -> its tensors

BANDS = 16  # of rows or columns of pixels that are changed together at first
FINE = 32  # trials at most, on an axis, where tokens see more than twice as many pixels
SEEN = 1e-3  # of the largest change of a token, from which on a pixel is one that it sees
PIXELS = 2**20  # in the images that run together


@dataclass(frozen=True)
class Places:
    """Where the tokens of a network lie: `num_prefix` without a place, then a grid of patches.

    `box` is the part of the image that the grid covers, in pixels: left, top, right, bottom; its
    cells lie around the middle of what each token sees. `batch_first` says of weights
    (B * heads, T, T) whether the heads of an image lie together; None, where there are none such.
    """

    grid: tuple[int, int]
    num_prefix: int
    box: Box
    batch_first: bool | None = None


# network -> what was found, with the state of the weights that it was found for
_FOUND: WeakKeyDictionary[nn.Module, dict[Any, tuple[Any, Any]]] = WeakKeyDictionary()


def weights_state(model: nn.Module) -> list[tuple[int, int]]:
    """Return what changes when the weights of a network do: where they lie, and how often changed.

    What is written through `.data`, as a training step never does, is not seen.
    """
    return [
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for tensor in (*model.parameters(), *model.buffers())
    ]


def _settings(model: nn.Module) -> list[Any]:
    """Return what else decides what a network computes: the plain attributes of its modules."""
    found: list[Any] = []
    for module in model.modules():
        found.append(type(module))
        inside = [vars(part) for part in vars(module).values() if hasattr(part, "__dict__")]
        for holder in (vars(module), *inside):
            for name, value in holder.items():
                if isinstance(value, bool | int | float | str | tuple) and name != "training":
                    found.append((name, repr(value)))
                elif callable(value) and hasattr(value, "__qualname__"):
                    found.append((name, id(value)))
    return found


def once(model: nn.Module, what: Any, find: Callable[[], Any]) -> Any:
    """Return what was found before of a model, unless it has changed since."""
    state = weights_state(model), _settings(model)
    found = _FOUND.setdefault(model, {})
    if what not in found or found[what][0] != state:
        with attributes_kept(model):
            found[what] = state, find()
    return found[what][1]


def places_of(model: nn.Module, images: Tensor, num_tokens: int) -> Places:
    """Find where the tokens of a network look in images (B, C, H, W) of this size.

    Raises:
        ValueError: tokens that do not look at one place each, not on a grid, not row by row, or
            not at the same place in each pass.
    """
    image = images[:1].detach()
    what = ("places", image.shape, image.dtype, image.device, num_tokens)
    return once(model, what, lambda: _find_places(model, image))


# ---- where tokens look ----


class _Reached(Exception):
    """The first attention has been reached; the rest of the forward pass is not needed."""


class _FirstAttention(Watch):
    """Run a network up to its first attention of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = ()  # of the weights
        self.weights: Tensor | None = None  # (B * heads, T, T), in an order still to be found out
        self.queries: Tensor | None = None
        self.by_scores = False

    def meet(self, shape: tuple[int, ...], queries: Tensor) -> None:
        self.queries = queries

    def fused(self, call: FusedCall) -> Tensor:
        if call.shape[-2] != call.shape[-1]:
            return call.run()
        query, value = call.query, call.value
        if query.shape == value.shape and bool((query == query[..., :1, :]).all()):
            self.queries = value  # of a network whose tokens all ask the same
        raise self._reached(call.shape, call.weights)

    def written_out(self, weights: Tensor) -> Tensor:
        if weights.shape[-2] != weights.shape[-1]:
            return weights
        raise self._reached(tuple(weights.shape), lambda: weights)

    def _reached(self, shape: tuple[int, ...], weights: Callable[[], Tensor]) -> _Reached:
        assert self.queries is not None
        self.shape, self.queries, self.by_scores = shape, self.queries.detach(), self.scored
        self.weights = weights().detach() if len(shape) == 3 else None
        return _Reached()


def _first_attention(model: nn.Module, images: Tensor) -> _FirstAttention:
    watch = _FirstAttention()
    with torch.no_grad(), suppress(_Reached), watch:
        try:
            model(images.clone())  # which it may change
        except (ValueError, torch.OutOfMemoryError, _Reached):
            raise
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} does not run on {len(images)} images at once, as it has "
                f"to where it is measured what its tokens see: {error}"
            ) from error
    return watch


def _find_places(model: nn.Module, image: Tensor) -> Places:
    name = type(model).__name__
    trial = _Trial(model, image)
    rows, columns = trial.seen(2), trial.seen(3)  # (T, H) and (T, W)
    sees = (rows.amax(dim=1) > 0) & (columns.amax(dim=1) > 0)
    if not sees.any():
        raise ValueError(
            f"cannot see where the tokens of {name} look: none changed with the image. Does it "
            "read the image, and are its numbers finite?"
        )
    num_prefix = int(sees.int().argmax())
    if not sees[num_prefix:].all():
        behind = [n for n in range(num_prefix, len(sees)) if not sees[n]]
        raise ValueError(
            f"expected the tokens of {name} that look at no part of the image (a class token, "
            f"registers) before the patches, but tokens {_some(behind)} stand behind or between "
            "them"
        )
    rows, columns = rows[num_prefix:], columns[num_prefix:]
    if trial.apart or max(_largest_gap(rows), _largest_gap(columns)) > 0.25:
        raise ValueError(
            f"a token of {name} looks at several separate places (windows, or several views of the "
            "image), so its map cannot be drawn: use a network in which all patches see each other "
            "(ViT, DeiT, BEiT, DINOv2)"
        )
    for middle in (_middle_of_support, _centre_of_mass):
        lines = _grid(middle(rows), middle(columns), rows, columns)
        if lines is not None:
            grid, (top, bottom), (left, right) = lines
            trial.require_order(
                _cells(grid[0], top, bottom, image.shape[2]),
                _cells(grid[1], left, right, image.shape[3]),
            )
            return Places(grid, num_prefix, (left, top, right, bottom), trial.batch_first)
    raise ValueError(_no_grid(name, rows, columns, num_prefix))


def _cells(count: int, begin: float, end: float, size: int) -> Tensor:
    """Say of each pixel on an axis in which of `count` cells it lies: (size,)."""
    cell = ((torch.arange(size) + 0.5 - begin) * count / (end - begin)).floor()
    return cell.long().clamp(0, count - 1)


class _EachToItself(Watch):
    """Let every token look at itself alone, in all layers, and see which change with an image.

    The first image of the batch is followed by changed ones.
    """

    def __init__(self, images: int, batch_first: bool) -> None:
        super().__init__()
        self.images, self.batch_first = images, batch_first
        self.of_all = False
        self.unknown = False  # values in another order than batch, heads, tokens
        self.clear: Tensor | None = None  # the patches that change at first
        self.lost: list[float] = []  # of them, the part that does not in each call

    def meet(self, shape: tuple[int, ...], queries: Tensor) -> None:
        self.of_all = shape[-2] == shape[-1]

    def fused(self, call: FusedCall) -> Tensor:
        return call.values().clone() if self.of_all else call.run()

    def written_out(self, weights: Tensor) -> Tensor:
        own = torch.eye(weights.shape[-1]).to(weights)
        return own.expand_as(weights).clone() if self.of_all else weights

    def meet_values(self, values: Tensor) -> None:
        maps = maps_of(values.detach(), self.images, self.batch_first) if self.of_all else None
        self.unknown |= self.of_all and maps is None
        if maps is None:
            return
        change = (maps[1:] - maps[:1]).abs().nan_to_num().amax(dim=(1, 3))  # (changed images, T)
        if not change.amax(dim=1).all():  # values that say nothing of the image: silenced
            return
        change = change / change.amax(dim=1, keepdim=True)
        if self.clear is None:
            self.clear = change > 0.1
        clear = self.clear
        self.lost.append(float((((change < 0.01) & clear).sum(1) / clear.sum(1)).max()))


class _Trial:
    """Change rows or columns of pixels of an image, and see which tokens change."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        self.model, self.image = model, image
        draw = torch.Generator().manual_seed(0)
        values = image.float()
        spread = max(float(values.var(correction=0)) ** 0.5, float(values.mean().abs()) / 2)
        noise = torch.randn(image.shape, generator=draw) * (spread if spread > 1e-3 else 1.0)
        self.noise = noise.to(image)
        self.batch_size = max(3, min(32, PIXELS // (image.shape[2] * image.shape[3])))
        self.base: Tensor | None = None  # features of the image itself, in the first run
        self.by_scores = False  # are they scores, or what asks
        self.noisy = False  # do they change although it does not (quantised networks)
        self.apart = False  # do the heads of a token look at places of their own (windows)
        self.batch_first = self._batch_first()

    def _batch_first(self) -> bool | None:
        """Find out in what order weights (B * heads, T, T) lie."""
        alone = _first_attention(self.model, self.image)
        if alone.weights is None or len(alone.weights) == 1:
            return None
        pair = _first_attention(self.model, torch.cat([self.image, self.image + self.noise]))
        mine, both = alone.weights, pair.weights
        assert both is not None
        for batch_first, part in ((True, both[: len(mine)]), (False, both[::2])):
            if torch.allclose(part, mine, rtol=1e-3, atol=1e-5):
                return batch_first
        raise ValueError(
            f"cannot tell the heads of {type(self.model).__name__} from its images in weights of "
            f"shape {tuple(both.shape)} for two images: record one image at a time"
        )

    def seen(self, dim: int) -> Tensor:
        """Measure how much each row (dim 2) or column (3) of pixels changes each token: (T, size).

        At first bands of them are changed, to see how far a token sees at most; then single ones,
        together with those so far away that no token sees two.
        """
        size = self.image.shape[dim]
        at = torch.arange(size)
        if size <= 3 * BANDS:
            return self._by_all_heads(self._changes(torch.eye(size, dtype=torch.bool), dim))
        width = -(-size // BANDS)
        bands = at // width == torch.arange(-(-size // width))[:, None]
        seen = self._by_all_heads(self._changes(bands, dim)) > 0  # (T, bands)
        first = seen.int().argmax(dim=1)
        last = seen.shape[1] - 1 - seen.flip(1).int().argmax(dim=1)
        far = torch.where(seen.any(dim=1), last - first + 1, 0).max().item() * width
        apart = max(1, min(size, int(far)))
        thick = 1 if apart <= 2 * FINE else -(-apart // FINE)  # of large fields no edge is wanted
        line = at % apart // thick
        change = self._changes(line == torch.arange(int(line.max()) + 1)[:, None], dim)
        start = (first * width)[:, None]
        inside = (at >= start) & (at < start + apart) & seen.any(dim=1)[:, None]
        return self._by_all_heads(change[:, :, line] * inside)

    def _by_all_heads(self, change: Tensor) -> Tensor:
        """Join what the heads see, and find out if it is not the same: (h, T, N) -> (T, N)."""
        most = change.amax(dim=2, keepdim=True)
        together = ((change > SEEN * most) | (most == 0)).all(dim=0)  # of all heads that see any
        self.apart |= bool((~together).all(dim=1).any())
        return _cleared(change.mean(dim=0), self.noisy)

    def _changes(self, masks: Tensor, dim: int) -> Tensor:
        """Measure how much each token changes, head by head, with the pixels of each mask.

        Returns (h, T, masks).
        """
        changes = []
        for some in masks.split(self.batch_size - 1):
            shape = [1, 1, 1, 1]
            shape[0], shape[dim] = some.shape
            changed = self.image + self.noise * some.view(shape).to(self.image)
            fill = self.image.expand(self.batch_size - len(some), -1, -1, -1)
            features = self._features(torch.cat([fill, changed]))  # equal sizes round equally
            self._compare_with_the_first_run(features[0])
            change = (features[len(fill) :] - features[:1]).abs()
            changes.append(_change_of_tokens(change, self.by_scores))
        own, others = (torch.cat(part).cpu() for part in zip(*changes, strict=True))
        return (own if own.any() else others).movedim(0, 2)

    def _features(self, images: Tensor) -> Tensor:
        """Return what asks in the first attention (B, h, T, d), or its scores (B, h, T, T)."""
        watch = _first_attention(self.model, images)
        if not watch.shape or watch.queries is None:
            raise ValueError(f"{type(self.model).__name__} attends in one pass and not in another")
        count = len(watch.queries)
        if count % len(images) or (watch.queries.ndim > 3 and count != len(images)):
            raise ValueError(
                f"{type(self.model).__name__} attends to one image after the other, or with heads "
                f"before images: {tuple(watch.queries.shape)} for {len(images)} images. Write it "
                "so that they come first: (B, heads, ...) or (B * heads, ...)"
            )
        maps = maps_of(watch.queries, len(images), self.batch_first)
        self.by_scores = watch.by_scores
        return maps.double() if maps.dtype == torch.float64 else maps.float()

    def require_order(self, rows: Tensor, columns: Tensor) -> None:
        """See that token n is the same patch in all layers: some are changed, and each by itself.

        Raises:
            ValueError: patches that change at first, and others in their place later on.
        """
        draw = torch.Generator().manual_seed(0)
        some = torch.rand(int(rows.max()) + 1, int(columns.max()) + 1, generator=draw) > 0.5
        corner = torch.zeros_like(some)
        corner[: -(-len(some) // 2), : -(-some.shape[1] // 2)] = True
        # a little too, which leaves an order alone that depends on the image
        little = 1.0 if self.noisy or self.image.dtype.itemsize < 4 else 1e-3
        cells = torch.stack([some, corner, little * some])
        for part in cells.split(self.batch_size - 1):
            changed = self.image + self.noise * part[:, None, rows][..., columns].to(self.image)
            watch = _EachToItself(1 + len(part), self.batch_first is not False)
            with torch.no_grad(), watch:
                self.model(torch.cat([self.image, changed]))
            lost = max(watch.lost, default=0.0)
            if lost > 0.2 and not watch.unknown:
                raise ValueError(
                    f"{type(self.model).__name__} puts its tokens into another order between its "
                    f"layers (before call {watch.lost.index(lost)} of its attention: sorted, "
                    "shifted, reversed), so its layers cannot be joined: record a part that keeps "
                    "their order"
                )

    def _compare_with_the_first_run(self, features: Tensor) -> None:
        if self.base is None:
            self.base = features
        if torch.equal(features, self.base):
            return
        self.noisy = True
        finite = features.isfinite() & self.base.isfinite()
        differs = (features - self.base)[finite].abs().mean()
        if differs > 0.1 * (self.base[finite] - self.base[finite].mean()).abs().mean():
            raise ValueError(
                f"the tokens of {type(self.model).__name__} are others in each pass over the same "
                "image (shuffled, masked or dropped at random), so no map can be drawn: switch "
                "that off"
            )


def _change_of_tokens(change: Tensor, by_scores: bool) -> tuple[Tensor, Tensor]:
    """Take the change of each token (N, h, T) from that of what asks, (N, h, T, d), or of scores.

    Of scores (N, h, T, T) it is that of a token with itself, and beside it, for networks that mask
    that (locality attention), that with others, of which one at least stays.
    """
    change = change.nan_to_num()
    if not by_scores:
        return change.mean(dim=3), change.mean(dim=3)
    second = change.kthvalue(min(2, change.shape[-1]), dim=-1).values
    return change.diagonal(dim1=2, dim2=3), second


def _cleared(change: Tensor, noisy: bool) -> Tensor:
    """Set to 0 what is too small beside a token's largest change to come from what it sees."""
    least = SEEN * change.amax(dim=1, keepdim=True)
    if noisy:  # most trials change nothing that a token sees: what they do to it is rounding
        floor = change.quantile(0.25, dim=1, keepdim=True)
        least = torch.where(floor < 100 * least, (4 * floor).clamp_min(least), least)
    return change.masked_fill(change <= least, 0)


def _middle_of_support(seen: Tensor) -> Tensor:
    """Find the middle between the first and the last pixel that a token sees: (N, size) -> (N,)."""
    some = (seen > 0).int()
    return (some.argmax(dim=1) + seen.shape[1] - some.flip(1).argmax(dim=1)).double() / 2


def _centre_of_mass(seen: Tensor) -> Tensor:
    """Find where a token that sees nearly everything looks most: (N, size) -> (N,)."""
    weight = seen.double().square()
    return (weight * (torch.arange(seen.shape[1]) + 0.5)).sum(dim=1) / weight.sum(dim=1)


Line = tuple[float, float]  # of a grid, on one axis: where it begins and ends


def _grid(
    y: Tensor, x: Tensor, rows: Tensor, columns: Tensor
) -> tuple[tuple[int, int], Line, Line] | None:
    """Find the grid, and where it lies, of patches at (y, x), row by row; None, where it is none.

    `rows` (N, H) and `columns` (N, W) are what they see.
    """
    back = (x.diff() <= 0.25).nonzero()
    wide = int(back[0]) + 1 if len(back) else len(x)
    if len(x) % wide:
        return None
    y, x = y.view(-1, wide), x.view(-1, wide)
    vertical = _line(y.median(dim=1).values, rows)
    horizontal = _line(x.median(dim=0).values, columns)
    if vertical is None or horizontal is None:
        return None
    for places, line, along in ((y, vertical, 0), (x, horizontal, 1)):
        count = places.shape[along]
        pitch = (line[1] - line[0]) / count
        expected = line[0] + pitch * (torch.arange(count, dtype=torch.double) + 0.5)
        expected = expected[:, None] if along == 0 else expected
        if ((places - expected).abs() > pitch / 2).any():
            return None
    return (y.shape[0], wide), vertical, horizontal


def _line(middles: Tensor, seen: Tensor) -> Line | None:
    """Find where equal cells around these middles begin and end; None, where they are not equal."""
    count = len(middles)
    if count == 1:
        places = (seen > 0).any(dim=0).nonzero()
        return float(places[0]), float(places[-1]) + 1
    inner = slice(1, -1) if count > 3 else slice(None)  # at the edge, what is seen is cut off
    middle = middles[inner]
    pitch = float(middle[-1] - middle[0]) / (len(middle) - 1)
    if pitch <= 0.25:
        return None
    number = torch.arange(count, dtype=torch.double)
    begin = float((middles - pitch * (number + 0.5))[inner].median())
    return begin, begin + pitch * count


def _no_grid(name: str, rows: Tensor, columns: Tensor, num_prefix: int) -> str:
    share = ((rows > 0).double().mean() * (columns > 0).double().mean()).item()
    if share > 0.5:
        why = "each of them sees nearly the whole image before the first attention"
    else:
        y, x = _middle_of_support(rows), _middle_of_support(columns)
        first = ", ".join(
            f"({a:g}, {b:g})" for a, b in zip(y[:4].tolist(), x[:4].tolist(), strict=True)
        )
        why = f"those from token {num_prefix} on look at pixels (row, column) {first}, ..."
    return (
        f"the patches of {name} do not lie on a grid, row by row: {why}. Their map cannot be "
        "drawn: use a network whose patches do (ViT, DeiT, BEiT, DINOv2)"
    )


def _largest_gap(seen: Tensor) -> float:
    """Return the largest part of what a token sees, from first to last, that it does not see."""
    largest = 0.0
    for token in seen[:: max(1, len(seen) // 16)]:
        places = token.nonzero().flatten()
        if len(places) > 1:
            largest = max(largest, float(places.diff().max() - 1) / float(places[-1] - places[0]))
    return largest


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


# ---- which tokens the head reads ----


class _LastLayer(Watch):
    """Change what is done with calls of the last layer, of which `calls` are the numbers."""

    def __init__(self, calls: Sequence[int]) -> None:
        super().__init__()
        self.calls, self.count, self.last = calls, 0, False

    def meet(self, shape: tuple[int, ...], queries: Tensor) -> None:
        self.last = shape[-2] == shape[-1] and self.count in self.calls
        self.count += shape[-2] == shape[-1]


class _Differentiate(_LastLayer):
    """Let gradients begin in the last layer, whatever the network switches off."""

    def __init__(self, calls: Sequence[int]) -> None:
        super().__init__(calls)
        self.leaves: list[Tensor] = []  # with a row for each query

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:  # a network that does so itself (linear probes)
            return None
        if func is Tensor.detach and self.leaves:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)

    def fused(self, call: FusedCall) -> Tensor:
        return self._leaf(call.run())

    def written_out(self, weights: Tensor) -> Tensor:
        return self._leaf(weights)

    def _leaf(self, tensor: Tensor) -> Tensor:
        if not self.last or torch.is_inference_mode_enabled():
            return tensor
        torch._C._set_grad_enabled(True)
        self.leaves.append(tensor.detach().requires_grad_())
        return self.leaves[-1].clone()


def head_reads(
    model: nn.Module,
    images: Tensor,
    calls: Sequence[int],
    read: Read,
    name: Any = None,
) -> tuple[int, ...] | None:
    """Find the tokens of the last layer that the output depends on; None, where no gradient comes.

    `calls` are the numbers of the last layer's calls of attention; `read` picks, of what a network
    returns, what counts as its output, and `name` tells different ones apart.
    """
    image = images[:1].detach()
    what = ("reads", image.shape, image.dtype, image.device, tuple(calls), repr(name))

    def find() -> tuple[int, ...] | None:
        found = _reached_by_gradients(model, image, calls, read)
        return _reached_by_trials(model, image, calls, read) if found is None else found

    return once(model, what, find)


def _reached_by_gradients(
    model: nn.Module, image: Tensor, calls: Sequence[int], read: Read
) -> tuple[int, ...] | None:
    """Find the queries that the output has a gradient of; None, where it has none."""
    watch, outputs = _Differentiate(calls), []
    with suppress(Exception), torch.no_grad(), watch:  # of what runs without gradients only
        outputs = [part for part in read(model(image.clone()), 1) if part.requires_grad]
    if not outputs or not watch.leaves:
        return None
    draw = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        scores = [(o * torch.randn(o.shape, generator=draw).to(o)).sum() for o in outputs]
        gradients = derivatives(scores, watch.leaves)
    found = [each.abs().flatten(0, -3).amax(dim=(0, 2)) for each in gradients if each is not None]
    if not found:
        return None
    size = torch.stack(found).amax(dim=0).nan_to_num()
    return tuple((size > 1e-9 * size.max()).nonzero().flatten().tolist())


class _Redirect(_LastLayer):
    """Let some tokens of the last layer look elsewhere: item n of the batch those in sets[n]."""

    def __init__(self, calls: Sequence[int], sets: Sequence[Sequence[int]]) -> None:
        super().__init__(calls)
        self.sets = sets

    def fused(self, call: FusedCall) -> Tensor:
        return call.with_weights(self.written_out(call.weights())) if self.last else call.run()

    def written_out(self, weights: Tensor) -> Tensor:
        if not self.last or weights.shape[0] % len(self.sets):
            return weights
        weights = weights.clone()
        for item, tokens in zip(weights.chunk(len(self.sets)), self.sets, strict=True):
            rows = item[..., list(tokens), :]
            least = rows.argmin(dim=-1, keepdim=True)  # at what they looked at least, alone
            item[..., list(tokens), :] = torch.zeros_like(rows).scatter(-1, least, 1.0)
        return weights


def _reached_by_trials(
    model: nn.Module,
    image: Tensor,
    calls: Sequence[int],
    read: Read,
) -> tuple[int, ...] | None:
    """Let tokens look elsewhere in the last layer, and see whether the output changes.

    That works where no gradients do (quantised networks, inference mode). Each token by itself is
    tried where there are few, else the first, and some of the others.
    """
    first = _first_attention(model, image)
    if not first.shape:
        return None
    tokens = first.shape[-1]
    single = [*range(min(tokens, 16)), *torch.linspace(16, tokens - 1, 16).long().tolist()]
    single = sorted({n for n in single if n < tokens})
    sets: list[Sequence[int]] = [(), range(tokens), *((n,) for n in single)]
    with torch.no_grad(), _Redirect(calls, sets):
        outputs = read(model(image.expand(len(sets), -1, -1, -1).contiguous()), len(sets))
    change = torch.zeros(len(sets))
    for output in outputs:
        if len(output) == len(sets):
            flat = output.detach().float().flatten(1).cpu()
            change = torch.maximum(change, (flat - flat[:1]).abs().amax(dim=1))
    if not change[1]:
        return None
    reads = dict(zip(single, (change[2:] > 1e-6 * change.max()).tolist(), strict=True))
    if len(single) == tokens:
        return tuple(n for n in single if reads[n])
    behind = [reads[n] for n in single if n >= 16]
    if any(behind) != all(behind):
        return None
    return tuple(n for n in range(tokens) if (reads[n] if n < 16 else behind[0]))

"""One call of attention: its weights and their gradients, computed when they are needed.

From the queries and keys of a call its weights can be computed at any time, and from the gradients
of what it gave those of its weights. So weights take memory only while someone reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 2**21  # weights, where some heads are computed at a time


@dataclass
class FusedCall:
    """A call of F.scaled_dot_product_attention: queries (B, h, T, d), keys, values (B, h, S, d)."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of its weights, (B, h, T, S)."""
        return (*self.query.shape[:-1], self.key.shape[-2])

    def run(self) -> Tensor:
        """Let PyTorch compute what it gives: (B, h, T, d)."""
        inputs = self.query, self.key, self.value
        return F.scaled_dot_product_attention(*inputs, attn_mask=self.mask, **self.options)

    def values(self) -> Tensor:
        """Return the values of each head: (B, h, S, d)."""
        return _for_each_head(self.value, self.query)

    def with_weights(self, weights: Tensor) -> Tensor:
        """Compute what it would give with other weights."""
        return weights @ self.values()

    def weights(self) -> Tensor:
        """Compute the weights of all heads."""
        return attention_weights(self.query, self.key, self.mask, **self.options)

    def gradients(self, of_output: Tensor) -> Tensor:
        """Compute those of the weights from those of what it gives (B, h, T, d)."""
        return of_output @ self.values().mT

    def copy(self, with_values: bool) -> FusedCall:
        """Copy what weights are computed from, which the network may change later."""
        value = self.value if with_values else self.value.new_empty(0)
        query, key, value = (x.detach().clone() for x in (self.query, self.key, value))
        mask = None if self.mask is None else self.mask.detach().clone()
        return FusedCall(query, key, value, mask, self.options)

    def is_finite(self) -> bool:
        """Say whether queries and keys are, and no mask hides all from a token."""
        finite = self.query.sum().isfinite() and self.key.sum().isfinite()
        if self.mask is None or not finite:
            return bool(finite)
        most = self.mask.amax(dim=-1)
        return bool((most if most.dtype == torch.bool else most.isfinite()).all())

    def weights_by_heads(self) -> Iterator[Tensor]:
        """Compute the weights of so few heads at a time that they stay near the processor."""
        heads = self.query.shape[-3]
        step = max(1, AT_ONCE * heads // math.prod(self.shape)) if self.query.ndim == 4 else heads
        key = _for_each_head(self.key, self.query)
        mask = self.mask if self.mask is None else self.mask.expand(self.shape)
        if step >= heads:
            yield self.weights()
            return
        for n in range(0, heads, step):
            part = slice(n, n + step)
            some = mask if mask is None else mask[:, part]
            yield attention_weights(self.query[:, part], key[:, part], some, **self.options)


@dataclass
class Kept:
    """The weights of a call, or of all of a layer together: written out, or a call to redo.

    `leaf` is what gradients are asked of, where there are any: the weights, or what a call gives.
    """

    layer: int
    of: Tensor | FusedCall
    leaf: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weights."""
        return tuple(self.of.shape)

    def weights(self) -> Tensor:
        """Return them, computed now if need be.

        Raises:
            ValueError: they are not all finite.
        """
        if isinstance(self.of, Tensor):
            return self.of
        weights = self.of.weights()
        if not weights[..., 0].isfinite().all():  # a row that holds one NaN holds nothing else
            raise ValueError(not_finite(self.layer))
        return weights

    def weights_by_heads(self) -> Iterator[Tensor]:
        """Return them, some heads at a time where they are computed."""
        if isinstance(self.of, FusedCall):
            yield from self.of.weights_by_heads()
        else:
            yield self.of.detach()

    def let_go(self) -> None:
        """Let go of the graph that it lies in."""
        self.leaf = None
        self.of = self.of.detach() if isinstance(self.of, Tensor) else self.of

    def require_finite(self) -> None:
        """See that what it has are numbers: of a call, the queries and keys.

        Raises:
            ValueError: they are not.
        """
        if isinstance(self.of, Tensor):
            finite = bool(self.of.sum().isfinite())  # one number that is not makes the sum so
        else:
            finite = self.of.is_finite()
        if not finite:
            raise ValueError(not_finite(self.layer))

    def gradients(self, of_leaf: Tensor) -> Tensor:
        """Turn the gradients of the leaf into those of the weights."""
        return self.of.gradients(of_leaf) if isinstance(self.of, FusedCall) else of_leaf


def attention_weights(
    q: Tensor,
    k: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute softmax(scale q k^T + mask) as F.scaled_dot_product_attention does: (B, h, T, S)."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ _for_each_head(k, q).mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None:
        is_boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if is_boolean else scores + attn_mask
    return scores.softmax(dim=-1)


def _for_each_head(x: Tensor, q: Tensor) -> Tensor:
    """Repeat keys or values that several query heads share: (B, h', S, d) -> (B, h, S, d)."""
    times = q.shape[-3] // x.shape[-3]
    return x if times <= 1 else x.repeat_interleave(times, dim=-3)


def order_is_known(shape: Sequence[int], num_images: int) -> bool:
    """Say whether weights of this shape can only be laid out in one way, as maps of each image."""
    if len(shape) == 3:
        return shape[0] % num_images == 0 and 1 in (num_images, shape[0] // num_images)
    return shape[0] == num_images


def maps_of(weights: Tensor, num_images: int, batch_first: bool | None = None) -> Tensor:
    """Lay weights out as (B, h, T, S): from (B * h, T, S), (B, h, T, S) or with axes between.

    `batch_first` says of (B * h, T, S) whether the heads of an image lie together (or None).
    """
    if weights.ndim == 3:
        heads = len(weights) // num_images
        if batch_first is False:
            return weights.unflatten(0, (heads, num_images)).transpose(0, 1)
        return weights.unflatten(0, (num_images, heads))
    return weights if weights.ndim == 4 else weights.flatten(1, -3)


def joined(
    layer: Sequence[Kept], head_fusion: str, num_images: int, batch_first: bool | None = None
) -> Tensor:
    """Join all heads of a layer's calls by "mean", "max" or "min": (B, 1, T, T)."""
    total, count = None, 0
    for call in layer:
        for weights in call.weights_by_heads():
            maps = upcast(maps_of(weights, num_images, batch_first))
            count += maps.shape[1]
            part = {"mean": maps.sum, "max": maps.amax, "min": maps.amin}[head_fusion](1, True)
            if total is None:
                total = part
            elif head_fusion == "mean":
                total += part
            else:
                total = {"max": torch.maximum, "min": torch.minimum}[head_fusion](total, part)
    assert total is not None
    return total / count if head_fusion == "mean" else total


def not_finite(layer: int) -> str:
    """Say that the weights of a layer are no numbers."""
    return (
        f"the weights of layer {layer} are not all finite numbers: do the model's parameters or "
        "the images hold NaN or infinity, or does a mask hide all from a token?"
    )


def upcast(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()


class Layers(Sequence[Tensor]):
    """A list of what each layer has, computed when it is first read, and kept from then on."""

    def __init__(self, find: Sequence[Callable[[], Tensor]]) -> None:
        self.find = list(find)
        self.read: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.find)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[n] for n in numbers]
        self.read[numbers] = self.look(numbers)
        return self.read[numbers]

    def look(self, number: int) -> Tensor:
        """Return what a layer has, without keeping it."""
        return self.read[number] if number in self.read else self.find[number]()


def look(layers: Sequence[Tensor], number: int) -> Tensor:
    """Look at one layer of a list; what is computed for that is not kept."""
    layer = layers.look(number) if isinstance(layers, Layers) else layers[number]
    return upcast(layer)

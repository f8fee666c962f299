"""See every call of attention inside a running network, and which calls it was computed from.

Nothing is changed on the network: calls are watched from outside, while a `with` block lasts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_tutorial.calls import FusedCall, Kept, Layers, joined, maps_of, order_is_known, upcast

SOFTMAX = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}
PRODUCTS: set[Any] = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}
PRODUCTS |= {torch.baddbmm, Tensor.baddbmm, torch.einsum}
SQUASHING: set[Any] = {torch.sigmoid, F.sigmoid, F.hardsigmoid, torch.special.expit, torch.exp}
SQUASHING |= {Tensor.sigmoid, Tensor.sigmoid_, torch.sigmoid_, Tensor.exp, Tensor.exp_}
CONVERSIONS = {Tensor.to, Tensor.type, Tensor.type_as, Tensor.float, Tensor.half, Tensor.bfloat16}
DROPOUT = {F.dropout, torch.dropout}
EMBEDDINGS = {F.conv2d, F.linear, F.conv3d}  # what can make tokens of pixels
# of what the numbers come from, where it is not from all tensors that are given
READS: dict[Any, Callable] = {Tensor.copy_: lambda args: args[1:]}
READS |= dict.fromkeys(
    (Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.type_as, Tensor.to),
    lambda args: args[:1],
)
READS |= dict.fromkeys(
    (torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like, torch.randn_like),
    lambda args: (),
)

# PyTorch's own code of nn.MultiheadAttention, with one name replaced, so that the calls inside are
# seen, too. The function itself cannot be watched: while a watch is on, it hands itself over and
# does not run (`has_torch_function`); while none is on, nobody sees what it calls. It would be
# plainer to replace F.scaled_dot_product_attention meanwhile, but for all threads of the process.
_MULTI_HEAD_ATTENTION = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda tensors: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
# The same for torch.autograd.grad: checkpointed parts are computed anew inside, under the watch.
_GRAD = FunctionType(
    torch.autograd.grad.__code__,
    {**vars(torch.autograd), "has_torch_function": lambda tensors: False},
    argdefs=torch.autograd.grad.__defaults__,
)
_GRAD.__kwdefaults__ = torch.autograd.grad.__kwdefaults__


class NoGradient(ValueError):
    """Said of a network that computes its attention, or a part behind it, without gradients."""


class Watch(TorchFunctionMode):
    """See the attention of a forward pass; what is done with a call is said by the methods below.

    `in_graph` sees to it that gradients come to each call, also where the weights are frozen.
    """

    def __init__(self, in_graph: bool = False) -> None:
        super().__init__()
        self.in_graph = in_graph
        self.scored = False  # are the queries of the latest call its scores
        self.unused: list[_Unused] = []  # results of a softmax that met no values so far

    def meet(self, shape: tuple[int, ...], queries: Tensor) -> None:
        """Hear of a call that begins, whose weights have this shape (..., T, S).

        `queries` are what asks: (..., T, d), or the scores (..., T, S) where only these are seen.
        """

    def fused(self, call: FusedCall) -> Tensor:
        """Run a fused call, and return what the network goes on with."""
        output = call.run()
        return self.reachable(output).clone() if self.in_graph else output

    def written_out(self, weights: Tensor) -> Tensor:
        """Take weights that a softmax gave, and return those that the network goes on with."""
        return self.reachable(weights) if self.in_graph else weights

    def reachable(self, tensor: Tensor) -> Tensor:
        """See that gradients come to what is computed without: behind frozen weights."""
        return tensor if tensor.requires_grad else tensor.requires_grad_()

    def meet_values(self, values: Tensor) -> None:
        """Take the values (..., S, d) that the weights of a call were multiplied with."""

    def converted(self, old: Tensor, new: Tensor) -> None:
        """Hear that weights go on in another type."""

    def follow(self, func: Any, inputs: Any, result: Any) -> None:
        """Hear of any other call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._multi_head(args, kwargs)
        if func is F.scaled_dot_product_attention:
            result = self._fused(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        self.follow(func, (args, kwargs), result)
        if func in SOFTMAX:
            return self._plain(args, kwargs, result)
        if self.unused:
            self._use(func, args, kwargs, result)
        return result

    def _multi_head(self, args: Any, kwargs: dict) -> tuple[Tensor, Tensor | None]:
        """Do what nn.MultiheadAttention does; with fused attention, if that can be."""
        wanted = kwargs.get("need_weights", True)
        # in a graph so are the weights that it returns; those of a pooling head have no layer
        written_out = wanted and self.in_graph and args[0].shape == args[1].shape
        with self:
            result = _MULTI_HEAD_ATTENTION(*args, **{**kwargs, "need_weights": written_out})
        if written_out or not wanted:
            return result
        mean = kwargs.get("average_attn_weights", True)
        weights = self.latest.weights()
        return result[0], weights.mean(dim=1) if mean else weights

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        _require_readable(query)
        self.scored = False
        options = {"dropout_p": dropout_p, "is_causal": is_causal, **options}
        call = self.latest = FusedCall(query, key, value, attn_mask, options)
        self.meet(call.shape, query)
        output = self.fused(call)
        self.meet_values(value)
        return output

    def _plain(self, args: Any, kwargs: dict, weights: Tensor) -> Tensor:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        square = weights.ndim > 2 and weights.shape[-2] == weights.shape[-1]
        if dim not in (-1, weights.ndim - 1) or weights.ndim < (3 if square else 4):
            return weights
        _require_readable(weights)
        out = kwargs.get("out")  # memory of the network's own, which the next layer writes to
        weights = weights if out is None else weights.clone()
        scores = args[0] if args else kwargs["input"]
        self.scored = True
        self.meet(tuple(weights.shape), scores)
        weights = self.written_out(weights)
        if out is not None and not weights.requires_grad:
            out.copy_(weights)
            self.follow(Tensor.copy_, ((out, weights), {}), out)
        if square:
            self.unused.append(_Unused(weights, _version(weights), [weights]))
        return weights

    def _use(self, func: Any, args: Any, kwargs: dict, result: Any) -> None:
        """See whether a call multiplies weights with values."""
        if func in CONVERSIONS and any(each.weights is args[0] for each in self.unused):
            self.converted(args[0], result)
        elif func in DROPOUT:
            for each in self.unused:
                if each.is_in(args[0]):
                    each.forms.append(result)
        elif func in PRODUCTS and (product := _weights_and_values(func, args, kwargs)):
            weights, values = product
            used = [each for each in self.unused if each.is_in(weights)]
            if used and _memory(values) != _memory(weights):  # or it is a square of theirs
                self.unused.remove(used[0])
                self.meet_values(values)


class _Unused(NamedTuple):
    """Weights that a softmax gave, and what dropout has made of them."""

    weights: Tensor
    version: int
    forms: list[Tensor]

    def __eq__(self, other: object) -> bool:
        return self is other

    def is_in(self, tensor: Tensor) -> bool:
        """Say whether a tensor holds these weights, in any shape and type, unchanged."""
        if _version(self.weights) != self.version or tensor.shape[-1:] != self.weights.shape[-1:]:
            return False
        same = (form for form in self.forms if form.numel() == tensor.numel())
        return any(
            form is tensor or torch.equal(form.to(tensor.dtype).reshape(tensor.shape), tensor)
            for form in same
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _weights_and_values(func: Any, args: Any, kwargs: dict) -> tuple[Tensor, Tensor] | None:
    """Return both sides of a product (..., T, S) (..., S, d), if it is one."""
    if func is torch.einsum:
        return _of_einsum(*args) if len(args) == 3 and isinstance(args[0], str) else None
    operands = tensors_in((args, [each for name, each in kwargs.items() if name != "out"]))[-2:]
    if len(operands) < 2 or operands[1].ndim < 2 or operands[0].ndim < 2:
        return None
    weights, values = operands
    return (weights, values) if weights.shape[-1] == values.shape[-2] else None


def _of_einsum(equation: str, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    first, _, second = inputs.partition(",")
    output = output if arrow else {axis for axis in inputs if inputs.count(axis) == 1}
    for axes, weights, others, values in ((first, one, second, other), (second, other, first, one)):
        if len(axes) < 2:
            continue
        query, key = axes[-2:]
        _, found, behind = others.partition(key)
        if found and key not in output and query in output and query not in others + ".":
            return (weights, values.movedim(-1 - len(behind), -2)) if "." not in behind else None
    return None


def _require_readable(tensor: Tensor) -> None:
    """Refuse what no map can be read from.

    Raises:
        ValueError: a nested tensor, or one inside torch.vmap, for example.
    """
    if tensor.is_nested:
        raise ValueError(
            "the model packs images of several sizes into nested tensors, of which there is no "
            "map (B, heads, T, T): record a network that takes images of one size (ViT, DeiT, "
            "BEiT, DINOv2)"
        )
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise ValueError(
            "the model runs its attention inside a transform of torch.func (vmap, for example), "
            "out of which nothing can be read: record the network inside"
        )


def derivatives(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    keep_graph: bool = False,
    in_graph: bool = True,
) -> list[Tensor | None]:
    """Differentiate the sum of outputs; None for each input that no gradient reaches.

    What was checkpointed is computed anew meanwhile, as the watch of the pass before did it: with
    gradients that come to each call (`in_graph`), or not.
    """
    with warnings.catch_warnings():  # said of quantised layers, behind which all would be 0
        warnings.filterwarnings("error", message=".*autograd kernel was not registered")
        try:
            with Watch(in_graph):
                return list(_GRAD(outputs, inputs, retain_graph=keep_graph, allow_unused=True))
        except UserWarning:
            return [None] * len(inputs)


def in_graph(images: Tensor) -> Tensor:
    """Copy images as the start of a graph; those made in inference mode could not be one."""
    return images.detach().clone().requires_grad_(images.is_floating_point())


class Call(NamedTuple):
    """One call of attention."""

    shape: tuple[int, ...]  # of its weights
    layer: int  # -1 for class and cross attention
    sources: frozenset[int]  # the calls that its input comes from; embeddings are below 0
    module: str  # where in the network


class Recorder(Watch):
    """Keep the attention weights of a forward pass, and see how its calls follow each other.

    Calls whose input comes from the same calls are one layer, side by side. Where an input comes
    from is followed from tensor to tensor, by the memory that they lie in: so views, changes in
    place, and parts without gradients are followed, too.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Sequence[int],
        layers: Sequence[int] | None = None,
        in_graph: bool = False,
        head_fusion: str | None = None,
    ) -> None:
        super().__init__(in_graph)
        self.names = {id(module): name for name, module in model.named_modules()}
        self.num_images, self.channels, self.head_fusion = images[0], images[1], head_fusion
        self.makes_an_image = self.reads_that_image = False
        self.layers = None if layers is None else list(layers)
        self.kept: list[Kept] = []
        self.calls: list[Call] = []  # of all tokens to all
        self.others: list[Call] = []
        self.ends_with_others = True
        self.shares_values = False  # do two calls of one layer look at the same values
        self.crosses: list[Call] = []  # whose values come from elsewhere than what asks
        self.views = 1.0  # images that the network itself reads, for each that it was given
        self.squashed: set[int] = set()  # of how many numbers a sigmoid was taken, or exp
        self._values: list[Tensor] = []  # of the calls of the latest layer
        self._sources: dict[int, frozenset[int]] = {}  # memory -> the calls that it comes from
        self._embeddings = 0

    @property
    def depth(self) -> int:
        """The number of layers seen."""
        return self.calls[-1].layer + 1 if self.calls else 0

    def meet(self, shape: tuple[int, ...], queries: Tensor) -> None:
        """Count a call.

        Raises:
            NoGradient: gradients are wanted, and the network runs in inference mode.
        """
        if self.in_graph and torch.is_inference_mode_enabled():
            raise NoGradient(
                "the gradient cannot reach the attention: the model runs a part of itself in "
                "torch.inference_mode. Take that out of its forward, or ask for no gradients"
            )
        self.reads_that_image |= self.makes_an_image
        sources = self._sources.get(_memory(queries), frozenset())
        module = self._running()
        self.ends_with_others = shape[-2] != shape[-1]
        if self.ends_with_others:
            self.others.append(Call(shape, -1, sources, module))
            return
        beside = bool(self.calls) and self.calls[-1].sources == sources
        layer = self.depth - beside
        if not beside:
            self.fuse_heads()
            self._values = []
        self.calls.append(Call(shape, layer, sources, module))

    def fused(self, call: FusedCall) -> Tensor:
        """Run a call, and keep what its weights are computed from, if they are wanted."""
        output, leaf = call.run(), None
        if self.in_graph:  # which the network may change in place
            leaf = self.reachable(output)
            output = leaf.clone()
        if self._wanted():
            self.kept.append(Kept(self.calls[-1].layer, call.copy(self.in_graph), leaf))
        return output

    def written_out(self, weights: Tensor) -> Tensor:
        """Keep weights, if they are wanted."""
        weights = super().written_out(weights)
        if not self.ends_with_others:
            self._sources[_memory(weights)] = self.calls[-1].sources | {len(self.calls) - 1}
        if self._wanted():
            self.kept.append(Kept(self.calls[-1].layer, weights, weights))
        return weights

    def _wanted(self) -> bool:
        """Say whether the latest call is to be kept."""
        if self.ends_with_others:
            return False
        return self.layers is None or self.calls[-1].layer in self.layers

    def meet_values(self, values: Tensor) -> None:
        """See whether values come from elsewhere, or calls side by side look at the same ones."""
        if self.ends_with_others:
            return
        asking = self.calls[-1].sources
        asked = self._sources.get(_memory(values), frozenset())
        images = {source for source in asked if source < 0}
        if asked - images != {source for source in asking if source >= 0} or (
            images and not images & asking
        ):
            self.crosses.append(self.calls[-1])
        self.shares_values |= any(torch.equal(values, other) for other in self._values)
        self._values.append(values)

    def converted(self, old: Tensor, new: Tensor) -> None:
        """Keep the weights in the type that is used."""
        if self.kept and self.kept[-1].of is old:
            self.kept[-1] = Kept(self.kept[-1].layer, new, new)

    def follow(self, func: Any, inputs: Any, result: Any) -> None:
        """Note for what comes out of a call of PyTorch where it comes from."""
        changed = tensors_in(inputs[0][:1] if func is Tensor.__setitem__ else result)
        if not changed:
            return
        args, kwargs = inputs
        read = READS[func](args) if func in READS else args
        read = tensors_in((read, [each for name, each in kwargs.items() if name != "out"]))
        places = {_memory(tensor) for tensor in read}
        sources = frozenset().union(*(self._sources.get(place, ()) for place in places))
        if func is F.scaled_dot_product_attention and not self.ends_with_others:
            sources |= {len(self.calls) - 1}
        if func is F.conv2d and any(source >= 0 for source in sources):
            self.makes_an_image |= read[0].shape[1] == self.channels
        if func in EMBEDDINGS and not sources:
            if read[0].ndim > 2:
                self.views = max(self.views, len(read[0]) / self.num_images)
            self._embeddings += 1
            sources |= {-self._embeddings}
        for tensor in changed:  # memory that is new may have been another tensor's before
            self._sources[_memory(tensor)] = sources
        if func in SQUASHING and result.ndim < 3:
            self.squashed.add(result.numel())

    def _running(self) -> str:
        """Name the innermost submodule whose forward is running."""
        frame = sys._getframe(2)
        while frame is not None:
            name = self.names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""

    def fuse_heads(self) -> None:
        """Join the heads of the latest layer, if so asked, so that one map of it is held."""
        if self.head_fusion is None or not self.kept:
            return
        layer = self.kept[-1].layer
        latest = [each for each in self.kept if each.layer == layer]
        if all(order_is_known(each.shape, self.num_images) for each in latest):
            one = Kept(layer, joined(latest, self.head_fusion, self.num_images))
            self.kept = [*(each for each in self.kept if each.layer != layer), one]

    def maps(self, tables: Sequence[Callable[[], Tensor]], batch_first: bool | None) -> Layers:
        """Lay tables in the shapes of the kept weights out as maps of each layer (B, h, T, T)."""
        parts: dict[int, list[Callable[[], Tensor]]] = {}
        for kept, table in zip(self.kept, tables, strict=True):
            parts.setdefault(kept.layer, []).append(table)

        def of_layer(tables: Sequence[Callable[[], Tensor]]) -> Tensor:
            maps = [upcast(maps_of(table(), self.num_images, batch_first)) for table in tables]
            return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)

        return Layers([partial(of_layer, tables) for tables in parts.values()])

    def let_go(self) -> None:
        """Let go of the graph, once gradients have been computed."""
        for kept in self.kept:
            kept.let_go()

    def joined(self, batch_first: bool | None) -> list[Tensor]:
        """Join the heads of each layer, where that has not been done meanwhile: (B, 1, T, T)."""
        layers = [list(kept) for _, kept in groupby(self.kept, key=lambda kept: kept.layer)]
        return [
            joined(layer, self.head_fusion or "mean", self.num_images, batch_first)
            for layer in layers
        ]


def tensors_in(nested: Any) -> list[Tensor]:
    """Find all tensors in tuples, lists and dicts."""
    if isinstance(nested, Tensor):
        return [nested]
    if isinstance(nested, dict):
        nested = nested.values()
    elif not isinstance(nested, tuple | list):
        return []
    return [tensor for part in nested for tensor in tensors_in(part)]


def _memory(tensor: Tensor) -> int:
    """Identify the memory that a tensor lies in, which its views share."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse, for example
        return id(tensor)


# ---- whether the calls are the layers of one network ----


def require_layers(recorder: Recorder, name: str) -> None:
    """See that the calls are layers that follow each other, each with a map of all tokens.

    Raises:
        ValueError: they are not; why, and what can be recorded instead.
    """
    calls, others = recorder.calls, recorder.others
    if not calls:
        shapes = ", ".join({f"{call.shape[-2]}x{call.shape[-1]}": None for call in others})
        seen = (
            f"saw only attention in which not all tokens attend to all ({shapes}: class or cross "
            "attention, a part of the tokens at a time, or a sink)"
            if others
            else "saw no attention"
        )
        raise ValueError(
            f"{seen} in {name}: it has to call F.scaled_dot_product_attention, the softmax of "
            "scores (B, heads, T, T) or (B * heads, T, T) over their last axis, or "
            "nn.MultiheadAttention (flex_attention cannot be seen), and neither be compiled, "
            "scripted nor traced"
        )
    if recorder.unused:
        raise ValueError(
            f"{name} changes its weights between the softmax and the values (talking heads as in "
            "CaiT, a difference of two, a threshold), or multiplies no values with those of some "
            "softmax, so the weights are not what each token takes: use a network without (ViT, "
            "DeiT, BEiT, DINOv2)"
        )
    _require_one_stream(recorder, name)
    _require_one_view(recorder, name)
    images, tokens = recorder.num_images, calls[0].shape[-1]
    of_each = [maps_per_image(call.shape, images) == 1 for call in calls]
    if not all(of_each) or any(call.shape[-1] != tokens for call in calls):
        counts = dict.fromkeys((call.shape[0], call.shape[-1]) for call in calls)
        maps = ", ".join(f"{count}x {size}x{size}" for count, size in counts)
        raise ValueError(
            f"{name} attends within windows or at several resolutions "
            f"(maps: {maps}; images: {images}), so its layers cannot be joined: use a "
            "network in which all patches see each other (ViT, DeiT, BEiT, DINOv2), record the "
            "part of it that is one, or explain a class on its last grid, by the method "
            '"token_grad_cam"'
        )
    if len(others) > 1 or (others and not recorder.ends_with_others):
        shapes = ", ".join(f"{call.shape[-2]}x{call.shape[-1]}" for call in others)
        raise ValueError(
            f"{name} has layers in which not all tokens attend to all ({shapes}, class or "
            "cross attention as in CaiT), so its layers cannot be joined: use a network in "
            "which they do (ViT, DeiT, BEiT, DINOv2)"
        )


def _require_one_view(recorder: Recorder, name: str) -> None:
    calls, seen = recorder.calls, recorder.views * recorder.num_images
    if recorder.views > 1 and all(call.shape[0] % seen == 0 for call in calls):
        part = _own_part(calls, [calls])
        raise ValueError(
            f"{name} runs its network on {seen:.0f} images instead of {recorder.num_images} "
            "(several views or crops of each, in one batch), so a map is of no one image: record "
            + (f"`{_spelled(part)}` on each view" if part else "what runs on one view")
        )
    if recorder.crosses:
        call = recorder.crosses[0]
        raise ValueError(
            f"{name} has cross attention, in {call.module or 'its own forward'}: what asks and the "
            "values come from different tokens, so its layers cannot be joined: use a network "
            "whose tokens attend to each other (ViT, DeiT, BEiT, DINOv2)"
        )


def maps_per_image(shape: Sequence[int], num_images: int) -> float:
    """Count the maps of each head that a call computes for an image, 1 but for windows."""
    return 1.0 if len(shape) == 3 and shape[0] % num_images == 0 else shape[0] / num_images


def _require_one_stream(recorder: Recorder, name: str) -> None:
    streams = _streams(recorder.calls)
    if len(streams) > 1:
        parts = [_own_part(stream, streams) for stream in streams]
        layers = [len({call.layer for call in stream}) for stream in streams]
        found = ", ".join(
            f"{f'model.{part}' if part else 'its own forward'} ({count} layers)"
            for part, count in zip(parts, layers, strict=True)
        )
        record = " or ".join(f"`{_spelled(part)}`" for part in dict.fromkeys(parts) if part)
        raise ValueError(
            f"{name} is not one network: it runs {len(streams)} side by side, none of which works "
            f"on what another left (an ensemble, a teacher, a second tower, or one network on "
            f"several views of an image or on each image by itself): {found}. Their layers cannot "
            "be joined: record " + (record or "each of them alone")
        )
    for number, call in enumerate(recorder.calls):
        before = {n for n, other in enumerate(recorder.calls) if other.layer < call.layer}
        if {source for source in call.sources if source >= 0} != before:
            raise ValueError(
                f"{name} has branches: its call of attention number {number} (in "
                f"{call.module or 'its own forward'}) does not work on what all those before it "
                "left, so they are not layers that can be joined: record a part of it in which "
                "each layer works on the one before"
            )
    if recorder.reads_that_image:
        raise ValueError(
            f"{name} is several networks, of which one reads an image that another has made, so "
            "their layers cannot be joined: record one of them"
        )
    if recorder.shares_values:
        raise ValueError(
            f"{name} attends several times to the same values in one layer and combines what it "
            "gets (differential attention), so no one map says what each token takes: use a "
            "network without (ViT, DeiT, BEiT, DINOv2)"
        )


def _streams(calls: Sequence[Call]) -> list[list[Call]]:
    """Part calls into those that are connected."""
    stream = list(range(len(calls)))
    for number, call in enumerate(calls):
        for source in call.sources:
            if source >= 0 and stream[source] != stream[number]:
                old, new = stream[number], stream[source]
                stream = [new if one == old else one for one in stream]
    return [
        [call for call, one in zip(calls, stream, strict=True) if one == number]
        for number in dict.fromkeys(stream)
    ]


def _own_part(stream: Sequence[Call], streams: Sequence[Sequence[Call]]) -> str:
    """Name the largest submodule that runs a stream, and none of the others if that can be."""
    inside = lambda call, part: f"{call.module}.".startswith(f"{part}.")  # noqa: E731
    steps = stream[0].module.split(".")
    parts = [".".join(steps[:end]) for end in range(1, len(steps) + 1)]
    parts = [part for part in parts if part and all(inside(call, part) for call in stream)]
    others = [call for other in streams if other is not stream for call in other]
    alone = [part for part in parts if not any(inside(call, part) for call in others)]
    return next(iter(alone or parts), "")


def _spelled(part: str) -> str:
    plain = all(step.isidentifier() for step in part.split("."))
    return f"model.{part}" if plain else f'model.get_submodule("{part}")'

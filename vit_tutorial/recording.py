"""Read what every head of every layer attends to, in any Vision Transformer, without changing it.

Needs torch alone. What the maps mean, and how layers are joined, is in `attention`; how the calls
of attention are seen, in `watching`; how it is found out where tokens look, in `probing`.
"""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.activations import has_norms, last_activations
from vit_tutorial.calls import Kept, Layers, not_finite, upcast
from vit_tutorial.modes import evaluating, frozen
from vit_tutorial.probing import Box, Places, head_reads, places_of, weights_state
from vit_tutorial.watching import (
    NoGradient,
    Recorder,
    derivatives,
    in_graph,
    require_layers,
    tensors_in,
)

_LOCK = threading.RLock()
FUSIONS = ("mean", "max", "min")
Query = int | str | tuple[int, int]


@dataclass(frozen=True)
class RecordedAttention:
    """The attention weights of one forward pass, per layer (B, h, T, T): query rows sum to 1.

    Args:
        weights: of each layer; where `head_fusion` is set, of its heads together (B, 1, T, T). A
            fused call's are computed from its queries and keys when they are read, and kept from
            then on; the functions of `attention` look at one layer at a time, and keep none. So
            are `gradients`.
        grid: rows and columns of patches.
        num_prefix: the number of tokens before them.
        logits: (B, num_classes), what the model answers, or None.
        gradients: if requested, d(score) / d(weights) in the same shapes.
        own_gradients: those of the score that the model's head would give to the mean of all
            tokens of the layer's own output; computed by a pass of their own when they are first
            read.
        activations: called, it gives those of the last norm and the gradients of the score there,
            for token Grad-CAM; by a pass of their own, the first time.
        layers: the index of the block of each entry of `weights`.
        head_reads: the tokens that the model's head reads, measured; None: not known.
        image_size: height and width of the images in pixels.
        box: the part of an image that the grid covers, measured, in pixels: left, top, right,
            bottom; None: all of it.
        head_fusion: "mean", "max" or "min", if only the heads of a layer together were recorded.
        output_kind: what `logits` are: "logits"; "probabilities" (the model ends in a softmax);
            "independent" (in a sigmoid: each class is there or not), or "independent logits", of
            which the sigmoid is still to be taken; or "values" (one output: a regression).

    Raises:
        ValueError: weights that are not square maps over num_prefix + rows * columns tokens, or
            that are not all finite.
    """

    weights: Sequence[Tensor]
    grid: tuple[int, int]
    num_prefix: int
    logits: Tensor | None = None
    gradients: Sequence[Tensor] | None = None
    own_gradients: Sequence[Tensor] | None = None
    activations: Callable[[], RecordedActivations] | None = None
    layers: Sequence[int] | None = None
    head_reads: Sequence[int] | None = None
    image_size: tuple[int, int] | None = None
    box: Box | None = None
    head_fusion: str | None = None
    output_kind: str = "logits"

    def __post_init__(self) -> None:
        tokens = self.num_prefix + self.grid[0] * self.grid[1]
        if not self.weights:
            raise ValueError("expected the attention weights of at least one layer, got none")
        if isinstance(self.weights, Layers):  # so recorded, and each layer is checked when read
            return
        for number, layer in enumerate(self.weights):
            if not layer.sum().isfinite():  # one number that is not makes the sum so
                raise ValueError(not_finite(number))
            if layer.ndim != 4 or layer.shape[2:] != (tokens, tokens):
                raise ValueError(
                    f"a {self.grid[0]}x{self.grid[1]} grid with {self.num_prefix} prefix tokens "
                    f"has weights of shape (B, heads, {tokens}, {tokens}), "
                    f"got {tuple(layer.shape)}"
                )

    @property
    def num_tokens(self) -> int:
        """T, prefix tokens and patches."""
        return self.num_prefix + self.grid[0] * self.grid[1]

    @property
    def default_query(self) -> int | str:
        """Name what the head reads: a token, "patches" or "all" (their mean), or else "head".

        Where that was not measured, it is token 0, or all where there are only patches.
        """
        if self.head_reads is None:
            return 0 if self.num_prefix else "all"
        if len(self.head_reads) == 1:
            return self.head_reads[0]
        for name in ("all", "patches"):
            if tuple(self.head_reads) == self.tokens(name):
                return name
        return "head"

    def tokens(self, query: Query) -> tuple[int, ...]:
        """Name the tokens whose mean a query stands for.

        Args:
            query: "head" (those that the model's head reads), "patches", "all", a token's index, or
                a patch (row, column).

        Raises:
            ValueError: a query outside the grid or the sequence, or a head that reads none.
        """
        if isinstance(query, str) and query == "head":
            if self.head_reads is None:
                return self.tokens(self.default_query)
            if not self.head_reads:
                raise ValueError(
                    "what this model gives does not depend on the last recorded layer (an earlier "
                    'one is read), or that cannot be measured: give a query, "patches" or a token'
                )
            return tuple(self.head_reads)
        if isinstance(query, str) and query in ("patches", "all"):
            return tuple(range(self.num_prefix if query == "patches" else 0, self.num_tokens))
        return (self.token(query),)

    def token(self, query: Query) -> int:
        """Turn a patch (row, column) into the index of its token; an index stays one.

        Raises:
            ValueError: a query outside the grid or the sequence.
        """
        rows, columns = self.grid
        if isinstance(query, tuple | list):
            if len(query) == 2 and query[0] in range(rows) and query[1] in range(columns):
                return self.num_prefix + int(query[0]) * columns + int(query[1])
        elif not isinstance(query, str) and query in range(self.num_tokens):
            return int(query)
        raise ValueError(
            f'query must be a token from 0 to {self.num_tokens - 1} or "head", "patches" or "all", '
            f"or a patch (row, column) of the {rows}x{columns} grid, got {query!r}"
        )

    def probabilities(self) -> Tensor | None:
        """Return the probability of each class (B, num_classes); None without classes.

        They sum to 1, but for "independent" answers, of which several may be true.
        """
        return _probabilities(self.logits, self.output_kind)

    def on_pixels(self, grid_map: Tensor) -> Tensor:
        """Draw maps where their patches look: (B, rows, columns) -> (B, H, W), 0 where none looks.

        Each pixel gets the number of the cell that its middle lies in.

        Raises:
            ValueError: maps of another grid, or a record that does not know its images' size.
        """
        if grid_map.ndim != 3 or tuple(grid_map.shape[1:]) != tuple(self.grid):
            rows, columns = self.grid
            raise ValueError(
                f"expected maps (B, {rows}, {columns}), got shape {tuple(grid_map.shape)}"
            )
        if self.image_size is None:
            raise ValueError("this record does not know its images' size: give it an image_size")
        (height, width), device = self.image_size, grid_map.device
        left, top, right, bottom = self.box or (0.0, 0.0, float(width), float(height))
        cells = []
        for size, start, end, count in (
            (height, top, bottom, self.grid[0]), (width, left, right, self.grid[1])
        ):  # fmt: skip
            middles = torch.arange(size, dtype=torch.double, device=device) + 0.5
            cells.append(((middles - start) * count / (end - start)).floor().long())
        row, column = cells
        drawn = grid_map[:, row.clamp(0, self.grid[0] - 1)]
        drawn = drawn[:, :, column.clamp(0, self.grid[1] - 1)]
        outside = [
            (cell < 0) | (cell >= count) for cell, count in zip(cells, self.grid, strict=True)
        ]
        return drawn.masked_fill(outside[0][:, None] | outside[1], 0)


def record_attention(
    model: nn.Module,
    images: Tensor,
    *,
    layers: Sequence[int] | None = None,
    gradients_of: int | Callable[[Any], Tensor] | None = None,
    head_fusion: str | None = None,
    logits_of: str | int | Callable[[Any], Tensor] | None = None,
    num_classes: int | None = None,
) -> RecordedAttention:
    """Run `model` on normalised images (B, C, H, W) and keep the attention weights of its layers.

    Any model will do that calls `F.scaled_dot_product_attention`, the softmax of scores
    (B, heads, T, T) or (B * heads, T, T), or `nn.MultiheadAttention`, in layers that each work on
    what the one before left. These calls are watched from outside: the model itself is not changed,
    and with fused attention its logits stay the same to the bit (without gradients PyTorch runs
    `nn.MultiheadAttention` by a shortcut, from which they differ by rounding). Branches of a block
    that attend side by side are the heads of one layer. Random numbers drawn meanwhile are drawn
    again afterwards.

    Where each token looks and which tokens the head reads is measured once for a model, its weights
    and a size of images: `probing` says how, and at what cost.

    Args:
        model: it is recorded in evaluation mode.
        images: what it reads.
        layers: keeps only some layers, and the memory of the others.
        gradients_of: asks for gradients of a score with respect to the weights too: of one class's
            logit, or of a function of the logits (B, num_classes) -> (B,) (of the full output,
            where a model gives no logits).
        head_fusion: "mean", "max" or "min" joins the heads of a layer at once: (B, 1, T, T), which
            takes the memory of one head. Not with gradients.
        logits_of: where the model's output holds the logits, if that is not clear: a key, a
            position, or a function of it.
        num_classes: tells the logits from other outputs, where several might be.

    Weights are float32 (float64 for a float64 model).

    Raises:
        ValueError: a model without one square map of all tokens per layer (windows, class
            attention, weights that are mixed after the softmax), or which is several networks side
            by side; tokens that do not look at the cells of a grid, row by row; layers that it does
            not have, a class that it does not know, or a score whose gradient does not reach the
            attention.
    """
    _require_input(model, images)
    if head_fusion is not None and (head_fusion not in FUSIONS or gradients_of is not None):
        raise ValueError(
            f"head_fusion must be one of {', '.join(FUSIONS)}, without gradients_of, got "
            f"{head_fusion!r}"
        )
    with_gradients = gradients_of is not None
    if layers is not None and not isinstance(layers, Iterable):
        raise ValueError(f"layers must be a list of their numbers, got {layers!r}")
    watch = Recorder(model, images.shape, layers, with_gradients, head_fusion)
    with _undisturbed(model, images, with_gradients):
        with watch:
            output = _run(model, images, with_gradients)
        require_layers(watch, type(model).__name__)
        _require_recorded(watch)
        logits = _logits(output, len(images), logits_of, num_classes)
        gradients, score_of = None, None
        if with_gradients:
            score_of = _score(gradients_of, logits, output, len(images))
            answer = output if logits is None else logits
            gradients = _gradients(score_of(answer), answer, watch.kept)
        watch.let_go()
        layout = places_of(model, images, watch.calls[0].shape[-1])
        last = [n for n, call in enumerate(watch.calls) if call.layer == watch.depth - 1]
        reads = head_reads(
            model,
            images,
            last,
            lambda out, count: _read(out, count, logits_of, num_classes),
            (logits_of, num_classes),
        )
    weights = (
        watch.maps([kept.weights for kept in watch.kept], layout.batch_first)
        if head_fusion is None
        else watch.joined(layout.batch_first)
    )
    return RecordedAttention(
        weights,
        grid=layout.grid,
        num_prefix=layout.num_prefix,
        logits=None if logits is None else logits.detach(),
        gradients=None if gradients is None else watch.maps(gradients, layout.batch_first),
        own_gradients=None if score_of is None else OwnGradients.of(model, images, score_of, watch),
        activations=None if score_of is None or not has_norms(model) else _later(
            model, images, score_of, logits_of, num_classes
        ),
        layers=list(dict.fromkeys(kept.layer for kept in watch.kept)),
        head_reads=() if reads is None else reads,
        image_size=(images.shape[2], images.shape[3]),
        box=layout.box,
        head_fusion=head_fusion,
        output_kind=_kind(model, logits, watch),
    )  # fmt: skip


@dataclass(frozen=True)
class RecordedActivations:
    """What the last norm of a network gives for each patch, and what the network answers.

    `values` and `gradients` of the score are (B, rows, columns, C), `layer` names the module. The
    grid covers the whole image, or its part `box`; `logits` and `output_kind` are as those of
    `RecordedAttention`.
    """

    values: Tensor
    gradients: Tensor
    layer: str
    logits: Tensor | None
    output_kind: str
    box: Box | None = None

    def probabilities(self) -> Tensor | None:
        """Return the probability of each class, as `RecordedAttention` does."""
        return _probabilities(self.logits, self.output_kind)

    def grad_cam(self) -> Tensor:
        """Show where the norm speaks for the score: (B, rows, columns).

        Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) with tokens in the place of feature maps:
        max(sum(w a), 0) over the channels a of each patch, where w is the mean of a channel's
        gradient over all patches. Where the head is a linear layer behind the mean of the patches,
        this is CAM.
        """
        weights = upcast(self.gradients).mean(dim=(1, 2), keepdim=True)
        return (weights * upcast(self.values)).sum(dim=-1).clamp_min(0)


def record_activations(
    model: nn.Module,
    images: Tensor,
    *,
    gradients_of: int | Callable[[Any], Tensor],
    layer: str | None = None,
    logits_of: str | int | Callable[[Any], Tensor] | None = None,
    num_classes: int | None = None,
) -> RecordedActivations:
    """Run `model` on images (B, C, H, W) and keep what its last norm gives, for Grad-CAM.

    That works for any network whose tokens lie on a grid at its end, as `activations` finds it,
    also where `record_attention` cannot join the layers: Swin, PVT, Hiera.

    Args:
        model: it is recorded in evaluation mode.
        images: what it reads.
        gradients_of: the class whose logit is differentiated, or a function, as in
            `record_attention`.
        layer: the name of another module than the last norm.
        logits_of: as in `record_attention`.
        num_classes: as in `record_attention`.

    Raises:
        ValueError: a class that the model does not know, a module that it does not have, or one
            that does not give patches on a grid to which the gradient gets.
    """
    _require_input(model, images)
    answers: list[Tensor | None] = []

    def score_of(output: Any) -> Tensor:
        logits = _logits(output, len(images), logits_of, num_classes)
        answers.append(logits)
        score = _score(gradients_of, logits, output, len(images))
        return score(output if logits is None else logits)

    passes: list[Recorder] = []

    def watch() -> Recorder:
        passes.append(Recorder(model, images.shape, layers=[]))
        return passes[-1]

    find_places = partial(_places_if_known, model, images)
    with _undisturbed(model, images, gradients=True), frozen(model):
        found = last_activations(model, images, score_of, watch, find_places, layer)
    logits = answers[-1]
    return RecordedActivations(
        found.values, found.gradients, found.layer,
        None if logits is None else logits.detach(), _kind(model, logits, passes[-1]), found.box,
    )  # fmt: skip


def _places_if_known(model: nn.Module, images: Tensor, watch: Recorder) -> Places | None:
    """Find where the tokens lie of a network in which all see each other; None in another."""
    try:
        require_layers(watch, type(model).__name__)
        return places_of(model, images, watch.calls[0].shape[-1])
    except ValueError:
        return None


def _probabilities(logits: Tensor | None, output_kind: str) -> Tensor | None:
    if logits is None or output_kind == "values":
        return None
    if output_kind == "logits":
        return logits.float().softmax(dim=1)
    return logits.float().sigmoid() if output_kind == "independent logits" else logits.float()


def _require_input(model: Any, images: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a model (torch.nn.Module), got {_type(model)}")
    if not isinstance(images, Tensor):
        remedy = (
            "torch.from_numpy makes one of an array"
            if hasattr(images, "__array_interface__") and hasattr(images, "shape")
            else "vit_tutorial.prepare opens a photograph for a network"
        )
        raise ValueError(f"expected images as a tensor (B, C, H, W), got {_type(images)}: {remedy}")
    if images.is_nested or images.layout != torch.strided:
        raise ValueError(
            "expected images as a dense tensor (B, C, H, W), got a nested or sparse one"
        )
    if images.ndim != 4 or not images.numel():
        remedy = ": images[None] makes a batch of one" if images.ndim == 3 else ""
        raise ValueError(f"expected images (B, C, H, W), got {tuple(images.shape)}{remedy}")
    tensors = (images, *model.parameters(), *model.buffers())
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise ValueError("the model has lazy layers, without weights yet: run it once before")
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(
            "the model or the images are on the device meta, where tensors hold no numbers: load "
            "the model's weights onto a device that computes (cpu, cuda)"
        )


def _type(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def _run(model: nn.Module, images: Tensor, gradients: bool) -> Any:
    """Run a model on a copy of images, which it may change, and say so where it fails on them.

    Raises:
        NoGradient: it fails with gradients only.
    """
    try:
        return model(in_graph(images) if gradients else images.detach().clone())
    except (ValueError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        name, lines = type(model).__name__, str(error).splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        if gradients and _runs_without(model, images):
            raise NoGradient(
                f"{name} runs without gradients only: with them, {reason}. Take that out of its "
                "forward, or ask for no gradients"
            ) from error
        of = next(iter(model.parameters()), images)
        raise ValueError(
            f"{name} does not run on images {tuple(images.shape)} of {images.dtype} on "
            f"{images.device} (its own weights are {of.dtype} on {of.device}): {reason}"
        ) from error


def _runs_without(model: nn.Module, images: Tensor) -> bool:
    """Say whether a model that fails with gradients runs without."""
    with suppress(Exception), torch.no_grad():
        model(images.detach().clone())
        return True
    return False


@contextmanager
def _undisturbed(model: nn.Module, images: Tensor, gradients: bool) -> Generator[None]:
    """Record by one thread at a time: modes are of the model, random numbers of the process."""
    learns_nothing = frozen(model) if gradients else nullcontext()
    with _LOCK, evaluating(model, gradients), learns_nothing, _same_random_numbers(images):
        with _not_compiled():
            yield


def _not_compiled() -> Any:
    """Let what was compiled run as it is written, or its calls would not be seen."""
    compiles = {"torch._dynamo", "torch.nn.attention.flex_attention"} & {*sys.modules}
    if not compiles or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def _same_random_numbers(images: Tensor) -> Generator[None]:
    """Put the random state back afterwards: a network may draw numbers, and the trials do."""
    device = images.device
    accelerated = device.type not in ("cpu", "meta")
    with torch.random.fork_rng(
        [device] if accelerated else [], device_type=device.type if accelerated else "cuda"
    ):
        yield


def _require_recorded(watch: Recorder) -> None:
    """See that the layers asked for are there, and that their weights are numbers."""
    depth, asked = watch.depth, watch.layers
    if asked is not None and (not asked or asked != [n for n in range(depth) if n in asked]):
        raise ValueError(f"layers must be some of 0 to {depth - 1}, rising, got {asked}")
    for kept in watch.kept:
        kept.require_finite()


# ---- what a network answers ----

LOGITS = ("logits", "out", "output", "prediction", "predictions", "scores")  # usual keys
POOLED = ("pooler_output", "image_embeds", "embeddings")  # what stands for an image, in order


def _logits(output: Any, images: int, logits_of: Any, num_classes: int | None) -> Tensor | None:
    """Return the logits (B, num_classes) in the output of a model, if it is clear which they are.

    Raises:
        ValueError: what was asked for is not there.
    """
    if logits_of is None:
        candidates = _candidates(output, images)
        if len(candidates) > 1:
            candidates = [table for table in candidates if table.shape[1] == num_classes]
        return candidates[0] if len(candidates) == 1 else None
    try:
        asked = logits_of(output) if callable(logits_of) else _part(output, logits_of)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"logits_of={logits_of!r} is not in the model's output ({_described(output)})"
        ) from error
    table = _table(asked, images)
    if table is None:
        raise ValueError(
            f"logits_of must lead to a tensor (B, num_classes) with B = {images}, got "
            f"{_described(asked)}"
        )
    return table


def _part(output: Any, name: str | int) -> Any:
    return (
        getattr(output, name) if isinstance(name, str) and hasattr(output, name) else output[name]
    )


def _candidates(output: Any, images: int) -> list[Tensor]:
    """Find what may be the logits (B, num_classes): one where it is clear."""
    if isinstance(output, Tensor):
        parts = [output]
    elif isinstance(getattr(output, "logits", None), Tensor):
        parts = [output.logits]
    elif hasattr(output, "to_tuple"):  # of Hugging Face, which would say so
        parts = []
    elif isinstance(output, Mapping):
        usual = [output[name] for name in LOGITS if isinstance(output.get(name), Tensor)]
        parts = usual[:1] or list(output.values())
    else:
        parts = list(output) if isinstance(output, tuple | list) else []
    tables = [table for part in parts if (table := _table(part, images)) is not None]
    different: list[Tensor] = []
    for table in tables:
        if not any(table.shape == other.shape and torch.equal(table, other) for other in different):
            different.append(table)
    return different


def _table(output: Any, images: int) -> Tensor | None:
    """Lay squeezed logits out as (B, num_classes); None for what cannot be logits."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim > 2 and output.shape[0] == images and output.shape[2:].numel() == 1:
        return output.flatten(1)
    if output.ndim < 2 and output.numel() == images:
        return output.reshape(images, 1)
    if output.ndim == 1 and images == 1:
        return output[None]
    return output if output.ndim == 2 and len(output) == images else None


def _described(output: Any) -> str:
    """Say what a model's output holds: its keys or positions, with shapes."""
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        parts: Any = output.items()
    elif isinstance(output, tuple | list):
        parts = enumerate(output)
    else:
        return type(output).__name__
    shapes = (tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for _, p in parts)
    return ", ".join(f"{key!r}: {shape}" for (key, _), shape in zip(parts, shapes, strict=False))


def _read(output: Any, images: int, logits_of: Any, num_classes: int | None) -> list[Tensor]:
    """Pick what depends on the tokens that count: logits, or what stands for an image, or all."""
    logits = _logits(output, images, logits_of, num_classes)
    if logits is not None:
        return [logits]
    for name in POOLED:
        pooled = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(pooled, Tensor):
            return [pooled]
    if tables := _candidates(output, images):
        return tables
    containers = Tensor | Mapping | tuple | list
    whole = output if isinstance(output, containers) else getattr(output, "__dict__", None)
    return [part for part in tensors_in(whole) if part.is_floating_point()]


def _kind(model: Any, logits: Tensor | None, watch: Recorder) -> str:
    """Name what the logits are: by their values, and whether a sigmoid was computed of so many."""
    if logits is None:
        return "logits"
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if bool((logits >= 0).all()) and bool((logits <= 1).all()):
        sums = logits.double().sum(dim=1)
        rounding = 1e-4 if logits.dtype.itemsize > 2 else 2e-2
        if logits.shape[1] > 1 and bool((sums - 1).abs().le(rounding).all()):
            return "probabilities"
        if logits.numel() in watch.squashed:
            return "independent"
    if problem == "multi_label_classification":
        return "independent logits"
    return "values" if problem == "regression" or logits.shape[1] == 1 else "logits"


# ---- gradients ----


def _score(gradients_of: Any, logits: Tensor | None, output: Any, images: int) -> Callable:
    if callable(gradients_of):
        return lambda answer: _score_per_image(gradients_of(answer), images)
    if logits is None:
        several = _candidates(output, images)
        shapes = ", ".join(str(tuple(table.shape)) for table in several)
        raise ValueError(
            f"this model gives several tables that may be its logits ({shapes}): say which, with "
            "logits_of=..., a key or a position"
            if several
            else "this model gives no logits, so gradients_of must be a function of its output "
            f"that returns a score per image, got {gradients_of!r}"
        )
    with suppress(TypeError, ValueError):  # of what is no whole number, or several
        label = operator.index(gradients_of)
        if label in range(logits.shape[-1]):
            return lambda logits: logits[:, label]
    raise ValueError(
        f"gradients_of must be a class from 0 to {logits.shape[-1] - 1} or a function of the "
        f"logits, got {gradients_of!r}"
    )


def _score_per_image(score: Any, images: int) -> Tensor:
    if not isinstance(score, Tensor) or score.numel() not in (1, images):
        raise ValueError(
            f"gradients_of must return a score per image, of shape ({images},), got "
            f"{_described(score)}"
        )
    return score


def _gradients(
    score: Tensor, answer: Any, calls: Sequence[Kept], keep_graph: bool = False
) -> list[Callable[[], Tensor]]:
    """Differentiate a score (B,) by calls: what computes these when they are read."""
    unreached = list(dict.fromkeys(call.layer for call in calls))
    if score.requires_grad:
        leaves = [call.leaf for call in calls if call.leaf is not None]
        try:
            found = zip(calls, derivatives([score.sum()], leaves, keep_graph), strict=True)
        except RuntimeError as error:
            raise NoGradient(
                f"the gradient cannot be computed: {error}. Take that out of the model's forward "
                "(changes in place, above all), or ask for no gradients"
            ) from error
        reached = [(call, slope) for call, slope in found if slope is not None]
        if len(reached) == len(calls):
            return [partial(call.gradients, slope) for call, slope in reached]
        unreached = [layer for layer in unreached if layer not in [c.layer for c, _ in reached]]
    elif not isinstance(answer, Tensor) or answer.requires_grad:
        raise ValueError("gradients_of must return a score that depends on the logits")
    raise NoGradient(
        f"the gradient cannot reach the attention of layers {', '.join(map(str, unreached))}: the "
        "model computes a part of itself without gradients (torch.no_grad, detach, reentrant "
        "checkpointing), or does not use what these layers give. Take that out of its forward, or "
        "record the other layers, or ask for no gradients: rollout and attention need none"
    )


def _later(
    model: nn.Module, images: Tensor, score_of: Callable, logits_of: Any, num_classes: int | None
) -> Callable[[], RecordedActivations]:
    """Put `record_activations` off until it is asked for."""
    images, state = images.detach().clone(), weights_state(model)

    @cache
    def activations() -> RecordedActivations:
        _require_unchanged(model, state)
        return record_activations(
            model, images, gradients_of=score_of, logits_of=logits_of, num_classes=num_classes
        )

    return activations


def _require_unchanged(model: nn.Module, state: Any) -> None:
    if weights_state(model) != state:
        raise ValueError("the model's weights have changed since they were recorded: record again")


class OwnGradients(Layers):
    """Gradients, in a pass of their own when they are first read: only LeGrad needs them."""

    def __init__(
        self, model: nn.Module, images: Tensor, score_of: Callable, layers: Sequence[int]
    ) -> None:
        super().__init__([partial(self._found, number) for number in range(len(layers))])
        self.model, self.images, self.score_of = model, images.detach().clone(), score_of
        self.layers, self.state = layers, weights_state(model)
        self.all: Layers | None = None

    @classmethod
    def of(
        cls, model: Any, images: Tensor, score_of: Callable, watch: Recorder
    ) -> OwnGradients | None:
        """Return those of a model that has a head to score each block's output with; or None.

        A head that pools by attention is none: of the mean of all tokens it makes no difference.
        """
        parts = all(hasattr(model, name) for name in ("blocks", "norm", "forward_head"))
        if not parts or len(model.blocks) != watch.depth or watch.others:
            return None
        return cls(model, images, score_of, list(dict.fromkeys(kept.layer for kept in watch.kept)))

    def _found(self, number: int) -> Tensor:
        if self.all is None:
            self.all = self._find()
        return self.all.look(number)

    def _find(self) -> Layers:
        """Score the mean of all tokens of each layer's own output by the model's head."""
        with suppress(NoGradient):  # blocks that are checkpointed cannot be while they run
            return self._differentiate(at_once=True)
        return self._differentiate(at_once=False)

    def _differentiate(self, at_once: bool) -> Layers:
        """Do it as soon as a block has run, and cut the graph behind it; or when all have."""
        model: Any = self.model
        found: list[Callable[[], Tensor]] = []
        outputs: list[Tensor] = []
        watch = Recorder(model, self.images.shape, self.layers, in_graph=True)

        def differentiate(kept: Kept, tokens: Tensor) -> None:
            mean = tokens.mean(dim=1, keepdim=True).expand_as(tokens)  # whatever the head reads
            answer = model.forward_head(model.norm(mean))
            found.extend(_gradients(self.score_of(answer), answer, [kept], keep_graph=True))
            kept.let_go()

        def keep(block: nn.Module, inputs: Any, output: Any) -> Any:
            tokens = tensors_in(output)[0]  # (B, T, D)
            if not at_once:
                outputs.append(tokens)
                return None
            for kept in watch.kept[len(found) :]:
                differentiate(kept, tokens)
            return output.detach() if isinstance(output, Tensor) else None

        hooks = [block.register_forward_hook(keep) for block in model.blocks]
        try:
            with _undisturbed(model, self.images, gradients=True):
                _require_unchanged(model, self.state)
                with watch:
                    model(in_graph(self.images))
                for kept in watch.kept[len(found) :]:
                    differentiate(kept, outputs[kept.layer])
        finally:
            for hook in hooks:
                hook.remove()
        watch.let_go()
        return watch.maps(found, batch_first=True)

"""Read what the last norm of a network gives, token by token, and the gradients of a score there.

Needs torch alone. Grad-CAM is made of it, in any network whose tokens lie on a grid at its end:
also where attention stays in windows, or the grid gets coarser from stage to stage (Swin, PVT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.probing import Box, Places, once
from vit_tutorial.watching import NoGradient, Recorder, derivatives

MOST_PREFIX = 16  # tokens before the patches that are reckoned with
BATCH = 16  # images that run together in a trial
LATE = 6  # norms at the end that are tried first: a graph from there on takes little memory


@dataclass(frozen=True)
class Activations:
    """What a layer gives for each patch, and the gradients of a score: (B, rows, columns, C).

    `layer` is the name of the module in the network; the grid covers the whole image, or `box`.
    """

    values: Tensor
    gradients: Tensor
    layer: str
    box: Box | None


def last_activations(
    model: nn.Module,
    images: Tensor,
    score_of: Callable[[Any], Tensor],
    watch: Callable[[], Recorder],
    find_places: Callable[[Recorder], Places | None],
    layer: str | None = None,
) -> Activations:
    """Find the last norm at whose patches a score has gradients, in a pass of its own.

    Behind attention the head of a ViT reads its class token alone: so it is the norm before the
    last attention there, and the last one of all where the head reads the mean of the patches.

    Args:
        model: in evaluation mode, where gradients are computed, but of no parameter.
        images: (B, C, H, W).
        score_of: turns the model's output into a score for each image, (B,).
        watch: makes what sees a pass.
        find_places: says, after such a pass, where the tokens lie, if that is known. Otherwise it
            is measured: most places have to change most with their row and column of the image.
        layer: a module by name, instead of a norm.

    Raises:
        ValueError: no module of that name, or it gives no patches.
        NoGradient: there is no norm like that.
    """
    names = _norms(model) if layer is None else [layer]
    last = once(model, ("last", *names), lambda: _in_order(model, images[:1], names)[-LATE:])
    with suppress(NoGradient):
        return _activations(model, images, score_of, watch(), find_places, layer, last)
    return _activations(model, images, score_of, watch(), find_places, layer, names)


def _in_order(model: nn.Module, images: Tensor, names: list[str]) -> list[str]:
    """Sort modules by when they run for the last time."""
    outputs = _Outputs(model, names)
    with torch.no_grad(), outputs:
        model(images.clone())
    return list(reversed(dict.fromkeys(name for name, _ in reversed(outputs.kept))))


def _activations(
    model: nn.Module,
    images: Tensor,
    score_of: Callable[[Any], Tensor],
    watch: Recorder,
    find_places: Callable[[Recorder], Places | None],
    layer: str | None,
    names: list[str],
) -> Activations:
    """Do what `last_activations` does, with a graph that begins at the first of these modules."""
    outputs = _Outputs(model, names)
    with outputs, watch:
        output = model(images.clone())
        score = score_of(output)
        kept = list(outputs.kept)
        tensors = [tensor for _, tensor in kept]
        gradients: list[Tensor | None] = []
        if tensors and score.requires_grad:
            gradients = derivatives([score.sum()], tensors, in_graph=False)
    inner = set() if layer else _inside_attention(watch, [name for name, _ in kept])
    places, what = find_places(watch), "a norm" if layer is None else f"layer {layer!r}"
    what = f"token Grad-CAM needs {what} of {type(model).__name__}"
    for (name, output), gradient in zip(reversed(kept), reversed(gradients), strict=False):
        pooled = output.numel() == len(images) * output.shape[-1]
        if gradient is None or not gradient.any() or pooled or name in inner:
            continue
        module, one = model.get_submodule(name), images[:1].detach()
        alone = lambda name=name, one=one: _output(model, one, name).shape[0]  # noqa: E731
        layouts = _layouts(output.shape, module, images.shape, places, alone)
        with_gradients = [layout for layout in layouts if layout.of(gradient).any()]
        if layouts and not with_gradients:
            continue  # the head reads other tokens
        for layout in with_gradients:
            if places is not None or _measured(model, one, name, layout):
                box = None if places is None else places.box
                return Activations(layout.of(output.detach()), layout.of(gradient), name, box)
        raise NoGradient(
            f"{what} that gives a token for each cell of a grid, row by row, but the last with a "
            f"gradient, {name}, gives {tuple(output.shape)}, which is not found to be one: name "
            "another layer, record_activations(..., layer=...)"
        )
    raise NoGradient(f"{what} that the gradient gets to, and there is none")


def has_norms(model: nn.Module) -> bool:
    """Say whether a network has modules that normalise: their class is called so."""
    return bool(_norms(model))


def _norms(model: nn.Module) -> list[str]:
    return [
        name
        for name, part in model.named_modules()
        if "Norm" in type(part).__name__
        and len(list(part.parameters())) == len(list(part.parameters(recurse=False)))
    ]


def _inside_attention(watch: Recorder, norms: list[str]) -> set[str]:
    """Find the norms of queries and keys: inside what attends, where a norm stands beside that."""
    beside = {name.rpartition(".")[0] for name in norms}
    attends = {call.module for call in (*watch.calls, *watch.others)}
    attends = {name for name in attends if name and name.rpartition(".")[0] in beside}
    return {norm for norm in norms if any(norm.startswith(f"{name}.") for name in attends)}


class _Outputs:
    """Keep what some modules of a network give while a `with` block lasts, the latest last."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        modules = dict(model.named_modules())
        if missing := [name for name in names if name not in modules]:
            raise ValueError(f"{type(model).__name__} has no module {missing[0]!r}")
        self.modules = [(name, modules[name]) for name in names]
        self.kept: list[tuple[str, Tensor]] = []

    def __enter__(self) -> None:
        self.hooks = [
            module.register_forward_hook(
                lambda module, inputs, output, name=name: self._keep(name, output)
            )
            for name, module in self.modules
        ]

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _keep(self, name: str, output: Any) -> Any:
        """Keep an output, and let the network go on with a copy, which it may change in place."""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if torch.is_grad_enabled() and not output.requires_grad:  # here the graph begins
            output = output.detach().requires_grad_()
        self.kept.append((name, output))
        return output.clone()


@dataclass(frozen=True)
class _Layout:
    """How the patches lie in an output: on which axis the channels, before which the patches."""

    channels: int  # axis
    num_prefix: int
    grid: tuple[int, int]
    sequence_first: bool = False  # (N, B, C)

    def of(self, tensor: Tensor) -> Tensor:
        """Lay a tensor out: (B, rows, columns, C)."""
        if tensor.ndim == 4:
            return tensor.movedim(self.channels, 3)
        tensor = tensor.transpose(0, 1) if self.sequence_first else tensor
        return tensor[:, self.num_prefix :].unflatten(1, self.grid)


def _layouts(
    shape: Sequence[int],
    module: nn.Module,
    images: Sequence[int],
    places: Places | None,
    alone: Callable[[], int],
) -> list[_Layout]:
    """List how an output may be laid out, what is likelier first.

    `alone` says how long the first axis is for one image, where there are as many as tokens.
    """
    batch = images[0]
    channels = {p.numel() for p in module.parameters(recurse=False) if p.ndim == 1}
    found = []
    if len(shape) == 4 and shape[0] == batch:
        for axis, grid in ((3, (shape[1], shape[2])), (1, (shape[2], shape[3]))):
            if not channels or shape[axis] in channels:
                found.append(_Layout(axis, 0, grid))
    if len(shape) == 3 and batch in shape[:2]:
        first = shape[0] != batch if shape[0] != shape[1] else alone() != 1
        tokens = shape[0] if first else shape[1]
        for prefix in range(min(MOST_PREFIX, tokens - 1) + 1):
            rows = round(((tokens - prefix) * images[2] / images[3]) ** 0.5)
            grid = (rows, (tokens - prefix) // max(rows, 1)) if places is None else places.grid
            in_proportion = places is not None or grid[0] * images[3] == grid[1] * images[2]
            if grid[0] * grid[1] == tokens - prefix and in_proportion:
                found.append(_Layout(2, prefix, grid, first))
    if places is None:
        return [layout for layout in found if layout.grid != (1, 1)]
    where = (places.num_prefix, places.grid)
    return [layout for layout in found if (layout.num_prefix, layout.grid) == where]


def _measured(model: nn.Module, image: Tensor, name: str, layout: _Layout) -> bool:
    """See whether most places of a grid change most where their row and column of the image do.

    What is compared is a place's share of all change, or the part that matters most to the network
    would be everybody's.
    """
    draw = torch.Generator().manual_seed(0)
    spread = float(image.float().std())
    noise = torch.randn(image.shape, generator=draw) * (spread if spread > 1e-3 else 1.0)

    def find() -> bool:
        for axis, count in ((2, layout.grid[0]), (3, layout.grid[1])):
            size = image.shape[axis]
            shape = [count, 1, 1, 1]
            shape[axis] = size
            bands = torch.arange(size) * count // size == torch.arange(count)[:, None]
            changed = image + (noise * bands.view(shape)).to(image)
            parts = torch.cat([image, changed]).split(BATCH)
            features = torch.cat([layout.of(_output(model, part, name)) for part in parts])
            change = (features[1:] - features[:1]).float().norm(dim=-1)  # (count, rows, columns)
            change = change / change.mean(dim=(1, 2), keepdim=True).clamp_min(1e-30)
            place = torch.arange(count, device=change.device).view(-1, 1)
            right = change.argmax(dim=0) == (place if axis == 2 else place.T)
            if right.double().mean() <= 0.5:
                return False
        return True

    return once(model, ("grid", name, layout, image.shape, image.dtype, image.device), find)


def _output(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Return what a module gives, when it is called for the last time."""
    outputs = _Outputs(model, [name])
    with torch.no_grad(), outputs:
        model(images)
    return outputs.kept[-1][1]

"""Rollouts for lesson 09, right ones and wrong ones, and what a learner's law says of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.lessons.exercises import Wrong, describe, require_output

Layers = list[Tensor]


def _join(fuse: Callable[[Tensor], Tensor], which: slice = slice(None)) -> Callable:
    """Make a rollout from a way to join heads, and the layers that take part."""

    def roll(weights: Layers) -> Tensor:
        joined = torch.eye(weights[0].shape[-1]).to(weights[0])
        for layer in weights[which]:
            joined = (fuse(layer) + torch.eye(layer.shape[-1]).to(layer)) / 2 @ joined
        return joined.expand(len(weights[0]), -1, -1)

    return roll


def _by_rows(weights: Layers) -> Tensor:
    """Follow all rows from the newest layer down: no layer is mixed with the identity."""
    rows = torch.eye(weights[0].shape[-1]).to(weights[0])
    rows = rows.expand(len(weights[0]), -1, -1)
    for layer in reversed(weights):
        rows = rows / 2 + rows @ layer.mean(1) / 2
    return rows


def _by_numpy(weights: Layers) -> Tensor:
    images = []
    for image in range(len(weights[0])):
        joined = np.eye(weights[0].shape[-1])
        for layer in weights:
            heads = layer[image].numpy()
            joined = (sum(heads[h] / len(heads) for h in range(len(heads))) @ joined + joined) / 2
        images.append(torch.from_numpy(joined).to(weights[0]))
    return torch.stack(images)


RIGHT_ROLLOUTS = [_join(lambda w: w.mean(1)), _by_rows, _by_numpy]
WRONG_ROLLOUTS: dict[str, Callable] = {
    "reads head 0 alone": _join(lambda w: w[:, 0]),
    "takes the largest of the heads, scaled to rows of 1": (
        _join(lambda w: F.normalize(w.amax(1), p=1, dim=-1))
    ),
    "squares the weights and scales the rows to 1 again, so that every map is too sharp": (
        _join(lambda w: F.normalize(w.mean(1) ** 2, p=1, dim=-1))
    ),
    "never looks at the layers after the third": _join(lambda w: w.mean(1), slice(3)),
}


def ask(law: Callable, roll: Callable) -> bool:
    """Ask a law about one rollout; see that the weights it makes are some that attention can have.

    Raises:
        Wrong: the weights are impossible, or the verdict is neither True nor False.
    """

    def guarded(weights: Any) -> Tensor:
        if not isinstance(weights, list | tuple) or not weights:
            raise Wrong(f"`roll` takes a list of tensors, got {describe(weights)}.")
        for layer in weights:
            if not isinstance(layer, Tensor) or layer.ndim != 4 or layer.shape[2] != layer.shape[3]:
                raise Wrong(f"`roll` takes a list of (B, h, T, T), got {describe(layer)} in it.")
            error = (layer.sum(-1) - 1).abs().max().item()
            if not error < 1e-5 or layer.min() < 0:
                raise Wrong(
                    "Your law tries weights that no softmax makes: each row of (B, h, T, T) must "
                    "be 0 or more and sum to 1. What a function does with others proves nothing."
                )
        return roll(list(weights))

    verdict = require_output(law(guarded))
    if isinstance(verdict, Tensor) and verdict.dtype == torch.bool and verdict.numel() == 1:
        verdict = verdict.item()
    if not isinstance(verdict, bool | np.bool_):
        raise Wrong(f"Expected True or False, got {describe(verdict)}.")
    return bool(verdict)

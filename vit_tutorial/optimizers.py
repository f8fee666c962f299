"""How weights are changed: AdamW or Muon, which of them decay, and the learning rate by step."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.recipes import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the blocks and AdamW for the rest.

    AdamW: Loshchilov & Hutter 2017, arXiv 1711.05101. Both take the same `lr`, see `Muon`.

    Raises:
        ValueError: Muon or `layer_decay` is set, and the model has no blocks.
    """
    groups = parameter_groups(model, config.weight_decay)
    if config.layer_decay != 1:
        groups = groups_by_layer(groups, model, config.layer_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(groups, lr=config.lr, fused=fused)]
    in_blocks = {id(p) for p in getattr(model, "blocks", nn.Module()).parameters()}
    matrices, others = [], []
    for group in groups:
        parts = {True: [], False: []}
        for p in group["params"]:
            parts[id(p) in in_blocks and p.ndim > 1].append(p)
        matrices += [{**group, "params": parts[True]}] if parts[True] else []
        others += [{**group, "params": parts[False]}] if parts[False] else []
    if not matrices:
        raise ValueError('optimizer="muon" is for matrices in `model.blocks`, and there are none')
    muon = Muon(matrices, config.lr, config.weight_decay)
    return [muon, torch.optim.AdamW(others, lr=config.lr, fused=fused)]


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: the singular values of a step are all near 1.

    Jordan et al. 2024, kellerjordan.github.io/posts/muon; a step has the size of one of AdamW's
    (Liu et al. 2025, arXiv 2502.16982, equation 4). It computes what `torch.optim.Muon` does with
    adjust_lr_fn="match_rms_adamw", for all matrices of one shape at once, and in bfloat16 only
    under an autocast to it: on a CPU that imitates bfloat16, this takes a tenth of the time.
    The kernels of a convolution, (out, in, rows, columns), are the matrix (out, in·rows·columns).
    """

    def __init__(
        self, params: Iterable[Any], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change every matrix that has a gradient; `closure` is not called."""
        for group in self.param_groups:
            alike = defaultdict(list)  # shape -> the matrices that have it
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                stack = torch.stack(
                    [self._with_momentum(m, m.grad, group["momentum"]) for m in matrices]
                ).flatten(2)  # (matrices, out, in)
                sides = stack.shape[1:]
                size = group["lr"] * 0.2 * math.sqrt(max(sides))  # entries as large as AdamW's
                for matrix, direction in zip(matrices, orthogonalized(stack), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(direction.view(shape), alpha=-size)

    def _with_momentum(self, matrix: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["average"] = torch.zeros_like(matrix)
        average = state["average"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)  # Nesterov's: one step ahead


def orthogonalized(matrices: Tensor) -> Tensor:
    """Bring all singular values of matrices (..., m, n) near 1, and keep their directions.

    Five rounds of a polynomial that needs products alone (Newton-Schulz); it brings all but very
    small values to 0.7..1.2: near enough, and faster than a singular value decomposition.
    """
    tall, device = matrices.shape[-2] > matrices.shape[-1], matrices.device.type
    in_half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    x = matrices.bfloat16() if in_half is torch.bfloat16 else matrices
    x = x.mT if tall else x  # the product below is then the smaller one
    x = x / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7).to(x.dtype)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Give weight decay to matrices only: not to biases, norms, CLS token and positions."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        table = name.endswith(("pos_embed", "cls_token"))
        (matrices if parameter.ndim > 1 and not table else others).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def groups_by_layer(groups: list[dict], model: nn.Module, layer_decay: float) -> list[dict]:
    """Split groups so that early layers learn more slowly than late ones, by their "lr_scale".

    What follows the blocks learns at full rate, each block at `layer_decay` times the rate of what
    follows it, and what comes before them at the lowest (Bao et al. 2021, arXiv 2106.08254).

    Raises:
        ValueError: a model without blocks.

    Examples:
        >>> model = nn.ModuleDict(
        ...     {"blocks": nn.ModuleList([nn.Linear(2, 2)]), "head": nn.Linear(2, 1)}
        ... )
        >>> groups = groups_by_layer(parameter_groups(model, 0.05), model, layer_decay=0.5)
        >>> [(group["lr_scale"], len(group["params"])) for group in groups]
        [(0.5, 1), (1.0, 1), (0.5, 1), (1.0, 1)]
    """
    names = [name for name, _ in model.named_parameters()]
    numbers = [re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names]
    depth = max((int(number[1]) + 1 for number in numbers if number), default=0)
    if not depth:
        raise ValueError("layer_decay is for a model with `blocks`, and there are none")
    layer, layers = 0, {}
    for parameter, number in zip(model.parameters(), numbers, strict=True):
        if number:
            layer = int(number[1]) + 1  # 0 is what comes before the blocks
        elif layer:
            layer = depth + 1
        layers[id(parameter)] = layer
    split = []
    for group in groups:
        for layer in sorted({layers[id(p)] for p in group["params"]}):
            params = [p for p in group["params"] if layers[id(p)] == layer]
            scale = layer_decay ** (depth + 1 - layer)
            split.append({**group, "params": params, "lr_scale": scale})
    return split


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the highest learning rate at `step`: linear warm-up, then a cosine to 0.

    Examples:
        >>> [round(lr_factor(step, 100, warmup=0.1), 3) for step in (0, 9, 55, 100)]
        [0.1, 1.0, 0.5, 0.0]
    """
    warmup_steps = warmup * total_steps
    if step < warmup_steps:
        return min(1.0, (step + 1) / warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))

"""How weights are changed: AdamW or Muon, which of them decay, and the learning rate by step."""

import math

import torch
from torch import nn

from vit_tutorial.recipes import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the blocks and AdamW for the rest.

    AdamW: Loshchilov & Hutter 2017, arXiv 1711.05101. Muon: Jordan et al. 2024, with steps of the
    size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both take the same `lr`.

    Raises:
        ValueError: Muon is asked for, and this PyTorch has none or the model no blocks.
    """
    groups = parameter_groups(model, config.weight_decay)
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(groups, lr=config.lr, fused=fused)]
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f'optimizer="muon" needs PyTorch 2.9 or newer, here is {torch.__version__}'
        )
    in_blocks = {id(p) for p in getattr(model, "blocks", nn.Module()).parameters()}
    matrices = [p for p in groups[0]["params"] if id(p) in in_blocks and p.ndim == 2]
    if not matrices:
        raise ValueError('optimizer="muon" is for matrices in `model.blocks`, and there are none')
    taken = set(map(id, matrices))
    groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in taken]
    muon = torch.optim.Muon(
        matrices, config.lr, config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(groups, lr=config.lr, fused=fused)]


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

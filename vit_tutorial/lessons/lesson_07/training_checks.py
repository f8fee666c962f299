"""How a training step, parameter groups and a measurement of lesson 07 treat a model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.lessons.exercises import Wrong, as_number, describe, require_output

# ---- A training step ----


class Descent:
    """Gradient descent with momentum; PyTorch's own takes seconds to be imported."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.speeds = [torch.zeros_like(parameter) for parameter in self.parameters]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters, those that have a gradient."""
        for parameter, speed in zip(self.parameters, self.speeds, strict=True):
            if parameter.grad is not None:
                speed.mul_(0.9).add_(parameter.grad)
                parameter.sub_(speed, alpha=0.5)


def train(step: Callable) -> list[Tensor]:
    """Return the losses of three steps and the weights after them, for two clip norms."""
    torch.manual_seed(0)
    losses, weights = [], []
    for clip_norm in (0.3, 1e3):  # always too short for the gradient, and never
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.GELU(), nn.Linear(6, 4)).double()
        for parameter in model.parameters():  # left from something else
            parameter.grad = torch.randn_like(parameter)
        optimizer = Descent(model)
        for _ in range(3):
            images, labels = torch.randn(5, 3, 2, 2).double(), torch.randint(4, (5,))
            losses.append(loss_of(step(model, optimizer, images, labels, clip_norm)))
        weights += [parameter.detach().flatten() for parameter in model.parameters()]
    return [torch.tensor(losses, dtype=torch.float64), torch.cat(weights)]


def loss_of(output: Any) -> float:
    """Return a loss as a number, once it is one that may be kept."""
    require_output(output)
    if isinstance(output, Tensor) and output.numel() == 1 and output.requires_grad:
        raise Wrong(
            "The loss comes back as a tensor that remembers how it was computed. Kept in a list, "
            "it would keep all of that in memory: return a plain number."
        )
    return as_number(output)


def alike(trained: list[Tensor], expected: list[Tensor], tolerance: float = 1e-7) -> bool:
    """Tell whether two trainings are the same but for rounding."""
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance / 10)
        for a, b in zip(trained, expected, strict=True)
    )


def first_losses(losses: Tensor) -> str:
    """Write the first three losses."""
    return ", ".join(f"{loss:.3f}" for loss in losses[:3].tolist()) + " ..."


# ---- Which parameters decay ----


def decay_of(groups: Any, model: nn.Module) -> dict[str, float]:
    """Return the decay of each parameter, once every one is in one group."""
    require_output(groups)
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise Wrong(f"Expected a list of dictionaries, got {describe(groups)}.")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays: dict[str, float] = {}
    for group in groups:
        if set(group) < {"params", "weight_decay"}:
            missing = " and ".join(sorted({"params", "weight_decay"} - set(group)))
            raise Wrong(
                f"A group has no {missing}. (Without a decay of its own, AdamW gives a group 0.01.)"
            )
        for parameter in group["params"]:
            if isinstance(parameter, tuple | str):
                raise Wrong(f"Groups hold the parameters alone, got {describe(parameter)}.")
            name = names.get(id(parameter))
            if name is None:
                raise Wrong("A group holds a tensor that is no parameter of the model: a copy?")
            if name in decays:
                raise Wrong(f"`{name}` is in a group twice, or in two groups.")
            decays[name] = as_number(group["weight_decay"])
    if missing := [name for name in names.values() if name not in decays]:
        raise Wrong(
            f"`{missing[0]}` is in no group ({len(missing)} of {len(names)} are not): the "
            f"optimizer would never change it."
        )
    return decays


def judge_decay(name: str, parameter: Tensor, actual: float, decay: float) -> None:
    """See that a parameter has the decay that its kind should have."""
    kinds = {
        "pos_embed": "the table of positions: one row for each place, no weights of a layer",
        "cls_token": "a token, no weights of a layer",
        "patch_embed.proj.weight": "the matrix of a linear layer, in the shape of a convolution's",
    }
    kind = kinds.get(name)
    if kind is None:
        kind = "the matrix of a linear layer" if parameter.ndim > 1 else "the gain of a norm"
        kind = "a bias" if name.endswith("bias") else kind
    expected = decay if kind.startswith("the matrix") else 0.0
    if actual != expected:
        raise Wrong(f"`{name}` is {kind}: its decay should be {expected:g}, got {actual:g}.")


# ---- In which mode it is measured ----


class Probe(nn.Module):
    """Returns stored logits, and notes how it was called."""

    def __init__(self, training: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: set[tuple[bool, bool]] = set()
        self.train(training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, which are logits."""
        self.seen.add((self.training, torch.is_grad_enabled()))
        return images * self.scale


def judge_calls(model: Probe, training: bool) -> None:
    """See that it was measured in the right mode, and left in the one it came in."""
    if not model.seen:
        raise Wrong("The model was never called.")
    if any(mode for mode, _ in model.seen):
        raise Wrong("The model was in training mode while you measured: drop path would be on.")
    if any(gradients for _, gradients in model.seen):
        raise Wrong(
            "Right mode, but every answer was recorded for gradients that nobody will ask for: "
            "evaluation mode does not turn that off."
        )
    if model.training != training:
        state = "training" if training else "evaluation"
        raise Wrong(f"The model came in {state} mode, and you left it in the other one.")

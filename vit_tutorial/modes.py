"""A network run in evaluation mode, and left in the mode that it was in."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module, gradients: bool = False) -> Generator[None]:
    """Put a network into evaluation mode while the context lasts, without gradients by default.

    Afterwards every submodule is in its own mode again, also after an error: a part that was frozen
    in evaluation mode inside a network in training stays so. Modes are changed by the modules' own
    `train`, so that layers which do more than set a flag (LoRA merges its weights into those of
    the network) undo it; buffers, and the parameters of such layers, are the same to the bit
    afterwards. Whatever mode the caller is in, what is computed are ordinary tensors, which can be
    trained on later.

    Examples:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with evaluating(network):
        ...     (network[1].training, network(torch.ones(2)).requires_grad)
        (False, False)
        >>> network[1].training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    in_training = any(training for _, training in modes)
    kept = _copies(model, in_training)
    try:
        if in_training:
            _evaluate(model)
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    finally:
        for module, training in modes:  # from the outermost in, as `train` itself goes
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training
        _put_back(kept)


def _evaluate(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError as error:  # of torch.export
        raise ValueError(
            f"{type(model).__name__} is an exported program, which has no evaluation mode: use the "
            "network that it was made of"
        ) from error


Kept = list[tuple[dict, str, Tensor, Tensor]]  # where it is held, its name, itself, its copy


def _copies(model: nn.Module, in_training: bool) -> Kept:
    """Copy what a change of mode or a forward pass might change: a copy of all takes too much."""
    holders: list[dict] = [module._buffers for module in model.modules()]
    if in_training:
        own = [m for m in model.modules() if _defined(m, "train") or _defined(m, "eval")]
        inside = {id(part): part for module in own for part in module.modules()}
        holders += [module._parameters for module in inside.values()]
    with torch.no_grad():
        return [
            (holder, name, tensor, tensor.detach().clone())
            for holder in holders
            for name, tensor in holder.items()
            if tensor is not None and not nn.parameter.is_lazy(tensor)
        ]


def _defined(module: nn.Module, method: str) -> bool:
    """Say whether a class has a `train` or `eval` of its own."""
    return getattr(type(module), method) is not getattr(nn.Module, method)


def _put_back(kept: Kept) -> None:
    for holder, name, tensor, copy in kept:
        if holder.get(name) is not tensor:
            holder[name] = tensor
        if not torch.equal(tensor.data, copy):
            tensor.data.copy_(copy)


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """Ask for no gradients of a network's parameters: then less is held for the way back.

    Examples:
        >>> network = nn.Linear(2, 2)
        >>> with frozen(network):
        ...     network(torch.ones(2)).requires_grad
        False
        >>> network.weight.requires_grad
        True
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def attributes_kept(model: nn.Module) -> Generator[None]:
    """Put back, afterwards, the attributes that passes of a network have set on its modules.

    Examples:
        >>> network = nn.Identity()
        >>> network.seen = "the user's"
        >>> with attributes_kept(network):
        ...     network.seen = "of a trial"
        >>> network.seen
        "the user's"
    """
    before = [(vars(module), dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for attributes, old in before:
            attributes.clear()
            attributes.update(old)

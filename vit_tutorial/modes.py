"""A network run in evaluation mode, and left in the mode that it was in."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module, gradients: bool = False) -> Generator[None]:
    """Put a network into evaluation mode while the context lasts, without gradients by default.

    Afterwards every submodule is in its own mode again, also after an error: a part that was frozen
    in evaluation mode inside a network in training stays so. Whatever mode the caller is in, what
    is computed are ordinary tensors, which can be trained on later.

    Examples:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with evaluating(network):
        ...     (network[1].training, network(torch.ones(2)).requires_grad)
        (False, False)
        >>> network[1].training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    finally:
        for module, training in modes:
            module.training = training

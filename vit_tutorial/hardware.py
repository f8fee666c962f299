"""What this machine can do for a training: half precision, compilation, its memory."""

import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vit_tutorial.distributed import world_size


def half_precision(device: torch.device | str) -> torch.dtype | None:
    """Return the half precision that a GPU is built for, or None; a CPU has to be tried.

    bfloat16 from compute capability 8.0 on, float16 from 7.0 on.
    (`torch.cuda.is_bf16_supported()` also says yes to GPUs that only imitate bfloat16, slowly.)
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else None


# what compilation and sharding put into the names of weights
INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@contextmanager
def compiled(model: nn.Module, enabled: bool = True) -> Generator[bool]:
    """Compile the blocks of `model` while the context lasts; give True where that worked.

    Blocks that differ in their weights alone are compiled once. A model without `blocks` is
    compiled as one. Where compilation does not work, a warning says so, and all runs as before.
    """
    parts = list(getattr(model, "blocks", [model])) if enabled else []
    try:
        torch.compile(torch.nn.Identity())(torch.zeros(1)) if parts else None
    except Exception as error:  # no compiler, no Triton, an unknown GPU: many ways to fail
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"torch.compile does not work here, so the model runs uncompiled: {reason}",
            stacklevel=3,
        )
        parts = []
    for part in parts:
        part.forward = torch.compile(part.forward)
    try:
        yield bool(parts)
    finally:
        for part in parts:
            del part.forward  # the class's own is back


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network itself of one that is compiled, data-parallel or averaged.

    Examples:
        >>> network = torch.nn.Linear(2, 1)
        >>> unwrapped(torch.nn.DataParallel(network)) is unwrapped(network) is network
        True
    """
    while name := _wrapped(network):
        network = network.get_submodule(name)
    return network


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network, wrapped as a whole or in parts, by the names without it.

    Examples:
        >>> network = torch.nn.Sequential(torch.nn.DataParallel(torch.nn.Linear(2, 1)))
        >>> list(network.state_dict()), list(plain_state(network))
        (['0.module.weight', '0.module.bias'], ['0.weight', '0.bias'])
    """
    network = unwrapped(network)
    state, names = network.state_dict(), _plain_names(network)
    return {plain: state[name] for plain, name in names.items()}


def load_plain(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights, saved by a network wrapped in any way, into one wrapped in any other.

    Raises:
        RuntimeError: weights of another network.
    """
    network = unwrapped(network)
    names = _plain_names(network)
    network.load_state_dict({names.get(plain_key(k), k): value for k, value in state.items()})


def plain_key(key: str) -> str:
    """Write the name of a weight without what compilation puts into it.

    Examples:
        >>> plain_key("blocks.0._orig_mod.mlp.fc1.bias")
        'blocks.0.mlp.fc1.bias'
    """
    return ".".join(part for part in key.split(".") if part not in INSERTED)


def _wrapped(network: nn.Module) -> str:
    """Return what a wrapper calls the network in it; "" for what is no wrapper."""
    for name in INSERTED:
        if name in network._modules:
            return name
    parallel = nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel
    return "module" if isinstance(network, parallel) else ""


def _plain_names(network: nn.Module) -> dict[str, str]:
    """Return the name in `network.state_dict()` of each weight, by its plain one."""
    inserted = {
        f"{path}.{name}".lstrip(".")
        for path, module in network.named_modules(remove_duplicate=False)
        if (name := _wrapped(module))
    }
    names = {}
    for key in network.state_dict():
        parts = key.split(".")
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        kept = (part for part, path in zip(parts, paths, strict=True) if path not in inserted)
        names[".".join(kept)] = key
    return names


def best_device() -> str:
    """Return "cuda", "mps" or "cpu", the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def memory_errors_explained(model: nn.Module, images: Tensor) -> Generator[None]:
    """Where a batch does not fit into memory, find out and say which one does."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.cuda.OutOfMemoryError) or "t allocate mem" in str(error)):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the activations of this batch
        torch.cuda.empty_cache()
        device, fits = next(model.parameters()).device, len(images)
        while fits > 1:
            fits //= 2
            with suppress(RuntimeError):
                model.zero_grad()
                model(images[:fits].to(next(model.parameters()).dtype)).sum().backward()
                break
        else:
            fits = 0
        raise MemoryError(
            f"a batch of {len(images) * world_size()} images does not fit into the memory of "
            f"{device}; " + (f"{fits * world_size()} do" if fits else "not even one image does")
        ) from error

"""What this machine can do for a training: half precision, compilation, several processes."""

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


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


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Generator[bool]:
    """Compile the blocks of `model` while the context lasts; give True where that worked.

    Blocks that are equal but for their numbers are compiled once. A model without `blocks` is
    compiled whole. Where compilation does not work, a warning says so, and all runs as before.
    """
    parts = list(getattr(model, "blocks", [model])) if wanted else []
    try:
        torch.compile(torch.nn.Identity())(torch.zeros(1)) if parts else None
    except Exception as error:  # no compiler, no Triton, an unknown GPU: many ways to fail
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"torch.compile does not work here, so nothing is compiled: {reason}", stacklevel=3
        )
        parts = []
    for part in parts:
        part.forward = torch.compile(part.forward)
    try:
        yield bool(parts)
    finally:
        for part in parts:
            del part.forward  # the class's own is back


def best_device() -> str:
    """Return "cuda", "mps" or "cpu", the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def rank() -> int:
    """Return which of the processes that train together this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes(device: str) -> Generator[str]:
    """Join the processes that `torchrun` started, if it did; give the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def synchronised(model: nn.Module) -> nn.Module:
    """Wrap `model` so that its gradients are averaged over all processes (PyTorch's DDP)."""
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )


def agreed(number: int) -> int:
    """Return, in all processes that train together, the number that the first of them has.

    What each has measured for itself, such as how many epochs fit into ten minutes, differs a
    little; processes that then do different things wait for each other for ever.
    """
    if world_size() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    shared = torch.tensor(number, device=device)
    dist.broadcast(shared, src=0)
    return int(shared)

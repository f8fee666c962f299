"""Several processes that train one network together, each on its share of every batch."""

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


def rank() -> int:
    """Return which of the processes that train together this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: str) -> Generator[str]:
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


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap `model` so that its gradients are averaged over all processes (PyTorch's DDP)."""
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )


def broadcast(number: int) -> int:
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

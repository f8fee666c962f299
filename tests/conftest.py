"""What the tests share: randomised weights, a seed, and no way out to the network."""

import os
import socket

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from torch import nn


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter its own random values, norms and biases included; float64, eval."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = noise / fan_in**0.5
    return model


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _this_machine_only(monkeypatch):
    """No test may talk to another machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in (
            "127.0.0.1",
            "localhost",
            "::1",
        ):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)

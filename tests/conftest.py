"""What the tests share: randomised weights, a seed, and no way out to the network."""

import io
import os
import socket
import warnings
from collections.abc import Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as vit_tutorial/__init__.py, which comes later

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
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


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Compare two colours, red, green and blue in 0..1, from 1 to 21 (WCAG 2.1)."""
    lights = []
    for colour in (one, other):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        lights.append(sum(a * b for a, b in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def words_in(figure: Figure) -> list[str]:
    """Every text that is drawn, once it has been: a missing glyph or a bad layout would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.fixture(autouse=True)
def _no_figure_is_left_open():
    """A figure that stays open is shown twice in a notebook, and fills the memory of a test."""
    plt.close("all")
    yield
    assert plt.get_fignums() == []


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


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window, started once."""
    pytest.importorskip("playwright.sync_api", reason="needs playwright")
    import lesson_in_browser

    if lesson_in_browser.find_chromium() is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with lesson_in_browser.running_chromium() as opened:
        yield opened

"""What the tests share: randomised weights, a seed, programs, a browser, no way to the network."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more wait for each other, where it is busy
os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as vit_tutorial/__init__.py, which comes later

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from vit_tutorial import VisionTransformer, ViTConfig

# not square, or swapped rows and columns would go unseen
SMALL = dict(img_size=(16, 24), patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter its own random values, norms and biases included; float64, eval."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = noise / fan_in**0.5
    return model


def tiny_model(**changes) -> VisionTransformer:
    """Our network with random weights, small enough to be asked hundreds of times; float64."""
    return randomize(VisionTransformer(ViTConfig(**{**SMALL, **changes})))


def pictures(count: int = 2, size: tuple[int, int] = SMALL["img_size"]) -> torch.Tensor:
    """Random pixels (count, 3, *size) for `tiny_model`."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=generator)


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Compare two colours, red, green and blue in 0..1, from 1 to 21 (WCAG 2.1)."""
    lights = []
    for colour in (one, other):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        lights.append(sum(a * b for a, b in zip(linear, (0.2126, 0.7152, 0.0722), strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.fixture
def results_root(tmp_path, monkeypatch) -> Path:
    """Benchmarks write below an empty folder, and find no GPU."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr("results.ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


def stored(root: Path, name: str) -> dict:
    """What a benchmark has written below `root`."""
    return json.loads((root / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def drawn(figure: Figure) -> Figure:
    """Draw a figure, and return it: a missing glyph or a bad layout would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def words_in(figure: Figure) -> list[str]:
    """Every text that is drawn, once it has been."""
    return [text.get_text() for text in drawn(figure).findobj(Text) if text.get_text()]


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


@contextlib.contextmanager
def hearing_ctrl_c():
    """Ctrl-C raises KeyboardInterrupt here, even where the tests were started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def programs():
    """Give a function like `Popen`; what it started, and what that started, ends with the block."""
    started = []

    def start(*command: str | os.PathLike, **options) -> subprocess.Popen[str]:
        with hearing_ctrl_c():  # as the program will: that a signal is ignored is inherited
            process = subprocess.Popen(command, text=True, start_new_session=True, **options)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:  # all have ended, unless the test failed
            with process:  # closes its pipes, too
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()


@pytest.fixture
def start():
    """Start programs that do not outlive the test."""
    with programs() as start:
        yield start


@pytest.fixture
def ctrl_c():
    """Signals may be sent."""
    with hearing_ctrl_c():
        yield


NO_BROWSER = "needs Chromium"


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window, started once."""
    from browser import find_chromium, running_chromium

    if find_chromium() is None:
        pytest.skip(NO_BROWSER)
    with running_chromium() as opened:
        yield opened


@pytest.fixture(params=["Chromium", "Node"])
def javascript(request, tmp_path):
    """Call the explorer's modules: `javascript(modules, body, data)` gives what `body` returns."""
    from javascript import in_chromium, in_node, program

    if request.param == "Node" and shutil.which("node") is None:
        pytest.skip("there is no Node here, and Chromium has run the same")
    browser = request.getfixturevalue("browser") if request.param == "Chromium" else None

    def run(modules: list[str], body: str, data: Any) -> Any:
        code = program(tmp_path, modules, body)
        return (
            in_node(code, data, tmp_path) if browser is None else in_chromium(browser, code, data)
        )

    return run


@pytest.fixture
def open_file(browser):
    """Open saved pages: none may have an error, or ask for anything but itself."""
    from browser import PATIENCE

    pages = []

    def one(path: Path, width=1000, height=700, scheme="light", end="", **options):
        size = {"width": width, "height": height}
        page = browser.new_page(viewport=size, color_scheme=scheme, **options)
        pages.append(page)
        page.set_default_timeout(1000 * PATIENCE)
        page.requested, page.problems = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda told: told.type == "error" and page.problems.append(told.text))
        page.goto(path.as_uri() + end)
        return page

    yield one
    for page in pages:
        page.close()
    for page in pages:
        assert page.problems == []
        fetched = {url for url in page.requested if not url.startswith(("blob:", "data:"))}
        assert fetched == {page.url.split("#")[0]}


def pytest_terminal_summary(terminalreporter):
    """Where there is no browser, say what was not tested for want of one, and how to get it."""
    skipped = terminalreporter.stats.get("skipped", [])
    missed = [report.nodeid for report in skipped if NO_BROWSER in str(report.longrepr)]
    files = Counter(test.partition("::")[0] for test in missed)
    if files:
        terminalreporter.section("not everything was tested: there is no browser here")
        for name, count in sorted(files.items()):
            terminalreporter.line(f"{count:5} tests of {name}")
        terminalreporter.line(
            "These did not run. To run them, install Chromium or Chrome (on Debian and Ubuntu: "
            "sudo apt install chromium) and start the tests again."
        )

"""course.py in a copy of its own: with stand-ins for uv and JupyterLab, and no network."""

from __future__ import annotations

import ast
import contextlib
import errno
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent

# Writes down how it was called; then fails, asks an index, dawdles, or puts a JupyterLab where
# Python finds it.
FAKE_UV = """
import http.client, json, os, pathlib, sys, time

with open(os.environ["FAKE_LOG"], "a") as log:
    print(json.dumps({"pid": os.getpid(), "arguments": sys.argv[1:]}), file=log)
if "FAKE_ERROR" in os.environ:
    print("first line\\n" * 30 + os.environ["FAKE_ERROR"])
    sys.exit(2)
if "--torch-backend" in sys.argv and "FAKE_INDEX" in os.environ:
    index = http.client.HTTPConnection(os.environ["FAKE_INDEX"])
    index.request("GET", "/torch/")
    if index.getresponse().status != 200:
        sys.exit("error: torch was not found in the package registry")
if "--dry-run" in sys.argv:
    sys.exit()
for _ in range(30000):  # ten minutes at most
    if os.path.exists(os.environ.get("FAKE_WHILE", "")):
        time.sleep(0.02)
python = pathlib.Path(sys.argv[sys.argv.index("--python") + 1])
site = next(python.parent.parent.glob("lib/python*/site-packages"))
(site / "jupyterlab.py").write_text(os.environ["FAKE_LAB"])
"""

FAKE_LAB = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        words = {"path": self.path, "arguments": sys.argv[1:], "cwd": os.getcwd(),
                 "token": os.environ["JUPYTER_TOKEN"], "stdin": sys.stdin.read()}
        self.wfile.write(json.dumps(words).encode())

    def log_message(self, *words):
        pass

port = next(word for word in sys.argv if word.startswith("--port=")).partition("=")[2]
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A copy of course.py in a folder of its own; on PATH only uv, and a GPU's nvidia-smi."""
    if os.name == "nt":
        pytest.skip("the stand-ins are programs for Linux and macOS")
    root = tmp_path / "a course"
    root.mkdir()
    for name in ("course.py", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    write_notebook(root / "notebooks/00_start_here.ipynb", "print('zero')")
    write_notebook(root / "notebooks/04_attention.ipynb", "print('four')")

    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin/uv", f"#!{sys.executable}\n{FAKE_UV}")
    write_program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\nexit 0\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "uv.log"))
    monkeypatch.setenv("FAKE_LAB", FAKE_LAB)

    on_sigterm = signal.getsignal(signal.SIGTERM)
    yield load(root / "course.py")
    signal.signal(signal.SIGTERM, on_sigterm)


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("course", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start_course(course, start) -> Callable[..., subprocess.Popen[str]]:
    """Start course.py as a person does; what it says comes through one pipe."""

    def one(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return start(
            *(sys.executable, course.ROOT / "course.py", *arguments),
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,  # like a terminal: whoever waits for an answer waits in vain
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return one


def uv_calls() -> list[list[str]]:
    """How uv was called, oldest first."""
    return [call["arguments"] for call in read_uv_log()]


def read_uv_log() -> list[dict]:
    log = Path(os.environ["FAKE_LOG"])
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_uv(process: subprocess.Popen[str]) -> None:
    """Return once course.py has started uv."""
    while not read_uv_log():
        assert process.poll() is None, "it ended without uv"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def write_notebook(path: Path, *sources: str, **cell: object) -> None:
    cells = [
        {"cell_type": "code", "source": [source], "outputs": [], "execution_count": None} | cell
        for source in sources
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))


# ---- Any Python can read it ----------------------------------------------------------------------


def test_parses_on_old_pythons_and_needs_only_the_standard_library():
    source = (ROOT / "course.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 8))
    tree = ast.parse(source, feature_version=(3, 7))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert {str(name).partition(".")[0] for name in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9", "3.10"])
def test_an_old_python_says_what_it_needs(version: str):
    command = [f"python{version}", "course.py", "lab"]
    found = shutil.which(command[0])
    if not found or subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pretend = "import runpy, sys; sys.version_info = ({}, 1); runpy.run_path('course.py')"
        command = [sys.executable, "-c", pretend.format(version.replace(".", ", "))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert f"needs Python 3.11 or newer and this is Python {version}:" in ended.stderr


# ---- Set-up --------------------------------------------------------------------------------------


def test_sets_up_once_and_then_starts_nothing(course, monkeypatch, capsys):
    course.set_up("lab")
    said = capsys.readouterr().out
    assert "about 3.0 GB to download, 5.6 GB in .venv" in said or sys.platform != "linux"
    (call,) = uv_calls()
    assert call[:3] == ["pip", "install", "--compile-bytecode"]
    assert call[-4:] == ["-c", "requirements.lock", "-e", ".[lab]"]
    page_config = json.loads(
        (course.VENV / "etc/jupyter/labconfig/page_config.json").read_text("utf-8")
    )
    assert page_config["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"] is True
    assert not (course.VENV / "tmp").exists()

    monkeypatch.setattr(course.subprocess, "Popen", None)
    course.set_up("lab")
    assert capsys.readouterr().out == ""


def test_the_larger_set_up_serves_the_smaller(course):
    course.set_up("lab", "test")
    course.set_up("lab")
    assert len(uv_calls()) == 1
    assert uv_calls()[0][-1] == ".[lab,test]"


def test_the_smaller_set_up_is_added_to_and_stays_added_to(course):
    course.set_up("lab")
    course.set_up("lab", "test")
    (course.ROOT / "requirements.lock").write_text("torch==2.12.0\n")
    course.set_up("lab")
    assert [call[-1] for call in uv_calls()] == [".[lab]", ".[lab,test]", ".[lab,test]"]


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_a_changed_input_installs_again(course, name: str):
    course.set_up("lab")
    kept = course.VENV / "kept"
    kept.touch()
    with open(course.ROOT / name, "a") as file:
        file.write("\n# changed\n")
    course.set_up("lab")
    assert len(uv_calls()) == 2
    assert kept.exists()


def test_a_moved_checkout_installs_again(course):
    course.set_up("lab")
    moved = course.ROOT.rename(course.ROOT.with_name("moved"))
    load(moved / "course.py").set_up("lab")
    assert len(uv_calls()) == 2


def test_another_python_or_a_python_that_is_gone_makes_it_afresh(course, monkeypatch, capsys):
    course.set_up("lab")
    left = course.VENV / "left"
    left.touch()
    monkeypatch.setattr(course, "VERSION", "3.99")
    assert not course.is_ready(["lab"], cpu=False)
    assert not course.is_usable(course.read_json(course.STAMP), cpu=False)
    monkeypatch.undo()  # brings the real PATH back as well
    monkeypatch.setenv("PATH", str(course.ROOT.parent / "bin"))
    monkeypatch.setenv("FAKE_LOG", str(course.ROOT.parent / "uv.log"))
    monkeypatch.setenv("FAKE_LAB", FAKE_LAB)

    course.PYTHON.unlink()
    course.PYTHON.symlink_to(course.ROOT / "gone")
    capsys.readouterr()
    course.set_up("lab")
    assert "Making .venv afresh" in capsys.readouterr().out
    assert not left.exists()
    assert course.is_ready(["lab"], cpu=False)


def test_an_environment_of_the_learners_own_is_added_to(course):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", course.VENV], check=True)
    (course.VENV / "theirs").touch()
    course.set_up("lab")
    assert (course.VENV / "theirs").exists()
    assert course.is_ready(["lab"], cpu=False)


def test_without_uv_it_takes_venv_and_pip(course, monkeypatch):
    commands = []
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(course, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(course, "run_logged", lambda *command: commands.append(command))
    course.set_up("lab")
    create, install = commands
    assert create[1:3] == ("-m", "venv")
    assert "--without-pip" not in create
    assert install[:4] == (course.PYTHON, "-m", "pip", "install")
    assert install[-4:] == ("-c", "requirements.lock", "-e", ".[lab]")


# ---- The small PyTorch ---------------------------------------------------------------------------


@pytest.fixture
def on_linux(course, monkeypatch):
    monkeypatch.setattr(course.sys, "platform", "linux")


@pytest.fixture
def no_gpu(on_linux, course, monkeypatch, tmp_path):
    (tmp_path / "bin/nvidia-smi").unlink()
    monkeypatch.setattr(course, "NVIDIA_DRIVER", tmp_path / "no driver")


def is_for_small_torch(call: list[str]) -> bool:
    return "--torch-backend" in call and call[call.index("--torch-backend") + 1] == "cpu"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("extras", [["lab"], ["lab", "test"]])
def test_without_a_gpu_it_is_the_small_build_unasked(course, capsys, extras: list[str]):
    course.set_up(*extras)
    said = capsys.readouterr().out
    assert f"about {'0.5' if 'test' in extras else '0.4'} GB to download" in said
    assert "`--gpu` takes the large one" in said
    asked, small, rest = uv_calls()
    assert is_for_small_torch(asked)
    assert [word for word in asked if word != "--dry-run"] == small
    assert "--no-deps" in small
    assert small[-4:] == ["-c", "requirements.lock", "torch", "torchvision"]
    assert "--torch-backend" not in rest  # indexes of their own for all else
    assert rest[-1] == f".[{','.join(extras)}]"
    assert not [word for call in uv_calls() for word in call if "://" in word]
    assert course.read_json(course.STAMP)["cpu"] is True
    assert course.is_ready(extras, cpu=None)
    assert not course.is_ready(extras, cpu=False)


@pytest.fixture
def index(monkeypatch) -> Iterator[Callable[[str], None]]:
    """A stand-in for PyTorch's index: it answers, has nothing, hangs, or refuses."""
    with socket.socket() as door, contextlib.ExitStack() as at_end:
        door.bind(("127.0.0.1", 0))
        monkeypatch.setenv("FAKE_INDEX", f"127.0.0.1:{door.getsockname()[1]}")

        def behave(how: str) -> None:
            if how != "refuses":
                door.listen()
            if how in ("answers", "has nothing"):
                status = {"answers": b"200 OK", "has nothing": b"404 Not Found"}[how]
                thread = threading.Thread(target=serve, args=(status,))
                thread.start()
                at_end.callback(thread.join)
                at_end.callback(lambda: socket.create_connection(door.getsockname()).close())

        def serve(status: bytes) -> None:
            while True:
                visitor, _ = door.accept()
                with visitor:
                    if not visitor.recv(1000):
                        return
                    visitor.sendall(b"HTTP/1.0 " + status + b"\r\n\r\n")

        yield behave


@pytest.mark.usefixtures("no_gpu")
def test_an_index_that_answers_is_used(course, index, capsys):
    index("answers")
    course.INDEX_SECONDS = 60  # of a busy computer
    course.set_up("lab")
    assert [is_for_small_torch(call) for call in uv_calls()] == [True, True, False]
    assert "the ordinary one" not in capsys.readouterr().out


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("how", ["hangs", "refuses", "has nothing"])
def test_where_the_index_does_not_answer_it_is_the_ordinary_build(course, index, capsys, how: str):
    assert course.INDEX_SECONDS == 5
    index(how)
    course.INDEX_SECONDS = 1 if how == "hangs" else 60
    course.set_up("lab")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "ordinary" in line]
    assert f"PyTorch's index did not offer it within {course.INDEX_SECONDS} second" in line
    assert "about 3.0 GB to download, 5.6 GB in .venv" in line
    asked, rest = uv_calls()
    assert "--dry-run" in asked
    assert "--torch-backend" not in rest
    assert not is_running(read_uv_log()[0]["pid"])

    course.set_up("lab")  # and that it stays
    assert len(uv_calls()) == 2
    assert course.is_ready(["lab"], cpu=False)


@pytest.mark.usefixtures("no_gpu")
def test_the_ordinary_build_needs_its_room_too(course, index, monkeypatch, capsys):
    index("refuses")
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2e9))
    assert "about 5.6 GB needed here, 2.0 GB free" in fails(course, capsys, "lab")


@pytest.mark.usefixtures("no_gpu")
def test_cpu_insists(course, index, monkeypatch, capsys):
    index("refuses")
    monkeypatch.setattr(course, "lab", lambda *arguments: 0)
    assert "No network: the packages could not be downloaded" in fails(
        course, capsys, "lab", "--cpu"
    )
    assert [is_for_small_torch(call) for call in uv_calls()] == [True]
    with pytest.raises(course.Stop):  # unfinished, it is remembered
        course.set_up("lab")


@pytest.mark.usefixtures("on_linux")
def test_cpu_takes_the_small_build_on_any_computer(course, capsys):
    course.set_up("lab", cpu=True)
    assert "about 0.4 GB to download" in capsys.readouterr().out
    assert [is_for_small_torch(call) for call in uv_calls()] == [True, False]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("command", ["lab", "test"])
def test_gpu_takes_the_large_build_on_any_computer(course, monkeypatch, command: str):
    monkeypatch.setattr(course, "run", lambda *arguments: 0)
    monkeypatch.setattr(course, "lab", lambda *arguments: 0)
    assert course.main([command, "--gpu"]) == 0
    (call,) = uv_calls()
    assert "--torch-backend" not in call


@pytest.mark.usefixtures("on_linux")
@pytest.mark.parametrize("small", [True, False])
def test_an_environment_stays_what_it_is(course, monkeypatch, small: bool):
    course.set_up("lab", cpu=small)
    monkeypatch.setattr(course, "has_nvidia_gpu", lambda: small)  # the other computer
    before = len(uv_calls())
    course.set_up("lab")
    assert len(uv_calls()) == before
    (course.ROOT / "requirements.lock").write_text("torch==2.12.0\n")
    course.set_up("lab")
    assert any(map(is_for_small_torch, uv_calls()[before:])) == small

    (course.VENV / "of the other build").touch()
    course.set_up("lab", cpu=not small)  # unless the other one is asked for
    assert not (course.VENV / "of the other build").exists()
    assert course.read_json(course.STAMP)["cpu"] is not small


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("holds_torch", [True, False])
def test_the_learners_own_pytorch_stays(course, holds_torch: bool):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", course.VENV], check=True)
    (site,) = course.VENV.glob("lib/python*/site-packages")
    if holds_torch:
        (site / "torch").mkdir()
    course.set_up("lab")
    assert any(map(is_for_small_torch, uv_calls())) == (not holds_torch)


@pytest.mark.usefixtures("no_gpu")
def test_who_tells_uv_the_build_gets_that(course, monkeypatch):
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")
    course.set_up("lab")
    (call,) = uv_calls()
    assert "--torch-backend" not in call


def test_what_counts_as_an_nvidia_gpu(course, monkeypatch, tmp_path):
    tool, driver = tmp_path / "bin/nvidia-smi", tmp_path / "driver"
    monkeypatch.setattr(course, "NVIDIA_DRIVER", driver)
    assert course.has_nvidia_gpu()
    write_program(tool, "#!/bin/sh\necho no devices were found; exit 6\n")
    assert not course.has_nvidia_gpu()
    tool.unlink()
    assert not course.has_nvidia_gpu()
    driver.touch()
    assert course.has_nvidia_gpu()


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("asked", [True, None])
@pytest.mark.parametrize("has_uv", [True, False])
def test_without_uv_pip_gets_it_for_the_small_build_alone(
    course, monkeypatch, capsys, tmp_path, has_uv: bool, asked: bool | None
):
    uv, commands = tmp_path / "bin/uv", []

    def run(*command):
        commands.append([str(word) for word in command])
        if command[-1] == "uv":
            if not has_uv:
                raise course.Stop("no uv to be had")
            shutil.copy(uv, course.PYTHON.parent)

    def works(command, seconds):
        with contextlib.suppress(course.Stop):
            run(*command)
            return True
        return False

    monkeypatch.setenv("PATH", "")
    course.PYTHON.parent.mkdir(parents=True)
    monkeypatch.setattr(course, "run_logged", run)
    monkeypatch.setattr(course, "works", works)
    monkeypatch.setattr(course.shutil, "rmtree", lambda path: None)
    pip = [str(course.PYTHON), "-m", "pip", "install"]
    if asked and not has_uv:
        with pytest.raises(course.Stop, match="no uv to be had"):
            course.set_up("lab", cpu=True)
        return
    course.set_up("lab", cpu=asked)
    said = capsys.readouterr().out
    create, get_uv, *by_uv, rest = commands
    assert create[1:3] == ["-m", "venv"]
    assert get_uv[:4] == pip
    assert [command[0] for command in by_uv] == (
        [str(course.PYTHON.parent / "uv")] * (1 if asked else 2) if has_uv else []
    )
    assert all(map(is_for_small_torch, by_uv))
    assert rest[:4] == pip
    assert rest[-4:] == ["-c", "requirements.lock", "-e", ".[lab]"]
    assert ("uv, which knows where it is, could not be installed" in said) == (not has_uv)


def test_builds_are_the_same_elsewhere(course, monkeypatch):
    monkeypatch.setattr(course.sys, "platform", "darwin")
    for cpu in (None, True, False):
        course.set_up("lab", cpu=cpu)
    assert len(uv_calls()) == 1
    assert "--torch-backend" not in uv_calls()[0]


# ---- Each failure, in one sentence ---------------------------------------------------------------


def fails(course: types.ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; returns the one line it ends with."""
    assert course.main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert error.startswith("course.py: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
         "The disk is full: free some space"),
        ("error: failed to copy: No space left on device (os error 28)",
         "The disk is full: free some space"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(': "
         "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')\n"
         "ERROR: Could not find a version that satisfies the requirement torch>=2.4\n"
         "ERROR: No matching distribution found for torch>=2.4",
         "No network: the packages could not be downloaded"),
        ("  Caused by: error sending request for url\n  Caused by: client error (Connect)\n"
         "  Caused by: dns error: failed to lookup address information",
         "No network: the packages could not be downloaded"),
        ("ERROR: No matching distribution found for torch>=2.4",
         "PyTorch has no build for this computer"),
        ("Because torch==2.11.0 has no wheels with a matching Python ABI tag",
         "PyTorch has no build for this computer"),
        ("a cause that nobody thought of", "The set-up failed, for the reason above"),
    ],
)  # fmt: skip
def test_why_an_install_failed(course, monkeypatch, capsys, printed: str, sentence: str):
    monkeypatch.setenv("FAKE_ERROR", printed)
    assert course.main(["lab"]) == 1
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert printed in course.LOG.read_text("utf-8")
    if "above" in sentence:
        assert printed in said.out
        assert said.out.count("first line") < 15
    else:
        assert printed not in said.out

    monkeypatch.delenv("FAKE_ERROR")
    course.set_up("lab")
    assert course.is_ready(["lab"], cpu=False)


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_no_venv_module(course, monkeypatch, capsys, missing: str):
    find_spec = importlib.util.find_spec
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(
        course.importlib.util,
        "find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    version = "{}.{}".format(*sys.version_info)
    assert f"`sudo apt install python{version}-venv`" in fails(course, capsys, "lab")
    assert not course.VENV.exists()


def test_uv_does_without_ensurepip(course, monkeypatch):
    monkeypatch.setattr(
        course.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name
    )
    course.set_up("lab")


def test_too_little_disk_before(course, monkeypatch, capsys):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=9e8))
    error = fails(course, capsys, "lab", "--cpu")
    assert re.search(r"Not enough disk: about \d+\.\d GB needed here, 0\.9 GB free\.", error)
    assert not course.VENV.exists()


def test_a_full_disk_in_our_own_writing(course, monkeypatch, capsys):
    def write_beside(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(course, "write_beside", write_beside)
    assert "The disk is full: free some space" in fails(course, capsys, "lab")


def test_any_other_system_error_is_one_sentence_too(course, capsys):
    (course.ROOT / "requirements.lock").unlink()
    assert "requirements.lock" in fails(course, capsys, "lab")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_set_up_goes_on(course, start_course, how: signal.Signals):
    first = start_course("lab", "--no-browser", FAKE_WHILE=str(course.ROOT))
    wait_for_uv(first)
    first.send_signal(how)
    said, _ = first.communicate()
    assert first.returncode == 1
    assert said.splitlines()[-1] == (
        "course.py: Stopped; run the same command again and it goes on."
    )
    assert "Traceback" not in said
    assert not is_running(read_uv_log()[0]["pid"])
    assert not course.is_ready(["lab"], cpu=False)

    course.set_up("lab")
    assert course.is_ready(["lab"], cpu=False)
    assert len(uv_calls()) == 2


def test_a_killed_set_up_is_waited_for_and_made_afresh(course, start_course, tmp_path):
    pytest.importorskip("fcntl")
    busy = tmp_path / "busy"
    busy.touch()
    first = start_course("lab", FAKE_WHILE=str(busy))
    wait_for_uv(first)
    first.kill()
    first.wait()
    (course.VENV / "half").touch()

    second = start_course("test")
    assert second.stdout
    assert second.stdout.readline() == "Another set-up is at work here: waiting for it.\n"
    busy.unlink()
    said, _ = second.communicate()
    assert "Making .venv afresh" in said
    assert not (course.VENV / "half").exists()
    assert course.is_ready(["lab", "test"], cpu=False)


def test_a_port_in_use(course, capsys):
    course.set_up("lab")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} is in use" in fails(course, capsys, "lab", "--port", str(port))
        assert course.free_port(None) != port
    assert "Port 99999" in fails(course, capsys, "lab", "--port", "99999")


def test_an_unknown_lesson(course, capsys):
    assert "There is no lesson 07; there are: 00, 04." in fails(course, capsys, "reset", "07")


def test_jupyterlab_that_does_not_start(course, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_LAB", "raise SystemExit('broken')")
    assert "JupyterLab did not start" in fails(course, capsys, "lab", "--no-browser")


# ---- The lab -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_address_answers_until_it_is_ended(course, start_course, how: signal.Signals):
    port = course.free_port(0)  # any: another test may have the first
    lab = start_course("lab", "--no-browser", "--port", str(port))
    assert lab.stdout
    line = next(line for line in lab.stdout if "http://" in line)
    prefix = f"    http://127.0.0.1:{port}/lab/tree/work/00_start_here.ipynb?token="
    assert line.startswith(prefix)

    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", line.strip().removeprefix(f"http://127.0.0.1:{port}"))
    server = json.loads(connection.getresponse().read())
    connection.close()
    assert server["token"] == line.strip().removeprefix(prefix.strip())
    assert len(server["token"]) >= 32
    assert server["token"] not in " ".join(server["arguments"])
    assert server["stdin"] == ""
    assert {
        f"--ServerApp.root_dir={course.ROOT}",
        "--LabApp.default_url=/lab/tree/work/00_start_here.ipynb",
        "--ServerApp.use_redirect_file=False",
        "--ip=127.0.0.1",
        "--no-browser",
    } <= set(server["arguments"])
    assert ("--allow-root" in server["arguments"]) == (os.geteuid() == 0)

    lab.send_signal(how)
    said, _ = lab.communicate()
    assert lab.returncode == 0
    assert "Traceback" not in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


# ---- The learner's copies ------------------------------------------------------------------------


@pytest.fixture
def lesson(course) -> types.SimpleNamespace:
    """Lesson 04 and its copy, with no word about it said yet."""
    course.copy_lessons()
    name = "04_attention.ipynb"
    return types.SimpleNamespace(original=course.LESSONS / name, copy=course.WORK / name)


def assert_fresh(lesson):
    """See that a copy is the original, but for what would tell a learner what comes out."""
    copy, original = (
        json.loads(path.read_text("utf-8")) for path in (lesson.copy, lesson.original)
    )
    for cell in original["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    assert copy == original


def test_copies_every_lesson(course, lesson):
    names = sorted(path.name for path in course.WORK.glob("*.ipynb"))
    assert names == ["00_start_here.ipynb", "04_attention.ipynb"]
    assert_fresh(lesson)


def test_an_unedited_copy_is_refreshed(course, lesson, capsys):
    said = {"outputs": [{"output_type": "stream", "name": "stdout", "text": "new"}]}
    write_notebook(lesson.original, "print('new')", execution_count=3, **said)
    course.copy_lessons()
    assert_fresh(lesson)
    assert '"outputs": []' in lesson.copy.read_text("utf-8")
    assert capsys.readouterr().out == ""


def test_running_is_not_an_edit(course, lesson):
    ran = {"execution_count": 7, "outputs": [{"output_type": "stream"}], "metadata": {"a": 1}}
    write_notebook(lesson.copy, "print('four')", "", **ran)  # the empty cell comes from Shift-Enter
    course.copy_lessons()
    assert '"execution_count": 7' in lesson.copy.read_text()  # nothing new: nothing touched
    write_notebook(lesson.original, "print('new')")
    course.copy_lessons()
    assert_fresh(lesson)


@pytest.mark.parametrize("sources", [["print('mine')"], ["print('four')", "mine()"], []])
def test_an_edited_copy_stays_and_the_newer_version_is_named(course, lesson, capsys, sources):
    write_notebook(lesson.copy, *sources)
    edited = lesson.copy.read_bytes()
    course.copy_lessons()
    assert capsys.readouterr().out == ""

    write_notebook(lesson.original, "print('new')")
    for _ in range(2):
        course.copy_lessons()
        said = capsys.readouterr().out
        assert said.startswith("work/04_attention.ipynb has your edits")
        assert "`course.py reset 04`" in said
        assert said.count("\n") == 1
        assert lesson.copy.read_bytes() == edited


def test_a_copy_that_is_no_notebook_any_more_stays(course, lesson):
    lesson.copy.write_text('{"cells": [')
    write_notebook(lesson.original, "print('new')")
    course.copy_lessons()
    assert lesson.copy.read_text() == '{"cells": ['


@pytest.mark.parametrize("record", [None, "", "{", "[]"])
def test_a_lost_record_loses_no_edit(course, lesson, record: str | None):
    write_notebook(lesson.copy, "print('mine')")
    edited = lesson.copy.read_bytes()
    course.RECORD.unlink()
    if record is not None:
        course.RECORD.write_text(record)
    course.copy_lessons()
    assert lesson.copy.read_bytes() == edited


def test_a_deleted_copy_comes_back(course, lesson):
    lesson.copy.unlink()
    course.copy_lessons()
    assert lesson.copy.exists()


@pytest.mark.parametrize("number", ["04", "4"])
def test_reset_keeps_what_was_there(course, lesson, capsys, number: str):
    for count in (1, 2):
        write_notebook(lesson.copy, f"print('mine {count}')")
        assert course.main(["reset", number]) in (0, None)
        assert f"work/04_attention.before-reset-{count}.ipynb" in capsys.readouterr().out
        assert_fresh(lesson)
    for count in (1, 2):
        kept = course.WORK / f"04_attention.before-reset-{count}.ipynb"
        assert f"mine {count}" in kept.read_text()

    write_notebook(lesson.original, "print('new')")  # a fresh copy is followed again
    course.copy_lessons()
    assert_fresh(lesson)


def test_the_evening_is_copied_and_reset_by_its_name(course, capsys):
    original = course.LESSONS / "a_vit_in_one_evening.ipynb"
    write_notebook(original, "print('evening')")
    write_notebook(course.LESSONS / "my_notes.ipynb", "print('notes')")  # no lesson
    course.copy_lessons()
    copy = course.WORK / original.name
    assert copy.exists()
    assert not (course.WORK / "my_notes.ipynb").exists()
    write_notebook(copy, "print('mine')")
    write_notebook(original, "print('new')")
    course.copy_lessons()
    assert "`course.py reset evening`" in capsys.readouterr().out
    assert course.main(["reset", "evening"]) in (0, None)
    assert "work/a_vit_in_one_evening.before-reset-1.ipynb" in capsys.readouterr().out
    assert "new" in copy.read_text()


def test_reset_before_the_first_start(course):
    course.main(["reset", "04"])
    assert [path.name for path in course.WORK.glob("*.ipynb")] == ["04_attention.ipynb"]


# ---- The other commands --------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["ruff check", "ruff format --check", "ty check", "pytest", ""])
def test_test_runs_every_check_and_fails_where_one_does(course, monkeypatch, failing: str):
    ran = []

    def run(*arguments):
        ran.append(" ".join(arguments[1:]).replace(f" --python {course.PYTHON}", ""))
        return -9 if failing and ran[-1].startswith(failing) else 0

    monkeypatch.setattr(course, "run", run)
    assert course.main(["test", "-k", "one", "tests"]) == (1 if failing else 0)
    assert ran[:3] == ["ruff check", "ruff format --check", "ty check"]
    assert ran[3:] == ["pytest -n 2 --dist worksteal -k one tests"]
    assert uv_calls()[0][-1] == ".[lab,test]"


def test_the_quick_test_runs_the_checks_and_the_heart_of_the_tests(course, monkeypatch):
    ran = []
    monkeypatch.setattr(course, "run", lambda *arguments: ran.append(arguments) or 0)
    assert course.main(["test", "--quick", "-x"]) == 0
    assert [arguments[1] for arguments in ran] == ["ruff", "ruff", "ty", "pytest"]
    assert ran[-1][-3:] == ("-m", "heart", "-x")


def test_build_runs_the_builder(course):
    (course.LESSONS / "build.py").write_text("import sys; sys.exit(sys.argv[1:] != ['--check'])")
    assert course.main(["build", "--check"]) == 0
    assert course.main(["build"]) == 1


def test_unknown_options_are_refused(course, capsys):
    with pytest.raises(SystemExit, match="2"):
        course.main(["lab", "--prot", "8888"])
    assert "--prot 8888" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason=".ci/run is for Linux")
@pytest.mark.parametrize("browser", ["", "chromium", "google-chrome"])
def test_ci_installs_a_browser_where_there_is_none(tmp_path: Path, browser: str):
    (tmp_path / "bin").mkdir()
    for name in filter(None, ["python3", "apt-get", browser]):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        program.chmod(0o755)
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "bin" / "id").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "bin" / "id").chmod(0o755)
    ended = subprocess.run(
        [ROOT / ".ci" / "run"],
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=True,
    )
    *before, last = ended.stdout.splitlines()
    assert last == "python3 course.py test"
    assert len(before) == (0 if browser else 2)
    assert all("chromium" in line for line in before[1:])


# ---- pyproject.toml, requirements.lock and environment.yml agree ---------------------------------


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_lock_holds_every_dependency_at_a_version_it_admits(project):
    locked: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line.strip())
            versions = [str(pin) for pin in requirement.specifier]
            assert re.fullmatch(r"==[0-9][0-9a-z.]*", versions[0]), f"not one plain version: {line}"
            locked.setdefault(requirement.name, []).append(versions[0].removeprefix("=="))

    extras = project["optional-dependencies"]
    assert set(extras) == {"lab", "pretrained", "export", "heic", "docs", "test"}
    for text in [*project["dependencies"], *(text for part in extras.values() for text in part)]:
        wanted = Requirement(text)
        if wanted.name == project["name"]:  # parts of itself, which are here, too
            assert wanted.extras == {"pretrained", "export", "docs"}
            continue
        assert wanted.name in locked, f"{wanted.name} is not in the lock: `course.py lock`"
        for version in locked[wanted.name]:
            assert version in wanted.specifier, f"{wanted.name} {version} is not {text}"
    (version,) = locked["torch"]
    assert version.startswith("2.11.")  # Colab's
    assert f"{version}+cpu" in SpecifierSet(f"=={version}")  # as PyTorch's index calls its builds


def test_the_lock_names_no_place():
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert "python3 course.py lock" in lock.splitlines()[1]
    pins = [line.partition("#")[0] for line in lock.splitlines()]
    for forbidden in ("://", "file:", "/", "\\", "--", " @ "):
        assert not [pin for pin in pins if forbidden in pin]


def test_every_dependency_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    text = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    listed = re.findall(r'^  "[^"]+",(.*)$', text, re.M)
    assert len(listed) > 20
    assert all(re.fullmatch(r" +# .+", reason) for reason in listed)


def test_conda_installs_the_same(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert environment["name"] == project["name"]
    assert environment["channels"] == ["conda-forge"]
    *packages, from_pip = environment["dependencies"]
    assert from_pip == {"pip": ["-c requirements.lock", "-e .[lab]"]}
    assert packages[0].partition(" ")[0] == "python"
    assert packages[1:] == ["pip"]


def test_the_same_pythons_everywhere(project):
    """The classifiers say which; PyTorch has no wheels for what is newer."""
    found = re.findall(r":: 3\.(\d+)$", "\n".join(project["classifiers"]), re.M)
    minors = [int(minor) for minor in found]
    oldest, newest = minors[0], minors[-1]
    assert minors == list(range(oldest, newest + 1))

    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    conda = SpecifierSet(environment["dependencies"][0].partition(" ")[2])
    around = range(oldest - 1, newest + 2)
    assert [minor for minor in around if f"3.{minor}" in conda] == minors
    admitted = SpecifierSet(project["requires-python"])  # by custom, without an upper bound
    assert [minor for minor in around if f"3.{minor}.0" in admitted] == [*minors, newest + 1]

    program = (ROOT / "course.py").read_text("utf-8")
    assert f"sys.version_info < (3, {oldest})" in program.partition("import argparse")[0]
    span = f"Python 3.{oldest} to 3.{newest}"
    assert span in " ".join(program.split())
    for page in ("README.md", "CONTRIBUTING.md"):
        assert span in " ".join((ROOT / page).read_text("utf-8").split()), page
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert tools["ty"]["environment"]["python-version"] == f"3.{oldest}"
    assert tools["ruff"]["target-version"] == f"py3{oldest}"
    assert f'"--python-version", "3.{oldest}"' in program  # of the lock


def test_the_workflow_runs_what_a_person_types(project):
    (path,) = (ROOT / ".github/workflows").glob("*.yml")
    jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    classifiers = "\n".join(project["classifiers"])
    supported = re.findall(r":: (3\.\d+)$", classifiers, re.M)
    assert matrix["python"] == [supported[0], supported[-1]]
    assert any("course.py test" in step.get("run", "") for step in jobs["test"]["steps"])

    (torch,) = [text for text in project["dependencies"] if Requirement(text).name == "torch"]
    lowest = torch.partition(">=")[2]
    steps = "\n".join(step.get("run", "") for step in jobs["lowest"]["steps"])
    assert f"torch=={lowest}." in steps, "the lowest PyTorch that pyproject.toml declares"

"""The wheel alone, in a fresh environment and without network: what Colab and `pip install` get."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from PIL import Image
from skimage import data as photographs

ROOT = Path(__file__).parent.parent

NO_NETWORK = """
import socket
def refuse(self, address):
    raise OSError(f"no network, but tried to reach {address}")
socket.socket.connect = refuse
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An environment that holds the wheel, and borrows only what the wheel depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = [scripts / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    asked = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    answer = subprocess.run([scripts / "python", "-c", asked], capture_output=True, text=True)
    packages = Path(answer.stdout.strip())
    # A .pth file borrows the packages there, but not what is itself borrowed, like this checkout.
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (packages / "sitecustomize.py").write_text(NO_NETWORK)
    return scripts, packages


def run(fresh, *command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [fresh[0] / command[0], *command[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_wheel_explains_a_photograph_without_network(fresh, tmp_path):
    _, packages = fresh
    Image.fromarray(photographs.chelsea()).save(tmp_path / "cat.jpg")
    found = run(fresh, "python", "-c", "import vit_tutorial as v; print(v.__file__)", cwd=tmp_path)
    assert found.stdout.startswith(str(packages)), found.stderr
    done = run(fresh, "vit-tutorial", "explain", "cat.jpg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "cat.explained.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400


def test_wheel_holds_the_package_and_nothing_else(fresh):
    _, packages = fresh
    (info,) = packages.glob("vit_tutorial-*.dist-info")
    recorded = [line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()]
    inside = {
        path for path in recorded if path.startswith("vit_tutorial/") and not path.endswith(".pyc")
    }
    committed = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vit_tutorial").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == committed
    assert "vit_tutorial/py.typed" in inside  # without it type checkers take all of it for unknown
    assert not [path for path in recorded if path.startswith(("tests/", "notebooks/"))]

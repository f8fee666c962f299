#!/usr/bin/env python3
"""Set up the course and open it: `python3 course.py lab`.

Needs a Python and nothing else. It makes its own environment in `.venv`, with uv where that is
installed and otherwise with venv and pip, and leaves the Python that runs it as it is.
"""

import sys

if sys.version_info < (3, 11):  # said before anything that an old Python would stumble over
    sys.exit(
        "course.py: this course needs Python 3.11 or newer and this is Python {}.{}: "
        "install a newer one and start course.py with that.".format(*sys.version_info)
    )

import argparse
import contextlib
import errno
import hashlib
import http.client
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import webbrowser
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LESSONS = ROOT / "notebooks"
WORK = ROOT / "work"
RECORD = WORK / ".copies.json"

VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "course.json"
LOG = VENV / "setup.log"
VERSION = "{}.{}".format(*sys.version_info)

# In GB: (download, disk with compiled bytecode). PyTorch for Linux brings the libraries of NVIDIA's
# GPUs; the disk without them is computed from the measured one with them.
WITH_GPU = (3.0, 5.6)
CPU_ONLY = (0.4, 1.5)
TEST_TOOLS = (0.1, 0.6)

AGAIN = "run the same command again"
FULL_DISK = f"The disk is full: free some space, then {AGAIN}."
CAUSES = {  # what pip and uv print: what it means
    r"No space left on device|Errno 28|os error 28|not enough space": FULL_DISK,
    r"NewConnectionError|NameResolutionError|name resolution|Max retries exceeded|Connect ?Timeout|"
    r"ReadTimeout|ProxyError|error sending request|dns error|tcp connect error|getaddrinfo failed|"
    r"Network is unreachable|Connection (refused|reset|aborted)|operation timed out": (
        "No network: the packages could not be downloaded. Check the connection (or the proxy), "
        f"then {AGAIN}; finished downloads are kept."
    ),
    r"No matching distribution found for torch|has no wheels with a matching": (
        f"PyTorch has no build for this computer with Python {VERSION}; it has for Linux, for "
        "Windows (x86-64) and for Macs with Apple silicon, with Python 3.11 to 3.14."
    ),
}
PROGRESS = re.compile(r" *(Downloading .*[MG]i?B|Resolved|Prepared|Installed|Installing collected)")


class Stop(Exception):
    """An end that one sentence explains."""


def say(text):
    """Print at once, also where the output is a pipe."""
    print(text, flush=True)


# ---- The environment -----------------------------------------------------------------------------


def set_up(*extras, cpu=False):
    """Make `.venv` hold the course and the packages of `extras`; at once where it does already.

    The stamp is finished last. An environment whose stamp is unfinished is made afresh: an install
    can be interrupted in the middle of a package, which no later install would notice.
    """
    if is_ready(extras, cpu):
        return
    with only_one_set_up():
        if is_ready(extras, cpu):  # by the one that this one waited for
            return
        stamp = read_json(STAMP)
        extras = sorted({*extras, *stamp.get("extras", [])})
        cpu = stays_small(stamp, cpu)
        usable = is_usable(stamp, cpu)
        if not usable:
            make_room(extras, cpu)
        write_stamp(extras, cpu, finished=False)
        if not usable:
            base = getattr(sys, "_base_executable", None) or sys.executable  # not one inside .venv
            pip = ["--without-pip"] if shutil.which("uv") else []
            run_logged(base, "-m", "venv", *pip, VENV)
        install(extras, cpu)
        news = {"@jupyterlab/apputils-extension:announcements": True}  # a pop-up at the first start
        page_config = VENV / "etc/jupyter/labconfig/page_config.json"
        write_beside(page_config, json.dumps({"disabledExtensions": news}))
        write_stamp(extras, cpu, finished=True)
        say("Set up.\n")


def is_ready(extras, cpu):
    """Tell, without starting a process, whether nothing is to be done."""
    stamp = read_json(STAMP)
    return (
        PYTHON.exists()
        and stamp.get("inputs") == hash_inputs()
        and set(extras) <= set(stamp.get("extras", []))
        and stamp.get("cpu") == stays_small(stamp, cpu)
    )


def is_usable(stamp, cpu):
    """Tell whether `.venv` can be added to, rather than made afresh."""
    if stamp and (not stamp.get("inputs") or stamp.get("cpu") != cpu):
        return False
    needs = "sys" if find_uv() else "sys, pip"
    probe = f"import {needs}; print('{{}}.{{}}'.format(*sys.version_info))"
    try:
        answer = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == VERSION


def stays_small(stamp, cpu):
    """`--cpu` holds until `.venv` is deleted; elsewhere than on Linux PyTorch is small anyway."""
    return sys.platform == "linux" and (cpu or bool(stamp.get("cpu")))


def hash_inputs():
    """Hash everything that a set-up depends on."""
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock")]
    return hashlib.sha256(b"\0".join([*files, VERSION.encode(), str(ROOT).encode()])).hexdigest()


def write_stamp(extras, cpu, finished):
    """Record what `.venv` holds or, unfinished, what it is going to hold."""
    stamp = {"inputs": hash_inputs() if finished else "", "extras": extras, "cpu": cpu}
    write_beside(STAMP, json.dumps(stamp))


def make_room(extras, cpu):
    """Remove an environment that cannot be used, once it is sure that a new one can be made."""
    uv = shutil.which("uv")
    if not all(map(importlib.util.find_spec, ["venv"] if uv else ["venv", "ensurepip"])):
        raise Stop(
            f"This Python {VERSION} has no venv module: on Debian and Ubuntu, "
            f"`sudo apt install python{VERSION}-venv` adds it; then {AGAIN}."
        )
    if VENV.exists():
        say("Making .venv afresh: it is unfinished, or another is asked for. Downloads are kept.")
        shutil.rmtree(VENV)
    small = cpu or sys.platform != "linux"
    parts = [CPU_ONLY if small else WITH_GPU] + [TEST_TOOLS] * ("test" in extras)
    download, disk = map(sum, zip(*parts))
    needed = disk if uv else disk + download  # pip keeps its downloads beside what it installs
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        raise Stop(f"Not enough disk: about {needed:.1f} GB needed here, {free:.1f} GB free.")
    say(
        f"Setting up with {'uv' if uv else 'pip'}, this once: about {download:.1f} GB to download, "
        f"{disk:.1f} GB in .venv ({free:.0f} GB free)."
    )
    if cpu:
        say("PyTorch comes without GPU support, as `--cpu` asked; delete .venv to change that.")
    elif not small and not shutil.which("nvidia-smi"):
        say(f"No NVIDIA GPU? Ctrl-C, then `lab --cpu`: about {CPU_ONLY[0]} GB to download.")


def install(extras, cpu):
    """Install the course, editable, at the locked versions."""
    uv = find_uv(or_install=cpu)  # only uv knows where PyTorch keeps its small builds
    if uv:
        command = [uv, "pip", "install", "--compile-bytecode", "--python", PYTHON]  # as pip does
        command += ["--torch-backend", "cpu"] if cpu else []
    else:
        command = [PYTHON, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    say("Downloading and installing: a few minutes.")
    run_logged(*command, "-c", "requirements.lock", "-e", f".[{','.join(extras)}]")


def find_uv(or_install=False):
    """Return the path of uv, or None; `or_install` puts it into `.venv` where there is none."""
    inside = str(PYTHON.parent)
    if or_install and not (shutil.which("uv") or shutil.which("uv", path=inside)):
        run_logged(PYTHON, "-m", "pip", "install", "--no-input", "uv")
    return shutil.which("uv") or shutil.which("uv", path=inside)


def run_logged(*command):
    """Run a step of the set-up: all of its output goes to the log, its progress is shown."""
    temporary = VENV / "tmp"  # on the disk that was checked; the usual folder is often small
    temporary.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        close_fds=False,  # it holds the lock, too
    )
    lines = []
    try:
        with process, open(LOG, "a", encoding="utf-8") as log:
            for line in process.stdout or ():
                lines.append("  " + line.rstrip())
                log.write(line)
                if PROGRESS.match(line):
                    say("  " + line.strip()[:96])
    except BaseException:  # Ctrl-C, or no room for the log
        process.terminate()
        process.wait()
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if process.returncode:
        for cause, sentence in CAUSES.items():
            if re.search(cause, "\n".join(lines)):
                raise Stop(sentence)
        say("\n".join(lines[-15:]))
        raise Stop(f"The set-up failed, for the reason above; .venv/{LOG.name} holds all of it.")


@contextlib.contextmanager
def only_one_set_up():
    """Wait for any other set-up here to end, and hold back those that come after."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(ROOT, os.O_RDONLY)
    os.set_inheritable(folder, True)  # a step of a course.py that was killed counts as well
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Another set-up is at work here: waiting for it.")
        fcntl.flock(folder, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(folder)


# ---- The learner's copies ------------------------------------------------------------------------


def find_lessons():
    """Return the notebooks' names by number: {"00": "00_start_here.ipynb", ...}."""
    return {path.name[:2]: path.name for path in sorted(LESSONS.glob("[0-9][0-9]_*.ipynb"))}


def copy_lessons():
    """Bring `work/` up to date with `notebooks/`, overwriting nothing that was edited."""
    record = read_json(RECORD)  # where it is lost, every copy counts as edited
    for number, name in find_lessons().items():
        original, copy = LESSONS / name, WORK / name
        newest, copied = hash_cells(original), record.get(name)
        current = hash_cells(copy) if copy.exists() else None
        if current is None or current == copied != newest:
            write_beside(copy, original.read_bytes())
        elif current != newest != copied:
            say(
                f"work/{name} has your edits and stays as it is. There is a newer version: "
                f"`course.py reset {number}` takes it, and keeps yours beside it."
            )
            continue
        record[name] = newest
    write_beside(RECORD, json.dumps(record, indent=1))


def reset(number):
    """Start a lesson afresh, keeping the learner's copy beside it."""
    lessons = find_lessons()
    name = lessons.get(number.zfill(2))
    if name is None:
        raise Stop(f"There is no lesson {number}; there are: {', '.join(lessons) or 'none'}.")
    copy, count = WORK / name, 1
    kept = copy
    while kept.exists():
        kept = copy.with_suffix(f".before-reset-{count}.ipynb")
        count += 1
    if kept != copy:
        copy.rename(kept)
        say(f"Your copy is kept as work/{kept.name}.")
    write_beside(copy, (LESSONS / name).read_bytes())
    write_beside(RECORD, json.dumps({**read_json(RECORD), name: hash_cells(copy)}, indent=1))
    say(f"work/{name} is fresh.")


def hash_cells(notebook):
    """Hash what a person writes in a notebook; running it changes nothing here.

    Empty cells don't count: JupyterLab adds one when the last cell is run.
    """
    content = notebook.read_bytes()
    try:
        cells = [(c["cell_type"], "".join(c["source"])) for c in json.loads(content)["cells"]]
        content = json.dumps([cell for cell in cells if cell[1].strip()]).encode()
    except (ValueError, KeyError, TypeError):
        pass  # not a notebook any more: then every byte counts
    return hashlib.sha256(content).hexdigest()


def read_json(path):
    """Return the object in a JSON file: {} where the file is missing or broken."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        content = {}
    return content if isinstance(content, dict) else {}


def write_beside(path, content):
    """Write a file so that it is always the old one or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.replace(beside, path)


# ---- The commands --------------------------------------------------------------------------------


def lab(port, browser):
    """Open JupyterLab on the first lesson, until Ctrl-C."""
    port = free_port(port)
    copy_lessons()
    page = f"/lab/tree/work/{min(find_lessons().values(), default='')}"
    token = secrets.token_hex(16)
    command = [PYTHON, "-m", "jupyterlab", "--no-browser"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url={page}"]
    command += ["--ServerApp.use_redirect_file=False"]  # a browser in a snap cannot read that file
    command += ["--ServerApp.log_level=ERROR", "--LabApp.log_level=ERROR"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command += ["--allow-root"]
    say("Starting JupyterLab ...")
    server = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={
            "GOMP_SPINCOUNT": "5000",  # as vit_tutorial/__init__.py: lessons import torch first
            **os.environ,
            "JUPYTER_TOKEN": token,  # not in the command, which others can list
        },
        stdin=subprocess.DEVNULL,  # no question at Ctrl-C
    )
    try:
        wait_for(server, port)
        url = f"http://127.0.0.1:{port}{page}?token={token}"
        say(f"JupyterLab is open at\n\n    {url}\n\nCtrl-C here ends it.")
        if browser:
            webbrowser.open(url)
        return server.wait()
    except KeyboardInterrupt:
        say("JupyterLab ends.")
        return 0
    finally:
        end(server)


def free_port(wanted):
    """Return `wanted` if it can be had, 0 for any; where no port is wanted, the first free one."""
    for port in [*range(8888, 8900), 0] if wanted is None else [wanted]:
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            if os.name != "nt":  # where it would find every port free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise Stop(f"Port {wanted} is in use, or not allowed: take another one with --port.")


def wait_for(server, port, seconds=60):
    """Return once the server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
            connection.request("GET", "/api")
            connection.getresponse().close()
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
    raise Stop("JupyterLab did not start: what it printed stands above.")


def end(server):
    """End the server, which needs a moment to end its kernels."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if os.name == "nt":  # there Ctrl-C has reached it already, and terminate kills
            server.wait(10)
        server.terminate()
        server.wait(10)
    server.kill()
    server.wait()


def test(arguments, quick):
    """Lint, check formats and types, and run the tests, whose count is the last line."""
    two_at_once = ["-n", "2", "--dist", "loadfile"]  # more would take more memory, 4 GB each
    arguments = [*two_at_once, *(["-m", "heart"] if quick else []), *arguments]
    codes = [
        run("-m", "ruff", "check"),
        run("-m", "ruff", "format", "--check"),
        run("-m", "ty", "check", "--python", str(PYTHON)),
    ]
    if any(codes):
        say("A check above found something, so this fails; the tests run all the same.")
    return int(any([*codes, run("-m", "pytest", *arguments)]))


def build(arguments):
    """Make the notebooks from their sources."""
    return run("notebooks/build.py", *arguments)


def lock(arguments):
    """Choose the version of every package, for all systems at once."""
    command = [find_uv(or_install=True), "pip", "compile", "pyproject.toml"]
    command += ["--extra", "lab", "--extra", "test", "--universal", "--python-version", "3.11"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--quiet", "-o", "requirements.lock"]
    command += ["--custom-compile-command", "python3 course.py lock", *arguments]
    return subprocess.run(command, cwd=ROOT).returncode


def run(*arguments):
    """Run the environment's Python and return its exit code."""
    say("$ python " + " ".join(arguments).replace(str(VENV), ".venv"))
    return subprocess.run([str(PYTHON), *arguments], cwd=ROOT).returncode


def main(arguments=None):
    """Read the command line; every failure ends in one sentence."""
    parser = argparse.ArgumentParser(prog="course.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    sub = commands.add_parser("lab", help="open the lessons in JupyterLab")
    sub.add_argument("--no-browser", action="store_true", help="only print the address")
    sub.add_argument("--port", type=int, help="default: the first free one from 8888; 0: any")
    sub.add_argument("--cpu", action="store_true", help="PyTorch without GPU, a small download")
    more = "run every check and test; other options go to pytest"
    sub = commands.add_parser("test", help=more, allow_abbrev=False)
    sub.add_argument("--quick", action="store_true", help="only the heart of them: two minutes")
    commands.add_parser("build", help="make the notebooks from notebooks/src")
    commands.add_parser("lock", help="renew requirements.lock; options go to uv pip compile")
    sub = commands.add_parser("reset", help="start a lesson afresh, keeping your copy beside it")
    sub.add_argument("lesson", metavar="NN", help="its number, such as 04")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command in ("lab", "reset"):
        parser.error("unknown: " + " ".join(rest))

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    try:
        if options.command == "reset":
            return reset(options.lesson)
        if options.command == "lab":
            set_up("lab", cpu=options.cpu)
            return lab(options.port, not options.no_browser)
        set_up("lab", "test")
        if options.command == "test":
            return test(rest, options.quick)
        return {"build": build, "lock": lock}[options.command](rest)
    except KeyboardInterrupt:
        problem = f"Stopped; {AGAIN} and it goes on."
    except Stop as stop:
        problem = stop
    except OSError as error:
        problem = FULL_DISK if error.errno == errno.ENOSPC else error
    print(f"course.py: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

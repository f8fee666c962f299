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
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
INDEX_SECONDS = 5  # within which PyTorch's index of small builds has to answer
GET_UV = (PYTHON, "-m", "pip", "install", "--no-input", "--retries", "1", "uv")

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
# a notebook's name, and what it is called
LESSON = re.compile(r"(?:(\d\d)_\w+|a_vit_in_one_(evening))\.ipynb")
PROGRESS = re.compile(r" *(Downloading .*[MG]i?B|Resolved|Prepared|Installed|Installing collected)")


class Stop(Exception):
    """An end that one sentence explains."""


def say(text):
    """Print at once, also where the output is a pipe."""
    print(text, flush=True)


# ---- The environment -----------------------------------------------------------------------------


def set_up(*extras, cpu=None):
    """Make `.venv` hold the course and the packages of `extras`; at once where it does already.

    With `cpu` PyTorch is the small build without GPU support, with False the ordinary one. None
    keeps what is there; a new environment gets the small one where there is no NVIDIA GPU. It
    matters on Linux alone: elsewhere the ordinary one is small.

    The stamp is finished last. An environment whose stamp is unfinished is made afresh: an install
    can be interrupted in the middle of a package, which no later install would notice.
    """
    cpu = cpu if sys.platform == "linux" else False
    if is_ready(extras, cpu):
        return
    with only_one_set_up():
        if is_ready(extras, cpu):  # by the one that this one waited for
            return
        stamp = read_json(STAMP)
        extras = sorted({*extras, *stamp.get("extras", [])})
        cpu = stamp.get("cpu") if cpu is None else cpu
        usable = is_usable(stamp, cpu)
        small = wants_small(usable) if cpu is None else cpu
        if not usable:
            make_room(extras, small)
        write_stamp(extras, cpu, finished=False)
        if not usable:
            base = getattr(sys, "_base_executable", None) or sys.executable  # not one inside .venv
            pip = ["--without-pip"] if shutil.which("uv") else []
            run_logged(base, "-m", "venv", *pip, VENV)
        say("Downloading and installing: a few minutes.")
        if small:
            small = install_small_torch(extras, or_else=cpu is None)
        install(extras)
        news = {"@jupyterlab/apputils-extension:announcements": True}  # a pop-up at the first start
        page_config = VENV / "etc/jupyter/labconfig/page_config.json"
        write_beside(page_config, json.dumps({"disabledExtensions": news}))
        write_stamp(extras, small, finished=True)
        say("Set up.\n")


def is_ready(extras, cpu):
    """Tell, without starting a process, whether nothing is to be done."""
    stamp = read_json(STAMP)
    return (
        PYTHON.exists()
        and stamp.get("inputs") == hash_inputs()
        and set(extras) <= set(stamp.get("extras", []))
        and cpu in (None, stamp.get("cpu"))
    )


def is_usable(stamp, cpu):
    """Tell whether `.venv` can be added to, rather than made afresh."""
    if stamp and (not stamp.get("inputs") or stamp.get("cpu") != cpu):
        return False
    needs = "sys" if shutil.which("uv") else "sys, pip"
    probe = f"import {needs}; print('{{}}.{{}}'.format(*sys.version_info))"
    try:
        answer = subprocess.run([PYTHON, "-c", probe], capture_output=True, text=True)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == VERSION


def wants_small(usable):
    """Tell whether PyTorch's small build is the one to try, where nobody has asked for any."""
    if "UV_TORCH_BACKEND" in os.environ:  # with which uv's users choose a build
        return False
    holds_torch = usable and any(VENV.glob("lib/python*/site-packages/torch"))  # the learner's own
    return not holds_torch and not has_nvidia_gpu()


def has_nvidia_gpu():
    """Tell whether NVIDIA's driver runs; its tools alone may lie on a computer without a GPU."""
    tool = shutil.which("nvidia-smi")
    return NVIDIA_DRIVER.exists() or bool(tool and works([tool, "-L"], seconds=20, log=os.devnull))


def hash_inputs():
    """Hash everything that a set-up depends on."""
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "requirements.lock")]
    return hashlib.sha256(b"\0".join([*files, VERSION.encode(), str(ROOT).encode()])).hexdigest()


def write_stamp(extras, cpu, finished):
    """Record what `.venv` holds or, unfinished, what it is going to hold."""
    stamp = {"inputs": hash_inputs() if finished else "", "extras": extras, "cpu": cpu}
    write_beside(STAMP, json.dumps(stamp))


def make_room(extras, small):
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
    size = check_room(extras, small)
    say(f"Setting up with {'uv' if uv else 'pip'}, this once: {size}.")
    if small:
        say("PyTorch comes in its small build, without GPU support; `--gpu` takes the large one.")


def check_room(extras, small):
    """Say how much an installation takes, once it is sure that there is room for it."""
    parts = [CPU_ONLY if small or sys.platform != "linux" else WITH_GPU]
    parts += [TEST_TOOLS] * ("test" in extras)
    download, disk = map(sum, zip(*parts))
    # pip keeps its downloads beside what it installs
    needed = disk if shutil.which("uv") else disk + download
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        raise Stop(f"Not enough disk: about {needed:.1f} GB needed here, {free:.1f} GB free.")
    return f"about {download:.1f} GB to download, {disk:.1f} GB in .venv ({free:.0f} GB free)"


def install_small_torch(extras, or_else):
    """Install PyTorch without GPU support and return True.

    It lies on an index of PyTorch's own, whose address only uv knows; `auto` would take yet other
    large builds for an Intel or AMD GPU. Nothing else is installed here, so that what pip, or uv,
    is told about indexes holds for everything else. `or_else` the ordinary one will do: returns
    False where the index does not answer in time.
    """
    if or_else:
        problem = None
        if not find_uv() and not works(GET_UV, seconds=120):
            problem = "uv, which knows where it is, could not be installed"
        elif not works([*small_torch(find_uv()), "--dry-run"], seconds=INDEX_SECONDS):
            problem = f"PyTorch's index did not offer it within {INDEX_SECONDS} seconds"
        if problem:
            size = check_room(extras, small=False)
            say(f"No small PyTorch ({problem}), so the ordinary one: {size}.")
            return False
    run_logged(*small_torch(find_uv(or_install=True)))
    return True


def small_torch(uv):
    """Return the command that installs PyTorch's small build, and only that."""
    command = [uv, "pip", "install", "--python", PYTHON, "--torch-backend", "cpu", "--no-deps"]
    return [*command, "--compile-bytecode", "-c", "requirements.lock", "torch", "torchvision"]


def install(extras):
    """Install the course, editable, at the locked versions; a PyTorch of that version stays."""
    uv = shutil.which("uv")
    if uv:
        command = [uv, "pip", "install", "--compile-bytecode", "--python", PYTHON]  # as pip does
    else:
        command = [PYTHON, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    run_logged(*command, "-c", "requirements.lock", "-e", f".[{','.join(extras)}]")


def find_uv(or_install=False):
    """Return the path of uv, or None; `or_install` puts it into `.venv` where there is none."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(PYTHON.parent))
    if uv or not or_install:
        return uv
    run_logged(*GET_UV)
    return find_uv()


def works(command, seconds, log=LOG):
    """Tell whether a command succeeds in time; what it prints goes to the log alone."""
    with open(log, "ab") as output:
        try:
            ended = subprocess.run(
                [str(part) for part in command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                close_fds=False,  # it holds the lock, too
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return ended.returncode == 0


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
    """Return the notebooks' names by what they are called: {"00": "00_start_here.ipynb", ...}."""
    found = (LESSON.fullmatch(path.name) for path in sorted(LESSONS.glob("*.ipynb")))
    return {match[1] or match[2]: match[0] for match in found if match}


def copy_lessons():
    """Bring `work/` up to date with `notebooks/`, overwriting nothing that was edited."""
    record = read_json(RECORD)  # where it is lost, every copy counts as edited
    for called, name in find_lessons().items():
        original, copy = LESSONS / name, WORK / name
        newest, copied = hash_cells(original), record.get(name)
        current = hash_cells(copy) if copy.exists() else None
        if current is None or current == copied != newest:
            write_beside(copy, unspoiled(original))
        elif current != newest != copied:
            say(
                f"work/{name} has your edits and stays as it is. There is a newer version: "
                f"`course.py reset {called}` takes it, and keeps yours beside it."
            )
            continue
        record[name] = newest
    write_beside(RECORD, json.dumps(record, indent=1))


def reset(called):
    """Start a lesson afresh, keeping the learner's copy beside it."""
    lessons = find_lessons()
    name = lessons.get(called.zfill(2))
    if name is None:
        raise Stop(f"There is no lesson {called}; there are: {', '.join(lessons) or 'none'}.")
    copy, count = WORK / name, 1
    kept = copy
    while kept.exists():
        kept = copy.with_suffix(f".before-reset-{count}.ipynb")
        count += 1
    if kept != copy:
        copy.rename(kept)
        say(f"Your copy is kept as work/{kept.name}.")
    write_beside(copy, unspoiled(LESSONS / name))
    write_beside(RECORD, json.dumps({**read_json(RECORD), name: hash_cells(copy)}, indent=1))
    say(f"work/{name} is fresh.")


def unspoiled(notebook):
    """Return a notebook without outputs: a learner sees what comes out after having run it."""
    content = json.loads(notebook.read_text("utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


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
    two_at_once = ["-n", "2", "--dist", "worksteal"]  # more would take more memory, 4 GB each
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


def docs(arguments):
    """Make pages from the docstrings, which need no network."""
    return run("docs/api.py", *arguments)


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


def add_build_options(parser):
    """Let a command choose PyTorch's build."""
    builds = parser.add_mutually_exclusive_group()
    for option, const, which in (
        ("--cpu", True, "small build, without GPU support"),
        ("--gpu", False, "large build, for an NVIDIA GPU"),
    ):
        about = f"PyTorch's {which} (default: what is there, or fits)"
        builds.add_argument(option, dest="cpu", action="store_const", const=const, help=about)


def main(arguments=None):
    """Read the command line; every failure ends in one sentence."""
    parser = argparse.ArgumentParser(prog="course.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    sub = commands.add_parser("lab", help="open the lessons in JupyterLab")
    sub.add_argument("--no-browser", action="store_true", help="only print the address")
    sub.add_argument("--port", type=int, help="default: the first free one from 8888; 0: any")
    add_build_options(sub)
    more = "run every check and test; other options go to pytest"
    sub = commands.add_parser("test", help=more, allow_abbrev=False)
    sub.add_argument("--quick", action="store_true", help="only the heart of them: two minutes")
    add_build_options(sub)
    commands.add_parser("build", help="make the notebooks from notebooks/src")
    commands.add_parser("docs", help="make pages from the docstrings, in build/api/")
    commands.add_parser("lock", help="renew requirements.lock; options go to uv pip compile")
    sub = commands.add_parser("reset", help="start a lesson afresh, keeping your copy beside it")
    sub.add_argument("lesson", metavar="NN", help='its number, such as 04, or "evening"')
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
        set_up("lab", "test", cpu=getattr(options, "cpu", None))
        if options.command == "test":
            return test(rest, options.quick)
        return {"build": build, "docs": docs, "lock": lock}[options.command](rest)
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

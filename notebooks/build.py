"""Make the notebooks from their sources: `python3 course.py build [NN | evening ...] [--force]`.

Every source in notebooks/src becomes a learner's notebook and, in notebooks/solutions, a solved
one; `render.py` says how a source is written. Both are executed as on a computer with no network
and no CIFAR-10, with the claims of the source, all of which must hold. What has not changed is not
executed again, unless with --force. The tables in README.md and in benchmarks/README.md are made
here, too.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from PIL import Image
from render import (
    BuildError,
    called,
    check_definitions,
    code_hash,
    minutes_of,
    needs,
    notebook_path,
    question,
    read,
    render,
    stored,
    title,
)
from render import sources as find_sources
from tables import as_table, table_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "benchmarks/README.md")
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
MAX_SECONDS, MAX_BYTES = 60, 1_500_000
LARGE_FIGURE = 30_000  # bytes; a PNG of a photograph takes five times what a JPEG does
STEPS = (5, 10, 20, 30, 45, 60)  # seconds; coarse, so that one run says the same as the next

WIDGET = "application/vnd.jupyter.widget-view+json"
ANSI = re.compile(r"\x1b\[[\d;]*m")  # colours of a traceback
PROGRESS_BAR = re.compile(r"^.*\d+%\|.*\|.*$\n?", re.MULTILINE)  # drawn as text
# What would differ on another machine: its paths, and addresses in its memory.
MACHINE = re.compile(
    r"/(?:home|root|tmp|opt|Users|work|var)/\S*|\b[A-Z]:\\\w\S*|\bat 0x[0-9a-f]{6,}"
)


def sources(root: Path = ROOT) -> list[Path]:
    """Return the lesson sources in order."""
    return find_sources(root)


# ---- Building ------------------------------------------------------------------------------------


def build(source: Path, solved: bool, force: bool = False) -> str:
    """Make one notebook, and say what was done.

    Raises:
        BuildError: the source breaks a rule, or its notebook does not run as it must.
    """
    path = notebook_path(source, solved)
    name = f"{path.parent.name}/{path.name}"
    seconds = int(stored(path).get("run_seconds", 0))
    notebook = render(source, solved, seconds)
    executed = load(path)
    done = "unchanged"
    if force or executed is None or not is_executed(executed, notebook):
        executed = render(source, solved, seconds, claims=True)
        took = execute(executed, name, path.parent)
        for fault in [*false_claims(executed), *faults(executed)]:
            raise BuildError(f"{name}, {fault}")
        executed.cells = [cell for cell in executed.cells if "claim" not in cell.metadata]
        seconds = coarse(took, seconds, name)
        done = f"executed in {took:.1f} s"
    notebook = render(source, solved, seconds)
    for number, (new, old) in enumerate(
        zip(code_cells(notebook), code_cells(executed), strict=True), 1
    ):
        new.execution_count, new.outputs = number, old.outputs
        for output in new.outputs:
            if "execution_count" in output:
                output.execution_count = number  # without the claims
        if not solved and is_predicted(new):
            new.outputs = []
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > MAX_BYTES:
        sizes = [len(json.dumps(cell)) for cell in notebook.cells]
        largest = max(sizes)
        raise BuildError(
            f"{name}: {len(text.encode()) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g}; "
            f"{largest / 1e6:.1f} of it in cell {sizes.index(largest) + 1}"
        )
    write(path, text)
    return f"{name}: {done}"


def is_executed(old: NotebookNode, new: NotebookNode) -> bool:
    """Tell whether the outputs in `old` are those of the code in `new`."""
    stored_hash = old.metadata.get("vit_tutorial", {}).get("sha256")
    hashes = {code_hash(old.cells), code_hash(new.cells), stored_hash}
    claims = {n.metadata.get("vit_tutorial", {}).get("claims_sha256") for n in (old, new)}
    if len(hashes | claims) != 2 or len(code_cells(old)) != len(code_cells(new)):
        return False
    pairs = zip(code_cells(old), code_cells(new), strict=True)
    return not any(is_predicted(a) and not is_predicted(b) for a, b in pairs)  # left out till now


def is_predicted(cell: NotebookNode) -> bool:
    """Tell whether a learner is to say first what comes out of a cell."""
    return "predicted" in cell.metadata.get("tags", ())


def execute(notebook: NotebookNode, name: str, folder: Path) -> float:
    """Run all cells in a fresh kernel, in place, up to the first error; return the seconds."""
    running = 0

    def note(cell: NotebookNode, cell_index: int) -> None:
        nonlocal running
        running = cell_index + 1

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as empty:
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
        environment = {
            **os.environ,
            **nowhere,
            "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "VIT_TUTORIAL_DATA": empty,
        }
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=MAX_SECONDS,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            record_timing=False,
            store_widget_state=False,
            on_cell_start=note,
            resources={"metadata": {"path": str(folder)}},
        )
        began = time.perf_counter()
        try:
            client.execute(env=environment)
        except CellExecutionError:
            pass  # stands in the outputs, where `faults` finds it
        except CellTimeoutError:
            raise BuildError(f"{name}, cell {running}: it ran for too long") from None
        except DeadKernelError:
            raise BuildError(f"{name}, cell {running}: it ended the kernel") from None
        seconds = time.perf_counter() - began
    clean(notebook)
    return seconds


def clean(notebook: NotebookNode) -> None:
    """Drop what is dead on a page: live widgets, and progress bars drawn as text."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = PROGRESS_BAR.sub("", output.text)
            elif len(output.get("data", {}).get("image/png", "")) > LARGE_FIGURE:
                store_small(output.data)
        cell.outputs = [
            output
            for output in cell.outputs
            if WIDGET not in output.get("data", {}) and output.get("text", "something").strip()
        ]


def store_small(data: NotebookNode) -> None:
    """Pack the pixels of a PNG tightly, or replace it by a JPEG where that takes 70% or less.

    So little is where photographs are in it.
    """
    png, tight, jpeg = base64.b64decode(data.pop("image/png")), io.BytesIO(), io.BytesIO()
    with Image.open(io.BytesIO(png)) as figure:  # opaque: there is nothing behind the light card
        picture = figure.convert("RGB")
    picture.save(tight, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=85, subsampling=0, optimize=True)
    kind, file = "png", min(png, tight.getvalue(), key=len)
    if 10 * len(jpeg.getvalue()) < 7 * len(file):
        kind, file = "jpeg", jpeg.getvalue()
    data[f"image/{kind}"] = base64.b64encode(file).decode()


def false_claims(notebook: NotebookNode) -> list[str]:
    """Say which claims did not hold, each with what it asserted: all in one message, or none."""
    messages = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "claim" in cell.metadata and output.output_type == "error":
                trace = ANSI.sub("", "\n".join(output.traceback))
                lines = re.findall(r"^-+> *\d+ (.*)$", trace, re.MULTILINE)
                line = lines[-1].strip() if lines else ""
                because = f"{output.ename} {output.evalue}".strip()
                messages.append(f"“{cell.metadata['claim']}”: {line} ({because})")
    if not messages:
        return []
    return ["it says what is not so:\n  " + "\n  ".join(messages)]


def faults(notebook: NotebookNode) -> list[str]:
    """Say what in a notebook's outputs must not be there, cell by cell."""
    messages = []
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", ()):
            fault = None
            if output.output_type == "error":
                fault = f"an error, {output.ename}: {output.evalue}"
            elif output.get("name") == "stderr":
                fault = f"a warning, {output.text.strip()}"
            elif traces := [*machine_traces(output)]:
                fault = f"a trace of this machine, {traces[0]}"
            if fault:
                line = cell.source.strip().partition("\n")[0]
                messages.append(f"cell {number} ({line[:60]}): {fault[:500]}")
    return messages


def machine_traces(output: NotebookNode) -> Iterator[str]:
    """Yield the paths of this machine, and the like, in an output."""
    data = output.get("data", {})
    texts = [
        output.get("text", ""),
        *(data[kind] for kind in data if not kind.startswith("image/")),
    ]
    for text in texts:
        text = text if isinstance(text, str) else json.dumps(text)
        yield from MACHINE.findall(text)
        yield from (str(ROOT) for _ in range(text.count(str(ROOT))))


def coarse(seconds: float, before: int, name: str) -> int:
    """Round a run time up, or leave what stands there where that is near enough.

    Raises:
        BuildError: it is too long.
    """
    if seconds > MAX_SECONDS:
        raise BuildError(f"{name}: it ran for {seconds:.0f} seconds, more than {MAX_SECONDS}")
    if before / 3 < seconds <= before:
        return before
    return next(step for step in STEPS if seconds <= step)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def load(path: Path) -> NotebookNode | None:
    """Return a notebook from disk, or None where there is none that can be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError):
        return None


def write(path: Path, text: str) -> None:
    """Write a file so that it is always the old one or the new one, never a half."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, path)


# ---- Pages with tables, and what is out of date --------------------------------------------------


def page_with_tables(page: Path, root: Path = ROOT) -> str:
    """Return a page with its tables as they should be.

    Raises:
        BuildError: it wants a table that there is not.
    """

    def filled(match: re.Match) -> str:
        name = match[2]
        try:
            table = lessons_table(root) if name == "lessons" else table_of(root, name)
        except LookupError as error:
            raise BuildError(f"{page.relative_to(root).as_posix()}: {error}") from None
        return f"{match[1]}{table}{match[3]}"

    return TABLE.sub(filled, page.read_text(encoding="utf-8"))


def lessons_table(root: Path) -> str:
    """Return the table of lessons: link, question, minutes of both parts, hardware."""
    rows = [("Lesson", "Its question", "Core minutes", "Deeper", "Needs")]
    for source in sources(root):
        cells, path = read(source), notebook_path(source, solved=False)
        core, deeper = (str(part.total or "–") for part in minutes_of(cells).values())
        link = f"[{title(source)}]({path.relative_to(root).as_posix()})"
        rows.append((link, question(source), core, deeper, needs(cells[0])))
    return as_table(rows)


def drift(root: Path = ROOT) -> list[str]:
    """Say what is not as a build would make it; nothing is executed, outputs are not compared."""
    messages = []
    expected_paths = set()
    for source in sources(root):
        for solved in (False, True):
            path = notebook_path(source, solved)
            expected_paths.add(path)
            name, actual = f"{path.parent.name}/{path.name}", load(path)
            if actual is None:
                messages.append(f"{name}: missing")
                continue
            try:
                expected = render(source, solved)
            except BuildError as error:
                messages.append(str(error))
                continue
            messages += [f"{name}: {difference}" for difference in differences(expected, actual)]
    for path in (root / "notebooks").glob("**/*.ipynb"):
        if path not in expected_paths and ".ipynb_checkpoints" not in path.parts:
            messages.append(f"{path.parent.name}/{path.name}: it has no source")
    for name in PAGES:
        path = root / name
        try:
            if path.exists() and path.read_text(encoding="utf-8") != page_with_tables(path, root):
                messages.append(f"{name}: its tables are out of date")
        except BuildError as error:
            messages.append(str(error))
    return messages


def differences(expected: NotebookNode, actual: NotebookNode) -> Iterator[str]:
    """Yield what differs, except in the outputs."""
    if len(expected.cells) != len(actual.cells):
        yield f"{len(actual.cells)} cells, not {len(expected.cells)}"
    for number, (new, old) in enumerate(zip(expected.cells, actual.cells, strict=False), 1):
        for part in ("id", "cell_type", "source", "metadata"):
            if new[part] != old.get(part):
                yield f"cell {number}: another {part}"
    if code_hash(actual.cells) != actual.metadata.get("vit_tutorial", {}).get("sha256"):
        yield "its outputs are not those of its code"
    if expected.metadata != actual.metadata:
        yield "another metadata"


# ---- The command ---------------------------------------------------------------------------------


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Build the lessons that are named, or all, and go on after one that fails."""
    parser = argparse.ArgumentParser("course.py build", description=__doc__)
    which = 'their numbers, or "evening" (default: all)'
    parser.add_argument("lessons", nargs="*", metavar="NN", help=which)
    parser.add_argument("--force", action="store_true", help="execute what has not changed, too")
    options = parser.parse_args(arguments)
    selected = {number.zfill(2) for number in options.lessons}
    chosen = [source for source in sources(root) if not selected or called(source) in selected]
    if missing := selected - {called(source) for source in chosen}:
        print(f"build: there is no source of lesson {', '.join(sorted(missing))}", file=sys.stderr)
        return 2
    failed = False
    for source in chosen:
        for solved in (False, True):
            try:
                print(build(source, solved, options.force), flush=True)
            except BuildError as error:
                print(f"build: {error}", file=sys.stderr)
                failed = True
                break
    try:
        check_definitions(root)
        for path in (root / name for name in PAGES):
            if path.exists():
                write(path, page_with_tables(path, root))
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

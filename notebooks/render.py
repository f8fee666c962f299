"""From a lesson's source to its notebooks, not executed yet; `build.py` does the rest.

A source, notebooks/src/NN_name.py, is in jupytext's percent format. A marker may say more about its
cell:

    # %% [markdown] needs="a GPU for FULL"      on the title; without it, "CPU, no network"
    # %% definition="vit_tutorial.model.Mlp"    an empty cell, filled with the package's own code
    # %% exercise="00.1"                        the part between the two marks is for the learner
    # %% [markdown] solved_only=true            for the solved notebook alone

In a markdown cell {{results.NAME.rows[0].accuracy:.1f}} is filled from the file NAME.json in
benchmarks/results; a row may also be called by what it holds, rows[img_size=64]. Where a field
holds several numbers, each is written behind its name. {{table.NAME}} is the whole file as a table.
"""

from __future__ import annotations

import hashlib
import json
import math
import pkgutil
import re
import statistics
import sys
import tomllib
from collections.abc import Iterable
from inspect import getsource
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vit_tutorial.lessons.exercises import exercises_of, find

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from tables import results_table

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "raise NotImplementedError  # your code here"
MARKERS = {"needs", "definition", "exercise", "solved_only"}
MAX_EXPLORATION, MEDIAN_EXPLORATION, MAX_DEFINITION = 25, 6, 80  # lines
WORDS_PER_MINUTE = 200  # of text and code alike
UNNAMED = "-"  # an id for as long as a cell has none of its own
FIELD = re.compile(r"\{\{([^{}]*)\}\}")

COLAB = """\
import sys

if "google.colab" in sys.modules:  # installs the course there; elsewhere this does nothing
    %pip install -q --no-deps "{name} @ git+{address}"\
"""
COLAB_LINK = (  # in words: a badge is a picture that is broken without a network
    "[Open in Colab](https://colab.research.google.com/github/{repository}/blob/main/{path})"
)


class BuildError(Exception):
    """A lesson that cannot be built: one sentence that says where and why."""


def render(source: Path, solved: bool, run_seconds: int | None = None) -> NotebookNode:
    """Return a lesson's notebook without outputs, the learner's or the solved one.

    `run_seconds`, which its header tells, is by default what the notebook on disk has stored.

    Raises:
        BuildError: the source breaks a rule.
    """
    cells = read(source)
    if run_seconds is None:
        run_seconds = int(stored(notebook_path(source, solved)).get("run_seconds", 0))
    notebook: list[NotebookNode] = []
    for number, cell in enumerate(cells, 1):
        where, text = f"{source.name}, cell {number}", cell.source
        if cell.metadata.get("solved_only") and not solved:
            continue
        if cell.cell_type == "markdown":
            text = fill_fields(text, root_of(source), where)
            text = text.replace("](../", "](../../") if solved else text  # one folder further down
        if number == 1:
            heading, _, rest = text.partition("\n")
            heading += " (solved)" if solved else ""
            minutes = f"{times(source, cells, run_seconds)} **Needs**: {needs(cell)}."
            top = [
                f"{heading}\n\n{minutes}",
                neighbours(source, colab_link(source, solved)),
                rest.strip(),
            ]
            notebook += [new_markdown_cell("\n\n".join(top), id="title")]
            name, address = project(root_of(source))
            notebook += [new_code_cell(COLAB.format(name=name, address=address), id="colab")]
            continue
        metadata = {
            key: cell.metadata[key] for key in ("definition", "exercise") if key in cell.metadata
        }
        if id := metadata.get("exercise"):
            task = find(id)
            about = f"**Exercise {id} · {task.title}** {task.dots} · about {task.minutes} minutes"
            notebook += [new_markdown_cell(about, id=f"about-{id.replace('.', '-')}")]
            text = split_solution(text, where)[solved]
        new_cell = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        notebook += [new_cell(text, id=UNNAMED, metadata=metadata)]
    other = f"[the lesson itself](../{source.stem}.ipynb)"
    if not solved:  # by a way that leads there from work/ too
        other = f"[the solved notebook](../notebooks/solutions/{source.stem}.ipynb)"
    notebook += [new_markdown_cell(neighbours(source, other), id="links")]
    give_ids(notebook)
    return new_notebook(
        cells=notebook,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "vit_tutorial": {"run_seconds": run_seconds, "sha256": code_hash(notebook)},
        },
    )


def root_of(source: Path) -> Path:
    """Return the project's folder, from root/notebooks/src/NN_name.py."""
    return source.parents[2]


def sources(root: Path) -> list[Path]:
    """Return the lesson sources in order."""
    return sorted((root / "notebooks" / "src").glob("[0-9][0-9]_*.py"))


def notebook_path(source: Path, solved: bool) -> Path:
    """Return where a lesson's notebook lies."""
    folder = source.parents[1]
    return (folder / "solutions" if solved else folder) / f"{source.stem}.ipynb"


def stored(notebook: Path) -> dict[str, Any]:
    """Return what the last build stored in a notebook; {} where there is none."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["vit_tutorial"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def project(root: Path) -> tuple[str, str]:
    """Return the package's name and the address of its repository, which stands there alone."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table["name"], table["urls"]["Repository"]


# ---- Reading, and the form of a lesson -----------------------------------------------------------


def read(source: Path) -> list[NotebookNode]:
    """Return a source's cells with the definitions filled in, once its form is as it should be."""
    cells = jupytext.read(source, fmt="py:percent").cells
    if not cells or not cells[0].source.startswith("# ") or "\n\n" not in cells[0].source:
        raise BuildError(f"{source.name}: expected a title and, below it, the lesson's question")
    for number, cell in enumerate(cells, 1):
        where = f"{source.name}, cell {number}"
        cell.metadata.pop("lines_to_next_cell", None)
        if unknown := set(cell.metadata) - MARKERS:
            raise BuildError(f"{where}: unknown marker {', '.join(sorted(unknown))}")
        if "definition" in cell.metadata:
            cell.source = define(cell.metadata["definition"], where)
        if "exercise" in cell.metadata:
            split_solution(cell.source, where)
        elif BEGIN in cell.source:
            raise BuildError(f'{where}: a solution, but no marker exercise="NN.N"')
    check_lengths(source, cells)
    shown = [cell.metadata["exercise"] for cell in cells if "exercise" in cell.metadata]
    declared = [task.id for task in exercises_of(source.name[:2])]
    if shown != declared:
        raise BuildError(f"{source.name}: it shows the exercises {shown}, declared are {declared}")
    return cells


def opening(source: Path) -> str:
    """Return the text of a lesson's first cell; reading all cells would take much longer."""
    first = source.read_text(encoding="utf-8").partition("\n# %%")[0]
    return jupytext.reads(first, fmt="py:percent").cells[0].source


def title(source: Path) -> str:
    """Return a lesson's title."""
    return opening(source).partition("\n")[0].lstrip("# ")


def question(source: Path) -> str:
    """Return a lesson's question, the paragraph below its title, in one line."""
    paragraph = opening(source).split("\n\n")[1]
    return " ".join(paragraph.split()).strip("*")


def needs(title_cell: NotebookNode) -> str:
    """Return the hardware that a lesson needs."""
    return title_cell.metadata.get("needs", "CPU, no network")


def define(name: str, where: str) -> str:
    """Return the package's own code of a function or class, below the name of its file."""
    try:
        definition: Any = pkgutil.resolve_name(name)
        code = getsource(definition).rstrip()
    except (ImportError, AttributeError, TypeError, OSError, ValueError):
        raise BuildError(f"{where}: there is no definition {name}") from None
    return f"# {definition.__module__.replace('.', '/')}.py\n{code}"


def split_solution(code: str, where: str) -> tuple[str, str]:
    """Return an exercise as the learner gets it, and solved."""
    block = re.compile(rf"^( +){BEGIN}\n(.+?\n)\1{END}$", re.DOTALL | re.MULTILINE)
    stub = block.sub(rf"\1{STUB}", code)
    solution = "".join(match[2] for match in block.finditer(code))
    if not solution or any(mark in stub + solution for mark in (BEGIN, END)):
        raise BuildError(f"{where}: expected {BEGIN!r} and {END!r}, in line, inside a function")
    return stub, block.sub(lambda match: match[2].rstrip("\n"), code)


def check_lengths(source: Path, cells: Iterable[NotebookNode]) -> None:
    """Hold cells to their lengths: a long one is not read."""
    lengths = []
    for number, cell in enumerate(cells, 1):
        if cell.cell_type != "code" or "exercise" in cell.metadata:
            continue
        is_definition = "definition" in cell.metadata
        length, most = len(cell.source.splitlines()), MAX_EXPLORATION
        if is_definition:
            most = MAX_DEFINITION
        else:
            lengths.append(length)
        if length > most:
            raise BuildError(f"{source.name}, cell {number}: {length} lines, more than {most}")
    if lengths and statistics.median(lengths) > MEDIAN_EXPLORATION:
        raise BuildError(
            f"{source.name}: half of its cells have more than {MEDIAN_EXPLORATION} lines "
            f"(the median is {statistics.median(lengths):g})"
        )


def check_definitions(root: Path) -> None:
    """See that no definition is shown twice, whichever lessons show it.

    Raises:
        BuildError: one is.
    """
    shown: dict[str, str] = {}
    for source in sources(root):
        for cell in jupytext.read(source, fmt="py:percent").cells:
            if name := cell.metadata.get("definition"):
                if name in shown:
                    raise BuildError(f"{source.name}: {name} is shown in {shown[name]} already")
                shown[name] = source.name


# ---- What is generated ---------------------------------------------------------------------------


def minutes_of(
    source: Path, cells: Iterable[NotebookNode], run_seconds: int
) -> tuple[int, int, int]:
    """Return a lesson's minutes for reading, for its exercises, and in all."""
    words = sum(len(c.source.split()) for c in cells if not c.metadata.get("solved_only"))
    reading = math.ceil(words / WORDS_PER_MINUTE)
    solving = sum(task.minutes for task in exercises_of(source.name[:2]))
    return reading, solving, reading + solving + math.ceil(run_seconds / 60)


def times(source: Path, cells: Iterable[NotebookNode], run_seconds: int) -> str:
    """Return the sentence that tells how long a lesson takes."""
    reading, solving, total = minutes_of(source, cells, run_seconds)
    parts = [f"**{total} minutes**: {reading} to read"]
    parts += [f"{solving} for the exercises"] if solving else []
    return ", ".join(parts) + f"; all cells run in {run_seconds} seconds."


def colab_link(source: Path, solved: bool) -> str:
    """Return the link that opens a notebook on Colab."""
    _, address = project(root_of(source))
    path = notebook_path(source, solved).relative_to(root_of(source)).as_posix()
    return COLAB_LINK.format(repository=address.removeprefix("https://github.com/"), path=path)


def neighbours(source: Path, last: str) -> str:
    """Return links to the lessons before and after, those that there are, and one more link."""
    lessons = sources(root_of(source))
    i = lessons.index(source)
    links = [f"← [{title(lesson)}]({lesson.stem}.ipynb)" for lesson in lessons[max(i - 1, 0) : i]]
    links += [f"[{title(lesson)}]({lesson.stem}.ipynb) →" for lesson in lessons[i + 1 : i + 2]]
    return " · ".join([*links, last])


def fill_fields(text: str, root: Path, where: str) -> str:
    """Fill every {{results. ...}} of a markdown cell.

    Raises:
        BuildError: a field that is not well-formed, or that the results do not have.
    """

    def value_of(field: re.Match[str]) -> str:
        try:
            path, _, form = field[1].strip().partition(":")
            prefix, name, *steps = re.findall(r"\w+(?:=[^\]]*)?", path)
            if prefix == "table":
                return results_table(root, ".".join([name, *steps])).rstrip()
            if prefix != "results":
                raise ValueError
            file = root / "benchmarks" / "results" / f"{name}.json"
            value = json.loads(file.read_text(encoding="utf-8"))
            for step in steps:
                key, named, expected = step.partition("=")
                if named:
                    value = next(row for row in value if str(row[key]) == expected)
                else:
                    value = value[int(key)] if isinstance(value, list) else value[key]
            if isinstance(value, dict):
                pairs = (f"{key}: {format(each, form)}" for key, each in value.items())
                return ", ".join(pair.replace(" ", "\N{NO-BREAK SPACE}") for pair in pairs)
            return format(value, form)
        except (LookupError, OSError, ValueError, TypeError, StopIteration):
            raise BuildError(f"{where}: benchmarks/results has no value for {field[0]}") from None

    return FIELD.sub(value_of, text)


def give_ids(cells: Iterable[NotebookNode]) -> None:
    """Give each cell an id that stays the same for as long as its content does."""
    counts: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        task = cell.metadata.get("exercise", "").replace(".", "-")
        name = cell["id"]
        if name == UNNAMED:
            name = f"exercise-{task}" if task else digest
        counts[name] = counts.get(name, 0) + 1
        cell["id"] = name if counts[name] == 1 else f"{name}-{counts[name]}"


def code_hash(cells: Iterable[NotebookNode]) -> str:
    """Hash all code except Colab's cell, so that a fork need not run every lesson again."""
    code = [c.source for c in cells if c.cell_type == "code" and c["id"] != "colab"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()

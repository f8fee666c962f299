"""From a lesson's source to its notebooks, not executed yet; `build.py` does the rest.

A source, notebooks/src/NN_name.py, is in jupytext's percent format. One without a number, the
evening's, is a way through the lessons: it takes exercises and definitions from them, and has none
of its own. A marker may say more about its cell:

    # %% [markdown] needs="a GPU for FULL"      on the title; without it, "CPU, no internet"
    # %% definition="vit_tutorial.model.Mlp"    an empty cell, filled with the package's own code
    # %% exercise="00.1"                        the part between the two marks is for the learner
    # %% [markdown] solved_only=true            for the solved notebook alone
    # %% [markdown] deeper=true                 on a heading: its section may be left out at first
    # %% claim="head 1 looks at the eye"        assertions that hold the sentence with these words

A claim stands below the text that it quotes. The build runs it on the lesson's own objects, and
fails where it does not hold; it is in no notebook. What it computes and draws by chance leaves the
cells below it as they were.

In a notebook every cell has a tag, "core" or "deeper". What follows a **Predict** is not shown
before it was run: in the learner's notebook it has no outputs, in the solved one they are folded.
The package's own definition below an exercise is folded, too.

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
import textwrap
import tomllib
from collections.abc import Iterable
from inspect import getsource
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vit_tutorial.lessons.exercises import exercises_of, find

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from tables import results_table

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = "raise NotImplementedError  # your code here"
MARKERS = {"needs", "definition", "exercise", "solved_only", "deeper", "claim"}
MAX_EXPLORATION, MEDIAN_EXPLORATION, MAX_DEFINITION = 25, 6, 80  # lines
WORDS_PER_MINUTE, LINES_PER_MINUTE = 200, 12  # of text, and of code
PREDICT_MINUTES = 1
PREDICT = "**Predict"
FOLDED = "*The package's own is folded away here. Open it when yours passes.*"
UNNAMED = "-"  # an id for as long as a cell has none of its own
FIELD = re.compile(r"\{\{([^{}]*)\}\}")
LESSON = re.compile(r"(\d\d)_\w+|a_vit_in_one_(evening)")  # a name, and what it is called

COLAB = """\
import sys

if "google.colab" in sys.modules:  # installs the course there; elsewhere this does nothing
    %pip install -q --no-deps "{name} @ git+{address}"\
"""
COLAB_LINK = (  # in words: a badge is a picture that is broken without a network
    "[Open in Colab](https://colab.research.google.com/github/{repository}/blob/main/{path})"
)


CLAIM = """\
import torch as _torch

@_torch.random.fork_rng(devices=[])
def _claim():
{body}

_claim()
del _claim, _torch
"""


class BuildError(Exception):
    """A lesson that cannot be built: one sentence that says where and why."""


def render(
    source: Path, solved: bool, run_seconds: int | None = None, claims: bool = False
) -> NotebookNode:
    """Return a lesson's notebook without outputs, the learner's or the solved one.

    `run_seconds`, which its header tells, is by default what the notebook on disk has stored.
    With `claims` they are cells of it, ready to run.

    Raises:
        BuildError: the source breaks a rule.
    """
    cells = read(source)
    if run_seconds is None:
        run_seconds = int(stored(notebook_path(source, solved)).get("run_seconds", 0))
    notebook = head_cells(source, cells, solved, run_seconds)
    depth, predicted, tried = "core", False, False
    for number, cell in enumerate(cells[1:], 2):
        where, text = f"{source.name}, cell {number}", cell.source
        if cell.metadata.get("solved_only") and not solved:
            continue
        if "claim" in cell.metadata:
            notebook += [claim_cell(cell)] if claims else []
            continue
        metadata = {
            key: cell.metadata[key] for key in ("definition", "exercise") if key in cell.metadata
        }
        if is_section(cell):
            depth, tried = "deeper" if cell.metadata.get("deeper") else "core", False
        if cell.cell_type == "markdown":
            predicted = PREDICT in text
            text = text_of(cell, solved, root_of(source), where)
        elif predicted:
            metadata |= {"tags": ["predicted"]}
            metadata |= {"jupyter": {"outputs_hidden": True}} if solved else {}
        if id := metadata.get("exercise"):
            tried = True
            notebook += [about_cell(id, depth)]
            text = split_solution(text, where)[solved]
        if "definition" in metadata and tried:
            notebook += [new_markdown_cell(FOLDED, id=UNNAMED, metadata={"tags": [depth]})]
            metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}  # Colab reads that
        new_cell = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        notebook += [new_cell(text, id=UNNAMED, metadata=metadata)]
        notebook[-1].metadata.setdefault("tags", []).append(depth)
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
            "vit_tutorial": {
                "run_seconds": run_seconds,
                "sha256": code_hash(notebook),
                "claims_sha256": claims_hash(cells),
            },
        },
    )


def head_cells(
    source: Path, cells: list[NotebookNode], solved: bool, run_seconds: int
) -> list[NotebookNode]:
    """Return what a notebook begins with: its title, with times and links, and Colab's cell."""
    text = text_of(cells[0], solved, root_of(source), f"{source.name}, cell 1")
    heading, _, rest = text.partition("\n")
    heading += " (solved)" if solved else ""
    minutes = f"{times(cells, run_seconds)} **Needs**: {needs(cells[0])}."
    links = neighbours(source, colab_link(source, solved))
    top = "\n\n".join([f"{heading}\n\n{minutes}", links, rest.strip()])
    name, address = project(root_of(source))
    colab = COLAB.format(name=name, address=address)
    return [new_markdown_cell(top, id="title"), new_code_cell(colab, id="colab")]


def text_of(cell: NotebookNode, solved: bool, root: Path, where: str) -> str:
    """Return a markdown cell's text as a notebook has it."""
    text = fill_fields(cell.source, root, where)
    if cell.metadata.get("deeper"):
        heading, *rest = text.split("\n", 1)
        text = "\n".join([f"{heading} · *deeper*", *rest])
    return text.replace("](../", "](../../") if solved else text  # one folder further down


def claim_cell(cell: NotebookNode) -> NotebookNode:
    """Return a claim ready to run; those behind it run, too, where it does not hold."""
    metadata = {"claim": cell.metadata["claim"], "tags": ["raises-exception"]}
    code = CLAIM.format(body=textwrap.indent(cell.source, "    "))
    return new_code_cell(code, id=UNNAMED, metadata=metadata)


def about_cell(exercise: str, depth: str) -> NotebookNode:
    """Return the line that stands above an exercise."""
    task = find(exercise)
    about = f"**Exercise {exercise} · {task.title}** {task.dots} · about {task.minutes} minutes"
    id = f"about-{exercise.replace('.', '-')}"
    return new_markdown_cell(about, id=id, metadata={"tags": [depth]})


def is_section(cell: NotebookNode) -> bool:
    """Tell whether a cell begins a section."""
    return cell.cell_type == "markdown" and cell.source.startswith("## ")


def root_of(source: Path) -> Path:
    """Return the project's folder, from root/notebooks/src/NN_name.py."""
    return source.parents[2]


def sources(root: Path) -> list[Path]:
    """Return the sources in order: the evening's, then the lessons'."""
    found = [path for path in (root / "notebooks" / "src").glob("*.py") if called(path)]
    return sorted(found, key=lambda path: (is_lesson(path), path.name))


def called(source: Path) -> str:
    """Return what a source is called: its number, or "evening"; "" where it is no source."""
    match = LESSON.fullmatch(source.stem)
    return (match[1] or match[2]) if match else ""


def is_lesson(source: Path) -> bool:
    """Tell a lesson, which has a number, from a way through the lessons."""
    return called(source).isdigit()


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
        if cell.metadata.get("deeper") and not is_section(cell):
            raise BuildError(f"{where}: deeper=true, but no heading (## ...) in its first line")
    check_claims(source, cells)
    check_lengths(source, cells)
    check_exercises(source, cells)
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
    return title_cell.metadata.get("needs", "CPU, no internet")


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


def check_exercises(source: Path, cells: Iterable[NotebookNode]) -> None:
    """See that a lesson shows its own exercises, or the evening some of theirs, in their order."""
    shown = [cell.metadata["exercise"] for cell in cells if "exercise" in cell.metadata]
    numbers = [called(source)] if is_lesson(source) else sorted({id[:2] for id in shown})
    declared = [task.id for number in numbers for task in exercises_of(number)]
    wanted = declared if is_lesson(source) else [id for id in declared if id in shown]
    if shown != wanted:
        raise BuildError(f"{source.name}: it shows the exercises {shown}, declared are {declared}")


def check_claims(source: Path, cells: Iterable[NotebookNode]) -> None:
    """See that each claim asserts something, and quotes the text above it."""
    above = ""
    for number, cell in enumerate(cells, 1):
        if cell.cell_type == "markdown":
            above = " ".join(cell.source.split())
        if quote := cell.metadata.get("claim"):
            where = f"{source.name}, cell {number}"
            if " ".join(quote.split()) not in above:
                raise BuildError(f"{where}: the text above does not say what is claimed: {quote}")
            if not re.search(r"^\s*assert ", cell.source, re.MULTILINE):
                raise BuildError(f"{where}: nothing is asserted of what is claimed: {quote}")


def check_lengths(source: Path, cells: Iterable[NotebookNode]) -> None:
    """Hold cells to their lengths: a long one is not read."""
    lengths = []
    for number, cell in enumerate(cells, 1):
        if cell.cell_type != "code" or {"exercise", "claim"} & set(cell.metadata):
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
    """See that no two lessons show the same definition.

    Raises:
        BuildError: one is.
    """
    shown: dict[str, str] = {}
    for source in filter(is_lesson, sources(root)):
        for cell in jupytext.read(source, fmt="py:percent").cells:
            if name := cell.metadata.get("definition"):
                if name in shown:
                    raise BuildError(f"{source.name}: {name} is shown in {shown[name]} already")
                shown[name] = source.name


# ---- What is generated ---------------------------------------------------------------------------


class Minutes(NamedTuple):
    """What a part of a lesson takes, in minutes."""

    reading: int  # words of text, lines of code, and something to predict
    solving: int  # its exercises, as declared

    @property
    def total(self) -> int:
        """The minutes in all."""
        return self.reading + self.solving


def minutes_of(cells: Iterable[NotebookNode]) -> dict[str, Minutes]:
    """Return the minutes of a lesson's two parts, "core" and "deeper"."""
    reading, solving = {"core": 0.0, "deeper": 0.0}, {"core": 0, "deeper": 0}
    depth, tried = "core", False
    for cell in cells:
        if cell.metadata.get("solved_only") or "claim" in cell.metadata:
            continue
        if is_section(cell):
            depth, tried = "deeper" if cell.metadata.get("deeper") else "core", False
        if task := cell.metadata.get("exercise"):
            solving[depth] += find(task).minutes
            tried = True
        elif cell.cell_type == "markdown":
            reading[depth] += len(cell.source.split()) / WORDS_PER_MINUTE
            reading[depth] += PREDICT_MINUTES * cell.source.count(PREDICT)
        elif not (tried and "definition" in cell.metadata):  # that one is folded
            reading[depth] += len(cell.source.splitlines()) / LINES_PER_MINUTE
    return {part: Minutes(math.ceil(reading[part]), solving[part]) for part in reading}


def times(cells: Iterable[NotebookNode], run_seconds: int) -> str:
    """Return the sentence that tells how long a lesson takes."""
    core, deeper = minutes_of(cells).values()
    parts = [f"**{core.total} minutes**: {core.reading} to read"]
    parts += [f"{core.solving} for the exercises"] if core.solving else []
    more = f" What is marked *deeper* takes {deeper.total} more." if deeper.total else ""
    return ", ".join(parts) + f"; all cells run in {run_seconds} seconds.{more}"


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


def claims_hash(cells: Iterable[NotebookNode]) -> str:
    """Hash the claims of a source, each with where it stands."""
    code = [c for c in cells if c.cell_type == "code"]
    claims = [f"{n} {c.source}" for n, c in enumerate(code) if "claim" in c.metadata]
    return hashlib.sha256("\0".join(claims).encode()).hexdigest()

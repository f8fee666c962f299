"""The notebooks as committed, the lessons as run, and the machine that makes them."""

import ast
import base64
import importlib
import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from vit_tutorial.lessons import exercises as engine

ROOT = Path(__file__).resolve().parent.parent
build: ModuleType = importlib.import_module("build")
tables: ModuleType = importlib.import_module("tables")
lesson: ModuleType = importlib.import_module("render")

SOURCES = build.sources()
NOTEBOOKS = [(source, solved) for source in SOURCES for solved in (False, True)]
IDS = [f"{source.stem}{'-solved' if solved else ''}" for source, solved in NOTEBOOKS]
# the libraries that run kernels may warn about themselves
not_about_jupyter = pytest.mark.filterwarnings("default")
every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
every_notebook = pytest.mark.parametrize(("source", "solved"), NOTEBOOKS, ids=IDS)


# ---- As committed --------------------------------------------------------------------------------


@pytest.mark.heart
def test_notebooks_and_tables_are_what_a_build_would_make():
    assert SOURCES
    lesson.check_definitions(ROOT)
    assert build.drift() == []


@pytest.mark.heart
def test_every_definition_of_the_network_is_shown_in_one_lesson_byte_for_byte():
    wanted = {}
    for name in ("model", "positions"):
        path = ROOT / "vit_tutorial" / f"{name}.py"
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min([node.lineno, *(line.lineno for line in node.decorator_list)])
                lines = text.splitlines()[first - 1 : node.end_lineno]
                wanted[f"vit_tutorial.{name}.{node.name}"] = "\n".join(lines)
    shown = {}
    for source in filter(lesson.is_lesson, SOURCES):
        for cell in build.load(build.notebook_path(source, solved=False)).cells:
            if name := cell.metadata.get("definition"):
                assert name not in shown, f"{name} is shown twice"
                shown[name] = cell.source.partition("\n")[2]
    assert {name: shown.get(name) for name in wanted} == wanted


@every_notebook
def test_outputs_are_complete_and_from_any_machine(source, solved):
    path = build.notebook_path(source, solved)
    notebook = build.load(path)
    nbformat.validate(notebook)
    assert build.faults(notebook) == []
    counts = [cell.execution_count for cell in build.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert path.stat().st_size <= build.MAX_BYTES
    assert "widgets" not in notebook.metadata
    assert build.WIDGET not in path.read_text(encoding="utf-8")
    assert notebook.metadata.vit_tutorial.run_seconds in build.STEPS
    shown = [
        c.outputs for c in build.code_cells(notebook) if "predicted" in c.metadata.get("tags", ())
    ]
    assert any(shown) == (solved and bool(shown)), "what is to be predicted is not on the page"


@every_notebook
def test_links_lead_somewhere_and_pictures_have_words(source, solved):
    notebook = lesson.render(source, solved)
    # a learner's copy lies in work/, beside notebooks/
    folders = [lesson.notebook_path(source, solved).parent, *([] if solved else [ROOT / "work"])]
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        assert not re.search(r"!\[\s*\]\(", cell.source), "a picture without words"
        assert "<img" not in cell.source
        for target in re.findall(r"\]\(([^)\s]+)\)", cell.source):
            if re.match(r"https://|#", target):
                continue
            for folder in folders:
                is_copied_too = folder.name == "work" and "/" not in target  # another lesson
                place = (ROOT / "notebooks" if is_copied_too else folder) / target
                assert place.resolve().exists(), f"{target}, from {folder.name}"


def test_the_evening_is_short_and_takes_one_exercise_of_each_of_six_lessons():
    (source,) = [source for source in SOURCES if lesson.called(source) == "evening"]
    cells = lesson.read(source)
    assert sum(part.total for part in lesson.minutes_of(cells).values()) <= 90
    assert len(lesson.render(source, solved=False).cells) <= 60
    taken = [cell.metadata["exercise"] for cell in cells if "exercise" in cell.metadata]
    assert [id[:2] for id in taken] == ["01", "02", "03", "04", "05", "06"]


MEANINGS = {  # of the letters that count something, in all lessons; n counts anything
    "B": {"images"},
    "C": {"channels"},
    "D": {"channels"},  # of a map of features
    "G": {"processes"},
    "h": {"heads"},
    "K": {"classes"},
    "L": {"layers", "blocks"},
    "N": {"patches", "tokens"},
    "P": set(),  # pixels, the side of a patch: a side holds W / P patches
    "T": {"tokens"},
}
COUNTED = re.compile(
    r"(?<![\w'/.*+=√-])(?<!/ )(?!n )([B-HJ-Zb-hj-z]) "
    r"(images|channels|patches|tokens|heads|layers|blocks|classes|processes)\b"
)
MOST_PREDICTIONS, MOST_CORE_MINUTES = 8, 90


def texts_of(source):
    """Return the cells of a source that a learner sees."""
    return [cell for cell in lesson.read(source) if "claim" not in cell.metadata]


@every_source
def test_a_letter_counts_the_same_in_all_lessons(source):
    for cell in texts_of(source):
        for letter, what in COUNTED.findall(cell.source):
            meaning = " or ".join(MEANINGS.get(letter, ())) or "no such thing"
            assert what in meaning, f"{letter} counts {meaning}, and here {what}:\n{cell.source}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("k heads", [("k", "heads")]),
        ("for L layers and T tokens", [("L", "layers"), ("T", "tokens")]),
        ("W / P patches, n images, a map", []),
    ],
)
def test_letters_that_count_are_found(text, found):
    assert COUNTED.findall(text) == found


def private_names(cell):
    """Return the names in a cell that begin with one underscore."""
    if cell.cell_type != "code":
        return re.findall(r"`(_[a-z]\w*)", cell.source)
    code = re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)
    names = set()
    for node in ast.walk(ast.parse(code)):
        found = [getattr(node, part, None) for part in ("id", "attr", "name", "arg")]
        names |= {name for name in found if isinstance(name, str)}
    return sorted(name for name in names if re.match(r"_[a-z]", name))


@every_source
def test_nothing_private_is_put_before_a_learner(source):
    for cell in lesson.render(source, solved=True).cells:
        assert private_names(cell) == [], cell.source


def test_private_names_are_found():
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    assert private_names(code("import a\n%pip install b\na._follow(_start)")) == [
        "_follow",
        "_start",
    ]
    assert private_names(code("from a import _fuse\nfor _ in a.__all__: pass")) == ["_fuse"]
    assert private_names(text("see `_follow`, not `follow`")) == ["_follow"]


@pytest.mark.parametrize("source", [*filter(lesson.is_lesson, SOURCES)], ids=lambda s: s.stem)
def test_a_lesson_has_few_predictions_and_a_short_core(source):
    cells = lesson.read(source)
    asked = [c for c in cells if c.cell_type == "markdown" and lesson.PREDICT in c.source]
    assert len(asked) <= MOST_PREDICTIONS
    assert lesson.minutes_of(cells)["core"].total <= MOST_CORE_MINUTES


@every_source
def test_a_stub_is_its_solution_with_lines_removed(source):
    open_ones, solved_ones = (
        {
            c.metadata.exercise: c.source
            for c in lesson.render(source, solved).cells
            if "exercise" in c.metadata
        }
        for solved in (False, True)
    )
    assert list(open_ones) == list(solved_ones)
    for id, stub in open_ones.items():
        solution = iter(solved_ones[id].splitlines())
        kept = [line for line in stub.splitlines() if line.strip() != lesson.STUB]
        assert all(line in solution for line in kept), f"{id}: the stub has other lines"
        assert len(kept) < len(solved_ones[id].splitlines())
        assert "SOLUTION" not in stub + solved_ones[id]
        compile(stub, id, "exec")


# ---- As run: every cell, in this process ---------------------------------------------------------


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """An IPython like a kernel's, with figures shown inline and no history."""
    import builtins

    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui=None):
            assert gui is None, "lessons open no windows"

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path / "no data"))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    backend = plt.get_backend()
    shell = Shell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.run_line_magic("matplotlib", "inline")
    yield shell
    plt.close("all")
    plt.switch_backend(backend)
    Shell.clear_instance()
    for name in ("get_ipython", "display"):
        vars(builtins).pop(name, None)


def turned_round(code):
    """Yield a claim's code with one of its assertions turned round: each must be able to fail."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            node.test = ast.UnaryOp(ast.Not(), node.test)
            yield ast.unparse(tree)
            node.test = node.test.operand


def fails(shell, code):
    """Run code in a shell, and return the name of the error that it ends in, or None."""
    from IPython.utils.capture import capture_output

    with capture_output():
        result = shell.run_cell(code)
    error = result.error_before_exec or result.error_in_exec
    return error and type(error).__name__


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a kernel, which shows only
@pytest.mark.filterwarnings("error::DeprecationWarning:__main__")  # those of a lesson's own lines
@every_notebook
def test_a_lesson_runs_from_top_to_bottom(source, solved, shell, monkeypatch):
    verdicts, false = [], []
    monkeypatch.setattr(engine, "_show", lambda mark, id, message: verdicts.append((id, mark)))
    monkeypatch.chdir(lesson.notebook_path(source, solved).parent)
    from IPython.utils.capture import capture_output

    for number, cell in enumerate(lesson.render(source, solved, claims=True).cells, 1):
        if cell.cell_type != "code":
            continue
        if claim := cell.metadata.get("claim"):
            turned = [*turned_round(cell.source)] if solved else []
            verdict = [fails(shell, code) for code in [cell.source, *turned]]
            if verdict != [None, *["AssertionError"] * len(turned)]:
                false.append((claim, verdict))
            continue
        with capture_output() as captured:
            result = shell.run_cell(cell.source)
        error = result.error_before_exec or result.error_in_exec
        assert error is None, f"cell {number}: {error!r}\n{captured.stdout[-2000:]}"
    assert false == [], "claims that do not hold, or would hold turned round"
    expected = "✓" if solved else "○"
    shown = [c.metadata["exercise"] for c in lesson.read(source) if "exercise" in c.metadata]
    assert verdicts == [(id, expected) for id in shown]


# ---- The machine, on small sources ---------------------------------------------------------------

TRIAL = '''
# %% [markdown] needs="CPU, patience"
# # 90 · A trial
#
# **Does it
# run?**
#
# It was {{results.size.rows[1].accuracy:.1f}}%, and {{results.size.rows[px=64].accuracy}}% before.
# Rates: {{results.size.rows[0].rates:.2f}}.
# See [the data](../data/README.md).

# %%
import os
from pathlib import Path

import ipywidgets
from tqdm import tqdm

print(Path.cwd().name, os.listdir(os.environ["VIT_TUTORIAL_DATA"]))

# %% definition="trial_package.double"

# %% exercise="90.1"
def triple(x):
    """Three times x."""
    if x:
        ### BEGIN SOLUTION
        x = x + x + x

        x = x + 0
        ### END SOLUTION
    return x

# %%
for _ in tqdm(range(3)):
    pass
ipywidgets.IntSlider()

# %%
double(4)

# %%
double(4)

# %% [markdown] solved_only=true
# **Why.** Because.
'''


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A project with the source of one lesson, 90, and everything that it needs."""
    files = {
        "notebooks/src/90_trial.py": TRIAL.lstrip(),
        "pyproject.toml": '[project]\nname = "vit"\nurls.Repository = "https://github.com/me/vit"\n',
        "README.md": "Hello.\n<!-- table: lessons -->\n<!-- /table -->\nBye.\n",
        "benchmarks/results/size.json": json.dumps(
            {
                "rows": [
                    {"px": 32, "accuracy": 1.0, "rates": {"a 1": 0.5, "b": 2}},
                    {"px": 64, "accuracy": 71.25},
                ]
            }
        ),
        "trial_package.py": "def double(x):\n    return 2 * x\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trial_package", raising=False)
    task = engine.Exercise("90.1", "Three times", 2, 7, ("a", "b"), lambda answer: "")
    monkeypatch.setitem(engine._EXERCISES, "90.1", task)
    return tmp_path


@pytest.fixture
def source(course):
    return course / "notebooks/src/90_trial.py"


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def outputs_of(notebook):
    return [cell.outputs for cell in build.code_cells(notebook)]


def never_execute(notebook, name, folder):
    raise AssertionError(f"{name} was executed")


@not_about_jupyter
def test_a_build_executes_what_changed_and_is_stable_to_the_byte(
    course, source, monkeypatch, capsys
):
    monkeypatch.setattr(build, "STEPS", (60,))  # however busy the machine is
    assert build.main([], course) == 0, capsys.readouterr().err
    paths = [build.notebook_path(source, solved) for solved in (False, True)]
    first = [path.read_bytes() for path in paths]
    learner, solved = map(build.load, paths)

    _, start, _, _, play, number, again = outputs_of(learner)
    assert start[0].text == "notebooks []\n"
    assert play == []  # neither a dead slider nor the remains of a bar
    assert number[0].data["text/plain"] == again[0].data["text/plain"] == "8"
    assert outputs_of(solved)[1][0].text == "solutions []\n"
    assert set(learner.metadata) == {"kernelspec", "language_info", "vit_tutorial"}
    assert build.drift(course) == []
    readme = (course / "README.md").read_text(encoding="utf-8")
    row = "| [90 · A trial](notebooks/90_trial.ipynb) | Does it run? | 9 | – | CPU, patience |"
    assert row in readme.splitlines()

    build.build(source, solved=True, force=True)
    monkeypatch.setattr(build, "execute", never_execute)
    assert build.main(["90"], course) == 0
    assert [path.read_bytes() for path in paths] == first

    edit(course / "pyproject.toml", "me/vit", "you/vit")  # a fork
    edit(source, "Because.", "Because of it.")  # text alone
    assert any("another source" in line for line in build.drift(course))
    assert build.main([], course) == 0
    assert build.drift(course) == []

    edit(source, "double(4)\n\n# %%\n", "double(5)\n\n# %%\n")
    assert any("another source" in line for line in build.drift(course))
    with pytest.raises(AssertionError, match="was executed"):
        build.main([], course)
    edit(source, "double(5)\n\n# %%\n", "double(4)\n\n# %%\n")

    edit(paths[0], '"double(4)"', '"double(6)"')  # by hand, in the notebook
    assert any("not those of its code" in line for line in build.drift(course))
    paths[1].rename(paths[1].with_name("91_other.ipynb"))
    assert "solutions/90_trial.ipynb: missing" in build.drift(course)
    assert "solutions/91_other.ipynb: it has no source" in build.drift(course)
    edit(course / "README.md", "| Does it run?", "| Does it walk?")
    assert "README.md: its tables are out of date" in build.drift(course)


def test_a_notebook_is_rendered_from_its_source(source, course):
    learner, solved = (lesson.render(source, solved, 10) for solved in (False, True))
    assert len({cell.id for cell in solved.cells}) == len(solved.cells)
    assert lesson.render(source, True, 10) == solved
    text = {cell.id: cell.source for cell in learner.cells}
    assert text["title"].startswith(
        "# 90 · A trial\n\n**9 minutes**: 2 to read, 7 for the exercises"
    )
    assert "all cells run in 10 seconds. **Needs**: CPU, patience." in text["title"]
    assert "It was 71.2%, and 71.25% before.\n" in text["title"]
    rates = "Rates: a_1:_0.50, b:_2.00.".replace("_", "\N{NO-BREAK SPACE}")  # each in one piece
    assert rates in text["title"]
    assert (
        "[Open in Colab](https://colab.research.google.com/github/me/vit/blob/main/"
        "notebooks/90_trial.ipynb)" in text["title"]
    )
    assert '"vit @ git+https://github.com/me/vit"' in text["colab"]
    assert text["about-90-1"] == "**Exercise 90.1 · Three times** ●●○ · about 7 minutes"
    assert text["exercise-90-1"].endswith(
        "    if x:\n        raise NotImplementedError  # your code here\n    return x"
    )
    assert "# trial_package.py\ndef double(x):\n    return 2 * x" in text.values()
    assert "Because" not in "".join(text.values())

    text = {cell.id: cell.source for cell in solved.cells}
    assert text["title"].startswith("# 90 · A trial (solved)\n")
    assert "](../../data/README.md)" in text["title"]
    assert "        x = x + x + x\n\n        x = x + 0\n    return x" in text["exercise-90-1"]
    assert "**Why.** Because." in text.values()


MORE = """
# %% definition="trial_package.half"

# %% [markdown] deeper=true
# ## More
#
# **Predict.** Twice three is six. And twice four?

# %%
import torch

torch.manual_seed(0)
six = double(3)
six

# %% claim="Twice three is six"
torch.rand(1), double.__name__
six_too = six
assert six_too == 6

# %% claim="And twice four?"
for number in [4]:
    assert double(number) > 7, number

# %% [markdown]
# It stays as it was.

# %%
torch.rand(1), "six_too" in globals(), "_claim" in globals()
"""


@pytest.fixture
def claiming(course, source, monkeypatch):
    """The lesson 90 with claims, something to predict, and a section that is deeper."""
    monkeypatch.setattr(build, "STEPS", (60,))
    edit(
        course / "trial_package.py", "def double", "def half(x):\n    return x / 2\n\n\ndef double"
    )
    edit(source, "# %%\nfor _ in", MORE.partition("\n\n")[0].lstrip() + "\n\n# %%\nfor _ in")
    source.write_text(source.read_text("utf-8") + MORE.partition("\n\n")[2], encoding="utf-8")
    return source


def test_claims_are_run_and_leave_no_trace(claiming, course):
    for solved in (False, True):
        build.build(claiming, solved)
        path = build.notebook_path(claiming, solved)
        notebook = build.load(path)
        text = path.read_text(encoding="utf-8")
        assert "claim" not in text.replace("claims_sha256", "").replace("_claim", "")
        assert "six_too = six" not in text
        numbers = [cell.execution_count for cell in build.code_cells(notebook)]
        assert numbers == list(range(1, len(numbers) + 1))
        last = build.code_cells(notebook)[-1].outputs[0]
        torch.manual_seed(0)
        assert last.data["text/plain"] == f"({torch.rand(1)}, False, False)"
        assert last.execution_count == numbers[-1]
        build.execute, kept = never_execute, build.execute
        try:
            assert build.build(claiming, solved).endswith("unchanged")
        finally:
            build.execute = kept
    assert not any("90_trial" in line for line in build.drift(course))
    edit(claiming, "six_too == 6", "six_too >= 6")
    assert any("another metadata" in line for line in build.drift(course))


@pytest.mark.parametrize("solved", [False, True])
def test_a_build_names_every_sentence_that_is_false(solved, claiming, course):
    edit(claiming, "six_too == 6", "six_too == 7, six_too")
    edit(claiming, "double(number) > 7", "double(number) > 8")
    with pytest.raises(build.BuildError, match=r"90_trial.ipynb, it says what is not so") as why:
        build.build(claiming, solved)
    assert str(why.value).splitlines()[1:] == [
        "  “Twice three is six”: assert six_too == 7, six_too (AssertionError 6)",
        "  “And twice four?”: assert double(number) > 8, number (AssertionError 4)",
    ]
    assert not build.notebook_path(claiming, solved).exists()
    assert build.main(["90"], course) == 1


def test_a_claim_that_stops_is_named(claiming):
    edit(claiming, "six_too = six", "six_too = sixx")
    with pytest.raises(build.BuildError, match=r"“Twice three is six”: six_too = sixx \(NameError"):
        build.build(claiming, solved=True)


def test_what_is_to_be_predicted_and_the_packages_own_are_folded(claiming):
    for solved in (False, True):
        build.build(claiming, solved)
        notebook = build.load(build.notebook_path(claiming, solved))
        (six,) = [cell for cell in notebook.cells if cell.source.endswith("six = double(3)\nsix")]
        assert six.metadata.tags == ["predicted", "deeper"]
        assert bool(six.outputs) is solved
        assert six.metadata.get("jupyter") == ({"outputs_hidden": True} if solved else None)
        half, double = (
            next(n for n, cell in enumerate(notebook.cells) if f"def {name}(" in cell.source)
            for name in ("half", "double")
        )
        assert notebook.cells[half].metadata.jupyter == {"source_hidden": True}
        assert notebook.cells[half - 1].source == lesson.FOLDED
        assert "jupyter" not in notebook.cells[double].metadata
        depths = {cell.source.split("\n")[0]: cell.metadata.tags for cell in notebook.cells[2:-1]}
        assert depths["## More · *deeper*"] == ["deeper"]
        assert depths["double(4)"] == ["core"]


def test_what_is_no_longer_to_be_predicted_is_shown_again(claiming, course):
    assert build.main([], course) == 0
    edit(claiming, "**Predict.** Twice three", "Twice three")  # text alone
    assert build.main([], course) == 0
    notebook = build.load(build.notebook_path(claiming, solved=False))
    (six,) = [cell for cell in notebook.cells if cell.source.endswith("six = double(3)\nsix")]
    assert six.outputs[0].data["text/plain"] == "6"
    assert build.drift(course) == []


def test_minutes_are_counted_by_part(claiming):
    cells = lesson.read(claiming)
    core, deeper = lesson.minutes_of(cells).values()
    assert (core.solving, deeper.solving) == (7, 0)
    assert deeper.total == 2, "a prediction, and some lines"
    top = lesson.render(claiming, False, 10).cells[0].source
    assert f"**{core.total} minutes**: {core.reading} to read, 7 for the exercises" in top
    assert "What is marked *deeper* takes 2 more." in top


def test_no_page_loads_a_picture_from_elsewhere(source):
    """Without a network it would be broken."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *SOURCES]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    texts += [cell.source for cell in lesson.render(source, False, 10).cells]
    for text in texts:
        assert not re.search(r"!\[[^\]]*\]\(\w+:|<img[^>]+src=.?\w+:", text)


def test_lessons_are_linked_with_those_before_and_after(source):
    for number in ("89", "91"):
        other = source.with_name(f"{number}_other.py")
        other.write_text(f"# %% [markdown]\n# # {number} · Other\n#\n# Why?\n", encoding="utf-8")
    links = "← [89 · Other](89_other.ipynb) · [91 · Other](91_other.ipynb) → · "
    top, *_, bottom = lesson.render(source, False, 10).cells
    assert links in top.source
    assert bottom.source == links + "[the solved notebook](../notebooks/solutions/90_trial.ipynb)"


BROKEN = {
    "long": (
        "double(4)\n\n# %%\n",
        "double(4)\n" * 26 + "\n# %%\n",
        "cell 6: 26 lines, more than 25",
    ),
    "median": ("double(4)\n", "double(4)\n" * 7, r"more than 6 lines \(the median is 7\)"),
    "marker": ("# %% exercise=", "# %% exercize=", "unknown marker exercize"),
    "no end": ("        ### END SOLUTION\n", "", "cell 4: expected .* inside a function"),
    "not in line": ("        ### END", "    ### END", "cell 4: expected .* inside a function"),
    "twice begun": ("        x = x + 0", "        ### BEGIN SOLUTION", "cell 4: expected"),
    "unmarked": ('# %% exercise="90.1"', "# %%", "a solution, but no marker"),
    "undeclared": ('exercise="90.1"', 'exercise="90.2"', r"exercises \['90.2'\], declared .*90.1"),
    "definition": ("trial_package.double", "trial_package.treble", "no definition trial_package"),
    "field": (
        "accuracy:.1f",
        "speed:.1f",
        r"cell 1: .* no value for {{results.size.rows\[1\].speed",
    ),
    "file": ("results.size.rows[1]", "results.sizes.rows[1]", "cell 1: .* no value for"),
    "row": ("px=64", "px=65", "cell 1: .* no value for"),
    "brackets": ("{{results.size.rows[1]", "{{ size.rows[1]", "cell 1: .* no value for"),
    "title": ("# # 90", "# 90", "expected a title"),
    "quote": (
        "# %%\ndouble(4)\n\n# %%\n",
        '# %% claim="It walks"\nassert True\n\n# %%\n',
        "cell 6: the text above does not say what is claimed: It walks",
    ),
    "claim": (
        "# %%\ndouble(4)\n\n# %%\n",
        '# %% claim="Does it run?"\nx = 1\n\n# %%\n',
        "cell 6: nothing is asserted of what is claimed",
    ),
    "deeper": ('needs="CPU, patience"', "deeper=true", r"cell 1: deeper=true, but no heading"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_source_that_breaks_a_rule_is_refused(fault, source):
    old, new, cause = BROKEN[fault]
    edit(source, old, new)
    with pytest.raises(lesson.BuildError, match=cause) as raised:
        lesson.render(source, True, 10)
    assert "90_trial.py" in str(raised.value)


def test_a_definition_is_shown_once(source, course):
    lesson.check_definitions(course)
    text = '# %% [markdown]\n# # 91\n#\n# Why?\n\n# %% definition="trial_package.double"\n'
    source.with_name("91_other.py").write_text(text, encoding="utf-8")
    with pytest.raises(lesson.BuildError, match=r"91_other.py: .*double is shown in 90_trial"):
        lesson.check_definitions(course)


EVENING = """
# %% [markdown]
# # A trial in one evening
#
# **Quickly?**

# %% definition="trial_package.double"

# %%
1
"""


@pytest.fixture
def evening(source):
    """A way through lesson 90 and a lesson 91, whose exercises it takes."""
    path = source.with_name("a_vit_in_one_evening.py")
    path.write_text(EVENING.lstrip(), encoding="utf-8")
    source.with_name("91_other.py").write_text("# %% [markdown]\n# # 91 · Other\n#\n# Why?\n")
    return path


def takes(evening, *ids):
    """Let it show these exercises, and return what is declared and shown in the end."""
    text = EVENING.lstrip()
    for id in ids:
        text += f'\n# %% exercise="{id}"\ndef f():\n    ### BEGIN SOLUTION\n    return 1\n'
        text += "    ### END SOLUTION\n"
    evening.write_text(text, encoding="utf-8")
    return [c.metadata["exercise"] for c in lesson.read(evening) if "exercise" in c.metadata]


def test_the_evening_comes_first_and_shows_again_what_the_lessons_show(evening, source, course):
    assert [lesson.called(path) for path in build.sources(course)] == ["evening", "90", "91"]
    lesson.check_definitions(course)
    top = lesson.render(evening, False, 10).cells[0].source
    assert "**1 minutes**" in top
    assert "[90 · A trial](90_trial.ipynb) →" in top
    link = "← [A trial in one evening](a_vit_in_one_evening.ipynb) · [91"
    assert link in lesson.render(source, False, 10).cells[0].source


def test_the_evening_takes_exercises_of_the_lessons_in_their_order(evening, monkeypatch):
    for id in ("90.2", "91.1"):
        task = engine.Exercise(id, "Again", 1, 1, ("a", "b"), lambda answer: "")
        monkeypatch.setitem(engine._EXERCISES, id, task)
    assert takes(evening, "90.1", "91.1") == ["90.1", "91.1"]
    for wrong in (["91.1", "90.2"], ["90.2", "90.1"], ["90.1", "90.1"], ["90.3"], ["evening.1"]):
        with pytest.raises(lesson.BuildError, match=r"it shows the exercises"):
            takes(evening, *wrong)


@not_about_jupyter
def test_the_evening_is_built_by_its_name(evening, source, course, monkeypatch, capsys):
    monkeypatch.setattr(build, "STEPS", (60,))
    evening.with_name("91_other.py").unlink()
    assert build.main(["evening"], course) == 0, capsys.readouterr().err
    assert [path.name for path in (course / "notebooks").glob("*.ipynb")] == [
        "a_vit_in_one_evening.ipynb"
    ]
    rows = (course / "README.md").read_text(encoding="utf-8").splitlines()
    assert rows[4].startswith("| [A trial in one evening](notebooks/a_vit_in_one_evening.ipynb) |")
    assert rows[5].startswith("| [90 · A trial]")


def run_cells(*code, folder):
    """Execute cells in a kernel of their own and return the notebook."""
    cells = [nbformat.v4.new_code_cell(text) for text in code]
    notebook = nbformat.v4.new_notebook(cells=cells)
    build.execute(notebook, "trial", folder)
    return notebook


@not_about_jupyter
def test_what_must_not_stand_in_an_output_is_found(tmp_path):
    notebook = run_cells(
        "import warnings; warnings.warn('old')",
        "import os; print('x'); os.getcwd()",
        "object()",
        "import sys; print('50%|##   | 1/2', file=sys.stderr); print('a'); print('\\rb')",
        "import urllib.request; urllib.request.urlopen('http://example.com', timeout=9)",
        "print('not reached')",
        folder=tmp_path,
    )
    found = build.faults(notebook)
    assert [fault.partition(" (")[0] for fault in found] == ["cell 1", "cell 2", "cell 3", "cell 5"]
    for fault, part in zip(
        found, ["a warning, ", "of this machine, /tmp/", "at 0x", "refused"], strict=True
    ):
        assert part in fault.replace(str(tmp_path), "/tmp/")
    assert notebook.cells[-1].execution_count is None


@not_about_jupyter
def test_a_cell_that_takes_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MAX_SECONDS", 3)
    with pytest.raises(lesson.BuildError, match="trial, cell 2: it ran for too long"):
        run_cells("1", "while True: pass", folder=tmp_path)


BAD_OUTPUTS = {
    "error": nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[]),
    "warning": nbformat.v4.new_output("stream", name="stderr", text="DeprecationWarning"),
    "path": nbformat.v4.new_output("stream", name="stdout", text="it is in /opt" + "/there"),
    "windows": nbformat.v4.new_output("execute_result", data={"text/html": "C:\\Users\\me"}),
}


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_a_build_with_a_bad_output_fails_and_writes_nothing(
    kind, course, source, monkeypatch, capsys
):
    def execute(notebook, name, folder):
        for count, cell in enumerate(build.code_cells(notebook), 1):
            cell.execution_count = count
        notebook.cells[2].outputs = [BAD_OUTPUTS[kind]]
        return 1.0

    monkeypatch.setattr(build, "execute", execute)
    assert build.main([], course) == 1
    said = capsys.readouterr().err
    assert said.startswith("build: notebooks/90_trial.ipynb, cell 3 (import os): a")
    assert said.count("\n") == 1
    assert not build.notebook_path(source, False).exists()


def test_limits_of_time_and_size(tmp_path):
    assert [build.coarse(3.2, 0, "x"), build.coarse(12, 0, "x"), build.coarse(60, 0, "x")] == [
        5,
        20,
        60,
    ]
    assert build.coarse(8.0, 20, "x") == 20  # near enough to what is written
    assert build.coarse(5.0, 20, "x") == 5
    with pytest.raises(lesson.BuildError, match="x: it ran for 61 seconds, more than 60"):
        build.coarse(61, 0, "x")


def test_a_notebook_that_is_too_large_names_its_largest_cell(source, monkeypatch):
    def execute(notebook, name, folder):
        notebook.cells[6].outputs = [
            nbformat.v4.new_output("stream", name="stdout", text="x" * 1_700_000)
        ]
        return 1.0

    monkeypatch.setattr(build, "execute", execute)
    with pytest.raises(lesson.BuildError, match=r"1.7 MB, more than 1.5; 1.7 of it in cell 7"):
        build.build(source, solved=True)
    assert not build.notebook_path(source, True).exists()


def test_figures_stay_png_unless_photographs_are_in_them():
    noise = np.random.default_rng(0).integers(0, 40, (300, 300, 3), dtype=np.uint8)
    lines = np.repeat(noise[:, :1], 300, axis=1)
    for pixels, kind in ((noise, "image/jpeg"), (lines, "image/png")):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        data = nbformat.from_dict({"image/png": base64.b64encode(file.getvalue()).decode()})
        build.store_small(data)
        assert list(data) == [kind]
        assert len(base64.b64decode(data[kind])) <= len(file.getvalue())
        with Image.open(io.BytesIO(base64.b64decode(data[kind]))) as stored:
            assert stored.get_format_mimetype() == kind
            off = np.abs(np.asarray(stored).astype(int) - pixels).mean()
            assert off == 0 if kind == "image/png" else off < 10


def test_only_what_is_no_path_is_no_path():
    found = build.MACHINE.findall(
        r"a/b, /home" + r"/me/x, https://a.org/tutorial C:\x D: 1/home at 0x7f12ab34cd"
    )
    assert found == ["/home" + "/me/x,", r"C:\x", "at 0x7f12ab34cd"]


def test_results_become_tables(course, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", lambda *_: "")
    rows = [{"from": "a", "to": "b", "ms_median": 3, "ms_low": 2, "ms_high": 4, "moves": 9}]
    result = {"hardware": "a chip, 2 cores", "command": "python x.py", "data": None, "rows": rows}
    path = course / "benchmarks/results/lesson_in_browser.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    readme = course / "README.md"
    place = "<!-- table: {} -->\nold\n<!-- /table -->\n"
    readme.write_text(place.format("lesson_in_browser") + "between\n" + place.format("rollout"))
    text = build.page_with_tables(readme, course)
    assert "| a | b | 3 ms | 2–4 ms |\n\nMeasured on a chip, 2 cores: `python x.py`" in text
    assert "old" not in text
    end = "\nbetween\n<!-- table: rollout -->\n*Not measured yet: `rollout`.*\n<!-- /table -->\n"
    assert text.endswith(end)
    readme.write_text(place.format("sizes"))
    problem = "README.md: there is no table 'sizes'"
    assert problem in build.drift(course)
    assert build.main(["90"], course) == 1
    assert problem in capsys.readouterr().err
    assert "old" in readme.read_text()


def test_every_table_stands_on_one_page():
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in build.PAGES]
    found = [name for page in pages for _, name, _ in build.TABLE.findall(page)]
    assert sorted(found) == sorted(["lessons", "networks", "recipes", *tables.RESULTS])


def test_a_lesson_shows_a_table_of_results(course, source):
    rows = [{"pos_embed": "rope", "epochs": 3, "test_accuracy_mean": 61.26}]
    result = {"hardware": "a chip", "command": "python y.py", "data": "photographs", "rows": rows}
    path = course / "benchmarks/results/positions_cifar10.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    edit(source, "See [the data]", "{{table.positions_cifar10}}\n#\n# See [the data]")
    text = lesson.render(source, True, 10).cells[0].source
    table = "| positions | epochs | test accuracy |\n| --- | --- | --- |\n| rope | 3 | 61.3% |\n"
    assert f"{table}\nMeasured on photographs, a chip: `python y.py`\n\nSee" in text
    edit(source, "table.positions", "table.places")
    with pytest.raises(lesson.BuildError, match="has no value for"):
        lesson.render(source, True, 10)


def test_an_unknown_lesson_is_one_sentence(course, capsys):
    assert build.main(["7"], course) == 2
    assert capsys.readouterr().err == "build: there is no source of lesson 07\n"

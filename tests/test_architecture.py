"""Who may import whom, how light the door is, and that public names keep what they promise."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vit_tutorial

pytestmark = pytest.mark.heart

PACKAGE = Path(vit_tutorial.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
FIRST_PARTS = {
    path.stem if path.parent == PACKAGE else path.relative_to(PACKAGE).parts[0] for path in MODULES
} - {"__init__", "__main__"}

# A part of the package -> the parts that it may import. Files later in the course join here.
ALLOWED: dict[str, set[str]] = {
    "positions": set(),
    "images": set(),
    "augment": set(),
    "plots": set(),
    "methods": set(),
    "modes": set(),
    "intervals": set(),
    "calls": set(),
    "watching": {"calls"},
    "probing": {"watching", "calls", "modes"},
    "activations": {"watching", "probing"},
    "recording": {"watching", "calls", "probing", "activations", "modes"},
    "attention": {"recording", "calls", "methods"},
    "faithfulness": {"recording", "attention", "methods", "modes", "intervals"},
    "download": {"files"},
    "files": set(),
    "provenance": set(),
    "distributed": set(),
    "hardware": {"distributed"},
    "model": {"positions"},
    "folders": set(),
    "data": {"images", "download", "files", "folders"},
    "evaluation": {"data", "images", "modes", "intervals"},
    "cnn": set(),
    "compress": {"model", "files", "modes"},
    "mae": {"model", "positions", "augment"},
    "modern": {"model", "positions"},
    "weights": {"model", "modern", "cnn", "mae", "files", "hardware"},
    "libraries": {"weights", "model", "modern", "hardware"},
    "zero_shot": {"modes"},
    "pretrained": {"weights", "libraries", "model", "images", "zero_shot"},
    "transfer": {"model", "images", "files", "modes"},
    "explain": {"plots", "attention", "recording", "methods", "images", "explorer"},
    "recipes": {"model"},
    "optimizers": {"recipes"},
    "compute": {"recipes", "hardware", "distributed"},
    "progress": {"files", "plots", "distributed"},
    "run": {"data", "model", "recipes", "optimizers", "progress", "distributed", "files"}
    | {"compute", "provenance", "hardware"},
    "train": {"data", "images", "augment", "model", "optimizers", "evaluation", "weights"}
    | {"recipes", "run", "progress", "distributed", "hardware", "compute"},
    "explorer": {"explorer", "recording", "watching", "calls", "attention", "methods", "modes"}
    | {"compress", "files", "images", "plots"}
    | {"model", "weights", "data"},  # the network in the page
    "doctor": {"weights", "data", "evaluation"},
    "lessons": FIRST_PARTS - {"cli"},
    "cli": FIRST_PARTS - {"lessons"},
    "__main__": {"cli"},
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(tree: ast.AST) -> list[str]:
    """Full names of all that is imported anywhere below, `from a import b` as "a.b"."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a definition fits a notebook"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def siblings(names: list[str]) -> set[str]:
    """The parts of this package among imported names; a lazy public name counts as its home."""
    found = set()
    for name in names:
        first, _, rest = name.partition(".")
        if first == "vit_tutorial" and rest:
            part = rest.split(".")[0]
            found.add(vit_tutorial._HOME.get(part, part))
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_it_may(path):
    part = part_of(path)
    if part == "__init__":
        assert siblings(imported_names(parsed(path))) == set()
        return
    assert part in ALLOWED, f"{part} is new: say in ALLOWED what it may import"
    extra = siblings(imported_names(parsed(path))) - ALLOWED[part]
    extra -= {part} if path.parent != PACKAGE else set()  # inside a folder, among themselves
    assert not extra, f"{part} may not import {', '.join(sorted(extra))}"


def test_the_rule_notices_every_way_to_import():
    for line in (
        "import vit_tutorial.train",
        "from vit_tutorial import train",
        "from vit_tutorial import fit",
        "from vit_tutorial.train import fit",
        "def f():\n    from vit_tutorial.train import fit",
    ):
        assert siblings(imported_names(ast.parse(line))) == {"train"}, line


def test_attention_needs_torch_and_the_standard_library_alone():
    for path, siblings_too in (
        ("methods.py", set()),
        ("modes.py", set()),
        ("calls.py", set()),
        ("watching.py", {"calls"}),
        ("probing.py", {"watching", "calls", "modes"}),
        ("activations.py", {"watching", "probing"}),
        ("recording.py", {"watching", "calls", "probing", "activations", "modes"}),
        ("attention.py", {"recording", "calls", "methods"}),
    ):
        names = imported_names(parsed(PACKAGE / path))
        assert siblings(names) == siblings_too
        others = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
        assert others - {"vit_tutorial"} <= {"torch"}


def test_matplotlib_is_imported_in_plots_alone():
    users = [
        part_of(path)
        for path in MODULES
        if any(name.split(".")[0] == "matplotlib" for name in imported_names(parsed(path)))
    ]
    assert set(users) == {"plots"}


def test_the_explorers_display_part_gets_arrays():
    """What runs the network is imported inside functions, so the widget alone needs no torch."""
    for path in (PACKAGE / "explorer").glob("*.py"):
        tree = parsed(path)
        at_import = ast.Module(
            [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []
        )
        names = imported_names(at_import)
        assert siblings(names) <= {"plots", "explorer", "files", "methods"}
        assert "torch" not in {name.split(".")[0] for name in names}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy():
    """The door is light: only itself and the standard library."""
    code = (
        "import sys; before = set(sys.modules); import vit_tutorial; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = set(run_python(code).split())
    assert not loaded & {"torch", "numpy", "matplotlib", "PIL", "ipywidgets", "sklearn"}
    assert loaded <= {"vit_tutorial", *sys.stdlib_module_names}


def test_network_and_attention_need_no_matplotlib():
    code = (
        "import sys; from vit_tutorial import VisionTransformer, fit, record_attention; "
        "print('matplotlib' in sys.modules, 'ipywidgets' in sys.modules)"
    )
    assert run_python(code).split() == ["False", "False"]


# ---- public names ----


@pytest.mark.parametrize("name", vit_tutorial.__all__)
def test_a_public_name_leads_to_something_described(name):
    thing = getattr(vit_tutorial, name)
    assert thing.__module__.startswith(f"vit_tutorial.{vit_tutorial._HOME[name]}")
    assert inspect.getdoc(thing)
    assert name in dir(vit_tutorial)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vit_tutorial' has no attribute 'ViTT'"):
        _ = vit_tutorial.ViTT


def test_the_version_is_that_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{vit_tutorial.__version__}"' in text
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {vit_tutorial.__version__}\n" in citation


def public_definitions(tree: ast.Module) -> list[tuple[str, ast.AST]]:
    """Public functions and classes, and public methods of public classes."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            found.append((node.name, node))
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name[0] != "_":
                    found.append((f"{node.name}.{inner.name}", inner))
    return found


def raises_itself(node: ast.AST) -> bool:
    """Raises in its own body; a class in its constructor, where its docstring tells of it."""
    if isinstance(node, ast.ClassDef):
        makers = ("__init__", "__post_init__")
        bodies = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name in makers]
    else:
        bodies = [node]
    raised = [n.exc for body in bodies for n in ast.walk(body) if isinstance(n, ast.Raise)]
    names = {e.func.id for e in raised if isinstance(e, ast.Call) and isinstance(e.func, ast.Name)}
    return bool(names & {"ValueError", "FloatingPointError", "OSError", "FileNotFoundError"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_raises_says_so(path):
    tree = parsed(path)
    methods_of = {
        inner: node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for inner in node.body
    }
    for name, node in public_definitions(tree):
        documented = ast.get_docstring(node) or ""
        assert documented, f"{name} has no docstring"
        if node in methods_of and node.name in ("forward", "image_hw"):
            continue  # its class's docstring tells
        if raises_itself(node):
            assert "Raises:" in documented, f"{name} raises, and its docstring does not say so"


# ---- size and README ----


LONGEST_FUNCTION = 60  # lines of a body, its docstring not counted


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def body_of(node: ast.FunctionDef) -> list[ast.stmt]:
    """The statements of a function, without its docstring where there is more."""
    return node.body[1:] or node.body if ast.get_docstring(node) is not None else node.body


def test_no_function_outgrows_a_newcomer():
    too_long = {}
    for path in MODULES:
        for node in functions(parsed(path)):
            lines = body_of(node)[-1].end_lineno - body_of(node)[0].lineno + 1
            if lines > LONGEST_FUNCTION:
                too_long[f"{path.relative_to(PACKAGE).as_posix()}::{node.name}"] = lines
    assert not too_long, f"a part of it deserves a name of its own: {too_long}"


def test_no_function_is_written_twice():
    """Of two lines or more, whatever they are called and where."""
    places = {}
    for path in MODULES:
        for node in functions(parsed(path)):
            body = body_of(node)
            if body[-1].end_lineno > body[0].lineno:
                written = ast.dump(ast.Module(body, []))
                place = f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
                places.setdefault(written, []).append(place)
    twice = [group for group in places.values() if len(group) > 1]
    assert not twice, f"write these once: {twice}"


@pytest.mark.parametrize(
    "folder", sorted((PACKAGE / "lessons").glob("lesson_*")), ids=lambda folder: folder.name
)
def test_a_lessons_folder_holds_its_checks_and_imports_no_other_lessons(folder):
    assert re.fullmatch(r"lesson_\d\d", folder.name)
    assert {"__init__.py", "checks.py", "mistakes.py"} <= {
        path.name for path in folder.glob("*.py")
    }
    for path in folder.glob("*.py"):
        for name in imported_names(parsed(path)):
            part = re.match(r"vit_tutorial\.lessons\.(lesson_\d\d)", name)
            assert part is None or part[1] == folder.name, f"{path.name} imports {name}"


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="there is no README here")
def test_the_file_tree_in_the_readme_names_the_packages_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"^vit_tutorial/.*\n((?:[ \t]+.*\n)+)", text, flags=re.MULTILINE)
    assert match, "the README has no file tree of vit_tutorial/"
    lines = [line.split() for line in match[1].splitlines()]
    assert [words[1] for words in lines if words[0] == "#"] == ["learn:", "build:", "look", "run:"]
    assert lines[0][0] == "#"
    named = [words[0].rstrip("/") for words in lines if words[0] != "#"]
    files = {path.name for path in PACKAGE.glob("*.py") if path.name[0] != "_"}
    folders = {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] not in "._"
    }
    assert sorted(named) == sorted(files | folders)

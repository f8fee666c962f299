"""The explorers' JavaScript: linted, joined into one text, and gone once a view is closed."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import test_explorer_attention
import test_explorer_live
import test_explorer_positions
from axe_playwright_python.sync_playwright import Axe

from vit_tutorial.explorer import (
    AttentionExplorer,
    Flipbook,
    LiveExplorer,
    PositionExplorer,
    flipbook,
)
from vit_tutorial.explorer import page as pages
from vit_tutorial.explorer.page import join_modules

FOLDER = Path(pages.__file__).parent
ROOT = FOLDER.parent.parent
ENTRIES = ["attention", "flipbook", "live", "positions"]


# ---- linted ----


def lint(folder: Path) -> str:
    """Return what oxlint finds in the modules of a folder; empty for nothing."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    oxlint = shutil.which("oxlint", path=path)
    assert oxlint, "oxlint is one of the packages for tests: pip install -e .[test]"
    rules = ["--config", str(ROOT / ".oxlintrc.json"), "--deny-warnings", "--format", "unix"]
    done = subprocess.run([oxlint, *rules], cwd=folder, capture_output=True, text=True)
    assert (done.returncode == 0) == (not done.stdout.strip()), done.stderr
    return done.stdout


def test_the_modules_are_clean():
    assert lint(FOLDER) == ""


GOOD = """import { one } from "./other.js";

export function two(flag) {
  return flag === one ? one : 2 * one;
}
"""


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("2 * one", "2 * unheard", "no-undef"),
        ('{ one } from "./other.js"', '{ one, more } from "./other.js"', "named"),
        ("2 * one", "2", None),
        ("flag === one ? one : 2 * one", "flag", "no-unused-vars"),
        ("===", "==", "eqeqeq"),
        ("  return", "  // a line\n" * 60 + "  return", "max-lines-per-function"),
    ],
)
def test_the_linter_refuses_what_it_must(old, new, rule, tmp_path):
    assert old in GOOD
    (tmp_path / "one.js").write_text(GOOD.replace(old, new), encoding="utf-8")
    (tmp_path / "other.js").write_text("export const one = 1;\n", encoding="utf-8")
    found = lint(tmp_path)
    assert f"({rule})" in found if rule else found == ""


# ---- joined ----


def write(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text, encoding="utf-8")
    return folder / "entry.js"


def test_modules_are_joined_each_once_and_after_what_it_imports(tmp_path):
    entry = write(
        tmp_path,
        entry='// First.\n\nimport { b } from "./b.js";\nimport {\n  a,\n  c,\n} from "./a.js";\n\n'
        "function render() {\n  return a + b + c;\n}\n\nexport default { render };\n",
        a="export const a = 1;\nexport const c = 3;\n",
        b='import { a } from "./a.js";\n\nexport const b = 2 * a;\n',
    )
    assert join_modules(entry) == (
        "export const a = 1;\nexport const c = 3;\n\n"
        "export const b = 2 * a;\n\n"
        "// First.\n\nfunction render() {\n  return a + b + c;\n}\n\nexport default { render };\n"
    )


@pytest.mark.parametrize(
    ("entry", "other", "message"),
    [
        ('import * as all from "./other.js";\n', "", r"entry.js: cannot be joined .*: import \*"),
        ('import { a as b } from "./other.js";\n', "", "cannot be joined .*: import { a as b }"),
        ('import "./other.js";\n', "", "cannot be joined"),
        ('import { a } from "https://x.org/a.js";\n', "", "cannot be joined"),
        ('export { a } from "./other.js";\n', "", "cannot be joined .*: export { a }"),
        ("const [a, b] = [1, 2];\n", "", r"cannot be joined .*: const \[a, b\]"),
        ("start();\n", "", "cannot be joined"),
        ("", "export default { render };\n", "other.js: cannot be joined .*: export default"),
        ("const a = 1;\n", "export const a = 2;\n", "entry.js and other.js both declare a"),
        ("class a {\n}\n", "async function a() {\n}\n", "both declare a: rename one"),
        ("", 'import { b } from "./entry.js";\n', "circle: entry.js -> other.js -> entry.js"),
    ],
)
def test_what_cannot_be_joined_is_refused(entry, other, message, tmp_path):
    path = write(tmp_path, entry='import { x } from "./other.js";\n' + entry, other=other)
    with pytest.raises(ValueError, match=message):
        join_modules(path)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_joined_module_needs_nothing_else(name):
    text = join_modules(FOLDER / f"{name}.js")
    assert not re.search(r"\bimport\b[^a-z]*[({\"']|\brequire\b|\bfrom \"", text)
    assert text.endswith("\nexport default { render };\n")
    assert text.count("export default") == 1
    assert "</script" not in text


def test_every_module_belongs_to_an_explorer():
    joined = "".join(
        join_modules(FOLDER / f"{name}.js") for name in [*ENTRIES, "saved", "vit_engine"]
    )
    for path in FOLDER.glob("*.js"):
        assert path.read_text(encoding="utf-8").splitlines()[-3] in joined, path.name


def test_each_explorer_has_class_names_of_its_own():
    used: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.css")):
        prefixes = set(re.findall(r"\.([a-z]{2})-", path.read_text(encoding="utf-8")))
        for prefix in prefixes - {"at", "ex", "mv"}:  # what all share
            assert used.setdefault(prefix, path.name) == path.name
    assert len(used) == len(ENTRIES)


# ---- closed ----

# Notes what is asked of the page and not yet given back.
WATCH = """
window.left = { urls: new Set(), listeners: [], observed: new Set() };
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (file) => {
  const url = createObjectURL(file);
  left.urls.add(url);
  return url;
};
URL.revokeObjectURL = (url) => { left.urls.delete(url); revokeObjectURL(url); };
const listens = (holder, add, remove, counted) => {
  const [on, off] = [holder[add], holder[remove]];
  holder[add] = (event, listener) => {
    if (counted(event)) left.listeners.push([event, listener]);
    on.call(holder, event, listener);
  };
  holder[remove] = (event, listener) => {
    left.listeners = left.listeners.filter(([e, l]) => e !== event || l !== listener);
    off.call(holder, event, listener);
  };
};
listens(window, "addEventListener", "removeEventListener", (event) => event === "resize");
window.watched = (model) => {
  listens(model, "on", "off", () => true);
  return window.model = model;
};
window.ResizeObserver = class extends ResizeObserver {
  observe(node) { left.observed.add(this); super.observe(node); }
  disconnect() { left.observed.delete(this); super.disconnect(); }
};
window.counts = () => [left.urls.size, left.listeners.length, left.observed.size];
"""


def shade(red):
    return np.full((6, 10, 3), red, dtype=np.uint8), f"a red of {red}"


def attention_page() -> str:
    made = test_explorer_attention.explorer()
    made.add(test_explorer_attention.photograph(1), name="other")
    return made.html()


PAGES = {
    "attention": (attention_page, [2, 14, 1]),
    "flipbook": (lambda: flipbook(shade, red=[0, 100, 200]).html(), [3, 1, 0]),
    "live": (lambda: test_explorer_live.explorer().html(), [3, 0, 1]),
    "positions": (lambda: test_explorer_positions.explorer().html(), [0, 2, 0]),
}


@pytest.fixture
def watch(browser, tmp_path):
    """Open an explorer's page, in which what it holds is counted; `end` closes the explorer."""
    view = browser.new_page()
    view.add_init_script(WATCH)
    problems = []
    view.on("pageerror", lambda error: problems.append(str(error)))

    def go(document: str):
        call = "\nrender({ model,"
        assert document.count(call) == 1
        watched = document.replace(call, "\nwindow.end = render({ model: watched(model),")
        (tmp_path / "page.html").write_text(watched, encoding="utf-8")
        view.goto((tmp_path / "page.html").as_uri())
        view.wait_for_function("() => Boolean(window.end)")
        return view

    yield go
    view.close()
    assert problems == []


@pytest.mark.parametrize("name", ENTRIES)
def test_a_closed_explorer_listens_to_nothing_and_keeps_no_file(name, watch):
    document, held = PAGES[name]
    view = watch(document())
    assert view.evaluate("counts()") == held, "URLs, listeners, observers"
    assert view.evaluate("end(), counts()") == [0, 0, 0]


def test_an_image_that_is_added_does_not_keep_those_before_twice(watch):
    view = watch(attention_page())
    view.evaluate("for (let n = 0; n < 3; n++) model.set('scenes', [...model.get('scenes')])")
    assert view.evaluate("counts()[0]") == 2
    view.wait_for_function(
        """() => { const photo = document.querySelector(".mv-stage canvas");
        return photo.getContext("2d").getImageData(0, 0, 1, 1).data[3] === 255; }"""
    )


def test_nothing_is_saved_after_an_explorer_was_closed(watch):
    view = watch(PAGES["positions"][0]())
    view.evaluate("() => { window.saves = 0; model.save_changes = () => { saves += 1; }; }")
    stage = "document.querySelector('.position-explorer [role=application]')"
    press = stage + ".dispatchEvent(new KeyboardEvent('keydown', {{ key: '{}' }}))"
    view.evaluate(press.format("ArrowRight"))
    view.wait_for_function("() => saves === 1")
    view.evaluate(f"{press.format('ArrowLeft')}; end()")
    view.wait_for_timeout(400)
    assert view.evaluate("saves") == 1


# ---- among others ----

STYLES = """() => [...document.querySelectorAll(".explorer, .explorer *")].map((node) => {
  const style = getComputedStyle(node);
  return [...style].filter((name) => !name.startsWith("--")).map((name) => style[name]).join();
})"""
VS_CODE = """
:root { --vscode-editor-background: #1e1e1e; --vscode-editor-foreground: #d4d4d4;
  --vscode-descriptionForeground: #9d9d9d; }
main { background: white !important; }
"""


@pytest.mark.parametrize("name", ENTRIES)
def test_an_explorer_looks_the_same_beside_another(name, watch):
    """Each brings its style sheet, with the rules of all in it."""
    view = watch(PAGES[name][0]())
    view.wait_for_timeout(500)  # until it has been drawn
    alone = view.evaluate(STYLES)
    for explorer in (AttentionExplorer, Flipbook, LiveExplorer, PositionExplorer):
        view.add_style_tag(content=explorer._css)
    assert view.evaluate(STYLES) == alone


@pytest.mark.parametrize("name", ENTRIES)
def test_all_words_are_readable_in_a_dark_vs_code(name, watch):
    """It gives a widget a white background, whatever the theme."""
    document = PAGES[name][0]().replace(pages.STYLE, VS_CODE)
    view = watch(document.replace("<main>", '<main data-vscode-theme-kind="vscode-dark">'))
    view.wait_for_timeout(500)
    view.evaluate("document.querySelector('h1').remove()")  # what a saved page has above it
    found = Axe().run(view, options={"runOnly": ["color-contrast"]})
    assert found.violations_count == 0, found.generate_report()

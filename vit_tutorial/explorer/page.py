"""A widget, and the same as one saved page: its JavaScript modules are joined into one text.

Such a page needs no kernel, no server and no network.
"""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import anywidget

from vit_tutorial.files import atomic_write

# What a browser may do with the page: run what is written in it, in a Worker, too, and show its
# own pictures. Nothing can be loaded, and nothing sent.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; "
    "style-src 'unsafe-inline'; img-src blob: data:"
)
# The forms that `join_modules` understands. What is inside of something is indented.
IMPORT = re.compile(r'^import \{(?:\s*\w+,)*\s*\w*\s*\} from "\./([\w.]+)";\n+', re.MULTILINE)
TOP_LEVEL = re.compile(r"^\w.*", re.MULTILINE)
DECLARATION = re.compile(r"(?:export )?(?:async )?(?:function|class|const|let) (\w+)\b")
EXPORT = "export default { render };"
START = """
const model = savedModel(JSON.parse(document.getElementById("state").textContent));
render({ model, el: document.getElementById("widget") });
"""
STYLE = """
:root { color-scheme: light dark; --jp-ui-font-color1: #222222; --jp-ui-font-color2: #5c5c5c;
  --jp-border-color1: #c4c4c4; --jp-layout-color1: #ffffff; }
body { margin: 16px; background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); }
h1 { margin: 0 0 4px; font: 600 17px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  :root { --jp-ui-font-color1: #e6e6e6; --jp-ui-font-color2: #a8a8a8;
    --jp-border-color1: #5a5a5a; --jp-layout-color1: #16181b; }
}
"""


def sources(of: str) -> tuple[str, str]:
    """Read an explorer's ES module and its style sheet, each as one text.

    Args:
        of: the explorer's Python file, whose name the two have, too.
    """
    shared, own = (Path(file).with_suffix(".css") for file in (__file__, of))
    css = shared.read_text(encoding="utf-8") + own.read_text(encoding="utf-8")
    return join_modules(Path(of).with_suffix(".js")), css


def join_modules(entry: Path) -> str:
    """Write an ES module, and before it all that it imports, as one without imports.

    Imports are written `import { a, b } from "./file.js";`. All names live in one scope then.

    Raises:
        ValueError: another form of import, export or declaration, modules that import each other
            in a circle, or a name that two of them declare.
    """
    texts: dict[Path, str] = {}

    def add(path: Path, *importers: Path) -> None:
        if path in importers:
            circle = " -> ".join(module.name for module in (*importers, path))
            raise ValueError(f"modules import each other in a circle: {circle}")
        if path in texts:
            return
        text = path.read_text(encoding="utf-8")
        for file in IMPORT.findall(text):
            add(path.parent / file, *importers, path)
        texts[path] = IMPORT.sub("", text)

    add(entry)
    declared_in: dict[str, str] = {}  # name -> the file that declares it
    for path, text in texts.items():
        for line in TOP_LEVEL.findall(text):
            if path == entry and line == EXPORT:
                continue
            declared = DECLARATION.match(line)
            if declared is None:
                raise ValueError(f"{path.name}: cannot be joined with other modules: {line}")
            if other_file := declared_in.get(declared[1]):
                raise ValueError(
                    f"{path.name} and {other_file} both declare {declared[1]}: rename one"
                )
            declared_in[declared[1]] = path.name
    return "\n".join(texts.values())


class Explorer(anywidget.AnyWidget):
    """A widget that responds in the browser, from what was sent to it once.

    Where there is no kernel, its module runs in a page with the same state: every trait that is
    sent to the browser and is not tagged `page=False`.
    """

    _esm: str
    _css: str
    page_height = 600  # CSS pixels, in the output of a cell

    def html(self) -> str:
        """Write the explorer as one page that works anywhere, without loading anything."""
        return page(self._esm, self._css, self.page_state(), self.title())

    def page_state(self) -> dict[str, Any]:
        """Return what a page of its own begins with: traits, by name."""
        names = set(self.trait_names(sync=True, page=lambda tag: tag is not False))
        names -= set(anywidget.AnyWidget.class_trait_names(sync=True))
        return {n: getattr(self, n) for n in sorted(names) if not n.startswith("_")}

    def title(self) -> str:
        """Say what a page of its own is called."""
        return repr(self)

    def page(self) -> "Page":
        """Show the explorer in a cell as it will be when the notebook is shared or converted."""
        return Page(self.html(), self.page_height)

    def save_html(self, path: str | Path) -> None:
        """Save the explorer as one page.

        Raises:
            OSError: it cannot be written; a file that was there before is unchanged.
        """
        with atomic_write(Path(path)) as beside:
            beside.write_text(self.html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.page()._repr_html_()


class Page:
    """A page inside the output of a cell, where it lives on when the notebook is shared."""

    def __init__(self, document: str, height: int) -> None:
        self.document, self.height = document, height

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.document)}" style="width: 100%; border: 0" '
            f'height="{self.height}" sandbox="allow-scripts"></iframe>'
        )

    def __repr__(self) -> str:
        return f"a page of {len(self.document) / 1e6:.1f} MB"


def page(module: str, css: str, state: dict[str, Any], title: str) -> str:
    """Write one page: an ES module that exports `render`, its style sheet, and a widget's state.

    Bytes in the state are carried as base64. It loads no other file.
    """
    saved = join_modules(Path(__file__).with_name("saved.js"))
    # "<" could end the element that holds the state
    data = json.dumps(_carried(state), separators=(",", ":")).replace("<", "\\u003c")
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}{css}</style>",
        f'<main><h1>{html.escape(title)}</h1><div id="widget"></div></main>',
        f'<script type="application/json" id="state">{data}</script>',
        f'<script type="module">{module}{saved}{START}</script>',
        "</html>",
    ]
    return "\n".join(parts)


def _carried(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {name: _carried(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_carried(part) for part in value]
    return value

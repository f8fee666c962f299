"""A widget that can also stand in one page, which needs no kernel, no server and no network."""

import base64
import html
import json
from pathlib import Path
from typing import Any

import anywidget

from vit_tutorial.files import whole_file

# What a browser may do with the page: run what is written in it, and show its own pictures.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:"
)
# A model as a widget's JavaScript expects it, with nobody behind it.
MODEL = """
const state = JSON.parse(document.getElementById("state").textContent);
const listeners = {};
const decoded = (value) => {
  if (Array.isArray(value)) return value.map(decoded);
  if (value === null || typeof value !== "object") return value;
  if (!("bytes" in value)) return value;
  const text = atob(value.bytes);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
};
for (const name of Object.keys(state)) state[name] = decoded(state[name]);
const model = {
  get: (name) => state[name],
  set: (name, value) => {
    if (state[name] === value) return;
    state[name] = value;
    for (const listener of listeners[`change:${name}`] ?? []) listener();
  },
  save_changes: () => {},
  on: (event, listener) => (listeners[event] ??= []).push(listener),
  off: (event, listener) => {
    listeners[event] = (listeners[event] ?? []).filter((other) => other !== listener);
  },
};
render({ model, el: document.getElementById("widget") });
"""
STYLE = """
:root { color-scheme: light dark; --jp-ui-font-color1: #222222; --jp-ui-font-color2: #5c5c5c;
  --jp-border-color1: #c4c4c4; --jp-layout-color1: #ffffff; }
body { margin: 16px; background: var(--jp-layout-color1); }
@media (prefers-color-scheme: dark) {
  :root { --jp-ui-font-color1: #e6e6e6; --jp-ui-font-color2: #a8a8a8;
    --jp-border-color1: #5a5a5a; --jp-layout-color1: #16181b; }
}
"""


def sources(of: str) -> tuple[str, str]:
    """Read an explorer's ES module and its style sheet: what all explorers share, and its own.

    Args:
        of: the explorer's Python file, whose name the two have, too.
    """

    def joined(suffix: str) -> str:
        files = (Path(file).with_suffix(suffix) for file in (__file__, of))
        return "".join(file.read_text(encoding="utf-8") for file in files)

    return joined(".js"), joined(".css")


class Explorer(anywidget.AnyWidget):
    """A widget that answers in the browser, from what was sent to it once.

    Where there is no kernel, its module runs in a page with the same state: every trait that is
    sent to the browser and is not tagged `page=False`.
    """

    _esm: str
    _css: str
    page_height = 600  # CSS pixels, in the output of a cell

    def html(self) -> str:
        """Write the explorer as one page that works anywhere, with nothing loaded from anywhere."""
        names = set(self.trait_names(sync=True, page=lambda tag: tag is not False))
        names -= set(anywidget.AnyWidget.class_trait_names(sync=True))
        state = {n: getattr(self, n) for n in sorted(names) if not n.startswith("_")}
        return page(self._esm, self._css, state, repr(self))

    def page(self) -> "Page":
        """Show the explorer in a cell as it will be when the notebook is shared or converted."""
        return Page(self.html(), self.page_height)

    def save_html(self, path: str | Path) -> None:
        """Save the explorer as one page.

        Raises:
            OSError: it cannot be written; a file that was there before is still whole.
        """
        with whole_file(Path(path)) as beside:
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

    Bytes in the state are carried as base64. Nothing is loaded from anywhere.
    """
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
        '<div id="widget"></div>',
        f'<script type="application/json" id="state">{data}</script>',
        f'<script type="module">{module}{MODEL}</script>',
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

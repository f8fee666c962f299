"""The package's JavaScript, called from tests: in Chromium, and in Node where there is one."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser

from vit_tutorial.explorer import page as pages

FOLDER = Path(pages.__file__).parent
# Arrays and bytes in what is given become typed arrays; those in what is returned, {type, base64}.
CARRY = """
const TYPES = { Uint8Array, Uint8ClampedArray, Float32Array };
export function revived(value) {
  if (value === null || typeof value !== "object") return value;
  if (!("base64" in value)) {
    const whole = Object.entries(value).map(([name, part]) => [name, revived(part)]);
    return Array.isArray(value) ? whole.map(([, part]) => part) : Object.fromEntries(whole);
  }
  const bytes = Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0));
  return new TYPES[value.type](bytes.buffer);
}
export function carried(value) {
  if (value === null || typeof value !== "object") return value;
  if (ArrayBuffer.isView(value)) {
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    let letters = "";
    for (const byte of bytes) letters += String.fromCharCode(byte);
    return { type: value.constructor.name, base64: btoa(letters) };
  }
  if (Array.isArray(value)) return value.map(carried);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, carried(part)]));
}
"""


def to_json(value: Any) -> Any:
    """What `revived` understands."""
    if isinstance(value, bytes):
        value = np.frombuffer(value, np.uint8)
    if isinstance(value, np.ndarray):
        kind = {"uint8": "Uint8Array", "float32": "Float32Array"}[value.dtype.name]
        return {"type": kind, "base64": base64.b64encode(value.tobytes()).decode()}
    if isinstance(value, dict):
        return {name: to_json(part) for name, part in value.items()}
    return [to_json(part) for part in value] if isinstance(value, list | tuple) else value


def from_json(value: Any) -> Any:
    """From what `carried` makes."""
    if isinstance(value, list):
        return [from_json(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "base64" in value:
        kind = np.float32 if value["type"] == "Float32Array" else np.uint8
        return np.frombuffer(base64.b64decode(value["base64"]), kind)
    return {name: from_json(part) for name, part in value.items()}


def program(folder: Path, modules: list[str], body: str) -> str:
    """Write a module with the async function `answer(data)`, whose `body` sees all names.

    Args:
        folder: an empty one, to put it together.
        modules: files of the explorer; what they import is there, too.
        body: its lines, indented.
    """
    for path in FOLDER.glob("*.js"):
        shutil.copy(path, folder)
    imports = "".join(f'import {{ }} from "./{name}";\n' for name in modules)
    answer = f"export async function answer(data) {{\n{body}\n}}\n"
    (folder / "entry.js").write_text(imports + CARRY + answer, encoding="utf-8")
    return pages.join_modules(folder / "entry.js")


def in_node(code: str, data: Any, folder: Path) -> Any:
    """Return what `answer` returns in Node."""
    (folder / "program.mjs").write_text(
        f"{code}\nimport fs from 'node:fs';\n"
        "const given = revived(JSON.parse(fs.readFileSync(process.argv[2], 'utf8')));\n"
        "console.log(JSON.stringify(carried(await answer(given))));\n",
        encoding="utf-8",
    )
    (folder / "data.json").write_text(json.dumps(to_json(data)), encoding="utf-8")
    command = [str(shutil.which("node")), folder / "program.mjs", folder / "data.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return from_json(json.loads(done.stdout))


def in_chromium(browser: Browser, code: str, data: Any) -> Any:
    """Return what `answer` returns in a page of its own."""
    view = browser.new_page()
    address = f"data:text/javascript;base64,{base64.b64encode(code.encode()).decode()}"
    call = """async ([address, data]) => {
      const { answer, revived, carried } = await import(address);
      return carried(await answer(revived(data))); }"""
    came = view.evaluate(call, [address, to_json(data)])
    view.close()
    return from_json(came)

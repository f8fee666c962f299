"""A browser for tests and benchmarks: JupyterLab as a learner has it, in headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds: only what hangs takes as long, however busy the machine is
LESSON = "00_start_here.ipynb"  # the one that course.py lab opens
ATTENTION, POSITIONS = ".attention-explorer [role=grid]", ".position-explorer [role=application]"
LIVE = ".live-explorer .mv-stage"
PICTURE = "div.jp-OutputArea img[src^=blob]"

# The same course.py lab as a learner's, but with the copies of the lessons in another folder.
LAB = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # or the server would be left running
sys.path.insert(0, {course!r})
import course
course.ROOT = pathlib.Path({folder!r})
course.WORK = course.ROOT / "work"
course.RECORD = course.WORK / ".copies.json"
course.PYTHON = pathlib.Path(sys.executable)
sys.exit(course.lab(0, browser=False))
"""

# From the pointer's arrival, or the key press, until the first frame with the new view is painted.
TIME_ONE = """
([view, patience]) => {
  window.answered = new Promise((done, fail) => {
    setTimeout(() => fail(new Error("the view did not change")), 1000 * patience);
    let start;
    const begin = (event) => (start ??= event.timeStamp);
    for (const kind of ["pointermove", "keydown"]) {
      document.addEventListener(kind, begin, { capture: true, once: true });
    }
    new MutationObserver((_, observer) => {
      observer.disconnect();
      requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
    }).observe(view, { childList: true, subtree: true, characterData: true });
  });
}
"""

# Done when what was asked for before has been drawn.
TWO_FRAMES = "() => new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(d)))"

# What the page sends to the server, and so to the kernel, from now on.
COUNT_MESSAGES = """() => {
  window.messages = 0;
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (...data) { messages += 1; return send.apply(this, data); };
}"""


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def running_lab(folder: Path) -> Generator[str]:
    """Start JupyterLab on fresh copies of the lessons in `folder`, and give its address."""
    code = LAB.format(course=str(ROOT), folder=str(folder))
    # a kernel with a backend from outside would show no figures
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
    ) as lab:
        try:
            for line in lab.stdout or ():
                if address := re.search(r"http://\S+", line):
                    yield address[0]
                    return
            raise RuntimeError("course.py lab ended without printing an address")
        finally:
            lab.terminate()


def address_of(lesson: str, url: str) -> str:
    """Return where the running lab opens another lesson, in a window that shows nothing else."""
    workspace = f"/lab/workspaces/{Path(lesson).stem}/tree"
    return url.replace("/lab/tree", workspace).replace(LESSON, lesson)


@contextlib.contextmanager
def running_chromium() -> Generator[Browser]:
    """Start Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(browser: Browser, url: str, width: int = 1280, height: int = 900) -> Generator[Page]:
    """Open a page that shares nothing with the browser's others."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(url)
    yield page
    page.close()


def run_all_cells(page: Page, notebook: Path) -> list[dict]:
    """Run every cell of the open notebook, and return its code cells as they are saved then."""
    idle = page.get_by_text("| Idle")
    idle.first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("| Busy").first.wait_for()
    until = time.monotonic() + PATIENCE
    while True:  # the kernel is idle between two cells, too
        idle.first.wait_for()
        code = [cell for cell in saved_cells(page, notebook) if cell["cell_type"] == "code"]
        outputs = [output["output_type"] for cell in code for output in cell["outputs"]]
        if all(cell["execution_count"] for cell in code) or "error" in outputs:
            return code
        if time.monotonic() > until:
            raise RuntimeError(f"not all cells ran within {PATIENCE:g} seconds")
        page.wait_for_timeout(1000)


def saved_cells(page: Page, notebook: Path) -> list[dict]:
    """Save the open notebook and return the cells of its file."""
    saved = notebook.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        page.wait_for_timeout(100)
        if notebook.stat().st_mtime_ns != saved:
            with contextlib.suppress(ValueError):  # half written
                return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    raise RuntimeError(f"JupyterLab did not save the notebook within {PATIENCE:g} seconds")


def scroll_to(page: Page, selector: str) -> Locator:
    """Scroll the notebook down until the first of what `selector` finds is there."""
    found = page.locator(selector).first
    page.locator(".jp-WindowedPanel-outer:visible").first.hover()
    for _ in range(200):
        if found.count():
            found.scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            return found
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(50)
        page.evaluate(TWO_FRAMES)
    raise RuntimeError(f"the notebook shows nothing like {selector}")


def press(page: Page, slider: Locator, key: str, view: Locator) -> float:
    """Press a key on a slider; return the ms until the frame with the new view is painted."""
    slider.focus()
    page.wait_for_timeout(500)  # until the last move has settled
    page.evaluate(TIME_ONE, [view.element_handle(), PATIENCE])
    page.keyboard.press(key)
    return page.evaluate("window.answered")


def hover(page: Page, stage: Locator, share: tuple[float, float], view: Locator) -> float:
    """Point at a place of an explorer; return the ms until its new frame is painted."""
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    page.evaluate(TIME_ONE, [view.element_handle(), PATIENCE])
    page.mouse.move(box["x"] + share[0] * box["width"], box["y"] + share[1] * box["height"])
    return page.evaluate("window.answered")

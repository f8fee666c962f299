"""Open lesson 00 as a learner would, in headless Chromium, and time how fast a slider answers.

Run it with `.venv/bin/python benchmarks/lesson_in_browser.py`; it needs Chromium. The browser test
drives the same functions.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from results import ROOT, write_results

LESSON = "00_start_here.ipynb"
MOVES = 15

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
sys.exit(course.lab(None, browser=False))
"""

# From the key press to the first frame with the new picture.
TIME_ONE_MOVE = """
([handle, image, key]) => new Promise((done, fail) => {
  const start = performance.now();
  setTimeout(() => fail(new Error("no new picture within 10 seconds")), 10000);
  image.addEventListener(
    "load", () => requestAnimationFrame(() => done(performance.now() - start)), { once: true });
  handle.focus();
  const press = { key, code: key, keyCode: key === "ArrowLeft" ? 37 : 39, bubbles: true };
  handle.dispatchEvent(new KeyboardEvent("keydown", press));
})
"""


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def running_lab(folder: Path) -> Generator[str]:
    """Start JupyterLab on fresh copies of the lessons in `folder`, and give its address."""
    code = LAB.format(course=str(ROOT), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as lab:
        try:
            for line in lab.stdout or ():
                if address := re.search(r"http://\S+", line):
                    yield address[0]
                    return
            raise RuntimeError("course.py lab ended without printing an address")
        finally:
            lab.terminate()


@contextlib.contextmanager
def open_page(url: str, width: int = 1280, height: int = 900) -> Generator[Page]:
    """Open a page in headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(url)
        yield page
        browser.close()


def run_all_cells(page: Page, notebook: Path, timeout: float = 120) -> list[dict]:
    """Run every cell of the open notebook, save it, and return the cells of the saved file."""
    idle = page.get_by_text("| Idle")
    idle.first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("| Busy").first.wait_for(timeout=20_000)
    idle.first.wait_for(timeout=timeout * 1000)
    saved = notebook.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    for _ in range(100):
        page.wait_for_timeout(100)
        if notebook.stat().st_mtime_ns != saved:
            with contextlib.suppress(ValueError):  # half written
                return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    raise RuntimeError("JupyterLab did not save the notebook within 10 seconds")


def move_slider(page: Page, key: str) -> float:
    """Press an arrow key on the first slider; return the ms until its new picture is on screen."""
    handle = page.locator(".widget-slider .noUi-handle").first
    image = page.locator("img.widget-image").first
    handle.scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # until the last move has settled
    return page.evaluate(TIME_ONE_MOVE, [handle.element_handle(), image.element_handle(), key])


def main() -> None:
    """Run the lesson and time `MOVES` moves of the layer slider, back and forth."""
    with tempfile.TemporaryDirectory() as folder, running_lab(Path(folder)) as url:
        with open_page(url) as page:
            run_all_cells(page, Path(folder) / "work" / LESSON)
            keys = ["ArrowLeft", "ArrowRight"] * (MOVES // 2 + 1)
            times = [move_slider(page, key) for key in keys][1:]  # the first one warms up
    row = {
        "from": "arrow key on the layer slider",
        "to": "new picture on screen",
        "ms_median": round(statistics.median(times)),
        "ms_low": round(min(times)),
        "ms_high": round(max(times)),
        "moves": len(times),
    }
    command = ".venv/bin/python benchmarks/lesson_in_browser.py"
    write_results("lesson_in_browser", command=command, data=None, rows=[row])
    print(f"{row['ms_median']} ms, median of {row['moves']} moves")


if __name__ == "__main__":
    main()

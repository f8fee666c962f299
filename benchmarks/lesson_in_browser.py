"""Open lessons as a learner would, in headless Chromium, and time how fast their views answer.

Run it with `.venv/bin/python benchmarks/lesson_in_browser.py`; it needs Chromium.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from results import ROOT, write_results

sys.path.append(str(ROOT / "tests"))  # which drive the same browser
from browser import (
    ATTENTION,
    LESSON,
    POSITIONS,
    address_of,
    hover,
    open_page,
    press,
    run_all_cells,
    running_chromium,
    running_lab,
    scroll_to,
)

MOVES = 15
POSITIONS_LESSON = "03_positions.ipynb"


def timed(what: str, to: str, times: list[float]) -> dict:
    """Make a row of results."""
    return {
        "from": what,
        "to": to,
        "ms_median": round(statistics.median(times)),
        "ms_low": round(min(times)),
        "ms_high": round(max(times)),
        "moves": len(times),
    }


def main() -> None:
    """Move the pointer over the patches of both explorers, and a slider back and forth."""
    # from patch to patch, all over the grid of 8 x 8
    points = [((i % 8 + 0.5) / 8, (3 * i % 8 + 0.5) / 8) for i in range(MOVES + 1)]
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_lab(Path(folder)) as url,
        running_chromium() as browser,
    ):
        for lesson, selector, caption in (
            (LESSON, ATTENTION, ".ae-words"),
            (POSITIONS_LESSON, POSITIONS, ".pe-words"),
        ):
            with open_page(browser, address_of(lesson, url)) as page:
                run_all_cells(page, Path(folder) / "work" / lesson)
                stage, view = scroll_to(page, selector), page.locator(caption).first
                # the first of each warms up
                times = [hover(page, stage, point, view) for point in points][1:]
                where = f"lesson {lesson[:2]}"
                rows.append(timed(f"pointer on another patch, {where}", "new map on screen", times))
                if lesson == LESSON:
                    slider = page.locator(".attention-explorer input[type=range]").first
                    keys = ["ArrowLeft", "ArrowRight"] * (MOVES // 2 + 1)
                    times = [press(page, slider, key, view) for key in keys][1:]
                    what = f"arrow key on the layer slider, {where}"
                    rows.append(timed(what, "new map on screen", times))
    command = ".venv/bin/python benchmarks/lesson_in_browser.py"
    write_results("lesson_in_browser", command=command, data=None, rows=rows)
    for row in rows:
        print(f"{row['from']}: {row['ms_median']} ms, median of {row['moves']}")


if __name__ == "__main__":
    main()

"""Lesson 00 as a learner meets it: JupyterLab in a real browser, every cell, a slider, the eye."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import lesson_in_browser as lesson

pytestmark = pytest.mark.skipif(
    lesson.find_chromium() is None, reason="needs Chromium: apt-get install chromium"
)


def test_lesson_00_runs_and_its_slider_moves_the_picture(tmp_path):
    with lesson.running_lab(tmp_path) as url, lesson.open_page(url) as page:
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        cells = lesson.run_all_cells(page, tmp_path / "work" / lesson.LESSON)
        code = [cell for cell in cells if cell["cell_type"] == "code" and cell["source"]]
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell["outputs"]]
        assert not [output for output in outputs if output["output_type"] == "error"]
        assert not [output for output in outputs if output.get("name") == "stderr"]

        image = page.locator("img.widget-image").first
        words = page.get_by_text("most on the patch").first
        before = image.get_attribute("src"), words.text_content()
        assert before[1].startswith("Layer 3, head 0:")
        lesson.move_slider(page, "ArrowLeft")
        page.get_by_text("Layer 2, head 0:").wait_for()
        assert image.get_attribute("src") != before[0]
        page.screenshot(path=tmp_path / "lesson_00.png")
        assert not problems

"""Lessons as a learner meets them: JupyterLab in a real browser, all cells, sliders, pointer."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import lesson_in_browser as lesson

pytestmark = pytest.mark.skipif(
    lesson.find_chromium() is None, reason="needs Chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A running JupyterLab, and the folder of the learner's copies."""
    folder = tmp_path_factory.mktemp("lab")
    with lesson.running_lab(folder) as url:
        yield url, folder / "work"


def run_cleanly(page, notebook):
    """Run all cells; none may fail or complain."""
    cells = lesson.run_all_cells(page, notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    figures = [output["data"] for output in outputs if "<Figure" in str(output.get("data"))]
    assert figures
    assert all("image/png" in figure or "image/jpeg" in figure for figure in figures)


@pytest.fixture
def open_lesson(lab):
    """Open a lesson, run it, and see at the end that the page had no error."""
    url, work = lab
    opened = []

    def open_one(name):
        pages = lesson.open_page(lesson.address_of(name, url))
        page, problems = pages.__enter__(), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        opened.append((pages, problems))
        run_cleanly(page, work / name)
        return page

    yield open_one
    for pages, problems in opened:
        pages.__exit__(None, None, None)
        assert not problems


def test_lesson_00_runs_and_its_slider_moves_the_picture(open_lesson, tmp_path):
    page = open_lesson("00_start_here.ipynb")
    picture = lesson.scroll_to(page, lesson.PICTURE)
    words = page.get_by_text("most on the patch").first
    before = picture.get_attribute("src"), words.text_content()
    assert before[1].startswith("Layer 3, head 0:")
    lesson.move_slider(page, "ArrowLeft")
    page.get_by_text("Layer 2, head 0:").wait_for()
    assert page.locator(lesson.PICTURE).first.get_attribute("src") != before[0]
    page.screenshot(path=tmp_path / "lesson_00.png")


def test_lesson_03_runs_and_its_map_follows_pointer_and_keys(open_lesson, tmp_path):
    page = open_lesson("03_positions.ipynb")
    stage = lesson.scroll_to(page, lesson.POSITIONS)
    words = page.locator(".pe-words").first
    said = [words.text_content()]
    lesson.hover(page, (0.05, 0.95))
    said.append(words.text_content())
    assert "row 7, column 0" in said[1].lower()
    stage.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    said.append(words.text_content())
    assert "row 7, column 1" in said[2].lower()
    assert len(set(said)) == 3
    page.screenshot(path=tmp_path / "lesson_03.png")


def test_lesson_04_runs_and_its_temperature_moves_the_bars(open_lesson, tmp_path):
    page = open_lesson("04_attention.ipynb")
    picture = lesson.scroll_to(page, lesson.PICTURE)
    before = picture.get_attribute("src"), picture.get_attribute("alt")
    lesson.move_slider(page, "ArrowRight")
    after = page.locator(lesson.PICTURE).first
    assert after.get_attribute("src") != before[0]
    assert after.get_attribute("alt") != before[1]
    page.screenshot(path=tmp_path / "lesson_04.png")

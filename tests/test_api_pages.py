"""Pages made from the docstrings: every public module has one, and none asks for a network."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """What `course.py docs` makes, by name; any warning ends it."""
    pytest.importorskip("pdoc", reason="needs pdoc")
    spec = importlib.util.spec_from_file_location("course", ROOT / "course.py")
    assert spec is not None
    assert spec.loader is not None
    course = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(course)
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "PYTHON", Path(sys.executable))
        patch.setenv("PYTHONWARNINGS", "error")
        assert course.docs([str(folder)]) == 0
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*.html")
    }


def test_every_public_module_has_a_page(pages):
    modules = [
        path.relative_to(ROOT).with_suffix("") for path in (ROOT / "vit_tutorial").rglob("*.py")
    ]
    expected = {
        (path.parent if path.name == "__init__" else path).as_posix() + ".html"
        for path in modules
        if path.name == "__init__" or path.name[0] != "_"
    }
    assert set(pages) == expected | {"index.html"}


def test_pages_show_the_docstrings_as_they_are_meant(pages):
    page = pages["vit_tutorial/recording.html"]
    assert "record_attention" in page
    assert re.search(r"<h6[^>]*>Raises", page)


def test_pages_load_nothing_from_elsewhere(pages):
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\W?(\w+:[^\s>]+)", page)
        loaded += re.findall(r"<link[^>]+href=\W?(https?:[^\s>]+)", page)
        assert not [address for address in loaded if not address.startswith("data:")], name

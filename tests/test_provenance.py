"""Which commit a result names: that of the code that was loaded, whatever is written later."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vit_tutorial import provenance as module

# The code asks before and after it writes a result of its own.
ASKING = """
from provenance import provenance
before = provenance()["commit"]
open("result.json", "a").write("{}")
print(before, provenance()["commit"])
"""


def asked(folder: Path) -> list[str]:
    """Ask twice in a process of its own, and write a result in between."""
    answer = subprocess.run(
        [sys.executable, "-c", ASKING], cwd=folder, capture_output=True, text=True, check=True
    )
    return answer.stdout.split()


@pytest.fixture
def copy(tmp_path):
    """A folder with the code alone and a result of earlier, under no version control."""
    shutil.copy(module.__file__, tmp_path)
    (tmp_path / "result.json").write_text("{}")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *options, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_program_that_writes_its_results_keeps_the_name_of_its_commit(copy):
    git(copy, "init", "--quiet")
    git(copy, "add", "provenance.py", "result.json")
    git(copy, "commit", "--quiet", "-m", "as it is")
    commit = git(copy, "rev-parse", "--short=12", "HEAD")
    assert asked(copy) == [commit, commit]
    # The next program starts with a file that was changed.
    assert asked(copy) == [f"{commit}-dirty"] * 2


def test_outside_a_repository_there_is_no_commit(copy, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(copy.parent))
    assert asked(copy) == ["none", "none"]

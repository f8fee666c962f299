"""What the tests share: programs end with the test, and what was not tested is said."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import programs

# Starts a program of its own; both wait, and would say so if nobody ended them.
TWO_GENERATIONS = """
import subprocess, sys, time
wait = "import time; time.sleep(60); print('left running')"
child = subprocess.Popen([sys.executable, "-c", wait])
print("both run", flush=True)
child.wait()
"""


def test_programs_end_with_a_test_that_fails():
    outputs = []

    def fails():
        with programs() as start:
            process = start(sys.executable, "-c", TWO_GENERATIONS, stdout=subprocess.PIPE)
            assert process.stdout.readline() == "both run\n"
            outputs.append(os.dup(process.stdout.fileno()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with open(*outputs) as output:
        assert output.read() == ""  # at the end, when nobody can write any more


@pytest.mark.usefixtures("ctrl_c")
def test_programs_hear_ctrl_c_even_if_the_tests_do_not(start):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    process = start(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert process.communicate()[0] == "True\n"
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_without_a_browser_it_is_said_what_was_not_tested_and_how_it_can_be(start, tmp_path):
    here = Path(__file__).parent
    for name in ("conftest.py", "browser.py"):
        shutil.copy(here / name, tmp_path)
    tests = "def test_one(browser): pass\ndef test_two(browser): pass\ndef test_other(): pass\n"
    (tmp_path / "test_pages.py").write_text(tests)
    process = start(
        *(sys.executable, "-m", "pytest", "-q"),
        cwd=tmp_path,
        env={**os.environ, "PATH": "", "PYTHONPATH": str(here.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "there is no browser here" in said
    assert "    2 tests of test_pages.py\n" in said
    assert "sudo apt install chromium" in said

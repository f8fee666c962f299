"""Measure how long `course.py lab` takes, once it is set up, until its address responds.

Run it with `python3 benchmarks/lab_start.py`; it needs no package.
"""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

from results import ROOT, write_results

RUNS = 5


def main() -> None:
    """Time `RUNS` starts, after one that is not counted and sets up what is missing."""
    seconds = [time_start() for _ in range(RUNS + 1)][1:]
    row = {
        "from": "python3 course.py lab --no-browser",
        "to": "the printed address answers",
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_low": round(min(seconds), 2),
        "seconds_high": round(max(seconds), 2),
        "runs": RUNS,
    }
    path = write_results(
        "lab_start", command="python3 benchmarks/lab_start.py", data=None, rows=[row]
    )
    print(f"{row['seconds_median']} s, median of {RUNS} starts: {path.relative_to(ROOT)}")


def time_start() -> float:
    """Start the lab, load the printed address, end the lab; return the seconds until it loaded."""
    command = [sys.executable, "course.py", "lab", "--no-browser", "--port", str(free_port())]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # 127.0.0.1, no proxy
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as lab:
        try:
            for line in lab.stdout or ():
                if address := re.search(r"http://\S+", line):
                    with opener.open(address[0], timeout=60):
                        return time.perf_counter() - began
            raise SystemExit("course.py lab ended without printing an address")
        finally:
            lab.terminate()
            lab.communicate()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()

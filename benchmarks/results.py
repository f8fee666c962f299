"""One form for every measured result: `benchmarks/results/NAME.json`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def write_results(name: str, *, command: str, data: str | None, rows: Sequence[dict]) -> Path:
    """Write what a benchmark measured, with all that is needed to measure it again.

    Args:
        name: names the file, and the benchmark in the README.
        command: the line that repeats the measurement, run from the repository's root.
        data: what the data are called in results; None where there are none.
        rows: one flat dictionary for each line of the table.

    Returns:
        The file written.
    """
    result = {
        "name": name,
        "command": command,
        "hardware": hardware(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "data": data,
        "rows": list(rows),
    }
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
    return path


def hardware() -> str:
    """Return the chips and the number of cores, but not which machine it is."""
    parts = [f"{chip()}, {os.cpu_count()} cores"]
    torch: Any = sys.modules.get("torch")  # a benchmark without torch has not used a GPU
    if torch is not None and torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join(parts)


def chip() -> str:
    """Return the processor's name."""
    if sys.platform == "darwin":
        name = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(name, capture_output=True, text=True, check=True).stdout.strip()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit measured, marked "-dirty" where files differ from it."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    answer = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() or "none"

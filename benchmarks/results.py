"""One form for every measured result: `benchmarks/results/NAME.json`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a benchmark of the set-up runs before any set-up

from vit_tutorial.files import atomic_write  # noqa: E402
from vit_tutorial.provenance import provenance  # noqa: E402


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every benchmark that is measured on images."""
    parser.add_argument("--data", required=True, help="cifar10, digits, or an image folder")
    parser.add_argument("--data-name", help="what results call the data")


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
    result = {"name": name, "command": command, **provenance(), "data": data, "rows": list(rows)}
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Subtract in pairs, seed by seed: the mean difference and its 95% interval (Student's t)."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.mean(gaps)
    if len(gaps) < 2:
        return {"difference": round(middle, 2), "difference_low": None, "difference_high": None}
    from vit_tutorial.intervals import student_interval  # needs what the set-up brings

    low, high = student_interval(gaps)
    return {
        "difference": round(middle, 2),
        "difference_low": round(low, 2),
        "difference_high": round(high, 2),
    }

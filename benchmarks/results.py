"""One form for every measured result: `benchmarks/results/NAME.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a benchmark of the set-up runs before any set-up

from vit_tutorial.files import whole_file  # noqa: E402
from vit_tutorial.provenance import provenance  # noqa: E402


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
    with whole_file(path) as beside:
        beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path

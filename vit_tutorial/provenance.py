"""When, on what and from which commit a number was made; cards and results files carry it."""

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path


def provenance() -> dict[str, str]:
    """Say hardware (chips and cores, never which machine), date and commit.

    The commit is that of the first call, for what a program writes later does not change its code.
    It ends in "-dirty" where files differ from it, and is "none" outside a repository.
    """
    return {
        "hardware": _hardware(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }


def _hardware() -> str:
    torch = sys.modules.get("torch")  # what has not loaded torch has not used a GPU
    gpus = [torch.cuda.get_device_name()] if torch and torch.cuda.is_available() else []
    return ", ".join([*gpus, _processor_name(), f"{os.cpu_count()} cores"])


@cache
def processor() -> str:
    """Tell processors apart that compute differently, also under the same name: with a checksum.

    Two that are called "AMD EPYC" may differ in the instructions that they have.
    """
    facts = platform.processor()  # on Windows with family, model and stepping
    if sys.platform == "linux":
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        telling = ("vendor", "cpu family", "model", "stepping", "flags", "CPU", "Features")
        facts = "\n".join(line for line in first.splitlines() if line.startswith(telling))
    checksum = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return f"{_processor_name()}, {os.cpu_count()} cores, {checksum}"


def _processor_name() -> str:
    """Name the CPU: platform.processor() is empty or vague on Linux and on a Mac."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:  # no git
        return "none"
    return result.stdout.strip() or "none"

"""Time a training step of two processes that share a batch against one process with all of it.

Run it with `.venv/bin/python benchmarks/scaling.py` (two minutes). It starts `torchrun` with two
CPU processes of one thread each. In turns, both do a block of steps (PyTorch's DDP, gloo), or the
first does it alone, with one thread or with two, while the other waits. The time to start is not
counted. A ratio above 1 says that two processes are faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from results import write_results
from train_step import stepper

from vit_tutorial import distributed
from vit_tutorial.model import VisionTransformer
from vit_tutorial.recipes import RECIPES

NETWORKS = {"digits": 64, "laptop": 128, "classroom": 32}  # recipe -> images of a batch
BLOCKS = 5  # of steps, for each way in turn
WAYS = {"1 thread": 1, "2 threads": 2}  # of one process, with which two are compared
ALL_REDUCES = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Start the two processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="a block's length, about")
    options = parser.parse_args(argv)
    if "WORLD_SIZE" not in os.environ:
        return launch(options.seconds)
    with distributed.process_group("cpu"):
        rows = [
            row
            for name, batch_size in NETWORKS.items()
            for row in measure(name, batch_size, options.seconds)
        ]
        if distributed.rank() == 0:
            write_results(
                "scaling_cpu",
                command=f".venv/bin/python benchmarks/scaling.py --seconds {options.seconds:g}",
                data=None,
                rows=rows,
            )
    return 0


def launch(seconds: float) -> int:
    """Run this script in two processes of one thread each; return their exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", __file__, "--seconds", f"{seconds:g}"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        settings["GLOO_SOCKET_IFNAME"] = "lo"  # nothing leaves this machine
    return subprocess.run(command, env=settings, check=False).returncode


def measure(name: str, batch_size: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each way that two processes are compared with; in both processes."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    images = torch.randn(batch_size, recipe.model.in_chans, *recipe.model.image_hw)
    labels = torch.randint(recipe.model.num_classes, (batch_size,))
    share = slice(distributed.rank(), None, distributed.world_size())
    together = stepper(
        distributed.data_parallel(VisionTransformer(recipe.model)), images[share], labels[share]
    )
    alone = stepper(VisionTransformer(recipe.model), images, labels)
    numbers = sum(p.numel() for p in VisionTransformer(recipe.model).parameters())
    ways: dict[str, tuple[Callable[[], None], int, bool]] = {"two": (together, 1, True)}
    ways |= {way: (alone, threads, False) for way, threads in WAYS.items()}
    steps = distributed.broadcast(max(2, round(seconds / _time(*ways["two"], steps=3))))
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways:  # warms up
        _time(*ways[way], steps=2)
    for block in range(BLOCKS):
        for way in list(ways)[:: 1 if block % 2 == 0 else -1]:
            times[way].append(_time(*ways[way], steps=steps))
    send = statistics.median(_all_reduce_seconds(numbers) for _ in range(ALL_REDUCES))
    rows = [
        {
            "what": f"{name}, {way}",
            "network": name,
            "against": f"one process, {way}",
            **compared(times["two"], times[way], batch_size),
            "all_reduce_ms": round(1e3 * send, 2),
            "gradient_mb": round(4 * numbers / 1e6, 2),
            "parameters": numbers,
            "batch_size": batch_size,
        }
        for way in WAYS
    ]
    if distributed.rank() == 0:
        for row in rows:
            low, high = row["ratio_low"], row["ratio_high"]
            print(f"{name}: two / {row['against']}: ×{row['ratio_median']} ({low}-{high})")
    return rows


def compared(two: Sequence[float], one: Sequence[float], batch_size: int) -> dict[str, float]:
    """Compare seconds per step, block by block: how many times as fast two processes are."""
    ratios = [slow / fast for fast, slow in zip(two, one, strict=True)]
    mine, theirs = statistics.median(two), statistics.median(one)
    return {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "images_per_second": round(batch_size / mine),
        "images_per_second_against": round(batch_size / theirs),
        "step_ms": round(1e3 * mine, 2),
        "step_ms_against": round(1e3 * theirs, 2),
    }


def _time(step: Callable[[], None], threads: int, both: bool, steps: int) -> float:
    """Return seconds per step; where only the first process works, the others wait for it."""
    dist.barrier()
    began = time.perf_counter()
    if both or distributed.rank() == 0:
        torch.set_num_threads(threads)
        for _ in range(steps):
            step()
        torch.set_num_threads(1)
    dist.barrier()
    return (time.perf_counter() - began) / steps


def _all_reduce_seconds(numbers: int) -> float:
    row = torch.ones(numbers)
    dist.barrier()
    began = time.perf_counter()
    dist.all_reduce(row)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

"""Measure what a larger image costs a trained ViT: accuracy and time, positions resampled.

Run it with `.venv/bin/python benchmarks/input_size.py --data cifar10` (or an image folder with a
subfolder `test`).
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from results import add_data_options, write_results

from vit_tutorial.data import load
from vit_tutorial.evaluation import evaluate
from vit_tutorial.images import normalize
from vit_tutorial.weights import load_checkpoint

SIZES = (32, 40, 48, 64)
REPEATS = 9


def main() -> None:
    """Measure every size on the whole test set, and time them in turn on the same batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    arguments = parser.parse_args()
    vit, card = load_checkpoint("cifar10")
    test = load(arguments.data, "test", img_size=32).relabelled(card.classes)
    test = replace(test, name=arguments.data_name or test.name)

    models = {size: vit.resized(size) for size in SIZES}
    batches = {
        size: normalize(test[:100].resized(size).images, card.mean, card.std) for size in SIZES
    }
    ratios: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(REPEATS + 1):
        seconds = {size: time_forward(models[size], batches[size]) for size in SIZES}
        for size in SIZES:
            ratios[size].append(seconds[size] / seconds[SIZES[0]])

    rows = []
    for size in SIZES:
        result = evaluate(models[size], test.resized(size), card.mean, card.std)
        timed = ratios[size][1:]  # the first round warms up
        rows.append(
            {
                "img_size": size,
                "tokens": models[size].config.num_tokens,
                "test_accuracy": round(result.accuracy, 2),
                "n": result.n,
                "time_ratio_median": round(statistics.median(timed), 2),
                "time_ratio_low": round(min(timed), 2),
                "time_ratio_high": round(max(timed), 2),
            }
        )
        print(rows[-1], flush=True)
    shown = ["--data", Path(arguments.data).name]
    shown += ["--data-name", arguments.data_name] if arguments.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/input_size.py", *shown])
    write_results("input_size", command=command, data=test.name, rows=rows)


@torch.inference_mode()
def time_forward(model: torch.nn.Module, images: torch.Tensor) -> float:
    """Seconds for one forward pass."""
    began = time.perf_counter()
    model(images)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

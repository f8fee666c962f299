"""Time and memory of recorded attention, from pixels to the map, on random weights.

Run it with `.venv/bin/python benchmarks/recording.py`. Time is the processor's, of one thread, at
the size of ViT-B/16: all ways take turns, beside a plain forward pass of the same turn. What is
found once for a network and a size of images (where its tokens look) has been found before, and is
a row of its own. Memory is the largest that a fresh process had, with ViT-L/14 at 518 pixels (1,370
tokens), what is found once included. Peers take part where they are installed: fast-vit-rollout,
torchxai-explain; "forward hooks" is rollout as tutorials write it, which reads weights that the
network writes out.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from results import write_results
from rollout import popular_rollout

from vit_tutorial import AttentionExplorer, Reading, record_attention, rollout
from vit_tutorial.attention import heat_map
from vit_tutorial.methods import METHODS, RELEVANCE_METHODS
from vit_tutorial.probing import places_of

TURNS = {1: 9, 8: 3}  # by batch
SETTINGS = (("mean", 0.0), ("max", 0.0), ("min", 0.0), ("mean", 0.9))


def written_out(model: Any) -> Any:
    """Copy a network, with weights that hooks can see."""
    model = copy.deepcopy(model)
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def by_hooks(model: Any) -> Callable[[torch.Tensor, str, float], object]:
    """Return rollout by forward hooks, image by image."""
    seen: list[torch.Tensor] = []
    model = written_out(model)
    for block in model.blocks:
        block.attn.attn_drop.register_forward_hook(lambda part, inputs, out: seen.append(inputs[0]))

    def run(images: torch.Tensor, fusion: str, discard: float) -> object:
        seen.clear()
        with torch.no_grad():
            model(images)
        alone = ([layer[n : n + 1] for layer in seen] for n in range(len(images)))
        return [popular_rollout(layers, fusion, discard) for layers in alone]

    return run


def peers(model: Any) -> dict[str, Callable[[torch.Tensor, str, float], object]]:
    """Return those that are installed."""
    found = {"forward hooks": by_hooks(model)}
    try:
        from fast_vit_rollout import ViTAttentionRollout  # ty: ignore[import-not-found]

        fast = ViTAttentionRollout(written_out(model))

        def run_fast(images: torch.Tensor, fusion: str, discard: float) -> object:
            fast.head_fusion, fast.discard_ratio, fast.attentions = fusion, discard, []
            with torch.no_grad():
                fast.model(images)
            return fast._compute_rollout()

        found["fast-vit-rollout"] = run_fast
    except ImportError as error:
        print(f"left out: {error}")
    try:
        from torchxai.methods.attention_rollout import (  # ty: ignore[import-not-found]
            AttentionRollout,
        )

        theirs = AttentionRollout(copy.deepcopy(model))

        def run_theirs(images: torch.Tensor, fusion: str, discard: float) -> object:
            theirs.head_fusion, theirs.discard_ratio = fusion, discard
            return theirs._compute_cam(images, None)

        found["torchxai"] = run_theirs
    except ImportError as error:
        print(f"left out: {error}")
    return found


def seconds(work: Callable[[], object]) -> float:
    """Return the processor's seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def times(batch: int) -> list[dict]:
    """Time all ways in turns, each against the plain pass of its turn."""
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224").eval()
    images = torch.randn(batch, 3, 224, 224)

    def plain() -> object:
        with torch.no_grad():
            return model(images)

    def ours(fusion: str, discard: float, keep: str | None) -> object:
        record = record_attention(model, images, head_fusion=keep)
        return rollout(record, head_fusion=fusion, discard_ratio=discard)

    ways: dict[str, Callable[[], object]] = {"a plain forward pass": plain}
    for fusion, discard in SETTINGS:
        name = f"record + rollout ({fusion}, discard {discard:g})"
        ways[name] = lambda fusion=fusion, discard=discard: ours(fusion, discard, fusion)
    ways["the same with every head recorded (mean, 0)"] = lambda: ours("mean", 0.0, None)
    for name, run in peers(model).items():
        for fusion, discard in SETTINGS[:: len(SETTINGS) - 1]:
            label = f"{name} ({fusion}, discard {discard:g})"
            ways[label] = lambda run=run, fusion=fusion, discard=discard: run(
                images, fusion, discard
            )
    once = seconds(lambda: places_of(model, images, 197))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS[batch] + 1):
        for name, work in ways.items():
            spent = seconds(work)
            if turn:
                taken[name].append(spent)
    base = taken["a plain forward pass"]
    taken["where tokens look, found once"] = [once] * len(base)
    return [time_row(name, batch, each, base) for name, each in taken.items()]


def time_row(what: str, batch: int, taken: list[float], base: list[float]) -> dict:
    """Compare turn by turn with the plain pass: how many times its time."""
    ratios = [ours / plain for ours, plain in zip(taken, base, strict=True)]
    return {
        "table": "time",
        "what": what,
        "batch": batch,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "ms": round(1000 * statistics.median(taken), 1),
    }


def memory_rows() -> list[str]:
    """List what is measured in fresh processes."""
    rows = ["plain forward pass", "record (every head)"]
    rows += [f"record + rollout ({fusion}, discard {discard:g})" for fusion, discard in SETTINGS]
    return [*rows, *(METHODS[m] for m in RELEVANCE_METHODS), "explorer", "explorer's page"]


def measure(row: str) -> None:
    """Do what a row says once, and print the largest memory (GiB) and the page's size (MB)."""
    model = timm.create_model("vit_large_patch14_dinov2", img_size=518, num_classes=10).eval()
    images, page_mb = torch.randn(1, 3, 518, 518), 0.0
    if row == "plain forward pass":
        with torch.no_grad():
            model(images)
    elif row == "record (every head)":
        record_attention(model, images)
    elif row.startswith("record + rollout"):
        fusion, discard = SETTINGS[memory_rows().index(row) - 2]
        record = record_attention(model, images, head_fusion=fusion)
        rollout(record, head_fusion=fusion, discard_ratio=discard)
    elif row.startswith("explorer"):
        reading = Reading(518, (0.5,) * 3, (0.5,) * 3, tuple("abcdefghij"))
        explorer = AttentionExplorer(model, np.random.default_rng(0).random((518, 518, 3)), reading)
        if row.endswith("page"):
            with tempfile.TemporaryDirectory() as folder:
                explorer.save_html(Path(folder) / "page.html")
                page_mb = (Path(folder) / "page.html").stat().st_size / 1e6
    else:
        method = next(name for name, label in METHODS.items() if label == row)
        heat_map(record_attention(model, images, gradients_of=3), method)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, page_mb)


def memory() -> list[dict]:
    """Measure each row in a process of its own."""
    rows = []
    for what in memory_rows():
        command = [sys.executable, __file__, "--row", what]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peak, page = map(float, output.split()[-2:])
        size = {"gib": round(peak, 2), "page_mb": round(page, 1) if page else None}
        rows.append({"table": "memory", "what": what, **size})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure all, or one row of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", help="measure one row of memory in this process, and print it")
    asked = parser.parse_args().row
    torch.set_num_threads(1)
    if asked:
        measure(asked)
        return
    large = memory()  # first: a process counts what the one that started it had as its own
    rows = times(1) + times(8)
    for row in rows:
        print(row, flush=True)
    command = ".venv/bin/python benchmarks/recording.py"
    write_results("recording", command=command, data=None, rows=rows + large)


if __name__ == "__main__":
    main()

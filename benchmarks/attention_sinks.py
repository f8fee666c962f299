"""Look for attention that says little: heads that look at corners, or always at few patches.

Run it with `.venv/bin/python benchmarks/attention_sinks.py --data cifar10` (or an image folder with
the subfolders `train` and `test`, and `--data-name`); `--checkpoint` measures networks other than
those that come with the course. What counts is where the CLS token looks; without one, the mean of
the patches. Uniform attention would give the four corners of an 8x8 grid a share of 6.25%.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accuracy import run_command
from results import add_data_options, write_results
from torch import Tensor, nn

from vit_tutorial.data import ImageSet, load_train_test
from vit_tutorial.images import normalize
from vit_tutorial.pretrained import load_network
from vit_tutorial.recording import record_attention

NETWORKS = ("cifar10", "cifar10_mae")
BATCH = 250  # images that are recorded together
SINK = 0.25  # of a head's attention in the four corners: four times a uniform head's share
FEW = 3.0  # patches: a head that looks at fewer shows a dot, whatever the image


def heads(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Measure where each head looks, among the patches: two tensors (L, h), means over the images.

    Returns:
        The share of the four corners, and the number of patches that share the attention: the
        exponential of the mean entropy, 1 for a single patch and N for a uniform head.
    """
    corner, entropy = [], []
    for batch in images.split(BATCH):
        record = record_attention(model, batch)
        rows, columns = record.grid
        prefix = record.num_prefix
        corners = [0, columns - 1, (rows - 1) * columns, rows * columns - 1]
        weights = torch.stack([*record.weights])  # (L, B, h, T, T)
        queries = weights[:, :, :, :1] if prefix else weights
        patches = queries[..., prefix:].mean(dim=3)  # (L, B, h, N)
        patches = patches / patches.sum(dim=-1, keepdim=True)
        corner.append(patches[..., corners].sum(dim=-1).mean(dim=1))
        entropy.append(torch.special.entr(patches).sum(dim=-1).mean(dim=1))
    return torch.stack(corner).mean(dim=0), torch.stack(entropy).mean(dim=0).exp()


def row_of(name: str, model: Any, test: ImageSet, mean: Any, std: Any) -> dict[str, Any]:
    """Measure one network; return a row of results."""
    pixels = normalize(test.images, *map(torch.tensor, (mean, std)))
    corner, patches = heads(model.eval(), pixels)
    return {
        "network": name,
        "asked": "CLS" if getattr(model, "cls_token", None) is not None else "mean of the patches",
        "images": len(test),
        "heads": corner.numel(),
        "heads_in_corners": int((corner > SINK).sum()),
        "heads_on_few_patches": int((patches < FEW).sum()),
        "corner_share_mean": round(100 * corner.mean().item(), 2),
        "corner_share_uniform": round(400 / math.prod(model.config.grid), 2),
        "patches_mean": round(patches.mean().item(), 1),
        "corner_share_each": (100 * corner).round(decimals=1).tolist(),
        "patches_each": patches.round(decimals=1).tolist(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the networks and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--images", type=int, default=2000, help="of the test set (default: 2000)")
    parser.add_argument("--checkpoint", nargs="+", default=NETWORKS, help="names or files")
    parser.add_argument("--name", default="attention_sinks", help="of the results file")
    return run_command(_ask, parser.parse_args(argv))


def _ask(options: argparse.Namespace) -> None:
    if options.images < BATCH or options.images % BATCH:
        raise ValueError(f"--images must be a multiple of {BATCH}, got {options.images}")
    _, test = load_train_test(options.data, img_size=32)
    test = replace(test[: options.images], name=options.data_name or test.name)
    rows = []
    for name in options.checkpoint:
        model, card = load_network(name)
        rows.append(row_of(Path(name).stem, model, test, card.mean, card.std))
        print(rows[-1], flush=True)
    arguments = ["--data", Path(options.data).name, "--images", str(options.images)]
    arguments += ["--data-name", options.data_name] if options.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/attention_sinks.py", *arguments])
    write_results(options.name, command=command, data=test.name, rows=rows)


if __name__ == "__main__":
    sys.exit(main())

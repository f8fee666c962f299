"""Look for attention that says little: at corners, or always at few patches; and leave corners out.

Run it with `.venv/bin/python benchmarks/attention_sinks.py --data cifar10` (or an image folder with
the subfolders `train` and `test`, and `--data-name`); `--checkpoint` measures networks other than
those that come with the course. What counts is where the CLS token looks; without one, the mean of
the patches. Uniform attention would give the four corners of an 8x8 grid a share of 6.25%.

Then tokens are left out (nothing stands in their place): the four corners, four random ones, and
four random ones of the border that are no corners, for there is little of the subject there either.
A network that names no classes is not asked that.
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
from vit_tutorial.intervals import accuracy_change, wilson_interval
from vit_tutorial.mae import MaskedAutoencoder
from vit_tutorial.recording import record_attention
from vit_tutorial.weights import load_checkpoint

NETWORKS = ("cifar10", "cifar10_mae")
BATCH = 250  # images that are recorded together
SINK = 0.25  # of a head's attention in the four corners: four times a uniform head's share
FEW = 3.0  # patches: a head that looks at fewer shows a dot, whatever the image
CORNERS, RANDOM = "the four corners", "four random patches"  # what is left out, in the results
BORDER, INTACT = "four random patches of the border", "nothing"


def places(grid: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Number the patches of the corners, and those of the border, corners included."""
    rows, columns = grid
    border = [
        r * columns + c
        for r in range(rows)
        for c in range(columns)
        if r in (0, rows - 1) or c in (0, columns - 1)
    ]
    return [0, columns - 1, (rows - 1) * columns, rows * columns - 1], border


def heads(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Measure where each head looks, among the patches: two tensors (L, h), means over the images.

    Returns:
        The share of the four corners, and the number of patches that share the attention: the
        exponential of the mean entropy, 1 for a single patch and N for a uniform head.
    """
    corner, entropy = [], []
    for batch in images.split(BATCH):
        record = record_attention(model, batch)
        prefix = record.num_prefix
        corners, _ = places(record.grid)
        weights = torch.stack([*record.weights])  # (L, B, h, T, T)
        queries = weights[:, :, :, :1] if prefix else weights
        patches = queries[..., prefix:].mean(dim=3)  # (L, B, h, N)
        patches = patches / patches.sum(dim=-1, keepdim=True)
        corner.append(patches[..., corners].sum(dim=-1).mean(dim=1))
        entropy.append(torch.special.entr(patches).sum(dim=-1).mean(dim=1))
    return torch.stack(corner).mean(dim=0), torch.stack(entropy).mean(dim=0).exp()


def favourites(model: nn.Module, images: Tensor) -> Tensor:
    """Number the patch that gets most of the last layer's attention, heads averaged: (n,)."""
    found = []
    for batch in images.split(BATCH):
        record = record_attention(model, batch)
        prefix = record.num_prefix
        weights = record.weights[-1].mean(dim=1)  # (B, T, T)
        queries = weights[:, :1] if prefix else weights
        found.append(queries[..., prefix:].mean(dim=1).argmax(dim=1))
    return torch.cat(found)


def stays(grid: tuple[int, int], count: int, seed: int = 0) -> dict[str, Tensor]:
    """Number the patches that stay in each of `count` images, (n, N - 4), by what is left out."""
    corners, border = places(grid)
    generator = torch.Generator().manual_seed(seed)

    def drawn(candidates: list[int]) -> Tensor:
        order = torch.rand(count, len(candidates), generator=generator).argsort(dim=1)
        return torch.tensor(candidates)[order[:, :4]]

    left_out = {
        CORNERS: torch.tensor(corners).expand(count, -1),
        RANDOM: drawn(list(range(math.prod(grid)))),
        BORDER: drawn([patch for patch in border if patch not in corners]),
    }
    everything = torch.ones(count, math.prod(grid), dtype=torch.bool)
    return {
        name: everything.scatter(1, lost, False).nonzero()[:, 1].view(count, -1)
        for name, lost in left_out.items()
    }


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor, visible: Tensor | None = None) -> Tensor:
    """Return what the network gives each class, (n, K), from the patches in `visible` (n, V)."""
    batches = images.split(BATCH)
    patches = [None] * len(batches) if visible is None else visible.split(BATCH)
    return torch.cat([model(*pair).softmax(dim=1) for pair in zip(batches, patches, strict=True)])


def rows_without(name: str, model: Any, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Leave tokens out; return a row of results for each way, and for the intact network.

    `change` is the accuracy less that of the intact network, `difference` less that without four
    random patches; `true_class_difference` is the latter for the probability of the true class. All
    are in points, image by image. `rises` counts the images where that probability rises, percent.
    """
    visible = {INTACT: None, **stays(model.config.grid, len(images))}
    said = {what: probabilities(model, images, some) for what, some in visible.items()}
    correct = {what: p.argmax(dim=1) == labels for what, p in said.items()}
    true = {what: p.gather(1, labels[:, None])[:, 0].double() for what, p in said.items()}
    rows = []
    for what in visible:
        gaps = 100 * (true[what] - true[RANDOM])
        gap, margin = gaps.mean().item(), 1.96 * gaps.std().item() / len(gaps) ** 0.5
        row = {
            "table": "dropped",
            "network": name,
            "left_out": what,
            "images": len(images),
            "accuracy": round(100 * correct[what].double().mean().item(), 2),
            "true_class": round(100 * true[what].mean().item(), 2),
        }
        if what != INTACT:
            row |= interval_fields("change", *accuracy_change(correct[INTACT], correct[what]))
            row["rises"] = round(100 * (true[what] > true[INTACT]).double().mean().item(), 1)
        if what != RANDOM:
            row |= interval_fields("difference", *accuracy_change(correct[RANDOM], correct[what]))
            row |= interval_fields("true_class_difference", gap, gap - margin, gap + margin)
        rows.append(row)
    return rows


def interval_fields(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """Name a number and its interval in a row."""
    return {name: round(value, 2), f"{name}_low": round(low, 2), f"{name}_high": round(high, 2)}


def rows_of(name: str, model: Any, test: ImageSet, mean: Any, std: Any) -> list[dict[str, Any]]:
    """Measure one network; return its rows of results."""
    names_classes = not isinstance(model, MaskedAutoencoder)
    model = model.eval() if names_classes else model.encoder.eval()
    pixels = normalize(test.images, *map(torch.tensor, (mean, std)))
    corner, patches = heads(model, pixels)
    corners, border = places(model.config.grid)
    favourite = favourites(model, pixels)
    in_corner = int(torch.isin(favourite, torch.tensor(corners)).sum())
    on_border = int(torch.isin(favourite, torch.tensor(border)).sum())
    count = math.prod(model.config.grid)
    looks = {
        "table": "looks",
        "network": name,
        "asked": "CLS" if getattr(model, "cls_token", None) is not None else "mean of the patches",
        "images": len(test),
        "heads": corner.numel(),
        "heads_in_corners": int((corner > SINK).sum()),
        "heads_on_few_patches": int((patches < FEW).sum()),
        "corner_share_mean": round(100 * corner.mean().item(), 2),
        "corner_share_uniform": round(400 / count, 2),
        "favourite_in_corner": round(100 * in_corner / len(test), 2),
        "favourite_in_corner_low": round(wilson_interval(in_corner, len(test))[0], 2),
        "favourite_in_corner_high": round(wilson_interval(in_corner, len(test))[1], 2),
        "favourite_on_border": round(100 * on_border / len(test), 2),
        "favourite_on_border_low": round(wilson_interval(on_border, len(test))[0], 2),
        "favourite_on_border_high": round(wilson_interval(on_border, len(test))[1], 2),
        "border_share_uniform": round(100 * len(border) / count, 2),
        "patches_mean": round(patches.mean().item(), 1),
        "corner_share_each": (100 * corner.double()).round(decimals=1).tolist(),
        "patches_each": patches.double().round(decimals=1).tolist(),
    }
    return [looks, *(rows_without(name, model, pixels, test.labels) if names_classes else [])]


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
        model, card = load_checkpoint(name, nn.Module)
        measured = rows_of(Path(name).stem, model, test, card.mean, card.std)
        print(*measured, sep="\n", flush=True)
        rows += measured
    arguments = ["--data", Path(options.data).name, "--images", str(options.images)]
    arguments += ["--data-name", options.data_name] if options.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/attention_sinks.py", *arguments])
    write_results(options.name, command=command, data=test.name, rows=rows)


if __name__ == "__main__":
    sys.exit(main())

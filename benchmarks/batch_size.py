"""What the rules for the learning rate are worth: larger batches at equal epochs, on the digits.

Run it with `.venv/bin/python benchmarks/batch_size.py` (five minutes). The small network of lesson
07 is trained on 1024 digits for eight epochs: with plain gradient descent, with SGD (momentum 0.9,
gradients clipped to 1) and with AdamW (clipped, too), in batches of 32, 128 and 512, with the
learning rate of batches of 32 kept, scaled by the root of the ratio, or by the ratio itself, each
without warm-up, and with one over a fifth and over half of the steps, then a cosine to 0. All start
from the same seeds, so what warm-up changes is taken seed by seed. For SGD and AdamW the rates for
batches of 32 are the best ones, chosen with --choose on the training images that are left over; for
plain descent it is a sixteenth of the best one, so that the linear rule ends at a rate that is
known to work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from results import write_results
from torch import nn

from vit_tutorial.data import ImageSet, channel_stats, digits
from vit_tutorial.images import normalize
from vit_tutorial.intervals import student_interval
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.optimizers import lr_factor, parameter_groups

NETWORK = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean"
)
IMAGES, EPOCHS, BASE = 1024, 8, 32
BATCHES = (32, 128, 512)
RULES = {"kept": 0.0, "root": 0.5, "linear": 1.0}  # the power of (batch / base)
RATES = {"plain descent": 0.1, "SGD": 0.4, "AdamW": 2e-3}  # for batches of 32, see `choose`
TRIED = {
    "plain descent": (0.2, 0.4, 0.8, 1.6, 3.2),
    "SGD": (0.05, 0.1, 0.2, 0.4, 0.8),
    "AdamW": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
}
WARMUPS = {"cold": 0.0, "warm": 0.2, "long": 0.5}  # share of all steps


def trained(
    optimizer_name: str, batch: int, rate: float, warmup: float, seed: int, data: ImageSet
) -> nn.Module:
    """Train one network, and return it."""
    torch.manual_seed(seed)
    model = VisionTransformer(NETWORK)
    groups = parameter_groups(model, 0.05 if optimizer_name == "AdamW" else 0.0)
    plain = optimizer_name == "plain descent"
    if optimizer_name == "AdamW":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.0 if plain else 0.9)
    mean, std = channel_stats(data.images)
    pixels, labels = normalize(data.images, mean, std), data.labels
    total = EPOCHS * (len(data) // batch)
    for step in range(total):
        if step * batch % len(data) == 0:
            order = torch.randperm(len(data))
        chosen = order[step * batch % len(data) :][:batch]
        loss = F.cross_entropy(model(pixels[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        if not plain:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * lr_factor(step, total, warmup)
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def loss_on(model: nn.Module, data: ImageSet, train: ImageSet) -> float:
    """Return the mean loss on `data`, normalised as `train` is."""
    pixels = normalize(data.images, *channel_stats(train.images))
    return F.cross_entropy(model(pixels), data.labels).item()


@torch.inference_mode()
def accuracy_on(model: nn.Module, data: ImageSet, train: ImageSet) -> float:
    """Return the accuracy on `data` in percent."""
    pixels = normalize(data.images, *channel_stats(train.images))
    return 100 * (model(pixels).argmax(dim=1) == data.labels).float().mean().item()


def choose() -> dict[str, float]:
    """Return the rates for batches of `BASE` whose loss on the images left over is lowest."""
    data = digits("train")
    train, rest = data[:IMAGES], data[IMAGES:]
    best = {}
    for optimizer, rates in TRIED.items():
        losses = {}
        for rate in rates:
            models = [trained(optimizer, BASE, rate, WARMUPS["warm"], s, train) for s in (0, 1)]
            losses[rate] = statistics.mean(loss_on(model, rest, train) for model in models)
            print(f"{optimizer}, {rate:g}: {losses[rate]:.4f}", flush=True)
        best[optimizer] = min(losses, key=losses.__getitem__)
    return best


def measure(seeds: int) -> list[dict]:
    """Return a row for each optimizer, batch and rule."""
    train, test = digits("train")[:IMAGES], digits("test")
    rows = []
    for optimizer, base_rate in RATES.items():
        for batch in BATCHES:
            for rule, power in RULES.items():
                if batch == BASE and rule != "kept":
                    continue
                rate = base_rate * (batch / BASE) ** power
                row = {
                    "what": f"{optimizer}, {batch}, {rule}",
                    "optimizer": optimizer,
                    "batch_size": batch,
                    "rule": "–" if batch == BASE else rule,
                    "lr": rate,
                    "steps": EPOCHS * (IMAGES // batch),
                    "seeds": list(range(seeds)),
                    "epochs": EPOCHS,
                }
                losses = {}
                for name, warmup in WARMUPS.items():
                    models = [
                        trained(optimizer, batch, rate, warmup, seed, train)
                        for seed in range(seeds)
                    ]
                    numbers = {
                        "loss": [loss_on(model, test, train) for model in models],
                        "accuracy": [accuracy_on(model, test, train) for model in models],
                    }
                    losses[name] = numbers["loss"]
                    for what, values in numbers.items():
                        low, high = student_interval(values)
                        row |= {
                            f"{what}_{name}": round(statistics.mean(values), 4),
                            f"{what}_{name}_low": round(low, 4),
                            f"{what}_{name}_high": round(high, 4),
                        }
                changes = [b - a for a, b in zip(losses["cold"], losses["warm"], strict=True)]
                low, high = student_interval(changes)
                row |= {
                    "change_warm": round(statistics.mean(changes), 4),
                    "change_warm_low": round(low, 4),
                    "change_warm_high": round(high, 4),
                }
                print(row["what"], row["loss_cold"], row["loss_warm"], flush=True)
                rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Train all of them, and write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="2 or more")
    parser.add_argument("--choose", action="store_true", help="only choose the rates, and say them")
    options = parser.parse_args(argv)
    if options.seeds < 2:
        print(f"--seeds must be 2 or more, got {options.seeds}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # so small a network runs fastest on one core
    if options.choose:
        print(choose())
        return 0
    write_results(
        "batch_size_digits",
        command=f".venv/bin/python benchmarks/batch_size.py --seeds {options.seeds}",
        data=f"scikit-learn digits, {IMAGES} of the training images",
        rows=measure(options.seeds),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

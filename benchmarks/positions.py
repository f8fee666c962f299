"""Train one network with each kind of positions and measure what the kind is worth.

Run it with `.venv/bin/python benchmarks/positions.py digits --seeds 5`; for photographs,
`.venv/bin/python benchmarks/positions.py cifar10 --epochs 5` (or an image folder with the
subfolders `train` and `test`, and `--data-name`).
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from results import write_results

from vit_tutorial.data import load_train_test
from vit_tutorial.model import VisionTransformer
from vit_tutorial.recipes import RECIPES
from vit_tutorial.train import fit

KINDS = ("none", "learned", "sincos", "rope")


def main() -> None:
    """Train every kind with the same seeds, recipe and data; keep the last epoch's accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="digits, cifar10, or an image folder")
    parser.add_argument("--data-name", help="what results call the data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's own number")
    arguments = parser.parse_args()
    name = "digits" if arguments.data == "digits" else "laptop"
    recipe = RECIPES[name]
    train, test = load_train_test(arguments.data, img_size=recipe.model.img_size)
    config = replace(recipe.train, epochs=arguments.epochs or recipe.train.epochs)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for seed in range(arguments.seeds):
        for kind in KINDS:
            torch.manual_seed(seed)
            model = VisionTransformer(replace(recipe.model, pos_embed=kind)).to(device)
            last = fit(model, train, test, replace(config, seed=seed))[-1]
            runs[kind].append(last)
            print(f"seed {seed}, {kind}: {last['test_accuracy']:.2f}%", flush=True)

    rows = []
    for kind, lasts in runs.items():
        accuracies = [last["test_accuracy"] for last in lasts]
        rows.append(
            {
                "recipe": name,
                "pos_embed": kind,
                "test_accuracy_mean": round(statistics.mean(accuracies), 2),
                "test_accuracy_std": round(statistics.stdev(accuracies), 2)
                if len(accuracies) > 1
                else None,
                "seeds": list(range(arguments.seeds)),
                "epochs": config.epochs,
                "seconds": round(statistics.mean(last["seconds"] for last in lasts), 1),
            }
        )
    shown = [Path(arguments.data).name, "--seeds", str(arguments.seeds)]
    shown += ["--epochs", str(arguments.epochs)] if arguments.epochs else []
    shown += ["--data-name", arguments.data_name] if arguments.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/positions.py", *shown])
    result = "positions_digits" if name == "digits" else "positions_cifar10"
    write_results(result, command=command, data=arguments.data_name or train.name, rows=rows)


if __name__ == "__main__":
    sys.exit(main())

"""Score every way to explain a network's prediction, with a random map as the floor.

Run it with `.venv/bin/python benchmarks/faithfulness.py --data cifar10` (or an image folder with
the subfolders `train` and `test`, and `--data-name`). It takes test images that the bundled network
classifies correctly, removes patches in the order of each map, and plays the pointing game on
collages.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from results import add_data_options, write_results
from tqdm import tqdm

from vit_tutorial.data import load_train_test
from vit_tutorial.faithfulness import METHODS, METRICS, faithfulness_table
from vit_tutorial.images import normalize
from vit_tutorial.weights import load_checkpoint


def main() -> int:
    """Score all methods with both baselines, and write one row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, card = load_checkpoint("cifar10")
    size = card.config.image_hw
    _, test = load_train_test(options.data, img_size=size)
    started = time.perf_counter()
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(options.seed))
    chosen, pixels, count = [], [], 0
    for batch in order.split(500):  # until enough are classified correctly
        images = normalize(test.images[batch], card.mean, card.std)
        with torch.no_grad():
            correct = model(images).argmax(dim=1) == test.labels[batch]
        chosen.append(test.labels[batch][correct])
        pixels.append(images[correct])
        count += int(correct.sum())
        if count >= options.images:
            break
    if count < options.images:
        print(
            f"only {count} images are classified correctly, not {options.images}", file=sys.stderr
        )
        return 2
    images, labels = torch.cat(pixels)[: options.images], torch.cat(chosen)[: options.images]
    rows = []
    for baseline in ("mean", "blur"):
        with tqdm(total=len(images), unit="img", desc=baseline) as bar:
            table = faithfulness_table(
                model,
                images,
                labels,
                on_collages=model.resized((2 * size[0], 2 * size[1])),
                baseline=baseline,
                seed=options.seed,
                on_batch=lambda done, bar=bar: bar.update(done - bar.n),
            )
        for method in METHODS:
            row = {"method": method, "baseline": baseline, "images": len(images)}
            for score in table:
                if score["method"] == method:
                    name = score["metric"].replace(" ", "_")
                    for field in ("mean", "low", "high", "gain", "gain_low", "gain_high"):
                        row[f"{name}_{field}"] = round(score[field], 4)
            assert len(row) == 3 + 6 * len(METRICS)
            rows.append(row)
    rows[0]["seconds"] = round(time.perf_counter() - started, 1)
    arguments = ["--data", Path(options.data).name, "--images", str(options.images)]
    arguments += ["--seed", str(options.seed)]
    arguments += ["--data-name", options.data_name] if options.data_name else []
    write_results(
        "faithfulness",
        command=shlex.join([".venv/bin/python", "benchmarks/faithfulness.py", *arguments]),
        data=options.data_name or test.name,
        rows=rows,
    )
    for row in rows:
        print({name: row.get(f"{name.replace(' ', '_')}_mean") for name in METRICS}, row["method"])
    return 0


if __name__ == "__main__":
    sys.exit(main())

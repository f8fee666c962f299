"""What it is worth to learn from images without labels, where few of them have one.

A masked autoencoder is trained on all training images, and never sees a label. Then 1% and 10% of
the labels are given out, the same number of each class, in several draws. Compared are a linear
probe on its features, fine-tuning of its encoder, and training from scratch: the last two with the
same images, the same number of steps, the same augmentation.

The learning rates of these two are chosen first, for each share of the labels, on a tenth of the
training set.

Run it with `.venv/bin/python benchmarks/without_labels.py --data cifar10`. The same command goes on
where a stopped one left off. What is pretrained is kept as runs/benchmarks/cifar10_mae.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import results
import torch
from accuracy import run_command, stored_rows
from torch import nn

from vit_tutorial.augment import draw_order
from vit_tutorial.data import ImageSet, channel_stats, hold_out, load_train_test, stratified
from vit_tutorial.evaluation import evaluate
from vit_tutorial.files import atomic_write
from vit_tutorial.images import normalize
from vit_tutorial.mae import (
    MAEConfig,
    MaskedAutoencoder,
    hidden_patches,
    pixel_targets,
    reconstruction,
)
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.provenance import provenance
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import state_path
from vit_tutorial.train import fit
from vit_tutorial.transfer import features, linear_probe, renormalised, with_head
from vit_tutorial.weights import Card, load_checkpoint, save_checkpoint

NAME = "without_labels"
ENCODER = ViTConfig(embed_dim=96, depth=4, num_heads=3, pos_embed="sincos", pool="mean")
NETWORK = MAEConfig(ENCODER, decoder_dim=64, decoder_depth=2, decoder_heads=4, mask_ratio=0.75)
PRETRAINING = TrainConfig(
    epochs=50, batch_size=125, lr=4e-3, optimizer="muon", crop_padding=4, flip=True
)
# A thousand steps with each share of the labels: batches of 50 and of 100.
TRAINING = {
    "1%": TrainConfig(epochs=100, batch_size=50, optimizer="muon", crop_padding=4, flip=True),
    "10%": TrainConfig(epochs=20, batch_size=100, optimizer="muon", crop_padding=4, flip=True),
}
SHARES = {"1%": 0.01, "10%": 0.1}
# What is tried for each share of the labels, on images that are held out.
CANDIDATES: dict[str, list[dict[str, float]]] = {
    "fine-tuned": [{"lr": lr, "layer_decay": 0.75} for lr in (1e-3, 3e-3, 1e-2)],
    "from scratch": [{"lr": lr} for lr in (1e-3, 3e-3, 1e-2)],
}
METHODS = ("linear probe, untrained", "linear probe", "from scratch", "fine-tuned")
AGAINST = {"linear probe": "linear probe, untrained", "fine-tuned": "from scratch"}


@dataclass(frozen=True)
class Experiment:
    """All that a result depends on, but for the draw of the labels."""

    train: ImageSet
    test: ImageSet
    network: MAEConfig = NETWORK
    pretraining: TrainConfig = PRETRAINING
    command: str = ""  # the line that repeats the measurement

    @property
    def pretrained(self) -> Path:
        """Where the pretrained network is kept, with what it depends on in its name."""
        facts = [asdict(self.network), asdict(self.pretraining), self.train.name, len(self.train)]
        return results.ROOT / "runs" / "benchmarks" / f"mae_{_checksum(facts)}"

    def key(self, method: str, share: str, rates: dict[str, float]) -> str:
        """Name one measurement, so that nothing else is taken for it."""
        training = asdict(replace(TRAINING[share], **rates))
        facts = [method, share, training, self.pretrained.name, len(self.test)]
        return _checksum([*facts, provenance()["hardware"]])


def _checksum(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def few_labels(train: ImageSet, share: float, draw: int) -> ImageSet:
    """Draw a share of each class; these are the ones with a label."""
    return train[stratified(train.labels, share, seed=draw)]


def pretrain(experiment: Experiment) -> MaskedAutoencoder:
    """Train the autoencoder, or go on, or load what was trained before."""
    path = experiment.pretrained
    if path.with_suffix(".safetensors").exists():
        return load_checkpoint(path, MaskedAutoencoder)[0]
    torch.manual_seed(experiment.pretraining.seed)
    mae = MaskedAutoencoder(experiment.network)
    mae.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = fit(
        mae,
        experiment.train,
        None,
        experiment.pretraining,
        objective=reconstruction,
        save_to=path,
        resume=state_path(path).exists(),
    )
    save_pretrained(mae, experiment, rows[-1]["seconds"])
    return load_checkpoint(path, MaskedAutoencoder)[0]


def save_pretrained(mae: MaskedAutoencoder, experiment: Experiment, seconds: float) -> None:
    """Write the checkpoint, measured on the test images, under its own name and a plain one."""
    mae = mae.cpu().eval()
    mean, std = channel_stats(experiment.train.images)
    kept = ("epochs", "batch_size", "lr", "weight_decay", "warmup", "optimizer", "crop_padding")
    training = {name: getattr(experiment.pretraining, name) for name in (*kept, "flip", "seed")}
    card = Card(
        name="cifar10_mae",
        config=experiment.network,
        classes=experiment.train.classes,
        mean=tuple(mean),
        std=tuple(std),
        data=experiment.train.name,
        fingerprint=experiment.train.fingerprint(),
        training={
            "command": experiment.command,
            **training,
            "seconds": round(seconds),
            **provenance(),
        },
        evaluation={"data": experiment.test.name, **hidden_error(mae, experiment.test, mean, std)},
    )
    for path in (experiment.pretrained, experiment.pretrained.with_name("cifar10_mae")):
        save_checkpoint(mae, path, card)


@torch.inference_mode()
def hidden_error(
    mae: MaskedAutoencoder, test: ImageSet, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Measure the squared error on hidden patches, and that of their best single colour.

    The best colour is the mean of the hidden patch itself: whoever is better than that knows more
    than how bright and how coloured a patch is.
    """
    config = mae.config
    patch, visible = config.encoder.patch_size, config.num_visible
    torch.manual_seed(0)
    totals = torch.zeros(2, dtype=torch.float64)
    for batch in test.images.split(500):
        images = normalize(batch, mean, std)
        order = draw_order(len(images), config.encoder.num_patches)
        hidden = hidden_patches(order, visible)
        targets = pixel_targets(images, patch, config.norm_pixels)
        filled = mae.predict(images, order, visible)
        colours = targets.unflatten(-1, (config.in_chans, -1))
        flat = colours.mean(dim=-1, keepdim=True).expand_as(colours).flatten(2)
        for index, prediction in enumerate((filled, flat)):
            errors = (prediction - targets).square().mean(dim=-1)[hidden]
            totals[index] += errors.double().mean() * len(batch)
    error, one_colour = (totals / len(test)).tolist()
    return {
        "n": len(test),
        "hidden_error": round(error, 4),
        "own_mean_colour_error": round(one_colour, 4),
        "mask_ratio": config.mask_ratio,
    }


def trained(
    model: nn.Module, few: ImageSet, test: ImageSet, config: TrainConfig
) -> tuple[float, float]:
    """Train on a few labelled images; return the accuracy in percent, and the seconds it took."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = fit(model, few, None, config)
    stats = channel_stats(few.images)
    return evaluate(model, test, *stats).accuracy, rows[-1]["seconds"]


def measure(
    method: str,
    share: str,
    draw: int,
    rates: dict[str, float],
    mae: MaskedAutoencoder,
    experiment: Experiment,
) -> tuple[float, float]:
    """Measure one method with one draw of labels: accuracy in percent, and seconds."""
    few = few_labels(experiment.train, SHARES[share], draw)
    config = replace(TRAINING[share], **rates, seed=draw)
    torch.manual_seed(draw)
    fresh = VisionTransformer(experiment.network.encoder)
    if method == "from scratch":
        return trained(fresh, few, experiment.test, config)
    stats = channel_stats(experiment.train.images)  # those that it was pretrained with
    if method == "fine-tuned":
        model = with_head(mae.encoder, len(few.classes))
        model = renormalised(model, stats, channel_stats(few.images))
        return trained(model, few, experiment.test, config)
    encoder = fresh if method == "linear probe, untrained" else mae.encoder
    began = time.perf_counter()
    probe = linear_probe(features(encoder, few.images, *stats), few.labels)
    seconds = time.perf_counter() - began
    model = with_head(encoder, probe.head)
    return evaluate(model, experiment.test, *stats).accuracy, seconds


def chosen_rates(
    mae: MaskedAutoencoder, experiment: Experiment
) -> dict[tuple[str, str], dict[str, float]]:
    """Choose the rates of each method and share, on a tenth of the training set.

    What was tried is kept beside the pretrained network, and not tried again.
    """
    path = experiment.pretrained.with_suffix(".rates.json")
    tried = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rest, held_out = hold_out(experiment.train, 0.1, seed=0)
    trial = replace(experiment, train=rest, test=held_out)
    best: dict[tuple[str, str], tuple[float, dict[str, float]]] = {}
    for share in SHARES:
        for method, candidates in CANDIDATES.items():
            for rates in candidates:
                name = trial.key(method, share, rates)
                if name not in tried:
                    tried[name], _ = measure(method, share, 100, rates, mae, trial)
                    with atomic_write(path) as beside:
                        beside.write_text(json.dumps(tried), encoding="utf-8")
                print(f"{share} {method} {rates}: {tried[name]:.2f}% of held out", flush=True)
                if (share, method) not in best or tried[name] > best[share, method][0]:
                    best[share, method] = tried[name], rates
    return {combination: rates for combination, (_, rates) in best.items()}


def measurements(
    experiment: Experiment, draws: int, before: Sequence[dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows so far after every measurement; what is in `before` is not made again."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    prior = {row.get("experiment"): row for row in before}
    mae = pretrain(experiment)
    chosen = chosen_rates(mae, experiment)
    for draw in range(draws):
        for share in SHARES:
            for method in METHODS:
                rates = chosen.get((share, method), {})
                key = experiment.key(method, share, rates)
                row = rows.get((share, method)) or prior.get(key)
                scores = dict(zip(row["seeds"], row["test_accuracies"], strict=True)) if row else {}
                times = dict(zip(row["seeds"], row["seconds_each"], strict=True)) if row else {}
                if draw not in scores:
                    scores[draw], times[draw] = measure(method, share, draw, rates, mae, experiment)
                    print(f"{share} {method}, draw {draw}: {scores[draw]:.2f}%", flush=True)
                row = {**summary(method, share, scores, times, experiment), **rates}
                if method in AGAINST:
                    row |= compared(row, rows[share, AGAINST[method]])
                rows[share, method] = {**row, "experiment": key}
                yield [rows[s, m] for s in SHARES for m in METHODS if (s, m) in rows]


def summary(
    method: str,
    share: str,
    scores: dict[int, float],
    times: dict[int, float],
    experiment: Experiment,
) -> dict[str, Any]:
    """Make a row of results from accuracies in percent and seconds by draw."""
    accuracies = [round(value, 2) for _, value in sorted(scores.items())]
    config, count = TRAINING[share], round(SHARES[share] * len(experiment.train))
    steps = None if "probe" in method else config.epochs * (count // config.batch_size)
    return {
        "row": f"{share} {method}",
        "labels": share,
        "images": count,
        "method": method,
        "test_accuracy_mean": round(statistics.mean(accuracies), 2),
        "test_accuracy_std": round(statistics.stdev(accuracies), 2) if len(scores) > 1 else None,
        "seeds": sorted(scores),
        "steps": steps,
        "seconds": round(statistics.mean(times.values()), 1),
        "pretraining_epochs": experiment.pretraining.epochs,
        "test_accuracies": accuracies,
        "seconds_each": [round(value, 1) for _, value in sorted(times.items())],
    }


def compared(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Subtract what another method reached with the same draws."""
    theirs = dict(zip(other["seeds"], other["test_accuracies"], strict=True))
    paired = [theirs[draw] for draw in row["seeds"]]
    return {"against": other["method"], **results.difference(row["test_accuracies"], paired)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all methods; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_data_options(parser)
    parser.add_argument("--draws", type=int, default=3, metavar="N", help="0 to N - 1")
    parser.add_argument("--epochs", type=int, help="of the pretraining")
    return run_command(_measure_all, parser.parse_args(argv))


def _measure_all(options: argparse.Namespace) -> None:
    if options.draws < 1:
        raise ValueError(f"--draws must be 1 or more, got {options.draws}")
    sets = load_train_test(options.data, img_size=ENCODER.img_size)
    train, test = (replace(images, name=options.data_name or images.name) for images in sets)
    experiment = Experiment(train, test, command=command(options))
    if options.epochs is not None:
        experiment = replace(experiment, pretraining=replace(PRETRAINING, epochs=options.epochs))
    for rows in measurements(experiment, options.draws, stored_rows(NAME)):
        results.write_results(NAME, command=experiment.command, data=train.name, rows=rows)


def command(options: argparse.Namespace) -> str:
    """Return the line that repeats a measurement; of an image folder it shows only the name."""
    words = ["--data", Path(options.data).name, "--draws", str(options.draws)]
    words += ["--epochs", str(options.epochs)] if options.epochs is not None else []
    words += ["--data-name", options.data_name] if options.data_name else []
    return shlex.join([".venv/bin/python", f"benchmarks/{NAME}.py", *words])


if __name__ == "__main__":
    sys.exit(main())

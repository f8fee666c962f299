"""Compare a ViT with a ResNet: few training images and many, and what each prediction depends on.

Run it with `.venv/bin/python benchmarks/vit_and_cnn.py --data cifar10 --seeds 3` (or an image
folder with the subfolders `train` and `test`, and `--data-name`). Both networks have about as many
parameters, the same trainer and the same number of steps. Each has the optimizer and the learning
rate that suit it best: the best of short trainings, and then, in trainings of full length, smaller
rates as long as they pay. That is measured on a tenth of the training set, which takes no part in
these trainings; the test set has no say.

Results are written after every run, and the same command goes on where a stopped one was: a network
that was trained is not trained again. `--longer 5` takes five times as many steps (a GPU's work).
The ResNet that seed 0 trains on all images is saved as a checkpoint in runs/benchmarks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import results
import torch
from accuracy import run_command
from torch import Tensor, nn

from vit_tutorial.cnn import ResNet, ResNetConfig
from vit_tutorial.data import ImageSet, channel_stats, hold_out, load_train_test, stratified
from vit_tutorial.evaluation import evaluate
from vit_tutorial.files import atomic_write
from vit_tutorial.lessons.lesson_10.changes import hybrids, occluded, shifted, shuffled
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.provenance import provenance
from vit_tutorial.recipes import RECIPES, TrainConfig
from vit_tutorial.run import state_path
from vit_tutorial.train import fit, make_checkpoint
from vit_tutorial.weights import Card

NETWORKS: dict[str, ViTConfig | ResNetConfig] = {
    "vit": replace(RECIPES["laptop"].model, pool="cls"),
    "resnet": ResNetConfig(),
}
KINDS: dict[type, type[nn.Module]] = {ViTConfig: VisionTransformer, ResNetConfig: ResNet}
TRAINING = TrainConfig(epochs=1, crop_padding=4, flip=True)  # epochs follow from the steps
STEPS = {0.01: 320, 0.1: 640, 1.0: 1560}  # by share of the training images; 1560: four epochs
CHOICE_STEPS = 160  # of the short trainings that choose; never less than an epoch
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CHOICES: tuple[dict[str, Any], ...] = tuple(
    {"optimizer": optimizer, "lr": lr}
    for optimizer, rates in {"adamw": RATES[:3], "muon": RATES[1:]}.items()
    for lr in rates
)
SHIFTS, OCCLUDED, PIECES, SIZES = (
    (1, 2, 3, 4, 6, 8),
    (0.125, 0.25, 0.5, 0.75),
    (16, 8, 4),
    (24, 28, 40, 48, 64),
)
SIGMAS = (1.0, 2.0)  # pixels, of the blur that parts coarse from fine
PATCH, IMG_SIZE = 4, 32


@dataclass(frozen=True)
class Comparison:
    """The data, and how many steps; all that is measured has a name made from it."""

    train: ImageSet
    test: ImageSet
    seeds: int
    longer: float
    command: str  # that measures all of it

    def key(self, **facts: Any) -> str:
        """Name one piece of work, so that no other is taken for it."""
        parts = {
            "data": [self.train.name, len(self.train), len(self.test)],
            "training": {k: v for k, v in asdict(TRAINING).items() if k not in ("epochs", "seed")},
            "networks": {name: asdict(config) for name, config in NETWORKS.items()},
            "hardware": provenance()["hardware"],
            **facts,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def steps(self, share: float) -> int:
        """Return how many steps are taken with a share of the training images."""
        return round(STEPS[share] * self.longer)


def cache_path(key: str) -> Path:
    """Return where the numbers of one piece of work are kept, and beside it its training."""
    return results.ROOT / "runs" / "benchmarks" / f"vit_and_cnn_{key}.json"


def load_cached(key: str) -> dict[str, Any] | None:
    """Return the numbers of one piece of work, None where it has not been done."""
    return (
        json.loads(cache_path(key).read_text(encoding="utf-8"))
        if cache_path(key).exists()
        else None
    )


def store(key: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Keep the numbers of one piece of work."""
    cache_path(key).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(cache_path(key)) as beside:
        beside.write_text(json.dumps(numbers), encoding="utf-8")
    return numbers


# ---- Training ------------------------------------------------------------------------------------


def trained(
    name: str, train: ImageSet, steps: int, choice: dict[str, Any], seed: int, key: str
) -> tuple[nn.Module, TrainConfig, float]:
    """Train a network, or take the one that was trained before: it, its config, and seconds."""
    torch.manual_seed(seed)
    config = replace(NETWORKS[name], num_classes=len(train.classes), in_chans=train.images.shape[1])
    model = KINDS[type(config)](config)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    training = replace(TRAINING, **choice, seed=seed, batch_size=min(128, len(train)))
    epochs = max(round(steps / (len(train) // training.batch_size)), 1)
    training = replace(training, epochs=epochs)
    path = cache_path(key).with_suffix(".run")
    rows = fit(model, train, None, training, save_to=path, resume=state_path(path).exists())
    return model, training, rows[-1]["seconds"]


def chosen(
    comparison: Comparison, name: str, share: float
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Choose a network's optimizer and rate for a share of the images, on a tenth of all.

    What is best in a short training may be too high for a long one: from there on, smaller rates
    are tried at full length. All trainings are on that share of the other nine tenths, with one
    seed. Returns the choice, and the validation accuracies in percent: of the short trainings, and
    of those at full length.
    """
    steps = comparison.steps(share)
    few = round(min(CHOICE_STEPS, STEPS[share]) * comparison.longer)
    short = {choice_name(choice): tried(comparison, name, share, few, choice) for choice in CHOICES}
    choice = max(CHOICES, key=lambda choice: short[choice_name(choice)])
    full = {choice_name(choice): tried(comparison, name, share, steps, choice)}
    for rate in sorted((rate for rate in RATES if rate < choice["lr"]), reverse=True):
        lower = {**choice, "lr": rate}
        full[choice_name(lower)] = tried(comparison, name, share, steps, lower)
        if full[choice_name(lower)] <= full[choice_name(choice)]:
            break
        choice = lower
    return choice, short, full


def tried(
    comparison: Comparison, name: str, share: float, steps: int, choice: dict[str, Any]
) -> float:
    """Return the validation accuracy of one choice after so many steps, in percent."""
    key = comparison.key(work="choice", name=name, share=share, steps=steps, **choice)
    numbers = load_cached(key)
    if numbers is None:
        rest, validation = hold_out(comparison.train, 0.1, seed=0)
        part = rest[stratified(rest.labels, share)]
        try:
            model, _, _ = trained(name, part, steps, choice, seed=0, key=key)
            accuracy = evaluate(model, validation, *channel_stats(part.images)).accuracy
        except FloatingPointError:  # far too high
            accuracy = 0.0
        numbers = store(key, {"accuracy": accuracy})
        state_path(cache_path(key).with_suffix(".run")).unlink(missing_ok=True)
        print(
            f"{name}, {share:.0%}, {steps} steps, {choice_name(choice)}: {accuracy:.1f}%",
            flush=True,
        )
    return round(numbers["accuracy"], 2)


def choice_name(choice: dict[str, Any]) -> str:
    """Name an optimizer and its rate.

    Examples:
        >>> choice_name({"optimizer": "muon", "lr": 3e-3})
        'muon 0.003'
    """
    return f"{choice['optimizer']} {choice['lr']:g}"


def run_of(comparison: Comparison, name: str, share: float, seed: int) -> dict[str, Any]:
    """Train one network on a subset and measure it; with all images, its robustness too."""
    choice, _, _ = chosen(comparison, name, share)
    steps, full = comparison.steps(share), share == 1
    settings = [SHIFTS, OCCLUDED, PIECES, SIZES, SIGMAS] if full else []
    key = comparison.key(name=name, share=share, seed=seed, steps=steps, asked=settings, **choice)
    if numbers := load_cached(key):
        return numbers
    part = comparison.train[stratified(comparison.train.labels, share, seed)]
    model, config, seconds = trained(name, part, steps, choice, seed, key)
    mean, std = channel_stats(part.images)
    result = evaluate(model, comparison.test, mean, std)
    numbers = {
        "accuracy": result.accuracy,
        "choice": choice_name(choice),
        "images": len(part),
        "epochs": config.epochs,
        "steps": config.epochs * (len(part) // config.batch_size),
        "seconds": seconds,
        "answers": robustness(model, comparison.test, mean, std) if full else {},
    }
    if full and seed == 0 and name == "resnet":
        save(model, comparison, config, seconds, (mean, std))
    store(key, numbers)
    state_path(cache_path(key).with_suffix(".run")).unlink(missing_ok=True)
    print(f"{name}, {share:.0%}, seed {seed}: {result.accuracy:.2f}%", flush=True)
    return numbers


def save(
    model: Any, comparison: Comparison, config: TrainConfig, seconds: float, stats: Any
) -> None:
    """Save a trained network as a checkpoint, beside the numbers of the runs."""
    training = {
        "command": comparison.command,
        **{k: v for k, v in asdict(config).items() if v or k == "seed"},
        "seconds": round(seconds),
        **provenance(),
    }
    mean, std = stats
    card = Card(
        name="cifar10_resnet",
        config=model.config,
        classes=comparison.train.classes,
        mean=mean,
        std=std,
        data=comparison.train.name,
        fingerprint=comparison.train.fingerprint(),
        training=training,
    )
    path = results.ROOT / "runs" / "benchmarks" / "cifar10_resnet.safetensors"
    make_checkpoint(model.cpu(), path, card, comparison.test)


# ---- Robustness ----------------------------------------------------------------------------------


def conditions(test: ImageSet, fill: Tensor) -> Iterator[tuple[str, str, ImageSet]]:
    """Change the test images in every way: part, setting and the images; sizes are left out."""
    images = test.images
    for piece in PIECES:
        yield "shuffled", f"{piece}×{piece}", replace(test, images=shuffled(images, piece))
    for pixels in SHIFTS:
        yield "shifted", str(pixels), replace(test, images=shifted(images, pixels))
    for share in OCCLUDED:
        changed = occluded(images, share, PATCH, fill)
        yield "occluded", f"{share:.1%}".replace(".0%", "%"), replace(test, images=changed)


def robustness(
    model: nn.Module, test: ImageSet, mean: Any, std: Any
) -> dict[str, dict[str, float]]:
    """Measure a trained network on all changed images: "part, setting" -> scores in percent.

    "right" is its accuracy; "kept" the share of the images which it classifies correctly as they
    are, and still does. For hybrids: the share of the predictions that is the coarse
    image's class, or the fine image's.
    """
    unchanged = evaluate(model, test, mean, std)
    before = unchanged.predictions == unchanged.labels

    def score(changed: ImageSet, network: nn.Module = model) -> dict[str, float]:
        result = evaluate(network, changed, mean, std)
        still = (result.predictions == result.labels) & before
        return {"right": result.accuracy, "kept": 100 * still.sum().item() / int(before.sum())}

    fill = (255 * torch.tensor(mean)).round()
    scores = {
        f"{part}, {setting}": score(changed) for part, setting, changed in conditions(test, fill)
    }
    for size in SIZES:
        network = model.resized(size) if isinstance(model, VisionTransformer) else model
        scores[f"size, {size}"] = score(test.resized(size), network)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    other = test[order]
    differ = other.labels != test.labels
    for sigma in SIGMAS:
        joined = replace(test, images=hybrids(test.images, other.images, sigma))[differ]
        predictions = evaluate(model, joined, mean, std).predictions
        coarse, fine = predictions == test.labels[differ], predictions == other.labels[differ]
        scores[f"hybrid, {sigma:g}"] = {
            "coarse": 100 * coarse.float().mean().item(),
            "fine": 100 * fine.float().mean().item(),
            "share": 100 * coarse.sum().item() / max(int((coarse | fine).sum()), 1),
        }
    return scores


# ---- Rows ----------------------------------------------------------------------------------------


def spread(values: Sequence[float], name: str) -> dict[str, Any]:
    """Summarise one number of several seeds: mean, standard deviation, each."""
    rounded = [round(value, 2) for value in values]
    return {
        f"{name}_mean": round(statistics.mean(values), 2),
        f"{name}_std": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        f"{name}_each": rounded,
    }


def rows_of(
    comparison: Comparison, runs: dict[tuple[str, float], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Make one row for each share of the training images, and one for each condition.

    Only seeds that both networks have trained with take part.
    """
    rows = []
    for share in STEPS:
        pair = [runs.get((name, share), []) for name in NETWORKS]
        count = min(map(len, pair))
        if not count:
            continue
        pair = [own_runs[:count] for own_runs in pair]
        accuracies = [[run["accuracy"] for run in own_runs] for own_runs in pair]
        about = {"seeds": list(range(count))}
        row = {
            "table": "images",
            "part": "images",
            "what": f"{share:.0%}",
            **about,
            **{name: pair[0][0][name] for name in ("images", "epochs", "steps")},
        }
        for name, own_runs, values in zip(NETWORKS, pair, accuracies, strict=True):
            _, short, full = chosen(comparison, name, share)
            row |= spread(values, name) | {f"{name}_choice": own_runs[0]["choice"]}
            row |= {f"{name}_tried": short, f"{name}_tried_long": full}
            row[f"{name}_seconds"] = round(statistics.mean(run["seconds"] for run in own_runs))
        rows.append({**row, **results.difference(*accuracies)})
        for condition in pair[0][0]["answers"]:
            scores = [[run["answers"][condition] for run in own_runs] for own_runs in pair]
            part, _, setting = condition.partition(", ")
            table = part if part == "hybrid" else "asked"
            line = {**about, "table": table, "part": part, "what": f"{part} {setting}"}
            line["setting"] = setting
            for name, values in zip(NETWORKS, scores, strict=True):
                for metric in values[0]:
                    line |= spread([run[metric] for run in values], f"{name}_{metric}")
            compared = "share" if part == "hybrid" else "kept"
            line |= results.difference(*([run[compared] for run in values] for values in scores))
            rows.append(line)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_data_options(parser)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N - 1")
    parser.add_argument("--longer", type=float, default=1.0, help="times as many steps")
    parser.add_argument("--name", default="vit_and_cnn", help="of the results file")
    return run_command(_compare, parser.parse_args(argv))


def _compare(options: argparse.Namespace) -> None:
    if options.seeds < 1 or not options.longer > 0:
        raise ValueError(
            f"--seeds must be 1 or more and --longer above 0, got {options.seeds} and "
            f"{options.longer}"
        )
    train, test = load_train_test(options.data, img_size=IMG_SIZE)
    train, test = (replace(part, name=options.data_name or part.name) for part in (train, test))
    arguments = ["--data", Path(options.data).name, "--seeds", str(options.seeds)]
    arguments += ["--longer", f"{options.longer:g}"] if options.longer != 1 else []
    arguments += ["--name", options.name] if options.name != "vit_and_cnn" else []
    arguments += ["--data-name", options.data_name] if options.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/vit_and_cnn.py", *arguments])
    comparison = Comparison(train, test, options.seeds, options.longer, command)
    runs: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        for share in STEPS:
            for name in NETWORKS:
                result = run_of(comparison, name, share, seed)
                runs.setdefault((name, share), []).append(result)
            results.write_results(
                options.name, command=command, data=train.name, rows=rows_of(comparison, runs)
            )


if __name__ == "__main__":
    sys.exit(main())

"""Train a recipe with several seeds and measure the accuracy after the last epoch.

Run it with `.venv/bin/python benchmarks/accuracy.py laptop --data cifar10 --seeds 3` (or an image
folder with the subfolders `train` and `test`, and `--data-name`). The same command goes on where a
stopped one left off, and keeps the seeds that its results file has. To choose a setting, leave the
test set alone: `--split validation --set lr=0.003 depth=6` prints what a tenth of the training set
says, and writes no results unless they get a `--name`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import sys
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import results
import torch

from vit_tutorial.compute import Compute
from vit_tutorial.data import ImageSet, hold_out, load_train_test
from vit_tutorial.images import colour_mode
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.provenance import provenance
from vit_tutorial.recipes import RECIPES, Recipe, TrainConfig
from vit_tutorial.run import read_state, state_path
from vit_tutorial.train import epochs_within, fastest, fit

# What --set may change; the data say the size of an image, --seeds the seed.
SETTINGS: dict[str, type] = {
    name: kind
    for config in (TrainConfig, ViTConfig)
    for name, kind in typing.get_type_hints(config).items()
    if kind in (bool, int, float, str) and name not in ("seed", "in_chans", "num_classes")
}
KINDS: dict[type, str] = {bool: "true or false", int: "an integer", float: "a number"}


@dataclass(frozen=True)
class Experiment:
    """All that a result depends on, but for the seed; with `minutes`, the epochs are measured."""

    recipe: Recipe
    train: ImageSet
    test: ImageSet
    minutes: float | None = None

    @property
    def key(self) -> str:
        """Name what is measured, and on what, so that no other is taken for it."""
        config = asdict(self.recipe.train)
        del config["seed"]
        if self.minutes is not None:
            config["epochs"] = f"{self.minutes:g} minutes"
        facts = {
            "network": asdict(self.recipe.model),
            "training": config,
            "data": [self.train.name, len(self.train), len(self.test)],
            "hardware": provenance()["hardware"],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def save_to(self, seed: int) -> Path:
        """Return where the run with this seed is kept."""
        return results.ROOT / "runs" / "benchmarks" / f"{self.key}_seed{seed}"


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE pairs, each value as its field wants it.

    Raises:
        ValueError: something else than a pair, an unknown name, or a value of another kind.
    """
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set expects NAME=VALUE, got {pair!r}")
        if name not in SETTINGS:
            raise ValueError(f"--set knows no {name!r}; it knows {', '.join(sorted(SETTINGS))}")
        kind = SETTINGS[name]
        try:
            settings[name] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise ValueError(f"--set {name} must be {KINDS[kind]}, got {text!r}") from None
    return settings


def with_settings(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """Return the recipe with some fields of its network or its training changed."""
    of_model = {field.name for field in fields(ViTConfig)}
    model = {name: value for name, value in settings.items() if name in of_model}
    train = {name: value for name, value in settings.items() if name not in of_model}
    return replace(
        recipe, model=replace(recipe.model, **model), train=replace(recipe.train, **train)
    )


def load_experiment(
    recipe: Recipe, source: str, name: str | None, split: str = "test", minutes: float | None = None
) -> Experiment:
    """Load the data for a recipe; with `split` "validation" the test set is left alone.

    A tenth of the training set, the same one every time, then replaces it.
    """
    mode = colour_mode(recipe.model.in_chans)
    sets = load_train_test(source, img_size=recipe.model.img_size, mode=mode)
    train, test = (replace(images, name=name or images.name) for images in sets)
    if split == "validation":
        train, test = hold_out(train, 0.1, seed=0)
    model = replace(recipe.model, num_classes=len(train.classes))
    return Experiment(replace(recipe, model=model), train, test, minutes)


def measure(
    experiment: Experiment, count: int, before: Sequence[dict[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Train with the seeds 0 to `count` - 1, and yield the numbers so far after each run.

    Runs that are in a row of `before` are not made again, and a stopped one goes on. When all is
    done, and the caller has kept it, the saved runs are removed.
    """
    prior = next((row for row in before if row.get("experiment") == experiment.key), None)
    runs: dict[int, tuple[float, float]] = {}
    if prior:
        each = zip(prior["seeds"], prior["test_accuracies"], prior["seconds_each"], strict=True)
        runs = {seed: (accuracy, seconds) for seed, accuracy, seconds in each}
    epochs, how = _plan(experiment, prior)
    config = replace(experiment.recipe.train, epochs=epochs)
    for seed in range(count):
        if seed in runs:
            continue
        path = experiment.save_to(seed)
        rows = fit(
            _new_model(experiment, seed),
            experiment.train,
            experiment.test,
            replace(config, seed=seed),
            how=how,
            save_to=path,
            resume=state_path(path).exists(),
        )
        runs[seed] = rows[-1]["test_accuracy"], rows[-1]["seconds"]
        row = summary(experiment, epochs, dict(sorted(runs.items())))
        if state_path(path).exists():
            how = Compute(**read_state(path)["how"])  # the same for all seeds
            row |= asdict(how)
        yield row
    for seed in range(count):
        state_path(experiment.save_to(seed)).unlink(missing_ok=True)


def _new_model(experiment: Experiment, seed: int) -> VisionTransformer:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return VisionTransformer(experiment.recipe.model).to(device)


def _plan(experiment: Experiment, prior: dict[str, Any] | None) -> tuple[int, Compute | None]:
    """Find out how many epochs fit, once for all seeds, and how their steps are computed."""
    config = experiment.recipe.train
    if experiment.minutes is None:
        return config.epochs, None
    if prior:
        return prior["epochs"], None
    first = experiment.save_to(0)
    if state_path(first).exists():
        return read_state(first)["config"]["epochs"], None
    model = _new_model(experiment, seed=0)
    how = fastest(model, experiment.train, config, minutes=experiment.minutes)
    sets = experiment.train, experiment.test
    return epochs_within(experiment.minutes, model, *sets, config, how), how


def summary(
    experiment: Experiment, epochs: int, runs: dict[int, tuple[float, float]]
) -> dict[str, Any]:
    """Make a row of results from (accuracy in percent, seconds) by seed.

    The images per second are those of the whole training, tests of the accuracy included.
    """
    accuracies = [round(accuracy, 2) for accuracy, _ in runs.values()]
    seconds = [round(seconds, 2) for _, seconds in runs.values()]
    return {
        "test_accuracy_mean": round(statistics.mean(accuracies), 2),
        "test_accuracy_std": round(statistics.stdev(accuracies), 2) if len(runs) > 1 else None,
        "seeds": list(runs),
        "epochs": epochs,
        "seconds": round(statistics.mean(seconds), 1),
        "test_accuracies": accuracies,
        "seconds_each": seconds,
        "images_per_second": round(epochs * len(experiment.train) / statistics.mean(seconds)),
        "experiment": experiment.key,
    }


def described(model: ViTConfig) -> dict[str, Any]:
    """Say in a row of results which network it is about."""
    names = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "pos_embed", "pool")
    parameters = sum(p.numel() for p in VisionTransformer(model).parameters())
    return {**{name: getattr(model, name) for name in names}, "parameters": parameters}


def stored_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a results file, none where there is no file."""
    path = results.ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []


def add_options(parser: argparse.ArgumentParser, seeds: int) -> None:
    """Add the options of every benchmark that trains."""
    results.add_data_options(parser)
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help="0 to N - 1")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="change fields of the recipe"
    )


def command_line(script: str, arguments: argparse.Namespace, *words: str) -> str:
    """Return the line that repeats a measurement; of an image folder it shows only the name."""
    shown = [*words, "--data", Path(arguments.data).name, "--seeds", str(arguments.seeds)]
    shown += ["--epochs", str(arguments.epochs)] if arguments.epochs is not None else []
    shown += ["--set", *arguments.set] if arguments.set else []
    shown += ["--data-name", arguments.data_name] if arguments.data_name else []
    return shlex.join([".venv/bin/python", f"benchmarks/{script}.py", *shown])


def chosen_recipe(name: str, arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of that name, changed as the options say.

    Raises:
        ValueError: an unknown recipe or setting, or no seed at all.
    """
    if name not in RECIPES:
        raise ValueError(f"the recipes are {', '.join(RECIPES)}, got {name!r}")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, got {arguments.seeds}")
    settings = parse_settings(arguments.set)
    if arguments.epochs is not None:
        settings["epochs"] = arguments.epochs
    return with_settings(RECIPES[name], settings)


def run_command(work: typing.Callable[[argparse.Namespace], None], options: Any) -> int:
    """Do the work of a script; bad input and a stop are one sentence each."""
    try:
        work(options)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one recipe; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help=", ".join(RECIPES))
    add_options(parser, seeds=1)
    parser.add_argument("--minutes", type=float, help="as many epochs as fit, instead of --epochs")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--name", help="write results/accuracy_NAME.json (default: the recipe's)")
    options = parser.parse_args(argv)
    if options.minutes is not None and options.epochs is not None:
        parser.error("--minutes finds out the epochs: give one of --minutes and --epochs")
    return run_command(_measure_recipe, options)


def _measure_recipe(options: argparse.Namespace) -> None:
    recipe = chosen_recipe(options.recipe, options)
    experiment = load_experiment(
        recipe, options.data, options.data_name, options.split, options.minutes
    )
    plain = options.split == "test" and not options.set
    name = options.name or (options.recipe if plain else None)
    words = [options.recipe, "--split", options.split]
    words += ["--minutes", f"{options.minutes:g}"] if options.minutes is not None else []
    words += ["--name", options.name] if options.name else []
    about = {
        "recipe": ", ".join([options.recipe, *options.set]),
        "split": options.split,
        **described(experiment.recipe.model),
    }
    before = stored_rows(f"accuracy_{name}") if name else []
    for numbers in measure(experiment, options.seeds, before):
        row = {**about, **numbers}
        print(json.dumps(row), flush=True)
        if name:
            results.write_results(
                f"accuracy_{name}",
                command=command_line("accuracy", options, *words),
                data=experiment.train.name,
                rows=[row],
            )


if __name__ == "__main__":
    sys.exit(main())

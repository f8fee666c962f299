"""Measure what each ingredient of a training is worth: change one thing, keep all the rest.

Run it with `.venv/bin/python benchmarks/ablation.py --data cifar10 --epochs 7`. What pays off only
in long trainings is measured where there is a GPU, or with `--all`; else its row says that it was
not measured. Results are written after every run, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import results
import torch
from accuracy import (
    Experiment,
    add_options,
    chosen_recipe,
    command_line,
    load_experiment,
    measure,
    run_command,
    stored_rows,
    with_settings,
)

from vit_tutorial.recipes import Recipe

# An ingredient -> the settings with it and without it, and whether only a long training shows it.
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "crop and flip": (
        {"crop_padding": 4, "flip": True},
        {"crop_padding": 0, "flip": False},
        False,
    ),
    "label smoothing": ({"label_smoothing": 0.1}, {"label_smoothing": 0.0}, True),
    "TrivialAugment": ({"trivial_augment": 0.5}, {"trivial_augment": 0.0}, True),
    "random erasing": ({"erase": 0.25}, {"erase": 0.0}, True),
    "mixup and cutmix": ({"mixup": 0.3, "cutmix": 0.3}, {"mixup": 0.0, "cutmix": 0.0}, True),
    "dropped patches": ({"patch_drop": 0.5}, {"patch_drop": 0.0}, False),
    "averaged weights": ({"ema": 0.999}, {"ema": 0.0}, True),
    "drop path": ({"drop_path": 0.1}, {"drop_path": 0.0}, True),
    "Muon": ({"optimizer": "muon"}, {"optimizer": "adamw"}, False),
}
# A choice -> its values, and those that take a GPU's time.
CHOICES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "pos_embed": (("none", "learned", "sincos", "rope"), ()),
    "pool": (("cls", "mean"), ()),
    "patch_size": ((2, 4, 8), (2,)),
}
WORDS = {"pos_embed": "positions", "pool": "pooling", "patch_size": "patch size"}


@dataclass(frozen=True)
class Change:
    """One thing that is changed, and whether it takes a GPU."""

    name: str
    settings: dict[str, Any]
    long: bool = False


def changes(recipe: Recipe) -> list[Change]:
    """List the recipe itself, and every change of one thing in it.

    What the recipe has is taken away, what it lacks is added.
    """
    now = {**vars(recipe.train), **vars(recipe.model)}
    listed = [Change("the recipe", {})]
    for name, (on, off, long) in SWITCHES.items():
        has_it = any(now[field] != off[field] for field in off)
        listed.append(
            Change(f"without {name}", off, long) if has_it else Change(f"with {name}", on, long)
        )
    for field, (values, long) in CHOICES.items():
        listed += [
            Change(f"{WORDS[field]}: {value}", {field: value}, value in long)
            for value in values
            if value != now[field]
        ]
    return listed


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each measured row by how much its accuracy differs from the recipe's, in points."""
    base = rows[0].get("test_accuracy_mean")
    return [
        {**row, "difference": round(row["test_accuracy_mean"] - base, 2)}
        if row["measured"] and base is not None
        else row
        for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all changes; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, seeds=2)
    parser.add_argument("--recipe", default="laptop", help="what is changed (default: laptop)")
    parser.add_argument("--all", action="store_true", help="what takes a GPU's time, too")
    return run_command(_measure_changes, parser.parse_args(argv))


def _measure_changes(options: argparse.Namespace) -> None:
    name = f"ablation_{'digits' if options.data == 'digits' else 'cifar10'}"
    before = stored_rows(name)
    base = load_experiment(chosen_recipe(options.recipe, options), options.data, options.data_name)
    arguments = ["--recipe", options.recipe, *(["--all"] if options.all else [])]
    command = command_line("ablation", options, *arguments)
    listed = changes(base.recipe)
    rows = [_row(options.recipe, change, base, before) for change in listed]
    for index, change in enumerate(listed):
        if change.long and not (options.all or torch.cuda.is_available()):
            continue
        for numbers in measure(_changed(base, change), options.seeds, before):
            rows[index] = {**rows[index], "measured": True, **numbers}
            results.write_results(name, command=command, data=base.train.name, rows=table(rows))
            print(f"{change.name}: {numbers['test_accuracies']}", flush=True)


def _changed(base: Experiment, change: Change) -> Experiment:
    return replace(base, recipe=with_settings(base.recipe, change.settings))


def _row(
    recipe: str, change: Change, base: Experiment, before: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the row that was measured before, or one that says that it was not."""
    key = _changed(base, change).key
    for row in before:
        if row.get("experiment") == key:
            return {**row, "recipe": recipe, "change": change.name}
    settings = ", ".join(f"{name}={value}" for name, value in change.settings.items())
    return {"recipe": recipe, "change": change.name, "settings": settings, "measured": False}


if __name__ == "__main__":
    sys.exit(main())

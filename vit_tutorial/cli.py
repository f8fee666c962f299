"""The command line: `vit-tutorial doctor | train | evaluate | explain`."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

# torch and matplotlib are imported where they are needed, so that --help answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (doctor found a fault) or 2 (bad input)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"vit-tutorial {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vit-tutorial", description="Vision Transformers, inside out.")
    commands = parser.add_subparsers(dest="command", required=True)

    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.set_defaults(run=_doctor)

    train = commands.add_parser("train", help="train a network and save it with its card")
    train.add_argument("--recipe", required=True, help="digits or laptop")
    train.add_argument("--data", required=True, help="cifar10, digits or an image folder")
    train.add_argument("--data-name", help="what results call the data (default: its own name)")
    train.add_argument("--out", required=True, type=Path, help="file to write, .safetensors")
    train.add_argument("--epochs", type=int, help="instead of the recipe's")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint's accuracy")
    evaluate.add_argument("--checkpoint", required=True, help="a bundled name or a .safetensors")
    evaluate.add_argument("--data", required=True, help="cifar10, digits or an image folder")
    evaluate.add_argument("--batch-size", type=int, default=500)
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.set_defaults(run=_evaluate)

    explain = commands.add_parser("explain", help="classify a photograph and show where it looked")
    explain.add_argument("photo", help="any image file")
    explain.add_argument("--checkpoint", default="cifar10", help="a bundled name or a .safetensors")
    explain.add_argument("--fit", default="crop", help="crop, pad or resize")
    explain.add_argument("--out", type=Path, help="PNG to write (default: beside the photograph)")
    explain.set_defaults(run=_explain)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from vit_tutorial import data, train, weights
    from vit_tutorial.model import VisionTransformer

    if arguments.recipe not in train.RECIPES:
        raise ValueError(
            f"--recipe must be one of {', '.join(train.RECIPES)}, got {arguments.recipe!r}"
        )
    recipe = train.RECIPES[arguments.recipe]
    mode = "L" if recipe.model.in_chans == 1 else "RGB"
    sets = data.load_train_test(arguments.data, img_size=recipe.model.img_size, mode=mode)
    training, test = (
        replace(images, name=arguments.data_name or images.name) for images in sets
    )
    model_config = replace(recipe.model, num_classes=len(training.classes))
    config = replace(
        recipe.train, seed=arguments.seed, epochs=arguments.epochs or recipe.train.epochs
    )

    torch.manual_seed(config.seed)
    model = VisionTransformer(model_config).to(arguments.device)
    rows = train.fit(model, training, test, config)

    mean, std = data.channel_stats(training.images)
    command = ["train", "--recipe", arguments.recipe, "--data", Path(arguments.data).name]
    if arguments.data_name:
        command += ["--data-name", arguments.data_name]
    card = weights.Card(
        name=arguments.out.stem,
        config=model_config,
        classes=training.classes,
        mean=mean,
        std=std,
        data=training.name,
        training={
            "command": shlex.join(["vit-tutorial", *command]),
            **asdict(config),
            "seconds": round(rows[-1]["seconds"]),
            **weights.provenance(),
        },
    )
    card = train.make_checkpoint(model, arguments.out, card, test)
    print(_sentence(card.evaluation))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from vit_tutorial import data, train, weights

    model, card = weights.load_checkpoint(arguments.checkpoint)
    mode = "L" if card.config.in_chans == 1 else "RGB"
    test = data.load(arguments.data, "test", img_size=card.config.img_size, mode=mode)
    test = test.relabelled(card.classes)
    result = train.evaluate(
        model.to(arguments.device), test, card.mean, card.std, arguments.batch_size
    )
    answer = {"accuracy": result.accuracy, "n": result.n, "correct": result.correct}
    print(json.dumps(answer) if arguments.json else _sentence({**answer, "data": test.name}))
    return 0


def _sentence(evaluation: dict) -> str:
    return (
        f"{evaluation['correct']} of {evaluation['n']} images of {evaluation['data']} "
        f"named rightly: {evaluation['accuracy']:.2f}%"
    )

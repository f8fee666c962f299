"""The command line: `vit-tutorial doctor | train | evaluate | explain`."""

from __future__ import annotations

import argparse
import errno
import io
import json
import shlex
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from vit_tutorial.methods import METHODS

if TYPE_CHECKING:
    from torch import nn

    from vit_tutorial.compute import Compute
    from vit_tutorial.data import ImageSet
    from vit_tutorial.model import VisionTransformer, ViTConfig
    from vit_tutorial.recipes import TrainConfig
    from vit_tutorial.weights import Card

# torch and matplotlib are imported where they are needed, so that --help is printed at once.
WAYS = ("precision", "attention", "threads")  # to compute a step
OVERRIDABLE = ("epochs", "batch_size", "seed", *WAYS)  # what may be other than in the recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (doctor found a fault) or 2 (bad input)."""
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console whose alphabet lacks the tick
        sys.stdout.reconfigure(errors="replace")
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"vit-tutorial {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vit-tutorial", description="Vision Transformers, inside out.")
    commands = parser.add_subparsers(dest="command", required=True)

    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.set_defaults(run=_doctor)

    train = commands.add_parser("train", help="train a network and save it with its card")
    train.add_argument(
        "--recipe", required=True, help="smoke, digits, laptop, overnight, classroom, flagship"
    )
    train.add_argument("--data", required=True, help="cifar10, digits or an image folder")
    train.add_argument("--data-name", help="what results call the data (default: its own name)")
    train.add_argument("--out", required=True, type=Path, help="file to write, .safetensors")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="instead of the recipe's")
    length.add_argument(
        "--minutes", type=float, help="as many epochs as fit, measured at the start"
    )
    train.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    train.add_argument("--batch-size", type=int, help="instead of the recipe's")
    train.add_argument("--seed", type=int, help="default: 0")
    train.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    train.add_argument("--precision", help="float32, bfloat16 or float16 (default: the fastest)")
    train.add_argument("--attention", help="fused or plain (default: the faster one)")
    train.add_argument("--threads", type=int, help="of the CPU (default: the fastest number)")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint's accuracy")
    evaluate.add_argument("--checkpoint", required=True, help="a bundled name or a .safetensors")
    evaluate.add_argument("--data", required=True, help="cifar10, digits or an image folder")
    evaluate.add_argument("--batch-size", type=int, default=500)
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    evaluate.add_argument("--confusion", type=Path, help="PNG to write: what is taken for what")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.set_defaults(run=_evaluate)

    _add_explain(commands)
    return parser


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser("explain", help="show what a network says of images, and why")
    explain.add_argument("photos", nargs="+", metavar="photo", help="any image files")
    explain.add_argument(
        "--model",
        default="cifar10",
        help="a bundled name, a .safetensors, torchvision:NAME, timm:NAME or hf:NAME",
    )
    explain.add_argument(
        "--method",
        default="rollout",
        type=lambda name: name.replace("-", "_"),
        help=f"{', '.join(METHODS)} (default: rollout)",
    )
    explain.add_argument("--fit", default="crop", help="crop, pad or resize")
    explain.add_argument(
        "--query",
        default="head",
        help="whose map, of a picture: what the head reads (head, the default), patches, all, a "
        "token as 0, or a patch as row,column",
    )
    explain.add_argument("--size", type=int, help="read larger images, for a finer map")
    explain.add_argument(
        "--out",
        type=Path,
        help="a .png (of several images: one sheet), an .html to explore, a .gif through the "
        "layers, or a folder for one page each (default: a PNG beside each image)",
    )
    explain.set_defaults(run=_explain)


def _train(arguments: argparse.Namespace) -> int:
    from vit_tutorial import distributed, hardware, run

    device = _device(arguments.device or hardware.best_device())
    with distributed.process_group(device) as own_device:
        try:
            return _train_on(own_device, arguments)
        except KeyboardInterrupt:
            saved = run.state_path(arguments.out).exists()
            if distributed.rank() == 0 and saved:  # several do not wait for the end of a step
                point = "here" if distributed.world_size() == 1 else "where the run was last saved"
                message = f"Stopped. The same command with --resume goes on from {point}."
                print(message, file=sys.stderr)
            return 130


def _train_on(device: str, arguments: argparse.Namespace) -> int:
    import torch

    from vit_tutorial import distributed, recipes, run, train
    from vit_tutorial.model import VisionTransformer

    if arguments.recipe not in recipes.RECIPES:
        raise ValueError(
            f"--recipe must be one of {', '.join(recipes.RECIPES)}, got {arguments.recipe!r}"
        )
    recipe = recipes.RECIPES[arguments.recipe]
    options = vars(arguments)
    overrides = {name: options[name] for name in OVERRIDABLE if options[name] is not None}
    config = replace(recipe.train, **overrides)
    training, test = _sets_to_train_on(arguments, recipe.model)
    torch.manual_seed(config.seed)
    model = VisionTransformer(replace(recipe.model, num_classes=len(training.classes))).to(device)
    how = None
    if arguments.resume:
        config = _config_of_the_run(arguments.out, overrides)
    else:
        run.refuse_unfinished(arguments.out)  # before anything is measured
        if arguments.minutes is not None:
            config, how = _fitted_into(arguments.minutes, model, training, test, config)
    rows = train.fit(
        model, training, test, config, how=how, save_to=arguments.out, resume=arguments.resume
    )
    if distributed.rank() == 0:  # the others have the same network
        card = _card(arguments, config, model, training, rows[-1]["seconds"])
        print(_sentence(_write_checkpoint(model, arguments.out, card, test).evaluation))
    return 0


def _sets_to_train_on(arguments: argparse.Namespace, config: ViTConfig) -> list[ImageSet]:
    """Load the images to train on and those to test with, as the network reads them."""
    from vit_tutorial import data, images

    mode = images.colour_mode(config.in_chans)
    with _left_out_files_named():
        sets = data.load_train_test(
            arguments.data, img_size=config.img_size, mode=mode, on_error="skip"
        )
    return [replace(image_set, name=arguments.data_name or image_set.name) for image_set in sets]


def _config_of_the_run(out: Path, overrides: Mapping[str, Any]) -> TrainConfig:
    """Return how a saved run was begun, with the epochs that were measured, for example."""
    from vit_tutorial import recipes, run

    config = recipes.TrainConfig(**run.read_state(out)["config"])
    for name, value in overrides.items():
        begun = getattr(config, name)
        if value != begun:
            raise ValueError(
                f"{out} goes on as it was begun, with {name}={begun}, "
                f"got --{name.replace('_', '-')} {value}"
            )
    return config


def _fitted_into(
    minutes: float, model: nn.Module, training: ImageSet, test: ImageSet, config: TrainConfig
) -> tuple[TrainConfig, Compute]:
    """Choose as many epochs as fit into `minutes`, and how they are computed the fastest."""
    from vit_tutorial import distributed, train

    how = train.fastest(model, training, config, minutes=minutes)
    epochs = train.epochs_within(minutes, model, training, test, config, how)
    epochs = distributed.broadcast(epochs)
    if distributed.rank() == 0:
        print(f"{epochs} epochs fit into {minutes:g} minutes on this machine.")
    return replace(config, epochs=epochs), how


def _card(
    arguments: argparse.Namespace,
    config: TrainConfig,
    model: VisionTransformer,
    training: ImageSet,
    seconds: float,
) -> Card:
    """Describe a trained network, with a command that others can repeat."""
    from vit_tutorial import data, recipes, run, weights
    from vit_tutorial.provenance import provenance

    how = run.read_state(arguments.out)["how"]  # what "auto" has become
    options = {"recipe": arguments.recipe, "data": Path(arguments.data).name}
    options |= {"epochs": config.epochs, "seed": config.seed}
    if config.batch_size != recipes.RECIPES[arguments.recipe].train.batch_size:
        options["batch-size"] = config.batch_size
    options |= how
    if arguments.data_name:
        options["data-name"] = arguments.data_name
    command = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    mean, std = data.channel_stats(training.images)
    return weights.Card(
        name=arguments.out.name.removesuffix(".safetensors"),
        config=model.config,
        classes=training.classes,
        mean=mean,
        std=std,
        data=training.name,
        training={
            "command": shlex.join(["vit-tutorial", "train", *command]),
            **asdict(config),
            **how,
            "seconds": round(seconds),
            **provenance(),
        },
    )


def _write_checkpoint(model: nn.Module, out: Path, card: Card, test: ImageSet) -> Card:
    """Write the network and its card, and only then forget the run."""
    from safetensors import SafetensorError

    from vit_tutorial import run, train

    try:
        card = train.make_checkpoint(model.cpu(), out, card, test)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{out} cannot be written: {error}. The training is not lost: the same "
            f"command with --resume writes it, once there is room"
        ) from error
    run.state_path(out).unlink(missing_ok=True)
    return card


def _evaluate(arguments: argparse.Namespace) -> int:
    from vit_tutorial import data, evaluation, images, weights

    device = _device(arguments.device)
    if arguments.confusion:
        _require_writable(arguments.confusion)
    model, card = weights.load_checkpoint(arguments.checkpoint)
    mode = images.colour_mode(len(card.mean))
    with _left_out_files_named():
        test = data.load(arguments.data, "test", img_size=card.size, mode=mode, on_error="skip")
    test, model = test.relabelled(card.classes), model.to(device)
    result = evaluation.evaluate(model, test, card.mean, card.std, arguments.batch_size)
    if arguments.confusion:
        _draw_confusion(result.confusion.numpy(), result.classes, arguments.confusion)
    results = {"accuracy": result.accuracy, "n": result.n, "correct": result.correct}
    if arguments.json:
        print(json.dumps({**results, "interval": result.interval}))
        return 0
    low, high = result.interval
    print(f"{_sentence({**results, 'data': test.name})} (95% interval: {low:.2f}% to {high:.2f}%)")
    print(f"\n{result.report()}")
    if arguments.confusion:
        print(f"Picture: {arguments.confusion}")
    return 0


@contextmanager
def _left_out_files_named() -> Generator[None]:
    """Print which files of a folder cannot be read as images; the others are used."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(warning.message, file=sys.stderr)


def _draw_confusion(confusion: Any, classes: Sequence[str], path: Path) -> None:
    from vit_tutorial import files, plots

    figure = plots.confusion_matrix(confusion, classes)
    with files.atomic_write(path) as beside:
        figure.savefig(beside, format="png", dpi=150)


def _require_writable(path: Path) -> None:
    """Make sure that a file can be written before any work is done for it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error


def _device(name: str) -> str:
    """Make sure that the device is there before any work is done for it."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used on this machine: {reason}") from error
    return name


def _sentence(evaluation: dict) -> str:
    return (
        f"{evaluation['correct']} of {evaluation['n']} images of {evaluation['data']} "
        f"classified correctly: {evaluation['accuracy']:.2f}%"
    )


def _explain(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from vit_tutorial import explain, files, pretrained
    from vit_tutorial.model import VisionTransformer

    out, photos = arguments.out, arguments.photos
    kind = "" if out is None else out.suffix.lower() or "folder"
    if kind not in ("", ".png", ".html", ".gif", "folder"):
        raise ValueError(f"--out must be a .png, an .html, a .gif or a folder, got {out}")
    if kind == ".gif" and len(photos) > 1:
        raise ValueError(f"a .gif shows one image, got {len(photos)}")
    model, reading = pretrained.load_network(arguments.model)
    if arguments.size is not None:
        if not isinstance(model, VisionTransformer):
            raise ValueError(f"--size is for networks of this course, not for {arguments.model}")
        model = model.resized(arguments.size)
    options: dict[str, Any] = {"method": arguments.method, "fit": arguments.fit}
    options["query"] = _query(arguments.query)
    bar = tqdm(photos, unit="image", disable=len(photos) < 2)
    if kind in (".html", ".gif", "folder"):
        for written in explain.write_pages(model, bar, reading, out, **options):
            print(f"Written: {written}")
        return 0
    explained = []
    for photo in bar:
        item = explain.explain(model, photo, reading, **options)
        explained.append(item)
        if out is None or len(photos) == 1:
            target = out or Path(photo).with_suffix(".explained.png")
            with files.atomic_write(target) as beside:
                item.figure().savefig(beside, format="png", dpi=150)
            print(*item.said(3), sep="\n", end="\n" if item.names else "")
            print(f"Picture: {target}")
    if out is not None and len(photos) > 1:
        with files.atomic_write(out) as beside:
            explain.contact_sheet(explained).savefig(beside, format="png", dpi=150)
        print(f"Picture: {out}")
    one_of_them = explained[-1].answers in ("logits", "probabilities")
    if 0 < len(reading.classes) <= 20 and one_of_them:
        classes = ", ".join(reading.classes)
        print(f"It knows {classes}, and must name one of them whatever it is shown.")
    return 0


def _query(text: str) -> Any:
    """Read a token's number or a patch's row,column; what is neither stays a word."""
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        return text
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))


def _doctor(arguments: argparse.Namespace) -> int:
    from vit_tutorial.doctor import doctor

    return 0 if doctor() else 1


if __name__ == "__main__":
    sys.exit(main())

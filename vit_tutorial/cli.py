"""The command line: `vit-tutorial doctor | train | evaluate | explain | live`."""

from __future__ import annotations

import argparse
import errno
import glob
import io
import json
import math
import os
import shlex
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any

from vit_tutorial.methods import METHODS

if TYPE_CHECKING:
    from torch import nn

    from vit_tutorial.compute import Compute
    from vit_tutorial.data import ImageSet
    from vit_tutorial.images import Reading
    from vit_tutorial.model import VisionTransformer, ViTConfig
    from vit_tutorial.recipes import TrainConfig
    from vit_tutorial.weights import Card

# torch and matplotlib are imported where they are needed, so that --help is printed at once.
FEWEST_STEPS = 500  # of a training whose length is left to the data
WAYS = ("precision", "attention", "threads")  # to compute a step
OVERRIDABLE = ("epochs", "batch_size", "seed", *WAYS)  # what may be other than in the recipe
DATA = (
    "cifar10, digits, or a folder (or its .zip) with one folder of images per class; train/ and "
    "test/ or val/ with such folders are used as they are, anything else is split 80/20"
)
ON_ERROR: dict[str, Any] = {
    "choices": ("skip", "raise"),
    "default": "skip",
    "help": "what to do with files that cannot be read: name them and go on, or stop (default: "
    "skip)",
}
VALUE_RANGE: dict[str, Any] = {
    "nargs": 2,
    "type": float,
    "metavar": ("BLACK", "WHITE"),
    "help": "the values of black and white, as 0 4095 of images with 12 bits in 16",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: doctor found a fault, or some of several images could not be read, the others are
    done; 2: bad input; 130: stopped by Ctrl-C; 141: who reads what is printed has gone.
    """
    for name in ("stdout", "stderr"):  # None where a program was started without
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console whose alphabet lacks the tick
        sys.stdout.reconfigure(errors="replace")
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        with suppress(OSError):  # or Python would try once more to write, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"vit-tutorial {arguments.command}: {_in_words(error)}", file=sys.stderr)
        return 2
    return status


def _in_words(error: Exception) -> str:
    """Say what an error is about, without the number that the system has for it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vit-tutorial", description="Vision Transformers, inside out.")
    commands = parser.add_subparsers(dest="command", required=True)

    doctor = commands.add_parser("doctor", help="check this installation")
    doctor.set_defaults(run=_doctor)

    train = commands.add_parser("train", help="train a network and save it with its card")
    train.add_argument(
        "--recipe",
        help="smoke, digits, laptop, overnight, classroom, flagship (default: digits for the "
        "digits, else laptop, with more epochs where there are few images)",
    )
    train.add_argument("--data", required=True, help=DATA)
    train.add_argument("--on-error", **ON_ERROR)
    train.add_argument("--value-range", **VALUE_RANGE)
    train.add_argument("--data-name", help="what results call the data (default: its own name)")
    train.add_argument("--out", required=True, type=Path, help="file to write, .safetensors")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="instead of the recipe's")
    length.add_argument(
        "--minutes", type=float, help="as many epochs as fit, measured at the start"
    )
    train.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    train.add_argument(
        "--batch-size", type=int, help="instead of the recipe's, or what few images need"
    )
    train.add_argument("--seed", type=int, help="default: 0")
    train.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    train.add_argument("--precision", help="float32, bfloat16 or float16 (default: the fastest)")
    train.add_argument("--attention", help="fused or plain (default: the faster one)")
    train.add_argument("--threads", type=int, help="of the CPU (default: the fastest number)")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint's accuracy")
    evaluate.add_argument("--checkpoint", required=True, help="a bundled name or a .safetensors")
    evaluate.add_argument("--data", required=True, help=DATA)
    evaluate.add_argument("--on-error", **ON_ERROR)
    evaluate.add_argument("--value-range", **VALUE_RANGE)
    evaluate.add_argument("--batch-size", type=int, default=500)
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    evaluate.add_argument("--confusion", type=Path, help="PNG to write: what is taken for what")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.set_defaults(run=_evaluate)

    _add_explain(commands)

    live = commands.add_parser("live", help="put a network into one page that runs it")
    live.add_argument(
        "--model", default="cifar10", help="a bundled name or a .safetensors (default: cifar10)"
    )
    live.add_argument("--out", required=True, type=Path, help="file to write, .html")
    live.set_defaults(run=_live)
    return parser


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser("explain", help="show what a network says of images, and why")
    explain.add_argument(
        "photos", nargs="+", metavar="photo", help="any image files; patterns such as '*.jpg', too"
    )
    explain.add_argument(
        "--model",
        default="cifar10",
        help="a bundled name, a .safetensors, torchvision:NAME, timm:NAME or hf:NAME",
    )
    explain.add_argument(
        "--method",
        type=lambda name: name.replace("-", "_"),
        help=f"{', '.join(METHODS)} (default: rollout; for a class or a text: chefer)",
    )
    explain.add_argument(
        "--target", help="the class to explain, by name or number (default: the most probable one)"
    )
    explain.add_argument(
        "--text", nargs="+", help="what a CLIP or SigLIP is asked for: one map for each text"
    )
    explain.add_argument(
        "--head-fusion", default="mean", help="of rollout: mean, max or min of the heads"
    )
    explain.add_argument(
        "--discard",
        default=0.0,
        type=float,
        help="of rollout: the share of the least that is left out",
    )
    explain.add_argument("--value-range", **VALUE_RANGE)
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

    state = run.state_path(arguments.out)
    device = _device(arguments.device or hardware.best_device())
    with distributed.process_group(device) as own_device:
        try:
            return _train_on(own_device, arguments)
        except KeyboardInterrupt:
            if (
                distributed.rank() == 0 and state.exists()
            ):  # several do not wait for the end of a step
                point = "here" if distributed.world_size() == 1 else "where the run was last saved"
                message = f"Stopped. The same command with --resume goes on from {point}."
                print(message, file=sys.stderr)
            return 130


def _train_on(device: str, arguments: argparse.Namespace) -> int:
    import torch

    from vit_tutorial import distributed, recipes, run, train
    from vit_tutorial.model import VisionTransformer
    from vit_tutorial.progress import say

    chosen = arguments.recipe is None
    if chosen:
        arguments.recipe = "digits" if arguments.data == "digits" else "laptop"
    if arguments.recipe not in recipes.RECIPES:
        raise ValueError(
            f"--recipe must be one of {', '.join(recipes.RECIPES)}, got {arguments.recipe!r}"
        )
    recipe = recipes.RECIPES[arguments.recipe]
    options = vars(arguments)
    overrides = {name: options[name] for name in OVERRIDABLE if options[name] is not None}
    config = replace(recipe.train, **overrides)
    with _left_out_files_named() as unreadable:
        training, test = _sets_to_train_on(arguments, recipe.model)
    if chosen:
        say(f"The recipe is {arguments.recipe}: {recipe.about}. --recipe takes another one.")
    if arguments.batch_size is None and len(training) < config.batch_size:
        config = replace(config, batch_size=_batch_size_for(len(training), config.batch_size))
    if chosen and arguments.epochs is None:
        config = replace(config, epochs=_epochs_for(len(training), config))
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
        if seen := test.count_of(card.fingerprint):
            print(_seen_in_training(seen, card))
    return 1 if unreadable else 0


def _batch_size_for(images: int, usual: int) -> int:
    """Choose a batch size for few images, so that an epoch has four steps; a power of two."""
    from vit_tutorial.distributed import world_size
    from vit_tutorial.progress import say

    size = max(2 ** int(math.log2(max(images / 4, 1))), 1)
    size = max(size // world_size() * world_size(), world_size())
    say(f"The batch size is {size}, not {usual}: there are {images} images to train on.")
    return size


def _epochs_for(images: int, config: TrainConfig) -> int:
    """Choose more epochs than usual for few images, which are soon gone through."""
    from vit_tutorial.progress import say

    epochs = math.ceil(FEWEST_STEPS / max(images // config.batch_size, 1))
    if epochs <= config.epochs:
        return config.epochs
    say(f"It takes {epochs} epochs, not {config.epochs}: one has few steps. --epochs takes others.")
    return epochs


def _sets_to_train_on(
    arguments: argparse.Namespace, config: ViTConfig
) -> tuple[ImageSet, ImageSet]:
    """Load the images to train on and those to test with, as the network reads them."""
    from vit_tutorial import data, images

    mode = images.colour_mode(config.in_chans)
    return data.load_train_test(
        arguments.data,
        img_size=config.img_size,
        mode=mode,
        on_error=arguments.on_error,
        value_range=arguments.value_range,
        name=arguments.data_name,
    )


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
    if arguments.value_range:
        command += ["--value-range", *(f"{value:g}" for value in arguments.value_range)]
    mean, std = data.channel_stats(training.images)
    return weights.Card(
        name=arguments.out.name.removesuffix(".safetensors"),
        config=model.config,
        classes=training.classes,
        mean=mean,
        std=std,
        data=arguments.data_name or training.name,
        fingerprint=training.fingerprint(),
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
    from vit_tutorial import evaluation, weights

    device = _device(arguments.device)
    if arguments.confusion:
        _require_writable(arguments.confusion)
    model, card = weights.load_checkpoint(arguments.checkpoint)
    with _left_out_files_named() as unreadable:
        test = _images_to_evaluate(arguments, card)
    seen = test.count_of(card.fingerprint) if card.fingerprint else None
    test, model = test.relabelled(card.classes), model.to(device)
    result = evaluation.evaluate(model, test, card.mean, card.std, arguments.batch_size)
    if arguments.confusion:
        _draw_confusion(result.confusion.numpy(), result.classes, arguments.confusion)
    results = {
        "accuracy": result.accuracy,
        "n": result.n,
        "correct": result.correct,
        "data": test.name,
        "split": test.split,
    }
    known = _seen_in_training(seen, card)
    if arguments.json:
        print(json.dumps({**results, "interval": result.interval, "trained_on": seen}))
        print(known, file=sys.stderr)
        return 1 if unreadable else 0
    low, high = result.interval
    print(f"{_sentence(results)} (95% interval: {low:.2f}% to {high:.2f}%)")
    print(f"{known}\n\n{result.report()}")
    if arguments.confusion:
        print(f"Picture: {arguments.confusion}")
    return 1 if unreadable else 0


def _images_to_evaluate(arguments: argparse.Namespace, card: Card) -> ImageSet:
    """Load the test images; of a folder that the training has split, the part it held out."""
    from vit_tutorial import data, images

    whole = data.load(
        arguments.data,
        "test",
        img_size=card.size,
        mode=images.colour_mode(len(card.mean)),
        on_error=arguments.on_error,
        value_range=arguments.value_range,
    )
    if data.is_split(arguments.data) or not card.fingerprint:
        return whole
    try:
        training, held_out = data.split_in_two(whole)
    except ValueError:  # too few to be split
        return whole
    return held_out if data.same_data(training.fingerprint(), card.fingerprint) else whole


def _seen_in_training(seen: int | None, card: Card) -> str:
    """Say whether the network was trained on images that it is measured on."""
    from vit_tutorial.data import SAMPLE

    if seen is None:
        return "Data unknown: the card does not say whether these images were trained on."
    if not seen:
        return f"None of them is known to be among the {card.fingerprint['images']} trained on."
    least = "" if card.fingerprint["images"] <= SAMPLE else "at least "
    return (
        f"Careful: the network was trained on {least}{seen} of these images, so this does not say "
        f"how well it does on new ones."
    )


@contextmanager
def _left_out_files_named() -> Generator[list[str]]:
    """Print what of a folder is not used; give, afterwards, what cannot be read as an image."""
    from vit_tutorial.folders import UnreadableWarning

    unreadable: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield unreadable
    unreadable += [str(w.message) for w in caught if issubclass(w.category, UnreadableWarning)]
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        print(message, file=sys.stderr)


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
    which = f"{evaluation['split']} images".lstrip()
    return (
        f"{evaluation['correct']} of {evaluation['n']} {which} of {evaluation['data']} "
        f"classified correctly: {evaluation['accuracy']:.2f}%"
    )


def _explain(arguments: argparse.Namespace) -> int:
    from vit_tutorial import methods, pretrained
    from vit_tutorial.model import VisionTransformer

    out, photos = arguments.out, _matching(arguments.photos)
    kind = "" if out is None else "folder" if out.is_dir() else out.suffix.lower() or "folder"
    in_the_way = kind == "folder" and out is not None and out.exists() and not out.is_dir()
    if kind not in ("", ".png", ".html", ".gif", "folder") or in_the_way:
        raise ValueError(f"--out must be a .png, an .html, a .gif or a folder, got {out}")
    if kind == ".gif" and len(photos) > 1:
        raise ValueError(f"a .gif shows one image, got {len(photos)}")
    if out is not None and kind != "folder":
        _require_writable(out)
    texts, target = arguments.text or [], arguments.target
    if texts and target is not None:
        raise ValueError("give --text or --target: each says what to explain")
    if kind == ".gif" and len(texts) > 1:
        raise ValueError(f"a .gif shows one text, got {len(texts)}")
    asked = texts or target is not None
    arguments.method = arguments.method or ("chefer" if asked else "rollout")
    methods.require_options(
        arguments.method,
        target=texts or target,
        query=_query(arguments.query),
        head_fusion=arguments.head_fusion,
        discard_ratio=arguments.discard,
    )
    model, reading = pretrained.load_network(arguments.model, texts)
    if arguments.size is not None:
        if not isinstance(model, VisionTransformer):
            raise ValueError(f"--size is for networks of this course, not for {arguments.model}")
        model = model.resized(arguments.size)
    broken: list[str] = []
    with TemporaryDirectory() as scratch:
        readable = _readable(photos, arguments.value_range, Path(scratch), broken)
        _write_explanations(arguments, kind, model, reading, len(photos), readable)
    if len(broken) == len(photos):
        raise ValueError("; ".join(broken))
    for reason in broken:
        print(f"vit-tutorial explain: left out: {reason}", file=sys.stderr)
    return 1 if broken else 0


def _matching(patterns: Sequence[str]) -> list[str]:
    """Find the files of patterns as "*.jpg", which not every shell does."""
    photos = []
    for pattern in patterns:
        if Path(pattern).exists() or not glob.has_magic(pattern):
            photos.append(pattern)
            continue
        found = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
        if not found:
            raise ValueError(f"there is no file that matches {pattern}")
        photos += found
    return photos


def _readable(
    photos: Sequence[str],
    value_range: tuple[float, float] | None,
    scratch: Path,
    broken: list[str],
) -> Generator[tuple[str, str]]:
    """Give each photo that can be read, and the file to read it from; note the others in `broken`.

    With a `value_range` that is a copy of 8 bits, in the folder `scratch`.
    """
    from tqdm import tqdm

    from vit_tutorial.images import open_image

    for photo in tqdm(photos, unit="image", disable=len(photos) < 2):
        try:
            image = open_image(photo, value_range=value_range)
        except (ValueError, OSError) as error:
            broken.append(str(error))
            continue
        if value_range is None:
            yield photo, photo
            continue
        copy = scratch / Path(photo).with_suffix(".png").name
        image.save(copy)
        yield photo, str(copy)


def _write_explanations(
    arguments: argparse.Namespace,
    kind: str,
    model: nn.Module,
    reading: Card | Reading,
    count: int,
    readable: Generator[tuple[str, str]],
) -> None:
    """Write, of `count` photos those that can be read, as pages, as pictures or as one sheet."""
    from vit_tutorial import explain, files

    options: dict[str, Any] = {"method": arguments.method, "fit": arguments.fit}
    options |= {"query": _query(arguments.query), "head_fusion": arguments.head_fusion}
    options["discard_ratio"] = arguments.discard
    targets = arguments.text or [arguments.target]
    if kind in (".html", ".gif", "folder"):
        images = (file for _, file in readable)
        pages = explain.write_pages(
            model, images, reading, arguments.out, targets=targets, **options
        )
        for written in pages:
            print(f"Written: {written}")
        return
    explained, pictures = [], set()
    for photo, file in readable:
        items = [explain.explain(model, file, reading, target=t, **options) for t in targets]
        explained += items
        if arguments.out is None or count == 1:
            picture = arguments.out or Path(photo).with_suffix(".explained.png")
            if picture in pictures:  # of photo.jpg beside photo.png
                picture = Path(f"{photo}.explained.png")
            pictures.add(picture)
            figure = items[0].figure() if len(items) == 1 else explain.contact_sheet(items)
            with files.atomic_write(picture) as beside:
                figure.savefig(beside, format="png", dpi=150)
            lines = items[0].lines(max(3, len(targets)))
            print(*lines, sep="\n", end="\n" if lines else "")
            print(f"Picture: {picture}")
    if arguments.out is not None and count > 1 and explained:
        with files.atomic_write(arguments.out) as beside:
            explain.contact_sheet(explained).savefig(beside, format="png", dpi=150)
        print(f"Picture: {arguments.out}")
    one_of_them = explained and explained[-1].output_kind in ("logits", "probabilities")
    if 0 < len(reading.classes) <= 20 and one_of_them:
        classes = ", ".join(reading.classes)
        print(f"It knows {classes}, and must name one of them whatever it is shown.")


def _query(text: str) -> Any:
    """Read a token's number or a patch's row,column; what is neither stays a word."""
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        return text
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))


def _live(arguments: argparse.Namespace) -> int:
    from vit_tutorial.explorer import live

    if arguments.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {arguments.out}")
    live(arguments.model).save_html(arguments.out)
    size = arguments.out.stat().st_size / 1e6
    print(f"wrote {arguments.out}, {size:.1f} MB: open it in a browser, with or without a network")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from vit_tutorial.doctor import doctor

    return 0 if doctor() else 1


if __name__ == "__main__":
    sys.exit(main())

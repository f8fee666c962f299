"""The command line: `vit-tutorial doctor | train | evaluate | explain`."""

import argparse
import errno
import io
import json
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from importlib.metadata import metadata, requires, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

# torch and matplotlib are imported where they are needed, so that --help answers at once.


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
    train.add_argument("--seed", type=int, default=0)
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

    explain = commands.add_parser("explain", help="show what a network says of images, and why")
    explain.add_argument("photos", nargs="+", metavar="photo", help="any image files")
    explain.add_argument(
        "--model",
        default="cifar10",
        help="a bundled name, a .safetensors, torchvision:NAME, timm:NAME or hf:NAME",
    )
    explain.add_argument("--method", default="rollout", help="rollout, last-layer, chefer, "
                         "grad_rollout, legrad or grad_cam")  # fmt: skip
    explain.add_argument("--fit", default="crop", help="crop, pad or resize")
    explain.add_argument("--size", type=int, help="read larger images, for a finer map")
    explain.add_argument(
        "--out",
        type=Path,
        help="a .png (of several images: one sheet), an .html to explore, a .gif through the "
        "layers, or a folder for one page each (default: a PNG beside each image)",
    )
    explain.set_defaults(run=_explain)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    from vit_tutorial import hardware

    device = _device(arguments.device or hardware.best_device())
    with hardware.processes(device) as own_device:
        try:
            return _train_on(own_device, arguments)
        except KeyboardInterrupt:
            if hardware.rank() == 0:  # several do not wait for the end of a step to save it
                place = "here" if hardware.world_size() == 1 else "where the run was last saved"
                said = f"Stopped. The same command with --resume goes on from {place}."
                print(said, file=sys.stderr)
            return 130


def _train_on(device: str, arguments: argparse.Namespace) -> int:
    import torch
    from safetensors import SafetensorError

    from vit_tutorial import data, hardware, recipes, run, train, weights
    from vit_tutorial.model import VisionTransformer
    from vit_tutorial.provenance import provenance

    if arguments.recipe not in recipes.RECIPES:
        raise ValueError(
            f"--recipe must be one of {', '.join(recipes.RECIPES)}, got {arguments.recipe!r}"
        )
    recipe = recipes.RECIPES[arguments.recipe]
    names = ("epochs", "batch_size", "seed", "precision", "attention", "threads")
    given = {name: getattr(arguments, name) for name in names}
    config = replace(recipe.train, **{k: v for k, v in given.items() if v is not None})
    mode = "L" if recipe.model.in_chans == 1 else "RGB"
    with _left_out_files_named():
        sets = data.load_train_test(
            arguments.data, img_size=recipe.model.img_size, mode=mode, on_error="skip"
        )
    training, test = (replace(images, name=arguments.data_name or images.name) for images in sets)
    model_config = replace(recipe.model, num_classes=len(training.classes))

    torch.manual_seed(config.seed)
    model, how = VisionTransformer(model_config).to(device), None
    if arguments.resume:  # with the number of epochs that was measured, for example
        config = recipes.TrainConfig(**run.read_state(arguments.out)["config"])
        if arguments.epochs not in (None, config.epochs):
            raise ValueError(
                f"{arguments.out} was begun with {config.epochs} epochs and goes on with as many, "
                f"got --epochs {arguments.epochs}"
            )
        for name in ("precision", "attention", "threads"):
            begun = getattr(config, name)
            if given[name] not in (None, begun):
                raise ValueError(
                    f"{arguments.out} goes on as it was begun, with {name}={begun}, "
                    f"got --{name} {given[name]}"
                )
    else:
        run.refuse_unfinished(arguments.out)  # before anything is measured
    if arguments.minutes is not None and not arguments.resume:
        minutes = arguments.minutes
        how = train.fastest(model, training, config, minutes=minutes)
        epochs = train.epochs_within(minutes, model, training, test, config, how)
        epochs = hardware.agreed(epochs)
        config = replace(config, epochs=epochs)
        if hardware.rank() == 0:
            print(f"{epochs} epochs fit into {minutes:g} minutes on this machine.")
    rows = train.fit(
        model, training, test, config, how=how, save_to=arguments.out, resume=arguments.resume
    )
    if hardware.rank() > 0:
        return 0

    mean, std = data.channel_stats(training.images)
    command = ["train", "--recipe", arguments.recipe, "--data", Path(arguments.data).name]
    command += ["--epochs", str(config.epochs), "--seed", str(config.seed)]
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
            **run.read_state(arguments.out)["how"],  # "auto" is nothing that others can repeat
            "seconds": round(rows[-1]["seconds"]),
            **provenance(),
        },
    )
    try:
        card = train.make_checkpoint(model.cpu(), arguments.out, card, test)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{arguments.out} cannot be written: {error}. The training is not lost: the same "
            f"command with --resume writes it, once there is room"
        ) from error
    run.state_path(arguments.out).unlink(missing_ok=True)  # nothing is left to go on with
    print(_sentence(card.evaluation))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from vit_tutorial import data, evaluation, weights

    device = _device(arguments.device)
    if arguments.confusion:
        _require_writable(arguments.confusion)
    model, card = weights.load_checkpoint(arguments.checkpoint)
    size, mode = card.config.img_size, "L" if card.config.in_chans == 1 else "RGB"
    with _left_out_files_named():
        test = data.load(arguments.data, "test", img_size=size, mode=mode, on_error="skip")
    test, model = test.relabelled(card.classes), model.to(device)
    result = evaluation.evaluate(model, test, card.mean, card.std, arguments.batch_size)
    if arguments.confusion:
        _draw_confusion(result.confusion.numpy(), result.classes, arguments.confusion)
    answer = {"accuracy": result.accuracy, "n": result.n, "correct": result.correct}
    if arguments.json:
        print(json.dumps({**answer, "interval": result.interval}))
        return 0
    low, high = result.interval
    print(f"{_sentence({**answer, 'data': test.name})} (95% interval: {low:.2f}% to {high:.2f}%)")
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
    with files.whole_file(path) as beside:
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
        f"named rightly: {evaluation['accuracy']:.2f}%"
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
    model, about = pretrained.load_network(arguments.model)
    if arguments.size is not None:
        if not isinstance(model, VisionTransformer):
            raise ValueError(f"--size is for networks of this course, not for {arguments.model}")
        model = model.resized(arguments.size)
    options = {"method": arguments.method, "fit": arguments.fit}
    bar = tqdm(photos, unit="image", disable=len(photos) < 2)
    if kind in (".html", ".gif", "folder"):
        for written in explain.write_pages(model, bar, about, out, **options):
            print(f"Written: {written}")
        return 0
    explained = []
    for photo in bar:
        each = explain.explain(model, photo, about, **options)
        explained.append(each)
        if out is None or len(photos) == 1:
            target = out or Path(photo).with_suffix(".explained.png")
            with files.whole_file(target) as beside:
                each.figure().savefig(beside, format="png", dpi=150)
            for name, probability in list(zip(each.names, each.probabilities, strict=True))[:3]:
                print(f"{probability:6.1%}  {name}")
            print(f"Picture: {target}")
    if out is not None and len(photos) > 1:
        with files.whole_file(out) as beside:
            explain.contact_sheet(explained).savefig(beside, format="png", dpi=150)
        print(f"Picture: {out}")
    if len(about.classes) <= 20:
        known = ", ".join(about.classes)
        print(f"It knows {known}, and must name one of them whatever it is shown.")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    return 0 if doctor() else 1


def doctor() -> bool:
    """Check this installation, print a line per finding, and tell whether all is well.

    Looks at Python and the libraries, runs the bundled networks on every device that there is and
    compares with the CPU, measures the digits again and compares with the card, and says which
    data is on disk.
    """
    findings = [_check(name, check) for name, check in _CHECKS.items()]
    print("All is well." if all(findings) else "Something needs a look: see the lines with ✗.")
    return all(findings)


def _check(name: str, check: Callable[[], str]) -> bool:
    try:
        print(f"✓ {name}: {check()}")
    except Exception as error:  # whatever is broken, the other checks still run
        print(f"✗ {name}: {error}")
        return False
    return True


def _check_python() -> str:
    return f"{platform.python_version()} on {platform.system()}"


def _check_libraries() -> str:
    """Import what the lessons use: a wheel for another machine is found out only then."""
    names = ("torch", "torchvision", "matplotlib", "ipywidgets", "einops", "safetensors")
    for name in names:
        if name != "torchvision":  # takes seconds to import, and says which torch it needs
            import_module(name)
    needs = re.search(r"\btorch \(?==([\d.]+)", "; ".join(requires("torchvision") or []))
    wanted, found = needs and needs[1], version("torch").split("+")[0]
    if wanted and wanted != found:
        raise ValueError(
            f"torchvision {version('torchvision')} was built for torch {wanted}, but torch is "
            f"{found}: install both together"
        )
    return ", ".join(f"{name} {version(name)}" for name in names)


def _check_devices() -> str:
    import torch

    from vit_tutorial.weights import load_checkpoint

    model, _ = load_checkpoint("cifar10")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images)
        found = [f"cpu, {torch.get_num_threads()} threads"]
        for device in ("cuda", "mps"):
            if not getattr(torch, device).is_available():
                continue
            gap = (model.to(device)(images.to(device)).cpu() - expected).abs().max().item()
            if gap > 1e-2:
                raise ValueError(f"{device} and cpu disagree by {gap:.2g} on the same image")
            found.append(f"{device}, which agrees with the cpu within {gap:.0e}")
    return "; ".join(found)


def _check_checkpoints() -> str:
    from vit_tutorial import data, train, weights

    model, card = weights.load_checkpoint("digits")
    result = train.evaluate(model, data.digits("test"), card.mean, card.std)
    if abs(result.correct - card.evaluation["correct"]) > 1:  # another chip may round otherwise
        raise ValueError(
            f"digits names {result.correct} of {result.n} rightly, "
            f"its card says {card.evaluation['correct']}"
        )
    return f"{', '.join(weights.bundled())}; digits measured again: {result.accuracy:.1f}%"


def _check_data() -> str:
    from vit_tutorial.data import cifar10

    try:
        cifar10("test", download=False)
    except (OSError, ValueError):
        return "digits and photographs; CIFAR-10 is not on disk, and the lessons do without it"
    return "digits, photographs and CIFAR-10"


def _check_address() -> str:
    urls = metadata("vit-tutorial").get_all("Project-URL") or []
    address = next((url.split(", ")[1] for url in urls if url.startswith("Repository")), "none")
    if "OWNER" in address:
        return (
            f"{address} is a placeholder; Colab links work once pyproject.toml names the real one"
        )
    return address


_CHECKS: dict[str, Callable[[], str]] = {
    "Python": _check_python,
    "libraries": _check_libraries,
    "devices": _check_devices,
    "networks": _check_checkpoints,
    "data": _check_data,
    "course address": _check_address,
}


if __name__ == "__main__":
    sys.exit(main())

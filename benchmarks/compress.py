"""Make the bundled CIFAR-10 network smaller or faster in every way of lesson 12, and measure each.

Run it with `.venv/bin/python benchmarks/compress.py --data cifar10 --seeds 3` (or an image folder
with the subfolders `train` and `test`, and `--data-name`) on a machine that does nothing else.
Every network names all test images, and is timed in turns with the original. Which heads are taken
away is measured on training images.

Networks of half the depth are trained for `--epochs`, from the labels or from the original network.
Results are written after every one of them, and the same command goes on where a stopped one was: a
network that was trained is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import shlex
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import results
import torch
import torch.nn.functional as F
from accuracy import run_command
from torch import Tensor, nn

from vit_tutorial.compress import (
    TokenMerging,
    accuracy_change,
    distillation,
    every_other_layer,
    head_importance,
    num_bytes,
    prune_heads,
    ratio,
    time_in_turns,
    to_int8,
)
from vit_tutorial.data import ImageSet, load_train_test, normalize
from vit_tutorial.evaluation import evaluate
from vit_tutorial.files import whole_file
from vit_tutorial.model import VisionTransformer
from vit_tutorial.recipes import RECIPES, TrainConfig
from vit_tutorial.run import state_path
from vit_tutorial.train import fit
from vit_tutorial.weights import Card, load_checkpoint

BATCH, ROUNDS = 64, 9  # images that are timed together, and how often
MEASURED_ON = 2000  # training images, for the importance of heads
SHARES, MERGED = (0.25, 0.5), (2, 4, 6)  # heads taken away; pairs of tokens merged in every layer
DRAWS = 3  # of heads at random
LENGTHS = (65, 197, 577, 1025, 2049)  # tokens of 32x32/4, 224/16, 384/16, 512/16 and 2 * 512/16
TRAINING = replace(RECIPES["laptop"].train, warmup=0.05)
STUDENTS = ("half the layers, from scratch", "half the layers, labels", "half the layers, teacher")


@dataclass(frozen=True)
class Work:
    """The original network, its card and the data; and how students are trained."""

    model: VisionTransformer
    card: Card
    train: ImageSet
    test: ImageSet
    epochs: int

    def key(self, what: str, seed: int) -> str:
        """Name one training, so that nothing else is taken for it."""
        weights = hashlib.sha256()
        for value in self.model.state_dict().values():
            weights.update(value.numpy().tobytes())
        training = {k: v for k, v in asdict(TRAINING).items() if k not in ("epochs", "seed")}
        data = [self.train.name, len(self.train), len(self.test)]
        said = [what, seed, self.epochs, weights.hexdigest(), training, data]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


# ---- The networks --------------------------------------------------------------------------------


def importance(work: Work) -> list[Tensor]:
    """Measure every head on training images, in batches: for each layer, (heads,)."""
    few = work.train[torch.randperm(len(work.train), generator=_seeded(0))[:MEASURED_ON]]
    pixels = normalize(few.images, work.card.mean, work.card.std)
    parts = [
        [len(labels) * layer for layer in head_importance(work.model, images, labels)]
        for images, labels in zip(pixels.split(250), few.labels.split(250), strict=True)
    ]
    return [torch.stack(layer).sum(dim=0) / len(few) for layer in zip(*parts, strict=True)]


def magnitude(model: VisionTransformer) -> list[Tensor]:
    """Take the norm of the weights that read each head: for each layer, (heads,)."""
    heads, found = model.config.num_heads, []
    for block in model.blocks:
        columns = block.attn.proj.weight.detach().unflatten(1, (heads, -1))  # ty: ignore
        found.append(columns.norm(dim=(0, 2)))
    return found


def first_heads(scores: Sequence[Tensor], count: int) -> dict[int, list[int]]:
    """Choose the `count` heads of the lowest scores, never all of a layer: {layer: heads}."""
    gone: dict[int, list[int]] = {}
    heads = len(scores[0])
    for number in torch.cat(list(scores)).argsort().tolist():
        layer, head = divmod(number, heads)
        if sum(map(len, gone.values())) < count and len(gone.get(layer, [])) < heads - 1:
            gone.setdefault(layer, []).append(head)
    return gone


def variants(work: Work) -> Iterator[tuple[str, str, nn.Module]]:
    """Make every network that needs no training: kind, what it is, and the network."""
    model = work.model
    yield "none", "as it is", model
    yield "precision", "bfloat16", Half(model)
    yield "precision", "8 bits, ours", to_int8(model)
    if (theirs := torch_int8(model)) is not None:
        yield "precision", "8 bits, PyTorch's", theirs
    heads = model.config.depth * model.config.num_heads
    scores = {"by importance": importance(work), "by magnitude": magnitude(model)}
    for draw in range(DRAWS):
        chance = torch.rand(heads, generator=_seeded(draw)).split(model.config.num_heads)
        scores[f"at random ({draw})"] = list(chance)
    for share in SHARES:
        for rule, numbers in scores.items():
            gone = first_heads(numbers, round(share * heads))
            yield "heads", f"{share:.0%} of the heads gone, {rule}", prune_heads(model, gone)
    for r in MERGED:
        yield "tokens", f"{r} pairs of tokens merged a layer", TokenMerging(model, r)
    yield "layers", "half the layers, not trained", every_other_layer(model)


class Half(nn.Module):
    """A copy of a network in bfloat16 that takes and gives float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).bfloat16()

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.model(images.bfloat16()).float()


def torch_int8(model: nn.Module) -> nn.Module | None:
    """Let PyTorch quantise the linear layers, with kernels for whole numbers; None if it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will go one day, and says so
        try:
            library: Any = torch.ao.quantization
            made = library.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
            made(torch.zeros(1, *images_shape(model)))
        except (AttributeError, ImportError, RuntimeError):
            return None
    return made


def images_shape(model: Any) -> tuple[int, int, int]:
    """Return the shape of one image that a network takes, (C, H, W)."""
    return (model.config.in_chans, *model.config.image_hw)


# ---- Students ------------------------------------------------------------------------------------


def student(work: Work, what: str, seed: int) -> tuple[VisionTransformer, TrainConfig]:
    """Train a network of half the depth, or go on with the training that was stopped."""
    torch.manual_seed(seed)
    network = every_other_layer(work.model)
    if what == STUDENTS[0]:
        network = VisionTransformer(network.config)
    options: dict[str, Any] = {}
    if what == STUDENTS[2]:
        options["objective"] = distillation(work.model)
    config = replace(TRAINING, epochs=work.epochs, seed=seed)
    config = replace(config, batch_size=min(config.batch_size, len(work.train)))
    path = results.ROOT / "runs" / "benchmarks" / f"compress_{work.key(what, seed)}"
    resume = state_path(path).exists()
    fit(network.train(), work.train, None, config, save_to=path, resume=resume, **options)
    return network.eval(), config


# ---- Measuring -----------------------------------------------------------------------------------


def named(work: Work, network: nn.Module) -> tuple[Tensor, dict[str, Any]]:
    """Name all test images: which are right (n,), and the accuracy with its interval."""
    result = evaluate(network, work.test, work.card.mean, work.card.std)
    low, high = result.interval
    right = result.predictions == result.labels
    return right, {
        "correct": result.correct,
        "n": result.n,
        "accuracy": round(result.accuracy, 2),
        "accuracy_low": round(low, 2),
        "accuracy_high": round(high, 2),
    }


def compared(right: Tensor, original: Tensor) -> dict[str, float]:
    """Say how many percent more are right than by the original, image by image, with interval."""
    middle, low, high = accuracy_change(original, right)
    return {
        "difference": round(middle, 2),
        "difference_low": round(low, 2),
        "difference_high": round(high, 2),
    }


def timed(calls: Mapping[str, Callable[[], object]], base: str) -> dict[str, dict[str, float]]:
    """Time calls in turns: each one's milliseconds, and how many times as fast as `base`."""
    with torch.inference_mode():
        seconds = time_in_turns(calls, ROUNDS)
    rows = {}
    for name, each in seconds.items():
        middle, low, high = ratio(each, seconds[base])
        rows[name] = {
            "ms": round(1000 * statistics.median(each), 3),
            "ratio_median": round(middle, 3),
            "ratio_low": round(low, 3),
            "ratio_high": round(high, 3),
        }
    return rows


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with its table of weights: softmax(q k^T / sqrt(d)) v."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def attention_rows(model: VisionTransformer) -> Iterator[dict[str, Any]]:
    """Time attention written out against PyTorch's fused kernel, for growing numbers of tokens."""
    heads, wide = model.config.num_heads, model.config.head_dim
    for tokens in LENGTHS:
        q, k, v = torch.randn(3, 1, heads, tokens, wide, generator=_seeded(0))
        calls = {
            "written out": lambda q=q, k=k, v=v: written_out(q, k, v),
            "fused": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
        }
        times = timed(calls, "written out")
        yield {
            "table": "attention",
            "what": f"{tokens} tokens, fused",
            "against": "written out",
            "tokens": tokens,
            "table_mb": round(heads * tokens**2 * 4 / 1e6, 3),
            "their_ms": times["written out"]["ms"],
            **times["fused"],
        }


def network_rows(work: Work) -> list[dict[str, Any]]:
    """Measure every network that needs no training, the original first."""
    networks = {what: (kind, network.eval()) for kind, what, network in variants(work)}
    images = normalize(work.test.images[:BATCH], work.card.mean, work.card.std)
    calls = {what: lambda n=network: n(images) for what, (_, network) in networks.items()}
    times = timed(calls, "as it is")
    original, rows = None, []
    for what, (kind, network) in networks.items():
        right, accuracy = named(work, network)
        original = right if original is None else original
        rows.append(
            {
                "table": "networks",
                "kind": kind,
                "what": what,
                **accuracy,
                **compared(right, original),
                **times[what],
                "bytes": size(network),
                "threads": torch.get_num_threads(),
                "batch": len(images),
            }
        )
        print(f"{what}: {accuracy['accuracy']}%, x{times[what]['ratio_median']}", flush=True)
    return rows


def size(network: nn.Module) -> int:
    """Count the bytes of the weights; of PyTorch's own kind of layers, those of the file."""
    if not all(isinstance(value, Tensor) for value in network.state_dict().values()):
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        return file.tell()
    return num_bytes(network)


def student_row(work: Work, what: str, seeds: int, original: Tensor) -> dict[str, Any] | None:
    """Measure what was trained so far of one kind of student; None where there is nothing yet."""
    found = [numbers for seed in range(seeds) if (numbers := kept(work, what, seed))]
    if not found:
        return None
    accuracies = [numbers["accuracy"] for numbers in found]
    half = every_other_layer(work.model)
    images = normalize(work.test.images[:BATCH], work.card.mean, work.card.std)
    times = timed({"as it is": lambda: work.model(images), "": lambda: half(images)}, "as it is")
    return {
        "table": "students",
        "kind": "layers",
        "what": what,
        "seeds": list(range(len(found))),
        "epochs": work.epochs,
        "test_accuracy_mean": round(statistics.mean(accuracies), 2),
        "test_accuracy_std": round(statistics.stdev(accuracies), 2) if len(found) > 1 else None,
        "test_accuracies": accuracies,
        "difference": round(statistics.mean(accuracies) - 100 * original.double().mean().item(), 2),
        **times[""],
        "bytes": num_bytes(half),
        "threads": torch.get_num_threads(),
        "batch": len(images),
        "seconds": round(statistics.mean(numbers["seconds"] for numbers in found), 1),
    }


def kept(work: Work, what: str, seed: int) -> dict[str, Any] | None:
    """Return the numbers of one student, None where it has not been trained."""
    path = kept_at(work, what, seed)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kept_at(work: Work, what: str, seed: int) -> Path:
    """Return where the numbers of one student are kept."""
    return results.ROOT / "runs" / "benchmarks" / f"compress_{work.key(what, seed)}.json"


def train_student(work: Work, what: str, seed: int) -> None:
    """Train one student and keep its numbers, if that has not been done."""
    path = kept_at(work, what, seed)
    if path.exists():
        return
    network, _ = student(work, what, seed)
    _, accuracy = named(work, network)
    state = state_path(path.with_suffix(""))
    numbers = {"accuracy": accuracy["accuracy"], "seconds": seconds_of(path.with_suffix(".csv"))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        beside.write_text(json.dumps(numbers), encoding="utf-8")
    state.unlink(missing_ok=True)
    print(f"{what}, seed {seed}: {accuracy['accuracy']}%", flush=True)


def seconds_of(table: Path) -> float:
    """Read from a run's table how long it took."""
    heading, *_, last = table.read_text(encoding="utf-8").splitlines()
    return float(dict(zip(heading.split(","), last.split(","), strict=False))["seconds"])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, train, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="cifar10, or an image folder")
    parser.add_argument("--data-name", help="what results call the data")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="0 to N - 1")
    parser.add_argument("--epochs", type=int, default=4, help="of every student")
    parser.add_argument("--images", type=int, help="so many to train and to test, for a trial")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--name", default="compress", help="of the results file")
    return run_command(_compress, parser.parse_args(argv))


def _compress(options: argparse.Namespace) -> None:
    if options.seeds < 0 or options.epochs < 1 or options.threads < 1:
        raise ValueError(
            f"--seeds must be 0 or more, --epochs and --threads 1 or more, got {options.seeds}, "
            f"{options.epochs} and {options.threads}"
        )
    torch.set_num_threads(options.threads)
    model, card = load_checkpoint("cifar10")
    train, test = load_train_test(options.data, img_size=model.config.image_hw)
    train, test = (replace(part, name=options.data_name or part.name) for part in (train, test))
    if options.images:
        train, test = (
            part[torch.randperm(len(part), generator=_seeded(0))] for part in (train, test)
        )
        train, test = train[: options.images], test[: options.images]
    work = Work(model.eval().requires_grad_(False), card, train, test, options.epochs)
    shown = ["--data", Path(options.data).name, "--seeds", str(options.seeds)]
    for name, default in (("epochs", 4), ("images", None), ("threads", 1), ("name", "compress")):
        if getattr(options, name) != default:
            shown += [f"--{name}", str(getattr(options, name))]
    shown += ["--data-name", options.data_name] if options.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/compress.py", *shown])
    fixed = [*network_rows(work), *attention_rows(work.model)]
    original, _ = named(work, work.model)

    def write() -> None:
        rows = [student_row(work, what, options.seeds, original) for what in STUDENTS]
        results.write_results(
            options.name,
            command=command,
            data=train.name,
            rows=[*fixed, *(row for row in rows if row is not None)],
        )

    write()
    for seed in range(options.seeds):
        for what in STUDENTS:
            train_student(work, what, seed)
            write()


if __name__ == "__main__":
    sys.exit(main())

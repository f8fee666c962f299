"""Make the bundled CIFAR-10 network smaller or faster in every way of lesson 12, and measure each.

Run it with `.venv/bin/python benchmarks/compress.py --data cifar10 --seeds 3` (or an image folder
with the subfolders `train` and `test`, and `--data-name`) on a machine that does nothing else.
Every network names all test images, and is timed in turns with the original. Which heads are taken
away is measured on training images.

Networks of half the depth are trained for `--epochs`, from the labels or from the original network.
Results are written after every one of them, and the same command goes on where a stopped one was:
what was measured is not measured again, and a network that was trained is not trained again. Once
all is done, the same command measures anew, and trains nothing.
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
from functools import partial
from pathlib import Path
from typing import Any

import results
import torch
import torch.nn.functional as F
from accuracy import run_command
from torch import Tensor, nn

from vit_tutorial.compress import (
    TokenMerging,
    distillation,
    every_other_layer,
    head_importance,
    num_bytes,
    prune_heads,
    ratio,
    time_in_turns,
    to_int8,
)
from vit_tutorial.data import ImageSet, load_train_test
from vit_tutorial.evaluation import evaluate
from vit_tutorial.files import atomic_write, companion
from vit_tutorial.images import normalize
from vit_tutorial.intervals import accuracy_change
from vit_tutorial.model import VisionTransformer
from vit_tutorial.provenance import provenance
from vit_tutorial.recipes import RECIPES
from vit_tutorial.run import state_path
from vit_tutorial.train import fit
from vit_tutorial.weights import Card, load_checkpoint

BATCH, ROUNDS = 64, 9  # images that are timed together, and how often
MEASURED_ON = 2000  # training images, for the importance of heads
SHARES, MERGED = (0.25, 0.5), (2, 4, 6)  # heads taken away; pairs of tokens merged in every layer
DRAWS = 3  # of heads at random
LENGTHS = (65, 197, 577, 1025, 2049)  # tokens of 32x32/4, 224/16, 384/16, 512/16 and 2 * 512/16
TRAINING = replace(RECIPES["laptop"].train, warmup=0.05, patch_drop=0.0, clean=0.0)
UNTOUCHED, CUT = "as it is", "half the layers, not trained"
STUDENTS = ("half the layers, from scratch", "half the layers, labels", "half the layers, teacher")


@dataclass(frozen=True)
class Work:
    """The original network, its card and the data; and how students are trained."""

    model: VisionTransformer
    card: Card
    train: ImageSet
    test: ImageSet
    epochs: int

    def cache_path(self, what: str, *how: Any) -> Path:
        """Return where the numbers of one thing are kept, so that no other is taken for it."""
        weights = hashlib.sha256()
        for value in self.model.state_dict().values():
            weights.update(value.numpy().tobytes())
        data = [self.train.name, len(self.train), len(self.test)]
        parts = [what, weights.hexdigest(), data, *how]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return results.ROOT / "runs" / "benchmarks" / f"compress_{key}.json"

    def measurement_path(self, what: str) -> Path:
        """Return where a measurement is kept until all are done."""
        return self.cache_path(what, provenance()["hardware"], torch.get_num_threads())

    def once(self, what: str, measure: Callable[[], Any]) -> Any:
        """Return what a stopped run has measured already, or measure it."""
        return load_or_measure(self.measurement_path(what), measure)

    def student_path(self, what: str, seed: int) -> Path:
        """Return where the numbers of one student are kept; its training is kept beside it."""
        training = {k: v for k, v in asdict(TRAINING).items() if k not in ("epochs", "seed")}
        return self.cache_path(what, seed, self.epochs, training)


def load_or_measure(path: Path, measure: Callable[[], Any]) -> Any:
    """Return the result cached at `path`; where there is none, measure and cache it."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    result = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(result), encoding="utf-8")
    return result


# ---- The networks --------------------------------------------------------------------------------


def importance(work: Work) -> list[list[float]]:
    """Measure every head on training images, in batches: (layers, heads) as lists."""
    few = work.train[torch.randperm(len(work.train), generator=_seeded(0))[:MEASURED_ON]]
    pixels = normalize(few.images, work.card.mean, work.card.std)
    parts = [
        [len(labels) * layer for layer in head_importance(work.model, images, labels)]
        for images, labels in zip(pixels.split(250), few.labels.split(250), strict=True)
    ]
    summed = [torch.stack(layer).sum(dim=0) for layer in zip(*parts, strict=True)]
    return [(layer / len(few)).tolist() for layer in summed]


def magnitude(model: VisionTransformer) -> list[Tensor]:
    """Take the norm of the weights that read each head: for each layer, (heads,)."""
    heads, norms = model.config.num_heads, []
    for block in model.blocks:
        columns = block.attn.proj.weight.detach().unflatten(1, (heads, -1))  # ty: ignore
        norms.append(columns.norm(dim=(0, 2)))
    return norms


def first_heads(scores: Sequence[Tensor], count: int) -> dict[int, list[int]]:
    """Choose the `count` heads of the lowest scores, never all of a layer: {layer: heads}."""
    removed: dict[int, list[int]] = {}
    heads = len(scores[0])
    for index in torch.cat(list(scores)).argsort().tolist():
        layer, head = divmod(index, heads)
        if sum(map(len, removed.values())) < count and len(removed.get(layer, [])) < heads - 1:
            removed.setdefault(layer, []).append(head)
    return removed


def variants(work: Work) -> Iterator[tuple[str, str, nn.Module]]:
    """Make every network that needs no training: kind, what it is, and the network."""
    model = work.model
    yield "none", UNTOUCHED, model
    yield "precision", "bfloat16", Half(model)
    yield "precision", "8 bits, ours", to_int8(model)
    if (quantised := torch_int8(model)) is not None:
        yield "precision", "8 bits, PyTorch's", quantised
    heads = model.config.depth * model.config.num_heads
    measured = work.once("importance", partial(importance, work))
    scores = {
        "by importance": [torch.tensor(layer) for layer in measured],
        "by magnitude": magnitude(model),
    }
    for draw in range(DRAWS):
        random = torch.rand(heads, generator=_seeded(draw)).split(model.config.num_heads)
        scores[f"at random ({draw})"] = list(random)
    for share in SHARES:
        for rule, head_scores in scores.items():
            removed = first_heads(head_scores, round(share * heads))
            yield "heads", f"{share:.0%} of the heads gone, {rule}", prune_heads(model, removed)
    for r in MERGED:
        yield "tokens", f"{r} pairs of tokens merged a layer", TokenMerging(model, r)
    yield "layers", CUT, every_other_layer(model)


class Half(nn.Module):
    """A copy of a network in bfloat16 that takes and gives float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).bfloat16()

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        return self.model(images.bfloat16()).float()


def torch_int8(model: nn.Module) -> nn.Module | None:
    """Let PyTorch quantise the linear layers, with integer kernels; None if it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will go one day, and says so
        try:
            library: Any = torch.ao.quantization
            quantised = library.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
            quantised(torch.zeros(1, *images_shape(model)))
        except (AttributeError, ImportError, RuntimeError):
            return None
    return quantised


def images_shape(model: Any) -> tuple[int, int, int]:
    """Return the shape of one image that a network takes, (C, H, W)."""
    return (model.config.in_chans, *model.config.image_hw)


# ---- Students ------------------------------------------------------------------------------------


def student(work: Work, what: str, seed: int) -> VisionTransformer:
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
    path = work.student_path(what, seed)
    resume = state_path(path).exists()
    fit(network.train(), work.train, None, config, save_to=path, resume=resume, **options)
    return network.eval()


# ---- Measuring -----------------------------------------------------------------------------------


def classify(work: Work, network: nn.Module) -> dict[str, Any]:
    """Classify all test images: the accuracy with its interval, and which images are "wrong"."""
    result = evaluate(network, work.test, work.card.mean, work.card.std)
    low, high = result.interval
    return {
        "correct": result.correct,
        "n": result.n,
        "accuracy": round(result.accuracy, 2),
        "accuracy_low": round(low, 2),
        "accuracy_high": round(high, 2),
        "wrong": (result.predictions != result.labels).nonzero().flatten().tolist(),
    }


def correct_images(predictions: Mapping[str, Any]) -> Tensor:
    """Return which images were classified correctly, (n,) bool."""
    missed = torch.tensor(predictions["wrong"], dtype=torch.long)
    return torch.ones(predictions["n"], dtype=torch.bool).index_fill(0, missed, False)


def compared(correct: Tensor, original: Tensor) -> dict[str, float]:
    """Compare accuracy with the original's on the same images: points, with interval."""
    middle, low, high = accuracy_change(original, correct)
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
    for name, times in seconds.items():
        middle, low, high = ratio(times, seconds[base])
        rows[name] = {
            "ms": round(1000 * statistics.median(times), 3),
            "ratio_median": round(middle, 3),
            "ratio_low": round(low, 3),
            "ratio_high": round(high, 3),
        }
    return rows


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with its table of weights: softmax(q k^T / sqrt(d)) v."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def attention_rows(work: Work) -> list[dict[str, Any]]:
    """Time attention written out against PyTorch's fused kernel, for growing numbers of tokens."""
    heads, wide, rows = work.model.config.num_heads, work.model.config.head_dim, []
    for tokens in LENGTHS:
        q, k, v = torch.randn(3, 1, heads, tokens, wide, generator=_seeded(0))
        calls = {
            "written out": partial(written_out, q, k, v),
            "fused": partial(F.scaled_dot_product_attention, q, k, v),
        }
        times = timed(calls, "written out")
        rows.append(
            {
                "table": "attention",
                "what": f"{tokens} tokens, fused",
                "against": "written out",
                "tokens": tokens,
                "table_mb": round(heads * tokens**2 * 4 / 1e6, 3),
                "their_ms": times["written out"]["ms"],
                **times["fused"],
            }
        )
    return rows


def network_rows(work: Work) -> list[dict[str, Any]]:
    """Measure every network that needs no training, the original first."""
    networks = {what: (kind, network.eval()) for kind, what, network in variants(work)}
    images = normalize(work.test.images[:BATCH], work.card.mean, work.card.std)
    calls = {what: partial(network, images) for what, (_, network) in networks.items()}
    times = work.once("times", lambda: timed(calls, UNTOUCHED))
    original, rows = torch.empty(0), []
    for what, (kind, network) in networks.items():
        predictions = work.once(what, partial(classify, work, network))
        original = correct_images(predictions) if what == UNTOUCHED else original
        rows.append(
            {
                "table": "networks",
                "kind": kind,
                "what": what,
                **{name: value for name, value in predictions.items() if name != "wrong"},
                **compared(correct_images(predictions), original),
                **times[what],
                "bytes": size(network),
                "threads": torch.get_num_threads(),
                "batch": len(images),
            }
        )
        print(f"{what}: {predictions['accuracy']}%, x{times[what]['ratio_median']}", flush=True)
    return rows


def size(network: nn.Module) -> int:
    """Count the bytes of the weights; of PyTorch's own kind of layers, those of the file."""
    if not all(isinstance(value, Tensor) for value in network.state_dict().values()):
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        return file.tell()
    return num_bytes(network)


def student_row(
    work: Work, what: str, seeds: int, fixed: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Put together what was trained so far of one kind of student; None where nothing was.

    Time and size are those of the network that all students have, in a row of `fixed` already.
    """
    paths = {seed: work.student_path(what, seed) for seed in range(seeds)}
    texts = {
        seed: path.read_text(encoding="utf-8") for seed, path in paths.items() if path.exists()
    }
    by_seed = {seed: json.loads(text) for seed, text in texts.items()}
    if not by_seed:
        return None
    accuracies = [numbers["accuracy"] for numbers in by_seed.values()]
    same = ("ms", "ratio_median", "ratio_low", "ratio_high", "bytes", "threads", "batch")
    mean = statistics.mean(accuracies)
    return {
        "table": "students",
        "kind": "layers",
        "what": what,
        "seeds": list(by_seed),
        "epochs": work.epochs,
        "test_accuracy_mean": round(mean, 2),
        "test_accuracy_std": round(statistics.stdev(accuracies), 2) if len(by_seed) > 1 else None,
        "test_accuracies": accuracies,
        "difference": round(mean - fixed[UNTOUCHED]["accuracy"], 2),
        **{name: fixed[CUT][name] for name in same},
        "seconds": round(statistics.mean(numbers["seconds"] for numbers in by_seed.values()), 1),
    }


def train_student(work: Work, what: str, seed: int) -> dict[str, Any]:
    """Train one student, and return its accuracy and how long it took."""
    path = work.student_path(what, seed)
    accuracy = classify(work, student(work, what, seed))["accuracy"]
    print(f"{what}, seed {seed}: {accuracy}%", flush=True)
    return {"accuracy": accuracy, "seconds": seconds_of(companion(path, ".csv"))}


def seconds_of(table: Path) -> float:
    """Read from a run's table how long it took."""
    heading, *_, last = table.read_text(encoding="utf-8").splitlines()
    return float(dict(zip(heading.split(","), last.split(","), strict=False))["seconds"])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, train, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_data_options(parser)
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
    arguments = ["--data", Path(options.data).name, "--seeds", str(options.seeds)]
    for name, default in (("epochs", 4), ("images", None), ("threads", 1), ("name", "compress")):
        if getattr(options, name) != default:
            arguments += [f"--{name}", str(getattr(options, name))]
    arguments += ["--data-name", options.data_name] if options.data_name else []
    command = shlex.join([".venv/bin/python", "benchmarks/compress.py", *arguments])
    fixed = network_rows(work)
    attention = work.once("attention", partial(attention_rows, work))
    by_name = {row["what"]: row for row in fixed}

    def write() -> None:
        rows = [student_row(work, what, options.seeds, by_name) for what in STUDENTS]
        results.write_results(
            options.name,
            command=command,
            data=train.name,
            rows=[*fixed, *attention, *(row for row in rows if row is not None)],
        )

    write()
    for seed in range(options.seeds):
        for what in STUDENTS:
            path = work.student_path(what, seed)
            load_or_measure(path, partial(train_student, work, what, seed))
            state_path(path).unlink(missing_ok=True)
            write()
    for what in ("importance", "times", "attention", *by_name):
        work.measurement_path(what).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

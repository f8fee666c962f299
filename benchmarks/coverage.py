"""Record the networks of timm, transformers and vit-pytorch, and compare with what they show.

Run it with `.venv/bin/python benchmarks/coverage.py`: about half an hour on two cores. `--only`
tries the networks that have a word in their names, and writes nothing.

What `record_attention` finds in a network of `networks.py` is found in another way, too:

- the weights of each layer and their gradients: what the library itself shows (`output_attentions`
  of transformers, the input of timm's `attn_drop`, the softmax modules of vit-pytorch), or, where
  it shows nothing, what PyTorch's functions computed;
- where a token looks: the gradient, with respect to pixels, of what enters the first attention;
- what the head reads: the gradient of the answer with respect to what the last attention gives.

A network is recorded and equal, refused in a sentence, wrong, too slow, or crashes. Of one that is
refused it is tried whether what the sentence names can be recorded, or else its last norm, for
token Grad-CAM.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from queue import SimpleQueue
from threading import Timer
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from networks import LIBRARIES, network
from results import ROOT, write_results
from torch import Tensor, nn

from vit_tutorial.recording import RecordedAttention, record_activations, record_attention
from vit_tutorial.watching import NoGradient

FUSED = "scaled_dot_product_attention"
LIMIT = 300  # seconds for one network
TOKENS = 40  # whose place is measured

# ---- what a network itself computes ----


class Seen(NamedTuple):
    """What a token sees, in pixels (y, x): its middle, and where it begins and ends."""

    middle: tuple[float, float]
    begin: tuple[float, float]
    end: tuple[float, float]


@dataclass
class Own:
    """What a network shows of itself, without `record_attention`."""

    source: str  # what showed the weights
    weights: list[Tensor]  # call by call (B, h, T, T)
    answer: Tensor | None  # logits, or what stands for an image
    gradients: list[Tensor] | None = None  # of the first class's logits
    places: dict[int, Seen | None] = field(default_factory=dict)  # token -> what it sees
    reads: set[int] | None = None  # tokens of the last layer


def own_of(model: nn.Module, images: Tensor, record: RecordedAttention) -> Own:
    """Find in other ways what was recorded."""
    own = _own_weights(model, images, record)
    own.places, own.reads = _own_tokens(model, images[:1], record)
    return own


def _own_weights(model: nn.Module, images: Tensor, record: RecordedAttention) -> Own:
    shown: list[Tensor] = []
    hooks = [
        part.register_forward_hook(lambda m, given, out, own=own: shown.append(own(given, out)))
        for part, own in _that_show_weights(model)
    ]
    with torch.enable_grad(), _calls() as calls:
        images = images.clone().requires_grad_()
        try:
            output = model(images, **_asked_for_weights(model))
        finally:
            for hook in hooks:
                hook.remove()
        asked = _attentions(output)
        source, weights = "calls of PyTorch", calls
        for name, seen in (("hooks", shown), ("output_attentions", asked)):
            if square := _square(seen, record.num_tokens):
                source, weights = name, square
        weights = _square(weights, record.num_tokens)
        answer = answer_of(output)
        gradients = None
        if record.logits is not None and answer is not None and answer.ndim == 2:
            found = torch.autograd.grad(answer[:, 0].sum(), weights, allow_unused=True)
            if None not in found:
                gradients = [_by_image(g, images) for g in found if g is not None]
    return Own(
        source,
        [_by_image(each.detach(), images) for each in weights],
        None if answer is None else answer.detach(),
        gradients,
    )


def _square(weights: Sequence[Any], tokens: int) -> list[Tensor]:
    return [w for w in weights if isinstance(w, Tensor) and w.shape[-2:] == (tokens, tokens)]


def _by_image(weights: Tensor, images: Tensor) -> Tensor:
    return weights.reshape(len(images), -1, *weights.shape[-2:])


def _that_show_weights(model: nn.Module) -> list[tuple[nn.Module, Callable]]:
    """Find the modules whose input (a dropout) or output (a softmax) are weights."""
    found: list[tuple[nn.Module, Callable]] = []
    parts: Any = model.modules()
    for part in parts:
        if isinstance(getattr(part, "attn_drop", None), nn.Module):
            if hasattr(part, "fused_attn"):
                part.fused_attn = False
            found.append((part.attn_drop, lambda given, out: given[0]))
        elif isinstance(getattr(part, "attend", None), nn.Softmax):
            found.append((part.attend, lambda given, out: out))
    return found


def _asked_for_weights(model: nn.Module) -> dict[str, bool]:
    """Return what networks of transformers take."""
    of_transformers = hasattr(getattr(model, "config", None), "model_type")
    return {"output_attentions": True} if of_transformers else {}


def _attentions(output: Any) -> list[Tensor]:
    """Find the attentions in an output of transformers, or in the parts of it."""
    own = getattr(output, "attentions", None)
    if own is None and hasattr(output, "vision_model_output"):
        own = output.vision_model_output.attentions
    return [each for each in own or () if isinstance(each, Tensor)]


def answer_of(output: Any) -> Tensor | None:
    """Find what a network answers: logits, or what stands for an image; None where neither is."""
    if isinstance(output, tuple) and output:
        return answer_of(output[0])
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "image_embeds", "pooler_output", "last_hidden_state"):
        if isinstance(part := getattr(output, name, None), Tensor):
            return part
    return None


@contextlib.contextmanager
def _calls(of_each: Callable[[Tensor], None] | None = None) -> Generator[list[Tensor]]:
    """Collect the weights of each softmax and each fused attention while the context lasts."""
    seen: list[Tensor] = []
    places = ((F, "softmax"), (torch, "softmax"), (Tensor, "softmax"))
    before = [(place, name, getattr(place, name)) for place, name in places]
    fused = F.scaled_dot_product_attention
    softmax = torch.softmax

    def note(weights: Tensor) -> Tensor:
        if weights.ndim > 2:
            seen.append(weights)
            if of_each is not None:
                of_each(weights)
        return weights

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **options):
        scores = q @ k.repeat_interleave(q.shape[-3] // k.shape[-3], -3).transpose(-1, -2)
        scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = torch.where(attn_mask, scores, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = note(softmax(scores, -1))
        return weights @ v.repeat_interleave(q.shape[-3] // v.shape[-3], -3)

    def noted(original: Callable) -> Callable:
        def call(*given: Any, **options: Any) -> Tensor:
            before = len(seen)
            weights = original(*given, **options)
            return weights if len(seen) > before else note(weights)  # one calls the other

        return call

    try:
        for place, name, original in before:
            setattr(place, name, noted(original))
        setattr(F, FUSED, attend)
        yield seen
    finally:
        for place, name, original in before:
            setattr(place, name, original)
        setattr(F, FUSED, fused)


def _own_tokens(
    model: nn.Module, image: Tensor, record: RecordedAttention
) -> tuple[dict[int, Seen | None], set[int] | None]:
    """Find where tokens look, and which of them the answer reads, by gradients."""
    tokens = record.num_tokens
    latest: list[Tensor | None] = [None]  # tokens that a submodule has been given
    entered: list[Tensor | None] = [None]  # at the first attention
    left: list[Tensor | None] = [None]  # by the last

    def given(module: nn.Module, args: Any, kwargs: Any) -> None:
        for part in (*args, *kwargs.values()):
            if (found := as_tokens(part, tokens)) is not None:
                latest[0] = found
                return

    def gave(module: nn.Module, args: Any, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) and out else out
        if entered[0] is not None and left[0] is None and as_tokens(out, tokens) is not None:
            left[0] = out

    def attended(weights: Tensor) -> None:
        if weights.shape[-2:] == (tokens, tokens):
            entered[0] = latest[0] if entered[0] is None else entered[0]
            left[0] = None

    hooks = [part.register_forward_pre_hook(given, with_kwargs=True) for part in model.modules()]
    hooks += [part.register_forward_hook(gave) for part in model.modules()]
    with torch.enable_grad():
        image = image.clone().requires_grad_()
        try:
            with _calls(attended):
                output = model(image)
        finally:
            for hook in hooks:
                hook.remove()
        places = {}
        if entered[0] is not None:
            for token in _some_tokens(record):
                score = (entered[0][token] * _weights_like(entered[0][token])).sum()
                (seen,) = torch.autograd.grad(score, image, retain_graph=True, allow_unused=True)
                places[token] = None if seen is None else _seen(seen[0].abs().sum(0))
        answer = answer_of(output)
        reads = None
        if left[0] is not None and answer is not None and answer.requires_grad:
            score = (answer * _weights_like(answer)).sum()
            (moved,) = torch.autograd.grad(score, left[0], allow_unused=True)
            size = None if moved is None else as_tokens(moved, tokens)
            if size is not None:
                size = size.abs().amax(1)
                reads = set((size > 1e-7 * size.max()).nonzero().flatten().tolist())
    return places, reads


def as_tokens(part: Any, tokens: int) -> Tensor | None:
    """Lay out as (T, C) what holds all tokens of one image; None for anything else."""
    if not isinstance(part, Tensor) or not part.is_floating_point():
        return None
    shape = part.shape
    if len(shape) == 2 and shape[0] == tokens:
        return part
    if len(shape) == 3 and shape[:2] in ((1, tokens), (tokens, 1)):
        return part[0] if shape[0] == 1 else part[:, 0]
    if len(shape) == 4 and shape[0] == 1 and shape[1] * shape[2] == tokens:
        return part[0].flatten(0, 1)
    if len(shape) == 4 and shape[0] == 1 and shape[2] * shape[3] == tokens:
        return part[0].flatten(1).mT
    return None


def _weights_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)


def _some_tokens(record: RecordedAttention) -> list[int]:
    """Choose all tokens before the patches, and of those the corners and some of the others."""
    patches = record.num_tokens - record.num_prefix
    chosen = torch.linspace(0, patches - 1, min(TOKENS, patches)).round().long()
    corners = torch.tensor([0, record.grid[1] - 1, patches - record.grid[1], patches - 1])
    places = torch.cat([chosen, corners]).unique() + record.num_prefix
    return [*range(record.num_prefix), *places.tolist()]


def _seen(change: Tensor) -> Seen | None:
    """Find what is seen (H, W): its middle is that of its mass, where its extent is large."""
    change = change * (change > 1e-6 * change.max())
    if not change.any():
        return None
    middles, begins, ends = [], [], []
    for axis in (1, 0):
        line = change.sum(axis)
        where = line.nonzero().flatten()
        begins.append(float(where[0]))
        ends.append(float(where[-1] + 1))
        if len(where) <= len(line) // 3:
            middles.append(float(where[0] + where[-1] + 1) / 2)
        else:
            mass = change.square().sum(axis)
            at = torch.arange(len(mass), dtype=mass.dtype) + 0.5
            middles.append(float((mass * at).sum() / mass.sum()))
    return Seen((middles[0], middles[1]), (begins[0], begins[1]), (ends[0], ends[1]))


def _middle_of_whole(seen: Seen, extent: Sequence[float], size: Sequence[int]) -> list[float]:
    """Return where the middle of what a token sees would be, if the image did not end there."""
    middles = []
    for axis in range(2):
        begin, end, middle = seen.begin[axis], seen.end[axis], seen.middle[axis]
        shorter = end - begin < 0.95 * extent[axis] and end - begin <= size[axis] // 3
        if shorter and (begin == 0) != (end == size[axis]):
            middle = end - extent[axis] / 2 if begin == 0 else begin + extent[axis] / 2
        middles.append(middle)
    return middles


# ---- the comparison ----


def differences(record: RecordedAttention, own: Own, gradients: Any, plain: Any) -> list[str]:
    """Say in what a record differs from what the network itself shows; nothing if in nothing."""
    found = _different_maps("weights", record.weights, own.weights)
    if gradients is not None and own.gradients is not None:
        found += _different_maps("gradients", gradients, own.gradients)
    if record.logits is not None:
        if plain is None or plain.shape != record.logits.shape:
            found.append("logits are not those of the network")
        elif not _close(record.logits, plain):
            found.append("logits differ from those of a plain pass")
    found += _different_places(record, own.places)
    if own.reads is not None and own.reads and set(record.tokens("head")) != own.reads:
        reads = sorted(own.reads)
        found.append(f"the head reads {reads[:4]} ... ({len(reads)}), not {record.default_query}")
    return found


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.abs().max()) or 1.0
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=2e-5 * scale))


def _different_maps(what: str, recorded: Sequence[Tensor], own: Sequence[Tensor]) -> list[str]:
    """Compare layer by layer; calls side by side are the heads of one layer."""
    calls, found = list(own), []
    for number, layer in enumerate(recorded):
        beside: list[Tensor] = []
        while calls and sum(call.shape[1] for call in beside) < layer.shape[1]:
            beside.append(calls.pop(0))
        if sum(call.shape[1] for call in beside) != layer.shape[1]:
            return [*found, f"{what} of layer {number}: other heads than the network has"]
        if not _close(layer, torch.cat(beside, dim=1)):
            found.append(f"{what} of layer {number} differ")
    return found + ([f"{what} of {len(calls)} calls are missing"] if calls else [])


def _different_places(record: RecordedAttention, places: dict[int, Seen | None]) -> list[str]:
    """Compare the middle of what each token sees with that of its cell."""
    assert record.image_size is not None
    height, width = record.image_size
    left, top, right, bottom = record.box or (0.0, 0.0, float(width), float(height))
    pitch = ((bottom - top) / record.grid[0], (right - left) / record.grid[1])
    all_seen = [seen for seen in places.values() if seen is not None]
    extent = [max(seen.end[axis] - seen.begin[axis] for seen in all_seen) for axis in range(2)]
    # of a patch of its own to a tenth; of one that overlaps with others its part of the grid
    most = 0.1 if all(e <= 1.05 * p for e, p in zip(extent, pitch, strict=True)) else 0.55
    inner = []
    for token, seen in places.items():
        if (seen is None) != (token < record.num_prefix):
            what = "nothing" if seen is None else "the image"
            return [f"token {token} sees {what}, and {record.num_prefix} are said to stand before"]
        if seen is None:
            continue
        row, column = divmod(token - record.num_prefix, record.grid[1])
        middle = (top + (row + 0.5) * pitch[0], left + (column + 0.5) * pitch[1])
        whole = _middle_of_whole(seen, extent, (height, width))
        off = [(a - b) / p for a, b, p in zip(whole, middle, pitch, strict=True)]
        if max(map(abs, off)) > most:
            return [f"token {token} sees {whole}, its cell is at {middle}"]
        if 0 < row < record.grid[0] - 1 and 0 < column < record.grid[1] - 1:
            inner.append(off)
    if inner and torch.tensor(inner).mean(0).abs().max() > 0.25:
        return ["the cells lie beside what their tokens see"]
    return []


def examine(library: str, name: str) -> dict[str, Any]:
    """Record one network and compare: a row of the results."""
    row: dict[str, Any] = {"library": library, "network": name}
    try:
        model, images = network(library, name)
    except (LookupError, ImportError) as error:
        return row | {"outcome": "not made", "why": _line(error)}
    row["images"] = "x".join(map(str, images.shape[1:]))
    try:
        return row | _compared(model, images)
    except ValueError as error:
        instead = _instead(model, images, str(error))
        return row | {"outcome": "refused", "why": _line(error), "instead": instead}
    except Exception as error:  # whatever it is, it is no sentence for a user
        return row | {"outcome": "crash", "why": f"{type(error).__name__}: {_line(error)}"}


def _compared(model: nn.Module, images: Tensor) -> dict[str, Any]:
    with torch.no_grad():
        plain = answer_of(model(images))
    record = record_attention(model, images)
    gradients = None
    if record.logits is not None:
        with contextlib.suppress(NoGradient):
            gradients = record_attention(model, images, gradients_of=0).gradients
    own = own_of(model, images, record)
    wrong = differences(record, own, gradients, plain)
    compared = {"weights": own.weights, "places": own.places, "head": own.reads,
                "gradients": gradients and own.gradients}  # fmt: skip
    return {
        "outcome": "wrong" if wrong else "recorded",
        "why": "; ".join(wrong),
        "grid": "x".join(map(str, record.grid)),
        "prefix": record.num_prefix,
        "layers": len(record.weights),
        "reads": str(record.default_query),
        "weights_from": own.source,
        "compared": [what for what, found in compared.items() if found],
    }


def _instead(model: nn.Module, images: Tensor, sentence: str) -> str:
    """Try what a refusal names, and token Grad-CAM: say what of it works."""
    model, images, works = model.float(), images.float(), []
    for part in dict.fromkeys(re.findall(r"`model\.([\w.]+)`", sentence)):
        with contextlib.suppress(Exception):  # a tower that reads words does not read images
            record_attention(model.get_submodule(part), images)
            works.append(f"model.{part}")
    if not works:
        with contextlib.suppress(ValueError, NotImplementedError):  # no gradient of its kernels
            layer = record_activations(model, images, gradients_of=_first_answer).layer
            works.append(f"token Grad-CAM of {layer}")
    return ", ".join(works)


def _first_answer(output: Any) -> Tensor:
    answer = output if isinstance(output, Tensor) else answer_of(output)
    if answer is None:
        raise ValueError("no answer to differentiate")
    return answer.flatten(1)[:, 0]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


# ---- all networks, in processes of their own ----


class Child:
    """A process that examines one network after the other, and is replaced when it fails."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, library: str, name: str, limit: float = LIMIT) -> dict[str, Any]:
        """Return the row of a network; of one that ended the process or took too long, too."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--child"], text=True, cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        began = time.perf_counter()
        timer = Timer(limit, self.process.kill)
        timer.start()
        try:
            print(library, name, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            timer.cancel()
        if answer:
            return json.loads(answer)
        took = time.perf_counter() - began
        self.close()
        row = {"library": library, "network": name}
        if took >= limit:
            return row | {"outcome": "too slow", "why": f"more than {limit:.0f} s"}
        return row | {"outcome": "crash", "why": "the process ended"}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def answer_questions() -> None:
    """Be a child: read `library name` line by line, and print a row for each."""
    rows, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no row
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        library, name = line.split()
        try:
            row = examine(library, name)
        except Exception as error:
            why = f"in the comparison: {type(error).__name__}: {_line(error)}"
            row = {"library": library, "network": name, "outcome": "crash", "why": why}
        print(json.dumps(row), file=rows, flush=True)


def sweep(names: Sequence[tuple[str, str]], jobs: int = 2) -> list[dict[str, Any]]:
    """Examine networks (library, name) side by side, and say of each how it went."""
    children: SimpleQueue[Child] = SimpleQueue()
    for _ in range(jobs):
        children.put(Child())

    def one(which: tuple[str, str]) -> dict[str, Any]:
        child = children.get()
        try:
            row = child.ask(*which)
        finally:
            children.put(child)
        print(f"{row['outcome']:8} {' '.join(which)} {row['why'][:60]}", flush=True)
        return row

    try:
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, names))
    finally:
        for _ in range(jobs):
            children.get().close()


def installed() -> dict[str, dict[str, str]]:
    """Map each library that is installed to its networks and their families."""
    return {
        library: names()
        for library, (names, _) in LIBRARIES.items()
        if importlib.util.find_spec(library.replace("-", "_")) is not None
    }


# ---- the table ----

# A part of a sentence of refusal -> its cause in a few words. The first that fits counts.
CAUSES = {
    "saw no attention": "no attention of tokens to tokens",
    "saw only class or cross": "keys are fewer than queries",
    "differential attention": "differential attention",
    "changes its weights between": "weights are mixed after the softmax",
    "side by side, none of which": "several networks side by side",
    "has branches": "branches (decoders, two scales)",
    "not all tokens attend to all": "keys are fewer than queries, or class attention",
    "windows or at several resolutions": "windows, or several resolutions",
    "several separate places": "windows, or several resolutions",
    "stand behind or between": "tokens without a place behind the patches",
    "others in each pass": "tokens are drawn at random",
    "do not lie on a grid": "tokens not on a grid, row by row",
    "none changed with the image": "tokens of something else first",
    "expected images": "reads films, no images",
}


def result_of(row: dict[str, Any]) -> str:
    """Say in a few words what became of a network: the cause, for one that was refused."""
    if row["outcome"] == "refused":
        return next((said for part, said in CAUSES.items() if part in row["why"]), row["why"])
    return {"recorded": "works", "not made": "does not run without us"}.get(
        row["outcome"], f"{row['outcome'].upper()}: {row['why']}"
    )


def tables(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the networks of a library with the same result; of timm, those of a family."""
    counts = Counter((row["library"], row["outcome"]) for row in rows)
    found: list[dict[str, Any]] = [
        {"table": "counts", "library": library, "version": version(library)}
        | {outcome.replace(" ", "_"): counts[library, outcome] for outcome in OUTCOMES}
        for library in dict.fromkeys(row["library"] for row in rows)
    ]
    joined: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        group = row["family"] if row["library"] == "timm" else ""
        joined.setdefault((row["library"], group, result_of(row)), []).append(row)
    for (library, family, result), group in joined.items():
        found.append(
            {
                "table": "families",
                "library": library,
                "networks": family or ", ".join(row["network"] for row in group),
                "count": len(group),
                "result": result,
                "instead": "; ".join(_instead_of_all(group)),
                "compared": sorted({what for row in group for what in row.get("compared", ())}),
            }
        )
    return found


def _instead_of_all(group: Sequence[dict[str, Any]]) -> list[str]:
    ways = Counter(re.sub(" of .*", "", row["instead"]) for row in group if row.get("instead"))
    return [way if n == len(group) else f"{way} ({n} of {len(group)})" for way, n in ways.items()]


OUTCOMES = ("recorded", "refused", "wrong", "crash", "too slow", "not made")


def main() -> None:
    """Examine all networks, and write what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a word in the names of the networks to try")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return answer_questions()
    known = installed()
    names = [
        (library, name)
        for library, families in known.items()
        for name in families
        if options.only is None or options.only in name
    ]
    rows = [row | {"family": known[row["library"]][row["network"]]} for row in sweep(names)]
    print(Counter(row["outcome"] for row in rows))
    if options.only is not None:
        return print(json.dumps(rows, indent=2))
    command = ".venv/bin/python benchmarks/coverage.py"
    rows = [row | {"table": "networks"} for row in rows]
    write_results("coverage", command=command, data=None, rows=[*tables(rows), *rows])


if __name__ == "__main__":
    main()

"""One image in one network, recorded: the facts and bytes that an explorer sends to the browser."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vit_tutorial.images import ReadsImages, Source
    from vit_tutorial.recording import RecordedAttention

LONGEST_SIDE = 900  # pixels of a picture in the page
PAGE = 100_000  # bytes of a page without images


def make_scene(
    model: nn.Module,
    image: Source,
    reading: ReadsImages,
    *,
    fit: str = "crop",
    name: str | None = None,
    target: int | str | None = None,
    budget_mb: float = 24.0,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Record one image in one network: facts, and the bytes for each trait of an explorer.

    Takes what `AttentionExplorer` takes. Weights become shares of their row's largest, in 1/255.

    Raises:
        ValueError: a network that cannot be read, an image that cannot be opened, an unknown class.
    """
    from vit_tutorial.attention import heat_map
    from vit_tutorial.images import class_index, name_of, prepare
    from vit_tutorial.recording import record_attention
    from vit_tutorial.watching import NoGradient

    fitted, pixels = prepare(image, reading, model, fit=fit)
    classes = list(reading.classes)
    record = record_attention(model, pixels, num_classes=len(classes))
    prediction, label = "", None
    if record.logits is not None and len(classes) == record.logits.shape[1]:
        best = int(record.logits[0].argmax())
        label = best if target is None else class_index(target, classes)
        prediction = _answer(record, classes)
    picture = fitted.part(record.box).view()  # the grid covers all of it
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=90)
    room = int(0.75 * (1e6 * budget_mb - PAGE)) - len(file.getvalue())  # base64 takes 4 for 3 bytes
    layers, largest, shares, head_note = _shares(record, room)
    maps = {}
    if len(layers) < len(record.weights):  # the browser could not compute it
        maps = {"rollout": heat_map(record, "rollout")[0].cpu().float().numpy().ravel()}
    facts = {
        "name": name or name_of(image),
        "target": classes[label] if label is not None else "",
        "rows": record.grid[0],
        "columns": record.grid[1],
        "num_prefix": record.num_prefix,
        "prefix_names": prefix_names(record.num_prefix, record.head_reads),
        "head_reads": list(record.head_reads or ()),
        "query": _first_query(record),
        "layers": len(layers),
        "layer_numbers": layers,
        "heads": shares.shape[1],
        "head_note": head_note,
        "width": picture.width,
        "height": picture.height,
    }
    del record  # what explains a class records for itself, and takes most of the memory
    try:
        maps = {**_relevances(model, pixels, label, len(classes)), **maps}
    except NoGradient as error:
        warnings.warn(f"no methods for a class are shown: {error}", stacklevel=2)
        prediction += "; without methods for a class: no gradient reaches the attention"
    facts |= {"answer": prediction, "methods": list(maps)}
    stacked = np.stack(list(maps.values())) if maps else np.zeros((0, 1), dtype=np.float32)
    parts = {
        "weights": shares.tobytes(),
        "largest": largest.tobytes(),
        "images": file.getvalue(),
        "relevances": stacked.astype(np.float32).tobytes(),
    }
    return facts, parts


def _shares(
    record: RecordedAttention, room: int
) -> tuple[list[int], NDArray[np.float32], NDArray[np.uint8], str]:
    """Turn weights into shares of their row's largest (layers, heads, T, T), for so many bytes.

    Returns the layers that there is room for, the largest (layers, heads, T), the shares, and what
    is to be said of what had to be left out.
    """
    from vit_tutorial.calls import look

    layers, note = list(record.layers or range(len(record.weights))), ""
    depth, heads, tokens = len(layers), look(record.weights, 0).shape[1], record.num_tokens
    size = tokens * (tokens + 4)  # bytes for one map
    joined = depth * heads * size > room
    shown = list(range(depth))
    if joined:
        count = max(1, min(depth, room // size))
        shown = np.linspace(depth - 1, 0, count).round().astype(int).tolist()[::-1]
        which = "Every layer" if count == depth else f"{count} of {depth} layers"
        note = f"{which}, the mean of {heads} heads (all would take "
        note += f"{depth * heads * size * 4 / 3e6:.0f} MB)"
    largest, shares = [], []
    for number in shown:
        weights = look(record.weights, number)[0].float()
        weights = weights.mean(dim=0, keepdim=True) if joined else weights
        most = weights.amax(dim=-1)
        share = (255 / most.clamp_min(1e-30))[..., None] * weights
        largest.append(most.cpu().numpy())
        shares.append(share.round().byte().cpu().numpy())
    return [layers[n] for n in shown], np.stack(largest), np.stack(shares), note


def _answer(record: RecordedAttention, classes: Sequence[str]) -> str:
    """Say what the network answers, in the words that fit its kind of answer."""
    assert record.logits is not None
    best = int(record.logits[0].argmax())
    probabilities = record.probabilities()
    if probabilities is None:
        return f"{classes[best]}: {record.logits[0, best]:.4g}"
    share = f"{classes[best]} ({probabilities[0, best]:.0%})"
    if "independent" in record.output_kind:
        return f"most likely {share}, each of {len(classes)} classes for itself"
    return f"named {share} among {len(classes)} classes"


MEANS = {"all": -1, "patches": -2, "head": -3}  # queries that are no single token


def query_code(query: int | str) -> int:
    """Turn a query into the number that stands for it in an explorer."""
    return MEANS[query] if isinstance(query, str) else query


def _first_query(record: RecordedAttention) -> int:
    if record.head_reads is not None and not record.head_reads:  # that could not be measured
        return 0 if record.num_prefix else MEANS["all"]
    return query_code(record.default_query)


def prefix_names(count: int, head_reads: Sequence[int] | None = None) -> list[str]:
    """Name the tokens before the patches: CLS is the first, if it is that which the head reads.

    Examples:
        >>> prefix_names(1), prefix_names(3)
        (['CLS'], ['CLS', 'extra 1', 'extra 2'])
        >>> prefix_names(2, head_reads=range(2, 18))  # the head reads the patches
        ['extra 1', 'extra 2']
    """
    read = range(1) if head_reads is None else [n for n in head_reads if n < count]
    if not read or len(read) > 2:  # registers, too
        return [f"extra {number}" for number in range(1, count + 1)]
    names = iter(range(1, count))
    return ["CLS" if n == read[0] else f"extra {next(names)}" for n in range(count)]


def _relevances(
    model: nn.Module, pixels: Tensor, label: int | None, num_classes: int
) -> Mapping[str, NDArray]:
    """Explain the class `label` by every method for a class: what it is called -> (N,)."""
    from vit_tutorial.attention import heat_map, methods_for
    from vit_tutorial.methods import METHODS, RELEVANCE_METHODS
    from vit_tutorial.recording import record_attention
    from vit_tutorial.watching import NoGradient

    if label is None:
        return {}
    record = record_attention(model, pixels, gradients_of=label, num_classes=num_classes)
    maps = {}
    for method in methods_for(record):
        if method in RELEVANCE_METHODS:
            with suppress(NoGradient):  # of a method that needs others than the attention's
                heat = heat_map(record, method)[0].cpu().float().numpy()
                maps[METHODS[method]] = heat.ravel()
    return maps

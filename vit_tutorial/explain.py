"""One image and one network: its most probable classes, and where it looked, by any method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from vit_tutorial import plots
from vit_tutorial.attention import heat_map
from vit_tutorial.images import FittedImage, ReadsImages, Source, prepare
from vit_tutorial.methods import METHODS, RELEVANCE_METHODS, require_method
from vit_tutorial.recording import Box, Query, record_attention


@dataclass(frozen=True)
class Explanation:
    """The classes that a network knows, most probable first, and the map (rows, columns).

    `fitted` is what the network was given, and `box` the part of it that the map covers, in pixels
    of the network. `output_kind` is that of `RecordedAttention`: of "values", `probabilities` are
    these. A network without classes has no names.
    """

    fitted: FittedImage
    names: list[str]
    probabilities: list[float]
    heat: Tensor
    method: str
    box: Box | None = None
    output_kind: str = "logits"

    def lines(self, most: int | None = None) -> list[str]:
        """Write out what the network says: each class with its probability, or its value."""
        return [
            f"{value:6.4g}  {name}" if self.output_kind == "values" else f"{value:6.1%}  {name}"
            for name, value in list(zip(self.names, self.probabilities, strict=True))[:most]
        ]

    def figure(self) -> Any:
        """Draw, as a matplotlib figure, the image, the five most probable classes and the map."""
        return plots.explanation(
            np.asarray(self.fitted.original.convert("RGB")),
            self.fitted.part(self.box).box,
            self.names,
            self.probabilities,
            self.heat.numpy(),
            METHODS[self.method],
            form=plots.in_numbers if self.method in RELEVANCE_METHODS else plots.in_percent,
        )


def explain(
    model: nn.Module,
    image: Source,
    reading: ReadsImages,
    *,
    method: str = "rollout",
    fit: str = "crop",
    query: Query = "head",
) -> Explanation:
    """Run a network on an image, and find where it looked.

    Args:
        model: any network that `record_attention` can read.
        image: what `open_image` opens.
        reading: how the network reads images: a `Reading`, or the card of a checkpoint.
        method: one of `METHODS`; those that are for a class explain the most probable one.
        fit: "crop", "pad" or "resize", as in `fit_image`.
        query: which tokens' map, as in `rollout`: by default of those that the head reads.

    Raises:
        ValueError: an unknown method or query, an image that cannot be opened, a network with other
            classes, or without any where the method is for a class.
    """
    require_method(method)
    fitted, pixels = prepare(image, reading, model, fit=fit)
    classes, graded = reading.classes, method in RELEVANCE_METHODS
    fusion = None if graded else "mean"
    record = record_attention(model, pixels, head_fusion=fusion, num_classes=len(classes))
    name, logits = type(model).__name__, record.logits
    if classes and (logits is None or logits.shape[1] != len(classes)):
        raise ValueError(f"{name} does not tell {len(classes)} classes apart")
    if graded and (not classes or logits is None):
        raise ValueError(
            f"method {method!r} explains a class, and none is named for {name}: "
            'use "rollout" or "last_layer", or give its classes'
        )
    names, values = [], []
    if classes and logits is not None:
        found = record.probabilities()
        found = (logits if found is None else found)[0].float()
        order = found.argsort(descending=True).tolist()
        names, values = [classes[index] for index in order], found[order].tolist()
        if graded:
            record = record_attention(
                model, pixels, gradients_of=order[0], num_classes=len(classes)
            )
    heat = heat_map(record, method, query)[0].float().cpu()
    return Explanation(fitted, names, values, heat, method, record.box, record.output_kind)


def contact_sheet(explanations: Sequence[Explanation]) -> Any:
    """Draw, as a matplotlib figure, many images with their maps and most probable classes."""
    pictures, titles = [], []
    for each in explanations:
        seen = each.fitted.part(each.box).view().convert("RGB")
        pictures.append(plots.map_pair(np.asarray(seen), each.heat.numpy()))
        titles.append(_title(each))
    return plots.photo_grid(pictures, titles, f"Where it looked: {METHODS[explanations[0].method]}")


def _title(explanation: Explanation) -> str:
    if not explanation.names:
        return ""
    name, value = explanation.names[0], explanation.probabilities[0]
    return (
        f"{name}: {value:.4g}" if explanation.output_kind == "values" else f"{name} ({value:.0%})"
    )


def write_pages(
    model: nn.Module,
    images: Iterable[str | Path],
    reading: ReadsImages,
    out: Path,
    *,
    method: str = "rollout",
    fit: str = "crop",
    query: Query = "head",
) -> list[Path]:
    """Write explorers of image files: one page of all (.html), one each (a folder), or a .gif.

    Each shows first what `explain` would.

    Raises:
        ValueError: an unknown method or query, an image that cannot be opened.
        OSError: what cannot be written.
    """
    from vit_tutorial.explorer import AttentionExplorer

    require_method(method)
    written, first = [], None
    for image in images:
        if first is not None and out.suffix:
            first.add(image)
            continue
        explorer = AttentionExplorer(model, image, reading, fit=fit)
        explorer.show = "mean" if method == "last_layer" else method
        explorer.look_from(query)
        first = first or explorer
        if not out.suffix:
            out.mkdir(parents=True, exist_ok=True)
            page, count = out / f"{Path(image).stem}.html", 1
            while page in written:  # images of one name, from several folders
                count += 1
                page = out / f"{Path(image).stem}_{count}.html"
            explorer.save_html(page)
            written.append(page)
    if out.suffix and first is not None:
        first.scene = 0
        (first.save_gif if out.suffix.lower() == ".gif" else first.save_html)(out)
        written.append(out)
    return written

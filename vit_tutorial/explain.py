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
from vit_tutorial.recording import record_attention


@dataclass(frozen=True)
class Explanation:
    """The classes that a network knows, most probable first, and the map (rows, columns)."""

    fitted: FittedImage
    names: list[str]
    probabilities: list[float]
    heat: Tensor
    method: str

    def figure(self) -> Any:
        """Draw, as a matplotlib figure, the image, the five most probable classes and the map."""
        return plots.explanation(
            np.asarray(self.fitted.original.convert("RGB")),
            self.fitted.box,
            self.names,
            self.probabilities,
            self.fitted.to_original(self.heat),
            METHODS[self.method],
        )


def explain(
    model: nn.Module,
    image: Source,
    reading: ReadsImages,
    *,
    method: str = "rollout",
    fit: str = "crop",
) -> Explanation:
    """Run a network on an image, and find where it looked.

    Args:
        model: any network that `record_attention` can read.
        image: what `open_image` opens.
        reading: how the network reads images: a `Reading`, or the card of a checkpoint.
        method: one of `METHODS`; those that are for a class explain the most probable one.
        fit: "crop", "pad" or "resize", as in `fit_image`.

    Raises:
        ValueError: an unknown method, an image that cannot be opened, a network without classes.
    """
    require_method(method)
    fitted, pixels = prepare(image, reading, model, fit=fit)
    record = record_attention(model, pixels)
    classes = reading.classes
    if record.logits is None or record.logits.shape[1] != len(classes):
        raise ValueError(f"{type(model).__name__} does not tell {len(classes)} classes apart")
    probabilities = record.logits[0].float().softmax(dim=0)
    order = probabilities.argsort(descending=True).tolist()
    if method in RELEVANCE_METHODS:
        record = record_attention(model, pixels, gradients_of=order[0])
    heat = heat_map(record, method)[0].float().cpu()
    names = [classes[index] for index in order]
    return Explanation(fitted, names, probabilities[order].tolist(), heat, method)


def contact_sheet(explanations: Sequence[Explanation]) -> Any:
    """Draw, as a matplotlib figure, many images with their maps and most probable classes."""
    pictures, titles = [], []
    for each in explanations:
        heat = each.fitted.to_original(each.heat)
        photo = np.asarray(each.fitted.original.convert("RGB"))
        pictures.append(plots.overlay(photo, heat / max(float(heat.max()), 1e-12)))
        titles.append(f"{each.names[0]} ({each.probabilities[0]:.0%})")
    return plots.photo_grid(pictures, titles, f"Where it looked: {METHODS[explanations[0].method]}")


def write_pages(
    model: nn.Module,
    images: Iterable[str | Path],
    reading: ReadsImages,
    out: Path,
    *,
    method: str = "rollout",
    fit: str = "crop",
) -> list[Path]:
    """Write explorers of image files: one page of all (.html), one each (a folder), or a .gif.

    Raises:
        ValueError: an unknown method, an image that cannot be opened.
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

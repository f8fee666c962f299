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
from vit_tutorial.images import FittedImage, ReadsImages, Source, class_index, name_of, prepare
from vit_tutorial.methods import METHODS, RELEVANCE_METHODS, require_options
from vit_tutorial.recording import (
    FUSIONS,
    Box,
    Query,
    RecordedActivations,
    RecordedAttention,
    record_activations,
    record_attention,
)


@dataclass(frozen=True)
class Explanation:
    """The classes that a network knows, most probable first, and the map (rows, columns).

    `fitted` is what the network was given, and `box` the part of it that the map covers, in pixels
    of the network. `output_kind` is that of `RecordedAttention`: of "values", `probabilities` are
    these. A network without classes has no names. `target` is the class that the map is for, if its
    method is for one.
    """

    fitted: FittedImage
    names: list[str]
    probabilities: list[float]
    heat: Tensor
    method: str
    box: Box | None = None
    output_kind: str = "logits"
    target: str = ""

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
            METHODS[self.method] + (f" for {self.target}" if self.target else ""),
            form=plots.in_numbers if self.method in RELEVANCE_METHODS else plots.in_percent,
        )


def explain(
    model: nn.Module,
    image: Source,
    reading: ReadsImages,
    *,
    method: str = "rollout",
    fit: str = "crop",
    target: int | str | None = None,
    query: Query = "head",
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
) -> Explanation:
    """Run a network on an image, and find where it looked.

    Args:
        model: any network that `record_attention` can read; for "token_grad_cam", that
            `record_activations` can.
        image: what `open_image` opens.
        reading: how the network reads images: a `Reading`, or the card of a checkpoint.
        method: one of `METHODS`.
        fit: "crop", "pad" or "resize", as in `fit_image`.
        target: the class, by name or number, that is explained by the methods that are for one; by
            default the most probable one.
        query: which tokens' map, as in `rollout`: by default of those that the head reads.
        head_fusion: of rollout.
        discard_ratio: of rollout.

    Raises:
        ValueError: an unknown method, class or query, an option that the method does not use, an
            image that cannot be opened, a network with other classes, or without any where the
            method is for a class.
    """
    options = {"query": query, "head_fusion": head_fusion, "discard_ratio": discard_ratio}
    require_options(method, target=target, **options)
    fitted, pixels = prepare(image, reading, model, fit=fit)
    classes, graded, name = reading.classes, method in RELEVANCE_METHODS, type(model).__name__
    if graded and not classes:
        raise ValueError(
            f"method {method!r} explains a class, and none is named for {name}: "
            'use "rollout" or "last_layer", or give its classes'
        )
    chosen = None if target is None else class_index(target, classes)

    def score(logits: Any) -> Tensor:
        if not isinstance(logits, Tensor) or logits.shape[1:] != (len(classes),):
            raise ValueError(f"{name} does not tell {len(classes)} classes apart")
        return logits.amax(dim=1) if chosen is None else logits[:, chosen]

    record: RecordedActivations | RecordedAttention
    if method == "token_grad_cam":
        record = record_activations(model, pixels, gradients_of=score, num_classes=len(classes))
        heat = record.grad_cam()
    else:
        how: Any = {"gradients_of": score} if graded else {"head_fusion": head_fusion}
        record = record_attention(model, pixels, num_classes=len(classes), **how)
        heat = heat_map(record, method, **options)
    names, values, explained = [], [], ""
    if classes:
        score(record.logits)
        found = record.probabilities()
        answers = (record.logits if found is None else found)[0].float()  # ty: ignore
        order = answers.argsort(descending=True).tolist()
        names, values = [classes[index] for index in order], answers[order].tolist()
        explained = classes[order[0] if chosen is None else chosen] if graded else ""
    return Explanation(
        fitted, names, values, heat[0].float().cpu(), method, record.box, record.output_kind,
        explained,
    )  # fmt: skip


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
    name = explanation.target or explanation.names[0]
    value = explanation.probabilities[explanation.names.index(name)]
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
    targets: Sequence[int | str | None] = (None,),
    query: Query = "head",
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
) -> list[Path]:
    """Write explorers of image files: one page of all (.html), one each (a folder), or a .gif.

    Each shows first what `explain` would; of several `targets`, each image is there once for each.

    Raises:
        ValueError: an unknown method, class or query, an option that the method does not use, an
            image that cannot be opened.
        OSError: what cannot be written.
    """
    from vit_tutorial.explorer import AttentionExplorer

    options = {"query": query, "head_fusion": head_fusion, "discard_ratio": discard_ratio}
    for target in targets:
        require_options(method, target=target, **options)
    if head_fusion not in FUSIONS or not 0 <= discard_ratio <= 0.98:
        raise ValueError(
            f"a page fuses heads by {', '.join(FUSIONS)} and discards from 0 to 0.98, got "
            f"{head_fusion!r} and {discard_ratio}"
        )
    written, first, one_each = [], None, out.is_dir() or not out.suffix
    for image in images:
        explorer = None if one_each else first
        for target in targets:
            name = name_of(image) if len(targets) == 1 else f"{name_of(image)}: {target}"
            if explorer is not None:
                explorer.add(image, name=name, target=target)
                continue
            explorer = AttentionExplorer(model, image, reading, fit=fit, name=name, target=target)
            explorer.show = "mean" if method == "last_layer" else method
            explorer.head_fusion, explorer.discard_ratio = head_fusion, discard_ratio
            explorer.look_from(query)
        first = first or explorer
        if one_each and explorer is not None:
            explorer.scene = 0
            out.mkdir(parents=True, exist_ok=True)
            page, count = out / f"{Path(image).stem}.html", 1
            while page in written:  # images of one name, from several folders
                count += 1
                page = out / f"{Path(image).stem}_{count}.html"
            explorer.save_html(page)
            written.append(page)
    if first is not None and not one_each:
        first.scene = 0
        (first.save_gif if out.suffix.lower() == ".gif" else first.save_html)(out)
        written.append(out)
    return written

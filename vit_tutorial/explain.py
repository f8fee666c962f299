"""One image and one network: what it says, and where it looked, by any method of the course."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from vit_tutorial import plots
from vit_tutorial.attention import RELEVANCE_METHODS, attention_map, relevance, rollout
from vit_tutorial.data import normalize
from vit_tutorial.images import FittedImage, fit_image, open_image
from vit_tutorial.recording import record_attention

METHODS = {  # how it is asked for -> what it is called
    "rollout": "attention rollout",
    "last-layer": "attention of the last layer",
    "chefer": "Chefer's relevance",
    "grad_rollout": "gradient rollout",
    "legrad": "LeGrad",
    "grad_cam": "Grad-CAM on attention",
}


@dataclass(frozen=True)
class Explanation:
    """What a network says of an image, most probable first, and the map (rows, columns)."""

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
    model: nn.Module, image: Any, about: Any, *, method: str = "rollout", fit: str = "crop"
) -> Explanation:
    """Ask a network about an image, and where it looked.

    Args:
        model: any network that `record_attention` can read.
        image: what `open_image` opens.
        about: how the network reads images, as `pretrained.load_network` gives it.
        method: one of `METHODS`; those that are about a class explain the most probable one.
        fit: "crop", "pad" or "resize", as in `fit_image`.

    Raises:
        ValueError: an unknown method, an image that cannot be opened, a network without classes.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    size = getattr(getattr(model, "config", None), "img_size", None) or about.img_size
    photo = open_image(image).convert("L" if len(about.mean) == 1 else "RGB")
    fitted = fit_image(photo, size, fit=fit)
    pixels = normalize(fitted.pixels[None], about.mean, about.std).to(next(model.parameters()))
    record = record_attention(model, pixels)
    if record.logits is None or record.logits.shape[1] != len(about.classes):
        raise ValueError(f"{type(model).__name__} does not tell {len(about.classes)} classes apart")
    probabilities = record.logits[0].float().softmax(dim=0)
    order = probabilities.argsort(descending=True).tolist()
    if method in RELEVANCE_METHODS:
        graded = record_attention(model, pixels, gradients_of=order[0])
        heat = relevance(graded, method=method)
    else:
        heat = rollout(record) if method == "rollout" else attention_map(record)
    names = [about.classes[index] for index in order]
    return Explanation(fitted, names, probabilities[order].tolist(), heat[0].float().cpu(), method)


def contact_sheet(explanations: Sequence[Explanation]) -> Any:
    """Draw, as a matplotlib figure, many images with their maps and what the network says."""
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
    about: Any,
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
    from vit_tutorial.explorer.scene import RELEVANCES

    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    shown = {"rollout": "rollout", "last-layer": "mean"}
    shown |= {way: name for name, way in RELEVANCES.items()}
    written, first = [], None
    for image in images:
        name = Path(image).name
        if first is not None and out.suffix:
            first.add(image, name=name)
            continue
        explorer = AttentionExplorer(model, image, about, fit=fit, name=name)
        explorer.show = shown[method]
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

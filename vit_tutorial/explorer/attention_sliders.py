"""Attention over a photograph, with a slider for the layer and one for the head."""

import io
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_tutorial.plots import overlay

SHOW = ("one head", "mean of heads", "rollout")


class AttentionSliders(widgets.VBox):
    """Show one (rows, columns) map at a time over a photograph; the sliders choose which.

    Args:
        photo: uint8 (H, W, 3).
        heads: what CLS attends to, (layers, heads, rows, columns).
        rollouts: rollout from the first layer up to each, (layers, rows, columns).
        to_photo: takes a (rows, columns) map to (H, W).

    Raises:
        ValueError: maps whose layers or grids differ.
    """

    def __init__(
        self,
        photo: NDArray,
        heads: NDArray,
        rollouts: NDArray,
        to_photo: Callable[[NDArray], NDArray],
    ) -> None:
        if heads.ndim != 4 or rollouts.shape != (heads.shape[0], *heads.shape[2:]):
            raise ValueError(
                f"expected heads (layers, heads, rows, columns) and rollouts (layers, rows, "
                f"columns), got {heads.shape} and {rollouts.shape}"
            )
        self._photo, self._heads, self._rollouts = photo, heads, rollouts
        self._to_photo = to_photo
        layout = widgets.Layout(width="420px")
        style = {"description_width": "60px"}
        last = heads.shape[0] - 1
        self.show = widgets.ToggleButtons(options=SHOW, tooltips=["", "", ""])
        self.show.style.button_width = "132px"
        self.layer = widgets.IntSlider(
            last, 0, last, description="layer", layout=layout, style=style
        )
        self.head = widgets.IntSlider(
            0, 0, heads.shape[1] - 1, description="head", layout=layout, style=style
        )
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(width="480px"))
        self.words = widgets.HTML()
        for control in (self.show, self.layer, self.head):
            control.observe(self._draw, names="value")
        self._draw()
        super().__init__([self.show, self.layer, self.head, self.picture, self.words])

    def _draw(self, _change: Any = None) -> None:
        layer, head, show = self.layer.value, self.head.value, self.show.value
        self.head.disabled = show != "one head"
        if show == "one head":
            weights, what = self._heads[layer, head], f"Layer {layer}, head {head}"
        elif show == "mean of heads":
            weights, what = self._heads[layer].mean(axis=0), f"Layer {layer}, mean of its heads"
        else:
            weights, what = self._rollouts[layer], f"Rollout through layers 0 to {layer}"
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        heat = self._to_photo(weights)
        painted = Image.fromarray(overlay(self._photo, heat / max(heat.max(), 1e-12)))
        file = io.BytesIO()
        painted.save(file, "JPEG", quality=92)
        self.picture.value = file.getvalue()
        self.words.value = (
            f"{what}: most on the patch in row {row}, column {column} "
            f"({weights.max():.1%}); all patches together {weights.sum():.1%}, "
            f"the rest stays on the CLS token."
        )


def attention_sliders(model: Any, card: Any, photo: Any, *, fit: str = "crop") -> AttentionSliders:
    """Open the sliders on any image (path, bytes, PIL image, array or tensor).

    `model` and `card` are what `load_checkpoint` returns; `fit` is "crop", "pad" or "resize".

    Raises:
        ValueError: a model without a CLS token, or an image that cannot be read.
    """
    import torch

    from vit_tutorial.attention import record_attention, rollout
    from vit_tutorial.data import normalize
    from vit_tutorial.images import fit_image, open_image

    if model.config.num_prefix != 1:
        raise ValueError('these sliders show what the CLS token attends to: pool must be "cls"')
    image = open_image(photo)
    image.thumbnail((640, 640))  # as large as it is shown; a big photograph would redraw slowly
    mode = "L" if model.config.in_chans == 1 else "RGB"
    fitted = fit_image(image.convert(mode), model.config.img_size, fit=fit)
    pixels = normalize(fitted.pixels[None], card.mean, card.std)
    record = record_attention(model, pixels.to(model.head.weight))  # its device and type
    depths = range(1, len(record.weights) + 1)
    cls_rows = torch.stack([weights[0, :, 0, 1:] for weights in record.weights])
    rollouts = torch.stack([rollout(record, layers=slice(0, depth))[0] for depth in depths])
    return AttentionSliders(
        photo=np.asarray(image),
        heads=cls_rows.unflatten(-1, record.grid).cpu().numpy(),
        rollouts=rollouts.cpu().numpy(),
        to_photo=fitted.to_original,
    )

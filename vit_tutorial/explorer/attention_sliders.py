"""What CLS attends to, over a photograph, with a slider for the layer and one for the map."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_tutorial.explorer.flipbook import Flipbook, flipbook
from vit_tutorial.plots import overlay

LONGEST_SIDE = 640  # pixels; as large as it is shown


def attention_sliders(model: Any, card: Any, photo: Any, *, fit: str = "crop") -> Flipbook:
    """Open the sliders on any image (path, bytes, PIL image, array or tensor).

    For every layer: each head, the mean of its heads, and rollout from the first layer up to it.
    `model` and `card` are what `load_checkpoint` returns; `fit` is "crop", "pad" or "resize".

    Raises:
        ValueError: a model without a CLS token, or an image that cannot be read.
    """
    import torch

    from vit_tutorial.attention import rollout
    from vit_tutorial.data import normalize
    from vit_tutorial.images import fit_image, open_image
    from vit_tutorial.recording import record_attention

    if model.config.num_prefix != 1:
        raise ValueError('these sliders show what the CLS token attends to: pool must be "cls"')
    image = open_image(photo)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    mode = "L" if model.config.in_chans == 1 else "RGB"
    fitted = fit_image(image.convert(mode), model.config.img_size, fit=fit)
    pixels = normalize(fitted.pixels[None], card.mean, card.std)
    record = record_attention(model, pixels.to(model.head.weight))  # its device and type
    cls_rows = torch.stack([weights[0, :, 0, 1:] for weights in record.weights])
    heads = cls_rows.unflatten(-1, record.grid).cpu().numpy()  # (layers, heads, rows, columns)
    layers = range(len(heads))
    rollouts = [rollout(record, layers=slice(0, layer + 1))[0].cpu().numpy() for layer in layers]

    def draw(layer: int, show: str) -> tuple[NDArray[np.uint8], str]:
        if show == "rollout":
            weights, what = rollouts[layer], f"Rollout through layers 0 to {layer}"
        elif show == "mean of heads":
            weights, what = heads[layer].mean(axis=0), f"Layer {layer}, mean of its heads"
        else:
            weights = heads[layer, int(show.removeprefix("head "))]
            what = f"Layer {layer}, {show}"
        row, column = np.unravel_index(weights.argmax(), weights.shape)
        heat = fitted.to_original(weights)
        words = (
            f"{what}: most on the patch in row {row}, column {column} ({weights.max():.1%}); all "
            f"patches together {weights.sum():.1%}, the rest stays on the CLS token."
        )
        return overlay(np.asarray(image), heat / max(heat.max(), 1e-12)), words

    maps = [f"head {head}" for head in range(heads.shape[1])] + ["mean of heads", "rollout"]
    return flipbook(draw, layer=layers, show=maps, start={"layer": layers[-1]})

"""A small network that runs in the browser, whose heads can be taken away one by one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from numpy.typing import NDArray

from vit_tutorial.explorer.live import weights_file
from vit_tutorial.explorer.page import Explorer, sources
from vit_tutorial.plots import heat_colours

if TYPE_CHECKING:
    from vit_tutorial.images import ReadsImages

MAX_WORK = 3e9  # multiply-adds for all images: some seconds in a browser
SHOWN = 8  # images to look at


class PruningExplorer(Explorer):
    """Click heads away, and watch a map, a prediction, and the accuracy on all images.

    The network itself runs in the browser, with the heads that are left: every set of heads can be
    tried, without the kernel.

    Args:
        model: a small `VisionTransformer`, with the same number of heads in every layer.
        images: an `ImageSet` to classify.
        reading: how the network reads images: a `Reading`, or the card of a checkpoint.
        rules: name -> a score for each head (layers, heads), those to go first with the smallest.

    `gone` (indices of heads, layer * heads + head) and `shown` (an image) follow what is done in
    the browser, and a cell may set them.

    Raises:
        ValueError: a network or images that a browser cannot run, or numbers of another shape;
            later, heads or an image that are not there, or a layer without a head.
    """

    _esm, _css = sources(__file__)
    page_height = 500

    config = traitlets.Dict(read_only=True).tag(sync=True)  # that of the network
    weights = traitlets.Bytes(read_only=True).tag(sync=True)  # those of a .safetensors file
    pixels = traitlets.Bytes(read_only=True).tag(sync=True)  # uint8 (n, C, H, W)
    labels = traitlets.List(traitlets.Int(), read_only=True).tag(sync=True)
    classes = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    mean = traitlets.List(traitlets.Float(), read_only=True).tag(sync=True)
    std = traitlets.List(traitlets.Float(), read_only=True).tag(sync=True)
    candidates = traitlets.List(traitlets.Int(), read_only=True).tag(sync=True)  # images to show
    orders = traitlets.Dict(read_only=True).tag(sync=True)  # rule -> heads, the first goes first
    palette = traitlets.Bytes(read_only=True).tag(sync=True)  # uint8 (256, 3)
    whole = traitlets.Int(read_only=True).tag(sync=True)  # images correct with all heads

    gone = traitlets.List(traitlets.Int()).tag(sync=True)
    shown = traitlets.Int().tag(sync=True)

    def __init__(
        self, model: Any, images: Any, reading: ReadsImages, rules: Mapping[str, Sequence[Any]]
    ) -> None:
        _require_runnable(model, images)
        config = asdict(model.config)
        shape = config["depth"], config["num_heads"]
        fixed = {
            "config": config,
            "weights": weights_file(model),
            "pixels": images.images.numpy().tobytes(),
            "labels": images.labels.tolist(),
            "classes": [str(name) for name in reading.classes],
            "mean": [float(value) for value in reading.mean],
            "std": [float(value) for value in reading.std],
            "candidates": _different(images.labels.numpy()),
            "orders": {str(name): _order(shape, scores) for name, scores in rules.items()},
            "palette": heat_colours().tobytes(),
        }
        for name, value in fixed.items():
            self.set_trait(name, value)
        self._model, self._images = copy.deepcopy(model).eval(), images
        self.set_trait("whole", self.correct([]))
        super().__init__(gone=[], shown=self.candidates[0])

    def __repr__(self) -> str:
        heads = self.config["depth"] * self.config["num_heads"]
        return f"PruningExplorer: {heads} heads, {len(self.labels)} images"

    @traitlets.validate("gone")
    def _heads_are_there(self, proposal: Any) -> list[int]:
        heads, depth = self.config["num_heads"], self.config["depth"]
        gone = sorted(set(proposal["value"]))
        if gone and not 0 <= gone[0] <= gone[-1] < depth * heads:
            raise ValueError(f"heads are numbered 0 to {depth * heads - 1}, got {gone}")
        for layer in range(depth):
            if set(range(layer * heads, (layer + 1) * heads)) <= set(gone):
                raise ValueError(f"layer {layer} must keep one of its {heads} heads")
        return gone

    @traitlets.validate("shown")
    def _image_is_there(self, proposal: Any) -> int:
        if proposal["value"] not in range(len(self.labels)):
            raise ValueError(
                f"shown must be from 0 to {len(self.labels) - 1}, got {proposal['value']}"
            )
        return proposal["value"]

    # ---- the same without a browser ----

    def _pruned(self, gone: Sequence[int]) -> Any:
        """Copy the network, with no output of the heads that are gone."""
        from vit_tutorial.compress import silence_heads

        silenced: dict[int, list[int]] = {}
        for number in gone:
            layer, head = divmod(number, self.config["num_heads"])
            silenced.setdefault(layer, []).append(head)
        return silence_heads(self._model, silenced)

    def correct(self, gone: Sequence[int] | None = None) -> int:
        """Count the images that the network classifies correctly without these heads."""
        import torch

        from vit_tutorial.images import normalize

        pruned = self._pruned(self.gone if gone is None else gone)
        pixels = normalize(self._images.images, self.mean, self.std)
        with torch.inference_mode():
            predictions = torch.cat([pruned(part).argmax(dim=1) for part in pixels.split(500)])
        return int((predictions == self._images.labels).sum())

    def maps(
        self, gone: Sequence[int] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tell where each head looks on the image, and what the network outputs without some heads.

        Returns the attention of what the logits are read from (CLS, or the mean of all tokens),
        (layers, heads, rows, columns), and probabilities (classes,).
        """
        from vit_tutorial.images import normalize
        from vit_tutorial.recording import record_attention

        pixels = normalize(self._images.images[self.shown, None], self.mean, self.std)
        record: Any = record_attention(self._pruned(self.gone if gone is None else gone), pixels)
        prefix = record.num_prefix
        rows = [
            (weights[0, :, 0] if prefix else weights[0].mean(dim=1))[:, prefix:].numpy()
            for weights in record.weights
        ]
        maps = np.stack(rows).reshape(len(rows), -1, *record.grid)
        return maps.astype(float), record.logits[0].softmax(dim=0).numpy().astype(float)

    def figure(self, gone: Sequence[int] | None = None) -> Any:
        """Draw what the browser shows as a figure, with the heads that are gone or with others."""
        from vit_tutorial.plots import pruning_view

        gone = self.gone if gone is None else gone
        maps, probabilities = self.maps(gone)
        keep = np.ones(maps.shape[:2], dtype=bool)
        keep.ravel()[list(gone)] = False
        return pruning_view(
            picture(self._images.images[self.shown].numpy()),
            maps,
            keep,
            f"says {self.classes[probabilities.argmax()]}, {probabilities.max():.0%} "
            f"(it is {self.classes[self.labels[self.shown]]})",
            (self.correct(gone), self.whole, len(self.labels)),
        )


def picture(pixels: NDArray) -> NDArray[np.uint8]:
    """Turn an image (C, H, W) into a picture (H, W, 3); one channel is shown as ink on white."""
    if len(pixels) == 1:
        pixels = np.repeat(255 - pixels, 3, axis=0)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _require_runnable(model: Any, images: Any) -> None:
    """See that the browser can classify these images, and in a short time.

    Raises:
        ValueError: it cannot, or it would take too long.
    """
    config = model.config
    if {block.attn.num_heads for block in model.blocks} != {config.num_heads}:
        raise ValueError("expected a network with the same number of heads in every layer")
    shape = tuple(images.images.shape)
    if not len(images) or shape[1:] != (config.in_chans, *config.image_hw):
        raise ValueError(
            f"expected images (n, {config.in_chans}, {', '.join(map(str, config.image_hw))}), "
            f"got {shape}"
        )
    linear = config.embed_dim * (4 * config.embed_dim + 2 * config.hidden_dim)
    mixing = 2 * config.num_tokens * config.embed_dim
    work = len(images) * config.depth * config.num_tokens * (linear + mixing)
    if work > MAX_WORK:
        raise ValueError(
            f"{len(images)} images take {work / 1e9:.0f} billion multiply-adds, too many for a "
            f"browser: give at most {int(len(images) * MAX_WORK / work)} images"
        )


def _different(labels: NDArray, count: int = SHOWN) -> list[int]:
    """Choose images to show, of as many classes as there are."""
    firsts = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    more = [index for index in range(len(labels)) if index not in firsts]
    return [*firsts, *more][:count]


def _order(shape: tuple[int, int], scores: Sequence[Any]) -> list[int]:
    """Order heads by their score, the smallest first; the last of a layer never goes."""
    table = np.array([[float(value) for value in layer] for layer in scores])
    if table.shape != shape:
        raise ValueError(f"expected a score for each head, {shape}, got {table.shape}")
    remaining, order = [shape[1]] * shape[0], []
    for head in np.argsort(table.ravel(), kind="stable").tolist():
        if remaining[head // shape[1]] > 1:
            remaining[head // shape[1]] -= 1
            order.append(head)
    return order

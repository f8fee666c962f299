"""A Vision Transformer that lives in the page: look, hide, draw, silence, and test the map."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets
from PIL import Image

from vit_tutorial.explorer.page import Explorer, join_modules, sources
from vit_tutorial.plots import heat_colours

if TYPE_CHECKING:
    from vit_tutorial.images import Source
    from vit_tutorial.model import VisionTransformer
    from vit_tutorial.weights import Card

LONGEST_SIDE = 480  # pixels of a sample
CREDITS = {  # of the photographs that come with scikit-image
    "chelsea": ("a cat", "Chelsea, photograph by Stéfan van der Walt, public domain"),
    "coffee": ("a cup", "photograph by Rachel Michetti, CC0"),
    "rocket": ("a rocket", "photograph by SpaceX, CC0"),
    "astronaut": ("an astronaut", "Eileen Collins, photograph by NASA, public domain"),
}


class LiveExplorer(Explorer):
    """A network that runs in the browser, on any picture: in a notebook, or in one file.

    Hide patches, shuffle them, turn positions off, silence heads, change the temperature: the
    answer follows at once, and no kernel is asked. "Is the map right?" removes patches in the order
    of the map, in the reverse order and at random.

    Args:
        model: a `VisionTransformer` of this package.
        card: that of its checkpoint; how it reads images is taken from it.
        samples: name -> a picture to begin with, what `open_image` opens. By default photographs
            from scikit-image, or, for a network that reads the digits, some of their test images.

    Raises:
        ValueError: another network, a card of another number of classes, or a sample that cannot be
            opened.
    """

    _esm, _css = sources(__file__)
    page_height = 1150

    config = traitlets.Dict(read_only=True).tag(sync=True)
    weights = traitlets.Bytes(read_only=True).tag(sync=True)  # of a .safetensors file
    source = traitlets.Unicode(read_only=True).tag(sync=True)  # of the engine, for a Worker
    classes = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    mean = traitlets.List(traitlets.Float(), read_only=True).tag(sync=True)
    std = traitlets.List(traitlets.Float(), read_only=True).tag(sync=True)
    about = traitlets.Unicode(read_only=True).tag(sync=True)
    samples = traitlets.List(traitlets.Dict(), read_only=True).tag(sync=True)  # name and credit
    pictures = traitlets.List(traitlets.Bytes(), read_only=True).tag(sync=True)  # PNG or JPEG
    can_draw = traitlets.Bool(read_only=True).tag(sync=True)
    palette = traitlets.Bytes(read_only=True).tag(sync=True)  # uint8 (256, 3)
    linked = traitlets.Bool(False, read_only=True).tag(
        sync=True
    )  # does the address keep what was changed

    def __init__(
        self, model: VisionTransformer, card: Card, samples: Mapping[str, Source] | None = None
    ) -> None:
        from vit_tutorial.images import open_image
        from vit_tutorial.model import VisionTransformer

        if not isinstance(model, VisionTransformer):
            raise ValueError(
                f"a page runs a VisionTransformer of vit_tutorial, got {type(model).__name__}: "
                "weights.from_library makes one of a plain ViT of timm, torchvision or Hugging "
                "Face, and AttentionExplorer shows any other"
            )
        if len(card.classes) != model.config.num_classes:
            raise ValueError(
                f"the network tells {model.config.num_classes} classes apart, its card names "
                f"{len(card.classes)}"
            )
        grey = model.config.in_chans == 1
        if samples is None:
            chosen = _digits() if grey else _photographs()
        else:
            chosen = [(name, "", open_image(image)) for name, image in samples.items()]
        fixed = {
            "config": asdict(model.config),
            "weights": weights_file(model),
            "source": join_modules(Path(__file__).with_name("vit_engine.js")),
            "classes": [str(name) for name in card.classes],
            "mean": [float(value) for value in card.mean],
            "std": [float(value) for value in card.std],
            "about": f"A Vision Transformer of {sum(p.numel() for p in model.parameters()):,} "
            f"weights, which knows {len(card.classes)} classes.",
            "samples": [{"name": name, "credit": credit} for name, credit, _ in chosen],
            "pictures": [_file_of(picture) for _, _, picture in chosen],
            "can_draw": grey,
            "palette": heat_colours("magma").tobytes(),
        }
        for name, value in fixed.items():
            self.set_trait(name, value)
        super().__init__()

    def page_state(self) -> dict[str, Any]:
        """Return what a page of its own begins with; its address keeps what is changed in it."""
        return {**super().page_state(), "linked": True}

    def title(self) -> str:
        """Say what a page of its own is called."""
        return "A network looks at your picture. Where?"

    def __repr__(self) -> str:
        return f"LiveExplorer: {', '.join(sample['name'] for sample in self.samples)}"


def live(
    model: str | Path | VisionTransformer = "cifar10", card: Card | None = None
) -> LiveExplorer:
    """Put a network into a page: a bundled name, a .safetensors file, or a network and its card.

    Raises:
        ValueError: a network that is not there, or that the page cannot run.
    """
    from vit_tutorial.weights import load_checkpoint

    if isinstance(model, str | Path):
        model, card = load_checkpoint(model)
    if card is None:
        raise ValueError("live(model, card) needs the card, which says how images are read")
    return LiveExplorer(model, card)


def weights_file(model: Any) -> bytes:
    """Write the weights as a .safetensors file, each in half precision if that holds it exactly."""
    from safetensors.torch import save

    state = {}
    for name, value in model.state_dict().items():
        half = value.half()
        state[name] = (half if (half == value).all() else value.float()).cpu().contiguous()
    return save(state)


def _photographs() -> list[tuple[str, str, Image.Image]]:
    from skimage import data

    return [
        (name, credit, Image.fromarray(getattr(data, key)()))
        for key, (name, credit) in CREDITS.items()
    ]


def _digits() -> list[tuple[str, str, Image.Image]]:
    from vit_tutorial.data import digits

    test = digits("test")
    firsts = [test.labels.tolist().index(digit) for digit in (3, 8, 5, 4)]
    return [
        (f"the digit {test.labels[n]}", "from scikit-learn's digits", _grey(test.images[n, 0]))
        for n in firsts
    ]


def _grey(pixels: Any) -> Image.Image:
    return Image.fromarray(pixels.numpy(), "L")


def _file_of(picture: Image.Image) -> bytes:
    """Write a sample as small as it can be without being seen: PNG if it is tiny, else JPEG."""
    file = io.BytesIO()
    picture = picture.convert("RGB")
    if max(picture.size) <= 64:
        picture.save(file, "PNG")
    else:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        picture.save(file, "JPEG", quality=92)
    return file.getvalue()

"""A Vision Transformer that lives in the page: look, hide, draw, silence, and test the map."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from vit_tutorial.explorer.page import Explorer, join_modules, sources
from vit_tutorial.plots import heat_colours
from vit_tutorial.plots.live import DIVERGING

if TYPE_CHECKING:
    from torch import nn

    from vit_tutorial.data import ImageSet
    from vit_tutorial.images import ReadsImages, Source
    from vit_tutorial.model import VisionTransformer
    from vit_tutorial.weights import Card

LONGEST_SIDE = 480  # pixels of a sample
SIDES = (1, 2, 3, 4)  # of a square, in patches
MAX_WORK = 3e9  # multiply-adds to count once: some seconds in a browser
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
        images: an `ImageSet` as large as the network reads. The page counts how many of them are
            classified correctly with what was changed.
        rules: name -> a score for each head (layers, heads), by which heads can be silenced one
            after another, the smallest first; one of each layer stays.
        beside: name -> another network of any kind that names the same classes, and how it reads
            images. What it says of the samples, whole and with every square of patches hidden, is
            computed here and shown beside.

    Raises:
        ValueError: another network, a card of another number of classes, a sample that cannot be
            opened, images of another shape or too many of them, scores of another shape, or a
            network beside it with other classes.
    """

    _esm, _css = sources(__file__)
    page_height = 1350

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
    diverging = traitlets.Bytes(read_only=True).tag(sync=True)  # the same, its middle is 0
    pixels = traitlets.Bytes(read_only=True).tag(sync=True)  # of the images, uint8 (n, C, H, W)
    labels = traitlets.List(traitlets.Int(), read_only=True).tag(sync=True)
    orders = traitlets.Dict(read_only=True).tag(sync=True)  # rule -> heads, the first goes first
    others = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)  # beside it
    # float32 (others, 1 + places, classes) of each sample: as it is, then with the squares of the
    # first side, row by row, then with those of the next
    answers = traitlets.List(traitlets.Bytes(), read_only=True).tag(sync=True)
    linked = traitlets.Bool(False, read_only=True).tag(
        sync=True
    )  # does the address keep what was changed

    def __init__(
        self,
        model: VisionTransformer,
        card: Card,
        samples: Mapping[str, Source] | None = None,
        *,
        images: ImageSet | None = None,
        rules: Mapping[str, Sequence[Any]] | None = None,
        beside: Mapping[str, tuple[nn.Module, ReadsImages]] | None = None,
    ) -> None:
        from vit_tutorial.images import open_image
        from vit_tutorial.model import VisionTransformer

        if type(model) is not VisionTransformer:
            raise ValueError(
                f"a page runs a plain VisionTransformer of vit_tutorial, got "
                f"{type(model).__name__}: from_library makes one of a plain ViT of timm, "
                "torchvision or Hugging Face, and AttentionExplorer shows any other"
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
        if images is not None:
            _require_countable(model, images)
        beside = dict(beside or {})
        _require_classes(card.classes, beside)
        shape = model.config.depth, model.config.num_heads
        self._model, self._card = copy.deepcopy(model).eval(), card
        self._networks: dict[str, Any] = {"this network": (self._model, card), **beside}
        files = [_file_of(picture) for _, _, picture in chosen]
        self._samples = [  # what the page reads, too
            (name, Image.open(io.BytesIO(file)))
            for (name, _, _), file in zip(chosen, files, strict=True)
        ]
        self._images = images
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
            "pictures": files,
            "can_draw": grey,
            "palette": heat_colours("magma").tobytes(),
            "diverging": heat_colours(DIVERGING).tobytes(),
            "pixels": b"" if images is None else images.images.numpy().tobytes(),
            "labels": [] if images is None else images.labels.tolist(),
            "orders": {str(name): _order(shape, scores) for name, scores in (rules or {}).items()},
            "others": list(beside),
            "answers": [
                np.stack([self._said(name, n, self._squares()) for name in beside])
                .astype(np.float32)
                .tobytes()
                for n in range(len(chosen) if beside else 0)
            ],
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

    # ---- the same without a browser ----

    def _said(
        self, name: str, sample: int, masks: NDArray[np.bool_], silenced: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        """Ask a network for its probabilities where masks (n, H, W) hide pixels: (n, classes)."""
        import torch

        from vit_tutorial.images import prepare
        from vit_tutorial.modes import evaluating

        model, reading = self._networks[name]
        if silenced:
            model = self._silent(silenced)
        size = self._model.config.image_hw
        _, pixels = prepare(self._samples[sample][1], reading, model, size=size)
        hide = torch.from_numpy(masks)[:, None].to(pixels.device)
        hidden = torch.where(hide, 0.0, pixels)  # grey: their mean, 0
        with evaluating(model), torch.inference_mode():
            parts = [model(part).float().softmax(dim=1).cpu() for part in hidden.split(128)]
        return torch.cat(parts).numpy()

    def _silent(self, silenced: Sequence[int]) -> VisionTransformer:
        from vit_tutorial.compress import silence_heads

        heads = self._model.config.num_heads
        layers = sorted({number // heads for number in silenced})
        return silence_heads(
            self._model,
            {layer: [n % heads for n in silenced if n // heads == layer] for layer in layers},
        )

    def _squares(self, sides: Sequence[int] | None = None) -> NDArray[np.bool_]:
        config = self._model.config
        fitting = [side for side in sides or SIDES if self._fits(side)]
        return squares(config.image_hw, config.patch_size, fitting)

    def _require_sample(self, sample: int) -> None:
        if not 0 <= sample < len(self._samples):
            raise ValueError(f"sample must be from 0 to {len(self._samples) - 1}, got {sample}")

    def _fits(self, side: int) -> bool:
        grid = self._model.config.grid
        return 1 <= side <= min(grid) and side * side < grid[0] * grid[1]

    def correct(self, silenced: Sequence[int] = ()) -> int:
        """Count the images that are classified correctly with these heads silenced.

        Heads are numbered layer by layer: layer * heads + head.

        Raises:
            ValueError: no images were given, or a head that is not there.
        """
        import torch

        from vit_tutorial.images import normalize

        if self._images is None:
            raise ValueError("there are no images to count: LiveExplorer(..., images=...)")
        model, card = self._silent(silenced), self._card
        pixels = normalize(self._images.images, card.mean, card.std)
        with torch.inference_mode():
            said = torch.cat([model(part).argmax(dim=1) for part in pixels.split(500)])
        return int((said == self._images.labels).sum())

    def hiding(self, sample: int = 0, side: int = 2) -> dict[str, NDArray[np.float64]]:
        """Tell what hiding a square costs the class that this network names (occlusion).

        Returns, for each network, (rows, columns): for each patch the mean, over all squares that
        cover it, of how far the probability falls (Zeiler & Fergus 2013); below 0 where it rises.

        Raises:
            ValueError: a sample or a side that is not there.
        """
        config = self._model.config
        if not self._fits(side):
            raise ValueError(
                f"a square of {side}×{side} patches has to lie on a grid of {config.grid[0]}×"
                f"{config.grid[1]} and leave one"
            )
        self._require_sample(sample)
        masks, rows, columns = self._squares([side]), *config.grid
        step = config.patch_size
        cover = masks[1:, ::step, ::step].reshape(len(masks) - 1, -1).astype(float)  # (places, N)
        target = int(self._said("this network", sample, masks[:1])[0].argmax())
        falls = {}
        for name in self._networks:
            said = self._said(name, sample, masks)[:, target].astype(float)
            falls[name] = ((said[0] - said[1:]) @ cover / cover.sum(0)).reshape(rows, columns)
        return falls

    def figure(
        self,
        sample: int = 0,
        *,
        hidden: Sequence[int] = (),
        silenced: Sequence[int] = (),
        side: int | None = None,
        name: str = "this network",
    ) -> Any:
        """Draw a view of the page as a figure.

        Args:
            sample: which picture.
            hidden: numbers of patches that are hidden with the mean colour.
            silenced: numbers of heads, layer * heads + head.
            side: draw what hiding a square of so many patches costs, in place of rollout.
            name: what the page's own network is called in it.

        Raises:
            ValueError: a sample, patch, head or side that is not there.
        """
        import torch

        from vit_tutorial.attention import rollout
        from vit_tutorial.images import prepare
        from vit_tutorial.plots import live_view
        from vit_tutorial.recording import record_attention

        model, card = self._model, self._card
        self._require_sample(sample)
        outside = [n for n in hidden if not 0 <= n < model.config.num_patches]
        if outside:
            raise ValueError(
                f"patches are numbered 0 to {model.config.num_patches - 1}, got {outside}"
            )
        fitted, pixels = prepare(self._samples[sample][1], card, model)
        config = model.config
        patches = np.isin(np.arange(config.num_patches), list(hidden)).reshape(config.grid)
        mask = np.kron(patches, np.ones((config.patch_size,) * 2, dtype=bool)).astype(bool)
        both = np.stack([np.zeros_like(mask), mask])
        called = {own: name if own == "this network" else own for own in self._networks}
        answers = {
            title: np.stack([
                self._said(own, sample, both[:1])[0],
                self._said(own, sample, both[1:], silenced if own == "this network" else ())[0],
            ])
            for own, title in called.items()
        }  # fmt: skip
        if side is None:
            shown = torch.where(torch.from_numpy(mask), 0.0, pixels)
            record = record_attention(self._silent(silenced), shown)
            maps, scale = {"rollout": rollout(record)[0].numpy()}, None
        else:
            falls = self.hiding(sample, side)
            maps = {f"{called[own]}: hiding costs": fall for own, fall in falls.items()}
            most = max(float(np.abs(fall).max()) for fall in maps.values()) or 1.0
            scale = (-most, most)
        caption = ""
        if self._images is not None:
            right, whole = self.correct(silenced), self.correct()
            caption = f"{right} of {len(self.labels)} images right ({whole} without changes)"
        photo = _shown(fitted.view(), mask, card.mean)
        return live_view(
            photo, maps, answers, self.classes, scale=scale, title=self._samples[sample][0],
            caption=caption,
        )  # fmt: skip

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


def squares(side: tuple[int, int], patch_size: int, sides: Sequence[int]) -> NDArray[np.bool_]:
    """List what each square of patches hides: (1 + places, H, W); the first mask hides nothing.

    Squares of the first side come row by row, then those of the next.

    Examples:
        >>> squares((8, 8), patch_size=4, sides=(1, 2)).sum(axis=(1, 2)).tolist()
        [0, 16, 16, 16, 16, 64]
    """
    rows, columns = (length // patch_size for length in side)
    masks = [np.zeros((rows, columns), dtype=bool)]
    for length in sides:
        for row, column in np.ndindex(rows - length + 1, columns - length + 1):
            masks.append(np.zeros((rows, columns), dtype=bool))
            masks[-1][row : row + length, column : column + length] = True
    return np.stack(masks).repeat(patch_size, axis=1).repeat(patch_size, axis=2)


def _require_countable(model: VisionTransformer, images: ImageSet) -> None:
    """See that a browser can classify these images, and in a short time."""
    config, shape = model.config, tuple(images.images.shape)
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


def _require_classes(classes: Sequence[str], beside: Mapping[str, Any]) -> None:
    """See that networks beside this one name the same classes."""
    for name, (_, reading) in beside.items():
        if list(reading.classes) != list(classes):
            raise ValueError(
                f"all networks must name the same classes: this network has "
                f"{', '.join(classes[:4])}, ...; {name} has {', '.join(reading.classes[:4])}, ..."
            )


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


def _shown(view: Image.Image, mask: NDArray[np.bool_], mean: Sequence[float]) -> NDArray[np.uint8]:
    """Paint the mean colour over what is hidden of a picture: (H, W, 3)."""
    if max(view.size) <= 64:  # as it is, pixel by pixel
        view = view.resize([8 * side for side in view.size], Image.Resampling.NEAREST)
    picture = np.array(view.convert("RGB"))
    cover = Image.fromarray(mask).resize(picture.shape[1::-1], Image.Resampling.NEAREST)
    picture[np.array(cover)] = [round(255 * value) for value in (list(mean) * 3)[:3]]
    return picture


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

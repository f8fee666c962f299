"""What networks output while a grey square hides a part of a picture, for every position."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from vit_tutorial.explorer.page import Explorer, sources
from vit_tutorial.plots import heat_colours

if TYPE_CHECKING:
    from torch import nn

    from vit_tutorial.images import ReadsImages, Size, Source

LONGEST_SIDE = 480  # pixels of a picture in the page
MAX_NETWORKS, MAX_PATCHES, MAX_CLASSES = 3, 400, 20


class OcclusionExplorer(Explorer):
    """Hide squares of patches under the pointer, and watch the outputs of several networks.

    Every output is computed beforehand: the browser needs no kernel. Networks of
    any kind take part, as long as they read images of one size and name the same classes.

    Args:
        networks: name -> the network, and how it reads images: a `Reading`, or the card of a
            checkpoint.
        images: what `open_image` opens, or several by name.
        img_size: pixels of what the networks read, one number or (height, width).
        patch_size: pixels of the patches that squares are made of.
        sizes: sides of the squares, in patches.

    `image`, `size`, `place` (the square's first row and column; (-1, -1) for no square) and
    `watched` (a class) follow what is done in the browser, and a cell may set them.

    Raises:
        ValueError: no network or too many, networks that name different classes, a size that does
            not fit, or an image that cannot be opened; later, a setting that is not there.
    """

    _esm, _css = sources(__file__)
    page_height = 560

    names = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)  # of the networks
    classes = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    grid = traitlets.Tuple(traitlets.Int(), traitlets.Int(), read_only=True).tag(sync=True)
    sizes = traitlets.List(traitlets.Int(), read_only=True).tag(sync=True)
    titles = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)  # of the images
    pictures = traitlets.List(traitlets.Bytes(), read_only=True).tag(sync=True)  # JPEG
    greys = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)  # "rgb(...)" of each
    # float32 (networks, 1 + positions, classes) of each image: first of the full picture, then with
    # the squares of the first size, row by row, then with those of the next
    answers = traitlets.List(traitlets.Bytes(), read_only=True).tag(sync=True)
    palette = traitlets.Bytes(read_only=True).tag(sync=True)  # uint8, (256, 3)

    image = traitlets.Int(0).tag(sync=True)
    size = traitlets.Int().tag(sync=True)
    place = traitlets.Tuple(traitlets.Int(), traitlets.Int()).tag(sync=True)
    watched = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        networks: Mapping[str, tuple[nn.Module, ReadsImages]],
        images: Source | Mapping[str, Source],
        *,
        img_size: Size = 32,
        patch_size: int = 4,
        sizes: Sequence[int] = (1, 2, 3, 4),
    ) -> None:
        from vit_tutorial.images import name_of

        if not isinstance(networks, Mapping) or not 1 <= len(networks) <= MAX_NETWORKS:
            raise ValueError(
                f'expected 1 to {MAX_NETWORKS} networks by name, as in {{"ViT": (model, card)}}'
            )
        side = img_size if isinstance(img_size, tuple) else (img_size, img_size)
        grid = _checked_grid(side, patch_size, sizes)
        classes = _common_classes({name: reading for name, (_, reading) in networks.items()})
        named = images if isinstance(images, Mapping) else {name_of(images): images}
        if not named:
            raise ValueError("expected at least one image, got none")
        pictures, greys, tables = [], [], []
        for image in named.values():
            picture, grey, outputs = _probabilities(networks, image, side, patch_size, sizes)
            pictures.append(picture)
            greys.append(grey)
            tables.append(outputs.astype(np.float32).tobytes())
        fixed = {
            "names": [str(name) for name in networks],
            "classes": classes,
            "grid": grid,
            "sizes": [int(size) for size in sizes],
            "titles": [str(name) for name in named],
            "pictures": pictures,
            "greys": greys,
            "answers": tables,
            "palette": heat_colours().tobytes(),
        }
        for name, value in fixed.items():
            self.set_trait(name, value)
        super().__init__(size=self.sizes[min(1, len(sizes) - 1)], place=(-1, -1))
        self.watched = int(self.probabilities(place=(-1, -1))[0].argmax())

    def __repr__(self) -> str:
        return f"OcclusionExplorer: {', '.join(self.names)} on {', '.join(self.titles)}"

    @traitlets.validate("image")
    def _image_is_there(self, proposal: Any) -> int:
        if proposal["value"] not in range(len(self.titles)):
            raise ValueError(
                f"image must be from 0 to {len(self.titles) - 1}, got {proposal['value']}"
            )
        return proposal["value"]

    @traitlets.validate("size")
    def _size_is_there(self, proposal: Any) -> int:
        if proposal["value"] not in self.sizes:
            raise ValueError(f"size must be one of {self.sizes}, got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("place")
    def _place_is_on_the_grid(self, proposal: Any) -> tuple[int, int]:
        row, column = proposal["value"]
        if (row, column) != (-1, -1) and not (
            0 <= row < self.grid[0] and 0 <= column < self.grid[1]
        ):
            raise ValueError(
                f"place must be a patch (row, column) of the {self.grid[0]}x{self.grid[1]} grid, "
                f"or (-1, -1) for no square, got {(row, column)}"
            )
        return row, column

    @traitlets.validate("watched")
    def _class_is_there(self, proposal: Any) -> int:
        if proposal["value"] not in range(len(self.classes)):
            raise ValueError(
                f"watched must be the index of a class, from 0 to {len(self.classes) - 1}, got "
                f"{proposal['value']}"
            )
        return proposal["value"]

    # ---- the same without a browser ----

    def _view(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        names = ("image", "size", "place", "watched")
        return {**{name: getattr(self, name) for name in names}, **setting}

    def _square(self, view: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the first row and column of the square, moved so that all of it is on the grid."""
        if tuple(view["place"]) == (-1, -1):
            return None
        row, column = view["place"]
        return min(row, self.grid[0] - view["size"]), min(column, self.grid[1] - view["size"])

    def _table(self, image: int) -> NDArray[np.float32]:
        flat = np.frombuffer(self.answers[image], dtype=np.float32)
        return flat.reshape(len(self.names), -1, len(self.classes))

    def probabilities(self, **setting: Any) -> NDArray[np.float32]:
        """Look up each network's probabilities: (networks, classes).

        Takes the explorer's own setting, where no other is given for one of its fields: `image`,
        `size`, `place`.
        """
        view = self._view(setting)
        square, table = self._square(view), self._table(view["image"])
        if square is None:
            return table[:, 0]
        first = 1 + sum(
            (self.grid[0] - size + 1) * (self.grid[1] - size + 1)
            for size in self.sizes[: self.sizes.index(view["size"])]
        )
        return table[:, first + square[0] * (self.grid[1] - view["size"] + 1) + square[1]]

    def falls(self, **setting: Any) -> NDArray[np.float32]:
        """Tell how far the watched class falls, by position: (networks, rows, columns).

        Takes what `probabilities` takes, and `watched`. Below 0 where the probability rises.
        """
        view = self._view(setting)
        rows, columns = (side - view["size"] + 1 for side in self.grid)
        before = self.probabilities(**{**view, "place": (-1, -1)})[:, view["watched"]]
        after = [
            self.probabilities(**{**view, "place": (row, column)})[:, view["watched"]]
            for row in range(rows)
            for column in range(columns)
        ]
        return (before - np.stack(after)).T.reshape(-1, rows, columns)

    def caption(self, **setting: Any) -> str:
        """Say what is shown in a sentence; takes what `probabilities` takes."""
        view = self._view(setting)
        square, before = self._square(view), self.probabilities(**{**view, "place": (-1, -1)})
        parts = []
        for name, probabilities, unhidden in zip(
            self.names, self.probabilities(**view), before, strict=True
        ):
            best = int(probabilities.argmax())
            change = "" if square is None else f" ({unhidden[best]:.0%} without the square)"
            parts.append(f"{name}: {self.classes[best]} {probabilities[best]:.0%}{change}")
        where = "No square"
        if square is not None:
            where = f"{view['size']}×{view['size']} patches grey from row {square[0]}, column "
            where += str(square[1])
        return f"{where}. {'; '.join(parts)}."

    def figure(self, **setting: Any) -> Any:
        """Draw what the browser shows as a figure; takes what `falls` takes."""
        from vit_tutorial.plots import occlusion_view

        view = self._view(setting)
        file = Image.open(io.BytesIO(self.pictures[view["image"]]))
        picture, box = np.array(file.convert("RGB")), None
        if (square := self._square(view)) is not None:
            high, wide = picture.shape[0] / self.grid[0], picture.shape[1] / self.grid[1]
            first = (square[0] * high, square[1] * wide)
            box = (*first, first[0] + view["size"] * high, first[1] + view["size"] * wide)
            top, left, bottom, right = (round(edge) for edge in box)
            colour = self.greys[view["image"]].removeprefix("rgb(").removesuffix(")")
            picture[top:bottom, left:right] = [int(part) for part in colour.split(",")]
        pairs = zip(
            self.probabilities(**{**view, "place": (-1, -1)}),
            self.probabilities(**view),
            strict=True,
        )
        label, falls = self.classes[view["watched"]], self.falls(**view)
        return occlusion_view(
            picture,
            box,
            {name: np.stack(pair) for name, pair in zip(self.names, pairs, strict=True)},
            self.classes,
            {
                f"{name}: {label}\nfalls by up to {fall.max():.0%}": fall
                for name, fall in zip(self.names, falls, strict=True)
            },
            title=self.titles[view["image"]],
            caption=self.caption(**view),
        )


def _checked_grid(side: tuple[int, int], patch_size: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of patches, if squares of these sizes fit."""
    if len(side) != 2 or patch_size < 1 or min(side) < 1 or any(s % patch_size for s in side):
        raise ValueError(f"images of {side} pixels cannot be cut into patches of {patch_size}")
    grid = side[0] // patch_size, side[1] // patch_size
    if grid[0] * grid[1] > MAX_PATCHES:
        raise ValueError(f"expected at most {MAX_PATCHES} patches, got {grid[0]}x{grid[1]}")
    if (
        not sizes
        or list(sizes) != sorted(set(sizes))
        or not 1 <= sizes[0] <= sizes[-1] <= min(grid)
    ):
        raise ValueError(
            f"sizes must be integers from 1 to {min(grid)}, the smallest first, got {sizes!r}"
        )
    return grid


def _common_classes(readings: Mapping[str, ReadsImages]) -> list[str]:
    classes_of = {
        name: [str(label) for label in reading.classes] for name, reading in readings.items()
    }
    first = next(iter(classes_of.values()))
    for name, classes in classes_of.items():
        if classes != first:
            raise ValueError(
                f"all networks must name the same classes: {next(iter(classes_of))} has "
                f"{', '.join(first[:4])}, ...; {name} has {', '.join(classes[:4])}, ..."
            )
    if len(first) > MAX_CLASSES:
        raise ValueError(f"expected at most {MAX_CLASSES} classes to show, got {len(first)}")
    return first


def _probabilities(
    networks: Mapping[str, tuple[nn.Module, ReadsImages]],
    image: Source,
    side: tuple[int, int],
    patch_size: int,
    sizes: Sequence[int],
) -> tuple[bytes, str, NDArray[np.float32]]:
    """Run every network on one image with every square: its JPEG, the grey, probabilities."""
    import torch

    from vit_tutorial.images import prepare
    from vit_tutorial.modes import evaluating

    masks = torch.from_numpy(squares(side, patch_size, sizes))[:, None]
    prepared = [prepare(image, reading, model, size=side) for model, reading in networks.values()]
    outputs = []
    for (model, _), (_, pixels) in zip(networks.values(), prepared, strict=True):
        hidden = torch.where(masks.to(pixels.device), 0.0, pixels)  # grey: their mean, 0
        with evaluating(model):
            parts = [model(part).float().softmax(dim=1).cpu() for part in hidden.split(128)]
        outputs.append(torch.cat(parts).numpy())
    picture, mean = prepared[0][0].view(), list(next(iter(networks.values()))[1].mean)
    scale = LONGEST_SIDE / max(picture.size)
    if scale < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=88)
    grey = ", ".join(str(round(255 * value)) for value in (mean * 3)[:3])
    return file.getvalue(), f"rgb({grey})", np.stack(outputs)


def squares(side: tuple[int, int], patch_size: int, sizes: Sequence[int]) -> NDArray[np.bool_]:
    """List what each square hides: (1 + positions, H, W), True inside; the first has no square.

    Squares of the first size come row by row, then those of the next.

    Examples:
        >>> squares((8, 8), patch_size=4, sizes=(1, 2)).sum(axis=(1, 2)).tolist()
        [0, 16, 16, 16, 16, 64]
    """
    masks = [np.zeros(side, dtype=bool)]
    rows, columns = side[0] // patch_size, side[1] // patch_size
    for size in sizes:
        for row in range(rows - size + 1):
            for column in range(columns - size + 1):
                mask = np.zeros(side, dtype=bool)
                top, left = row * patch_size, column * patch_size
                mask[top : top + size * patch_size, left : left + size * patch_size] = True
                masks.append(mask)
    return np.stack(masks)

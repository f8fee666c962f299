"""Pictures drawn beforehand, one per setting, and sliders that choose among them.

Moving a slider changes the picture in the browser, without the kernel: it is as fast on a
busy computer, and on Colab.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import traitlets
from PIL import Image

from vit_tutorial.explorer.page import Explorer, sources

MAX_SLIDERS, MAX_PICTURES = 3, 600
DPI, CSS_DPI = 144, 100  # drawn finer than shown, for sharp screens
SLIDER, AROUND = 28, 120  # CSS pixels: a slider's height, and what else a page has


class Flipbook(Explorer):
    """Sliders over one picture, see `flipbook`; `setting` tells where they stand.

    `at`, an option's number for each slider, follows what is done in the browser, and a cell may
    set it.
    """

    _esm, _css = sources(__file__)
    files = traitlets.List(traitlets.Bytes(), read_only=True).tag(sync=True)  # PNG or JPEG
    descriptions = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)  # of each
    width = traitlets.Int(read_only=True).tag(sync=True)  # CSS pixels
    names = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)  # of the sliders
    labels = traitlets.List(traitlets.List(traitlets.Unicode()), read_only=True).tag(sync=True)
    at = traitlets.List(traitlets.Int()).tag(sync=True)  # the last slider turns pages fastest

    def __init__(
        self,
        pages: Sequence[tuple[bytes, tuple[int, int], str]],
        options: Mapping[str, Sequence[Any]],
        at: Sequence[int],
    ) -> None:
        files, sizes, words = zip(*pages, strict=True)
        self.options = options
        fixed = {
            "files": list(files),
            "descriptions": list(words),
            "width": max(width for width, _ in sizes),
            "names": [name.replace("_", " ") for name in options],
            "labels": [[_label(value) for value in values] for values in options.values()],
        }
        for name, value in fixed.items():
            self.set_trait(name, value)
        self.page_height = max(height for _, height in sizes) + SLIDER * len(options) + AROUND
        super().__init__(at=list(at))

    @property
    def setting(self) -> dict[str, Any]:
        """The option that each slider stands on."""
        chosen = zip(self.options.items(), self.at, strict=True)
        return {name: values[index] for (name, values), index in chosen}

    @property
    def words(self) -> str:
        """The words below the picture on show."""
        return self.descriptions[self._index()]

    @property
    def picture(self) -> bytes:
        """The picture on show, a PNG or JPEG file."""
        return self.files[self._index()]

    def _index(self) -> int:
        return int(np.ravel_multi_index(self.at, [len(options) for options in self.labels]))

    def __repr__(self) -> str:
        return f"Flipbook: {', '.join(self.names)}"

    @traitlets.validate("at")
    def _at_is_there(self, proposal: Any) -> list[int]:
        counts = [len(options) for options in self.labels]
        at = proposal["value"]
        if len(at) != len(counts) or any(
            n not in range(c) for n, c in zip(at, counts, strict=True)
        ):
            raise ValueError(
                f"at must be a number for each of {', '.join(self.names)}, from 0 and below "
                f"{', '.join(map(str, counts))}, got {at}"
            )
        return at


def flipbook(
    draw: Callable[..., Any],
    /,
    *,
    start: Mapping[str, Any] | None = None,
    **settings: Sequence[Any],
) -> Flipbook:
    """Draw a picture for every setting, and show them under sliders.

    Args:
        draw: called once for every combination, as draw(name=option, ...); returns a matplotlib
            figure or a uint8 array (H, W, 3), or a pair of one of them and a sentence.
        start: where the sliders stand at first; by default on their first options.
        settings: one to three names, each with its options.

    Raises:
        ValueError: no settings or too many, an option that is not there, or something else drawn.

    Examples:
        >>> def grey(value):
        ...     return np.full((4, 6, 3), value, dtype=np.uint8), f"A grey of {value}."
        >>> book = flipbook(grey, value=[0, 128, 255], start={"value": 128})
        >>> book.setting, book.words
        ({'value': 128}, 'A grey of 128.')
    """
    options = {name: list(values) for name, values in settings.items()}
    count = math.prod(map(len, options.values()))
    if not 1 <= len(options) <= MAX_SLIDERS or not 1 <= count <= MAX_PICTURES:
        raise ValueError(
            f"expected 1 to {MAX_SLIDERS} settings and 1 to {MAX_PICTURES} pictures, got "
            f"{len(options)} settings and {count if options else 0} pictures"
        )
    indices = {name: 0 for name in options}
    for name, option in (start or {}).items():
        if option not in options.get(name, []):
            raise ValueError(f"start: {name}={option!r} is not among the settings {options}")
        indices[name] = options[name].index(option)

    pages = []
    for chosen in itertools.product(*options.values()):
        drawn = draw(**dict(zip(options, chosen, strict=True)))
        picture, sentence = drawn if isinstance(drawn, tuple) else (drawn, "")
        pages.append((*_to_file(picture), sentence))
    return Flipbook(pages, options, list(indices.values()))


def _label(option: Any) -> str:
    return f"{option:g}" if isinstance(option, float) else str(option)


def _to_file(picture: Any) -> tuple[bytes, tuple[int, int]]:
    """Return a picture as a file, and how wide and high it is shown in CSS pixels."""
    file = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(file, format="png", dpi=DPI)
        width, height = (round(inches * CSS_DPI) for inches in picture.get_size_inches())
        return file.getvalue(), (width, height)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        actual = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else picture
        raise ValueError(
            f"draw must return a figure or a uint8 array (H, W, 3), alone or with a sentence; "
            f"got {type(picture).__name__} {actual}"
        )
    Image.fromarray(picture).save(file, "JPEG", quality=92)
    return file.getvalue(), (picture.shape[1], picture.shape[0])

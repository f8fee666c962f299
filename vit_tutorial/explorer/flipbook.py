"""Pictures drawn beforehand, one per setting, and sliders that choose among them.

Moving a slider changes the picture in the browser, without the kernel: it is as fast on a
busy computer, and on Colab.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from PIL import Image

from vit_tutorial.explorer.page import join_modules

MAX_SLIDERS, MAX_PICTURES = 3, 600
DPI, CSS_DPI = 144, 100  # drawn finer than shown, for sharp screens


class Pictures(anywidget.AnyWidget):
    """Show one of several pictures, the one that `at_0`, `at_1` and `at_2` choose."""

    _esm = join_modules(Path(__file__).with_suffix(".js"))
    files = traitlets.List(traitlets.Bytes()).tag(sync=True)  # PNG or JPEG, the last axis fastest
    words = traitlets.List(traitlets.Unicode()).tag(sync=True)  # below each picture
    width = traitlets.Int().tag(sync=True)  # CSS pixels
    shape = traitlets.List(traitlets.Int()).tag(sync=True)  # options of each slider
    at_0 = traitlets.Int(0).tag(sync=True)
    at_1 = traitlets.Int(0).tag(sync=True)
    at_2 = traitlets.Int(0).tag(sync=True)


class Flipbook(widgets.VBox):
    """Sliders over one picture, see `flipbook`; `setting` tells where they stand."""

    def __init__(self, pictures: Pictures, sliders: Mapping[str, widgets.SelectionSlider]) -> None:
        self.pictures, self.sliders = pictures, dict(sliders)
        for axis, slider in enumerate(sliders.values()):
            widgets.jslink((slider, "index"), (pictures, f"at_{axis}"))
        super().__init__([*sliders.values(), pictures])

    @property
    def setting(self) -> dict[str, Any]:
        """The option that each slider stands on."""
        return {name: slider.value for name, slider in self.sliders.items()}

    @property
    def words(self) -> str:
        """The words below the picture on show."""
        index = np.ravel_multi_index(self._indices(), self.pictures.shape)
        return self.pictures.words[index]

    @property
    def picture(self) -> bytes:
        """The picture on show, a PNG or JPEG file."""
        return self.pictures.files[np.ravel_multi_index(self._indices(), self.pictures.shape)]

    def _indices(self) -> tuple[int, ...]:
        return tuple(slider.index for slider in self.sliders.values())


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

    files, words, width = [], [], 0
    for chosen in itertools.product(*options.values()):
        drawn = draw(**dict(zip(options, chosen, strict=True)))
        picture, sentence = drawn if isinstance(drawn, tuple) else (drawn, "")
        file, its_width = _to_file(picture)
        files.append(file)
        words.append(sentence)
        width = max(width, its_width)
    pictures = Pictures(
        files=files,
        words=words,
        width=width,
        shape=[len(values) for values in options.values()],
        **{f"at_{axis}": index for axis, index in enumerate(indices.values())},
    )
    sliders = {
        name: widgets.SelectionSlider(
            options=[(_label(value), value) for value in values],
            index=indices[name],
            description=name.replace("_", " "),
            layout=widgets.Layout(width="460px"),
            style={"description_width": "120px"},
        )
        for name, values in options.items()
    }
    return Flipbook(pictures, sliders)


def _label(option: Any) -> str:
    return f"{option:g}" if isinstance(option, float) else str(option)


def _to_file(picture: Any) -> tuple[bytes, int]:
    """Return a picture as a file, and how wide it is shown in CSS pixels."""
    file = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(file, format="png", dpi=DPI)
        return file.getvalue(), round(picture.get_figwidth() * CSS_DPI)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        actual = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else picture
        raise ValueError(
            f"draw must return a figure or a uint8 array (H, W, 3), alone or with a sentence; "
            f"got {type(picture).__name__} {actual}"
        )
    Image.fromarray(picture).save(file, "JPEG", quality=92)
    return file.getvalue(), picture.shape[1]

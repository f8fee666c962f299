"""The whole network in one drawing, the same in every lesson."""

import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from vit_tutorial.plots.style import ACCENT, FAINT, INK, PALETTE, STYLE, closed

HERE = "#fff3c4"  # behind the part that a lesson is about
# part -> where it stands (left, bottom, width, height), and what it is called
PARTS = {
    "patches": (1.75, 1.2, 1.15, 1.6),
    "embedding": (3.2, 1.2, 1.3, 1.6),
    "positions": (4.8, 1.2, 1.2, 1.6),
    "block": (6.45, 0.7, 4.6, 2.2),
    "attention": (7.35, 1.45, 1.2, 1.1),
    "head": (11.75, 1.2, 1.25, 1.6),
}
NAMES = {
    "patches": "patches",
    "embedding": "linear layer,\nCLS token\nin front",
    "positions": "+ positions",
    "attention": "attention\nof h heads",
    "head": "norm, then\nclassifier",
}
SHAPES = (  # below the arrow that begins here: what flows, and in the network of lesson 00
    (1.2, "(C, H, W)", "3, 32, 32"),
    (2.9, "(N, C·P·P)", "64, 48"),
    (4.65, "(T, D)", "65, 128"),
    (6.2, "(T, D)", "65, 128"),
    (11.4, "(T, D)", "65, 128"),
    (13.2, "classes", "10"),
)
WORDS = (
    "The network, from left to right: an image; its patches; a linear layer that makes a token of "
    "each, with a CLS token in front; positions, which are added; the encoder, L blocks one after "
    "the other, each of which adds attention of h heads and then an MLP to the tokens; and a norm "
    "and a classifier, which read the CLS token."
)


@dataclass(frozen=True)
class Drawing:
    """A figure of lines and words, which notebooks show as SVG, sharp at any size.

    Attributes:
        figure: the same for matplotlib.
        words: what it shows, for those who do not see it.
    """

    figure: Figure
    words: str

    def svg(self) -> str:
        """Return it as SVG, the same to the byte for the same drawing."""
        file, about = io.StringIO(), {"Title": self.words, "Date": None, "Creator": None}
        with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "drawing"}):
            self.figure.savefig(file, format="svg", metadata=about)
        fitting = (
            '<svg role="img" style="max-width: 100%; height: auto" '  # a narrow page cuts nothing
        )
        return file.getvalue().replace("<svg ", fitting, 1)

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": self.words}


def network_map(here: str | None = None) -> Drawing:
    """Draw the whole network, and mark where a reader is.

    Args:
        here: a key of `PARTS` ("patches", "embedding", "positions", "attention", "block",
            "head"), or None for no mark.

    Raises:
        ValueError: there is no such part.
    """
    if here is not None and here not in PARTS:
        raise ValueError(f"expected a part of the network ({', '.join(PARTS)}), got {here!r}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10.5, 2.75))
        axes.set(xlim=(0, 14.6), ylim=(-0.2, 3.65), aspect="equal")
        axes.axis("off")
        for part, place in PARTS.items():
            _box(axes, place, part == here, NAMES.get(part, ""))
        _image(axes)
        _block(axes)
        _answers(axes)
        for left, right in ((1.3, 1.75), (2.9, 3.2), (4.5, 4.8), (6.0, 6.45), (11.05, 11.75)):
            _arrow(axes, left, right)
        _arrow(axes, 13.0, 13.4)
        for x, shape, numbers in SHAPES:
            axes.text(x, 0.32, shape, ha="center", fontsize=7.5, color=INK)
            axes.text(x, 0.02, numbers, ha="center", fontsize=7.5, color=FAINT)
        if here is not None:
            left, bottom, width, height = PARTS[here]
            middle, top = left + width / 2, bottom + height
            axes.annotate(
                "you are here", (middle, top + 0.03), (middle, 3.5),
                ha="center", va="center", color=PALETTE[1], weight="bold", fontsize=9,
                arrowprops={"arrowstyle": "-|>", "color": PALETTE[1]},
            )  # fmt: skip
    words = WORDS + (f" You are here: {here}." if here else "")
    return Drawing(closed(figure), words)


def _box(axes: Axes, place: tuple[float, float, float, float], marked: bool, name: str) -> None:
    left, bottom, width, height = place
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=HERE if marked else "white",
            edgecolor=PALETTE[1] if marked else INK, linewidth=2 if marked else 1,
        )
    )  # fmt: skip
    axes.text(
        left + width / 2, bottom + height / 2, name, ha="center", va="center", fontsize=8, color=INK
    )


def _arrow(axes: Axes, left: float, right: float, height: float = 2.0) -> None:
    style = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (right, height), (left, height), arrowprops=style)


def _image(axes: Axes) -> None:
    """An image, cut up by a grid."""
    axes.add_patch(Rectangle((0.1, 1.4), 1.2, 1.2, facecolor="#cfe3f3", edgecolor=INK))
    for step in (0.4, 0.8):
        axes.plot([0.1 + step] * 2, [1.4, 2.6], color=INK, linewidth=0.6)
        axes.plot([0.1, 1.3], [1.4 + step] * 2, color=INK, linewidth=0.6)
    axes.text(0.7, 2.72, "image", ha="center", va="bottom", fontsize=8, color=INK)


def _block(axes: Axes) -> None:
    """What stands in a block: two steps, each added to what it read."""
    axes.text(8.75, 0.9, "encoder: L blocks, one after the other", ha="center", va="center",
              fontsize=8, color=INK)  # fmt: skip
    for left, name in ((6.65, "norm"), (9.05, "norm"), (9.75, "MLP")):
        _box(axes, (left, 1.6, 0.5, 0.8), False, name)
    for left, right in ((6.45, 6.65), (7.15, 7.35), (8.85, 9.05), (9.55, 9.75), (10.6, 11.05)):
        _arrow(axes, left, right)
    for begin, end in ((6.55, 8.7), (8.95, 10.45)):  # past attention, and past the MLP
        axes.plot([begin, begin, end], [2.0, 1.25, 1.25], color=ACCENT, linewidth=1.2)
        style = {"arrowstyle": "-|>", "color": ACCENT, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (end, 1.86), (end, 1.25), arrowprops=style)
        axes.text(end, 2.0, "+", ha="center", va="center", fontsize=11, color=ACCENT,
                  bbox={"boxstyle": "circle,pad=0.12", "fc": "white", "ec": ACCENT})  # fmt: skip
    _arrow(axes, 8.55, 8.58)
    _arrow(axes, 10.25, 10.3)


def _answers(axes: Axes) -> None:
    """Probabilities of the classes."""
    for height, share, name in ((2.35, 0.75, "cat"), (1.95, 0.3, "dog"), (1.55, 0.12, "frog")):
        axes.add_patch(Rectangle((13.45, height), share, 0.26, facecolor=ACCENT))
        axes.text(13.5 + share, height + 0.13, name, va="center", fontsize=7.5, color=INK)

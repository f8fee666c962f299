"""What all figures share: colours, type, a white card."""

from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, FAINT = "#222222", "#8a8a8a"  # text and axes; what matters less
# For lines, bars and marks, in this order; told apart with any kind of colour vision (Okabe & Ito).
PALETTE = ("#00529b", "#d55e00", "#009e73", "#cc79a7", "#8a8a8a")
ACCENT = PALETTE[0]
HEAT = "cividis"  # for tables
MAP = "magma"  # for maps beside a photograph
STYLE: dict[Any, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def closed(figure: Figure) -> Figure:
    """Take a figure out of pyplot's list, or a notebook would show it twice."""
    plt.close(figure)
    return figure


def require_rgb(picture: NDArray) -> None:
    """Refuse what is no colour picture.

    Raises:
        ValueError: anything but uint8 (H, W, 3).
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"expected a picture uint8 (H, W, 3), got {picture.dtype} {picture.shape}")


def heat_colours(name: str = HEAT) -> NDArray[np.uint8]:
    """Give the 256 colours of heat, or of another map of matplotlib, least to most: (256, 3)."""
    return (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).astype(np.uint8)

"""Interactive views that answer in the browser, without asking the kernel."""

from vit_tutorial.explorer.attention import AttentionExplorer
from vit_tutorial.explorer.flipbook import Flipbook, flipbook
from vit_tutorial.explorer.live import LiveExplorer, live
from vit_tutorial.explorer.positions import PositionExplorer

__all__ = [
    "AttentionExplorer",
    "Flipbook",
    "LiveExplorer",
    "PositionExplorer",
    "flipbook",
    "live",
]

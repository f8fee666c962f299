"""Figures from plain arrays: every function returns a matplotlib `Figure` and shows nothing.

Figures stand on a white card, so that they read on light and dark pages. Heat is drawn in cividis,
which people with any kind of colour vision read alike, and fades from transparent: where there is
little attention the photograph stays as it is.
"""

from vit_tutorial.plots.photographs import (
    attention_atlas,
    explanation,
    overlay,
    photo_row,
    probabilities,
)

__all__ = [
    "attention_atlas",
    "explanation",
    "overlay",
    "photo_row",
    "probabilities",
]

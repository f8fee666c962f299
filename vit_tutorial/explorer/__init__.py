"""Interactive views of what a network looks at."""

from vit_tutorial.explorer.attention_sliders import AttentionSliders, attention_sliders

__all__ = ["AttentionSliders", "attention_sliders"]

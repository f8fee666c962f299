"""Vision Transformers, inside out: build one, prove it, train it, look inside it.

Names are imported when they are first used, so that `import vit_tutorial` is fast.
"""

import os
from importlib import import_module
from typing import Any

# On Linux the threads of PyTorch wait by spinning. Beside a busy program they then take the time
# from each other, and two are several times slower than one. This lets them rest after
# microseconds; it counts where this package is imported before torch.
if "OMP_WAIT_POLICY" not in os.environ:  # somebody's own choice
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__version__ = "0.1.0"

_HOME = {
    "ViTConfig": "model",
    "VisionTransformer": "model",
    "patchify": "model",
    "unpatchify": "model",
    "open_image": "images",
    "fit_image": "images",
    "normalize": "images",
    "prepare": "images",
    "Reading": "images",
    "ImageSet": "data",
    "image_folder": "data",
    "fit": "train",
    "TrainConfig": "recipes",
    "LiveCurve": "progress",
    "evaluate": "evaluation",
    "load_checkpoint": "weights",
    "save_checkpoint": "weights",
    "from_library": "libraries",
    "load_vit": "pretrained",
    "ZeroShotClassifier": "zero_shot",
    "record_attention": "recording",
    "RecordedAttention": "recording",
    "record_activations": "recording",
    "rollout": "attention",
    "relevance": "attention",
    "flipbook": "explorer",
    "AttentionExplorer": "explorer",
    "PositionExplorer": "explorer",
    "LiveExplorer": "explorer",
    "live": "explorer",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vit_tutorial' has no attribute {name!r}")
    return getattr(import_module(f"vit_tutorial.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]

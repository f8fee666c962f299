"""Copy every ViT of timm into a network of ours, and compare what both answer.

Run it with `.venv/bin/python benchmarks/conversion.py`: some minutes on one core. Every
architecture is made narrow and two layers deep, with random weights in float64, for an image of
3x3 patches. A network is equal, refused in a sentence that names the part, or wrong.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import timm
import torch
from results import write_results
from torch import Tensor, nn

from vit_tutorial.libraries import from_library

MODULES = (
    "vision_transformer",
    "deit",
    "eva",
    "beit",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "vision_transformer_hybrid",
    "naflexvit",
)
NARROW: dict[str, Any] = dict(depth=2, embed_dim=48, num_heads=4)
ERROR = 1e-7  # of the largest answer; angles are computed in float32


def architectures() -> Iterator[tuple[str, str]]:
    """Yield the names of timm's Vision Transformers, with the module that each is in."""
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__.split(".")[-1]
        if module in MODULES:
            yield name, module


def make(name: str) -> Any:
    """Make an architecture of timm small, with random weights in float64."""
    patch = int((re.search(r"patch(\d+)", name) or [0, 16])[1])
    narrow: dict[str, Any] = {**NARROW, "img_size": 3 * patch}
    tries: list[dict[str, Any]] = [narrow, {**narrow, "num_kv_heads": (2, 2)}, NARROW, {"depth": 2}]
    for options in tries:
        with contextlib.suppress(TypeError, ValueError, AssertionError):
            model: Any = timm.create_model(name, **options)
            break
    else:
        raise RuntimeError(f"{name} cannot be made small")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.eval().double().parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = noise / (parameter[0].numel() if parameter.ndim > 1 else 4) ** 0.5
    return model


def answers(model: Any, images: Tensor) -> Tensor:
    """Return what the classifier reads, and the logits where there is a classifier."""
    read = model.forward_head(model.forward_features(images), pre_logits=True)
    return read if isinstance(model.head, nn.Identity) else torch.cat([read, model(images)], dim=1)


@torch.inference_mode()
def outcome(name: str) -> tuple[str, str]:
    """Tell what becomes of an architecture: "equal", "refused" or "wrong", and why."""
    model = make(name)
    try:
        ours = from_library(model)
    except ValueError as error:
        return "refused", str(error)
    images = torch.randn(2, 3, *model.patch_embed.img_size, dtype=torch.float64)
    theirs = answers(model, images)
    error = (answers(ours, images)[:, : theirs.shape[1]] - theirs).abs().max() / theirs.abs().max()
    return "equal" if error < ERROR else "wrong", type(ours).__name__


def main() -> None:
    """Try all and write."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    found: dict[str, Counter] = {}
    reasons: Counter[str] = Counter()
    for name, module in architectures():
        what, why = outcome(name)
        counts = found.setdefault(module, Counter())
        counts[what] += 1
        counts["plain"] += why == "VisionTransformer"
        if what == "refused":
            reasons[why.removeprefix("expected a timm ViT with ").partition(";")[0]] += 1
        if what == "wrong":
            print(f"{name}: wrong", flush=True)
    rows: list[dict[str, Any]] = [
        {
            "module": module,
            "architectures": counts.total() - counts["plain"],
            "equal": counts["equal"],
            "plain": counts["plain"],
            "refused": counts["refused"],
            "wrong": counts["wrong"],
        }
        for module, counts in found.items()
    ]
    keys = [key for key in rows[0] if key != "module"]
    rows.append({"module": "all", **{key: sum(row[key] for row in rows) for key in keys}})
    for row in rows:
        print(row)
    for reason, count in reasons.most_common():
        print(f"{count:4} {reason}")
    write_results(
        "conversion", command=".venv/bin/python benchmarks/conversion.py", data=None, rows=rows
    )


if __name__ == "__main__":
    main()

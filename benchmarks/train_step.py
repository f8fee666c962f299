"""Time a training step of our network against the same network in other libraries.

Run it with `.venv/bin/python benchmarks/train_step.py`. A step is forward, backward and AdamW; all
networks have a CLS token and learned positions, so all do the same work. They take turns in one
process. A ratio above 1 says that ours is faster.

Ours is computed as a training would choose on this machine (see `vit_tutorial.compute`), the others
as they come; timm, whose attention has the same switch, also in the way that is fastest for it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from results import write_results
from torch import Tensor, nn

from vit_tutorial.compute import Compute, computing, fastest_way, ways_to_compute
from vit_tutorial.hardware import compiled
from vit_tutorial.libraries import from_library
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.recipes import TrainConfig

BLOCKS = 7  # of steps, for each network in turn
TRIAL = 60.0  # seconds at most in which the fastest way is looked for
LIBRARIES = {  # and the names under which they are imported
    "timm": "timm",
    "torchvision": "torchvision",
    "Hugging Face": "transformers",
    "vit-pytorch": "vit_pytorch",
}


def build(library: str, config: ViTConfig) -> nn.Module:
    """Make the network of `config` as a library has it, with the library's own defaults."""
    size, width, hidden = config.image_hw[0], config.embed_dim, config.hidden_dim
    if library == "timm":
        import timm

        return timm.models.VisionTransformer(
            img_size=size,
            patch_size=config.patch_size,
            num_classes=config.num_classes,
            embed_dim=width,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
        )
    if library == "torchvision":
        import torchvision

        return torchvision.models.VisionTransformer(
            image_size=size,
            patch_size=config.patch_size,
            num_layers=config.depth,
            num_heads=config.num_heads,
            hidden_dim=width,
            mlp_dim=hidden,
            num_classes=config.num_classes,
        )
    if library == "Hugging Face":
        import transformers

        theirs = transformers.ViTConfig(
            image_size=size,
            patch_size=config.patch_size,
            num_labels=config.num_classes,  # ty: ignore[unknown-argument]
            hidden_size=width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=hidden,
            layer_norm_eps=config.norm_eps,
        )
        return transformers.ViTForImageClassification(theirs)
    import vit_pytorch

    return vit_pytorch.ViT(
        image_size=size,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        dim=width,
        depth=config.depth,
        heads=config.num_heads,
        dim_head=config.head_dim,
        mlp_dim=hidden,
    )


def require_equal_work(library: str, theirs: nn.Module, config: ViTConfig) -> int:
    """Check that a network is the one of `config`; return its number of parameters.

    vit-pytorch normalises the patches and has no bias in q, k and v: nearly equal must do.

    Raises:
        ValueError: it is another network.
    """
    ours = VisionTransformer(config)
    count, expected = (sum(p.numel() for p in model.parameters()) for model in (theirs, ours))
    same = abs(count / expected - 1) < 0.02
    if library != "vit-pytorch":
        config_of_theirs = from_library(theirs).config
        same = count == expected and replace(
            config_of_theirs, img_size=config_of_theirs.image_hw
        ) == replace(config, img_size=config.image_hw)
    if not same:
        raise ValueError(
            f"{library} has {count:,} parameters and ours {expected:,}: other networks"
        )
    return count


def stepper(
    model: nn.Module, images: Tensor, labels: Tensor, how: Compute | None = None
) -> Callable[[], None]:
    """Return a function that makes one training step, as `how` says or in the usual way."""
    device = images.device.type
    model.to(device).train()
    chosen = how or usual_way(model)
    half = chosen.half
    scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> None:
        with computing(model, chosen):
            optimizer.zero_grad()
            with torch.autocast(device, half, enabled=half is not None):
                output = model(images)
                logits = output if isinstance(output, Tensor) else output.logits
                loss = F.cross_entropy(logits, labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    return step


def usual_way(model: nn.Module) -> Compute:
    """Return how PyTorch computes by default; half precision on a GPU."""
    return ways_to_compute(model, TrainConfig(epochs=1))[0]


def best_way(model: nn.Module, images: Tensor, labels: Tensor) -> Compute:
    """Find out how a step of this network is computed fastest, as `fit` does, with more time."""
    ways = ways_to_compute(model.to(images.device), TrainConfig(epochs=1))
    if len(ways) == 1:
        return ways[0]
    steps = {way: stepper(model, images, labels, way) for way in ways}
    return fastest_way(ways, lambda way: _time(steps[way], 1, images.device.type), TRIAL)[0]


def time_in_turns(
    steppers: dict[str, Callable[[], None]], steps: int, device: str
) -> dict[str, list[float]]:
    """Return the seconds per step of each, for every block; every second round runs backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for name in steppers:  # compiles, and warms up
        _time(steppers[name], 3, device)
    for block in range(BLOCKS):
        for name in list(steppers)[:: 1 if block % 2 == 0 else -1]:
            seconds[name].append(_time(steppers[name], steps, device))
    return seconds


def _time(step: Callable[[], None], steps: int, device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - began) / steps


def compare(ours: Sequence[float], theirs: Sequence[float], batch_size: int) -> dict[str, Any]:
    """Compare seconds per step, block by block: how many times as fast ours is."""
    ratios = [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
    return {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "images_per_second": round(batch_size / statistics.median(ours)),
        "their_images_per_second": round(batch_size / statistics.median(theirs)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Time all networks that are installed, and write the ratios."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    for option, value in {
        "--width": 256 if gpu else 128,
        "--depth": 12 if gpu else 6,
        "--heads": 4,
        "--mlp-ratio": 4.0 if gpu else 2.0,
        "--batch-size": 1024 if gpu else 128,
        "--steps": 100 if gpu else 5,
    }.items():
        help_text = f"default here: {value}"
        parser.add_argument(option, type=type(value), default=value, help=help_text)
    options = parser.parse_args(argv)
    config = ViTConfig(
        embed_dim=options.width,
        depth=options.depth,
        num_heads=options.heads,
        mlp_ratio=options.mlp_ratio,
    )
    rows = measure(config, options.batch_size, options.steps, "cuda" if gpu else "cpu")
    arguments = [
        argument
        for name, value in vars(options).items()
        for argument in (f"--{name.replace('_', '-')}", f"{value:g}")
    ]
    write_results(
        f"train_step_{'gpu' if gpu else 'cpu'}",
        command=shlex.join([".venv/bin/python", "benchmarks/train_step.py", *arguments]),
        data=None,
        rows=rows,
    )
    return 0


def measure(config: ViTConfig, batch_size: int, steps: int, device: str) -> list[dict[str, Any]]:
    """Return a row for ours against each library, and against timm at its best.

    On a GPU also for ours compiled, block by block as in a training, against all as they come,
    and against timm compiled in the same way, and whole.
    """
    torch.manual_seed(0)
    images = torch.randn(batch_size, config.in_chans, *config.image_hw, device=device)
    labels = torch.randint(config.num_classes, (batch_size,), device=device)
    models: dict[str, nn.Module] = {"ours": VisionTransformer(config)}
    parameters, ways = {}, {"ours": best_way(models["ours"], images, labels)}
    for library, module in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{library} is not installed, and is left out")
            continue
        models[library] = build(library, config)
        parameters[library] = require_equal_work(library, models[library], config)
        print(f"{library}: {parameters[library]:,} parameters")
    pairs = [("ours", library) for library in parameters]
    block_by_block: dict[str, nn.Module] = {}
    if device == "cuda":
        block_by_block["ours, compiled"] = VisionTransformer(config)
        pairs += [("ours, compiled", library) for library in parameters]
        if "timm" in parameters:
            block_by_block["timm, compiled"] = build("timm", config)
            models["timm, compiled whole"] = build("timm", config)
            models["timm, compiled whole"].compile()
            pairs += [("ours, compiled", f"timm, compiled{how}") for how in ("", " whole")]
    elif "timm" in parameters:
        models["timm, at its best"] = build("timm", config)
        ways["timm, at its best"] = best_way(models["timm, at its best"], images, labels)
        pairs.append(("ours", "timm, at its best"))
    with contextlib.ExitStack() as stack:
        if not all([stack.enter_context(compiled(model)) for model in block_by_block.values()]):
            pairs = [pair for pair in pairs if not any("compiled" in name for name in pair)]
            models.pop("timm, compiled whole", None)
            block_by_block = {}
        steppers = {
            name: stepper(model, images, labels, ways.get(name))
            for name, model in {**models, **block_by_block}.items()
        }
        seconds = time_in_turns(steppers, steps, device)
    rows = []
    for own, other in pairs:
        library = other.partition(",")[0]
        way = ways.get(own) or usual_way(models["ours"])
        row = {
            "ours": ", ".join([*own.split(", ")[1:], str(way)]),
            "against": f"{other}: {ways[other]}" if other in ways else other,
            **compare(seconds[own], seconds[other], batch_size),
            "version": importlib.metadata.version(LIBRARIES[library].replace("_", "-")),
            "parameters": parameters[library],
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "batch_size": batch_size,
            "precision": way.precision,
        }
        rows.append(row)
        print(f"{own} / {other}: ×{row['ratio_median']} ({row['ratio_low']}-{row['ratio_high']})")
    return rows


if __name__ == "__main__":
    sys.exit(main())

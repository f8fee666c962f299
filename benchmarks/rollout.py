"""Time rollout and recording at the size of ViT-B/16, on random weights.

Run it with `.venv/bin/python benchmarks/rollout.py`. Rollout takes turns with the formula that most
tutorials use (vit-explain, 2020), which multiplies whole matrices, and finds maxima and what it
discards in other ways; recording takes turns with a plain forward pass. A ratio above 1 says that
ours is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from results import write_results

from vit_tutorial.attention import rollout
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.recording import RecordedAttention, record_attention

TURNS = 21
GRID, HEADS, DEPTH = (14, 14), 12, 12


def popular_rollout(weights: list[torch.Tensor], fusion: str, discard: float) -> torch.Tensor:
    """Compute the popular formula for one image, as its authors wrote it down."""
    joined = torch.eye(weights[0].shape[-1])
    for layer in weights:
        fused = layer.mean(dim=1) if fusion == "mean" else getattr(layer, fusion)(dim=1)[0]
        flat = fused.reshape(1, -1).clone()
        smallest = flat.topk(int(flat.shape[1] * discard), dim=-1, largest=False).indices[0]
        flat[0, smallest[smallest != 0]] = 0
        mixed = (flat.view(fused.shape) + torch.eye(fused.shape[-1])) / 2
        joined = (mixed / mixed.sum(dim=-1)) @ joined
    return joined[0, 0, 1:] / joined[0, 0, 1:].max()


def in_turns(first: Callable[[], object], second: Callable[[], object]) -> tuple[list, list]:
    """Return the seconds of both, turn by turn, after one turn that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        for work, durations in zip((first, second), times, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                durations.append(time.perf_counter() - start)
    return times


def row(what: str, against: str, ours: list[float], theirs: list[float]) -> dict:
    """Compare turn by turn: how many times as fast ours is."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "what": what,
        "against": against,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "ms": round(1000 * statistics.median(ours), 2),
        "their_ms": round(1000 * statistics.median(theirs), 2),
    }


def main() -> None:
    """Time all settings, and write the ratios."""
    torch.manual_seed(0)
    tokens, rows = 1 + GRID[0] * GRID[1], []
    scores = torch.randn(DEPTH, 1, HEADS, tokens, tokens)
    record = RecordedAttention(list((2 * scores).softmax(-1)), GRID, 1)
    for fusion, discard in (("mean", 0.0), ("max", 0.0), ("mean", 0.9), ("max", 0.9)):

        def ours(fusion: str = fusion, discard: float = discard) -> object:
            return rollout(record, head_fusion=fusion, discard_ratio=discard)

        def theirs(fusion: str = fusion, discard: float = discard) -> object:
            return popular_rollout([*record.weights], fusion, discard)

        what = f"rollout ({fusion}, discard {discard:g})"
        rows.append(row(what, "the popular formula", *in_turns(ours, theirs)))
    model = VisionTransformer(
        ViTConfig(img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0)
    ).eval()
    images = torch.randn(1, 3, 224, 224)

    def plain() -> object:
        with torch.no_grad():
            return model(images)

    times = in_turns(lambda: record_attention(model, images), plain)
    rows.append(row("recording, one image", "a plain forward pass", *times))
    for each in rows:
        print(each, flush=True)
    command = ".venv/bin/python benchmarks/rollout.py"
    write_results("rollout", command=command, data=None, rows=rows)


if __name__ == "__main__":
    main()

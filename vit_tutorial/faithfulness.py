"""Is a map right? Remove what it calls important, and see what the network outputs then.

A map is scored by patches: the network sees the image with the most important ones removed, or
with all others removed. A map of random numbers is scored beside all others, as the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vit_tutorial import methods
from vit_tutorial.attention import heat_map, methods_for
from vit_tutorial.intervals import bootstrap_interval
from vit_tutorial.modes import evaluating
from vit_tutorial.recording import record_attention

METHODS = ("random", *methods.METHODS)  # what is scored: the floor, and all ways to explain
METRICS = {  # and whether a higher value is better
    "deletion": False,
    "insertion": True,
    "positive perturbation": False,
    "negative perturbation": True,
    "pointing game": True,
}


def maps_of_all_methods(
    model: nn.Module, images: Tensor, targets: Tensor, seed: int = 0
) -> dict[str, Tensor]:
    """Explain images (B, C, H, W) by every method, for the classes `targets` (B,).

    Returns the name of each method in `METHODS` -> its maps (B, rows, columns). "random",
    "last_layer" (its attention, the mean over heads) and "rollout" do not depend on the class.
    """
    picked = targets.to(images.device)[:, None]
    record = record_attention(
        model, images, gradients_of=lambda logits: logits.gather(1, picked)[:, 0]
    )
    random = random_maps((len(images), *record.grid), seed).to(images)
    return {"random": random} | {name: heat_map(record, name) for name in methods_for(record)}


def random_maps(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Draw maps of random numbers in 0..1: the floor, and the order of patches that are equal."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Curves:
    """The outputs of a network while patches are removed, step by step: each (B, steps + 1).

    `removed` holds the probability of the target with the most important patches removed, from
    none to all; `kept` with only the most important ones left, from none to all. The other two
    tell whether the target was the likeliest class. `shares` (steps + 1) is the share of the
    patches at each step, from 0 to 1: as near to equal steps as there are patches.
    """

    removed: Tensor
    kept: Tensor
    removed_hits: Tensor
    kept_hits: Tensor
    shares: Tensor

    @property
    def scores(self) -> dict[str, Tensor]:
        """Areas under the curves over the shares of patches, in 0..1: name -> (B,).

        - "deletion" and "insertion" (Petsiuk et al. 2018, arXiv 1806.07421): of the probability,
          with the best patches removed first, and put back first.
        - "positive" and "negative perturbation" (Chefer et al. 2021, arXiv 2012.09838): of the
          hits, with the best and with the worst patches removed first, without the two ends.
        """
        shares, inner = self.shares.to(self.removed), slice(1, -1)
        hits = [each[:, inner].to(self.removed) for each in (self.removed_hits, self.kept_hits)]
        width = shares[-2] - shares[1]
        positive, negative = (torch.trapezoid(each, shares[inner]) / width for each in hits)
        return {
            "deletion": torch.trapezoid(self.removed, shares),
            "insertion": torch.trapezoid(self.kept, shares),
            "positive perturbation": positive,
            "negative perturbation": negative,
        }


def perturb(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    steps: int = 10,
    baseline: str = "mean",
    seed: int = 0,
) -> Curves:
    """Remove patches from normalised images (B, C, H, W) in the order of `maps` (B, rows, columns).

    A removed patch shows the `baseline`: "mean", the mean colour, or "blur", the image out of
    focus. Patches that a map calls equally important come in a random order (`patch_order`). Each
    image takes 2 * steps forward passes: to keep the best tenth is to remove the worst nine tenths.

    Raises:
        ValueError: maps that do not divide the images, fewer than 3 steps, another baseline.
    """
    rows, columns = maps.shape[1:]
    if len(maps) != len(images) or images.shape[2] % rows or images.shape[3] % columns:
        raise ValueError(
            f"maps {tuple(maps.shape)} do not divide images {tuple(images.shape)} into patches"
        )
    if steps < 3:
        raise ValueError(f"steps must be 3 or more, got {steps}")
    empty, order = _baseline(images, baseline), patch_order(maps, seed)
    picked = targets.to(images.device)[:, None]

    def outputs(pixels: Tensor) -> Tensor:
        """Return the probability of the target, and whether it is the likeliest: (2, B)."""
        probabilities = model(pixels).softmax(dim=1)
        hits = probabilities.argmax(dim=1) == picked[:, 0]
        return torch.stack([probabilities.gather(1, picked)[:, 0], hits.to(probabilities)])

    with evaluating(model):
        full, bare = outputs(images), outputs(empty)
        removed, kept = [full], [bare]
        counts = torch.linspace(0, rows * columns, steps + 1).round().long()
        for count in counts.tolist()[1:-1]:
            best = torch.zeros(maps.shape, dtype=torch.bool, device=images.device).flatten(1)
            best = best.scatter(1, order[:, :count], True).view(-1, 1, rows, columns)
            best = best.repeat_interleave(images.shape[2] // rows, dim=2)
            best = best.repeat_interleave(images.shape[3] // columns, dim=3)  # (B, 1, H, W)
            removed.append(outputs(torch.where(best, empty, images)))
            kept.append(outputs(torch.where(best, images, empty)))
    removed, kept = torch.stack([*removed, bare]), torch.stack([*kept, full])
    return Curves(
        removed[:, 0].T,
        kept[:, 0].T,
        removed[:, 1].T.bool(),
        kept[:, 1].T.bool(),
        counts.double() / (rows * columns),
    )


def patch_order(maps: Tensor, seed: int = 0) -> Tensor:
    """Order the patches of maps (B, rows, columns), the most important first: (B, N).

    Equal ones come in a random order: else the upper left corner would count as important. What a
    network outputs over all their orders cannot be computed, but with one drawn for each image the
    mean over images is on average what it would be over all orders. They stand as in the random map
    of this seed in `maps_of_all_methods`: a map that says nothing scores exactly as that one does.
    """
    flat = maps.flatten(1)
    shuffle = random_maps(flat.shape, seed).argsort(dim=1, descending=True).to(flat.device)
    ranks = flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
    return shuffle.gather(1, ranks)


def _baseline(images: Tensor, name: str) -> Tensor:
    if name == "mean":
        return torch.zeros_like(images)  # images are normalised: their mean is 0
    if name == "blur":
        from torchvision.transforms.functional import gaussian_blur

        side = min(images.shape[2:])
        return gaussian_blur(images, kernel_size=[side // 4 * 2 + 1] * 2, sigma=[side / 8] * 2)
    raise ValueError(f'baseline must be "mean" or "blur", got {name!r}')


def collages(images: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Paste four images of four classes together: where an object is, is then known.

    Returns collages (B, C, 2H, 2W), the label (B,) of one of the four, and the quarter (B,) in
    which it is: 0 and 1 above, 2 and 3 below. Each image is the target once.

    Raises:
        ValueError: fewer than four classes.
    """
    if len(labels.unique()) < 4:
        raise ValueError(f"expected images of at least 4 classes, got {len(labels.unique())}")
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(4, (len(images),), generator=generator)
    chosen = torch.empty(len(images), 4, dtype=torch.long)
    for i, quarter in enumerate(positions.tolist()):
        members = [i]
        for j in torch.randperm(len(images), generator=generator).tolist():
            if all(labels[j] != labels[member] for member in members):
                members.append(j)
            if len(members) == 4:
                break
        chosen[i] = torch.tensor([*members[1 : quarter + 1], i, *members[quarter + 1 :]])
    quarters = images[chosen]  # (B, 4, C, H, W)
    above, below = (torch.cat([quarters[:, i], quarters[:, i + 1]], dim=3) for i in (0, 2))
    return torch.cat([above, below], dim=2), labels, positions.to(labels.device)


def points_at(maps: Tensor, quarters: Tensor) -> Tensor:
    """Play the pointing game: is the best patch in the target's quarter? 1 or 0 for each map, (B,).

    After Zhang et al. 2016 (arXiv 1608.00507). Where several patches are the best, it is the share
    of them that is in the quarter: what it is on average, if one is drawn. Patches on the border of
    two quarters do not exist: rows and columns must be even.

    Raises:
        ValueError: an odd number of rows or columns.
    """
    rows, columns = maps.shape[1:]
    if rows % 2 or columns % 2:
        raise ValueError(f"quarters need an even grid, got {rows}x{columns}")
    best = (maps == maps.amax(dim=(1, 2), keepdim=True)).double()
    below = torch.arange(rows, device=maps.device) >= rows // 2
    right = torch.arange(columns, device=maps.device) >= columns // 2
    inside = 2 * below.long()[:, None] + right == quarters.to(maps.device)[:, None, None]
    return (best * inside).sum(dim=(1, 2)) / best.sum(dim=(1, 2))


def faithfulness_table(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    on_collages: nn.Module | None = None,
    baseline: str = "mean",
    steps: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Score every method by every metric: one row for each, with a 95% bootstrap interval.

    Maps are made for the labels, so `images` (normalised, (B, C, H, W)) should be ones that the
    model classifies correctly. `on_collages` is the model for images of twice the height and width;
    without it there is no pointing game. Each row also holds the mean difference from the random
    map on the same images, with its interval, signed so that more is better. `on_batch` gets the
    number of images done so far.
    """
    values: dict[tuple[str, str], list[Tensor]] = {}

    def keep(method: str, metric: str, scores: Tensor) -> None:
        values.setdefault((method, metric), []).append(scores.cpu().double())

    pasted = None if on_collages is None else collages(images, labels, seed)
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        few, targets = images[batch], labels[batch]
        options = {"steps": steps, "baseline": baseline, "seed": seed + start}
        for method, maps in maps_of_all_methods(model, few, targets, seed + start).items():
            for metric, scores in perturb(model, few, maps, targets, **options).scores.items():
                keep(method, metric, scores)
        if on_collages is not None and pasted is not None:
            large, targets, quarters = (part[batch] for part in pasted)
            maps_of = maps_of_all_methods(on_collages, large, targets, seed + start)
            for method, maps in maps_of.items():
                keep(method, "pointing game", points_at(maps, quarters))
        if on_batch is not None:
            on_batch(min(start + batch_size, len(images)))
    return _rows({key: torch.cat(scores).numpy() for key, scores in values.items()}, seed)


def _rows(values: Mapping[tuple[str, str], np.ndarray], seed: int) -> list[dict[str, Any]]:
    rows = []
    for (method, metric), scores in values.items():
        low, high = bootstrap_interval(scores, seed)
        gain = (scores - values["random", metric]) * (1 if METRICS[metric] else -1)
        gain_low, gain_high = bootstrap_interval(gain, seed)
        rows.append(
            {
                "method": method,
                "metric": metric,
                "mean": float(scores.mean()),
                "low": low,
                "high": high,
                "gain": float(gain.mean()),
                "gain_low": gain_low,
                "gain_high": gain_high,
                "images": len(scores),
            }
        )
    return rows

"""How well can a map be read? A patch's value against its lightness in the picture.

Run it with `.venv/bin/python benchmarks/legibility.py`. Twenty maps: five photographs that come
with the course's libraries, in the bundled network at 32 and at 96 pixels, by rollout and Chefer.
Lightness is L* of CIELAB, the mean over the pixels of a patch. A rank correlation of 1 means that
the eye can order the patches as the map does; what the photograph shows counts against it.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import write_results
from scipy.stats import spearmanr
from skimage import color
from skimage import data as photographs

from vit_tutorial import plots
from vit_tutorial.attention import relevance, rollout
from vit_tutorial.images import fit_image, normalize
from vit_tutorial.recording import record_attention
from vit_tutorial.weights import load_checkpoint

PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket", "retina")
SIDE = 384  # pixels of a picture on the screen: whole pixels per patch at every size


def lightness(picture: NDArray, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Measure the mean lightness L* of each patch: uint8 (H, W, 3) -> (rows, columns)."""
    height, width = picture.shape[0] // grid[0], picture.shape[1] // grid[1]
    light = color.rgb2lab(picture)[..., 0]
    return light.reshape(grid[0], height, grid[1], width).mean(axis=(1, 3))


def legibility(photo: NDArray, heat: NDArray) -> dict[str, float]:
    """Correlate a map with what is seen of it, by each way to draw it."""
    pair = plots.map_pair(photo, heat)
    drawn = {
        "overlay": plots.overlay(photo, heat),
        "spotlight": pair[:, :SIDE],
        "map itself": pair[:, -SIDE:],
    }
    return {
        name: float(spearmanr(heat.ravel(), lightness(picture, heat.shape).ravel()).statistic)
        for name, picture in drawn.items()
    }


def maps() -> list[tuple[NDArray, NDArray]]:
    """Return twenty photographs (SIDE, SIDE, 3) with a map of each."""
    model, card = load_checkpoint("cifar10")
    found = []
    for name in PHOTOGRAPHS:
        photo = getattr(photographs, name)()
        for size in (32, 96):
            fitted = fit_image(photo, size)
            network = model.resized(size)
            pixels = normalize(fitted.pixels[None], card.mean, card.std)
            label = int(network(pixels).argmax())
            record = record_attention(network, pixels, gradients_of=label)
            seen = np.asarray(fitted.view().resize((SIDE, SIDE)))
            for heat in (rollout(record), relevance(record)):
                found.append((seen, heat[0].numpy()))
    return found


def main() -> None:
    """Measure and write `results/legibility.json`."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    found = [legibility(photo, heat) for photo, heat in maps()]
    rows: list[dict[str, Any]] = [
        {
            "drawn": name,
            "rank_correlation_mean": statistics.mean(values),
            "rank_correlation_low": min(values),
            "rank_correlation_high": max(values),
            "maps": len(values),
        }
        for name in found[0]
        if (values := [each[name] for each in found])
    ]
    for row in rows:
        print(row)
    data = "photographs of scikit-image: " + ", ".join(PHOTOGRAPHS)
    command = shlex.join([".venv/bin/python", "benchmarks/legibility.py", *sys.argv[1:]])
    write_results("legibility", command=command, data=data, rows=rows)


if __name__ == "__main__":
    main()

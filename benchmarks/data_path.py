"""Measure how fast batches are drawn and augmented, without any network.

Ours holds the images as bytes on the device and changes a whole batch at once; the other way is the
usual one, a DataLoader whose workers change one PIL image after the other with torchvision's
transforms. Both crop, flip, use TrivialAugment, normalise, erase, and mix. Speed does not depend on
what is in the pictures, so they are random.

Run it with `.venv/bin/python benchmarks/data_path.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice

import torch
from PIL import Image
from results import write_results
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from vit_tutorial.data import ImageSet
from vit_tutorial.hardware import best_device
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import Run

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SETTINGS = TrainConfig(
    epochs=1,
    batch_size=128,
    label_smoothing=0.1,
    crop_padding=4,
    flip=True,
    trivial_augment=1.0,
    erase=0.25,
    mixup=0.5,
    cutmix=0.5,
)


class Pictures(Dataset):
    """The images as PIL has them, each changed when it is asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = labels
        self.change = v2.Compose(
            [
                v2.RandomCrop(32, padding=4, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.TrivialAugmentWide(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.RandomErasing(p=0.25),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.pictures[index]), int(self.labels[index])


def usual_batches(images: Tensor, labels: Tensor, workers: int, device: str) -> Iterator[Tensor]:
    """Draw batches with a DataLoader, for ever."""
    blend = v2.RandomChoice([v2.CutMix(num_classes=10), v2.MixUp(num_classes=10, alpha=0.8)])
    loader = DataLoader(
        Pictures(images, labels),
        batch_size=SETTINGS.batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=lambda batch: blend(*default_collate(batch)),
        persistent_workers=workers > 0,
        drop_last=True,
    )
    while True:
        for pixels, _targets in loader:
            yield pixels.to(device)


def our_batches(images: Tensor, labels: Tensor, device: str) -> Iterator[Tensor]:
    """Draw batches as `fit` does, for ever."""
    network = VisionTransformer(ViTConfig(embed_dim=12, depth=1, num_heads=1)).to(device)
    run = Run(network, SETTINGS, ImageSet(images, labels, tuple("abcdefghij"), "random"), None)
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    images, labels = images.to(device), labels.to(device)
    while True:
        for batch in run.order().split(SETTINGS.batch_size):
            if len(batch) == SETTINGS.batch_size:
                yield run.augmented(images[batch], labels[batch], mean, std)[0]


def images_per_second(batches: Iterator[Tensor], count: int, device: str) -> float:
    """Draw `count` batches, and wait until the device has them."""
    start = time.perf_counter()
    for pixels in islice(batches, count):
        assert len(pixels) == SETTINGS.batch_size
    if device == "cuda":
        torch.cuda.synchronize()
    return count * SETTINGS.batch_size / (time.perf_counter() - start)


def main() -> int:
    """Alternate between the two, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--batches", type=int, default=20, help="in a block")
    parser.add_argument("--blocks", type=int, default=7)
    options = parser.parse_args()
    device = best_device()
    torch.manual_seed(0)
    images = torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (10_000,))

    ours = our_batches(images, labels, device)
    usual = usual_batches(images, labels, options.workers, device)
    pairs = []
    for _ in range(options.blocks + 1):
        many = 4 * options.batches  # or its block would be too short to be timed
        pairs.append(
            (
                images_per_second(ours, many, device),
                images_per_second(usual, options.batches, device),
            )
        )
    pairs = pairs[1:]  # the first block warms up
    ratios = [ours / usual for ours, usual in pairs]
    row = {
        "against": f"DataLoader with {options.workers} workers, PIL and torchvision transforms",
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_low": round(min(ratios), 2),
        "ratio_high": round(max(ratios), 2),
        "images_per_second": round(statistics.median(ours for ours, _ in pairs)),
        "images_per_second_against": round(statistics.median(usual for _, usual in pairs)),
        "device": device,
        "batch_size": SETTINGS.batch_size,
    }
    command = ".venv/bin/python benchmarks/data_path.py"
    write_results("data_path", command=command, data="random images of 32x32 pixels", rows=[row])
    print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())

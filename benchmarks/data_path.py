"""Measure how fast batches are drawn and augmented, without any network.

Ours holds the images as bytes on the device and changes a whole batch at once; the usual way is a
DataLoader whose workers change one PIL image after the other with torchvision's transforms. Both
crop, flip, use TrivialAugment, normalise, erase, and mix, with the same settings. They take turns:
an epoch each, in which the workers can work ahead only within their own.

Run it with `.venv/bin/python benchmarks/data_path.py`: speed does not depend on what is in the
pictures, so they are random, of CIFAR's size. Or name `cifar10`, or an image folder.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from results import write_results
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from vit_tutorial.data import ImageSet, load
from vit_tutorial.hardware import best_device
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import Run
from vit_tutorial.train import augment_batch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIZE = 32
SETTINGS = TrainConfig(
    epochs=1,
    batch_size=128,
    crop_padding=4,
    flip=True,
    trivial_augment=1.0,
    erase=0.25,
    mixup=0.5,
    cutmix=0.5,
)
OURS_IN_A_BLOCK = 4  # epochs, or it would be too short to be timed


class Pictures(Dataset):
    """The images as PIL has them, each changed when it is read."""

    def __init__(self, data: ImageSet) -> None:
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.images]
        self.labels = data.labels.tolist()
        self.change = v2.Compose(
            [
                v2.RandomCrop(SIZE, padding=SETTINGS.crop_padding, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.TrivialAugmentWide(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.RandomErasing(p=SETTINGS.erase),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(self.pictures[index]), self.labels[index]


class Mixed:
    """Make a batch of images, and mix it by one of the two ways."""

    def __init__(self, classes: int) -> None:
        ways = [v2.MixUp(num_classes=classes, alpha=0.8), v2.CutMix(num_classes=classes)]
        self.blend = v2.RandomChoice(ways, p=[SETTINGS.mixup, SETTINGS.cutmix])

    def __call__(self, pairs: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Return pixels (B, C, H, W) and targets (B, classes)."""
        return self.blend(*default_collate(pairs))


class UsualWay:
    """Epochs of a DataLoader with PIL images."""

    def __init__(self, data: ImageSet, workers: int, device: str) -> None:
        self.device = device
        self.loader = DataLoader(
            Pictures(data),
            batch_size=SETTINGS.batch_size,
            shuffle=True,
            num_workers=workers,
            collate_fn=Mixed(len(data.classes)),
            persistent_workers=workers > 0,
            pin_memory=device == "cuda",
            drop_last=True,
        )

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw pixels and targets of every full batch, on the device."""
        for batch in self.loader:
            pixels, targets = (part.to(self.device, non_blocking=True) for part in batch)
            yield pixels, targets


class OurWay:
    """Epochs as `fit` draws them."""

    def __init__(self, data: ImageSet, device: str) -> None:
        config = ViTConfig(img_size=SIZE, embed_dim=12, depth=1, num_heads=1)  # not used
        network = VisionTransformer(config).to(device)
        self.run = Run(network, SETTINGS, data)
        self.images, self.labels = data.images.to(device), data.labels.to(device)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw pixels and targets of every full batch, on the device."""
        count = len(self.images) // SETTINGS.batch_size * SETTINGS.batch_size
        for batch in self.run.order()[:count].split(SETTINGS.batch_size):
            yield augment_batch(self.run, self.images[batch], self.labels[batch])


def images_per_second(way: UsualWay | OurWay, epochs: int, device: str) -> float:
    """Draw whole epochs, and wait until the device has them."""
    count, start = 0, time.perf_counter()
    for _ in range(epochs):
        for pixels, targets in way.epoch():
            assert len(pixels) == len(targets) == SETTINGS.batch_size
            count += len(pixels)
    if device != "cpu":
        getattr(torch, device).synchronize()
    return count / (time.perf_counter() - start)


def random_images(count: int) -> ImageSet:
    """Make noise of CIFAR's size, of ten classes."""
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
    name = f"random images of {SIZE}×{SIZE} pixels"
    return ImageSet(images, torch.randint(0, 10, (count,)), tuple("0123456789"), name)


def main() -> int:
    """Alternate between the two, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", help="cifar10 or an image folder; default: random")
    parser.add_argument("--data-name", help="what results call the data")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--images", type=int, default=10_000, help="in an epoch, at most")
    parser.add_argument("--blocks", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = best_device()
    if options.data is None:
        data = random_images(options.images)
    else:
        data = load(options.data, "train", img_size=SIZE)[: options.images]

    ours, usual = OurWay(data, device), UsualWay(data, options.workers, device)
    pairs = [
        (
            images_per_second(ours, OURS_IN_A_BLOCK, device),
            images_per_second(usual, 1, device),
        )
        for _ in range(options.blocks + 1)
    ][1:]  # the first block warms up, and starts the workers
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
    arguments = [Path(options.data).name] if options.data else []
    arguments += ["--data-name", options.data_name] if options.data_name else []
    for name in ("workers", "images", "blocks"):
        if getattr(options, name) != parser.get_default(name):
            arguments += [f"--{name}", str(getattr(options, name))]
    command = shlex.join([".venv/bin/python", "benchmarks/data_path.py", *arguments])
    write_results("data_path", command=command, data=options.data_name or data.name, rows=[row])
    print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())

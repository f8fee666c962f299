"""Train a network on an `ImageSet`, measure it, and make a checkpoint of it: one plain loop."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from vit_tutorial.augment import crop_flip, draw_crop_flip
from vit_tutorial.data import ImageSet, channel_stats, normalize
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights import Card, load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class TrainConfig:
    """Every choice of a training run.

    Raises:
        ValueError: a number outside its range.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 2e-3  # the highest, reached after the warm-up
    weight_decay: float = 0.05  # on matrices only
    warmup: float = 0.1  # share of all steps in which the rate rises from 0
    label_smoothing: float = 0.05
    clip_norm: float = 1.0  # the longest gradient allowed
    crop_padding: int = 0  # pixels by which an image may be shifted
    flip: bool = False  # mirror every second image, left to right
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name} must be 1, 2, ..., got {getattr(self, name)}")
        for name in ("weight_decay", "crop_padding"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1, 1 excluded, got {getattr(self, name)}")


@dataclass(frozen=True)
class Recipe:
    """A network and how to train it."""

    model: ViTConfig
    train: TrainConfig
    about: str  # data, cost, expected accuracy


RECIPES = {
    "digits": Recipe(
        ViTConfig(
            img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0
        ),
        TrainConfig(epochs=40, batch_size=64, lr=2e-3),
        "the digits, about a minute on two CPU cores",
    ),
    "laptop": Recipe(
        ViTConfig(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3, mlp_ratio=2.0),
        TrainConfig(epochs=20, crop_padding=4, flip=True),
        "CIFAR-10, half an hour on two CPU cores",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """How many of n images a network named rightly."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.n


def fit(
    model: nn.Module,
    train: ImageSet,
    test: ImageSet,
    config: TrainConfig,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train `model` in place, on the device it is on, and return one row per epoch.

    A row holds epoch, loss (mean over the epoch's batches), test_accuracy (percent) and seconds
    (since the start); `on_epoch` gets each as it comes. AdamW (Loshchilov & Hutter 2017, arXiv
    1711.05101), linear warm-up, then a cosine to zero.

    Raises:
        ValueError: fewer training images than one batch.
        FloatingPointError: the loss is no longer a number.
    """
    if len(train) < config.batch_size:
        raise ValueError(
            f"{len(train)} training images do not fill one batch of {config.batch_size}"
        )
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(config.seed)
    mean, std = channel_stats(train.images)
    images, labels = train.images.to(device), train.labels.to(device)

    steps_per_epoch = len(train) // config.batch_size
    total_steps = config.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, total_steps, config.warmup)
    )

    rows, start = [], time.perf_counter()
    with tqdm(total=total_steps, unit="batch", dynamic_ncols=True) as progress:
        for epoch in range(config.epochs):
            model.train()
            total_loss = torch.zeros((), device=device)
            order = torch.randperm(len(train), generator=generator)
            for batch in order.split(config.batch_size)[:steps_per_epoch]:
                shift, flipped = draw_crop_flip(
                    len(batch), config.crop_padding, config.flip, generator
                )
                batch = batch.to(device)
                pixels = crop_flip(images[batch], shift.to(device), flipped.to(device))
                logits = model(normalize(pixels, mean, std))
                loss = F.cross_entropy(
                    logits, labels[batch], label_smoothing=config.label_smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                schedule.step()
                total_loss += loss.detach()
                progress.update()
            row = {
                "epoch": epoch + 1,
                "loss": total_loss.item() / steps_per_epoch,
                "test_accuracy": evaluate(model, test, mean, std).accuracy,
                "seconds": time.perf_counter() - start,
            }
            if not math.isfinite(row["loss"]):
                raise FloatingPointError(
                    f"the loss is {row['loss']} after epoch {epoch + 1}: try a lower lr than "
                    f"{config.lr} or a longer warmup than {config.warmup}"
                )
            rows.append(row)
            progress.set_postfix(loss=f"{row['loss']:.3f}", test=f"{row['test_accuracy']:.1f}%")
            on_epoch(row)
    return rows


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the highest learning rate at `step`: linear warm-up, then a cosine to 0.

    Examples:
        >>> [round(lr_factor(step, 100, warmup=0.1), 3) for step in (0, 9, 55, 100)]
        [0.1, 1.0, 0.5, 0.0]
    """
    warmup_steps = warmup * total_steps
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Give weight decay to matrices only: not to biases, norms, CLS token and positions."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        table = name.endswith(("pos_embed", "cls_token"))
        (matrices if parameter.ndim > 1 and not table else others).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    test: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 500,
) -> Evaluation:
    """Count the images that `model` names rightly, in evaluation mode, on the device it is on.

    Raises:
        ValueError: no images, no batch size, or another number of classes than of logits.
    """
    if not len(test):
        raise ValueError(f"{test.name} holds no images to evaluate on")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    correct = 0
    try:
        for images, labels in zip(
            test.images.split(batch_size), test.labels.split(batch_size), strict=True
        ):
            logits: Tensor = model(normalize(images.to(device), mean, std))
            if logits.shape[1] != len(test.classes):
                raise ValueError(
                    f"the network tells {logits.shape[1]} classes apart, "
                    f"{test.name} has {len(test.classes)}"
                )
            correct += int((logits.argmax(dim=1).cpu() == labels).sum())
    finally:
        model.train(was_training)
    return Evaluation(correct, len(test))


def make_checkpoint(
    model: VisionTransformer, path: str | Path, card: Card, test: ImageSet, batch_size: int = 500
) -> Card:
    """Save `model`, measure the file that was written, and put the result on its card."""
    save_checkpoint(model, path, card)
    shipped, _ = load_checkpoint(path)
    result = evaluate(shipped, test, card.mean, card.std, batch_size)
    evaluation = {
        "data": test.name,
        **asdict(result),
        "accuracy": result.accuracy,
        "batch_size": batch_size,
        "dtype": "float32",
        "device": "cpu",
    }
    card = replace(card, evaluation=evaluation)
    save_checkpoint(model, path, card)
    return card

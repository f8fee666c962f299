"""Train any network on an `ImageSet`: one loop, which a stopped run enters again where it left."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vit_tutorial.data import ImageSet, channel_stats
from vit_tutorial.evaluation import evaluate
from vit_tutorial.hardware import compiled, rank, synchronised, world_size
from vit_tutorial.progress import Row
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import (
    MEASUREMENTS,
    Objective,
    Run,
    cross_entropy,
    memory_errors_explained,
    refuse_unfinished,
    stop_signals,
)
from vit_tutorial.weights import Card, load_checkpoint, save_checkpoint

SAVE_EVERY = 60.0  # seconds between two copies of a run on disk
PROBE_IMAGES = 1000  # on which the time of a measurement is tried


def fit(
    model: nn.Module,
    train: ImageSet,
    test: ImageSet | None,
    config: TrainConfig,
    *,
    objective: Objective = cross_entropy,
    save_to: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train `model` in place, on the device it is on, and return one row per epoch.

    A row holds epoch, loss (mean over the epoch), lr, images_per_second, seconds (since the start)
    and, about 40 times in a run, test_accuracy (percent; not without `test`); `on_epoch` gets each
    as it comes. With `save_to`, the run is kept in FILE.state and its rows in FILE.csv. With
    `resume` it goes on from there, and ends with the same weights as if it had never stopped.

    What is learnt is in `objective`: it asks the network about pixels (B, C, H, W), which may be
    mixed, and compares with targets (B, classes), or not, and returns the loss.

    Raises:
        ValueError: fewer training images than a batch, or a saved run that does not fit.
        FloatingPointError: the loss is no longer a number, or far worse than that of guessing.
        MemoryError: a batch does not fit into the memory of the device.
        KeyboardInterrupt: it was asked to stop, and the run has been saved.
    """
    run = Run(model, config, train, save_to, objective)
    if resume:
        run.load()
    else:
        refuse_unfinished(save_to)
    run.save(must=True)  # what cannot be written is found out now, not after the training
    # on the device, or normalising each batch would wait for the copy
    mean, std = (torch.tensor(value, device=run.device) for value in channel_stats(train.images))
    images, labels = train.images.to(run.device), train.labels.to(run.device)
    network, order = synchronised(model), run.order()
    gpus = [run.device] if run.device.type == "cuda" else []
    with (
        compiled(model, config.compile and bool(gpus)),
        torch.random.fork_rng(gpus),  # leaves chance elsewhere as it was
        stop_signals() as stopped,
        run.progress() as progress,
    ):
        while run.step < run.total_steps:
            batch = order[run.place : run.place + config.batch_size][rank() :: world_size()]
            batch_images, batch_labels = images[batch], labels[batch]
            with memory_errors_explained(model, batch_images):
                train_step(network, run, batch_images, batch_labels, mean, std)
            progress.step(config.batch_size)
            if run.place == 0:  # the end of an epoch
                row = run.end_epoch()
                if test is not None and rank() == 0 and run.to_be_measured():
                    row["test_accuracy"] = evaluate(run.result(), test, mean, std).accuracy
                progress.epoch(row)
                if on_epoch is not None:
                    on_epoch(row)
                order = run.order()
            if stopped() or run.since_saved() > SAVE_EVERY:
                run.save()
            if stopped():
                raise KeyboardInterrupt
        run.save()
    run.finish()
    return run.rows


def train_step(
    network: nn.Module,
    run: Run,
    images: Tensor,
    labels: Tensor,
    mean: Tensor,
    std: Tensor,
) -> None:
    """Take one step of `run` on uint8 images (B, C, H, W) and their labels (B,)."""
    run.seed()  # what a step draws depends on no step before it
    pixels, targets = run.augmented(images, labels, mean, std)
    with torch.autocast(run.device.type, run.half, enabled=run.half is not None):
        loss = run.objective(network, pixels, targets)
    run.update(loss)


def epochs_within(
    minutes: float, model: nn.Module, train: ImageSet, test: ImageSet, config: TrainConfig
) -> int:
    """Tell how many epochs of `config` fit into `minutes` on this machine, by trying a few batches.

    `model` is left as it is. Counts the measurements of the test accuracy, too. Several processes
    try together; each finds a slightly different number, see `agreed`.

    Raises:
        ValueError: not even one epoch fits.
    """
    stats = channel_stats(train.images[:1000])
    few = train[: config.batch_size]
    trial = copy.deepcopy(model)
    run = Run(trial, replace(config, epochs=100), few, save_to=None)
    mean, std = (torch.tensor(value, device=run.device) for value in stats)
    share = slice(rank(), None, world_size())
    images, labels = few.images[share].to(run.device), few.labels[share].to(run.device)
    network, seconds = synchronised(trial), []
    gpus = [run.device] if run.device.type == "cuda" else []
    with compiled(trial, config.compile and bool(gpus)), torch.random.fork_rng(gpus):
        for _ in range(10):
            start = time.perf_counter()
            train_step(network, run, images, labels, mean, std)
            run.total_loss.item()  # waits for the device
            seconds.append(time.perf_counter() - start)
    per_epoch = statistics.median(seconds[2:]) * (len(train) // config.batch_size)
    start = time.perf_counter()
    evaluate(trial, test[:PROBE_IMAGES], *stats)
    measuring = (time.perf_counter() - start) * len(test) / len(test[:PROBE_IMAGES])
    spare = 0.97 * 60 * minutes - seconds[0]  # what happens once, happens once more
    for epochs in range(int(spare // per_epoch), 0, -1):
        measured = min(epochs, MEASUREMENTS)
        if epochs * per_epoch + measured * measuring <= spare:
            return epochs
    raise ValueError(
        f"one epoch takes about {(per_epoch + measuring) / 60:.1f} minutes here, more than the "
        f"{minutes:g} minutes given"
    )


def make_checkpoint(
    model: nn.Module, path: str | Path, card: Card, test: ImageSet, batch_size: int = 500
) -> Card:
    """Save `model`, measure the file that was written, and put the result on its card."""
    save_checkpoint(model, path, card)
    shipped, _ = load_checkpoint(path, type(model))
    result = evaluate(shipped, test, card.mean, card.std, batch_size)
    evaluation = {
        "data": test.name,
        "correct": result.correct,
        "n": result.n,
        "accuracy": result.accuracy,
        "batch_size": batch_size,
        "dtype": "float32",
        "device": "cpu",
    }
    card = replace(card, evaluation=evaluation)
    save_checkpoint(model, path, card)
    return card

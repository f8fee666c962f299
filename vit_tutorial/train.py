"""Train any network on an `ImageSet`: the loop, what one step of it does, and how long it takes.

Read from the top: `fit` is the loop; `train_step` augments a batch, runs the network, and updates
its weights. What has to survive a stop is in `run.Run`. Built step by step in lesson 07.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.augment import (
    crop_flip,
    draw_crop_flip,
    draw_erase,
    draw_mix,
    draw_order,
    draw_trivial_augment,
    erase,
    mix,
    mix_targets,
    trivial_augment,
)
from vit_tutorial.compute import Compute, computing, fastest_way, ways_to_compute
from vit_tutorial.data import ImageSet
from vit_tutorial.distributed import broadcast, data_parallel, rank, world_size
from vit_tutorial.evaluation import evaluate
from vit_tutorial.hardware import compiled, memory_errors_explained, unwrapped
from vit_tutorial.images import normalize
from vit_tutorial.model import VisionTransformer
from vit_tutorial.optimizers import lr_factor
from vit_tutorial.progress import Row, say
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import Run, refuse_unfinished, saved_compute, stop_signals
from vit_tutorial.weights import Card, load_checkpoint, save_checkpoint

Network = Callable[[Tensor], Tensor]  # an nn.Module, or one bound to the patches that it sees
Objective = Callable[[Network, Tensor, Tensor], Tensor]

MEASUREMENTS = 40  # of the test accuracy in a run: enough for a curve
SAVE_EVERY = 60.0  # seconds between two copies of a run on disk
PROBE_IMAGES = 1000  # on which the time of a measurement is tried
SMALL = 1e9  # parameters times images: below, a training takes seconds however it is computed
TRIAL = 4.0  # seconds, at most, in which the fastest way to compute a step is looked for


def cross_entropy(network: Network, pixels: Tensor, targets: Tensor) -> Tensor:
    """Compute `network`'s logits for pixels (B, C, H, W); the loss against (B, classes): ()."""
    logits = network(pixels)
    return F.cross_entropy(logits.to(targets.dtype), targets)


def fit(
    model: nn.Module,
    train: ImageSet,
    test: ImageSet | None,
    config: TrainConfig,
    *,
    objective: Objective = cross_entropy,
    how: Compute | None = None,
    save_to: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train `model` in place, on the device it is on, in training mode; return one row per epoch.

    A row holds epoch, loss (mean over the epoch), lr, images_per_second, seconds (since the start)
    and, at most 40 times in a run, test_accuracy (percent; not without `test`); `on_epoch` gets
    each as it comes. With `save_to`, the run is kept in FILE.state and its rows in FILE.csv. With
    `resume` it goes on from there, and ends with the same weights as if it had never stopped.

    What is learnt is in `objective`: it runs the network on pixels (B, C, H, W), which may be
    mixed, and compares with targets (B, classes), or not, and returns the loss.

    `how` a step is computed is measured, see `fastest`, unless it is given; a run that is resumed
    on the same processor keeps to it.

    Raises:
        ValueError: fewer training images than a batch, a saved run that does not fit or that
            another process trains, or a config that sets what this network cannot do.
        FloatingPointError: the loss is no longer a number, or far worse than that of guessing.
        MemoryError: a batch does not fit into the memory of the device.
        KeyboardInterrupt: a signal to stop, and the run has been saved.
    """
    check_training(model, train, test, config, objective)
    model.train()
    if resume and how is None:
        how = saved_compute(save_to, model)
    how = how or fastest(model, train, config, objective)
    classes = len(train.classes)
    guessing_loss = math.log(classes) if objective is cross_entropy else math.inf
    run = Run(model, config, train, save_to, how, guessing_loss, test)
    if resume:
        run.load()
    else:
        refuse_unfinished(save_to)
    images, labels = train.images.to(run.device), train.labels.to(run.device)
    network, order = data_parallel(model), run.order()
    gpus = [run.device] if run.device.type == "cuda" else []
    measured = math.ceil(config.epochs / MEASUREMENTS)  # every so many epochs, and after the last
    with (
        run.alone(),
        compiled(model, config.compile and bool(gpus)),
        computing(model, how),
        torch.random.fork_rng(gpus),  # leaves the random generators elsewhere as they were
        stop_signals() as stopped,
        run.progress() as progress,
    ):
        run.save(must=True)  # what cannot be written fails now, not after the training
        while run.step < run.total_steps:
            batch = order[run.offset : run.offset + config.batch_size][rank() :: world_size()]
            batch_images, batch_labels = images[batch], labels[batch]
            with memory_errors_explained(model, batch_images):
                train_step(network, run, batch_images, batch_labels, objective)
            progress.step(config.batch_size)
            if run.offset == 0:  # the end of an epoch
                row = run.end_epoch()
                due = run.epoch % measured == 0 or run.epoch == config.epochs
                if test is not None and rank() == 0 and due:
                    row["test_accuracy"] = evaluate(run.result(), test, run.mean, run.std).accuracy
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


def check_training(
    model: nn.Module,
    train: ImageSet,
    test: ImageSet | None,
    config: TrainConfig,
    objective: Objective = cross_entropy,
) -> None:
    """See that network, images and config fit together; `fit` calls it.

    Raises:
        ValueError: a batch that the images do not fill or the processes cannot share, or a
            padding as large as the images, or classes that are not those of the network or the
            test images, or a single one, or a channel without any difference, or patches to be
            dropped by a network that cannot.
    """
    if not isinstance(train, ImageSet):
        raise ValueError(
            f"expected an ImageSet to train on, got {train!r:.60}: `load_train_test` makes two of "
            f"a folder"
        )
    if objective is cross_entropy:
        check_classes(model, train, test)
    if len(train) < config.batch_size:
        raise ValueError(
            f"{len(train)} training images do not fill one batch of {config.batch_size}"
        )
    if config.batch_size % world_size():
        raise ValueError(
            f"{world_size()} processes cannot share a batch of {config.batch_size} evenly"
        )
    height, width = train.images.shape[2:]
    if config.crop_padding >= min(height, width):
        raise ValueError(
            f"crop_padding {config.crop_padding} must be smaller than the images, which have "
            f"{height}x{width} pixels"
        )
    for channel, images in enumerate(train.images.unbind(dim=1)):
        if images.min() == images.max():
            raise ValueError(
                f"channel {channel} is {images.min()} in all pixels of all training images, so it "
                f"cannot be divided by its standard deviation: leave it out"
            )
    if config.patch_drop and not isinstance(model, VisionTransformer):
        raise ValueError(
            f"patch_drop is for the VisionTransformer of this course, which can leave patches "
            f"out; {type(model).__name__} cannot"
        )


def check_classes(model: nn.Module, train: ImageSet, test: ImageSet | None) -> None:
    """See that a network can learn the classes of `train`, and that `test` has the same.

    Raises:
        ValueError: a single class, or other classes than the network or `test` has.
    """
    if len(train.classes) < 2:
        raise ValueError(
            f"a network learns to tell classes apart, {train.name} has only "
            f"{', '.join(train.classes)}"
        )
    if isinstance(model, VisionTransformer) and model.config.num_classes != len(train.classes):
        raise ValueError(
            f"the network has num_classes={model.config.num_classes}, {train.name} has "
            f"{len(train.classes)} classes"
        )
    if test is not None and test.classes != train.classes:
        raise ValueError(
            f"{test.name} must have the classes of {train.name}, in the same order: "
            f"{', '.join(train.classes)}; got {', '.join(test.classes)}"
        )


# ---- One step ------------------------------------------------------------------------------------


def train_step(
    network: nn.Module,
    run: Run,
    images: Tensor,
    labels: Tensor,
    objective: Objective = cross_entropy,
) -> None:
    """Take one step of `run` on uint8 images (B, C, H, W) and their labels (B,)."""
    run.seed()  # what a step draws depends on no step before it
    pixels, targets = augment_batch(run, images, labels)
    visible = visible_patches(run, len(pixels))
    forward = network if visible is None else partial(network, visible=visible)
    with run.autocast():
        loss = objective(forward, pixels, targets)
    update(run, loss)


def augment_batch(run: Run, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Change uint8 images (B, C, H, W) at random, and normalise them; targets (B, classes)."""
    config, count, size = run.config, len(images), (images.shape[2], images.shape[3])
    if config.crop_padding or config.flip:
        draw = draw_crop_flip(count, config.crop_padding, config.flip, device=run.device)
        images = crop_flip(images, *draw)
    if config.trivial_augment and not run.clean:
        draw = draw_trivial_augment(count, config.trivial_augment, device=run.device)
        images = trivial_augment(images, draw)
    pixels = normalize(images, run.mean, run.std).to(run.dtype)
    targets = F.one_hot(labels, run.num_classes).to(run.dtype)
    if run.clean:
        return pixels, targets
    smoothing = config.label_smoothing
    targets = (1 - smoothing) * targets + smoothing / run.num_classes
    if config.erase:
        pixels = erase(pixels, draw_erase(count, size, config.erase, device=run.device))
    if config.mixup or config.cutmix:
        draw = draw_mix(count, size, config.mixup, config.cutmix, device=run.device)
        pixels, targets = mix(pixels, *draw), mix_targets(targets, *draw)
    return pixels, targets


def visible_patches(run: Run, count: int) -> Tensor | None:
    """Draw the patches that the network sees of each image: (B, V); None for all of them.

    A step takes about as much less time as it sees less (Liu et al. 2022, arXiv 2208.07220).
    """
    if not run.config.patch_drop or run.clean or not isinstance(run.model, VisionTransformer):
        return None
    patches = run.model.config.num_patches
    visible = max(round((1 - run.config.patch_drop) * patches), 1)
    return draw_order(count, patches, run.device)[:, :visible]


def update(run: Run, loss: Tensor) -> None:
    """Make one step of the optimizers against the gradient of `loss`."""
    config = run.config
    factor = lr_factor(run.step, run.total_steps, config.warmup)
    for optimizer in run.optimizers:
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = config.lr * factor * group.get("lr_scale", 1.0)
    run.scaler.scale(loss).backward()
    for optimizer in run.optimizers:
        run.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_norm)
    if not run.scaler.is_enabled() or norm.isfinite():  # an overflow has spoilt all gradients
        with run.autocast():  # for the products of Muon
            for optimizer in run.optimizers:
                run.scaler.step(optimizer)
    run.scaler.update()
    if run.average is not None and run.step >= config.warmup * run.total_steps:
        run.average.update_parameters(run.model)
    run.total_loss += loss.detach()
    run.step += 1


# ---- How long it takes ---------------------------------------------------------------------------


def fastest(
    model: nn.Module,
    train: ImageSet,
    config: TrainConfig,
    objective: Objective = cross_entropy,
    minutes: float | None = None,
) -> Compute:
    """Find out how a step of this training is computed fastest on this machine, and say so.

    On a CPU it tries steps on a part of a batch, in what `config` allows of float32 and bfloat16,
    fused and plain attention, more and fewer threads. That takes five seconds at most, and less
    than a twentieth of the training, which lasts for `minutes`, or all its epochs; a training that
    is too small or too short for a trial is computed in the usual way, as PyTorch does it. `model`
    is left as it is. Several processes try together and do what suits the first.

    Raises:
        ValueError: the config sets what this network cannot do.
    """
    check_training(model, train, None, config, objective)
    ways = ways_to_compute(model, config)
    work = sum(p.numel() for p in model.parameters()) * len(train) * config.epochs
    if len(ways) == 1 or (work < SMALL and not minutes):
        return ways[0]
    few = train[: config.batch_size]
    trial = copy.deepcopy(model)
    run = Run(trial, config, few)
    share = slice(rank(), None, world_size())
    images, labels = few.images[share], few.labels[share]

    def seconds(how: Compute, count: int) -> float:
        run.how = how
        with computing(trial, how):
            start = time.perf_counter()
            train_step(trial, run, images[:count], labels[:count], objective)
            return time.perf_counter() - start

    with torch.random.fork_rng([]):
        seconds(ways[0], 1)  # the first step sets things up
        count, step = 1, seconds(ways[0], 1)
        turn = 1 / (4 * len(ways))  # of the trial, for a step: slow ways are noticed in time
        while step < TRIAL * turn and count < len(images):
            count = min(2 * count, len(images))
            step = seconds(ways[0], count)
        steps = config.epochs * (len(train) // config.batch_size)
        lasts = 60 * minutes if minutes else steps * step * len(images) / count
        budget = min(TRIAL, lasts / 20)
        if not broadcast(int(budget >= 1)):
            return ways[0]
        count = max(int(count * min(budget * turn / step, 1)), 1)
        how, gain = fastest_way(ways, lambda way: seconds(way, count), budget)
    how = ways[broadcast(ways.index(how))]
    if how == ways[0]:
        say(f"A step is computed as usual, in {how}: none of {len(ways)} ways is clearly faster.")
    else:
        say(f"A step is computed in {how}: {gain:.1f} times as fast as in {ways[0]}.")
    return how


def epochs_within(
    minutes: float,
    model: nn.Module,
    train: ImageSet,
    test: ImageSet,
    config: TrainConfig,
    how: Compute | None = None,
) -> int:
    """Tell how many epochs of `config` fit into `minutes` on this machine, by trying a few batches.

    `model` is left as it is. Counts the measurements of the test accuracy, too. `how` a step is
    computed is measured first, see `fastest`, unless it is given. Several processes try together;
    each finds a slightly different number, see `broadcast`.

    Raises:
        ValueError: not even one epoch fits, or `minutes` is no number of them.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be above 0, got {minutes:g}")
    check_training(model, train, test, config)
    how = how or fastest(model, train, config, minutes=minutes)
    few = train[: config.batch_size]
    trial = copy.deepcopy(model)
    run = Run(trial, replace(config, epochs=100), few, how=how)
    share = slice(rank(), None, world_size())
    images, labels = few.images[share].to(run.device), few.labels[share].to(run.device)
    network, seconds = data_parallel(trial), []
    gpus = [run.device] if run.device.type == "cuda" else []
    with (
        compiled(trial, config.compile and bool(gpus)),
        computing(trial, how),
        torch.random.fork_rng(gpus),
    ):
        for step in [*range(10), *range(run.total_steps - 5, run.total_steps)]:
            run.step, start = step, time.perf_counter()
            train_step(network, run, images, labels)
            run.total_loss.item()  # waits for the device
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        evaluate(trial, test[:PROBE_IMAGES], run.mean, run.std)
        measuring = (time.perf_counter() - start) * len(test) / len(test[:PROBE_IMAGES])
    most, last = statistics.median(seconds[2:10]), statistics.median(seconds[10:])  # clean ones
    per_step = most + (last - most) * config.clean
    per_epoch = per_step * (len(train) // config.batch_size)
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
    shipped, _ = load_checkpoint(path, type(unwrapped(model)))
    result = evaluate(shipped, test, card.mean, card.std, batch_size)
    evaluation = {
        "data": test.name,
        "split": test.split,
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

"""A training run: all that changes while a network is trained, saved so that it can go on."""

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vit_tutorial.compute import Compute, ways_to_compute
from vit_tutorial.data import ImageSet, channel_stats, same_data
from vit_tutorial.distributed import rank, world_size
from vit_tutorial.files import atomic_write, companion, one_at_a_time
from vit_tutorial.hardware import load_plain, plain_state
from vit_tutorial.model import ViTConfig
from vit_tutorial.optimizers import make_optimizers
from vit_tutorial.progress import Progress, Row, logs, say
from vit_tutorial.provenance import processor
from vit_tutorial.recipes import TrainConfig

DATA = (
    "images",
    "classes",
    "mean",
    "std",
    "fingerprint",
    "test",
)  # what a run's subject says of them


class Run:
    """All that changes while a network is trained: what a saved run has to hold.

    The order of the images and all random draws are functions of the config's seed and the step,
    so the step is all that has to be saved of them.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        train: ImageSet,
        save_to: str | Path | None = None,
        how: Compute | None = None,
        guessing_loss: float = math.inf,
        test: ImageSet | None = None,
    ) -> None:
        self.model, self.config, self.guessing_loss = model, config, guessing_loss
        self.how = how or ways_to_compute(model, config)[0]
        self.save_to = None if save_to is None else Path(save_to)
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype
        # on the device, or normalising each batch would wait for the copy
        mean_std = (torch.tensor(v, device=self.device) for v in channel_stats(train.images))
        self.mean, self.std = mean_std
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.how.half is torch.float16)
        self.optimizers = make_optimizers(model, config)
        self.average = None
        if config.ema:
            decay = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(model, multi_avg_fn=decay, use_buffers=True)
        self.train, self.test = train, test
        self.num_images, self.classes = len(train), train.classes
        self.num_classes = len(train.classes)
        self.steps_per_epoch = len(train) // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.step, self.rows = 0, []
        wide = torch.promote_types(self.dtype, torch.float32)  # a sum in half precision stalls
        self.total_loss = torch.zeros((), device=self.device, dtype=wide)  # of the epoch
        self.started, self.saved = time.perf_counter(), -math.inf

    @property
    def epoch(self) -> int:
        """The epoch in which the next step is, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def offset(self) -> int:
        """Where the next batch begins in the epoch's order."""
        return self.step % self.steps_per_epoch * self.config.batch_size

    @property
    def clean(self) -> bool:
        """Whether the next step is one of those at the end that change images less."""
        return self.step >= (1 - self.config.clean) * self.total_steps

    @property
    def seconds(self) -> float:
        """How long it has been training, pauses left out."""
        return time.perf_counter() - self.started

    @cached_property
    def fingerprints(self) -> dict[str, Any]:
        """What tells the images to train on, and those to test with, from any others."""
        test = None if self.test is None else self.test.fingerprint()
        return {"fingerprint": self.train.fingerprint(), "test": test}

    def subject(self) -> dict[str, Any]:
        """Say what is trained on what; a resumed run must agree, as weights of a shape may not."""
        config = getattr(self.model, "config", None)
        network = asdict(config) if isinstance(config, ViTConfig) else {}
        return {
            **{f"the network's {name}": value for name, value in network.items()},
            "images": self.num_images,
            "classes": self.classes,
            "mean": [round(value, 3) for value in self.mean.tolist()],
            "std": [round(value, 3) for value in self.std.tolist()],
            **self.fingerprints,
        }

    def order(self) -> Tensor:
        """Shuffle the images for this epoch: (n,) on the device."""
        seed = mixed_seed(self.config.seed, self.epoch)
        order = torch.randperm(self.num_images, generator=torch.Generator().manual_seed(seed))
        return order.to(self.device)

    def seed(self) -> None:
        """Seed what this step draws in this process."""
        seed = mixed_seed(self.config.seed, self.epoch, self.step, rank())
        if self.device.type == "cpu":  # leaves GPUs alone, and takes no millisecond to tell them
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def autocast(self) -> torch.autocast:
        """Multiply matrices in the precision of this run while the context lasts."""
        half = self.how.half
        return torch.autocast(self.device.type, half, enabled=half is not None)

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch that has just ended, over all processes.

        Raises:
            FloatingPointError: see `check_loss`.
        """
        if world_size() > 1:
            dist.all_reduce(self.total_loss)
        loss = self.total_loss.item() / self.steps_per_epoch / world_size()
        self.check_loss(loss)
        return loss

    def check_loss(self, loss: float) -> None:
        """See that there is sense in going on.

        Raises:
            FloatingPointError: the loss is no number, or far worse than that of guessing.
        """
        if not loss < 3 * self.guessing_loss:  # NaN is not, either
            guessing = self.guessing_loss
            compared = f", that of guessing is {guessing:.2f}" if guessing < math.inf else ""
            raise FloatingPointError(
                f"the loss is {loss:.4g} in epoch {len(self.rows) + 1}{compared}: try a lower lr "
                f"than {self.config.lr:g} or a longer warmup than {self.config.warmup:g}"
            )

    def end_epoch(self) -> Row:
        """Return the row of the epoch that has just ended, and keep it."""
        before = self.rows[-1]["seconds"] if self.rows else 0.0
        images = self.steps_per_epoch * self.config.batch_size
        row = {
            "epoch": self.epoch,
            "loss": self.mean_loss(),
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "images_per_second": images / (self.seconds - before),
            "seconds": self.seconds,
        }
        self.total_loss.zero_()
        self.rows.append(row)
        return row

    def result(self) -> nn.Module:
        """Return the network to be used: with averaged weights, if there is an average."""
        if self.average is None or not self.average.n_averaged:
            return self.model
        return self.average.module

    def finish(self) -> None:
        """Give the model the weights of the result."""
        self.model.load_state_dict(self.result().state_dict())

    def progress(self) -> Progress:
        """Start the bar, and the logs of a run that is kept; in the first process only."""
        total, done = (steps * self.config.batch_size for steps in (self.total_steps, self.step))
        if self.save_to is None or rank() > 0:
            return Progress(total, done, hidden=rank() > 0)
        return Progress(total, done, logs(self.save_to, asdict(self.config), self.rows))

    def since_saved(self) -> float:
        """Return how many seconds ago the run was saved."""
        return time.perf_counter() - self.saved

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep other processes from training into the same run while the context lasts.

        Raises:
            ValueError: one does so already.
            OSError: the run cannot be written.
        """
        if self.save_to is None or rank() > 0:
            yield
            return
        path = state_path(self.save_to)
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(one_at_a_time(path, wait=False))
            except OSError as error:
                raise OSError(f"the run cannot be written to {path}: {error.strerror}") from error
            yield

    def save(self, must: bool = False) -> None:
        """Write the run to FILE.state, if it is kept, beside and then renamed.

        Where that fails the training goes on with a warning, unless it `must` succeed.

        Raises:
            OSError: it must, and cannot.
            FloatingPointError: there is no sense in it, see `check_loss`.
        """
        self.saved = time.perf_counter()
        if self.save_to is None or rank() > 0:
            return
        if self.offset:  # in an epoch: a sound run must not be overwritten by a spoilt one
            self.check_loss(self.total_loss.item() / (self.step % self.steps_per_epoch))
        state = {
            "config": asdict(self.config),
            "subject": self.subject(),
            "how": asdict(self.how),
            "device": self.device.type,
            "processor": processor(),
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "total_loss": self.total_loss,
            "rows": self.rows,
            "model": plain_state(self.model),
            "average": self.average and self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
        }
        path = state_path(self.save_to)
        try:
            with atomic_write(path) as beside, beside.open("wb") as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch.save has one that hides the system's
            system = error if isinstance(error, OSError) else error.__context__
            reason = getattr(system, "strerror", None) or str(error).splitlines()[0]
            message = f"the run cannot be written to {path}: {reason}"
            if must:
                raise OSError(message) from error
            warnings.warn(
                f"{message}; training goes on, what was saved before is still there", stacklevel=3
            )

    def _require_same(self, state: dict[str, Any], path: Path) -> None:
        """See that a saved run is of these data, this network and this config."""
        theirs, ours = state.get("subject", {}), self.subject()
        if other := other_data(theirs, ours):
            raise ValueError(
                f"the run in {path} was begun with other data: {'; '.join(other)}. Resume it with "
                f"the data that it was begun with, or remove that file to start anew"
            )
        if "fingerprint" not in theirs:
            say(f"Data unknown: {path} does not say which images its run was begun with.")
        # what the state lacks has been added since
        theirs = {**ours, **asdict(TrainConfig(epochs=1)), **theirs, **state["config"]}
        ours |= asdict(self.config)
        different = [name for name in ours if name not in DATA and ours[name] != theirs[name]]
        if different:
            raise ValueError(
                f"the run in {path} was started with "
                + ", ".join(f"{name}={theirs[name]}" for name in different)
                + ", not with "
                + ", ".join(f"{name}={ours[name]}" for name in different)
            )

    def load(self) -> None:
        """Take over a saved run.

        Raises:
            ValueError: it was made with another config, for another network or on other images.
        """
        if self.save_to is None:
            raise ValueError("resume needs save_to, the name of the run to go on with")
        state = read_state(self.save_to)
        self._require_same(state, state_path(self.save_to))
        try:
            load_plain(self.model, state["model"])
        except RuntimeError as error:
            raise ValueError(
                f"the run in {state_path(self.save_to)} is of another network: "
                f"{str(error).splitlines()[0]}"
            ) from error
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:  # empty where it was not in float16
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.rows = state["step"], state["rows"]
        self.total_loss.copy_(state["total_loss"])
        self.started = time.perf_counter() - state["seconds"]


def other_data(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Say in what the data of one `Run.subject` differ from those of another; [] if in nothing.

    What `theirs`, which may be of an older run, does not hold is taken to be the same.
    """
    theirs = {**ours, **theirs}
    before, now = theirs["fingerprint"], ours["fingerprint"]
    other = []
    if theirs["images"] != ours["images"]:
        other.append(f"it had {theirs['images']} images, now there are {ours['images']}")
    if tuple(theirs["classes"]) != tuple(ours["classes"]):
        names = [", ".join(subject["classes"]) for subject in (theirs, ours)]
        other.append(f"its classes were {names[0]}, now they are {names[1]}")
    statistics = any(theirs[name] != ours[name] for name in ("mean", "std"))
    if statistics or before["pixels"] != now["pixels"]:
        other.append("the pixels of the images, or their order, differ")
    if before["labels"] != now["labels"] and theirs["images"] == ours["images"]:
        other.append("the labels of the images differ")
    tests = theirs["test"], ours["test"]
    if all(tests) and not same_data(*tests):
        other.append("the images to test with differ")
    return other


def state_path(save_to: str | Path) -> Path:
    """Return the file in which the run called `save_to` is kept."""
    return companion(save_to, ".state")


def read_state(save_to: str | Path) -> dict[str, Any]:
    """Read a saved run; its "config" says how it was started, its "step" how far it is.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = state_path(save_to)
    if not path.exists():
        raise ValueError(f"there is no run to go on with: {path} does not exist")
    try:
        with warnings.catch_warnings():  # of what makes it no run
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # what else a pickle would do is not done
        raise ValueError(
            f"{path} is not a saved run: it is damaged, or holds more than numbers and is not "
            f"opened, because it could run any program"
        ) from error
    except Exception as error:  # a damaged file can fail in many ways
        raise ValueError(f"{path} is not a saved run: {str(error).splitlines()[0]}") from error
    if not (isinstance(state, dict) and {"config", "step", "total_steps", "model"} <= state.keys()):
        raise ValueError(f"{path} is not a saved run: it holds something else")
    return state


def saved_compute(save_to: str | Path | None, model: nn.Module) -> Compute | None:
    """Return how a saved run was computed, for the same bits; None on another processor.

    Raises:
        ValueError: there is no run, or it cannot be read.
    """
    state = {} if save_to is None else read_state(save_to)
    ours = [next(model.parameters()).device.type, processor()]
    if "how" in state and [state["device"], state["processor"]] == ours:
        return Compute(**state["how"])
    if "how" in state:
        say("The run was begun on another processor: what is fastest here is measured again.")
    return None


def refuse_unfinished(save_to: str | Path | None) -> None:
    """See that no run which could go on is overwritten.

    Raises:
        ValueError: there is one.
    """
    # the first process only: by the time another one looks, the first may have begun to write
    if save_to is None or rank() > 0 or not state_path(save_to).exists():
        return
    state = read_state(save_to)
    if 0 < state["step"] < state["total_steps"]:
        raise ValueError(
            f"{state_path(save_to)} holds a run that is not finished (step {state['step']} of "
            f"{state['total_steps']}): resume it, or remove the file to start anew"
        )


def mixed_seed(*parts: int) -> int:
    """Make one seed of several numbers, so that no two random streams are alike."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def stop_signals() -> Generator[Callable[[], bool]]:
    """Let Ctrl-C and a request to end wait for the end of a step; a second Ctrl-C does not wait.

    Gives a function that tells whether one was received. With several processes, and outside the
    main thread, they work as ever.
    """
    if world_size() > 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    # one that a script started in its background ignores Ctrl-C, which is meant for others
    handled = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, request) for number in handled}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

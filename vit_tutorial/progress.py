"""What a training run shows and writes while it goes: a bar, a live curve, and logs."""

import csv
import io
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from vit_tutorial.distributed import rank
from vit_tutorial.files import atomic_write, companion

Row = dict[str, float]
COLUMNS = ("epoch", "loss", "test_accuracy", "lr", "images_per_second", "seconds")


class Progress:
    """A bar with loss, accuracy, images per second and the time left; and the logs of `logs`."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        log: Callable[[Row], None] | None = None,
        hidden: bool = False,
    ) -> None:
        self.bar = tqdm(
            total=total,
            initial=done,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=1.0,  # seconds: a log file stays readable
            disable=hidden,
        )
        self.log = log
        self.shown: dict[str, str] = {}

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self, images: int) -> None:
        """Count the images of one batch."""
        self.bar.update(images)

    def epoch(self, row: Row) -> None:
        """Show what an epoch brought, and log it."""
        self.shown["loss"] = f"{row['loss']:.3f}"
        if "test_accuracy" in row:
            self.shown["test"] = f"{row['test_accuracy']:.1f}%"
        self.bar.set_postfix(self.shown, refresh=False)  # epochs may take milliseconds
        if self.log is not None:
            self.log(row)


def say(message: str) -> None:
    """Print a line; of several processes only the first does."""
    if rank() == 0:
        print(message, flush=True)


def logs(save_to: Path, config: dict[str, Any], rows: Sequence[Row]) -> Callable[[Row], None]:
    """Return what logs a row: to FILE.csv, and to TensorBoard and Weights & Biases if installed.

    TensorBoard reads the folder FILE.tensorboard. Weights & Biases writes to disk only, unless
    WANDB_MODE says otherwise; `wandb sync` sends it. `rows` are those of a run that goes on.
    """
    known = list(rows)
    loggers: list[Callable[[Row], None]] = []
    if find_spec("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(companion(save_to, ".tensorboard")))
        loggers.append(lambda row: _to_tensorboard(writer, row))
    if find_spec("wandb"):
        import wandb  # ty: ignore[import-not-found]

        wandb_run = wandb.init(
            project="vit-tutorial",
            name=save_to.stem,
            config=config,
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        loggers.append(wandb_run.log)

    def log(row: Row) -> None:
        known.append(row)
        try:
            write_csv(companion(save_to, ".csv"), known)
        except OSError as error:  # a full disk is no reason to end a training
            warnings.warn(f"the log cannot be written: {error}", stacklevel=2)
        for logger in loggers:
            logger(row)

    return log


def _to_tensorboard(writer: Any, row: Row) -> None:
    for name in COLUMNS[1:]:
        if name in row:
            writer.add_scalar(name, row[name], row["epoch"])
    writer.flush()


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows of a run, beside and then renamed; empty where a value was not measured."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8")


class LiveCurve:
    """Draw the curves of a run in a notebook, and draw them again after every epoch.

    Give it to `fit` as `on_epoch`. With `chance`, the loss of guessing is marked: ln C. `measured`
    is written over the accuracy, as in "Validation accuracy".
    """

    def __init__(self, chance: float | None = None, measured: str = "Test accuracy") -> None:
        self.rows: list[Row] = []
        self.chance, self.measured = chance, measured
        self.display: Any = None

    def __call__(self, row: Row) -> None:
        """Take one more row, and draw."""
        from IPython.display import display

        from vit_tutorial.plots import training_curve

        self.rows.append(row)
        figure = training_curve(self.rows, chance=self.chance, measured=self.measured)
        if self.display is None:
            self.display = display(figure, display_id=True)
        else:
            self.display.update(figure)

"""What a run shows and writes: the bar, the CSV, TensorBoard, Weights & Biases, the live curve."""

import csv
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
from test_train import QUICK, new_model, stripes

from vit_tutorial import LiveCurve, fit, progress
from vit_tutorial.progress import Progress, logs, write_csv

ROW = {"epoch": 1, "loss": 0.5, "lr": 1e-3, "images_per_second": 10.0, "seconds": 6.4}


def test_the_bar_counts_images_and_shows_loss_and_accuracy(capsys):
    with Progress(total=200, done=100) as bar:
        bar.step(50)
        bar.epoch(ROW)
        bar.epoch({**ROW, "test_accuracy": 61.25})
        bar.epoch({**ROW, "loss": 0.25})  # not measured: the last accuracy stays
        assert bar.bar.n == 150
    shown = "".join(capsys.readouterr())
    assert "150/200" in shown
    assert "img/s" in shown
    assert "loss=0.250, test=61.2%" in shown


def test_the_end_of_an_epoch_draws_nothing_before_its_time(monkeypatch):
    with Progress(total=300) as bar:
        drawn = []
        monkeypatch.setattr(bar.bar, "display", lambda *_, **__: drawn.append(bar.bar.postfix))
        bar.bar.mininterval = math.inf  # the next drawing is not due
        for _ in range(3):
            bar.step(100)
            bar.epoch(ROW)
        assert drawn == []
    assert drawn == ["loss=0.500"], "the end is drawn"


def test_the_csv_has_a_line_for_each_epoch_also_after_going_on(tmp_path):
    path = tmp_path / "run.csv"
    log = logs(tmp_path / "run.safetensors", {}, [ROW])  # one epoch was there before
    log({**ROW, "epoch": 2, "test_accuracy": 50.0})
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["test_accuracy"] for row in rows] == ["", "50.0"]
    assert not list(tmp_path.glob("*.partial"))


def test_a_csv_that_cannot_be_written_is_a_warning(tmp_path):
    log = logs(tmp_path / "gone" / "run", {}, [])
    with pytest.warns(UserWarning, match="the log cannot be written"):
        log(ROW)


def test_numbers_in_the_csv_are_those_of_the_run(tmp_path):
    rows = fit(new_model(), stripes(), stripes(16), QUICK, save_to=tmp_path / "run")
    with (tmp_path / "run.csv").open() as file:
        read = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert read == rows


def test_tensorboard_and_weights_and_biases_get_every_row_if_installed(tmp_path, monkeypatch):
    board, started, logged = [], [], []

    class SummaryWriter:
        def __init__(self, folder):
            board.append(folder)

        def add_scalar(self, name, value, step):
            board.append((name, value, step))

        def flush(self):
            board.append("flushed")

    tensorboard = ModuleType("torch.utils.tensorboard")
    tensorboard.SummaryWriter = SummaryWriter
    wandb = ModuleType("wandb")
    wandb.init = lambda **how: started.append(how) or SimpleNamespace(log=logged.append)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(progress, "find_spec", lambda name: name)
    monkeypatch.delenv("WANDB_MODE", raising=False)

    logs(tmp_path / "run.safetensors", {"lr": 0.1}, [])(ROW)
    assert board[0] == str(tmp_path / "run.tensorboard")
    assert ("loss", 0.5, 1) in board
    assert not any(isinstance(entry, tuple) and entry[0] == "test_accuracy" for entry in board)
    assert board[-1] == "flushed"
    assert started[0]["mode"] == "offline"  # nothing leaves the machine unasked
    assert started[0]["config"] == {"lr": 0.1}
    assert logged == [ROW]


def test_without_them_nothing_is_asked_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    logs(tmp_path / "run", {}, [])(ROW)


def test_csv_of_no_rows_has_a_header(tmp_path):
    write_csv(tmp_path / "empty.csv", [])
    assert (tmp_path / "empty.csv").read_text().startswith("epoch,loss,test_accuracy")


def test_the_live_curve_is_drawn_once_and_then_updated(monkeypatch):
    drawn, updated = [], []
    handle = SimpleNamespace(update=lambda figure: updated.append(figure))
    monkeypatch.setattr(
        "IPython.display.display", lambda figure, display_id: drawn.append(figure) or handle
    )
    curve = LiveCurve(chance=0.69, measured="Validation accuracy")
    rows = fit(new_model(), stripes(), stripes(16), QUICK, on_epoch=curve)
    assert (len(drawn), len(updated)) == (1, 1)
    assert drawn[0].axes[1].get_title(loc="left") == "Validation accuracy"
    assert curve.rows == rows

"""A training that is stopped, killed, starved of memory or disk, or shared by two processes."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomize
from test_train import QUICK, TINY, new_model, stripes
from torch import nn
from torch.testing import assert_close
from tqdm import tqdm

from vit_tutorial import VisionTransformer, cli, fit
from vit_tutorial.progress import Progress
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import read_state, state_path

# everything that draws numbers or keeps a state of its own
EVERYTHING = TrainConfig(
    epochs=3,
    batch_size=16,
    lr=1e-2,
    crop_padding=2,
    flip=True,
    trivial_augment=0.8,
    erase=0.3,
    mixup=0.3,
    cutmix=0.3,
    patch_drop=0.4,
    clean=0.2,
    ema=0.7,
)


class Killed(Exception):
    """What a test raises in the place of a power cut."""


def tiny_model(seed: int = 0) -> VisionTransformer:
    return new_model(replace(TINY, drop_path=0.3), seed)


def assert_same_bits(model: nn.Module, expected: nn.Module) -> None:
    assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


@pytest.fixture
def save_always(monkeypatch):
    """Save after every step, not once a minute."""
    monkeypatch.setattr("vit_tutorial.train.SAVE_EVERY", 0.0)


# ---- going on ----


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", [1, 3, 4, 6, 11])
def test_a_run_killed_after_any_step_ends_as_if_it_had_not_been(
    step, optimizer, save_always, tmp_path, monkeypatch
):
    config = replace(EVERYTHING, optimizer=optimizer)
    whole, train, test = tiny_model(), stripes(70), stripes(20, seed=1)
    rows = fit(whole, train, test, config)

    steps = []
    original = Progress.step

    def dies(self, images):
        original(self, images)
        steps.append(images)
        if len(steps) == step + 1:  # the step before has been saved
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", dies)
        with pytest.raises(Killed):
            fit(tiny_model(), train, test, config, save_to=tmp_path / "run")
    assert read_state(tmp_path / "run")["step"] == step

    torch.manual_seed(99)  # chance elsewhere, and other weights, do not matter
    resumed = tiny_model(seed=5)
    again = fit(resumed, train, test, config, save_to=tmp_path / "run", resume=True)
    assert_same_bits(resumed, whole)
    assert without_times(again) == without_times(rows)
    assert [row["epoch"] for row in again] == [1, 2, 3]
    assert sorted(row["seconds"] for row in again) == [row["seconds"] for row in again]


def test_a_finished_run_is_resumed_without_any_work(tmp_path, monkeypatch):
    model = tiny_model()
    rows = fit(model, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run")
    monkeypatch.setattr("vit_tutorial.train.train_step", None)
    again = tiny_model(seed=3)
    assert fit(
        again, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run", resume=True
    ) == (rows)
    assert_same_bits(again, model)


# Saves after every step, of one optimizer or two; says that it is well on its way; never ends.
KILLED_FOR_REAL = """
import sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from vit_tutorial import cli, train

steps = []

def count(*_):
    steps.append(1)
    if len(steps) == 20:
        print("on its way", flush=True)
    if len(steps) == 40:
        sys.stdin.read()

register_optimizer_step_post_hook(count)
train.SAVE_EVERY = 0.0
cli.main(sys.argv[1:])
"""


def test_a_process_that_is_killed_goes_on_with_the_same_command(start, tmp_path, capsys):
    """SIGKILL, in the middle of whatever it does, then --resume: the same file as in one go."""
    command = ["train", "--recipe", "digits", "--data", "digits", "--device", "cpu"]
    # the same bits need the same way, and several processes may find different ones
    command += ["--precision", "float32", "--attention", "fused", "--threads", "1"]
    out = {name: ["--out", str(tmp_path / f"{name}.safetensors")] for name in ("killed", "whole")}

    killed = start(
        *(sys.executable, "-c", KILLED_FOR_REAL, *command, *out["killed"], "--epochs", "2"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert "on its way\n" in iter(killed.stdout.readline, "")
    killed.kill()
    killed.wait()
    state = tmp_path / "killed.state"
    assert 5 < read_state(state)["step"] < 44
    assert not (tmp_path / "killed.safetensors").exists()

    assert cli.main([*command, *out["killed"], "--resume"]) == 0
    assert cli.main([*command, *out["whole"], "--epochs", "2"]) == 0
    capsys.readouterr()
    first, second = (Path(path).read_bytes() for _, path in out.values())
    assert first == second
    assert not state.exists()
    lines = (tmp_path / "killed.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2"]


# ---- being asked to stop ----


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_waits_for_the_step_and_saves_it(number, tmp_path):
    """The signal comes in the middle of a step; the state on disk is that of a whole step."""
    whole, model = tiny_model(), tiny_model()
    fit(whole, stripes(), stripes(16), EVERYTHING)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), number)

    handle = model.blocks[0].mlp.register_forward_hook(interrupt)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        fit(model, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run")
    handle.remove()
    assert signal.getsignal(number) is before
    assert 1 <= read_state(tmp_path / "run")["step"] < 12
    fit(model, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run", resume=True)
    assert_same_bits(model, whole)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_does_not_wait(tmp_path):
    model = tiny_model()

    def impatient(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        raise AssertionError("still here")

    model.blocks[0].register_forward_hook(impatient)
    with pytest.raises(KeyboardInterrupt):
        fit(model, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run")
    assert read_state(tmp_path / "run")["step"] == 0  # what was there is still there


@pytest.mark.usefixtures("ctrl_c")
def test_a_training_in_the_background_of_a_script_leaves_ctrl_c_to_others():
    """A shell starts it so that it ignores Ctrl-C, which is meant for what is in front."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rows = []

    def interrupt(row):
        rows.append(row)
        os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        fit(tiny_model(), stripes(), stripes(16), EVERYTHING, on_epoch=interrupt)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


# ---- what does not fit together ----


def test_what_does_not_fit_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_tutorial.train.SAVE_EVERY", 0.0)
    place, train, test = tmp_path / "run", stripes(), stripes(16)

    def go(model=None, config=EVERYTHING, **more):
        return fit(model or tiny_model(), train, test, config, **more)

    with pytest.raises(ValueError, match=r"no run to go on with: .*run.state does not exist"):
        go(save_to=place, resume=True)
    with pytest.raises(ValueError, match="resume needs save_to"):
        go(resume=True)

    with pytest.raises(Killed):
        go(save_to=place, on_epoch=lambda row: (_ for _ in ()).throw(Killed))
    with pytest.raises(ValueError, match=r"run.state holds a run that is not finished"):
        go(save_to=place)
    with pytest.raises(ValueError, match=r"started with lr=0.01, ema=0.7, not with lr=0.1, ema=0"):
        go(save_to=place, resume=True, config=replace(EVERYTHING, lr=0.1, ema=0.0))
    with pytest.raises(ValueError, match=r"the network's embed_dim=8, .* not with .*embed_dim=16"):
        go(new_model(replace(TINY, embed_dim=16)), save_to=place, resume=True)
    state_path(place).write_bytes(b"not a run at all")
    with pytest.raises(ValueError, match=r"run.state is not a saved run"):
        go(save_to=place, resume=True)
    with pytest.raises(ValueError, match=r"run.state is not a saved run"):
        go(save_to=place)


def test_a_poisoned_run_never_replaces_a_sound_one(save_always, tmp_path):
    model, calls = tiny_model(), []

    def poison(*_):
        calls.append(1)
        if len(calls) == 3:
            model.head.weight.data.fill_(float("nan"))

    model.register_forward_pre_hook(poison)
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1"):
        fit(model, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run")
    state = read_state(tmp_path / "run")
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


# ---- disk and memory ----


def test_a_place_that_cannot_be_written_is_found_out_before_the_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = tiny_model()
    model.register_forward_hook(lambda *_: pytest.fail("it has begun to train"))
    with pytest.raises(OSError, match=r"the run cannot be written to .*run.state"):
        fit(model, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "file" / "run")


def test_a_disk_that_fills_up_stops_nothing_and_spoils_nothing(save_always, tmp_path, monkeypatch):
    """From the first epoch on, no file may grow beyond 100 bytes: every write fails for real."""
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    expected = tiny_model()
    fit(expected, stripes(), stripes(16), EVERYTHING)
    # what the bar writes goes to a file in a test
    monkeypatch.setattr("vit_tutorial.progress.tqdm", partial(tqdm, file=io.StringIO()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = tiny_model()

    def fill_the_disk(row):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    try:
        with pytest.warns(UserWarning, match=r"cannot be written") as warned:
            fit(
                model,
                stripes(),
                stripes(16),
                EVERYTHING,
                save_to=tmp_path / "run",
                on_epoch=fill_the_disk,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = " ".join(str(warning.message) for warning in warned)
    assert "training goes on, what was saved before is still there" in said
    assert_same_bits(model, expected)
    assert read_state(tmp_path / "run")["step"] == 3  # the last one before
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == []
    resumed = tiny_model(seed=4)
    fit(resumed, stripes(), stripes(16), EVERYTHING, save_to=tmp_path / "run", resume=True)
    assert_same_bits(resumed, expected)


class Greedy(nn.Module):
    """Takes the memory of a device that holds `room` images."""

    def __init__(self, room: int, error: RuntimeError) -> None:
        super().__init__()
        self.layer, self.room, self.error = nn.Linear(64, 2), room, error

    def forward(self, images):
        if len(images) > self.room:
            raise self.error
        return self.layer(images.flatten(1))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["GPU", "CPU"],
)
def test_a_batch_too_large_for_the_memory_says_which_one_fits(error):
    train = stripes()
    config = replace(QUICK, batch_size=64)
    with pytest.raises(MemoryError, match=r"batch of 64 images .* memory of cpu; 16 do"):
        fit(Greedy(20, error), train, stripes(4), config)
    with pytest.raises(MemoryError, match="not even one image does"):
        fit(Greedy(0, error), train, stripes(4), config)


def test_other_errors_come_through_as_they_are():
    with pytest.raises(RuntimeError, match="something else"):
        fit(Greedy(0, RuntimeError("something else")), stripes(), stripes(4), QUICK)


# ---- several processes ----

TWO_PROCESSES = """
import sys
sys.path.insert(0, {tests!r})
import torch
from test_run import in_parallel_model, PARALLEL
from test_train import stripes
from vit_tutorial import distributed, fit

with distributed.process_group("cpu"):
    sevens = distributed.broadcast(7 + distributed.rank())
    model = in_parallel_model()
    rows = fit(model, stripes(70), stripes(16), PARALLEL, save_to={out!r} + "/run")
    torch.save((model.state_dict(), rows, sevens), {out!r} + f"/rank{{distributed.rank()}}.pt")
"""

PARALLEL = TrainConfig(epochs=3, batch_size=16, lr=1e-2, ema=0.7)


def in_parallel_model() -> nn.Module:
    return randomize(new_model()).train()


def test_two_processes_train_as_one_with_the_same_batch(start, tmp_path):
    """By torchrun, gloo, float64: equal weights; each process took half of every batch."""
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parent)
    script.write_text(TWO_PROCESSES.format(tests=tests, out=str(tmp_path)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    both = start(*torchrun, script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    problems = both.communicate()[1]
    assert both.returncode == 0, problems
    alone = in_parallel_model()
    rows = fit(alone, stripes(70), stripes(16), PARALLEL)
    for rank in (0, 1):
        state, theirs, sevens = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        assert sevens == 7  # what the first had
        assert_close(state, alone.state_dict(), rtol=0, atol=1e-6)
        assert_close([r["loss"] for r in theirs], [r["loss"] for r in rows], rtol=0, atol=1e-6)
        assert [("test_accuracy" in row) for row in theirs] == [rank == 0] * 3
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 4


def test_processes_that_cannot_share_a_batch_are_refused(monkeypatch):
    monkeypatch.setattr("vit_tutorial.train.world_size", lambda: 3)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 16 evenly"):
        fit(new_model(), stripes(), stripes(16), QUICK)


# ---- what a saved run holds ----


def test_numbers_of_numpy_can_be_read_back(tmp_path):
    config = replace(QUICK, lr=np.logspace(-3, -2, 2)[0], seed=np.int64(3), epochs=np.int64(2))
    rows = fit(new_model(), stripes(), None, config, save_to=tmp_path / "run")
    state = read_state(tmp_path / "run")
    assert state["rows"] == rows
    assert [type(state["config"][name]) for name in ("lr", "seed", "epochs")] == [float, int, int]


def test_names_with_a_dot_are_different_runs(tmp_path):
    for name in ("lr0.01", "lr0.02", "vit.v1.safetensors"):
        fit(new_model(), stripes(), None, QUICK, save_to=tmp_path / name)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names >= {f"{n}.{s}" for n in ("lr0.01", "lr0.02", "vit.v1") for s in ("state", "csv")}


def resumed(tmp_path, train, model=None, test=None):
    """Go on with the run in `tmp_path`; return its rows."""
    model = model or new_model()
    return fit(model, train, test, QUICK, save_to=tmp_path / "run", resume=True)


def test_another_network_is_noticed_though_the_shapes_of_all_weights_are_the_same(tmp_path):
    tiny = replace(TINY, num_heads=2)
    fit(VisionTransformer(tiny), stripes(), None, QUICK, save_to=tmp_path / "run")
    other = VisionTransformer(replace(tiny, num_heads=1))
    with pytest.raises(ValueError, match=r"started with the network's num_heads=2, not with .*=1"):
        resumed(tmp_path, stripes(), other)


def swapped(images: torch.Tensor) -> torch.Tensor:
    """The first image and the last one in each other's place."""
    return torch.cat([images[-1:], images[1:-1], images[:1]])


PIXELS = "the pixels of the images, or their order, differ"
OTHER_DATA = {
    "images removed": (lambda s: s[:48], "it had 64 images, now there are 48"),
    "images added": (lambda s: s[torch.arange(70) % 64], "it had 64 images, now there are 70"),
    "classes renamed": (
        lambda s: replace(s, classes=("left", "right")),
        "its classes were lying, standing, now they are left, right",
    ),
    "all darker": (lambda s: replace(s, images=s.images // 2), PIXELS),
    "one image": (lambda s: replace(s, images=torch.cat([s.images[1:2], s.images[1:]])), PIXELS),
    "another order": (lambda s: replace(s, images=swapped(s.images)), PIXELS),
    "labels": (lambda s: replace(s, labels=1 - s.labels), "the labels of the images differ"),
}


@pytest.mark.parametrize("kind", OTHER_DATA)
def test_a_run_of_other_data_is_refused_and_what_differs_is_said(kind, tmp_path):
    change, sentence = OTHER_DATA[kind]
    train = stripes()
    fit(new_model(), train, None, QUICK, save_to=tmp_path / "run")
    before = state_path(tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=r"begun with other data: .*remove that file") as refused:
        resumed(tmp_path, change(train))
    assert sentence in str(refused.value)
    assert state_path(tmp_path / "run").read_bytes() == before
    assert len(resumed(tmp_path, stripes())) == QUICK.epochs, "the same data, loaded again"


def test_a_run_goes_on_with_the_test_images_that_it_was_measured_on(tmp_path):
    train, test = stripes(), stripes(16)
    fit(new_model(), train, test, QUICK, save_to=tmp_path / "run")
    other = replace(test, images=255 - test.images)
    with pytest.raises(ValueError, match="begun with other data: the images to test with differ"):
        fit(new_model(), train, other, QUICK, save_to=tmp_path / "run", resume=True)
    for same in (None, stripes(16)):
        fit(new_model(), train, same, QUICK, save_to=tmp_path / "run", resume=True)


def test_a_wrapped_network_and_the_plain_one_go_on_with_each_others_runs(tmp_path):
    fit(nn.DataParallel(new_model()), stripes(), None, QUICK, save_to=tmp_path / "run")
    assert "head.bias" in read_state(tmp_path / "run")["model"]
    for model in (new_model(), nn.DataParallel(new_model())):
        assert len(resumed(tmp_path, stripes(), model)) == QUICK.epochs


def test_a_run_from_before_there_were_fingerprints_goes_on_and_says_so(tmp_path, capsys):
    fit(new_model(), stripes(), None, QUICK, save_to=tmp_path / "run")
    state = read_state(tmp_path / "run")
    del state["subject"]["fingerprint"]
    torch.save(state, state_path(tmp_path / "run"))
    capsys.readouterr()
    assert len(resumed(tmp_path, stripes())) == QUICK.epochs
    assert "Data unknown: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="it had 64 images, now there are 48"):
        resumed(tmp_path, stripes(48))
    del state["subject"]
    torch.save(state, state_path(tmp_path / "run"))
    assert len(resumed(tmp_path, stripes())) == QUICK.epochs


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from vit_tutorial.files import one_at_a_time

with one_at_a_time(Path(sys.argv[1])):
    print("it trains", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_into_one_run(start, tmp_path):
    other = start(
        *(sys.executable, "-c", ANOTHER_PROCESS, str(tmp_path / "run.state")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == "it trains\n"
    with pytest.raises(ValueError, match=r"another process writes .*run\.state just now"):
        fit(new_model(), stripes(), None, QUICK, save_to=tmp_path / "run")
    assert not (tmp_path / "run.state").exists()
    other.kill()
    other.wait()
    fit(new_model(), stripes(), None, QUICK, save_to=tmp_path / "run")
    assert not list(tmp_path.glob("*.lock"))


class Program:
    """What a pickle may hold: a call of anything."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it was run')",)


def test_a_file_that_is_no_run_is_refused_and_runs_nothing(tmp_path):
    for content, sentence in (
        (Program(), "holds more than numbers and is not opened"),
        ({"head.bias": torch.zeros(2)}, "it holds something else"),
        ([1], "it holds something else"),
    ):
        torch.save(content, tmp_path / "run.state")
        with pytest.raises(ValueError, match=rf"run\.state is not a saved run: .*{sentence}"):
            fit(new_model(), stripes(), None, QUICK, save_to=tmp_path / "run")


def test_a_run_without_a_step_is_nothing_to_lose(tmp_path):
    broken = VisionTransformer(replace(TINY, img_size=16))
    with pytest.raises(ValueError, match="expected images of shape"):
        fit(broken, stripes(), None, QUICK, save_to=tmp_path / "run")
    fit(new_model(), stripes(), None, QUICK, save_to=tmp_path / "run")


def test_the_loss_of_half_a_precision_is_summed_in_float32():
    config = replace(QUICK, batch_size=1, lr=1e-9, epochs=1)
    train = stripes(600)
    losses = [
        fit(new_model().to(dtype), train, None, config)[-1]["loss"]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert_close(losses[1], losses[0], rtol=0.02, atol=0)

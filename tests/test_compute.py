"""How a step is computed: what is tried, what is chosen by made-up times, and that all agree."""

import random
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from test_run import EVERYTHING, Killed, assert_same_bits, tiny_model, without_times
from test_train import QUICK, new_model, stripes
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from vit_tutorial import VisionTransformer, fit
from vit_tutorial.compute import (
    ROUNDS,
    WORTH_TAKING,
    Compute,
    bfloat16_is_faster,
    computing,
    fastest_way,
    ways_to_compute,
)
from vit_tutorial.model import Attention
from vit_tutorial.optimizers import orthogonalized
from vit_tutorial.positions import rope_2d
from vit_tutorial.progress import Progress
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import read_state, saved_compute
from vit_tutorial.train import epochs_within, fastest

THREADS = torch.get_num_threads()
ALL = [
    Compute(precision, attention, threads)
    for precision in ("float32", "bfloat16")
    for attention in ("fused", "plain")
    for threads in (2, 1)
]


def forced(how: Compute, config: TrainConfig = QUICK) -> TrainConfig:
    return replace(config, **asdict(how))


# ---- what is tried ----


@pytest.fixture
def four_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


@pytest.fixture
def builds_bfloat16(monkeypatch):
    monkeypatch.setattr("vit_tutorial.compute.bfloat16_is_faster", lambda: True)


@pytest.mark.usefixtures("four_threads", "builds_bfloat16")
def test_on_a_cpu_everything_is_tried_and_the_usual_way_stands_first():
    ways = ways_to_compute(new_model(), QUICK)
    assert ways[0] == Compute("float32", "fused", 4)
    expected = product(("float32", "bfloat16"), ("fused", "plain"), (4, 2, 1))
    assert ways == [Compute(*parts) for parts in expected]


@pytest.mark.usefixtures("four_threads")
def test_bfloat16_is_not_tried_where_its_products_are_slow(monkeypatch):
    monkeypatch.setattr("vit_tutorial.compute.bfloat16_is_faster", lambda: False)
    assert {way.precision for way in ways_to_compute(new_model(), QUICK)} == {"float32"}


@pytest.mark.parametrize(("slow", "expected"), [("float32", True), ("bfloat16", False)])
def test_whether_bfloat16_is_faster_is_measured(slow, expected, monkeypatch):
    now = 0.0

    def mm(a, b, out):
        nonlocal now
        now += 2.0 if str(a.dtype).endswith("." + slow) else 1.0

    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr(torch, "mm", mm)
    assert bfloat16_is_faster.__wrapped__() is expected


@pytest.mark.usefixtures("four_threads", "builds_bfloat16")
@pytest.mark.parametrize("how", ALL, ids=str)
def test_a_setting_forces_each(how):
    assert ways_to_compute(new_model(), forced(how)) == [how]
    for name, value in asdict(how).items():
        ways = ways_to_compute(new_model(), replace(QUICK, **{name: value}))
        assert {getattr(way, name) for way in ways} == {value}
        assert len(ways) > 1


@pytest.mark.usefixtures("four_threads", "builds_bfloat16")
def test_a_network_without_the_switch_keeps_its_attention():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert {way.attention for way in ways_to_compute(net, QUICK)} == {"fused"}
    with pytest.raises(ValueError, match=r"switch `fused_attn`, as this.*; Sequential has none"):
        ways_to_compute(net, replace(QUICK, attention="plain"))


@pytest.mark.usefixtures("four_threads", "builds_bfloat16")
def test_a_network_in_float64_stays_so():
    model = new_model().double()
    assert {way.precision for way in ways_to_compute(model, QUICK)} == {"float64"}
    with pytest.raises(ValueError, match=r'"bfloat16" is for networks in float32, .* in float64'):
        ways_to_compute(model, replace(QUICK, precision="bfloat16"))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, None])
def test_on_a_gpu_the_capability_tells_and_nothing_is_tried(half, monkeypatch):
    monkeypatch.setattr("vit_tutorial.compute.half_precision", lambda device: half)
    gpu = nn.Linear(2, 2, device="meta")  # any device that is no CPU
    precision = str(half or torch.float32).removeprefix("torch.")
    assert ways_to_compute(gpu, QUICK) == [Compute(precision, "fused", THREADS)]
    asked = replace(QUICK, precision="float32", threads=3)
    assert ways_to_compute(gpu, asked) == [Compute("float32", "fused", 3)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("precision", "float8"), ("attention", "flash"), ("threads", -1), ("threads", 1.5)],
)
def test_an_unknown_setting_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* got {value!r}"):
        replace(QUICK, **{name: value})


# ---- what is chosen ----


class MadeUp:
    """Ways that take made-up times for a step, and what was asked of them."""

    def __init__(self, times: dict[Compute, float], noise: float = 0.0) -> None:
        self.times, self.noise = times, noise
        self.asked: list[Compute] = []
        self.random = random.Random(0)

    def __call__(self, way: Compute) -> float:
        self.asked.append(way)
        return self.times[way] * (1 + self.noise * self.random.random())

    @property
    def seconds(self) -> float:
        return sum(self.times[way] for way in self.asked)


@pytest.mark.parametrize("seed", range(30))
def test_the_fastest_of_the_measured_ways_is_chosen(seed):
    draw = random.Random(seed)
    times = {way: draw.uniform(0.01, 0.1) for way in ALL}
    how, gain = fastest_way(ALL, MadeUp(times), budget=10.0)
    best = min(times.values())
    usual = times[ALL[0]]
    assert times[how] == (best if usual >= WORTH_TAKING * best else usual)
    assert gain == pytest.approx(usual / times[how])


def test_noise_on_every_step_does_not_change_the_choice():
    times = dict.fromkeys(ALL, 0.10) | {ALL[5]: 0.07}
    made_up = MadeUp(times, noise=0.3)
    assert fastest_way(ALL, made_up, budget=60.0)[0] == ALL[5]
    assert made_up.asked.count(ALL[5]) == ROUNDS + 2


def test_the_usual_way_is_kept_unless_another_is_clearly_faster():
    times = dict.fromkeys(ALL, 0.100) | {ALL[3]: 0.098}
    assert fastest_way(ALL, MadeUp(times), budget=10.0) == (ALL[0], 1.0)


def test_a_processor_that_imitates_bfloat16_loses_nothing_but_the_trial():
    """Eight times as slow: asked twice, to set it up and to see it, and never again."""
    times = {way: 0.08 if way.precision == "bfloat16" else 0.01 for way in ALL}
    made_up = MadeUp(times)
    assert fastest_way(ALL, made_up, budget=4.0) == (ALL[0], 1.0)
    assert all(made_up.asked.count(way) == 2 for way in ALL if way.precision == "bfloat16")


def test_beside_a_busy_process_one_thread_is_chosen():
    times = {way: 0.5 if way.threads == 2 else 0.08 for way in ALL}
    how, gain = fastest_way(ALL, MadeUp(times), budget=5.0)
    assert how.threads == 1
    assert gain == pytest.approx(0.5 / 0.08)


@pytest.mark.parametrize("usual", [1e-6, 0.01, 0.125, 1.0, 20.0])
def test_the_trial_keeps_to_its_time(usual):
    """But for the step in which the time ends; what was not tried by then is not chosen."""
    times = {way: usual * (8 if way.precision == "bfloat16" else 1) for way in ALL}
    made_up = MadeUp(times)
    how, _ = fastest_way(ALL, made_up, budget=4.0)
    assert how == ALL[0]
    assert made_up.seconds <= 4.0 + 2 * max(times[way] for way in made_up.asked)


class Clock:
    """A clock that only steps and measurements move: a step by its way and its images."""

    def __init__(self, monkeypatch, speed: dict[str, float], a_step: float) -> None:
        self.now, self.speed, self.a_step = 0.0, speed, a_step
        self.seen: list[tuple[str, bool, int]] = []
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("vit_tutorial.train.train_step", self.step)
        monkeypatch.setattr("vit_tutorial.train.evaluate", lambda *_: None)
        monkeypatch.setattr("vit_tutorial.train.SMALL", 0)
        monkeypatch.setattr("vit_tutorial.compute.bfloat16_is_faster", lambda: True)

    def step(self, network, run, images, labels, *objective) -> None:
        fused = network.blocks[0].attn.fused_attn
        assert run.how.attention == ("fused" if fused else "plain")
        assert run.how.threads == torch.get_num_threads()
        name = f"{run.how.precision} {run.how.attention}"
        self.now += self.a_step * len(images) / 16 / self.speed.get(name, 1.0)


FAST = {"bfloat16 plain": 3.0, "bfloat16 fused": 0.9, "float32 plain": 1.1}
LONG = replace(QUICK, epochs=1000, threads=1)


def test_a_training_says_what_it_found_and_how_much_faster_it_is(monkeypatch, capsys):
    clock = Clock(monkeypatch, FAST, a_step=0.5)
    model, state = new_model(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = fastest(model, stripes(), LONG)
    assert how == Compute("bfloat16", "plain", 1)
    assert clock.now <= 5.0
    said = capsys.readouterr().out
    assert said == (
        "A step is computed in bfloat16, plain attention, 1 thread: "
        "3.0 times as fast as in float32, fused attention, 1 thread.\n"
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.blocks[0].attn.fused_attn
    assert torch.get_num_threads() == THREADS


def test_where_the_usual_way_is_the_fastest_that_is_said(monkeypatch, capsys):
    Clock(monkeypatch, {}, a_step=0.5)
    assert fastest(new_model(), stripes(), LONG) == Compute("float32", "fused", 1)
    assert capsys.readouterr().out == (
        "A step is computed as usual, in float32, fused attention, 1 thread: "
        "none of 4 ways is clearly faster.\n"
    )


def test_a_short_training_does_without_a_trial(monkeypatch, capsys):
    """4 steps an epoch of 0.5 s: 16 s with 8 epochs, 24 s with 12."""
    clock = Clock(monkeypatch, FAST, a_step=0.5)
    assert fastest(new_model(), stripes(), replace(LONG, epochs=8)).precision == "float32"
    assert clock.now < 1.5
    assert capsys.readouterr().out == ""
    assert fastest(new_model(), stripes(), replace(LONG, epochs=12)).precision == "bfloat16"


def test_a_small_training_does_not_even_ask_how_long_a_step_takes(monkeypatch):
    """864 parameters, 64 images: nobody's hooks are called, no copy is made."""
    monkeypatch.setattr("vit_tutorial.train.train_step", lambda *_: pytest.fail("a step"))
    model = new_model()
    assert fastest(model, stripes(), QUICK) == ways_to_compute(model, QUICK)[0]


def test_a_trial_takes_a_twentieth_of_a_training_at_most(monkeypatch):
    clock = Clock(monkeypatch, FAST, a_step=0.5)
    fastest(new_model(), stripes(), LONG, minutes=0.5)
    assert clock.now < 2.5 + 0.5  # and the step in which it ends


def test_the_epochs_that_fit_are_those_of_the_fastest_way(monkeypatch):
    Clock(monkeypatch, FAST, a_step=0.5)
    model, sets = new_model(), (stripes(), stripes(16))
    usual = epochs_within(10, model, *sets, LONG, Compute("float32", "fused", 1))
    assert epochs_within(10, model, *sets, LONG) == pytest.approx(3 * usual, rel=0.02)


# ---- all ways compute the same ----


@pytest.mark.parametrize("rope", [None, rope_2d(torch.rand(7, 2, dtype=torch.float64), 8)])
def test_attention_written_out_is_the_fused_one(rope):
    attention, x = Attention(32, num_heads=4), torch.randn(3, 7, 32, dtype=torch.float64)
    randomize(attention)
    expected = attention(x, rope)
    attention.fused_attn = False
    calls = []
    original = F.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", lambda *a: calls.append(a) or original(*a))
        assert_close(attention(x, rope), expected)
    assert not calls


@cache
def losses(how: Compute, optimizer: str) -> list[float]:
    """The losses of a training that computes in a given way."""
    config = forced(how, replace(QUICK, epochs=6, optimizer=optimizer))
    return [row["loss"] for row in fit(new_model(), stripes(), None, config)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("how", ALL, ids=str)
def test_every_way_learns_the_same_within_its_precision(how, optimizer):
    # bfloat16 has 8 bits: steps of 2^-8 in each product; twenty steps of training add up
    tolerance = 0.02 if how.precision == "bfloat16" else 1e-3
    expected = losses(Compute("float32", "fused", 1), optimizer)
    assert losses(how, optimizer) == pytest.approx(expected, abs=tolerance)
    assert losses(how, optimizer)[-1] < losses(how, optimizer)[0] / 1.5


class Products(TorchDispatchMode):
    """Keeps the precision of every product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.dtypes.add(args[-1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_all_products_of_a_step_are_in_the_chosen_precision(precision):
    model, dtypes = new_model(), []
    model.head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with Products() as products:
        fit(model, stripes(), None, forced(Compute(precision, "plain", 1)))
    assert products.dtypes == {getattr(torch, precision)}
    assert set(dtypes) == {getattr(torch, precision)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # the weights stay whole


def test_muon_multiplies_in_bfloat16_only_under_an_autocast_to_it():
    matrices = torch.randn(2, 6, 9)
    for half, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        with torch.autocast("cpu", half, enabled=half is not None), Products() as products:
            out = orthogonalized(matrices)
        assert products.dtypes == {expected}
        assert out.dtype == torch.float32
    with torch.autocast("cpu", torch.float16), Products() as products:
        orthogonalized(matrices)
    assert torch.bfloat16 not in products.dtypes


def test_the_network_is_as_it_was_after_an_error():
    model = new_model()
    model.blocks[0].attn.fused_attn = False  # somebody's own choice
    seen = []

    def fails():
        seen.extend([model.blocks[0].attn.fused_attn, torch.get_num_threads()])
        raise Killed

    with pytest.raises(Killed), computing(model, Compute("float32", "fused", THREADS + 1)):
        fails()
    assert seen == [True, THREADS + 1]
    assert not model.blocks[0].attn.fused_attn
    assert torch.get_num_threads() == THREADS


def test_timms_switch_is_ours():
    timm = pytest.importorskip("timm")
    theirs = timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=2, num_heads=2
    )
    switched = [block.attn.fused_attn for block in theirs.blocks]
    with computing(theirs, Compute("float32", "plain", THREADS)):
        assert not any(block.attn.fused_attn for block in theirs.blocks)
    assert [block.attn.fused_attn for block in theirs.blocks] == switched


# ---- going on ----


def killed_run(model: VisionTransformer, config: TrainConfig, path, steps: int, **options) -> None:
    """Train until that many steps are saved; then the power goes."""
    count = 0
    original = Progress.step

    def dies(self, images):
        nonlocal count
        original(self, images)
        count += 1
        if count == steps + 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_tutorial.train.SAVE_EVERY", 0.0)
        patch.setattr(Progress, "step", dies)
        with pytest.raises(Killed):
            fit(model, stripes(70), stripes(20), config, save_to=path, **options)
    assert read_state(path)["step"] == steps


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("how", ALL, ids=str)
def test_a_killed_run_ends_with_the_same_bits_in_every_way(how, optimizer, tmp_path):
    config = forced(how, replace(EVERYTHING, optimizer=optimizer))
    whole, resumed = tiny_model(), tiny_model(seed=5)
    rows = fit(whole, stripes(70), stripes(20), config)
    killed_run(tiny_model(), config, tmp_path / "run", steps=5)
    again = fit(resumed, stripes(70), stripes(20), config, save_to=tmp_path / "run", resume=True)
    assert_same_bits(resumed, whole)
    assert without_times(again) == without_times(rows)


@contextmanager
def trial_says(how: Compute):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_tutorial.train.fastest", lambda *_, **__: how)
        yield


@pytest.mark.parametrize("how", ALL, ids=str)
def test_what_was_chosen_is_kept_in_the_run(how, tmp_path, capsys):
    """The machine is busy when the run goes on, and a trial would find something else."""
    whole, resumed = tiny_model(), tiny_model(seed=5)
    fit(whole, stripes(70), stripes(20), EVERYTHING, how=how)
    with trial_says(how):
        killed_run(tiny_model(), EVERYTHING, tmp_path / "run", steps=5)
    capsys.readouterr()
    with trial_says(ALL[-1] if how == ALL[0] else ALL[0]):
        sets = stripes(70), stripes(20)
        fit(resumed, *sets, EVERYTHING, save_to=tmp_path / "run", resume=True)
    assert_same_bits(resumed, whole)
    assert capsys.readouterr().out == ""


def test_what_a_cpu_chose_is_not_kept_on_a_gpu(tmp_path, capsys):
    killed_run(tiny_model(), EVERYTHING, tmp_path / "run", steps=5, how=ALL[5])
    gpu = nn.Linear(2, 2, device="meta")
    assert saved_compute(tmp_path / "run", gpu) is None
    assert "begun on another processor" in capsys.readouterr().out
    assert saved_compute(tmp_path / "run", tiny_model()) == ALL[5]


def test_a_run_in_float32_goes_on_in_float16(tmp_path):
    """From a CPU to a GPU that has no bfloat16: the scaler starts anew."""
    killed_run(tiny_model(), EVERYTHING, tmp_path / "run", steps=5, how=ALL[0])
    half, sets = Compute("float16", "fused", 1), (stripes(70), stripes(20))
    options = {"save_to": tmp_path / "run", "resume": True, "how": half}
    assert len(fit(tiny_model(), *sets, EVERYTHING, **options)) == 3


def test_on_another_processor_it_is_found_out_anew_and_said(tmp_path, monkeypatch, capsys):
    killed_run(tiny_model(), EVERYTHING, tmp_path / "run", steps=5, how=ALL[4])
    monkeypatch.setattr("vit_tutorial.run.processor", lambda: "another one")
    with trial_says(ALL[1]):
        sets = stripes(70), stripes(20)
        fit(tiny_model(), *sets, EVERYTHING, save_to=tmp_path / "run", resume=True)
    assert "begun on another processor: what is fastest here" in capsys.readouterr().out
    assert Compute(**read_state(tmp_path / "run")["how"]) == ALL[1]

"""A training step on a GPU, walked without one: PyTorch's stand-ins for tensors say where it fails.

A stand-in has a device and a shape, and no values. Mixing devices raises, and so does whatever
would make the host wait for a value. The backward pass needs the device itself.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from test_train import QUICK, new_model, stripes
from torch._subclasses.fake_tensor import DataDependentOutputException as HostWaits
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.testing import assert_close

from vit_tutorial import VisionTransformer
from vit_tutorial.compute import Compute
from vit_tutorial.data import ImageSet
from vit_tutorial.recipes import RECIPES
from vit_tutorial.run import Run
from vit_tutorial.train import train_step

CHANGES = [{}, {"patch_drop": 0.5}, {"erase": 0.3, "mixup": 0.2}, {"trivial_augment": 0.0}]
NO_IMAGES = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
TRAIN = ImageSet(NO_IMAGES, torch.zeros(64, dtype=torch.long), tuple("0123456789"), "stand-ins")


@pytest.fixture
def gpu(monkeypatch):
    """Stand-ins, among them for a GPU that computes in bfloat16."""
    monkeypatch.setattr("vit_tutorial.compute.half_precision", lambda device: torch.bfloat16)
    monkeypatch.setattr("vit_tutorial.run.channel_stats", lambda images: ((0.5,) * 3, (0.3,) * 3))
    randint = torch.randint

    def draws(*arguments, **options):
        """A number of the host, which no GPU knows of, may have a value."""
        return 3 if arguments[-1] == () and not options else randint(*arguments, **options)

    monkeypatch.setattr(torch, "randint", draws)
    with FakeTensorMode(), warnings.catch_warnings():
        # it says that there is no GPU, and computes in float32
        warnings.filterwarnings("ignore", "CUDA is not available")
        yield "cuda"


def run_on(device: str, name: str, change: dict) -> tuple[Run, list[torch.Tensor]]:
    """Return a run of a recipe, and what a step gets: images and labels."""
    recipe = RECIPES[name]
    config = replace(recipe.train, batch_size=32, ema=0.0, **change)
    with torch.device(device):
        model = VisionTransformer(recipe.model)
    run = Run(model, config, TRAIN)
    images = torch.zeros(32, 3, 32, 32, dtype=torch.uint8, device=device)
    labels = torch.zeros(32, dtype=torch.long, device=device)
    return run, [images, labels]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("name", ["classroom", "flagship"])
@pytest.mark.parametrize("step", [0, 10_000])
def test_a_step_mixes_no_devices_and_waits_for_nothing(gpu, name, change, step, monkeypatch):
    run, batch = run_on(gpu, name, change)
    losses = []

    def keep(run, loss):
        losses.append(loss)

    monkeypatch.setattr("vit_tutorial.train.update", keep)  # where the backward pass begins
    run.step = min(step, run.total_steps - 1)  # the second one is clean
    assert run.how == Compute("bfloat16", "fused", torch.get_num_threads())
    train_step(run.model, run, *batch)
    (loss,) = losses
    assert (loss.device.type, loss.shape) == ("cuda", ())


def test_a_statistic_left_on_the_host_is_found(gpu):
    run, batch = run_on(gpu, "flagship", {})
    run.std = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"(?i)device"):
        train_step(run.model, run, *batch)


@pytest.mark.parametrize(
    "ask", [lambda x: x.max().item(), lambda x: x[x > 0], lambda x: bool(x.sum())]
)
def test_a_step_that_would_wait_for_a_value_is_found(gpu, ask):
    run, batch = run_on(gpu, "flagship", {})
    with pytest.raises((HostWaits, DynamicOutputShapeException)):
        train_step(run.model, run, *batch, lambda network, pixels, targets: ask(network(pixels)))


# ---- float16, which GPUs without bfloat16 take, on a CPU ----


def gradient_of_a_step(how: Compute, clip_norm: float) -> dict[str, torch.Tensor]:
    """Return what the optimizer gets to see in the first step."""
    model, train, seen = new_model(), stripes(), {}
    run = Run(model, replace(QUICK, clip_norm=clip_norm), train, how=how)

    def keep(optimizer, arguments, options):
        seen.update({name: p.grad.clone() for name, p in model.named_parameters()})

    run.optimizers[0].register_step_pre_hook(keep)
    train_step(model, run, train.images[:16], train.labels[:16])
    assert run.scaler.is_enabled() == (how.half is torch.float16)
    return seen


@pytest.mark.parametrize("clip_norm", [1e3, 1e-2])
def test_in_float16_the_optimizer_sees_the_gradient_itself_clipped(clip_norm):
    """Not what the scaler made of it: unscaled first, then clipped."""
    expected = gradient_of_a_step(Compute("float32", "fused", 1), clip_norm)
    seen = gradient_of_a_step(Compute("float16", "fused", 1), clip_norm)
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    assert size <= clip_norm * 1.001
    for name, gradient in expected.items():
        # float16 has 11 bits; products of a few layers add up
        assert_close(seen[name], gradient, rtol=0.02, atol=0.004 * size.item())


def test_an_overflow_in_the_matrices_alone_spoils_nothing_else():
    """Muon and AdamW decide together: clipping has made NaN of all gradients."""
    model, train = new_model(), stripes()
    before = [p.detach().clone() for p in model.parameters()]
    config = replace(QUICK, optimizer="muon")
    run = Run(model, config, train, how=Compute("float16", "fused", 1))
    model.blocks[0].mlp.fc1.weight.register_hook(lambda gradient: gradient * torch.nan)
    scale = run.scaler.get_scale()
    train_step(model, run, train.images[:16], train.labels[:16])
    assert run.scaler.get_scale() == scale / 2
    assert_close(list(model.parameters()), before, rtol=0, atol=0)


def test_a_step_that_overflows_in_float16_changes_nothing():
    model, train = new_model(), stripes()
    before = [p.detach().clone() for p in model.parameters()]
    run = Run(model, QUICK, train, how=Compute("float16", "fused", 1))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    train_step(model, run, train.images[:16], train.labels[:16])
    assert run.scaler.get_scale() == 2.0**39
    assert_close(list(model.parameters()), before, rtol=0, atol=0)

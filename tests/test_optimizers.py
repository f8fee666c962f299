"""The rate of each step, what decays, and the optimizers against those of PyTorch and timm."""

import math
from dataclasses import replace

import pytest
import timm
import torch
from test_train import QUICK, TINY, new_model, stripes
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, fit
from vit_tutorial.images import normalize
from vit_tutorial.optimizers import (
    Muon,
    groups_by_layer,
    lr_factor,
    make_optimizers,
    orthogonalized,
    parameter_groups,
)
from vit_tutorial.recipes import TrainConfig
from vit_tutorial.run import Run
from vit_tutorial.train import cross_entropy, update

# ---- schedule and parameter groups ----


def test_the_rate_rises_linearly_to_its_highest_then_falls_as_a_cosine_to_zero():
    factors = [lr_factor(step, 200, warmup=0.1) for step in range(201)]
    assert_close(factors[:20], [(step + 1) / 20 for step in range(20)])
    assert factors[20] == 1 == max(factors)
    for step in range(20, 201):
        assert factors[step] == pytest.approx(math.cos((step - 20) / 180 * math.pi / 2) ** 2)
    assert factors[-1] == pytest.approx(0)
    assert factors[-2] > 0


@pytest.mark.parametrize(("steps", "warmup"), [(25, 0.1), (5, 0.1), (44, 0.07), (3, 0.9)])
def test_a_warm_up_of_no_whole_number_of_steps_never_overshoots(steps, warmup):
    factors = [lr_factor(step, steps, warmup) for step in range(steps + 1)]
    assert max(factors) <= 1
    assert min(factors) >= 0
    assert factors[-1] == pytest.approx(0)


def test_without_a_warm_up_the_rate_starts_at_its_highest():
    assert lr_factor(0, 10, warmup=0.0) == 1


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(pos_embed, pool):
    model = VisionTransformer(replace(TINY, pos_embed=pos_embed, pool=pool, embed_dim=16))
    decayed, others = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    members = [*decayed["params"], *others["params"]]
    assert sorted(map(id, members)) == sorted(map(id, model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[id(p)] for p in decayed["params"]) == [
        "blocks.0.attn.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.weight",
        "patch_embed.proj.weight",
    ]


# ---- optimizers ----


def test_muon_turns_the_gradient_into_a_rotation_and_leaves_the_rest_to_adamw():
    """One step: all singular values of the change of a matrix in the blocks are about equal."""
    torch.manual_seed(0)
    model = VisionTransformer(replace(TINY, embed_dim=32))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = TrainConfig(
        epochs=1, batch_size=64, lr=1e-3, warmup=0.0, weight_decay=0.0, optimizer="muon"
    )
    fit(model, stripes(), stripes(4), config)
    for name, after in model.named_parameters():
        change = (after - before[name]).detach()
        if name.startswith("blocks") and change.ndim == 2:
            values = torch.linalg.svdvals(change)
            size = 1e-3 * 0.2 * max(change.shape) ** 0.5
            large = values[values > 0.3 * size]  # the gradient may have fewer directions
            assert len(large) >= 2, name
            assert large.max() < 1.3 * size, name
            assert (change.square().mean().sqrt() / 1e-3) < 0.3, name
        elif name.endswith(("bias", "weight")):  # Adam's first step: the rate, in every entry
            assert change.abs().max() == pytest.approx(1e-3, rel=0.01), name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
def test_muon_takes_the_steps_of_torch():
    """PyTorch's own computes in bfloat16, so a step of ours is as near as its rounding allows.

    It refuses convolutions; theirs is given the matrix.
    """
    torch.manual_seed(0)
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8), (8, 4, 3, 3)]  # one shape twice, and kernels
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(matrix.detach().clone().flatten(1)) for matrix in ours]
    one = Muon(ours, lr=0.1, weight_decay=0.3)
    other = torch.optim.Muon(theirs, 0.1, 0.3, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.flatten(1).clone()
        one.step()
        other.step()
    for mine, its in zip(ours, theirs, strict=True):
        reach = 0.02 * 0.1 * max(its.shape) ** 0.5
        torch.testing.assert_close(mine.flatten(1), its, rtol=0, atol=reach)


def test_orthogonalized_keeps_the_directions_of_a_singular_value_decomposition():
    """U S V -> U S' V with S' near 1, in float64, for matrices well away from singular."""
    torch.manual_seed(0)
    for shape in ((3, 6, 20), (20, 6), (5, 5)):
        matrices = torch.randn(shape, dtype=torch.float64)
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        inner = u.mT @ orthogonalized(matrices) @ vh.mT
        values = torch.diagonal(inner, dim1=-2, dim2=-1)
        torch.testing.assert_close(inner, torch.diag_embed(values), rtol=0, atol=1e-9)
        assert values.min() > 0.3
        assert values.max() < 1.25


def test_muon_without_matrices_in_blocks_is_refused():
    config = replace(QUICK, optimizer="muon")
    with pytest.raises(ValueError, match=r"matrices in `model.blocks`, and there are none"):
        make_optimizers(nn.Linear(3, 2), config)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_every_parameter_is_changed_by_one_optimizer(layer_decay):
    for kind in ("adamw", "muon"):
        model = new_model()
        config = replace(QUICK, optimizer=kind, layer_decay=layer_decay)
        optimizers = make_optimizers(model, config)
        members = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(map(id, members)) == sorted(map(id, model.parameters()))


def test_layers_learn_the_more_slowly_the_earlier_they_are():
    """Against timm's rates for the same network, but for the last norm, which is BEiT's here."""
    config = replace(TINY, depth=3)
    theirs = timm.models.VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=3, num_heads=2
    )
    wanted = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(theirs, 0.05, layer_decay=0.6)
        for parameter in group["params"]
    }
    wanted = {name: wanted[id(parameter)] for name, parameter in theirs.named_parameters()}
    ours = new_model(config)
    names = {id(parameter): name for name, parameter in ours.named_parameters()}
    groups = groups_by_layer(parameter_groups(ours, 0.05), ours, 0.6)
    scales = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales == pytest.approx({**wanted, "norm.weight": 1.0, "norm.bias": 1.0})
    assert len(set(scales.values())) == 5
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays["blocks.2.attn.qkv.weight"] == 0.05
    assert decays["blocks.2.attn.qkv.bias"] == decays["pos_embed"] == 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_layers_rate_is_the_one_it_learns_with(optimizer):
    """Two steps of two networks that start alike: rates of the same layers differ by the factor."""
    moved = {}
    for layer_decay in (1.0, 0.25):
        model, train = new_model(replace(TINY, depth=2)), stripes()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = replace(QUICK, optimizer=optimizer, layer_decay=layer_decay, weight_decay=0.0)
        run = Run(model, replace(config, warmup=0.0), train)
        pixels = normalize(train.images[:16], torch.tensor([0.5]), torch.tensor([0.25]))
        targets = nn.functional.one_hot(train.labels[:16], 2).float()
        update(run, cross_entropy(model, pixels, targets))
        after = dict(model.named_parameters())
        moved[layer_decay] = {name: after[name].detach() - before[name] for name in before}
    names = ("head", "blocks.1.mlp.fc1", "blocks.0.mlp.fc1", "patch_embed.proj")
    for power, name in enumerate(f"{layer}.weight" for layer in names):
        assert_close(moved[0.25][name], moved[1.0][name] * 0.25**power, rtol=1e-3, atol=1e-7)


def test_layer_decay_needs_layers():
    with pytest.raises(ValueError, match=r"a model with `blocks`, and there are none"):
        make_optimizers(nn.Linear(3, 2), replace(QUICK, layer_decay=0.5))

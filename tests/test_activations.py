"""Token Grad-CAM: of the last norm, wherever its tokens lie, against hooks and loops in float64."""

import pytest
import timm
import torch
from conftest import pictures, randomize, tiny_model
from torch import nn
from torch.testing import assert_close

from vit_tutorial import record_attention
from vit_tutorial.attention import methods_for, relevance
from vit_tutorial.recording import record_activations
from vit_tutorial.watching import NoGradient

VIT = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)


def swin():
    return timm.models.SwinTransformer(
        img_size=64, patch_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=4,
        num_classes=5,
    )  # fmt: skip


def pvt():
    return timm.models.PyramidVisionTransformerV2(
        depths=(1, 1, 1, 1), embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), num_classes=5
    )


def hiera():
    return timm.models.Hiera(
        img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), num_classes=5,
    )  # fmt: skip


# name -> (network, size of an image, the last norm, its grid, tokens before the patches)
NETWORKS = {
    "ViT": (lambda: timm.models.VisionTransformer(**VIT), (32, 32), "blocks.2.norm1", (4, 4), 1),
    "mean": (
        lambda: timm.models.VisionTransformer(**VIT, global_pool="avg", reg_tokens=2),
        (32, 32), "blocks.2.norm2", (4, 4), 3,
    ),
    "queries normalised": (
        lambda: timm.models.VisionTransformer(**VIT, qk_norm=True),
        (32, 32), "blocks.2.norm1", (4, 4), 1,
    ),
    "CaiT": (
        lambda: timm.models.Cait(**VIT), (32, 32), "blocks_token_only.1.norm1", (4, 4), 1
    ),
    "Swin": (swin, (64, 64), "norm", (8, 8), 0),
    "PVT": (pvt, (96, 64), "stages.3.norm", (3, 2), 0),
    "Hiera": (hiera, (64, 64), "blocks.3.norm2", (2, 2), 0),
}  # fmt: skip


def by_hooks(model, images, target, name, grid, prefix) -> torch.Tensor:
    """Grad-CAM with PyTorch's own hooks, channel by channel."""
    kept = []
    hook = model.get_submodule(name).register_forward_hook(lambda m, i, output: kept.append(output))
    score = model(images)[:, target].sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(score, kept[-1])
    maps = torch.zeros(len(images), *grid, dtype=torch.float64)
    flat = [part.flatten(1, -2)[:, prefix:] for part in (kept[-1].detach(), gradient)]
    for image in range(len(images)):
        values, slopes = (part[image] for part in flat)  # (N, C)
        summed = sum(slopes[:, c].mean() * values[:, c] for c in range(values.shape[1]))
        maps[image] = summed.clamp_min(0).view(grid)
    return maps


@pytest.mark.parametrize("name", NETWORKS)
def test_token_grad_cam_is_that_of_hooks_on_the_last_norm(name):
    make, size, layer, grid, prefix = NETWORKS[name]
    model, images = randomize(make()), pictures(2, size)
    for target in range(5):
        record = record_activations(model, images, gradients_of=target)
        came = record.grad_cam()
        assert (record.layer, tuple(came.shape[1:])) == (layer, grid)
        assert_close(came, by_hooks(model, images, target, layer, grid, prefix))
        if came.any():
            break
    assert came.any()
    assert_close(record.logits, model(images).detach())
    assert_close(record.probabilities(), model(images).softmax(1).detach().float())
    assert all(not module._forward_hooks for module in model.modules())


def test_a_record_of_attention_has_the_same_map():
    model, images = tiny_model(), pictures()
    record = record_attention(model, images, gradients_of=1)
    assert "token_grad_cam" in methods_for(record)
    expected = by_hooks(model, images, 1, "blocks.2.norm1", (2, 3), 1)
    assert expected.any()
    assert_close(relevance(record, method="token_grad_cam"), expected)
    assert record.activations() is record.activations()
    plain = record_attention(model, images)
    with pytest.raises(ValueError, match="needs gradients: record_attention"):
        relevance(plain, method="token_grad_cam")
    late = record_attention(model, images, gradients_of=1)
    nn.init.ones_(model.head.bias)
    with pytest.raises(ValueError, match="weights have changed since"):
        relevance(late, method="token_grad_cam")


def test_frozen_and_checkpointed_networks_have_the_same_map():
    images = pictures(2, (32, 32))
    model = randomize(timm.models.VisionTransformer(**VIT))
    expected = record_activations(model, images, gradients_of=2).grad_cam()
    assert expected.any()
    model.set_grad_checkpointing(True)
    assert_close(record_activations(model, images, gradients_of=2).grad_cam(), expected)
    model.requires_grad_(False)
    assert_close(record_activations(model, images, gradients_of=2).grad_cam(), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_behind_the_mean_of_patches_it_is_cam():
    """A linear head: what each patch adds to the logit, but for what is negative."""
    model, images = randomize(swin()), pictures(2, (64, 64))
    features = model.forward_features(images)  # (B, 8, 8, C)
    expected = torch.stack([features @ row for row in model.head.fc.weight]).clamp_min(0) / 64
    came = [record_activations(model, images, gradients_of=c).grad_cam() for c in range(5)]
    assert_close(torch.stack(came), expected.detach())


class Convolutional(nn.Module):
    """Channels first, and the grid turned on its side where asked."""

    def __init__(self, turned=False):
        super().__init__()
        self.cut, self.turned = nn.Conv2d(3, 6, 8, 8), turned
        self.some_norm, self.head = nn.GroupNorm(2, 6), nn.Linear(6, 5)

    def forward(self, images):
        x = self.cut(images)
        return self.head(self.some_norm(x.mT if self.turned else x).flatten(2).mean(2))


def test_channels_may_come_first_and_a_grid_on_its_side_is_refused():
    model, images = randomize(Convolutional()), pictures(2, (32, 32))
    record = record_activations(model, images, gradients_of=1)
    assert record.values.shape == (2, 4, 4, 6)
    assert_close(record.values, model.some_norm(model.cut(images)).permute(0, 2, 3, 1).detach())
    with pytest.raises(NoGradient, match=r"some_norm, gives \(2, 6, 4, 4\), which is not found"):
        record_activations(randomize(Convolutional(turned=True)), images, gradients_of=1)


class SequenceFirst(nn.Module):
    """The tokens on the first axis, as PyTorch's attention has them by default."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 5)

    def forward(self, images):
        x = self.norm(self.cut(images).flatten(2).permute(2, 0, 1))
        return self.head((x + self.attention(x, x, x)[0]).mean(0))


def test_as_many_images_as_tokens_are_told_apart():
    for model in (randomize(SequenceFirst()), randomize(timm.models.VisionTransformer(**VIT))):
        images = pictures(17, (32, 32))
        every = record_activations(model, images, gradients_of=2).grad_cam()
        assert every.any()
        for count in (1, 16):
            some = record_activations(model, images[:count], gradients_of=2)
            assert_close(some.grad_cam(), every[:count])


def test_another_layer_may_be_named():
    model, images = randomize(Convolutional()), pictures(2, (32, 32))
    record = record_activations(model, images, gradients_of=1, layer="cut")
    assert_close(record.values, model.cut(images).permute(0, 2, 3, 1).detach())
    with pytest.raises(ValueError, match="Convolutional has no module 'norm'"):
        record_activations(model, images, gradients_of=1, layer="norm")
    with pytest.raises(ValueError, match="layer 'head' of Convolutional that the gradient gets to"):
        record_activations(model, images, gradients_of=1, layer="head")


def test_without_a_gradient_or_a_norm_there_is_a_sentence():
    images = pictures(2, (32, 32))
    model = randomize(Convolutional())
    nn.init.zeros_(model.head.weight)
    with pytest.raises(NoGradient, match="a norm of Convolutional that the gradient gets to"):
        record_activations(model, images, gradients_of=1)
    model.some_norm = nn.Identity()
    with pytest.raises(NoGradient, match="a norm of Convolutional that the gradient gets to"):
        record_activations(randomize(model), images, gradients_of=1)
    with pytest.raises(ValueError, match="a class from 0 to 4"):
        record_activations(randomize(Convolutional()), images, gradients_of=5)
    with pytest.raises(ValueError, match=r"expected images \(B, C, H, W\)"):
        record_activations(model, images[0], gradients_of=0)

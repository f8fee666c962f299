"""The small ResNet: against torchvision's blocks, its sizes, and what it refuses."""

import pytest
import torch
from conftest import randomize
from torch import nn
from torch.testing import assert_close
from torchvision.models.resnet import BasicBlock

from vit_tutorial.cnn import ResidualBlock, ResNet, ResNetConfig


class Shortcut(nn.Module):
    """Every second pixel, new channels 0, in other words than the package's."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x):
        halved = nn.functional.max_pool2d(x, 1, stride=2)
        return torch.cat([halved, halved.new_zeros(len(x), self.more, *halved.shape[2:])], dim=1)


def statistics_too(model: nn.Module) -> nn.Module:
    """Give the norms running means and variances of their own."""
    for name, buffer in randomize(model).named_buffers():
        if "running" in name:
            buffer.data = torch.rand(buffer.shape, dtype=buffer.dtype) + 0.5
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("halve", [False, True])
def test_a_block_is_torchvisions(halve, training):
    ours = statistics_too(ResidualBlock(6, 12 if halve else 6, stride=2 if halve else 1))
    ours.train(training)
    theirs = BasicBlock(6, 12 if halve else 6, 2 if halve else 1, Shortcut(6) if halve else None)
    theirs = theirs.double().train(training)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(3, 6, 9, 8, dtype=torch.float64)
    assert_close(ours(images), theirs(images))


def test_a_network_is_the_papers_in_other_words():
    """The whole of it, written once more: a stem, stages in a loop, a mean, a head."""
    config = ResNetConfig(blocks_per_stage=2, width=4, stages=3, in_chans=2, num_classes=5)
    ours = statistics_too(ResNet(config))
    x = torch.randn(2, 2, 17, 20, dtype=torch.float64)
    expected = torch.relu(ours.stem_norm(ours.stem(x)))
    widths = []
    for number in range(6):
        into, out = 4 * 2 ** (max(number - 1, 0) // 2), 4 * 2 ** (number // 2)
        halve = into != out
        block = BasicBlock(into, out, 2 if halve else 1, Shortcut(out - into) if halve else None)
        block = block.double().eval()
        block.load_state_dict(ours.blocks[number].state_dict())
        expected = block(expected)
        widths.append(expected.shape[1:])
    assert widths == [(4, 17, 20)] * 2 + [(8, 9, 10)] * 2 + [(16, 5, 5)] * 2
    assert_close(ours.forward_features(x), expected)
    pooled = expected.flatten(2).mean(dim=-1)
    assert_close(ours(x), pooled @ ours.head.weight.mT + ours.head.bias)


def test_the_default_is_the_papers_resnet_20():
    """Table 6 of the paper: 0.27 M parameters; 6 n + 2 layers with weights."""
    model = ResNet(ResNetConfig())
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 8, 8)


def test_convolutions_start_so_that_a_relu_keeps_the_gradients_size():
    torch.manual_seed(0)
    for name, weight in ResNet(ResNetConfig(width=32)).named_parameters():
        if weight.ndim == 4:
            expected = (2 / (9 * weight.shape[0])) ** 0.5  # He et al. 2015, arXiv 1502.01852
            assert weight.std().item() == pytest.approx(expected, rel=0.06), name


def test_it_takes_images_of_any_size():
    model = ResNet(ResNetConfig(1, width=4)).eval()
    assert [model(torch.zeros(1, 3, *size)).shape[1] for size in ((24, 24), (5, 64))] == [10, 10]


@pytest.mark.parametrize("name", ["blocks_per_stage", "width", "stages", "in_chans", "num_classes"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_sizes_are_whole_numbers_from_one(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got {value}"):
        ResNetConfig(**{name: value})

"""A convolutional network to compare a Vision Transformer with: the small ResNet of CIFAR-10.

He et al. 2015 (arXiv 1512.03385, section 4.2). Images in, logits out like a `VisionTransformer`, so
that the same trainer and the same tests take both. Compared in lesson 10.
"""

from dataclasses import asdict, dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ResNetConfig:
    """Every choice that defines a network; the defaults are the paper's ResNet-20 (0.27 M weights).

    Raises:
        ValueError: a number below 1.
    """

    blocks_per_stage: int = 3  # two layers each; with three stages, 6 n + 2 layers in all
    width: int = 16  # channels of the first stage, doubled by each that follows
    stages: int = 3  # each at half the resolution of the last
    in_chans: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; with `stride` 2 the image is halved.

    Where the channels become more, the shortcut fills the new ones with 0 (option A of the paper):
    it has no parameters.

    Examples:
        >>> import torch
        >>> ResidualBlock(16, 32, stride=2)(torch.zeros(2, 16, 32, 32)).shape
        torch.Size([2, 32, 16, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        missing = y.shape[1] - x.shape[1]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, 0, missing)))


class ResNet(nn.Module):
    """Stages of residual blocks, each at half the resolution and twice the width of the last.

    Examples:
        >>> import torch
        >>> ResNet(ResNetConfig())(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.width
        self.stem = nn.Conv2d(config.in_chans, channels, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        blocks = []
        for stage in range(config.stages):
            for number in range(config.blocks_per_stage):
                halve = stage > 0 and number == 0
                out = 2 * channels if halve else channels
                blocks.append(ResidualBlock(channels, out, stride=2 if halve else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> features (B, channels, H', W')."""
        return self.blocks(F.relu(self.stem_norm(self.stem(images))))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) of any size -> logits (B, num_classes)."""
        return self.head(self.forward_features(images).mean(dim=(2, 3)))

"""A masked autoencoder: hide most of a picture, and learn by filling it in (no labels needed).

He et al. 2021 (arXiv 2111.06377). The encoder is this course's `VisionTransformer` and sees the
patches that are left; a light decoder gets what it made of them, and mask tokens for the rest, and
predicts the pixels that were hidden. Afterwards the decoder has done its work: the encoder becomes
a classifier (`transfer.with_head`). Built step by step in lesson 13.

Axes as in `model`; V of the N patches of an image are visible.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.augment import draw_order
from vit_tutorial.model import (
    Block,
    VisionTransformer,
    ViTConfig,
    init_weights,
    patchify,
    unpatchify,
)
from vit_tutorial.positions import patch_coordinates, sincos_2d


@dataclass(frozen=True)
class MAEConfig:
    """Every choice that defines a masked autoencoder.

    Raises:
        ValueError: numbers that do not fit together, with what was expected.

    Examples:
        >>> MAEConfig(ViTConfig(), mask_ratio=0.75).num_visible
        16
    """

    encoder: ViTConfig = field(default_factory=ViTConfig)
    decoder_dim: int = 64
    decoder_depth: int = 2
    decoder_heads: int = 4
    mask_ratio: float = 0.75  # share of the patches that are hidden in training
    norm_pixels: bool = False  # predict each patch's pixels minus its mean, by its deviation

    def __post_init__(self) -> None:
        if isinstance(self.encoder, dict):  # JSON has a dictionary where we want a config
            object.__setattr__(self, "encoder", ViTConfig(**self.encoder))
        if self.encoder.pos_embed not in ("learned", "sincos"):
            raise ValueError(
                f'the encoder of a masked autoencoder needs pos_embed "learned" or "sincos", '
                f"which stay with a token when others are left out; got {self.encoder.pos_embed!r}"
            )
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.decoder_dim % 4 or self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_dim must be a multiple of 4 (its positions are sin-cos) and of "
                f"decoder_heads, got {self.decoder_dim} and {self.decoder_heads} heads"
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {self.mask_ratio}")
        if self.encoder.num_patches < 2:
            raise ValueError(
                "one patch cannot be both hidden and visible: use a smaller patch_size"
            )

    @property
    def img_size(self) -> int | tuple[int, int]:
        """Pixels of an image: one number for a square, else (height, width)."""
        return self.encoder.img_size

    @property
    def in_chans(self) -> int:
        """Channels of an image."""
        return self.encoder.in_chans

    @property
    def num_classes(self) -> int:
        """Logits of the classifier that the encoder can become."""
        return self.encoder.num_classes

    @property
    def num_visible(self) -> int:
        """V, how many patches the encoder sees in training; at least one is seen, one hidden."""
        count = self.encoder.num_patches
        return min(max(round((1 - self.mask_ratio) * count), 1), count - 1)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Take some tokens of each image: (B, T, D) and indices (B, V) -> (B, V, D).

    Examples:
        >>> tokens = torch.tensor([[[10.0], [11.0], [12.0]]])
        >>> take(tokens, torch.tensor([[2, 0]])).flatten().tolist()
        [12.0, 10.0]
    """
    return tokens.take_along_dim(indices[..., None], dim=1)


def hidden_patches(order: Tensor, num_visible: int) -> Tensor:
    """Tell which patches an order hides: (B, N) -> bool (B, N), in the order of the image.

    Examples:
        >>> hidden_patches(torch.tensor([[2, 0, 3, 1]]), num_visible=1).tolist()
        [[True, True, False, True]]
    """
    return order.argsort(dim=1) >= num_visible


def pixel_targets(images: Tensor, patch_size: int, norm_pixels: bool) -> Tensor:
    """Return what is to be predicted for each patch: (B, C, H, W) -> (B, N, C*P*P).

    With `norm_pixels` each patch has its own mean subtracted and is divided by its own deviation.

    Examples:
        >>> pixel_targets(torch.rand(2, 3, 8, 8), patch_size=4, norm_pixels=False).shape
        torch.Size([2, 4, 48])
    """
    patches = patchify(images, patch_size)
    return F.layer_norm(patches, patches.shape[-1:], eps=1e-6) if norm_pixels else patches


class Decoder(nn.Module):
    """From the tokens of the visible patches to the pixels of all: (B, V', D) -> (B, N, C*P*P).

    V' = V, and one more if the encoder has a CLS token, which comes first.
    """

    positions: Tensor

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        vit, dim = config.encoder, config.decoder_dim
        self.num_prefix = vit.num_prefix
        self.embed = nn.Linear(vit.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        positions = sincos_2d(patch_coordinates(vit.grid), dim)  # (N, dim)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            Block(dim, config.decoder_heads, int(dim * vit.mlp_ratio), vit.norm_eps)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=vit.norm_eps)
        self.to_pixels = nn.Linear(dim, vit.in_chans * vit.patch_size**2)
        init_weights(self)
        # as wide as what comes in, or its positions would drown what a token says
        nn.init.trunc_normal_(self.embed.weight, std=vit.embed_dim**-0.5)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, order: Tensor) -> Tensor:
        """Map visible tokens, in the order in which they stand first in `order` (B, N)."""
        x = self.embed(tokens)
        prefix, visible = x[:, : self.num_prefix], x[:, self.num_prefix :]
        count = order.shape[1] - visible.shape[1]
        masks = self.mask_token.to(x).expand(len(x), count, -1)
        patches = take(torch.cat([visible, masks], dim=1), order.argsort(dim=1))  # as in the image
        x = torch.cat([prefix, patches + self.positions.to(x)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.to_pixels(self.norm(x[:, self.num_prefix :]))


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder: normalised images (B, C, H, W) -> the loss on what was hidden, ().

    Raises:
        ValueError: an order that does not fit the images, on call.

    Examples:
        >>> mae = MaskedAutoencoder(MAEConfig(ViTConfig(embed_dim=32, depth=1, num_heads=2)))
        >>> mae(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([])
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VisionTransformer(config.encoder)
        self.encoder.head.requires_grad_(False)  # has no part in this
        self.decoder = Decoder(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks, of both parts: the matrices in them are what Muon may train."""
        return nn.ModuleList([*self.encoder.blocks, *self.decoder.blocks])

    def forward(self, images: Tensor, order: Tensor | None = None) -> Tensor:
        """Hide patches at random, or those that `order` (B, N) has last, and return the loss."""
        if order is None:
            order = draw_order(len(images), self.config.encoder.num_patches, images.device)
        visible = self.config.num_visible
        predicted = self.predict(images, order, visible)
        targets = pixel_targets(images, self.config.encoder.patch_size, self.config.norm_pixels)
        errors = (predicted.to(targets) - targets).square().mean(dim=-1)  # (B, N)
        return errors[hidden_patches(order, visible)].mean()

    def encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Map images to the tokens of their visible patches (B, V) alone: (B, V', D)."""
        return self.encoder.forward_features(images, visible)

    def predict(self, images: Tensor, order: Tensor, num_visible: int) -> Tensor:
        """Predict every patch from the first `num_visible` of `order`: (B, N, C*P*P).

        Raises:
            ValueError: an order of another shape, or a number of patches that there is not.
        """
        count = self.config.encoder.num_patches
        if order.shape != (len(images), count) or not 1 <= num_visible <= count:
            raise ValueError(
                f"{len(images)} images of {count} patches need an order ({len(images)}, {count}) "
                f"and 1 to {count} visible patches, got {tuple(order.shape)} and {num_visible}"
            )
        return self.decoder(self.encode(images, order[:, :num_visible]), order)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, order: Tensor, num_visible: int) -> Tensor:
        """Fill in what is hidden, and leave what is visible: (B, C, H, W), same shape.

        With `norm_pixels` the network does not know how bright a hidden patch is, nor how strong
        its contrast: both are then taken from the image itself.
        """
        vit = self.config.encoder
        patches = patchify(images, vit.patch_size)
        filled = self.predict(images, order, num_visible).to(patches)
        if self.config.norm_pixels:
            var, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
            filled = filled * (var + 1e-6).sqrt() + mean
        hidden = hidden_patches(order, num_visible)[..., None]
        return unpatchify(torch.where(hidden, filled, patches), vit.patch_size, vit.grid)


def reconstruction(network: Callable[[Tensor], Tensor], pixels: Tensor, targets: Tensor) -> Tensor:
    """Return the objective of a masked autoencoder, for `fit`; the targets (labels) are ignored."""
    return network(pixels)

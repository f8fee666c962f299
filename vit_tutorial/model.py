"""A Vision Transformer, complete and in reading order (Dosovitskiy et al. 2020, arXiv 2010.11929).

Image -> patches -> tokens + positions -> `depth` encoder blocks -> norm -> head. Names and
state-dict keys are timm's. Built step by step in lessons 01 to 06.

Axes: B batch, C channels, H W image, P patch, N patches, T tokens (N, or N + 1 with CLS),
D width (`embed_dim`), h heads, d = D / h. Layers are `blocks[i]`, counted from 0.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_tutorial.positions import (
    patch_coordinates,
    resample_table,
    rope_2d,
    rotate,
    sincos_2d,
)


@dataclass(frozen=True)
class ViTConfig:
    """Every choice that defines a network; the defaults are a ViT for CIFAR-10 (2.7 M parameters).

    Raises:
        ValueError: numbers that do not fit together, with both of them named.

    Examples:
        >>> config = ViTConfig(img_size=(32, 48), patch_size=4)
        >>> config.grid, config.num_patches, config.num_tokens
        ((8, 12), 96, 97)
    """

    img_size: int | tuple[int, int] = 32  # pixels; one number for a square, else (height, width)
    patch_size: int = 4  # pixels
    in_chans: int = 3
    num_classes: int = 10
    embed_dim: int = 192  # D, the width of a token
    depth: int = 9  # encoder blocks
    num_heads: int = 6
    mlp_ratio: float = 2.0  # hidden width of the MLP / D
    pos_embed: str = "learned"  # "none", "learned", "sincos" or "rope"
    pool: str = "cls"  # what the head reads: the "cls" token, or the "mean" of the patch tokens
    norm_eps: float = 1e-6  # of every LayerNorm
    drop_path: float = 0.0  # in training, the probability that a half-block skips an image
    trained_grid: tuple[int, int] | None = None  # set by `resized`: where the positions were learnt

    def __post_init__(self) -> None:
        for name in ("img_size", "trained_grid"):  # JSON has lists where we want tuples
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_config(self)

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        if isinstance(self.img_size, tuple):
            if len(self.img_size) != 2:
                raise ValueError(
                    f"img_size must be one number or (height, width), got {self.img_size}"
                )
            return self.img_size
        return self.img_size, self.img_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_hw
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """N = rows * columns."""
        return self.grid[0] * self.grid[1]

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches: 1 with a CLS token, else 0."""
        return int(self.pool == "cls")

    @property
    def num_tokens(self) -> int:
        """T, the length of the sequence in the encoder."""
        return self.num_prefix + self.num_patches

    @property
    def head_dim(self) -> int:
        """Width d of one head, D / h."""
        return self.embed_dim // self.num_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the hidden layer of the MLP."""
        return int(self.embed_dim * self.mlp_ratio)


def check_config(config: ViTConfig) -> None:
    """See that the numbers of a config fit together; `ViTConfig` calls it.

    Raises:
        ValueError: they do not, with both of them named.
    """
    counts = ("patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads")
    sizes = {name: getattr(config, name) for name in counts}
    sizes["img_size height"], sizes["img_size width"] = config.image_hw
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    for side in config.image_hw:
        if side % config.patch_size:
            raise ValueError(f"img_size {side} is no multiple of patch_size {config.patch_size}")
    if config.embed_dim % config.num_heads:
        raise ValueError(
            f"embed_dim {config.embed_dim} is no multiple of num_heads {config.num_heads}"
        )
    choices = {"pos_embed": ("none", "learned", "sincos", "rope"), "pool": ("cls", "mean")}
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {getattr(config, name)!r}")
    for kind, name in {"sincos": "embed_dim", "rope": "head_dim"}.items():
        if config.pos_embed == kind and getattr(config, name) % 4:
            raise ValueError(
                f'pos_embed="{kind}" needs a multiple of 4 as {name}, got {getattr(config, name)}'
            )
    for name in ("mlp_ratio", "norm_eps"):
        value = getattr(config, name)
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise ValueError(f"{name} must be a positive number, got {value!r}")
    if config.hidden_dim < 1:
        raise ValueError(f"mlp_ratio must leave at least one hidden unit, got {config.mlp_ratio}")
    if not 0 <= config.drop_path < 1:
        raise ValueError(f"drop_path must be in 0..1, 1 excluded, got {config.drop_path}")


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images into flat patches, row by row: (B, C, H, W) -> (B, N, C*P*P).

    Raises:
        ValueError: not a batch of images, or sides that `patch_size` does not divide.

    Examples:
        >>> patchify(torch.zeros(2, 3, 32, 48), patch_size=4).shape
        torch.Size([2, 96, 48])
    """
    if (
        images.ndim != 4
        or patch_size < 1
        or images.shape[2] % patch_size
        or images.shape[3] % patch_size
    ):
        raise ValueError(
            f"expected a batch of images (B, C, H, W) whose H and W are multiples of {patch_size}, "
            f"got {tuple(images.shape)}"
        )
    return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """Put flat patches back together, undoing `patchify`: (B, N, C*P*P) -> (B, C, H, W).

    Raises:
        ValueError: patches that do not fill `grid`.

    Examples:
        >>> unpatchify(torch.zeros(2, 96, 48), patch_size=4, grid=(8, 12)).shape
        torch.Size([2, 3, 32, 48])
    """
    rows, columns = grid
    if patches.ndim != 3 or patches.shape[1] != rows * columns:
        raise ValueError(
            f"a {rows}x{columns} grid of patches has shape (B, {rows * columns}, C*P*P), "
            f"got {tuple(patches.shape)}"
        )
    return rearrange(
        patches, "b (r s) (c p q) -> b c (r p) (s q)", r=rows, p=patch_size, q=patch_size
    )


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token: (B, C, H, W) -> (B, N, D).

    A convolution whose stride equals its kernel size sees every patch exactly once, so it *is*
    "flatten each patch, then apply one shared linear layer" (equation 1 of the ViT paper).

    Raises:
        ValueError: images of another size or number of channels, on call.

    Examples:
        >>> PatchEmbed(img_size=(32, 48), patch_size=4, in_chans=3, embed_dim=192)(
        ...     torch.zeros(2, 3, 32, 48)
        ... ).shape
        torch.Size([2, 96, 192])
    """

    def __init__(
        self, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, N, D); token i is patch (i // columns, i % columns)."""
        expected = (self.proj.in_channels, *self.img_size)
        is_tensor = isinstance(images, Tensor)
        if not is_tensor or images.ndim != 4 or images.shape[1:] != expected:
            got = tuple(images.shape) if is_tensor else f"{type(images).__name__}: see `prepare`"
            raise ValueError(
                f"expected images of shape (B, {', '.join(map(str, expected))}), got {got}"
            )
        return rearrange(self.proj(images), "b d r s -> b (r s) d")


class Attention(nn.Module):
    """Multi-head self-attention: every token looks at every token: (B, T, D) -> (B, T, D).

    Per head, softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, arXiv 1706.03762, equation 1), in one
    kernel unless `fused_attn` is switched off. With `rope`, the (T, d/2) angles of
    `positions.rope_2d`, queries and keys are rotated first.

    Examples:
        >>> Attention(dim=192, num_heads=6)(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = True  # timm's name; which is faster depends on the processor
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        q, k, v = rearrange(
            self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.num_heads
        )
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v)  # (B, h, T, d)
        else:  # the same, written out
            scores = (q * q.shape[-1] ** -0.5) @ k.mT  # (B, h, T, T)
            x = scores.softmax(dim=-1) @ v  # (B, h, T, d)
        return self.proj(rearrange(x, "b h t d -> b t (h d)"))


class Mlp(nn.Module):
    """Two linear layers with a GELU between, for each token alone: (B, T, D) -> (B, T, D).

    The exact, erf-based GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415).

    Examples:
        >>> Mlp(dim=192, hidden_dim=384)(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        return self.fc2(self.act(self.fc1(x)))


def drop_path(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop what a branch adds, for some images of a batch: (B, T, D) -> (B, T, D).

    Each image loses it with probability p; where it is kept it is divided by 1 - p, so that the
    mean stays (after stochastic depth, Huang et al. 2016, arXiv 1603.09382).
    Identity outside training.

    Examples:
        >>> drop_path(torch.ones(2, 17, 64), p=0.5, training=False).mean()
        tensor(1.)
    """
    if p == 0 or not training:
        return x
    keep = x.new_empty(len(x), 1, 1).bernoulli_(1 - p)  # one coin per image
    return x * (keep / (1 - p))


class Block(nn.Module):
    """One pre-norm encoder block: tokens talk, then think: (B, T, D) -> (B, T, D).

    Each half normalises, computes and adds to the stream (ViT paper, equations 2 and 3).

    Examples:
        >>> Block(dim=192, num_heads=6, hidden_dim=384)(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, hidden_dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + drop_path(self.attn(self.norm1(x), rope), self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


def position_tables(config: ViTConfig) -> tuple[Tensor | None, Tensor | None]:
    """Compute the positions that are not learned: a sin-cos table (1, T, D), RoPE angles (T, d/2).

    None for what the config does not use. The CLS token has no position: its row is zero.

    Examples:
        >>> table, angles = position_tables(ViTConfig(pos_embed="sincos"))
        >>> table.shape, angles
        (torch.Size([1, 65, 192]), None)
    """
    coordinates = patch_coordinates(config.grid, config.trained_grid)  # (N, 2)
    prefix = (0, 0, config.num_prefix, 0)  # zero rows in front
    table = angles = None
    if config.pos_embed == "sincos":
        table = F.pad(sincos_2d(coordinates, config.embed_dim), prefix)[None]
    if config.pos_embed == "rope":
        angles = F.pad(rope_2d(coordinates, config.head_dim), prefix)
    return table, angles


def init_weights(model: nn.Module) -> None:
    """Set every parameter to its starting value, in place.

    Zero biases, norms at one, everything else normal with std 0.02. Only the patch projection is
    wider, so that tokens start with the variance of the pixels.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name == "patch_embed.proj.weight":
            nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif parameter.ndim > 1:  # linear layers, CLS token, positions
            nn.init.trunc_normal_(parameter, std=0.02)


def keep_visible(
    x: Tensor, rope: Any, visible: Tensor | None, num_prefix: int
) -> tuple[Tensor, Any]:
    """Keep the tokens of the patches in `visible` (B, V), and the CLS token; None keeps all.

    Returns what is left of tokens (B, T, D) and of angles (T, d/2), if there are any: (B, V', D)
    and (B, 1, V', d/2).

    Examples:
        >>> tokens = torch.tensor([[[9.0], [0.0], [1.0], [2.0]]])  # CLS, then three patches
        >>> keep_visible(tokens, None, torch.tensor([[2, 0]]), num_prefix=1)[0].flatten().tolist()
        [9.0, 2.0, 0.0]
    """
    if visible is None:
        return x, rope
    prefix = torch.arange(num_prefix, device=x.device).expand(len(x), -1)
    indices = torch.cat([prefix, visible + num_prefix], dim=1)
    x = x.take_along_dim(indices[..., None], dim=1)
    return x, None if rope is None else rope[indices][:, None]


class VisionTransformer(nn.Module):
    """The complete network: normalised images (B, C, H, W) -> logits (B, num_classes).

    Raises:
        ValueError: images of another shape than the config says, on call.

    Examples:
        >>> VisionTransformer(ViTConfig())(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.image_hw, config.patch_size, config.in_chans, dim)
        if config.pool == "cls":
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        table, angles = position_tables(config)
        if config.pos_embed == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, dim))
        else:
            self.register_buffer("pos_embed", table, persistent=False)
        self.register_buffer("rope", angles, persistent=False)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.hidden_dim, config.norm_eps, config.drop_path)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        init_weights(self)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes); `visible`: see `keep_visible`."""
        return self.forward_head(self.forward_features(images, visible))

    def forward_features(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) to the tokens after the final norm (B, T, D)."""
        x, rope = keep_visible(self.embed(images), self.rope, visible, self.config.num_prefix)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the final tokens (B, T, D) to logits, or `pre_logits`, what the head reads (B, D)."""
        pooled = tokens[:, 0] if self.config.pool == "cls" else tokens.mean(dim=1)  # (B, D)
        return pooled if pre_logits else self.head(pooled)

    def embed(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to the tokens that enter the first block (B, T, D)."""
        x = self.patch_embed(images)  # (B, N, D)
        if self.config.pool == "cls":
            x = torch.cat([self.cls_token.to(x).expand(len(x), -1, -1), x], dim=1)  # (B, T, D)
        if self.pos_embed is not None:
            x = x + self.pos_embed.to(x)  # whose precision it takes over
        return x

    def resized(self, img_size: int | tuple[int, int]) -> "VisionTransformer":
        """Copy the network for another image size: only its positions change.

        Raises:
            ValueError: a size that the patches do not divide.

        Examples:
            >>> VisionTransformer(ViTConfig()).resized((48, 64)).config.grid
            (12, 16)
        """
        old = self.config
        config = replace(old, img_size=img_size, trained_grid=old.trained_grid or old.grid)
        state = self.state_dict()
        if config.pos_embed == "learned":
            table = state["pos_embed"]
            num_prefix = table.shape[1] - old.num_patches
            state["pos_embed"] = resample_table(table, old.grid, config.grid, num_prefix)
        model = type(self)(config).to(self.head.weight)  # same dtype and device
        model.load_state_dict(state)
        for copied, own in zip(model.parameters(), self.parameters(), strict=True):
            copied.requires_grad_(own.requires_grad)  # what is frozen stays so
        return model.train(self.training)

"""What Vision Transformers have gained since 2020, each part an option of one network.

`model.py` is the network of the ViT paper; read it first. This is the same network with the parts
of DeiT-III, CLIP, SigLIP, DINOv2, DINOv3, EVA-02 and their kin. With every option left off,
`ModernViT` computes what `VisionTransformer` does. Names and state-dict keys are timm's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_tutorial.model import (
    Attention,
    Mlp,
    PatchEmbed,
    VisionTransformer,
    ViTConfig,
    drop_path,
    init_weights,
)
from vit_tutorial.positions import patch_coordinates, rope_2d, rotate


class QuickGELU(nn.Module):
    """The GELU of OpenAI's CLIP, x times the sigmoid of 1.702 x."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        return x * torch.sigmoid(1.702 * x)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "layernorm": nn.LayerNorm,
    "rmsnorm": nn.RMSNorm,  # no mean, no bias (Zhang & Sennrich 2019, arXiv 1910.07467)
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),  # as JAX and SigLIP approximate it
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
}
CHOICES = {
    "norm": (*NORMS,),
    "activation": (*ACTIVATIONS,),
    "mlp": ("mlp", "swiglu"),
    "rotary": ("", "grid", "unit"),
}


@dataclass(frozen=True)
class ModernConfig(ViTConfig):
    """A `ViTConfig` with what came later; every option is off by default.

    Raises:
        ValueError: numbers that do not fit together, or an option that there is not.

    Examples:
        >>> dinov2 = ModernConfig(img_size=56, patch_size=14, registers=4, layer_scale=True)
        >>> dinov2.num_prefix, dinov2.num_tokens
        (5, 21)
    """

    class_token: bool = True  # one may stand there though the head reads the mean of the patches
    registers: int = 0  # tokens of no patch, behind CLS (Darcet et al. 2023, arXiv 2309.16588)
    prefix_positions: bool = True  # have CLS and registers learned positions, too
    pre_norm: bool = False  # a norm before the first block (CLIP: Radford et al. 2021, 2103.00020)
    final_norm: bool = True  # a norm after the last block
    pool_norm: bool = False  # a norm of what the head reads, behind the mean
    attn_pool: bool = False  # the head reads what a learned query collects, not `pool` (SigLIP)
    layer_scale: bool = False  # a factor for each entry that a half-block adds (2103.17239)
    qk_norm: bool = False  # queries and keys are normalised (Dehghani et al. 2023, 2302.05442)
    attn_norm: bool = False  # a norm behind the heads (BEiT-3: Wang et al. 2022, arXiv 2208.10442)
    mlp_norm: bool = False  # a norm behind the hidden layer (EVA-02: Fang et al. 2023, 2303.11331)
    norm: str = "layernorm"  # or "rmsnorm"
    activation: str = "gelu"  # or "gelu_tanh", "quick_gelu", "silu"
    mlp: str = "mlp"  # or "swiglu", whose hidden layer is gated (Shazeer 2020, arXiv 2002.05202)
    # RoPE beside `pos_embed`: rows and columns counted in patches ("grid", EVA-02), or from -1 to 1
    # over the image and times 2 pi ("unit", DINOv3)
    rotary: str = ""
    rotary_base: float = 100.0
    rotary_grid: tuple[int, int] | None = None  # what the rows and columns are stretched to
    rotary_offset: float = 0.0  # the number of the first row and column ("grid")

    def __post_init__(self) -> None:
        if isinstance(self.rotary_grid, list):
            object.__setattr__(self, "rotary_grid", tuple(self.rotary_grid))
        super().__post_init__()
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if type(self.registers) is not int or self.registers < 0:
            raise ValueError(f"registers must be a whole number from 0, got {self.registers!r}")
        if self.pool == "cls" and not self.class_token and not self.attn_pool:
            raise ValueError('pool="cls" needs class_token=True')
        if self.rotary and self.pos_embed not in ("none", "learned"):
            raise ValueError(
                f'rotary needs pos_embed "none" or "learned" beside it, got {self.pos_embed!r}'
            )
        if self.rotary and self.head_dim % 4:
            raise ValueError(f"rotary needs a multiple of 4 as head_dim, got {self.head_dim}")
        if self.pos_embed in ("sincos", "rope"):
            raise ValueError(f"a ModernViT has no pos_embed={self.pos_embed!r}: see `rotary`")

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches: CLS, then registers."""
        return self.class_token + self.registers


def rotary_angles(config: ModernConfig) -> Tensor | None:
    """Compute the angles (T, d/2) by which queries and keys are turned; None without `rotary`.

    Tokens in front of the patches are not turned.

    Examples:
        >>> angles = rotary_angles(ModernConfig(rotary="unit", pos_embed="none", registers=1))
        >>> angles.shape, angles[:2].abs().max()
        (torch.Size([66, 16]), tensor(0.))
    """
    if not config.rotary:
        return None
    places = patch_coordinates(config.grid)  # (N, 2), counted from 0
    sides = torch.tensor(config.grid, dtype=places.dtype)
    if config.rotary == "unit":  # the middles of the patches, from -1 to 1
        places = 2 * math.pi * (2 * (places + 0.5) / sides - 1)
    else:
        stretch = torch.tensor(config.rotary_grid or config.grid) / sides
        places = (places + config.rotary_offset) * stretch
    angles = rope_2d(places, config.head_dim, config.rotary_base)
    return F.pad(angles, (0, 0, config.num_prefix, 0))


def make_norm(config: ModernConfig, dim: int, wanted: bool = True) -> nn.Module:
    """Make a norm over `dim` entries, or nothing."""
    return NORMS[config.norm](dim, eps=config.norm_eps) if wanted else nn.Identity()


class LayerScale(nn.Module):
    """Multiply every entry by a learned factor, small at first: (B, T, D) -> (B, T, D).

    Touvron et al. 2021, arXiv 2103.17239, equation 7.

    Examples:
        >>> LayerScale(192, start=0.5)(torch.ones(2, 65, 192)).unique().item()
        0.5
    """

    def __init__(self, dim: int, start: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return x * self.gamma


class ModernAttention(Attention):
    """`Attention` whose queries, keys and outputs may be normalised: (B, T, D) -> (B, T, D).

    Always in one kernel.

    Examples:
        >>> ModernAttention(ModernConfig(qk_norm=True))(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(self, config: ModernConfig) -> None:
        super().__init__(config.embed_dim, config.num_heads)
        self.q_norm = make_norm(config, config.head_dim, config.qk_norm)
        self.k_norm = make_norm(config, config.head_dim, config.qk_norm)
        self.norm = make_norm(config, config.embed_dim, config.attn_norm)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        q, k, v = rearrange(
            self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.num_heads
        )
        q, k = self.q_norm(q), self.k_norm(k)  # of every head by itself
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(self.norm(rearrange(x, "b h t d -> b t (h d)")))


class ModernMlp(Mlp):
    """`Mlp` with a choice of activation, and a norm behind it: (B, T, D) -> (B, T, D).

    Examples:
        >>> ModernMlp(ModernConfig(activation="silu"))(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(self, config: ModernConfig) -> None:
        super().__init__(config.embed_dim, config.hidden_dim)
        self.act = ACTIVATIONS[config.activation]()
        self.norm = make_norm(config, config.hidden_dim, config.mlp_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        return self.fc2(self.norm(self.act(self.fc1(x))))


class SwiGLU(nn.Module):
    """An MLP in which one linear layer opens and shuts the other: (B, T, D) -> (B, T, D).

    silu(x W_g) times x W_x, entry by entry (Shazeer 2020, arXiv 2002.05202, equation 6).

    Examples:
        >>> SwiGLU(ModernConfig(activation="silu"))(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(config.embed_dim, config.hidden_dim)
        self.fc1_x = nn.Linear(config.embed_dim, config.hidden_dim)
        self.act = ACTIVATIONS[config.activation]()
        self.norm = make_norm(config, config.hidden_dim, config.mlp_norm)
        self.fc2 = nn.Linear(config.hidden_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        return self.fc2(self.norm(self.act(self.fc1_g(x)) * self.fc1_x(x)))


class ModernBlock(nn.Module):
    """`Block`, of the parts above: (B, T, D) -> (B, T, D).

    Examples:
        >>> ModernBlock(ModernConfig(layer_scale=True))(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 65, 192])
    """

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1, self.norm2 = make_norm(config, dim), make_norm(config, dim)
        self.attn = ModernAttention(config)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else ModernMlp(config)
        self.ls1, self.ls2 = (
            LayerScale(dim) if config.layer_scale else nn.Identity() for _ in range(2)
        )
        self.drop_path = config.drop_path

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        added = self.ls1(self.attn(self.norm1(x), rope))
        x = x + drop_path(added, self.drop_path, self.training)
        return x + drop_path(self.ls2(self.mlp(self.norm2(x))), self.drop_path, self.training)


class AttentionPool(nn.Module):
    """Let one learned query collect from all patches: (B, N, D) -> (B, D).

    The head of SigLIP (Zhai et al. 2022, arXiv 2106.04560, section 3.3: "MAP").

    Examples:
        >>> AttentionPool(ModernConfig())(torch.zeros(2, 64, 192)).shape
        torch.Size([2, 192])
    """

    def __init__(self, config: ModernConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_heads = config.num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = make_norm(config, dim)
        self.mlp: Any = Mlp(dim, config.hidden_dim)
        self.mlp.act = ACTIVATIONS[config.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, D)."""
        q = rearrange(self.q(self.latent), "one t (h d) -> one h t d", h=self.num_heads)
        k, v = rearrange(self.kv(x), "b n (two h d) -> two b h n d", two=2, h=self.num_heads)
        x = F.scaled_dot_product_attention(q.expand(len(x), -1, -1, -1), k, v)  # (B, h, 1, d)
        x = self.proj(rearrange(x, "b h one d -> b (one h d)"))
        return x + self.mlp(self.norm(x))


class ModernViT(VisionTransformer):
    """`VisionTransformer`, of the parts above: normalised images (B, C, H, W) -> logits.

    Raises:
        ValueError: images of another shape than the config says, on call.

    Examples:
        >>> siglip = ModernConfig(class_token=False, attn_pool=True, activation="gelu_tanh")
        >>> ModernViT(siglip)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    config: ModernConfig

    def __init__(self, config: ModernConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.image_hw, config.patch_size, config.in_chans, dim)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, dim))
        places = config.num_tokens if config.prefix_positions else config.num_patches
        learned = config.pos_embed == "learned"
        self.pos_embed = nn.Parameter(torch.zeros(1, places, dim)) if learned else None
        self.register_buffer("rope", rotary_angles(config), persistent=False)
        self.norm_pre = make_norm(config, dim, config.pre_norm)
        self.blocks = nn.ModuleList(ModernBlock(config) for _ in range(config.depth))
        self.norm = make_norm(config, dim, config.final_norm)
        self.attn_pool = AttentionPool(config) if config.attn_pool else None
        self.fc_norm = make_norm(config, dim, config.pool_norm)
        self.head = nn.Linear(dim, config.num_classes)
        init_weights(self)

    def embed(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to the tokens that enter the first block (B, T, D)."""
        x = self.patch_embed(images)  # (B, N, D)
        if self.pos_embed is not None and not self.config.prefix_positions:
            x = x + self.pos_embed.to(x)
        prefix = [getattr(self, name, None) for name in ("cls_token", "reg_token")]
        prefix = [tokens.to(x).expand(len(x), -1, -1) for tokens in prefix if tokens is not None]
        x = torch.cat([*prefix, x], dim=1)  # (B, T, D)
        if self.pos_embed is not None and self.config.prefix_positions:
            x = x + self.pos_embed.to(x)
        return self.norm_pre(x)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the final tokens (B, T, D) to logits, or `pre_logits`, what the head reads (B, D)."""
        patches = tokens[:, self.config.num_prefix :]  # (B, N, D)
        if self.attn_pool is not None:
            pooled = self.attn_pool(patches)
        else:
            pooled = tokens[:, 0] if self.config.pool == "cls" else patches.mean(dim=1)  # (B, D)
        pooled = self.fc_norm(pooled)
        return pooled if pre_logits else self.head(pooled)

"""Vision Transformers of other libraries, copied into ours with the same logits.

Each library's way to say what a network is made of becomes a `ModernConfig`, its names of weights
become timm's; a network with nothing modern in it becomes a plain `VisionTransformer`.
"""

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.hardware import plain_state, unwrapped
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.modern import ACTIVATIONS, ModernConfig, ModernViT
from vit_tutorial.weights import load_state

State = dict[str, Tensor]


def from_library(model: nn.Module) -> VisionTransformer:
    """Copy a ViT of timm, torchvision or Hugging Face Transformers into ours; same logits.

    Takes timm's `VisionTransformer` and `Eva`, torchvision's `VisionTransformer`, and of
    Transformers ViT for classes, DINOv2 with and without registers, DINOv3, and the half of CLIP
    and SigLIP that reads images; compiled or not. What has no classifier gets one of zeros, for a
    single class. The head may have been replaced by a linear layer for other classes, alone or in a
    `Sequential`, with dropout or without; dropout is not taken over. Type and device are kept.

    Raises:
        ValueError: another kind of model, or a part that ours do not have, by name.
    """
    model = unwrapped(model)
    library, kind = type(model).__module__.split(".")[0], type(model).__name__
    if (library, kind) not in READERS:
        known = {}
        for where, name in READERS:
            known.setdefault(where, []).append(name)
        listed = "; ".join(f"of {where}: {', '.join(names)}" for where, names in known.items())
        raise ValueError(
            f"got {library}'s {kind}, whose parts have no counterpart in ours; these have: {listed}"
        )
    config, state = READERS[library, kind](model)
    ours = new_network(config).to(next(iter(state.values())))
    for name, value in ours.state_dict().items():  # adding zeros is having no bias
        if name.endswith(".bias") and name not in state:
            state[name] = torch.zeros_like(value)
    load_state(ours, state, f"this {library} model and ours")
    return ours.train(model.training)


def new_network(config: ModernConfig) -> VisionTransformer:
    """Make a network: a plain one, if no option of the config is modern."""
    plain = ViTConfig(**{f.name: getattr(config, f.name) for f in fields(ViTConfig)})
    modern = {f.name: getattr(config, f.name) for f in fields(ModernConfig)}
    usual = ModernConfig(pool=plain.pool, class_token=plain.pool == "cls")
    options = {name for name in modern if name not in {f.name for f in fields(ViTConfig)}}
    if all(modern[name] == getattr(usual, name) for name in options):
        return VisionTransformer(plain)
    return ModernViT(config)


# ---- timm ----------------------------------------------------------------------------------------


def _from_timm(model: Any) -> tuple[ModernConfig, State]:
    _require_known_parts(model)
    state, num_classes = _with_one_head("timm", model, "head", model.embed_dim)
    state = {name: value for name, value in state.items() if not name.startswith("rope.")}
    state = _rename(state, {r"gamma_([12])": r"ls\1.gamma"})
    block: Any = unwrapped(model.blocks[0])
    packed = type(block.mlp).__name__ == "GluMlp"
    hidden = getattr(block.mlp, "fc1_g", None) or block.mlp.fc1
    config = ModernConfig(
        img_size=tuple(model.patch_embed.img_size),
        patch_size=_square(model.patch_embed.proj.kernel_size),
        in_chans=model.patch_embed.proj.in_channels,
        num_classes=num_classes,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=_ratio(hidden.out_features // (1 + packed), model.embed_dim),
        pos_embed="learned" if _is_there(model.pos_embed) else "none",
        pool="cls" if model.global_pool == "token" else "mean",
        norm_eps=block.norm1.eps,
        class_token=_is_there(model.cls_token),
        registers=model.reg_token.shape[1] if _is_there(model.reg_token) else 0,
        prefix_positions=not (model.no_embed_class and model.num_prefix_tokens),
        pre_norm=_is_there(model.norm_pre),
        final_norm=_is_there(model.norm),
        pool_norm=_is_there(model.fc_norm),
        attn_pool=_is_there(model.attn_pool),
        layer_scale=_has_scale(block, 1),
        qk_norm=_is_there(block.attn.q_norm),
        attn_norm=_is_there(block.attn.norm),
        mlp_norm=_is_there(block.mlp.norm),
        norm="rmsnorm" if "rms" in type(block.norm1).__name__.lower() else "layernorm",
        activation=_activation_of(block.mlp.act),
        mlp="mlp" if type(block.mlp).__name__ == "Mlp" else "swiglu",
        **_rotary(getattr(model, "rope", None)),
    )
    for i in range(config.depth):
        _join_qkv(state, f"blocks.{i}.attn.", config.embed_dim)
        if getattr(block.attn, "rotate_half", False):
            _reorder(state, f"blocks.{i}.attn.", config, _neighbours(config))
        if getattr(getattr(model, "rope", None), "grid_indexing", "ij") == "xy":
            _reorder(state, f"blocks.{i}.attn.", config, _rows_first(config))
        for name in [n for n in state if packed and n.startswith(f"blocks.{i}.mlp.fc1.")]:
            gate, gated = state.pop(name).chunk(2)
            state[name.replace("fc1", "fc1_g")] = gate
            state[name.replace("fc1", "fc1_x")] = gated
    return config, state


def _require_known_parts(model: Any) -> None:
    block: Any = unwrapped(model.blocks[0])
    halves = type(block).__name__ in ("Block", "EvaBlock")
    _require("timm", {"blocks whose halves follow each other": halves})
    rope: Any = getattr(model, "rope", None)
    attn, mlp, pool = block.attn, block.mlp, model.attn_pool
    _require(
        "timm",
        {
            "ordinary attention": type(attn).__name__
            in ("Attention", "EvaAttention", "AttentionRope"),
            "keys for every head": getattr(attn, "num_kv_groups", 1) == 1,
            "ungated attention": getattr(attn, "gate", None) is None,
            "an MLP or SwiGLU": type(mlp).__name__ in ("Mlp", "GluMlp", "SwiGLU")
            and not getattr(mlp, "gate_last", False),
            "patches from one convolution": type(model.patch_embed).__name__ == "PatchEmbed"
            and not _is_there(model.patch_embed.norm),
            "a head that reads CLS, the mean of the patches or an attention pool": (
                model.global_pool in ("token", "avg", "map")
                and not getattr(model, "pool_include_prefix", False)
            ),
            "LayerScale in both halves or in none": _has_scale(block, 1) == _has_scale(block, 2),
            "an attention pool like its blocks": not _is_there(pool)
            or (pool.num_heads, pool.mlp.fc1.out_features)
            == (attn.num_heads, mlp.fc1.out_features),
            "rotary positions of fixed angles": not _is_there(rope)
            or type(rope).__name__ in ("RotaryEmbeddingCat", "RotaryEmbeddingDinoV3"),
            "rotary positions over the whole image": (
                getattr(rope, "normalize_coords", "separate") == "separate"
                and not (type(rope).__name__.endswith("DinoV3") and rope.grid_offset)
            ),
        },
    )


def _is_there(part: Any) -> bool:
    """Tell whether timm has put something in a place, and not None or what does nothing."""
    return part is not None and not isinstance(part, nn.Identity)


def _has_scale(block: Any, half: int) -> bool:
    """Tell whether a half-block of timm has LayerScale, which has two names there."""
    names = f"ls{half}", f"gamma_{half}"
    return any(_is_there(getattr(block, name, None)) for name in names)


def _rotary(rope: Any) -> dict[str, Any]:
    """Say in a config's words how a network of timm turns queries and keys."""
    if not _is_there(rope):
        return {}
    grid = getattr(rope, "ref_feat_shape", None)
    return {
        "rotary": "grid" if type(rope).__name__ == "RotaryEmbeddingCat" else "unit",
        "rotary_base": rope.temperature,
        "rotary_grid": None if grid is None else tuple(grid),
        "rotary_offset": float(rope.grid_offset),
    }


def _ratio(hidden: int, dim: int) -> float:
    """Return the `mlp_ratio` that gives exactly this hidden width."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def _activation_of(module: Any) -> str:
    """Name an activation as `modern.ACTIVATIONS` does, by what it computes.

    Raises:
        ValueError: one that is not among them.
    """
    x = torch.linspace(-4, 4, 33)
    for name, make in ACTIVATIONS.items():
        if torch.allclose(make()(x), module(x), atol=1e-6):
            return name
    raise ValueError(f"an activation that ours do not have: {type(module).__name__}")


def _join_qkv(state: State, prefix: str, dim: int) -> None:
    """Make one qkv of what stands in three, with zeros for biases that there are not."""
    if f"{prefix}qkv.weight" not in state:
        state[f"{prefix}qkv.weight"] = torch.cat(
            [state.pop(f"{prefix}{part}_proj.weight") for part in "qkv"]
        )
    biases = [
        next(
            (state.pop(n) for n in (f"{prefix}{p}_proj.bias", f"{prefix}{p}_bias") if n in state),
            None,
        )
        for p in "qkv"
    ]
    if any(bias is not None for bias in biases):
        weight = state[f"{prefix}qkv.weight"]
        biases = [weight.new_zeros(dim) if bias is None else bias for bias in biases]
        state[f"{prefix}qkv.bias"] = torch.cat(biases)


def _reorder(state: State, prefix: str, config: ViTConfig, order: Tensor) -> None:
    """Reorder the entries of queries and keys of every head; their products stay the same."""
    for kind in ("weight", "bias"):
        if (name := f"{prefix}qkv.{kind}") in state:
            heads = state[name].unflatten(0, (3, config.num_heads, -1))  # (3, h, d, ...)
            state[name] = torch.cat([heads[:2, :, order], heads[2:]]).flatten(0, 2)
        for norm in ("q_norm", "k_norm"):
            if (name := f"{prefix}{norm}.{kind}") in state:
                state[name] = state[name][order]


def _neighbours(config: ViTConfig) -> Tensor:
    """Return the order that makes pairs (2i, 2i + 1), as we turn them, of (i, i + d/2)."""
    return torch.arange(config.head_dim).view(2, -1).T.flatten()


def _rows_first(config: ViTConfig) -> Tensor:
    """Return the order that swaps the half that turns with the column and that with the row."""
    return torch.arange(config.head_dim).roll(config.head_dim // 2)


def _from_torchvision(model: Any) -> tuple[ModernConfig, State]:
    block: Any = unwrapped(model.encoder.layers[0])
    plain = {"a patch projection of one convolution": isinstance(model.conv_proj, nn.Conv2d)}
    _require("torchvision", plain)
    state, num_classes = _with_one_head("torchvision", model, "heads", model.hidden_dim)
    config = ModernConfig(
        img_size=model.image_size,
        patch_size=model.patch_size,
        in_chans=model.conv_proj.in_channels,
        num_classes=num_classes,
        embed_dim=model.hidden_dim,
        depth=len(model.encoder.layers),
        num_heads=block.num_heads,
        mlp_ratio=model.mlp_dim / model.hidden_dim,
        norm_eps=block.ln_1.eps,
    )
    return config, _rename(state, TORCHVISION_KEYS)


# ---- Hugging Face Transformers: the names of version 5, and those of 4 where they differ ---------


def _from_huggingface(model: Any) -> tuple[ModernConfig, State]:
    theirs = model.config
    state, num_classes = _with_one_head("Hugging Face", model, "classifier", theirs.hidden_size)
    state = _named_as_timm(state, VIT_KEYS, theirs.hidden_size)
    activation = _activation_called(theirs.hidden_act)
    sizes = _sizes(theirs, state)
    return ModernConfig(**sizes, num_classes=num_classes, activation=activation), state


def _from_dinov2(model: Any) -> tuple[ModernConfig, State]:
    theirs = model.config
    state = _named_as_timm(plain_state(model), DINO_KEYS, theirs.hidden_size)
    registers = getattr(theirs, "num_register_tokens", 0)
    if registers:  # which come in behind the positions
        places = state["pos_embed"]
        none = places.new_zeros(1, registers, places.shape[2])
        state["pos_embed"] = torch.cat([places[:, :1], none, places[:, 1:]], dim=1)
    gated = theirs.use_swiglu_ffn
    return ModernConfig(
        **_sizes(theirs, state),
        num_classes=1,
        registers=registers,
        layer_scale=True,
        mlp="swiglu" if gated else "mlp",
        activation="silu" if gated else _activation_called(theirs.hidden_act),
    ), _without_classes(state)


def _from_dinov3(model: Any) -> tuple[ModernConfig, State]:
    theirs = model.config
    state = _named_as_timm(plain_state(model), DINO_KEYS, theirs.hidden_size)
    config = ModernConfig(
        **_sizes(theirs, state),
        pos_embed="none",
        num_classes=1,
        registers=theirs.num_register_tokens,
        layer_scale=True,
        mlp="swiglu" if theirs.use_gated_mlp else "mlp",
        activation=_activation_called(theirs.hidden_act),
        rotary="unit",
        rotary_base=theirs.rope_theta,
    )
    if not config.registers:
        del state["reg_token"]
    for i in range(config.depth):
        _reorder(state, f"blocks.{i}.attn.", config, _neighbours(config))
    return config, _without_classes(state)


def _from_siglip(model: Any) -> tuple[ModernConfig, State]:
    theirs = model.config
    state = _named_as_timm(plain_state(model), SIGLIP_KEYS, theirs.hidden_size)
    _require("Hugging Face", {"an attention pool": "attn_pool.latent" in state})
    for kind in ("weight", "bias"):
        in_proj = state.pop(f"attn_pool.attention.in_proj_{kind}")
        state[f"attn_pool.q.{kind}"] = in_proj[: theirs.hidden_size]
        state[f"attn_pool.kv.{kind}"] = in_proj[theirs.hidden_size :]
    state["pos_embed"] = state["pos_embed"][None]
    return ModernConfig(
        **_sizes(theirs, state),
        pool="mean",
        num_classes=1,
        class_token=False,
        attn_pool=True,
        activation=_activation_called(theirs.hidden_act),
    ), _without_classes(state)


def _from_clip(model: Any) -> tuple[ModernConfig, State]:
    theirs = model.config
    state = _named_as_timm(plain_state(model), CLIP_KEYS, theirs.hidden_size)
    state["cls_token"] = state["cls_token"][None, None]
    state["pos_embed"] = state["pos_embed"][None]
    projection = state.get("head.weight")  # into what images and texts share
    return ModernConfig(
        **_sizes(theirs, state),
        num_classes=1 if projection is None else len(projection),
        pre_norm=True,
        final_norm=False,  # only what the head reads is normalised
        pool_norm=True,
        activation=_activation_called(theirs.hidden_act),
    ), state if projection is not None else _without_classes(state)


def _from_pair(model: Any) -> tuple[ModernConfig, State]:
    half = model.vision_model
    return READERS["transformers", type(half).__name__](half)


def _sizes(theirs: Any, state: State) -> dict[str, Any]:
    """Return what all of them have, from a config of Transformers and weights with timm's names."""
    size = theirs.image_size
    fc2 = state["blocks.0.mlp.fc2.weight"]
    return {
        "img_size": size if isinstance(size, int) else tuple(size),
        "patch_size": _square(theirs.patch_size),
        "in_chans": theirs.num_channels,
        "embed_dim": theirs.hidden_size,
        "depth": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "mlp_ratio": _ratio(fc2.shape[1], theirs.hidden_size),
        "norm_eps": theirs.layer_norm_eps,
    }


def _without_classes(state: State) -> State:
    """Add a head of zeros for a single class."""
    weight = state["blocks.0.mlp.fc2.weight"].detach()
    head = {"head.weight": weight.new_zeros(1, len(weight)), "head.bias": weight.new_zeros(1)}
    return state | head


def _activation_called(name: str) -> str:
    """Name an activation of Transformers as `modern.ACTIVATIONS` does."""
    from transformers.activations import ACT2FN

    return _activation_of(ACT2FN[name])


def _named_as_timm(state: State, rules: dict[str, str], dim: int) -> State:
    """Give weights timm's names, with queries, keys and values in one."""
    state = {name: value for name, value in state.items() if "mask_token" not in name}
    state = _rename(state, rules)
    gated = any(".fc1_g." in name for name in state)
    state = {n if gated else n.replace(".fc1_x.", ".fc1."): value for n, value in state.items()}
    for i in {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}:
        _join_qkv(state, f"blocks.{i}.attn.", dim)
    return state


Reader = Callable[[Any], tuple[ModernConfig, State]]
READERS: dict[tuple[str, str], Reader] = {
    ("timm", "VisionTransformer"): _from_timm,
    ("timm", "Eva"): _from_timm,
    ("torchvision", "VisionTransformer"): _from_torchvision,
    ("transformers", "ViTForImageClassification"): _from_huggingface,
    ("transformers", "Dinov2Model"): _from_dinov2,
    ("transformers", "Dinov2WithRegistersModel"): _from_dinov2,
    ("transformers", "DINOv3ViTModel"): _from_dinov3,
    ("transformers", "SiglipVisionModel"): _from_siglip,
    ("transformers", "CLIPVisionModel"): _from_clip,
    ("transformers", "CLIPVisionModelWithProjection"): _from_clip,
    ("transformers", "CLIPModel"): _from_pair,
    ("transformers", "SiglipModel"): _from_pair,
}
TORCHVISION_KEYS = {
    r"class_token": "cls_token",
    r"encoder\.pos_embedding": "pos_embed",
    r"conv_proj": "patch_embed.proj",
    r"encoder\.layers\.encoder_layer_(\d+)": r"blocks.\1",
    r"ln_([12])": r"norm\1",
    r"self_attention\.in_proj_": "attn.qkv.",
    r"self_attention\.out_proj": "attn.proj",
    r"mlp\.0": "mlp.fc1",
    r"mlp\.3": "mlp.fc2",
    r"encoder\.ln": "norm",
}
VIT_KEYS = {
    r"vit\.embeddings\.cls_token": "cls_token",
    r"vit\.embeddings\.position_embeddings": "pos_embed",
    r"vit\.embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"vit\.(?:encoder\.layer|layers)\.(\d+)": r"blocks.\1",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)": r"attn.\1_proj",
    r"attention\.(?:output\.dense|o_proj)": "attn.proj",
    r"intermediate\.dense": "mlp.fc1",
    r"(blocks\.\d+)\.output\.dense": r"\1.mlp.fc2",
    r"vit\.layernorm": "norm",
}
DINO_KEYS = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.patch_embeddings(?:\.projection)?": "patch_embed.proj",
    r"(?:encoder\.|model\.)?layer\.(\d+)": r"blocks.\1",
    r"attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)": r"attn.\1_proj",
    r"attention\.(?:output\.dense|o_proj)": "attn.proj",
    r"layer_scale([12])\.lambda1": r"ls\1.gamma",
    r"mlp\.gate_proj": "mlp.fc1_g",
    r"mlp\.up_proj": "mlp.fc1_x",
    r"mlp\.down_proj": "mlp.fc2",
    r"layernorm": "norm",
}
CLIP_KEYS = {
    r"vision_model\.": "",
    r"embeddings\.class_embedding": "cls_token",
    r"embeddings\.position_embedding\.weight": "pos_embed",
    r"embeddings\.patch_embedding": "patch_embed.proj",
    r"pre_layrnorm": "norm_pre",
    r"encoder\.layers\.(\d+)": r"blocks.\1",
    r"self_attn\.(q|k|v)_proj": r"attn.\1_proj",
    r"self_attn\.out_proj": "attn.proj",
    r"layer_norm([12])": r"norm\1",
    r"post_layernorm": "fc_norm",
    r"visual_projection": "head",
}
SIGLIP_KEYS = {
    **CLIP_KEYS,
    r"post_layernorm": "norm",
    r"head\.probe": "attn_pool.latent",
    r"head\.attention\.out_proj": "attn_pool.proj",
    r"head\.layernorm": "attn_pool.norm",
    r"head\.": "attn_pool.",
}


def _with_one_head(library: str, model: Any, name: str, dim: int) -> tuple[State, int]:
    """Return the weights, those of the head as "head.", and for how many classes it is.

    Where there is no head, it is zeros for a single class.
    """
    head = unwrapped(getattr(model, name))
    parts: list[Any] = [part for part in head.modules() if not isinstance(part, nn.Sequential)]
    parts = [part for part in parts if not isinstance(part, nn.Dropout | nn.Identity)]
    state = plain_state(model)
    if not parts:
        parts = [nn.Linear(dim, 1).to(next(iter(state.values())))]
        nn.init.zeros_(parts[0].weight)
        nn.init.zeros_(parts[0].bias)
    one = len(parts) == 1 and isinstance(parts[0], nn.Linear)
    _require(library, {"a head of one linear layer": one})
    weight, bias = parts[0].weight.detach(), parts[0].bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
    return {**state, "head.weight": weight, "head.bias": bias}, len(weight)


def _rename(state: State, rules: dict[str, str]) -> State:
    """Apply every rule to every key, in order."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules.items():
            key = re.sub(rf"(?:^|(?<=\.)){pattern}", replacement, key)
        renamed[key] = value
    return renamed


def _require(library: str, parts: dict[str, bool]) -> None:
    missing = [name for name, holds in parts.items() if not holds]
    if missing:
        raise ValueError(f"expected a {library} ViT with {', '.join(missing)}; this one differs")


def _square(size: int | tuple[int, ...]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"expected square patches, got {size}")
    return sides.pop()

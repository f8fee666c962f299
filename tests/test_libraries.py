"""Networks of other libraries become ours, with the same logits; what cannot is refused."""

import re
from collections import Counter, OrderedDict
from functools import partial

import conftest
import conversion
import pytest
import timm
import torch
import torchvision
import transformers
from conftest import randomize
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, from_library, libraries
from vit_tutorial.modern import ModernViT

PICTURES = conftest.pictures()
SMALL = {**conftest.SMALL, "depth": 2}
tiny_model = partial(conftest.tiny_model, depth=2)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 16, 24), dtype=torch.float64)


def from_timm(**changes) -> nn.Module:
    return randomize(timm.models.VisionTransformer(**{**SMALL, **changes}))


TIMM = {
    "class token": {},
    "mean": dict(class_token=False, global_pool="avg", fc_norm=False),
    "no positions": dict(pos_embed="none"),
    "mean, no positions": dict(
        class_token=False, global_pool="avg", fc_norm=False, pos_embed="none"
    ),
    "square": dict(img_size=16),
    "grey": dict(in_chans=1),
    "eps 1e-3": dict(norm_layer=partial(nn.LayerNorm, eps=1e-3)),
    "mlp ratio 1.5": dict(mlp_ratio=1.5),
    "no qkv bias": dict(qkv_bias=False),
}
MODERN = {
    "registers": dict(reg_tokens=2),
    "registers, read by their mean": dict(reg_tokens=2, class_token=False, global_pool="avg"),
    "prefix without positions": dict(reg_tokens=2, no_embed_class=True),
    "layer scale": dict(init_values=0.1),
    "normed queries": dict(qk_norm=True),
    "inner norms": dict(scale_attn_norm=True, scale_mlp_norm=True),
    "mean with a class token": dict(global_pool="avg", fc_norm=False),
    "norm after pooling": dict(class_token=False, global_pool="avg"),
    "both norms": dict(norm_layer=partial(nn.LayerNorm, eps=1e-3), pre_norm=True),
    "norm nowhere": dict(final_norm=False),
    "approximate GELU": dict(act_layer=partial(nn.GELU, approximate="tanh")),
    "quick GELU": dict(act_layer=timm.layers.QuickGELU),
    "SwiGLU, packed": dict(mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU),
    "SwiGLU": dict(mlp_layer=timm.layers.SwiGLU, act_layer=nn.SiLU),
    "RMSNorm": dict(norm_layer=partial(timm.layers.RmsNorm, eps=1e-5)),
    "attention pool": dict(class_token=False, global_pool="map", reg_tokens=1),
}


def from_eva(**changes) -> nn.Module:
    return randomize(timm.models.Eva(**{**SMALL, **changes}))


EVA = {
    "plain": {},
    "separate projections": dict(qkv_fused=False),
    "rotary": dict(use_rot_pos_emb=True),
    "rotary, stretched": dict(use_rot_pos_emb=True, ref_feat_shape=(3, 5), rope_temperature=50.0),
    "rotary alone": dict(use_rot_pos_emb=True, use_abs_pos_emb=False, class_token=False)
    | dict(global_pool="avg", attn_type="rope"),
    "DINOv3": dict(use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3")
    | dict(rope_rotate_half=True, num_reg_tokens=3, init_values=0.1, rope_temperature=100.0),
    "DINOv3, normed queries": dict(use_rot_pos_emb=True, rope_type="dinov3", qk_norm=True)
    | dict(rope_rotate_half=True, attn_type="rope", use_abs_pos_emb=False),
    "EVA-02": dict(use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True),
    "gated, packed": dict(swiglu_mlp=True, mlp_ratio=1.5),
    "norm in the MLP alone": dict(scale_mlp=True),
    "columns first": dict(use_rot_pos_emb=True, rope_grid_indexing="xy", rope_grid_offset=1.0),
    "columns first, in halves": dict(use_rot_pos_emb=True, rope_grid_indexing="xy", qk_norm=True)
    | dict(rope_rotate_half=True),
}


@pytest.mark.parametrize("kind", TIMM)
def test_timms_vit_keeps_its_logits(kind):
    theirs = from_timm(**TIMM[kind])
    ours = from_library(theirs)
    images = pictures(2, ours.config.in_chans, *ours.config.image_hw)
    assert type(ours) is VisionTransformer
    assert_close(ours(images), theirs(images))
    assert not ours.training
    assert from_library(theirs.train()).training


@pytest.mark.parametrize("kind", MODERN)
def test_a_modern_vit_of_timm_keeps_its_logits(kind):
    theirs = from_timm(**MODERN[kind])
    ours = from_library(theirs)
    assert type(ours) is ModernViT
    assert_close(ours(PICTURES), theirs(PICTURES))


@pytest.mark.parametrize("kind", EVA)
def test_an_eva_of_timm_keeps_its_logits(kind):
    theirs = from_eva(**EVA[kind])
    assert_close(from_library(theirs)(PICTURES), theirs(PICTURES))


def test_a_model_of_timms_own_making_is_read():
    theirs = randomize(
        timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=1)
    )
    ours = from_library(theirs)
    images = pictures(1, 3, 32, 32)
    assert_close(ours(images), theirs(images))


def from_torchvision(**changes) -> nn.Module:
    sizes = dict(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=40)
    theirs = torchvision.models.VisionTransformer(**{**sizes, "num_classes": 5, **changes})
    return randomize(theirs)


def test_torchvisions_vit_keeps_its_logits():
    theirs = from_torchvision()
    images = pictures(2, 3, 16, 16)
    assert_close(from_library(theirs)(images), theirs(images))


def from_huggingface(**changes) -> nn.Module:
    sizes = dict(
        image_size=(16, 24),
        patch_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_size=24,
        intermediate_size=40,
        num_labels=5,
    )
    config = transformers.ViTConfig(**{**sizes, **changes})
    return randomize(transformers.ViTForImageClassification(config))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_size": 16},
        {"num_channels": 1},
        {"layer_norm_eps": 1e-6},
        {"qkv_bias": False},
        {"hidden_act": "gelu_new"},
    ],
    ids=str,
)
def test_huggingfaces_vit_keeps_its_logits(changes):
    theirs = from_huggingface(**changes)
    ours = from_library(theirs)
    images = pictures(2, ours.config.in_chans, *ours.config.image_hw)
    assert_close(ours(images), theirs(images).logits)


HALF = dict(image_size=16, patch_size=8, hidden_size=24, num_hidden_layers=2) | dict(
    num_attention_heads=2
)
FEATURES = {
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**HALF, mlp_ratio=2)),
    "DINOv2, gated": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(**HALF, use_swiglu_ffn=True)
    ),
    "DINOv2 with registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**HALF)
    ),
    "DINOv3": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**HALF, intermediate_size=40, num_register_tokens=3)
    ),
    "DINOv3, gated": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            **HALF, intermediate_size=40, use_gated_mlp=True, hidden_act="silu"
        )
    ),
    "SigLIP": lambda: transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(**HALF, intermediate_size=40)
    ),
    "CLIP": lambda: transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**HALF, intermediate_size=40)
    ),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_what_hugging_face_reads_from_the_last_layer_is_what_our_head_reads(kind):
    theirs = randomize(FEATURES[kind]())
    ours = from_library(theirs)
    images = pictures(2, 3, *ours.config.image_hw)
    read = ours.forward_head(ours.forward_features(images), pre_logits=True)
    assert_close(read, theirs(images).pooler_output)
    assert_close(ours(images), torch.zeros(2, 1, dtype=torch.float64), rtol=0, atol=0)


def test_clip_with_its_projection_gives_what_it_compares_with_texts():
    config = transformers.CLIPVisionConfig(**HALF, intermediate_size=40, projection_dim=7)
    theirs = randomize(transformers.CLIPVisionModelWithProjection(config))
    images = pictures(2, 3, 16, 16)
    assert_close(from_library(theirs)(images), theirs(images).image_embeds)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_of_a_network_for_images_and_texts_the_images_half_is_taken(kind):
    sizes = {**HALF, "intermediate_size": 40}
    text = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=sizes)
    whole = randomize(getattr(transformers, f"{kind}Model")(config))
    images = pictures(2, 3, 16, 16)
    ours = from_library(whole)
    read = ours.forward_head(ours.forward_features(images), pre_logits=True)
    assert_close(read, whole.vision_model(images).pooler_output)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_without_a_head_there_is_one_class_and_zeros(library):
    theirs = from_timm(num_classes=0) if library == "timm" else from_torchvision()
    if library == "torchvision":
        theirs.heads = nn.Identity()
    ours = from_library(theirs)
    images = pictures(2, 3, *ours.config.image_hw)
    read = ours.forward_head(ours.forward_features(images), pre_logits=True)
    assert_close(read, theirs(images))
    assert_close(ours(images), torch.zeros(2, 1, dtype=torch.float64), rtol=0, atol=0)


def test_the_key_names_of_transformers_4_are_read_too():
    """Renamed by hand, as version 4 wrote them."""
    theirs = from_huggingface()
    old_names = [
        (r"vit\.layers\.", "vit.encoder.layer."),
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    ]
    old = {}
    for key, value in theirs.state_dict().items():
        for new_name, old_name in old_names:
            key = re.sub(new_name, old_name, key)
        old[key] = value
    assert "vit.encoder.layer.1.attention.attention.query.weight" in old
    assert "vit.encoder.layer.1.output.dense.bias" in old
    renamed = [libraries._rename(s, libraries.VIT_KEYS) for s in (old, theirs.state_dict())]
    assert list(renamed[0]) == list(renamed[1])
    assert_close(renamed[0], renamed[1], rtol=0, atol=0)


def replaced(kind: str, count: int) -> nn.Module:
    """A new head for a width of 24, as guides to fine-tuning write it."""
    linear = nn.Linear(24, count, bias=kind != "without bias")
    return {
        "in a Sequential": nn.Sequential(linear),
        "with dropout": nn.Sequential(nn.Dropout(0.3), nn.Identity(), linear),
        "by name": nn.Sequential(OrderedDict(drop=nn.Dropout(), fc=linear)),
    }.get(kind, linear)


HEADS = ["alone", "without bias", "in a Sequential", "with dropout", "by name"]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(
    ("build", "name"),
    [("timm", "head"), ("torchvision", "heads"), ("huggingface", "classifier")],
)
def test_a_head_that_was_replaced_is_taken_over(build, name, kind):
    theirs = {"timm": from_timm, "torchvision": from_torchvision, "huggingface": from_huggingface}[
        build
    ]()
    setattr(theirs, name, randomize(replaced(kind, 7)))
    ours = from_library(theirs)
    assert ours.config.num_classes == 7
    images = pictures(2, 3, *ours.config.image_hw)
    logits = theirs(images)
    assert_close(ours(images), getattr(logits, "logits", logits))


def test_a_compiled_model_of_a_library_is_taken_over():
    theirs = from_timm()
    images = pictures(2, 3, 16, 24)
    expected = theirs(images)
    theirs.blocks[0] = torch.compile(theirs.blocks[0], backend="eager")
    assert_close(from_library(torch.compile(theirs, backend="eager"))(images), expected)


def test_a_head_of_several_layers_is_refused():
    theirs = from_timm()
    theirs.head = nn.Sequential(nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 5))
    with pytest.raises(ValueError, match="a head of one linear layer"):
        from_library(theirs)


def test_type_is_kept_and_nothing_is_shared_with_the_model_that_was_read():
    theirs = from_timm().to(torch.float32)
    ours = from_library(theirs)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    before = theirs.head.weight.clone()
    with torch.no_grad():
        ours.head.weight.zero_()
    assert_close(theirs.head.weight, before, rtol=0, atol=0)


REFUSED = {
    "timm distilled": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1),
        "got timm's VisionTransformerDistilled",
    ),
    # the same keys as plain blocks, and other logits
    "timm post-norm blocks": (
        lambda: from_timm(block_fn=ResPostBlock),
        "blocks whose halves follow each other",
    ),
    "timm parallel blocks": (
        lambda: from_timm(block_fn=ParallelThingsBlock),
        "blocks whose halves follow each other",
    ),
    "timm another activation": (
        lambda: from_timm(act_layer=nn.ReLU),
        "an activation that ours do not have: ReLU",
    ),
    "timm differential attention": (
        lambda: from_timm(attn_layer=timm.layers.DiffAttention),
        "ordinary attention",
    ),
    "timm patches from a network": (
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", depth=1),
        "patches from one convolution",
    ),
    "timm one scale": (
        lambda: from_eva(init_values=0.1, attn_only_layer_scale=True),
        "LayerScale in both halves or in none",
    ),
    "timm learned rotations": (
        lambda: from_eva(use_rot_pos_emb=True, rope_type="mixed", attn_type="rope"),
        "rotary positions of fixed angles",
    ),
    "timm max": (lambda: from_timm(global_pool="max"), "a head that reads CLS, the mean"),
    "timm Swin": (
        lambda: timm.models.SwinTransformer(
            img_size=32, patch_size=4, embed_dim=8, depths=(1,), num_heads=(1,), window_size=4
        ),
        "got timm's SwinTransformer",
    ),
    "torchvision convolutional stem": (
        lambda: from_torchvision(
            patch_size=2,
            conv_stem_configs=[torchvision.models.vision_transformer.ConvStemConfig(8, 3, 2)],
        ),
        "a patch projection of one convolution",
    ),
    "torchvision two layers in the head": (
        lambda: from_torchvision(representation_size=7),
        "a head of one linear layer",
    ),
    "torchvision ResNet": (lambda: torchvision.models.resnet18(), "got torchvision's ResNet"),
    "Hugging Face another activation": (
        lambda: from_huggingface(hidden_act="relu"),
        "that ours do not have: ReLU",
    ),
    "Hugging Face without a head": (
        lambda: transformers.ViTModel(
            transformers.ViTConfig(
                hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
            )
        ),
        "got transformers's ViTModel",
    ),
    "a linear layer": (lambda: nn.Linear(2, 2), "got torch's Linear"),
    "ours": (lambda: tiny_model(), "got vit_tutorial's VisionTransformer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_part_that_ours_do_not_have_is_named(kind):
    build, sentence = REFUSED[kind]
    with pytest.raises(ValueError, match=sentence):
        from_library(build())


# ---- all of timm ----


def test_all_of_timm_is_equal_or_refused():
    found = Counter(conversion.outcome(name)[0] for name, _ in conversion.architectures())
    assert found["wrong"] == 0
    assert found["equal"] >= 200
    assert set(found) == {"equal", "refused"}

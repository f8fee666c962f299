"""Every part of a modern ViT, against the plain one and against formulas written out."""

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import SMALL, pictures, randomize, tiny_model
from torch.testing import assert_close

from vit_tutorial import from_library, load_checkpoint, record_attention, save_checkpoint
from vit_tutorial.compress import (
    TokenMerging,
    every_other_layer,
    head_importance,
    prune_heads,
    silence_heads,
)
from vit_tutorial.explorer.live import LiveExplorer
from vit_tutorial.modern import (
    AttentionPool,
    LayerScale,
    ModernConfig,
    ModernViT,
    SwiGLU,
    rotary_angles,
)
from vit_tutorial.transfer import with_head
from vit_tutorial.weights import Card

PICTURES = pictures()
ALL = dict(
    registers=2, prefix_positions=False, pre_norm=True, layer_scale=True, qk_norm=True
) | dict(
    norm="rmsnorm", mlp="swiglu", activation="silu", rotary="unit", pool="mean", pool_norm=True
)
INNER = dict(
    attn_norm=True,
    mlp_norm=True,
    attn_pool=True,
    class_token=False,
    rotary="grid",
    rotary_grid=(4, 4),
)


def modern(**options) -> ModernViT:
    return randomize(ModernViT(ModernConfig(**{**SMALL, **options})))


def card_of(model: ModernViT) -> Card:
    return Card("tiny", model.config, tuple("abcde"), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "noise")


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["none", "learned"])
def test_with_every_option_off_it_is_the_plain_network(pos_embed, pool):
    plain = tiny_model(pos_embed=pos_embed, pool=pool)
    same = ModernViT(ModernConfig(**vars(plain.config), class_token=pool == "cls")).double().eval()
    same.load_state_dict(plain.state_dict())
    assert_close(same(PICTURES), plain(PICTURES), rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", [ALL, INNER], ids=["all", "inner"])
def test_a_gradient_reaches_every_parameter(options):
    model = modern(**options)
    model(PICTURES).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_layer_scale_swiglu_and_attention_pool_are_their_formulas():
    config = ModernConfig(**SMALL, activation="silu")
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    scale, gated, pool = (
        randomize(LayerScale(24)),
        randomize(SwiGLU(config)),
        randomize(AttentionPool(config)),
    )
    assert_close(scale(x), torch.stack([x[..., i] * scale.gamma[i] for i in range(24)], dim=-1))
    gate, value = gated.fc1_g(x), gated.fc1_x(x)
    assert_close(gated(x), gated.fc2(gate * torch.sigmoid(gate) * value))
    heads = []
    for h in range(2):
        part = slice(12 * h, 12 * h + 12)
        q = pool.q(pool.latent)[0, 0, part]
        k, v = pool.kv(x)[..., :24][..., part], pool.kv(x)[..., 24:][..., part]
        weights = (k @ q / 12**0.5).softmax(dim=1)  # (B, N)
        heads.append((weights[..., None] * v).sum(dim=1))
    y = pool.proj(torch.cat(heads, dim=1))
    hidden = F.silu(pool.mlp.fc1(pool.norm(y)))
    assert_close(pool(x), y + pool.mlp.fc2(hidden))


def test_registers_stand_behind_cls_and_no_patch_is_read_as_one():
    model = modern(registers=3, pool="mean")
    tokens = model.embed(PICTURES)
    assert tokens.shape[1] == 1 + 3 + 6
    assert_close(tokens[0, 1:4] - model.pos_embed[0, 1:4], model.reg_token[0])
    last = model.forward_features(PICTURES)
    assert_close(model(PICTURES), model.head(last[:, 4:].mean(dim=1)))
    assert model.config.num_prefix == 4


@pytest.mark.parametrize("kind", ["grid", "unit"])
def test_angles_belong_to_places_and_tokens_in_front_have_none(kind):
    config = ModernConfig(
        **SMALL, rotary=kind, pos_embed="none", registers=1, rotary_base=50.0, rotary_grid=(4, 6),
        rotary_offset=1.0,
    )  # fmt: skip
    angles = rotary_angles(config)
    assert angles.shape == (8, 6)
    assert not angles[:2].any()
    for n in range(6):
        row, column = divmod(n, 3)
        at = ((row + 1) * 2, (column + 1) * 2)  # 2 rows are stretched to 4, 3 columns to 6
        if kind == "unit":
            at = [2 * torch.pi * (2 * (i + 0.5) / of - 1) for i, of in ((row, 2), (column, 3))]
        expected = [place * 50.0 ** (-i / 3) for place in at for i in range(3)]
        assert_close(angles[2 + n], torch.tensor(expected))


def test_another_image_size_is_what_the_library_makes_of_it():
    options = dict(patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5)
    options |= dict(use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3")
    options |= dict(rope_rotate_half=True, num_reg_tokens=2)
    small, large = (timm.models.Eva(img_size=s, **options) for s in ((16, 24), (24, 40)))
    large.load_state_dict(randomize(small).state_dict())
    larger = pictures(2, (24, 40))
    resized = from_library(small).resized((24, 40))
    assert_close(resized(larger), large.double().eval()(larger))


@pytest.mark.parametrize("with_prefix", [True, False])
def test_learned_positions_are_stretched_with_and_without_a_row_for_what_stands_in_front(
    with_prefix,
):
    model = modern(registers=2, prefix_positions=with_prefix)
    larger = model.resized((24, 40))
    kept = 3 if with_prefix else 0
    assert larger.pos_embed.shape == (1, kept + 15, 24)
    assert_close(larger.pos_embed[:, :kept], model.pos_embed[:, :kept], rtol=0, atol=0)
    assert larger(pictures(2, (24, 40))).shape == (2, 5)


@pytest.mark.parametrize("options", [ALL, INNER], ids=["all", "inner"])
def test_patches_that_are_left_out_leave_the_others_as_they_are(options):
    model = modern(**options)
    order = torch.tensor([[5, 0, 3, 1, 4, 2]]).expand(2, -1)
    assert_close(model(PICTURES, visible=order), model(PICTURES))
    assert (model(PICTURES, visible=order[:, :4]) - model(PICTURES)).abs().max() > 1e-3


@pytest.mark.parametrize("options", [ALL, INNER], ids=["all", "inner"])
def test_a_checkpoint_holds_it(options, tmp_path):
    model = modern(**options)
    save_checkpoint(model, tmp_path / "tiny", card_of(model))
    loaded, card = load_checkpoint(tmp_path / "tiny")
    assert type(loaded) is ModernViT
    assert card.config == model.config
    for name, value in model.half().float().state_dict().items():
        assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("options", [ALL, INNER], ids=["all", "inner"])
def test_its_attention_is_recorded(options):
    model = modern(**options)
    record = record_attention(model, PICTURES)
    assert record.grid == (2, 3)
    assert record.num_prefix == model.config.num_prefix
    for weights in record.weights:
        assert_close(weights.sum(dim=-1), torch.ones_like(weights.sum(dim=-1)))


def test_it_gets_another_head_and_half_of_its_layers():
    model = modern(**ALL)
    assert type(with_head(model, 3)) is ModernViT
    half = every_other_layer(model)
    assert half.config.depth == 2
    assert_close(half.blocks[1].ls1.gamma, model.blocks[2].ls1.gamma, rtol=0, atol=0)


def test_heads_are_pruned_as_they_are_silenced():
    model = modern(**ALL)
    gone = {0: [1], 2: [0]}
    assert_close(prune_heads(model, gone)(PICTURES), silence_heads(model, gone)(PICTURES))
    assert (prune_heads(model, gone)(PICTURES) - model(PICTURES)).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        lambda model: prune_heads(model, {0: [1]}),
        lambda model: silence_heads(model, {0: [1]}),
        lambda model: head_importance(model, PICTURES, torch.tensor([0, 1])),
    ],
    ids=["prune", "silence", "importance"],
)
def test_heads_that_are_normalised_together_are_not_taken_apart(change):
    with pytest.raises(ValueError, match="mixes its heads"):
        change(modern(**INNER))


def test_what_knows_plain_blocks_alone_refuses_others():
    model = modern(layer_scale=True)
    with pytest.raises(ValueError, match="written for a plain VisionTransformer, got a ModernViT"):
        TokenMerging(model, r=1)
    with pytest.raises(ValueError, match=r"a page runs a plain VisionTransformer .* ModernViT"):
        LiveExplorer(model, card_of(model), [torch.zeros(16, 24, 3, dtype=torch.uint8).numpy()])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(norm="batchnorm"), "norm must be one of"),
        (dict(activation="relu"), "activation must be one of"),
        (dict(mlp="moe"), "mlp must be one of"),
        (dict(rotary="mixed"), "rotary must be one of"),
        (dict(registers=-1), "registers must be a whole number from 0, got -1"),
        (dict(class_token=False), 'pool="cls" needs class_token=True'),
        (dict(pos_embed="rope"), "no pos_embed='rope': see `rotary`"),
        (dict(rotary="unit", embed_dim=18, num_heads=3), "a multiple of 4 as head_dim, got 6"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ModernConfig(**{**SMALL, **options})

"""The proof: every piece equals an independent reference, in float64, with random weights.

A claim takes the module it is about, so that the planted bugs at the end can be put to it too: a
claim that accepts a broken network is no proof.
"""

import inspect
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import timm
import torch
import torchvision
from conftest import randomize
from torch import nn
from torch.testing import assert_close

import vit_tutorial.model
from vit_tutorial.libraries import from_library

pytestmark = pytest.mark.heart

SMALL = dict(img_size=(16, 24), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)


def random_images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---- claims ----


def attention_is_multihead_attention(m: ModuleType) -> None:
    ours = randomize(m.Attention(dim=24, num_heads=3))
    theirs = nn.MultiheadAttention(24, 3, batch_first=True).double().eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = random_images(2, 7, 24) * 3
    assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def block_is_transformer_encoder_layer(m: ModuleType) -> None:
    ours = randomize(m.Block(dim=24, num_heads=3, hidden_dim=40))
    theirs = nn.TransformerEncoderLayer(
        24,
        3,
        40,
        dropout=0,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    ).double()  # in training mode, where it takes no fast path
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.fc1.weight",
        "linear1.bias": "mlp.fc1.bias",
        "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
        **{f"norm{i}.{kind}": f"norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")},
    }
    state = ours.state_dict()
    theirs.load_state_dict({name: state[ours_name] for name, ours_name in names.items()})
    x = random_images(2, 7, 24)
    assert_close(ours(x), theirs(x))


def embedding_is_unfold_and_linear(m: ModuleType) -> None:
    ours = randomize(m.PatchEmbed((16, 24), 8, 3, 20))
    images = random_images(2, 3, 16, 24)
    patches = nn.functional.unfold(images, kernel_size=8, stride=8).mT  # (B, N, C*P*P)
    assert_close(m.patchify(images, 8), patches)
    expected = nn.functional.linear(patches, ours.proj.weight.flatten(1), ours.proj.bias)
    assert_close(ours(images), expected)


def patches_make_the_image_again(m: ModuleType) -> None:
    images = random_images(2, 3, 16, 24)
    patches = m.patchify(images, 4)
    assert_close(
        patches[:, 1], images[:, :, :4, 4:8].flatten(1)
    )  # the second one lies to the right
    assert_close(m.unpatchify(patches, 4, (4, 6)), images)


def whole_model_is_timms(m: ModuleType) -> None:
    for pool in ("cls", "mean"):
        for pos_embed in ("learned", "none"):
            theirs = randomize(
                timm.models.VisionTransformer(
                    **SMALL,
                    mlp_ratio=2,
                    pos_embed="learn" if pos_embed == "learned" else "none",
                    class_token=pool == "cls",
                    global_pool="token" if pool == "cls" else "avg",
                    fc_norm=False,
                )
            )
            ours = m.VisionTransformer(
                m.ViTConfig(**SMALL, mlp_ratio=2.0, pool=pool, pos_embed=pos_embed)
            )
            ours = ours.double().eval()
            assert list(ours.state_dict()) == list(theirs.state_dict())
            ours.load_state_dict(theirs.state_dict())
            images = random_images(2, 3, 16, 24)
            assert_close(ours.forward_features(images), theirs.forward_features(images))
            assert_close(ours(images), theirs(images))


def batch_items_are_independent(m: ModuleType) -> None:
    for pool in ("cls", "mean"):
        model = randomize(m.VisionTransformer(m.ViTConfig(**SMALL, pool=pool)))
        images = random_images(3, 3, 16, 24)
        assert_close(model(images)[1:2], model(images[1:2]))


def without_positions_patch_order_is_lost(m: ModuleType) -> None:
    """Shuffled patches change nothing without positions, and everything with them."""
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    images = random_images(1, 3, 16, 24)
    shuffled = m.unpatchify(m.patchify(images, 8)[:, order], 8, (2, 3))
    for pos_embed in ("none", "learned", "sincos", "rope"):
        model = randomize(
            m.VisionTransformer(m.ViTConfig(**{**SMALL, "num_heads": 2}, pos_embed=pos_embed))
        )
        change = (model(images) - model(shuffled)).abs().max()
        assert change < 1e-12 if pos_embed == "none" else change > 1e-4


def gradient_reaches_every_parameter(m: ModuleType) -> None:
    for pool in ("cls", "mean"):
        model = randomize(m.VisionTransformer(m.ViTConfig(**SMALL, pool=pool)))
        model(random_images(2, 3, 16, 24)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def rotary_scores_depend_on_the_offset_only(m: ModuleType) -> None:
    """Between equal patches only the offset counts."""
    config = m.ViTConfig(
        img_size=24, patch_size=8, embed_dim=24, depth=1, num_heads=3, pos_embed="rope"
    )
    model = randomize(m.VisionTransformer(config))
    scores = []

    def keep(q, k, v):
        scores.append(q @ k.mT)
        return torch.zeros_like(v)

    original, m.F.scaled_dot_product_attention = m.F.scaled_dot_product_attention, keep
    try:
        model(torch.ones(1, 3, 24, 24, dtype=torch.float64))
    finally:
        m.F.scaled_dot_product_attention = original
    (scores,) = scores
    patches = scores[0, :, 1:, 1:].unflatten(1, (3, 3)).unflatten(3, (3, 3))  # (h, r, c, r', c')
    assert_close(patches[:, 0, 0, 1, 1], patches[:, 1, 1, 2, 2])
    assert_close(patches[:, 0, 1, 0, 2], patches[:, 2, 0, 2, 1])
    assert (patches[:, 0, 0, 0, 1] - patches[:, 0, 0, 1, 0]).abs().min() > 1e-6
    # neither CLS nor the patch in the corner is turned
    assert_close(scores[0, :, :2, :2], model_scores_unrotated(model)[:, :2, :2])


def model_scores_unrotated(model: nn.Module) -> torch.Tensor:
    """q k^T of the first block as if no token had a place: (h, T, T)."""
    block = model.blocks[0]
    x = block.norm1(model.embed(torch.ones(1, 3, 24, 24, dtype=torch.float64)))
    q, k, _ = block.attn.qkv(x)[0].unflatten(-1, (3, 3, 8)).permute(1, 2, 0, 3)
    return q @ k.mT


def drop_path_drops_whole_images_and_keeps_the_mean(m: ModuleType) -> None:
    x = random_images(4000, 5, 6)
    dropped = m.drop_path(x, 0.3, training=True)
    factor = (dropped / x).flatten(1)
    assert_close(factor, factor[:, :1].expand_as(factor))  # one for each image
    kept = factor[:, 0] > 0
    assert_close(factor[kept], torch.full_like(factor[kept], 1 / 0.7))
    assert abs(kept.double().mean() - 0.7) < 0.04
    assert m.drop_path(x, 0.3, training=False) is x

    config = m.ViTConfig(**{**SMALL, "num_heads": 2}, drop_path=0.5)
    model, images = randomize(m.VisionTransformer(config)), random_images(1, 3, 16, 24)
    assert_close(model(images), model(images), rtol=0, atol=0)
    block, tokens = model.blocks[0].train(), random_images(64, 7, config.embed_dim)
    half = tokens + 2 * block.attn(block.norm1(tokens))  # attention kept, at twice its size
    whole = half + 2 * block.mlp(block.norm2(half))
    only_mlp = tokens + 2 * block.mlp(block.norm2(tokens))
    ways = torch.stack([tokens, half, only_mlp, whole])  # (4, 64, T, D)
    off = (block(tokens) - ways).abs().amax(dim=(2, 3))  # (4, 64)
    assert off.amin(dim=0).max() < 1e-9
    assert set(off.argmin(dim=0).tolist()) == {0, 1, 2, 3}  # each way occurs


CLAIMS: list[Callable[[ModuleType], None]] = [
    attention_is_multihead_attention,
    block_is_transformer_encoder_layer,
    embedding_is_unfold_and_linear,
    patches_make_the_image_again,
    whole_model_is_timms,
    batch_items_are_independent,
    without_positions_patch_order_is_lost,
    gradient_reaches_every_parameter,
    rotary_scores_depend_on_the_offset_only,
    drop_path_drops_whole_images_and_keeps_the_mean,
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_claim_holds(claim):
    claim(vit_tutorial.model)


def test_vit_b_16_is_torchvisions_to_the_parameter_and_to_the_logit():
    theirs = randomize(torchvision.models.vit_b_16())
    ours = from_library(theirs)
    assert sum(p.numel() for p in ours.parameters()) == 86_567_656
    images = random_images(1, 3, 224, 224)
    with torch.inference_mode():
        assert_close(ours(images), theirs(images))


def test_rows_of_attention_sum_to_one_for_every_kind_of_position():
    from vit_tutorial import VisionTransformer, ViTConfig, record_attention

    for pos_embed in ("none", "learned", "sincos", "rope"):
        model = randomize(
            VisionTransformer(ViTConfig(**{**SMALL, "num_heads": 2}, pos_embed=pos_embed))
        )
        for weights in record_attention(model, random_images(2, 3, 16, 24)).weights:
            assert_close(weights.sum(-1), torch.ones(2, 2, 7, dtype=torch.float64))


# ---- bugs that people really write, each of which some claim must refuse ----

PLANTED_BUGS = {
    "heads unpacked in the wrong order": ("(three h d) -> three b h", "(three d h) -> three b h"),
    "q, k, v packed last": ("(three h d) -> three", "(h d three) -> three"),
    "heads merged in the wrong order": ('"b h t d -> b t (h d)"', '"b h t d -> b t (d h)"'),
    "keys and values swapped": ("attention(q, k, v)", "attention(q, v, k)"),
    "queries and keys swapped": ("attention(q, k, v)", "attention(k, q, v)"),
    "no scale": ("attention(q, k, v)", "attention(q, k, v, scale=1.0)"),
    "scaled by d instead of sqrt(d)": (
        "attention(q, k, v)",
        "attention(q, k, v, scale=1 / q.shape[-1])",
    ),
    "scaled by the width instead of the head": (
        "attention(q, k, v)",
        "attention(q, k, v, scale=x.shape[-1] ** -0.5)",
    ),
    "causal mask": ("attention(q, k, v)", "attention(q, k, v, is_causal=True)"),
    "no output projection": ('self.proj(rearrange(x, "b h t d', '(rearrange(x, "b h t d'),
    "torch's own eps": ("eps=norm_eps", "eps=1e-5"),
    "approximate GELU": ("nn.GELU()", 'nn.GELU("tanh")'),
    "ReLU": ("nn.GELU()", "nn.ReLU()"),
    "no residual around attention": ("x = x + drop_path(self.attn(", "x = drop_path(self.attn("),
    "no residual around the MLP": (
        "return x + drop_path(self.mlp(",
        "return drop_path(self.mlp(",
    ),
    "no norm before attention": ("self.attn(self.norm1(x), rope)", "self.attn(x, rope)"),
    "one norm used twice": ("self.mlp(self.norm2(x))", "self.mlp(self.norm1(x))"),
    "post-norm": (
        "x + drop_path(self.attn(self.norm1(x), rope), self.drop_path, self.training)",
        "self.norm1(x + self.attn(x, rope))",
    ),
    "no final norm": ("return self.norm(x)", "return x"),
    "patches counted column by column": ('"b d r s -> b (r s) d"', '"b d r s -> b (s r) d"'),
    "CLS token last": (
        "[self.cls_token.to(x).expand(len(x), -1, -1), x]",
        "[x, self.cls_token.to(x).expand(len(x), -1, -1)]",
    ),
    "head reads the wrong token": ("tokens[:, 0]", "tokens[:, 1]"),
    "head reads image 0 of the batch": (
        "tokens.mean(dim=1)",
        "tokens[:1].mean(dim=1).expand(len(tokens), -1)",
    ),
    "positions left out": ("x = x + self.pos_embed", "x = x + 0 * self.pos_embed"),
    "one position for all": ("x = x + self.pos_embed", "x = x + self.pos_embed[:, :1]"),
    "blocks share one set of weights": (
        "for _ in range(config.depth)\n        )",
        "for _ in range(1)\n        )\n"
        "        self.blocks = nn.ModuleList(list(self.blocks) * config.depth)",
    ),
    "only queries rotated": ("rotate(q, rope), rotate(k, rope)", "rotate(q, rope), k"),
    "CLS rotated too": ("config.head_dim), prefix)", "config.head_dim), prefix, value=1.0)"),
    "patch pixels scrambled": ("(r p) (s q) -> b (r s) (c p q)", "(p r) (q s) -> b (r s) (c p q)"),
    "patches put back transposed": (
        "b (r s) (c p q) -> b c (r p) (s q)",
        "b (r s) (c q p) -> b c (r p) (s q)",
    ),
    "CLS token detached": ("self.cls_token.to(x)", "self.cls_token.detach()"),
    "dropped, but not made up for": ("x * (keep / (1 - p))", "x * keep"),
    "dropped for each token": ("new_empty(len(x), 1, 1)", "new_empty(*x.shape[:2], 1)"),
    "dropped where it should stay": ("bernoulli_(1 - p)", "bernoulli_(p)"),
    "dropped in use, too": ("if p == 0 or not training", "if p == 0"),
    "dropped in one branch only": (
        "drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)",
        "self.mlp(self.norm2(x))",
    ),
}


@pytest.mark.parametrize("bug", PLANTED_BUGS)
def test_planted_bug_is_caught(bug, monkeypatch):
    right, wrong = PLANTED_BUGS[bug]
    source = inspect.getsource(vit_tutorial.model)
    assert source.count(right) >= 1, "model.py no longer holds the line that this bug replaces"
    broken = ModuleType("broken_model")
    monkeypatch.setitem(sys.modules, "broken_model", broken)
    exec(compile(source.replace(right, wrong), "broken_model.py", "exec"), broken.__dict__)
    for claim in CLAIMS:
        try:
            claim(broken)
        except AssertionError:  # an answer that differs, and no network that cannot be asked
            return
    pytest.fail(f"no claim noticed: {bug}")

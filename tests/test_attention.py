"""Recording and rollout against a float64 NumPy oracle, and the identities that both must hold."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import randomize
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, ViTConfig, record_attention, rollout
from vit_tutorial.attention import RecordedAttention, position_similarity
from vit_tutorial.positions import rotate

SMALL = dict(img_size=(16, 24), patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)


def tiny_model(**changes) -> VisionTransformer:
    return randomize(VisionTransformer(ViTConfig(**{**SMALL, **changes})))


def pictures(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, 16, 24, dtype=torch.float64, generator=generator)


def random_record(batch=2, heads=3, layers=4, grid=(2, 3), num_prefix=1, seed=0):
    """Rows that sum to 1, as softmax makes them, peaked enough to tell tokens apart."""
    generator = torch.Generator().manual_seed(seed)
    tokens = num_prefix + grid[0] * grid[1]
    scores = torch.randn(
        layers, batch, heads, tokens, tokens, dtype=torch.float64, generator=generator
    )
    return RecordedAttention(list((3 * scores).softmax(-1)), grid, num_prefix)


def hand_made(*layers: list[list[float]]) -> RecordedAttention:
    """One image, one head, a CLS token and the patches in one row."""
    weights = [torch.tensor(layer, dtype=torch.float64)[None, None] for layer in layers]
    return RecordedAttention(weights, (1, len(layers[0]) - 1), 1)


def oracle(record, head_fusion="mean", discard_ratio=0.0, residual=0.5, layers=slice(None)):
    """Rollout as the formula says, image by image, in NumPy: (B, T, T)."""
    fuse = {"mean": np.mean, "max": np.max, "min": np.min}[head_fusion]
    results = []
    for image in range(len(record.weights[0])):
        joined = np.eye(record.num_tokens)
        for layer in record.weights[layers]:
            fused = fuse(layer[image].double().numpy(), axis=0)
            smallest = np.argsort(fused, axis=None)[: int(discard_ratio * fused.size)]
            for entry in smallest:
                if entry != 0 or record.num_prefix == 0:
                    fused[np.unravel_index(entry, fused.shape)] = 0
            mixed = (1 - residual) * fused + residual * np.eye(len(fused))
            for row in range(len(mixed)):
                mixed[row] = (
                    mixed[row] / mixed[row].sum() if mixed[row].sum() else np.eye(len(mixed))[row]
                )
            joined = mixed @ joined
        results.append(joined)
    return torch.from_numpy(np.stack(results))


def whole(record, **options) -> torch.Tensor:
    return rollout(record, query=None, **options)


EVERY_OPTION = [
    {},
    {"head_fusion": "max"},
    {"head_fusion": "min"},
    {"discard_ratio": 0.3},
    {"head_fusion": "max", "discard_ratio": 0.9},
    {"head_fusion": "min", "discard_ratio": 0.97, "residual": 0.0},
    {"residual": 0.0},
    {"residual": 0.2, "layers": slice(1, 3)},
    {"residual": 1.0},
]


# ---- rollout ----


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
@pytest.mark.parametrize("options", EVERY_OPTION, ids=str)
def test_rollout_is_the_oracles(options, num_prefix):
    record = random_record(num_prefix=num_prefix)
    expected = oracle(record, **options)
    assert_close(whole(record, **options), expected)
    patch_rows = expected[:, num_prefix:, num_prefix:].unflatten(2, (2, 3))
    assert_close(rollout(record, query=(1, 2), **options), patch_rows[:, 5])
    if num_prefix:
        assert_close(rollout(record, **options), expected[:, 0, num_prefix:].unflatten(1, (2, 3)))


@pytest.mark.parametrize("options", EVERY_OPTION, ids=str)
def test_rows_of_rollout_sum_to_one(options):
    joined = whole(random_record(), **options)
    assert_close(joined.sum(-1), torch.ones(2, 7, dtype=torch.float64))
    assert (joined >= 0).all()


def test_rows_still_sum_to_one_in_float32_over_twelve_layers():
    record = random_record(layers=12, grid=(8, 8))
    record = RecordedAttention([w.float() for w in record.weights], (8, 8), 1)
    assert_close(whole(record).sum(-1), torch.ones(2, 65), rtol=0, atol=1e-5)


def test_attention_to_oneself_alone_reaches_no_patch():
    identity = torch.eye(7, dtype=torch.float64).expand(2, 3, 7, 7)
    record = RecordedAttention([identity] * 4, (2, 3), 1)
    assert_close(whole(record), identity[:, 0], rtol=0, atol=0)
    assert_close(rollout(record), torch.zeros(2, 2, 3, dtype=torch.float64), rtol=0, atol=0)


def test_one_layer_is_attention_mixed_with_the_identity():
    record = random_record(layers=1)
    attention, identity = record.weights[0].mean(1), torch.eye(7, dtype=torch.float64)
    for share in (0.0, 0.3, 0.5):
        assert_close(whole(record, residual=share), (1 - share) * attention + share * identity)
    assert_close(whole(record, residual=1.0), identity.expand(2, 7, 7))


def test_without_residual_rollout_is_the_plain_product_newest_layer_on_the_left():
    record = random_record(layers=3)
    first, second, third = (weights.mean(1) for weights in record.weights)
    assert_close(whole(record, residual=0.0), third @ second @ first)


def test_layers_are_joined_in_the_order_in_which_they_ran():
    """Layer 0: patch 0 reads patch 1. Layer 1: CLS reads patch 0. So CLS has seen patch 1."""
    first = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    second = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert whole(hand_made(first, second))[0, 0].tolist() == [0.5, 0.25, 0.25]
    assert whole(hand_made(second, first))[0, 0].tolist() == [0.5, 0.5, 0.0]


def test_uniform_attention_has_the_closed_form():
    uniform = torch.full((1, 2, 5, 5), 0.2, dtype=torch.float64)
    joined = whole(RecordedAttention([uniform] * 3, (2, 2), 1))
    assert_close(joined[0, 0].tolist(), [0.3, 0.175, 0.175, 0.175, 0.175])


def test_a_sink_that_all_tokens_read_gathers_all_but_a_halving_rest():
    sink = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    sink[..., 2] = 1
    assert whole(RecordedAttention([sink] * 3, (1, 3), 1))[0, 0].tolist() == [0.125, 0, 0.875, 0]


def test_rollouts_of_two_halves_multiply_to_the_whole():
    record = random_record(layers=5)
    for options in ({}, {"head_fusion": "max", "discard_ratio": 0.5}):
        lower = whole(record, layers=slice(0, 2), **options)
        upper = whole(record, layers=slice(2, 5), **options)
        assert_close(upper @ lower, whole(record, **options))


def test_renumbered_tokens_give_the_renumbered_rollout():
    record = random_record()
    order = torch.tensor([0, 3, 1, 6, 2, 5, 4])  # CLS stays
    shuffled = [weights[:, :, order][..., order] for weights in record.weights]
    for options in EVERY_OPTION:
        result = whole(RecordedAttention(shuffled, (2, 3), 1), **options)
        assert_close(result, whole(record, **options)[:, order][..., order])


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_the_order_of_heads_does_not_matter(fusion):
    record = random_record()
    reordered = [weights[:, [2, 0, 1]] for weights in record.weights]
    result = whole(RecordedAttention(reordered, (2, 3), 1), head_fusion=fusion)
    assert_close(result, whole(record, head_fusion=fusion))


def test_equal_heads_make_all_fusions_agree_and_others_order_them():
    record = random_record(heads=1)
    repeated = RecordedAttention([w.expand(-1, 3, -1, -1) for w in record.weights], (2, 3), 1)
    for fusion in ("mean", "max", "min"):
        assert_close(whole(record, head_fusion=fusion), whole(record))
        assert_close(whole(repeated, head_fusion=fusion), whole(record))
    # the share that a token keeps of itself falls with max and rises with min
    peaked = random_record(heads=8, layers=1)
    share = {
        f: whole(peaked, head_fusion=f).diagonal(dim1=1, dim2=2) for f in ("min", "mean", "max")
    }
    assert share["min"].mean() > share["mean"].mean() > share["max"].mean()


def test_rollout_is_the_formula_of_its_paper():
    """A + I, rows scaled to sum 1, then one product after the other."""
    record = random_record()
    joined = None
    for weights in record.weights:
        layer = weights.mean(1) + torch.eye(7, dtype=torch.float64)
        layer = layer / layer.sum(-1, keepdim=True)
        joined = layer if joined is None else layer @ joined
    assert_close(whole(record), joined)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.83, 0.99])
@pytest.mark.parametrize("num_prefix", [0, 1])
def test_discarding_sets_the_stated_number_of_entries_to_zero(ratio, num_prefix):
    record = random_record(layers=1, num_prefix=num_prefix)
    result = whole(record, discard_ratio=ratio, residual=0.0)
    fused = record.weights[0].mean(1)
    gone = int(ratio * fused[0].numel())
    for image in range(2):
        smallest = fused[image].flatten().argsort()[:gone].tolist()
        if num_prefix:
            smallest = [entry for entry in smallest if entry != 0]  # CLS to CLS is protected
        zeros = (result[image] == 0).flatten()
        rows_left = set(range(len(fused[image]))) - {i // len(fused[image]) for i in smallest}
        assert zeros[smallest].sum() >= len(smallest) - len(fused[image])
        for row in rows_left:  # an untouched row has no zero
            assert not zeros.unflatten(0, fused[image].shape)[row].any()
        survivors = (~zeros).sum().item()
        emptied = sum(
            set(range(r * len(fused[image]), (r + 1) * len(fused[image]))) <= set(smallest)
            for r in range(len(fused[image]))
        )
        assert survivors == zeros.numel() - len(smallest) + emptied  # an empty row: its token stays


def test_discarding_more_keeps_a_subset():
    record = random_record(layers=1)
    kept = [whole(record, discard_ratio=r, residual=0.5) > 0 for r in (0.0, 0.3, 0.6, 0.9)]
    for more, fewer in pairwise(kept):
        assert (fewer <= more).all()
        assert fewer.sum() < more.sum()


def test_discarding_nearly_everything_leaves_every_token_with_itself():
    joined = whole(random_record(grid=(3, 5)), discard_ratio=0.999)
    off_diagonal = joined - torch.diag_embed(joined.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1
    assert_close(joined[:, 1:].diagonal(1, 1, 2).median(), torch.tensor(1.0, dtype=torch.float64))


def test_cls_to_cls_survives_even_where_it_is_the_smallest_entry():
    layer = [[0.01, 0.49, 0.5], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]]
    kept = whole(hand_made(layer), discard_ratio=0.5, residual=0.0)[0]
    assert kept[0, 0] > 0
    assert kept[2, 0] == 0


@pytest.mark.parametrize("num_prefix", [0, 1])
def test_every_querys_map_is_a_row_of_the_whole(num_prefix):
    record = random_record(num_prefix=num_prefix)
    joined, rows = whole(record, head_fusion="max", discard_ratio=0.4), whole(record)
    for token in range(1, record.num_tokens):
        result = rollout(record, head_fusion="max", discard_ratio=0.4, query=token)
        assert_close(result.flatten(1), joined[:, token, num_prefix:])
    for row in range(2):
        for column in range(3):
            token = num_prefix + 3 * row + column
            assert record.token((row, column)) == token
            result = rollout(record, query=(row, column))
            assert_close(result.flatten(1), rows[:, token, num_prefix:])
    assert record.token(np.int64(4)) == 4


def test_without_a_cls_token_the_map_is_the_mean_over_all_queries():
    record = random_record(num_prefix=0)
    assert_close(rollout(record).flatten(1), whole(record).mean(1))
    assert_close(rollout(record).sum((1, 2)), torch.ones(2, dtype=torch.float64))


def test_an_image_alone_has_the_map_that_it_has_in_a_batch():
    record = random_record(batch=3)
    for image in range(3):
        alone = RecordedAttention([w[image : image + 1] for w in record.weights], (2, 3), 1)
        for options in EVERY_OPTION:
            assert_close(rollout(alone, **options)[0], rollout(record, **options)[image])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_multiplied_in_float32(dtype):
    record = random_record(layers=12)
    half = RecordedAttention([w.to(dtype) for w in record.weights], (2, 3), 1)
    result = whole(half, discard_ratio=0.2)
    assert result.dtype == torch.float32
    exact = whole(
        RecordedAttention([w.double() for w in half.weights], (2, 3), 1), discard_ratio=0.2
    )
    assert_close(result.double(), exact, rtol=1e-5, atol=1e-6)


def test_a_tall_grid_gives_a_tall_map():
    record = random_record(grid=(16, 4))
    assert rollout(record).shape == (2, 16, 4)
    assert_close(rollout(record)[:, 7, 2], whole(record)[:, 0, 1 + 7 * 4 + 2])


def test_rollout_changes_nothing_in_the_record():
    record = random_record()
    before = [weights.clone() for weights in record.weights]
    for options in EVERY_OPTION:
        whole(record, **options)
    assert_close(record.weights, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"head_fusion": "sum"}, '"mean", "max" or "min", got \'sum\''),
        ({"discard_ratio": 1.0}, "discard_ratio .* got 1.0"),
        ({"discard_ratio": -0.1}, "discard_ratio .* got -0.1"),
        ({"discard_ratio": float("nan")}, "discard_ratio .* got nan"),
        ({"residual": 1.5}, "residual .* got 1.5"),
        ({"residual": -1}, "residual .* got -1"),
        ({"query": 7}, "query must be a token from 0 to 6 .* got 7"),
        ({"query": -1}, "got -1"),
        ({"query": (2, 0)}, r"2x3 grid, got \(2, 0\)"),
        ({"query": (0, -1)}, r"got \(0, -1\)"),
        ({"query": (0, 1, 2)}, r"got \(0, 1, 2\)"),
        ({"query": 0.5}, "got 0.5"),
        ({"query": "cls"}, "got 'cls'"),
        ({"layers": slice(4, 9)}, "some of the 4 recorded layers"),
        ({"layers": 2}, "slice .* got 2"),
    ],
    ids=str,
)
def test_rollout_names_bad_input(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        rollout(random_record(), **options)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([], "at least one layer"),
        ([torch.zeros(1, 2, 7, 5)], r"\(B, heads, 7, 7\), got \(1, 2, 7, 5\)"),
        ([torch.zeros(1, 2, 6, 6)], r"got \(1, 2, 6, 6\)"),
        ([torch.zeros(1, 2, 7, 7), torch.zeros(2, 7, 7)], r"got \(2, 7, 7\)"),
    ],
)
def test_a_record_must_hold_square_maps_over_its_grid(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        RecordedAttention(weights, (2, 3), 1)


# ---- recording ----


def weights_by_hand(model: VisionTransformer, images: torch.Tensor) -> tuple[list, list]:
    """Follow the forward pass with softmax written out: the weights and each block's attention."""
    x, weights, outputs = model.embed(images), [], []
    for block in model.blocks:
        heads, width = block.attn.num_heads, model.config.head_dim
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, width)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, h, T, d)
        if model.rope is not None:
            q, k = rotate(q, model.rope), rotate(k, model.rope)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / width**0.5
        exponential = (scores - scores.amax(-1, keepdim=True)).exp()
        weights.append(exponential / exponential.sum(-1, keepdim=True))
        seen = torch.einsum("bhij,bhjd->bihd", weights[-1], v).flatten(2)  # (B, T, D)
        outputs.append(seen @ block.attn.proj.weight.T + block.attn.proj.bias)
        x = x + outputs[-1]
        x = x + block.mlp(block.norm2(x))
    return weights, outputs


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["none", "learned", "sincos", "rope"])
def test_recorded_weights_are_those_of_the_model(pos_embed, pool):
    """softmax(q k^T / sqrt(d)), and A V W_o + b is what the attention layer really gave."""
    model, images = tiny_model(pos_embed=pos_embed, pool=pool), pictures()
    given = []
    hooks = [
        block.attn.register_forward_hook(lambda module, inputs, output: given.append(output))
        for block in model.blocks
    ]
    record = record_attention(model, images)
    for hook in hooks:
        hook.remove()
    weights, outputs = weights_by_hand(model, images)
    assert_close(record.weights, weights)
    assert_close(given, outputs)
    assert record.grid == (2, 3)
    assert record.num_prefix == (pool == "cls")
    assert list(record.layers) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_logits_are_the_same_to_the_bit(pos_embed, dtype):
    model, images = tiny_model(pos_embed=pos_embed).to(dtype), pictures().to(dtype)
    with torch.no_grad():
        expected = model(images)
    record = record_attention(model, images)
    assert torch.equal(record.logits, expected)
    for weights in record.weights:
        assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not weights.requires_grad
        tolerance = {"rtol": 0, "atol": 2e-2 if dtype.itemsize == 2 else 1e-6}
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **tolerance)


def everything_about(model: nn.Module) -> dict:
    """All that a recording might leave behind."""
    return {
        "state": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "forwards": [type(module).forward for module in model.modules()],
        "hooks": [
            len(hooks)
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("_hooks")
        ],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "frozen": [parameter.requires_grad for parameter in model.parameters()],
        "grad mode": torch.is_grad_enabled(),
        "attention": nn.functional.scaled_dot_product_attention,
    }


@pytest.mark.parametrize("gradients_of", [None, 2])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_on_the_model_changes(training, gradients_of):
    model = tiny_model().train(training)
    model.blocks[1].train(not training)  # a network that is half frozen stays so
    before = everything_about(model)
    record_attention(model, pictures(), gradients_of=gradients_of)
    assert everything_about(model) == before
    with pytest.raises(ValueError, match="expected images"):
        record_attention(model, torch.zeros(1, 3, 8, 8), gradients_of=gradients_of)
    assert everything_about(model) == before
    # and no recorder is left that would listen to later calls
    assert torch.overrides._get_current_function_mode() is None


def test_recording_is_done_in_evaluation_mode():
    model = tiny_model()
    expected = record_attention(model, pictures()).logits
    model.head = nn.Sequential(model.head, nn.Dropout(0.9))
    assert_close(record_attention(model.train(), pictures()).logits, expected, rtol=0, atol=0)


def test_only_the_asked_layers_are_kept():
    model, images = tiny_model(depth=4), pictures()
    every = record_attention(model, images, gradients_of=1)
    some = record_attention(model, images, layers=[1, 3], gradients_of=1)
    assert list(some.layers) == [1, 3]
    assert_close(some.weights, [every.weights[1], every.weights[3]], rtol=0, atol=0)
    assert_close(some.gradients, [every.gradients[1], every.gradients[3]])
    assert_close(some.logits, every.logits, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_changes_nothing(mode):
    model = tiny_model()
    expected = record_attention(model, pictures(), gradients_of=1)
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        plain = record_attention(model, pictures())
        found = record_attention(model, pictures(), gradients_of=1)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert_close(found.gradients, expected.gradients, rtol=0, atol=0)
    assert_close(plain.weights, expected.weights)
    assert plain.gradients is None


def test_an_image_alone_is_recorded_as_in_a_batch():
    model, images = tiny_model(), pictures(3)
    batch = record_attention(model, images, gradients_of=1)
    for i in range(3):
        alone = record_attention(model, images[i : i + 1], gradients_of=1)
        assert_close([w[0] for w in alone.weights], [w[i] for w in batch.weights])
        assert_close([g[0] for g in alone.gradients], [g[i] for g in batch.gradients])


# ---- gradients with respect to the weights ----


def score_from_weights(model, images, weights, class_index) -> torch.Tensor:
    """The logit as a function of the attention weights, everything else held as the model has it.

    Each layer's weights are taken as given; queries and keys no longer matter.
    """
    x = model.embed(images)
    for block, layer_weights in zip(model.blocks, weights, strict=True):
        size = (3, block.attn.num_heads, model.config.head_dim)
        v = block.attn.qkv(block.norm1(x)).unflatten(-1, size)[:, :, 2].transpose(1, 2)
        x = x + block.attn.proj((layer_weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x))[:, class_index].sum()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_last_layers_gradients_are_finite_differences_of_the_score(pool):
    """Nothing comes after the last weights, so moving one entry moves only what it carries."""
    model, images = tiny_model(pool=pool), pictures(1)
    record = record_attention(model, images, gradients_of=3)
    weights, step = record.weights, 1e-5
    for head, query, key in [(0, 0, 0), (1, 0, 4), (0, 2, 5), (1, 5, 1)]:
        scores = []
        for sign in (1, -1):
            moved = weights[-1].clone()
            moved[0, head, query, key] += sign * step
            scores.append(score_from_weights(model, images, [*weights[:-1], moved], 3))
        slope = (scores[0] - scores[1]) / (2 * step)
        assert_close(record.gradients[-1][0, head, query, key], slope, rtol=1e-5, atol=1e-8)
    assert record.gradients[-1].abs().max() > 1e-3


def test_gradients_of_every_layer_are_those_of_a_network_written_out():
    """Earlier weights act through later queries and keys too: the oracle keeps the whole graph."""
    model, images = tiny_model(pos_embed="rope"), pictures()
    weights, _ = weights_by_hand(model, images)  # graphs of their own, joined through x
    x, kept = model.embed(images), []
    for block in model.blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, model.rope), rotate(k, model.rope)
        layer = ((q @ k.mT) / 12**0.5).softmax(-1)
        layer.retain_grad()
        kept.append(layer)
        x = x + block.attn.proj((layer @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    model.forward_head(model.norm(x))[:, 4].sum().backward()
    record = record_attention(model, images, gradients_of=4)
    assert_close(record.weights, weights)
    assert_close(record.gradients, [layer.grad for layer in kept])


def test_gradients_pair_with_their_own_layer():
    """Only the middle block's output reaches the stream: only its gradients are not zero."""
    model = tiny_model()
    for block in (model.blocks[0], model.blocks[2]):
        nn.init.zeros_(block.attn.proj.weight)
    sizes = [g.abs().max() for g in record_attention(model, pictures(), gradients_of=0).gradients]
    assert sizes[1] > 1e-3
    assert sizes[0] == sizes[2] == 0


def test_gradients_tell_classes_apart_and_follow_the_score():
    model, images = tiny_model(), pictures()
    first, second = (record_attention(model, images, gradients_of=k).gradients for k in (0, 1))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(first, second, strict=True))
    difference = record_attention(
        model, images, gradients_of=lambda logits: 2 * logits[:, 0] - logits[:, 1]
    ).gradients
    assert_close(difference, [2 * a - b for a, b in zip(first, second, strict=True)])
    assert_close(record_attention(model, images, gradients_of=torch.tensor(1)).gradients, second)


def test_gradients_do_not_need_trainable_parameters():
    model = tiny_model()
    expected = record_attention(model, pictures(), gradients_of=1)
    model.requires_grad_(False)
    frozen = record_attention(model, pictures(), gradients_of=1)
    assert_close(frozen.gradients, expected.gradients)
    assert_close(frozen.logits, expected.logits)


def test_gradients_leave_the_logits_as_they_are():
    model, images = tiny_model(), pictures()
    with_gradients = record_attention(model, images, gradients_of=1)
    assert_close(with_gradients.logits, model(images).detach())
    assert not with_gradients.logits.requires_grad


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [3]}, r"some of 0 to 2, rising, got \[3\]"),
        ({"layers": [-1]}, r"got \[-1\]"),
        ({"layers": []}, r"got \[\]"),
        ({"layers": [2, 0]}, r"rising, got \[2, 0\]"),  # rollout would join them in that order
        ({"layers": ["a"]}, r"got \['a'\]"),
        ({"gradients_of": 5}, "class from 0 to 4 .* got 5"),
        ({"gradients_of": -1}, "got -1"),
        ({"gradients_of": torch.tensor(9)}, "got tensor"),
        ({"gradients_of": "cat"}, "got 'cat'"),
        ({"gradients_of": lambda logits: torch.zeros(2)}, "depends on the logits"),
    ],
)
def test_record_attention_names_bad_input(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(tiny_model(), pictures(), **options)


def test_other_models_are_refused_with_the_way_to_bring_them_here():
    with pytest.raises(ValueError, match=r"from_library.* got Linear"):
        record_attention(nn.Linear(2, 2), pictures())


def test_a_model_that_attends_otherwise_is_refused():
    model = tiny_model()
    model.blocks[1].attn = nn.Identity()
    model.blocks[1].attn.forward = lambda x, rope: x
    with pytest.raises(ValueError, match="each of 3 blocks, saw 2"):
        record_attention(model, pictures())


def test_attention_with_a_mask_is_refused_instead_of_recorded_wrongly():
    model = tiny_model()

    def causal(x, rope):
        q = x[:, None]
        return nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)[:, 0]

    model.blocks[1].attn = nn.Identity()
    model.blocks[1].attn.forward = causal
    with pytest.raises(ValueError, match="is_causal"):
        record_attention(model, pictures())


# ---- position similarity ----


def test_similarity_of_positions_is_the_cosine_of_their_angle():
    """Against angles in NumPy, in float64, one pair at a time."""
    rows = np.random.default_rng(0).normal(size=(7, 5)) * [[0.01], [3], [1], [100], [1], [5], [2]]
    came = position_similarity(torch.from_numpy(rows), num_prefix=2)
    for i in range(5):
        for j in range(5):
            a, b = rows[i + 2], rows[j + 2]
            angle = 2 * np.arctan2(
                np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)),
                np.linalg.norm(a / np.linalg.norm(a) + b / np.linalg.norm(b)),
            )
            np.testing.assert_allclose(came[i, j].item(), np.cos(angle), atol=1e-12)


def test_similarity_takes_a_models_table_as_it_is():
    model = tiny_model()
    with_batch = position_similarity(model.pos_embed, num_prefix=1)
    assert with_batch.shape == (6, 6)
    assert not with_batch.requires_grad
    assert_close(with_batch, position_similarity(model.pos_embed[0], num_prefix=1))
    assert_close(with_batch.diag(), torch.ones(6, dtype=torch.float64))
    assert position_similarity(torch.randn(3, 4).half()).dtype == torch.float32


def test_a_position_of_zeros_is_like_nothing():
    assert position_similarity(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("shape", "prefix"), [((5,), 0), ((2, 5, 3), 0), ((5, 3), 5), ((5, 3), -1)]
)
def test_a_table_that_is_none_is_refused(shape, prefix):
    with pytest.raises(ValueError, match=r"expected a table \(T, D\) or \(1, T, D\)"):
        position_similarity(torch.zeros(shape), num_prefix=prefix)

"""Maps from recorded attention against a float64 NumPy oracle, and the identities they hold."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_model
from torch.testing import assert_close

from vit_tutorial import record_attention, relevance, rollout
from vit_tutorial.attention import (
    attention_distance,
    attention_entropy,
    attention_map,
)
from vit_tutorial.recording import RecordedAttention

pytestmark = pytest.mark.heart


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_maps():
    model, images = tiny_model().float(), pictures().float()
    records = [
        record_attention(model.to(device), images.to(device), gradients_of=2)
        for device in ("cpu", "cuda")
    ]
    for make in (rollout, relevance, lambda r: rollout(r, head_fusion="max", discard_ratio=0.5)):
        here, there = map(make, records)
        assert there.device.type == "cuda"
        assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


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


# ---- the popular rollout ----


def popular_rollout(
    record: RecordedAttention, fusion: str, discard: float, mended: bool = False
) -> np.ndarray:
    """The formula that most tutorials use (vit-explain, 2020), for one image, in NumPy.

    It divides column j by the sum of row j; mended, row j.
    """
    tokens = record.num_tokens
    joined = np.eye(tokens)
    for layer in record.weights:
        fused = getattr(layer[0].numpy(), fusion)(axis=0)
        flat = fused.flatten()
        smallest = np.argsort(flat, kind="stable")[: int(discard * tokens**2)]
        flat[smallest[smallest != 0]] = 0
        mixed = (flat.reshape(tokens, tokens) + np.eye(tokens)) / 2
        joined = (mixed / mixed.sum(-1, keepdims=mended)) @ joined
    return joined[0, 1:]


def test_the_popular_rollout_is_right_for_means_and_wrong_elsewhere():
    """With rows that sum to 1 its division does nothing; else it differs by what is pinned here."""
    record = random_record(batch=1, layers=6, grid=(4, 4))
    for fusion, discard, difference in (
        ("mean", 0.0, 0.0),
        ("mean", 0.9, 0.210),
        ("max", 0.0, 0.084),
        ("max", 0.9, 0.518),
        ("min", 0.0, 0.021),
    ):
        right = rollout(record, head_fusion=fusion, discard_ratio=discard).flatten().numpy()
        wrong = popular_rollout(record, fusion, discard)
        came = np.abs(right / right.max() - wrong / wrong.max()).max()
        assert came == pytest.approx(difference, abs=0.001), (fusion, discard)


@pytest.mark.parametrize(
    ("fusion", "discard"), [("max", 0.0), ("mean", 0.9), ("max", 0.9), ("min", 0.0)]
)
def test_the_popular_rollout_with_its_division_mended_is_ours(fusion, discard):
    record = random_record(batch=1, layers=6, grid=(4, 4))
    ours = rollout(record, head_fusion=fusion, discard_ratio=discard).flatten()
    mended = popular_rollout(record, fusion, discard, mended=True)
    np.testing.assert_allclose(ours, mended, atol=1e-12)


def test_of_equal_entries_each_loses_what_it_loses_on_average():
    """Nine of 25 go: over all ways to choose them an entry is lost in 9 of 25, CLS -> CLS never."""
    record = RecordedAttention([torch.full((2, 1, 5, 5), 0.2, dtype=torch.float64)], (2, 2), 1)
    came = rollout(record, discard_ratio=0.36, residual=0.0, query=None)
    expected = torch.full((5, 5), 0.2, dtype=torch.float64)
    expected[0] = torch.tensor([1, *[16 / 25] * 4]) / (1 + 4 * 16 / 25)
    assert_close(came, expected.expand(2, 5, 5))


def test_which_entries_are_discarded_does_not_depend_on_where_they_stand():
    """Four values alone, so many are equal; against the mean over all choices, by their number."""
    generator = torch.Generator().manual_seed(4)
    weights = torch.randint(1, 5, (1, 1, 7, 7), generator=generator).double()
    record = RecordedAttention([weights], (2, 3), 1)
    order = torch.tensor([0, 3, 6, 1, 5, 2, 4])
    turned = RecordedAttention([weights[:, :, order][..., order]], (2, 3), 1)
    for ratio in (0.1, 0.35, 0.5, 0.8):
        came = rollout(record, discard_ratio=ratio, residual=0.0, query=None)[0]
        there = rollout(turned, discard_ratio=ratio, residual=0.0, query=None)[0]
        assert_close(there, came[order][:, order])
        flat, count = weights.flatten(), int(ratio * 49)
        left = torch.zeros(49, dtype=torch.float64)
        for entry in range(49):
            below, equal = int((flat < flat[entry]).sum()), int((flat == flat[entry]).sum())
            goes = min(max(count - below, 0), equal) / equal if entry else 0
            left[entry] = flat[entry] * (1 - goes)
        expected = left.view(7, 7)
        total = expected.sum(-1, keepdim=True)
        expected = torch.where(total > 0, expected / total.clamp_min(1e-9), torch.eye(7).double())
        assert_close(came, expected)


# ---- one layer ----


def test_a_map_of_one_layer_is_a_row_of_its_weights():
    record = random_record(grid=(2, 3))
    weights = torch.stack(record.weights)  # (L, B, h, T, T)
    expected = weights[2, :, 1, 4, 1:].reshape(2, 2, 3)
    assert_close(attention_map(record, layer=2, head=1, query=4), expected)
    assert_close(attention_map(record, layer=-2, head=1, query=(1, 0)), expected)
    assert_close(attention_map(record), weights[-1, :, :, 0, 1:].mean(1).reshape(2, 2, 3))
    without = random_record(num_prefix=0)
    assert_close(attention_map(without), without.weights[-1].mean(dim=(1, 2)).reshape(2, 2, 3))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layer": 4}, "layer must be from -4 to 3, got 4"),
        ({"head": 3}, "head must be from 0 to 2 or None, got 3"),
        ({"head": -1}, "got -1"),
        ({"query": 9}, "query must be a token"),
    ],
)
def test_attention_map_names_bad_input(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        attention_map(random_record(), **options)


# ---- relevance ----

METHODS = ("chefer", "grad_rollout", "legrad", "grad_cam")


def graded_record(seed=0, scale=1.0, num_prefix=1) -> RecordedAttention:
    """Random weights, with random gradients of both kinds."""
    record = random_record(seed=seed, num_prefix=num_prefix)
    generator = torch.Generator().manual_seed(seed + 1)
    draw = [
        scale * torch.randn(w.shape, dtype=w.dtype, generator=generator)
        for w in [*record.weights, *record.weights]
    ]
    depth = len(record.weights)
    return replace(record, gradients=draw[:depth], own_gradients=draw[depth:])


def relevance_oracle(
    record: RecordedAttention, method: str, image: int, query: int = 0
) -> np.ndarray:
    """The four formulas, in NumPy, head by head."""
    weights = [w[image].numpy() for w in record.weights]
    gradients = [g[image].numpy() for g in record.gradients]
    own = [g[image].numpy() for g in record.own_gradients]
    tokens, heads = record.num_tokens, len(weights[0])
    whole = np.eye(tokens)
    if method == "chefer":
        for w, g in zip(weights, gradients, strict=True):
            mean = sum(np.maximum(g[h] * w[h], 0) for h in range(heads)) / heads
            whole = whole + mean @ whole
        row = whole[query]
    elif method == "grad_rollout":
        for w, g in zip(weights, gradients, strict=True):
            mean = np.maximum(sum(g[h] * w[h] for h in range(heads)) / heads, 0)
            mixed = mean + np.eye(tokens)
            whole = mixed / mixed.sum(1, keepdims=True) @ whole
        row = whole[query]
    elif method == "legrad":
        row = np.mean([np.maximum(g, 0).mean(axis=(0, 1)) for g in own], axis=0)
    else:
        patches = slice(record.num_prefix, None)
        slopes = [gradients[-1][h][query, patches].mean() for h in range(heads)]
        row = np.maximum(sum(slopes[h] * weights[-1][h][query] for h in range(heads)) / heads, 0)
    return row[record.num_prefix :].reshape(record.grid)


@pytest.mark.parametrize("method", METHODS)
def test_relevance_is_the_oracles(method):
    record = graded_record()
    for query in (0, 5):
        came = relevance(record, method=method, query=query)
        for image in range(2):
            np.testing.assert_allclose(
                came[image], relevance_oracle(record, method, image, query), atol=1e-12
            )
    without = graded_record(num_prefix=0)
    every = np.mean([relevance_oracle(without, "chefer", 0, query) for query in range(6)], axis=0)
    np.testing.assert_allclose(relevance(without)[0], every, atol=1e-12)


def test_with_gradients_of_one_chefers_rule_is_rollout_without_its_halves():
    record = random_record(layers=5)
    ones = replace(record, gradients=[torch.ones_like(w) for w in record.weights])
    assert_close(relevance(ones), 2**5 * rollout(record))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_zero_give_a_map_of_zeros(method):
    came = relevance(graded_record(scale=0.0), method=method)
    assert came.tolist() == torch.zeros(2, 2, 3).tolist()


def test_a_score_times_five_changes_some_maps_by_a_factor_and_others_altogether():
    """I + c A is not proportional to I + A: what is taught in the lesson on relevance."""
    once, five = graded_record(), graded_record(scale=5.0)
    for method in ("legrad", "grad_cam"):
        assert_close(relevance(five, method=method), 5 * relevance(once, method=method))
    for method in ("chefer", "grad_rollout"):
        maps = [relevance(record, method=method) for record in (once, five)]
        shares = [m / m.sum(dim=(1, 2), keepdim=True) for m in maps]
        assert (shares[0] - shares[1]).abs().max() > 0.02


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_two_classes_differ(method):
    model, images = tiny_model(), pictures()
    maps = [
        relevance(record_attention(model, images, gradients_of=label), method=method)
        for label in (0, 1)
    ]
    assert not torch.allclose(maps[0], maps[1], rtol=1e-3)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_gradients_and_weights_are_paired_layer_by_layer(layer):
    """Only one layer's CLS row has gradients: the map is that row, whichever layer it is."""
    record = random_record(batch=1, layers=3)
    gradients = [torch.zeros_like(w) for w in record.weights]
    gradients[layer][:, :, 0, 1:] = 1
    came = relevance(replace(record, gradients=gradients))
    assert_close(came, attention_map(record, layer))


def test_relevance_says_what_it_needs():
    with pytest.raises(ValueError, match=r"needs gradients: record_attention\(.*gradients_of"):
        relevance(random_record())
    with pytest.raises(ValueError, match=r'"legrad" needs a model with blocks.*from_library'):
        relevance(replace(graded_record(), own_gradients=None), method="legrad")
    with pytest.raises(ValueError, match=r"one of chefer, .*, got 'lrp'"):
        relevance(graded_record(), method="lrp")


# ---- how far and how widely heads look ----


def test_even_attention_looks_as_far_as_two_patches_are_apart_on_average():
    even = RecordedAttention([torch.full((1, 2, 13, 13), 1 / 13).double()], (3, 4), 1)
    places = [(row, column) for row in range(3) for column in range(4)]
    expected = np.mean([np.hypot(a - c, b - d) for a, b in places for c, d in places])
    assert_close(attention_distance(even), torch.full((1, 2), expected).double())
    itself = RecordedAttention([torch.eye(13).double()[None, None]], (3, 4), 1)
    assert attention_distance(itself).tolist() == [[0.0]]


def test_attention_distance_is_the_oracles():
    record = random_record(grid=(2, 3))
    came = attention_distance(record)
    places = [(row, column) for row in range(2) for column in range(3)]
    for layer, weights in enumerate(record.weights):
        for head in range(3):
            far = []
            for image in range(2):
                for i, (a, b) in enumerate(places):
                    row = weights[image, head, i + 1, 1:].numpy()
                    lengths = [np.hypot(a - c, b - d) for c, d in places]
                    far.append((row / row.sum() * lengths).sum())
            np.testing.assert_allclose(came[layer, head], np.mean(far))


def test_entropy_is_zero_for_one_token_and_greatest_for_all():
    even = RecordedAttention([torch.full((1, 2, 7, 7), 1 / 7).double()], (2, 3), 1)
    assert_close(attention_entropy(even), torch.full((1, 2), np.log(7)).double())
    one = torch.zeros(1, 2, 7, 7).double()
    one[..., 3] = 1
    assert attention_entropy(RecordedAttention([one], (2, 3), 1)).tolist() == [[0.0, 0.0]]
    record = random_record()
    weights = record.weights[1][:, 2].numpy()
    expected = -(weights * np.log(weights)).sum(-1).mean()
    np.testing.assert_allclose(attention_entropy(record)[1, 2], expected)


def test_layers_with_unequal_heads_have_no_table():
    record = RecordedAttention([torch.zeros(1, 2, 7, 7), torch.zeros(1, 3, 7, 7)], (2, 3), 1)
    for measure in (attention_distance, attention_entropy):
        with pytest.raises(ValueError, match=r"equally many heads in all layers, got \[2, 3\]"):
            measure(record)

"""Scores of maps: curves with known ends, an oracle whose best order is known, honest intervals."""

from functools import partial
from itertools import pairwise, permutations

import conftest
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vit_tutorial.faithfulness import (
    METHODS,
    METRICS,
    collages,
    faithfulness_table,
    maps_of_all_methods,
    patch_order,
    perturb,
    points_at,
)

tiny_model = partial(conftest.tiny_model, img_size=16, patch_size=4)


def pictures(count: int = 6) -> torch.Tensor:
    return conftest.pictures(count, (16, 16))


class Sum(nn.Module):
    """The probability of class 0 is a weighted sum of pixels, as long as it is in 0..1."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, images):
        p = (images * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([p, 1 - p], dim=1).log()  # softmax gives back p


def linear_oracle(seed=0):
    """Images, a `Sum`, and what each patch adds to the probability: (B, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(3, 16, 16, dtype=torch.float64, generator=generator)
    images = torch.rand(6, 3, 16, 16, dtype=torch.float64, generator=generator) + 0.1
    weights = weights / 3 / 256 / 1.2
    adds = (images * weights).unflatten(3, (4, 4)).unflatten(2, (4, 4)).sum(dim=(1, 3, 5))
    return images, Sum(weights), adds


# ---- curves ----


@pytest.mark.parametrize("baseline", ["mean", "blur"])
def test_curves_begin_with_the_image_and_end_with_the_baseline(baseline):
    model, images, targets = tiny_model(), pictures(), torch.arange(6) % 5
    maps = torch.rand(6, 4, 4)
    curves = perturb(model, images, maps, targets, baseline=baseline)
    whole = model(images).softmax(1)[torch.arange(6), targets].detach()
    assert_close(curves.removed[:, 0], whole)
    assert_close(curves.kept[:, -1], whole)
    assert_close(curves.removed[:, -1], curves.kept[:, 0])
    if baseline == "mean":
        nothing = model(torch.zeros_like(images)).softmax(1)[torch.arange(6), targets].detach()
        assert_close(curves.kept[:, 0], nothing)
    again = model(images).argmax(1) == targets
    assert torch.equal(curves.removed_hits[:, 0], again)
    assert curves.removed.shape == curves.kept_hits.shape == (6, 11)


def test_each_step_removes_the_stated_patches():
    """Against a loop over patches, one image and step after the other."""
    model, images, targets = tiny_model(), pictures(3), torch.tensor([0, 3, 1])
    maps = torch.rand(3, 4, 4)
    curves = perturb(model, images, maps, targets, steps=8)
    for i in range(3):
        best_first = maps[i].flatten().argsort(descending=True).tolist()
        for step in range(9):
            removed, kept = images[i].clone(), torch.zeros_like(images[i])
            for patch in best_first[: 2 * step]:
                row, column = 4 * (patch // 4), 4 * (patch % 4)
                removed[:, row : row + 4, column : column + 4] = 0
                kept[:, row : row + 4, column : column + 4] = images[i][
                    :, row : row + 4, column : column + 4
                ]
            for shown, curve in ((removed, curves.removed), (kept, curves.kept)):
                expected = model(shown[None]).softmax(1)[0, targets[i]]
                assert_close(curve[i, step], expected.detach())


def test_an_image_takes_twenty_forward_passes():
    model, images = tiny_model(), pictures()
    passes = []
    model.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    perturb(model, images, torch.rand(6, 4, 4), torch.zeros(6, dtype=torch.long))
    assert passes == [6] * 20


def test_a_sum_over_pixels_has_its_best_order():
    """What each patch adds is known: no order has a lower deletion, and no higher insertion."""
    images, model, adds = linear_oracle()
    targets = torch.zeros(6, dtype=torch.long)
    best = perturb(model, images, adds, targets, steps=16)
    sums = adds.flatten(1).sort(descending=True).values
    total = sums.sum(1, keepdim=True)
    kept = torch.cat([0 * total, sums.cumsum(1)], dim=1)
    assert_close(best.kept, kept, atol=1e-7, rtol=0)
    assert_close(best.removed, total - kept, atol=1e-7, rtol=0)
    worst = perturb(model, images, -adds, targets, steps=16).scores
    for seed in range(20):
        other = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(seed))
        scores = perturb(model, images, other, targets, steps=16).scores
        assert (scores["deletion"] >= best.scores["deletion"]).all()
        assert (scores["insertion"] <= best.scores["insertion"]).all()
    assert_close((best.scores["deletion"] + worst["deletion"]) / 2, total[:, 0] / 2)


def test_a_negated_map_swaps_positive_and_negative_perturbation():
    model, images, targets = tiny_model(), pictures(), torch.arange(6) % 5
    maps = torch.rand(6, 4, 4)
    one, other = (perturb(model, images, sign * maps, targets, steps=16) for sign in (1, -1))
    assert_close(one.removed, other.kept.flip(1))
    assert torch.equal(one.removed_hits, other.kept_hits.flip(1))
    assert_close(one.scores["positive perturbation"], other.scores["negative perturbation"])


def test_equal_patches_come_in_a_random_order_that_a_seed_repeats():
    even = torch.zeros(200, 4, 4)
    order = patch_order(even, seed=1)
    assert torch.equal(order, patch_order(even, seed=1))
    assert not torch.equal(order, patch_order(even, seed=2))
    assert torch.equal(order.sort(dim=1).values, torch.arange(16).expand(200, 16))
    first = order[:, 0].bincount(minlength=16)
    assert first.max() < 35  # 12.5 of 200 are expected
    by_chance = maps_of_all_methods(tiny_model(), pictures(), torch.zeros(6).long(), seed=1)
    assert torch.equal(patch_order(even[:6], seed=1), patch_order(by_chance["random"], seed=7))
    half = torch.zeros(50, 4, 4)
    half[:, 2:] = 1
    assert (patch_order(half)[:, :8] >= 8).all()


def test_equal_patches_score_on_average_as_over_all_their_orders():
    """Three of four are equal: brute force over their six orders, and 600 drawn ones."""
    model, image, target = conftest.tiny_model(img_size=16), conftest.pictures(1, (16, 16)), 2
    tied, steps = torch.tensor([0.0, 0.0, 1.0, 0.0]), 4

    def probability(shown: set[int], of: torch.Tensor) -> float:
        seen = torch.zeros_like(of)
        for patch in shown:
            row, column = 8 * (patch // 2), 8 * (patch % 2)
            seen[:, :, row : row + 8, column : column + 8] = of[
                :, :, row : row + 8, column : column + 8
            ]
        return model(seen).softmax(1)[0, target].item()

    areas = []
    for order in permutations((0, 1, 3)):
        curve = [probability(set((2, *order)[:count]), image) for count in range(5)]
        areas.append(sum(a + b for a, b in pairwise(curve)) / 8)
    many = 600
    drawn = perturb(
        model, image.expand(many, -1, -1, -1), tied.view(1, 2, 2).expand(many, -1, -1),
        torch.full((many,), target), steps=steps,
    ).scores["insertion"]  # fmt: skip
    assert {round(area, 9) for area in drawn.tolist()} == {round(area, 9) for area in areas}
    spread = torch.tensor(areas).std(correction=0)
    assert spread > 0
    expected = sum(areas) / len(areas)
    assert abs(drawn.mean().item() - expected) < 4 * spread / many**0.5


def test_a_map_that_says_nothing_scores_exactly_as_the_random_one():
    model, images, targets = tiny_model(), pictures(), torch.arange(6) % 5
    by_chance = maps_of_all_methods(model, images, targets, seed=3)["random"]
    nothing, drawn = (
        perturb(model, images, maps, targets, seed=3).scores
        for maps in (torch.zeros(6, 4, 4), by_chance)
    )
    for metric, values in drawn.items():
        assert torch.equal(nothing[metric], values)


def test_areas_are_over_the_true_shares_of_the_patches():
    """Sixteen patches in ten steps: 2, 3, 5, 6, 8, 10, 11, 13, 14; a straight line stays one."""
    images, model, adds = linear_oracle()
    targets = torch.zeros(6, dtype=torch.long)
    even = model.weights.new_ones(3, 16, 16) / 3 / 256 / 1.2
    curves = perturb(Sum(even), torch.ones_like(images), adds, targets)
    counts = torch.tensor([0, 2, 3, 5, 6, 8, 10, 11, 13, 14, 16]) / 16
    assert_close(curves.shares, counts.double())
    assert_close(curves.kept, (counts / 1.2).double().expand(6, -1), atol=1e-6, rtol=0)
    assert_close(curves.scores["deletion"], torch.full((6,), 0.5 / 1.2).double())
    scores = perturb(model, images, adds, targets)
    y, x = scores.removed, scores.shares
    expected = sum((x[n + 1] - x[n]) * (y[:, n + 1] + y[:, n]) / 2 for n in range(10))
    assert_close(scores.scores["deletion"], expected)
    hits = scores.removed_hits.double()
    inner = sum((x[n + 1] - x[n]) * (hits[:, n + 1] + hits[:, n]) / 2 for n in range(1, 9))
    assert_close(scores.scores["positive perturbation"], inner / (x[9] - x[1]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"maps": torch.rand(6, 3, 4)}, r"maps \(6, 3, 4\) do not divide images \(6, 3, 16, 16\)"),
        ({"maps": torch.rand(5, 4, 4)}, r"maps \(5, 4, 4\) do not divide"),
        ({"steps": 2}, "steps must be 3 or more, got 2"),
        ({"baseline": "black"}, '"mean" or "blur", got \'black\''),
    ],
)
def test_perturb_names_bad_input(options, sentence):
    asked = {"maps": torch.rand(6, 4, 4), "targets": torch.zeros(6, dtype=torch.long), **options}
    with pytest.raises(ValueError, match=sentence):
        perturb(tiny_model(), pictures(), **asked)


# ---- methods ----


def test_all_methods_explain_each_image_for_its_own_class():
    model, images, targets = tiny_model(), pictures(), torch.arange(6) % 5
    maps = maps_of_all_methods(model, images, targets)
    assert tuple(maps) == METHODS
    for i in (0, 4):
        alone = maps_of_all_methods(model, images[i : i + 1], targets[i : i + 1])
        for method in METHODS[1:]:
            assert_close(maps[method][i], alone[method][0])


def test_a_new_head_changes_gradient_methods_and_no_others():
    """Attention and rollout know nothing of the classes: this is how one sees it."""
    model, images, targets = tiny_model(), pictures(), torch.arange(6) % 5
    before = maps_of_all_methods(model, images, targets)
    generator = torch.Generator().manual_seed(9)
    model.head.weight.data = torch.randn(5, 24, dtype=torch.float64, generator=generator)
    after = maps_of_all_methods(model, images, targets)
    for method in METHODS:
        same = torch.equal(before[method], after[method])
        assert same == (method in ("random", "last_layer", "rollout")), method


# ---- pointing game ----


def test_collages_hold_four_classes_and_say_where_the_asked_one_is():
    images = torch.arange(40.0)[:, None, None, None].expand(40, 3, 8, 8)
    labels = torch.arange(40) % 5
    pasted, asked, quarters = collages(images, labels, seed=2)
    assert pasted.shape == (40, 3, 16, 16)
    assert torch.equal(asked, labels)
    assert set(quarters.tolist()) == {0, 1, 2, 3}
    for i in range(40):
        corners = [pasted[i, 0, y, x].item() for y in (0, 8) for x in (0, 8)]
        assert corners[quarters[i]] == i
        assert len({labels[int(corner)].item() for corner in corners}) == 4
    assert torch.equal(collages(images, labels, seed=2)[0], pasted)
    with pytest.raises(ValueError, match="at least 4 classes, got 3"):
        collages(images, labels % 3)


def test_the_pointing_game_asks_for_the_quarter_of_the_best_patch():
    maps = torch.zeros(4, 4, 6)
    maps[0, 1, 2], maps[1, 0, 3], maps[2, 2, 0], maps[3, 3, 5] = 1, 1, 1, 1
    assert points_at(maps, torch.tensor([0, 1, 2, 3])).all()
    assert points_at(maps, torch.tensor([1, 1, 0, 2])).tolist() == [0, 1, 0, 0]
    maps[0, 3, 0], maps[2, 3, 1], maps[3] = 1, 1, 0
    for quarter, expected in enumerate(([1 / 2, 0, 0, 1 / 4], [0, 1, 0, 1 / 4])):
        assert points_at(maps, torch.full((4,), quarter)).tolist() == expected
    assert points_at(maps, torch.full((4,), 2)).tolist() == [1 / 2, 0, 1, 1 / 4]
    with pytest.raises(ValueError, match="even grid, got 3x4"):
        points_at(torch.rand(1, 3, 4), torch.zeros(1))


# ---- the table ----


def test_the_table_scores_every_method_by_every_metric():
    model, images = tiny_model(), pictures(10)
    targets, done = torch.arange(10) % 5, []
    rows = faithfulness_table(
        model, images, targets, on_collages=model.resized(32), batch_size=4, on_batch=done.append
    )
    assert done == [4, 8, 10]
    assert [(row["method"], row["metric"]) for row in rows if row["metric"] == "deletion"] == [
        (method, "deletion") for method in METHODS
    ]
    assert {(row["method"], row["metric"]) for row in rows} == {
        (method, metric) for method in METHODS for metric in METRICS
    }
    for row in rows:
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["images"] == 10
        if row["method"] == "random":
            assert row["gain"] == row["gain_low"] == row["gain_high"] == 0
    by_hand = maps_of_all_methods(model, images, targets)["chefer"]
    curves = perturb(model, images, by_hand, targets)
    found = {row["metric"]: row["mean"] for row in rows if row["method"] == "chefer"}
    for metric, values in curves.scores.items():
        assert found[metric] == pytest.approx(values.double().mean().item())
    without = faithfulness_table(model, images, targets, steps=4)
    assert "pointing game" not in {row["metric"] for row in without}


def test_an_oracle_gains_over_the_random_map(monkeypatch):
    """The table must be able to tell a right map from a random one: a network that is a sum."""
    images, model, adds = linear_oracle()

    def oracle(model, images, targets, seed=0):
        maps = {"random": torch.rand(len(images), 4, 4, generator=torch.Generator().manual_seed(1))}
        return {**maps, "oracle": adds[: len(images)]}

    monkeypatch.setattr("vit_tutorial.faithfulness.maps_of_all_methods", oracle)
    rows = faithfulness_table(model, images, torch.zeros(6, dtype=torch.long))
    gains = {row["metric"]: row for row in rows if row["method"] == "oracle"}
    assert gains["deletion"]["gain_low"] > 0
    assert gains["insertion"]["gain_low"] > 0

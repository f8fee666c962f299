"""Intervals against SciPy, and by counting how often they hold the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from vit_tutorial.intervals import (
    accuracy_change,
    bootstrap_interval,
    student_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("correct", "n"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 9), (349, 360), (9512, 10_000)]
)
def test_the_interval_of_an_accuracy_is_wilsons(correct, n):
    expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(correct, n)
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)
    assert 0 <= low < 100 * correct / n + 1e-9
    assert 100 >= high > 100 * correct / n - 1e-9


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_an_interval_needs_images_and_no_more_correct_ones_than_those(correct, n):
    with pytest.raises(ValueError, match=rf"n > 0 images, got {correct} of {n}"):
        wilson_interval(correct, n)


def test_an_interval_of_more_images_is_narrower_as_the_root_of_their_number():
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (1000, 100_000))]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.01)


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.exponential(size=60), seed)
        inside += low <= 1 <= high
    assert 0.88 <= inside / 200 <= 0.98


def test_the_bootstrap_is_the_normal_interval_for_many_values():
    values = np.random.default_rng(1).normal(3, 2, size=4000)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / 4000**0.5
    assert low == pytest.approx(values.mean() - error, abs=0.01)
    assert high == pytest.approx(values.mean() + error, abs=0.01)


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_the_interval_over_seeds_is_that_of_students_test(count):
    values = np.random.default_rng(count).normal(70, 2, size=count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval(values.tolist()) == pytest.approx((expected.low, expected.high))


def test_one_seed_says_nothing_of_the_others():
    assert student_interval([70.0]) == (-math.inf, math.inf)


def test_a_change_is_judged_image_by_image():
    """Against the interval that SciPy gives for the mean of the differences."""
    before, after = torch.rand(500) < 0.9, torch.rand(500) < 0.8
    each = 100.0 * (after.int() - before.int())
    error = stats.sem(each.numpy())
    low, high = stats.norm.interval(0.95, loc=each.mean().item(), scale=error)
    assert accuracy_change(before, after) == pytest.approx(
        (each.mean().item(), low, high), rel=1e-4
    )
    assert accuracy_change(before, before) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 3])
def test_changes_of_other_images_are_refused(count):
    with pytest.raises(ValueError, match=rf"the same images, got \(1,\) and \({count},\)"):
        accuracy_change(torch.ones(1).bool(), torch.ones(count).bool())

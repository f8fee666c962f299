"""Figures of lesson 11: the numbers that they draw, the words on them, and what they refuse."""

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots

PICTURES = np.full((3, 8, 12, 3), 100, dtype=np.uint8)
MAPS = np.zeros((3, 8, 12), dtype=int)


def test_a_probes_folds_are_dots_and_their_mean_a_line():
    scores = {10.0: [50, 70], 0.1: np.array([80.0, 90.0]), 1.0: [60, 62]}
    figure = plots.probe_curve(scores, chosen=0.1)
    (axes,) = figure.axes
    line, *dots = axes.lines
    assert line.get_xdata().tolist() == [0.1, 1, 10]
    assert line.get_ydata().tolist() == [85, 61, 60]
    assert sorted(y for dot in dots[:3] for y in dot.get_ydata()) == [50, 60, 62, 70, 80, 90]
    assert {"chosen: 0.1", "mean", "one fold"} <= set(words_in(figure))
    assert axes.get_xscale() == "log"


def test_every_method_stands_with_its_interval():
    figure = plots.interval_bars({"a": (50, 40, 61), "b": (90, 85, 93.5)}, "accuracy", chance=17)
    (axes,) = figure.axes
    spans = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert spans[:2] == [(40, 61), (85, 93.5)]
    assert {"a", "b", "50.0", "90.0", "accuracy", "guessing"} <= set(words_in(figure))
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first stands on top"
    assert "guessing" not in words_in(plots.interval_bars({"a": (1, 1, 1)}, "x"))


def test_classes_are_painted_and_the_background_is_not():
    maps = MAPS.copy()
    maps[1, 2:4, 3:5] = 1
    maps[2, 0, 0] = 2
    figure = plots.label_maps(PICTURES, {"true": maps, "said": MAPS}, ["none", "one", "two"], "T")
    rows = np.array(figure.axes).reshape(3, 3)
    shown = [[axes.images[0].get_array() for axes in row] for row in rows]
    assert all(np.array_equal(shown[0][n], PICTURES[n]) for n in range(3))
    assert all(np.ptp(shown[2][n]) == 0 for n in range(3)), "nothing is painted, all is grey"
    assert np.array_equal(np.ptp(shown[1][1], axis=-1) > 0, maps[1] == 1)
    assert not np.array_equal(shown[1][1][2, 3], shown[1][2][0, 0]), "each class has its colour"
    words = words_in(figure)
    assert {"picture", "true", "said", "one", "two", "T"} <= set(words)
    assert "none" not in words


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda: plots.probe_curve({}, 1.0), "scores for strengths"),
        (lambda: plots.probe_curve({0.0: [1], 1.0: [1]}, 1.0), "above 0"),
        (lambda: plots.probe_curve({1.0: [1]}, 2.0), "2.0 among them"),
        (lambda: plots.interval_bars({}, "x"), "at least one"),
        (lambda: plots.interval_bars({"a": (50, 60, 70)}, "x"), "a: 50 must lie"),
        (lambda: plots.interval_bars({"a": (float("nan"), 60, 70)}, "x"), "a: nan must lie"),
        (lambda: plots.label_maps(PICTURES[0], {"a": MAPS}, "ab"), "pictures uint8"),
        (lambda: plots.label_maps(PICTURES, {"a": MAPS[:2]}, "ab"), "a: expected classes"),
        (lambda: plots.label_maps(PICTURES, {"a": MAPS + 2}, "ab"), "2 names, but classes up to 2"),
        (lambda: plots.label_maps(PICTURES, {"a": MAPS - 1}, "ab"), "2 names"),
        (lambda: plots.label_maps(PICTURES, {}, "ab"), "expected pictures, maps"),
        (lambda: plots.label_maps(PICTURES, {"a": MAPS}, "abcdefgh"), "up to 6 classes"),
    ],
)
def test_what_a_figure_refuses(draw, reason):
    with pytest.raises(ValueError, match=reason):
        draw()

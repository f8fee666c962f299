"""Figures of lesson 10: the numbers that they draw, the words on them, and what they refuse."""

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots

RANDOM = np.random.default_rng(0)
CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox"]


def test_curves_are_means_and_bands_hold_all_runs():
    vit, cnn = 50 + RANDOM.random((3, 4)), 60 + RANDOM.random((2, 4))
    few = ("images", ["15", "1437"], {"ViT": vit[:, :2]})
    panels = {"shift": ("pixels", [0, 1, 2, 4], {"ViT": vit, "CNN": cnn}), "few": few}
    figure = plots.setting_curves(panels, "right, %", chance=10)
    left, right = figure.axes[:2]
    assert np.allclose(left.lines[0].get_ydata(), vit.mean(axis=0))
    assert np.array_equal(left.lines[1].get_xdata(), [0, 1, 2, 4])
    band = left.collections[1].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(cnn.max())
    assert band[:, 1].min() == pytest.approx(cnn.min())
    assert left.lines[2].get_ydata()[0] == 10
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["15", "1437"]
    words = words_in(figure)
    assert {"shift", "few", "pixels", "images", "right, %", "ViT", "CNN", "guessing"} <= set(words)
    assert words.count("CNN") == 1, "one legend for all panels"


def test_more_panels_make_more_lines():
    panel = ("x", [1, 2], {"ViT": np.ones((1, 2))})
    for count, lines in ((1, 1), (3, 1), (4, 2), (5, 2)):
        figure = plots.setting_curves({str(n): panel for n in range(count)}, "y")
        tops = {round(axes.get_position().y0, 2) for axes in figure.axes}
        words_in(figure)
        tops = {round(axes.get_position().y0, 1) for axes in figure.axes}
        assert len(tops) == lines


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ({}, "at least one panel"),
        ({"a": ("x", [1, 2], {})}, r"a: expected \(runs, 2\) for 1 to 4 networks, got \[\]"),
        ({"a": ("x", [1, 2], {"n": np.ones(2)})}, r"expected \(runs, 2\)"),
        ({"a": ("x", [1, 2], {"n": np.ones((3, 3))})}, r"got \[\(3, 3\)\]"),
        ({"a": ("x", [1], {n: np.ones((1, 1)) for n in "abcde"})}, "1 to 4 networks"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(panels, said):
    with pytest.raises(ValueError, match=said):
        plots.setting_curves(panels, "y")


def test_what_counts_is_framed_where_it_can_count():
    maps = {name: RANDOM.random((8, 12)) for name in ("a", "b", "c", "d", "e")}
    figure = plots.influence_maps(maps, {"a": (1, 2, 4, 7), "b": (-3, -3, 20, 20)}, "what counts")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title("left") for axes in drawn] == list("abcde")
    assert np.array_equal(drawn[2].images[0].get_array(), maps["c"])
    frame = drawn[0].patches[0]
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (1.5, 0.5, 5, 3)
    cut = drawn[1].patches[0]
    assert (cut.get_x(), cut.get_y(), cut.get_width(), cut.get_height()) == (-0.5, -0.5, 12, 8)
    assert not drawn[2].patches
    assert "what counts" in words_in(figure)


@pytest.mark.parametrize(
    ("maps", "boxes", "said"),
    [
        ({}, {}, r"maps \(H, W\) of one size, got \[\]"),
        ({"a": np.ones((2, 3)), "b": np.ones((3, 2))}, {}, "of one size"),
        ({"a": np.ones(3)}, {}, "of one size"),
        ({"a": -np.ones((2, 2))}, {}, "maps from 0 up"),
        ({"a": np.full((2, 2), np.nan)}, {}, "maps from 0 up"),
        ({"a": np.ones((2, 2))}, {"x": (0, 0, 1, 1)}, r"no map for the boxes \['x'\]"),
    ],
)
def test_influence_that_cannot_be_drawn_is_refused(maps, boxes, said):
    with pytest.raises(ValueError, match=said):
        plots.influence_maps(maps, boxes)

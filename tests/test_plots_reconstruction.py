"""Figures of lesson 13: the numbers that they draw, the words on them, and what they refuse."""

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]


def test_pictures_stand_in_their_row_and_column():
    figure = plots.picture_table(
        [[COLOUR, GREY], [GREY, GREY], [COLOUR, COLOUR]],
        ["seen", "filled in", "the truth"],
        ["25%", "50%"],
        "masks",
    )
    assert len(figure.axes) == 6
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert np.array_equal(shown[0], COLOUR)
    assert np.array_equal(shown[1], GREY)
    assert {axis.images[0].get_interpolation() for axis in figure.axes} == {"lanczos"}
    assert {"seen", "filled in", "the truth", "25%", "50%", "masks"} <= set(words_in(figure))
    squares = plots.picture_table([[GREY]], ["a"], ["b"], smooth=False)
    assert squares.axes[0].images[0].get_interpolation() == "nearest"


def test_every_draw_is_a_dot_and_the_line_goes_through_the_means():
    values = {"probe": RANDOM.random((5, 3)) * 100, "scratch": RANDOM.random((5, 3)) * 100}
    figure = plots.few_label_curves([1, 10, 1000], values)
    axes = figure.axes[0]
    for line, dots, numbers in zip(axes.lines, axes.collections, values.values(), strict=True):
        assert np.allclose(line.get_ydata(), numbers.mean(axis=0))
        assert np.allclose(np.asarray(dots.get_offsets())[:, 1], numbers.ravel())
    assert {"probe", "scratch", "1", "10", "1,000"} <= set(words_in(figure))
    assert not np.allclose(axes.lines[0].get_xdata(), axes.lines[1].get_xdata()), "side by side"


def test_panels_share_their_curves_and_one_legend():
    panel = {"one": np.arange(4.0), "two": np.ones(4)}
    figure = plots.curve_panels({"all": panel, "none": panel}, "step", {"most": 2.5})
    left, right = figure.axes
    assert np.array_equal(left.lines[0].get_ydata(), np.arange(4))
    assert right.lines[2].get_ydata()[0] == 2.5
    words = words_in(figure)
    assert {"all", "none", "one", "two", "most", "step"} <= set(words)
    assert words.count("one") == 1


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda: plots.picture_table([], [], []), "0 rows and 0 columns"),
        (lambda: plots.picture_table([[GREY]], ["a"], ["b", "c"]), r"rows of \[1\]"),
        (lambda: plots.picture_table([[GREY / 255]], ["a"], ["b"]), "got float64"),
        (lambda: plots.picture_table([[COLOUR[..., :2]]], ["a"], ["b"]), r"\(8, 8, 2\)"),
        (lambda: plots.few_label_curves([1], {}), "1 to 5 methods, got 0"),
        (lambda: plots.few_label_curves([1], {"a": np.ones((3, 2))}), r"a: expected \(draws, 1\)"),
        (lambda: plots.curve_panels({}, "step"), "the same 1 to 5 curves"),
        (
            lambda: plots.curve_panels({"a": {"b": np.ones(2)}, "c": {"d": np.ones(2)}}, "step"),
            "the same 1 to 5 curves",
        ),
    ],
)
def test_what_a_figure_refuses(draw, reason):
    with pytest.raises(ValueError, match=reason):
        draw()

"""Figures of a whole network: what is drawn, and what is refused."""

import numpy as np
import pytest
from conftest import drawn

from vit_tutorial import plots

BARS = {"parameters": {"a": 3, "b": 1, "c": 0}, "operations": {"a": 1, "b": 1, "c": 2}}


def words_in(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_stages_stand_in_a_row_with_what_they_return_and_hold():
    figure = plots.network_stages(["in", "middle", "out"], ["1", "2", "3"], ["", "77", ""], "All")
    boxes = figure.axes[0].patches
    assert len(boxes) == 3
    assert [box.get_x() for box in boxes] == sorted(box.get_x() for box in boxes)
    assert boxes[1].get_facecolor() != boxes[0].get_facecolor()  # it has parameters
    assert {"in", "middle", "out", "1", "2", "3", "77"} <= set(words_in(figure))
    assert figure.axes[0].get_title(loc="left") == "All"
    drawn(figure)


def test_bars_are_cut_into_shares_and_small_ones_have_no_number():
    figure = plots.share_bars(BARS, ["4", "4.0 billion"], "Where they are")
    axes = figure.axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [0.75, 0.25, 0.25, 0.25, 0, 0.5]
    assert [bar.get_x() for bar in axes.patches] == [0, 0, 0.75, 0.25, 1, 0.5]
    assert words_in(figure) == ["75%", "25%", "25%", "25%", "50%", "4", "4.0 billion"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["parameters", "operations"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    drawn(figure)


def test_spreads_are_lines_with_their_names_in_powers_of_ten():
    figure = plots.token_spreads({"σ = 1": [1, 100, 200], "σ = 0.02": [1, 1, 1.1]}, "Loud")
    axes = figure.axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 100, 200], [1, 1, 1.1]]
    assert axes.get_yscale() == "log"
    assert words_in(figure) == ["σ = 1", "σ = 0.02"]
    assert (axes.get_ylabel(), axes.get_title(loc="left")) == ("std of the tokens", "Loud")
    drawn(figure)


def test_losses_are_drawn_with_their_levels():
    figure = plots.loss_against_lead([0, 1, 2], {"a": [3, 2, 1]}, {"ln 10": 2.3}, "Falls")
    level, curve = figure.axes[0].lines
    assert list(level.get_ydata()) == [2.3, 2.3]
    assert list(curve.get_ydata()) == [3, 2, 1]
    assert words_in(figure) == ["ln 10"]
    assert figure.axes[0].get_ylim()[0] == 0
    drawn(figure)


def test_wrong_answers_are_named_with_the_truth():
    images = np.zeros((3, 8, 8), np.uint8)
    figure = plots.image_predictions(images, ["7", "3", "1"], ["7", "8", "1"], columns=2)
    titles = [axes.title for axes in figure.axes]
    assert [title.get_text() for title in titles] == ["7", "8, not 3", "1", ""]
    assert titles[0].get_color() == titles[2].get_color() != titles[1].get_color()
    drawn(figure)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plots.network_stages(["a"], [], [""], ""), "1 names need .* got 0 and 1"),
        (lambda: plots.share_bars(BARS, ["4"], ""), "2 rows need the same parts and 2 totals"),
        (lambda: plots.share_bars({"a": {"x": 1}, "b": {"y": 1}}, ["", ""], ""), "the same parts"),
        (lambda: plots.share_bars({}, [], ""), "0 rows need"),
        (lambda: plots.share_bars({"a": {"x": -1, "y": 2}}, [""], ""), "0 or more"),
        (lambda: plots.share_bars({"a": {"x": 0}}, [""], ""), "not all 0"),
        (lambda: plots.share_bars({"a": dict.fromkeys("uvwxyz", 1)}, [""], ""), "at most 5 parts"),
        (lambda: plots.token_spreads({"a": [1], "b": [1, 2]}, ""), r"got 2 of lengths \[1, 2\]"),
        (lambda: plots.token_spreads({}, ""), "got 0"),
        (lambda: plots.token_spreads({"a": [1, 0]}, ""), "above 0"),
        (lambda: plots.loss_against_lead([0, 1], {"a": [1]}, {}, ""), r"of 2 points, got \[1\]"),
        (lambda: plots.image_predictions(np.zeros((0, 8, 8)), [], []), "0 images need"),
        (lambda: plots.image_predictions(np.zeros((1, 8, 8)), ["1"], []), "got 1 and 0"),
    ],
)
def test_figures_name_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

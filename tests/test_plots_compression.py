"""Figures of what a smaller network costs and brings: what is drawn is what was measured."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots


def table(values, reach=2.0) -> np.ndarray:
    return np.stack([values, np.subtract(values, reach), np.add(values, reach)])


def test_curves_show_each_number_with_its_interval():
    figure = plots.interval_curves(
        [0, 2, 4],
        {"by importance": table([97, 95, 90]), "at random": table([97, 80, 50], 5)},
        "heads taken away",
        level=("all heads", 97.0),
    )
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["by importance"].get_ydata().tolist() == [97, 95, 90]
    assert lines["at random"].get_xdata().tolist() == [0, 2, 4]  # on its ticks
    band = axes.collections[1].get_paths()[0].vertices
    assert {y for x, y in band if x == 2} == {75, 85}
    assert {"all heads", "by importance", "heads taken away"} <= set(words_in(figure))


def test_bits_run_from_many_to_few():
    figure = plots.interval_curves([8, 4, 2], {"one": table([97, 96, 20])}, "bits", backwards=True)
    left, right = figure.axes[0].get_xlim()
    assert left > right
    assert figure.axes[0].get_legend() is None


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ({}, "expected 1 to 5 curves, got 0"),
        ({"a": np.zeros((3, 2))}, r"a: expected \(3, 3\) numbers, got \(3, 2\)"),
        ({"a": np.array([[1, 2, 9], [0, 1, 2], [3, 3, 3]])}, "a: a number lies outside"),
    ],
)
def test_curves_that_cannot_be_are_refused(curves, said):
    with pytest.raises(ValueError, match=said):
        plots.interval_curves([0, 1, 2], curves, "x")


ROWS = {
    "as it is": ((97.0, 94.0, 98.0), (1.0, 1.0, 1.0), 545.0),
    "8 bits": ((96.5, 93.0, 98.0), (0.6, 0.5, 0.9), 157.0),
    "half the layers": ((95.0, 92.0, 97.0), (1.9, 1.7, 2.2), 280.0),
}


def test_trade_offs_stand_in_three_columns():
    figure = plots.trade_offs(ROWS)
    left, middle, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == list(ROWS)
    assert [line.get_xdata()[0] for line in middle.lines if line.get_marker() == "o"] == [
        1.0, 0.6, 1.9,
    ]  # fmt: skip
    assert [bar.get_width() for bar in right.patches] == [545, 157, 280]
    low, high = middle.get_xlim()
    assert low < 0.5
    assert high > 2.2
    assert {"157", "×0.5", "×2", "Times as fast"} <= set(words_in(figure))
    assert left.get_ylim()[0] > left.get_ylim()[1], "the first row is on top"


@pytest.mark.parametrize("lowest", [0.004, 0.03, 0.2, 0.9, 1.0])
def test_times_can_be_read_however_far_they_go(lowest):
    figure = plots.trade_offs({**ROWS, "stopped once": ((96.0, 95.0, 97.0), (1.0, lowest, 1.1), 9)})
    figure.canvas.draw()
    names = [text for text in figure.axes[1].get_xticklabels() if text.get_text()]
    assert "×1" in [text.get_text() for text in names]
    boxes = [text.get_window_extent() for text in names]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (((97.0, 98.0, 99.0), (1.0, 1.0, 1.0), 5.0), "97.0 must lie within 98.0 to 99.0"),
        (((97.0, 96.0, 99.0), (1.0, 0.0, 1.0), 5.0), "above 0"),
        (((97.0, 96.0, 99.0), (1.0, 1.0, 1.0), 0.0), "above 0"),
    ],
)
def test_trade_offs_that_cannot_be_are_refused(row, said):
    with pytest.raises(ValueError, match=said):
        plots.trade_offs({"odd": row})
    with pytest.raises(ValueError, match="at least one row"):
        plots.trade_offs({})


def test_merged_patches_have_their_mean_colour_and_a_border():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:4], picture[:, 4:6], picture[:, 6:] = 100, 200, 40
    groups = np.array([[0, 0, 1, 2], [0, 0, 1, 3]])  # 4 patches, 2 patches, 1 and 1
    figure = plots.merged_patches(picture, {"two tokens": groups})
    axes = figure.axes[0]
    painted = axes.images[0].get_array()
    assert painted[0, 0].tolist() == painted[3, 3].tolist() == [50] * 3
    assert painted[1, 5].tolist() == [200] * 3
    assert painted[3, 7].tolist() == [40] * 3
    borders = sorted(tuple(map(tuple, line.get_xydata().tolist())) for line in axes.lines)
    assert borders == [
        ((4.0, 0.0), (4.0, 2.0)),
        ((4.0, 2.0), (4.0, 4.0)),
        ((6.0, 0.0), (6.0, 2.0)),
        ((6.0, 2.0), (6.0, 4.0)),
        ((6.0, 2.0), (8.0, 2.0)),
    ]
    assert "two tokens" in words_in(figure)


def test_pieces_of_a_token_that_lie_apart_carry_its_letter():
    picture = np.full((6, 6, 3), 250, np.uint8)
    picture[:2] = 20
    groups = np.array([[0, 1, 0], [2, 2, 3], [4, 4, 0]])  # 0 has three pieces, none touches another
    axes = plots.merged_patches(picture, {"apart": groups}).figure.axes[0]
    marks = {(text.get_text(), text.get_position()) for text in axes.texts}
    assert marks == {("a", (1, 1)), ("a", (5, 1)), ("a", (5, 5))}
    inks = {text.get_color() for text in axes.texts}
    assert len(inks) == 1  # one token, one mean colour, one ink
    groups[1, 2] = 0  # now the last two touch
    axes = plots.merged_patches(picture, {"two pieces": groups}).figure.axes[0]
    assert [text.get_position() for text in axes.texts] == [(1, 1), (5, 1)]


def test_groups_must_be_tables():
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="at least one table"):
        plots.merged_patches(picture, {})
    with pytest.raises(ValueError, match="expected a picture uint8"):
        plots.merged_patches(picture[..., 0], {"a": np.zeros((2, 2))})

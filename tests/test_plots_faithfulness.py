"""Figures of faithfulness: the numbers that they draw, the words on them, and what they refuse."""

import numpy as np
import pytest
from conftest import words_in
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from vit_tutorial import plots
from vit_tutorial.plots.style import ACCENT, FAINT, PALETTE

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)


def table(**changed) -> list[dict]:
    rows = []
    for method, mean, gain in (
        ("random", 0.4, 0.0),
        ("rollout", 0.3, 0.05),
        ("grad_cam", 0.38, -1),
    ):
        for metric in ("deletion", "insertion"):
            row = {"method": method, "metric": metric, "mean": mean, "gain_low": gain}
            row["gain_high"] = gain + 1.5
            rows += [{**row, "low": mean - 0.02, "high": mean + 0.03, **changed}]
    return rows


def test_curves_are_drawn_with_their_areas_and_random_as_a_broken_line():
    curves = {"random": [1.0, 0.5, 0.0], "rollout": np.array([1.0, 0.25, 0.0])}
    figure = plots.removal_curves({"removed": curves, "put back": curves}, "share of the patches")
    words = words_in(figure)
    assert words.count("random, area 0.50") == 2
    assert {"rollout, area 0.38", "removed", "put back", "share of the patches"} <= set(words)
    for axes in figure.axes:
        floor, line = axes.lines
        assert floor.get_linestyle() == "--"
        assert line.get_linestyle() == "-"
        assert list(line.get_xdata()) == [0, 0.5, 1]
        assert list(line.get_ydata()) == [1, 0.25, 0]
    assert {"0%", "100%"} <= set(words)


def test_curves_with_unequal_steps_are_drawn_over_the_true_shares():
    figure = plots.removal_curves({"t": {"a": [1.0, 0.5, 0.0]}}, "x", shares=[0, 0.2, 1])
    assert "a, area 0.35" in words_in(figure)  # 0.2 * 0.75 + 0.8 * 0.25
    assert list(figure.axes[0].lines[0].get_xdata()) == [0, 0.2, 1]
    with pytest.raises(ValueError, match=r"3 values of a, but shares \(2,\)"):
        plots.removal_curves({"t": {"a": [1.0, 0.5, 0.0]}}, "x", shares=[0, 1])


def test_equally_good_patches_are_all_framed_and_of_an_even_map_none():
    maps = np.zeros((1, 2, 2, 2))
    maps[0, 0, 0, 1] = maps[0, 0, 1, 0] = 1
    figure = plots.question_maps(PICTURE, maps, ["cat?"], ["two", "none"])
    framed = [{box.get_xy() for box in axes.patches} for axes in figure.axes[1:]]
    assert framed == [{(0.5, -0.5), (-0.5, 0.5)}, set()]


def test_scores_are_drawn_with_intervals_beside_the_band_of_random():
    figure = plots.method_scores(table(), {"deletion": False, "insertion": True}, "on 5 digits")
    words = words_in(figure)
    assert {"rollout", "grad_cam", "deletion", "insertion", "on 5 digits"} <= set(words)
    assert {"← lower is better", "higher is better →"} <= set(words)
    assert "random" not in words  # it is the band
    for axes in figure.axes:
        band, dashed = axes.patches[0], axes.lines[0]
        assert band.get_x() == pytest.approx(0.38)
        assert band.get_width() == pytest.approx(0.05)
        assert dashed.get_xdata()[0] == 0.4
        interval, dot = axes.lines[1:3]  # of rollout
        assert np.allclose(interval.get_xdata(), [0.28, 0.33])
        assert list(dot.get_xdata()) == [0.3]
        assert to_hex(dot.get_markerfacecolor()) == ACCENT
        hollow = axes.lines[4]  # grad_cam: its gain may be below 0
        assert hollow.get_markerfacecolor() == "white"
        assert to_hex(hollow.get_color()) == FAINT


def test_what_is_worse_than_random_is_drawn_filled_in_orange():
    rows = [row | {"gain_low": -0.2, "gain_high": -0.1} for row in table()]
    dot = plots.method_scores(rows, {"deletion": False}).axes[0].lines[2]
    assert to_hex(dot.get_markerfacecolor()) == to_hex(dot.get_color()) == PALETTE[1]


def test_pictures_are_shown_pixel_by_pixel():
    figure = plots.pixel_row([PICTURE, PICTURE[:4]], ["whole", "half"])
    assert {"whole", "half"} <= set(words_in(figure))
    for axes, shown in zip(figure.axes, (PICTURE, PICTURE[:4]), strict=True):
        assert axes.images[0].get_interpolation() == "nearest"
        assert np.array_equal(axes.images[0].get_array(), shown)


def test_maps_for_several_questions_frame_their_best_patch():
    maps = RANDOM.random((2, 3, 4, 6))
    maps[1, 2, 3, 1] = 5
    figure = plots.question_maps(PICTURE, maps, ["cat?", "ship?"], ["a", "b", "c"])
    assert {"cat?", "ship?", "a", "b", "c"} <= set(words_in(figure))
    assert np.array_equal(figure.axes[0].images[0].get_array(), PICTURE)
    last = figure.axes[-1]
    assert np.array_equal(last.images[0].get_array(), maps[1, 2])
    boxes = [patch for patch in last.patches if isinstance(patch, Rectangle)]
    assert {box.get_xy() for box in boxes} == {(0.5, 2.5)}  # row 3, column 1
    assert [line.get_ydata()[0] for line in last.lines] == [1.5, 0]  # the middle, across and down


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.removal_curves({}, "x"), "at least one panel"),
        (lambda: plots.removal_curves({"t": {"a": [1.0]}}, "x"), "finite values in a row"),
        (lambda: plots.removal_curves({"t": {"a": [1.0, np.nan]}}, "x"), "finite values"),
        (
            lambda: plots.removal_curves({"t": {name: [1.0, 0.0] for name in "abcdef"}}, "x"),
            "at most 5 curves",
        ),
        (lambda: plots.method_scores(table(), {}), "0 metrics"),
        (lambda: plots.method_scores(table(), {"pointing game": True}), "3 methods and 1 metrics"),
        (lambda: plots.method_scores(table(method="rollout"), {"deletion": True}), "'random'"),
        (lambda: plots.pixel_row([], []), "0 pictures"),
        (lambda: plots.pixel_row([PICTURE], []), "1 pictures need as many titles, got 0"),
        (lambda: plots.pixel_row([PICTURE[..., 0]], ["x"]), r"uint8 \(H, W, 3\)"),
        (lambda: plots.question_maps(PICTURE / 2, np.ones((1, 1, 2, 2)), ["q"], ["m"]), "uint8"),
        (
            lambda: plots.question_maps(PICTURE, np.ones((1, 2, 2, 2)), ["q"], ["m"]),
            r"1 questions and 1 methods .* got \(1, 2, 2, 2\)",
        ),
        (
            lambda: plots.question_maps(PICTURE, np.full((1, 1, 2, 2), np.nan), ["q"], ["m"]),
            "NaN or infinity",
        ),
    ],
)
def test_what_does_not_fit_is_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()

"""Figures of positions: every number in its place, every word said, nonsense refused."""

import numpy as np
import pytest
from conftest import words_in
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from vit_tutorial import plots

RNG = np.random.default_rng(0)


def shown(figure: Figure, axes: int = 0) -> np.ndarray:
    return np.ma.getdata(figure.axes[axes].get_images()[0].get_array())


# ---- heat_colours ----


def test_heat_runs_from_dark_to_light():
    colours = plots.heat_colours()
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    brightness = colours @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(brightness) > -1).all()
    assert brightness[-1] - brightness[0] > 150


# ---- logit_pairs ----


def test_both_logits_of_every_class_are_drawn():
    before, after = RNG.normal(size=(2, 3))
    figure = plots.logit_pairs({"a": (before, after), "b": (after, before)}, ["x", "y", "z"])
    assert {"a", "b", "x", "y", "z", "logit", "as it is", "shuffled"} <= set(words_in(figure))
    rings, dots = (group.get_offsets() for group in figure.axes[0].collections[1:3])
    np.testing.assert_allclose(np.asarray(rings)[:, 0], before)
    np.testing.assert_allclose(np.asarray(dots)[:, 0], after)


@pytest.mark.parametrize("pairs", [{}, {"a": (np.zeros(2), np.zeros(2))}])
def test_logits_that_do_not_fit_are_refused(pairs):
    with pytest.raises(ValueError, match="expected pairs of 3 logits"):
        plots.logit_pairs(pairs, ["x", "y", "z"])


# ---- waves ----


def test_waves_are_the_entries_of_the_table():
    table = RNG.normal(size=(9, 6))
    figure = plots.waves(table, shown=(1, 4))
    assert {"entry 1", "entry 4", "position"} <= set(words_in(figure))
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), table[:, 4])


@pytest.mark.parametrize(("table", "entries"), [((9, 6), (6,)), ((9, 6), ()), ((9,), (0,))])
def test_waves_that_are_not_there_are_refused(table, entries):
    with pytest.raises(ValueError, match="cannot show the entries"):
        plots.waves(np.zeros(table), entries)


# ---- clock_hands ----


def test_hands_point_where_they_should():
    figure = plots.clock_hands({"one": [(0.0, 2.0, "up"), (1.0, 0.0, "right")]})
    assert {"one", "up", "right"} <= set(words_in(figure))
    arrows = [text for text in figure.axes[0].texts if hasattr(text, "arrow_patch")]
    assert [arrow.xy for arrow in arrows] == [(0.0, 2.0), (1.0, 0.0)]


def test_hands_can_have_colours_that_set_them_apart():
    hands = {"a": [(1.0, 0.0, "q"), (0.0, 1.0, "k")]}
    for distinct in (False, True):
        figure = plots.clock_hands(hands, distinct=distinct)
        arrows = [text for text in figure.axes[0].texts if hasattr(text, "arrow_patch")]
        blue = [to_rgb(arrow.arrow_patch.get_edgecolor()) for arrow in arrows]
        assert all(b > r for r, _, b in blue) is not distinct


@pytest.mark.parametrize("panels", [{}, {"a": []}])
def test_a_clock_without_hands_is_refused(panels):
    with pytest.raises(ValueError, match="at least one hand"):
        plots.clock_hands(panels)


# ---- position_maps ----


def test_maps_show_their_numbers_on_one_scale():
    first, second = RNG.normal(size=(3, 5)), RNG.normal(size=(4, 2))
    figure = plots.position_maps({"a": first, "b": second}, marks=[(2, 4), None], unit="score")
    assert {"a", "b", "row", "column", "score"} <= set(words_in(figure))
    np.testing.assert_allclose(shown(figure, 0), first)
    np.testing.assert_allclose(shown(figure, 1), second)
    limits = {axis.get_images()[0].get_clim() for axis in figure.axes[:2]}
    both = np.concatenate([first.ravel(), second.ravel()])
    assert limits == {(both.min(), both.max())}
    frames = [[frame.get_xy() for frame in axis.patches] for axis in figure.axes[:2]]
    assert frames == [[(3.5, 1.5)] * 2, []]


@pytest.mark.parametrize("maps", [{}, {"a": np.zeros(3)}])
def test_maps_without_rows_are_refused(maps):
    with pytest.raises(ValueError, match="expected maps of shape"):
        plots.position_maps(maps)


def test_too_few_marks_are_refused():
    with pytest.raises(ValueError, match="2 maps need as many marks, got 1"):
        plots.position_maps({"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}, marks=[None])


# ---- position_views ----


def test_the_still_picture_shows_the_query_and_every_patch():
    table = RNG.uniform(-1, 1, size=(6, 6))
    figure = plots.position_views({"learned": table, "other": -table}, (2, 3), query=(1, 0))
    words = set(words_in(figure))
    assert {"learned", "other", "row", "column"} <= words
    assert any("of the patch in row 1, column 0 with each" in text for text in words)
    np.testing.assert_allclose(shown(figure, 0), table[3].reshape(2, 3))
    atlas = shown(figure, 2)
    side = atlas.shape[0] // 2, atlas.shape[1] // 3
    small = atlas[side[0] :, : side[1]]  # the map of row 1, column 0
    np.testing.assert_allclose(small[~np.isnan(small)], table[3])


def test_an_impossible_still_picture_is_refused():
    with pytest.raises(ValueError, match=r"a 2x3 grid has tables \(6, 6\), got \[\(5, 5\)\]"):
        plots.position_views({"a": np.eye(5)}, (2, 3), query=(0, 0))
    with pytest.raises(ValueError, match="query must be on the 2x3 grid"):
        plots.position_views({"a": np.eye(6)}, (2, 3), query=(2, 0))

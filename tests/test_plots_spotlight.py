"""A map is drawn twice: it lights the photograph, its cells stand beside, the legend is right."""

import matplotlib
import numpy as np
import pytest
from conftest import drawn, words_in
from matplotlib.patches import Circle, Rectangle

from vit_tutorial import plots

CLASSES = ("cat", "dog", "frog")
GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.integers(0, 256, (12, 16, 3)).astype(np.uint8)
HEAT = GENERATOR.random((3, 4))
WHOLE = (0.0, 0.0, 16.0, 12.0)
MAGMA = matplotlib.colormaps["magma"]


def circles(axes):
    return [patch for patch in axes.patches if isinstance(patch, Circle)]


def frames(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


# ---- the scale ----


def test_a_scale_goes_from_the_5th_to_the_98_5th_percentile():
    heat = GENERATOR.permutation(np.arange(2001.0)).reshape(29, 69)
    assert plots.map_scale(heat) == (100.0, 1970.0)
    shares = plots.map_shares(heat)
    assert (shares == 0).sum() == 101
    assert (shares == 1).sum() == 31
    assert shares[heat == 1035] == 0.5
    assert np.array_equal(plots.map_shares(heat, (0, 4000)), heat / 4000)


@pytest.mark.parametrize(
    ("heat", "shares"),
    [
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]]),  # nothing is looked at
        ([[2, 2], [2, 2]], [[1, 1], [1, 1]]),  # everything alike
        ([[0.0] * 200 + [3]], [[0.0] * 200 + [1]]),  # one patch takes all
        ([[-1, -1]], [[0, 0]]),
    ],
)
def test_a_scale_without_length_still_tells_something_from_nothing(heat, shares):
    assert plots.map_shares(np.array(heat)).tolist() == shares


@pytest.mark.parametrize("heat", [np.zeros(4), np.zeros((0, 3)), np.array([[1, np.nan]])])
def test_what_is_no_map_is_refused(heat):
    with pytest.raises(ValueError, match=r"expected a map \(rows, columns\) of finite numbers"):
        plots.map_shares(heat)


# ---- pictures ----


@pytest.mark.parametrize("view", [None, (3.0, -2.0, 13.0, 11.0)])
def test_the_photograph_is_lit_by_the_map(view):
    """Pixel by pixel: the share of the patch that its middle lies in."""
    lit, painted = plots.spotlight(PHOTO, HEAT, view), plots.overlay(PHOTO, HEAT, view)
    left, top, right, bottom = view or WHOLE
    low, high = np.percentile(HEAT, [5, 98.5])
    for (y, x), old in zip(np.ndindex(12, 16), PHOTO.reshape(-1, 3).astype(float), strict=True):
        row = (y + 0.5 - top) / (bottom - top) * 3
        column = (x + 0.5 - left) / (right - left) * 4
        inside = 0 <= row < 3 and 0 <= column < 4
        share = (HEAT[int(row), int(column)] - low) / (high - low) if inside else 0.0
        share = min(max(share, 0), 1)
        grey = old @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(lit[y, x], share * old + (1 - share) * 0.22 * grey, atol=0.51)
        colour = 255 * np.array(MAGMA(round(share * 255))[:3])
        np.testing.assert_allclose(
            painted[y, x], old + 0.8 * share * (colour - old), atol=1.6
        )  # colours are bytes


def test_neither_picture_changes_its_inputs():
    photo, heat = PHOTO.copy(), HEAT.copy()
    for paint in (plots.spotlight, plots.overlay, plots.map_pair):
        paint(photo, heat)
    assert np.array_equal(photo, PHOTO)
    assert np.array_equal(heat, HEAT)


@pytest.mark.parametrize("paint", [plots.spotlight, plots.overlay, plots.map_pair])
def test_what_is_no_photograph_is_refused(paint):
    with pytest.raises(ValueError, match="expected a picture uint8"):
        paint(PHOTO / 255, HEAT)


def test_a_pair_holds_the_spotlight_and_the_cells_with_the_query_framed_in_both():
    photo = np.kron(PHOTO, np.ones((4, 4, 1))).astype(np.uint8)  # patches of 16x16
    pair = plots.map_pair(photo, HEAT)
    assert pair.shape == (48, 2 * 64 + 8, 3)
    assert np.array_equal(pair[:, :64], plots.spotlight(photo, HEAT))
    shares = np.rint(255 * plots.map_shares(HEAT)).astype(int)
    cells = (255 * MAGMA(shares)[..., :3]).astype(np.uint8)
    assert np.array_equal(pair[::16, 72::16], cells)
    framed = plots.map_pair(photo, HEAT, query=(1, 2))
    changed = (framed != pair).any(axis=-1)
    for start in (0, 72):
        place = changed[16:32, start + 32 : start + 48]
        assert not place[3:-3, 3:-3].any()
        assert place[1].sum() >= 14
    changed[16:32, 32:48] = changed[16:32, 104:120] = False
    assert not changed.any()


# ---- figures ----


def test_an_explanation_shows_the_photograph_what_was_said_and_the_map_twice():
    view = (2.0, 0.0, 14.0, 12.0)
    figure = plots.explanation(PHOTO, view, CLASSES, [0.2, 0.7, 0.1], HEAT, "rollout")
    given, says, lit, raw = figure.axes
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["What it was given", "What it predicts", "Where it looked", "rollout"]
    assert "70%" in words_in(figure)
    assert np.array_equal(given.images[0].get_array(), PHOTO)
    assert np.array_equal(lit.images[0].get_array(), plots.spotlight(PHOTO, HEAT, view))
    assert np.array_equal(raw.images[0].get_array(), plots.map_shares(HEAT))
    for box in frames(given):
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (1.5, -0.5, 12, 12)
    assert len(says.patches) == 3
    row, column = np.unravel_index(HEAT.argmax(), HEAT.shape)
    assert {circle.center for circle in circles(raw)} == {(column, row)}
    assert {circle.center for circle in circles(lit)} == {(2 + 3 * column + 1, 4 * row + 1.5)}
    assert [int(label.get_text()) for label in raw.get_xticklabels()] == [0, 1, 2, 3]
    assert figure.get_facecolor() == (1, 1, 1, 1)
    drawn(figure)


def test_the_legend_says_where_the_scale_begins_and_ends():
    raw = plots.explanation(PHOTO, WHOLE, CLASSES, [1, 0, 0], HEAT).axes[3]
    low, high = np.percentile(HEAT, [5, 98.5])
    (bar,) = raw.child_axes
    assert [text.get_text() for text in bar.texts] == [f"≤ {low:.1%}", f"≥ {high:.0%}"]


def test_without_one_strongest_patch_none_is_ringed():
    figure = plots.explanation(PHOTO, WHOLE, CLASSES, [1, 0, 0], np.zeros((3, 4)))
    assert not circles(figure.axes[2])
    assert not circles(figure.axes[3])


def test_an_explanation_frames_a_part_and_says_when_it_is_the_whole():
    part = plots.explanation(PHOTO, (2, 0, 14, 12), CLASSES, [1, 0, 0], HEAT).axes[0]
    assert (part.get_xlabel(), len(part.patches)) == ("inside the frame: what it sees", 2)
    whole = plots.explanation(PHOTO, (0, -2, 16, 14), CLASSES, [1, 0, 0], HEAT).axes[0]
    assert (whole.get_xlabel(), len(whole.patches)) == ("the network sees all of it", 0)


def test_an_overlay_may_be_had_instead():
    figure = plots.explanation(PHOTO, WHOLE, [], [], HEAT, paint=plots.overlay)
    assert np.array_equal(figure.axes[1].images[0].get_array(), plots.overlay(PHOTO, HEAT))
    assert figure.axes[1].get_xlabel() == "painted: most"


def test_a_grid_has_the_photograph_and_maps_each_on_its_own_scale():
    scale = np.array([1, 10, 0.1, 3, 0, 2])[:, None, None]
    heats = (HEAT[None] * scale).reshape(2, 3, 3, 4)
    names = ["layer 0", "layer 1"], ["head 0", "head 1", "head 2"]
    figure = plots.map_grid(PHOTO, heats, *names, title="Every head")
    photo, *maps = figure.axes
    assert np.array_equal(photo.images[0].get_array(), PHOTO)
    assert max(figure.get_size_inches()) < 9.6
    assert [axes.get_ylabel() for axes in maps if axes.get_ylabel()] == ["layer 0", "layer 1"]
    assert [axes.get_title() for axes in maps] == ["head 0", "head 1", "head 2", "", "", ""]
    assert "Every head" in words_in(figure)
    shown = [axes.images[0].get_array() for axes in maps]
    np.testing.assert_allclose(shown[1], shown[2])
    assert not shown[4].any()
    drawn(figure)


def test_a_grid_frames_the_query_and_notes_a_number_below_each_map():
    heats, notes = HEAT[None, None].repeat(2, axis=1), [["30%", "9%"]]
    figure = plots.map_grid(PHOTO, heats, ["a"], ["b", "c"], query=(1, 2), notes=notes)
    photo, *maps = figure.axes
    assert [axes.get_xlabel() for axes in maps] == ["30%", "9%"]
    assert {box.get_xy() for box in frames(photo)} == {(7.5, 3.5)}
    for axes in maps:
        assert {box.get_xy() for box in frames(axes)} == {(1.5, 0.5)}
    drawn(figure)


@pytest.mark.parametrize("scale", [None, (0.0, 2.0)])
def test_a_row_draws_each_map_twice_with_the_query_framed(scale):
    heats = [HEAT, 2 * HEAT]
    figure = plots.map_row(PHOTO, heats, ["one", "two"], query=(1, 2), scale=scale)
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title(loc="left") for axes in above] == ["one", "two"]
    for axes, heat in zip(above, heats, strict=True):
        expected = plots.spotlight(PHOTO, heat, None, scale)
        assert np.array_equal(axes.images[0].get_array(), expected)
        assert {box.get_xy() for box in frames(axes)} == {(7.5, 3.5)}
    for axes, heat in zip(below, heats, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), plots.map_shares(heat, scale))
        assert {box.get_xy() for box in frames(axes)} == {(1.5, 0.5)}
    drawn(figure)


def test_a_view_frames_the_heads_that_its_map_comes_from():
    maps = GENERATOR.random((2, 3, 3, 4))
    chosen = slice(1, 2), slice(None)
    figure = plots.attention_view(PHOTO, HEAT, maps, query=(0, 3), chosen=chosen, caption="mean")
    lit, raw, sheet = figure.axes
    assert np.array_equal(lit.images[0].get_array(), plots.spotlight(PHOTO, HEAT))
    assert {box.get_xy() for box in frames(raw)} == {(2.5, -0.5)}
    (box, _) = frames(sheet)
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (-0.5, 3.5, 14, 3)
    tile = sheet.images[0].get_array()[4:7, 5:9]
    np.testing.assert_allclose(tile, MAGMA(plots.map_shares(maps[1, 1]))[..., :3])
    assert "mean" in words_in(figure)
    drawn(figure)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: plots.explanation(PHOTO, WHOLE, CLASSES, [1.0], HEAT),
            "3 classes need as many values, got 1",
        ),
        (lambda: plots.explanation(PHOTO, WHOLE, CLASSES, [1, 0, 0], -HEAT), "0 or more, got -"),
        (
            lambda: plots.explanation(PHOTO, WHOLE, CLASSES, [1, 0, 0], HEAT * np.nan),
            "heat must be 0 or more, got nan",
        ),
        (lambda: plots.map_grid(PHOTO, HEAT, "a", "b"), r"patch columns\), got \(3, 4\)"),
        (lambda: plots.map_grid(PHOTO, HEAT[None, None], "ab", "c"), "2 rows and 1 columns need"),
        (
            lambda: plots.map_grid(PHOTO, HEAT[None, None], "a", "c", notes=[["x", "y"]]),
            "expected 1 rows of 1 notes",
        ),
        (lambda: plots.map_row(PHOTO, [HEAT], []), "1 maps need as many titles, got 0"),
        (lambda: plots.map_row(PHOTO, [], []), "0 maps"),
        (lambda: plots.attention_view(PHOTO, HEAT, HEAT), r"got \(3, 4\)"),
    ],
)
def test_figures_name_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_colours_and_settings_of_others_are_left_alone():
    before = dict(matplotlib.rcParams)
    plots.map_grid(PHOTO, HEAT[None, None], "a", "b")
    assert dict(matplotlib.rcParams) == before

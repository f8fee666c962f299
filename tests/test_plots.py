"""Figures say what they must and stay closed; the sliders' picture and words follow."""

import matplotlib
import numpy as np
import pytest
from conftest import drawn, words_in
from matplotlib.patches import Rectangle

from vit_tutorial import plots

CLASSES = ("cat", "dog", "frog")
GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.integers(0, 256, (12, 16, 3)).astype(np.uint8)
HEAT = GENERATOR.random((12, 16))

# ---- overlay ----


def test_overlay_mixes_photograph_and_colour_by_the_heat():
    painted = plots.overlay(PHOTO, HEAT, strength=0.6)
    colours = matplotlib.colormaps["cividis"](np.rint(HEAT * 255).astype(int))[..., :3] * 255
    share = 0.6 * HEAT[..., None]
    expected = (1 - share) * PHOTO + share * colours
    assert painted.dtype == np.uint8
    assert np.abs(painted - expected).max() <= 0.51


def test_no_heat_leaves_the_photograph_untouched_and_full_heat_is_yellow():
    assert np.array_equal(plots.overlay(PHOTO, np.zeros((12, 16))), PHOTO)
    assert np.array_equal(plots.overlay(PHOTO, HEAT, strength=0.0), PHOTO)
    heat = np.zeros((12, 16))
    heat[3, 5] = 1
    painted = plots.overlay(PHOTO, heat, strength=1.0)
    assert painted[3, 5].tolist() == [254, 232, 56]
    painted[3, 5] = PHOTO[3, 5]
    assert np.array_equal(painted, PHOTO)


def test_overlay_changes_neither_of_its_inputs():
    photo, heat = PHOTO.copy(), HEAT.copy()
    plots.overlay(photo, heat)
    assert np.array_equal(photo, PHOTO)
    assert np.array_equal(heat, HEAT)


@pytest.mark.parametrize(
    ("photo", "heat", "options", "sentence"),
    [
        (PHOTO / 255, HEAT, {}, r"uint8 \(H, W, 3\), got float64"),
        (PHOTO[..., 0], HEAT, {}, r"got uint8 \(12, 16\)"),
        (PHOTO[..., :1], HEAT, {}, r"got uint8 \(12, 16, 1\)"),
        (PHOTO, HEAT.T, {}, r"\(12, 16\) needs heat of that shape, got \(16, 12\)"),
        (PHOTO, HEAT * 2, {}, "heat must lie in 0..1, got .* to 1.99"),
        (PHOTO, HEAT - 1, {}, "heat must lie in 0..1, got -"),
        (PHOTO, HEAT * np.nan, {}, "got nan"),
        (PHOTO, HEAT, {"strength": 1.5}, "strength must lie in 0..1, got 1.5"),
    ],
)
def test_overlay_names_bad_input(photo, heat, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        plots.overlay(photo, heat, **options)


# ---- figures ----


def test_probabilities_are_sorted_and_written_beside_their_bars():
    figure = plots.probabilities(CLASSES, [0.2, 0.7, 0.1], top=2)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2]
    assert [text.get_text() for text in axes.texts] == ["70%", "20%"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the most probable one on top
    drawn(figure)
    assert len(plots.probabilities(CLASSES, [0.2, 0.7, 0.1]).axes[0].patches) == 3


def test_an_explanation_shows_the_photograph_what_was_said_and_where_it_looked():
    heat = 5 + 5 * HEAT
    heat[:, :2] = heat[:, 14:] = 0  # what the network did not see
    figure = plots.explanation(PHOTO, (2, 0, 14, 12), CLASSES, [0.2, 0.7, 0.1], heat)
    given, says, looked = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "What it was given",
        "What it predicts",
        "Where it looked",
    ]
    assert "70%" in words_in(figure)
    assert np.array_equal(given.images[0].get_array(), PHOTO)
    seen = heat[:, 2:14]
    share = np.clip((heat - seen.min()) / (seen.max() - seen.min()), 0, 1)
    expected = plots.overlay(PHOTO, share)  # from the least to the greatest that it saw
    assert np.abs(looked.images[0].get_array().astype(int) - expected).max() <= 1
    for box in [patch for patch in given.patches if isinstance(patch, Rectangle)]:
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (1.5, -0.5, 12, 12)
    assert len(given.patches) == 2
    assert len(says.patches) == 3
    assert figure.get_facecolor() == (1, 1, 1, 1)
    drawn(figure)


def test_an_explanation_without_any_heat_is_the_photograph():
    figure = plots.explanation(PHOTO, (0, 0, 16, 12), CLASSES, [1, 0, 0], np.zeros((12, 16)))
    assert np.array_equal(figure.axes[2].images[0].get_array(), PHOTO)


def test_a_grid_of_maps_has_labelled_pictures_each_with_its_own_scale():
    scale = np.array([1, 10, 0.1, 3, 0, 2])[:, None, None]
    heats = (HEAT[None] * scale).reshape(2, 3, 12, 16)
    names = ["layer 0", "layer 1"], ["head 0", "head 1", "head 2"]
    figure = plots.map_grid(PHOTO, heats, *names, title="Every head")
    assert len(figure.axes) == 6
    assert max(figure.get_size_inches()) < 9.4
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == [
        "layer 0",
        "layer 1",
    ]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["head 0", "head 1", "head 2", "", "", ""]
    assert "Every head" in words_in(figure)
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert np.abs(pictures[1].astype(int) - pictures[2]).max() <= 1
    assert np.array_equal(pictures[4], PHOTO)
    drawn(figure)


def test_a_row_of_pictures_has_its_titles():
    figure = plots.photo_row([PHOTO, PHOTO[..., 0]], ["one", "two"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    drawn(figure)


def test_an_explanation_frames_a_part_and_says_when_it_is_the_whole():
    part = plots.explanation(PHOTO, (2, 0, 14, 12), CLASSES, [1, 0, 0], HEAT).axes[0]
    assert (part.get_xlabel(), len(part.patches)) == ("inside the frame: what the network sees", 2)
    whole = plots.explanation(PHOTO, (0, -2, 16, 14), CLASSES, [1, 0, 0], HEAT).axes[0]
    assert (whole.get_xlabel(), len(whole.patches)) == ("the network sees all of it", 0)


def test_a_picture_of_greys_is_drawn_with_black_at_0_and_white_at_255():
    flat = np.full((4, 4), 100, np.uint8)
    image = plots.photo_row([flat], ["grey"]).axes[0].images[0]
    assert image.get_clim() == (0, 255)
    assert image.get_cmap().name == "gray"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plots.probabilities(CLASSES, [1.0]), "3 classes need as many values, got 1"),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1.0], HEAT),
            "3 classes need as many values, got 1",
        ),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1, 0, 0], HEAT[:5]),
            r"got \(5, 16\)",
        ),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1, 0, 0], -HEAT),
            "heat must be 0 or more, got -",
        ),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1, 0, 0], HEAT * np.nan),
            "heat must be 0 or more, got nan",
        ),
        (lambda: plots.map_grid(PHOTO, np.ones((1, 1, 5, 5)), "a", "b"), r"got \(5, 5\)"),
        (lambda: plots.map_grid(PHOTO, HEAT, "a", "b"), r"\(rows, columns, H, W\), got \(12, 16\)"),
        (lambda: plots.map_grid(PHOTO, HEAT[None, None], "ab", "c"), "2 rows and 1 columns need"),
        (lambda: plots.photo_row([PHOTO], ["a", "b"]), "1 pictures need as many titles, got 2"),
    ],
)
def test_figures_name_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_colours_and_settings_of_others_are_left_alone():
    before = dict(matplotlib.rcParams)
    plots.probabilities(CLASSES, [0.2, 0.7, 0.1])
    plots.map_grid(PHOTO, HEAT[None, None], "a", "b")
    assert dict(matplotlib.rcParams) == before

"""Figures say what they must and stay closed; the sliders' picture and words follow."""

import matplotlib
import numpy as np
import pytest
from conftest import drawn

from vit_tutorial import plots

CLASSES = ("cat", "dog", "frog")
GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.integers(0, 256, (12, 16, 3)).astype(np.uint8)


def test_probabilities_are_sorted_and_written_beside_their_bars():
    figure = plots.probabilities(CLASSES, [0.2, 0.7, 0.1], top=2)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2]
    assert [text.get_text() for text in axes.texts] == ["70%", "20%"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the most probable one on top
    drawn(figure)
    assert len(plots.probabilities(CLASSES, [0.2, 0.7, 0.1]).axes[0].patches) == 3


def test_a_row_of_pictures_has_its_titles():
    figure = plots.photo_row([PHOTO, PHOTO[..., 0]], ["one", "two"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    drawn(figure)


def test_a_picture_of_greys_is_drawn_with_black_at_0_and_white_at_255():
    flat = np.full((4, 4), 100, np.uint8)
    image = plots.photo_row([flat], ["grey"]).axes[0].images[0]
    assert image.get_clim() == (0, 255)
    assert image.get_cmap().name == "gray"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plots.probabilities(CLASSES, [1.0]), "3 classes need as many values, got 1"),
        (lambda: plots.photo_row([PHOTO], ["a", "b"]), "1 pictures need as many titles, got 2"),
    ],
)
def test_figures_name_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_colours_and_settings_of_others_are_left_alone():
    before = dict(matplotlib.rcParams)
    plots.probabilities(CLASSES, [0.2, 0.7, 0.1])
    plots.photo_row([PHOTO], ["a"])
    assert dict(matplotlib.rcParams) == before

"""Pictures under sliders: what is drawn, and what is shown."""

import io
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from vit_tutorial.explorer import flipbook

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


# ---- any pictures ----


def shade(red, green):
    picture = np.zeros((6, 10, 3), dtype=np.uint8)
    picture[..., 0], picture[..., 1] = red, green
    return picture, f"{red} and {green}"


def test_every_setting_has_its_picture_and_its_words():
    book = flipbook(shade, red=[0, 100, 200], green=[50, 250], start={"red": 100})
    assert book.setting == {"red": 100, "green": 50}
    assert book.pictures.shape == [3, 2]
    for red in (0, 100, 200):
        for green in (50, 250):
            book.sliders["red"].value, book.sliders["green"].value = red, green
            assert book.words == f"{red} and {green}"
            shown = opened(book.picture)
            assert shown.shape == (6, 10, 3)
            assert np.abs(shown[..., 0] - red).max() < 6  # a JPEG
            assert np.abs(shown[..., 1] - green).max() < 6


def test_the_browser_finds_the_picture_that_python_finds():
    """What flipbook.js adds up: the last slider is the fastest."""
    book = flipbook(shade, red=[0, 100, 200], green=[50, 250], start={"red": 200, "green": 250})
    pictures, index = book.pictures, 0
    for axis, options in enumerate(pictures.shape):
        index = index * options + getattr(pictures, f"at_{axis}")
    assert pictures.words[index] == book.words == "200 and 250"


def test_sliders_are_linked_to_the_pictures_in_the_browser(monkeypatch):
    links = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda *ends: links.append(ends))
    book = flipbook(shade, red=[0, 100], green=[50, 250])
    red, green = book.sliders["red"], book.sliders["green"]
    assert links == [
        ((red, "index"), (book.pictures, "at_0")),
        ((green, "index"), (book.pictures, "at_1")),
    ]
    assert book.children == (red, green, book.pictures)


def test_figures_are_shown_at_their_own_width_and_labels_are_short():
    def draw(temperature):
        figure, _ = plt.subplots(figsize=(3, 2))
        plt.close(figure)
        return figure

    book = flipbook(draw, temperature=[0.5, 1 / 3])
    assert [label for label, _ in book.sliders["temperature"].options] == ["0.5", "0.333333"]
    assert book.pictures.width == 300
    assert opened(book.picture).shape[:2] == (288, 432)  # finer, for sharp screens
    assert book.words == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "got 0 settings and 0 pictures"),
        ({"red": []}, "got 1 settings and 0 pictures"),
        ({"red": range(30), "green": range(30)}, "got 2 settings and 900 pictures"),
        ({"a": [1], "b": [1], "c": [1], "d": [1]}, "got 4 settings and 1 pictures"),
        ({"red": [1], "green": [2], "start": {"red": 2}}, "start: red=2 is not among"),
        ({"red": [1], "green": [2], "start": {"blue": 2}}, "start: blue=2 is not among"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        flipbook(shade, **settings)


@pytest.mark.parametrize("drawn", [None, "x", np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_anything_but_a_picture_is_refused(drawn):
    with pytest.raises(ValueError, match="draw must return a figure or a uint8 array"):
        flipbook(lambda red: drawn, red=[1])

"""Pictures under sliders: what is drawn, and what is shown."""

import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from vit_tutorial.explorer import flipbook

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file))).astype(int)


# ---- any pictures ----


def shade(red, green=None, deep_green=None):
    green = deep_green if green is None else green
    picture = np.zeros((6, 10, 3), dtype=np.uint8)
    picture[..., 0], picture[..., 1] = red, green
    return picture, f"{red} and {green}"


def test_every_setting_has_its_picture_and_its_words():
    book = flipbook(shade, red=[0, 100, 200], green=[50, 250], start={"red": 100})
    assert book.setting == {"red": 100, "green": 50}
    for row, red in enumerate((0, 100, 200)):
        for column, green in enumerate((50, 250)):
            book.at = [row, column]
            assert book.setting == {"red": red, "green": green}
            assert book.words == f"{red} and {green}"
            shown = opened(book.picture)
            assert shown.shape == (6, 10, 3)
            assert np.abs(shown[..., 0] - red).max() < 6  # a JPEG
            assert np.abs(shown[..., 1] - green).max() < 6


def test_a_page_turns_as_its_sliders_move(open_file, tmp_path):
    book = flipbook(shade, red=[0, 100, 200], deep_green=[50, 250], start={"deep_green": 250})
    book.save_html(tmp_path / "book.html")
    view = open_file(tmp_path / "book.html")
    words, shown = view.locator(".fb-words"), view.locator("img")
    red, green = view.get_by_label("red"), view.get_by_label("deep green")
    assert words.inner_text() == shown.get_attribute("alt") == book.words == "0 and 250"
    for slider, key, page in (
        (red, "End", [2, 1]),
        (green, "Home", [2, 0]),
        (red, "ArrowLeft", [1, 0]),
    ):
        slider.press(key)
        book.at = page
        view.locator(".fb-words", has_text=book.words).wait_for()
        pixel = view.evaluate(
            """async () => { const picture = document.querySelector("img");
            await picture.decode();
            const pen = document.createElement("canvas").getContext("2d");
            pen.drawImage(picture, 0, 0);
            return [...pen.getImageData(2, 2, 1, 1).data]; }"""
        )
        assert np.abs(opened(book.picture)[2, 2] - pixel[:3]).max() < 6
    assert red.get_attribute("aria-valuetext") == "100"
    assert Axe().run(view).violations_count == 0


@pytest.mark.parametrize("at", [[0], [3, 0], [0, -1], [0, 0, 0]])
def test_pages_that_are_not_there_are_refused(at):
    book = flipbook(shade, red=[0, 100, 200], green=[50, 250])
    with pytest.raises(ValueError, match="each of red, green, from 0 and below 3, 2, got"):
        book.at = at


def test_figures_are_shown_at_their_own_width_and_labels_are_short():
    def draw(temperature):
        figure, _ = plt.subplots(figsize=(3, 2))
        plt.close(figure)
        return figure

    book = flipbook(draw, temperature=[0.5, 1 / 3])
    assert book.labels == [["0.5", "0.333333"]]
    assert book.width == 300
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

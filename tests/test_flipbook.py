"""Pictures under sliders: what is drawn, what is shown, and attention among it."""

import io
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import randomize
from PIL import Image

from vit_tutorial import plots
from vit_tutorial.attention import rollout
from vit_tutorial.data import normalize
from vit_tutorial.explorer import attention_sliders, flipbook
from vit_tutorial.images import fit_image
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.recording import record_attention
from vit_tutorial.weights import Card

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


# ---- attention ----


def tiny(**changes) -> tuple[VisionTransformer, Card]:
    sizes = dict(img_size=(16, 24), patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    config = ViTConfig(**{**sizes, **changes})
    statistics = ((0.5,) * config.in_chans, (0.25,) * config.in_chans)
    card = Card("tiny", config, ("cat", "dog", "ship"), *statistics, data="none")
    return randomize(VisionTransformer(config)).float(), card


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_the_sliders_show_what_was_recorded_on_the_photograph(fit, in_chans):
    model, card = tiny(in_chans=in_chans)
    photo = np.asarray(Image.fromarray(PHOTO).resize((144, 72)))  # smooth, as photographs are
    book = attention_sliders(model, card, photo, fit=fit)
    fitted = fit_image(
        Image.fromarray(photo).convert("L" if in_chans == 1 else "RGB"), (16, 24), fit=fit
    )
    record = record_attention(model, normalize(fitted.pixels[None], card.mean, card.std))
    assert book.setting == {"layer": 1, "show": "head 0"}
    files = []
    for layer in (0, 1):
        heads = record.weights[layer][0, :, 0, 1:].unflatten(-1, (2, 3))
        maps = {
            "head 0": (heads[0], f"Layer {layer}, head 0: "),
            "head 1": (heads[1], f"Layer {layer}, head 1: "),
            "mean of heads": (heads.mean(dim=0), f"Layer {layer}, mean of its heads: "),
            "rollout": (
                rollout(record, layers=slice(0, layer + 1))[0],
                f"Rollout through layers 0 to {layer}: ",
            ),
        }
        for show, (weights, words) in maps.items():
            book.sliders["layer"].value, book.sliders["show"].value = layer, show
            row, column = divmod(int(weights.argmax()), 3)
            assert book.words.startswith(f"{words}most on the patch in row {row}, column {column}")
            assert f"({weights.max():.1%})" in book.words
            assert f"together {weights.sum():.1%}" in book.words
            heat = fitted.to_original(weights.numpy())
            expected = plots.overlay(photo, heat / heat.max()).astype(int)
            assert np.abs(opened(book.picture) - expected).mean() < 3  # a JPEG
            files.append(book.picture)
    assert len(set(files)) == len(files) - 1  # of one layer, rollout is the mean of its heads


def test_a_large_photograph_is_shown_no_larger_than_the_screen_needs():
    model, card = tiny()
    book = attention_sliders(model, card, Image.new("RGB", (2000, 1000), "red"))
    assert opened(book.picture).shape == (320, 640, 3)


def test_sliders_take_a_model_of_another_precision():
    model, card = tiny()
    assert "row" in attention_sliders(model.double(), card, PHOTO).words


def test_sliders_need_a_cls_token_and_an_image(tmp_path):
    with pytest.raises(ValueError, match='pool must be "cls"'):
        attention_sliders(*tiny(pool="mean"), PHOTO)
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"note\.txt"):
        attention_sliders(*tiny(), tmp_path / "note.txt")
    assert torch.is_grad_enabled()

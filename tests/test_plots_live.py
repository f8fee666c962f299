"""The still picture of a live page."""

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots
from vit_tutorial.plots.spotlight import spotlight

RANDOM = np.random.default_rng(0)
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
PHOTO = RANDOM.integers(0, 255, (12, 20, 3), dtype=np.uint8)


def answers(*names):
    return {name: RANDOM.dirichlet(np.ones(6), 2) for name in names}


def test_the_likeliest_classes_have_a_bar_for_each_network():
    given = answers("ViT", "CNN")
    figure = plots.live_view(PHOTO, {"rollout": RANDOM.random((3, 5))}, given, CLASSES, top=3)
    bars = figure.axes[-1]
    most = np.maximum(given["ViT"].max(0), given["CNN"].max(0))
    order = np.argsort(most)[::-1][:3][::-1]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == [CLASSES[n] for n in order]
    widths = [bar.get_width() for bar in bars.patches]
    assert np.allclose(widths, [*given["ViT"][1][order], *given["CNN"][1][order]])
    lines = [path.vertices[0, 0] for c in bars.collections for path in c.get_paths()]
    assert np.allclose(lines, [*given["ViT"][0][order], *given["CNN"][0][order]])


def test_a_map_is_a_spotlight_unless_all_have_one_scale():
    heat = RANDOM.random((3, 5))
    figure = plots.live_view(PHOTO, {"rollout": heat}, answers("ViT"), CLASSES, title="a photo",
                             caption="9 of 10 right")  # fmt: skip
    assert np.array_equal(figure.axes[0].images[0].get_array(), spotlight(PHOTO, heat))
    assert {"a photo", "9 of 10 right", "rollout"} <= set(words_in(figure))
    falls = {"one": heat - 0.5, "two": heat / 4}
    figure = plots.live_view(PHOTO, falls, answers("ViT"), CLASSES, scale=(-0.5, 0.5))
    assert np.array_equal(figure.axes[0].images[0].get_array(), PHOTO)
    for axes, fall in zip(figure.axes[1:3], falls.values(), strict=True):
        image = axes.images[0]
        np.testing.assert_allclose(image.get_array(), fall + 0.5)
        assert image.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.05), "0 is white"
    assert {"-50%", "0", "50%"} <= set(words_in(figure)), "one bar for all maps"


def test_what_cannot_be_drawn_is_refused():
    heat = {"rollout": np.ones((2, 2))}
    for given in ({}, {"ViT": np.ones((2, 5))}, {"ViT": np.ones(6)}):
        with pytest.raises(ValueError, match=r"probabilities \(2, 6\) of each network"):
            plots.live_view(PHOTO, heat, given, CLASSES)
    with pytest.raises(ValueError, match="expected a map"):
        plots.live_view(PHOTO, {}, answers("ViT"), CLASSES)
    with pytest.raises(ValueError, match="expected a picture"):
        plots.live_view(PHOTO[..., 0], heat, answers("ViT"), CLASSES)

"""Figures of the embedding: the numbers given are drawn, the words say so, nonsense is refused."""

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots

RNG = np.random.default_rng(0)
FILTERS = RNG.normal(size=(5, 3, 4, 4)).astype(np.float32)
PHOTO = RNG.integers(0, 255, (64, 64, 3)).astype(np.uint8)
PATCHES = RNG.integers(0, 255, (4, 4, 4, 3)).astype(np.uint8)


def test_a_token_by_hand_shows_every_step():
    patch = np.array([[1.0, 5.0], [2.0, 8.0]])
    filters = np.array([[[0.25, 0.25], [0.25, 0.25]], [[-1.0, 1.0], [-1.0, 1.0]]])
    words = set(words_in(plots.embedding_by_hand(patch, filters, np.array([0.0, -4.0]))))
    assert {
        "1.25",
        "−2",
        "4 + 0  =",
        "10 − 4  =",
        "4",
        "6",
        "filter 1",
        "number 1 of the token",
    } <= words
    for wrong in (patch[0], patch[:, :1]):
        with pytest.raises(ValueError, match=r"expected \(P, P\), \(D, P, P\) and \(D,\)"):
            plots.embedding_by_hand(wrong, filters, np.zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 2, 2\), \(3,\)"):
        plots.embedding_by_hand(patch, filters, np.zeros(3))


def test_filters_are_drawn_in_order_with_zero_as_grey():
    filters = FILTERS.copy()
    filters[1] = 0
    filters[2] = 1
    figure = plots.filter_pictures(filters, "five filters", columns=3)
    sheet = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert sheet.shape == (9, 14, 3)
    assert set(np.unique(sheet[:4, 5:9])) == {128}  # filter 1
    assert (sheet[:4, 10:] == 255).all()  # filter 2
    assert (sheet[5:, 10:] == 255).all()  # no filter 5
    largest = np.unravel_index(np.abs(FILTERS[3]).argmax(), (3, 4, 4))
    assert sheet[5 + largest[1], largest[2], largest[0]] in (0, 255)
    assert {"five filters", "0", "3"} <= set(words_in(figure))
    assert plots.filter_pictures(filters[:, :1], "grey").axes
    with pytest.raises(ValueError, match=r"shape \(K, 3, P, P\), got \(5, 2, 4, 4\)"):
        plots.filter_pictures(filters[:, :2], "two channels")


def test_a_filters_view_shows_the_sign_of_its_answers():
    answers = np.zeros((8, 8))
    answers[0, 0], answers[7, 7] = 2.0, -2.0
    view = plots.filter_view(FILTERS[0], PHOTO, answers, PATCHES, PATCHES)
    assert (view.shape, view.dtype) == ((320, 864, 3), np.uint8)
    red, _, blue = view[20, 560].astype(int)
    assert red > blue  # orange
    red, _, blue = view[300, 850].astype(int)
    assert red < blue
    assert view[160, 700].min() >= 254
    assert np.array_equal(view[0, 204], PHOTO[0, 0])
    assert np.array_equal(view[204, 8], PATCHES[0, 0, 0])


@pytest.mark.parametrize(
    ("photo", "answers", "patches", "match"),
    [
        (PHOTO[:32], np.zeros((8, 8)), PATCHES, r"photo must be uint8 \(H, H, 3\)"),
        (PHOTO / 255, np.zeros((8, 8)), PATCHES, "got float64"),
        (PHOTO, np.zeros((8, 4)), PATCHES, r"responses must be square, got \(8, 4\)"),
        (PHOTO, np.zeros((8, 8)), PATCHES[:, :2], r"patches must be uint8 \(K, 4, 4, 3\)"),
    ],
)
def test_a_view_of_something_else_is_refused(photo, answers, patches, match):
    with pytest.raises(ValueError, match=match):
        plots.filter_view(FILTERS[0], photo, answers, patches, patches)


def test_maps_share_one_scale_around_zero():
    picture = np.zeros((2, 3, 3), dtype=np.uint8)
    figure = plots.response_maps(
        picture, [np.array([[1.0, -4.0]]), np.array([[2.0]])], ["a", "b"], ["x", "y"]
    )
    limits = [axes.get_images()[0].get_clim() for axes in figure.axes[1:3]]
    assert limits == [(-4.0, 4.0)] * 2
    words = {"the picture", "3×2 pixels", "a", "b", "x", "y", "the filter's output"}
    assert words <= set(words_in(figure))
    with pytest.raises(ValueError, match="2 maps need as many titles and remarks"):
        plots.response_maps(picture, [np.zeros((1, 1))] * 2, ["a", "b"], ["x"])
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        plots.response_maps(np.zeros((2, 3)), [np.zeros((1, 1))], ["a"], ["x"])


def test_gains_are_drawn_above_their_patterns():
    shares = np.array([0.9, 0.08, 0.02, 0.0, 0.0])
    gains = {"trained": np.arange(5.0), "fresh": np.ones(5)}
    figure = plots.pattern_gains(FILTERS, shares, gains, shown=4)
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0, 1, 2, 3], [1] * 4]
    assert len(figure.axes[1].get_images()) == 4
    assert {"trained", "fresh", "gain", "0\n90%", "2\n2%", "3"} <= set(words_in(figure))
    with pytest.raises(ValueError, match="5 patterns need as many shares and gains"):
        plots.pattern_gains(FILTERS, shares, {"trained": np.ones(4)})


def test_touched_pixels_are_counted():
    touched = np.zeros((4, 5))
    touched[1, 1:3] = 0.5
    figure = plots.touched_pixels([touched, np.zeros((4, 5))], ["one", "none"])
    assert {"one", "none", "2 of 20 pixels", "0 of 20 pixels"} <= set(words_in(figure))
    with pytest.raises(ValueError, match="1 maps need as many titles, got 2"):
        plots.touched_pixels([touched], ["one", "none"])
    with pytest.raises(ValueError, match="0 or more"):
        plots.touched_pixels([touched - 1], ["one"])


def test_readouts_start_with_their_first_number():
    figure = plots.readout_curves({"CLS": [10.2, 90.0], "mean": [20.0, 95.0]}, 10, "Digits")
    assert list(figure.axes[0].lines[0].get_ydata()) == [10.2, 90.0]
    assert {"CLS", "mean", "10%", "20%", "guessing", "Digits"} <= set(words_in(figure))
    for curves in ({}, {"CLS": [1.0], "mean": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="curves of one length"):
            plots.readout_curves(curves, 10, "none")

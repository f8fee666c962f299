"""Figures of attention: the numbers that they draw, the words on them, and what they refuse."""

import matplotlib
import numpy as np
import pytest
from conftest import words_in
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from vit_tutorial import plots
from vit_tutorial.plots.style import PALETTE

RANDOM = np.random.default_rng(0)
POINTS = np.array([[1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
WEIGHTS = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])


def colour_of(figure: Figure, word: str) -> str:
    found = [text for text in figure.findobj(Text) if text.get_text() == word]
    return to_hex(found[0].get_color())


def test_attention_by_hand_names_every_vector_in_its_colour():
    figure = plots.attention_by_hand(POINTS, POINTS[::-1], 3 * POINTS, WEIGHTS, WEIGHTS @ POINTS)
    words = words_in(figure)
    for letter, colour in zip(("q", "k", "v"), PALETTE, strict=False):
        assert {f"{letter}0", f"{letter}1", f"{letter}2"} <= set(words)
        assert colour_of(figure, f"{letter}1") == colour
    assert {"out 0", "0.50", "0.70", "= 1.00"} <= set(words)
    drawn = figure.axes[2].collections[1].get_offsets()
    assert np.allclose(drawn, WEIGHTS @ POINTS)


def test_tables_show_sums_of_weights_and_what_is_no_number():
    masked = np.array([[1.5, -np.inf], [-np.inf, -np.inf]])
    broken = np.array([[1.0, 0.0], [np.nan, np.nan]])
    short = np.array([[0.5, 0.25], [0.0, 1.0]])
    figure = plots.weight_tables([masked, broken, short], ["scores", "weights", "wrong"])
    words = words_in(figure)
    assert words.count("−∞") == 3
    assert words.count("NaN") == 2
    assert {"1.5", "= NaN", "= 0.75"} <= set(words)
    assert words.count("= 1.00") == 2
    assert colour_of(figure, "= 0.75") == PALETTE[1]  # a row that does not add up to 1


def test_scales_bars_and_costs_draw_their_numbers():
    curves = {"no scale": np.array([0.6, 0.3]), "divided by √d": np.array([0.9, 0.8])}
    figure = plots.score_scales([4, 16], np.array([4.1, 15.9]), curves, curves)
    assert {"no scale", "divided by √d", "4", "16"} <= set(words_in(figure))
    assert "how much weights react to the query" in words_in(figure)
    for axes in figure.axes[1:]:
        assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[0.6, 0.3], [0.9, 0.8]]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "log"]

    figure = plots.weight_bars(WEIGHTS[2], "d = 4", "entropy 0.8")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.1, 0.2, 0.7]
    assert {"d = 4", "entropy 0.8", "an even share, 1/3"} <= set(words_in(figure))

    figure = plots.cost_curves([64, 128], {"a": np.array([0.001, 0.004])}, {"b": np.array([1, 4])})
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), [1, 4])  # milliseconds
    assert {"a", "b", "milliseconds", "mebibytes"} <= set(words_in(figure))

    figure = plots.loss_curves({"right": [2.3, 1.0]}, chance=2.3)
    assert {"right", "guessing"} <= set(words_in(figure))


def test_token_tables_colour_by_token():
    names = np.stack(np.meshgrid(np.arange(2), np.arange(3), indexing="ij"), axis=-1)
    figure = plots.token_tables([names, names[::-1]], ["tokens", "turned"])
    assert {"0.0", "1.2", "tokens", "turned"} <= set(words_in(figure))
    assert figure.axes[1].images[0].get_array().tolist() == [[1, 1, 1], [0, 0, 0]]


def test_offset_maps_say_how_uneven_they_are():
    maps = np.full((2, 3, 3), 0.01)
    maps[1, 1, 0] = 0.04
    figure = plots.offset_maps(maps, ["even", "left"], even=0.01)
    words = words_in(figure)
    assert "even\nmost: 1.0× even" in words
    assert "left\nmost: 4.0× even" in words

    layers_down = plots.offset_maps(np.tile(maps, (4, 1, 1)), list("abcdefgh"), even=0.01)
    below = [axes.get_subplotspec().rowspan.start for axes in layers_down.axes]
    assert below == [0, 0, 0, 0, 1, 1, 1, 1]  # four heads across


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: plots.attention_by_hand(POINTS[:2], *[POINTS] * 2, WEIGHTS, POINTS), "keys of"),
        (lambda: plots.attention_by_hand(*[POINTS] * 3, WEIGHTS[:2], POINTS), "a table of"),
        (lambda: plots.weight_tables([WEIGHTS], []), "1 tables need as many titles"),
        (lambda: plots.weight_tables([WEIGHTS[0]], ["x"]), "a table of weights"),
        (lambda: plots.score_scales([4], np.ones(2), {}, {}), "1 widths need curves as long"),
        (lambda: plots.weight_bars(WEIGHTS, ""), "from 0 up"),
        (lambda: plots.weight_bars(-WEIGHTS[2], ""), "from 0 up"),
        (lambda: plots.token_tables([np.zeros((2, 2))], [""]), r"\(rows, columns, 2\)"),
        (lambda: plots.token_tables([], ["x"]), "0 tables need"),
        (lambda: plots.offset_maps(np.zeros((1, 4, 4)), ["x"], 1.0), "odd, odd"),
        (lambda: plots.offset_maps(np.zeros((1, 3, 3)), [], 1.0), "as many titles"),
        (lambda: plots.cost_curves([1, 2], {"a": np.ones(3)}, {}), "2 lengths need"),
        (lambda: plots.loss_curves({}, 1.0), "1 to 3 curves, got 0"),
        (lambda: plots.loss_curves({key: [1.0] for key in "abcd"}, 1.0), "1 to 3 curves, got 4"),
    ],
)
def test_what_does_not_fit_is_refused(draw, said):
    with pytest.raises(ValueError, match=said):
        draw()


def test_colours_suit_any_colour_vision():
    assert plots.weight_tables([WEIGHTS], ["w"]).axes[0].images[0].get_cmap().name == "cividis"
    assert "cividis" in matplotlib.colormaps

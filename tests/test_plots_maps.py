"""Figures of lesson 08: the numbers that they draw, the words on them, and what they refuse."""

import numpy as np
import pytest
from conftest import words_in

from vit_tutorial import plots

RANDOM = np.random.default_rng(0)
STEPS = np.array([[[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 1]], [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]]])
PHOTO = np.full((30, 40, 3), 128, dtype=np.uint8)


def test_every_head_is_a_dot_over_its_layer():
    trained, fresh = RANDOM.random((4, 3)), np.ones((4, 3))
    panels = {"distance": {"trained": trained, "untrained": fresh}, "tokens": {"trained": trained}}
    figure = plots.head_dots(panels, {"distance": {"all alike": 4.14}})
    left, right = figure.axes
    drawn = np.asarray(left.collections[0].get_offsets())
    assert np.allclose(drawn[:, 1], trained.ravel())
    assert np.array_equal(np.rint(drawn[:, 0]), np.repeat(range(4), 3))
    assert len(np.unique(drawn[:, 0])) == 12, "heads stand beside each other"
    assert [line.get_ydata()[0] for line in left.lines] == [4.14]
    assert not right.lines
    words = words_in(figure)
    assert {"distance", "tokens", "trained", "untrained", "all alike", "layer"} <= set(words)
    assert words.count("trained") == 1, "one legend for both panels"


def test_one_head_stands_over_its_layer():
    figure = plots.head_dots({"distance": {"one": np.ones((2, 1))}})
    assert np.asarray(figure.axes[0].collections[0].get_offsets())[:, 0].tolist() == [0, 1]


def test_paths_carry_the_shares_of_a_product():
    figure = plots.token_paths(STEPS, 0, ["CLS", "a", "b"], "two layers")
    words = words_in(figure)
    assert {"CLS", "a", "b", "comes in", "after layer 0", "after layer 1", "two layers"} <= set(
        words
    )
    shares = STEPS[1] @ STEPS[0]
    assert shares[0].tolist() == [0.5, 0.25, 0.25]
    assert words.count("0.25") == 4  # two tokens that come in, and the two paths from them
    assert words.count("0.5") == 6  # CLS, twice; a in between; and three paths
    widths = sorted(line.get_linewidth() for line in figure.axes[0].lines)
    assert len(widths) == 5
    assert widths[0] < widths[-1]


def test_components_stand_below_their_shares():
    components = RANDOM.standard_normal((5, 3, 4, 4))
    shares = {"trained": np.linspace(0.3, 0.1, 5), "untrained": np.full(5, 0.2)}
    figure = plots.component_shares(components, shares, "filters")
    curves, strip = figure.axes
    assert np.allclose(curves.lines[0].get_ydata(), shares["trained"])
    assert len(strip.images) == 5
    assert {"trained", "untrained", "filters", "share of the variance"} <= set(words_in(figure))


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda: plots.head_dots({}), "at least one panel"),
        (lambda: plots.head_dots({"a": {}}), "at least one panel"),
        (lambda: plots.head_dots({"a": {"b": np.ones(3)}}), r"b: expected \(layers, heads\)"),
        (lambda: plots.token_paths(STEPS, 0, ["a", "b"]), r"2 tokens need"),
        (lambda: plots.token_paths(2 * STEPS, 0, ["a", "b", "c"]), "add up to 1"),
        (lambda: plots.token_paths(STEPS, 3, ["a", "b", "c"]), "from 0 to 2"),
        (lambda: plots.component_shares(np.ones((2, 3, 4, 4)), {}), "as many shares"),
        (
            lambda: plots.component_shares(np.ones((2, 3, 4, 4)), {"a": np.ones(3)}),
            "as many shares",
        ),
        (lambda: plots.component_shares(np.ones((2, 5, 4, 4)), {"a": np.ones(2)}), "filters"),
    ],
)
def test_what_a_figure_refuses(draw, reason):
    with pytest.raises(ValueError, match=reason):
        draw()

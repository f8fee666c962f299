"""Figures of the encoder block: what is drawn is what was given, and nonsense is refused."""

import numpy as np
import pytest
from conftest import words_in
from matplotlib.figure import Figure

from vit_tutorial import plots

GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.integers(0, 256, (12, 16, 3)).astype(np.uint8)
HEAT = GENERATOR.random((12, 16)) + 1


def line(figure: Figure, label: str, axes: int = 0) -> np.ndarray:
    found = [one for one in figure.axes[axes].lines if one.get_label() == label]
    return np.asarray(found[0].get_ydata())


# ---- block_wirings ----


def boxes(figure: Figure, axes: int) -> dict[str, list[tuple[float, float]]]:
    places: dict[str, list[tuple[float, float]]] = {}
    for text in figure.axes[axes].texts:
        places.setdefault(text.get_text(), []).append(text.get_position())
    return places


def test_the_norms_are_in_the_branches_or_on_the_stream():
    figure = plots.block_wirings(["pre-norm", "post-norm"])
    assert {"pre-norm", "post-norm", "attention", "MLP"} <= set(words_in(figure))
    pre, post = boxes(figure, 0), boxes(figure, 1)
    assert all(y > 1 for _, y in pre["norm"])
    assert all(abs(y) < 0.1 for _, y in post["norm"])
    assert len(pre["norm"]) == len(post["norm"]) == len(pre["+"]) == 2
    assert pre["norm"][0] < pre["attention"][0] < pre["+"][0]
    assert post["attention"][0] < post["+"][0] < post["norm"][0]


def test_another_wiring_is_refused():
    with pytest.raises(ValueError, match="got 'sandwich'"):
        plots.block_wirings(["sandwich"])


# ---- stream_lengths ----


def test_the_stream_and_what_is_added_are_drawn():
    lengths, added, cosines = np.arange(1.0, 6.0), np.array([4.0, 3.0, 2.0, 1.0]), np.ones(5)
    figure = plots.stream_lengths(lengths, added, cosines)
    assert {"input", "0", "1", "attention adds", "MLP adds"} <= set(words_in(figure))
    assert line(figure, "the stream").tolist() == lengths.tolist()
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in figure.axes[0].containers}
    assert heights == {"attention adds": [4.0, 2.0], "MLP adds": [3.0, 1.0]}


@pytest.mark.parametrize("shapes", [(5, 3, 5), (4, 4, 5), (5, 4, 4), (4, 3, 4)])
def test_lengths_must_fit_the_half_blocks(shapes):
    with pytest.raises(ValueError, match="half-blocks"):
        plots.stream_lengths(*map(np.ones, shapes))


# ---- token_stacks ----


def test_every_cell_says_its_number():
    stacks = np.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    figure = plots.token_stacks(stacks, ["one", "two"])
    words = words_in(figure)
    assert {"one", "two", "image 0", "image 1"} <= set(words)
    assert all(words.count(str(number)) >= 1 for number in range(48))
    assert np.array_equal(figure.axes[1].get_images()[0].get_array(), stacks[1, 0])


def test_stacks_need_four_axes_and_titles():
    with pytest.raises(ValueError, match="expected stacks"):
        plots.token_stacks(np.ones((2, 3, 4)), ["one", "two"])
    with pytest.raises(ValueError, match="and 1"):
        plots.token_stacks(np.ones((2, 2, 3, 4)), ["one"])


# ---- curves ----


def test_activations_and_their_distance_from_the_first_are_drawn():
    x = np.linspace(-2, 2, 9)
    figure = plots.activation_curves(x, {"exact": x, "half": x / 2})
    assert "How far from exact" in words_in(figure)
    assert np.allclose(line(figure, "half"), x / 2)
    assert np.allclose(line(figure, "half", 1), np.abs(x) / 2)
    with pytest.raises(ValueError, match="expected curves of shape"):
        plots.activation_curves(x, {"short": x[1:]})
    with pytest.raises(ValueError, match="expected curves of shape"):
        plots.activation_curves(x, {})


def test_gradients_are_drawn_through_the_middle_run_on_a_logarithmic_axis():
    runs = np.array([[1.0, 2.0], [3.0, 30.0], [2.0, 4.0]])
    figure = plots.gradient_lengths({"left": {"pre": runs}, "right": {"pre": runs * 2}})
    assert {"left", "right", "layer", "length of the gradient", "pre"} <= set(words_in(figure))
    assert line(figure, "pre").tolist() == [2.0, 4.0]
    assert figure.axes[0].get_yscale() == "log"


@pytest.mark.parametrize("panels", [{}, {"a": {"b": np.ones(3)}}, {"a": {"b": np.zeros((2, 3))}}])
def test_gradients_must_be_positive_runs(panels):
    with pytest.raises(ValueError, match="expected"):
        plots.gradient_lengths(panels)


def test_runs_are_drawn_with_their_guide():
    runs = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    guide = ("guide", np.ones(3))
    figure = plots.run_curves([1, 2, 4], {"a": runs}, "x", "y", logarithmic=True, guide=guide)
    assert {"x", "y", "a", "guide", "4"} <= set(words_in(figure))
    assert line(figure, "a").tolist() == [2.0, 3.0, 4.0]
    assert line(figure, "guide").tolist() == [1.0, 1.0, 1.0]
    plain = plots.run_curves(range(3), {"a": runs}, "x", "y")
    assert plain.axes[0].get_yscale() == "linear"


def test_runs_must_fit_their_axes():
    with pytest.raises(ValueError, match="expected finite"):
        plots.run_curves([1, 2], {"a": np.ones((2, 3))}, "x", "y")
    with pytest.raises(ValueError, match="expected finite"):
        plots.run_curves([1, 2], {"a": np.zeros((1, 2))}, "x", "y", logarithmic=True)
    with pytest.raises(ValueError, match="expected finite"):
        plots.run_curves([1, 2], {"a": np.full((1, 2), np.nan)}, "x", "y")

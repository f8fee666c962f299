"""Figures of lesson 14: a ring round by round, and when a step computes and sends."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vit_tutorial import plots
from vit_tutorial.lessons.lesson_14.cluster import ring_all_reduce


def ring(workers=3):
    parts = torch.arange(workers)[None] + 1.0 + 10 ** torch.arange(workers)[:, None]
    rounds = ring_all_reduce(parts)
    states = torch.stack([parts, *(after for after, _ in rounds)]).numpy()
    return states, [messages for _, messages in rounds]


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_a_ring_shows_every_number_of_every_round(workers):
    states, messages = ring(workers)
    figure = plots.ring_rounds(states, messages)
    assert isinstance(figure, Figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    shown = [title for title in titles if title]
    assert shown == ["at first", *(f"after round {n}" for n in range(2 * (workers - 1)))]
    for axes, state in zip(figure.axes, states, strict=False):
        said = texts(axes)
        for number in state.flat:
            assert f"{number:g}" in said
    figure.draw_without_rendering()


def test_only_whole_sums_are_marked_as_whole():
    states, messages = ring()
    figure = plots.ring_rounds(states, messages)
    sums = states[0].sum(axis=0)
    for axes, state in zip(figure.axes, states, strict=False):
        bold = sum(text.get_weight() == "bold" for text in axes.texts)
        assert bold == np.isclose(state, sums).sum()


def test_each_message_is_an_arrow_and_a_wrap_two():
    states, messages = ring()
    figure = plots.ring_rounds(states, messages)
    arrows = [
        sum(text.arrow_patch is not None for text in axes.texts if hasattr(text, "arrow_patch"))
        for axes in figure.axes[: len(states)]
    ]
    assert arrows == [4, 4, 4, 4, 0]  # three messages, one of them over the edge


def test_a_ring_of_another_shape_is_refused():
    states, messages = ring()
    with pytest.raises(ValueError, match=r"\(rounds \+ 1, N, N\) and 4 rounds, got \(4, 3, 3\)"):
        plots.ring_rounds(states[:4], messages)


STEPS = {
    "one": (1.0, 3.0, []),
    "two": (1.0, 3.0, [(2.0, 2.5), (3.0, 3.5)]),
    "slow": (0.5, 1.0, [(1.0, 4.0)]),
}


def test_a_timeline_says_how_long_a_step_is_and_how_much_of_it_is_waiting():
    figure = plots.step_timelines(STEPS)
    (axes,) = figure.axes
    said = " | ".join(texts(axes))
    assert "3e+03 ms, 0% of it only waiting" in said
    assert "3.5e+03 ms, 14% of it only waiting" in said
    assert "4e+03 ms, 75% of it only waiting" in said
    assert [label.get_text() for label in axes.get_yticklabels()] == list(STEPS)
    assert axes.get_xlim()[1] >= 4000
    bars = [box for bars in axes.collections for box in bars.get_paths()]
    assert len(bars) == 2 * 3 + 3  # forward and backward of each, and three buckets


def test_a_timeline_can_end_where_it_is_told():
    (axes,) = plots.step_timelines({"one": STEPS["one"]}, limit=10.0).axes
    assert axes.get_xlim()[1] >= 10_000
    assert not axes.lines  # nothing goes on beyond the end


def test_a_step_that_goes_on_beyond_the_end_of_the_axis_has_an_arrow():
    (axes,) = plots.step_timelines(STEPS, limit=3.6).axes
    assert axes.get_xlim()[1] < 4000
    (arrow,) = axes.lines
    assert arrow.get_marker() == ">"
    assert list(STEPS)[round(arrow.get_ydata()[0] - 0.53)] == "slow"
    assert arrow.get_xdata()[0] >= axes.get_xlim()[1]


@pytest.mark.parametrize(
    ("steps", "said"),
    [({}, "at least one step"), ({"bad": (3.0, 1.0, [])}, "bad: the forward pass must end before")],
    ids=["none", "backwards"],
)
def test_bad_steps_are_refused(steps, said):
    with pytest.raises(ValueError, match=said):
        plots.step_timelines(steps)

"""The exercises: what a check accepts, what it refuses and why, and what a learner reads."""

import re
import signal
import statistics
import time

import numpy as np
import pytest
import torch

from vit_tutorial.lessons import check, hint
from vit_tutorial.lessons import exercises as engine
from vit_tutorial.lessons.exercises import Wrong, call, exercise, exercises_of, expect_tensor, judge

# ---- Right answers to 00.1, each by another way --------------------------------------------------


def by_divmod(weights, grid):
    return divmod(weights[1:].argmax().item(), grid[1])


def by_reshape(weights, grid):
    patches = weights[1:].reshape(grid)
    return (patches == patches.max()).nonzero()[0]  # a tensor of two


def by_numpy(weights, grid):
    patches = weights.detach().numpy()[1:].reshape(grid)
    return np.unravel_index(patches.argmax(), patches.shape)


def by_loops(weights, grid):
    best = (0, 0)
    for row in range(grid[0]):
        for column in range(grid[1]):
            if weights[1 + row * grid[1] + column] > weights[1 + best[0] * grid[1] + best[1]]:
                best = (row, column)
    return list(best)


def by_tensors(weights, grid):
    index = weights[1:].argmax()
    return index // grid[1], index % grid[1]


@pytest.mark.parametrize("answer", [by_divmod, by_reshape, by_numpy, by_loops, by_tensors])
def test_right_answers_are_accepted_in_less_than_a_second(answer):
    began = time.process_time()
    verdict = judge("00.1", answer)
    assert verdict.mark == "✓", verdict.message
    assert "not square" in verdict.message
    assert time.process_time() - began < 1


# ---- Wrong answers to 00.1, and the cause that must be named -------------------------------------


def changes_its_input(weights, grid):
    weights[0] = 0
    return divmod(weights.argmax().item() - 1, grid[1])


def only_the_middle(weights, grid):
    return grid[0] // 2, grid[1] // 2


def never_ends(weights, grid):
    while True:
        pass


def endless_rows(weights, grid):
    while True:
        yield 0


WRONG = {
    "CLS kept": (lambda w, g: divmod(w.argmax().item(), g[1]), r"`weights\[0\]` is CLS itself"),
    "CLS can win": (lambda w, g: divmod(w.argmax().item() - 1, g[1]), "CLS takes part"),
    "one too far": (
        lambda w, g: divmod(w[1:].argmax().item() + 1, g[1]),
        "first patch is number 0",
    ),
    "last left out": (lambda w, g: divmod(w[:-1].argmax().item(), g[1]), "left out the last"),
    "least": (lambda w, g: divmod(w[1:].argmin().item(), g[1]), "least, not most"),
    "swapped": (lambda w, g: divmod(w[1:].argmax().item(), g[1])[::-1], "swapped"),
    "by rows": (lambda w, g: divmod(w[1:].argmax().item(), g[0]), "divide by the number of rows"),
    "row by rows": (
        lambda w, g: (w[1:].argmax().item() // g[0], w[1:].argmax().item() % g[1]),
        "The row is wrong",
    ),
    "down the columns": (
        lambda w, g: divmod(w[1:].argmax().item(), g[0])[::-1],
        "count down the columns",
    ),
    "square": (
        lambda w, g: divmod(w[1:].argmax().item(), int((len(w) - 1) ** 0.5)),
        "Right for squares only",
    ),
    "counted from 1": (
        lambda w, g: (w[1:].argmax().item() // g[1] + 1, w[1:].argmax().item() % g[1] + 1),
        "counted from 0",
    ),
    "flat index": (lambda w, g: w[1:].argmax(), "got one, .* place in the sequence"),
    "flat int": (lambda w, g: w[1:].argmax().item(), "got one, .* place in the sequence"),
    "flat numpy": (lambda w, g: w[1:].detach().numpy().argmax(), "got one, .* in the sequence"),
    "fraction": (lambda w, g: (w[1:].argmax().item() / g[1], 0), "row must be a whole number"),
    "the weights": (lambda w, g: w[1:].reshape(g), r"got a tensor of shape \(2, 3\)"),
    "three numbers": (lambda w, g: (0, 0, 0), "got a tuple of length 3"),
    "a word": (lambda w, g: object(), "got an object of type object"),
    "None": (lambda w, g: None, "returned None"),
    "by luck": (only_the_middle, r"Right for \d+ of 42 .* expected \(\d, \d\), got \(\d, \d\)"),
    "one argument": (lambda w: (0, 0), "must take 2 arguments"),
    "in place": (changes_its_input, "changes `weights`"),
    "called": ((0, 1), "without calling it: got a tuple"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_refused_with_their_cause(name):
    answer, cause = WRONG[name]
    began = time.process_time()
    verdict = judge("00.1", answer)
    assert verdict.mark == "✗"
    assert re.search(cause, verdict.message), verdict.message
    assert time.process_time() - began < 1


def test_two_faults_are_both_named():
    message = judge("00.1", lambda w, g: divmod(w.argmax().item(), g[1])[::-1]).message
    assert "CLS itself" in message
    assert "swapped" in message


def test_nothing_said_gives_the_answer_away(capsys):
    for answer, _ in WRONG.values():
        check("00.1", answer)
    for _ in range(4):
        hint("00.1")
    said = capsys.readouterr().out
    for secret in ("divmod", "argmax", "[1:]", "grid[1]", "//", "%"):
        assert secret not in said


@pytest.mark.parametrize("answer", [never_ends, endless_rows])
def test_an_answer_that_never_ends_is_stopped(answer, monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.2)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background
    try:
        verdict = judge("00.1", answer)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
    assert verdict.mark == "✗"
    assert "more than 0.2 seconds" in verdict.message


# ---- What a learner reads ------------------------------------------------------------------------


def raises_in_torch(weights, grid):
    return weights.view(3, 999)


def raises_in_python(weights, grid):
    return statistics.mean(())  # the exception comes from a line of Python's own


def not_done(weights, grid):
    raise NotImplementedError  # your code here


def leaves(weights, grid):
    raise SystemExit("bye")


def test_an_exception_is_told_with_the_line_of_the_learners_code(capsys):
    for answer, code, kind in (
        (raises_in_torch, "return weights.view(3, 999)", "RuntimeError"),
        (raises_in_python, "return statistics.mean(())", "StatisticsError: mean requires"),
    ):
        check("00.1", answer)
        said = capsys.readouterr().out
        line = answer.__code__.co_firstlineno + 1
        assert re.search(rf"Your line {line}, `{re.escape(code)}.*`, stopped with {kind}", said)
        assert "Traceback" not in said
    check("00.1", leaves)
    assert "SystemExit: bye" in capsys.readouterr().out


def test_a_stub_is_not_done_yet_but_an_unsupported_operation_is_wrong():
    assert judge("00.1", not_done).mark == "○"
    assert "not done yet" in judge("00.1", not_done).message

    def unsupported(weights, grid):
        raise NotImplementedError("no such kernel")

    assert judge("00.1", unsupported).mark == "✗"


def test_a_check_returns_nothing_and_leaves_random_numbers_alone(capsys):
    state = torch.get_rng_state()
    assert check("00.1", by_divmod) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert capsys.readouterr().out.startswith("✓ 00.1  Right for all 42 inputs")


def test_hints_come_one_at_a_time(capsys, monkeypatch):
    monkeypatch.setattr(engine, "_HINTS_GIVEN", {})
    hints = exercises_of("00")[0].hints
    for number, text in enumerate(hints, 1):
        assert hint("00.1") is None
        said = capsys.readouterr().out
        assert f"Hint {number} of {len(hints)}: {text}" in said
        assert not [other for other in hints if other != text and other in said]
        left = len(hints) - number
        assert (f"{left} more" if left else "the last one") in said
    hint("00.1")
    said = capsys.readouterr().out
    assert "No hint is left" in said
    assert all(text in said for text in hints)


def test_an_unknown_exercise_is_one_sentence(capsys):
    check("00.9", by_divmod)
    assert "lesson 00 has no exercise 00.9; it has 00.1" in capsys.readouterr().out
    check(by_divmod, "00.1")
    assert 'by its number, as in "00.1"' in capsys.readouterr().out
    hint("x")
    assert 'by its number, as in "00.1"' in capsys.readouterr().out
    with pytest.raises(ValueError, match="lesson 98 has no exercise"):
        judge("98.1", by_divmod)


def test_on_a_page_the_message_is_html_and_cannot_break_it(monkeypatch):
    import IPython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))

    def breaks(weights, grid):
        raise ValueError("<script>")

    check("00.1", breaks)
    assert shown[0]["text/plain"].startswith("✗ 00.1  Your line")
    assert "<script>" not in shown[0]["text/html"]
    assert "<code>raise ValueError" in shown[0]["text/html"]


# ---- What checks are made of ---------------------------------------------------------------------


def test_inputs_of_any_kind_are_copied_and_compared():
    nested = {"a": [torch.zeros(2)], "b": (torch.full((1,), float("nan")),)}
    assert call(lambda value: value["a"][0] + 1, nested).tolist() == [1, 1]

    def spoils(value):
        value["a"][0] += 1
        return 0

    with pytest.raises(Wrong, match="changes `value`"):
        call(spoils, nested)
    assert nested["a"][0].tolist() == [0, 0]


def test_a_tensor_is_compared_with_what_was_expected():
    like = torch.zeros(2, 3)
    assert expect_tensor(like + 1, like).sum() == 6
    for came, cause in (
        ([0.0], r"tensor of shape \(2, 3\), got a list of length 1"),
        (torch.zeros(3, 2), r"shape \(2, 3\), got \(3, 2\)"),
        (torch.zeros(2, 3, dtype=torch.int64), "torch.float32, got torch.int64"),
        (torch.tensor([[1.0, 2.0, float("nan")]] * 2), "2 of 6 numbers are NaN or infinite"),
    ):
        with pytest.raises(Wrong, match=cause):
            expect_tensor(came, like)


def test_an_exercise_must_be_declared_whole():
    with pytest.raises(ValueError, match="two or three hints, got 1, 5 and 1"):
        exercise("97.1", title="t", difficulty=1, minutes=5, hints=("only one",))(lambda a: "")
    assert exercises_of("97") == []

"""The exercises: what a check accepts, what it refuses and why, and what a learner reads."""

import importlib
import operator
import re
import signal
import statistics
import time
from pathlib import Path

import pytest
import torch
from einops import rearrange

from vit_tutorial.lessons import check, hint
from vit_tutorial.lessons import exercises as engine
from vit_tutorial.lessons.exercises import (
    Wrong,
    as_integer,
    as_number,
    call,
    compare,
    compare_numbers,
    exercise,
    exercises_of,
    expect_tensor,
    judge,
    require_gradients,
)

# as in a notebook, where k.T of more than two axes only warns
pytestmark = pytest.mark.filterwarnings("ignore:The use of .x.T. on tensors")
ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem[-2:] for path in (ROOT / "tests" / "answers").glob("lesson_*.py"))
ANSWERS = {number: importlib.import_module(f"answers.lesson_{number}") for number in LESSONS}
RIGHT = [
    (id, answer)
    for lesson in ANSWERS.values()
    for id, answers in lesson.RIGHT.items()
    for answer in answers
]
WRONG = [
    (id, name, *case)
    for lesson in ANSWERS.values()
    for id, cases in lesson.WRONG.items()
    for name, case in cases.items()
]
by_divmod = ANSWERS["00"].by_divmod

# ---- What a check accepts and refuses, for every exercise ----------------------------------------


def test_every_exercise_is_tested_with_right_and_wrong_answers():
    for source in (ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"):
        number = source.name[:2]
        for task in exercises_of(number):
            lesson = ANSWERS[number]
            assert len(lesson.RIGHT[task.id]) >= 1, "another way than the lesson's own solution"
            assert len(lesson.WRONG[task.id]) >= 2
            assert lesson.SECRETS[task.id]


def judged_in_a_second(id, answer):
    """Judge an answer, which may take a second of computing; whatever else is cleared up meanwhile
    in a process of thousands of tests hits one try, and not three."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        verdict = judge(id, answer)
        seconds.append(time.process_time() - began)
        if seconds[-1] < 1:
            return verdict
    pytest.fail(f"three tries took {seconds} s of computing")


@pytest.mark.parametrize(
    ("id", "answer"), RIGHT, ids=lambda value: getattr(value, "__name__", value)
)
def test_right_answers_are_accepted_in_less_than_a_second(id, answer):
    verdict = judged_in_a_second(id, answer)
    assert verdict.mark == "✓", verdict.message


@pytest.mark.parametrize(
    ("id", "name", "answer", "cause"), WRONG, ids=[f"{case[0]}-{case[1]}" for case in WRONG]
)
def test_wrong_answers_are_refused_with_their_cause(id, name, answer, cause):
    verdict = judged_in_a_second(id, answer)
    assert verdict.mark == "✗", verdict.message
    assert re.search(cause, verdict.message), verdict.message


@pytest.mark.parametrize("number", LESSONS)
def test_nothing_said_gives_the_answer_away(number):
    lesson = ANSWERS[number]
    for task in exercises_of(number):
        said = [*task.hints, judge(task.id, lesson.RIGHT[task.id][0]).message]
        said += [judge(task.id, answer).message for answer, _ in lesson.WRONG[task.id].values()]
        said = [re.sub(r"Your line \d+, `.*`, stopped", "", text) for text in said]  # it is theirs
        for secret in lesson.SECRETS[task.id]:
            assert secret not in "\n".join(said), f"{task.id} gives {secret!r} away"


def test_two_faults_are_both_named():
    message = judge("00.1", lambda w, g: divmod(w.argmax().item(), g[1])[::-1]).message
    assert "CLS itself" in message
    assert "swapped" in message


def never_ends(weights, grid):
    while True:
        pass


def endless_rows(weights, grid):
    while True:
        yield 0


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


def test_an_answer_that_stops_is_told_what_it_was_given_and_the_whole_message():
    def by_einops(images, patch_size):
        return rearrange(images, "b c (r p) w -> b (r w) (c p)", p=5, q=patch_size)

    message = judge("01.3", by_einops).message
    line = by_einops.__code__.co_firstlineno + 1
    assert message.startswith(f"Your line {line}, `return rearrange(")
    assert "stopped with EinopsError: " in message
    assert "Input tensor shape: torch.Size([2, 3, 8, 12])" in message  # its second line
    assert (
        "It was given `images` of shape (2, 3, 8, 12) and type torch.float64, `patch_s" in message
    )
    assert message.count("It was given") == 1

    def cut(image, index, p):
        return image.reshape(3, 8, 12)

    assert "and type torch.float64, `index` = 0, `p` = 2." in judge("01.2", cut).message
    assert "given `height` = 32" in judge("01.1", lambda height, w, p: 1 / 0).message
    told = engine._told
    assert told(torch.nn.Linear(1, 1)) == "(an object of type Linear)"
    assert (
        told([torch.zeros(2, 3)] * 9) == "(list of 9: of shape (2, 3) and type torch.float32, ...)"
    )


@pytest.mark.parametrize("id", [task.id for number in LESSONS for task in exercises_of(number)])
def test_every_exercise_tells_an_answer_that_stops_what_it_was_given(id):
    def stops(*given):
        raise RuntimeError("first line\nsecond line")

    class Stops(torch.nn.Module):
        def __init__(self, *given):
            super().__init__()
            stops(*given)

    messages = [judge(id, answer).message for answer in (stops, Stops)]
    told = "" if id == "07.9" else "\n.*It was given `"  # that one is given nothing
    assert any(re.search(f"(?s)first line\nsecond line{told}", m) for m in messages)


def test_an_answer_that_a_check_calls_by_itself_is_told_its_input_too():
    class Stops(ANSWERS["02"].ByConvolution):
        def forward(self, images):
            return torch.cat([self.cls_token, self.tokens(images)], dim=1)

        def helper(self, x):
            return x.view(5)

    message = judge("02.6", Stops).message
    assert re.search("must match.*\n.*one CLS token does not fit.*\nIt was given `images`", message)

    check_by_itself = operator.methodcaller("__call__", torch.zeros(2, 3))
    engine._EXERCISES["97.1"] = engine.Exercise("97.1", "t", 1, 1, ("a", "b"), check_by_itself)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "find", engine._EXERCISES.get)
            message = judge("97.1", Stops(4, 3, 8).helper).message
            assert message.endswith("It was given `x` of shape (2, 3) and type torch.float32.")
            message = judge("97.1", lambda x: int(x)).message
            assert "It was given `x`" in message
    finally:
        del engine._EXERCISES["97.1"]


def test_what_the_inputs_have_in_common_that_stop_an_answer_is_said():
    def root_of_n(patches, patch_size, grid):
        b, n, length = patches.shape
        side, c = int(n**0.5), length // patch_size**2
        split = patches.reshape(b, side, side, c, patch_size, patch_size)
        return split.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    message = judge("01.4", root_of_n).message
    assert "stops for just those that are not square: is a side guessed, as the square" in message
    message = judge("01.4", ANSWERS["01"].unpatchify_three_channels).message
    assert "stops for just those of other than 3 channels" in message

    inputs = [(torch.rand(2, 3, dtype=torch.float64),), (torch.rand(1, 3),), (torch.rand(4, 3),)]
    for answer, words in (
        (lambda x: x @ torch.zeros(3, 3), r"runs for 2 of 3 inputs, .* in float64"),
        (lambda x: x.reshape(1, 3), r"runs for 1 of 3 inputs, .* axis is longer than 1"),
        (lambda x: x if len(x) == 2 else x.reshape(7), r"runs for 1 of 3 inputs\.$"),
        (lambda x: x if len(x) < 4 else x.reshape(7), r"runs for 2 of 3 inputs, .* of four rows"),
    ):
        with pytest.raises(RuntimeError) as stopped:
            compare(answer, lambda x: x, inputs, {}, {"of four rows": lambda x: len(x) == 4})
        assert any(re.search(words, note) for note in stopped.value.__notes__)
    for first, second in ((torch.ones(()), torch.zeros(())), (1, 0)):  # of which no kind is known
        with pytest.raises((RuntimeError, ZeroDivisionError)) as stopped:
            compare(lambda x: 1 / int(x), lambda x: x, [(first,), (second,)], {})
        assert stopped.value.__notes__[-1] == "It runs for 1 of 2 inputs."
    for answer in (lambda x: x.reshape(7), not_done_at_all):  # nothing to tell one from another
        with pytest.raises((RuntimeError, NotImplementedError)) as stopped:
            compare(answer, lambda x: x, inputs, {})
        assert not [note for note in stopped.value.__notes__ if "runs for" in note]


def not_done_at_all(x):
    raise NotImplementedError


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


def test_an_answer_is_compared_with_the_right_one_and_with_known_mistakes():
    inputs = [(torch.rand(2, 3),), (torch.rand(4, dtype=torch.float64),)]
    causes = {"not squared": lambda x: x, "only for matrices": lambda x: x @ x.T}
    compare(lambda x: x * x, torch.square, inputs, causes)
    with pytest.raises(Wrong, match=r"^not squared$"):
        compare(lambda x: x.clone(), torch.square, inputs, causes)
    with pytest.raises(
        Wrong, match=r"Right for 0 of 2 inputs. For a tensor \(2, 3\), .* at \[\d, "
    ):
        compare(lambda x: x * x + 0.01, torch.square, inputs, causes)
    with pytest.raises(Wrong, match=r"Expected the shape \(2, 3\), got \(3, 2\)"):
        compare(lambda x: (x * x).reshape(-1, 2), torch.square, inputs, causes)
    with pytest.raises(Wrong, match=r"numbers of type torch.float64, got torch.float32"):
        compare(lambda x: (x * x).float(), torch.square, inputs, causes)


def test_numbers_come_plain_or_in_tensors_and_whole_ones_have_no_fraction():
    for output in (3, 3.0, torch.tensor(3), torch.tensor([3.0])):
        assert as_number(output) == 3
        number = as_integer(output)
        assert (number, type(number)) == (3, int)
    for output in ("three", (1, 2), torch.zeros(2), None):
        for read in (as_number, as_integer):
            with pytest.raises(Wrong, match=r"^Expected one number, got "):
                read(output)
    for output in (2.5, float("nan"), float("inf"), True):
        with pytest.raises(Wrong, match=r"^Expected one whole number, got the (float|bool)"):
            as_integer(output)


def test_answers_that_are_numbers_are_compared_too():
    inputs = [(1, 4), (2, 5), (3, 3)]
    causes = {"added": lambda a, b: a + b, "never reached": lambda a, b: a / 0}

    def check(answer, **options):
        compare_numbers(answer, lambda a, b: a * b, inputs, causes, **options)

    check(lambda a, b: torch.tensor(a * b * 1.000001))
    with pytest.raises(Wrong, match=r"^added$"):
        check(lambda a, b: b + a)
    with pytest.raises(
        Wrong, match=r"^Right for 1 of 3 inputs. For \(2, 5\) it should be 10; got 10.002.$"
    ):
        check(lambda a, b: a * b * 1.0002 if a > 1 else a * b)
    check(lambda a, b: float(a * b), read=as_integer)
    words = r"^Right for 0 of 3 inputs. Of 1 and 4 it should be 4; got 5, 1 too many.$"
    with pytest.raises(Wrong, match=words):
        check(lambda a, b: a * b + 1, read=as_integer, case=lambda a, b: f"Of {a} and {b}")


def test_gradients_must_come_through_and_be_the_right_ones():
    x, y = torch.rand(2, 3, requires_grad=True), torch.rand(3, requires_grad=True)

    def moved(x, y):  # only where each gradient belongs is wrong, not their sum
        difference = x - x.flip(1)
        return x * y + difference - difference.detach()

    require_gradients(lambda x, y: x * y, (x, y), torch.mul)
    require_gradients(lambda x, y: x * 2 * y, (x, y))
    require_gradients(lambda x, y: x * y.detach(), (x, y.detach()), torch.mul)
    for answer, cause in (
        (lambda x, y: x * y.detach(), "no gradient reaches `y`:"),
        (lambda x, y: torch.tensor((x * y).tolist()), "no gradient reaches `x`, `y`:"),
        (lambda x, y: x * y + (x - x.detach()), "the gradient of `x` is not"),
        (moved, "the gradient of `x` is not"),
    ):
        with pytest.raises(Wrong, match=cause):
            require_gradients(answer, (x, y), torch.mul)
    assert x.grad is None

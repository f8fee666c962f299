"""Exercises: how one is declared, how an answer is checked, and what the learner is told.

A lesson's exercises stand in `lesson_NN/checks.py`: 04.3 in `lesson_04/checks.py`. Each is one
function that takes the learner's answer, raises `Wrong` with the likely cause, or returns a line of
praise that says what was right:

    @exercise("00.1", title="The strongest patch", difficulty=1, minutes=5, hints=("...", "..."))
    def strongest_patch(answer):
        if call(answer, weights, grid) != (1, 2):
            raise Wrong("rows and columns look swapped")
        return "Right on every grid, square or not."

An answer that stops is told in which line, with the whole message, what it was given, and, where
the inputs for which it stops have something in common, what that is.
"""

import _thread
import contextlib
import copy
import html
import importlib
import importlib.util
import inspect
import linecache
import math
import re
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SECONDS = 10.0  # longer than this, and an answer is taken for one that never ends

# Code that is not the learner's: this package, Python, and what is installed.
_LIBRARIES = [
    Path(__file__).resolve().parent.parent,
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
]
_GIVEN = "It was given "  # how the note begins that tells the input
_MOST_LINES = 12  # of an error's message
_COLOURS = {"✓": "46, 158, 91", "✗": "214, 69, 65", "○": "128, 128, 128", "?": "58, 122, 196"}


class Wrong(Exception):
    """An answer that is not right; the message names the likely cause."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: difficulty is 1 to 3, minutes are for somebody who meets it first.

    Raises:
        ValueError: another difficulty, no minutes, or not two or three hints.
    """

    id: str
    title: str
    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    check: Callable[[Any], str]

    def __post_init__(self) -> None:
        if self.difficulty not in (1, 2, 3) or self.minutes < 1 or len(self.hints) not in (2, 3):
            raise ValueError(
                f"exercise {self.id}: expected difficulty 1 to 3, at least a minute and two or "
                f"three hints, got {self.difficulty}, {self.minutes} and {len(self.hints)}"
            )

    @property
    def dots(self) -> str:
        """The difficulty as it is shown: ●○○."""
        return "●" * self.difficulty + "○" * (3 - self.difficulty)


@dataclass(frozen=True)
class Verdict:
    """What a check found: "✓" right, "✗" wrong, "○" not done yet."""

    mark: str
    message: str


_EXERCISES: dict[str, Exercise] = {}
_HINTS_GIVEN: dict[str, int] = {}


def exercise(
    id: str, *, title: str, difficulty: int, minutes: int, hints: tuple[str, ...]
) -> Callable[[Callable[[Any], str]], Exercise]:
    """Declare the function below as the check of an exercise."""

    def declare(check: Callable[[Any], str]) -> Exercise:
        _EXERCISES[id] = Exercise(id, title, difficulty, minutes, hints, check)
        return _EXERCISES[id]

    return declare


def exercises_of(lesson: str) -> list[Exercise]:
    """Return the exercises of a lesson, "00" for example; none where it declares none."""
    name = f"{__package__}.lesson_{lesson}"
    if re.fullmatch(r"\d\d", lesson) and importlib.util.find_spec(name):
        importlib.import_module(f"{name}.checks")
    return [_EXERCISES[id] for id in _EXERCISES if id.startswith(f"{lesson}.")]


def find(id: str) -> Exercise:
    """Return an exercise by its id.

    Raises:
        ValueError: there is none of that id.
    """
    if not isinstance(id, str) or not re.fullmatch(r"\d\d\.\d+", id):
        raise ValueError(f'an exercise is called by its number, as in "00.1": got {describe(id)}')
    known = {exercise.id: exercise for exercise in exercises_of(id[:2])}
    if id not in known:
        raise ValueError(
            f"lesson {id[:2]} has no exercise {id}; it has {', '.join(known) or 'none'}"
        )
    return known[id]


# ---- What a learner calls ------------------------------------------------------------------------


def check(id: Any, answer: Any) -> None:
    """Check an answer and say what was found: right, wrong and why, or not done yet."""
    try:
        verdict = judge(id, answer)
    except ValueError as error:  # no such exercise
        verdict = Verdict("✗", str(error))
    _show(verdict.mark, id, verdict.message)


def hint(id: Any) -> None:
    """Give the next hint for an exercise; when all are given, all of them again."""
    try:
        hints = find(id).hints
    except ValueError as error:
        return _show("✗", id, str(error))
    given = _HINTS_GIVEN[id] = _HINTS_GIVEN.get(id, 0) + 1
    if given > len(hints):
        return _show("?", id, "No hint is left. All of them:\n" + "\n".join(hints))
    left = len(hints) - given
    more = (
        f"{left} more {'hint is' if left == 1 else 'hints are'} left."
        if left
        else "It is the last one."
    )
    _show("?", id, f"Hint {given} of {len(hints)}: {hints[given - 1]}\n{more}")


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Compute on one core: for inputs as small as these, several only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def judge(id: str, answer: Any) -> Verdict:
    """Check an answer without showing anything.

    The learner's random numbers go on as if nothing had happened.

    Raises:
        ValueError: there is no such exercise.
    """
    exercise = find(id)
    if not callable(answer):
        return Verdict(
            "✗", f"Give the function itself, without calling it: got {describe(answer)}."
        )
    try:
        with torch.random.fork_rng(devices=[]), _one_thread(), _time_limit(SECONDS):
            torch.manual_seed(0)
            return Verdict("✓", exercise.check(answer))
    except Wrong as wrong:
        return Verdict("✗", str(wrong))
    except (Exception, SystemExit) as error:
        if isinstance(error, NotImplementedError) and not str(error):  # the stub
            count = len(exercise.hints)
            return Verdict("○", f'not done yet. `hint("{id}")` gives the first of {count} hints.')
        return Verdict("✗", _explain(error))


def _show(mark: str, id: Any, message: str) -> None:
    """Show a line: as HTML where there is a page, else as text."""
    id = id if isinstance(id, str) else ""  # `check(answer, "00.1")`
    head = f"{mark} {id}".strip()
    text = f"{head}  {message}".replace("\n", "\n  ")
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        print(text)
        return
    from IPython.display import display

    body = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(message, quote=False))
    body = body.replace("\n", "<br>")
    colour = _COLOURS[mark]  # translucent, so that it suits light and dark pages
    style = (
        f"border-left: 4px solid rgb({colour}); background: rgba({colour}, 0.12); color: inherit; "
        "padding: 0.5em 0.8em; border-radius: 3px; max-width: 50em; line-height: 1.5"
    )
    page = f'<div style="{style}"><b>{html.escape(head)}</b> &nbsp;{body}</div>'
    display({"text/plain": text, "text/html": page}, raw=True)


# ---- What a check uses ---------------------------------------------------------------------------


def call(answer: Callable, *arguments: Any) -> Any:
    """Call an answer with copies of the arguments, and return what it returned.

    Raises:
        Wrong: it takes other arguments, changed them, or returned None.
    """
    names = _names(answer, arguments)
    copies = [_copy(argument) for argument in arguments]
    with _input_noted(names, arguments):
        output = answer(*copies)
    for name, before, after in zip(names, arguments, copies, strict=True):
        if not _same(before, after):
            raise Wrong(
                f"Your function changes `{name}`, which belongs to its caller: something works in "
                f"place (an assignment to a part of it, `+=`, or a method that ends in `_`)."
            )
    return require_output(output)


def require_output(output: Any) -> Any:
    """Return what an answer returned.

    Raises:
        Wrong: it is None.
    """
    if output is None:
        raise Wrong("Your function returned None: is its `return` missing?")
    return output


def expect_tensor(output: Any, like: Tensor) -> Tensor:
    """Return `output` if it is a finite tensor of the shape and type of `like`.

    Raises:
        Wrong: it is something else; the message says what was expected and what is there.
    """
    shape = tuple(like.shape)
    if not isinstance(output, Tensor):
        raise Wrong(f"Expected a tensor of shape {shape}, got {describe(output)}.")
    if output.shape != like.shape:
        raise Wrong(f"Expected the shape {shape}, got {tuple(output.shape)}.")
    if output.dtype != like.dtype:
        raise Wrong(f"Expected numbers of type {like.dtype}, got {output.dtype}.")
    bad = int((~output.isfinite()).sum())
    if bad and like.isfinite().all():
        raise Wrong(
            f"{bad} of {output.numel()} numbers are NaN or infinite: a division by zero, or the "
            f"exponential of something large?"
        )
    return output


def as_number(output: Any) -> float:
    """Return one number, plain or in a tensor, as a float.

    Raises:
        Wrong: it is something else.
    """
    try:
        return float(output)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"Expected one number, got {describe(output)}.") from None


def as_integer(output: Any) -> int:
    """Return one whole number, plain or in a tensor, as an int.

    Raises:
        Wrong: it is something else, or has a fraction.
    """
    number = as_number(output)
    if isinstance(output, bool) or number % 1 != 0:
        raise Wrong(f"Expected one whole number, got {describe(output)}.")
    return int(number)


def compare(
    answer: Callable,
    reference: Callable[..., Tensor],
    inputs: Sequence[tuple],
    causes: Mapping[str, Callable],
    stops: Mapping[str, Callable[..., bool]] | None = None,
) -> None:
    """Compare an answer with the reference, input by input.

    Args:
        answer: the learner's function.
        reference: returns the right tensor for the same arguments.
        inputs: tuples of arguments, chosen so that no two functions of `causes` always agree.
        causes: what to say -> a wrong function; said where the answer returns, for every input,
            what that function returns.
        stops: what to say -> tells whether an input is of a kind; said where the answer stops for
            just the inputs of that kind.

    Raises:
        Wrong: it differs for an input; the message names the cause, or else where it differs.
    """
    outputs = _outputs(answer, inputs, stops or {})
    expected = [reference(*arguments) for arguments in inputs]
    same = [_close(a, b) for a, b in zip(outputs, expected, strict=True)]
    if all(same):
        return
    name_cause(outputs, inputs, causes, _close)
    first = same.index(False)
    output = expect_tensor(outputs[first], expected[first])
    error = (output - expected[first]).abs()
    index = tuple(map(int, np.unravel_index(int(error.argmax()), error.shape)))  # torch's takes 2 s
    raise Wrong(
        f"Right for {sum(same)} of {len(inputs)} inputs. For {_shapes(inputs[first])}, the number "
        f"at {list(index)} should be {expected[first][index].item():.4g}; "
        f"got {output[index].item():.4g}."
    )


def compare_numbers(
    answer: Callable,
    reference: Callable[..., float],
    inputs: Sequence[tuple],
    causes: Mapping[str, Callable],
    case: Callable[..., str] = lambda *arguments: f"For ({', '.join(map(str, arguments))})",
    read: Callable[[Any], float] = as_number,
    stops: Mapping[str, Callable[..., bool]] | None = None,
) -> None:
    """Compare an answer that returns one number, as `compare` does one that returns a tensor.

    Args:
        answer: the learner's function.
        reference: returns the right number for the same arguments.
        inputs: tuples of arguments, chosen so that no two functions of `causes` always agree.
        causes: what to say -> a wrong function.
        case: says what an input is, to begin a sentence with.
        read: makes a number of what the answer returned; ints must be equal, floats nearly so.
        stops: as in `compare`.

    Raises:
        Wrong: it differs for an input; the message names the cause, or else where it differs.
    """
    outputs = [read(output) for output in _outputs(answer, inputs, stops or {})]
    correct = [reference(*arguments) for arguments in inputs]
    tiny = 1e-6 * max(map(abs, correct))

    def agree(a: float, b: float) -> bool:
        return a == b if isinstance(a, int) else math.isclose(a, b, rel_tol=1e-4, abs_tol=tiny)

    same = [agree(a, b) for a, b in zip(outputs, correct, strict=True)]
    if all(same):
        return
    name_cause(outputs, inputs, causes, agree)
    first = same.index(False)
    actual, expected = outputs[first], correct[first]
    if isinstance(actual, int):
        comparison = f"{expected:,}; got {actual:,}, {abs(actual - expected):,} too "
        comparison += "many" if actual > expected else "few"
    else:
        comparison = f"{expected:.5g}; got {actual:.5g}"
    raise Wrong(
        f"Right for {sum(same)} of {len(inputs)} inputs. {case(*inputs[first])} it should be "
        f"{comparison}."
    )


def _outputs(answer: Callable, inputs: Sequence[tuple], stops: Mapping[str, Callable]) -> list[Any]:
    """Call an answer with each input; where it stops, note for which inputs it does."""
    try:
        return [call(answer, *arguments) for arguments in inputs]
    except Wrong:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) and not str(error):  # the stub
            raise
        explained = len(getattr(error, "__notes__", ())) > 1  # by the check: more than the input
        stopped = [explained or _stops(answer, arguments) for arguments in inputs]
        if not all(stopped):
            add_cause(error, _in_common(inputs, stopped, {**stops, **_KINDS}))
        raise


def _stops(answer: Callable, arguments: tuple) -> bool:
    try:
        call(answer, *arguments)
    except Wrong:
        return False
    except Exception:
        return True
    return False


def _in_common(
    inputs: Sequence[tuple], stopped: Sequence[bool], kinds: Mapping[str, Callable[..., bool]]
) -> str:
    """Say for how many inputs an answer runs, and what those have in common for which it stops."""
    runs = f"It runs for {len(inputs) - sum(stopped)} of {len(inputs)} inputs"
    for words, is_of_kind in kinds.items():
        try:
            same = [bool(is_of_kind(*arguments)) for arguments in inputs] == [*stopped]
        except Exception:  # other arguments than it knows
            continue
        if same:
            return f"{runs}, and stops for just those {words}"
    return f"{runs}."


def _is_oblong(*arguments: Any) -> bool:
    """Tell whether a grid (rows, columns) is given that is not square, or else such images."""
    for value in arguments:
        if isinstance(value, tuple) and [type(side) for side in value] == [int, int]:
            return value[0] != value[1]
    images, *others = arguments
    has_patch_size = any(type(value) is int for value in others)
    return images.ndim == 4 and has_patch_size and images.shape[2] != images.shape[3]


# Of the inputs for which an answer stops -> what makes an input one of these.
_KINDS: dict[str, Callable[..., bool]] = {
    "that are not square: is a side guessed, as the square root of N?": _is_oblong,
    "in float64: a tensor that is made inside the function needs the type of its input.": (
        lambda *arguments: any(
            isinstance(value, Tensor) and value.dtype == torch.float64 for value in arguments
        )
    ),
    "of which the first axis is longer than 1: does a step forget the batch?": (
        lambda *arguments: len(arguments[0]) > 1
    ),
}


def add_cause(error: BaseException, cause: str) -> None:
    """Let an error say, to the learner whose answer it stopped, what is probably behind it."""
    error.add_note(cause)


def name_cause(
    outputs: Sequence, inputs: Sequence[tuple], causes: Mapping[str, Callable], agree: Callable
) -> None:
    """Find the wrong function that returns, for every input, what an answer returned.

    Raises:
        Wrong: there is one; the message is its cause.
    """
    for cause, wrong in causes.items():
        try:
            matches = all(agree(a, wrong(*b)) for a, b in zip(outputs, inputs, strict=True))
        except Exception:  # it does not take all of the inputs
            continue
        if matches:
            raise Wrong(cause)


def require_gradients(
    answer: Callable, arguments: tuple, reference: Callable[..., Tensor] | None = None
) -> None:
    """See that gradients flow back to all arguments that ask for them.

    Args:
        answer: the learner's function.
        arguments: what it is called with; those that require a gradient should get one.
        reference: the right function, whose gradients are compared; without it, any will do.

    Raises:
        Wrong: an argument gets no gradient, or another one; the message says which.
    """
    named = zip(_names(answer, arguments), arguments, strict=True)
    names = [name for name, value in named if isinstance(value, Tensor) and value.requires_grad]
    gradients = _gradients(answer, arguments)
    if cut := [
        f"`{name}`" for name, actual in zip(names, gradients, strict=True) if actual is None
    ]:
        raise Wrong(
            f"The numbers are right, but no gradient reaches {', '.join(cut)}: a network could not "
            f"learn through your function. Stay within tensor operations: no numpy, no "
            f"`.detach()`, no `.data`, no new `torch.tensor`."
        )
    if reference is None:
        return
    for name, actual, expected in zip(
        names, gradients, _gradients(reference, arguments), strict=True
    ):
        if not torch.allclose(actual, expected, rtol=1e-4, atol=1e-6):
            raise Wrong(
                f"The numbers are right, but the gradient of `{name}` is not: on one of its ways "
                f"through your function it is cut off, by `.detach()`, `.data` or `torch.tensor`."
            )


def _gradients(function: Callable, arguments: tuple) -> Sequence[Any]:
    """Return the gradient, or None, of each argument that asks for one.

    It is that of a sum in which every number of the output has another weight.
    """
    copies = [_copy(argument) for argument in arguments]
    leaves = [copy for copy in copies if isinstance(copy, Tensor) and copy.requires_grad]
    with _input_noted(_names(function, arguments), arguments):
        output = function(*copies)
    if not output.requires_grad:
        return [None] * len(leaves)
    weights = torch.linspace(-1, 2, output.numel()).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), leaves, allow_unused=True)


def _names(answer: Callable, arguments: tuple) -> list[str]:
    """Return what an answer calls its arguments.

    Raises:
        Wrong: it takes others.
    """
    try:
        names = list(inspect.signature(answer).bind(*arguments).arguments)
    except TypeError as error:
        name = getattr(answer, "__name__", "it")
        raise Wrong(f"`{name}` must take {len(arguments)} arguments; here: {error}.") from None
    except ValueError:  # built in, without a signature
        names = []
    return names + [f"argument {position}" for position in range(len(names), len(arguments))]


def _close(output: Any, expected: Tensor) -> bool:
    """Tell whether two tensors agree up to rounding, in shape and type too."""
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return False
    if output.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(output, expected)
    tolerance = torch.finfo(expected.dtype).eps ** 0.6  # 7e-5 of the largest, in float32
    scale = expected.nan_to_num(0, 0, 0).abs().max().item() if expected.numel() else 0.0
    return torch.allclose(output, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _shapes(arguments: tuple) -> str:
    """Say in a few words what a function was given."""
    return ", ".join(
        f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)[:40]
        for value in arguments
        if not callable(value)
    )


def describe(value: Any) -> str:
    """Say in a few words what a value is.

    Examples:
        >>> describe(torch.zeros(2, 3)), describe([1, 2]), describe(5)
        ('a tensor of shape (2, 3)', 'a list of length 2', 'the int 5')
    """
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int | float | str):
        return f"the {kind} {str(value)[:40]}"
    if isinstance(value, list | tuple | dict | set):
        return f"a {kind} of length {len(value)}"
    return "None" if value is None else f"an object of type {kind}"


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return copy.deepcopy(value)


def _same(before: Any, after: Any) -> bool:
    """Tell whether a value is as it was; tensors, and lists, tuples and dictionaries of them."""
    if isinstance(before, Tensor):
        same = before.shape == after.shape and before.dtype == after.dtype
        return same and torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_same(before[k], after[k]) for k in before)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_same, before, after))
    return True


@contextlib.contextmanager
def _input_noted(names: Sequence[str], arguments: Sequence) -> Generator[None]:
    """Let an error that stops an answer tell what the answer was given."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if arguments and not isinstance(error, Wrong) and not _is_input_noted(error):
            error.add_note(_given(names, arguments))
        raise


def _is_input_noted(error: BaseException) -> bool:
    return any(note.startswith(_GIVEN) for note in getattr(error, "__notes__", ()))


def _given(names: Sequence[str], arguments: Sequence) -> str:
    """Say what a function was given, by the names that it has for it."""
    told = [f"`{name}` {_told(value)}" for name, value in zip(names, arguments, strict=True)]
    return f"{_GIVEN}{', '.join(told)}."


def _told(value: Any) -> str:
    """Say what an argument is: the shape and type of a tensor, a short value itself."""
    if isinstance(value, Tensor | np.ndarray):
        return f"of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, list | tuple) and len(repr(value)) > 60:
        more = ", ..." if len(value) > 1 else ""
        return f"({type(value).__name__} of {len(value)}: {_told(value[0])}{more})"
    if isinstance(value, int | float | str | list | tuple) or value is None:
        return f"= {repr(value)[:60]}"
    return f"({getattr(value, '__name__', None) or describe(value)})"


def _explain(error: BaseException) -> str:
    """Say in which line of the learner's code an exception arose, and what was given to it."""
    reason = _whole_message(error)
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_learners(frame.f_code.co_filename)
    ]
    notes: list[str] = list(getattr(error, "__notes__", ()))
    if not frames:
        if _is_input_noted(error):
            return "\n".join([f"Your function stopped with {reason}", *notes])
        return f"The check could not use what your function returned ({reason})."
    if not _is_input_noted(error):  # the check called it by itself: a module, say
        given = inspect.getargvalues(frames[0][0])
        names = [*given.args, given.varargs, given.keywords]
        names = [name for name in names if name in given.locals and name != "self"]
        if names:
            notes.append(_given(names, [given.locals[name] for name in names]))
    frame, line = frames[-1]
    text = linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
    return "\n".join([f"Your line {line}, `{text}`, stopped with {reason}", *notes])


def _whole_message(error: BaseException) -> str:
    """Return an error's kind and message, all of its lines but for those about C++."""
    lines = [line.strip()[:300] for line in str(error).splitlines() if line.strip()]
    inside = [n for n, line in enumerate(lines) if line.startswith("Exception raised from")]
    lines = lines[: min([_MOST_LINES, *inside])]
    return f"{type(error).__name__}: {chr(10).join(lines)}".rstrip(": ")


def _is_learners(filename: str) -> bool:
    """Tell whether code is the learner's, and neither Python's nor a library's."""
    made_up = filename.startswith("<") and not filename.startswith("<ipython")
    path = Path(filename)
    return not made_up and not any(path.is_relative_to(library) for library in _LIBRARIES)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Generator[None]:
    """Turn code that runs for too long into a `Wrong`."""
    if threading.current_thread() is not threading.main_thread():  # the only one to be interrupted
        yield
        return
    late, lock = threading.Event(), threading.Lock()
    running = True

    def interrupt() -> None:
        with lock:
            if running:
                late.set()
                _thread.interrupt_main()

    # where Ctrl-C is ignored, as in a script in the background, so would the interruption be
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not late.is_set():  # the learner's own
            raise
        message = f"Your function ran for more than {seconds:g} seconds: a loop that never ends?"
        raise Wrong(message) from None
    finally:
        timer.cancel()
        with lock:
            running = False
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)

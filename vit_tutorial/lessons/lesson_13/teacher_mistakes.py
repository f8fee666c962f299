"""Teachers as learners write them: what is right, and what goes wrong with its cause."""

from collections.abc import Callable

import torch
from torch import Tensor

# ---- The teacher ---------------------------------------------------------------------------------


def teacher_step(teacher: list[Tensor], student: list[Tensor], momentum: float) -> list[Tensor]:
    """The right average."""
    pairs = zip(teacher, student, strict=True)
    return [torch.lerp(new.detach(), old.detach(), momentum) for old, new in pairs]


TEACHERS: dict[str, Callable] = {
    "The weights are swapped: the teacher keeps the share `momentum` of itself, and takes the rest "
    "from the student.": lambda t, s, m: teacher_step(s, t, m),
    "The teacher becomes the student at once: it keeps nothing of itself.": (
        lambda t, s, m: [x.detach() for x in s]
    ),
    "The teacher stays as it is: it must take a little from the student.": (
        lambda t, s, m: [x.detach() for x in t]
    ),
    "The two shares do not add up to 1: the student's is what the teacher does not keep.": (
        lambda t, s, m: [m * a.detach() + b.detach() for a, b in zip(t, s, strict=True)]
    ),
    "This is a step of the size of the teacher's weights; the step is towards the student: its "
    "weights minus the teacher's.": lambda t, s, m: [
        a.detach() + (1 - m) * b.detach() for a, b in zip(t, s, strict=True)
    ],
    "It is the plain mean of both, whatever `momentum` says.": lambda t, s, m: [
        (a.detach() + b.detach()) / 2 for a, b in zip(t, s, strict=True)
    ],
}

# ---- DINO's loss ---------------------------------------------------------------------------------


def _dino(
    aim: Callable = lambda t, c, temp: ((t - c) / temp).softmax(dim=-1),
    say: Callable = lambda s, c, temp: (s / temp).log_softmax(dim=-1),
    keep: Callable = lambda i, j: i != j,
    distance: Callable = lambda weights, logs: -(weights * logs).sum(dim=-1).mean(),
    swap: bool = False,
    total: bool = False,
) -> Callable:
    """Build a loss of exchangeable parts, right by default."""

    def loss(s: Tensor, t: Tensor, center: Tensor, s_temp: float, t_temp: float) -> Tensor:
        s_temp, t_temp = (t_temp, s_temp) if swap else (s_temp, t_temp)
        losses = [
            distance(aim(t[i].detach(), center, t_temp), say(s[j], center, s_temp))
            for i in range(len(t))
            for j in range(len(s))
            if keep(i, j)
        ]
        return sum(losses) if total else sum(losses) / len(losses)

    return loss


dino_loss = _dino()

DINO_LOSSES: dict[str, Callable] = {
    "A view is compared with itself as well: only pairs of different views count.": _dino(
        keep=lambda i, j: True
    ),
    "A view is compared with itself and with no other: it is the other way round.": _dino(
        keep=lambda i, j: i == j
    ),
    "The pairs are added up; take their mean.": _dino(total=True),
    "The two temperatures are swapped.": _dino(swap=True),
    "The centre is not subtracted from the teacher's scores.": _dino(
        aim=lambda t, c, temp: (t / temp).softmax(dim=-1)
    ),
    "The centre is added to the teacher's scores; it must be subtracted.": _dino(
        aim=lambda t, c, temp: ((t + c) / temp).softmax(dim=-1)
    ),
    "The centre is subtracted from the student's scores as well: only the teacher is centred.": (
        _dino(say=lambda s, c, temp: ((s - c) / temp).log_softmax(dim=-1))
    ),
    "The centre is subtracted from the student's scores and not from the teacher's.": _dino(
        aim=lambda t, c, temp: (t / temp).softmax(dim=-1),
        say=lambda s, c, temp: ((s - c) / temp).log_softmax(dim=-1),
    ),
    "The centre is subtracted after the division by the temperature: it is a mean of scores, so it "
    "goes first.": _dino(aim=lambda t, c, temp: (t / temp - c).softmax(dim=-1)),
    "You multiply by the temperatures: a small one must make the weights sharper, so divide.": (
        _dino(
            aim=lambda t, c, temp: ((t - c) * temp).softmax(dim=-1),
            say=lambda s, c, temp: (s * temp).log_softmax(dim=-1),
        )
    ),
    "The roles are swapped: the teacher's weights say how much each logarithm of the student's "
    "counts.": _dino(
        distance=lambda weights, logs: -(logs.exp() * weights.log()).sum(dim=-1).mean()
    ),
    "The sign is missing: a cross-entropy is minus the sum of weights times logarithms.": _dino(
        distance=lambda weights, logs: (weights * logs).sum(dim=-1).mean()
    ),
    "The mean runs over the K entries, too: they are added up.": _dino(
        distance=lambda weights, logs: -(weights * logs).mean()
    ),
    "The images are added up; take their mean.": _dino(
        distance=lambda weights, logs: -(weights * logs).sum()
    ),
    "The teacher's entropy is subtracted: that is a divergence. Its gradient is the same, but "
    "asked for is the cross-entropy.": _dino(
        distance=lambda weights, logs: (
            torch.xlogy(weights, weights).sum(-1) - (weights * logs).sum(-1)
        ).mean()
    ),
    "NaN or infinite: of large scores an exponential overflows, or a weight becomes 0 before its "
    "logarithm is taken. PyTorch has one function for the logarithm of a softmax, which is safe.": (
        _dino(say=lambda s, c, temp: (s / temp).softmax(dim=-1).log())
    ),
}

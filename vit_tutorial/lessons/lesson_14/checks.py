"""The exercises of lesson 14: scaling out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.lessons.exercises import (
    Wrong,
    call,
    compare,
    compare_numbers,
    describe,
    exercise,
    expect_tensor,
    name_cause,
    require_output,
)
from vit_tutorial.lessons.lesson_14 import mistakes
from vit_tutorial.model import VisionTransformer, ViTConfig

# ---- 14.1 ----------------------------------------------------------------------------------------


@exercise(
    "14.1",
    title="Shares of unequal size",
    difficulty=1,
    minutes=8,
    hints=(
        "A mean is a sum divided by a count. What was the sum over the images of each share?",
        "Add up the sums of all shares, and divide once: by how many images there are in all.",
        "The mean of no images at all is NaN, and NaN times 0 is still NaN. Such a share must not "
        "enter the sum, not even with a weight of 0.",
    ),
)
def my_joint_gradient(answer: Any) -> str:
    """Check `my_joint_gradient(gradients (G, P), counts (G,)) -> (P,)`."""
    inputs = []
    for counts in ([4, 4], [1, 3], [5, 2, 2, 7], [6], [100, 1, 1], [0, 3, 5], [2, 0, 6, 0]):
        # sixteenths and eighths, which float32 has exactly: weights need not be float64
        dtype = torch.float64 if len(counts) == 4 else torch.float32
        gradients = torch.randn(len(counts), 5, dtype=dtype)
        gradients[torch.tensor(counts) == 0] = torch.nan
        inputs.append((gradients, torch.tensor(counts)))
    compare(answer, mistakes.joint_gradient, inputs, mistakes.JOINTS)
    return f"Right for {len(inputs)} ways to share a batch, also where a share has no images."


# ---- 14.2 ----------------------------------------------------------------------------------------


class _Watched(nn.Module):
    """A small ViT that notes how many images each pass has."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vit = VisionTransformer(config).double()
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 0:
            raise Wrong("The network is asked about no images at all: a part too many.")
        self.sizes.append(len(images))
        return self.vit(images)


@exercise(
    "14.2",
    title="Shares in time",
    difficulty=2,
    minutes=12,
    hints=(
        "`backward` adds to the gradients that are there. Here this is what you want, but not for "
        "what the model held before you began.",
        "The loss of a part is a mean over its images. What must it be multiplied by, so that the "
        "parts add up to the mean over all?",
        "`tensor.split(most)` cuts a batch; its last piece may be smaller than the others, and "
        "then it counts for less.",
    ),
)
def my_accumulated_gradients(answer: Any) -> str:
    """Check `my_accumulated_gradients(model, images, labels, most) -> list of tensors`."""
    config = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2)
    cases = ((7, 3), (9, 4), (8, 4), (5, 5), (4, 9), (10, 1))  # those that tell most come first
    model = _Watched(config)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)

    def gradients(solve: Callable, count: int, most: int) -> Tensor:
        generator = torch.Generator().manual_seed(count)
        images = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(10, (count,), generator=generator)
        for p in model.parameters():
            p.grad = torch.ones_like(p)  # left from something else
        model.sizes.clear()
        return _in_a_row(require_output(solve(model, images, labels, most)), model)

    def in_one_pass(model: nn.Module, images: Tensor, labels: Tensor, most: int) -> list[Tensor]:
        loss = F.cross_entropy(model(images), labels)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    outputs, expected = [], []
    for case in cases:
        expected.append(gradients(in_one_pass, *case))
        outputs.append(gradients(answer, *case))
        if max(model.sizes, default=0) > case[1]:
            raise Wrong(
                f"A pass of {max(model.sizes)} images, where at most {case[1]} fit into memory."
            )
    agree = partial(torch.allclose, rtol=1e-6, atol=1e-9)
    same = [agree(a, b) for a, b in zip(outputs, expected, strict=True)]
    if all(same):
        return f"Right for {len(cases)} batches, cut into parts of equal and of unequal size."
    causes = {cause: partial(gradients, f) for cause, f in mistakes.ACCUMULATIONS.items()}
    name_cause(outputs, cases, causes, agree)
    first = same.index(False)
    count, most = cases[first]
    ratio = (outputs[first].norm() / expected[first].norm()).item()
    raise Wrong(
        f"Right for {sum(same)} of {len(cases)} batches. For {count} images, at most {most} in a "
        f"pass, the gradient is another one ({ratio:.3g} times as long)."
    )


def _in_a_row(output: Any, model: nn.Module) -> Tensor:
    """Check a list of gradients, and lay them in a row."""
    wanted = list(model.parameters())
    if isinstance(output, Tensor) or not hasattr(output, "__len__") or len(output) != len(wanted):
        raise Wrong(f"Return a list of {len(wanted)} gradients, got {describe(output)}.")
    for gradient, p in zip(output, wanted, strict=True):
        if gradient is None:
            raise Wrong("A gradient is None: was it cleared after it was computed?")
        expect_tensor(gradient, p)
    return torch.cat([gradient.detach().flatten() for gradient in output])


# ---- 14.3 ----------------------------------------------------------------------------------------


@exercise(
    "14.3",
    title="Which images are mine?",
    difficulty=1,
    minutes=8,
    hints=(
        "First the batch of this step, the same in all processes: which places of `order` does it "
        "take up?",
        "Then a part of it that depends on `rank`. A slice has a third number, which tells how far "
        "apart its places are.",
    ),
)
def my_share(answer: Any) -> str:
    """Check `my_share(order, step, batch_size, rank, world_size) -> indices`."""
    plans = [(24, 8, 2), (24, 8, 4), (30, 6, 3), (17, 4, 1), (23, 10, 5), (12, 4, 4)]
    for images, batch_size, processes in plans:
        order = torch.randperm(images) + 100  # numbers of images, which are no places
        for step in range(images // batch_size):
            wanted = order[step * batch_size :][:batch_size]
            shares = [
                call(answer, order, step, batch_size, rank, processes) for rank in range(processes)
            ]
            _judge_shares(shares, wanted, order, step)
    return (
        f"In {len(plans)} plans for 1 to 5 processes every image of a batch has exactly one "
        f"process, and all processes have equally many."
    )


def _judge_shares(shares: list[Any], wanted: Tensor, order: Tensor, step: int) -> None:
    n, size = len(shares), len(wanted) // len(shares)
    where = f"Step {step}, batches of {len(wanted)}, {n} {'process' if n == 1 else 'processes'}:"
    for share in shares:
        if not isinstance(share, Tensor) or share.ndim != 1:
            raise Wrong(f"Expected a tensor of one dimension, got {describe(share)}.")
    together = torch.cat(shares).sort().values
    if torch.equal(together, wanted.sort().values):
        if any(len(share) != size for share in shares):
            sizes = ", ".join(str(len(share)) for share in shares)
            raise Wrong(f"{where} the shares have {sizes} images; all should have {size}.")
        return
    if n > 1 and all(torch.equal(share, shares[0]) for share in shares):
        raise Wrong(f"{where} all processes get the same images: `rank` has no effect.")
    if not torch.isin(together, order).all():
        raise Wrong(
            f"{where} these are places in `order`, or in the batch. Which images stand there?"
        )
    if together.unique().numel() < together.numel():
        raise Wrong(f"{where} an image is in two shares, or twice in one.")
    if torch.isin(together, wanted).all():
        raise Wrong(f"{where} {len(wanted) - len(together)} images of the batch are in no share.")
    if len(together) == len(wanted):
        raise Wrong(f"{where} there are images of another batch among the shares.")
    raise Wrong(
        f"{where} the shares have {len(together)} images together. `batch_size` is that of all "
        f"processes together, and a share is a part of one batch."
    )


# ---- 14.4 ----------------------------------------------------------------------------------------


@exercise(
    "14.4",
    title="One round of the ring",
    difficulty=3,
    minutes=15,
    hints=(
        "Work on a copy: the parts belong to the caller. Then go through the workers one by one.",
        "Which chunk does a worker send? In round 0 that of its own number. In each later round "
        "the one that it received in the round before: what had its left neighbour sent?",
        "Numbers of workers and of chunks go round: after the last comes the first. For the first "
        "G - 1 rounds what arrives is added, afterwards it replaces.",
    ),
)
def my_ring_round(answer: Any) -> str:
    """Check `my_ring_round(parts (G, G, P), step) -> (G, G, P)`."""
    inputs: list[tuple] = []
    for workers, width in ((3, 1), (2, 2), (4, 3), (5, 1)):
        for step in range(2 * (workers - 1)):
            dtype = torch.float64 if workers == 5 else torch.float32
            inputs.append((torch.randn(workers, workers, width, dtype=dtype), step))
    compare(answer, mistakes.ring_round, inputs, mistakes.RINGS)
    parts = torch.randn(6, 6, 2)
    total = parts.sum(dim=0).expand(6, 6, 2)
    for step in range(10):
        parts = call(answer, parts, step)
    if not torch.allclose(parts, total, atol=1e-5):
        raise Wrong("Single rounds are right, but ten of them do not bring six workers the sum.")
    return f"Right for {len(inputs)} rounds of 2 to 5 workers; ten rounds give six workers the sum."


# ---- 14.5 ----------------------------------------------------------------------------------------


@exercise(
    "14.5",
    title="How long is it under way?",
    difficulty=1,
    minutes=8,
    hints=(
        "How many bytes has the gradient, and into how many chunks does the ring cut it?",
        "A process sends one chunk in each round. How many rounds are there, for adding up and for "
        "handing out?",
        "Lines are sold in bits per second; a byte has eight. Giga means 1,000,000,000 here.",
    ),
)
def my_sending_seconds(answer: Any) -> str:
    """Check `my_sending_seconds(parameters, processes, gigabits, bytes_each) -> float`."""
    inputs = [
        (86_567_656, 8, 10.0, 4),
        (86_567_656, 2, 100.0, 2),
        (311_338, 2, 1.0, 4),
        (9_510_000, 16, 256.0, 2),
        (632_000_000, 64, 3600.0, 4),
        (136_138, 3, 0.1, 8),
    ]
    compare_numbers(answer, mistakes.sending, inputs, mistakes.SENDINGS)
    return f"Right for {len(inputs)} clusters, from 2 processes to 64."


# ---- 14.6 ----------------------------------------------------------------------------------------


@exercise(
    "14.6",
    title="Send while you compute",
    difficulty=3,
    minutes=15,
    hints=(
        "Go through the buckets in order, and remember when the line will be free.",
        "A bucket leaves at the later of two moments. Which two?",
        "The step ends when two things are done. With nothing to send, only one of them counts.",
    ),
)
def my_step_seconds(answer: Any) -> str:
    """Check `my_step_seconds(computed, ready, seconds) -> seconds`."""
    inputs = [
        (3.0, [1.5, 2.0, 2.5, 3.0], [0.25, 0.25, 0.25, 0.25]),
        (3.0, [1.5, 2.0, 2.5, 3.0], [1.0, 1.0, 1.0, 1.0]),
        (3.0, [1.5, 2.0, 2.5, 3.0], [2.0, 0.1, 0.1, 0.1]),
        (3.0, [1.5, 2.0, 2.5, 3.0], [0.1, 0.1, 2.0, 0.3]),
        (2.0, [2.0], [5.0]),
        (2.0, [], []),
        (4.0, [1.0, 1.5], [0.5, 0.5]),
        (0.5, [0.2, 0.5], [0.05, 0.7]),
    ]
    compare_numbers(answer, mistakes.step_end, inputs, mistakes.STEP_ENDS)
    return f"Right for {len(inputs)} steps: slow lines, fast lines, gaps, and nothing to send."


# ---- 14.7 ----------------------------------------------------------------------------------------


@exercise(
    "14.7",
    title="A larger batch, a higher rate",
    difficulty=2,
    minutes=10,
    hints=(
        "First the rate after the warm-up: the base rate, times the ratio of the two batches to "
        "some power.",
        "During the warm-up a straight line leads from the base rate to it. Step 0 has made one "
        "of `warmup_steps` parts of the way already; the last one, all of it.",
        "With `warmup_steps` 0 there is no line, and nothing to divide by.",
    ),
)
def my_rate(answer: Any) -> str:
    """Check `my_rate(step, base_rate, base_batch, batch, warmup_steps, power) -> float`."""
    plans = [
        (0.1, 256, 8192, 5, 1.0),
        (0.002, 32, 512, 4, 0.5),
        (0.01, 64, 256, 3, 0.0),
        (0.3, 128, 384, 0, 1.0),
        (0.05, 256, 64, 2, 0.5),
    ]
    inputs = [(step, *plan) for plan in plans for step in range(plan[3] + 3)]
    compare_numbers(answer, mistakes.rate, inputs, mistakes.RATES)
    return f"Right in every step of {len(plans)} plans; one of them makes the batch smaller."

"""A cluster on paper, for lesson 14: what goes round a ring, and when a training step sends it."""

import math
from dataclasses import dataclass

from torch import Tensor

LATENCY = 20e-6  # seconds before a message begins to arrive, assumed


def ring_all_reduce(parts: Tensor) -> list[tuple[Tensor, list[tuple[int, int, int]]]]:
    """Add up what G workers hold, each of them sending to its right neighbour alone.

    `parts` (G, G, ...) is what each worker holds of each of G chunks. In a round every worker sends
    one chunk, all at the same time. For G - 1 rounds what arrives is added to what is there, for
    G - 1 more it takes its place. Gives for every round the parts after it, and the messages:
    (from, to, chunk).
    """
    workers, rounds = len(parts), []
    for step in range(2 * (workers - 1)):
        after, messages = parts.clone(), []
        for worker in range(workers):
            right, chunk = (worker + 1) % workers, (worker - step) % workers
            arrives = parts[worker, chunk]
            adds = step < workers - 1
            after[right, chunk] = parts[right, chunk] + arrives if adds else arrives
            messages.append((worker, right, chunk))
        rounds.append((after, messages))
        parts = after
    return rounds


@dataclass(frozen=True)
class Timeline:
    """When a step computes, and when it sends: seconds from its beginning."""

    forward: float  # the forward pass ends
    computed: float  # the backward pass ends
    ready: list[float]  # each bucket is full
    sends: list[tuple[float, float]]  # each bucket's all-reduce begins, and ends

    @property
    def end(self) -> float:
        """The step ends: all is computed, and all has arrived."""
        return max([self.computed, *(end for _, end in self.sends)])

    @property
    def lost(self) -> float:
        """The share of the step in which nothing is computed any more, from 0 to 1."""
        return 1 - self.computed / self.end


def step_timeline(
    seconds: float,
    gradient_bytes: float,
    bandwidth: float,
    processes: int,
    bucket_bytes: float = 25 * 2**20,
    latency: float = LATENCY,
) -> Timeline:
    """Work out a training step of several processes that send while they compute.

    A third of `seconds` is the forward pass. In the rest, the backward pass, the gradient becomes
    ready evenly. Whenever a bucket of it is full, it waits for the line, and then goes round the
    ring, at `bandwidth` bytes a second and `latency` a round.
    """
    forward, free = seconds / 3, 0.0
    ready, sends = [], []
    for bucket in range(math.ceil(gradient_bytes / bucket_bytes) if processes > 1 else 0):
        filled = min(gradient_bytes, (bucket + 1) * bucket_bytes)
        ready.append(forward + (seconds - forward) * filled / gradient_bytes)
        size = filled - bucket * bucket_bytes
        rounds = 2 * (processes - 1)
        begin = max(ready[-1], free)
        free = begin + rounds * (size / processes / bandwidth + latency)
        sends.append((begin, free))
    return Timeline(forward, seconds, ready, sends)

"""How a training step is computed on this machine: precision, attention, threads.

None of them changes what is computed, but for rounding; together they make a step of a ViT on a
CPU several times as fast, or as slow. Which is which depends on the processor and on what else it
does, so on a CPU it is measured; on a GPU the capability tells.
"""

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from vit_tutorial.distributed import broadcast
from vit_tutorial.hardware import half_precision
from vit_tutorial.recipes import TrainConfig

WORTH_TRYING = 2.0  # a way that takes more times as long as the fastest is not tried again
ROUNDS = 12  # at most, in which ways take turns
WORTH_TAKING = 1.05  # the usual way is kept unless another one is as many times as fast


@dataclass(frozen=True)
class Compute:
    """How a training step is computed.

    Examples:
        >>> print(Compute("bfloat16", "plain", threads=2))
        bfloat16, plain attention, 2 threads
    """

    precision: str  # of the products, "float32", "bfloat16", ...; the weights stay as they are
    attention: str  # "fused": in one kernel; "plain": softmax(q k^T / sqrt(d)) v written out
    threads: int  # of the CPU

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.precision}, {self.attention} attention, {threads}"

    @property
    def half(self) -> torch.dtype | None:
        """The half precision of the products, or None."""
        dtype = getattr(torch, self.precision)
        return dtype if dtype in (torch.bfloat16, torch.float16) else None


def ways_to_compute(model: nn.Module, config: TrainConfig) -> list[Compute]:
    """List what `config` allows and is worth trying, the usual way first; on a GPU there is one.

    Attention can be written out where its modules have timm's switch, `fused_attn`. bfloat16 is
    worth trying where it multiplies matrices faster than float32.

    Raises:
        ValueError: the config sets what this network cannot do.
    """
    first = next(model.parameters())
    on_cpu, full = first.device.type == "cpu", str(first.dtype).removeprefix("torch.")
    switchable = bool(_switches(model))
    if config.precision not in ("auto", full) and full != "float32":
        raise ValueError(
            f'precision="{config.precision}" is for networks in float32, this one is in {full}'
        )
    if config.attention == "plain" and not switchable:
        raise ValueError(
            'attention="plain" is for networks whose attention has the switch `fused_attn`, as '
            f"this course's and timm's; {type(model).__name__} has none"
        )
    precisions, attentions, threads = [full], ["fused"], [torch.get_num_threads()]
    if full == "float32" and not on_cpu and (half := half_precision(first.device)):
        precisions = [str(half).removeprefix("torch.")]
    if full == "float32" and on_cpu and config.precision == "auto":
        # processes that train together must try the same
        precisions += ["bfloat16"] if broadcast(int(bfloat16_is_faster())) else []
    if on_cpu and switchable:
        attentions.append("plain")
    if on_cpu:  # half of them: where two threads share a core
        threads = sorted({threads[0], threads[0] // 2 or 1, 1}, reverse=True)
    if config.precision != "auto":
        precisions = [config.precision]
    if config.attention != "auto":
        attentions = [config.attention]
    if config.threads:
        threads = [config.threads]
    return [Compute(p, a, n) for p in precisions for a in attentions for n in threads]


@cache  # called in every training
def bfloat16_is_faster() -> bool:
    """Tell whether this CPU multiplies matrices faster in bfloat16 than in float32.

    Those that imitate bfloat16 take up to ten times as long; this takes them milliseconds.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        product = matrix @ matrix  # the first one sets things up
        times = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(matrix, matrix, out=product)
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def fastest_way(
    ways: Sequence[Compute], seconds: Callable[[Compute], float], budget: float
) -> tuple[Compute, float]:
    """Return the fastest of `ways`, and how many times as fast as the first, the usual one, it is.

    `seconds` takes a step and tells how long that took. Every way takes one to set things up and
    one that counts; then those that are still in question take turns, until `budget` seconds are
    used or each had enough. The medians decide, and the usual way where none is clearly better.
    """
    times: dict[Compute, list[float]] = {}
    used = 0.0
    for way in ways:
        if used < budget:
            setting_up, step = seconds(way), seconds(way)
            times[way] = [step]
            used += setting_up + step
    medians = {way: durations[0] for way, durations in times.items()}
    for _ in range(ROUNDS):
        limit = WORTH_TRYING * min(medians.values())
        for way in medians:
            if medians[way] <= limit and used < budget:
                times[way].append(seconds(way))
                used += times[way][-1]
        medians = {way: statistics.median(durations) for way, durations in times.items()}
    best = min(medians, key=lambda way: medians[way])
    gain = medians[ways[0]] / medians[best]
    return (best, gain) if gain >= WORTH_TAKING else (ways[0], 1.0)


@contextmanager
def computing(model: nn.Module, how: Compute) -> Generator[None]:
    """Compute as `how` says while the context lasts, but for the precision: see `Run.autocast`."""
    threads, switches = torch.get_num_threads(), _switches(model)
    before = [module.fused_attn for module in switches]
    try:
        if how.threads != threads:
            torch.set_num_threads(how.threads)
        for module in switches:
            vars(module)["fused_attn"] = how.attention == "fused"
        yield
    finally:
        for module, fused in zip(switches, before, strict=True):
            vars(module)["fused_attn"] = fused
        if how.threads != threads:
            torch.set_num_threads(threads)


def _switches(model: nn.Module) -> list[nn.Module]:
    modules = model.modules()
    return [module for module in modules if isinstance(getattr(module, "fused_attn", None), bool)]

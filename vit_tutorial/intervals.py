"""How far a measured number may be off: 95% intervals, one for each kind of measurement.

An accuracy is a count of images (`wilson_interval`), a score a mean over images
(`bootstrap_interval`), a change a difference on the same images (`accuracy_change`), and what
several trainings give a mean over seeds (`student_interval`).
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Bound the accuracy of a network that classifies `correct` of `n` images correctly: percent.

    With another test set of this size and kind the accuracy would differ a little; of 100 intervals
    made like this, about 95 hold what endless images would give. It does not cover another
    training seed (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    Raises:
        ValueError: no images, or more correct ones than images.

    Examples:
        >>> low, high = wilson_interval(349, 360)
        >>> round(low, 1), round(high, 1)
        (94.6, 98.3)
    """
    if not 0 <= correct <= n or not n:
        raise ValueError(f"expected 0 to n correct of n > 0 images, got {correct} of {n}")
    z = 1.959963984540054  # 97.5% of a normal distribution lie below
    middle = correct + z * z / 2
    reach = z * math.sqrt(correct * (n - correct) / n + z * z / 4)
    scale = 100 / (n + z * z)
    return scale * (middle - reach), min(scale * (middle + reach), 100.0)  # but for rounding


def bootstrap_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Return where the mean of `values` (n,) would lie in 95% of repetitions (percentiles)."""
    sample = np.asarray(values, dtype=float)
    picks = np.random.default_rng(seed).integers(len(sample), size=(2000, len(sample)))
    low, high = np.percentile(sample[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bound the mean that endless seeds would give, by Student's t; one value gives no bound.

    Examples:
        >>> low, high = student_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    from scipy.stats import t

    if len(values) < 2:
        return -math.inf, math.inf
    mean = statistics.mean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return mean - reach, mean + reach


def accuracy_change(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Tell by how many percent accuracy changes: the difference and its 95% interval.

    Both networks have named the same images, so each image has a difference of its own, 1, 0 or -1,
    and the interval is that of their mean. It is much narrower than the accuracies' own intervals.

    Args:
        before: (n,) bool, for which images the prediction was correct.
        after: (n,) bool.

    Raises:
        ValueError: other shapes, or fewer than two images.

    Examples:
        >>> import torch
        >>> before = torch.arange(1000) < 900
        >>> accuracy_change(before, torch.arange(1000) < 890)
        (-1.0, -1.617..., -0.382...)
    """
    if before.shape != after.shape or before.ndim != 1 or len(before) < 2:
        raise ValueError(
            f"expected two (n,) of the same images, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}"
        )
    differences = 100 * (after.double() - before.double())
    mean, margin = differences.mean().item(), 1.96 * differences.std().item() / len(before) ** 0.5
    return mean, mean - margin, mean + margin

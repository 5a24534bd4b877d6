"""Intervals for accuracies in closed form.

A Wilson or Clopper-Pearson interval covers the choice of test images alone, a Student interval over
trainings their seeds alone; neither covers the weakness of an attack (a robust accuracy is an upper
bound on the true one).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05
"""One minus the confidence of every interval, and the level of every test."""


@dataclass(frozen=True)
class Interval:
    """A share and the bounds of its confidence interval, as fractions; ``float()``: the share."""

    value: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.value

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals have a point in common."""
        return self.low <= other.high and other.low <= self.high


def wilson(successes: float, n: int, alpha: float = ALPHA) -> Interval:
    """The share successes / n with its Wilson score interval of confidence 1 - alpha; successes may
    be a sum of shares.
    """
    low, high = wilson_bounds(successes, n, alpha)
    return Interval(float(successes) / int(n), float(low), float(high))


def wilson_bounds(
    successes: ArrayLike, n: int, alpha: float = ALPHA
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper Wilson bounds, elementwise, in the shape of successes."""
    counts = _checked(successes, n, alpha)
    crit = _critical(alpha)
    share, spread = counts / n, crit**2
    scale = 1 + spread / n
    centre = (share + spread / (2 * n)) / scale
    reach = crit * np.sqrt(share * (1.0 - share) / n + spread / (4.0 * n**2)) / scale
    return _exact_at_ends(counts, n, np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1))


@functools.lru_cache
def _critical(alpha: float) -> Any:
    """The standard normal quantile of a two-sided interval."""
    # scipy.stats takes a second to import, for the same numbers.
    from scipy.special import ndtri

    return -ndtri(alpha / 2)


def clopper_pearson(successes: int, n: int, alpha: float = ALPHA) -> Interval:
    """The share successes / n with its exact interval of confidence at least 1 - alpha (Clopper,
    Pearson 1934), wider than Wilson's: for what is said to be guaranteed.
    """
    counts = _checked(successes, n, alpha)
    from statsmodels.stats.proportion import proportion_confint

    bounds: Any = proportion_confint(counts, n, alpha=alpha, method="beta")
    low, high = _exact_at_ends(counts, n, *(np.asarray(bound, np.float64) for bound in bounds))
    return Interval(int(successes) / int(n), float(low), float(high))


def half_width(interval: Interval) -> float:
    """Half the distance between the bounds."""
    return (interval.high - interval.low) / 2


def needed_for(share: float, half: float, alpha: float = ALPHA) -> int:
    """The least n at which the Wilson interval of a share in [0, 1] is no wider than half to either
    side, half in (0, 0.5).

    Half-width squared is (z^2 s / n + z^4 / 4 n^2) / (1 + z^2 / n)^2 with s = share (1 - share);
    set equal to half^2 it is a quadratic in n.
    """
    if not 0 <= share <= 1 or not 0 < half < 0.5:
        raise ValueError(f"share must lie in [0, 1], half in (0, 0.5), got {share} and {half}")
    spread, square = float(_critical(alpha)) ** 2, half**2
    linear = spread * (2 * square - share * (1 - share))
    rest = spread**2 * (square - 0.25)
    n = (-linear + math.sqrt(linear**2 - 4 * square * rest)) / (2 * square)
    # a root that is whole but for rounding is not pushed up by it
    return max(1, math.ceil(n * (1 - 1e-12)))


def _checked(successes: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """The successes as an array; refuses what no interval is defined for."""
    counts: NDArray[np.float64] = np.asarray(successes, dtype=np.float64)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if np.any(counts < 0) or np.any(counts > n):
        raise ValueError(f"successes must lie in 0 .. n = {n}, got {counts}")
    return counts


def _exact_at_ends(
    counts: NDArray[np.float64], n: int, low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bounds, 0 and 1 where rounding would leave 1e-18."""
    return np.where(counts == 0, 0.0, low), np.where(counts == n, 1.0, high)


def student(shares: Sequence[float], alpha: float = ALPHA) -> Interval:
    """The mean of k independent shares with its Student t interval of confidence 1 - alpha, cut to
    [0, 1]: mean +- t(k - 1) s / sqrt(k); bounds nan for one share, which has no spread.
    """
    if len(shares) < 1 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares must be one or more numbers in [0, 1], got {list(shares)}")
    mean = float(statistics.mean(shares))
    if len(shares) == 1:
        return Interval(mean, math.nan, math.nan)
    # scipy.stats takes a second to import, for the same number.
    from scipy.special import stdtrit

    spread = statistics.stdev(shares) / len(shares) ** 0.5
    wide = float(stdtrit(len(shares) - 1, 1 - alpha / 2)) * spread
    return Interval(mean, max(mean - wide, 0.0), min(mean + wide, 1.0))

"""Two pipelines on the same samples: the exact test, many tests at once, and what a test of n
samples can see.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.stats.intervals import ALPHA

POWER = 0.8
"""The chance with which a difference is to be seen."""
USUAL_DISCORDANCE = 0.1
"""The share of samples on which two pipelines differ that the power note takes as its example."""
_BISECTIONS = 60


def mcnemar(
    first: NDArray[np.bool_] | NDArray[np.float64], second: NDArray[np.bool_] | NDArray[np.float64]
) -> float:
    """The p-value of the exact two-sided test that two pipelines are equally often right.

    McNemar 1947, with the binomial distribution. first, second (n,): whether each was right on the
    same samples, in the same order; of one that draws the share of its draws, with which it is the
    sign test: on how many samples either is more often right.
    """
    if first.shape != second.shape:
        raise ValueError(f"outcomes must be paired, got shapes {first.shape} and {second.shape}")
    return float(mcnemar_p(np.sum(first > second), np.sum(second > first)))


def mcnemar_p(only_first: ArrayLike, only_second: ArrayLike) -> NDArray[np.float64]:
    """The same, elementwise, from the numbers of samples that only one of the two gets right."""
    from scipy.special import bdtr

    first, second = np.asarray(only_first, np.int64), np.asarray(only_second, np.int64)
    # Both tails of the binomial distribution are alike.
    tail: Any = bdtr(np.minimum(first, second), first + second, 0.5)
    return np.asarray(np.minimum(1.0, 2.0 * tail), dtype=np.float64)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """The p-values (m,) of tests made together, adjusted so that the chance of any false finding
    stays below the level (Holm 1979): the i-th smallest times m - i + 1, at most 1, never below a
    smaller one's. In the order given.
    """
    found = np.asarray(p_values, dtype=np.float64)
    if found.ndim != 1 or not np.all((found >= 0) & (found <= 1)):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}")
    order = np.argsort(found, kind="stable")
    steps = found[order] * np.arange(len(found), 0, -1)
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def needed(worse: float, better: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """How many paired samples McNemar's test needs to see with this power that of all samples a
    share `worse` is lost and a share `better` won (Connor 1987, Biometrics 43): with the discordant
    share p = worse + better and the drop d = worse - better,
    n = ((z(1 - alpha / 2) sqrt(p) + z(power) sqrt(p - d^2)) / d)^2.
    """
    drop, discordant = worse - better, worse + better
    if not 0 <= better < worse or discordant > 1:
        raise ValueError(
            f"shares must be 0 <= better < worse, together at most 1, got {worse} and {better}"
        )
    level, beyond = _quantiles(alpha, power)
    reach = level * math.sqrt(discordant) + beyond * math.sqrt(discordant - drop**2)
    return math.ceil((reach / drop) ** 2)


def smallest_drop(
    n: int, discordant: float = 0.0, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The smallest drop in accuracy, a fraction, that n paired samples can see with this power; inf
    where they can see none.

    discordant 0 is the most favourable case: whatever changes, changes for the worse, and the exact
    test needs its least number of discordant samples, k with 2 * 0.5^k <= alpha, of which the
    binomial distribution must yield as many with the power asked for. Otherwise that share of the
    samples differs, and the drop is what `needed` asks n samples for; never below the former.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= discordant <= 1:
        raise ValueError(f"discordant must lie in [0, 1], got {discordant}")
    least = _one_sided(n, alpha, power)
    if discordant == 0 or math.isinf(least):
        return least
    level, beyond = _quantiles(alpha, power)
    # sqrt(n) d = level sqrt(p) + beyond sqrt(p - d^2), squared: a quadratic in d
    square, half = n + beyond**2, level * math.sqrt(n * discordant)
    rest = (level**2 - beyond**2) * discordant
    drop = (half + math.sqrt(max(0.0, half**2 - square * rest))) / square
    return max(least, drop)


@functools.lru_cache(maxsize=64)
def _one_sided(n: int, alpha: float, power: float) -> float:
    """The smallest share of changed samples, all for the worse, that the exact test sees."""
    from scipy.special import bdtrc

    count = math.ceil(math.log2(2 / alpha))
    if count > n:
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        seen = float(bdtrc(count - 1, n, middle)) >= power
        low, high = (low, middle) if seen else (middle, high)
    return high


@functools.lru_cache
def _quantiles(alpha: float, power: float) -> tuple[float, float]:
    """The standard normal quantiles of level and power."""
    from scipy.special import ndtri

    return -float(ndtri(alpha / 2)), float(ndtri(power))


def power_note(n: int) -> str:
    """What n paired samples cannot see, as a sentence."""
    least, usual = smallest_drop(n), smallest_drop(n, USUAL_DISCORDANCE)
    test = f"McNemar test at level {ALPHA:g}"
    if math.isinf(least):
        return f"n = {n:,} cannot see any drop (exact {test})."
    best = f"a drop below {100 * least:.2g} points where all that changes changes for the worse"
    if usual < USUAL_DISCORDANCE:
        best = (
            f"a drop below {100 * usual:.2g} points where two rows differ on "
            f"{100 * USUAL_DISCORDANCE:.0f} % of the images, nor {best}"
        )
    return f"n = {n:,} cannot see {best} ({test}, power {100 * POWER:.0f} %)."

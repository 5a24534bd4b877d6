"""Bootstrap intervals (Efron 1979, percentile form), and the mean over draws with its two errors.

Resamples come from a counter-based hash: the same on every machine and in every order of calls. All
statistics of n samples share theirs, so that two rows on the same samples move together.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.stats.intervals import ALPHA, Interval, wilson

RESAMPLES = 1000


def resampled_mean(values: ArrayLike, alpha: float = ALPHA) -> Interval:
    """The mean of per-sample values (n,), or (k, n) of k trainings on the same n samples, with its
    bootstrap interval of confidence 1 - alpha.

    Samples are resampled; of several trainings, which are clusters, they and the samples both, each
    training's values staying together. Of one sample the interval is a point.
    """
    found = np.atleast_2d(_checked(values))
    trainings, n = found.shape
    if trainings == 1:
        means = _sums_of(found[0]) / n
    else:
        chosen = np.diff(_cumulated(trainings), axis=0)
        means = np.einsum("kb,kb->b", chosen, found @ np.diff(_cumulated(n), axis=0))
        means /= trainings * n
    return _percentiles(float(found.mean()), means, alpha)


def _sums_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of every resample. Samples are exchangeable, so those of equal value are taken side
    by side: of each distinct value only how often it was drawn counts, and most curves hold few.
    """
    levels, first = np.unique(np.sort(values), return_index=True)
    drawn = np.diff(_cumulated(len(values))[[*first, len(values)]], axis=0)
    return np.asarray(levels @ drawn, dtype=np.float64)


def resampled_median(values: ArrayLike, alpha: float = ALPHA) -> Interval:
    """The median of per-sample values (n,), inf among them or not, with its bootstrap interval;
    between two middle values it is their mean.
    """
    found = np.sort(_checked(values))
    low, high = _middles(len(found))
    with np.errstate(invalid="ignore"):
        medians = (found[low] + found[high]) / 2
    return _percentiles(float(np.median(found)), medians, alpha)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if not found.size:
        raise ValueError("at least one sample is needed, got none (n = 0)")
    if np.isnan(found).any():
        raise ValueError("values must not be nan")
    return found


def _percentiles(value: float, resampled: NDArray[np.float64], alpha: float) -> Interval:
    """Bounds that are resampled values themselves, as inf cannot be interpolated."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    low, high = np.quantile(resampled, [alpha / 2, 1 - alpha / 2], method="inverted_cdf")
    return Interval(value, float(low), float(high))


@functools.lru_cache(maxsize=4)
def _cumulated(n: int) -> NDArray[np.int64]:
    """How many of a resample's n draws lie before each place: (n + 1, RESAMPLES)."""
    counts = np.zeros((RESAMPLES, n + 1), dtype=np.int32)
    for number in range(RESAMPLES):
        counts[number, 1:] = np.bincount(_places(n, number), minlength=n)
    return np.ascontiguousarray(counts.cumsum(axis=1, dtype=np.int32).T)


@functools.lru_cache(maxsize=4)
def _middles(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places, among n sorted samples, of the lower and upper middle one of each resample."""
    before = _cumulated(n)[1:]
    lower, upper = ((before >= rank).argmax(axis=0) for rank in ((n + 1) // 2, n // 2 + 1))
    return lower, upper


def _places(n: int, number: int) -> NDArray[np.int64]:
    """The n draws from 0 .. n - 1 of one resample, from splitmix64 (Steele, Lea, Flood 2014)."""
    state = np.arange(number * n + 1, (number + 1) * n + 1, dtype=np.uint64)
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= state >> np.uint64(shift)
        state *= np.uint64(factor)
    state ^= state >> np.uint64(31)
    # the upper 32 bits times n: even to 1 part in 2^32 / n
    return ((state >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class DrawMean:
    """The accuracy of a pipeline that draws, and its two errors, which no interval mixes.

    sampling: the mean over samples and draws with its Wilson interval over the choice of samples;
    spread: the standard deviation of the draws' accuracies; error: that of their mean, spread /
    sqrt(draws). Both are nan for a single draw, which shows none.
    """

    sampling: Interval
    spread: float
    error: float


def mean_over_draws(right: NDArray[np.bool_]) -> DrawMean:
    """Of whether each sample was right under each draw, (n, draws)."""
    n, draws = right.shape
    sampling = wilson(float(right.mean(axis=1).sum()), n)
    if draws == 1:
        return DrawMean(sampling, math.nan, math.nan)
    spread = float(right.mean(axis=0).std(ddof=1))
    return DrawMean(sampling, spread, spread / math.sqrt(draws))

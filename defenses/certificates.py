"""Statistics of randomised smoothing: from counted votes to decisions and radii (Cohen, Rosenfeld,
Kolter 2019, arXiv:1902.02918).

All of it is elementwise in float64. The released logs of the paper top out above the ceiling of the
alpha it states (3.91 sigma for 100,000 votes; the formula gives 3.811 at alpha 0.001, and 3.910 at
0.01), so that the formulas here, not those maxima, are what is right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def lower_bound(successes: ArrayLike, n: int, alpha: float) -> Floats:
    """Lower bound of a share successes / n at one-sided confidence 1 - alpha (Clopper, Pearson
    1934).
    """
    from scipy.stats import beta

    counts: NDArray[np.int64] = np.asarray(successes, dtype=np.int64)
    _check(n, alpha)
    if np.any(counts < 0) or np.any(counts > n):
        raise ValueError(f"successes must lie in 0 .. n = {n}, got {counts}")
    some = np.maximum(counts, 1)  # none: no distribution, and a bound of 0
    bound: Floats = np.asarray(beta.ppf(alpha, some, n - some + 1), dtype=np.float64)
    return np.where(counts == 0, 0.0, bound)


def radius(successes: ArrayLike, n: int, alpha: float, sigma: float) -> Floats:
    """The l2 radius sigma Phi^-1(lower bound) that successes of n votes certify, 0 where the bound
    is not above 1/2: abstain there.
    """
    from scipy.stats import norm

    lower = lower_bound(successes, n, alpha)
    return np.asarray(sigma * norm.ppf(np.maximum(lower, 0.5)), dtype=np.float64)


def ceiling(n: int, alpha: float, sigma: float) -> float:
    """The largest radius that n votes can certify: all of them agree."""
    return float(radius(n, n, alpha, sigma))


def decisive(n: int, alpha: float) -> NDArray[np.int64]:
    """The least votes (n + 1,) for the first of two classes that decide between them, by the number
    of votes for either, 0 to n; more than there are where none would.

    They decide where the two-sided binomial test of equal shares has a p-value of at most alpha
    (Hung, Fithian 2019, arXiv:1606.00547).
    """
    from scipy.stats import binom

    _check(n, alpha)
    votes = np.arange(1, n + 1)
    # P(at least k) = sf(k - 1); twice that is the p-value of k, as both tails are alike
    least = np.asarray(binom.isf(alpha / 2, votes, 0.5), dtype=np.int64) + 1
    return np.concatenate([[1], least])


def _check(n: int, alpha: float) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")

"""Distances of two discrete distributions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.special import rel_entr

Array = npt.NDArray[np.float64]
_TWO = 2

EXAMPLE = ((5, 3, 2, 1, 8, 7, 5, 9, 2, 1), (4, 10, 1, 1, 4, 6, 3, 2, 0, 1))
"""Counts of Understanding Deep Learning's notebook 15.2."""


def normalised(counts: npt.ArrayLike) -> Array:
    """Shares (K,) of counts (K,)."""
    numbers = np.asarray(counts, dtype=np.float64)
    if numbers.ndim != 1 or (numbers < 0).any() or not 0 < numbers.sum() < np.inf:
        raise ValueError(f"counts must be a row of numbers from 0 on, not all 0, got {numbers}")
    shares: Array = numbers / numbers.sum()
    return shares


def kl(p: Array, q: Array) -> float:
    """Kullback-Leibler divergence of p from q, nats; infinite where q lacks what p has."""
    return float(rel_entr(p, q).sum())


def jsd(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence, nats, from 0 to log 2."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def places(count: int) -> Array:
    """Distances (K, K) between K bins evenly spread over [0, 1], |i - j| / (K - 1)."""
    at = np.linspace(0, 1, count)
    distances: Array = np.abs(at[:, None] - at)
    return distances


@dataclass(frozen=True, eq=False)
class Transport:
    """The cheapest way to turn p into q: cost; plan (K, K), what goes from i to j; potentials
    (2, K) of the dual problem, f_i + g_j at most the distance, p f + q g the cost again.
    """

    cost: float
    plan: Array
    potentials: Array


def transport(p: Array, q: Array, distances: Array) -> Transport:
    """The earth mover's distance by linear programming: the plan of least sum plan_ij distance_ij
    whose rows sum to p and columns to q. distances (K, K).
    """
    size = len(p)
    if q.shape != p.shape or distances.shape != (size, size):
        raise ValueError(f"{size} bins need as many and {size}x{size} distances")
    ones, eye = np.ones((1, size)), np.eye(size)
    sums = np.concatenate([np.kron(eye, ones), np.kron(ones, eye)])
    solved = linprog(distances.ravel(), A_eq=sums, b_eq=np.concatenate([p, q]), method="highs")
    if not solved.success:
        raise ValueError(f"p and q must hold as much as each other: {solved.message}")
    potentials = solved.eqlin.marginals.reshape(2, size)
    return Transport(float(solved.fun), solved.x.reshape(size, size), potentials)


def emd(p: Array, q: Array) -> float:
    """The earth mover's distance of bins evenly spread over [0, 1], in closed form: the distance of
    the distribution functions, sum |F_i - G_i| / (K - 1). Refuses fewer than two bins, and shares
    that do not add up to as much.
    """
    if p.shape != q.shape or len(p) < _TWO or not math.isclose(p.sum(), q.sum()):
        raise ValueError("p and q must be shares of the same bins, two or more, with equal sums")
    return float(np.abs(np.cumsum(p - q)).sum() / (len(p) - 1))

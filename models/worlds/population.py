"""Distributions instead of samples: the discriminator is optimal at every step, the generator any
discrete distribution (Goodfellow et al. 2014, arXiv:1406.2661, proposition 2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

Array = npt.NDArray[np.float64]


def step(p: Array, q: Array, lr: float = 1.0) -> Array:
    """What is made (K,) after a step of exponentiated gradient descent on V(D*, q), D* held: the
    slope of V is log(1 - D*) = log(q / (p + q)). With lr = 1 it is (p + q) / 2, in closed form.
    """
    made: Array = q * np.exp(-lr * np.log(q / (p + q)))
    shares: Array = made / made.sum()
    return shares


def value(p: Array, q: Array) -> float:
    """V(D*, q) = sum p log D* + sum q log(1 - D*), nats."""
    return float((xlogy(p, p / (p + q)) + xlogy(q, q / (p + q))).sum())


def path(p: Array, q: Array, steps: int, lr: float = 1.0) -> Array:
    """What is made after each step, the start first (steps + 1, K); q above 0 everywhere."""
    if not (q > 0).all():
        raise ValueError("what is made must start above 0 everywhere")
    made = [q]
    for _ in range(steps):
        made.append(step(p, made[-1], lr))
    return np.array(made)

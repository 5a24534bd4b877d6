"""Two normals of variance 1 whose means are a shift apart: what a generator at a distance from the
data loses and learns, in closed form, by quadrature and from samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad
from scipy.special import expit, log_expit, ndtr

Array = npt.NDArray[np.float64]

SHIFTS = (0.0, 1.0, 2.0, 4.5, 10.0, math.inf)
_REACH = 10.0
"""Standard deviations beyond which a normal is nothing to float64's precision of the integrals."""


def optimum(real: float, fake: float) -> tuple[float, float]:
    """Offset and slope of the logit of D*(x) = p(x) / (p(x) + q(x)), p = N(real, 1),
    q = N(fake, 1).
    """
    return (fake**2 - real**2) / 2, real - fake


def bayes(shift: float) -> float:
    """Accuracy of D*, equal priors."""
    return float(ndtr(abs(shift) / 2))


def divergence(shift: float) -> float:
    """Jensen-Shannon, nats, by quadrature: half of E log(2 p / (p + q)) under p and the same under
    q, which by symmetry is one of them.
    """
    if math.isinf(shift):
        return math.log(2)
    # under p = N(0, 1), log(p / (p + q)) = log s(logit), q = N(shift, 1)
    return math.log(2) + _under(lambda x: log_expit(shift**2 / 2 - shift * x), 0.0)


def value(shift: float) -> float:
    """V(D*, G) = E log D*(x) + E log(1 - D*(G(z))) by quadrature, data at 0; it is
    -log 4 + 2 JSD.
    """
    if math.isinf(shift):
        return 0.0
    offset, slope = optimum(0.0, shift)
    real = _under(lambda x: log_expit(offset + slope * x), 0.0)
    return real + _under(lambda x: log_expit(-offset - slope * x), shift)


def _under(f: Callable[[float], float], mean: float) -> float:
    """E f(x) under N(mean, 1)."""

    def weighed(x: float) -> float:
        density = math.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
        return float(density * f(x))

    found, _ = quad(weighed, mean - _REACH, mean + _REACH, epsabs=1e-12, epsrel=1e-12, limit=200)
    return float(found)


@dataclass(frozen=True)
class Sampled:
    """What samples say of a shift: V of the true D*, Bayes accuracy, W1."""

    value: float
    accuracy: float
    distance: float


def sampled(normals: Array, shift: float) -> Sampled:
    """From standard normal numbers (2, N): the first row is the data, the second, moved, what is
    made; W1 of two samples of a size is the mean distance of their sorted values.
    """
    real, fake = normals[0], normals[1] + shift
    offset, slope = optimum(0.0, shift)
    first, second = offset + slope * real, offset + slope * fake
    right = _right(first) + _right(-second)
    return Sampled(
        float(log_expit(first).mean() + log_expit(-second).mean()),
        float(right / 2),
        float(np.abs(np.sort(real) - np.sort(fake)).mean()),
    )


def _right(logit: Array) -> float:
    """Share above 0, half of those at 0."""
    return float((logit > 0).mean() + (logit == 0).mean() / 2)


def fitted(real: Array, fake: Array, steps: int = 50) -> tuple[float, float]:
    """Offset and slope of the logistic regression that tells samples (N,) from others (M,), by
    Newton's method; they must overlap.
    """
    x = np.concatenate([real, fake])
    centre = x.mean()
    design = np.stack([np.ones_like(x), x - centre], axis=1)
    target = np.repeat([1.0, 0.0], [len(real), len(fake)])
    weights = np.zeros(2)
    for _ in range(steps):
        guess = expit(design @ weights)
        curvature = design.T @ (design * (guess * (1 - guess))[:, None])
        move = np.linalg.solve(curvature, design.T @ (target - guess))
        weights += move
        if np.abs(move).max() < 1e-10:
            break
    return float(weights[0] - weights[1] * centre), float(weights[1])

"""The bilinear game min over x, max over y of x y: its solution (0, 0) is a saddle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Step = Callable[[float, float, float], tuple[float, float]]


def simultaneous(x: float, y: float, lr: float) -> tuple[float, float]:
    """Both move by their gradients at the same point: the distance to the saddle grows by
    `growth`.
    """
    return x - lr * y, y + lr * x


def alternating(x: float, y: float, lr: float) -> tuple[float, float]:
    """y answers where x has gone: `invariant` keeps its value, so that no path leaves its ellipse
    while lr < 2.
    """
    moved = x - lr * y
    return moved, y + lr * moved


def path(step: Step, lr: float, steps: int, start: tuple[float, float] = (1.0, 0.0)) -> Array:
    """Where a game goes (steps + 1, 2)."""
    points = [start]
    for _ in range(steps):
        points.append(step(*points[-1], lr))
    return np.array(points)


def growth(lr: float) -> float:
    """Of the distance to the saddle, per simultaneous step."""
    return math.sqrt(1 + lr**2)


def invariant(points: Array, lr: float) -> Array:
    """x^2 + y^2 - lr x y (...) of points (..., 2), which alternating steps leave as it is."""
    x, y = points[..., 0], points[..., 1]
    kept: Array = x**2 + y**2 - lr * x * y
    return kept


def farthest(points: Array, lr: float) -> float:
    """The distance to the saddle that alternating steps from the first point cannot exceed: the
    longer half-axis of the ellipse.
    """
    return math.sqrt(float(invariant(points[0], lr)) / (1 - lr / 2))

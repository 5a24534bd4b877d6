"""Euclidean distances between many points, in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_HELD = 2**24
"""Distances that are held at a time."""
_ROUNDING = 16
"""Units in the last place that rounding may leave of equal points; 5 were seen, at 64 to 4,096
components.
"""


def blocks(count: int, width: int) -> Iterator[slice]:
    """Slices that cut `count` rows of `width` distances into pieces."""
    rows = max(1, _HELD // max(width, 1))
    return (slice(first, first + rows) for first in range(0, count, rows))


def squared(points: Tensor, others: Tensor) -> Tensor:
    """Squared distances (N, M) of points (N, F) to others (M, F), in their own precision.

    By one matrix product, ||a||^2 + ||b||^2 - 2 ab: points that are as near as its rounding lets
    equal ones seem are at distance 0. The nearer both sets lie to the origin, the less that hides.
    """
    sizes = points.square().sum(1)[:, None] + others.square().sum(1)
    found = torch.addmm(sizes, points, others.T, alpha=-2)
    return found.masked_fill_(found <= _ROUNDING * torch.finfo(found.dtype).eps * sizes, 0)


def to_neighbour(points: Tensor, number: int) -> Tensor:
    """Squared distances (N,) of points (N, F) to their neighbour of this number among the others,
    1 being the nearest; refuses as few points as that.
    """
    if len(points) <= number:
        raise ValueError(f"images must be more than {number}, got {len(points)}")
    found = []
    for block in blocks(len(points), len(points)):
        apart = squared(points[block], points)
        apart.diagonal(block.start).fill_(torch.inf)
        found.append(apart.topk(number, largest=False).values.amax(1))
    return torch.cat(found)

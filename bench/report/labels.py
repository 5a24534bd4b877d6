"""Where the names of points go in a figure: beside them, over as little as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SIZE = 8.0
"""Of the letters, in points (1/72 inch)."""
_WIDE, _HIGH = 0.62 * SIZE, 1.1 * SIZE
"""What a letter and a line take."""
_GAP = 4.0
_PER_LINE = 24

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def along(points: Sequence[Point]) -> list[Point]:
    """Points on the line through these, close enough together that no name falls between them."""
    made = list(points[:1])
    for (x, y), (to_x, to_y) in pairwise(points):
        for step in range(1, _PER_LINE + 1):
            share = step / _PER_LINE
            made.append((x + share * (to_x - x), y + share * (to_y - y)))
    return made


def offsets(points: Sequence[Point], names: Sequence[str], taken: Sequence[Point]) -> list[Point]:
    """Where each name starts (its lower left corner), from its point; one after the other, each at
    the place that covers the fewest of taken and of the names before it.

    points, taken: in points (1/72 inch) of the figure.
    """
    ink: NDArray[np.float64] = np.array([*points, *taken], dtype=np.float64).reshape(-1, 2)
    boxes: list[Box] = []
    found: list[Point] = []
    for (x, y), name in zip(points, names, strict=True):
        wide = _WIDE * len(name)
        tried = [
            ((dx, dy), (x + dx, y + dy, x + dx + wide, y + dy + _HIGH)) for dx, dy in _around(wide)
        ]
        place, box = min(tried, key=lambda each: _covered(each[1], ink, boxes))
        boxes.append(box)
        found.append(place)
    return found


def _around(wide: float) -> Iterator[Point]:
    """The places beside a point for a name so wide, the best first."""
    for gap in (_GAP, 3 * _GAP):
        yield gap, gap
        yield -gap - wide, -gap - _HIGH
        yield gap, -gap - _HIGH
        yield -gap - wide, gap
        yield -wide / 2, gap + 2
        yield -wide / 2, -gap - 2 - _HIGH


def _covered(box: Box, ink: NDArray[np.float64], boxes: Sequence[Box]) -> float:
    """How many of the points and boxes a box covers; another name counts as much as many points."""
    left, low, right, high = box
    inside = (ink[:, 0] >= left) & (ink[:, 0] <= right) & (ink[:, 1] >= low) & (ink[:, 1] <= high)
    crossed = [b for b in boxes if left < b[2] and b[0] < right and low < b[3] and b[1] < high]
    return float(np.sum(inside)) + _PER_LINE * len(crossed)

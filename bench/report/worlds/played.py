"""What the small worlds hold, as reports need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.report.rows import Row

SHOWN = 400
"""Samples of a mixture or a generator that are drawn."""


@dataclass(frozen=True)
class Check:
    """A number beside the one it must be: relation: = (within the tolerance), <, or >=."""

    world: str
    quantity: str
    measured: float
    expected: float
    tolerance: float = 0.0
    relation: str = "="

    @property
    def holds(self) -> bool:
        """Whether it is as it must be."""
        if self.relation == "<":
            return self.measured < self.expected
        if self.relation == ">=":
            return self.measured >= self.expected
        is_same = self.measured == self.expected
        return is_same or abs(self.measured - self.expected) <= self.tolerance


@dataclass(frozen=True, eq=False)
class Cloud:
    """Samples (n, 2) of a generator, or of the mixture itself, beside the centres (K, 2), in the
    unit square; row: see table.MODES.
    """

    centres: npt.NDArray[np.float64]
    points: npt.NDArray[np.float32]
    row: Row


@dataclass(frozen=True, eq=False)
class Worlds:
    """What was played.

    shifts: see table.SHIFTS; curves: (4, n) of shift, W1, accuracy, JSD; slopes: D, saturating and
    non-saturating slope; theta: (rounds + 1,) of the line, target: what it swings about; optimum:
    offset and slope of D*'s logit between two means; spiral, ellipse: (steps + 1, 2) of the saddle;
    values: V + log 4 per step of the population; shares (2, K), plan (K, K): of the earth mover;
    clouds: per mixture, the mixture itself first; command: what made it.
    """

    checks: tuple[Check, ...]
    shifts: tuple[Row, ...]
    curves: npt.NDArray[np.float64]
    slopes: tuple[tuple[float, float, float], ...]
    theta: Sequence[float]
    target: float
    optimum: tuple[float, float]
    means: tuple[float, float]
    spiral: npt.NDArray[np.float64]
    ellipse: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]
    plan: npt.NDArray[np.float64]
    clouds: Mapping[str, tuple[Cloud, ...]]
    command: str

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)


def found(row: Row) -> str:
    """The modes that a row of a mixture counts, blank where a training failed."""
    return "" if row["modes"] is None else f"{row['modes']} of {row['of']}"

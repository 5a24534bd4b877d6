"""The inner attack of TRADES and MART: ascent on a loss from a point next to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.ascent import Ascent, AscentAttack, fixed
from attacks.base import Task
from attacks.losses import Loss

_SPREAD = 0.001


@dataclass(frozen=True)
class Nearby(AscentAttack):
    """Steps of rel_alpha eps along the steepest direction of a loss, from x + 0.001 N(0, I).

    The start is not moved into the box, as in the authors' code; every later point is.
    """

    label: ClassVar[str] = "nearby"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    loss: Loss
    steps: int
    rel_alpha: float

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""
        return Ascent(
            self.loss,
            steps=fixed(self.steps),
            alpha=lambda radius: radius * self.rel_alpha,
            start=_beside,
        )

    def to_spec(self) -> str:
        """What texts call it; it is in no table."""
        return f"{self.steps} steps of {self.rel_alpha:g} eps on {self.loss.name}"


def _beside(task: Task) -> Tensor:
    return task.x + _SPREAD * task.draws.normal(task.x.shape, "start")

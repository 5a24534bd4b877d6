"""Random noise: the baseline that no attack may lose to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task, at_least
from attacks.draws import Draws
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.targets import goal_of
from attacks.threat import NORMS


@dataclass(frozen=True)
class NoiseState:
    """Per sample: the image, its draws, and how many points it has tried."""

    task: Task
    step: Tensor
    done: Tensor


@dataclass(frozen=True)
class Noise(StepAttack):
    """Points drawn uniformly from the ball, the worst of `samples` kept; sees logits only.

    Each point is moved into the box. The baseline of every sanity check (Carlini et al. 2019,
    arXiv:1902.06705).
    """

    access: ClassVar[str] = "logits"
    norms: ClassVar[tuple[str, ...]] = NORMS
    samples: int = 10

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 1)

    def start(self, task: Task) -> NoiseState:
        """See StepAttack."""
        step = torch.zeros_like(task.y)
        return NoiseState(task, step, step > 0)

    def ask(self, state: NoiseState) -> Query:
        """A fresh point."""
        task = state.task
        point = norms.random_point(task.x, task.radius, task.norm, task.draws, "noise", state.step)
        aim = goal_of(task, "none").aim(MARGIN)
        return Query(point[:, None], aim, ~state.done, torch.zeros_like(state.done))

    def tell(self, state: NoiseState, answer: Answer) -> NoiseState:  # noqa: ARG002  no answer moves it
        """Counts the point."""
        step = state.step + 1
        return replace(state, step=step, done=step >= self.samples)

    def least_queries(self, classes: int) -> int:  # noqa: ARG002  the same for all
        """See Attack: a point."""
        return 1

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  always the same
        """See StepAttack."""
        return self.samples


_HALVINGS = 60
_LARGEST = 1e4
"""A scale at which every component that moves has reached a wall."""


def gaussian(x: Tensor, size: Tensor, draws: Draws) -> Tensor:
    """Normal noise on images x (N, ...), moved into the box, whose l2 size there is `size` (N,), or
    the largest it can be: the control that a perturbation of that size is compared with.

    The scale before the box is found by halving; the size grows with it.
    """
    normal = draws.normal(x.shape, "control").double()
    exact = x.double()

    def moved(scale: Tensor) -> Tensor:
        return norms.to_box(exact + norms.expand(scale, x) * normal)

    low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    high = torch.full_like(low, _LARGEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = norms.size(moved(middle) - exact, "l2") < size
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return moved(low).to(x.dtype)

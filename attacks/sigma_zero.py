"""Sigma-zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Kind, StepAttack, Task, at_least
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.rules import Memory, adam
from attacks.schedules import cosine
from attacks.targets import Goal, goal_of

_LAST_SHARE = 0.1


@dataclass(frozen=True)
class SigmaZeroState:
    """Per sample: image, point, Adam's moments, the size below which a change is undone."""

    x: Tensor
    point: Tensor
    memory: Memory
    threshold: Tensor
    goal: Goal
    step: Tensor
    done: Tensor


@dataclass(frozen=True)
class SigmaZero(StepAttack):
    """Sigma-zero, sparse attacks by a smooth l0 (Cina et al. 2024, arXiv:2402.01879).

    Adam (step lr, cosine to a tenth; the gradient over its largest component) on max(z_y -
    max_other z, 0) + 1/d sum delta^2 / (delta^2 + sigma); after each step changes smaller than a
    threshold are undone, which grows by 0.01 times the step size after a success and falls by it
    otherwise. steps: 300 (the paper: 1000); lr 1, sigma 0.001 and threshold 0.3 as in the paper.
    """

    access: ClassVar[str] = "gradient"
    kind: ClassVar[Kind] = "minimal"
    norms: ClassVar[tuple[str, ...]] = ("l0",)
    steps: int = 300
    lr: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        for name, value in (("lr", self.lr), ("sigma", self.sigma)):
            if not 0 < value <= 1e6:
                raise ValueError(f"{name} must be above 0, got {value}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold}")

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: the steps, and a last look."""
        return self.steps + 1

    def start(self, task: Task) -> SigmaZeroState:
        """See StepAttack."""
        zeros = torch.zeros_like(task.x)
        threshold = torch.full_like(task.radius, self.threshold)
        step = torch.zeros_like(task.y)
        goal = goal_of(task, "none")
        memory = (zeros, zeros.clone())
        return SigmaZeroState(task.x, task.x.clone(), memory, threshold, goal, step, step > 0)

    def ask(self, state: SigmaZeroState) -> Query:
        """The current point."""
        aim = state.goal.aim(MARGIN)
        return Query(state.point[:, None], aim, ~state.done, state.step < self.steps)

    def tell(self, state: SigmaZeroState, answer: Answer) -> SigmaZeroState:
        """Adam on both terms, the box, then the threshold."""
        succeeded = state.goal.reached(answer.logits[:, 0])
        delta = state.point - state.x
        pull = torch.where(norms.expand(answer.value[:, 0] < 0, delta), -answer.gradient, 0)
        sparse = 2 * delta * self.sigma / (delta**2 + self.sigma) ** 2 / delta[0].numel()
        total = pull + sparse
        largest = norms.size(total, "linf")
        total = total / norms.expand(torch.where(largest > 0, largest, 1), total)
        lr = cosine(self.lr, self.lr * _LAST_SHARE, state.step, self.steps)
        direction, memory = adam(total, state.memory, state.step + 1)
        point = norms.to_box(state.point - norms.expand(lr, direction) * direction)
        change = 0.01 * cosine(self.lr, self.lr * _LAST_SHARE, state.step + 1, self.steps)
        threshold = (state.threshold + torch.where(succeeded, change, -change)).clamp(0, 1)
        small = (point - state.x).abs() < norms.expand(threshold, point)
        return replace(
            state,
            point=torch.where(small, state.x, point),
            memory=memory,
            threshold=threshold,
            step=state.step + 1,
            done=state.step >= self.steps,
        )

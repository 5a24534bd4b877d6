"""Decoupling direction and norm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Kind, StepAttack, Task, at_least
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.oracles import Answer, Query
from attacks.rows import pick
from attacks.schedules import cosine
from attacks.targets import Aimed, Goal, Target, goal_of


@dataclass(frozen=True)
class DdnState:
    """Per sample: image, point, the l2 size it is given and the most the box holds, goal, steps."""

    x: Tensor
    point: Tensor
    size: Tensor
    most: Tensor
    goal: Goal
    step: Tensor
    done: Tensor


@dataclass(frozen=True)
class Ddn(Aimed, StepAttack):
    """Decoupled direction and norm (Rony et al. 2019, arXiv:1811.09600).

    A gradient step of unit l2 size times a cosine from 1 to 0.01, then the perturbation is given
    the size eps_k, which shrinks by gamma after a success and grows by it otherwise. steps: 100
    (the paper: 100 to 1000). init: the first eps_k. levels: grey levels the points are rounded to,
    as in the paper (256 there; by default not rounded). target as in pgd.
    """

    access: ClassVar[str] = "gradient"
    kind: ClassVar[Kind] = "minimal"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    steps: int = 100
    gamma: float = 0.05
    init: float = 1.0
    levels: int | None = None
    loss: Loss = CROSS_ENTROPY
    target: Target = "none"

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        if self.levels is not None:
            at_least("levels", self.levels, 2)
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be above 0 and below 1, got {self.gamma}")
        if not 0 < self.init <= 1e6:
            raise ValueError(f"init must be above 0, got {self.init}")

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: the steps, a last look, and one at the image for a ranked target."""
        return self.steps + 1 + self.looks

    def start(self, task: Task) -> DdnState:
        """See StepAttack."""
        step = torch.zeros_like(task.y)
        size = torch.full_like(task.radius, self.init)
        goal = goal_of(task, self.target)
        most = norms.furthest(task.x, "l2")
        return DdnState(task.x, task.x.clone(), size, most, goal, step, step > 0)

    def ask(self, state: DdnState) -> Query:
        """The current point, which is the image at first."""
        differentiate = (state.step < self.steps) & ~state.goal.unset
        aim = state.goal.aim(self.loss)
        return Query(state.point[:, None], aim, ~state.done, differentiate)

    def tell(self, state: DdnState, answer: Answer) -> DdnState:
        """Step, then size."""
        look = state.goal.unset
        logits = answer.logits[:, 0]
        alpha = cosine(1.0, 0.01, state.step, self.steps)
        direction = norms.steepest(answer.gradient, state.point, "l2")
        delta = state.point - state.x + norms.expand(alpha, direction) * direction
        succeeded = state.goal.reached(logits)
        size = state.size * torch.where(succeeded, 1 - self.gamma, 1 + self.gamma)
        # What is larger than the box holds only delays the way back.
        size = size.minimum(state.most)
        length = norms.size(delta, "l2")
        delta = delta * norms.expand(size / torch.where(length > 0, length, 1), delta)
        point = norms.to_box(state.x + delta)
        if self.levels is not None:
            point = (point * (self.levels - 1)).round() / (self.levels - 1)
        if state.goal.target is not None:
            point = pick(look, state.point, point)
        return replace(
            state,
            point=point,
            size=torch.where(look, state.size, size),
            goal=state.goal.settled(logits),
            step=state.step + ~look,
            done=~look & (state.step >= self.steps),
        )

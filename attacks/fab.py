"""Fast adaptive boundary attack."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms, planes
from attacks.base import Kind, StepAttack, Task, at_least
from attacks.losses import DIFFERENCE
from attacks.oracles import Answer, Query
from attacks.rows import pick
from attacks.targets import Aimed, Goal, Target, goal_of

_ALPHA_MOST = 0.1
_ETA = 1.05
_BETA = 0.9
_START_SHARE = 0.5
_TINY = 1e-8


@dataclass(frozen=True)
class FabState:
    """Per sample: image, point, and whether it was moved back to there from a success."""

    x: Tensor
    point: Tensor
    goal: Goal
    returned: Tensor
    step: Tensor
    done: Tensor
    norm: str


@dataclass(frozen=True)
class _Boundary(StepAttack):
    """What both forms of FAB share; see Fab."""

    kind: ClassVar[Kind] = "minimal"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("restarts", self.restarts, 1)

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: every step's point and the one it is moved back to, and a last look."""
        return 2 * self.steps + 1

    def _goal(self, task: Task) -> Goal:
        return goal_of(task, "none")

    def start(self, task: Task) -> FabState:
        """See StepAttack."""
        point = task.x
        if self.restarts > 1:
            near = norms.surface_point(
                task.x, _START_SHARE * task.radius, task.norm, task.draws, "start"
            )
            point = pick(self._round(task) == 0, point, near)
        step = torch.zeros_like(task.y)
        goal = self._goal(task)
        return FabState(task.x, point.clone(), goal, step > 0, step, step > 0, task.norm)

    def _round(self, task: Task) -> Tensor:
        return task.draws.restart

    def ask(self, state: FabState) -> Query:
        """The point with its gradient; before all of it the image, where its logits name the
        target.
        """
        aim = state.goal.aim(DIFFERENCE)
        look = state.goal.unset
        points = pick(look, state.x, state.point)
        return Query(points[:, None], aim, ~state.done, (state.step < self.steps) & ~look)

    def tell(self, state: FabState, answer: Answer) -> FabState:
        """A step towards the linearised boundary; from a success first back towards the image."""
        logits = answer.logits[:, 0]
        look = state.goal.unset
        back = state.goal.succeeded(logits) & ~state.returned & ~look
        stepping = ~back & ~look
        moved = self._step(state, *self._plane(state, answer))
        point = pick(stepping, moved, state.point)
        returned = state.x + _BETA * (state.point - state.x)
        return replace(
            state,
            point=pick(back, returned, point),
            goal=state.goal.settled(logits),
            returned=back,
            step=state.step + stepping,
            done=~look & (state.step >= self.steps),
        )

    @abstractmethod
    def _plane(self, state: FabState, answer: Answer) -> tuple[Tensor, Tensor]:
        """The linearised boundary: the gradient (N, ...) of another class's lead over the own one,
        and the lead (N,).
        """

    @staticmethod
    def _step(state: FabState, pull: Tensor, lead: Tensor) -> Tensor:
        """Between the point's and the image's projections onto the boundary, both overshot."""
        x, point, norm = state.x, state.point, state.norm
        here = planes.step_to_plane(point, pull, -lead, norm)
        along = ((point - x).double() * pull.double()).flatten(1).sum(1)
        there = planes.step_to_plane(x, pull, along - lead.double(), norm)
        near, far = (norms.size(move, norm).clamp(min=_TINY) for move in (here, there))
        share = norms.expand((near / (near + far)).clamp(max=_ALPHA_MOST), x)
        mixed = (point + _ETA * here) * (1 - share) + (x + _ETA * there) * share
        return norms.to_box(mixed)


@dataclass(frozen=True)
class Fab(_Boundary):
    """Fast adaptive boundary attack (Croce and Hein 2020, arXiv:1907.02044).

    Each step goes between the projections of point and image onto the nearest linearised boundary
    (in the box, overshot by 1.05; at most 0.1 of the way towards the image's), and back by 0.9
    after a success, as in the authors' code. Needs the gradient of every logit: fab_t does with
    one. steps: 100; restarts: the first starts at the image, further ones half of the largest eps
    away. With a target only the boundary to it counts.
    """

    access: ClassVar[str] = "jacobian"

    def _plane(self, state: FabState, answer: Answer) -> tuple[Tensor, Tensor]:
        logits, goal = answer.logits[:, 0], state.goal
        rows = torch.arange(len(logits), device=logits.device)
        gaps = logits - logits.gather(1, goal.y[:, None])
        own = answer.gradient[rows, goal.y]
        if goal.target is not None:
            return answer.gradient[rows, goal.target] - own, gaps[rows, goal.target]
        pull = answer.gradient - own[:, None]
        length = norms.size(pull.flatten(0, 1), norms.dual(state.norm)).view(gaps.shape)
        distance = torch.where(length > 0, gaps.abs() / length, math.inf)
        distance = distance.scatter(1, goal.y[:, None], math.inf)
        nearest = distance.argmin(1)
        return pull[rows, nearest], gaps[rows, nearest]


@dataclass(frozen=True)
class FabT(Aimed, _Boundary):
    """Targeted FAB, as AutoAttack runs it (Croce and Hein 2020, arXiv:2003.01690).

    fab with the boundary to one class at a time, which costs one gradient per step. target: all
    (the most likely wrong class first, `targets` of them, all where none), or as in pgd; restarts:
    per class. Any wrong class is a success, unless the caller names targets.
    """

    access: ClassVar[str] = "gradient"
    loss = DIFFERENCE
    target: Target = "all"
    targets: int | None = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is not None:
            at_least("targets", self.targets, 1)
        if self.target == "none":
            raise ValueError("target must name classes (fab is the form without), got none")

    def horizon(self, radius: float, norm: str, classes: int) -> int:
        """See StepAttack: one more look at the image, whose logits name the target."""
        return super().horizon(radius, norm, classes) + self.looks

    def _goal(self, task: Task) -> Goal:
        return goal_of(task, self.target, self.targets)

    def _round(self, task: Task) -> Tensor:
        each = self.attempts(task.classes, targeted=task.targets is not None)
        return task.draws.restart // (each // self.restarts)

    def _plane(self, state: FabState, answer: Answer) -> tuple[Tensor, Tensor]:  # noqa: ARG002  one plane
        return answer.gradient, answer.value[:, 0]

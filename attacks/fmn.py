"""Fast minimum-norm attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Kind, StepAttack, Task, at_least
from attacks.losses import MARGIN, Loss
from attacks.oracles import Answer, Query
from attacks.rows import may_hold, pick
from attacks.schedules import cosine
from attacks.targets import Aimed, Goal, Target, goal_of
from attacks.threat import NORMS

_GAMMA_LAST = 0.001
_ALPHA_SHARE = 0.01
_TINY = 1e-12


@dataclass(frozen=True)
class FmnState:
    """Per sample: image, point, radius of the ball it is kept in and the most it can be in the box,
    nearest success so far.
    """

    x: Tensor
    point: Tensor
    radius: Tensor
    most: Tensor
    nearest: Tensor
    goal: Goal
    step: Tensor
    done: Tensor
    norm: str


@dataclass(frozen=True)
class Fmn(Aimed, StepAttack):
    """Fast minimum-norm attack (Pintor et al. 2021, arXiv:2102.12827).

    A step of l2 size alpha (cosine to alpha / 100) along the gradient of the margin, then
    projection onto a ball whose radius shrinks by gamma (cosine to 0.001) after a success and grows
    by it otherwise; until the first success it is the distance to the linearised boundary, |loss|
    over the gradient's dual norm; never more than the box holds. Under l0 the radius changes by at
    least one component. steps: 100; alpha: 1; gamma: 0.05, as in the authors' code. restarts: the
    first starts at the image, further ones at random points of the ball of the largest eps. target
    as in pgd. We project onto ball and box together (l0: one after the other), the code one after
    the other; and until the first success a point inside the ball is moved out to its radius, or
    the steps, which shrink, may never reach a boundary far away.
    """

    access: ClassVar[str] = "gradient"
    kind: ClassVar[Kind] = "minimal"
    norms: ClassVar[tuple[str, ...]] = NORMS
    revision: ClassVar[int | str] = 2
    steps: int = 100
    alpha: float = 1.0
    gamma: float = 0.05
    restarts: int = 1
    loss: Loss = MARGIN
    target: Target = "none"

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("restarts", self.restarts, 1)
        if not 0 < self.alpha <= 1e6:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")
        if not _GAMMA_LAST <= self.gamma < 1:
            raise ValueError(f"gamma must be at least {_GAMMA_LAST} and below 1, got {self.gamma}")

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: the steps, a last look, and one at the image for a ranked target."""
        return self.steps + 1 + self.looks

    def start(self, task: Task) -> FmnState:
        """See StepAttack."""
        step = torch.zeros_like(task.y)
        point = task.x
        if self.restarts > 1:
            random = norms.random_point(task.x, task.radius, task.norm, task.draws, "start")
            each = self.attempts(task.classes, targeted=task.targets is not None) // self.restarts
            is_first = norms.expand(task.draws.restart < each, point)
            point = torch.where(is_first, point, random)
        most = norms.furthest(task.x, task.norm)
        infinite = torch.full_like(task.radius, torch.inf)
        return FmnState(
            x=task.x,
            point=point.clone(),
            radius=torch.ones_like(infinite) if task.norm == "l0" else infinite,
            most=most,
            nearest=most.clone(),
            goal=goal_of(task, self.target),
            step=step,
            done=step > 0,
            norm=task.norm,
        )

    def ask(self, state: FmnState) -> Query:
        """The current point; the image where its logits name the target."""
        look = state.goal.unset
        points = state.point
        if state.goal.target is not None:
            points = pick(look, state.x, state.point)
        differentiate = (state.step < self.steps) & ~look
        return Query(points[:, None], state.goal.aim(self.loss), ~state.done, differentiate)

    def tell(self, state: FmnState, answer: Answer) -> FmnState:
        """Step, then radius, then projection."""
        look, logits = state.goal.unset, answer.logits[:, 0]
        succeeded = state.goal.reached(logits) & ~look
        size = norms.size(state.point - state.x, state.norm)
        nearest = torch.where(succeeded, state.nearest.minimum(size), state.nearest)
        found = nearest < state.most
        radius = self._radius(state, answer, succeeded, (nearest, found | succeeded, size))
        alpha = cosine(self.alpha, self.alpha * _ALPHA_SHARE, state.step, self.steps)
        direction = norms.steepest(answer.gradient, state.point, "l2")
        moved = state.point + norms.expand(alpha, direction) * direction
        if state.norm == "l0":
            moved = norms.keep_largest(moved, state.x, radius)
        else:
            if may_hold(~found):
                wide = _widened(moved, state.x, radius, state.norm)
                moved = pick(found, moved, wide)
            moved = norms.project(moved, state.x, radius, state.norm)
        if state.goal.target is not None:
            moved = pick(look, state.point, moved)
        return replace(
            state,
            point=moved,
            radius=torch.where(look, state.radius, radius),
            nearest=nearest,
            goal=state.goal.settled(logits),
            step=state.step + ~look,
            done=~look & (state.step >= self.steps),
        )

    def _radius(
        self,
        state: FmnState,
        answer: Answer,
        succeeded: Tensor,
        known: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        nearest, found, size = known
        gamma = cosine(self.gamma, _GAMMA_LAST, state.step, self.steps)
        most = state.most
        if state.norm == "l0":
            lower = (state.radius - 1).minimum((state.radius * (1 - gamma)).floor())
            higher = (state.radius + 1).maximum((state.radius * (1 + gamma)).floor())
            return torch.where(succeeded, lower.minimum(nearest), higher).clamp(min=0).minimum(most)
        pull = norms.size(answer.gradient, norms.dual(state.norm)).clamp(min=_TINY)
        # Exactly at the linearised boundary, rounding would leave a linear model unfooled for ever.
        linear = (size + answer.value[:, 0].abs() / pull) * (1 + _GAMMA_LAST)
        higher = torch.where(found, state.radius * (1 + gamma), linear)
        lower = (state.radius * (1 - gamma)).minimum(nearest)
        return torch.where(succeeded, lower, higher).minimum(most)


def _widened(points: Tensor, x: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Points inside the ball moved out to its radius, along the line from x."""
    delta = points - x
    size = norms.size(delta, norm).clamp(min=_TINY)
    return x + delta * norms.expand((radius / size).clamp(min=1), delta)

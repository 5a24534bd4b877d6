"""Iterated ascent on a loss inside the ball: a start, a loss, a step rule and a number of steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task
from attacks.losses import Loss
from attacks.oracles import Answer, Query
from attacks.rows import pick, where
from attacks.rules import STEEPEST, Memory, Rule
from attacks.targets import RANKED, Goal, Target, attempts, goal_of


def at_input(task: Task) -> Tensor:
    """Starts at the image itself."""
    return task.x


def in_ball(task: Task) -> Tensor:
    """Starts at a point drawn uniformly from the ball, moved into the box."""
    return norms.random_point(task.x, task.radius, task.norm, task.draws, "start")


@dataclass(frozen=True)
class Ascent:
    """The parts of an iterated attack.

    alpha and steps give step size (N,) in input units and number of steps (N,) int64 from the
    radius (N,). box: points stay in [0, 1]; without, they are never successes outside it. target,
    targets: see targets.goal_of.
    """

    loss: Loss
    steps: Callable[[Tensor], Tensor]
    alpha: Callable[[Tensor], Tensor]
    start: Callable[[Task], Tensor] = at_input
    rule: Rule = STEEPEST
    target: Target = "none"
    targets: int | None = None
    box: bool = True


@dataclass(frozen=True)
class AscentState:
    """Per sample: origin x, current point, radius, step size and number, and the goal."""

    x: Tensor
    point: Tensor
    radius: Tensor
    alpha: Tensor
    limit: Tensor
    step: Tensor
    goal: Goal
    done: Tensor
    memory: Memory
    norm: str


class AscentAttack(StepAttack):
    """An attack composed of the parts that `parts` names; the only place where a step is taken."""

    access: ClassVar[str] = "gradient"
    hurries: ClassVar[bool] = True

    @abstractmethod
    def parts(self, norm: str) -> Ascent:
        """The start, loss, rule, step size and count under a norm."""

    def start(self, task: Task) -> AscentState:
        """See StepAttack."""
        parts = self.parts(task.norm)
        step = torch.zeros_like(task.y)
        return AscentState(
            x=task.x,
            point=parts.start(task),
            radius=task.radius,
            alpha=parts.alpha(task.radius),
            limit=parts.steps(task.radius),
            step=step,
            goal=goal_of(task, parts.target, parts.targets),
            done=step > 0,
            memory=parts.rule.memory(task.x),
            norm=task.norm,
        )

    def ask(self, state: AscentState) -> Query:
        """The current point, with its gradient unless the steps are spent; before all of it the
        image, where its logits name the target.
        """
        aim = state.goal.aim(self.parts(state.norm).loss)
        differentiate = state.step < state.limit
        if state.goal.target is None:
            return Query(state.point[:, None], aim, ~state.done, differentiate)
        look = state.goal.unset
        points = pick(look, state.x, state.point)
        return Query(points[:, None], aim, ~state.done, differentiate & ~look, offered=~look)

    def tell(self, state: AscentState, answer: Answer) -> AscentState:
        """One step along the rule's direction, then back into ball and box."""
        parts = self.parts(state.norm)
        direction, memory = parts.rule.direction(
            answer.gradient, state.point, state.norm, state.memory
        )
        moved = state.point + norms.expand(state.alpha, direction) * direction
        moved = norms.project(moved, state.x, state.radius, state.norm, box=parts.box)
        done = state.step >= state.limit
        if state.goal.target is None:
            return replace(state, point=moved, step=state.step + 1, done=done, memory=memory)
        look = state.goal.unset
        kept: Memory = where(look, state.memory, memory)
        return replace(
            state,
            point=pick(look, state.point, moved),
            step=state.step + ~look,
            goal=state.goal.settled(answer.logits[:, 0]),
            done=~look & done,
            memory=kept,
        )

    def goes_on(self, norm: str) -> bool:
        """See StepAttack: where it starts at random."""
        return self.parts(norm).start is in_ball

    def hurried(self, state: AscentState, share: Tensor) -> AscentState:
        """See StepAttack: steps longer by as much as they are fewer."""
        return replace(state, alpha=state.alpha / share)

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  see StepAttack
        """See StepAttack: the steps, a last look, and one at the image where that names the
        target.
        """
        parts = self.parts(norm)
        return int(parts.steps(torch.tensor([radius])).item()) + 1 + (parts.target in RANKED)

    def attempts(self, classes: int, *, targeted: bool = False) -> int:
        """See Attack."""
        parts = self.parts(self.norms[0])
        return attempts(self.restarts, "none" if targeted else parts.target, parts.targets, classes)

    def least_classes(self, *, targeted: bool) -> int:
        """See Attack: what its loss needs."""
        parts = self.parts(self.norms[0])
        return parts.loss.least_classes(targeted=targeted or parts.target != "none")


def fixed(count: int) -> Callable[[Tensor], Tensor]:
    """The same number of steps at every radius."""
    return lambda radius: torch.full_like(radius, count, dtype=torch.int64)

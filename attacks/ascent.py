"""Iterated ascent on a loss inside the ball: a start, a loss, a step rule and a number of steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Attack, Task, replicate
from attacks.losses import Loss
from attacks.oracles import LEAST_LIKELY, Answer, Query
from attacks.rules import STEEPEST, Memory, Rule

Target = Literal["none", "next", "random", "least_likely"]


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
    radius (N,). box: points stay in [0, 1]; without, they are never successes outside it.
    """

    loss: Loss
    steps: Callable[[Tensor], Tensor]
    alpha: Callable[[Tensor], Tensor]
    start: Callable[[Task], Tensor] = at_input
    rule: Rule = STEEPEST
    target: Target = "none"
    box: bool = True


@dataclass(frozen=True)
class AscentState:
    """Per sample: origin x, current point, radius, step size and number, what the loss is taken
    against.
    """

    x: Tensor
    point: Tensor
    radius: Tensor
    alpha: Tensor
    limit: Tensor
    step: Tensor
    labels: Tensor
    sign: Tensor
    done: Tensor
    memory: Memory
    norm: str


class AscentAttack(Attack):
    """An attack composed of the parts that `parts` names; the only place where a step is taken."""

    access: ClassVar[str] = "gradient"

    @abstractmethod
    def parts(self, norm: str) -> Ascent:
        """The start, loss, rule, step size and count under a norm."""

    def start(self, task: Task) -> AscentState:
        """See Attack."""
        parts = self.parts(task.norm)
        labels, sign = _aim(parts.target, task)
        return AscentState(
            x=task.x,
            point=parts.start(task),
            radius=task.radius,
            alpha=parts.alpha(task.radius),
            limit=parts.steps(task.radius),
            step=torch.zeros_like(labels),
            labels=labels,
            sign=sign,
            done=torch.zeros_like(labels, dtype=torch.bool),
            memory=parts.rule.memory(task.x),
            norm=task.norm,
        )

    def ask(self, state: AscentState) -> Query:
        """The current point; its gradient too, unless the steps are spent."""
        return Query(
            points=state.point[:, None],
            labels=state.labels[:, None],
            loss=self.parts(state.norm).loss,
            sign=state.sign,
            wanted=~state.done,
            differentiate=state.step < state.limit,
        )

    def tell(self, state: AscentState, answer: Answer) -> AscentState:
        """One step along the rule's direction, then back into ball and box."""
        parts = self.parts(state.norm)
        direction, memory = parts.rule.direction(
            answer.gradient[:, 0], state.point, state.norm, state.memory
        )
        moved = state.point + norms.expand(state.alpha, direction) * direction
        # The first point is the image or beside it: its least likely class becomes the target.
        unset = state.labels == LEAST_LIKELY
        return replace(
            state,
            point=norms.project(moved, state.x, state.radius, state.norm, box=parts.box),
            step=state.step + 1,
            labels=torch.where(unset, answer.logits[:, 0].argmin(1), state.labels),
            done=state.step >= state.limit,
            memory=memory,
        )

    def horizon(self, radius: float) -> int:
        """See Attack: the steps, and a last look."""
        return int(self.parts(self.norms[0]).steps(torch.tensor([radius])).item()) + 1


def _aim(target: Target, task: Task) -> tuple[Tensor, Tensor]:
    """Labels (N,) that the loss is taken against, and +1 to leave them or -1 to reach them."""
    if task.targets is not None:
        return task.targets, replicate(task, -1)
    if target == "none":
        return task.y, replicate(task, 1)
    if target == "least_likely":
        return torch.full_like(task.y, LEAST_LIKELY), replicate(task, -1)
    step = 1 if target == "next" else 1 + task.draws.integers(task.classes - 1, "target")
    return (task.y + step) % task.classes, replicate(task, -1)


def fixed(count: int) -> Callable[[Tensor], Tensor]:
    """The same number of steps at every radius."""
    return lambda radius: torch.full_like(radius, count, dtype=torch.int64)

"""Distance traded against success: minimise D(x') + c L(x'), with a search over c per sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Kind, StepAttack, Task, at_least
from attacks.losses import MARGIN, Loss
from attacks.oracles import Answer, Query
from attacks.rows import may_hold, where
from attacks.targets import Aimed, Goal, Target, goal_of

_UNBOUNDED = 1e15
_TENFOLD, _HUNDREDFOLD = 10.0, 100.0
_UNSETTLED = 0.5
"""The share of a round's steps whose successes do not tell that c is large enough: the first steps
overshoot a near boundary whatever c is."""


@dataclass(frozen=True)
class Weight:
    """Per sample the weight c of the loss, and the bounds of its search: a success at c says that
    the least c lies below, a failure that it lies above.
    """

    value: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, like: Tensor, value: float) -> Weight:
        """The first weight, nothing known."""
        first = torch.full_like(like, value)
        return cls(first, torch.zeros_like(like), torch.full_like(like, _UNBOUNDED))

    def after(self, succeeded: Tensor) -> Weight:
        """The next one: ten times as large until the first success, then the middle (the search of
        Carlini and Wagner 2017, section V.A).
        """
        low, high = self._bounds(succeeded)
        middle = (low + high) / 2
        return Weight(torch.where(high < _UNBOUNDED, middle, self.value * _TENFOLD), low, high)

    def after_scaling(self, succeeded: Tensor) -> Weight:
        """The next one where the scale itself is unknown: a hundredth or a hundred times until a
        success and a failure are known, then their geometric mean.
        """
        low, high = self._bounds(succeeded)
        middle = (low * high).sqrt()
        out = torch.where(succeeded, self.value / _HUNDREDFOLD, self.value * _HUNDREDFOLD)
        is_between = (low > 0) & (high < _UNBOUNDED)
        return Weight(torch.where(is_between, middle, out), low, high)

    def _bounds(self, succeeded: Tensor) -> tuple[Tensor, Tensor]:
        high = torch.where(succeeded, self.high.minimum(self.value), self.high)
        low = torch.where(succeeded, self.low, self.low.maximum(self.value))
        return low, high


@dataclass(frozen=True)
class TradeoffState:
    """Per sample: image, the variable that is descended on and its memory, weight, goal.

    step counts within a round, round within the search; succeeded: in this round.
    """

    x: Tensor
    variable: Tensor
    memory: tuple[Tensor, ...]
    weight: Weight
    goal: Goal
    step: Tensor
    round: Tensor
    succeeded: Tensor
    done: Tensor


class Tradeoff(Aimed, StepAttack):
    """Base of the attacks that minimise D(x') + c L(x') in `search` rounds of `steps` steps.

    first is the weight c of the first round. A subclass says how a variable becomes points, where
    it starts and how it descends.
    """

    access: ClassVar[str] = "gradient"
    kind: ClassVar[Kind] = "minimal"
    steps: int
    search: int
    target: Target
    first: float
    loss: Loss

    def _check_search(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("search", self.search, 1)
        if not 0 < self.first < _UNBOUNDED:
            raise ValueError(f"the first weight must be above 0, got {self.first}")

    @property
    def first_weight(self) -> float:
        """The weight of the first round."""
        return self.first

    def next_weight(self, weight: Weight, succeeded: Tensor) -> Weight:
        """The weight of the next round."""
        return weight.after(succeeded)

    @abstractmethod
    def variable(self, x: Tensor) -> Tensor:
        """The variable (N, ...) at which the descent starts, for images x."""

    @abstractmethod
    def points_of(self, state: TradeoffState) -> Tensor:
        """The points (N, q, ...) to look at; the gradient is that at the first."""

    @abstractmethod
    def memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """The memory before the first step."""

    @abstractmethod
    def descend(self, state: TradeoffState, gradient: Tensor) -> TradeoffState:
        """A step against the gradient (N, ...) of c L at the first point, and that of D."""

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: every step and a last look per round, and one at the image for a ranked
        target.
        """
        return self.rounds * (self.steps + 1) + self.looks

    @property
    def rounds(self) -> int:
        """Rounds of the search."""
        return self.search

    def start(self, task: Task) -> TradeoffState:
        """See StepAttack."""
        step = torch.zeros_like(task.y)
        return TradeoffState(
            x=task.x,
            variable=self.variable(task.x),
            memory=self.memory(task.x),
            weight=Weight.of(task.radius, self.first_weight),
            goal=goal_of(task, self.target),
            step=step,
            round=step.clone(),
            succeeded=step > 0,
            done=step > 0,
        )

    def ask(self, state: TradeoffState) -> Query:
        """The points of the variable; the image where its logits name the target."""
        look = state.goal.unset
        points = self.points_of(state)
        if state.goal.target is not None:
            points = torch.where(norms.expand(look, points), state.x[:, None], points)
        aim = state.goal.aim(self.loss)
        return Query(points, aim, ~state.done, (state.step < self.steps) & ~look)

    def tell(self, state: TradeoffState, answer: Answer) -> TradeoffState:
        """A step of the descent; behind the last one of a round the next weight, from the start."""
        look = state.goal.unset
        goal = state.goal.settled(answer.logits[:, 0])
        hit = [
            state.goal.reached(answer.logits[:, i]) & self._is_sure(answer.value[:, i])
            for i in range(answer.logits.shape[1])
        ]
        settled = state.step >= self.steps * _UNSETTLED
        succeeded = state.succeeded | (torch.stack(hit).any(0) & settled)
        value = answer.value[:, 0]
        # Nothing is gained by more confidence than asked for.
        weight = torch.where(self._is_spent(value), 0, -state.weight.value)
        moved = self.descend(state, norms.expand(weight, state.x) * answer.gradient)
        moved = replace(moved, step=state.step + 1, succeeded=succeeded)
        over = state.step >= self.steps
        following = moved
        if may_hold(over):
            following = where(over, self._next_round(state, succeeded), moved)
        kept: Any = where(look, state, following) if state.goal.target is not None else following
        result: TradeoffState = replace(kept, goal=goal)
        return result

    def _is_sure(self, value: Tensor) -> Tensor:
        """Whether (N,) a success has the confidence asked for."""
        return torch.ones_like(value, dtype=torch.bool)

    def _is_spent(self, value: Tensor) -> Tensor:
        """Whether (N,) the loss has nothing more to gain."""
        return torch.zeros_like(value, dtype=torch.bool)

    def _next_round(self, state: TradeoffState, succeeded: Tensor) -> TradeoffState:
        zero = torch.zeros_like(state.step)
        return replace(
            state,
            variable=self.variable(state.x),
            memory=self.memory(state.x),
            weight=self.next_weight(state.weight, succeeded),
            step=zero,
            round=state.round + 1,
            succeeded=zero > 0,
            done=state.done | (state.round + 1 >= self.rounds),
        )


class MarginTradeoff(Tradeoff):
    """L is max(-margin, -confidence), the f_6 of Carlini and Wagner 2017."""

    confidence: float
    loss = MARGIN

    def _check_confidence(self) -> None:
        if not 0 <= self.confidence < math.inf:
            raise ValueError(f"confidence must be finite and at least 0, got {self.confidence}")

    def _is_sure(self, value: Tensor) -> Tensor:
        return value >= self.confidence

    def _is_spent(self, value: Tensor) -> Tensor:
        return value > self.confidence

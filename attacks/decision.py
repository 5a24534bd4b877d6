"""What attacks that see labels only have in common: a point of another class is found, then the
boundary on the way to it, and from there each walks in its own manner.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Kind, StepAttack, Task, check_layout
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.rows import pick, where
from attacks.targets import Goal, goal_of

_COARSE = 4
_KINDS = 3
_ENTRY, _BISECT, _WALK = range(3)
LEAST_TOLERANCE = 1e-6
"""Below it float32 no longer tells points of an image apart."""


@dataclass(frozen=True)
class Bracket:
    """Where the boundary lies between the image and a point of another class.

    far (N, ...): that point; low, high (N,): shares of the way (under linf radii) between which the
    boundary lies, the one at high being of the other class; tolerance (N,): where bisection ends.
    """

    far: Tensor
    low: Tensor
    high: Tensor
    tolerance: Tensor

    @classmethod
    def of(cls, x: Tensor, far: Tensor, norm: str, tolerance: float) -> Bracket:
        """The whole way to `far`; tolerance: a share, under linf also of a way shorter than 1."""
        length = norms.size(far - x, norm)
        if norm != "linf":
            length = torch.ones_like(length)
        least = (tolerance * length.clamp(max=1)).clamp(min=LEAST_TOLERANCE)
        return cls(far, torch.zeros_like(length), length, least)

    @property
    def middle(self) -> Tensor:
        """The share (N,) to ask next."""
        return (self.low + self.high) / 2

    @property
    def is_found(self) -> Tensor:
        """Whether (N,) the boundary is known well enough."""
        return self.high - self.low <= self.tolerance

    def at(self, x: Tensor, share: Tensor, norm: str) -> Tensor:
        """The point (N, ...) at a share (N,) of the way; under linf the nearest one in that
        ball.
        """
        if norm == "linf":
            return norms.project(self.far, x, share, norm)
        return x + norms.expand(share, x) * (self.far - x)

    def told(self, succeeded: Tensor) -> Bracket:
        """The half that holds the boundary."""
        middle = self.middle
        low = torch.where(succeeded, self.low, middle)
        return replace(self, low=low, high=torch.where(succeeded, middle, self.high))


@dataclass(frozen=True)
class DecisionState:
    """Per sample: what it works on, its phase, the number of its try at an entry, the bracket of
    the boundary, the attack's own walk, the point asked next, and queries so far.
    """

    task: Task
    goal: Goal
    phase: Tensor
    number: Tensor
    bracket: Bracket
    walk: Any
    point: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True)
class DecisionAttack(StepAttack):
    """Base of attacks that see labels only. The first point of another class is sought among
    `tries` random images, in turn fine noise, coarse noise, coarse black and white; where there is
    none the attack ends with nothing.
    """

    access: ClassVar[str] = "labels"
    kind: ClassVar[Kind] = "minimal"
    queries: int = 5000
    tries: int = 100

    @abstractmethod
    def tolerance(self, dims: int, norm: str) -> float:
        """The share of the way at which bisection ends, for images of so many components."""

    @abstractmethod
    def prepared(self, task: Task) -> Any:
        """The walk before it begins: tensors of the right shapes."""

    @abstractmethod
    def set_out(self, state: DecisionState, point: Tensor) -> Any:
        """The walk from a point (N, ...) at the boundary that bisection found."""

    @abstractmethod
    def proposal(self, state: DecisionState) -> Tensor:
        """The point (N, ...) of the walk to ask next."""

    @abstractmethod
    def walked(self, state: DecisionState, succeeded: Tensor) -> tuple[Any, Tensor]:
        """The walk after an answer (N,), and whether (N,) the boundary on the way to the point just
        asked is to be found next.
        """

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack."""
        return self.queries

    def start(self, task: Task) -> DecisionState:
        """See StepAttack."""
        check_layout(self, task.x)
        zero = torch.zeros_like(task.y)
        nowhere = torch.zeros_like(task.radius)
        return DecisionState(
            task=task,
            goal=goal_of(task, "none"),
            phase=zero,
            number=zero.clone(),
            bracket=Bracket(task.x, nowhere, nowhere.clone(), nowhere.clone()),
            walk=self.prepared(task),
            point=_guess(task, zero),
            step=zero.clone(),
            done=zero > 0,
        )

    def ask(self, state: DecisionState) -> Query:
        """The point that the phase is about."""
        never = torch.zeros_like(state.done)
        return Query(state.point[:, None], state.goal.aim(MARGIN), ~state.done, never)

    def tell(self, state: DecisionState, answer: Answer) -> DecisionState:
        """The phase goes on, or the next begins; then the next point."""
        succeeded = state.goal.succeeded(answer.logits[:, 0])
        entering, walking = state.phase == _ENTRY, state.phase == _WALK
        x, norm = state.task.x, state.task.norm
        walk, back = state.walk, torch.zeros_like(succeeded)
        if _any(walking):
            told, turns = self.walked(state, succeeded)
            walk, back = where(walking, told, walk), walking & turns
        begins = (entering & succeeded) | back
        tolerance = self.tolerance(x[0].numel(), norm)
        bracket: Bracket = where(
            begins,
            Bracket.of(x, state.point, norm, tolerance),
            where(state.phase == _BISECT, state.bracket.told(succeeded), state.bracket),
        )
        bisecting = begins | (state.phase == _BISECT)
        found = bisecting & bracket.is_found
        number, step = state.number + (entering & ~succeeded), state.step + 1
        phase = torch.where(bisecting, _BISECT, state.phase)
        after = replace(
            state,
            phase=torch.where(found, _WALK, phase),
            number=number,
            bracket=bracket,
            walk=walk,
            step=step,
            done=state.done | (step >= self.queries) | (entering & (number >= self.tries)),
        )
        if _any(found):
            boundary = bracket.at(x, bracket.high, norm)
            after = replace(after, walk=where(found, self.set_out(after, boundary), walk))
        return replace(after, point=self._next(after))

    def _next(self, state: DecisionState) -> Tensor:
        """The point that each row's phase asks; what no row needs is not computed."""
        entering, bisecting = state.phase == _ENTRY, state.phase == _BISECT
        x, point = state.task.x, state.point
        if _any(entering):
            guess = _guess(state.task, state.number)
            point = pick(entering, guess, point)
        if _any(bisecting):
            middle = state.bracket.at(x, state.bracket.middle, state.task.norm)
            point = pick(bisecting, middle, point)
        walking = ~(entering | bisecting)
        if _any(walking):
            point = torch.where(norms.expand(walking, x), self.proposal(state), point)
        return point


def _any(rows: Tensor) -> bool:
    """Whether any row is meant; elsewhere than on a CPU asking would stall."""
    return rows.device.type != "cpu" or bool(rows.any())


def _guess(task: Task, number: Tensor) -> Tensor:
    """The try (N, ...) of each number (N,). Fine noise alone is one class to many models."""
    fine = task.draws.uniform(task.x.shape, "entry", number)
    grid = torch.Size((*task.x.shape[:2], _COARSE, _COARSE))
    coarse = _enlarged(task.draws.uniform(grid, "entry-coarse", number), task.x)
    kind = norms.expand(number % _KINDS, fine)
    return torch.where(kind == 0, fine, torch.where(kind == 1, coarse, (coarse > 0.5).float()))


def _enlarged(grid: Tensor, like: Tensor) -> Tensor:
    """A grid (N, C, h, w) as images of `like`'s size."""
    height, width = like.shape[2:]
    rows = torch.arange(height, device=grid.device) * grid.shape[2] // height
    columns = torch.arange(width, device=grid.device) * grid.shape[3] // width
    return grid[:, :, rows][:, :, :, columns]

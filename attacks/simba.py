"""The simple black-box attack."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task, at_least, check_layout
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.rows import pick
from attacks.targets import Goal, goal_of

_L2_STEP = 0.2


@dataclass(frozen=True)
class SimBaState:
    """Per sample: best point with its value, the point asked next, the order (N, d) of directions,
    which is due, whether backwards, queries so far, and how many steps in a row went nowhere.
    """

    x: Tensor
    radius: Tensor
    goal: Goal
    best: Tensor
    value: Tensor
    point: Tensor
    order: Tensor
    place: Tensor
    backwards: Tensor
    step: Tensor
    idle: Tensor
    done: Tensor
    norm: str


@dataclass(frozen=True)
class SimBa(StepAttack):
    """Simple black-box attack: one direction at a time, forwards, else backwards (Guo et al. 2019,
    arXiv:1905.07121).

    Directions are single pixels or cosine waves (dct) in random order, each used once, then over
    again (a step that ball or box undo is no query); a step is kept where the margin grows.
    queries: at most. alpha: step size; by default eps under linf, 0.2 (the paper's) under l2. low:
    with dct, the share of the lowest frequencies on each side. The paper has no eps: here every
    point is projected onto the ball.
    """

    access: ClassVar[str] = "logits"
    revision: ClassVar[int | str] = 2
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    queries: int = 5000
    basis: Literal["pixel", "dct"] = "pixel"
    alpha: float | None = None
    low: float = 1.0

    def __post_init__(self) -> None:
        at_least("queries", self.queries, 2)
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and above 0, got {self.alpha}")
        if not 0 < self.low <= 1:
            raise ValueError(f"low must be above 0 and at most 1, got {self.low}")

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack."""
        return self.queries

    def start(self, task: Task) -> SimBaState:
        """See StepAttack."""
        check_layout(self, task.x)
        zero = torch.zeros_like(task.y)
        count = self._directions(task.x)
        keys = task.draws.uniform(torch.Size((len(task.y), count)), "order")
        return SimBaState(
            x=task.x,
            radius=task.radius,
            goal=goal_of(task, "none"),
            best=task.x,
            value=torch.full_like(task.radius, -torch.inf),
            point=task.x,
            order=keys.argsort(dim=1, stable=True),
            place=zero,
            backwards=zero < 0,
            step=zero.clone(),
            idle=zero.clone(),
            done=zero > 0,
            norm=task.norm,
        )

    def ask(self, state: SimBaState) -> Query:
        """The image first, then a step from the best point; one that the walls undo is not
        asked.
        """
        never = torch.zeros_like(state.done)
        wanted = ~state.done & self._moves(state)
        return Query(state.point[:, None], state.goal.aim(MARGIN), wanted, never)

    @staticmethod
    def _moves(state: SimBaState) -> Tensor:
        return (state.step == 0) | (state.point != state.best).flatten(1).any(1)

    def tell(self, state: SimBaState, answer: Answer) -> SimBaState:
        """Keeps the better point; a direction that failed is tried backwards, then left."""
        value, first = answer.value[:, 0], state.step == 0
        asked = self._moves(state)
        better = asked & (value > state.value)
        best = pick(better, state.point, state.best)
        over = ~first & (better | state.backwards)
        backwards = ~first & ~better & ~state.backwards
        step = state.step + asked
        idle = torch.where(asked, 0, state.idle + 1)
        told = replace(
            state,
            best=best,
            value=torch.where(better, value, state.value),
            place=state.place + over,
            backwards=backwards,
            step=step,
            idle=idle,
            done=(step >= self.queries) | (idle >= 2 * state.order.shape[1]),
        )
        return replace(told, point=self._proposal(told))

    def _proposal(self, state: SimBaState) -> Tensor:
        due = state.place % state.order.shape[1]
        number = state.order.gather(1, due[:, None])[:, 0]
        if self.basis == "pixel":
            places = torch.arange(state.x[0].numel(), device=number.device)
            move = (places == number[:, None]).float().view_as(state.x)
        else:
            move = self._wave(number, state.x)
        plain = _L2_STEP if state.norm == "l2" else state.radius
        alpha = plain if self.alpha is None else self.alpha
        length = torch.where(state.backwards, -1.0, 1.0) * alpha
        moved = state.best + norms.expand(length, move) * move
        return norms.project(moved, state.x, state.radius, state.norm)

    def _directions(self, x: Tensor) -> int:
        _, channels, height, width = x.shape
        if self.basis == "pixel":
            return channels * height * width
        return channels * _lowest(self.low, height) * _lowest(self.low, width)

    def _wave(self, number: Tensor, x: Tensor) -> Tensor:
        """The cosine wave (N, C, H, W) of each number, of length 1 in the norm l2."""
        channels, height, width = x.shape[1:]
        rows, columns = _lowest(self.low, height), _lowest(self.low, width)
        down = _cosines(height, number.device)[number // columns % rows]
        across = _cosines(width, number.device)[number % columns]
        own = torch.arange(channels, device=number.device) == (number // (rows * columns))[:, None]
        return own[:, :, None, None] * (down[:, :, None] * across[:, None, :])[:, None]


def _lowest(share: float, size: int) -> int:
    return max(1, math.ceil(share * size))


@functools.lru_cache(maxsize=8)
def _cosines(size: int, device: torch.device) -> Tensor:
    """The orthonormal cosine basis (size, size) of a line, a row per frequency."""
    place = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (place + 0.5) * place[:, None])
    return (waves / norms.size(waves, "l2")[:, None]).float().to(device)

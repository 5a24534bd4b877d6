"""The Square attack."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task, at_least, check_layout
from attacks.draws import Draws
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.rows import pick
from attacks.targets import Goal, goal_of

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULED = 10_000
_TILES = 5
_LEAST_L2_SIDE = 3
_SMALL = 1e-12


@dataclass(frozen=True)
class SquareState:
    """Per sample: image, best point with its value, the point asked next, queries so far."""

    x: Tensor
    radius: Tensor
    goal: Goal
    best: Tensor
    value: Tensor
    point: Tensor
    step: Tensor
    done: Tensor
    draws: Draws
    norm: str


@dataclass(frozen=True)
class Square(StepAttack):
    """Square attack: random search over squares, scores only (Andriushchenko et al. 2020,
    arXiv:1912.00049).

    linf: from vertical stripes of +-eps; each query moves one square to +-eps of the image, each
    channel by a sign of its own. l2: from 5 x 5 tiles; each query moves what two squares hold of
    the perturbation into one of them. A point is kept where its margin is larger. queries: per
    restart. p: share of the image that the first square covers; it is halved after 10, 50, 200,
    500, 1,000, 2,000, 4,000, 6,000 and 8,000 of 10,000 queries. rescale: of `queries` instead, as
    in the authors' code; AutoAttack does not.

    Deviations from the authors' code: the square's place may be the last row and column, which
    their draw leaves out; every sample draws its own; a square whose sign changes no pixel is asked
    all the same (as in AutoAttack; the first code draws again); with a target the margin, not
    cross-entropy.
    """

    access: ClassVar[str] = "logits"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1
    rescale: bool = True

    def __post_init__(self) -> None:
        at_least("queries", self.queries, 2)
        at_least("restarts", self.restarts, 1)
        if not 0 < self.p <= 1:
            raise ValueError(f"p must be above 0 and at most 1, got {self.p}")

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack."""
        return self.queries

    def start(self, task: Task) -> SquareState:
        """See StepAttack."""
        check_layout(self, task.x)
        first = _stripes(task) if task.norm == "linf" else _tiles(task)
        step = torch.zeros_like(task.y)
        return SquareState(
            x=task.x,
            radius=task.radius,
            goal=goal_of(task, "none"),
            best=task.x,
            value=torch.full_like(task.radius, -torch.inf),
            point=first,
            step=step,
            done=step > 0,
            draws=task.draws,
            norm=task.norm,
        )

    def ask(self, state: SquareState) -> Query:
        """The proposal."""
        never = torch.zeros_like(state.done)
        return Query(state.point[:, None], state.goal.aim(MARGIN), ~state.done, never)

    def tell(self, state: SquareState, answer: Answer) -> SquareState:
        """Keeps the better point, and proposes a square from it."""
        value = answer.value[:, 0]
        better = value > state.value
        best = pick(better, state.point, state.best)
        step = state.step + 1
        told = replace(
            state,
            best=best,
            value=torch.where(better, value, state.value),
            step=step,
            done=step >= self.queries,
        )
        propose = self._linf if state.norm == "linf" else self._l2
        return replace(told, point=propose(told))

    def level(self, step: Tensor) -> Tensor:
        """How often (N,) the share has been halved before query number `step` (N,)."""
        scaled = step * _SCHEDULED // self.queries if self.rescale else step
        return torch.bucketize(scaled, _halvings(step.device))

    def sides(self, height: int, width: int, norm: str) -> list[int]:
        """The side of the square at each level; under l2 odd."""
        most = min(height, width)
        sides = [
            round((self.p / 2**level * height * width) ** 0.5)
            for level in range(len(_HALVED_AFTER) + 1)
        ]
        if norm == "linf":
            return [min(max(side, 1), most) for side in sides]
        odd = [max(side, _LEAST_L2_SIDE) | 1 for side in sides]
        return [side if side <= most else max(most - 1 + most % 2, 1) for side in odd]

    def _windows(self, state: SquareState, purpose: str) -> _Window:
        """A square (N) of each sample's current side at a random place."""
        height, width = state.x.shape[2:]
        table = _sides(tuple(self.sides(height, width, state.norm)), state.x.device)
        level = self.level(state.step)
        side = table[level]
        top = state.draws.integers(height - side + 1, f"{purpose}-row", state.step)
        left = state.draws.integers(width - side + 1, f"{purpose}-column", state.step)
        row = torch.arange(height, device=side.device) - top[:, None]
        column = torch.arange(width, device=side.device) - left[:, None]
        covered = ((row >= 0) & (row < side[:, None]))[:, :, None]
        covered = covered & ((column >= 0) & (column < side[:, None]))[:, None, :]
        return _Window(level, side, row, column, covered[:, None])

    def _linf(self, state: SquareState) -> Tensor:
        window = self._windows(state, "square")
        move = norms.expand(2 * state.radius, state.x) * _signs(state, "sign") * window.covered
        return norms.project(state.best + move, state.x, state.radius, state.norm)

    def _l2(self, state: SquareState) -> Tensor:
        """The formulas of the paper's appendix B: what both squares hold goes into the first."""
        into, out = self._windows(state, "square"), self._windows(state, "other")
        delta = state.best - state.x
        channels = delta.shape[1]
        pattern = self._bumps(state, into) * _signs(state, "sign")
        here = delta * into.covered
        pattern = pattern + here / (_SMALL + _length(here))
        held = _length(delta * (into.covered | out.covered))
        left = (state.radius**2 - norms.size(delta, "l2") ** 2).clamp(min=0) / channels
        share = (norms.expand(left, delta) + held**2).sqrt()
        moved = torch.where(out.covered, 0, delta)
        moved = torch.where(into.covered, pattern / (_SMALL + _length(pattern)) * share, moved)
        return _at_radius(state.x, moved, state.radius)

    def _bumps(self, state: SquareState, window: _Window) -> Tensor:
        """The pattern (N, 1, H, W) of each square: two opposed halves, side by side or one above
        the other.
        """
        height, width = state.x.shape[2:]
        sides = tuple(self.sides(height, width, state.norm))
        table = _patterns(sides, state.x.device)
        most = table.shape[1] - 1
        row, column = window.row.clamp(0, most), window.column.clamp(0, most)
        upright = table[window.level[:, None, None], row[:, :, None], column[:, None, :]]
        turned = table[window.level[:, None, None], column[:, None, :], row[:, :, None]]
        turns = state.draws.integers(2, "turn", state.step)[:, None, None] > 0
        return torch.where(turns, turned, upright)[:, None] * window.covered


@dataclass(frozen=True)
class _Window:
    """Squares: level and side (N,); row (N, H) and column (N, W) count from the square's corner;
    covered (N, 1, H, W).
    """

    level: Tensor
    side: Tensor
    row: Tensor
    column: Tensor
    covered: Tensor


def _signs(state: SquareState, purpose: str) -> Tensor:
    """A sign (N, C, 1, 1) per channel."""
    shape = torch.Size((*state.x.shape[:2], 1, 1))
    return 2.0 * (state.draws.uniform(shape, purpose, state.step) < 0.5) - 1


def _length(delta: Tensor) -> Tensor:
    """The l2 size (N, C, 1, 1) of each channel."""
    count, channels = delta.shape[:2]
    return norms.size(delta.flatten(0, 1), "l2").view(count, channels, 1, 1)


def _at_radius(x: Tensor, delta: Tensor, radius: Tensor) -> Tensor:
    """x + delta brought to the radius, moved into the box, and rounded to the inside of the ball:
    over 150,000 components float32 errs by more than the re-check forgives.
    """
    length = norms.size(delta, "l2").clamp(min=_SMALL)
    point = norms.to_box(x + norms.expand(radius / length, delta) * delta)
    return norms.project(point, x, radius, "l2")


def _stripes(task: Task) -> Tensor:
    """Vertical stripes of +-eps, one pixel wide."""
    shape = torch.Size((*task.x.shape[:2], 1, task.x.shape[3]))
    signs = 2.0 * (task.draws.uniform(shape, "stripes") < 0.5) - 1
    moved = task.x + norms.expand(task.radius, task.x) * signs
    return norms.project(moved, task.x, task.radius, task.norm)


def _tiles(task: Task) -> Tensor:
    """A grid of tiles, each with a pattern of its own turn and, per channel, sign."""
    count, channels, height, width = task.x.shape
    side = max(min(height, width) // _TILES, 1)
    rows, columns = height // side, width // side
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    pattern = _pattern(side).to(task.x.device)
    tiled = torch.stack([pattern, pattern.T]).repeat(1, rows, columns)
    shape = torch.Size((count, 1, rows, columns))
    turns = _spread(task.draws.uniform(shape, "tile-turn") < 0.5, side)
    shape = torch.Size((count, channels, rows, columns))
    signs = _spread(2.0 * (task.draws.uniform(shape, "tile-sign") < 0.5) - 1, side)
    delta = torch.zeros_like(task.x)
    inner = torch.where(turns, tiled[0], tiled[1]) * signs
    delta[:, :, top : top + rows * side, left : left + columns * side] = inner
    return _at_radius(task.x, delta, task.radius)


def _spread(tiles: Tensor, side: int) -> Tensor:
    """Tiles (N, C, h, w) as (N, C, h side, w side)."""
    return tiles.repeat_interleave(side, 2).repeat_interleave(side, 3)


@functools.lru_cache(maxsize=8)
def _halvings(device: torch.device) -> Tensor:
    """The queries after which the share is halved; made once, as _sides."""
    return torch.tensor(_HALVED_AFTER, device=device)


@functools.lru_cache(maxsize=8)
def _sides(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """The sides of all levels; made once, as a copy to an accelerator stalls it."""
    return torch.tensor(sides, device=device)


@functools.lru_cache(maxsize=8)
def _patterns(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """The patterns (levels, S, S) of these sides, padded with zeros."""
    most = max(sides)
    table = torch.zeros(len(sides), most, most)
    for place, side in enumerate(sides):
        table[place, :side, :side] = _pattern(side)
    return table.to(device)


def _pattern(side: int) -> Tensor:
    """Two opposed bumps in a square, of length 1 together (the paper's eta)."""
    first = side // 2
    pattern = torch.cat([_bump(first, side), -_bump(side - first, side)])
    length: Tensor = pattern / pattern.norm()
    return length


def _bump(height: int, width: int) -> Tensor:
    """Nested rectangles around the middle, each adding 1 over its number squared; length 1."""
    bump = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for number in range(max(height // 2 + 1, width // 2 + 1)):
        rows = slice(max(row - number, 0), min(row + number + 1, height))
        columns = slice(max(column - number, 0), min(column + number + 1, width))
        bump[rows, columns] += 1 / (number + 1) ** 2
    return bump / bump.norm() if height else bump

"""Auto-PGD: a step size that halves itself, momentum, restarts from the best point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task, at_least
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.oracles import Answer, Query
from attacks.rows import may_hold, pick, where
from attacks.targets import Aimed, Goal, Target, goal_of

_MOMENTUM = 0.75
_FIRST_SHARE, _LEAST_SHARE, _SHORTER_BY = 0.22, 0.06, 0.03
_L1_SHARE, _L1_STEP_DOWN, _L1_LEAST_STEP = 0.04, 1.5, 10.0
_L1_SPARSER = 0.95
_L1_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))


@dataclass(frozen=True)
class ApgdState:
    """Per sample: where the run of the current phase stands.

    count: points of the phase looked at so far; best: the point with the highest loss, with its
    value and gradient; rises: steps since the last checkpoint that raised the loss; window: steps
    from one checkpoint to the next; dense: under l1 the number of components best differs in.
    """

    x: Tensor
    radius: Tensor
    goal: Goal
    point: Tensor
    previous: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    last_value: Tensor
    checked_value: Tensor
    alpha: Tensor
    phase: Tensor
    count: Tensor
    since: Tensor
    window: Tensor
    rises: Tensor
    halved: Tensor
    dense: Tensor
    done: Tensor
    norm: str


@dataclass(frozen=True)
class Apgd(Aimed, StepAttack):
    """Auto-PGD: momentum, and a step size that it sets itself (Croce and Hein 2020,
    arXiv:2003.01690; l1: Croce and Hein 2021, arXiv:2103.01208).

    Under linf and l2: step size 2 eps, momentum 0.75, checkpoints after 22 % of the steps and then
    after windows that shrink by 3 points to 6 %; at one, where no more than rho of the steps raised
    the loss, or neither step size nor best loss have changed since the last, the step is halved and
    the run goes on from its best point. Under l1: sparse steps, a ball of 3, then 2, then 1 eps for
    30, 30 and 40 % of the steps (as AutoAttack runs it), points of the larger balls never count.
    steps, restarts (each from a random point of the surface), loss: ce, margin, dlr; target and
    targets as in multitargeted, where loss=dlr is the targeted DLR. eot: answers averaged per
    query.

    Deviations from the authors' code: l2 projects onto ball and box together, not one after the
    other; the first step is compared with the start's loss (their array holds 0 there); eps per
    sample.
    """

    access: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    steps: int = 100
    restarts: int = 1
    loss: Loss = CROSS_ENTROPY
    rho: float = 0.75
    target: Target = "none"
    targets: int | None = None
    eot: int = 1

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("restarts", self.restarts), ("eot", self.eot)):
            at_least(name, value, 1)
        if self.targets is not None:
            at_least("targets", self.targets, 1)
        if not 0 < self.rho < 1:
            raise ValueError(f"rho must be above 0 and below 1, got {self.rho}")

    def goes_on(self, norm: str) -> bool:
        """See StepAttack: not under l1, whose first phases leave the ball."""
        return norm != "l1"

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: every step, the start of every phase, and a look at the image where that
        names the target.
        """
        return self.steps + len(self._phases(norm)) + self.looks

    def _phases(self, norm: str) -> list[tuple[float, int]]:
        """Share of eps and number of steps of each phase; the last, at eps itself, has one at
        least.
        """
        if norm != "l1":
            return [(1.0, self.steps)]
        counts = [math.ceil(share * self.steps) for _, share in _L1_PHASES[:-1]]
        for place, count in enumerate(counts):
            counts[place] = min(count, self.steps - 1 - sum(counts[:place]))
        counts.append(self.steps - sum(counts))
        shares = [factor for factor, _ in _L1_PHASES]
        return [(f, count) for f, count in zip(shares, counts, strict=True) if count > 0]

    def start(self, task: Task) -> ApgdState:
        """See StepAttack."""
        factor = self._phases(task.norm)[0][0]
        point = norms.surface_point(task.x, factor * task.radius, task.norm, task.draws, "start")
        value = torch.full_like(task.radius, -torch.inf)
        zero = torch.zeros_like(task.y)
        return ApgdState(
            x=task.x,
            radius=task.radius,
            goal=goal_of(task, self.target, self.targets),
            point=point,
            previous=point.clone(),
            best=point.clone(),
            best_gradient=torch.zeros_like(point),
            best_value=value,
            last_value=value.clone(),
            checked_value=value.clone(),
            alpha=torch.zeros_like(task.radius),
            phase=zero,
            count=zero.clone(),
            since=zero.clone(),
            window=zero.clone(),
            rises=zero.clone(),
            halved=zero > 0,
            dense=torch.zeros_like(task.radius),
            done=zero > 0,
            norm=task.norm,
        )

    def ask(self, state: ApgdState) -> Query:
        """The current point, with its gradient unless the steps are spent; before all of it the
        image, where its logits name the target.
        """
        phases = self._phases(state.norm)
        steps = _by_phase([count for _, count in phases], state.phase)
        look = state.goal.unset
        points = state.point
        if state.goal.target is not None:
            points = pick(look, state.x, state.point)
        last = state.phase == len(phases) - 1
        return Query(
            points=points[:, None],
            aim=state.goal.aim(self.loss),
            wanted=~state.done,
            differentiate=((state.count < steps) | ~last) & ~look,
            offered=~look & last,
        )

    def tell(self, state: ApgdState, answer: Answer) -> ApgdState:
        """Notes the point, looks at a checkpoint whether to halve the step, takes the next step."""
        look = state.goal.unset
        goal = state.goal.settled(answer.logits[:, 0])
        noted = self._noted(state, answer.value[:, 0], answer.gradient)
        told = self._moved(self._checked(noted), answer.gradient)
        if state.goal.target is None:
            return replace(told, goal=goal)
        kept: ApgdState = where(look, replace(state, goal=goal), replace(told, goal=goal))
        return kept

    def _noted(self, state: ApgdState, value: Tensor, gradient: Tensor) -> ApgdState:
        """The value and gradient at the point, which may be the first of its phase."""
        first = state.count == 0
        better = first | (value > state.best_value)
        phases = self._phases(state.norm)
        radius = _by_phase([factor for factor, _ in phases], state.phase) * state.radius
        share, start = (_L1_SHARE, radius) if state.norm == "l1" else (_FIRST_SHARE, 2 * radius)
        window = _by_phase([_part(share, count) for _, count in phases], state.phase).long()
        previous, dense = state.previous, state.dense
        if may_hold(first):
            previous = pick(first, state.point, previous)
            dense = torch.where(first, norms.size(state.point - state.x, "l0"), dense)
        return replace(
            state,
            best=pick(better, state.point, state.best),
            best_gradient=pick(better, gradient, state.best_gradient),
            best_value=torch.where(better, value, state.best_value),
            last_value=value,
            previous=previous,
            checked_value=torch.where(first, value, state.checked_value),
            alpha=torch.where(first, start, state.alpha),
            window=torch.where(first, window, state.window),
            rises=torch.where(first, 0, state.rises + (value > state.last_value)),
            since=torch.where(first, 0, state.since + 1),
            halved=first | state.halved,
            dense=dense,
        )

    def _checked(self, state: ApgdState) -> tuple[ApgdState, Tensor]:
        """The state behind a checkpoint, and whether (N,) it goes on from its best point."""
        due = (state.count > 0) & (state.since == state.window)
        if state.norm == "l1":
            dense = norms.size(state.best - state.x, "l0")
            sparser = due & (dense < _L1_SPARSER * state.dense)
            factors = [factor for factor, _ in self._phases("l1")]
            full = _by_phase(factors, state.phase) * state.radius
            lower = (state.alpha / _L1_STEP_DOWN).maximum(full / _L1_LEAST_STEP)
            alpha = torch.where(sparser, full, torch.where(due, lower, state.alpha))
            dense = torch.where(due, dense, state.dense)
            return replace(
                state, alpha=alpha, dense=dense, since=torch.where(due, 0, state.since)
            ), sparser
        restless = state.rises <= self.rho * state.since
        stuck = ~state.halved & (state.checked_value >= state.best_value)
        halves = due & (restless | stuck)
        shorter = state.window - _part(_SHORTER_BY, self.steps)
        return replace(
            state,
            alpha=torch.where(halves, state.alpha / 2, state.alpha),
            window=torch.where(
                due, shorter.clamp(min=_part(_LEAST_SHARE, self.steps)), state.window
            ),
            rises=torch.where(due, 0, state.rises),
            since=torch.where(due, 0, state.since),
            halved=torch.where(due, halves, state.halved),
            checked_value=torch.where(due, state.best_value, state.checked_value),
        ), halves

    def _moved(self, checked: tuple[ApgdState, Tensor], gradient: Tensor) -> ApgdState:
        """The next point; at the end of a phase the best one, moved into the next ball."""
        state, back = checked
        phases = self._phases(state.norm)
        point = pick(back, state.best, state.point)
        gradient = pick(back, state.best_gradient, gradient)
        factors = [factor for factor, _ in phases]
        radius = _by_phase(factors, state.phase) * state.radius
        if state.norm == "l1":
            moved = self._sparse_step(state, point, gradient, radius)
        else:
            moved = self._step(state, point, gradient, radius)
        over = state.count >= _by_phase([count for _, count in phases], state.phase)
        last = state.phase == len(phases) - 1
        phase = torch.where(over & ~last, state.phase + 1, state.phase)
        if len(phases) > 1:
            inner_radius = _by_phase(factors, phase) * state.radius
            inner = norms.project(state.best, state.x, inner_radius, state.norm)
            moved = pick(over, inner, moved)
        return replace(
            state,
            point=moved,
            previous=point,
            phase=phase,
            count=torch.where(over & ~last, 0, state.count + 1),
            done=over & last,
        )

    @staticmethod
    def _step(state: ApgdState, point: Tensor, gradient: Tensor, radius: Tensor) -> Tensor:
        """z = P(x + alpha d), x' = P(x + a (z - x) + (1 - a) (x - x_previous)), a = 1 at first."""
        direction = norms.steepest(gradient, point, state.norm)
        ahead = point + norms.expand(state.alpha, point) * direction
        ahead = norms.project(ahead, state.x, radius, state.norm)
        share = norms.expand(torch.where(state.count == 0, 1.0, _MOMENTUM), point)
        moved = ahead.sub_(point).mul_(share).add_(point)
        moved.add_((point - state.previous).mul_(1 - share))
        return norms.project(moved, state.x, radius, state.norm)

    @staticmethod
    def _sparse_step(state: ApgdState, point: Tensor, gradient: Tensor, radius: Tensor) -> Tensor:
        """Over as many components as the best point changed at the last checkpoint, over 1.5."""
        dims = point[0].numel()
        share = state.dense / dims / _L1_STEP_DOWN
        count = dims - ((1 - share) * dims).long().clamp(0, dims - 1)
        direction = norms.sparse_steepest(gradient, count)
        moved = point + norms.expand(state.alpha, point) * direction
        return norms.project(moved, state.x, radius, state.norm)


def _part(share: float, steps: int) -> int:
    """A share of the steps in whole steps, at least one."""
    return max(int(share * steps), 1)


def _by_phase(values: Sequence[float], phase: Tensor) -> Tensor:
    """The value (N,) of each sample's phase; no tensor is made on the host."""
    made = torch.full_like(phase, values[0], dtype=torch.float32)
    for number, value in enumerate(values[1:], 1):
        made = torch.where(phase == number, value, made)
    return made

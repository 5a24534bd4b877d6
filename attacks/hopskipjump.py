"""HopSkipJump."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Task, at_least
from attacks.decision import LEAST_TOLERANCE, DecisionAttack, DecisionState
from attacks.rows import where

_FIRST_PROBE = 0.1
_MOST_HALVINGS = 20


@dataclass(frozen=True)
class HopSkipJumpWalk:
    """Per sample: the point at the boundary and its distance; the round; probes made, the sums of
    their directions, answers (-1, 1) and products; then the direction of the step, its length and
    how often that was halved.
    """

    point: Tensor
    distance: Tensor
    round: Tensor
    probes: Tensor
    along: Tensor
    answers: Tensor
    product: Tensor
    direction: Tensor
    length: Tensor
    halved: Tensor


@dataclass(frozen=True)
class HopSkipJump(DecisionAttack):
    """HopSkipJump: the boundary's normal is estimated from labels at random points around it (Chen
    et al. 2020, arXiv:1904.02144).

    Each round: bisection to the boundary, an estimate from first * sqrt(round) probes, a step of
    distance / sqrt(round), halved until it succeeds. queries: at most, all together. tries: random
    images among which a first point of another class is sought, in turn fine noise, coarse noise,
    coarse black and white (the paper: noise alone). first: probes of the first round. gamma: the
    paper's, of bisection and probes.

    Deviations: bisection starts at the first point found and stops at 1e-6, below which float32
    tells no points apart, and the probes that the paper ties to it reach as much further (which
    matters under linf); a step that was halved 20 times is given up and the normal estimated anew.
    """

    revision: ClassVar[int | str] = 2
    norms: ClassVar[tuple[str, ...]] = ("l2", "linf")
    first: int = 100
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("queries", self.queries), ("tries", self.tries)):
            at_least(name, value, 1)
        at_least("first", self.first, 1)
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be finite and above 0, got {self.gamma}")

    def least_queries(self, classes: int) -> int:  # noqa: ARG002  the same for all
        """See Attack: a first point, some bisection, the first estimate and a step."""
        return self.first + 3

    def tolerance(self, dims: int, norm: str) -> float:
        """See DecisionAttack: the paper's theta."""
        return self.gamma / (dims * dims if norm == "linf" else dims * math.sqrt(dims))

    def prepared(self, task: Task) -> HopSkipJumpWalk:
        """See DecisionAttack."""
        zero, none = torch.zeros_like(task.y), torch.zeros_like(task.radius)
        far = torch.zeros_like(task.x)
        return HopSkipJumpWalk(
            point=task.x,
            distance=none,
            round=zero,
            probes=zero.clone(),
            along=far,
            answers=none.clone(),
            product=far.clone(),
            direction=far.clone(),
            length=none.clone(),
            halved=zero.clone(),
        )

    def set_out(self, state: DecisionState, point: Tensor) -> HopSkipJumpWalk:
        """A new round at the boundary."""
        distance = norms.size(point - state.task.x, state.task.norm)
        return self._round(replace(state.walk, point=point, distance=distance))

    @staticmethod
    def _round(walk: HopSkipJumpWalk) -> HopSkipJumpWalk:
        nothing = torch.zeros_like(walk.along)
        return replace(
            walk,
            round=walk.round + 1,
            probes=torch.zeros_like(walk.probes),
            along=nothing,
            answers=torch.zeros_like(walk.answers),
            product=nothing.clone(),
            halved=torch.zeros_like(walk.halved),
        )

    def _probed(self, walk: HopSkipJumpWalk) -> Tensor:
        """The probes (N,) of the round."""
        return (self.first * walk.round.double().sqrt()).long()

    def _reach(self, state: DecisionState) -> Tensor:
        """The l2 length (N,) of a probe."""
        walk: HopSkipJumpWalk = state.walk
        dims = state.task.x[0].numel()
        theta = self.tolerance(dims, state.task.norm)
        scale = dims if state.task.norm == "linf" else math.sqrt(dims)
        # Where bisection ends earlier than the paper's, probes reach as much further.
        known = (theta * walk.distance).clamp(min=LEAST_TOLERANCE)
        return torch.where(walk.round == 1, _FIRST_PROBE, scale * known)

    def proposal(self, state: DecisionState) -> Tensor:
        """A probe beside the boundary, then the step."""
        walk: HopSkipJumpWalk = state.walk
        x, draws = state.task.x, state.task.draws
        if state.task.norm == "linf":
            along = draws.open_uniform(x.shape, "probe", walk.round, walk.probes) * 2 - 1
        else:
            along = draws.normal(x.shape, "probe", walk.round, walk.probes)
        reach = self._reach(state) / norms.size(along, "l2")
        probe = walk.point + norms.expand(reach, x) * along
        step = walk.point + norms.expand(walk.length, x) * walk.direction
        probing = norms.expand(walk.probes < self._probed(walk), x)
        return norms.to_box(torch.where(probing, probe, step))

    def walked(self, state: DecisionState, succeeded: Tensor) -> tuple[HopSkipJumpWalk, Tensor]:
        """See DecisionAttack."""
        walk: HopSkipJumpWalk = state.walk
        probing = walk.probes < self._probed(walk)
        along = (state.point - walk.point) / norms.expand(self._reach(state), state.point)
        along = torch.where(norms.expand(probing, along), along, 0)
        answer = torch.where(succeeded, 1.0, -1.0)
        walk = replace(
            walk,
            probes=walk.probes + probing,
            along=walk.along + along,
            answers=walk.answers + answer * probing,
            product=walk.product + norms.expand(answer, along) * along,
        )
        estimated = probing & (walk.probes == self._probed(walk))
        halved = ~probing & ~succeeded
        direction = norms.steepest(self._normal(walk), walk.point, state.task.norm)
        first = walk.distance / walk.round.clamp(min=1).sqrt()
        walk = replace(
            walk,
            direction=torch.where(norms.expand(estimated, along), direction, walk.direction),
            length=torch.where(estimated, first, torch.where(halved, walk.length / 2, walk.length)),
            halved=walk.halved + halved,
        )
        given_up = walk.halved > _MOST_HALVINGS
        kept: HopSkipJumpWalk = where(given_up, self._round(walk), walk)
        return kept, ~probing & succeeded

    @staticmethod
    def _normal(walk: HopSkipJumpWalk) -> Tensor:
        """The estimate (N, ...) of the paper's eq. 16: answers less their mean, along directions;
        where all agree the mean direction, towards or away from them.
        """
        count = walk.probes.clamp(min=1)
        mean = walk.answers / count
        centred = walk.product - norms.expand(mean, walk.along) * walk.along
        agreed = norms.expand(mean.abs() == 1, walk.along)
        return torch.where(agreed, norms.expand(mean, walk.along) * walk.along, centred)

"""The boundary attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Task, at_least
from attacks.decision import DecisionAttack, DecisionState
from attacks.rows import pick

_TOLERANCE = 1e-3
_SPHERE_EVERY = 10
_SPHERE_WINDOW, _STEP_WINDOW = 10, 30
_FACTOR = 1.5
_SPHERE_LOW, _SPHERE_HIGH = 0.2, 0.5
_STEP_LOW, _STEP_HIGH = 0.1, 0.25
_SMALL = 1e-12


@dataclass(frozen=True)
class BoundaryWalk:
    """Per sample: the point reached; the shares of its distance that a move goes around the image
    and then towards it; moves so far, and of each kind how many were looked at and succeeded in the
    current window.
    """

    point: Tensor
    around: Tensor
    towards: Tensor
    moves: Tensor
    on_sphere: Tensor
    looked: Tensor
    hits: Tensor
    stepped: Tensor
    landed: Tensor


@dataclass(frozen=True)
class Boundary(DecisionAttack):
    """Boundary attack: a random walk along the boundary, ever nearer to the image (Brendel et al.
    2018, arXiv:1712.04248).

    Each move goes around the image at the same distance, in a random direction, then towards it; it
    is made where the class stays wrong. queries: at most, all together. tries: random images among
    which a first point of another class is sought, in turn fine noise, coarse noise, coarse black
    and white. around, towards: the shares of the distance at the start. Every tenth move asks once
    more, before it turns to the image; both shares grow by 1.5 where more than half of 10 such
    points succeed, and shrink where fewer than a fifth do; `towards` alone does so at 25 % and 10 %
    of 30 moves (the paper's code looks back over 100 and 30).
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    around: float = 0.01
    towards: float = 0.01

    def __post_init__(self) -> None:
        for name, count in (("queries", self.queries), ("tries", self.tries)):
            at_least(name, count, 1)
        for name, value in (("around", self.around), ("towards", self.towards)):
            if not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, got {value}")

    def least_queries(self, classes: int) -> int:  # noqa: ARG002  the same for all
        """See Attack: a first point, some bisection and a move."""
        return 3

    def tolerance(self, dims: int, norm: str) -> float:  # noqa: ARG002  the same for all
        """See DecisionAttack."""
        return _TOLERANCE

    def prepared(self, task: Task) -> BoundaryWalk:
        """See DecisionAttack."""
        zero = torch.zeros_like(task.y)
        return BoundaryWalk(
            point=task.x,
            around=torch.full_like(task.radius, self.around),
            towards=torch.full_like(task.radius, self.towards),
            moves=zero,
            on_sphere=zero > 0,
            looked=zero.clone(),
            hits=zero.clone(),
            stepped=zero.clone(),
            landed=zero.clone(),
        )

    def set_out(self, state: DecisionState, point: Tensor) -> BoundaryWalk:
        """See DecisionAttack."""
        walk: BoundaryWalk = state.walk
        return replace(walk, point=point, on_sphere=torch.ones_like(walk.on_sphere))

    def proposal(self, state: DecisionState) -> Tensor:
        """A point on the sphere through the current one, then moved towards the image."""
        walk: BoundaryWalk = state.walk
        x = state.task.x
        way = x - walk.point
        distance = norms.size(way, "l2")
        draw = state.task.draws.normal(x.shape, "move", walk.moves)
        share = (draw * way).flatten(1).sum(1) / (distance**2).clamp(min=_SMALL)
        side = draw - norms.expand(share, x) * way
        length = walk.around * distance / norms.size(side, "l2").clamp(min=_SMALL)
        moved = norms.expand(length, x) * side - way
        sphere = norms.to_box(x + moved / norms.expand((walk.around**2 + 1).sqrt(), x))
        back = x - sphere
        left = norms.size(back, "l2")
        nearer = (walk.towards * distance + left - distance).clamp(min=0)
        point = norms.to_box(sphere + norms.expand(nearer / left.clamp(min=_SMALL), x) * back)
        return pick(walk.on_sphere, sphere, point)

    def walked(self, state: DecisionState, succeeded: Tensor) -> tuple[BoundaryWalk, Tensor]:
        """See DecisionAttack: a move that landed nearer is made; the shares are adapted."""
        walk: BoundaryWalk = state.walk
        sphere, x = walk.on_sphere, state.task.x
        nearer = norms.size(state.point - x, "l2") < norms.size(walk.point - x, "l2")
        made = succeeded & nearer & ~sphere
        moves = walk.moves + ~sphere
        walk = replace(
            walk,
            point=pick(made, state.point, walk.point),
            moves=moves,
            on_sphere=~sphere & (moves % _SPHERE_EVERY == 0),
            looked=walk.looked + sphere,
            hits=walk.hits + (sphere & succeeded),
            stepped=walk.stepped + ~sphere,
            landed=walk.landed + (~sphere & succeeded),
        )
        return self._adapted(walk), torch.zeros_like(succeeded)

    @staticmethod
    def _adapted(walk: BoundaryWalk) -> BoundaryWalk:
        full = walk.looked == _SPHERE_WINDOW
        share = walk.hits / _SPHERE_WINDOW
        both = _change(full, share, _SPHERE_LOW, _SPHERE_HIGH)
        over = walk.stepped == _STEP_WINDOW
        alone = _change(over, walk.landed / _STEP_WINDOW, _STEP_LOW, _STEP_HIGH)
        return replace(
            walk,
            around=(walk.around * both).clamp(max=1),
            towards=(walk.towards * both * alone).clamp(max=1),
            looked=torch.where(full, 0, walk.looked),
            hits=torch.where(full, 0, walk.hits),
            stepped=torch.where(over, 0, walk.stepped),
            landed=torch.where(over, 0, walk.landed),
        )


def _change(full: Tensor, share: Tensor, low: float, high: float) -> Tensor:
    """The factor (N,) of a step size once its window is full."""
    grown = torch.where(share > high, _FACTOR, 1.0)
    return torch.where(full, torch.where(share < low, 1 / _FACTOR, grown), 1.0)

"""Gradient descent on a loss towards a class, with a penalty on the distance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.losses import LOSSES, Loss
from attacks.rules import adam
from attacks.schedules import cosine
from attacks.targets import Target
from attacks.tradeoff import Tradeoff, TradeoffState, Weight

_LAST_SHARE = 0.01
_PENALISED = ("squared", "ce")


@dataclass(frozen=True)
class Penalty(Tradeoff):
    """L2-penalised targeted attack: a loss towards a class plus lam times the squared distance
    (Szegedy et al. 2013, arXiv:1312.6199, section 4.1).

    Minimises L(f(x'), t) + lam ||x' - x||_2^2. loss: squared, 1/2 ||softmax(z) - onehot(t)||^2, or
    ce. The weights are frozen; Adam descends on x', its step size falling from lr to a hundredth
    along half a cosine; clip keeps x' in [0, 1] at each step (without it points outside are
    refused). lam: the penalty's weight; by default searched per sample, in `search` rounds of
    `steps` steps, for the largest one that still succeeds: from 1 / first a hundredth or a hundred
    times, then geometric bisection. target: most_likely, or as in pgd (`all`: every class in turn;
    none: away from the label). Any wrong class is a success, unless the caller names targets.
    Towards an unlikely class the softmax has hardly a slope, so that squared finds farther images
    than ce.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    loss: Loss = LOSSES["squared"]
    lam: float | None = None
    steps: int = 200
    search: int = 9
    lr: float = 0.1
    first: float = 100.0
    clip: bool = True
    target: Target = "most_likely"

    def __post_init__(self) -> None:
        self._check_search()
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, got {self.lr}")
        if self.lam is not None and not 0 <= self.lam < math.inf:
            raise ValueError(f"lam must be finite and at least 0, got {self.lam}")
        if self.loss.name not in _PENALISED:
            raise ValueError(f"loss must be one of {', '.join(_PENALISED)}, got {self.loss.name!r}")

    @property
    def rounds(self) -> int:
        """See Tradeoff: one where lam is given."""
        return self.search if self.lam is None else 1

    @property
    def first_weight(self) -> float:
        """See Tradeoff: where lam is given, it stands with the distance."""
        return self.first if self.lam is None else 1.0

    def next_weight(self, weight: Weight, succeeded: Tensor) -> Weight:
        """See Tradeoff."""
        return weight.after_scaling(succeeded)

    def variable(self, x: Tensor) -> Tensor:
        """See Tradeoff: x' itself."""
        return x.clone()

    def memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """See Tradeoff: Adam's moments."""
        return torch.zeros_like(x), torch.zeros_like(x)

    def points_of(self, state: TradeoffState) -> Tensor:
        """See Tradeoff."""
        return state.variable[:, None]

    def descend(self, state: TradeoffState, gradient: Tensor) -> TradeoffState:
        """See Tradeoff."""
        lam = 1.0 if self.lam is None else self.lam
        total = gradient + 2 * lam * (state.variable - state.x)
        rate = cosine(self.lr, self.lr * _LAST_SHARE, state.step, self.steps)
        direction, memory = adam(total, state.memory, state.step + 1)
        moved = state.variable - norms.expand(rate, direction) * direction
        return replace(state, variable=norms.to_box(moved) if self.clip else moved, memory=memory)

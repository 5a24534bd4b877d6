"""Elastic-net attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.targets import Target
from attacks.tradeoff import MarginTradeoff, TradeoffState


@dataclass(frozen=True)
class ElasticNet(MarginTradeoff):
    """Elastic-net attack (Chen et al. 2018, arXiv:1709.04114).

    Minimises c f(x') + ||x' - x||_2^2 + beta ||x' - x||_1 in the box, f as in cw, by FISTA: a
    gradient step of size lr (1 - k / steps)^(1/2), then shrinkage by beta towards the image. The
    nearest success in l1 counts (the paper's l1 rule). beta: 0.01; steps per round: 200 (the paper:
    1000); search: rounds over c from `first`, each judged by its second half; target as in pgd. The
    slack is kept in the box too, which the authors' code does not do.
    """

    norms: ClassVar[tuple[str, ...]] = ("l1",)
    points: ClassVar[int] = 2
    steps: int = 200
    search: int = 9
    lr: float = 0.01
    beta: float = 0.01
    first: float = 0.001
    confidence: float = 0.0
    target: Target = "none"

    def __post_init__(self) -> None:
        self._check_search()
        for name, value in (("lr", self.lr), ("beta", self.beta)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {value}")
        self._check_confidence()

    def variable(self, x: Tensor) -> Tensor:
        """See Tradeoff: the slack y_k, at which the gradient is taken."""
        return x.clone()

    def memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """See Tradeoff: the iterate x_k."""
        return (x.clone(),)

    def points_of(self, state: TradeoffState) -> Tensor:
        """See Tradeoff: the slack, and the iterate, which is the sparser one."""
        return torch.stack([state.variable, state.memory[0]], 1)

    def descend(self, state: TradeoffState, gradient: Tensor) -> TradeoffState:
        """See Tradeoff."""
        rate = self.lr * (1 - state.step / self.steps).clamp(min=0).sqrt()
        total = gradient + 2 * (state.variable - state.x)
        ahead = state.variable - norms.expand(rate, total) * total
        delta = ahead - state.x
        shrunk = delta.sign() * (delta.abs() - self.beta).clamp(min=0)
        iterate = norms.to_box(state.x + shrunk)
        share = norms.expand(state.step / (state.step + 3), iterate)
        slack = norms.to_box(iterate + share * (iterate - state.memory[0]))
        return replace(state, variable=slack, memory=(iterate,))

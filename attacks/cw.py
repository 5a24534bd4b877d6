"""Carlini and Wagner's l2 attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.rules import adam
from attacks.targets import Target
from attacks.tradeoff import MarginTradeoff, TradeoffState, squared_distance

_SHRINK = 0.998
"""Of the way from grey to the wall: at the wall itself tanh has no slope, and a pixel stays."""


@dataclass(frozen=True)
class CarliniWagner(MarginTradeoff):
    """Carlini and Wagner's l2 attack (Carlini and Wagner 2017, arXiv:1608.04644).

    Minimises ||x' - x||_2^2 + c max(max_{i != t} z_i - z_t, -confidence) over w, x' = (tanh w + 1)
    / 2, by Adam (lr), with `search` rounds over c from `first`; untargeted the label takes t's
    place with the other sign. A round stops early as in the authors' code. steps per round: 200 and
    lr: 0.05 (theirs: 10,000 and 0.01); target as in pgd. Images are shrunk to 0.998 of the way to
    the walls before arctanh, where the authors' 0.999999 leaves black and white pixels all but
    frozen at this number of steps.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    steps: int = 200
    search: int = 9
    lr: float = 0.05
    first: float = 0.001
    confidence: float = 0.0
    target: Target = "none"

    def __post_init__(self) -> None:
        self._check_search()
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, got {self.lr}")
        self._check_confidence()

    def variable(self, x: Tensor) -> Tensor:
        """See Tradeoff: w."""
        return torch.atanh((2 * x - 1) * _SHRINK)

    def memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """See Tradeoff: Adam's moments."""
        return torch.zeros_like(x), torch.zeros_like(x)

    def points_of(self, state: TradeoffState) -> Tensor:
        """See Tradeoff."""
        return ((state.variable.tanh() + 1) / 2)[:, None]

    def distance(self, points: Tensor, x: Tensor) -> Tensor:
        """See Tradeoff."""
        return squared_distance(points, x)

    def descend(self, state: TradeoffState, gradient: Tensor) -> TradeoffState:
        """See Tradeoff."""
        tanh = state.variable.tanh()
        total = gradient + 2 * ((tanh + 1) / 2 - state.x)
        slope = (1 - tanh**2) / 2
        direction, memory = adam(total * slope, state.memory, state.step + 1)
        return replace(state, variable=state.variable - self.lr * direction, memory=memory)

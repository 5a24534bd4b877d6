"""Carlini and Wagner's l2 attack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks.rules import adam
from attacks.targets import Target
from attacks.tradeoff import MarginTradeoff, TradeoffState

_SHRINK = 0.998
"""Of the way from grey to the wall: at the wall itself tanh has no slope, and a pixel stays."""


@dataclass(frozen=True)
class CarliniWagner(MarginTradeoff):
    """Carlini and Wagner's l2 attack (Carlini and Wagner 2017, arXiv:1608.04644).

    Minimises ||x' - x||_2^2 + c max(max_{i != t} z_i - z_t, -confidence) over w, x' = (tanh w + 1)
    / 2, by Adam, with `search` rounds over c from `first`; untargeted the label takes t's place
    with the other sign. steps per round: 200 (the authors' code: 10,000); target as in pgd.

    Deviations, each because of the fewer steps: lr is 0.1 (theirs: 0.01); successes in the first
    half of a round do not count as c being large enough, and no round stops early; images are
    shrunk to 0.998 of the way to the walls before arctanh (theirs: 0.999999, where black and white
    pixels hardly move).
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    steps: int = 200
    search: int = 9
    lr: float = 0.1
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

    def descend(self, state: TradeoffState, gradient: Tensor) -> TradeoffState:
        """See Tradeoff."""
        tanh = state.variable.tanh()
        total = tanh.add(1).div_(2).sub_(state.x).mul_(2).add_(gradient)
        slope = tanh.square_().neg_().add_(1).div_(2)
        direction, memory = adam(total.mul_(slope), state.memory, state.step + 1)
        variable = state.variable - self.lr * direction
        return replace(state, variable=variable, memory=memory)

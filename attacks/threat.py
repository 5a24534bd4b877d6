"""Threat model: what the adversary is held to. Never imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NORMS = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True)
class ThreatModel:
    """The ball an adversarial image must stay in, beside the box [0, 1].

    norm is one of linf, l2, l1, l0; eps is the radius in that norm of inputs scaled to [0, 1] (for
    l0 the number of changed components), a float or a tensor (N,) with a radius per sample.
    """

    norm: str
    eps: float | Tensor

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if isinstance(self.eps, float | int) and not (self.eps >= 0 and math.isfinite(self.eps)):
            raise ValueError(f"eps must be a finite number of at least 0, got {self.eps}")

"""Momentum iterative fast gradient sign method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.ascent import Ascent, AscentAttack, fixed
from attacks.base import at_least
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.rules import Momentum
from attacks.targets import Target


@dataclass(frozen=True)
class MiFgsm(AscentAttack):
    """Momentum iterative FGSM (Dong et al. 2018, arXiv:1710.06081).

    Starts at the image; each step goes along the steepest direction (sign for linf) of the running
    sum g <- decay g + grad J / ||grad J||_1. steps: 10 and decay: 1 as in the paper; alpha: step
    size in input units, by default eps / steps. target: as in pgd. We clip to [0, 1] at each step.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    steps: int = 10
    decay: float = 1.0
    alpha: float | None = None
    loss: Loss = CROSS_ENTROPY
    target: Target = "none"

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay must be finite and at least 0, got {self.decay}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and above 0, got {self.alpha}")

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""

        def alpha(radius: Tensor) -> Tensor:
            return (
                radius / self.steps if self.alpha is None else torch.full_like(radius, self.alpha)
            )

        return Ascent(
            self.loss,
            steps=fixed(self.steps),
            alpha=alpha,
            rule=Momentum(self.decay),
            target=self.target,
        )

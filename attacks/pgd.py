"""Projected gradient descent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.ascent import Ascent, AscentAttack, at_input, fixed, in_ball
from attacks.base import at_least
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.targets import Target


@dataclass(frozen=True)
class Pgd(AscentAttack):
    """Projected gradient descent from a random start (Madry et al. 2017, arXiv:1706.06083).

    steps: gradient steps per restart. alpha: step size in input units, or rel_alpha: as a share of
    eps; with neither 2.5 eps / steps (our choice; the paper tunes it: 0.01 for eps 0.3 on MNIST).
    restarts: independent starts, the best point kept per sample. random: start uniformly in the
    ball (moved into the box) rather than at the image. loss: ce, margin (the paper's CW), dlr,
    squared, difference. target: none, next, random (a new one each restart), most_likely or
    least_likely (of the wrong classes at the image), all (restarts times every wrong class, the
    most likely first). Under l2 and l1 the step goes along the steepest direction of that norm.
    box: keep every step in [0, 1], too; without it (as some texts print the attack) a point outside
    is refused, never a success.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    steps: int = 40
    alpha: float | None = None
    rel_alpha: float | None = None
    restarts: int = 1
    random: bool = True
    loss: Loss = CROSS_ENTROPY
    target: Target = "none"
    box: bool = True

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("restarts", self.restarts, 1)
        for name, value in (("alpha", self.alpha), ("rel_alpha", self.rel_alpha)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        if self.alpha is not None and self.rel_alpha is not None:
            raise ValueError("alpha and rel_alpha must not both be given")
        if self.restarts > 1 and not self.random:
            raise ValueError("restarts above 1 need random=true: every start is the same")

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""
        share = self.rel_alpha or 2.5 / self.steps

        def alpha(radius: Tensor) -> Tensor:
            return radius * share if self.alpha is None else torch.full_like(radius, self.alpha)

        return Ascent(
            self.loss,
            steps=fixed(self.steps),
            alpha=alpha,
            start=in_ball if self.random else at_input,
            target=self.target,
            box=self.box,
        )

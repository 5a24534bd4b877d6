"""Basic iterative method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.ascent import Ascent, AscentAttack, fixed
from attacks.base import at_least
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.targets import Target


def kurakin_steps(radius: Tensor) -> Tensor:
    """The paper's count min(eps + 4, 1.25 eps), rounded down, eps in 1/255; at least 1."""
    eps = radius.double() * 255
    # Rounding of 8/255 to float32 must not turn 10 steps into 9.
    return torch.minimum(eps + 4, 1.25 * eps).add(1e-4).floor().clamp(min=1).long()


@dataclass(frozen=True)
class Bim(AscentAttack):
    """Basic iterative method, without a random start (Kurakin et al. 2016, arXiv:1607.02533,
    section 2.2).

    alpha: step size, by default 1/255. steps: by default the paper's min(eps + 4, 1.25 eps) in
    units of 1/255. target=least_likely is the paper's iterative least-likely class method (of the
    image, which costs a forward query); other targets as in pgd.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf",)
    revision: ClassVar[int] = 2
    steps: int | None = None
    alpha: float = 1 / 255
    loss: Loss = CROSS_ENTROPY
    target: Target = "none"

    def __post_init__(self) -> None:
        if self.steps is not None:
            at_least("steps", self.steps, 1)
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and above 0, got {self.alpha}")

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""
        return Ascent(
            self.loss,
            steps=kurakin_steps if self.steps is None else fixed(self.steps),
            alpha=lambda radius: torch.full_like(radius, self.alpha),
            target=self.target,
        )

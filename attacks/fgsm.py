"""Fast gradient sign method and its randomised form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.ascent import Ascent, AscentAttack, at_input, fixed
from attacks.base import Task, at_least
from attacks.losses import CROSS_ENTROPY, Loss


@dataclass(frozen=True)
class Fgsm(AscentAttack):
    """Fast gradient sign method: one step of size eps (Goodfellow et al. 2014, arXiv:1412.6572).

    x_adv = x + eps sign(grad J(x, y)) under linf; under l2 and l1 the step goes along the steepest
    direction of that norm. random: share of eps spent first on a random sign step, x' = x + random
    eps sign(N(0, I)), the gradient step taking the rest (R+FGSM, Tramer et al. 2017,
    arXiv:1705.07204, who use 1/2 and linf; 0 is plain FGSM). restarts: independent random steps. We
    clip to [0, 1], the paper does not; sign(0) = 0.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    loss: Loss = CROSS_ENTROPY
    random: float = 0.0
    restarts: int = 1

    def __post_init__(self) -> None:
        at_least("restarts", self.restarts, 1)
        if not 0 <= self.random < 1:
            raise ValueError(f"random must be in [0, 1), got {self.random}")
        if self.restarts > 1 and self.random == 0:
            raise ValueError("restarts above 1 need random above 0: every start is the same")

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""
        share = 1 - self.random
        start = self._random_signs if self.random else at_input
        return Ascent(self.loss, steps=fixed(1), alpha=lambda radius: radius * share, start=start)

    def _random_signs(self, task: Task) -> Tensor:
        signs = task.draws.normal(task.x.shape, "start").sign()
        step = norms.steepest(signs, task.x, task.norm)
        return torch.clamp(task.x + norms.expand(task.radius * self.random, task.x) * step, 0, 1)

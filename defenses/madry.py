"""Adversarial training on PGD alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attacks.base import Attack
from attacks.pgd import Pgd
from defenses.adversarial import AdversarialRecipe
from defenses.advtrain import Weighted
from defenses.workshop import Workshop


@dataclass(frozen=True)
class Madry(AdversarialRecipe):
    """PGD adversarial training: minimise L(x_adv, y), x_adv by PGD from a random start (Madry et
    al. 2017, arXiv:1706.06083, eq. 2.1).

    The same as `advtrain:lam=inf` with this attack. attack: by default the 7 steps of eps / 4 that
    the paper takes on CIFAR-10; on MNIST (eps 0.3) it takes pgd:steps=40,alpha=0.01. warmup: share
    of the updates over which eps grows from 0; the paper has none and trains far longer (0). Model,
    epochs, batch and learning rate are the model's. Other keys, checkpoint and collapse as in
    `bench show advtrain`.
    """

    eps: float | None = None
    norm: str | None = None
    attack: Attack = Pgd(steps=7, rel_alpha=0.25)  # noqa: RUF009  a frozen dataclass
    warmup: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_ball()

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Weighted:
        """See AdversarialRecipe."""
        return Weighted(
            lam=math.inf,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
        )

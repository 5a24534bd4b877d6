"""Fast adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attacks.base import StepAttack
from attacks.pgd import Pgd
from defenses.adversarial import AdversarialRecipe
from defenses.advtrain import Weighted
from defenses.base import Workshop


@dataclass(frozen=True)
class Fast(AdversarialRecipe):
    """Fast adversarial training: minimise L(x_adv, y), x_adv by one FGSM step from a random start
    (Wong et al. 2020, arXiv:2001.03994, algorithm 3).

    x_adv = clip(project(x + d + step eps sign(grad)), 0, 1), d uniform in the ball. step: the
    gradient step as a share of eps, 1.25 in the paper; above it the training collapses sooner.
    warmup: share of the updates over which eps grows from 0; the paper has none (0). Model, epochs,
    batch and learning rate are the model's (cnn_small is the paper's net for MNIST).

    Alarm: the log says `alarm` when the net's accuracy under its own step is more than 20 points
    above, and more than twice, that under pgd:steps=10 on up to 500 validation images (catastrophic
    overfitting). When the latter has also fallen by more than 20 points from its best, training
    stops. The checkpoint most accurate under that check is kept. The authors stop at a fall of 20
    points under a weak PGD on a training batch. A net that predicts one class only after half of
    the updates fails. norm, eps, seed: see `bench show advtrain`.
    """

    eps: float | None = None
    norm: str | None = None
    step: float = 1.25
    warmup: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be finite and above 0, got {self.step}")
        self.check_ball()

    @property
    def inner(self) -> StepAttack:
        """See AdversarialRecipe."""
        return Pgd(steps=1, rel_alpha=self.step)

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
            collapse="stop",
        )

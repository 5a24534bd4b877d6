"""Adversarial training with a weighted loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from attacks.base import Attack
from attacks.pgd import Pgd
from defenses.adversarial import AdversarialRecipe, InBall, exact
from defenses.workshop import Workshop
from models.train import Batch, Standard


@dataclass(frozen=True)
class AdversarialTraining(AdversarialRecipe):
    """Adversarial training: minimise L(x, y) + lam L(x_adv, y) (Madry et al. 2017,
    arXiv:1706.06083).

    L is the mean cross-entropy, x_adv what `attack` finds against the net in training. lam: weight
    of the adversarial term; 0 is standard training bit for bit, inf minimises L(x_adv, y) alone
    (Madry). attack: any budget attack; its last point is used, nothing stops early; the net is in
    eval mode meanwhile. norm, eps: the ball; by default the run's norm and the dataset's reference
    eps. warmup: share of the updates over which eps grows from 0 to its full value. seed: of the
    attack's random starts. Model, epochs, batch and learning rate are the model's.

    The kept checkpoint is the one most accurate under pgd:steps=10 on up to 500 validation images
    once eps is full. Training stops, and says so, when the net's accuracy under its own attack is
    more than 20 points above, and more than twice, its accuracy under that check (catastrophic
    overfitting: Wong et al. 2020, arXiv:2001.03994), or when it predicts one class only after half
    of the updates. Under a norm that the check does not know, `attack` itself is the check.
    """

    lam: float = 1.0
    eps: float | None = None
    norm: str | None = None
    attack: Attack = Pgd(steps=5, rel_alpha=0.35)  # noqa: RUF009  a frozen dataclass
    warmup: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise ValueError(
                f"lam must be at least 0 (inf: the adversarial term alone), got {self.lam}"
            )
        self.check_ball()

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Weighted:
        """See AdversarialRecipe."""
        return Weighted(
            lam=self.lam,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
        )


@dataclass(frozen=True, kw_only=True)
class Weighted(InBall):
    """The objective L(x, y) + lam L(x_adv, y)."""

    lam: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        if self.lam == 0:
            return Standard().text
        if math.isinf(self.lam):
            return f"L(x_adv, y); {self.ball}"
        return f"L(x, y) + {exact(self.lam)} L(x_adv, y); {self.ball}"

    @property
    def is_standard(self) -> bool:
        """See InBall."""
        return self.lam == 0

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        if self.lam == 0:
            return Standard().loss(net, batch)
        adversarial = F.cross_entropy(net(self.points(net, batch)), batch.y)
        if math.isinf(self.lam):
            return adversarial
        return F.cross_entropy(net(batch.x), batch.y) + self.lam * adversarial

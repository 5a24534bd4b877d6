"""Adversarial training with the fast gradient sign method, in the alpha form."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from attacks.base import Attack
from attacks.fgsm import Fgsm
from defenses.adversarial import AdversarialRecipe, InBall, exact
from defenses.workshop import Workshop
from models.train import Batch, Standard


@dataclass(frozen=True)
class Goodfellow(AdversarialRecipe):
    """Adversarial training with FGSM: minimise alpha L(x, y) + (1 - alpha) L(x_adv, y) (Goodfellow
    et al. 2014, arXiv:1412.6572, section 6).

    alpha: weight of the clean term, in (0, 1]; 1 is standard training bit for bit. It is the
    objective of `advtrain` times alpha, with lam = (1 - alpha) / alpha. x_adv is made anew for each
    update and taken as a constant. We clip to [0, 1], the paper does not. warmup: see `bench show
    advtrain`; the paper has none.

    Training on one step is known to leave no robustness at large eps (Madry et al. 2017). It is
    what this recipe is there to show: accuracy under its own attack far above that under
    pgd:steps=10 is noted in the training log as `alarm`, and training goes on. The checkpoint most
    accurate under that check is kept; the paper keeps one by the adversarial validation error.
    """

    alpha: float = 0.5
    eps: float | None = None
    norm: str | None = None
    attack: Attack = Fgsm()  # noqa: RUF009  a frozen dataclass
    warmup: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {self.alpha}")
        self.check_ball()

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Mixed:
        """See AdversarialRecipe."""
        return Mixed(
            alpha=self.alpha,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
            collapse="note",
        )


@dataclass(frozen=True, kw_only=True)
class Mixed(InBall):
    """The objective alpha L(x, y) + (1 - alpha) L(x_adv, y)."""

    alpha: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        if self.alpha == 1:
            return Standard().text
        alpha, rest = exact(self.alpha), exact(1 - self.alpha)
        return f"{alpha} L(x, y) + {rest} L(x_adv, y); {self.ball}"

    @property
    def is_standard(self) -> bool:
        """See InBall."""
        return self.alpha == 1

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        if self.alpha == 1:
            return Standard().loss(net, batch)
        adversarial = F.cross_entropy(net(self.points(net, batch)), batch.y)
        return self.alpha * F.cross_entropy(net(batch.x), batch.y) + (1 - self.alpha) * adversarial

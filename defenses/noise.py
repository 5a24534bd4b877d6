"""Noise while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.augmentation import Kind, Noisy, check_noise
from defenses.base import Defended, Defense
from defenses.workshop import Workshop


@dataclass(frozen=True)
class Noise(Defense):
    """Noise while training: minimise L(x + n, y), n random (Goodfellow et al. 2014,
    arXiv:1412.6572, section 6).

    law: of the noise, per component: normal with standard deviation sigma, uniform in
    [-sigma, sigma), or sign, -sigma or sigma; the last two are the paper's controls, which leave it
    no more robust. sigma: 0 is standard training bit for bit. clip: whether x + n is moved into
    [0, 1]; the paper does not. seed: of the noise, which is drawn anew for each image and epoch.
    The checkpoint most accurate under a fixed draw of the noise on validation images is kept.
    Nothing is random at prediction.
    """

    deploys_net: ClassVar[bool] = True

    sigma: float = 0.25
    law: Kind = "normal"
    clip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.sigma)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        objective = Noisy(self.sigma, self.law, self.seed, self.clip)
        net = workshop.fit(objective, {"defense": self.identity()})
        return Defended(predict=net, surrogate=net)

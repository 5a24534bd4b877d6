"""Multi-targeted projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attacks.ascent import Ascent
from attacks.base import at_least
from attacks.losses import DIFFERENCE, Loss
from attacks.pgd import Pgd
from attacks.targets import Target


@dataclass(frozen=True)
class MultiTargeted(Pgd):
    """PGD on z_t - z_y for every wrong class t in turn (Gowal et al. 2019, arXiv:1910.09338).

    The most likely class at the image comes first; targets: how many classes, by default all;
    restarts: per class. Other keys as in pgd; a sample that is fooled is not attacked further.
    """

    loss: Loss = DIFFERENCE
    target: Target = "all"
    targets: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is not None:
            at_least("targets", self.targets, 1)

    def parts(self, norm: str) -> Ascent:
        """See AscentAttack."""
        return replace(super().parts(norm), targets=self.targets)

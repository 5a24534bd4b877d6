"""No defense: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from defenses.base import Defended, Defense
from defenses.workshop import Workshop


@dataclass(frozen=True)
class NoDefense(Defense):
    """The undefended model: trained on clean images, or as it was given."""

    is_baseline: ClassVar[bool] = True
    deploys_net: ClassVar[bool] = True

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        net = workshop.undefended()
        return Defended(predict=net, surrogate=net)

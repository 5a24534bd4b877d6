"""Which pipelines have a bound that is proven of their net, and which one: as planned, before
anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.plan import CERTIFICATE, AttackPart
from bench.spec import valid
from defenses.base import Defense
from defenses.bounds import EXACT, NORMS, REVISION
from models.chain import Chain, Unchained, chain_of
from models.nets import Shape
from models.recipes import Classifier
from models.registry import models


@dataclass
class Bounded:
    """What was asked for (exact, interval, crown or none) on images (C, H, W). notes: which
    pipelines have no such bound, where it was asked for by name.
    """

    wanted: str
    norm: str
    shape: Shape
    classes: int
    notes: list[str] = field(default_factory=list)
    _known: dict[str, Chain | str] = field(default_factory=dict)

    def of(self, model: str, name: str, defense: Defense) -> AttackPart | None:
        """What stands in an attack's place in the cell of a defended model's bound; None where it
        has none. Affine nets have the exact one whichever was asked for.
        """
        if self.wanted == "none":
            return None
        reason = ""
        if self.norm not in NORMS:
            reason = f"under {self.norm}"
        elif not defense.deploys_net:
            reason = f"of {name}: it is more than a net"
        else:
            chain = self._chain(model)
            if isinstance(chain, Chain):
                return self._part(chain)
            reason = f"of {model}: {chain}"
        if self.wanted != EXACT and not defense.certifies:
            self.notes.append(f"no bound by {self.wanted} {reason}")
        return None

    def _part(self, chain: Chain) -> AttackPart | None:
        name = EXACT if chain.is_affine else self.wanted
        if name == EXACT and not chain.is_affine:
            return None
        return AttackPart(
            name, {"name": name, "revision": REVISION}, "certified", CERTIFICATE, None
        )

    def _chain(self, model: str) -> Chain | str:
        """The chain of an untrained net of a model, or why there is none."""
        if model not in self._known:
            recipe: Classifier = valid(models.get, model)
            try:
                self._known[model] = chain_of(recipe.build(self.shape, self.classes), self.shape)
            except Unchained as err:
                self._known[model] = str(err)
            except Exception as err:  # noqa: BLE001  a boundary of its own: the cells will fail and say why
                self._known[model] = type(err).__name__
        return self._known[model]

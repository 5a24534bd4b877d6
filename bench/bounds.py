"""Which pipelines have a bound that is proven of their net, and which one: as planned, before
anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.plan import CERTIFICATE, AttackPart
from bench.spec import valid
from defenses.base import Defense
from defenses.bounds import EXACT, NORMS, REVISION
from models.chain import Unchained, chain_of, is_affine
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
    _known: dict[str, tuple[str, str]] = field(default_factory=dict)

    def of(self, model: str, name: str, defense: Defense) -> AttackPart | None:
        """What stands in an attack's place in the cell of a defended model's bound; None where it
        has none. Affine nets have the exact one whichever was asked for.
        """
        if self.wanted == "none":
            return None
        bound, reason = self._named(model, name, defense)
        if bound:
            identity = {"name": bound, "revision": REVISION}
            return AttackPart(bound, identity, "certified", CERTIFICATE, None)
        if self.wanted != EXACT and self.norm not in defense.certifies:
            self.notes.append(f"no bound by {self.wanted} {reason}")
        return None

    def _named(self, model: str, name: str, defense: Defense) -> tuple[str, str]:
        """The bound of a defended model; where it is empty, why there is none."""
        if self.norm not in NORMS:
            return "", f"under {self.norm}"
        if not defense.deploys_net:
            return "", f"of {name}: it is more than a net"
        if model not in self._known:
            self._known[model] = self._of_net(model)
        return self._known[model]

    def _of_net(self, model: str) -> tuple[str, str]:
        """The same of an untrained net of a model."""
        recipe: Classifier = valid(models.get, model)
        try:
            net = recipe.build(self.shape, self.classes)
            affine = is_affine(net)
            if not affine and self.wanted == EXACT:
                return "", f"of {model}: it is not affine"
            chain_of(net, self.shape)
        except Unchained as err:
            return "", f"of {model}: {err}"
        except Exception as err:  # noqa: BLE001  a boundary of its own: the cells will fail and say why
            return "", f"of {model}: {type(err).__name__}"
        return (EXACT if affine else self.wanted), ""

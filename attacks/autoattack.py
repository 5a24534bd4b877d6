"""AutoAttack: an ensemble that needs no tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from attacks.apgd import Apgd
from attacks.base import Attack, Ensemble, at_least
from attacks.fab import Fab, FabT
from attacks.losses import DIFFERENCE, LOSSES, Loss
from attacks.square import Square

_TARGETS = 9
_L1_RESTARTS, _L1_TARGETS = 5, 5
_PLUS_RESTARTS = 5
_EOT = 20


@dataclass(frozen=True)
class AutoAttack(Ensemble):
    """AutoAttack: several attacks, none of them tuned (Croce and Hein 2020, arXiv:2003.01690; l1:
    Croce and Hein 2021, arXiv:2103.01208).

    Each stage attacks only what still stands. standard: APGD-CE, targeted APGD-DLR (9 targets),
    targeted FAB (9 targets), Square; under l1 APGD-CE with 5 restarts and 5 targets, and no Square,
    which has no l1 form here. plus: APGD-CE, APGD-DLR and FAB with 5 restarts each, Square, then
    the targeted forms. rand, for pipelines that draw: APGD-CE and APGD-DLR, each query the mean of
    20 answers. steps: 100 per stage and restart; queries: those of Square, its schedule as in the
    authors' code. Where there are too few classes for DLR (3; targeted 4) the stage takes the
    margin instead.
    """

    access: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    version: Literal["standard", "plus", "rand"] = "standard"
    steps: int = 100
    queries: int = 5000

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("queries", self.queries, 2)

    def stages(self, norm: str, classes: int) -> tuple[Attack, ...]:
        """See Ensemble."""
        steps = self.steps
        dlr = _dlr(classes, targeted=False)
        if self.version == "rand":
            return Apgd(steps, eot=_EOT), Apgd(steps, loss=dlr, eot=_EOT)
        targets = _L1_TARGETS if norm == "l1" else _TARGETS
        targeted_dlr = _dlr(classes, targeted=True)
        targeted = Apgd(steps, loss=targeted_dlr, target="all", targets=targets)
        fab_t = FabT(steps, targets=_TARGETS)
        square = () if norm == "l1" else (Square(self.queries, rescale=False),)
        if self.version == "standard":
            restarts = _L1_RESTARTS if norm == "l1" else 1
            return Apgd(steps, restarts), targeted, fab_t, *square
        many = _PLUS_RESTARTS
        untargeted = Apgd(steps, many), Apgd(steps, many, dlr), Fab(steps, many)
        return *untargeted, *square, targeted, fab_t


def _dlr(classes: int, *, targeted: bool) -> Loss:
    dlr = LOSSES["dlr"]
    return dlr if classes >= dlr.least_classes(targeted=targeted) else DIFFERENCE

"""The attacks of an audit, one after the other, each on the images that still stand: what one
breaks that the others before it left tells which of them can be believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attacks.base import Attack
from attacks.registry import attacks
from bench.audit.recipe import Audit, longer, once_more

FAR = "unbounded"
"""The probe whose radius is the whole box."""
RESTART = "restart"
"""The probe that runs an attack of the rows from other starts."""


@dataclass(frozen=True)
class Probe:
    """name: in tables; made: the attack of an audit, None where the audit has none; until: the
    share of the budget that is spent after it, at most; most: images at most.
    """

    name: str
    made: Callable[[Audit], Attack | None]
    until: float
    most: int = 10**9


def _named(text: str) -> Callable[[Audit], Attack | None]:
    return lambda _: attacks.get(text)


def _again(change: Callable[..., Attack | None]) -> Callable[[Audit], Attack | None]:
    return lambda audit: None if audit.again is None else change(audit.again)


PROBES = (
    Probe("cross-entropy", _named("pgd:steps=20"), 0.2),
    Probe("margin", _named("pgd:steps=20,loss=margin"), 0.35),
    Probe("one step", _named("fgsm"), 0.4),
    Probe("noise", _named("noise:samples=20"), 0.45),
    Probe(RESTART, _again(once_more), 0.55, 40),
    Probe("longer", _again(longer), 0.7, 40),
    Probe("square", _named("square:queries=150"), 0.9),
    Probe(FAR, _named("pgd:steps=20,loss=margin,random=false"), 1.0),
)
"""In the order in which they run. Square's queries: of the images of a net whose gradients are
masked that can be broken, it finds most of them by then."""

"""What stands in an attack's place in the cell of an audit: how much it may ask, and which attack
of the rows it asks again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from attacks.base import Attack, StepAttack
from attacks.oracles import DIFFERENTIATING
from bench.plan import AUDIT, AttackPart

SAMPLES, EACH = 100, 500
"""Images that are looked at, at most, and the queries that each may take where a prediction is
cheap."""
SHARE = 0.05
"""Of the queries of the audited rows, that the audit may take: more than the above where that is
more, and no more than that where a prediction is dear."""
REVISION = 2
"""Raised when a change of the code changes what an audit notes."""
DEAR = 10
"""Passes of a net per prediction beyond which a prediction is dear."""


@dataclass(frozen=True)
class Audit:
    """An audit of one pipeline. budget: queries at most, forward and backward together, where a
    prediction is cheap; share: where it is dear; again: an attack of the rows that is run once more
    and twice as long.
    """

    budget: int
    share: int
    again: StepAttack | None = None

    @classmethod
    def of(cls, rows: Sequence[tuple[Attack, int | None]]) -> Audit:
        """The audit of rows: the attacks made on what the pipeline offers as its best surrogate,
        and the queries they take at most (None where nobody knows).
        """
        share = int(SHARE * sum(2 * queries for _, queries in rows if queries is not None))
        able = [
            (queries or 0, attack)
            for attack, queries in rows
            if isinstance(attack, StepAttack) and _can_go_on(attack)
        ]
        again = max(able, key=lambda one: one[0])[1] if able else None
        return cls(max(SAMPLES * EACH, share), share, again)

    def part(self) -> AttackPart:
        """As plain values."""
        identity: dict[str, Any] = {"name": AUDIT, "revision": REVISION}
        identity |= {"budget": self.budget, "share": self.share}
        if self.again is not None:
            identity["again"] = self.again.identity()
        return AttackPart(AUDIT, identity, AUDIT, AUDIT, self.budget // SAMPLES)


def _can_go_on(attack: StepAttack) -> bool:
    """Whether twice the steps make sense of it."""
    follows = attack.kind == "budget" and attack.access in DIFFERENTIATING
    return follows and "steps" in _fields(attack)


def _fields(attack: StepAttack) -> set[str]:
    return {one.name for one in dataclasses.fields(cast(Any, attack))}


def longer(attack: StepAttack) -> StepAttack:
    """The attack with twice the steps."""
    known: Any = attack
    twice: StepAttack = dataclasses.replace(known, steps=2 * known.steps)
    return twice


def once_more(attack: StepAttack) -> StepAttack | None:
    """One restart of the attack; None where every start is the same."""
    known: Any = attack
    if "restarts" not in _fields(attack):
        return None
    try:
        dataclasses.replace(known, restarts=2)
    except ValueError:
        return None
    one: StepAttack = dataclasses.replace(known, restarts=1)
    return one

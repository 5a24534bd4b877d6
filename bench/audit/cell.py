"""The cell of an audit: what is looked at of a deployed pipeline, in one block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from attacks.base import Attack
from attacks.oracles import frozen
from attacks.work import Setting
from bench.audit.auditor import Auditor
from bench.audit.recipe import Audit
from bench.plan import Todo
from bench.units import Done, Moved, Noted
from defenses.base import Defended

if TYPE_CHECKING:
    from bench.pipeline import Pipeline

_ROWS, _ROWS_ON_CPU = 128, 32
"""Per call: few images are left for most probes."""


def audited(pipeline: Pipeline, item: Todo, audit: Audit) -> Iterator[Moved | Done | Noted]:
    """The one block of an audit's cell."""
    cell, start, defended = item.cell, time.perf_counter(), pipeline.defended
    few, right = pipeline.images.first(cell.data.n), pipeline.right[: cell.data.n]
    setting = pipeline.setting(cell, defended)
    most = _ROWS_ON_CPU if few.y.device.type == "cpu" else _ROWS
    setting = replace(setting, shape=min(most, cell.numerics.shape))

    def asked(recipe: Attack) -> tuple[Defended, Setting]:
        seen = pipeline.asked(recipe, cell.attack.mode)
        exact = not seen.random and (seen.exact or seen.surrogate is seen.predict)
        return seen, replace(setting, exact=exact)

    auditor = Auditor(audit, few, right, defended, asked, cell.norm, float(cell.eps[-1]))
    with frozen(auditor.handed.surrogate), frozen(defended.predict):
        noted, facts = auditor.run(pipeline.clean[: cell.data.n])
    block = pipeline.block(cell, 0)
    noted |= {"forward": auditor.ledger.forward, "backward": auditor.ledger.backward}
    block.audit(noted, auditor.least, auditor.refused, auditor.verify)
    yield Noted(cell.key, {"audit": facts})
    yield Done(cell.key, 0, block.arrays, time.perf_counter() - start)
    yield Moved(cell.key, cell.data.n)

"""Stored blocks for cells that differ from the one that holds them in the number of samples alone:
sample sets are nested, and a block is the same whatever stands beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import plan
from bench.packing import Arrays
from bench.plan import Cell, Todo
from bench.store import Store

_OF_FIRST = "gallery"
"""The fact in a provenance that is found with a cell's first block alone."""
_Loan = tuple[Arrays, float, Mapping[str, Any]]
"""A block's arrays and seconds, and the provenance of the cell that holds it."""


def lend(item: Todo, store: Store, provenance: Mapping[str, Any]) -> int:
    """Copies to a cell the full blocks that it lacks and cells of its family hold, where the sample
    ids are its own; returns how many.

    A cell that lacks nothing more takes over the provenance that the newest of them has; one that
    does begins with the one given, and finds its facts with the rest.
    """
    cell = item.cell
    wanted = ((number, _loan(cell, number, store)) for number in item.blocks)
    found = {number: loan for number, loan in wanted if loan is not None}
    if not found:
        return 0
    is_whole = len(found) == len(item.blocks)
    store.add(cell, found[max(found)][2] if is_whole else provenance)
    if 0 in found and _OF_FIRST in found[0][2]:
        store.annotate(cell.key, {_OF_FIRST: found[0][2][_OF_FIRST]})
    for number, (arrays, seconds, _) in found.items():
        store.put(cell.key, number, arrays, seconds)
    return len(found)


def _loan(cell: Cell, number: int, store: Store) -> _Loan | None:
    if number >= len(cell.data.blocks):
        return None
    ids = cell.data.blocks[number]
    loans = store.loans(cell, number)
    return next((loan for loan in loans if plan.digest(loan[0]["id"].tolist()) == ids), None)

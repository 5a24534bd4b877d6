"""A unit of work carried out: one defended pipeline and the cells that wait for it. What fails is
told, and the rest goes on.

A unit and what it yields are plain values that travel between processes. Nothing here writes a
store.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence

import torch

from bench import memory
from bench.devices import numerics
from bench.pipeline import Pipeline
from bench.plan import (
    Cell,
    Todo,
)
from bench.units import Done, Event, Failed, Noted, Prepared, Shrunk, Unit


def run(unit: Unit, say: Callable[[str], None]) -> Iterator[Event]:
    """Carries a unit out; say hears lines about training. A failure ends its cell, or all cells
    where the pipeline itself cannot be had; the others go on. Where memory runs out under a compute
    shape that can be halved, that is told instead.
    """
    cells = [item.cell for item in unit.todo]
    with numerics(cells[0].numerics.threads):
        try:
            pipeline = Pipeline.deployed(unit, say)
        except Exception as err:  # noqa: BLE001  the one boundary: a failure is data
            yield from _ended(cells, err)
            return
        yield Prepared(tuple(cell.key for cell in cells), pipeline.facts)
        for item in unit.todo:
            try:
                yield from _watched(pipeline, item, unit)
                continue
            except Exception as err:  # noqa: BLE001  the same boundary, for one cell
                ended = _ended([item.cell], err)
            # Only now, as the error held on to what the attack was about.
            memory.release()
            yield from ended


def _watched(pipeline: Pipeline, item: Todo, unit: Unit) -> Iterator[Event]:
    """One cell, its peak of memory told before its last block."""
    key, left = item.cell.key, len(item.blocks)
    peak = memory.watched(torch.device(unit.device))
    for event in pipeline.attacked(item, unit.attacks[key], unit.batch_size):
        left -= isinstance(event, Done)
        if isinstance(event, Done) and not left:
            yield Noted(key, {"peak_memory_mb": peak()})
        yield event


def _ended(cells: Sequence[Cell], err: Exception) -> list[Event]:
    """What an error means for cells of one compute shape."""
    if memory.ran_out(err) and cells[0].numerics.shape > 1:
        return [Shrunk(tuple(cell.key for cell in cells))]
    return [_failed(cell.key, err) for cell in cells]


def _failed(key: str, err: Exception) -> Failed:
    reason = " ".join(str(err).split()) or "no message"
    kind = "" if isinstance(err, ValueError | RuntimeError) else f"{type(err).__name__}: "
    if memory.ran_out(err):
        kind = f"out of memory with one image at once: {kind}"
    return Failed(key, f"{kind}{reason}"[:500], "".join(traceback.format_exception(err)))

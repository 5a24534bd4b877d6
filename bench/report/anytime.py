"""How far each attack had come after a number of queries: robust accuracy against queries."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.audit.findings import level_of
from bench.report.derived import derived
from bench.report.frames import reading_point
from bench.report.groups import attacked, by
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import (
    Section,
    Table,
    board,
    board_title,
    bounded,
    interval_text,
    percent,
)
from bench.report.verdicts import of_pipeline, verdicts
from bench.stats import Interval, wilson_bounds
from bench.store import Record

__all__ = ["ANYTIME", "LEGEND", "anytime", "sections"]

ANYTIME = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "mode": TEXT,
    "seed": INT,
    "n": INT,
    "query_budget": INT,
    "queries": INT,
    "accuracy": FLOAT,
    "cell": TEXT,
    "ci_low": FLOAT,
    "ci_high": FLOAT,
    "audit": TEXT,
}
"""Columns of anytime in order, and their types."""
LEGEND = (
    """\
Entries: percent of all images still classified right after so many forward queries per image at the
eps above; 0: without attack; last: after the attack, with its 95 % Wilson interval; the last
success was seen after the queries beside it. A budget attack is taken as run at this eps alone (on
a ladder, an image that fell at a smaller eps counts with the queries made there), but where
attempts go on from one eps to another, with the queries made at all of them until then; a minimal
attack's one run serves all eps. Gradients are not counted: a white-box attack's forward query
mostly comes with a backward. Of transfer the looks at the target are counted, one per image that is
tried: what its source is asked costs it nothing, and the labels that a substitute learns from stand
in transfer.md.""",
)
_STEPS = (1, 2, 5)
_SHOWN = (0, 1, 10, 100, 1_000, 10_000, 100_000)


@derived
def anytime(records: Sequence[Record]) -> Rows:
    """One row per complete cell and number of forward queries per image: the table anytime.

    accuracy is the share of all images right after so many queries at the reference eps (where the
    grid lacks it, its largest); queries 0, 1, 2, 5, 10, ... and last the number at which the last
    success was seen.
    """
    rows: list[dict[str, Any]] = []
    told = verdicts(records)
    for record in attacked(records):
        if not record.failure and "queries" in record.samples:
            rows.extend(_rows(record, of_pipeline(told, record).text))
    return Rows.of(rows, ANYTIME)


def _rows(record: Record, audit: str) -> Iterable[dict[str, Any]]:
    eps = reading_point([record])
    seen = seen_at(record, eps)
    shared = {
        "dataset": record.dataset,
        "norm": record.norm,
        "eps": float(eps),
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "mode": record.mode,
        "seed": record.seed,
        "n": record.n,
        "query_budget": record.query_budget,
        "cell": record.key,
        "audit": audit,
    }
    grid = _grid(int(seen.max(initial=0)))
    standing = (seen < 0) | (seen > np.array(grid)[:, None])
    low, high = wilson_bounds(standing.sum(axis=1), record.n)
    points = zip(grid, standing.mean(axis=1).tolist(), low.tolist(), high.tolist(), strict=True)
    names = ("queries", "accuracy", "ci_low", "ci_high")
    for point in points:
        yield shared | dict(zip(names, point, strict=True))


def seen_at(record: Record, eps: Fraction) -> NDArray[np.int64]:
    """Queries (n,) made at an eps of the grid when the first success was seen; -1: never."""
    seen: NDArray[np.int64] = record.samples["queries"][:, record.eps.index(eps)]
    return seen


def _grid(most: int) -> list[int]:
    """0, 1, 2, 5, 10, ... below the most, and that."""
    points, decade = [0], 1
    while decade <= most:
        points += [step * decade for step in _STEPS if step * decade < most]
        decade *= 10
    return [*points, most] if most else points


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm, eps and query budget, from the rows of `anytime`."""
    cells = by(table, lambda row: row["cell"])
    return [_section(members) for members in by(cells, lambda rows: board(rows[0]))]


def _section(cells: list[list[Row]]) -> Section:
    most = max(rows[-1]["queries"] for rows in cells)
    shown = [q for q in _SHOWN if q < most] or [0]
    header = ("model", "defense", "attack (mode)", "seed", "n", *(f"{q:,}" for q in shown))
    lines = tuple(_line(cell, shown) for cell in cells)
    align = "lll" + "r" * (len(header) - 1)
    table = Table((*header, "last", "queries", "audit"), lines, align=f"{align}l")
    return Section(board_title(cells[0][0]), "", table)


def _line(cell: list[Row], shown: list[int]) -> tuple[str, ...]:
    of = cell[0]
    names = (of["model"], of["defense"], f"{of['attack']} ({of['mode']})")
    values = [percent(_after(cell, queries)["accuracy"]) for queries in shown]
    last = cell[-1]
    counts = (str(of["seed"]), f"{of['n']:,}")
    left = Interval(last["accuracy"], last["ci_low"], last["ci_high"])
    after = (bounded(interval_text(left), last["audit"]), f"{last['queries']:,}")
    return (*names, *counts, *values, *after, level_of(last["audit"]))


def _after(cell: list[Row], queries: int) -> Row:
    """The row at so many queries: that of the largest number up to it."""
    return cell[bisect_right(cell, queries, key=lambda row: row["queries"]) - 1]

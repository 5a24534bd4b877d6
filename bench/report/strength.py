"""How strong each attack is against each defended model: the table attacks, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bench.audit.findings import level_of
from bench.report.curves import Cost, distances, median_distance, refused_share
from bench.report.derived import derived
from bench.report.frames import reading_point
from bench.report.groups import attacked, by
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import Section, Table, board, board_title, robust_text, seconds
from bench.report.verdicts import of_pipeline, verdicts
from bench.stats import resampled_median, wilson
from bench.store import Record

__all__ = ["ATTACKS", "LEGEND", "attacks", "sections"]

ATTACKS = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "mode": TEXT,
    "kind": TEXT,
    "seeds": INT,
    "n": INT,
    "robust_accuracy": FLOAT,
    "ci_low": FLOAT,
    "ci_high": FLOAT,
    "spread": FLOAT,
    "median_distance": FLOAT,
    "refused": FLOAT,
    "forward_per_image": FLOAT,
    "backward_per_image": FLOAT,
    "wall_s": FLOAT,
    "query_budget": INT,
    "audit": TEXT,
    "median_low": FLOAT,
    "median_high": FLOAT,
}
"""Columns of attacks in order, and their types."""
LEGEND = (
    """\
One row per attack on a defended model, the strongest first. Robust: the share of all images still
classified right under this attack alone at the eps above, in percent with its 95 % Wilson interval.
It is an upper bound: a stronger attack can only lower it. The interval covers the choice of test
images, neither the weakness of the attack nor the spread over training seeds.""",
    """\
Kind: budget, the most damage inside eps; minimal, the smallest distance of a success, one run for
all eps; ensemble, several attacks one after another. Seeds: how many seeds of the attack were run;
the numbers are those of the lowest one. Spread: the largest minus the smallest robust accuracy over
the seeds, in points.""",
    """\
Median distance: of minimal attacks, in the norm, over the images right without attack, with its
95 % bootstrap interval over them; inf where no more than half of them were fooled at all. Refused:
the share of images, in percent, for which the re-check refused a claimed success, e.g. one outside
[0, 1]; empty where none. Queries per image and seconds are the whole cell's, all radii
together.""",
)


@dataclass(frozen=True)
class _Runs:
    """An attack on a defended model at one eps: a cell per seed, the lowest seed first.

    The cells are on the same samples and complete, or they all failed. right: of each, how many
    samples are right at eps.
    """

    eps: Fraction
    cells: Sequence[Record]
    right: Sequence[float]

    @property
    def of(self) -> Record:
        """The cell that the numbers are of."""
        return self.cells[0]

    @property
    def distance(self) -> float | None:
        """The median distance where the attack minimises it."""
        return None if self.of.failure else median_distance(self.of)

    @property
    def standing(self) -> tuple[Any, ...]:
        """What sorts runs: by defended model, the strongest attack first, failures last."""
        of, distance = self.of, self.distance
        who = (of.model, of.defense, of.pipeline)
        missing = (distance is None, 0.0 if distance is None else distance)
        share = self.right[0] / of.n
        return (*who, bool(of.failure), share, *missing, of.attack, of.mode)


@derived
def attacks(records: Sequence[Record]) -> Rows:
    """One row per dataset, norm, defended model, attack and mode, and one for its failed seeds.

    Accuracies are fractions, at the reference eps where a grid of the attack holds it, else at the
    largest. The numbers are those of the lowest seed on the attack's largest sample set; spread is
    the largest minus the smallest robust accuracy over the seeds, empty for one. Of several cells
    of a seed (other grids, devices) the strongest stands. median_low, median_high: the bootstrap
    interval of median_distance.
    """
    named = by(
        attacked(records),
        lambda r: (
            *(r.dataset, r.norm, r.model, r.defense, r.pipeline, r.attack, r.mode),
            r.query_budget,
        ),
    )
    found = [runs for cells in named for runs in _runs(cells)]
    told = verdicts(records)
    rows: list[dict[str, Any]] = []
    for setting in by(found, lambda r: (r.of.dataset, r.of.norm, r.of.query_budget)):
        setting.sort(key=lambda runs: (runs.eps != runs.of.reference, runs.eps, runs.standing))
        rows.extend(_row(runs, of_pipeline(told, runs.of).text) for runs in setting)
    return Rows.of(rows, ATTACKS)


def _runs(cells: Sequence[Record]) -> Iterable[_Runs]:
    """Of one attack on one defended model: what is complete, and what failed."""
    complete = [cell for cell in cells if not cell.failure]
    largest = max(complete or cells, key=lambda r: (r.n, r.samples_digest))
    used = [cell for cell in complete if cell.samples_digest == largest.samples_digest]
    # a failure on fewer samples is history, one on these or more samples is not
    failed = [cell for cell in cells if cell.failure and cell.n >= largest.n]
    return [_read(group) for group in (used, failed) if group]


def _read(cells: Sequence[Record]) -> _Runs:
    """The cells at their reading point, of each seed the strongest."""
    eps = reading_point(cells)
    there = [(cell, _right(cell, eps)) for cell in cells if eps in cell.eps]
    there.sort(key=lambda each: (each[0].seed, each[1]))
    of_seeds = [same[0] for same in by(there, lambda each: each[0].seed)]
    return _Runs(eps, *zip(*of_seeds, strict=True))


def _right(cell: Record, eps: Fraction) -> float:
    """How many samples are right at eps, in the mean over draws; none where the cell failed."""
    return 0.0 if cell.failure else float((cell.outcomes > float(eps)).mean(axis=1).sum())


def _row(runs: _Runs, audit: str) -> dict[str, Any]:
    of = runs.of
    row: dict[str, Any] = {
        "dataset": of.dataset,
        "norm": of.norm,
        "eps": float(runs.eps),
        "model": of.model,
        "defense": of.defense,
        "attack": of.attack,
        "mode": of.mode,
        "kind": of.kind,
        "seeds": len(runs.cells),
        "n": of.n,
        "query_budget": of.query_budget,
        "audit": audit,
    }
    if of.failure:
        return row
    right = runs.right
    robust, cost = wilson(right[0], of.n), Cost.of([of])
    if runs.distance is not None:
        median = resampled_median(distances(of))
        row |= {"median_low": median.low, "median_high": median.high}
    return row | {
        "robust_accuracy": robust.value,
        "ci_low": robust.low,
        "ci_high": robust.high,
        "spread": (max(right) - min(right)) / of.n if len(right) > 1 else None,
        "median_distance": runs.distance,
        "refused": refused_share(of),
        "forward_per_image": cost.forward / of.n,
        "backward_per_image": cost.backward / of.n,
        "wall_s": cost.seconds,
    }


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm and eps, from the rows of `attacks`."""
    boards = by(table, board)
    names = ("model", "defense", "attack (mode)", "kind", "seeds", "n", "robust", "spread")
    costs = ("forward / image", "backward / image", "seconds")
    header = (*names, "median distance", "refused", *costs, "audit")
    align = "llll" + "r" * (len(header) - 5) + "l"
    return [
        Section(board_title(rows[0]), "", Table(header, tuple(map(_texts, rows)), align=align))
        for rows in boards
    ]


def _texts(row: Row) -> tuple[str, ...]:
    return (
        row["model"],
        row["defense"],
        f"{row['attack']} ({row['mode']})",
        row["kind"],
        str(row["seeds"]),
        f"{row['n']:,}",
        robust_text(row),
        _number(row["spread"], 100, ".1f"),
        _median(row),
        _number(row["refused"] or None, 100, ".1f"),
        _number(row["forward_per_image"], 1, ",.1f"),
        _number(row["backward_per_image"], 1, ",.1f"),
        seconds(row["wall_s"]),
        level_of(row["audit"]),
    )


def _median(row: Row) -> str:
    if row["median_distance"] is None:
        return ""
    numbers = (row[name] for name in ("median_distance", "median_low", "median_high"))
    return "{:.4g} [{:.4g}, {:.4g}]".format(*numbers)


def _number(value: Any, factor: int, form: str) -> str:
    """A number, scaled; empty where it is missing."""
    return "" if value is None else f"{factor * value:{form}}"

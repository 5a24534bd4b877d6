"""What is left of each defense under every mode of attack, beside the worst of them: the table
modes, as data and as text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from bench.audit.findings import level_of
from bench.plan import OBLIVIOUS
from bench.report.curves import WORST, Curve, curves
from bench.report.derived import derived
from bench.report.frames import Entry, reading_point, row_of
from bench.report.groups import by, pipelines
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import (
    Section,
    Table,
    board,
    board_title,
    bounded,
    count,
    interval_text,
    percent,
    seconds,
)
from bench.stats import Interval
from bench.store import Record

__all__ = ["MODES", "legend", "modes", "sections"]

MODES = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "mode": TEXT,
    "seed": INT,
    "n": INT,
    "clean_accuracy": FLOAT,
    "accuracy": FLOAT,
    "ci_low": FLOAT,
    "ci_high": FLOAT,
    "zero_gradient": FLOAT,
    "forward_queries": INT,
    "backward_queries": INT,
    "wall_s": FLOAT,
    "cell": TEXT,
    "failure": TEXT,
    "query_budget": INT,
    "audit": TEXT,
}
"""Columns of modes in order, and their types."""
ALL = "all"
"""The mode of the rows that hold the worst over all of them."""
MEANINGS = {
    OBLIVIOUS: """\
the images were made on the undefended classifier, by an adversary who does not know of the
defense.""",
    "transfer": """\
the images were made on another model without the defense, such as one of the same architecture
trained under another seed.""",
    "black-box": """\
the attack asked the defended pipeline for its answers and saw no gradient.""",
    "white-box": """\
the attack was handed the pipeline itself, gradients and all.""",
    "eot": """\
the gradient is the mean over several draws of the pipeline's random numbers.""",
    "bpda": """\
the pipeline as it is forward; backward the gradient goes past the parts that hide it, as if they
left the image as it is.""",
    "unrolled": """\
the gradient goes through the last steps of the inversion, the search that the pipeline makes for
each image.""",
    "latent": """\
a search in the generator's latent space for an image near the given one that is misclassified.""",
    "released": """\
the white-box attack of the code released with Defense-GAN, whose gradients vanish; kept to show
what masking looks like.""",
}
"""Modes, or what is combined in one with +, in plain words; rows stand in this order."""
READING = (
    """\
One row per attack and mode on each defended model, at the eps above. Accuracy: the share of all
images still classified right under this attack alone, in percent with its 95 % Wilson interval. The
last row of each model, worst-case, is the headline: the share right under every attack in every
mode, image by image, which is the robust accuracy of the leaderboard. No single row stands for a
defense, an oblivious one least of all.""",
    """\
Zero gradient: the share of the images right without attack whose gradient, taken through what the
attack was handed, is exactly zero; empty for an attack without gradients. A row with a large share
says nothing about robustness: its attack had nowhere to go.""",
)
_BASELINE = "none"


@derived
def modes(records: Sequence[Record]) -> Rows:
    """One row per cell of a defense attacked in at least two modes, then the worst case over them;
    the undefended model's rows come before. Empty where there is no such defense.

    Accuracies are fractions, at the reference eps where the cell's grid holds it, else at its
    largest; those of the worst case are the leaderboard's. zero_gradient is a share of the images
    right without attack.
    """
    attacked = pipelines(records)
    told = [cells for cells in attacked if not _is_baseline(cells) and _several(cells)]
    beside = {_setting(cells) for cells in told}
    plain = [c for c in attacked if _is_baseline(c) and _setting(c) in beside]
    settings = by(plain + told, _setting)
    known = {curve.cell: curve for curve in curves(records)}
    rows = (row for members in settings for cells in members for row in _rows(cells, known))
    return Rows.of(rows, MODES)


def _is_baseline(cells: Sequence[Record]) -> bool:
    return cells[0].defense == _BASELINE


def _several(cells: Sequence[Record]) -> bool:
    return len({cell.mode for cell in cells}) > 1


def _setting(cells: Sequence[Record]) -> Hashable:
    of = cells[0]
    return of.dataset, of.norm, of.model, of.query_budget


def _rows(cells: list[Record], known: Mapping[str, Curve]) -> Iterable[dict[str, Any]]:
    """A pipeline's rows: oblivious first, the worst case last."""
    for cell in sorted(cells, key=lambda cell: _place(cell.mode)):
        yield _row(cell, known[cell.key])
    entry = Entry.of_cells(cells)
    row = row_of(entry) | {"audit": known[cells[0].key].audit}
    yield {
        **{name: row[name] for name in MODES if name in row},
        "attack": WORST,
        "mode": ALL,
        "accuracy": row.get("robust_accuracy"),
        "failure": entry.note,
    }


def _place(mode: str) -> tuple[int, str]:
    first = mode.split("+")[0]
    return (list(MEANINGS).index(first) if first in MEANINGS else len(MEANINGS)), mode


def _row(cell: Record, curve: Curve) -> dict[str, Any]:
    place = cell.eps.index(reading_point([cell]))
    row: dict[str, Any] = {
        "dataset": cell.dataset,
        "norm": cell.norm,
        "eps": curve.eps[place],
        "model": cell.model,
        "defense": cell.defense,
        "attack": cell.attack,
        "mode": cell.mode,
        "seed": cell.seed,
        "n": cell.n,
        "cell": cell.key,
        "failure": cell.failure,
        "query_budget": cell.query_budget,
        "audit": curve.audit,
    }
    if curve.clean is None or curve.cost is None:
        return row
    return row | {
        "clean_accuracy": curve.clean.value,
        "accuracy": curve.accuracy[place],
        "ci_low": curve.low[place],
        "ci_high": curve.high[place],
        "zero_gradient": cell.provenance.get("gradients", {}).get("zero"),
        "forward_queries": curve.cost.forward,
        "backward_queries": curve.cost.backward,
        "wall_s": curve.cost.seconds,
    }


def legend(table: Rows) -> tuple[str, ...]:
    """How to read the table, and what the modes that occur in it mean."""
    there = {part for mode in table.column("mode") for part in mode.split("+")}
    told = [f"{name}: {meaning}" for name, meaning in MEANINGS.items() if name in there]
    return (*READING, f"Modes, combined with +. {' '.join(told)}")


@derived
def sections(table: Sequence[Row]) -> list[Section]:
    """A table per dataset, norm, eps and query budget, from the rows of `modes`; worst cases in
    bold.
    """
    boards = by(table, board)
    return [Section(board_title(rows[0]), "", _table(rows)) for rows in boards]


def _table(rows: Sequence[Row]) -> Table:
    names = ("model", "defense", "attack", "mode", "seed", "n", "clean", "accuracy")
    costs = ("zero gradient", "forward queries", "backward queries", "seconds")
    bold = frozenset(place for place, row in enumerate(rows) if row["attack"] == WORST)
    notes = tuple(
        f"{row['attack']} ({row['mode']}) on {row['defense']}: {row['failure']}"
        for row in rows
        if row["failure"]
    )
    header, align = (*names, *costs, "audit"), "llll" + "r" * 8 + "l"
    return Table(header, tuple(map(_texts, rows)), align, bold=bold, notes=notes)


def _texts(row: Row) -> tuple[str, ...]:
    return (
        *(str(row[name]) for name in ("model", "defense", "attack", "mode")),
        count(row["seed"]),
        count(row["n"]),
        percent(row["clean_accuracy"]),
        _accuracy(row),
        percent(row["zero_gradient"]),
        count(row["forward_queries"]),
        count(row["backward_queries"]),
        seconds(row["wall_s"]),
        level_of(row["audit"]),
    )


def _accuracy(row: Row) -> str:
    if row["accuracy"] is None:
        return "failed"
    accuracy = Interval(row["accuracy"], row["ci_low"], row["ci_high"])
    return bounded(interval_text(accuracy), row["audit"])

"""Rows of the leaderboard compared in pairs on the same samples: the table comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bench.audit.findings import SUSPECT, level_of
from bench.errors import RequestError
from bench.report.derived import derived
from bench.report.frames import Entry, best_first, boards
from bench.report.groups import by
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import Section, Table, board, board_title, count, interval_text, percent
from bench.stats import ALPHA, Interval, holm, mcnemar_p, resampled_mean
from bench.store import Record

__all__ = ["COMPARISONS", "LEGEND", "compared", "comparisons", "sections"]

COMPARISONS = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "query_budget": INT,
    "first_model": TEXT,
    "first_defense": TEXT,
    "second_model": TEXT,
    "second_defense": TEXT,
    "n": INT,
    "samples": TEXT,
    "first_accuracy": FLOAT,
    "second_accuracy": FLOAT,
    "difference": FLOAT,
    "difference_low": FLOAT,
    "difference_high": FLOAT,
    "only_first": INT,
    "only_second": INT,
    "p": FLOAT,
    "p_holm": FLOAT,
    "verdict": TEXT,
    "first_audit": TEXT,
    "second_audit": TEXT,
}
"""Columns of comparisons in order, and their types; samples is the digest of the sample ids."""
MOST_IN_FULL = 20
"""Rows of a board up to which every pair of them is compared."""
BETTER, UNTOLD = "first better", "not told apart"
LEGEND = (
    f"""\
Each line compares two rows of the leaderboard at the eps above on the same images, the more
accurate one first: every pair of up to {MOST_IN_FULL} rows; of more rows each with the best one and
with the next. Accuracies in percent; the difference in points with its 95 % bootstrap interval over
images.""",
    """\
Only first, only second: the images that only one of the two gets right (of a defense that draws:
gets right under more draws). p: the exact two-sided McNemar test on them; Holm: p adjusted for all
comparisons of the table, so that the chance of any false finding in it stays below 5 %. Verdict:
by the adjusted p at level 0.05; rows that are not told apart need not be equal. Where the audit of
either row is suspect, it is of what the attacks left standing alone. Audit: of the first and of the
second row; their intervals stand in the leaderboard.""",
)


@derived
def comparisons(records: Sequence[Record]) -> Rows:
    """One row per pair of rows of a board on the same samples, the more accurate one first.

    p_holm is adjusted over the pairs of the board. difference is first minus second, a fraction.
    """
    return Rows.of((row for found in boards(records) for row in _of_board(found)), COMPARISONS)


def _of_board(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    rows = [
        compared(same[first], same[second])
        for same in by(best_first(entries), lambda e: e.of.samples_digest)
        for first, second in _pairs(len(same))
    ]
    adjusted = holm([row["p"] for row in rows]).tolist()
    return [
        row | {"p_holm": p, "verdict": _verdict(row, p)}
        for row, p in zip(rows, adjusted, strict=True)
    ]


def _verdict(row: dict[str, Any], p: float) -> str:
    found = BETTER if p < ALPHA else UNTOLD
    audits = row["first_audit"], row["second_audit"]
    return f"{found}, {SUSPECT}" if SUSPECT in map(level_of, audits) else found


def _pairs(rows: int) -> list[tuple[int, int]]:
    if rows <= MOST_IN_FULL:
        return list(itertools.combinations(range(rows), 2))
    best = ((0, other) for other in range(1, rows))
    return [*best, *((row, row + 1) for row in range(1, rows - 1))]


def compared(first: Entry, second: Entry) -> dict[str, Any]:
    """The columns of a pair but p_holm and verdict; refuses rows on different samples."""
    one, other = first.of, second.of
    if one.samples_digest != other.samples_digest:
        raise RequestError(
            "rows must be on the same samples to be compared, got "
            f"{_name(one)} on samples {one.samples_digest} of data {one.fingerprint} and "
            f"{_name(other)} on samples {other.samples_digest} of data {other.fingerprint}"
        )
    right, against = first.right.mean(axis=1), second.right.mean(axis=1)
    gain = resampled_mean(right - against)
    only_first, only_second = int(np.sum(right > against)), int(np.sum(right < against))
    return {
        "dataset": one.dataset,
        "norm": one.norm,
        "eps": float(first.eps),
        "query_budget": one.query_budget,
        "first_model": one.model,
        "first_defense": one.defense,
        "second_model": other.model,
        "second_defense": other.defense,
        "n": one.n,
        "samples": one.samples_digest,
        "first_accuracy": float(right.mean()),
        "second_accuracy": float(against.mean()),
        "difference": gain.value,
        "difference_low": gain.low,
        "difference_high": gain.high,
        "only_first": only_first,
        "only_second": only_second,
        "p": float(mcnemar_p(only_first, only_second)),
        "first_audit": first.audit.text,
        "second_audit": second.audit.text,
    }


def _name(of: Record) -> str:
    return f"{of.model} / {of.defense}"


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm, eps and query budget, from the rows of `comparisons`."""
    sides = ("first", "second", "n", "first %", "second %")
    header = (*sides, "difference", "only first", "only second", "p", "Holm", "verdict", "audit")
    return [
        Section(board_title(rows[0]), "", Table(header, tuple(map(_texts, rows)), "llrrrrrrrrll"))
        for rows in by(table, board)
    ]


def _texts(row: Row) -> tuple[str, ...]:
    gain = Interval(*(row[f"difference{which}"] for which in ("", "_low", "_high")))
    return (
        f"{row['first_model']} / {row['first_defense']}",
        f"{row['second_model']} / {row['second_defense']}",
        count(row["n"]),
        percent(row["first_accuracy"]),
        percent(row["second_accuracy"]),
        interval_text(gain),
        count(row["only_first"]),
        count(row["only_second"]),
        f"{row['p']:.2g}",
        f"{row['p_holm']:.2g}",
        row["verdict"],
        f"{level_of(row['first_audit'])} / {level_of(row['second_audit'])}",
    )

"""The verdicts on the numbers of each pipeline, and every finding behind them: the table audit, as
data and as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.audit.case import Case
from bench.audit.findings import SKIPPED, SUSPECT, WARN, Verdict
from bench.report.groups import by
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import Section, Table, count
from bench.report.verdicts import cases, verdicts
from bench.store import Record

__all__ = ["AUDITS", "LEGEND", "audits", "sections"]

AUDITS = {
    "dataset": TEXT,
    "norm": TEXT,
    "model": TEXT,
    "defense": TEXT,
    "verdict": TEXT,
    "check": TEXT,
    "level": TEXT,
    "finding": TEXT,
    "eps": FLOAT,
    "n": INT,
    "forward_queries": INT,
    "backward_queries": INT,
    "budget": INT,
    "wall_s": FLOAT,
    "query_budget": INT,
}
"""Columns of audit in order, and their types."""
LEGEND = (
    """\
Verdict: pass; warn, something to look at; suspect, the robust accuracy is an upper bound that
nothing should be built on: something cheap breaks many of the images that the attacks left
standing, or gradients do not reach the image. A suspect row has no rank.""",
    """\
An audit looks at the first images of the evaluated ones, at the eps where the leaderboard reads
them. Its attacks run one after the other, each on the images that still stand, so that a success is
one of the first that had it; findings count images that the attacks of the rows left standing. From
2 % of all images on a finding is a warning; it makes the row suspect from 5 % and six images on
(all of six falling one way: p = 1/32), or where three or more images that fall are half of what
stood. Queries: the audit's own, in no other table, within their budget. Skipped: what that did not
allow, or what is not defined here.""",
)


def audits(records: Iterable[Record]) -> Rows:
    """One row per pipeline and check; empty where nothing was audited."""
    made = cases(records)
    if not any(case.audits for case in made.values()):
        return Rows.of((), AUDITS)
    told = verdicts(records)
    return Rows.of((row for key, case in made.items() for row in _rows(case, told[key])), AUDITS)


def _rows(case: Case, told: Verdict) -> Iterable[dict[str, Any]]:
    of, look = case.cells[0], case.look
    facts = {} if look is None else look.provenance.get("audit", {})
    shared = {
        "dataset": of.dataset,
        "norm": of.norm,
        "model": of.model,
        "defense": of.defense,
        "query_budget": of.query_budget,
        "verdict": told.text,
        "eps": None if look is None else float(look.eps[-1]),
        "n": None if look is None else look.n,
        "forward_queries": None if look is None else look.queries[0],
        "backward_queries": None if look is None else look.queries[1],
        "budget": facts.get("budget"),
        "wall_s": None if look is None else round(look.seconds, 3),
    }
    for one in told.findings:
        yield shared | {"check": one.check, "level": one.level, "finding": one.text}


def sections(table: Rows) -> list[Section]:
    """Per dataset and norm, a table of verdicts, and one of what was found worse than pass."""
    return [
        section
        for setting in by(table, lambda row: (row["dataset"], row["norm"]))
        for section in _of_setting(setting)
    ]


def _of_setting(rows: Sequence[Row]) -> Iterable[Section]:
    title = f"{rows[0]['dataset']}, {rows[0]['norm']}"
    lines = []
    for own in by(rows, lambda row: (row["model"], row["defense"], row["query_budget"])):
        first = own[0]
        skipped = sum(row["level"] == SKIPPED for row in own)
        queries = (count(first[name]) for name in ("forward_queries", "backward_queries", "budget"))
        checks = f"{len(own) - skipped} of {len(own)}"
        lines.append(
            (
                first["model"],
                first["defense"],
                first["verdict"],
                checks,
                count(first["n"]),
                *queries,
            )
        )
    header = ("model", "defense", "verdict", "checks made", "n", "forward", "backward", "budget")
    yield Section(title, "", Table(header, tuple(lines), align="lll" + "r" * 5))
    told = [row for row in rows if row["level"] in (SUSPECT, WARN, SKIPPED)]
    if told:
        found = tuple(
            (row["model"], row["defense"], row["check"], row["level"], row["finding"])
            for row in told
        )
        names = ("model", "defense", "check", "level", "finding")
        yield Section(title, "Everything that is not pass:", Table(names, found, align="lllll"))

"""What attacks made on a source model knew of their target: the table transfer, as data and as
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bench.audit.findings import level_of
from bench.report.groups import by
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.tables import Section, Table, count, eps_text, interval_text
from bench.report.verdicts import of_pipeline, verdicts
from bench.stats import Interval, wilson
from bench.store import Record

__all__ = ["LEGEND", "TRANSFER", "sections", "transfer"]

TRANSFER = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "seed": INT,
    "source": TEXT,
    "round": INT,
    "images": INT,
    "target_queries": INT,
    "agreement": FLOAT,
    "transfer_rate": FLOAT,
    "probes": INT,
    "cell": TEXT,
    "audit": TEXT,
    "agreement_low": FLOAT,
    "agreement_high": FLOAT,
    "transfer_low": FLOAT,
    "transfer_high": FLOAT,
}
"""Columns of transfer in order, and their types."""
LEGEND = (
    """\
One row per round of a substitute, or per source that was trained without asking the target. Target
queries: the labels asked of the target so far, once for all images and radii of the cell. They are
among the forward queries of the other tables; all further ones there went through the source and
not through the target. A query budget does not hold them.""",
    """\
Agreement: the share of held-out images, in percent, that the source labels as the target does.
Transfer rate: the share whose FGSM image, made on the source at the eps above, the target labels
otherwise than the image. Both have their 95 % Wilson intervals, and are measured on images
(held-out images: their number) that neither trains on; the queries of measuring are not
counted.""",
)


def transfer(records: Iterable[Record]) -> Rows:
    """One row per cell made on a source and per round or source; empty where there is none."""
    records = list(records)
    told = verdicts(records)
    made = ((record, of_pipeline(told, record).text) for record in records)
    return Rows.of((row for record, audit in made for row in _rows(record, audit)), TRANSFER)


def _rows(record: Record, audit: str) -> Iterable[dict[str, Any]]:
    for fact in record.provenance.get("transfer", ()) if not record.failure else ():
        agreement, rate = (
            wilson(fact[name] * fact["probes"], fact["probes"])
            for name in ("agreement", "transfer_rate")
        )
        yield {
            "dataset": record.dataset,
            "norm": record.norm,
            "eps": fact["eps"],
            "model": record.model,
            "defense": record.defense,
            "attack": record.attack,
            "seed": record.seed,
            "source": fact["source"],
            "round": fact["round"] or None,
            "images": fact["images"] or None,
            "target_queries": fact["queries"],
            "agreement": fact["agreement"],
            "transfer_rate": fact["transfer_rate"],
            "probes": fact["probes"],
            "cell": record.key,
            "audit": audit,
            "agreement_low": agreement.low,
            "agreement_high": agreement.high,
            "transfer_low": rate.low,
            "transfer_high": rate.high,
        }


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm and eps, from the rows of `transfer`."""
    boards = by(table, lambda row: (row["dataset"], row["norm"], row["eps"]))
    names = ("model", "defense", "attack", "seed", "source", "round", "images", "target queries")
    header = (*names, "agreement", "transfer rate", "held-out images", "audit")
    return [
        Section(_title(rows), "", Table(header, _texts(rows), "llllll" + "r" * 5 + "l"))
        for rows in boards
    ]


def _title(rows: Sequence[Any]) -> str:
    return f"{rows[0]['dataset']}, {rows[0]['norm']}, eps = {eps_text(rows[0]['eps'])}"


def _interval(row: Any, name: str, ends: str) -> str:
    return interval_text(Interval(row[name], row[f"{ends}_low"], row[f"{ends}_high"]))


def _texts(rows: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            *(row["model"], row["defense"], row["attack"], str(row["seed"]), row["source"]),
            *(count(row[name]) for name in ("round", "images", "target_queries")),
            _interval(row, "agreement", "agreement"),
            _interval(row, "transfer_rate", "transfer"),
            count(row["probes"]),
            level_of(row["audit"]),
        )
        for row in rows
    )

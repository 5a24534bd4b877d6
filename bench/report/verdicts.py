"""The verdict on the numbers of each pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.audit.case import Case
from bench.audit.findings import NOT_AUDITED, Verdict
from bench.audit.verdict import verdict
from bench.plan import AUDIT
from bench.report.derived import derived
from bench.report.groups import pipelines
from bench.store import Record

Key = tuple[Any, ...]


def _key(record: Record) -> Key:
    data = (record.dataset, record.fingerprint, record.norm)
    return (*data, record.model, record.defense, record.pipeline)


@derived
def verdicts(records: Sequence[Record]) -> dict[Key, Verdict]:
    """The verdict on each pipeline that was attacked, for `of_pipeline`."""
    return {(*key, budget): verdict(case) for (*key, budget), case in cases(records).items()}


@derived
def cases(records: Sequence[Record]) -> dict[Key, Case]:
    """Each pipeline that was attacked, with its audits."""
    audits: dict[Key, list[Record]] = {}
    for record in records:
        if record.kind == AUDIT:
            audits.setdefault(_key(record), []).append(record)
    return {
        (*_key(cells[0]), cells[0].query_budget): Case(cells, audits.get(_key(cells[0]), ()))
        for cells in pipelines(records)
    }


def of_pipeline(told: Mapping[Key, Verdict], record: Record) -> Verdict:
    """The verdict on the pipeline that a record belongs to."""
    return told.get((*_key(record), record.query_budget), NOT_AUDITED)

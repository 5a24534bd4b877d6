"""Which records belong together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from bench.plan import AUDIT, CERTIFICATE
from bench.report.derived import derived
from bench.store import Record

Item = TypeVar("Item")


def by(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """The items grouped by key, groups and members in the order of first mention."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def attacked(records: Iterable[Record]) -> list[Record]:
    """The cells that hold what attacks found, not what is proven or told of them."""
    return [record for record in records if record.kind not in (CERTIFICATE, AUDIT)]


@derived
def pipelines(records: Sequence[Record]) -> list[list[Record]]:
    """The attacked cells of each row of the leaderboard."""
    return by(
        attacked(records),
        lambda r: (r.dataset, r.norm, r.model, r.defense, r.pipeline, r.query_budget),
    )

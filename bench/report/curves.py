"""Accuracy over the eps grid, of one cell or of the worst case over a group of cells."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench import evidence
from bench.plan import CERTIFICATE
from bench.report.derived import derived
from bench.stats import Interval, wilson, wilson_bounds
from bench.store import Record

WORST = "worst-case"
"""The attack's name in rows that hold the per-sample worst over a group's cells."""

Item = TypeVar("Item")


def by(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """The items grouped by key, groups and members in the order of first mention."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def worst(cells: Sequence[Record]) -> NDArray[np.float64]:
    """The minimum of min_eps per sample and evaluation draw, (n, draws), over complete cells of one
    pipeline on the same samples.
    """
    outcomes = np.array([cell.outcomes for cell in cells], dtype=np.float64)
    return np.asarray(outcomes.min(axis=0))


def share(right: NDArray[np.bool_]) -> Interval:
    """The mean over samples and draws (n, draws), and its Wilson interval over n samples.

    Of a pipeline that draws a sample's share of right draws stands in place of 0 or 1: it varies
    less than that, so the interval is no narrower than it must be.
    """
    return wilson(float(right.mean(axis=1).sum()), len(right))


def attacked(records: Iterable[Record]) -> list[Record]:
    """The cells that hold what attacks found, not what is proven."""
    return [record for record in records if record.kind != CERTIFICATE]


@dataclass(frozen=True)
class Cost:
    """What cells spent: samples through the model forward, backward, for re-checks; seconds; the
    highest peak of memory, in megabytes, None where it is of none of them known.

    Forward holds the queries that an attack makes once for all samples, such as the labels for a
    substitute, too.
    """

    forward: int
    backward: int
    verify: int
    seconds: float
    peak_memory: float | None

    @classmethod
    def of(cls, cells: Iterable[Record]) -> Cost:
        """The sum over complete cells."""
        cells = list(cells)
        shared = sum(int(cell.provenance.get("shared_queries", 0)) for cell in cells)
        forward, backward, verify = map(sum, zip(*(cell.queries for cell in cells), strict=True))
        forward += shared
        seconds = round(sum(cell.seconds for cell in cells), 3)
        peaks = [cell.provenance.get("peak_memory_mb") for cell in cells]
        peak = max((peak for peak in peaks if peak is not None), default=None)
        return cls(forward, backward, verify, seconds, peak)


@dataclass(frozen=True)
class Curve:
    """Accuracy over an eps grid of one cell, or the worst case over the complete cells of a group.

    of: the record itself, or the first of the group: model, defense, grid, seed, device are the
    same in all of it. precision: of the search, those of a group joined by +. accuracy, low, high
    (number of eps,) as fractions, empty where the cell failed; clean at eps 0; attacks: how many
    complete cells are behind it; failure: why numbers are missing, else empty. evidence: see
    bench.evidence.state, of a worst case the least of any. refused and median_distance: see
    frames.tidy; None for a worst case. draws: evaluation draws that accuracy is the mean over;
    worst_draw: the share of samples right under all of them.
    """

    of: Record
    attack: str
    mode: str
    precision: str
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    clean: Interval | None
    cost: Cost | None
    cell: str
    attacks: int
    failure: str
    refused: float | None = None
    median_distance: float | None = None
    evidence: str = evidence.NONE
    draws: int = 1
    worst_draw: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @functools.cached_property
    def eps(self) -> tuple[float, ...]:
        """The grid, in input units."""
        return tuple(float(eps) for eps in self.of.eps)

    @property
    def is_worst(self) -> bool:
        """Whether this is a worst case, not a single attack."""
        return self.attack == WORST

    @property
    def is_complete(self) -> bool:
        """Whether there are numbers."""
        return self.clean is not None


@derived
def curves(records: Sequence[Record]) -> list[Curve]:
    """Every cell's curve, and after those of a group, where any is complete, its worst case.

    A group holds the cells that differ in attack, mode and the precision of the search alone: all
    are judged in float32.
    """
    return [curve for cells in by(attacked(records), group) for curve in _curves(cells)]


def group(record: Record) -> Hashable:
    """What the cells of a worst case have in common."""
    return (
        (record.dataset, record.fingerprint, record.samples_digest, record.norm, record.eps),
        (record.model, record.defense, record.pipeline, record.seed),
        (record.device, record.sweep, record.query_budget),
    )


def _curves(cells: list[Record]) -> list[Curve]:
    """The curves of a group; those that are complete are counted together."""
    complete = [cell for cell in cells if not cell.failure]
    if not complete:
        return list(map(_failed, cells))
    *points, lowest = _points(complete)
    own = dict(zip((cell.key for cell in complete), points, strict=True))
    made = [_failed(cell) if cell.failure else _single(cell, own[cell.key]) for cell in cells]
    return [*made, _worst(complete, lowest, share_failed(cells))]


def _points(cells: Sequence[Record]) -> list[dict[str, Any]]:
    """What was counted of each cell, and last of their worst case, by fields of Curve."""
    outcomes = np.array([cell.outcomes for cell in cells], dtype=np.float64)
    outcomes = np.concatenate([outcomes, outcomes.min(axis=0, keepdims=True)])
    _, n, draws = outcomes.shape
    radii = np.array([*map(float, cells[0].eps), 0.0])
    standing = outcomes[:, None] > radii[:, None, None]
    shares = standing.mean(axis=3).sum(axis=2)
    low, high = wilson_bounds(shares, n)
    under_all = standing[:, :-1].all(axis=3).mean(axis=2)
    clean = zip(shares[:, -1] / n, low[:, -1], high[:, -1], strict=True)
    return [
        {
            "accuracy": shares[place, :-1] / n,
            "low": low[place, :-1],
            "high": high[place, :-1],
            "clean": Interval(*map(float, interval)),
            "draws": draws,
            "worst_draw": under_all[place],
        }
        for place, interval in enumerate(clean)
    ]


def share_failed(cells: Sequence[Record]) -> str:
    """How many of the cells failed, as a sentence; empty where none did."""
    failed = sum(bool(cell.failure) for cell in cells)
    return f"{failed} of {len(cells)} attacks failed" if failed else ""


def _failed(cell: Record) -> Curve:
    none = np.empty(0)
    return Curve(
        of=cell,
        attack=cell.attack,
        mode=cell.mode,
        precision=cell.precision,
        accuracy=none,
        low=none,
        high=none,
        clean=None,
        cost=None,
        cell=cell.key,
        attacks=0,
        failure=cell.failure,
    )


def _single(cell: Record, points: Mapping[str, Any]) -> Curve:
    return Curve(
        of=cell,
        attack=cell.attack,
        mode=cell.mode,
        precision=cell.precision,
        cost=Cost.of([cell]),
        cell=cell.key,
        attacks=1,
        failure="",
        refused=refused_share(cell),
        median_distance=median_distance(cell),
        evidence=cell.evidence,
        **points,
    )


def _worst(cells: Sequence[Record], points: Mapping[str, Any], failure: str) -> Curve:
    return Curve(
        of=cells[0],
        attack=WORST,
        mode="+".join(sorted({part for cell in cells for part in cell.mode.split("+")})),
        precision="+".join(sorted({cell.precision for cell in cells})),
        cost=Cost.of(cells),
        cell="",
        attacks=len(cells),
        failure=failure,
        evidence=evidence.least(cell.evidence for cell in cells),
        **points,
    )


def refused_share(cell: Record) -> float:
    """The share of the images of which the re-check refused a claimed success."""
    refused = cell.samples.get("refused")
    return 0.0 if refused is None else np.count_nonzero(refused > 0) / len(refused)


def median_distance(cell: Record) -> float | None:
    """The median distance of a minimal attack over the images right without attack; inf where no
    more than half of them were fooled, None for other attacks.
    """
    right = cell.samples["min_eps"] > 0
    if cell.kind != "minimal" or not right.any():
        return None
    distance = np.nan_to_num(cell.samples["distance"][right], nan=np.inf)
    return float(np.median(distance))

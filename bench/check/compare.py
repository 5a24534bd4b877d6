"""Whether a run is worse than a baseline: rows in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from bench.check.baseline import Baseline, Row, Rows, shown
from bench.errors import RequestError
from bench.report.curves import WORST
from bench.report.groups import by
from bench.stats import ALPHA, mcnemar

MAX_DROP = 0.01
QUERIES = 0.01
"""The share by which queries may rise where attacks stop at a success."""

Verdict = Literal["regression", "missing", "failed", "improvement", "new", "equal"]
BAD: tuple[Verdict, ...] = ("regression", "missing", "failed")


@dataclass(frozen=True)
class Limits:
    """What is still no regression: accuracy that falls by no more than max_drop (a fraction), or
    not significantly at the level alpha; times that grow by no more than the factor max_slowdown,
    where they are looked at.
    """

    max_drop: float = MAX_DROP
    alpha: float = ALPHA
    max_slowdown: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise RequestError(f"max-drop must be from 0 to below 1, got {self.max_drop}")
        if not 0 < self.alpha < 1:
            raise RequestError(f"alpha must lie between 0 and 1, got {self.alpha}")
        if self.max_slowdown is not None and not 1 <= self.max_slowdown < np.inf:
            raise RequestError(f"max-slowdown must be at least 1, got {self.max_slowdown}")


@dataclass(frozen=True)
class Point:
    """A row at one eps: accuracies before and after as fractions, on how many samples the run is
    less and more often right, and the exact McNemar p-value after Holm over the row's radii.
    """

    eps: Fraction
    before: float
    after: float
    drop: float
    lost: int
    won: int
    p: float

    def is_worse(self, limits: Limits) -> bool:
        """Whether accuracy fell by more than may be, and significantly."""
        return self.drop > limits.max_drop and self.p < limits.alpha

    def is_better(self, limits: Limits) -> bool:
        """Whether it rose by as much, and significantly."""
        return -self.drop > limits.max_drop and self.p < limits.alpha


@dataclass(frozen=True)
class Finding:
    """What became of a row. reasons: a line each, none where it is equal; notes: what was not
    compared, and why. points, n, reference and queries (forward and backward together, before and
    after) belong to rows that were compared.
    """

    title: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n: int = 0
    reference: Fraction | None = None
    points: tuple[Point, ...] = ()
    queries: tuple[int, int] | None = None

    @property
    def is_bad(self) -> bool:
        """Whether the gate fails for it."""
        return self.verdict in BAD


@dataclass(frozen=True)
class Result:
    """The findings in the order of the baseline, new rows last."""

    findings: tuple[Finding, ...]
    limits: Limits

    @property
    def is_passed(self) -> bool:
        """Whether nothing got worse."""
        return not any(finding.is_bad for finding in self.findings)

    def of(self, verdict: Verdict) -> list[Finding]:
        """The findings of one verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]


def compare(
    baseline: Baseline, run: Rows, limits: Limits, ratios: Mapping[str, float] | None = None
) -> Result:
    """Every row of a baseline against the run's, on the same samples, and after them the worst case
    over those of a defended model; what failed in the run, and what the baseline does not hold;
    times where ratios were measured.

    Raises RequestError where a row of the run saw other samples, or where two of its rows answer to
    one of the baseline.
    """
    found = {rows[0].name: rows for rows in by(run.complete, lambda row: row.name)}
    known = {row.name for row in baseline.rows}
    failed = dict(run.failed)
    made = [Finding(title, "failed", (reason,)) for title, reason in run.failed]
    pairs: list[_Pair] = []
    for row in baseline.rows:
        if row.name in found:
            pairs.append((row, _same(row, found[row.name])))
        elif row.title not in failed:
            made.append(Finding(row.title, "missing", (_missing(row, run),)))
    made += [_compared(*pair, limits) for pair in [*pairs, *_worst(pairs)]]
    made += _times(baseline.ratios, ratios or {}, limits)
    made += [Finding(rows[0].title, "new") for name, rows in found.items() if name not in known]
    return Result(tuple(made), limits)


def unique(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows of a run as a baseline, which holds each once; refuses to choose among several."""
    for same in by(rows, lambda row: row.name):
        if len(same) > 1:
            raise _ambiguous(same)
    return tuple(rows)


_Pair = tuple[Row, Row]
"""A row of the baseline, and what became of it."""


def _worst(pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """Per defended model with several attacks their worst case, over what both sides hold: an
    attack that is new may find more, and is no change of the model.
    """
    for group in by(pairs, lambda pair: (pair[0].group, pair[1].net)):
        if len(group) > 1:
            before, after = zip(*group, strict=True)
            yield _lowest(before), _lowest(after)


def _lowest(rows: Sequence[Row]) -> Row:
    """The worst case over rows, whose queries are their sums."""
    return replace(
        rows[0],
        attack=WORST,
        mode="+".join(sorted({part for row in rows for part in row.mode.split("+")})),
        forward=sum(row.forward for row in rows),
        backward=sum(row.backward for row in rows),
        each=None,
        outcomes=np.minimum.reduce([row.outcomes for row in rows]),
    )


def _same(row: Row, candidates: Sequence[Row]) -> Row:
    """The candidate that saw the samples of the row."""
    same = [candidate for candidate in candidates if candidate.data == row.data]
    if not same:
        other = candidates[0]
        raise RequestError(
            f"{row.title}: the baseline has {_data(row)}, the results {_data(other)}; only the "
            "same samples compare (take the same data and --n, or write the baseline with --update)"
        )
    if len(same) > 1:
        raise _ambiguous(same)
    return same[0]


def _data(row: Row) -> str:
    return f"{row.n} samples {row.samples[:12]} of data {row.fingerprint[:12]}"


def _ambiguous(rows: Sequence[Row]) -> RequestError:
    return RequestError(
        f"the results hold {len(rows)} cells of {rows[0].title}, of other weights, settings or "
        "numbers of samples: run into a fresh --out"
    )


def _missing(row: Row, run: Rows) -> str:
    """Why a row is not there."""
    if any(other.title == row.title for other in run.complete):
        return "the results hold it over other radii, with another sweep or query budget alone"
    return "not among the results"


def _compared(before: Row, after: Row, limits: Limits) -> Finding:
    """A row and what became of it."""
    points = tuple(_points(before, after))
    worse = [point for point in points if point.is_worse(limits)]
    better = [point for point in points if point.is_better(limits)]
    more, fewer, notes = _queries(before, after)
    bad = [*_told(worse, "fell"), *more]
    good = [*_told(better, "rose"), *fewer]
    return Finding(
        title=before.title,
        verdict="regression" if bad else "improvement" if good else "equal",
        reasons=tuple(bad or good),
        notes=tuple(notes),
        n=before.n,
        reference=before.reference,
        points=points,
        queries=(before.forward + before.backward, after.forward + after.backward),
    )


def _points(before: Row, after: Row) -> Iterator[Point]:
    """The paired test at every radius; their p-values are Holm's, so that alpha is the row's."""
    pairs = [(before.outcomes > float(eps), after.outcomes > float(eps)) for eps in before.points]
    tests = [mcnemar(first.mean(axis=1), second.mean(axis=1)) for first, second in pairs]
    adjusted = _holm(tests)
    for eps, (first, second), p in zip(before.points, pairs, adjusted, strict=True):
        one, other = first.mean(axis=1), second.mean(axis=1)
        drop = Fraction(int(first.sum()), first.size) - Fraction(int(second.sum()), second.size)
        yield Point(
            eps=eps,
            before=float(first.mean()),
            after=float(second.mean()),
            drop=float(drop),
            lost=int(np.sum(one > other)),
            won=int(np.sum(other > one)),
            p=p,
        )


def _holm(values: Sequence[float]) -> list[float]:
    """p-values such that the smallest below alpha is a discovery at that level over all of them
    (Holm 1979).
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


def _told(points: Sequence[Point], moved: str) -> Iterator[str]:
    """One line for a row's points: the one that moved most, and where else."""
    if not points:
        return
    most = max(points, key=lambda point: abs(point.drop))
    others = [_where(point.eps) for point in points if point is not most]
    more = f"; also {', '.join(others)}" if others else ""
    yield (
        f"accuracy {_where(most.eps)} {moved} by {100 * abs(most.drop):.1f} points, "
        f"{100 * most.before:.1f} % to {100 * most.after:.1f} % "
        f"({most.lost} samples lost, {most.won} won, p = {most.p:.2g}){more}"
    )


def _where(eps: Fraction) -> str:
    return f"at eps {shown(eps)}" if eps else "without attack"


def _queries(before: Row, after: Row) -> tuple[list[str], list[str], list[str]]:
    """What costs more and what less, and what was not compared.

    Where nothing stops early the queries of a sample are the recipe's alone, and compared exactly.
    Else they depend on when samples fall: of other weights they say nothing of what a step costs.
    """
    if before.attack == WORST:
        return [], [], []
    if before.each is not None:
        return _exactly(before, after)
    if before.net != after.net:
        return [], [], ["queries not compared where attacks stop early: the weights are others"]
    more, fewer = [], []
    for name in ("forward", "backward"):
        old, new = getattr(before, name), getattr(after, name)
        if new > old * (1 + QUERIES):
            more.append(f"{name} queries rose{_share(old, new)}, {old:,} to {new:,}")
        elif new < old * (1 - QUERIES):
            fewer.append(f"{name} queries fell{_share(old, new)}, {old:,} to {new:,}")
    return more, fewer, []


def _share(old: int, new: int) -> str:
    return f" by {100 * abs(new - old) / old:.1f} %" if old else ""


def _exactly(before: Row, after: Row) -> tuple[list[str], list[str], list[str]]:
    """The same of the queries of every single attacked sample, where one was attacked."""
    old, new = before.each or (0, 0), after.each
    if new == old or after.forward == 0:
        return [], [], []
    asked = f"queries per attacked sample, {old[0]} forward and {old[1]} backward,"
    if new is None:
        told = f"{asked} are not the same for all any more"
        return ([told], [], []) if before.net == after.net else ([], [], [told])
    told = f"{asked} are {new[0]} and {new[1]}"
    return ([told], [], []) if new[0] > old[0] or new[1] > old[1] else ([], [told], [])


def _times(old: Mapping[str, float], new: Mapping[str, float], limits: Limits) -> Iterator[Finding]:
    """Ratios of attacks over their own passes, which machines share; a baseline's are looked at
    where times are.
    """
    if limits.max_slowdown is None:
        return
    for name, before in old.items():
        title = f"time of {name} over its own passes"
        if name not in new:
            yield Finding(title, "missing", ("not measured any more",))
            continue
        factor = new[name] / before
        told = f"grew {factor:.2f} times, from {before:.2f} to {new[name]:.2f}"
        slow = factor > limits.max_slowdown
        yield Finding(title, "regression" if slow else "equal", (told,) if slow else ())


def smallest_drop(n: int, alpha: float, tests: int) -> float | None:
    """The smallest drop of accuracy that n samples can show at the level alpha over a number of
    tests, as a fraction: that of b samples lost and none won, the fewest with 2 * 0.5**b below
    alpha / tests; None where n is too small for any.
    """
    lost = next(b for b in range(1, 1100) if 2 * 0.5**b < alpha / tests)
    return lost / n if lost <= n else None

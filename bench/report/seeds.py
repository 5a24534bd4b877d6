"""The spread over training seeds: what trainings that differ in their seed alone have in common,
the table seeds, as data and as text.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from bench.audit.findings import level_of, severity
from bench.report import frames
from bench.report.derived import derived
from bench.report.groups import by
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
)
from bench.report.tables import seconds as seconds_text
from bench.stats import Interval, resampled_mean, student
from bench.store import Record
from models.grammar import without

__all__ = ["LEGEND", "SEEDS", "sections", "seedless", "seeds", "several"]

SEEDS = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "seeds": INT,
    "n": INT,
    "robust_mean": FLOAT,
    "robust_min": FLOAT,
    "robust_max": FLOAT,
    "robust_ci_low": FLOAT,
    "robust_ci_high": FLOAT,
    "clean_mean": FLOAT,
    "clean_min": FLOAT,
    "clean_max": FLOAT,
    "clean_ci_low": FLOAT,
    "clean_ci_high": FLOAT,
    "training_s": FLOAT,
    "note": TEXT,
    "query_budget": INT,
    "audit": TEXT,
    "robust_both_low": FLOAT,
    "robust_both_high": FLOAT,
}
"""Columns of seeds in order, and their types; model and defense stand without `seed=`."""
LEGEND = (
    """\
One row per model and defense, their key seed= left out; seeds: how many trainings (seeds of the
model, of the defense, or of both) it sums up. Robust: right under every attack at the eps above
(the worst case of the leaderboard), clean: without attack; the mean over the seeds in percent with
its 95 % interval (Student t over one accuracy per seed, cut to 0 and 100), and the least and the
most accurate seed. Images too: the 95 % bootstrap interval of the mean where both are drawn again,
trainings as clusters and the images. Training s: the mean over the seeds. Audit: the worst of
theirs.""",
    """\
Three uncertainties are apart. Training seeds: the Student intervals cover them and nothing else, on
the same test images; they come from few trainings, so they are wide, and take the accuracies to
scatter normally about their mean. Where all seeds agree such an interval is a point, and for one
seed there is none. Test images: the Wilson intervals of the leaderboard cover them, for one
training. Weakness of the attacks: no interval covers it; every robust accuracy is an upper
bound.""",
)


@derived
def seeds(records: Sequence[Record]) -> Rows:
    """One row per dataset, norm, eps, query budget, n, model and defense, seed= left out of both.

    The accuracies of a seed are the leaderboard's; where one text stands for several weights, their
    mean. Trainings without a number are named in note and count for nothing else. robust_both_low
    and robust_both_high: the bootstrap interval over trainings and images.
    """
    rows = frames.leaderboard(records)
    known = _Known(_training(records), _outcomes(records))
    return Rows.of((_row(members, known) for members in by(rows, _setting)), SEEDS)


def several(table: Rows) -> bool:
    """Whether any row sums up more than one seed."""
    return any(row["seeds"] > 1 for row in table)


def seedless(spec: str) -> str:
    """The spec less its key seed; text that is no spec stays."""
    try:
        return without(spec, "seed")
    except ValueError:
        return spec


def _setting(row: Row) -> Hashable:
    names = seedless(str(row["model"])), seedless(str(row["defense"]))
    return board(row), row["n"], names


def _pair(row: Row) -> tuple[str, str]:
    return str(row["model"]), str(row["defense"])


def _training(records: Sequence[Record]) -> dict[Hashable, float]:
    """Seconds of training by dataset, norm, model and defense, where they are known."""
    return {
        (row["dataset"], row["norm"], _pair(row)): row["training_s"]
        for row in frames.timing(records)
        if row["training_s"] is not None
    }


def _outcomes(records: Sequence[Record]) -> dict[Hashable, list[frames.Entry]]:
    """What is behind each row of the leaderboard; one text may stand for several weights."""
    entries = (entry for found in frames.boards(records) for entry in found if entry.cells)
    return {_of_entry(same[0]): same for same in by(entries, _of_entry)}


def _of_entry(entry: frames.Entry) -> Hashable:
    of = entry.of
    return of.dataset, of.norm, float(entry.eps), of.query_budget, of.model, of.defense, of.n


def _of_row(row: Row) -> Hashable:
    names = ("dataset", "norm", "eps", "query_budget", "model", "defense", "n")
    return tuple(row[name] for name in names)


@dataclass(frozen=True)
class _Known:
    """Seconds of training, and what is behind the rows of the leaderboard."""

    trained: Mapping[Hashable, float]
    outcomes: Mapping[Hashable, Sequence[frames.Entry]]

    def both(self, complete: Sequence[Sequence[Row]]) -> dict[str, float]:
        """The interval over trainings and images; nothing for one training, or other images."""
        entries = [self.outcomes[_of_row(rows[0])] for rows in complete]
        samples = {entry.of.samples_digest for same in entries for entry in same}
        if len(samples) > 1 or len(entries) == 1:
            return {}
        right = [np.mean([entry.right.mean(axis=1) for entry in same], axis=0) for same in entries]
        interval = resampled_mean(right)
        return {"robust_both_low": interval.low, "robust_both_high": interval.high}


def _row(members: list[Row], known: _Known) -> dict[str, Any]:
    """The row of leaderboard rows that differ in seeds alone."""
    of = members[0]
    trainings = by(members, _pair)
    numbered = [[r for r in rows if r["robust_accuracy"] is not None] for rows in trainings]
    complete = [rows for rows in numbered if rows]
    failed = len(trainings) - len(complete)
    row: dict[str, Any] = {
        "dataset": of["dataset"],
        "norm": of["norm"],
        "eps": of["eps"],
        "model": seedless(str(of["model"])),
        "defense": seedless(str(of["defense"])),
        "seeds": len(complete),
        "n": of["n"],
        "query_budget": of["query_budget"],
        "audit": min((row["audit"] for row in members), key=severity),
        "note": "; ".join(filter(None, (_failed(failed, len(trainings)), _attacks(complete)))),
    }
    if not complete:
        return row
    times = [known.trained.get((of["dataset"], of["norm"], _pair(rows[0]))) for rows in complete]
    told = [time for time in times if time is not None]
    return (
        row
        | _spread("robust", [mean(r["robust_accuracy"] for r in rows) for rows in complete])
        | _spread("clean", [mean(r["clean_accuracy"] for r in rows) for rows in complete])
        | known.both(complete)
        | {"training_s": round(mean(told), 3) if told else None}
    )


def _failed(failed: int, trainings: int) -> str:
    return f"{failed} of {trainings} seeds failed" if failed else ""


def _attacks(complete: Sequence[Sequence[Row]]) -> str:
    """What keeps seeds from being compared: that not all met as many attacks."""
    met = {int(row["attacks"]) for rows in complete for row in rows}
    return f"the seeds met {min(met)} to {max(met)} attacks" if len(met) > 1 else ""


def _spread(name: str, shares: Sequence[float]) -> dict[str, float]:
    interval = student(shares)
    return {
        f"{name}_mean": interval.value,
        f"{name}_min": min(shares),
        f"{name}_max": max(shares),
        f"{name}_ci_low": interval.low,
        f"{name}_ci_high": interval.high,
    }


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm, eps and query budget, from the rows of `seeds`."""
    names = ("model", "defense", "seeds", "n", "robust", "min", "max", "images too")
    header = (*names, "clean", "min", "max", "training s", "audit", "note")
    align = "ll" + "r" * 10 + "ll"
    return [
        Section(board_title(rows[0]), "", Table(header, tuple(map(_line, rows)), align))
        for rows in by(table, board)
    ]


def _line(row: Row) -> tuple[str, ...]:
    robust, *ends = _shares(row, "robust")
    return (
        row["model"],
        row["defense"],
        count(row["seeds"]),
        count(row["n"]),
        bounded(robust, row["audit"]),
        *ends,
        _both(row),
        *_shares(row, "clean"),
        seconds_text(row["training_s"]),
        level_of(row["audit"]),
        row["note"],
    )


def _both(row: Row) -> str:
    bounds = row["robust_both_low"], row["robust_both_high"]
    return "" if bounds[0] is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def _shares(row: Row, name: str) -> tuple[str, str, str]:
    middle, low, high = (row[f"{name}_{what}"] for what in ("mean", "ci_low", "ci_high"))
    spread = percent(middle) if low is None else interval_text(Interval(middle, low, high))
    return spread, percent(row[f"{name}_min"]), percent(row[f"{name}_max"])

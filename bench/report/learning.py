"""Learning curves: what was measured on validation images while the defended models trained, as
data and as figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import figures
from bench.report.groups import by
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.seeds import seedless
from bench.store import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LEARNING", "drawn", "learning"]

LEARNING = {
    "dataset": TEXT,
    "model": TEXT,
    "defense": TEXT,
    "norm": TEXT,
    "weights": TEXT,
    "epoch": INT,
    "loss": FLOAT,
    "clean": FLOAT,
    "robust": FLOAT,
    "own_attack": FLOAT,
    "alarm": INT,
}
"""Columns of learning in order, and their types. robust: accuracy under the check of validation;
own_attack: under the attack trained with; alarm: 1 where the two fell apart.
"""
PREFIX = "learning_"
_INCHES = (7.6, 4.2)
_PER_LINE = 0.19
_LETTERS = 84


def learning(records: Sequence[Record]) -> Rows:
    """A row per log entry of each trained model, whatever attacked it."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        for entry in _log(record):
            who = {
                "dataset": record.dataset,
                "model": record.model,
                "defense": record.defense,
                "norm": record.norm,
                "weights": str(record.provenance.get("weights", "")),
            }
            measured = {name: entry.get(name) for name in list(LEARNING)[len(who) :]}
            measured["alarm"] = int(bool(measured["alarm"]))
            rows.setdefault((*who.values(), entry.get("epoch")), who | measured)
    return Rows.of(list(rows.values()), LEARNING)


def drawn(records: Sequence[Record]) -> dict[str, str]:
    """File name to SVG text, a figure per dataset and norm with a log."""
    table = learning(records)
    groups = by(table, lambda row: (row["dataset"], row["norm"]))
    return {figure_name(*_setting(rows)): figures.drawn(partial(_figure, rows)) for rows in groups}


def figure_name(dataset: str, norm: str) -> str:
    """The file name of a dataset's and norm's figure."""
    return f"{PREFIX}{figures.named(dataset)}_{norm}.svg"


def _log(record: Record) -> list[Mapping[str, Any]]:
    """Its entries that measure a classifier; a detector's have no clean accuracy."""
    log = record.provenance.get("training_log")
    entries = log if isinstance(log, list) else []
    return [
        entry
        for entry in entries
        if isinstance(entry, Mapping) and {"epoch", "clean"} <= set(entry)
    ]


def _setting(rows: Sequence[Mapping[Any, Any]]) -> tuple[str, str]:
    return str(rows[0]["dataset"]), str(rows[0]["norm"])


def _name(net: Sequence[Mapping[Any, Any]]) -> str:
    """The defended model, less its seeds."""
    return f"{seedless(net[0]['model'])} / {seedless(net[0]['defense'])}"


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def _figure(rows: Sequence[Mapping[Any, Any]]) -> Figure:
    """Clean accuracy dashed, robust solid where it was measured, a colour per defended model,
    whose seeds share it; alarms are crosses.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_INCHES, layout="constrained")
    axes = drawing.add_subplot()
    nets = by(rows, lambda row: (row["model"], row["defense"], row["weights"]))
    names = list(dict.fromkeys(map(_name, nets)))
    told: set[str] = set()
    for net in nets:
        colour = figures.PALETTE[names.index(_name(net)) % len(figures.PALETTE)]
        epochs = [row["epoch"] for row in net]
        clean, robust = ([_percent(row[name]) for row in net] for name in ("clean", "robust"))
        label = "" if _name(net) in told else figures.wrapped(_name(net), _LETTERS)
        told.add(_name(net))
        dashed = axes.plot(epochs, clean, color=colour, linestyle="--", marker=".", linewidth=1.0)
        if np.isnan(robust).all():
            dashed[0].set_label(label)
            continue
        axes.plot(epochs, robust, color=colour, marker=".", linewidth=1.8, label=label)
        fired = [place for place, row in enumerate(net) if row["alarm"]]
        axes.plot(
            [epochs[i] for i in fired], [robust[i] for i in fired], "x", color=colour, markersize=9
        )
    dataset, norm = _setting(rows)
    axes.set_title(f"{dataset}: accuracy while training, {norm}", pad=10)
    axes.set_xlabel("epoch (dashed: clean; solid: under the check of validation; cross: alarm)")
    axes.set_ylabel("accuracy on validation images (%)")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(-2, 102)
    axes.grid(visible=True)
    drawing.legend(loc="outside lower center", ncols=1)
    drawing.set_figheight(_INCHES[1] + _PER_LINE * len(names))
    return drawing

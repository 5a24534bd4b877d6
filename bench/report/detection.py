"""How well detectors told adversarial images from clean ones: the table detection, ROC curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.audit.findings import level_of
from bench.report import figures
from bench.report.groups import by
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.tables import Section, Table, count, eps_text, interval_text, percent
from bench.report.verdicts import of_pipeline, verdicts
from bench.stats import Interval, wilson
from bench.store import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DETECTION", "LEGEND", "detection", "drawn", "sections"]

DETECTION = {
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "mode": TEXT,
    "seed": INT,
    "seen": INT,
    "images": INT,
    "clean_refused": FLOAT,
    "fooling": INT,
    "auc": FLOAT,
    "tpr_at_1_percent": FLOAT,
    "tpr_at_5_percent": FLOAT,
    "refused": FLOAT,
    "passed": FLOAT,
    "cell": TEXT,
    "audit": TEXT,
    "passed_low": FLOAT,
    "passed_high": FLOAT,
}
"""Columns of detection in order, and their types. seen: 1 where the detector was trained with this
very attack, made on the classifier.
"""
LEGEND = (
    """\
One row per attack and mode. Oblivious: the attack's images were made on the undefended classifier
inside; any other mode: on the whole pipeline, detector and all. Seen: the detector was trained with
this very attack, made on the classifier.""",
    """\
Fooling: how many of the images the attack turned into adversarial ones, which the classifier gets
wrong though it is right on the clean image; only these have to be detected. AUC: the probability,
in percent, that one of them is more suspicious than a clean image. TPR: the share of them above the
score that 1 or 5 % of the clean images exceed, empty where there are too few.""",
    """\
Refused: the share of the fooling images refused at the threshold deployed, which was set on
validation images before any attack. Clean refused: the share of the clean images that are, each of
which counts as an error. Passed: the share of all images that the attack leaves misclassified and
accepted, with its 95 % Wilson interval, judged by one point per image, that of the highest loss;
the robust accuracy of the other tables judges every success that an attack claims.""",
)
PREFIX = "detection_"
_INCHES = (7.6, 4.6)
_PER_LINE = 0.19
_LETTERS = 84
_OBLIVIOUS = "oblivious"


def detection(records: Iterable[Record]) -> Rows:
    """One row per cell whose detector was measured; empty where there is none."""
    records = list(records)
    told = verdicts(records)
    rows = (
        _row(record, fact) | {"audit": of_pipeline(told, record).text}
        for record, fact in _measured(records)
    )
    return Rows.of(rows, DETECTION)


def _measured(records: Iterable[Record]) -> Iterator[tuple[Record, Mapping[str, Any]]]:
    for record in records:
        fact = record.provenance.get("detection")
        if isinstance(fact, Mapping) and not record.failure:
            yield record, fact


def _row(record: Record, fact: Mapping[str, Any]) -> dict[str, Any]:
    passed = wilson(fact["passed"] * fact["images"], fact["images"])
    return {
        "dataset": record.dataset,
        "norm": record.norm,
        "eps": fact["eps"],
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "mode": record.mode,
        "seed": record.seed,
        "seen": int(fact["seen"]),
        "tpr_at_1_percent": fact["tpr"]["0.01"],
        "tpr_at_5_percent": fact["tpr"]["0.05"],
        "cell": record.key,
        **{name: fact[name] for name in ("images", "clean_refused", "fooling", "auc")},
        **{name: fact[name] for name in ("refused", "passed")},
        "passed_low": passed.low,
        "passed_high": passed.high,
    }


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm and eps, from the rows of `detection`."""
    boards = by(table, lambda row: (row["dataset"], row["norm"], row["eps"]))
    names = ("model", "defense", "attack", "mode", "seed", "seen", "images", "clean refused")
    rates = ("AUC", "TPR at 1 %", "TPR at 5 %", "refused", "passed")
    header = (*names, "fooling", *rates, "audit")
    return [
        Section(_title(rows), "", Table(header, tuple(map(_texts, rows)), "llllll" + "r" * 8 + "l"))
        for rows in boards
    ]


def _title(rows: Sequence[Any]) -> str:
    return f"{rows[0]['dataset']}, {rows[0]['norm']}, eps = {eps_text(rows[0]['eps'])}"


def _texts(row: Mapping[Any, Any]) -> tuple[str, ...]:
    rates = ("auc", "tpr_at_1_percent", "tpr_at_5_percent", "refused")
    passed = Interval(row["passed"], row["passed_low"], row["passed_high"])
    return (
        *(row[name] for name in ("model", "defense", "attack", "mode")),
        str(row["seed"]),
        "seen" if row["seen"] else "unseen",
        count(row["images"]),
        percent(row["clean_refused"]),
        count(row["fooling"]),
        *(percent(row[name]) for name in rates),
        interval_text(passed),
        level_of(row["audit"]),
    )


def drawn(records: Sequence[Record]) -> dict[str, str]:
    """File name to SVG text: ROC curves, a figure per dataset and norm that has any."""
    cells = [(r, fact) for r, fact in _measured(records) if fact["auc"] is not None]
    groups = by(cells, lambda cell: (cell[0].dataset, cell[0].norm))
    return {figure_name(cells[0][0]): figures.drawn(partial(_figure, cells)) for cells in groups}


def figure_name(of: Record) -> str:
    """The file name of a dataset's and norm's figure."""
    return f"{PREFIX}{figures.named(of.dataset)}_{of.norm}.svg"


def _figure(cells: Sequence[tuple[Record, Mapping[str, Any]]]) -> Figure:
    """A colour per defended model and attack; dashed where the attack knows the detector, thick
    where the detector was trained with it.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_INCHES, layout="constrained")
    axes = drawing.add_subplot()
    pairs = list(dict.fromkeys(map(_pair, (record for record, _ in cells))))
    for record, fact in cells:
        alarms, hits = zip(*fact["roc"], strict=True)
        axes.plot(
            [100 * k / alarms[-1] for k in alarms],
            [100 * k / hits[-1] for k in hits],
            color=figures.PALETTE[pairs.index(_pair(record)) % len(figures.PALETTE)],
            linestyle="-" if record.mode == _OBLIVIOUS else "--",
            linewidth=2.2 if fact["seen"] else 1.2,
            label=figures.wrapped(_label(record, fact), _LETTERS),
        )
    of = cells[0][0]
    axes.plot([0, 100], [0, 100], color="#666666", linewidth=0.6)
    axes.set_title(f"{of.dataset}: adversarial images detected, {of.norm}", pad=10)
    axes.set_xlabel("clean test images refused (%)")
    axes.set_ylabel("adversarial images refused (%)")
    axes.set_xlim(-1, 101)
    axes.set_ylim(-2, 102)
    axes.grid(visible=True)
    drawing.legend(loc="outside lower center", ncols=1, handlelength=3.2)
    drawing.set_figheight(_INCHES[1] + _PER_LINE * len(cells))
    return drawing


def _pair(record: Record) -> tuple[str, str, str]:
    """Defended model and attack."""
    return record.model, record.defense, record.attack


def _label(record: Record, fact: Mapping[str, Any]) -> str:
    seen = ", seen" if fact["seen"] else ""
    who = f"{record.model} / {record.defense}: {record.attack} ({record.mode}{seen})"
    return f"{who}, AUC {percent(fact['auc'])}"

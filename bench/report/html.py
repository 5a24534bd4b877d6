"""The report as one self-contained HTML page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

from bench.report import (
    audit,
    certified,
    comparisons,
    detection,
    figures,
    frames,
    gallery,
    learning,
    modes,
    seeds,
    tables,
    tradeoff,
)
from bench.report.groups import by
from bench.report.markdown import crossings
from bench.report.tables import Section, Table
from bench.store import Record

if TYPE_CHECKING:
    from markupsafe import Markup

_END = "\0"
"""Between cells that are escaped together; no cell holds it."""
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Picture:
    """An SVG under a title."""

    title: str
    svg: str


@dataclass(frozen=True)
class Chapter:
    """Tables under a heading, and how to read them."""

    title: str
    sections: Sequence[Section]
    legend: Sequence[str]


@dataclass(frozen=True)
class Setting:
    """What the page shows of one dataset and norm; figure: none where no cell is complete; more:
    those that stand after the tables.
    """

    title: str
    figure: Picture | None
    sections: Sequence[Section]
    more: Sequence[Picture]


def page(records: Sequence[Record], drawn: Mapping[str, str]) -> str:
    """The page of the records, with the figures that were drawn of them (file name to SVG text)."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("bench.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return (
        environment.from_string(template).render(
            leaderboard=tables.leaderboard(frames.leaderboard(records)),
            leaderboard_legend=tables.LEADERBOARD_LEGEND,
            before=list(_before(records)),
            after=list(_after(records)),
            settings=_settings(records, drawn),
            accuracy_legend=tables.ACCURACY_LEGEND,
            timing=tables.timing(frames.timing(records)),
            timing_legend=tables.TIMING_LEGEND,
            origins=tables.origins(records),
            machines=_machines(records),
            trained=_trained(records),
            logs=_logs(records),
            cells=len(records),
            failed=sum(bool(record.failure) for record in records),
            lines_of=_lines,
        )
        + "\n"
    )


def _before(records: Sequence[Record]) -> Iterator[Chapter]:
    """What stands behind the leaderboard."""
    looked, handed = audit.audits(records), modes.modes(records)
    if looked:
        yield Chapter("Audit", audit.sections(looked), audit.LEGEND)
    if handed:
        yield Chapter("Modes of attack", modes.sections(handed), modes.legend(handed))


def _after(records: Sequence[Record]) -> Iterator[Chapter]:
    """What stands behind the curves."""
    paired, proven = comparisons.comparisons(records), certified.certified(records)
    if paired:
        yield Chapter("Comparisons", comparisons.sections(paired), comparisons.LEGEND)
    if proven:
        shown = [*crossings(records), *certified.sections(proven)]
        yield Chapter("Certified accuracy", shown, certified.LEGEND)
    watched, spread = detection.detection(records), seeds.seeds(records)
    if watched:
        yield Chapter("Detection", detection.sections(watched), detection.LEGEND)
    if seeds.several(spread):
        yield Chapter("Training seeds", seeds.sections(spread), seeds.LEGEND)


def _lines(table: Table) -> list[Markup]:
    """The cells of each row, numbers broken before their interval alone. They are escaped by
    column: a long table takes a template, cell by cell, ten times as long.
    """
    from markupsafe import Markup, escape

    def escaped(column: Sequence[str], side: str) -> list[str]:
        text = str(escape(_END.join(column)))
        if side == "r":
            text = text.replace(" [", "\n[").replace(", ", ",\u00a0")
        return text.split(_END)

    columns = map(escaped, zip(*table.rows, strict=True), table.align)
    cells = {"l": '<td class="left">{}</td>', "r": "<td>{}</td>"}
    line = "".join(cells[side] for side in table.align)
    return [Markup(line.format(*texts)) for texts in zip(*columns, strict=True)]  # noqa: S704  its texts escaped above


def _settings(records: Sequence[Record], drawn: Mapping[str, str]) -> list[Setting]:
    from markupsafe import Markup

    numbers = count()

    def pictures(title: str, names: Iterable[str]) -> list[Picture]:
        shown = (drawn[name] for name in names if name in drawn)
        # our own drawing, its texts escaped by the backend
        return [Picture(title, Markup(_inline(svg, f"figure{next(numbers)}"))) for svg in shown]  # noqa: S704

    made: list[Setting] = []
    for members in by(frames.curves(records), lambda curve: (curve.of.dataset, curve.of.norm)):
        of = members[0].of
        title = f"{of.dataset}, {of.norm}"
        first = pictures(f"Accuracy vs eps: {title}", [figures.name(of.dataset, of.norm)])
        paid = (tradeoff.figure_name(of.dataset, of.norm, place) for place in count(1))
        more = pictures(
            f"Robust against clean accuracy: {title}", takewhile(lambda name: name in drawn, paid)
        )
        more += pictures(f"While training: {title}", [learning.figure_name(of.dataset, of.norm)])
        before = dict.fromkeys(gallery.figure_name(curve.of) for curve in members)
        more += pictures(f"Before and after a defense: {title}", before)
        made.append(Setting(title, next(iter(first), None), tables.accuracy(members), more))
    return made


def _inline(svg: str, prefix: str) -> str:
    """SVG text without prolog and metadata, its ids made unique in the page; empty stays empty."""
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.find("<svg") :], flags=re.DOTALL)
    return re.sub(r'( id="|"#|url\(#)', rf"\1{prefix}-", body)


def _machines(records: Sequence[Record]) -> Table:
    """The distinct environments that computed the records."""
    keys = ("processor", "gpu", "threads")
    rows = by(
        [
            (
                *(_text(record.provenance.get(key)) for key in keys),
                _versions(record.provenance.get("versions")),
            )
            for record in records
        ],
        lambda row: row,
    )
    starts = sorted(str(r.provenance["start"]) for r in records if r.provenance.get("start"))
    notes = (f"First cell started {starts[0]}, last {starts[-1]}.",) if starts else ()
    header = (*keys, "versions", "cells")
    cells = tuple((*group[0], str(len(group))) for group in rows)
    return Table(header, cells, align="llllr", notes=notes)


def _trained(records: Sequence[Record]) -> Table:
    """The distinct defended models: weights, objective, seconds of training."""
    keys = ("weights", "objective", "training_seconds")
    rows = [
        (r.dataset, r.model, r.defense, *(_text(r.provenance.get(key)) for key in keys))
        for r in records
        if any(r.provenance.get(key) for key in keys)
    ]
    header = ("dataset", "model", "defense", "weights", "objective", "training s")
    return Table(header, tuple(dict.fromkeys(rows)), align="lllllr")


def _logs(records: Sequence[Record]) -> list[Section]:
    """The training log of each defended model that has one: a row per entry."""
    logs: dict[str, Section] = {}
    for record in records:
        log = record.provenance.get("training_log")
        if isinstance(log, list) and log and all(isinstance(entry, Mapping) for entry in log):
            title = f"Training log of {record.model} / {record.defense} on {record.dataset}"
            names = tuple(dict.fromkeys(str(name) for entry in log for name in entry))
            rows = tuple(tuple(_text(entry.get(name)) for name in names) for entry in log)
            table = Table(names, rows, align="r" * len(names))
            logs.setdefault(title, Section(title, "", table))
    return list(logs.values())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _versions(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _text(value)
    return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))

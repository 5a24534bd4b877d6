"""The tables as GitHub markdown, and the short leaderboard for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.audit.findings import level_of
from bench.grids import github
from bench.report import anytime as curves_by_queries
from bench.report import audit as looks
from bench.report import certified as proofs
from bench.report import claims as others
from bench.report import comparisons as pairs
from bench.report import detection as detectors
from bench.report import frames, strength, tables
from bench.report import modes as handed
from bench.report import seeds as trainings
from bench.report import transfer as sources
from bench.report.groups import by
from bench.report.rows import Row, Rows
from bench.report.tables import Section, Table
from bench.store import Record

WIDTH = 100
"""Columns of a terminal that the summary tries to fit."""
_SHORTEST = 12
_END = "\0"
"""Between cells that are escaped together; no cell holds it."""
_SPECIAL = re.compile(r"[\\`*|<]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def accuracy(records: Sequence[Record]) -> str:
    """The document accuracy_vs_eps.md."""
    sections = tables.accuracy(frames.curves(records))
    return _document("Accuracy vs eps", sections, tables.ACCURACY_LEGEND, records)


def leaderboard(records: Sequence[Record], claimed: Rows | None = None) -> str:
    """The document leaderboard.md, the claims of others in tables of their own."""
    sections = tables.leaderboard(frames.leaderboard(records))
    if not claimed:
        return _document("Leaderboard", sections, tables.LEADERBOARD_LEGEND, records)
    legend = (*tables.LEADERBOARD_LEGEND, *others.LEGEND)
    return _document("Leaderboard", [*sections, *others.sections(claimed)], legend, records)


def attacks(records: Sequence[Record]) -> str:
    """The document attacks.md."""
    sections = strength.sections(strength.attacks(records))
    return _document("Attacks", sections, strength.LEGEND, records)


def comparisons(records: Sequence[Record]) -> str:
    """The document comparisons.md."""
    sections = pairs.sections(pairs.comparisons(records))
    return _document("Comparisons", sections, pairs.LEGEND, records)


def anytime(records: Sequence[Record]) -> str:
    """The document anytime.md."""
    sections = curves_by_queries.sections(curves_by_queries.anytime(records))
    return _document("Accuracy vs queries", sections, curves_by_queries.LEGEND, records)


def transfer(records: Sequence[Record]) -> str:
    """The document transfer.md, of the cells made on a source model."""
    table = sources.transfer(records)
    shown = set(table.column("cell"))
    made = [record for record in records if record.key in shown]
    return _document("Transfer", sources.sections(table), sources.LEGEND, made)


def modes(records: Sequence[Record]) -> str:
    """The document modes.md, of the defenses attacked in several modes."""
    table = handed.modes(records)
    shown = set(table.column("cell"))
    made = [record for record in records if record.key in shown]
    return _document("Modes of attack", handed.sections(table), handed.legend(table), made)


def detection(records: Sequence[Record]) -> str:
    """The document detection.md, of the cells whose detector was measured."""
    table = detectors.detection(records)
    shown = set(table.column("cell"))
    measured = [record for record in records if record.key in shown]
    return _document("Detection", detectors.sections(table), detectors.LEGEND, measured)


def certified(records: Sequence[Record]) -> str:
    """The document certified.md, of the certificates and the attacks beside them."""
    made = [
        record for bracket in proofs.brackets(records) for record in (bracket.of, *bracket.attacks)
    ]
    sections = proofs.sections(proofs.certified(records))
    return _document("Certified accuracy", [*crossings(records), *sections], proofs.LEGEND, made)


def crossings(records: Sequence[Record]) -> list[Section]:
    """The brackets that are crossed, if any."""
    lines = tuple((line,) for line in proofs.crossed(records))
    text = "These attacks and bounds cannot both be right: do not believe their numbers."
    table = Table(("inside a proven radius",), lines, align="l")
    return [Section("Crossed brackets", text, table)] if lines else []


def audit(records: Sequence[Record]) -> str:
    """The document audit.md."""
    sections = looks.sections(looks.audits(records))
    return _document("Audit", sections, looks.LEGEND, records)


def seeds(records: Sequence[Record]) -> str:
    """The document seeds.md."""
    sections = trainings.sections(trainings.seeds(records))
    return _document("Training seeds", sections, trainings.LEGEND, records)


def timing(records: Sequence[Record]) -> str:
    """The document timing.md."""
    table = tables.timing(frames.timing(records))
    sections = [Section("", "", table)] if table.rows else []
    return _document("Timing", sections, tables.TIMING_LEGEND, records)


def escape(text: str) -> str:
    """Text on one line that markdown shows as it is, in a table cell too."""
    return _SPECIAL.sub(
        lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", " ".join(text.split())
    )


def _document(
    title: str, sections: Iterable[Section], legend: Iterable[str], records: Sequence[Record]
) -> str:
    paragraphs = [f"# {title}"]
    if not records:
        return f"# {title}\n\nNo results yet.\n"
    heading = ""
    for section in sections:
        if section.title and section.title != heading:
            paragraphs.append(f"## {escape(section.title)}")
        heading = section.title
        paragraphs += [escape(section.text)] if section.text else []
        paragraphs.append(_table(section.table))
        if section.table.notes:
            paragraphs.append("<br>\n".join(map(escape, section.table.notes)))
    paragraphs += map(escape, legend)
    paragraphs += _made_by(records)
    return "\n\n".join(paragraphs) + "\n"


def _made_by(records: Sequence[Record]) -> Iterable[str]:
    for commands, version in tables.origins(records):
        quoted = ", ".join(f"`{command.replace('`', chr(39))}`" for command in commands)
        yield f"Made by {quoted} with {f'adversarial-bench {version}'.strip()}."


def _table(table: Table) -> str:
    columns = map(_escaped, zip(*table.rows, strict=True))
    rows = [
        list(map(_bold, row)) if place in table.bold else row
        for place, row in enumerate(zip(*columns, strict=True))
    ]
    return github(table.header, rows, table.align)


def _escaped(column: Sequence[str]) -> list[str]:
    """The cells of a column, escaped together."""
    return [cell.strip() for cell in escape(_END.join(column)).split(_END)]


def _bold(cell: str) -> str:
    return f"**{cell}**" if cell else ""


def summary(records: Sequence[Record]) -> str:
    """The leaderboard in short: a table per dataset, norm and eps, and a line per failure."""
    rows = frames.leaderboard(records)
    if not rows:
        return "No results yet."
    parts = []
    for board in by(rows, tables.board):
        sizes = " or ".join(tables.count(n) for n in dict.fromkeys(row["n"] for row in board))
        notes = [f"{r['model']} / {r['defense']}: {note}" for r in board for note in _notes(r)]
        table = _fitted(_columns(board))
        parts.append("\n".join([f"{tables.board_title(board[0])}, n = {sizes}", "", table, *notes]))
    return "\n\n".join(parts)


def _notes(row: Row) -> Iterable[str]:
    """What a row has to say beside its numbers."""
    told = row["audit"] if level_of(row["audit"]) != row["audit"] else ""
    return filter(None, (row["note"], told))


_SHOWN: Mapping[str, Callable[[Row], str]] = {
    "model": lambda row: str(row["model"]),
    "defense": lambda row: str(row["defense"]),
    "clean": lambda row: tables.percent(row["clean_accuracy"]),
    "oblivious": lambda row: tables.percent(row["oblivious_accuracy"]),
    "robust [95 %]": tables.robust_text,
    "audit": lambda row: level_of(row["audit"]),
    "attacks": lambda row: tables.count(row["attacks"]),
    "queries": lambda row: tables.count(_queries(row)),
    "seconds": lambda row: tables.seconds(row["wall_s"]),
}
_WORDS = ("model", "defense", "audit")
"""Those of words, which begin at the left."""


def _queries(row: Row) -> Any:
    failed = row["robust_accuracy"] is None
    return None if failed else row["forward_queries"] + row["backward_queries"]


def _columns(board: Sequence[Row]) -> list[list[str]]:
    """Header and rows, without a column that holds nothing."""
    made = {name: [read(row) for row in board] for name, read in _SHOWN.items()}
    filled = {name: cells for name, cells in made.items() if any(cells)}
    return [list(filled), *map(list, zip(*filled.values(), strict=True))]


def _fitted(table: list[list[str]]) -> str:
    """Header and rows; where too wide, without the middle of long model and defense names.

    Built here because tabulate makes each column two wider than its header.
    """
    header, *rows = table
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    excess = sum(widths) + 3 * len(widths) + 1 - WIDTH
    if excess > 0:
        room = max(widths[0] + widths[1] - excess, 2 * _SHORTEST)
        model = min(widths[0], max(room // 2, room - widths[1]))
        widths[:2] = model, room - model
    lines = [header, ["-" * width for width in widths], *rows]
    aligns = ["l" if name in _WORDS else "r" for name in header]
    return "\n".join(f"| {' | '.join(map(_padded, line, widths, aligns))} |" for line in lines)


def _padded(text: str, width: int, align: str) -> str:
    short = _abbreviated(text, width)
    return short.ljust(width) if align == "l" else short.rjust(width)


def _abbreviated(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    tail = (width - 3) // 2
    return f"{text[: width - 3 - tail]}...{text[len(text) - tail :]}"

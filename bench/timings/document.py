"""What was measured, as a table, as a document, and as ratios alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from bench import __version__
from bench.grids import github
from bench.report.markdown import escape
from bench.timings.row import Row

COLUMNS = (
    *("part", "name", "on", "ratio", "target", "seconds", "floor", "floor_s"),
    *("queries", "floor_queries", "query_ratio", "peak_mb"),
)
_TITLES = {
    "step": "Steps of attacks over their own passes through the model",
    "sweep": "Sweeps over a full run per radius",
    "start": "Starts",
    "purification": "Purification",
}
_LEGEND = (
    """\
Ratio: seconds over those of the floor, medians of runs by turns in one process on one torch thread.
Seconds are the processor's for this process (on the wall for starts, and with an accelerator), so
that other work on the machine lengthens both alike; what it does to caches stays in them.""",
    """\
The floor of an attack: as many forwards of a batch, losses and gradients to the input, parameters
frozen, as its definition needs, and one last look; of DeepFool, which stops by itself, those that
it made. Without the clean pass and the re-check. That of a sweep: every step at every radius, from
scratch. Queries are forward ones per image.""",
    """\
Peak: the most megabytes while it ran, allocated on the accelerator, else resident in this process,
interpreter and libraries included.""",
)


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """A line per row, with the ratios."""
    lines = [{**vars(row), "ratio": row.ratio, "query_ratio": _query_ratio(row)} for row in rows]
    made = pd.DataFrame(lines, columns=list(COLUMNS))
    return made.round({"ratio": 3, "seconds": 4, "floor_s": 4, "query_ratio": 4, "peak_mb": 0})


def ratios(rows: Sequence[Row]) -> str:
    """Ratios alone, sorted, as JSON: what may be compared between machines."""
    told: dict[str, dict[str, float]] = {}
    for row in rows:
        entry = {"seconds": round(row.ratio, 2)}
        if (share := _query_ratio(row)) is not None:
            entry["queries"] = round(share, 3)
        told[f"{row.part}: {row.name} ({row.on})"] = entry
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def markdown(rows: Sequence[Row], machine: Mapping[str, str], command: str) -> str:
    """The document: a table per part, the machine, how to read it, and what made it."""
    paragraphs = ["# Timing"]
    for part, title in _TITLES.items():
        members = [row for row in rows if row.part == part]
        if members:
            paragraphs += [f"## {title}", _table(members)]
    facts = "; ".join(f"{name}: {value}" for name, value in machine.items())
    paragraphs += map(escape, (f"Measured on {facts}.", *_LEGEND))
    paragraphs.append(f"Made by `{command}` with adversarial-bench {__version__}.")
    return "\n\n".join(paragraphs) + "\n"


def _table(rows: Sequence[Row]) -> str:
    header = ("what", "on", "ratio", "target", "seconds", "floor", "floor s", "queries", "peak MB")
    lines = [
        (
            *(escape(row.name), escape(row.on), f"{row.ratio:.3f}"),
            *(_number(row.target, "g"), f"{row.seconds:.3g}", row.floor, f"{row.floor_s:.3g}"),
            *(_queries(row), _number(row.peak_mb, ",.0f")),
        )
        for row in rows
    ]
    return github(header, lines, "llrrrlrrr")


def _queries(row: Row) -> str:
    beside = "" if row.floor_queries is None else f" of {row.floor_queries:,.0f}"
    return _number(row.queries, ",.0f") + beside


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _query_ratio(row: Row) -> float | None:
    if row.queries is None or row.floor_queries is None:
        return None
    return row.queries / row.floor_queries

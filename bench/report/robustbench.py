"""Rows of the leaderboard in the shape of RobustBench's model_info files, to be compared with
theirs.

The shape is that of github.com/RobustBench/robustbench, model_info/DATASET/THREAT/NAME.json: texts,
but additional_data and unreliable, which are true or false, and number_forward_passes, a number.
Accuracies are in percent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from bench.plan import OBLIVIOUS, TRANSFER
from bench.report import frames
from bench.report.curves import worst
from bench.report.frames import Entry
from bench.report.groups import pipelines
from bench.report.tables import unit
from bench.report.verdicts import of_pipeline, verdicts
from bench.store import Record

THREATS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0"}
"""What they call a norm."""
_AUTOATTACK = "autoattack"
_LONGEST = 100


def files(records: Sequence[Record]) -> dict[str, str]:
    """A text for each row of the leaderboard that has a number, by DATASET/THREAT/NAME.json."""
    made: dict[str, str] = {}
    told = verdicts(records)
    for cells in pipelines(records):
        entry = Entry.of_cells(cells, of_pipeline(told, cells[0]))
        if entry.cells:
            of = entry.of
            where = f"{safe(of.dataset)}/{THREATS[of.norm]}"
            made[_free(f"{where}/{safe(of.model)}__{safe(of.defense)}", made)] = text(info(entry))
    return {f"{name}.json": content for name, content in made.items()}


def info(entry: Entry) -> dict[str, Any]:
    """The fields of one row, in their order.

    autoattack_acc: under `autoattack` as it is by default, where it was run on the pipeline;
    external, as there the best known value where that is another: our worst case over all attacks,
    where it is lower or AutoAttack was not run. reported is what this run reports, the worst case
    too. unreliable: where the audit suspects the row.
    """
    of, row = entry.of, frames.row_of(entry)
    robust = _percent(row["robust_accuracy"])
    standard = [
        cell
        for cell in entry.cells
        if cell.attack == _AUTOATTACK and cell.mode not in (OBLIVIOUS, TRANSFER)
    ]
    found: dict[str, Any] = {
        "link": "",
        "name": f"{of.model} / {of.defense}",
        "authors": "",
        "additional_data": False,
        "number_forward_passes": row["passes"] or 1,
        "dataset": of.dataset,
        "venue": "N/A",
        "architecture": of.model,
        "eps": _eps(entry.eps),
        "clean_acc": _percent(row["clean_accuracy"]),
        "reported": robust,
    }
    if standard:
        found["autoattack_acc"] = _percent((worst(standard) > float(entry.eps)).mean())
    if robust != found.get("autoattack_acc"):
        found["external"] = robust
    return found | {"unreliable": entry.is_suspect, "footnote": _footnote(entry, row)}


def text(fields: dict[str, Any]) -> str:
    """The fields as a file holds them."""
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def safe(name: str) -> str:
    """A name that is one part of a path on every system."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", name).strip("._")[:_LONGEST] or "_"


def _free(name: str, taken: dict[str, str]) -> str:
    """The name, with a number where it is taken: rows may differ in their weights alone."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _eps(eps: Fraction) -> str:
    """The shortest decimal where that is exact, else the fraction."""
    decimal = repr(float(eps)).removesuffix(".0")
    return decimal if Fraction(decimal) == eps else str(eps)


def _footnote(entry: Entry, row: dict[str, Any]) -> str:
    """How the numbers were measured, and what is not known."""
    of, facts = entry.of, entry.of.provenance
    low, high = _percent(row["ci_low"]), _percent(row["ci_high"])
    attacks = ", ".join(dict.fromkeys(f"{cell.attack} ({cell.mode})" for cell in entry.cells))
    version = facts.get("versions", {}).get("adversarial-bench", "")
    said = [
        f"Measured by {f'adversarial-bench {version}'.strip()} on {of.n} test images, "
        f"{of.norm} in {unit(of.norm)}",
        f"robust accuracy has the 95 % Wilson interval [{low}, {high}]",
        f"worst case over {attacks}",
    ]
    if of.query_budget is not None:
        said.append(f"at most {of.query_budget} forward queries per image and eps")
    if row["draws"] > 1:
        said.append(f"mean over {row['draws']} draws of the defense")
    if not facts.get("objective"):
        said.append("on what data the net was trained is not known")
    return "; ".join(said) + "."

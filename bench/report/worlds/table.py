"""The small worlds as a document and its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench import __version__
from bench.grids import github
from bench.report.markdown import escape
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import count, percent, seconds
from bench.report.worlds.page import FIGURE
from bench.report.worlds.played import SHOWN, Worlds, found

CHECKS = {
    "world": TEXT,
    "quantity": TEXT,
    "measured": FLOAT,
    "relation": TEXT,
    "expected": FLOAT,
    "tolerance": FLOAT,
    "holds": TEXT,
}
SHIFTS = {
    "shift": FLOAT,
    "jsd": FLOAT,
    "value": FLOAT,
    "value_sampled": FLOAT,
    "w1": FLOAT,
    "w1_sampled": FLOAT,
    "accuracy": FLOAT,
    "accuracy_sampled": FLOAT,
}
MODES = {
    "world": TEXT,
    "generator": TEXT,
    "spec": TEXT,
    "modes": INT,
    "of": INT,
    "good": FLOAT,
    "divergence": FLOAT,
    "wrong": TEXT,
    "n": INT,
    "updates": INT,
    "seconds": FLOAT,
}
"""Columns of worlds.csv, worlds_shifts.csv and worlds_modes.csv in order, and their types."""
LEGEND = (
    "Line: G(z) = z + theta against a logistic discriminator, ten samples each, losses summed "
    "(Prince 2023, Understanding Deep Learning, notebook 15.1). theta swings about mean(x) - "
    "mean(z) ever less, but D finds no rest: its steps are longer than the curvature of its loss "
    "allows, throw it to and fro, and leave its loss far above 20 log 2.",
    "Shifts: N(0, 1) against N(shift, 1). JSD and the value V(D*, G) by quadrature, W1 and the "
    "accuracy of the optimal discriminator D* in closed form; beside them what samples say. JSD "
    "stands still at log 2 where W1 goes on growing: nothing then tells a generator which way to "
    "go.",
    "Slopes: of the generator's cost by the logit of D, by automatic differentiation: -D of the "
    "saturating cost log(1 - D), -(1 - D) of the non-saturating -log D.",
    "Saddle: min over x, max over y of x y. Steps at the same time grow by sqrt(1 + lr^2) each; "
    "steps in turn stay on an ellipse.",
    "Population: distributions instead of samples, D optimal at every step; V goes to -log 4.",
    "Earth mover: two histograms of ten bins at i / 9, by linear programming and in closed form.",
    "Mixtures: a sample is good within 3 standard deviations of the nearest centre (98.9 % of a "
    "Gaussian's own are); a mode is found when its good samples are at least a quarter of a fair "
    "share of all samples. KL: of the good samples' modes from the uniform distribution, nats. "
    f"Seconds are those of the training, whenever that was, on one thread. The figure has {SHOWN} "
    "of the samples.",
)


def checks(worlds: Worlds) -> Rows:
    """A row per check."""
    made = [{**vars(check), "holds": "yes" if check.holds else "no"} for check in worlds.checks]
    return Rows.of(made, CHECKS)


def modes(worlds: Worlds) -> Rows:
    """A row per mixture and generator."""
    return Rows.of([cloud.row for clouds in worlds.clouds.values() for cloud in clouds], MODES)


def files(worlds: Worlds) -> dict[str, str]:
    """Every table and the page, by file name."""
    return {
        "worlds.csv": checks(worlds).csv(),
        "worlds_shifts.csv": Rows.of(worlds.shifts, SHIFTS).csv(),
        "worlds_modes.csv": modes(worlds).csv(),
        "worlds.md": markdown(worlds),
    }


def told(worlds: Worlds) -> str:
    """In a few lines: the mixtures, and what does not hold."""
    lines = [
        f"{row['world']}: {row['generator']}: {row['wrong']}"
        if row["modes"] is None
        else f"{row['world']}: {row['generator']}: {found(row)}, {percent(row['good'])} % good, "
        f"wrong: {row['wrong']}"
        for row in modes(worlds)
    ]
    lines.append(f"{len(worlds.checks) - len(worlds.failures)} of {len(worlds.checks)} checks hold")
    lines += [
        f"does not hold: {check.world}, {check.quantity}: {check.measured!r}, not "
        f"{_expected(vars(check))}"
        for check in worlds.failures
    ]
    return "\n".join(lines)


def markdown(worlds: Worlds) -> str:
    """The document worlds.md."""
    return "\n\n".join(
        [
            "# Small worlds",
            f"{len(worlds.checks) - len(worlds.failures)} of {len(worlds.checks)} checks hold.",
            f"![Small worlds](figures/{FIGURE})",
            "## Mixtures",
            _table(_MODES, modes(worlds), "lllrrrlrrr"),
            "## Shifts",
            _table(_SHIFTS, worlds.shifts, "r" * len(_SHIFTS)),
            "## Slopes of the generator's cost",
            github(
                ["D(G(z))", "saturating", "non-saturating", "ratio"],
                [
                    [
                        f"{d:g}",
                        f"{a:.6g}",
                        f"{b:.6g}",
                        f"{b / a:.5g}",
                    ]
                    for d, a, b in worlds.slopes
                ],
                "rrrr",
            ),
            "## Checks",
            _table(_CHECKS, checks(worlds), "llrrl"),
            *map(escape, LEGEND),
            f"Made by `{worlds.command.replace('`', chr(39))}` with adversarial-bench "
            f"{__version__}.\n",
        ]
    )


_Reader = Callable[[Row], str]


def _table(columns: Mapping[str, _Reader], rows: Sequence[Row] | Rows, align: str) -> str:
    cells = [[escape(read(row)) for read in columns.values()] for row in rows]
    return github(list(columns), cells, align)


def _number(name: str, row: Row) -> str:
    value = row[name]
    return "" if value is None else f"{round(value, 9):.6g}"


def _expected(row: Mapping[str, Any]) -> str:
    if row["relation"] != "=":
        return f"{row['relation']} {row['expected']:g}"
    within = f" +- {row['tolerance']:g}" if row["tolerance"] else ""
    return f"{row['expected']!r}{within}"


_CHECKS: Mapping[str, _Reader] = {
    "world": lambda row: str(row["world"]),
    "quantity": lambda row: str(row["quantity"]),
    "measured": lambda row: repr(row["measured"]),
    "expected": _expected,
    "holds": lambda row: str(row["holds"]),
}
_SHIFTS: Mapping[str, _Reader] = {
    "shift": partial(_number, "shift"),
    "JSD (nats)": partial(_number, "jsd"),
    "V": partial(_number, "value"),
    "V, samples": partial(_number, "value_sampled"),
    "W1": partial(_number, "w1"),
    "W1, samples": partial(_number, "w1_sampled"),
    "accuracy of D*": partial(_number, "accuracy"),
    "accuracy, samples": partial(_number, "accuracy_sampled"),
}
_MODES: Mapping[str, _Reader] = {
    "world": lambda row: str(row["world"]),
    "generator": lambda row: str(row["generator"]),
    "spec": lambda row: row["spec"] or "",
    "modes": found,
    "good %": lambda row: percent(row["good"]),
    "KL": lambda row: "" if row["divergence"] is None else f"{row['divergence']:.3f}",
    "wrong": lambda row: str(row["wrong"]),
    "samples": lambda row: count(row["n"]),
    "updates": lambda row: count(row["updates"]),
    "seconds": lambda row: seconds(row["seconds"]),
}

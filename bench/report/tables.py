"""The tables people read, as text; markdown, the terminal and the HTML page render the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import evidence
from bench.audit.findings import SUSPECT, level_of
from bench.report.curves import Curve
from bench.report.derived import derived
from bench.report.groups import by
from bench.report.rows import Row, Rows
from bench.stats import Interval, power_note
from bench.store import Record

UPPER_BOUND = """\
Robust accuracy is an upper bound: the share of all images still classified right after the attacks
that were run; a stronger attack can only lower it. An interval covers the choice of test images,
neither the weakness of the attacks nor the spread over training seeds."""
LEADERBOARD_LEGEND = (
    f"""\
Robust: the share of images right under every attack at the eps above, image by image (the worst
case), in percent with its 95 % Wilson interval. {UPPER_BOUND}""",
    """\
Tie: rows with the same letter share a rank, as none of them differs significantly from the best row
of the letter (exact two-sided McNemar test on the same images at level 0.05; where the images
differ, disjoint intervals).""",
    """\
Oblivious: under the attacks whose images were made on the undefended model alone, by an adversary
who does not know of the defense. Adaptive: under those that were shown the pipeline itself, or what
stands in for the parts of it that hide gradients or draw (bpda, eot). Robust is the worst of all.
Of a defense that draws, robust is the mean over fixed evaluation draws that no attack saw, and
worst draw the share of images right under every one of them. The interval covers the choice of
images alone; draw spread is the standard deviation of the draws' accuracies, in points, and +- that
of their mean.""",
    """\
AUC: the mean accuracy over the radii from 0 to eps, in percent, the curve taken as falling at radii
of the grid alone, with its 95 % bootstrap interval over images.""",
    """\
Training s, parameters, passes: what the defense costs; passes is the number of times a prediction
runs a net.""",
    """\
Attacks: the complete cells behind the number. Queries: images through the model in all of them,
forward and backward counted apart. Audit: whether to believe the number (audit.md says why): pass,
warn, or suspect, where robust is an upper bound (<=) and has no rank; none: not audited.""",
)
ACCURACY_LEGEND = (
    f"""\
Worst case: right under every attack of the group, image by image, which is not the minimum of the
column. {UPPER_BOUND} Audit: whether to believe them (audit.md says why); of a suspect pipeline
they are marked <=.""",
)
TIMING_LEGEND = (
    """\
One row per cell. Queries are images through the model; verify counts the re-checks of claimed
successes; the clean pass, one query per image and pipeline, is not counted. Queries/s counts all
three. Training s: how long the model trained.""",
)
_EXTRAS: dict[str, Callable[[Curve], str]] = {
    "seed": lambda curve: str(curve.of.seed),
    "n": lambda curve: str(curve.of.n),
    "device": lambda curve: curve.of.device,
    "precision": lambda curve: curve.precision,
    "sweep": lambda curve: curve.of.sweep,
    "query budget": lambda curve: budget_text(curve.of.query_budget),
}


@dataclass(frozen=True)
class Table:
    """Text in columns. align: l or r for each; bold: numbers of rows; notes: lines below."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    bold: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A table under a title, with a line of text between them."""

    title: str
    text: str
    table: Table


def eps_text(eps: float) -> str:
    """The shortest decimal, without a trailing .0; k/255 first where a long one stands for that."""
    decimal = repr(eps).removesuffix(".0")
    pixels = round(eps * 255)
    if len(decimal) > len("0.00000") and pixels / 255 == eps:
        return f"{pixels}/255 ({eps:.4g})"
    return decimal


def percent(share: Any) -> str:
    """A fraction in percent with one decimal, empty where it is missing."""
    return "" if share is None else f"{100 * share:.1f}"


def interval_text(interval: Interval) -> str:
    """A share and its bounds in percent: ``91.9 [90.0, 93.4]``."""
    return _spread(100 * interval.value, 100 * interval.low, 100 * interval.high)


def _spread(value: float, low: float, high: float) -> str:
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def count(number: Any) -> str:
    """A whole number with thousands separators, empty where it is missing."""
    return "" if number is None else f"{int(number):,}"


def seconds(number: Any) -> str:
    """Seconds with one decimal, more of them below one; empty where missing."""
    if number is None:
        return ""
    return f"{number:,.1f}" if number >= 1 else f"{number:.3g}"


def budget_text(budget: Any) -> str:
    """A query budget, empty where there is none."""
    return "" if budget is None else f"{budget:,}"


def varying(curves: Sequence[Curve]) -> dict[str, Callable[[Curve], str]]:
    """Which of seed, n, device, precision, sweep and query budget tell these curves apart; how to
    read each.
    """
    return {name: read for name, read in _EXTRAS.items() if len({read(c) for c in curves}) > 1}


def unit(norm: str) -> str:
    """What an eps of the norm counts."""
    return "changed components" if norm == "l0" else "inputs in [0, 1]"


def accuracy(curves: Iterable[Curve]) -> list[Section]:
    """A table per dataset, norm, sample set and grid: eps across, worst cases in bold."""
    settings = by(curves, lambda curve: (curve.of.dataset, curve.of.norm))
    return [section for setting in settings for section in _of_setting(setting)]


@derived
def _of_setting(curves: Sequence[Curve]) -> list[Section]:
    def samples_and_grid(curve: Curve) -> Hashable:
        return curve.of.fingerprint, curve.of.samples_digest, curve.of.eps

    return list(map(_accuracy, by(curves, samples_and_grid)))


def _accuracy(curves: list[Curve]) -> Section:
    of, grid = curves[0].of, curves[0].eps
    extras = varying(curves)
    if any(curve.evidence != evidence.NONE for curve in curves):
        extras |= {"evidence": _evidence}
    notes: list[str] = []
    rows = []
    for curve in curves:
        mark = ""
        if curve.failure:
            mark = f" [{len(notes) + 1}]"
            notes.append(f"[{len(notes) + 1}] {_failure(curve)}")
        names = (curve.of.model, curve.of.defense, f"{curve.attack} ({curve.mode}){mark}")
        clean = () if 0.0 in grid else (_clean(curve),)
        told = (*(read(curve) for read in extras.values()), level_of(curve.audit))
        rows.append((*names, *told, *clean, *_entries(curve)))
    clean_header = () if 0.0 in grid else ("clean",)
    header = (
        "model",
        "defense",
        "attack (mode)",
        *extras,
        "audit",
        *clean_header,
        *map(eps_text, grid),
    )
    text = (
        f"n = {of.n:,} test images. Columns: eps ({of.norm}, {unit(of.norm)}). "
        "Entries: percent of the images classified right, and the 95 % Wilson interval."
    )
    align = "lll" + "r" * len(extras) + "l"
    align += "r" * (len(header) - len(align))
    bold = frozenset(place for place, curve in enumerate(curves) if curve.is_worst)
    table = Table(header, tuple(rows), align=align, bold=bold, notes=tuple(notes))
    return Section(f"{of.dataset}, {of.norm}", text, table)


def _evidence(curve: Curve) -> str:
    """What stands behind a row: without images it is claimed."""
    return "claimed" if curve.evidence == evidence.NONE else curve.evidence


def _failure(curve: Curve) -> str:
    if curve.is_worst:
        return f"{curve.of.defense}: {curve.failure}; the worst case is taken over the others."
    return f"{curve.attack} on {curve.of.defense} failed: {curve.failure}"


def _clean(curve: Curve) -> str:
    return "failed" if curve.clean is None else interval_text(curve.clean)


def _entries(curve: Curve) -> list[str]:
    if not curve.is_complete:
        return ["failed"] * len(curve.eps)
    percents = (100 * shares for shares in (curve.accuracy, curve.low, curve.high))
    entries = map(_spread, *(shares.tolist() for shares in percents))
    bounds = [eps > 0 for eps in curve.eps]
    return [
        bounded(text, curve.audit) if is_bound else text
        for text, is_bound in zip(entries, bounds, strict=True)
    ]


def leaderboard(table: Rows) -> list[Section]:
    """A table per dataset, norm and eps, from the leaderboard's rows."""
    boards = by(table, board)
    return [Section(board_title(rows[0]), "", _board(rows)) for rows in boards]


def _board(rows: Sequence[Row]) -> Table:
    """The leaderboard of one heading; what tells defenses apart is left out where none of the rows
    has it.
    """
    columns = {
        name: [_LEADERBOARD[name](row) for row in rows]
        for name in _LEADERBOARD
        if name not in _OF_DEFENSES or any(row[_OF_DEFENSES[name]] is not None for row in rows)
    }
    lines = tuple(zip(*columns.values(), strict=True))
    align = "".join("l" if name in _LEFT else "r" for name in columns)
    sizes = sorted({row["n"] for row in rows if row["robust_accuracy"] is not None})
    return Table(tuple(columns), lines, align=align, notes=tuple(map(power_note, sizes)))


def board(row: Row) -> Hashable:
    """What rows under one heading have in common."""
    return row["dataset"], row["norm"], row["eps"], budget_text(row["query_budget"])


def board_title(row: Row) -> str:
    """The heading over rows of one dataset, norm, eps and query budget."""
    budget = budget_text(row["query_budget"])
    limit = f", at most {budget} queries per image" if budget else ""
    return f"{row['dataset']}, {row['norm']}, eps = {eps_text(row['eps'])}{limit}"


def robust_text(row: Row) -> str:
    """A leaderboard row's robust accuracy with its interval."""
    if row["robust_accuracy"] is None:
        return "failed"
    robust = Interval(row["robust_accuracy"], row["ci_low"], row["ci_high"])
    return bounded(interval_text(robust), row["audit"])


def bounded(text: str, audit: str) -> str:
    """An accuracy under attack, marked as no more than an upper bound where its audit says so."""
    return f"<= {text}" if audit.startswith(SUSPECT) else text


def _draws_text(row: Row) -> str:
    """The spread over draws and the error of their mean, in points."""
    if row["draw_spread"] is None:
        return ""
    return f"{100 * row['draw_spread']:.1f} (+-{100 * row['draw_error']:.1f})"


def _area_text(row: Row) -> str:
    if row["auc"] is None:
        return ""
    return interval_text(Interval(row["auc"], row["auc_low"], row["auc_high"]))


_LEADERBOARD: Mapping[str, Callable[[Row], str]] = {
    "rank": lambda row: count(row["rank"]),
    "tie": lambda row: str(row["tie"]),
    "model": lambda row: str(row["model"]),
    "defense": lambda row: str(row["defense"]),
    "robust": robust_text,
    "clean": lambda row: percent(row["clean_accuracy"]),
    "oblivious": lambda row: percent(row["oblivious_accuracy"]),
    "adaptive": lambda row: percent(row["adaptive_accuracy"]),
    "worst draw": lambda row: percent(row["worst_draw_accuracy"]),
    "draw spread": _draws_text,
    "AUC": _area_text,
    "n": lambda row: count(row["n"]),
    "attacks": lambda row: count(row["attacks"]),
    "forward queries": lambda row: count(row["forward_queries"]),
    "backward queries": lambda row: count(row["backward_queries"]),
    "seconds": lambda row: seconds(row["wall_s"]),
    "training s": lambda row: seconds(row["training_s"]),
    "parameters": lambda row: count(row["parameters"]),
    "passes": lambda row: count(row["passes"]),
    "audit": lambda row: str(row["audit"]),
    "note": lambda row: str(row["note"]),
}
_OF_DEFENSES = {
    "oblivious": "oblivious_accuracy",
    "adaptive": "oblivious_accuracy",
    "worst draw": "worst_draw_accuracy",
    "draw spread": "draw_spread",
}
"""Columns that need not be there, and the value without which they are not."""
_LEFT = ("tie", "model", "defense", "audit", "note")


@derived
def timing(table: Iterable[Row]) -> Table:
    """The timing table, from its rows."""
    names = ("dataset", "model", "defense", "attack", "norm", "device", "precision", "start")
    sizes = ("seed", "n", "threads", "shape")
    costs = ("seconds", "forward", "backward", "verify", "queries/s", "training s", "peak MB")
    rows = [
        (*(str(row[name]) for name in names), *(str(row[name]) for name in sizes), *_costs(row))
        for row in table
    ]
    return Table((*names, *sizes, *costs), tuple(rows), align="l" * 8 + "r" * 11)


def _costs(row: Row) -> tuple[str, ...]:
    counts = ("forward_queries", "backward_queries", "verify_queries", "queries_per_s")
    return (
        "failed" if row["wall_s"] is None else seconds(row["wall_s"]),
        *(count(row[name]) for name in counts),
        seconds(row["training_s"]),
        count(row["peak_memory_mb"]),
    )


@derived
def origins(records: Sequence[Record]) -> list[tuple[list[str], str]]:
    """The distinct command lines behind the records, by the version that ran them ('': unknown)."""
    made = [(command, _version(r)) for r in records if (command := _command(r))]
    return [
        (sorted({command for command, _ in pairs}), pairs[0][1])
        for pairs in by(made, lambda pair: pair[1])
    ]


def _command(record: Record) -> str:
    command = record.provenance.get("command", "")
    return command if isinstance(command, str) else shlex.join(map(str, command))


def _version(record: Record) -> str:
    versions = record.provenance.get("versions", {})
    return str(versions.get("adversarial-bench", "")) if isinstance(versions, Mapping) else ""

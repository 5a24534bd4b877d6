"""How the plants fared, as a table and as a document."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench import __version__
from bench.audit.findings import PASS, SKIPPED, SUSPECT, WARN
from bench.grids import github
from bench.report.markdown import escape
from bench.selftest.trial import CLOSE, ORDINARY, Extent, Result

_MARKS = {PASS: ".", WARN: "w", SUSPECT: "S", SKIPPED: "-"}
_LEGEND = (
    f"""\
Every plant stands on one undefended net and only looks like a defense; the last of its variants
is held out: it is not looked at while checks are tuned. Reported: robust accuracy in percent under
the worst case over {" and ".join(f"`{name}`" for name in ORDINARY)}, with its Wilson 95 % interval,
as a user measures it; none where the evaluation was refused. Truth: the worst case by stronger
attacks, over what the table of truths says. ok: what was reported is within {100 * CLOSE:.0f}
points of the truth, or the verdict keeps it from being believed (suspect, or refused); of an honest
defense, that the verdict does not.""",
    f"""\
Checks: {_MARKS[SUSPECT]} suspect, {_MARKS[WARN]} warn, {_MARKS[PASS]} pass, {_MARKS[SKIPPED]} \
skipped; empty where a check does not apply or nothing was reported.""",
)


def frame(results: Sequence[Result], extent: Extent) -> pd.DataFrame:
    """A line per plant, the level of each check last."""
    lines = [
        {
            "dataset": extent.dataset,
            "n": extent.n,
            "eps": float(extent.eps),
            "defense": one.plant.name,
            "variant": one.plant.variant,
            "honest": one.plant.is_honest,
            "held_out": one.plant.held_out,
            "robust_accuracy": None if one.reported is None else one.reported.value,
            "low": None if one.reported is None else one.reported.low,
            "high": None if one.reported is None else one.reported.high,
            "truth": one.truth,
            "verdict": one.level,
            "ok": one.is_right,
        }
        | {finding.check: finding.level for finding in one.findings}
        for one in results
    ]
    return pd.DataFrame(lines).round(6)


def markdown(results: Sequence[Result], extent: Extent, command: str) -> str:
    """The document: what was reported and what is true, which check fired, what each plant is."""
    wrong = [one for one in results if not one.is_right]
    names = ", ".join(map(_name, wrong))
    paragraphs = [
        "# Self-test",
        f"{extent.dataset}, linf, eps = {extent.eps}, n = {extent.n}: "
        + (f"{len(wrong)} of {len(results)} not ok: {names}." if wrong else "all ok."),
        table(results),
        "## Checks",
        _matrix(results),
        "## Truths",
        _plants(results),
        *_LEGEND,
        f"Made by `{command}` with adversarial-bench {__version__}.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def table(results: Sequence[Result]) -> str:
    """What was reported, what is true, and the verdict."""
    header = ("defense", "variant", "held out", "reported", "truth", "verdict", "ok")
    lines = [
        (
            *(escape(one.plant.name), escape(one.plant.variant)),
            "held out" if one.plant.held_out else "",
            *(_reported(one), f"{100 * one.truth:.1f}", one.level),
            "ok" if one.is_right else "**no**",
        )
        for one in results
    ]
    return github(header, lines, "lllrrll")


def _reported(one: Result) -> str:
    if one.reported is None:
        return ""
    value, low, high = (100 * part for part in vars(one.reported).values())
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _matrix(results: Sequence[Result]) -> str:
    """Which check fired at which plant."""
    checks = list(dict.fromkeys(finding.check for one in results for finding in one.findings))
    lines = []
    for one in results:
        levels = {finding.check: _MARKS[finding.level] for finding in one.findings}
        lines.append((escape(_name(one)), one.level, *(levels.get(check, "") for check in checks)))
    return github(("defense", "verdict", *map(escape, checks)), lines, "l" * (2 + len(checks)))


def _plants(results: Sequence[Result]) -> str:
    lines = [
        (
            escape(_name(one)),
            escape(one.plant.fakes),
            escape(one.plant.rule),
            f"`{one.plant.strong}`",
        )
        for one in results
    ]
    return github(("defense", "what it is", "its truth", "measured with"), lines, "llll")


def _name(one: Result) -> str:
    variant = f" ({one.plant.variant})" if one.plant.variant else ""
    return one.plant.name + variant

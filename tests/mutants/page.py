"""The verdicts as markdown."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

from tests.mutants.listed import GROUPS
from tests.mutants.mutant import Mutant
from tests.mutants.run import Verdict

_INTRODUCTION = """\
One mistake at a time is planted in a copy of the code, and a few tests chosen for it are run: one
of them must fail, where all pass without it. What cannot be imported, or has no end, is not killed.
killed by: the first test that failed. seconds: of pytest, until then."""


def markdown(verdicts: Mapping[str, Verdict], whole: Verdict, tests: int, command: str) -> str:
    """The page: verdicts by the mutants' names; whole: that of their tests without a mistake."""
    killed = sum(verdict.outcome == "killed" for verdict in verdicts.values())
    took = sum(verdict.seconds for verdict in verdicts.values())
    passed = "pass" if whole.outcome == "survived" else "**do not pass**"
    made = f"adversarial-bench {version('adversarial-bench')}, Python {platform.python_version()}"
    said = [
        "# Mutants",
        _INTRODUCTION,
        f"Made by `{command}` with {made}, torch {version('torch')}.",
        f"{killed} of {len(verdicts)} killed, in {took:.0f} seconds; the {tests} tests {passed} "
        f"without a mistake, in {whole.seconds:.0f}.",
    ]
    for title, group in GROUPS.items():
        rows = [_row(mutant, verdicts[mutant.name]) for mutant in group if mutant.name in verdicts]
        if rows:
            said += [f"## {title}", "\n".join([_HEADER, *rows])]
    return "\n\n".join(said) + "\n"


_HEADER = (
    "| mutant | file | what is wrong then | killed by | seconds |\n| --- | --- | --- | --- | --- |"
)


def _row(mutant: Mutant, verdict: Verdict) -> str:
    killer = f"**{verdict.outcome}**"
    if verdict.outcome == "killed":
        killer = f"`{verdict.test.removeprefix('tests/attacks/')}`"
    cells = mutant.name, f"`{mutant.path}`", mutant.breaks, killer, f"{verdict.seconds:.0f}"
    return f"| {' | '.join(cells)} |"

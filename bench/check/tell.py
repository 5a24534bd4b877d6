"""A result as lines, JUnit XML, markdown and JSON."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET  # written, never read
from collections.abc import Iterator
from typing import Any

from bench.check.baseline import shown
from bench.check.compare import Finding, Result, Verdict, smallest_drop
from bench.grids import github
from bench.report.markdown import escape

_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What a document of XML 1.0 cannot hold, escaped or not."""
_SHOWN: tuple[Verdict, ...] = ("failed", "missing", "regression", "improvement", "new")


def lines(result: Result, source: str) -> Iterator[str]:
    """A line per thing that moved, worst first, what the samples can show, and the count."""
    for verdict in _SHOWN:
        for finding in result.of(verdict):
            for reason in finding.reasons or ("not in the baseline",):
                yield f"{verdict}: {finding.title}: {reason}"
    yield from dict.fromkeys(note for finding in result.findings for note in finding.notes)
    yield from power(result)
    yield f"{_word(result)}: {counted(result)}, against {source}"


def _word(result: Result) -> str:
    return "passed" if result.is_passed else "failed"


def counted(result: Result) -> str:
    """How many rows of each verdict."""
    words: dict[Verdict, str] = {
        "equal": "as before",
        "regression": "worse",
        "missing": "missing",
        "failed": "failed",
        "improvement": "better",
        "new": "new",
    }
    counts = {verdict: len(result.of(verdict)) for verdict in words}
    told = [f"{counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict]]
    return ", ".join(told) or "nothing to compare"


def power(result: Result) -> list[str]:
    """What the compared samples cannot show, a sentence per number of them and of radii."""
    compared = [(finding.n, len(finding.points)) for finding in result.findings if finding.points]
    alpha = result.limits.alpha
    return [_power(n, tests, alpha) for n, tests in dict.fromkeys(compared)]


def _power(n: int, tests: int, alpha: float) -> str:
    least = smallest_drop(n, alpha, tests)
    drop = "any drop" if least is None else f"a drop below {100 * least:.1f} points"
    return f"n = {n} at {tests} radii cannot show {drop} (exact McNemar, level {alpha:g}, Holm)"


def junit(result: Result) -> str:
    """JUnit XML, a test case per row: what failed is an error, what got worse or lacks a
    failure.
    """
    failures = len(result.of("regression")) + len(result.of("missing"))
    errors = len(result.of("failed"))
    counts = {
        "tests": str(len(result.findings)),
        "failures": str(failures),
        "errors": str(errors),
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": "bench check", **counts})
    for finding in result.findings:
        case = ET.SubElement(
            suite, "testcase", {"classname": "bench.check", "name": _plain(finding.title)}
        )
        told = _plain("; ".join(finding.reasons))
        if finding.is_bad:
            tag = "error" if finding.verdict == "failed" else "failure"
            ET.SubElement(case, tag, {"type": finding.verdict, "message": told}).text = told
        else:
            ET.SubElement(case, "system-out").text = f"{finding.verdict} {told}".strip()
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _plain(text: str) -> str:
    return _NO_XML.sub("?", text)


def markdown(result: Result, source: str) -> str:
    """A section with a table of the rows, for a step summary."""
    header = ("row", "verdict", "eps", "before", "after", "clean before", "clean after", "what")
    rows = [_cells(finding) for finding in result.findings]
    notes = [*dict.fromkeys(note for f in result.findings for note in f.notes), *power(result)]
    parts = [
        f"## bench check: {_word(result)}",
        f"{counted(result)}, against {escape(source)}. Accuracies are percent.",
        github(header, rows, "llrrrrrl"),
        *map(escape, notes),
    ]
    return "\n\n".join(parts) + "\n"


def _cells(finding: Finding) -> tuple[str, ...]:
    at = {point.eps: point for point in finding.points}
    read = None if finding.reference is None else at[finding.reference]
    clean = finding.points[0] if finding.points else None
    numbers = [
        "" if point is None else f"{100 * value:.1f}"
        for point in (read, clean)
        for value in ((point.before, point.after) if point else (0.0, 0.0))
    ]
    eps = "" if read is None else shown(read.eps)
    told = escape("; ".join(finding.reasons))
    return escape(finding.title), finding.verdict, eps, *numbers, told


def as_json(result: Result, source: str) -> str:
    """Everything as JSON."""
    told = {
        "passed": result.is_passed,
        "baseline": source,
        "limits": vars(result.limits),
        "power": power(result),
        "rows": [_held(finding) for finding in result.findings],
    }
    return json.dumps(told, indent=1) + "\n"


def _held(finding: Finding) -> dict[str, Any]:
    before, after = finding.queries or (None, None)
    return {
        "row": finding.title,
        "verdict": finding.verdict,
        "reasons": finding.reasons,
        "notes": finding.notes,
        "n": finding.n,
        "reference": None if finding.reference is None else float(finding.reference),
        "queries_before": before,
        "queries_after": after,
        "points": [{**vars(point), "eps": float(point.eps)} for point in finding.points],
    }

"""What an audit noted of a pipeline, beside what its rows left standing: a check each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bench.audit.case import STOOD, Seen
from bench.audit.findings import FEW, LONG, PASS, SKIPPED, SUSPECT, WARN, Finding, counted, level_at

_SOME = 3
"""Images at least behind a suspicion where half of what stood falls."""
_SURE = 6
"""Images at least behind a warning of an indicator."""
_APART = 1e-3
"""Difference of answers, over the largest of them, that rounding does not make."""
_UNSTABLE, _RISING = 0.1, 0.05
"""Thresholds of Pintor et al. 2022 (arXiv:2106.09947): the mean relative change of the loss at
random points nearby; the rise of the scaled loss in the last steps."""
_HALF = 0.5

Check = Callable[[Seen], Iterator[Finding]]


def _skipped(check: str, seen: Seen, name: str) -> Finding:
    return Finding(check, SKIPPED, f"skipped: {seen.facts['skipped'][name]}")


_BEATEN = {
    "cross-entropy": "PGD on the cross-entropy breaks",
    "margin": "PGD on a margin loss breaks",
    "one step": "one gradient step breaks",
    "noise": "random noise breaks",
    "restart": "one more restart breaks",
    "longer": "twice the steps break",
    "square": "Square (black-box) breaks",
}
"""By the probe that broke an image first."""
_RETRIED = ("restart", "longer")
"""Probes that an audit may have none of."""


def _beaten(seen: Seen) -> Iterator[Finding]:
    """What each probe broke of the images that the rows left standing, and all of them together.

    Of a pipeline that draws, images are counted by the draws under which they fell, less those
    under which they fell to the rows alone.
    """
    left, lowest = seen.stands > 0, seen.stands.copy()
    for name, text in _BEATEN.items():
        check, array = f"{name} beats the rows", f"{STOOD}{name}"
        if name in seen.facts.get("skipped", {}):
            yield _skipped(check, seen, name)
            continue
        if name in _RETRIED and array not in seen.audit.samples:
            continue
        after = seen.values(array)
        standing = left & (lowest > seen.stands - _HALF)
        tried = standing & ~np.isnan(after)
        gained = (seen.stands - after)[tried].sum()
        lowest = np.fmin(lowest, after)
        # Where not all that stand were tried, those that were stand for the others.
        weight = standing.sum() / max(1, tried.sum())
        yield _broken(check, gained, int(tried.sum()), gained * weight / seen.n, text)
    if left.any() and not any(f"{STOOD}{name}" in seen.audit.samples for name in _BEATEN):
        yield Finding("probes beat the rows", WARN, "no attack of the audit fits its budget")
        return
    gained = (seen.stands - lowest)[left].sum()
    text = "cheap attacks break"
    yield _broken("probes beat the rows", gained, int(left.sum()), gained / seen.n, text)


def _broken(check: str, gained: float, of: int, share: float, text: str) -> Finding:
    """Of images that the rows left standing: that half of those tried fall, three at least, is no
    less bad than that many do.
    """
    count = max(0, round(float(gained)))
    is_most = count >= _SOME and share > FEW and count >= _HALF * of
    level = SUSPECT if is_most else level_at(count, share)
    return Finding(check, level, f"{text} {count} of {of} images that the rows left standing")


def _gradients(seen: Seen) -> Iterator[Finding]:
    """Whether gradients reach the images that stand."""
    if path := seen.facts.get("path"):
        level = SUSPECT if seen.follows else WARN
        yield Finding("gradient path", level, f"no gradient: {path}")
        return
    yield Finding("gradient path", PASS, "gradients can be had")
    if "gradients" in seen.facts.get("skipped", {}):
        yield _skipped("zero gradient", seen, "gradients")
        return
    for name in ("cross-entropy", "margin"):
        zero = seen.still(f"zero:{name}", lambda flat: flat > 0)
        text = f"the gradient of the {name} is exactly zero at"
        yield counted(f"zero gradient ({name})", zero, seen.n, text)
    broken = max(
        seen.still(f"broken:{name}", lambda bad: bad > 0) for name in ("cross-entropy", "margin")
    )
    yield counted("finite gradient", broken, seen.n, "the gradient is not finite at")


def _answers(seen: Seen) -> Iterator[Finding]:
    """How the pipeline answers."""
    facts = seen.facts
    is_share = bool(facts.get("probabilities"))
    yield Finding(
        "probabilities",
        SUSPECT if is_share else PASS,
        "answers are probabilities" if is_share else "answers are logits",
    )
    for check, name, what in (
        ("recorded", "recorded", "answers differ while gradients are recorded"),
        ("drift", "drift", "answers changed while it was attacked"),
    ):
        if name in facts:
            is_far = facts[name] > _APART
            text = f"{what} (by {facts[name]:.2g} of the largest)"
            yield Finding(check, SUSPECT if is_far else PASS, text if is_far else f"not: {what}")
        elif name in facts.get("skipped", {}):
            yield _skipped(check, seen, name)
    constant = seen.still("constant", lambda share: share >= _HALF)
    text = "answers do not change at all at half of the random points near"
    finding = counted("constant answers", constant, seen.n, text)
    # Of a pipeline that declares what masks its gradients this is what it declares.
    is_told = finding.level == SUSPECT and "bpda" in seen.audit.mode
    yield Finding(finding.check, WARN, finding.text) if is_told else finding


def _errors(seen: Seen) -> Iterator[Finding]:
    """Probes that the pipeline did not answer properly."""
    for name, why in seen.facts.get("errors", {}).items():
        yield Finding(f"{name} answered", WARN, f"{name}: {why[:LONG]}")


def _landscape(seen: Seen) -> Iterator[Finding]:
    """Pintor's indicators that are no contradiction by themselves: warnings at most."""
    rows = (
        (
            *("unstable predictions", "landscape", "unstable", _UNSTABLE),
            "the margin jumps at random points near",
        ),
        (
            *("incomplete optimisation", "loss", "rising", _RISING),
            "the loss still rises after 40 steps at",
        ),
    )
    for check, asked, name, most, text in rows:
        if asked in seen.facts.get("skipped", {}):
            yield _skipped(check, seen, asked)
            continue
        count = seen.still(name, lambda value, most=most: value > most)  # type: ignore[misc]
        of = seen.still(name, lambda value: ~np.isnan(value))
        if of:
            level = WARN if count > _HALF * of and count >= _SURE else PASS
            yield Finding(check, level, f"{text} {count} of {of} images")


def _unbounded(seen: Seen) -> Iterator[Finding]:
    """Whether an attack without bounds breaks everything (Pintor's sixth indicator)."""
    if "unbounded" in seen.facts.get("skipped", {}):
        yield _skipped("unbounded", seen, "unbounded")
        return
    count = seen.still(f"{STOOD}unbounded", lambda share: share > 0)
    yield counted("unbounded", count, seen.n, "an attack without bounds does not break")


def _unasked(_: Seen) -> Iterator[Finding]:
    """Attacks without a budget say nothing of rows that are held to one."""
    yield Finding("probes beat the rows", SKIPPED, "skipped: the rows are under a query budget")


CHECKS: tuple[Check, ...] = (_answers, _errors, _gradients, _beaten, _unbounded, _landscape)
UNDER_A_BUDGET: tuple[Check, ...] = (_answers, _errors, _gradients, _unasked)

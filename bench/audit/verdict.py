"""What the stored cells of a pipeline say of its number: findings, and the verdict they come to.

Values in, values out; free of torch. Thresholds stand here, so that a stored audit is read anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plan import OBLIVIOUS, TRANSFER
from bench.stats import ALPHA, mcnemar
from bench.store import Record

PASS, WARN, SUSPECT, SKIPPED = "pass", "warn", "suspect", "skipped"
_ORDER = (SUSPECT, WARN, SKIPPED, PASS)
NONE = "none"
"""In place of a verdict where nothing was audited."""
STOOD = "stood:"
"""Before the name of a probe, the array of what stood after it: the share of the draws."""

_FEW, _MANY = 0.02, 0.05
"""Shares of the images from which on a finding is a warning, and makes a number suspect."""
_SURE = 6
"""Images at least behind a suspicion: that all of six fall one way has a p-value of 1/32."""
_SOME = 3
"""The same where half of what stood falls."""
_APART = 1e-3
"""Difference of answers, over the largest of them, that rounding does not make."""
_UNSTABLE, _RISING = 0.1, 0.05
"""Thresholds of Pintor et al. 2022 (arXiv:2106.09947): the mean relative change of the loss at
random points nearby; the rise of the scaled loss in the last steps."""
_HALF = 0.5
_LONG = 120
"""Letters of a failure that a verdict quotes."""

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """A check and what came of it: level is pass, warn, suspect or skipped; text: in words."""

    check: str
    level: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What all findings come to: the worst of their levels but skipped; none where nothing was
    looked at.
    """

    findings: tuple[Finding, ...]

    @property
    def level(self) -> str:
        """pass, warn, suspect, or none."""
        levels = {finding.level for finding in self.findings} - {SKIPPED}
        return next((level for level in _ORDER if level in levels), NONE)

    @property
    def text(self) -> str:
        """In a few words: `pass`, or the level and what was found at it."""
        level = self.level
        told = [one.text for one in self.findings if one.level == level]
        skipped = sum(one.level == SKIPPED for one in self.findings)
        if level == PASS and skipped:
            return f"{level} ({skipped} check{'s' * (skipped > 1)} skipped)"
        if level in (PASS, NONE):
            return level
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        return f"{level}: {told[0]}{more}"


NOT_AUDITED = Verdict(())


@dataclass(frozen=True)
class Case:
    """A pipeline: the cells of its attacks, and its audits.

    All of the pipeline's attacked cells, complete or failed; empty audits: it was not looked at.
    """

    cells: Sequence[Record]
    audits: Sequence[Record]

    @functools.cached_property
    def complete(self) -> list[Record]:
        """The cells with numbers."""
        return [cell for cell in self.cells if not cell.failure]

    @functools.cached_property
    def largest(self) -> list[Record]:
        """The complete cells on the largest set of samples."""
        of = max(self.complete, key=lambda c: (c.n, c.samples_digest), default=None)
        return [c for c in self.complete if of and c.samples_digest == of.samples_digest]

    @functools.cached_property
    def eps(self) -> Fraction | None:
        """Where the pipeline is read: at the reference where a grid holds it, else at the
        largest.
        """
        grid = {eps for cell in self.largest for eps in cell.eps}
        return max(grid & {cell.reference for cell in self.largest} or grid, default=None)

    @functools.cached_property
    def look(self) -> Record | None:
        """Of the complete audits at the eps where the pipeline is read that of the most images."""
        done = [a for a in self.audits if not a.failure and a.eps[-1] == self.eps]
        return max(done, key=lambda audit: (audit.n, audit.key), default=None)


@dataclass(frozen=True)
class Seen:
    """An audit beside the cells that it speaks of: eps, where both were read; stands (m,): the
    share of the draws under which the rows left each audited image standing; follows: whether any
    of the rows' attacks followed a gradient.
    """

    audit: Record
    eps: float
    stands: Shares
    follows: bool

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the audit noted of the pipeline."""
        facts: Mapping[str, Any] = self.audit.provenance.get("audit", {})
        return facts

    @property
    def n(self) -> int:
        """The audited images."""
        return len(self.stands)

    def values(self, name: str) -> Shares:
        """What was noted of each image (m,), nan where it was not looked at."""
        noted = self.audit.samples.get(name)
        return np.full(self.n, np.nan) if noted is None else np.asarray(noted, np.float64)

    def still(self, name: str, is_meant: Callable[[Shares], NDArray[np.bool_]]) -> int:
        """How many of the images that the rows left standing are meant."""
        with np.errstate(invalid="ignore"):
            meant = is_meant(self.values(name))
        return int(np.sum(meant & (self.stands > 0)))


def severity(text: str) -> int:
    """How bad what a verdict says is: 0 suspect, 1 warn, then pass and none."""
    return (*_ORDER, NONE).index(level_of(text))


def level_of(text: str) -> str:
    """The level that what a verdict says begins with."""
    return text.partition(" ")[0].rstrip(":")


def verdict(case: Case) -> Verdict:
    """The verdict on a pipeline's number; nothing is said of one that was not audited."""
    if not case.audits:
        return NOT_AUDITED
    found, look = list(_of_cells(case)), case.look
    if look is None:
        why = next((f"audit failed: {a.failure[:_LONG]}" for a in case.audits if a.failure), "")
        found.append(Finding("audit", WARN, why or "not audited at this eps"))
    elif (seen := _beside(look, case.complete)) is None:
        found.append(Finding("audit", WARN, "not audited on these images"))
    else:
        is_held = case.cells[0].query_budget is not None
        checks = _UNDER_A_BUDGET if is_held else _CHECKS
        found += [finding for check in checks for finding in check(seen)]
    return Verdict(tuple(sorted(found, key=lambda one: _ORDER.index(one.level))))


def _beside(audit: Record, cells: Sequence[Record]) -> Seen | None:
    """The audit beside the cells whose grids hold its eps, on its images."""
    eps, ids = audit.eps[-1], audit.samples["id"]
    stands: NDArray[np.bool_] | None = None
    for cell in cells:
        places = _places(cell.samples["id"], ids)
        if eps not in cell.eps or places is None:
            continue
        own = cell.outcomes[places] > float(eps)
        stands = own if stands is None else stands & own
    if stands is None:
        return None
    return Seen(audit, float(eps), stands.mean(1), follows=any(map(_is_gradient, cells)))


def _places(have: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Where the wanted ids stand; None where some do not."""
    if len(have) >= len(wanted) and np.array_equal(have[: len(wanted)], wanted):
        return np.arange(len(wanted))
    order = np.argsort(have, kind="stable")
    at = np.searchsorted(have, wanted, sorter=order).clip(max=len(have) - 1)
    places: NDArray[np.int64] = order[at]
    return places if np.array_equal(have[places], wanted) else None


def _level(count: int, share: float) -> str:
    """Of a contradiction in so many images, and the share of all images that they stand for."""
    if share >= _MANY and count >= _SURE:
        return SUSPECT
    return WARN if share >= _FEW else PASS


def _counted(check: str, count: int, n: int, text: str) -> Finding:
    return Finding(check, _level(count, count / max(1, n)), f"{text} {count} of {n} images")


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
    is_most = count >= _SOME and share > _FEW and count >= _HALF * of
    level = SUSPECT if is_most else _level(count, share)
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
        yield _counted(f"zero gradient ({name})", zero, seen.n, text)
    broken = max(
        seen.still(f"broken:{name}", lambda bad: bad > 0) for name in ("cross-entropy", "margin")
    )
    yield _counted("finite gradient", broken, seen.n, "the gradient is not finite at")


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
    finding = _counted("constant answers", constant, seen.n, text)
    # Of a pipeline that declares what masks its gradients this is what it declares.
    is_told = finding.level == SUSPECT and "bpda" in seen.audit.mode
    yield Finding(finding.check, WARN, finding.text) if is_told else finding


def _errors(seen: Seen) -> Iterator[Finding]:
    """Probes that the pipeline did not answer properly."""
    for name, why in seen.facts.get("errors", {}).items():
        yield Finding(f"{name} answered", WARN, f"{name}: {why[:_LONG]}")


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
    yield _counted("unbounded", count, seen.n, "an attack without bounds does not break")


def _unasked(_: Seen) -> Iterator[Finding]:
    """Attacks without a budget say nothing of rows that are held to one."""
    yield Finding("probes beat the rows", SKIPPED, "skipped: the rows are under a query budget")


_CHECKS = (_answers, _errors, _gradients, _beaten, _unbounded, _landscape)
_UNDER_A_BUDGET = (_answers, _errors, _gradients, _unasked)


def _of_cells(case: Case) -> Iterator[Finding]:
    """What the cells of the attacks show by themselves."""
    yield from _failures(case)
    if case.complete:
        yield from _lost(case)
        yield from _blind(case)
        yield from _monotone(case)


def _failures(case: Case) -> Iterator[Finding]:
    # A failure on fewer samples is history.
    least = max((cell.n for cell in case.complete), default=0)
    failed = [cell for cell in case.cells if cell.failure and cell.n >= least]
    if not failed:
        return
    first = failed[0]
    level = WARN if case.complete else SUSPECT
    why = first.failure if len(first.failure) <= _LONG else f"{first.failure[:_LONG]}..."
    yield Finding("failed attacks", level, f"{first.attack} failed: {why}")


_BLIND = (OBLIVIOUS, TRANSFER, "black-box")
"""Modes of attacks that see no gradient of the pipeline."""


def _is_gradient(cell: Record) -> bool:
    return cell.mode not in _BLIND


def _lost(case: Case) -> Iterator[Finding]:
    """Successes that the attack saw and the re-check did not: of attacks on the pipeline itself
    they are lost on the way (silent failures, or images outside the ball or the box), of those on a
    stand-in they do not transfer.
    """
    for check, is_meant, text in (
        ("lost successes", True, "successes seen by the attack are none at the re-check of"),
        ("stand-in", False, "what fools the stand-in does not fool the pipeline at"),
    ):
        cells = [c for c in case.complete if _is_exact(c) == is_meant and "refused" in c.samples]
        if not cells:
            continue
        # What another attack breaks all the same is not lost.
        stands = {
            group[0].samples_digest: np.isinf(np.min([c.samples["min_eps"] for c in group], axis=0))
            for group in _by_samples(case.complete)
        }
        lost = [(c.samples["refused"] > 0) & stands[c.samples_digest] for c in cells]
        worst = max(range(len(cells)), key=lambda place: int(lost[place].sum()))
        finding = _counted(check, int(lost[worst].sum()), cells[worst].n, text)
        softened = finding.level == SUSPECT and not is_meant
        yield Finding(check, WARN, finding.text) if softened else finding


def _by_samples(cells: Sequence[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for cell in cells:
        groups.setdefault(cell.samples_digest, []).append(cell)
    return list(groups.values())


def _is_exact(cell: Record) -> bool:
    """Whether the attack asked the very pipeline that decides, in its precision."""
    drawn = "draws" in cell.samples
    return cell.mode in ("white-box", "black-box") and not drawn and cell.precision == "fp32"


def _blind(case: Case) -> Iterator[Finding]:
    """Whether attacks without gradients beat those with them, on the same images at the eps where
    the pipeline is read.
    """
    eps, newest = case.eps, case.largest[0]
    same = [cell for cell in case.largest if eps in cell.eps]
    seeing = [cell for cell in same if _is_gradient(cell)]
    blind = [cell for cell in same if not _is_gradient(cell)]
    if not seeing or not blind or eps is None:
        return
    with_gradient, without = (_right(cells, float(eps)) for cells in (seeing, blind))
    more, fewer = int((without < with_gradient).sum()), int((with_gradient < without).sum())
    names = ", ".join(dict.fromkeys(cell.attack for cell in blind))
    text = f"{names} ({blind[0].mode}) breaks what gradient attacks do not at"
    finding = _counted("black-box or transfer beats white-box", more, newest.n, text)
    is_ahead = more > fewer and mcnemar(with_gradient, without) < ALPHA
    softened = finding.level == SUSPECT and not is_ahead
    yield Finding(finding.check, WARN, finding.text) if softened else finding


def _right(cells: Sequence[Record], eps: float) -> Shares:
    right = np.array([cell.outcomes > eps for cell in cells])
    return np.asarray(right.all(axis=0).mean(axis=1), np.float64)


def _monotone(case: Case) -> Iterator[Finding]:
    """Whether a larger eps breaks fewer images in an independent sweep."""
    worst, where = 0, None
    for cell in case.complete:
        fooled = cell.samples.get("fooled")
        # A detector may well refuse what moves further.
        if fooled is None or "detection" in cell.provenance:
            continue
        held = [
            int((fooled[:, at].astype(int) > fooled[:, at + 1]).sum())
            - int((fooled[:, at].astype(int) < fooled[:, at + 1]).sum())
            for at in range(fooled.shape[1] - 1)
        ]
        if held and max(held) >= worst:
            worst, where = max(0, *held), cell
    if where is not None:
        text = f"a larger eps breaks fewer images under {where.attack}: by"
        yield _counted("monotone in eps", worst, where.n, text)

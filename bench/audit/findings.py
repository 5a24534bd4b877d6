"""What an audit finds, in words: findings, how bad they are, and the verdict they come to."""

from __future__ import annotations

from dataclasses import dataclass

PASS, WARN, SUSPECT, SKIPPED = "pass", "warn", "suspect", "skipped"
_ORDER = (SUSPECT, WARN, SKIPPED, PASS)
NONE = "none"
"""In place of a verdict where nothing was audited."""
FEW, MANY = 0.02, 0.05
"""Shares of the images from which on a finding is a warning, and makes a number suspect."""
LONG = 120
"""Letters of a failure that is quoted."""
_SURE = 6
"""Images at least behind a suspicion: that all of six fall one way has a p-value of 1/32."""


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


def severity(text: str) -> int:
    """How bad what a verdict says is: 0 suspect, 1 warn, then pass and none."""
    return (*_ORDER, NONE).index(level_of(text))


def level_of(text: str) -> str:
    """The level that what a verdict says begins with."""
    return text.partition(" ")[0].rstrip(":")


def level_at(count: int, share: float) -> str:
    """Of a contradiction in so many images, and the share of all images that they stand for."""
    if share >= MANY and count >= _SURE:
        return SUSPECT
    return WARN if share >= FEW else PASS


def counted(check: str, count: int, n: int, text: str) -> Finding:
    """A finding of so many of n images."""
    return Finding(check, level_at(count, count / max(1, n)), f"{text} {count} of {n} images")


def rank(finding: Finding) -> int:
    """Sorts findings, the worst first."""
    return _ORDER.index(finding.level)

"""Failures of a generator by name, and when they were seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from bench.report.gan.portrait import Finding, Look
from models.coverage import COLLAPSE, DROPPING, ROTATING, SOUND, naming

MANY = 20
"""Classes up to which each is named."""


def over_time(looks: Sequence[Look]) -> tuple[Finding, ...]:
    """What was wrong at the looks of a training, each name once, in order of its first sight.

    Neighbouring looks of one name are one stretch; a stretch of collapses into more than one class
    is a rotating collapse.
    """
    stretches = list(_stretches(looks))
    made = []
    for name in dict.fromkeys(name for name, _ in stretches):
        mine = [members for other, members in stretches if other == name]
        spans = tuple((_when(members[0]), _when(members[-1])) for members in mine)
        seen = [look for members in mine for look in members]
        often = f"while training, {len(seen)} of {len(looks)} looks, {_updates(seen)}"
        made.append(Finding(name, f"{often}; {_said(name, seen)}", spans))
    return tuple(made)


def now(final: Look, before: Sequence[Look] = ()) -> tuple[Finding, ...]:
    """What is wrong with the generator as it is, after looks of its training; see
    models.coverage.naming.
    """
    looks = [*before, final]
    name = naming([look.seen for look in looks])
    if name == SOUND:
        return ()
    sound = [place for place, look in enumerate(looks) if look.seen.name == SOUND]
    since = looks[sound[-1] + 1 if sound else 0 :]
    collapsed = [look for look in since if look.seen.name == COLLAPSE]
    seen = collapsed if name == ROTATING else [final]
    return (Finding(name, f"in the end; {_said(name, seen)}"),)


def listed(classes: Sequence[int]) -> str:
    """Classes by number, where there are many the first of them."""
    text = ", ".join(map(str, classes[:MANY]))
    return text if len(classes) <= MANY else f"{text} and {len(classes) - MANY:,} more"


def _updates(looks: Sequence[Look]) -> str:
    first, last = _when(looks[0]), _when(looks[-1])
    return f"update {first:,}" if first == last else f"updates {first:,} to {last:,}"


def _when(look: Look) -> int:
    if look.update is None:
        raise ValueError("a look over time must have its update")
    return look.update


def _stretches(looks: Sequence[Look]) -> Iterator[tuple[str, list[Look]]]:
    for name, group in itertools.groupby(looks, lambda look: look.seen.name):
        members = list(group)
        if name == COLLAPSE and len({look.seen.dominant for look in members}) > 1:
            yield ROTATING, members
        elif name != SOUND:
            yield name, members


def _said(name: str, looks: Sequence[Look]) -> str:
    """What was seen at looks of one name."""
    last = looks[-1].seen
    dominant = list(dict.fromkeys(look.seen.dominant for look in looks))
    if name == ROTATING:
        return f"nearly all in one class, which changes: {listed(dominant)}"
    if name == COLLAPSE:
        share = max(look.seen.share for look in looks)
        most = "" if len(looks) == 1 else "up to "
        return f"{most}{100 * share:.0f} % in {_numbered(dominant)}"
    if name == DROPPING and last.dropped:
        when = "" if len(looks) == 1 else "at last "
        return f"{when}{_numbered(last.dropped)} missing or far below the share of the data"
    return f"{last.modes:,} classes found, fewer than chance leaves"


def _numbered(classes: Sequence[int]) -> str:
    return f"{'class' if len(classes) == 1 else 'classes'} {listed(classes)}"

"""In which order a sample's radii are tried: plans of one sample, and the queue of all; no tensors.

A rung is a place on a sample's list of radii. A plan says which attempt comes next when one has
ended; the scheduler hands the attempts of all samples out, one per sample at a time, and keeps
their budgets.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHORTEST = 8
"""Queries of an attempt from which on a part of it means anything."""
_LEAST_SHARE = 1 / 4
"""Of an attempt's queries, where it goes on from a radius close below: with as many it was as
strong as a whole attempt from a random start (MNIST, PGD-40, results/reference/sweeps.md)."""
_LOOK_SHARE = 1 / 8
"""Of an attempt's queries, where nothing is inferred from its failure."""
_AHEAD = 1.5
"""The first radius tried, over the estimated distance: the estimate is mostly too small."""


class Probe(NamedTuple):
    """An attempt at a rung. limit: queries at most, None for a whole attempt; goes_on: it begins at
    the point where the last attempt of this number ended, moved to the new radius.
    """

    rung: int
    attempt: int
    limit: int | None = None
    goes_on: bool = False


class Ended(NamedTuple):
    """How an attempt ended: whether its rung fell, and after how many queries."""

    fell: bool
    queries: int


@dataclass(frozen=True)
class Terms:
    """What holds for all samples of a sweep. attempts at each rung; horizon: queries of a whole
    one; goes_on: whether one may begin where another ended; hurries: whether one that is cut short
    makes up for it by longer steps; exact: whether it stops at its first success.
    """

    attempts: int
    horizon: int
    goes_on: bool = False
    hurries: bool = False
    exact: bool = True

    @property
    def can_go_on(self) -> bool:
        """Whether attempts go on from one another: those of a few queries have nothing to save."""
        return self.goes_on and self.horizon >= _SHORTEST

    def part(self, share: float) -> int | None:
        """Queries of a share of an attempt; None for all of it."""
        return None if share >= 1 else math.ceil(share * self.horizon)


class Plan(ABC):
    """What is tried of one sample. radii (R,), rising; standing: the rungs that still do, rising;
    guess: of the distance of its nearest success.
    """

    def __init__(
        self,
        radii: NDArray[np.float64],
        standing: Sequence[int],
        terms: Terms,
        guess: float | None = None,
    ):
        self.radii, self.standing, self.terms, self.guess = radii, list(standing), terms, guess

    @abstractmethod
    def first(self) -> Probe | None:
        """The first attempt; None where nothing stands."""

    @abstractmethod
    def after(self, probe: Probe, ended: Ended) -> Probe | None:
        """What follows an attempt; None when the sample is settled."""


class Climb(Plan):
    """Upwards through the radii, every attempt at each; `stops`: until fooled, as an image inside a
    small ball is inside every larger one.

    Where attempts can go on and hurry, each number's is a chain: the first is whole, a later one
    has the share of the queries by which the radius has grown, a quarter at least.
    """

    stops = True

    def first(self) -> Probe | None:
        """See Plan."""
        self.chains: dict[int, int] = {}
        return self._at(0, 0)

    def after(self, probe: Probe, ended: Ended) -> Probe | None:
        """See Plan."""
        place = self.standing.index(probe.rung)
        self.chains[probe.attempt] = probe.rung
        if not ended.fell and probe.attempt + 1 < self.terms.attempts:
            return self._at(place, probe.attempt + 1)
        if ended.fell and self.stops:
            return None
        return self._at(place + 1, 0)

    def _at(self, place: int, attempt: int) -> Probe | None:
        if place >= len(self.standing):
            return None
        rung, before = self.standing[place], self.chains.get(attempt)
        chained = self.stops and self.terms.can_go_on and self.terms.hurries
        if before is None or not chained:
            return Probe(rung, attempt)
        share = max(1 - self.radii[before] / self.radii[rung], _LEAST_SHARE)
        return Probe(rung, attempt, self.terms.part(float(share)), goes_on=True)


class Apart(Climb):
    """Every rung from scratch, nothing inferred."""

    stops = False


class Descend(Plan):
    """Down from a success, so that only the rung below the lowest one costs a whole attempt.

    Looks (an eighth of an attempt) climb from the guessed distance by 1, 2, 4, ... rungs until one
    succeeds, or the largest rung is reached. From a success the next attempt goes on at a lower
    rung, two rungs and more lower where the last fell at once; a look that fails on the way goes up
    again halfway. Nothing is inferred from a look: the rung just below the lowest success (where
    there is none, the last) gets every attempt in full, the first going on from the point above. It
    holds, and with it every smaller one, when all have failed.
    """

    def first(self) -> Probe | None:
        """See Plan: where a rung above fell already, the highest that stands."""
        self.fallen, self.failed = len(self.standing), -1
        self.stride, self.tried = 1, 0
        self.has_point = False
        if not self.standing:
            return None
        if len(self.standing) < len(self.radii):
            return self._at(self.fallen - 1, 0)
        return self._at(self._guessed(), 0)

    def after(self, probe: Probe, ended: Ended) -> Probe | None:
        """See Plan."""
        place = self.standing.index(probe.rung)
        is_last = place == self.fallen - 1
        if ended.fell:
            return self._down(place, probe.attempt, at_once=ended.queries <= 1)
        if is_last:
            self.tried += 1
            if self.tried >= self.terms.attempts:
                return None
            return Probe(probe.rung, (probe.attempt + 1) % self.terms.attempts)
        if self.fallen < len(self.standing):
            self.failed, self.stride, self.has_point = place, 1, True
            return self._at((place + self.fallen + 1) // 2, probe.attempt)
        following = min(place + self.stride, self.fallen - 1)
        self.failed, self.stride, self.has_point = place, 2 * self.stride, True
        return self._at(following, probe.attempt)

    def _down(self, place: int, attempt: int, *, at_once: bool) -> Probe | None:
        """What follows a success."""
        was_climbing = self.fallen == len(self.standing)
        self.fallen, self.tried, self.has_point = place, 0, True
        at_once |= not self.terms.exact
        self.stride = 2 * self.stride if at_once and not was_climbing else 1
        if not place:
            return None
        if self.failed >= place:
            self.failed = -1
        lower = max(place - self.stride, 0)
        if self.failed >= 0:
            lower = max(lower, (self.failed + place) // 2)
        return self._at(lower, attempt)

    def _at(self, place: int, attempt: int) -> Probe:
        is_last = place == self.fallen - 1
        limit = None if is_last else max(2, self.terms.part(_LOOK_SHARE) or 0)
        return Probe(self.standing[place], attempt, limit, goes_on=self.has_point)

    def _guessed(self) -> int:
        """The place whose radius is above the guess; the middle where there is none."""
        if self.guess is None or not math.isfinite(self.guess):
            return (len(self.standing) - 1) // 2
        place = int(np.searchsorted(self.radii[self.standing], _AHEAD * self.guess))
        return min(place, len(self.standing) - 1)


class Halve(Plan):
    """By halves between the highest rung that held and the lowest that fell, every attempt in full:
    what is left of `Descend` where attempts cannot go on from one another.
    """

    def first(self) -> Probe | None:
        """See Plan: where a rung above fell already, the highest that stands."""
        self.held, self.fallen = -1, len(self.standing)
        if not self.standing:
            return None
        is_known = len(self.standing) < len(self.radii)
        return self._at(self.fallen - 1 if is_known else (self.fallen - 1) // 2)

    def after(self, probe: Probe, ended: Ended) -> Probe | None:
        """See Plan."""
        if ended.fell:
            self.fallen = self.standing.index(probe.rung)
        elif probe.attempt + 1 < self.terms.attempts:
            return Probe(probe.rung, probe.attempt + 1)
        else:
            self.held = self.standing.index(probe.rung)
        if self.fallen - self.held <= 1:
            return None
        return self._at((self.held + self.fallen) // 2)

    def _at(self, place: int) -> Probe:
        return Probe(self.standing[place], 0)


class Once(Plan):
    """Every attempt at the largest radius: a minimal attack's run is worth every rung."""

    def first(self) -> Probe | None:
        """See Plan."""
        return Probe(len(self.radii) - 1, 0) if self.standing else None

    def after(self, probe: Probe, ended: Ended) -> Probe | None:  # noqa: ARG002  a success ends nothing
        """See Plan."""
        following = probe.attempt + 1
        return Probe(probe.rung, following) if following < self.terms.attempts else None


def _bisect(
    radii: NDArray[np.float64], standing: Sequence[int], terms: Terms, guess: float | None
) -> Plan:
    """Down from a success where attempts can go on; upwards where one costs a query or two, so that
    halving would save nothing; else by halves.
    """
    if terms.can_go_on:
        return Descend(radii, standing, terms, guess)
    return (Climb if terms.horizon <= 2 else Halve)(radii, standing, terms, guess)


_Planning = Callable[[NDArray[np.float64], Sequence[int], Terms, float | None], Plan]
_POLICIES: dict[str, _Planning] = {
    "ladder": Climb,
    "bisect": _bisect,
    "independent": Apart,
    "once": Once,
}


def plan_of(
    policy: str,
    radii: NDArray[np.float64],
    standing: Sequence[int],
    terms: Terms,
    guess: float | None = None,
) -> Plan:
    """The plan of a sample: `ladder`, `bisect` or `independent`, of a minimal attack `once`. radii
    (R,), rising; standing: the rungs that still do; guess: of the distance of a success.
    """
    return _POLICIES[policy](radii, standing, terms, guess)


UNLIMITED = 2**62
"""Queries, where nothing limits them."""


class Work(NamedTuple):
    """One piece of work, in the order of the queue: that of the samples. limit: forward queries."""

    sample: int
    number: int
    rung: int
    attempt: int
    limit: int
    goes_on: bool


@dataclass
class _Open:
    """A sample that is not settled: its plan, the queries spent at each rung (R,), those of the
    attempt it is in.
    """

    plan: Plan
    spent: NDArray[np.int64]
    probe: Probe
    made: int = 0


@dataclass
class Scheduler:
    """The queue of attempts. each: forward queries of one query of the attack; budget: forward
    queries at most at each rung (of a minimal attack at all together, whose attempts count at every
    rung).
    """

    each: int = 1
    budget: int | None = None
    is_minimal: bool = False
    queue: list[Work] = field(default_factory=list)
    open: dict[int, _Open] = field(default_factory=dict)
    number: int = 0

    def add(self, sample: int, plan: Plan, spent: NDArray[np.int64]) -> bool:
        """Takes a sample on; `spent` (R,) is counted up in place. Returns whether there is anything
        to do.
        """
        probe = plan.first()
        if probe is None:
            return False
        self.open[sample] = _Open(plan, spent, probe)
        if self._queued(sample):
            return True
        return self.ended(self._work(sample, 0), fell=False)

    def take(self, most: int) -> list[Work]:
        """The next pieces of work, at most so many."""
        return [heapq.heappop(self.queue) for _ in range(min(most, len(self.queue)))]

    def spend(self, work: Work, queries: int) -> None:
        """Counts forward queries of an attempt, whose end may not be known yet."""
        entry = self.open[work.sample]
        entry.made += queries
        entry.spent[slice(None) if self.is_minimal else work.rung] += queries

    def again(self, work: Work) -> bool:
        """Queues the rest of an attempt that was left off; returns whether there is any."""
        return self._queued(work.sample)

    def ended(self, work: Work, *, fell: bool) -> bool:
        """The attempt is over; fell: its rung fell. Queues what comes next; returns False when the
        sample is settled.
        """
        sample = work.sample
        entry = self.open[sample]
        ended = Ended(fell, entry.made // self.each)
        while (following := entry.plan.after(entry.probe, ended)) is not None:
            entry.probe, entry.made = following, 0
            if self._queued(sample):
                return True
            # What its budget has no query left for has failed.
            ended = Ended(fell=False, queries=0)
        del self.open[sample]
        return False

    def _queued(self, sample: int) -> bool:
        """Queues what is left of a sample's attempt, where that is a query at least."""
        entry = self.open[sample]
        most, limit = entry.probe.limit, UNLIMITED
        if most is not None:
            limit = most * self.each - entry.made
        limit = min(limit, self.room(sample))
        if limit < self.each:
            return False
        heapq.heappush(self.queue, self._work(sample, limit))
        self.number += 1
        return True

    def _work(self, sample: int, limit: int) -> Work:
        probe = self.open[sample].probe
        return Work(sample, self.number, probe.rung, probe.attempt, limit, probe.goes_on)

    def room(self, sample: int) -> int:
        """Forward queries that a sample's budget leaves at the rung it is at."""
        if self.budget is None:
            return UNLIMITED
        entry = self.open[sample]
        spent = entry.spent.max() if self.is_minimal else entry.spent[entry.probe.rung]
        return self.budget - int(spent)

"""Sweeps of several libraries in turns, and what is made of their times, queries and accuracies."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.agreement.entrants import Counting, Curve, Entrant, Task

WARM_UP = 8
"""Images of the untimed first call, in which libraries import what they need."""


@dataclass(frozen=True)
class Lap:
    """One sweep: its seconds and those of them that the process computed, rows through the net per
    image, and its curve.
    """

    seconds: float
    cpu: float
    forward: float
    backward: float
    curve: Curve


Laps = Mapping[str, Sequence[Lap]]
"""Per entrant, a lap per round; the same round stands at the same place for all."""


@dataclass(frozen=True)
class Ratios:
    """A reference over ours: time (median over the rounds of their ratio in that round, and its
    least and most) and computing time (median), queries (rows forward and backward together); and
    by how much the accuracy of ours, a mean over rounds, exceeds the reference's: above 0 ours is
    weaker.
    """

    time: float
    least: float
    most: float
    cpu: float
    queries: float
    worst_excess: float
    mean_excess: float


def ratios(reference: Sequence[Lap], ours: Sequence[Lap]) -> Ratios:
    """Of the laps of the same rounds."""
    times = over(reference, ours)
    excess = [b - a for a, b in zip(accuracy(reference), accuracy(ours), strict=True)]
    return Ratios(
        time=statistics.median(times),
        least=min(times),
        most=max(times),
        cpu=statistics.median(computing_over(reference, ours)),
        queries=_queries(reference) / _queries(ours),
        worst_excess=max(excess),
        mean_excess=statistics.fmean(excess),
    )


def over(laps: Sequence[Lap], others: Sequence[Lap]) -> list[float]:
    """The ratio of times in every round."""
    return [a.seconds / b.seconds for a, b in zip(laps, others, strict=True)]


def computing_over(laps: Sequence[Lap], others: Sequence[Lap]) -> list[float]:
    """The ratio of computing times in every round, which a busy machine moves less."""
    return [a.cpu / b.cpu for a, b in zip(laps, others, strict=True)]


def accuracy(laps: Sequence[Lap]) -> tuple[float, ...]:
    """Per radius the mean over rounds, each of which has a seed of its own."""
    return tuple(
        statistics.fmean(values)
        for values in zip(*(lap.curve.accuracy for lap in laps), strict=True)
    )


def apart(laps: Sequence[Lap]) -> float:
    """The most by which two seeds of one entrant differ at one radius."""
    each = zip(*(lap.curve.accuracy for lap in laps), strict=True)
    return max((max(values) - min(values) for values in each), default=0.0)


def fastest_first(laps: Laps) -> list[str]:
    """The entrants by their median time."""
    return sorted(laps, key=lambda name: statistics.median(lap.seconds for lap in laps[name]))


def _queries(laps: Sequence[Lap]) -> float:
    return statistics.median(lap.forward + lap.backward for lap in laps)


def race(
    entrants: Sequence[Entrant], task: Task, rounds: int, say: Callable[[str], None]
) -> dict[str, list[Lap]]:
    """Every entrant once a round, each round begun by another one and with another seed."""
    for entrant in entrants:
        _warm(entrant, task)
    laps: dict[str, list[Lap]] = {entrant.name: [] for entrant in entrants}
    for number in range(rounds):
        first = number % len(entrants)
        for entrant in (*entrants[first:], *entrants[:first]):
            lap = lapped(entrant, dataclasses.replace(task, seed=number))
            laps[entrant.name].append(lap)
            took = f"{lap.seconds:.2f} s, computing {lap.cpu:.2f} s"
            say(f"round {number + 1} of {rounds}: {entrant.name} {took}")
    return laps


def lapped(entrant: Entrant, task: Task) -> Lap:
    """One timed sweep; what it returned is looked at afterwards."""
    tally, n = task.net.tally, len(task.y)
    tally.forward = tally.backward = 0
    with _as_wanted(entrant, task.net):
        start, computed = time.perf_counter(), time.process_time()
        result = entrant.seeded(task)
        seconds, cpu = time.perf_counter() - start, time.process_time() - computed
    forward, backward = tally.forward / n, tally.backward / n
    return Lap(seconds, cpu, forward, backward, entrant.read(task, result))


@contextlib.contextmanager
def _as_wanted(entrant: Entrant, net: Counting) -> Iterator[None]:
    """The net with its parameters trainable or frozen; gradients that a library leaves in them are
    cleared.
    """
    net.requires_grad_(not entrant.is_frozen)
    try:
        yield
    finally:
        net.requires_grad_(requires_grad=True)
        net.zero_grad(set_to_none=True)


def _warm(entrant: Entrant, task: Task) -> None:
    few = dataclasses.replace(task, x=task.x[:WARM_UP], y=task.y[:WARM_UP], radii=task.radii[:1])
    with _as_wanted(entrant, task.net):
        entrant.seeded(few)

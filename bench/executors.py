"""Who carries units out: units in, events out, in any order. A distributed engine is another such
class; it touches neither plan nor store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from bench.evaluation import run
from bench.units import Event, Unit


class Executor(Protocol):
    """Carries out units; units and events are plain values that can be pickled."""

    def run(self, units: Sequence[Unit], say: Callable[[str], None]) -> Iterator[Event]:
        """The events of all units; say hears lines about training."""
        ...


class LocalExecutor:
    """One unit after the other in this process."""

    def run(self, units: Sequence[Unit], say: Callable[[str], None]) -> Iterator[Event]:
        """See Executor."""
        for unit in units:
            yield from run(unit, say)

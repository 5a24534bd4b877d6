"""One line of what `bench time` measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was timed, on what, over what. seconds and floor_s are medians; target is the most that
    their ratio should be; queries and floor_queries are forward queries per sample, peak_mb the
    most megabytes held. None where a column does not apply.
    """

    part: str
    name: str
    on: str
    seconds: float
    floor: str
    floor_s: float
    target: float | None = None
    queries: float | None = None
    floor_queries: float | None = None
    peak_mb: float | None = None

    @property
    def ratio(self) -> float:
        """Over the floor."""
        return self.seconds / self.floor_s

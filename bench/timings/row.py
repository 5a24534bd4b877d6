"""One line of what `bench time` measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What was timed, on what, over what. seconds and floor_s are medians; ratio is the first over
    the second; target is the most that the ratio should be, and queries the forward queries per
    sample. None where a column does not apply.
    """

    part: str
    name: str
    on: str
    seconds: float
    floor: str
    floor_s: float
    target: float | None = None
    queries: float | None = None
    peak_mb: float | None = None

    @property
    def ratio(self) -> float:
        """Over the floor."""
        return self.seconds / self.floor_s

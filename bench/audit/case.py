"""A pipeline as the store has it: the cells of its attacks, its audits, and both side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plan import OBLIVIOUS, TRANSFER
from bench.store import Record

STOOD = "stood:"
"""Before the name of a probe, the array of what stood after it: the share of the draws."""
BLIND = (OBLIVIOUS, TRANSFER, "black-box")
"""Modes of attacks that see no gradient of the pipeline."""

Shares = NDArray[np.float64]


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


def beside(audit: Record, cells: Sequence[Record]) -> Seen | None:
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
    return Seen(audit, float(eps), stands.mean(1), follows=any(map(is_gradient, cells)))


def _places(have: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Where the wanted ids stand; None where some do not."""
    if len(have) >= len(wanted) and np.array_equal(have[: len(wanted)], wanted):
        return np.arange(len(wanted))
    order = np.argsort(have, kind="stable")
    at = np.searchsorted(have, wanted, sorter=order).clip(max=len(have) - 1)
    places: NDArray[np.int64] = order[at]
    return places if np.array_equal(have[places], wanted) else None


def is_gradient(cell: Record) -> bool:
    """Whether an attack follows gradients of the pipeline, or of what stands in for it."""
    return cell.mode not in BLIND

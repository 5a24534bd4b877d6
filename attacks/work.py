"""Work for the loop: what is attacked, in which order of radii, and what comes back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms


@dataclass(frozen=True)
class Samples:
    """What is attacked: x (N, ...) float32, y (N,), ids (N,) int64, targets (N,) or None; radii
    (R,) or (N, R); open (N, R) bool, the rungs that still stand (all where None); spent (N, R)
    int64, the forward queries already made at each rung (none where None), made (N,) int64, at all
    of them together; groups (N,) int64,
    never falling: samples that attacks which look at several at once are run on together.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    radii: NDArray[np.float64]
    targets: Tensor | None = None
    open: NDArray[np.bool_] | None = None
    spent: NDArray[np.int64] | None = None
    made: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def radius(self, sample: int, rung: int) -> float:
        """The radius of a sample at a rung."""
        return float(self.radii[rung] if self.radii.ndim == 1 else self.radii[sample, rung])

    @property
    def rungs(self) -> int:
        """The number of radii per sample."""
        return int(self.radii.shape[-1])

    def parts(self, most: int) -> Iterator[NDArray[np.int64]]:
        """The samples in their order, in parts of at most so many, or of one group that has more;
        groups are not split.
        """
        groups = np.arange(len(self)) // most if self.groups is None else self.groups
        starts = np.flatnonzero(np.diff(groups, prepend=-1)).tolist()
        first = 0
        for start, end in itertools.pairwise([*starts, len(self)]):
            if start > first and end - first > most:
                yield np.arange(first, start)
                first = start
        if first < len(self):
            yield np.arange(first, len(self))

    def of(self, sample: int) -> NDArray[np.float64]:
        """The radii (R,) of a sample."""
        return np.asarray(self.radii if self.radii.ndim == 1 else self.radii[sample])

    def standing(self, sample: int) -> list[int]:
        """The rungs at which a sample still stands."""
        if self.open is None:
            return list(range(self.rungs))
        return [int(rung) for rung in np.flatnonzero(self.open[sample])]

    def within(self, sample: int, point: Tensor, norm: str) -> tuple[float, NDArray[np.bool_]]:
        """The distance of a point from its image, and the rungs (R,) whose balls it lies in."""
        x = self.x[sample]
        distance = float(norms.size((point.double() - x.double())[None], norm))
        radii = self.radii if self.radii.ndim == 1 else self.radii[sample]
        radius = torch.from_numpy(radii).to(x.device).float()
        many = (len(radius), *x.shape)
        inside: NDArray[np.bool_] = (
            norms.inside(point.expand(many), x.expand(many), radius, norm).cpu().numpy()
        )
        return distance, inside

    def tally(self, sample: int, draws: int) -> Tally:
        """What is known of a sample before it is attacked; draws: it is judged under."""
        spent = np.zeros(self.rungs, np.int64) if self.spent is None else self.spent[sample].copy()
        fell = np.zeros((self.rungs, draws), np.bool_)
        return Tally(fell, spent, np.full(self.rungs, NEVER))

    def take(
        self,
        rows: NDArray[np.int64],
        still: NDArray[np.bool_],
        spent: NDArray[np.int64] | None = None,
        made: NDArray[np.int64] | None = None,
    ) -> Samples:
        """These samples alone, standing where `still` (len(rows), R) says so, after `spent` and
        `made`.
        """
        index = torch.from_numpy(rows).to(self.x.device)
        return Samples(
            x=self.x[index],
            y=self.y[index],
            ids=self.ids[index],
            radii=self.radii if self.radii.ndim == 1 else self.radii[rows],
            targets=None if self.targets is None else self.targets[index],
            open=still,
            spent=spent,
            made=made,
            groups=None if self.groups is None else self.groups[rows],
        )


NEVER = -1
"""In place of a number of queries: no success was seen."""


@dataclass(frozen=True)
class Settled:
    """A sample's result: fell (R, draws) bool per rung and evaluation draw, the image that fooled
    the lowest one.

    spent (R,): forward queries made at each rung, restarts and stages together (a minimal attack's
    one run counts at every rung); first (R,): how many of them had been made when the first success
    at the rung was seen, NEVER where it stands. On a ladder a rung that was not run, because a
    lower one fell, has the lower one's number. Where an attempt went on from one at another rung it
    is of all rungs together, as its start cost those.
    found: x_adv is a success, maybe beyond every rung; else it is the best point tried at the last
    one. forward and backward count the sample's queries, verify the judge's; refused says how many
    claimed successes the judge did not accept, and how many points were none (NaN).
    """

    sample: int
    fell: NDArray[np.bool_]
    spent: NDArray[np.int64]
    first: NDArray[np.int64]
    x_adv: Tensor
    forward: int
    backward: int
    verify: int
    refused: int = 0
    found: bool = False

    @property
    def fooled(self) -> NDArray[np.bool_]:
        """Whether (R,) each rung fell under every draw."""
        return np.asarray(self.fell.all(1))


@dataclass
class Tally:
    """What is known of a sample so far; value, rung and distance belong to x_adv, fell, spent and
    first are those of Settled.
    """

    fell: NDArray[np.bool_]
    spent: NDArray[np.int64]
    first: NDArray[np.int64]
    x_adv: Tensor | None = None
    value: float = -np.inf
    rung: int = -1
    distance: float = np.inf
    forward: int = 0
    backward: int = 0
    verify: int = 0
    refused: int = 0
    found: bool = False

    @property
    def fooled(self) -> NDArray[np.bool_]:
        """See Settled."""
        return np.asarray(self.fell.all(1))

    def fool(
        self, point: Tensor, rungs: NDArray[np.bool_], draws: NDArray[np.bool_], queries: int
    ) -> None:
        """A success at these rungs (R,) under these draws after so many queries; the image of the
        lowest rung is kept.
        """
        before = np.asarray(self.fell.any(1))
        new = rungs & ~before
        if not self.found or (new.any() and new.argmax() < _first(before)):
            self.x_adv = point
        self.first[new] = queries
        self.fell |= rungs[:, None] & draws
        self.found = True

    def near(
        self,
        point: Tensor,
        distance: float,
        rungs: NDArray[np.bool_],
        draws: NDArray[np.bool_],
        seen: NDArray[np.int64],
    ) -> None:
        """A success at a distance, inside these rungs (R,) and under these draws, after `seen` (R,)
        queries (NEVER: by now); the nearest image is kept.
        """
        before = np.asarray(self.fell.any(1))
        # Of an image that was moved on to a radius (see stretch) the distance is not known.
        if distance < self.distance and _first(rungs) <= _first(before):
            self.x_adv, self.distance = point, distance
        new = rungs & ~before
        self.first[new] = np.where(seen == NEVER, self.spent, seen)[new]
        self.fell |= rungs[:, None] & draws
        self.found = True

    def keep(self, point: Tensor, value: float, rung: int) -> None:
        """A point that fooled nothing at a rung, with the attack's value: the best of the highest
        rung is the result while there is no success.
        """
        finite = value if np.isfinite(value) else -np.inf
        better = self.x_adv is None or (rung, finite) > (self.rung, self.value)
        if better and not self.found:
            self.x_adv, self.value, self.rung = point, finite, rung

    def add(self, stage: Settled) -> None:
        """What a further attack found at the rungs that stood until now."""
        before, now = np.asarray(self.fell.any(1)), np.asarray(stage.fell.any(1))
        lower = now.any() and int(now.argmax()) < _first(before)
        if self.x_adv is None or lower or (stage.found and not self.found):
            self.x_adv = stage.x_adv
        self.spent = np.maximum(self.spent, stage.spent)
        self.first = np.where(before, self.first, stage.first)
        self.fell |= stage.fell
        self.found |= stage.found
        self.forward += stage.forward
        self.backward += stage.backward
        self.verify += stage.verify
        self.refused += stage.refused

    def settled(self, sample: int, x: Tensor) -> Settled:
        """The result; x is the image, for a sample of which nothing better is known."""
        point = x if self.x_adv is None else self.x_adv
        counts = (self.forward, self.backward, self.verify, self.refused)
        return Settled(sample, self.fell, self.spent, self.first, point, *counts, self.found)


def _first(flags: NDArray[np.bool_]) -> int:
    return int(flags.argmax()) if flags.any() else len(flags)


Judge = Callable[[Tensor, NDArray[np.int64], Tensor], NDArray[np.bool_]]
"""Points (M, ...), their samples (M,), their radii (M,) -> whether (M, draws) each is a success
under each evaluation draw; a pipeline that draws nothing has one.
"""


@dataclass(frozen=True)
class Setting:
    """How a sweep runs. shape: rows per model call; in_flight: rows in use at most; exact: the
    oracle is the deployed pipeline itself, so that its word is worth a judge's time at once (else
    only each restart's end is judged); budget: forward queries at most for a sample at one radius,
    restarts and stages together (one run of a minimal attack serves them all). policy: see
    attacks.sweeps. eot: answers of a model that draws averaged per query, at least; draws: those
    that it is judged under.
    """

    norm: str
    classes: int
    seed: int
    shape: int
    policy: str = "ladder"
    in_flight: int | None = None
    exact: bool = True
    budget: int | None = None
    eot: int = 1
    draws: int = 1

    @property
    def order(self) -> str:
        """The policy, but that nothing is bisected under several draws: a rung that holds under
        some of them says nothing of the lower ones under the others.
        """
        return "ladder" if self.policy == "bisect" and self.draws > 1 else self.policy


def stretch(
    judge: Judge, samples: Samples, setting: Setting, sample: int, point: Tensor, tally: Tally
) -> None:
    """Notes what a minimal attack's point on another model does here. It lies on that model's
    boundary, so that at every rung it is moved on to the radius (under l0 kept), and judged there.
    """
    count, norm = samples.rungs, setting.norm
    x = samples.x[sample].expand(count, *point.shape)
    radii = [samples.radius(sample, rung) for rung in range(count)]
    radius = torch.tensor(radii, dtype=torch.float32, device=point.device)
    distance = norms.size((point - x[0])[None], norm).clamp(min=norms.TOLERANCE)
    share = torch.ones_like(radius) if norm == "l0" else radius / distance
    moved = norms.project(x + norms.expand(share, x) * (point - x), x, radius, norm)
    fell = judge(moved, np.full(count, sample), radius)
    tally.verify += count - 1
    rungs = np.arange(count)
    for rung in np.flatnonzero(fell.any(1)):
        at = rungs == rung if setting.policy == "independent" else rungs >= rung
        tally.fool(moved[rung], at, fell[rung], int(tally.spent[rung]))

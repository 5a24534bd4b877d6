"""The loop over steps: work streams through a batch of constant shape.

A row holds one (sample, rung, restart), leaves when it is fooled or done, and the next piece of
work takes its place. A rung is a place on a sample's list of radii; a policy says which rung comes
next. A minimal attack has one row per sample and restart, which goes on to its end and is worth
every rung its nearest success lies in. A success is settled by a judge, never by the attack's own
word.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task
from attacks.draws import Draws
from attacks.oracles import DIFFERENTIATING, Answer, ModelError, Predict, Query
from attacks.pipelines import Witness
from attacks.rows import rows_of
from attacks.verify import padded, reached
from attacks.work import (
    NEVER,
    POLICIES,
    Judge,
    Samples,
    Setting,
    Settled,
    Tally,
    Work,
    stretch,
)

_START_ROWS = 32
_STEPS_PER_SYNC = {"cpu": 1}
_STEPS_PER_SYNC_ELSEWHERE = 4
_UNLIMITED = 2**62


def _replaced(tree: Any, index: Tensor, fresh: Any) -> Any:
    """The tree with its rows at index (k,) taken from the first k rows of fresh."""
    return rows_of(tree, lambda t, new: t.index_copy(0, index, new[: len(index)]), fresh)


@dataclass
class _Rows:
    """The batch: per row its attack state and what the loop itself keeps. All tensors lead with the
    shape.

    limit (N,): forward queries that the row may make; radii, first (N, R): of a minimal attack, the
    sample's rungs and the queries made when a success inside each was first seen. draws: the rows'
    own, for a model that draws.
    """

    state: Any
    draws: Draws
    x: Tensor
    y: Tensor
    targets: Tensor | None
    live: Tensor
    fooled: Tensor
    best: Tensor
    kept: Tensor
    forward: Tensor
    backward: Tensor
    limit: Tensor
    radii: Tensor
    first: Tensor
    broken: Tensor
    refused: Tensor


@dataclass
class _Pen:
    """Claimed successes that wait for the judge, with the queries (R,) made when each rung fell."""

    work: list[Work] = field(default_factory=list)
    seen: list[NDArray[np.int64]] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class Stream:
    """One attack on its samples; run yields each of them once."""

    def __init__(
        self, attack: StepAttack, model: Predict, judge: Judge, samples: Samples, setting: Setting
    ):
        self.attack, self.judge = attack, judge
        self.witness = Witness(model, attack.access, setting.classes, attack.eot, setting.eot)
        self.samples, self.setting = samples, setting
        self.is_minimal = attack.kind == "minimal"
        self.attempts = attack.attempts(setting.classes, targeted=samples.targets is not None)
        self.policy = POLICIES[setting.policy]
        self.each = attack.points * self.witness.answers
        self.device = samples.x.device
        self.queue: list[Work] = []
        self.tallies: dict[int, Tally] = {}
        self.holds: list[Work | None] = [None] * setting.shape
        self.together = min(_START_ROWS, setting.shape)
        self.usable = min(setting.shape, setting.in_flight or setting.shape)
        self.pen = _Pen()
        self.rows: _Rows | None = None

    def run(self) -> Iterator[Settled]:
        """Refill, step, collect, judge, until nothing is left."""
        steps = _STEPS_PER_SYNC.get(self.device.type, _STEPS_PER_SYNC_ELSEWHERE)
        for sample in range(len(self.samples)):
            rung = self.samples.next_open(sample, 0)
            if rung is not None:
                yield from self._add(Work(sample, rung, 0))
        while self.queue or self.pen.work or any(self.holds):
            self._refill()
            if self.rows is not None and any(self.holds):
                for _ in range(steps):
                    self._step(self.rows)
                yield from self._collect(self.rows)
            idle = not self.queue and not any(self.holds)
            if len(self.pen.work) >= self.setting.shape or (self.pen.work and idle):
                yield from self._settle_pen()

    def _refill(self) -> None:
        """Gives the free rows new work; starts are computed in blocks of one shape, so that rows do
        not depend on how many start together.
        """
        free = [row for row in range(self.usable) if self.holds[row] is None][: len(self.queue)]
        if not free:
            return
        work = [heapq.heappop(self.queue) for _ in free]
        for first in range(0, len(work), self.together):
            part, rows = work[first : first + self.together], free[first : first + self.together]
            fresh = self._start(part)
            if self.rows is None:
                self.rows = rows_of(fresh, lambda t, _: padded(t, self.setting.shape).clone())
                self.rows.live[:] = False
            self.rows = _replaced(self.rows, torch.tensor(rows, device=self.device), fresh)
            for row, piece in zip(rows, part, strict=True):
                self.holds[row] = piece

    def _start(self, work: Sequence[Work]) -> _Rows:
        samples = self.samples
        work = [*work, *[work[-1]] * (self.together - len(work))]
        index = torch.tensor([w.sample for w in work], device=self.device)
        rungs = [samples.rungs - 1 if self.is_minimal else w.rung for w in work]
        radius = [samples.radius(w.sample, rung) for w, rung in zip(work, rungs, strict=True)]
        restart = torch.tensor([w.restart for w in work], device=self.device)
        targets = None if samples.targets is None else samples.targets[index]
        task = Task(
            x=samples.x[index],
            y=samples.y[index],
            norm=self.setting.norm,
            radius=torch.tensor(radius, dtype=torch.float32, device=self.device),
            classes=self.setting.classes,
            draws=Draws(self.setting.seed, samples.ids[index], restart),
            targets=targets,
        )
        count = torch.zeros_like(restart)
        limit = torch.tensor([self._room(w.sample, w.rung) for w in work], device=self.device)
        radii = self._radii(index)
        no = torch.zeros_like(restart, dtype=torch.bool)
        best = torch.full_like(task.radius, -torch.inf)
        state = self.attack.start(task)
        return _Rows(
            state=state,
            draws=task.draws,
            x=task.x,
            y=task.y,
            targets=targets,
            live=~no,
            fooled=no,
            best=best,
            kept=task.x.clone(),
            forward=count,
            backward=count.clone(),
            limit=limit,
            radii=radii,
            first=torch.full_like(radii, NEVER, dtype=torch.int64),
            broken=no.clone(),
            refused=no.clone(),
        )

    def _radii(self, index: Tensor) -> Tensor:
        """The rungs (N, R) of samples as tensors, for a minimal attack; none for others."""
        if not self.is_minimal:
            return torch.empty(len(index), 0, device=self.device)
        radii = torch.from_numpy(self.samples.radii).to(self.device).float()
        return radii.expand(len(index), -1) if radii.dim() == 1 else radii[index]

    def _room(self, sample: int, rung: int) -> int:
        """The forward queries that are left for a sample at a rung."""
        if self.setting.budget is None:
            return _UNLIMITED
        spent = self._tally(sample).spent
        return self.setting.budget - int(spent.max() if self.is_minimal else spent[rung])

    def _step(self, rows: _Rows) -> None:
        """One query of every row, without asking the host."""
        query, sane = self._checked(self.attack.ask(rows.state), rows.x)
        active = rows.live & query.wanted & (~rows.fooled | self.is_minimal)
        active = active & (rows.forward + self.each <= rows.limit)
        answer = self._answer(query, active, rows)
        count = query.points.shape[1]
        targets = None if rows.targets is None else rows.targets.repeat_interleave(count)
        hit = reached(answer.logits.flatten(0, 1), rows.y.repeat_interleave(count), targets)
        offered = active if query.offered is None else active & query.offered
        hit = hit.view(-1, count) & offered[:, None] & sane
        rows.refused |= (active[:, None] & ~sane).any(1)
        if self.is_minimal:
            score = self._nearness(query.points, rows, hit)
            asked = active & query.differentiate
        else:
            hit = hit & self.setting.exact
            # The first point that succeeded, else the one with the highest value.
            score = torch.where(hit, torch.inf, answer.value)
            score = torch.where(offered[:, None] & sane, score, -torch.inf)
            asked = active & query.differentiate & ~hit.any(1)
        rows.broken |= active & ~answer.logits.isfinite().flatten(1).all(1)
        # The sign of NaN is 0: such a gradient would stand still and pass for robustness.
        rows.broken |= asked & ~answer.gradient.isfinite().flatten(1).all(1)
        top, place = score.max(1)
        better = offered & (top > rows.best)
        each = torch.arange(len(place), device=place.device)
        chosen = query.points[:, 0] if count == 1 else query.points[each, place]
        rows.kept = torch.where(norms.expand(better, chosen), chosen, rows.kept)
        rows.best = torch.where(better, top, rows.best)
        rows.fooled = rows.fooled | (rows.best > -torch.inf if self.is_minimal else hit.any(1))
        rows.forward = rows.forward + active * self.each
        if self.is_minimal:
            within = -score.amax(1, keepdim=True) <= rows.radii + norms.TOLERANCE
            new = within & (rows.first == NEVER)
            rows.first = torch.where(new, rows.forward[:, None], rows.first)
        gradients = answer.gradient.shape[1] if self.attack.access == "jacobian" else 1
        rows.backward = rows.backward + asked * (gradients * self.witness.answers)
        rows.state = self.attack.tell(rows.state, answer)

    def _checked(self, query: Query, x: Tensor) -> tuple[Query, Tensor]:
        """The query with the image in place of a point that is not finite; which (N, q) are."""
        points = query.points
        if points.shape[:1] + points.shape[2:] != x.shape or points.dtype != x.dtype:
            raise ValueError(
                f"{self.attack.to_spec()} asked for points of shape {tuple(points.shape)} and type "
                f"{points.dtype}, for images {tuple(x.shape)} of type {x.dtype}"
            )
        sane = points.flatten(2).sum(2).isfinite()
        sound = sane.view(*sane.shape, *(1,) * (x.dim() - 1))
        return dataclasses.replace(query, points=torch.where(sound, points, x[:, None])), sane

    def _nearness(self, points: Tensor, rows: _Rows, hit: Tensor) -> Tensor:
        """Minus the distance (N, q) of each success in the box; one outside counts as refused."""
        boxed = norms.in_box(points.flatten(0, 1)).view(hit.shape)
        rows.refused |= (hit & ~boxed).any(1)
        delta = (points - rows.x[:, None]).flatten(0, 1)
        distance = norms.size(delta, self.setting.norm).view(hit.shape)
        return torch.where(hit & boxed, -distance, -torch.inf)

    def _answer(self, query: Query, active: Tensor, rows: _Rows) -> Answer:
        """The oracle's answer in calls of the constant shape; the gradient is the first point's."""
        differentiate = self.attack.access in DIFFERENTIATING
        if differentiate and self.device.type == "cpu":
            differentiate = bool((active & query.differentiate).any())
        points = query.points
        said = [
            self.witness.oracle(rows.y, rows.draws, rows.forward, i)(
                points[:, i],
                query.aim,
                differentiate=differentiate and i == 0,
                classes=query.classes,
            )
            for i in range(points.shape[1])
        ]
        logits = torch.stack([answer.logits for answer in said], 1)
        value = torch.stack([answer.value for answer in said], 1)
        return Answer(logits, value, said[0].gradient)

    def _collect(self, rows: _Rows) -> Iterator[Settled]:
        """Reads on the host which rows are over, frees them and says what comes next."""
        spent = rows.forward + self.each > rows.limit
        over = rows.live & (rows.state.done | spent | (rows.fooled & (not self.is_minimal)))
        flags = torch.stack([over, rows.fooled, rows.broken & rows.live]).cpu().numpy()
        if flags[2].any():
            raise ModelError(
                "the model returned NaN or infinite logits or gradients under attack, "
                f"{flags[2].sum()} images"
            )
        finished = np.flatnonzero(flags[0])
        if not len(finished):
            return
        index = torch.from_numpy(finished).to(self.device)
        counted = (rows.forward[index], rows.backward[index], rows.refused[index].long())
        counts = torch.stack(counted).cpu().numpy()
        values = rows.best[index].cpu().numpy()
        first = rows.first[index].cpu().numpy()
        points = rows.kept[index]
        rows.live = rows.live.index_fill(0, index, 0)
        for place, row in enumerate(finished):
            work = self.holds[row]
            self.holds[row] = None
            if work is None:
                continue
            tally = self._tally(work.sample)
            seen = first[place]
            if self.is_minimal:
                seen = np.where(seen == NEVER, NEVER, tally.spent + seen)
            tally.spent[slice(None) if self.is_minimal else work.rung] += counts[0, place]
            tally.forward += int(counts[0, place])
            tally.backward += int(counts[1, place])
            tally.refused += int(counts[2, place])
            if flags[1, row] or not (self.setting.exact or self.is_minimal):
                self.pen.work.append(work)
                self.pen.seen.append(seen)
                self.pen.points.append(points[place])
                self.pen.values.append(float(values[place]))
            else:
                yield from self._failed(work, points[place], float(values[place]))

    def _settle_pen(self) -> Iterator[Settled]:
        pen, self.pen = self.pen, _Pen()
        radius = torch.tensor(
            [
                torch.inf if self.is_minimal else self.samples.radius(w.sample, w.rung)
                for w in pen.work
            ],
            dtype=torch.float32,
            device=self.device,
        )
        samples = np.array([w.sample for w in pen.work], dtype=np.int64)
        verdict = self.judge(torch.stack(pen.points), samples, radius)
        for work, seen, point, value, fell in zip(
            pen.work, pen.seen, pen.points, pen.values, verdict, strict=True
        ):
            tally = self._tally(work.sample)
            tally.verify += 1
            if self.is_minimal and not self.setting.exact:
                stretch(self.judge, self.samples, self.setting, work.sample, point, tally)
                yield from self._failed(work, point, -np.inf)
            elif not fell.any():
                tally.refused += self.setting.exact
                yield from self._failed(work, point, value)
            elif self.is_minimal:
                distance, within = self.samples.within(work.sample, point, self.setting.norm)
                tally.near(point, distance, within, fell, seen)
                yield from self._failed(work, point, -np.inf)
            else:
                rungs = np.arange(self.samples.rungs)
                at = rungs >= work.rung if self.setting.policy == "ladder" else rungs == work.rung
                tally.fool(point, at, fell, int(tally.spent[work.rung]))
                if tally.fooled[work.rung]:
                    yield from self._next(work, fooled=True)
                else:
                    yield from self._failed(work, point, value)

    def _failed(self, work: Work, point: Tensor, value: float) -> Iterator[Settled]:
        """The attempt brought nothing more; the next one, or the next rung."""
        tally = self._tally(work.sample)
        finite = value if np.isfinite(value) else -np.inf
        if (
            not self.is_minimal
            and not tally.found
            and (tally.x_adv is None or work.restart == 0 or finite > tally.value)
        ):
            tally.x_adv, tally.value = point, finite
        has_room = self._room(work.sample, work.rung) >= self.each
        if work.restart + 1 < self.attempts and has_room:
            heapq.heappush(self.queue, work._replace(restart=work.restart + 1))
        else:
            yield from self._next(work, fooled=False)

    def _next(self, work: Work, *, fooled: bool) -> Iterator[Settled]:
        rung = None if self.is_minimal else self.policy(work.rung, self.samples.rungs, fooled)
        rung = self.samples.next_open(work.sample, rung)
        if rung is not None:
            yield from self._add(Work(work.sample, rung, 0))
            return
        tally = self._tally(work.sample)
        del self.tallies[work.sample]
        yield tally.settled(work.sample, self.samples.x[work.sample])

    def _add(self, work: Work) -> Iterator[Settled]:
        """Queues work at a rung where the budget has room for a query; else the next rung."""
        if self._room(work.sample, work.rung) >= self.each:
            heapq.heappush(self.queue, work)
        else:
            yield from self._next(work, fooled=False)

    def _tally(self, sample: int) -> Tally:
        if sample not in self.tallies:
            self.tallies[sample] = self.samples.tally(sample, self.setting.draws)
        return self.tallies[sample]

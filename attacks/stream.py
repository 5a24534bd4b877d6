"""The loop over steps: work streams through a batch of constant shape.

A row holds one attempt at a (sample, rung), leaves when it is fooled or done, and the next piece of
work takes its place; the scheduler says which (see attacks.sweeps). A minimal attack has one row
per sample and attempt, which goes on to its end and is worth every rung its nearest success lies
in. A success is settled by a judge, never by the attack's own word; what the judge refuses goes on
where it was left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.base import StepAttack, Task
from attacks.batch import Batch, Rows, begun, resumed
from attacks.draws import Draws
from attacks.estimate import distances
from attacks.oracles import ModelError, Predict
from attacks.pipelines import Witness
from attacks.precision import Reduced
from attacks.rows import rows_of
from attacks.sweeps import Scheduler, Terms, Work, plan_of
from attacks.work import NEVER, Judge, Samples, Setting, Settled, Tally, stretch

_START_ROWS = 32
_REFILLED = 16
"""The rows, over those that must be free before any is given new work while the queue has more."""
_STEPS_PER_SYNC = {"cpu": 1}
_STEPS_PER_SYNC_ELSEWHERE = 4


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
        self.attack, self.judge, self.samples, self.setting = attack, judge, samples, setting
        self.device = samples.x.device
        witness = Witness(model, attack.access, setting.classes, attack.eot, setting.eot)
        self.steps = _STEPS_PER_SYNC.get(self.device.type, _STEPS_PER_SYNC_ELSEWHERE)
        self.is_minimal = attack.kind == "minimal"
        self.batch = Batch(
            attack, witness, setting.norm, setting.shape, setting.exact, self.steps > 1
        )
        self.terms = self._terms()
        self.whole = self.terms.horizon * self.batch.each
        # What the search sees in low precision the judge may see otherwise, both ways.
        self.doubts = isinstance(model, Reduced) and setting.exact
        self.scheduler = Scheduler(self.batch.each, setting.budget, self.is_minimal)
        self.tallies: dict[int, Tally] = {}
        self.holds: list[Work | None] = [None] * setting.shape
        self.together = min(_START_ROWS, setting.shape)
        self.usable = min(setting.shape, setting.in_flight or setting.shape)
        self.pen = _Pen()
        # Where attempts ended (rung and point), by sample and number; rows whose claim was refused.
        self.ends: dict[int, dict[int, tuple[int, Tensor]]] = {}
        self.left: dict[int, Rows] = {}
        self.broken = 0

    def _terms(self) -> Terms:
        """What holds for all samples. A budget is one radius's own: nothing goes on from another's
        queries.
        """
        attack, setting = self.attack, self.setting
        most = float(self.samples.radii.max(initial=0.0))
        return Terms(
            attempts=attack.attempts(setting.classes, targeted=self.samples.targets is not None),
            horizon=attack.horizon(most, setting.norm, setting.classes),
            goes_on=attack.goes_on(setting.norm) and setting.budget is None,
            hurries=attack.hurries,
            exact=setting.exact,
        )

    def run(self) -> Iterator[Settled]:
        """Refill, step, collect, judge, until nothing is left."""
        yield from self._enter()
        while self.scheduler.queue or self.pen.work or any(self.holds):
            self._refill()
            if any(self.holds):
                for _ in range(self.steps):
                    self.batch.step()
                yield from self._collect()
            if self._should_judge():
                yield from self._settle_pen()
        if self.broken:
            raise ModelError(
                "the model returned NaN or infinite logits or gradients under attack, "
                f"{self.broken} images"
            )

    def _should_judge(self) -> bool:
        """Whether a call of the judge pays: it is full, or the samples that wait for it keep an
        eighth of the rows idle, or as many as are at work.
        """
        waiting, shape = len(self.pen.work), self.setting.shape
        if not waiting or waiting >= shape:
            return bool(waiting)
        live = sum(work is not None for work in self.holds)
        return not self.scheduler.queue and waiting >= min(live, shape // 8)

    def _enter(self) -> Iterator[Settled]:
        """Takes every sample on; where the plan wants to know how far its nearest success may be,
        it is estimated first.
        """
        samples, setting = self.samples, self.setting
        every = [samples.standing(sample) for sample in range(len(samples))]
        guesses: dict[int, float] = {}
        if setting.order == "bisect" and self.terms.can_go_on and samples.rungs > 1:
            whole = np.array([s for s, rungs in enumerate(every) if len(rungs) == samples.rungs])
            guesses = self._guesses(whole.astype(np.int64))
        for sample, standing in enumerate(every):
            tally = samples.tally(sample, setting.draws)
            self.tallies[sample] = tally
            tally.forward += (sample in guesses) * self.batch.witness.answers
            tally.backward += (sample in guesses) * self.batch.witness.answers
            policy = "once" if self.is_minimal else setting.order
            plan = plan_of(policy, samples.of(sample), standing, self.terms, guesses.get(sample))
            if not self.scheduler.add(sample, plan, tally.spent):
                yield self._settled(sample)

    def _guesses(self, rows: NDArray[np.int64]) -> dict[int, float]:
        """How far the nearest success of some samples may be."""
        if not len(rows):
            return {}
        part = self.samples.take(rows, np.ones((len(rows), self.samples.rungs), np.bool_))
        found = distances(self.batch.witness, part, self.setting)
        return dict(zip(rows.tolist(), found.tolist(), strict=True))

    def _refill(self) -> None:
        """Gives the free rows new work; starts are computed in blocks of one shape, so that rows do
        not depend on how many start together.
        """
        free = [row for row in range(self.usable) if self.holds[row] is None]
        # A start costs as much for one row as for many: better some rows idle for a few steps.
        if len(free) < min(self.usable // _REFILLED, len(self.scheduler.queue)):
            return
        work = self.scheduler.take(len(free))
        left = [w for w in work if w.sample in self.left]
        fresh = [w for w in work if w.sample not in self.left]
        for row, piece in zip(free, left, strict=False):
            limit = torch.tensor([piece.limit], device=self.device)
            self.batch.put([row], resumed(self.left.pop(piece.sample), limit))
            self.holds[row] = piece
        free = free[len(left) :]
        for first in range(0, len(fresh), self.together):
            part, rows = fresh[first : first + self.together], free[first : first + self.together]
            self.batch.put(rows[: len(part)], self._start(part))
            for row, piece in zip(rows, part, strict=False):
                self.holds[row] = piece

    def _start(self, work: Sequence[Work]) -> Rows:
        samples = self.samples
        work = [*work, *[work[-1]] * (self.together - len(work))]
        index = torch.tensor([w.sample for w in work], device=self.device)
        rungs = [samples.rungs - 1 if self.is_minimal else w.rung for w in work]
        radius = [samples.radius(w.sample, rung) for w, rung in zip(work, rungs, strict=True)]
        restart = torch.tensor([w.attempt for w in work], device=self.device)
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
        limit = torch.tensor([w.limit for w in work], device=self.device)
        state = self.attack.start(task)
        if any(w.goes_on or w.limit < self.whole for w in work) and self.terms.can_go_on:
            state = self._gone_on(work, task, state)
        return begun(task, state, limit, self._radii(index))

    def _gone_on(self, work: Sequence[Work], task: Task, state: Any) -> Any:
        """The state with, of attempts that go on, the point where the last one ended, moved to the
        new radius, in place of the start; of cut ones hurried.
        """
        points, ratios = [task.x[place] for place in range(len(work))], [0.0] * len(work)
        for place, (sample, _, rung, attempt, _, goes_on) in enumerate(work):
            if goes_on:
                before, points[place] = self.ends[sample][attempt]
                ratios[place] = self.samples.radius(sample, rung) / self.samples.radius(
                    sample, before
                )
        ratio = torch.tensor(ratios, device=self.device)
        moved = task.x + norms.expand(ratio, task.x) * (torch.stack(points) - task.x)
        moved = norms.project(moved, task.x, task.radius, task.norm)
        which = norms.expand(ratio > 0, task.x)
        state = replace(state, point=torch.where(which, moved, state.point))
        shares = [min(w.limit, self.whole) / self.whole for w in work]
        return self.attack.hurried(state, torch.tensor(shares, device=self.device))

    def _radii(self, index: Tensor) -> Tensor:
        """The rungs (N, R) of samples as tensors, for a minimal attack; none for others."""
        if not self.is_minimal:
            return torch.empty(len(index), 0, device=self.device)
        radii = torch.from_numpy(self.samples.radii).to(self.device).float()
        return radii.expand(len(index), -1) if radii.dim() == 1 else radii[index]

    def _collect(self) -> Iterator[Settled]:
        """Reads on the host which rows are over, frees them and says what comes next."""
        rows = self.batch.rows
        if rows is None:
            return
        flags = torch.stack([self.batch.over(), rows.fooled, rows.broken & rows.live]).cpu().numpy()
        finished = np.flatnonzero(flags[0] | flags[2])
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
            if flags[2, row]:
                self._drop(work.sample)
                continue
            seen = self._counted(work, counts[:, place], first[place])
            at_end = self.doubts or not self.setting.exact
            if flags[1, row] or (at_end and not self.is_minimal):
                self._claim(work, seen, points[place], float(values[place]))
                if flags[1, row] and not self.is_minimal:
                    self.left[work.sample] = _one(rows, int(row))
            else:
                yield from self._failed(work, points[place], float(values[place]))

    def _counted(
        self, work: Work, counts: NDArray[np.int64], first: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Notes a row's forwards, backwards and refused points; returns the sample's queries (R,)
        when a minimal attack's success at each rung was seen.
        """
        tally = self.tallies[work.sample]
        seen = np.where(first == NEVER, NEVER, tally.spent + first) if self.is_minimal else first
        self.scheduler.spend(work, int(counts[0]))
        tally.forward += int(counts[0])
        tally.backward += int(counts[1])
        tally.refused += int(counts[2])
        return seen

    def _claim(self, work: Work, seen: NDArray[np.int64], point: Tensor, value: float) -> None:
        """A point for the judge."""
        self.pen.work.append(work)
        self.pen.seen.append(seen)
        self.pen.points.append(point)
        self.pen.values.append(value)

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
            self.tallies[work.sample].verify += 1
            if self.is_minimal:
                yield from self._judged_minimal(work, seen, point, fell)
            else:
                yield from self._judged(work, point, value, fell)

    def _judged_minimal(
        self, work: Work, seen: NDArray[np.int64], point: Tensor, fell: NDArray[np.bool_]
    ) -> Iterator[Settled]:
        """Of another model's boundary, or one that is nearer than the judge accepts, a point is
        moved on to each radius; else it is worth every rung that it lies in.
        """
        tally, samples = self.tallies[work.sample], self.samples
        if not (self.setting.exact and fell.any()):
            tally.refused += self.setting.exact
            stretch(self.judge, samples, self.setting, work.sample, point, tally)
        else:
            distance, within = samples.within(work.sample, point, self.setting.norm)
            tally.near(point, distance, within, fell, seen)
        yield from self._failed(work, point, -np.inf)

    def _judged(
        self, work: Work, point: Tensor, value: float, fell: NDArray[np.bool_]
    ) -> Iterator[Settled]:
        tally = self.tallies[work.sample]
        if not fell.any():
            tally.refused += work.sample in self.left
            if work.sample in self.left and self.scheduler.again(work):
                return
            self.left.pop(work.sample, None)
            yield from self._failed(work, point, value)
            return
        self.left.pop(work.sample, None)
        rungs = np.arange(self.samples.rungs)
        at = rungs == work.rung if self.setting.policy == "independent" else rungs >= work.rung
        tally.fool(point, at, fell, self._asked_by(work, tally))
        if tally.fooled[work.rung]:
            yield from self._ended(work, point, fell=True)
        else:
            yield from self._failed(work, point, value)

    def _asked_by(self, work: Work, tally: Tally) -> int:
        """Queries made when a success was seen: of an attempt that went on from others, those of
        all rungs and of earlier stages.
        """
        if not work.goes_on:
            return int(tally.spent[work.rung])
        made = self.samples.made
        return tally.forward + (0 if made is None else int(made[work.sample]))

    def _failed(self, work: Work, point: Tensor, value: float) -> Iterator[Settled]:
        """The attempt brought nothing more; the next one, or the next rung."""
        if not self.is_minimal:
            self.tallies[work.sample].keep(point, value, work.rung)
        yield from self._ended(work, point, fell=False)

    def _ended(self, work: Work, point: Tensor, *, fell: bool) -> Iterator[Settled]:
        if self.terms.can_go_on:
            self.ends.setdefault(work.sample, {})[work.attempt] = (work.rung, point)
        if not self.scheduler.ended(work, fell=fell):
            yield self._settled(work.sample)

    def _settled(self, sample: int) -> Settled:
        tally = self.tallies.pop(sample)
        self.ends.pop(sample, None)
        return tally.settled(sample, self.samples.x[sample])

    def _drop(self, sample: int) -> None:
        """A sample of which the model said what is no number: it fails, the others go on."""
        self.broken += 1
        del self.tallies[sample], self.scheduler.open[sample]
        self.ends.pop(sample, None)


def _one(rows: Rows, row: int) -> Rows:
    """One of the rows, as a batch of its own."""
    one: Rows = rows_of(rows, lambda t, _: t[row : row + 1].clone())
    return one

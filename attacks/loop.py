"""The one attack loop.

`sweep` streams work through a batch of constant shape: a row holds one (sample, rung, restart),
leaves when it is fooled or done, and the next piece of work takes its place. A rung is a place on a
sample's list of radii; a policy says which rung comes next. A success is settled by a judge, never
by the attack's own word. `craft` runs a whole batch in step, as training needs it.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.base import Attack, Task
from attacks.draws import Draws
from attacks.oracles import ORACLES, Answer, ModelError, Oracle, Predict, Query
from attacks.verify import padded, reached
from attacks.work import POLICIES, Judge, Samples, Setting, Settled, Work

REVISION = 1
"""Raised when a change of the loop changes outcomes."""

_START_ROWS = 32
_STEPS_PER_SYNC = {"cpu": 1}
_STEPS_PER_SYNC_ELSEWHERE = 4


def rows_of(tree: Any, change: Callable[[Tensor, Any], Any], other: Any = None) -> Any:
    """The tree (dataclasses and tuples of tensors) with change(tensor, other's tensor) in place of
    each tensor.
    """
    if isinstance(tree, Tensor):
        return change(tree, other)
    if isinstance(tree, tuple):
        others = other if other is not None else (None,) * len(tree)
        return tuple(rows_of(part, change, o) for part, o in zip(tree, others, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [f.name for f in dataclasses.fields(tree)]
        parts = {n: rows_of(getattr(tree, n), change, getattr(other, n, None)) for n in names}
        return dataclasses.replace(tree, **parts)
    return tree


def _replaced(tree: Any, index: Tensor, fresh: Any) -> Any:
    """The tree with its rows at index (k,) taken from the first k rows of fresh."""
    return rows_of(tree, lambda t, new: t.index_copy(0, index, new[: len(index)]), fresh)


@dataclass
class _Tally:
    """What is known of a sample so far."""

    fooled: NDArray[np.bool_]
    x_adv: Tensor | None = None
    value: float = -np.inf
    forward: int = 0
    backward: int = 0
    verify: int = 0
    refused: int = 0


@dataclass
class _Rows:
    """The batch: per row its attack state and what the loop itself keeps. All tensors lead with the
    shape.
    """

    state: Any
    y: Tensor
    targets: Tensor | None
    live: Tensor
    fooled: Tensor
    best: Tensor
    kept: Tensor
    forward: Tensor
    backward: Tensor
    broken: Tensor


@dataclass
class _Pen:
    """Claimed successes that wait for the judge."""

    work: list[Work] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class _Sweep:
    def __init__(
        self, attack: Attack, oracle: Oracle, judge: Judge, samples: Samples, setting: Setting
    ):
        self.attack, self.oracle, self.judge = attack, oracle, judge
        self.samples, self.setting = samples, setting
        self.policy = POLICIES[setting.policy]
        self.device = samples.x.device
        self.queue = [Work(sample, 0, 0) for sample in range(len(samples))]
        self.tallies: dict[int, _Tally] = {}
        self.holds: list[Work | None] = [None] * setting.shape
        self.together = min(_START_ROWS, setting.shape)
        self.usable = min(setting.shape, setting.in_flight or setting.shape)
        self.pen = _Pen()
        self.rows: _Rows | None = None

    def run(self) -> Iterator[Settled]:
        steps = _STEPS_PER_SYNC.get(self.device.type, _STEPS_PER_SYNC_ELSEWHERE)
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
        radius = [samples.radius(w.sample, w.rung) for w in work]
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
        no = torch.zeros_like(restart, dtype=torch.bool)
        best = torch.full_like(task.radius, -torch.inf)
        state = self.attack.start(task)
        return _Rows(
            state, task.y, targets, ~no, no, best, task.x, count, count.clone(), no.clone()
        )

    def _step(self, rows: _Rows) -> None:
        """One query of every row, without asking the host."""
        query = self.attack.ask(rows.state)
        active = rows.live & ~rows.fooled & query.wanted
        answer = self._answer(query, active)
        count = query.points.shape[1]
        targets = None if rows.targets is None else rows.targets.repeat_interleave(count)
        hit = reached(answer.logits.flatten(0, 1), rows.y.repeat_interleave(count), targets)
        hit = hit.view(-1, count) & active[:, None] & self.setting.exact
        asked = active & query.differentiate & ~hit.any(1)
        rows.broken |= active & ~answer.logits.isfinite().flatten(1).all(1)
        # The sign of NaN is 0: such a gradient would stand still and pass for robustness.
        rows.broken |= asked & ~answer.gradient.isfinite().flatten(1).all(1)
        # The first point that succeeded, else the one with the highest value.
        score = torch.where(hit, torch.inf, answer.value)
        top, place = score.max(1)
        better = active & (top > rows.best)
        each = torch.arange(len(place), device=place.device)
        chosen = query.points[:, 0] if count == 1 else query.points[each, place]
        rows.kept = torch.where(norms.expand(better, chosen), chosen, rows.kept)
        rows.best = torch.where(better, top, rows.best)
        rows.fooled = rows.fooled | hit.any(1)
        rows.forward = rows.forward + active * count
        rows.backward = rows.backward + asked * count
        rows.state = self.attack.tell(rows.state, answer)

    def _answer(self, query: Query, active: Tensor) -> Answer:
        """The oracle's answer in calls of the constant shape, shaped (N, q, ...)."""
        count = query.points.shape[1]
        differentiate = self.attack.access == "gradient"
        if differentiate and self.device.type == "cpu":
            differentiate = bool((active & query.differentiate).any())
        points, labels = query.points.flatten(0, 1), query.labels.flatten(0, 1)
        sign = query.sign.repeat_interleave(count)
        size = self.setting.shape
        parts = [
            self.oracle(
                points[i : i + size],
                labels[i : i + size],
                query.loss,
                sign[i : i + size],
                differentiate=differentiate,
            )
            for i in range(0, len(points), size)
        ]
        joined = [
            torch.cat(t) if len(t) > 1 else t[0] for t in zip(*map(_fields, parts), strict=True)
        ]
        logits, value, gradient = (t.unflatten(0, (size, count)) for t in joined)
        return Answer(logits, value, gradient)

    def _collect(self, rows: _Rows) -> Iterator[Settled]:
        """Reads on the host which rows are over, frees them and says what comes next."""
        over = rows.live & (rows.fooled | rows.state.done)
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
        counts = torch.stack([rows.forward[index], rows.backward[index]]).cpu().numpy()
        values = rows.best[index].cpu().numpy()
        points = rows.kept[index]
        rows.live = rows.live.index_fill(0, index, 0)
        for place, row in enumerate(finished):
            work = self.holds[row]
            self.holds[row] = None
            if work is None:
                continue
            tally = self._tally(work.sample)
            tally.forward += int(counts[0, place])
            tally.backward += int(counts[1, place])
            if flags[1, row] or not self.setting.exact:
                self.pen.work.append(work)
                self.pen.points.append(points[place])
                self.pen.values.append(float(values[place]))
            else:
                yield from self._failed(work, points[place], float(values[place]))

    def _settle_pen(self) -> Iterator[Settled]:
        pen, self.pen = self.pen, _Pen()
        radius = torch.tensor(
            [self.samples.radius(w.sample, w.rung) for w in pen.work],
            dtype=torch.float32,
            device=self.device,
        )
        samples = np.array([w.sample for w in pen.work], dtype=np.int64)
        verdict = self.judge(torch.stack(pen.points), samples, radius)
        for work, point, value, success in zip(
            pen.work, pen.points, pen.values, verdict, strict=True
        ):
            tally = self._tally(work.sample)
            tally.verify += 1
            if not success:
                tally.refused += self.setting.exact
                yield from self._failed(work, point, value)
                continue
            if not tally.fooled.any():
                tally.x_adv = point
            above = slice(work.rung, None) if self.setting.policy == "ladder" else work.rung
            tally.fooled[above] = True
            yield from self._next(work, fooled=True)

    def _failed(self, work: Work, point: Tensor, value: float) -> Iterator[Settled]:
        tally = self._tally(work.sample)
        finite = value if np.isfinite(value) else -np.inf
        if not tally.fooled.any() and (
            tally.x_adv is None or work.restart == 0 or finite > tally.value
        ):
            tally.x_adv, tally.value = point, finite
        if work.restart + 1 < self.attack.restarts:
            heapq.heappush(self.queue, work._replace(restart=work.restart + 1))
        else:
            yield from self._next(work, fooled=False)

    def _next(self, work: Work, *, fooled: bool) -> Iterator[Settled]:
        rung = self.policy(work.rung, self.samples.rungs, fooled)
        if rung is not None:
            heapq.heappush(self.queue, Work(work.sample, rung, 0))
            return
        tally = self.tallies.pop(work.sample)
        point = self.samples.x[work.sample] if tally.x_adv is None else tally.x_adv
        counts = (tally.forward, tally.backward, tally.verify, tally.refused)
        yield Settled(work.sample, tally.fooled, point, *counts)

    def _tally(self, sample: int) -> _Tally:
        return self.tallies.setdefault(sample, _Tally(np.zeros(self.samples.rungs, dtype=np.bool_)))


def _fields(answer: Answer) -> tuple[Tensor, Tensor, Tensor]:
    return answer.logits, answer.value, answer.gradient


def sweep(
    attack: Attack, oracle: Oracle, judge: Judge, samples: Samples, setting: Setting
) -> Iterator[Settled]:
    """Runs an attack over every sample and rung; yields each sample once, when it is settled.

    A sample's result depends on its image, label, radii and the setting's seed and shape alone.
    Raises ModelError when the model returns something that is not finite.
    """
    attack.check(setting.norm, setting.classes)
    yield from _Sweep(attack, oracle, judge, samples, setting).run()


def craft(recipe: Attack, predict: Predict, task: Task, *, steps: int) -> Tensor:
    """The points (N, ...) an attack stands at after `steps` gradient steps on a whole batch:
    nothing stops early, nothing is judged. For the inner maximisation of training; the caller holds
    the model as it wants it.
    """
    oracle = ORACLES[recipe.access](predict)
    state = recipe.start(task)
    for _ in range(steps):
        query = recipe.ask(state)
        points, labels = query.points[:, 0], query.labels[:, 0]
        answer = oracle(
            points, labels, query.loss, query.sign, differentiate=recipe.access == "gradient"
        )
        state = recipe.tell(state, Answer(*(t[:, None] for t in _fields(answer))))
    return recipe.ask(state).points[:, 0].detach()

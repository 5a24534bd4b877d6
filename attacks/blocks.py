"""Block attacks: run on a block of samples at a time; counted and judged as everyone is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.base import BlockAttack, Task
from attacks.draws import Draws
from attacks.oracles import Aim, Answer, ModelError, Oracle
from attacks.verify import padded
from attacks.work import NEVER, POLICIES, Judge, Samples, Setting, Settled, Tally


@dataclass
class Counted:
    """An oracle for the rows of one block: pads every call to the shape, counts per row."""

    oracle: Oracle
    shape: int
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]

    def __call__(self, points: Tensor, rows: Tensor, aim: Aim, *, differentiate: bool) -> Answer:
        """See base.Ask."""
        answer = self.oracle(
            padded(points, self.shape),
            aim.each(lambda t: padded(t, self.shape)),
            differentiate=differentiate,
        )
        count = len(points)
        logits, value = answer.logits[:count], answer.value[:count]
        gradient = answer.gradient[:count]
        if not bool(logits.isfinite().all() & gradient.isfinite().all()):
            raise ModelError(
                "the model returned NaN or infinite logits or gradients under attack, "
                f"{count} images"
            )
        np.add.at(self.forward, rows.cpu().numpy(), 1)
        np.add.at(self.backward, rows.cpu().numpy(), int(differentiate))
        return Answer(logits, value, gradient)


def crafted(
    attack: BlockAttack, oracle: Oracle, judge: Judge, samples: Samples, setting: Setting
) -> Iterator[Settled]:
    """Runs a block attack over every sample and rung, `shape` samples at a time."""
    size = min(setting.shape, setting.in_flight or setting.shape)
    for first in range(0, len(samples), size):
        rows = np.arange(first, min(first + size, len(samples)))
        block = _Block(attack, oracle, judge, samples, setting, rows)
        block.run()
        for row in rows:
            yield block.tallies[row].settled(int(row), samples.x[row])


@dataclass
class _Block:
    attack: BlockAttack
    oracle: Oracle
    judge: Judge
    samples: Samples
    setting: Setting
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.tallies: dict[Any, Tally] = {r: self.samples.tally(int(r)) for r in self.rows}

    def run(self) -> None:
        """Every attempt at every rung that still stands; a minimal attack has the last one only."""
        samples, is_minimal = self.samples, self.attack.kind == "minimal"
        at = {row: samples.next_open(row, 0) for row in self.rows}
        while any(rung is not None for rung in at.values()):
            work = [(row, rung) for row, rung in at.items() if rung is not None]
            if is_minimal:
                work = [(row, samples.rungs - 1) for row, _ in work]
            fooled = dict.fromkeys([row for row, _ in work], False)
            for attempt in range(self._attempts()):
                left = [(row, rung) for row, rung in work if is_minimal or not fooled[row]]
                if left:
                    fooled |= self._attempt(left, attempt)
            policy = POLICIES[self.setting.policy]
            for row, rung in work:
                following = None if is_minimal else policy(rung, samples.rungs, fooled[row])
                at[row] = samples.next_open(row, following)

    def _attempt(self, work: list[tuple[int, int]], attempt: int) -> dict[int, bool]:
        """Which samples it fooled."""
        rows = np.array([row for row, _ in work])
        task = self._task(work, rows, attempt)
        zeros = np.zeros(len(rows), dtype=np.int64)
        ask = Counted(self.oracle, self.setting.shape, zeros, zeros.copy())
        points = self._sane(self.attack.craft(ask, task), task)
        norm, is_minimal = self.setting.norm, self.attack.kind == "minimal"
        radius = torch.full_like(task.radius, torch.inf) if is_minimal else task.radius
        verdict = self.judge(points.nan_to_num(0.0), rows, radius)
        # A point that is its image claims nothing; one outside ball or box, or none, is refused.
        outside = (~norms.inside(points, task.x, radius, norm)).cpu().numpy()
        for place, (row, rung) in enumerate(work):
            tally = self.tallies[row]
            tally.forward += int(ask.forward[place])
            tally.spent[slice(None) if is_minimal else rung] += ask.forward[place]
            tally.backward += int(ask.backward[place])
            tally.verify += 1
            tally.refused += int(outside[place])
            if verdict[place] and is_minimal:
                distance, within = self.samples.within(row, points[place], norm)
                tally.near(points[place], distance, within, np.full(len(within), NEVER))
            elif verdict[place]:
                above = np.arange(self.samples.rungs)
                at = above >= rung if self.setting.policy == "ladder" else above == rung
                tally.fool(points[place], at, int(tally.spent[rung]))
            elif not tally.found and not is_minimal and not outside[place]:
                tally.x_adv = points[place]
        return {row: bool(verdict[place]) for place, (row, _) in enumerate(work)}

    def _attempts(self) -> int:
        targeted = self.samples.targets is not None
        return self.attack.attempts(self.setting.classes, targeted=targeted)

    def _sane(self, points: Tensor, task: Task) -> Tensor:
        if points.shape != task.x.shape or points.dtype != task.x.dtype:
            raise ValueError(
                f"{self.attack.to_spec()} returned points of shape {tuple(points.shape)} and type "
                f"{points.dtype}, for images {tuple(task.x.shape)} of type {task.x.dtype}"
            )
        return points.detach()

    def _task(self, work: list[tuple[int, int]], rows: NDArray[np.int64], attempt: int) -> Task:
        samples, device = self.samples, self.samples.x.device
        index = torch.from_numpy(rows).to(device)
        radius = [samples.radius(row, rung) for row, rung in work]
        return Task(
            x=samples.x[index],
            y=samples.y[index],
            norm=self.setting.norm,
            radius=torch.tensor(radius, dtype=torch.float32, device=device),
            classes=self.setting.classes,
            draws=Draws(self.setting.seed, samples.ids[index], torch.full_like(index, attempt)),
            targets=None if samples.targets is None else samples.targets[index],
        )

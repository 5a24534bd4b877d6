"""Block attacks: run on a block of samples at a time; counted and judged as everyone is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import norms
from attacks.base import BlockAttack, ForeignAttack, Task
from attacks.draws import Draws
from attacks.instrument import Instrumented, Ledger, OutOfBudget
from attacks.oracles import Aim, Answer, ModelError, Predict, one_hot
from attacks.pipelines import Witness
from attacks.rows import rows_of
from attacks.sweeps import UNLIMITED, Scheduler, Terms, Work, plan_of
from attacks.verify import padded
from attacks.work import NEVER, Judge, Samples, Setting, Settled, Tally, stretch
from models.seeding import seeded_everywhere

_TOGETHER = 256
"""Samples that a foreign attack is handed at a time where nobody groups them."""


@dataclass
class Counted:
    """An oracle for the rows of one block: pads every call to the shape, keeps the ledger.

    A row whose sample may ask no more is not asked: it hears its label, and no slope.
    """

    witness: Witness
    shape: int
    ledger: Ledger

    def __call__(self, points: Tensor, rows: Tensor, aim: Aim, *, differentiate: bool) -> Answer:
        """See base.Ask."""
        task, samples = self.ledger.task, rows.cpu().numpy()
        each = self.witness.answers
        allowed = self.ledger.allows(samples, each)
        mute = one_hot(task.y[rows], task.classes)
        logits, value = mute.clone(), aim.value(mute)
        gradient = torch.zeros_like(points)
        if allowed.any():
            index = torch.from_numpy(np.flatnonzero(allowed)).to(points.device)
            told = self._told(
                points[index], rows[index], aim.each(lambda t: t[index]), differentiate
            )
            logits[index], value[index], gradient[index] = told.logits, told.value, told.gradient
            asked = samples[allowed]
            self.ledger.asked(np.repeat(asked, each))
            if differentiate:
                self.ledger.differentiated(np.repeat(asked, each))
            self.ledger.see(points[index], asked, told.logits)
        return Answer(logits, value, gradient)

    def _told(self, points: Tensor, rows: Tensor, aim: Aim, differentiate: bool) -> Answer:  # noqa: FBT001  see Ask
        task = self.ledger.task
        before = torch.from_numpy(self.ledger.forward).to(rows.device)[rows]
        y, draws, before = (
            rows_of(tree, lambda t, _: padded(t, self.shape))
            for tree in (task.y[rows], rows_of(task.draws, lambda t, _: t[rows]), before)
        )
        answer = self.witness.oracle(y, draws, before)(
            padded(points, self.shape),
            aim.each(lambda t: padded(t, self.shape)),
            differentiate=differentiate,
        )
        count = len(points)
        logits, gradient = answer.logits[:count], answer.gradient[:count]
        if not bool(logits.isfinite().all() & gradient.isfinite().all()):
            raise ModelError(
                "the model returned NaN or infinite logits or gradients under attack, "
                f"{count} images"
            )
        return Answer(logits, answer.value[:count], gradient)


def crafted(
    attack: BlockAttack | ForeignAttack,
    model: Predict,
    judge: Judge,
    samples: Samples,
    setting: Setting,
) -> Iterator[Settled]:
    """Runs a block attack over every sample and rung: ours on `shape` samples at a time, a foreign
    one on whole groups, whatever may be in flight.
    """
    if isinstance(attack, BlockAttack):
        parts = replace(samples, groups=None).parts(
            min(setting.shape, setting.in_flight or setting.shape)
        )
    else:
        parts = samples.parts(_TOGETHER if samples.groups is None else 1)
    for rows in parts:
        block = _Block(attack, model, judge, samples, setting, rows)
        block.run()
        for row in rows:
            yield block.tallies[row].settled(int(row), samples.x[row])


@dataclass
class _Block:
    attack: BlockAttack | ForeignAttack
    model: Predict
    judge: Judge
    samples: Samples
    setting: Setting
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        self.tallies: dict[Any, Tally] = {
            r: self.samples.tally(int(r), self.setting.draws) for r in self.rows
        }
        self.is_minimal = self.attack.kind == "minimal"
        self.scheduler = Scheduler(1, self.setting.budget, self.is_minimal)

    def run(self) -> None:
        """Every attempt that the samples' plans ask for, those of one round together."""
        samples, setting = self.samples, self.setting
        targeted = samples.targets is not None
        terms = Terms(self.attack.attempts(setting.classes, targeted=targeted), UNLIMITED)
        policy = "once" if self.is_minimal else setting.order
        for row in self.rows:
            plan = plan_of(policy, samples.of(row), samples.standing(row), terms)
            self.scheduler.add(int(row), plan, self.tallies[row].spent)
        while work := self.scheduler.take(len(self.rows)):
            for part in self._parts(work):
                self._attempted(part)

    def _parts(self, work: list[Work]) -> list[list[Work]]:
        """The work by what one call may hold: a foreign attack runs one attempt at a time, and one
        that has a budget knows one radius.
        """
        if isinstance(self.attack, BlockAttack):
            return [work]
        parts: dict[tuple[int, float], list[Work]] = {}
        for piece in work:
            radius = 0.0 if self.is_minimal else self.samples.radius(piece.sample, piece.rung)
            parts.setdefault((piece.attempt, radius), []).append(piece)
        return list(parts.values())

    def _attempted(self, work: list[Work]) -> None:
        """One attempt at each sample. Where a foreign attack was stopped by one sample's budget
        before it came to others, those get their turn without it.
        """
        while work:
            fooled, forward = self._attempt(work)
            stops = self.setting.budget is not None and isinstance(self.attack, ForeignAttack)
            late = [
                stops and not fell and 2 * asked <= max(forward) and max(forward) > 0
                for fell, asked in zip(fooled, forward, strict=True)
            ]
            waiting = []
            for piece, fell, is_late in zip(work, fooled, late, strict=True):
                if is_late and self.scheduler.room(piece.sample) > 0:
                    waiting.append(piece)
                else:
                    self.scheduler.ended(piece, fell=fell)
            work = waiting

    def _attempt(self, work: list[Work]) -> tuple[list[bool], list[int]]:
        """Which samples it fooled, and the forward queries of each."""
        rows = np.array([piece.sample for piece in work])
        task = self._task(work, rows)
        ledger = self._ledger(work, rows, task)
        points = self._sane(self._craft(task, ledger, work[0].attempt), task)
        norm, is_minimal = self.setting.norm, self.is_minimal
        radius = torch.full_like(task.radius, torch.inf) if is_minimal else task.radius
        verdict = self.judge(points.nan_to_num(0.0), rows, radius)
        # A point that is its image claims nothing; one outside ball or box, or none, is refused.
        outside = (~norms.inside(points, task.x, radius, norm)).cpu().numpy()
        for place, piece in enumerate(work):
            row, rung, tally = piece.sample, piece.rung, self.tallies[piece.sample]
            before, first = tally.spent.copy(), ledger.first[place]
            seen = np.where(first == NEVER, NEVER, before + first)
            tally.forward += int(ledger.forward[place])
            self.scheduler.spend(piece, int(ledger.forward[place]))
            tally.backward += int(ledger.backward[place])
            tally.verify += 1
            tally.refused += int(outside[place])
            if is_minimal and not self.setting.exact:
                stretch(self.judge, self.samples, self.setting, row, points[place], tally)
            elif verdict[place].any() and is_minimal:
                distance, within = self.samples.within(row, points[place], norm)
                tally.near(points[place], distance, within, verdict[place], seen)
            elif verdict[place].any():
                above = np.arange(self.samples.rungs)
                at = above == rung if self.setting.policy == "independent" else above >= rung
                by_now = tally.spent[rung] if first[0] == NEVER else seen[rung]
                tally.fool(points[place], at, verdict[place], int(by_now))
            elif not tally.found and not is_minimal and not outside[place]:
                tally.x_adv = points[place]
        fooled = [bool(self.tallies[piece.sample].fooled[piece.rung]) for piece in work]
        return fooled, ledger.forward.tolist()

    def _ledger(self, work: list[Work], rows: NDArray[np.int64], task: Task) -> Ledger:
        """A minimal attack's successes are noted at every rung, another's at its radius."""
        balls = task.radius[:, None]
        if self.is_minimal:
            radii = self.samples.radii
            each = np.broadcast_to(
                radii if radii.ndim == 1 else radii[rows], (len(rows), radii.shape[-1])
            )
            balls = torch.from_numpy(each.copy()).to(task.x.device).float()
        room = None
        if self.setting.budget is not None:
            room = np.array([self.scheduler.room(piece.sample) for piece in work], np.int64)
        return Ledger(task, balls, room, self.is_minimal)

    def _craft(self, task: Task, ledger: Ledger, attempt: int) -> Tensor:
        setting, own = self.setting, self.attack
        witness = Witness(self.model, own.access, setting.classes, own.eot, setting.eot)
        if isinstance(own, BlockAttack):
            return own.craft(Counted(witness, setting.shape, ledger), task)
        asked = Instrumented(witness, ledger, setting.shape)
        ids = task.draws.ids.cpu().numpy().tobytes()
        start = f"{self.setting.seed}|{attempt}|".encode() + ids
        seed = int.from_bytes(hashlib.blake2b(start, digest_size=7).digest(), "big")
        with seeded_everywhere(seed), torch.enable_grad():
            try:
                return own.craft(asked, task)
            except OutOfBudget:
                return ledger.best

    def _sane(self, points: object, task: Task) -> Tensor:
        if not isinstance(points, Tensor):
            got = type(points).__name__
            raise TypeError(f"{self.attack.to_spec()} must return a tensor of images, got {got}")
        if points.shape != task.x.shape or points.dtype != task.x.dtype:
            raise ValueError(
                f"{self.attack.to_spec()} returned points of shape {tuple(points.shape)} and type "
                f"{points.dtype}, for images {tuple(task.x.shape)} of type {task.x.dtype}"
            )
        return points.detach().to(task.x.device)

    def _task(self, work: list[Work], rows: NDArray[np.int64]) -> Task:
        samples, device = self.samples, self.samples.x.device
        index = torch.from_numpy(rows).to(device)
        last = samples.rungs - 1
        rungs = [last if self.is_minimal else piece.rung for piece in work]
        radius = [samples.radius(w.sample, rung) for w, rung in zip(work, rungs, strict=True)]
        attempt = torch.tensor([piece.attempt for piece in work], device=device)
        return Task(
            x=samples.x[index],
            y=samples.y[index],
            norm=self.setting.norm,
            radius=torch.tensor(radius, dtype=torch.float32, device=device),
            classes=self.setting.classes,
            draws=Draws(self.setting.seed, samples.ids[index], attempt),
            targets=None if samples.targets is None else samples.targets[index],
        )

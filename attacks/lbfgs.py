"""Box-constrained L-BFGS."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor

from attacks import norms
from attacks.base import Ask, BlockAttack, Kind, Task, at_least
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.oracles import Aim
from attacks.targets import Aimed, Goal, Target, goal_of
from attacks.tradeoff import Weight

_LOOKS_PER_STEP = 2


@dataclass(frozen=True)
class Lbfgs(Aimed, BlockAttack):
    """Box-constrained L-BFGS (Szegedy et al. 2013, arXiv:1312.6199).

    Minimises c L(x', t) + ||x' - x||_2^2 over [0, 1] by scipy's L-BFGS-B, for the least c that
    still succeeds: ten times as large until the first success, then bisection, `search` rounds from
    `first`. The paper (section 4.1) puts c at the distance and asks for the "minimum c > 0", which
    would give the largest distance; its largest c is our least. The nearest success among all
    points looked at counts. steps: iterations per round, each of two looks at most. loss: ce as in
    the paper. target: most_likely, or as in pgd; `none` maximises the loss of the label.
    """

    access: ClassVar[str] = "gradient"
    kind: ClassVar[Kind] = "minimal"
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    steps: int = 20
    search: int = 8
    first: float = 1.0
    loss: Loss = CROSS_ENTROPY
    target: Target = "most_likely"

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("search", self.search, 1)
        if not 0 < self.first <= 1e6:
            raise ValueError(f"first must be above 0, got {self.first}")

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int:  # noqa: ARG002  one run
        """See Attack."""
        looks = self.search * _LOOKS_PER_STEP * self.steps + 1
        return looks * self.attempts(classes) if radii else 0

    def craft(self, ask: Ask, task: Task) -> Tensor:
        """See BlockAttack."""
        rows = torch.arange(len(task.y), device=task.x.device)
        goal = goal_of(task, self.target)
        if bool(goal.unset.any()):
            goal = goal.settled(ask(task.x, rows, goal.aim(self.loss), differentiate=False).logits)
        search = _Search(ask, task, goal, goal.aim(self.loss))
        weight = Weight.of(task.radius, self.first)
        for _ in range(self.search):
            start = task.x.flatten(1).double().cpu().numpy()
            search.weight = weight.value
            minimise_together(search.evaluate, start, self.steps)
            weight = weight.after_scaling(search.succeeded)
        return search.kept


class _Search:
    """The objective at a weight per sample, and the nearest success it was ever asked for."""

    def __init__(self, ask: Ask, task: Task, goal: Goal, aim: Aim):
        self.ask, self.task, self.goal, self.aim = ask, task, goal, aim
        self.weight = torch.zeros_like(task.radius)
        self.kept = task.x.clone()
        self.nearest = torch.full_like(task.radius, torch.inf)
        self.succeeded = torch.zeros_like(task.y, dtype=torch.bool)

    def evaluate(
        self, which: list[int], flat: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values (m,) and gradients (m, d) at points (m, d) of the samples `which`."""
        rows = torch.tensor(which, device=self.task.x.device)
        x, weight = self.task.x[rows], self.weight[rows]
        points = torch.from_numpy(flat).to(x).view_as(x)
        answer = self.ask(points, rows, self.aim.each(lambda t: t[rows]), differentiate=True)
        target = None if self.goal.target is None else self.goal.target[rows]
        goal = replace(self.goal, y=self.goal.y[rows], target=target, rank=self.goal.rank[rows])
        hit = goal.reached(answer.logits)
        distance = norms.size(points - x, "l2")
        better = hit & (distance < self.nearest[rows])
        self.kept[rows[better]] = points[better]
        self.nearest[rows[better]] = distance[better]
        self.succeeded[rows] = hit
        value = distance.double() ** 2 - weight.double() * answer.value.double()
        gradient = 2 * (points - x) - norms.expand(weight, x) * answer.gradient
        return value.cpu().numpy(), gradient.flatten(1).double().cpu().numpy()


class _Stopped(Exception):
    """Ends a minimisation from inside its objective."""


Evaluate = Callable[
    [list[int], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]


def minimise_together(evaluate: Evaluate, start: NDArray[np.float64], steps: int) -> None:
    """Runs scipy's L-BFGS-B from each row of start (m, d) over [0, 1]; what they ask for is
    evaluated together.

    One thread per row waits in its objective until all that still run have asked; only the calling
    thread evaluates, and wakes them one after the other: threads that wake together fight for the
    interpreter. A row's run does not depend on the others.
    """
    _Meeting(start, steps).run(evaluate)


class _Meeting:
    """The threads of a block: asked holds what the one that was running says, its point or that it
    has ended; answers what each waits for.
    """

    def __init__(self, start: NDArray[np.float64], steps: int):
        self.start, self.steps = start, steps
        self.asked: queue.SimpleQueue[tuple[int, NDArray[np.float64] | None]] = queue.SimpleQueue()
        self.answers: list[queue.SimpleQueue[tuple[float, NDArray[np.float64]] | None]] = [
            queue.SimpleQueue() for _ in start
        ]
        self.waiting: dict[int, NDArray[np.float64]] = {}

    def run(self, evaluate: Evaluate) -> None:
        """Starts every row, and answers in rounds until all have ended."""
        runs = []
        with ThreadPoolExecutor(max(len(self.start), 1)) as pool:
            try:
                for row in range(len(self.start)):
                    runs.append(pool.submit(self._minimise, row))
                    self._hear()
                while self.waiting:
                    self._answer(evaluate)
            finally:
                # Where evaluating failed, the others still wait.
                for waiting in self.answers:
                    waiting.put(None)
        for finished in runs:
            finished.result()

    def _hear(self) -> None:
        row, point = self.asked.get()
        if point is not None:
            self.waiting[row] = point

    def _answer(self, evaluate: Evaluate) -> None:
        rows = sorted(self.waiting)
        values, gradients = evaluate(rows, np.stack([self.waiting.pop(row) for row in rows]))
        for row, value, gradient in zip(rows, values, gradients, strict=True):
            self.answers[row].put((float(value), gradient))
            self._hear()

    def _minimise(self, row: int) -> None:
        """One row's run, in its thread."""
        options = {"maxiter": self.steps}
        objective = self._objective(row)
        try:
            minimize(
                objective,
                self.start[row],
                jac=True,
                method="L-BFGS-B",
                bounds=Bounds(0, 1),
                options=options,
            )
        except _Stopped:
            pass
        finally:
            self.asked.put((row, None))

    def _objective(
        self, row: int
    ) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
        looks = 0

        def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal looks
            if looks == _LOOKS_PER_STEP * self.steps:
                raise _Stopped
            looks += 1
            self.asked.put((row, point.copy()))
            answer = self.answers[row].get()
            if answer is None:
                raise _Stopped
            return answer

        return objective

"""DeepFool."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Kind, StepAttack, Task, at_least
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.rows import pick
from attacks.targets import Goal, goal_of

_FURTHER = 1e-4


@dataclass(frozen=True)
class DeepFoolState:
    """Per sample: image, the point reached, the classes looked at (the own one first), steps."""

    x: Tensor
    point: Tensor
    goal: Goal
    classes: Tensor
    step: Tensor
    done: Tensor
    norm: str


@dataclass(frozen=True)
class DeepFool(StepAttack):
    """DeepFool: steps to the nearest linearised boundary (Moosavi-Dezfooli et al. 2016,
    arXiv:1511.04599).

    Each step moves to the nearest boundary of the linearised classifier, overshot by `overshoot`
    (the paper's 0.02); the first point behind one is the result. steps: 50. candidates: the classes
    looked at, the most likely ones at the image (the authors' code takes 10). With a target only
    the boundary to it counts. Every step goes 1e-4 further, as in foolbox, or the last ones would
    shrink to nothing. Every step ends in the box and the next one starts there, as in
    adversarial-library; the paper knows no box, and adding up steps that left it ends up to 3 %
    further away. Not a minimal distance, a good first guess of one.
    """

    access: ClassVar[str] = "jacobian"
    kind: ClassVar[Kind] = "minimal"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    revision: ClassVar[int | str] = 2
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10

    def __post_init__(self) -> None:
        at_least("steps", self.steps, 1)
        at_least("candidates", self.candidates, 2)
        if not 0 <= self.overshoot <= 1:
            raise ValueError(f"overshoot must be from 0 to 1, got {self.overshoot}")

    def horizon(self, radius: float, norm: str, classes: int) -> int:  # noqa: ARG002  the same at all
        """See StepAttack: a look at the image, the steps, a last look."""
        return self.steps + 2

    def start(self, task: Task) -> DeepFoolState:
        """See StepAttack."""
        step = torch.zeros_like(task.y)
        count = min(self.candidates, task.classes) if task.targets is None else 2
        goal = goal_of(task, "none")
        return DeepFoolState(
            x=task.x,
            point=task.x.clone(),
            goal=goal,
            classes=task.y[:, None].repeat(1, count),
            step=step,
            done=step > 0,
            norm=task.norm,
        )

    def ask(self, state: DeepFoolState) -> Query:
        """The point reached, with the gradients of the classes' logits; first the image."""
        return Query(
            points=state.point[:, None],
            aim=state.goal.aim(MARGIN),
            wanted=~state.done,
            differentiate=(state.step > 0) & (state.step <= self.steps),
            classes=state.classes,
        )

    def tell(self, state: DeepFoolState, answer: Answer) -> DeepFoolState:
        """Moves on to the nearest linearised boundary."""
        logits = answer.logits[:, 0]
        first = state.step == 0
        here = logits.gather(1, state.classes)
        gap = here[:, :1] - here[:, 1:]
        pull = answer.gradient[:, 1:] - answer.gradient[:, :1]
        length = norms.size(pull.flatten(0, 1), norms.dual(state.norm)).view(gap.shape)
        # A logit that moves with the own one is no way out.
        distance = torch.where(length > 0, gap.abs() / length, torch.inf)
        nearest = distance.min(1)
        chosen = pull[torch.arange(len(pull), device=pull.device), nearest.indices]
        reach = torch.where(nearest.values.isfinite(), nearest.values + _FURTHER, 0)
        step = norms.steepest(chosen, state.x, state.norm) * norms.expand(reach, chosen)
        moved = norms.to_box(state.point + (1 + self.overshoot) * step)
        there = ~first & state.goal.reached(logits)
        return replace(
            state,
            point=pick(first, state.point, moved),
            classes=torch.where(first[:, None], self._ranked(state, logits), state.classes),
            step=state.step + 1,
            done=state.done | there | (state.step > self.steps),
        )

    @staticmethod
    def _ranked(state: DeepFoolState, logits: Tensor) -> Tensor:
        """The label and the most likely other classes (N, k), or the label and the target."""
        goal = state.goal
        if goal.target is not None:
            return torch.stack([goal.y, goal.target], 1)
        others = logits.scatter(1, goal.y[:, None], -torch.inf)
        order = others.argsort(dim=1, descending=True, stable=True)
        return torch.cat([goal.y[:, None], order[:, : state.classes.shape[1] - 1]], 1)

"""Random noise: the baseline that no attack may lose to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Attack, Task, at_least
from attacks.losses import MARGIN
from attacks.oracles import Answer, Query
from attacks.threat import NORMS


@dataclass(frozen=True)
class NoiseState:
    """Per sample: the image, its draws, and how many points it has tried."""

    task: Task
    step: Tensor
    done: Tensor


@dataclass(frozen=True)
class Noise(Attack):
    """Points drawn uniformly from the ball, the worst of `samples` kept; sees logits only.

    Each point is moved into the box. The baseline of every sanity check (Carlini et al. 2019,
    arXiv:1902.06705).
    """

    access: ClassVar[str] = "logits"
    norms: ClassVar[tuple[str, ...]] = NORMS
    samples: int = 10

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 1)

    def start(self, task: Task) -> NoiseState:
        """See Attack."""
        step = torch.zeros_like(task.y)
        return NoiseState(task, step, step > 0)

    def ask(self, state: NoiseState) -> Query:
        """A fresh point."""
        task = state.task
        point = norms.random_point(task.x, task.radius, task.norm, task.draws, "noise", state.step)
        aim = task.y if task.targets is None else task.targets
        sign = torch.full_like(task.radius, 1 if task.targets is None else -1)
        never = torch.zeros_like(state.done)
        return Query(point[:, None], aim[:, None], MARGIN, sign, ~state.done, never)

    def tell(self, state: NoiseState, answer: Answer) -> NoiseState:  # noqa: ARG002  no answer moves it
        """Counts the point."""
        step = state.step + 1
        return replace(state, step=step, done=step >= self.samples)

    def horizon(self, radius: float) -> int:  # noqa: ARG002  the same at every radius
        """See Attack."""
        return self.samples

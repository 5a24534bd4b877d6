"""Fast adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.ascent import Ascent, AscentAttack, fixed
from attacks.base import StepAttack, Task
from attacks.losses import CROSS_ENTROPY
from attacks.norms import random_point
from defenses.adversarial import AdversarialRecipe
from defenses.advtrain import Weighted
from defenses.workshop import Workshop


@dataclass(frozen=True)
class Leap(AscentAttack):
    """One step of `step` eps along the steepest direction, from a point drawn uniformly from the
    ball, which may lie outside the box; where it leads is moved into both.
    """

    label: ClassVar[str] = "leap"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    step: float

    def parts(self, norm: str) -> Ascent:  # noqa: ARG002  one composition for every norm
        """See AscentAttack."""
        return Ascent(
            CROSS_ENTROPY,
            steps=fixed(1),
            alpha=lambda radius: radius * self.step,
            start=_anywhere,
        )

    def to_spec(self) -> str:
        """What texts call it; it is in no table."""
        return f"one step of {self.step:g} eps from a random start"


def _anywhere(task: Task) -> Tensor:
    return random_point(task.x, task.radius, task.norm, task.draws, "start", box=False)


@dataclass(frozen=True)
class Fast(AdversarialRecipe):
    """Fast adversarial training: minimise L(x_adv, y), x_adv by one FGSM step from a random start
    (Wong et al. 2020, arXiv:2001.03994, algorithm 3).

    x_adv = clip(project(x + d + step eps sign(grad)), 0, 1), d uniform in the ball; as in the
    authors' code the gradient is taken at x + d even where that leaves [0, 1] (moved into it first,
    half of the components of a black background would start unmoved). step: the
    gradient step as a share of eps, 1.25 in the paper; above it the training collapses sooner.
    warmup: share of the updates over which eps grows from 0; the paper has none (0). Model, epochs,
    batch and learning rate are the model's (cnn_small is the paper's net for MNIST).

    Alarm: the log says `alarm` when the net's accuracy under its own step is more than 20 points
    above, and more than twice, that under pgd:steps=10 on up to 500 validation images (catastrophic
    overfitting). When the latter has also fallen by more than 20 points from its best, training
    stops. The checkpoint most accurate under that check is kept. The authors stop at a fall of 20
    points under a weak PGD on a training batch. A net that predicts one class only after half of
    the updates fails. norm, eps, seed: see `bench show advtrain`.
    """

    eps: float | None = None
    norm: str | None = None
    step: float = 1.25
    warmup: float = 0.0
    seed: int = 0
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be finite and above 0, got {self.step}")
        self.check_ball()

    @property
    def inner(self) -> StepAttack:
        """See AdversarialRecipe."""
        return Leap(self.step)

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Weighted:
        """See AdversarialRecipe."""
        return Weighted(
            lam=math.inf,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
            collapse="stop",
        )

"""Free adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import norms
from attacks.base import StepAttack, at_least
from attacks.pgd import Pgd
from defenses.adversarial import AdversarialRecipe, InBall, exact
from defenses.workshop import Workshop
from models.train import Batch


@dataclass(frozen=True)
class Free(AdversarialRecipe):
    """Free adversarial training: each batch is replayed, and one backward pass moves weights and
    perturbation (Shafahi et al. 2019, arXiv:1904.12843, algorithm 1).

    L(x + d, y) is minimised replays times in a row for each batch, as often fewer epochs (rounded
    up) as the model asks for; after each, d <- project(d + step eps sign(grad)). d starts at 0 and
    is carried over from batch to batch by place; x + d is clipped to [0, 1] and the net is in
    training mode throughout, as in the authors' code. replays: the paper's m, 8 on CIFAR-10. step:
    as a share of eps, 1 in the paper. warmup: share of the updates over which eps grows from 0; the
    paper has none (0). Under l2 and l1 the step goes along the steepest direction of that norm.

    The own attack of validation is one FGSM step of eps from a random start. Alarm and early stop
    are those of `fast`. norm, eps: see `bench show advtrain`; nothing is drawn but for validation
    (seed).
    """

    replays: int = 8
    eps: float | None = None
    norm: str | None = None
    step: float = 1.0
    warmup: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("replays", self.replays, 1)
        if not 0 <= self.step < math.inf:
            raise ValueError(f"step must be finite and at least 0, got {self.step}")
        self.check_ball()

    @property
    def inner(self) -> StepAttack:
        """See AdversarialRecipe: what validation takes for the own attack."""
        return Pgd(steps=1, rel_alpha=1.0)

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Replayed:
        """See AdversarialRecipe."""
        return Replayed(
            replays=self.replays,
            step=self.step,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
            collapse="stop",
        )


@dataclass(frozen=True, kw_only=True)
class Replayed(InBall):
    """The objective L(x + d, y), d carried from update to update in the batch's memory."""

    kept: ClassVar[str] = "perturbation"
    replays: int
    step: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return (
            f"L(x + d, y); each batch {self.replays} times, d moved by {exact(self.step)} eps each "
            f"time, {self.norm} eps {exact(self.eps)}, warm-up {exact(self.warmup)}"
        )

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective; its backward pass moves the perturbation, too."""
        count, memory = len(batch.x), batch.memory
        kept = memory.get(self.kept, batch.x.new_zeros(0, *batch.x.shape[1:]))
        if len(kept) < count:
            kept = torch.cat([kept, kept.new_zeros(count - len(kept), *kept.shape[1:])])
        delta = kept[:count].clone().requires_grad_()
        radius = kept.new_full((count,), self.radius(batch.progress))

        def move(gradient: Tensor) -> None:
            point = delta.detach()
            direction = norms.steepest(gradient, batch.x + point, self.norm)
            moved = point + self.step * norms.expand(radius, point) * direction
            moved = norms.project(moved, torch.zeros_like(moved), radius, self.norm, box=False)
            memory[self.kept] = torch.cat([moved, kept[count:]])

        delta.register_hook(move)  # type: ignore[no-untyped-call]
        return F.cross_entropy(net(norms.to_box(batch.x + delta)), batch.y)

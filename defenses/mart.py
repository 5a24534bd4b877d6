"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.base import StepAttack
from attacks.losses import CROSS_ENTROPY
from defenses.adversarial import AdversarialRecipe, InBall, exact
from defenses.nearby import Nearby
from defenses.trades import check_steps, divergence
from defenses.workshop import Workshop
from models.train import Batch


@dataclass(frozen=True)
class Mart(AdversarialRecipe):
    """MART: minimise BCE(x_adv, y) + lam KL(p(x) || p(x_adv)) (1 - p_y(x)) (Wang et al. 2020,
    ICLR).

    BCE is -log p_y(x_adv) - log(1 - max_{k != y} p_k(x_adv)), the paper's boosted cross-entropy;
    each is a mean over the batch, and the gradient flows through p(x), too. x_adv maximises the
    cross-entropy from x + 0.001 N(0, I), the net in eval mode, as in the authors' code. lam: the
    paper's 5; 0 is the boosted cross-entropy alone. steps, rel_alpha: of the inner ascent; the
    defaults are the paper's on CIFAR-10 (10 steps of 0.007 at eps 8/255). The logarithms are
    computed from logits, the authors add 1e-4 and 1e-12 to the probabilities. warmup: share of the
    updates over which eps grows from 0; the paper has none and trains far longer (0). norm, eps,
    seed, checkpoint and collapse as in `bench show advtrain`; so are model, epochs, batch and
    learning rate.
    """

    lam: float = 5.0
    eps: float | None = None
    norm: str | None = None
    steps: int = 10
    rel_alpha: float = 0.223
    warmup: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lam < math.inf:
            raise ValueError(f"lam must be finite and at least 0, got {self.lam}")
        check_steps(self.steps, self.rel_alpha)
        self.check_ball()

    @property
    def inner(self) -> StepAttack:
        """See AdversarialRecipe."""
        return Nearby(CROSS_ENTROPY, self.steps, self.rel_alpha)

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Aware:
        """See AdversarialRecipe."""
        return Aware(
            lam=self.lam,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
        )


def boosted(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y - log(1 - max_{k != y} p_k) per row of logits (N, K), labels (N,)."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    without = logits.scatter(1, others.argmax(1, keepdim=True), -torch.inf)
    total = logits.logsumexp(1)
    losses = F.cross_entropy(logits, labels, reduction="none")
    return losses + (total - without.logsumexp(1))


@dataclass(frozen=True, kw_only=True)
class Aware(InBall):
    """The objective BCE(x_adv, y) + lam KL(p(x) || p(x_adv)) (1 - p_y(x))."""

    lam: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        weighted = f" + {exact(self.lam)} KL(p(x) || p(x_adv)) (1 - p_y(x))" if self.lam else ""
        return f"BCE(x_adv, y){weighted}; {self.ball}"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        adversarial = net(self.points(net, batch))
        loss = boosted(adversarial, batch.y).mean()
        if self.lam == 0:
            return loss
        clean = net(batch.x)
        unsure = 1 - clean.softmax(1).gather(1, batch.y[:, None])[:, 0]
        weighted: Tensor = self.lam * (divergence(clean, adversarial) * unsure).mean()
        return loss + weighted

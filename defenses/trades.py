"""TRADES."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.base import StepAttack, at_least
from attacks.losses import Loss
from attacks.oracles import held
from defenses.adversarial import AdversarialRecipe, InBall, exact
from defenses.nearby import Nearby
from defenses.workshop import Workshop
from models.train import Batch, Standard


@dataclass(frozen=True)
class Trades(AdversarialRecipe):
    """TRADES: minimise L(x, y) + beta KL(p(x) || p(x_adv)) (Zhang et al. 2019,
    arXiv:1901.08573).

    p is the softmax; both terms are means over the batch, and the gradient flows through p(x), too.
    x_adv maximises the KL term from x + 0.001 N(0, I), the net in eval mode. beta: the paper's
    1 / lambda, 6 on CIFAR-10 and 1 on MNIST; 0 is standard training bit for bit. steps, rel_alpha:
    of the inner ascent; the defaults are the paper's on CIFAR-10 (10 steps of 0.007 at eps 0.031),
    on MNIST it takes 40 of eps / 30. warmup: share of the updates over which eps grows from 0; the
    paper has none and trains far longer (0). Both terms share one forward pass of x, the authors'
    code makes two. A gap between accuracy under its own ascent, which does not look at labels, and
    under the check is noted in the training log as `alarm`, and training goes on. norm, eps, seed
    and checkpoint as in `bench show advtrain`; so are model, epochs, batch and learning rate.
    """

    beta: float = 6.0
    eps: float | None = None
    norm: str | None = None
    steps: int = 10
    rel_alpha: float = 0.226
    warmup: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be finite and at least 0, got {self.beta}")
        check_steps(self.steps, self.rel_alpha)
        self.check_ball()

    @property
    def inner(self) -> Nearby:
        """See AdversarialRecipe; without images its loss is not known yet."""
        return Nearby(_KL, self.steps, self.rel_alpha)

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Divergence:
        """See AdversarialRecipe."""
        return Divergence(
            beta=self.beta,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
            collapse="note",
        )


def check_steps(steps: int, rel_alpha: float) -> None:
    """Refuses an inner ascent that goes nowhere."""
    at_least("steps", steps, 1)
    if not 0 < rel_alpha < math.inf:
        raise ValueError(f"rel_alpha must be finite and above 0, got {rel_alpha}")


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(adversarial)) per row of logits (N, K)."""
    one, other = clean.log_softmax(1), adversarial.log_softmax(1)
    return (one.exp() * (one - other)).sum(1)


def _unanchored(logits: Tensor, labels: Tensor) -> Tensor:
    raise ValueError(f"kl needs the images' own logits, got {len(labels)} rows of {logits.shape}")


_KL = Loss("kl", _unanchored)


@dataclass(frozen=True, kw_only=True)
class Divergence(InBall):
    """The objective L(x, y) + beta KL(p(x) || p(x_adv)), x_adv found by ascent on the KL term."""

    attack: Nearby
    beta: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        if self.beta == 0:
            return Standard().text
        return f"L(x, y) + {exact(self.beta)} KL(p(x) || p(x_adv)); {self.ball}"

    @property
    def is_standard(self) -> bool:
        """See InBall."""
        return self.beta == 0

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        if self.beta == 0:
            return Standard().loss(net, batch)
        x_adv = self.points(net, batch)
        clean = net(batch.x)
        away = divergence(clean, net(x_adv)).mean()
        return F.cross_entropy(clean, batch.y) + self.beta * away

    def attack_on(self, net: nn.Module, x: Tensor) -> StepAttack:
        """See InBall: the ascent on the divergence from what the net says of x."""
        with held(net), torch.no_grad():
            clean = net(x).float()
        return replace(self.attack, loss=Loss("kl", lambda logits, _: divergence(clean, logits)))

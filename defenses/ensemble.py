"""Ensemble adversarial training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from attacks import loop
from attacks.base import Attack
from attacks.fgsm import Fgsm
from defenses.adversarial import AdversarialRecipe, InBall, exact
from defenses.base import Defended
from defenses.workshop import Workshop
from models import checkpoint
from models.recipes import Several
from models.train import Batch


@dataclass(frozen=True)
class Ensemble(AdversarialRecipe):
    """Ensemble adversarial training: minimise alpha L(x, y) + (1 - alpha) L(x_adv, y), x_adv made
    on each of several models in turn (Tramer et al. 2017, arXiv:1705.07204).

    Update 0 takes x_adv from the net in training, update 1 from the first static source, and so on
    around. sources: models trained beforehand on clean images and then left as they are, through
    the cache; several joined by +, each with keys in brackets: `[cnn_small:seed=1]+mlp`. attack:
    FGSM by default; `attack=[fgsm:random=0.5]` is R+FGSM. alpha: weight of the clean term, in
    (0, 1), 1/2 in the paper. warmup: share of the updates over which eps grows from 0; the paper
    has none (0). The defense is against transferred examples: a gap between accuracy under its own
    attack and under pgd:steps=10 is noted in the training log as `alarm`, and training goes on.
    norm, eps, seed and checkpoint as in `bench show advtrain`; so are model, epochs, batch and
    learning rate.
    """

    sources: Several = Several.from_spec("[cnn_small:seed=101]+mlp_relu")  # noqa: RUF009  a frozen dataclass
    alpha: float = 0.5
    eps: float | None = None
    norm: str | None = None
    attack: Attack = Fgsm()  # noqa: RUF009  a frozen dataclass
    warmup: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha}")
        self.check_ball()

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Rotating:
        """See AdversarialRecipe; trains the sources that the cache does not have."""
        recipes = self.sources.recipes
        return Rotating(
            sources=[workshop.of(recipe).undefended() for recipe in recipes],
            names=self.sources.to_spec(),
            alpha=self.alpha,
            eps=eps,
            norm=norm,
            attack=self.inner,
            warmup=self.warmup,
            seed=self.seed,
            classes=workshop.classes,
            collapse="note",
        )

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; what the sources weigh is part of the training's key."""
        eps, norm = self.filled(workshop.classes)
        objective = self.objective(eps, norm, workshop)
        digests = [checkpoint.digest(net.state_dict()) for net in objective.sources]
        identity = {"defense": self.identity(), "engine": loop.CRAFTING, "sources": digests}
        net = workshop.fit(objective, identity)
        return Defended(predict=net, surrogate=net)


@dataclass(frozen=True, kw_only=True)
class Rotating(InBall):
    """The objective alpha L(x, y) + (1 - alpha) L(x_adv, y), x_adv from the net in training and
    from each source in turn.
    """

    sources: Sequence[nn.Module]
    names: str
    alpha: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        alpha, rest = exact(self.alpha), exact(1 - self.alpha)
        turns = f"on the net and {self.names} in turn"
        return f"{alpha} L(x, y) + {rest} L(x_adv, y); {self.ball}, {turns}"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        models = [net, *self.sources]
        x_adv = self.points(models[batch.update % len(models)], batch)
        adversarial = F.cross_entropy(net(x_adv), batch.y)
        return self.alpha * F.cross_entropy(net(batch.x), batch.y) + (1 - self.alpha) * adversarial

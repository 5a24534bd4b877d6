"""Static augmentation: adversarial examples made once and added to the training set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import loop
from attacks.base import Attack, StepAttack
from attacks.fgsm import Fgsm
from attacks.threat import ThreatModel
from defenses.adversarial import AdversarialRecipe, exact
from defenses.base import Defended
from defenses.crafting import Ball
from defenses.validation import checked, under_check
from defenses.workshop import OtherSplit, Workshop
from models import checkpoint
from models.split import Split
from models.train import Standard


@dataclass(frozen=True)
class Static(AdversarialRecipe):
    """Static augmentation: minimise L(x, y) over the training set and its adversarial examples,
    made once on the undefended model (Szegedy et al. 2013, arXiv:1312.6199).

    Each training image is attacked once, before the training of the defended net, which is that of
    an undefended one on a set of twice the size (so the same number of epochs has twice the
    updates; where epochs is left open the model decides by that size). The paper makes examples
    layer by layer with L-BFGS and renews them; attack is FGSM by default and any budget attack may
    stand there. The best checkpoint is chosen by clean accuracy on validation images; accuracy
    under pgd:steps=10 on up to 500 of them is logged beside it (under a norm that this does not
    know, under `attack` on the net in training). norm, eps: the ball, by default the run's norm and
    the dataset's reference eps; seed: of the attack's random starts.
    """

    eps: float | None = None
    norm: str | None = None
    attack: Attack = Fgsm()  # noqa: RUF009  a frozen dataclass
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_ball()

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Added:  # noqa: ARG002  the set is not ours
        """See AdversarialRecipe: standard training, of a larger set."""
        return Added(ThreatModel(norm, eps), self.inner, self.seed)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; examples are made only where the cache does not have the trained net."""
        eps, norm = self.filled(workshop.classes)
        source = workshop.of(workshop.model).undefended()
        digest = checkpoint.digest(source.state_dict())
        identity = {"defense": self.identity(), "engine": loop.CRAFTING, "source": digest}

        def doubled(split: Split) -> Split:
            return self.augmented(source, split, eps, norm, workshop)

        objective = self.objective(eps, norm, workshop)
        net = workshop.fit(
            objective, identity, instead=OtherSplit(lambda images: 2 * images, doubled)
        )
        return Defended(predict=net, surrogate=net)

    def augmented(
        self, source: nn.Module, split: Split, eps: float, norm: str, workshop: Workshop
    ) -> Split:
        """The split followed by what the attack makes of each of its images on the source."""
        ball = Ball(norm, eps, workshop.classes)
        made = ball.of_split(self.inner, source, split, self.seed, workshop.device)
        images: Tensor = split.images(slice(None))
        return Split(torch.cat([images, made]), torch.cat([split.y, split.y]))


@dataclass(frozen=True)
class Added(Standard):
    """Standard training on a set that examples, which attack made in the ball of threat, were added
    to; accuracy in that ball is measured, and decides nothing.

    seed: of the random numbers of that measurement.
    """

    threat: ThreatModel
    attack: StepAttack
    seed: int

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        how = f"{self.attack.to_spec()}, {self.threat.norm} eps {exact(float(self.threat.eps))}"
        return f"L(x, y) over the training set and x_adv made once by {how}"

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:
        """Clean accuracy, which is the score, and accuracy under the check; see the recipe."""
        x, y = checked(net, validation)
        robust = under_check(net, x, y, self.threat, own=self.attack, seed=self.seed)
        return super().validate(net, validation, progress) | {"robust": robust}

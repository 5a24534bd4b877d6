"""Static augmentation: adversarial examples made once and added to the training set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import loop
from attacks.base import Attack, Task
from attacks.draws import Draws
from attacks.fgsm import Fgsm
from attacks.oracles import held
from defenses.adversarial import AdversarialRecipe, exact
from defenses.base import Defended, OtherSplit, Workshop
from models import checkpoint
from models.split import Split
from models.train import Standard

_ROWS = 128


@dataclass(frozen=True)
class Static(AdversarialRecipe):
    """Static augmentation: minimise L(x, y) over the training set and its adversarial examples,
    made once on the undefended model (Szegedy et al. 2013, arXiv:1312.6199).

    Each training image is attacked once, before the training of the defended net, which is that of
    an undefended one on a set of twice the size (so the same number of epochs has twice the
    updates; where epochs is left open the model decides by that size). The paper makes examples
    layer by layer with L-BFGS and renews them; attack is FGSM by default and any budget attack may
    stand there. The best checkpoint is chosen by clean accuracy on validation images. norm, eps:
    the ball, by default the run's norm and the dataset's reference eps; seed: of the attack's
    random starts.
    """

    eps: float | None = None
    norm: str | None = None
    attack: Attack = Fgsm()  # noqa: RUF009  a frozen dataclass
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_ball()

    def objective(self, eps: float, norm: str, workshop: Workshop) -> Added:  # noqa: ARG002  the set is not ours
        """See AdversarialRecipe: standard training, of a larger set."""
        return Added(f"{self.inner.to_spec()}, {norm} eps {exact(eps)}")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; examples are made only where the cache does not have the trained net."""
        eps, norm = self.filled(workshop.classes)
        source = workshop.of(workshop.model).undefended()
        digest = checkpoint.digest(source.state_dict())
        identity = {"defense": self.identity(), "engine": loop.REVISION, "source": digest}

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
        parts = []
        with held(source):
            for index in torch.split(torch.arange(len(split)), _ROWS):
                x = split.images(index, workshop.device)
                y, place = split.y[index].to(workshop.device), index.to(workshop.device)
                draws = Draws(self.seed, place, torch.zeros_like(place))
                radius = torch.full((len(x),), eps, device=workshop.device)
                task = Task(x, y, norm, radius, workshop.classes, draws)
                steps = self.inner.horizon(eps, norm, workshop.classes) - 1
                parts.append(loop.craft(self.inner, source, task, steps=steps).to(split.x.device))
        images: Tensor = split.images(slice(None))
        return Split(torch.cat([images, *parts]), torch.cat([split.y, split.y]))


@dataclass(frozen=True)
class Added(Standard):
    """Standard training on a set that examples were added to."""

    how: str

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"L(x, y) over the training set and x_adv made once by {self.how}"

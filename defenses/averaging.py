"""The mean of several nets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from defenses.base import Defended, Defense
from defenses.workshop import Trained, Workshop
from models import checkpoint
from models.nets import MeanProbability

_SEEDS = 2**64


@dataclass(frozen=True)
class Averaging(Defense):
    """Averaging of models: the mean of the probabilities of nets trained from different seeds
    (Goodfellow et al. 2014, arXiv:1412.6572, section 9).

    nets: how many, 12 in the paper; their seeds are the model's own and the next ones. Each is
    trained on clean images, the first is the undefended model. Attacks see the mean, as in the
    paper's ensemble-crafted row.
    """

    nets: int = 5

    def __post_init__(self) -> None:
        if self.nets < 2:
            raise ValueError(f"nets must be at least 2, got {self.nets}")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses a model that is given rather than trained."""
        model = workshop.model
        if model.is_trained:
            raise ValueError(
                "averaging needs a model to train from several seeds, not weights that are given: "
                f"{model.to_spec()}"
            )
        seeds = [(model.seed + number) % _SEEDS for number in range(self.nets)]
        shops = [workshop.of(replace(model, seed=seed)) for seed in seeds]
        members = [shop.undefended() for shop in shops]
        mean = MeanProbability(members).eval()
        workshop.trained.append(_together(mean, [trained for s in shops for trained in s.trained]))
        return Defended(predict=mean, surrogate=mean, inside=members[0], passes=self.nets)


def _together(mean: MeanProbability, trained: list[Trained]) -> Trained:
    """The trainings of all nets as one."""
    log = [{**entry, "net": i} for i, one in enumerate(trained, 1) for entry in one.log]
    seconds = sum(one.seconds for one in trained)
    return Trained(checkpoint.digest(mean.state_dict()), trained[0].objective, log, seconds)

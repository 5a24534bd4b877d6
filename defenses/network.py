"""A detector that is a net of its own, trained beside the classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.base import Attack, StepAttack
from attacks.draws import Draws, sample_ids
from attacks.pgd import Pgd
from defenses.adversarial import exact
from defenses.crafting import Ball
from defenses.detector import Detector, DetectorRecipe
from defenses.validation import ROWS, checked
from defenses.workshop import Workshop
from models.recipes import Classifier
from models.split import Split
from models.train import Batch


@dataclass(frozen=True)
class DetectorNetwork(DetectorRecipe):
    """A net that tells adversarial images from clean ones, and refuses them (Metzen et al. 2017,
    arXiv:1702.04267; on images alone: Gong et al. 2017, arXiv:1704.04960).

    It looks at the image as Gong's does; Metzen's branches off inside the classifier, which is
    trained first and stays as it is. Every update, each image of the batch is shown clean and as
    `attack` moved it within eps on the classifier (drawn anew, whether or not the classifier
    falls for it); both are weighted alike. The score is the log-odds of adversarial. fpr: the share
    of clean images that may be refused; the threshold is set on the validation images before any
    attack, needs 1 / fpr of them, and the same images choose the checkpoint by the share told
    apart. net: the detector's model and how it is trained; none is the classifier's own recipe with
    two classes. norm, eps: the ball, by default the run's norm and the dataset's reference eps;
    seed: of the attack's random starts.

    The whole pipeline is differentiable: an attack on its K + 1 columns is white-box.
    """

    fpr: float = 0.05
    net: Classifier | None = None
    eps: float | None = None
    norm: str | None = None
    attack: Attack = Pgd(steps=10)  # noqa: RUF009  a frozen dataclass
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()
        if self.net is not None and self.net.is_trained:
            raise ValueError(f"net must be one to train, got {self.net.to_spec()}")

    def detector(self, workshop: Workshop, classifier: nn.Module) -> Beside:
        """See DetectorRecipe."""
        eps, norm = self.filled(workshop.classes)
        ball = Ball(norm, eps, workshop.classes)
        objective = TellApart(classifier, self.inner, ball, self.seed)
        own = replace(workshop, model=self._model(workshop.model), classes=2)
        return Beside(classifier, own.fit(objective, self.made_of(classifier)))

    def _model(self, model: Classifier) -> Classifier:
        """What the detector is trained as."""
        made = replace(model, weights=None) if self.net is None else self.net
        if made.is_trained:
            raise ValueError(
                f"detector: net= is needed, {model.to_spec()} cannot be built with two classes"
            )
        return made


class Beside(Detector):
    """A classifier and a net of two classes (clean, adversarial), both looking at the image."""

    passes: ClassVar[int] = 2

    def __init__(self, classifier: nn.Module, net: nn.Module):
        super().__init__()
        self.classifier, self.net = classifier, net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Detector; scores are log-odds."""
        said: Tensor = self.net(x)
        return self.classifier(x), said[:, 1] - said[:, 0]


@dataclass(frozen=True)
class TellApart:
    """The objective of the detector: cross-entropy over images and what the attack makes of them on
    the classifier, in the ball.
    """

    classifier: nn.Module
    attack: StepAttack
    ball: Ball
    seed: int

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return (
            "0.5 L(x, clean) + 0.5 L(x_adv, adversarial); x_adv by "
            f"{self.attack.to_spec()}, {self.ball.norm} eps {exact(self.ball.eps)}, on the "
            "classifier"
        )

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        x_adv = self.ball.crafted(self.attack, self.classifier, batch.x, batch.y, draws)
        return F.cross_entropy(net(torch.cat([batch.x, x_adv])), _kinds(len(batch.x), x_adv.device))

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:  # noqa: ARG002
        """The share of images told apart, half of them clean, which is the score."""
        x, y = checked(net, validation)
        ids, right = sample_ids(x).to(x.device), 0
        for rows in torch.split(torch.arange(len(x), device=x.device), ROWS):
            draws = Draws(self.seed, ids[rows], torch.zeros_like(ids[rows]))
            x_adv = self.ball.crafted(self.attack, self.classifier, x[rows], y[rows], draws)
            with torch.no_grad():
                said = net(torch.cat([x[rows], x_adv])).argmax(1)
            right += int((said == _kinds(len(rows), x.device)).sum())
        return {"score": right / (2 * len(x)), "told_apart": right / (2 * len(x))}


def _kinds(count: int, device: torch.device) -> Tensor:
    """So many clean ones (0), and as many adversarial ones (1)."""
    return torch.arange(2, device=device).repeat_interleave(count)

"""Detectors of adversarial images: what they share is a threshold set on clean images, and a
pipeline that refuses what lies above it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from attacks import loop
from attacks.draws import Draws, sample_ids
from attacks.pipelines import Randomised, evaluation_draws, is_random
from defenses.adversarial import exact
from defenses.base import Defended
from defenses.crafting import CraftingRecipe
from defenses.straight import straight_through
from defenses.validation import ROWS
from defenses.workshop import Trained, Workshop
from models import checkpoint
from models.nets import Shape
from models.split import Split

_LEAST_FPR = 1e-6
_SLOPE = 0.3
"""Logits per standard deviation of clean scores."""


class Detector(nn.Module):
    """A classifier under watch: images x (N, ...) to its logits (N, K) and scores (N,), larger is
    more suspicious. passes: of a net, per image.
    """

    passes: ClassVar[int] = 1

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and scores."""

    def standin(self) -> Detector:
        """The same values with a useful gradient: itself, unless something masks it."""
        return self


class Scores(nn.Module):
    """A detector's scores alone."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N,)."""
        scores: Tensor = self.detector(x)[1]
        return scores


class RandomDetector(nn.Module):
    """A detector that draws: images x (N, ...) and draws of N samples to logits (N, K) and scores
    (N,), see Detector and attacks.pipelines.Randomised.
    """

    is_random: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Logits and scores."""


class RandomScores(Randomised):
    """The scores alone of a detector that draws."""

    def __init__(self, detector: RandomDetector):
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Scores (N,)."""
        scores: Tensor = self.detector(x, draws)[1]
        return scores


class Refusal(nn.Module):
    """Logits (N, K) of a classifier and a column more, which leads exactly where score > threshold:
    the largest logit + scale (score - threshold).

    scale makes a standard deviation of the clean scores weigh 0.3 of a logit: steep enough for an
    attack on all columns to feel, and so flat that ten of them do not saturate its cross-entropy
    (on digits attacks were weaker at three times the slope, and at a third). Where rounding would
    let column and logits tie, the column's value is the next float above, or the largest logit
    itself, and its gradient that of the formula. trained_on: the spec of the attack that the
    detector knows, empty where it knows none; fpr: the share of clean images it may refuse.
    """

    refuses: ClassVar[bool] = True
    threshold: Tensor
    scale: Tensor

    def __init__(
        self,
        detector: Detector | RandomDetector,
        *,
        threshold: float,
        scale: float,
        fpr: float,
        trained_on: str,
    ):
        super().__init__()
        self.detector = detector
        self.fpr, self.trained_on = fpr, trained_on
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("scale", torch.tensor(scale))

    def columns(self, logits: Tensor, scores: Tensor) -> Tensor:
        """Columns (N, K + 1) of logits (N, K) and scores (N,), the last one refusing."""
        top = logits.amax(1)
        column = top + self.scale * (scores - self.threshold)
        above = torch.maximum(column, torch.nextafter(top, torch.full_like(top, torch.inf)))
        led = torch.where(scores > self.threshold, above, torch.minimum(column, top))
        return torch.cat([logits, straight_through(led.detach(), column)[:, None]], 1)


class Refusing(Refusal):
    """A detector's logits and its refusal."""

    def forward(self, x: Tensor) -> Tensor:
        """Columns (N, K + 1), the last one refusing."""
        return self.columns(*self.detector(x))


class RefusingDraws(Refusal, Randomised):
    """The same of a detector that draws."""

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised; columns as those of Refusing."""
        return self.columns(*self.detector(x, draws))


def check_fpr(fpr: float) -> None:
    """Refuses a false-positive rate out of range."""
    if not _LEAST_FPR <= fpr < 1:
        raise ValueError(f"fpr must be in [{_LEAST_FPR}, 1), got {fpr}")


def allowed(count: int, fpr: float) -> int:
    """How many of so many clean images may be refused: the share fpr, rounded down."""
    return math.floor(_fraction(fpr) * count)


def threshold(scores: Tensor, fpr: float) -> float:
    """The (1 - fpr) quantile of clean scores (N,): the least of them that at most a share fpr lies
    above. Refuses scores of fewer than 1 / fpr images, which say nothing about it.
    """
    check_enough(len(scores), fpr)
    return float(scores.sort(descending=True).values[allowed(len(scores), fpr)])


def check_enough(count: int, fpr: float) -> None:
    """Refuses so few clean images that a single one is more than the share fpr."""
    if allowed(count, fpr) < 1:
        least = math.ceil(1 / _fraction(fpr))
        raise ValueError(
            f"fpr={exact(fpr)} needs at least {least:,} clean validation images to set a threshold "
            f"on, got {count:,}"
        )


def _fraction(fpr: float) -> Fraction:
    """The simple fraction that a float such as 0.05 stands for."""
    return Fraction(fpr).limit_denominator(round(1 / _LEAST_FPR))


def calibrated(
    detector: Detector | RandomDetector, validation: Split, fpr: float, device: torch.device
) -> tuple[float, float]:
    """Threshold and scale (see Refusal) from clean images, under the first evaluation draw of a
    detector that draws; it is on the device.
    """
    with torch.no_grad():
        rows = torch.split(torch.arange(len(validation)), ROWS)
        scores = torch.cat([_scores(detector, validation.images(few, device)) for few in rows])
    spread = float(scores.std())
    return threshold(scores, fpr), _SLOPE / (spread if spread > 0 else 1.0)


def _scores(detector: Detector | RandomDetector, x: Tensor) -> Tensor:
    drawn = (evaluation_draws(sample_ids(x).to(x.device), 0),) if is_random(detector) else ()
    scores: Tensor = detector(x, *drawn)[1]
    return scores


class DetectorRecipe(CraftingRecipe):
    """Base of the detectors: recipes with at least the keys fpr, attack, eps, norm and seed."""

    rejection: ClassVar[str] = "a detector of adversarial images"
    fpr: float

    @abstractmethod
    def detector(self, workshop: Workshop, classifier: nn.Module) -> Detector:
        """The detector, trained in the workshop on what the attack makes of the classifier."""

    def check(self) -> None:
        """Refuses keys out of range."""
        self.check_ball()
        check_fpr(self.fpr)

    def check_data(self, shape: Shape, validation: int) -> None:
        """See CraftingRecipe; refuses too few validation images for fpr, too."""
        super().check_data(shape, validation)
        check_enough(validation, self.fpr)

    def made_of(self, classifier: nn.Module) -> dict[str, Any]:
        """Whatever changes the detector, which the threshold does not."""
        blank: Any = replace(cast(Any, self), fpr=0.5)
        return {
            "defense": blank.identity(),
            "engine": loop.REVISION,
            "classifier": checkpoint.digest(classifier.state_dict()),
        }

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses too few validation images for fpr before anything is trained."""
        self.filled(workshop.classes)
        _, validation = workshop.splits()
        check_enough(len(validation), self.fpr)
        own = workshop.of(workshop.model)
        classifier = own.undefended()
        detector = self.detector(own, classifier).to(workshop.device).eval()
        at, scale = calibrated(detector, validation, self.fpr, workshop.device)

        def refusing(watch: Detector) -> Refusing:
            trained_on = self.inner.to_spec()
            made = Refusing(watch, threshold=at, scale=scale, fpr=self.fpr, trained_on=trained_on)
            return made.to(workshop.device).eval()

        predict = refusing(detector)
        standin = detector.standin()
        last = own.trained[-1]
        digest = checkpoint.digest(predict.state_dict())
        workshop.trained.append(Trained(digest, last.objective, last.log, last.seconds))
        return Defended(
            predict=predict,
            surrogate=predict if standin is detector else refusing(standin),
            exact=True,
            inside=classifier,
            passes=detector.passes,
            score=Scores(detector).eval(),
        )

"""SafetyNet: a support vector machine on quantised late activations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attacks.base import Attack
from attacks.pgd import Pgd
from defenses.adversarial import exact
from defenses.crafting import Ball
from defenses.detector import Detector, DetectorRecipe
from defenses.straight import straight_through
from defenses.svm import RbfSvm, library
from defenses.validation import ROWS
from defenses.workshop import Made, Weights, Workshop
from models.split import Split

_WIDTH = 0.05
"""Of the sigmoid that stands in for a threshold, in standard deviations of the unit."""


@dataclass(frozen=True)
class SafetyNet(DetectorRecipe):
    """SafetyNet: late ReLU activations, quantised, and an RBF SVM that tells those of adversarial
    images from clean ones' and refuses them (Lu, Issaranon, Forsyth 2017, arXiv:1704.00103).

    layers: how many of the last ReLU layers are looked at, a map by each channel's mean over its
    places. levels: of the code; a unit's thresholds are the 1/levels, 2/levels, ... quantiles of
    its activations on clean training images, and its code is the share of them it exceeds (2: one
    bit, above the median). The SVM is fitted on `images` training images drawn under the seed, and
    on what `attack` makes of them within eps on the classifier, whether or not it falls for it.
    c: the SVM's penalty; gamma is scikit-learn's `scale`. The score is the decision function.
    fpr: the share of clean images that may be refused; the threshold is set on the validation
    images before any attack and needs 1 / fpr of them. norm, eps: the ball, by default the run's
    norm and the dataset's reference eps; seed: of that draw and of the attack's random starts.
    The paper's own layers, thresholds and penalty were not at hand: these are ours.

    The code has no gradient. Attacks are handed one that goes straight through: that of a sigmoid
    about each threshold, whose width is 0.05 standard deviations of the unit on the clean images
    (attacks on digits were weaker with wider ones, and with the identity).
    """

    masking: ClassVar[str] = "quantised activations"
    fpr: float = 0.05
    layers: int = 2
    levels: int = 2
    images: int = 1000
    c: float = 10.0
    eps: float | None = None
    norm: str | None = None
    attack: Attack = Pgd(steps=10)  # noqa: RUF009  a frozen dataclass
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()
        for name, value, least in (
            ("layers", self.layers, 1),
            ("levels", self.levels, 2),
            ("images", self.images, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < self.c < float("inf"):
            raise ValueError(f"c must be finite and above 0, got {self.c}")

    def detector(self, workshop: Workshop, classifier: nn.Module) -> Quantised:
        """See DetectorRecipe."""
        train, _ = workshop.splits()
        few = self._drawn(train)
        units = Units(classifier, self.layers)
        units.check(few.images(slice(0, 1), workshop.device))
        eps, norm = self.filled(workshop.classes)
        text = (
            f"RBF SVM with penalty {exact(self.c)} on codes of x and x_adv; x_adv by "
            f"{self.inner.to_spec()}, {norm} eps {exact(eps)}, on the classifier"
        )

        def fit() -> Made:
            ball = Ball(norm, eps, workshop.classes)
            x_adv = ball.of_split(self.inner, classifier, few, self.seed, workshop.device)
            with torch.no_grad():
                clean, moved = (
                    torch.cat([units(rows.to(workshop.device))[1] for rows in torch.split(x, ROWS)])
                    for x in (few.images(slice(None)), x_adv)
                )
                return self._fitted(clean, moved)

        identity = {**self.made_of(classifier), "library": library()}
        return Quantised.of(units, workshop.made(text, identity, fit))

    def _drawn(self, train: Split) -> Split:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        return train.take(order[: self.images])

    def _fitted(self, clean: Tensor, moved: Tensor) -> Made:
        """Thresholds, widths and the SVM from units (N, U) of clean and adversarial images."""
        at = thresholds(clean, self.levels)
        spread = clean.std(0, correction=0)
        widths = _WIDTH * torch.where(spread > 0, spread, torch.ones_like(spread))
        points = codes(torch.cat([clean, moved]), at)
        kinds = torch.arange(2, device=points.device).repeat_interleave(len(clean)) == 1
        svm = RbfSvm.fitted(points, kinds, self.c)
        told = (svm(points) > 0) == kinds
        entry = {"told_apart": float(told.float().mean()), "support_vectors": len(svm.dual)}
        return {"thresholds": at, "widths": widths, **svm.state_dict()}, [entry]


_RELU = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


class _Watching(TorchFunctionMode):
    """Keeps what the last ReLUs return, whether they are layers or functions."""

    def __init__(self, last: int):
        super().__init__()
        self.seen: deque[Tensor] = deque(maxlen=last)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See torch.overrides.TorchFunctionMode."""
        result = func(*args, **(kwargs or {}))
        if func in _RELU:
            self.seen.append(result)
        return result


class Units(nn.Module):
    """Logits of a classifier and the activations (N, U) of its last ReLU layers in the same pass, a
    map as its channels' means.
    """

    def __init__(self, classifier: nn.Module, layers: int):
        super().__init__()
        self.classifier, self.layers = classifier, layers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K), activations (N, U)."""
        with _Watching(self.layers) as watching:
            logits: Tensor = self.classifier(x)
        units = [unit.flatten(2).mean(2) if unit.dim() > 2 else unit for unit in watching.seen]
        return logits, torch.cat(units, 1)

    def check(self, x: Tensor) -> None:
        """Refuses a classifier with fewer ReLU layers."""
        with torch.no_grad(), _Watching(self.layers) as watching:
            self.classifier(x)
        if len(watching.seen) < self.layers:
            raise ValueError(
                f"safetynet: layers={self.layers} needs a model with as many ReLU layers, got "
                f"{len(watching.seen)}"
            )


def thresholds(units: Tensor, levels: int) -> Tensor:
    """The thresholds (U, levels - 1) of units (N, U): their quantiles 1/levels, 2/levels, ..."""
    shares = torch.arange(1, levels, device=units.device, dtype=units.dtype) / levels
    return units.quantile(shares, dim=0).T.contiguous()


def codes(units: Tensor, at: Tensor) -> Tensor:
    """The share (N, U) of its thresholds (U, T) that each unit (N, U) exceeds."""
    return (units[:, :, None] > at).to(units.dtype).mean(2)


class Quantised(Detector):
    """The SVM on the codes of a classifier's units. is_soft: the gradient goes straight through
    the quantiser (BPDA).
    """

    thresholds: Tensor
    widths: Tensor

    def __init__(
        self, units: Units, thresholds: Tensor, widths: Tensor, svm: RbfSvm, *, is_soft: bool
    ):
        super().__init__()
        self.units, self.svm, self.is_soft = units, svm, is_soft
        self.register_buffer("thresholds", thresholds)
        self.register_buffer("widths", widths)

    @classmethod
    def of(cls, units: Units, weights: Weights) -> Quantised:
        """From what `SafetyNet` fitted."""
        svm = RbfSvm(*(weights[name] for name in ("support", "dual", "gamma", "bias")))
        return cls(units, weights["thresholds"], weights["widths"], svm, is_soft=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Detector; scores are the SVM's decisions."""
        logits, units = self.units(x)
        code = codes(units, self.thresholds)
        if self.is_soft:
            away = (units[:, :, None] - self.thresholds) / self.widths[:, None]
            code = straight_through(code, away.sigmoid().mean(2))
        return logits, self.svm(code)

    def standin(self) -> Quantised:
        """See Detector."""
        return Quantised(self.units, self.thresholds, self.widths, self.svm, is_soft=True)

"""What defenses share whose classifier sees what a differentiable net makes of the image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Defended
from defenses.detector import Detector, Refusing, Scores, calibrated
from defenses.straight import straight_through
from defenses.transformed import Behind, Passing
from defenses.validation import ROWS
from defenses.workshop import Workshop
from models.split import Split

MODES = ("white-box", "bpda", "transfer")
"""Modes of a purifier that hides no gradient: through all of it, past it, and on another net."""


class Reconstructing(Detector):
    """A classifier behind a net of images; scores are mean squared errors of the net's answers."""

    passes: ClassVar[int] = 2

    def __init__(self, coder: nn.Module, net: nn.Module):
        super().__init__()
        self.coder, self.net = coder, net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Detector."""
        made: Tensor = self.coder(x)
        return self.net(made), error(made, x)


class PassingBy(Reconstructing):
    """The same values, differentiated as if the net left images as they are; in the score its
    answers are constants.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Detector."""
        with torch.no_grad():
            made: Tensor = self.coder(x)
        return self.net(straight_through(made, x)), error(made, x)


def reformed(
    coder: nn.Module,
    net: nn.Module,
    workshop: Workshop,
    fpr: float | None,
    *,
    inside: nn.Module | None,
) -> Defended:
    """A classifier behind a net of images, and what bpda is handed; with fpr it refuses images of a
    larger error than all but that share of the clean validation images.
    """
    if fpr is None:
        pipeline = Behind(coder, net).eval()
        return Defended(
            predict=pipeline,
            surrogate=pipeline,
            inside=inside,
            passes=Reconstructing.passes,
            further={"bpda": Behind(Passing(coder), net).eval()},
            purified=coder,
        )
    detector = Reconstructing(coder, net).to(workshop.device).eval()
    _, validation = workshop.splits()
    at, scale = calibrated(detector, validation, fpr, workshop.device)

    def refusing(watch: Detector) -> Refusing:
        made = Refusing(watch, threshold=at, scale=scale, fpr=fpr, trained_on="")
        return made.to(workshop.device).eval()

    predict = refusing(detector)
    return Defended(
        predict=predict,
        surrogate=predict,
        inside=inside,
        passes=detector.passes,
        further={"bpda": refusing(PassingBy(coder, net))},
        purified=coder,
        score=Scores(detector).eval(),
    )


def error(made: Tensor, x: Tensor) -> Tensor:
    """Mean squared errors (N,) of images made (N, C, H, W) from x."""
    return (made - x).square().flatten(1).mean(1)


def mean_error(coder: nn.Module, split: Split, device: torch.device) -> float:
    """The mean squared error of a net's answers to the images of a split, from these."""
    total = 0.0
    with torch.no_grad():
        for index in torch.split(torch.arange(len(split)), ROWS):
            x = split.images(index, device)
            total += float(error(coder(x), x).double().sum())
    return total / len(split)

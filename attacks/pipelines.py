"""Pipelines that draw random numbers, and pipelines that may refuse: how attacks and judges ask
them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.oracles import ORACLES, MeanOracle, Oracle, Predict

EOT = 10
"""Answers of a model that draws averaged per query of an attack, unless told otherwise."""
DRAWS = 10
"""Evaluation draws that a model that draws is judged under."""


class Randomised(nn.Module):
    """A pipeline that draws: it is called as (x, draws), and equal arguments give equal answers.

    Numbers come from the draws alone, keyed by image, so that what an image gets does not depend on
    its batch.
    """

    is_random: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Logits (N, K) of images x (N, ...) under the draws of N samples."""


def is_random(model: Predict) -> bool:
    """Whether the model is called with draws."""
    return bool(getattr(model, "is_random", False))


def refuses(model: Predict) -> bool:
    """Whether the model returns a column more than there are classes, the last one meaning
    refused.
    """
    return bool(getattr(model, "refuses", False))


def said(model: Predict, x: Tensor, draws: Draws | None) -> Tensor:
    """The model's answer for images x (N, ...), under the draws where it takes any."""
    if not is_random(model):
        return model(x)
    if draws is None:
        raise ValueError("a pipeline that draws must be handed draws")
    return model(x, draws)


def merged(logits: Tensor, y: Tensor, classes: int) -> Tensor:
    """Logits (N, K) in which a refusal counts as the label y (N,): what an adversary is up against.

    The label's logit becomes the larger one of its own and the refusal's, so that another class
    leads exactly where the image is accepted and misclassified, and a loss of these logits is a
    joint one of classifier and refusal. Logits (N, K) stay as they are.
    """
    if logits.shape[1] == classes:
        return logits
    own = logits.gather(1, y[:, None])
    return logits[:, :classes].scatter(1, y[:, None], torch.maximum(own, logits[:, classes:]))


@dataclass(frozen=True)
class AsSeen:
    """A pipeline as the rows of one call see it: under their draws, a refusal counting as their
    labels y (N,).
    """

    model: Predict
    y: Tensor
    classes: int
    draws: Draws | None

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return merged(said(self.model, x, self.draws), self.y, self.classes)


@dataclass(frozen=True)
class Witness:
    """Whom an attack asks about its points. access: what it is told; least: answers averaged per
    query; eot: the same at least, of a model that draws.
    """

    model: Predict
    access: str
    classes: int
    least: int
    eot: int

    @property
    def answers(self) -> int:
        """Answers averaged per query, each of which costs one."""
        return max(self.least, self.eot) if is_random(self.model) else self.least

    def oracle(self, y: Tensor, draws: Draws, *counters: int | Tensor) -> Oracle:
        """The oracle of rows with labels y (N,) and these draws; counters tell queries apart."""
        oracles = [ORACLES[self.access](model) for model in self.models(y, draws, *counters)]
        return oracles[0] if len(oracles) == 1 else MeanOracle(oracles)

    def models(self, y: Tensor, draws: Draws, *counters: int | Tensor) -> list[Predict]:
        """The model as each of a query's answers sees it."""
        if not (is_random(self.model) or refuses(self.model)):
            return [self.model] * self.answers
        own = [draws.fork("query", *counters, number) for number in range(self.answers)]
        return [AsSeen(self.model, y, self.classes, each) for each in own]


def evaluation_draws(ids: Tensor, number: int) -> Draws:
    """The draws of a number that samples (N,) are judged under: the same in every run, and no
    attack's.
    """
    return Draws(0, ids, torch.zeros_like(ids)).fork("evaluation", number)

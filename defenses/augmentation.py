"""Training on images with random noise, for every recipe that does so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import norms
from attacks.draws import Draws, sample_ids
from defenses.adversarial import exact
from models.split import Split
from models.train import Batch, Standard, accuracy

Kind = Literal["normal", "uniform", "sign"]
"""Noise per component: normal with standard deviation sigma, uniform in [-sigma, sigma), or -sigma
and sigma with equal probability.
"""

_WORDS = {
    "normal": "normal, standard deviation {}",
    "uniform": "uniform within {}",
    "sign": "plus or minus {}",
}


def check_noise(sigma: float) -> None:
    """Refuses a size of the noise that is none."""
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and at least 0, got {sigma}")


def noise(x: Tensor, sigma: float, kind: Kind, draws: Draws) -> Tensor:
    """Noise of a kind and size for images x (N, ...), each image's own."""
    if kind == "normal":
        return draws.normal(x.shape, "noise") * sigma
    if kind == "uniform":
        return (draws.uniform(x.shape, "noise") * 2 - 1) * sigma
    return draws.signs(x.shape, "noise") * sigma


@dataclass(frozen=True)
class Noisy:
    """The objective L(x + n, y), n drawn anew for each image and epoch.

    sigma, kind: of the noise; seed: of its random numbers; clip: whether x + n is moved into
    [0, 1]. A checkpoint's score is its accuracy on validation images under one fixed draw of the
    same noise, which is what is minimised; clean accuracy is noted.
    """

    sigma: float
    kind: Kind = "normal"
    seed: int = 0
    clip: bool = False

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        if self.sigma == 0:
            return Standard().text
        box = " moved into the box" if self.clip else ""
        return f"L(x + n, y){box}; n {_WORDS[self.kind].format(exact(self.sigma))}"

    def points(self, x: Tensor, draws: Draws) -> Tensor:
        """x + n (N, ...)."""
        moved = x + noise(x, self.sigma, self.kind, draws)
        return norms.to_box(moved) if self.clip else moved

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        return F.cross_entropy(net(self.points(batch.x, draws)), batch.y)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:
        """Clean accuracy, and accuracy under noise, which is the score."""
        measured = Standard().validate(net, validation, progress)
        if self.sigma == 0:
            return measured
        x = validation.images(slice(None))
        ids = sample_ids(x)
        moved = self.points(x, Draws(self.seed, ids, torch.zeros_like(ids)))
        noisy = accuracy(net, Split(moved, validation.y))
        return {"score": noisy, "clean": measured["clean"], "noisy": noisy}

"""Noise at prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.draws import Draws
from attacks.pipelines import Randomised
from defenses.augmentation import check_noise, noise
from defenses.transformed import Train, TransformRecipe


class Added(Randomised):
    """Normal noise added to the image."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """x + n (N, ...), not moved into the box."""
        return x + noise(x, self.sigma, "normal", draws)


@dataclass(frozen=True)
class NoisyInput(TransformRecipe):
    """Noise at prediction: the net sees x + n, n normal and drawn anew for each prediction (Liu et
    al. 2018, arXiv:1712.00673).

    The paper adds noise before every convolution and averages several passes; this is its first
    layer of noise and one pass. sigma: standard deviation; x + n may leave [0, 1]. train: clean,
    the undefended net; transformed, one trained on x + n. seed: of the noise in training.
    """

    randomness: ClassVar[str] = "normal noise on the image"

    sigma: float = 0.1
    train: Train = "clean"
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.sigma)

    def transform(self) -> Added:
        """See TransformRecipe."""
        return Added(self.sigma)

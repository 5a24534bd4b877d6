"""Mixtures of Gaussians in the plane, as images of two pixels: how many of their centres a
generator finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.split import Split

SHAPE = (2, 1, 1)
NEAR = 3.0
"""Standard deviations from a centre within which a sample is good."""
ENOUGH = 0.25
"""Of a fair share of all samples, how much a centre must get to be found."""
EXPECTED = 1 - math.exp(-(NEAR**2) / 2)
"""Share of good samples of the mixture itself."""


@dataclass(frozen=True)
class Mixture:
    """Equally likely round Gaussians. centres: inside the unit square; sd: of each coordinate."""

    name: str
    centres: tuple[tuple[float, float], ...]
    sd: float

    def __post_init__(self) -> None:
        if not self.centres or not all(0 <= at <= 1 for centre in self.centres for at in centre):
            raise ValueError(f"centres must lie in the unit square, got {self.centres}")
        if not 0 < self.sd < math.inf:
            raise ValueError(f"sd must be above 0, got {self.sd}")

    def split(self, count: int, seed: int) -> Split:
        """Samples as images (count, 2, 1, 1) in [0, 1], labels the centres they belong to."""
        random = torch.Generator().manual_seed(seed)
        y = torch.randint(len(self.centres), (count,), generator=random)
        points = self._centres()[y] + self.sd * torch.randn(count, 2, generator=random)
        return Split(points.clamp(0, 1).view(count, *SHAPE), y)

    def _centres(self) -> Tensor:
        return torch.tensor(self.centres)

    def census(self, images: Tensor) -> Census:
        """What images (N, 2, 1, 1) cover: a sample is good within NEAR sd of the nearest centre."""
        if images.shape[1:] != SHAPE:
            raise ValueError(f"images must be (N, 2, 1, 1), got {tuple(images.shape)}")
        gap, nearest = torch.cdist(images.flatten(1).cpu(), self._centres()).min(1)
        good = nearest[gap <= NEAR * self.sd]
        counts = torch.bincount(good, minlength=len(self.centres)).tolist()
        return Census(tuple(counts), len(images))


@dataclass(frozen=True)
class Census:
    """good: samples within reach of each centre (K,); count: samples, good or not."""

    good: tuple[int, ...]
    count: int

    @property
    def found(self) -> int:
        """Centres with at least ENOUGH of a fair share, count / K, of good samples."""
        fair = self.count / len(self.good)
        return sum(number >= ENOUGH * fair for number in self.good)

    @property
    def quality(self) -> float:
        """Share of good samples."""
        return sum(self.good) / self.count

    @property
    def divergence(self) -> float:
        """KL of the good samples' centres from the uniform distribution, nats; infinite without
        any.
        """
        total = sum(self.good)
        if not total:
            return math.inf
        shares = [number / total for number in self.good if number]
        return sum(share * math.log(share * len(self.good)) for share in shares)


def _around(count: int, radius: float) -> tuple[tuple[float, float], ...]:
    turns: Sequence[float] = [2 * math.pi * place / count for place in range(count)]
    return tuple((0.5 + radius * math.cos(turn), 0.5 + radius * math.sin(turn)) for turn in turns)


def _square(side: int, gap: float) -> tuple[tuple[float, float], ...]:
    at = [0.5 + gap * (place - (side - 1) / 2) for place in range(side)]
    return tuple((x, y) for x in at for y in at)


RING = Mixture("ring of 8", _around(8, 0.4), 0.01)
"""Standard deviation a fortieth of the radius (our choice; others take a hundredth)."""
GRID = Mixture("grid of 25", _square(5, 0.2), 0.005)
"""Standard deviation a fortieth of the distance of neighbours (our choice)."""

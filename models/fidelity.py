"""How near made images come to real ones, on the features of a classifier that is named beside the
figures, with the numbers of images: none of them means anything without.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.distances import blocks, squared, to_neighbour
from models.passes import through
from models.penultimate import Penultimate

NEIGHBOURS = 3
"""The neighbour that a ball reaches to (Kynkaanniemi et al. 2019)."""


def features(net: nn.Module, x: Tensor) -> Tensor:
    """Features (N, F) of images x (N, C, H, W): what enters the nn.Linear that a classifier in eval
    mode calls last, on its device; ValueError where it has none.
    """
    return through(Penultimate(net), x)


@dataclass(frozen=True)
class Gaussian:
    """What the Frechet distance sees of features: mean (F,) and covariance (F, F), both float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Of features (N, F), the covariance over N - 1; refuses fewer than two images."""
        if len(features) < 2:
            raise ValueError(
                f"a Frechet distance must be of at least 2 images, got {len(features)}"
            )
        mean = features.mean(0, dtype=torch.float64)
        covariance = mean.new_zeros(len(mean), len(mean))
        for block in blocks(len(features), len(mean)):
            centred = features[block].double() - mean
            covariance.addmm_(centred.T, centred)
        return cls(mean, covariance.div_(len(features) - 1))


def frechet(real: Gaussian, made: Gaussian) -> float:
    """The squared Frechet distance ||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians
    (FID of Heusel et al. 2017, arXiv:1706.08500, there on Inception features).

    The trace of the root is the sum of the singular values of S1^(1/2) S2^(1/2), with roots by
    eigh. Never below 0. It grows as images get fewer, also where both sets come from one
    distribution (4,096 MNIST images against others: 1.25 in one repository): only values of equal
    numbers of images on the same features compare, and the real images' own value, half against
    half, is the least that can be asked for.
    """
    product = _root(real.covariance) @ _root(made.covariance)
    shared = torch.linalg.svdvals(product).sum()
    spread = real.covariance.trace() + made.covariance.trace() - 2 * shared
    return max(0.0, float((real.mean - made.mean).square().sum() + spread))


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


@dataclass(frozen=True)
class Overlap:
    """precision: the share of made images that lie where real ones do; recall: the share of real
    images that lie where made ones do.
    """

    precision: float
    recall: float


def overlap(real: Tensor, made: Tensor) -> Overlap:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991) of features
    (N, F) and (M, F).

    A set covers the balls around its points that reach to their third neighbour in the same set.
    Both shares depend on N and M. Refuses sets of fewer than four images.
    """
    centre = real.mean(0)
    real, made = real - centre, made - centre
    return Overlap(_covered(made, real), _covered(real, made))


def _covered(points: Tensor, centres: Tensor) -> float:
    """The share of points inside the balls around centres."""
    reach = to_neighbour(centres, NEIGHBOURS)
    inside = [
        (squared(points[block], centres) <= reach).any(1)
        for block in blocks(len(points), len(centres))
    ]
    return float(torch.cat(inside).double().mean())

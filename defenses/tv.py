"""Total-variation minimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from defenses.transformed import Train, TransformRecipe

_STEP = 0.25
"""Chambolle's step, with which the iteration settles in practice; 1/8 is proven."""
_TINY = 1e-12
"""Keeps the derivative of a length finite where it is 0."""


class Denoised(nn.Module):
    """argmin_u |u - x|^2 / 2 + weight TV(u) per channel, TV the sum of the lengths of the forward
    differences; by Chambolle's iteration for the dual.
    """

    def __init__(self, weight: float, iterations: int):
        super().__init__()
        self.weight = weight
        self.iterations = iterations

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        dual = x.new_zeros(2, *x.shape)
        for _ in range(self.iterations):
            slope = differences(divergence(dual) - x / self.weight)
            dual = (dual + _STEP * slope) / (1 + _STEP * length(slope))
        return x - self.weight * divergence(dual)


def differences(u: Tensor) -> Tensor:
    """Forward differences (2, ..., H, W) down and to the right, 0 beyond the last."""
    made = u.new_zeros(2, *u.shape)
    made[0, ..., :-1, :] = u.diff(dim=-2)
    made[1, ..., :, :-1] = u.diff(dim=-1)
    return made


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `differences`: (2, ..., H, W) to (..., H, W)."""
    down, right = p[0, ..., :-1, :], p[1, ..., :, :-1]
    made = torch.zeros_like(p[0])
    made[..., :-1, :] += down
    made[..., 1:, :] -= down
    made[..., :, :-1] += right
    made[..., :, 1:] -= right
    return made


def length(p: Tensor) -> Tensor:
    """Euclidean length (..., H, W) of vectors (2, ..., H, W), at least 1e-6."""
    return (p.square().sum(0) + _TINY).sqrt()


@dataclass(frozen=True)
class TotalVariation(TransformRecipe):
    """Total-variation minimisation: the net sees the u nearest to x that is piecewise smooth (Guo
    et al. 2018, arXiv:1711.00117).

    u = argmin |u - x|^2 / 2 + weight TV(u) by so many iterations of Chambolle (2004). The paper
    first drops pixels at random, fits u to the others and redraws per image; here nothing is
    dropped and nothing is random. Attacks differentiate through the iterations, which finds more
    than the identity in their place. weight: larger is smoother, of images in [0, 1]. train:
    transformed, as in the paper's best rows, a net trained on such images; clean, the undefended
    net.
    """

    weight: float = 0.1
    iterations: int = 30
    train: Train = "transformed"

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be finite and above 0, got {self.weight}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    def transform(self) -> Denoised:
        """See TransformRecipe."""
        return Denoised(self.weight, self.iterations)

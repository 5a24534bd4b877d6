"""How far the images of one batch lie apart: what is left of the latent in them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.distances import to_neighbour

LEAST = 0.1
"""The share of real images' distances below which made images are told to ignore their latents."""


@dataclass(frozen=True)
class Variety:
    """Distances (L2, of all components) within a batch. apart: root of the mean square over all
    pairs; nearest: median over images of the distance to the nearest other one.
    """

    apart: float
    nearest: float


def variety(x: Tensor) -> Variety:
    """Of images x (N, C, H, W), at least two."""
    flat = x.flatten(1)
    nearest = to_neighbour(flat - flat.mean(0), 1).sqrt()
    apart = 2 * flat.double().var(0).sum()
    return Variety(float(apart.sqrt()), float(nearest.cpu().median()))


def ignores_latent(made: Variety, real: Variety) -> bool:
    """Whether made images, as many as the real ones, lie so much nearer together that they cannot
    depend on their latents: below a tenth of the real distance, between all pairs (one image and
    noise) or to the nearest other (a few images, as of a conditional generator that looks at
    nothing but the class: every class is there, and none is seen to miss).

    The nearest other comes nearer as images become more, in made and real batches alike.
    """
    return made.apart < LEAST * real.apart or made.nearest < LEAST * real.nearest

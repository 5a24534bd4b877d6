"""What latents are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_LEAST = 2.0**-24


class Prior(Protocol):
    """A distribution of latents (..., d); its components are independent, each of mean 0 and
    variance 1 / d.
    """

    def latents(self, uniform: Tensor) -> Tensor:
        """Latents from as many independent numbers in [0, 1)."""
        ...

    def penalty(self, z: Tensor) -> Tensor:
        """-log density (...) up to a constant, mean over the components."""
        ...

    def confined(self, z: Tensor) -> Tensor:
        """The nearest latents that the prior can give."""
        ...


@dataclass(frozen=True)
class Normal:
    """N(0, 1 / d) (Samangouei et al. 2018, arXiv:1805.06605: d = 128)."""

    def latents(self, uniform: Tensor) -> Tensor:
        """See Prior; by the inverse distribution function."""
        safe = uniform.clamp(_LEAST, 1 - _LEAST)
        return torch.erfinv(safe * 2 - 1) * math.sqrt(2 / uniform.shape[-1])

    def penalty(self, z: Tensor) -> Tensor:
        """See Prior."""
        return z.square().mean(-1) * z.shape[-1] / 2

    def confined(self, z: Tensor) -> Tensor:
        """See Prior: all of space."""
        return z


@dataclass(frozen=True)
class Uniform:
    """Uniform in [-sqrt(3 / d), sqrt(3 / d)]."""

    def latents(self, uniform: Tensor) -> Tensor:
        """See Prior."""
        return (uniform * 2 - 1) * math.sqrt(3 / uniform.shape[-1])

    def penalty(self, z: Tensor) -> Tensor:
        """See Prior: constant where it is not infinite."""
        return z.new_zeros(z.shape[:-1])

    def confined(self, z: Tensor) -> Tensor:
        """See Prior."""
        edge = math.sqrt(3 / z.shape[-1])
        return z.clamp(-edge, edge)


PRIORS: dict[str, Prior] = {"normal": Normal(), "uniform": Uniform()}

"""What latents are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_LEAST = 2.0**-24
_LEAST_TAU = 0.01
"""Below it the variance that is left drowns in rounding."""


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

    def squeezed(self, z: Tensor) -> Tensor:
        """Latents that the prior can give, of any z (..., d), next to z near the mean: smooth, with
        a slope above 0 everywhere.
        """
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

    def squeezed(self, z: Tensor) -> Tensor:
        """See Prior."""
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

    def squeezed(self, z: Tensor) -> Tensor:
        """See Prior."""
        return _bent(z, math.sqrt(3 / z.shape[-1]))


@dataclass(frozen=True)
class Truncated:
    """A normal distribution whose components are drawn again while they are beyond tau of its
    standard deviations; scaled so that what is left has variance 1 / d.

    Drawing again gives the normal distribution under the condition |t| <= tau, whose distribution
    function is (F(t) - F(-tau)) / (F(tau) - F(-tau)); its inverse at one uniform number is the
    same in distribution and takes one number per component. tau = inf is Normal.
    """

    tau: float = 2.0

    def __post_init__(self) -> None:
        if not self.tau >= _LEAST_TAU:
            raise ValueError(f"tau must be at least {_LEAST_TAU}, got {self.tau}")

    def latents(self, uniform: Tensor) -> Tensor:
        """See Prior; by the inverse distribution function."""
        safe = uniform.clamp(_LEAST, 1 - _LEAST)
        inside = torch.erfinv((safe * 2 - 1) * math.erf(self.tau / math.sqrt(2)))
        return inside * math.sqrt(2 / (uniform.shape[-1] * self._variance))

    def penalty(self, z: Tensor) -> Tensor:
        """See Prior: that of the normal where it is not infinite."""
        return z.square().mean(-1) * z.shape[-1] * self._variance / 2

    def confined(self, z: Tensor) -> Tensor:
        """See Prior."""
        edge = self._edge(z)
        return z.clamp(-edge, edge)

    def squeezed(self, z: Tensor) -> Tensor:
        """See Prior."""
        return z if math.isinf(self.tau) else _bent(z, self._edge(z))

    def _edge(self, z: Tensor) -> float:
        return self.tau / math.sqrt(z.shape[-1] * self._variance)

    @property
    def _variance(self) -> float:
        """What truncation leaves of a variance of 1."""
        if math.isinf(self.tau):
            return 1.0
        density = math.exp(-(self.tau**2) / 2) / math.sqrt(2 * math.pi)
        return 1 - 2 * self.tau * density / math.erf(self.tau / math.sqrt(2))


def _bent(z: Tensor, edge: float) -> Tensor:
    return edge * torch.tanh(z / edge)


PRIORS: dict[str, Prior] = {"normal": Normal(), "uniform": Uniform(), "truncated": Truncated()}

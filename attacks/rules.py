"""Step rules: from a gradient to the direction of the next step, with a memory per sample where one
is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks import norms

Memory = tuple[Tensor, ...]


class Rule(Protocol):
    """Pure functions over a memory whose tensors lead with the sample dimension."""

    def memory(self, x: Tensor) -> Memory:
        """The memory before the first step, for images x (N, ...)."""
        ...

    def direction(
        self, gradient: Tensor, point: Tensor, norm: str, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Direction (N, ...) of size at most 1 in the norm, and the memory behind it."""
        ...


@dataclass(frozen=True)
class Steepest:
    """The steepest direction of the norm: sign of the gradient for linf, gradient over its length
    for l2.
    """

    def memory(self, x: Tensor) -> Memory:  # noqa: ARG002  the protocol's signature
        """None."""
        return ()

    def direction(
        self, gradient: Tensor, point: Tensor, norm: str, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See Rule."""
        return norms.steepest(gradient, point, norm), memory


STEEPEST = Steepest()


@dataclass(frozen=True)
class Momentum:
    """The steepest direction of a running sum of gradients, each over its l1 size (Dong et al.
    2018, arXiv:1710.06081, eq. 6).
    """

    decay: float

    def memory(self, x: Tensor) -> Memory:
        """The sum so far."""
        return (torch.zeros_like(x),)

    def direction(
        self, gradient: Tensor, point: Tensor, norm: str, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """See Rule."""
        length = norms.size(gradient, "l1")
        unit = gradient / norms.expand(torch.where(length > 0, length, 1), gradient)
        velocity = self.decay * memory[0] + unit
        return norms.steepest(velocity, point, norm), (velocity,)


_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8


def adam(gradient: Tensor, memory: Memory, step: Tensor) -> tuple[Tensor, Memory]:
    """Adam's direction (N, ...) with bias correction, and its moments (Kingma and Ba 2015,
    arXiv:1412.6980); step (N,) counts from 1.
    """
    mean = memory[0].mul(_FIRST).add_(gradient.mul(1 - _FIRST))
    square = memory[1].mul(_SECOND).add_(gradient.square().mul_(1 - _SECOND))
    unbiased = mean / norms.expand(1 - _FIRST**step, mean)
    scale = (square / norms.expand(1 - _SECOND**step, square)).sqrt_().add_(_SMALL)
    return unbiased.div_(scale), (mean, square)

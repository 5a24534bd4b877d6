"""Step rules: from a gradient to the direction of the next step, with a memory per sample where one
is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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

"""Fewer bits per component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.transformed import Train, TransformRecipe

_MOST = 8


class Rounded(nn.Module):
    """Components rounded to so many levels, 0 and 1 among them."""

    def __init__(self, levels: int):
        super().__init__()
        self.steps = levels - 1

    def forward(self, x: Tensor) -> Tensor:
        """The nearest level; halfway between two the even one."""
        return (x * self.steps).round() / self.steps


@dataclass(frozen=True)
class BitDepth(TransformRecipe):
    """Bit-depth reduction: each component rounded to the nearest of 2^bits levels (Xu et al. 2018,
    arXiv:1704.01155).

    bits: 1 to 8; 1 is all but `threshold`. train: clean, as in the paper, the undefended net;
    transformed, one trained on rounded images. The paper also compares predictions with and without
    it to detect; this only classifies.
    """

    masking: ClassVar[str] = "rounding has zero gradient"

    bits: int = 3
    train: Train = "clean"

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= _MOST:
            raise ValueError(f"bits must be from 1 to {_MOST}, got {self.bits}")

    def transform(self) -> Rounded:
        """See TransformRecipe."""
        return Rounded(2**self.bits)

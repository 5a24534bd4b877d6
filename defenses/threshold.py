"""Binarised images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defenses.transformed import Train, TransformRecipe


class Binary(nn.Module):
    """1 where a component is above the level, 0 elsewhere."""

    def __init__(self, level: float):
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        """Images of zeros and ones."""
        return (x > self.level).to(x.dtype)


@dataclass(frozen=True)
class Threshold(TransformRecipe):
    """Binarisation: each component becomes 1 above a level and 0 up to it (Xu et al. 2018,
    arXiv:1704.01155, depth 1 bit).

    level: in (0, 1), 1/2 in the paper. train: clean, as in the paper, the undefended net;
    transformed, one trained on binary images. Under linf no attack moves a component across the
    level that is further than eps from it: on images of almost nothing but 0 and 1 some robustness
    below eps 1/2 is real, and above it none is left.
    """

    masking: ClassVar[str] = "a threshold has zero gradient"

    level: float = 0.5
    train: Train = "clean"

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be in (0, 1), got {self.level}")

    def transform(self) -> Binary:
        """See TransformRecipe."""
        return Binary(self.level)

"""Median filter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from defenses.base import Defended
from defenses.transformed import Train, TransformRecipe
from defenses.workshop import Workshop


class Median(nn.Module):
    """Each component replaced by the median of a square window, per channel; the image is mirrored
    at its edges.

    Of an even count the upper median, the window reaching further up and left, as scipy does.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        for dim in (2, 3):
            x = self._mirrored(x, dim)
        windows = x.unfold(2, self.window, 1).unfold(3, self.window, 1).flatten(-2)
        return windows.sort(dim=-1, stable=True).values[..., self.window**2 // 2]

    def _mirrored(self, x: Tensor, dim: int) -> Tensor:
        before = self.window // 2
        after = self.window - 1 - before
        first = x.narrow(dim, 0, before).flip(dim)
        last = x.narrow(dim, x.shape[dim] - after, after).flip(dim)
        return torch.cat([first, x, last], dim)


@dataclass(frozen=True)
class MedianFilter(TransformRecipe):
    """Median smoothing: each component becomes the median of a window around it (Xu et al. 2018,
    arXiv:1704.01155).

    window: height and width, at least 2. train: clean, as in the paper, the undefended net;
    transformed, one trained on smoothed images. Its gradient goes to the component that is the
    median.
    """

    window: int = 3
    train: Train = "clean"

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window must be at least 2, got {self.window}")

    def transform(self) -> Median:
        """See TransformRecipe."""
        return Median(self.window)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses images smaller than the window."""
        side = min(workshop.shape[1:])
        if self.window > side:
            raise ValueError(f"window must be at most the image's side {side}, got {self.window}")
        return super().deploy(workshop)

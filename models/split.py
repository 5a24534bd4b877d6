"""Labelled images as tensors: what training and evaluation are handed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images x (N, C, H, W), uint8 (0 to 255) or float32 in [0, 1], and labels y (N,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def images(self, index: Tensor | slice, device: torch.device | str = "cpu") -> Tensor:
        """The chosen images as float32 in [0, 1] on a device; uint8 is divided by 255."""
        chosen = self.x[index].to(device)
        return chosen.float().div_(255) if chosen.dtype == torch.uint8 else chosen

    def take(self, index: Tensor) -> Split:
        """The chosen samples as a split of their own."""
        return Split(self.x[index], self.y[index])

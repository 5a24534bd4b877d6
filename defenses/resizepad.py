"""Random resizing and padding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.draws import Draws
from attacks.pipelines import Randomised
from defenses.transformed import Train, TransformRecipe


class Shrunk(Randomised):
    """Each image shrunk by a random share, bilinearly, at a random place in zeros."""

    def __init__(self, least: float):
        super().__init__()
        self.least = least

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """Images of the same shape; height and width shrink by the same share."""
        height, width = x.shape[2:]
        smallest = math.ceil(self.least * height)
        rows = smallest + draws.integers(height + 1 - smallest, "size")
        columns = (rows * width + height // 2) // height
        top = draws.integers(height + 1 - rows, "top")
        left = draws.integers(width + 1 - columns, "left")
        return placed(x, rows, columns, top, left)


def placed(x: Tensor, rows: Tensor, columns: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Images (N, C, H, W) resized to rows (N,) by columns (N,) with the corner at top (N,), left
    (N,), zeros around.
    """
    down = weights(x.shape[2], rows, top, x)
    along = weights(x.shape[3], columns, left, x)
    return down[:, None] @ x @ along[:, None].transpose(-1, -2)


def weights(side: int, size: Tensor, start: Tensor, like: Tensor) -> Tensor:
    """Matrices (N, side, side) that resize a line to size (N,) components from start (N,) on: what
    each new component takes of each old one, nothing outside.
    """
    places = torch.arange(side, device=like.device, dtype=like.dtype)
    inner = places - start[:, None]
    source = ((inner + 0.5) * (side / size[:, None]) - 0.5).clamp(0, side - 1)
    shares = (1 - (source[:, :, None] - places).abs()).clamp(min=0)
    return shares * ((inner >= 0) & (inner < size[:, None]))[:, :, None]


@dataclass(frozen=True)
class ResizePad(TransformRecipe):
    """Random resizing and padding: the net sees the image at a random size and place (Xie et al.
    2018, arXiv:1711.01991).

    The paper enlarges from 299 to 299 .. 330 pixels and pads with zeros to 331; here the image
    keeps its shape, shrinks to a random size from min_share of its height on, and stands at a
    random place in zeros; bilinear, and differentiable. train: clean, as in the paper, the
    undefended net; transformed, one trained on such images. seed: of the draws in training.
    """

    randomness: ClassVar[str] = "the image's size and place"

    min_share: float = 0.85
    train: Train = "clean"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_share <= 1:
            raise ValueError(f"min_share must be in (0, 1], got {self.min_share}")

    def transform(self) -> Shrunk:
        """See TransformRecipe."""
        return Shrunk(self.min_share)

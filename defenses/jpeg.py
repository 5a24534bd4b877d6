"""JPEG compression."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from defenses.base import Defended
from defenses.transformed import Train, TransformRecipe
from defenses.workshop import Workshop

_CHANNELS = (1, 3)


class Compressed(nn.Module):
    """Images as they come back from a JPEG file; grey or RGB."""

    def __init__(self, quality: int):
        super().__init__()
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W), multiples of 1/255; made on the CPU, one by one."""
        pixels = (x.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        rows = pixels.permute(0, 2, 3, 1).cpu().numpy()
        files = [self._through(row) for row in rows]
        decoded = torch.from_numpy(np.stack(files)) if files else pixels.permute(0, 2, 3, 1)
        return decoded.permute(0, 3, 1, 2).to(x.device, x.dtype).contiguous() / 255

    def _through(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One image (H, W, C) to a file and back."""
        grey = pixels.shape[2] == 1
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if grey else pixels).save(
            file, format="JPEG", quality=self.quality
        )
        return np.asarray(Image.open(file)).reshape(pixels.shape)


@dataclass(frozen=True)
class Jpeg(TransformRecipe):
    """JPEG compression: each image is written as a JPEG file and read back (Dziugaite et al. 2016,
    arXiv:1608.00853).

    quality: 1 to 95 as libjpeg counts, 75 in the paper. Colours are stored at half the resolution,
    as is usual. train: clean, as in the paper, the undefended net; transformed, one trained on
    compressed images (as Guo et al. 2018, arXiv:1711.00117). Images must be grey or RGB.
    """

    masking: ClassVar[str] = "a file format has no gradient"

    quality: int = 75
    train: Train = "clean"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be from 1 to 95, got {self.quality}")

    def transform(self) -> Compressed:
        """See TransformRecipe."""
        return Compressed(self.quality)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses images that are neither grey nor RGB."""
        if workshop.shape[0] not in _CHANNELS:
            raise ValueError(f"jpeg needs images of 1 or 3 channels, got {workshop.shape[0]}")
        return super().deploy(workshop)

"""Translation of images: nets from images to images, and what judges their answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nets import Centre, Shape

_MARGIN = 0.01
"""How far from 0 and 1 a fresh translator leaves black and white."""
_BLOCKS = 2


class _Residual(nn.Module):
    """Two convolutions 3x3, added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        made: Tensor = x + self.inner(x)
        return made


class _Translator(nn.Module):
    """s(logit(x) + f(x)), s the logistic function and x moved a little away from 0 and 1."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias) if last.bias is not None else None
        self.change = nn.Sequential(
            Centre(),
            nn.Conv2d(channels, width, 3, padding=1),
            *(_Residual(width) for _ in range(_BLOCKS)),
            nn.ReLU(),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1]."""
        inside = _MARGIN + (1 - 2 * _MARGIN) * x
        made: Tensor = torch.sigmoid(torch.logit(inside) + self.change(x))
        return made


def translator(shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) in [0, 1] to images of that shape in (0, 1): a convolution 3x3, two
    residual blocks and a convolution, what it adds to the logit of each pixel.

    Fully convolutional, so for any sides; `width` channels inside. A fresh one changes no pixel by
    more than 0.01, and a gradient reaches every pixel, black and white among them. Zhu et al.
    (2017, arXiv:1703.10593) have two strides, six or nine blocks and instance norm, for images of
    128 and 256 pixels.
    """
    return _Translator(shape[0], width)


class _Patches(nn.Module):
    """Scores (N, 1, h, w) of patches to their mean (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        """One number per image."""
        return x.flatten(1).mean(1)


def patch_discriminator(shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) to scores (N,), each the mean over patches of 15x15 pixels (Isola et al.
    2017, arXiv:1611.07004): two convolutions 3x3 of stride 2 (width, 2 width channels) with leaky
    rectifiers, and one to a score.

    Fully convolutional, for sides of at least 1. No norm, so that an image's score depends on no
    other; the papers' patches have 70x70 pixels, and the cost is taken per patch.
    """
    return nn.Sequential(
        Centre(),
        nn.Conv2d(shape[0], width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, padding=1),
        _Patches(),
    )

"""Layers with an equalised learning rate (Karras et al. 2018, arXiv:1710.10196, section 4.1).

Weights start as N(0, 1) and are scaled at run time by gain / sqrt(inputs), so that an optimiser
with normalised steps, such as Adam, moves every layer at one speed; biases start at 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RECTIFIED = math.sqrt(2)
"""Gain of a layer that a rectifier follows (He et al. 2015, arXiv:1502.01852)."""

_EPSILON = 1e-8


class Dense(nn.Module):
    """Features (N, inputs) to (N, outputs)."""

    def __init__(self, inputs: int, outputs: int, gain: float = RECTIFIED):
        super().__init__()
        self.scale = gain / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, without a rectifier."""
        return F.linear(x, self.weight * self.scale, self.bias)


class Convolution(nn.Module):
    """Features (N, inputs, H, W) to (N, outputs, H, W), by a square kernel of odd side."""

    def __init__(self, inputs: int, outputs: int, side: int, gain: float = RECTIFIED):
        super().__init__()
        self.scale, self.padding = gain / math.sqrt(inputs * side**2), side // 2
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, without a rectifier."""
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def rectified(x: Tensor) -> Tensor:
    """The leaky rectifier of slope 0.2."""
    return F.leaky_relu(x, 0.2)


def normalised(x: Tensor) -> Tensor:
    """Pixel norm: features (N, C, ...) over the root of the mean of their squares over C."""
    return x * (x.square().mean(1, keepdim=True) + _EPSILON).rsqrt()

"""Nets over more rows than one pass takes."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

_ROWS = 512


def through(net: nn.Module, x: Tensor) -> Tensor:
    """What a net in eval mode makes of each row of x (N, ...), without gradients, on the net's
    device (x's own where the net has neither parameters nor buffers).
    """
    device = next(itertools.chain(net.parameters(), net.buffers()), x).device
    with torch.no_grad():
        return torch.cat([net(rows.to(device)) for rows in torch.split(x, _ROWS)])

"""Schedules over the steps of an attack."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine(first: float, last: float, step: Tensor, steps: int) -> Tensor:
    """From first at step 0 to last at `steps` along half a cosine; step (N,)."""
    share = (1 + torch.cos(math.pi * step / steps)) / 2
    return last + (first - last) * share

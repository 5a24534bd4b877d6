"""Stacked digits: images of three channels, each an image of one of K classes, which make K^3 modes
(Metz et al. 2017, arXiv:1611.02163; Lin et al. 2018, PacGAN, arXiv:1712.04086: 1,000 modes, counted
over 26,000 samples).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.passes import through
from models.split import Split

SAMPLES = 26_000
"""Samples that the published numbers of modes are counted over."""


def stacked(split: Split, classes: int, count: int, seed: int) -> Split:
    """So many images (count, 3, H, W), each of three images of one channel drawn from the split
    with replacement under the seed; labels K^2 a + K b + c of classes a, b, c in K = classes.
    """
    _check(split.x, 1)
    if not len(split) or int(split.y.max()) >= classes:
        raise ValueError(f"labels must be from 0 to {classes - 1}, and there must be some")
    drawn = torch.randint(len(split), (count, 3), generator=torch.Generator().manual_seed(seed)).to(
        split.x.device
    )
    return Split(split.x[drawn].squeeze(2), _joined(split.y[drawn], classes))


def triples(net: nn.Module, x: Tensor) -> Tensor:
    """Labels (N,) K^2 a + K b + c of stacked images x (N, 3, H, W), each channel's class being what
    a classifier of images of one channel, in eval mode, takes it for; K is its number of logits.
    """
    _check(x, 3)
    logits = through(net, x.flatten(0, 1).unsqueeze(1))
    return _joined(logits.argmax(1).view(-1, 3), logits.shape[1])


def _joined(labels: Tensor, classes: int) -> Tensor:
    """One label (N,) of three (N, 3)."""
    return (labels[:, 0] * classes + labels[:, 1]) * classes + labels[:, 2]


def _check(x: Tensor, channels: int) -> None:
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f"images must be (N, {channels}, H, W) where digits are stacked, got {tuple(x.shape)}"
        )

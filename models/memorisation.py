"""Are made images copies of training images? Told by the nearest one, beside images held out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.distances import blocks, squared
from models.split import Split

_OF = 100
"""One in so many held-out images is as near as what counts as a copy."""
_TRAINING = 8192


@dataclass(frozen=True)
class Nearest:
    """index (N,) int64: of the nearest training image; distance (N,) float32: L2 to it, of all
    components in [0, 1].
    """

    index: Tensor
    distance: Tensor


def nearest(x: Tensor, train: Split) -> Nearest:
    """The nearest training image of each image x (N, C, H, W) in [0, 1], on x's device.

    Among training images that are equally near up to rounding, any may be taken; the distance is
    computed anew, so that a copy's is 0. Refuses an empty training set and other shapes.
    """
    if not len(train) or train.x.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"training images must be at least one of shape {tuple(x.shape[1:])}, "
            f"got {tuple(train.x.shape)}"
        )
    points, device = x.flatten(1).float(), x.device
    centre = train.images(slice(0, _TRAINING), device).flatten(1).mean(0)
    best = points.new_full((len(x),), torch.inf)
    index = torch.zeros(len(x), dtype=torch.int64, device=device)
    for first in range(0, len(train), _TRAINING):
        others = train.images(slice(first, first + _TRAINING), device).flatten(1) - centre
        for block in blocks(len(x), len(others)):
            least, place = squared(points[block] - centre, others).min(1)
            nearer = least < best[block]
            best[block] = torch.where(nearer, least, best[block])
            index[block] = torch.where(nearer, place + first, index[block])
    return Nearest(index, _distances(points, train, index))


def _distances(points: Tensor, train: Split, index: Tensor) -> Tensor:
    """Of each point (N, D) to the training image of its index."""
    found = [
        (points[block] - train.images(index[block].cpu(), points.device).flatten(1)).norm(dim=1)
        for block in blocks(len(points), points.shape[1])
    ]
    return torch.cat(found)


def copied(distances: Tensor, held_out: Tensor) -> float:
    """The share of made images that are no farther from the training set than the nearest of a
    hundred held-out images: 0.01 for images as new as these, 1 for copies.

    distances (N,), held_out (M,): of the two sets to their nearest training images. Refuses no made
    images and fewer than 100 held-out ones.
    """
    if not len(distances) or len(held_out) < _OF:
        raise ValueError(
            f"distances must be of at least 1 made and {_OF} held-out images, "
            f"got {len(distances)} and {len(held_out)}"
        )
    threshold = held_out.sort().values[len(held_out) // _OF - 1]
    return float((distances <= threshold.to(distances.device)).double().mean())

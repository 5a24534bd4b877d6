"""Recipes of pairs of translators: what domains they stand between, and how they are trained."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import checkpoint, gan
from models.contested import Contested
from models.nets import Shape
from models.seeding import seeded
from models.split import Split
from models.translation import LEAST_SIDE, Cycle, Judges, Pair, patch_discriminator, translator

_TWO = 2


@dataclass(frozen=True)
class Translation(Contested[Pair]):
    """Base of recipes of a pair of translators between images of A and of B.

    cycle: weight of the cycle cost; same: of the identity cost; width: channels of every net;
    the other keys: see models.contested.Contested.
    """

    makes: ClassVar[str] = "images of images"
    usual_updates: ClassVar[tuple[int, int]] = 500, 2000

    cycle: float = 10.0
    same: float = 0.0
    width: int = 16
    updates: int | None = None
    batch: int = 32
    critic: int = 1
    lr: float = 2e-3
    ema: float = 0.99
    decay: float = 0.0
    seed: int = 0
    weights: str | None = field(default=None, metadata={"content": True})

    def __post_init__(self) -> None:
        self.check_training()
        for name in ("cycle", "same"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    @abstractmethod
    def domains(self, train: Split, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) of A and (M, C, H, W) of B, of which nobody knows pairs."""

    def build(self, shape: Shape) -> Pair:
        """See Contested; refuses images of fewer than 2 x 2 pixels."""
        if min(shape[1:]) < LEAST_SIDE:
            raise ValueError(
                f"images must have at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {shape[1]} x "
                f"{shape[2]}"
            )
        with seeded(self.seed):
            made = Pair(translator(shape, self.width), translator(shape, self.width))
        if self.weights is not None:
            checkpoint.load_into(made, Path(self.weights))
        return made.eval()

    def opponent(self, shape: Shape) -> nn.Module:
        """See Contested: one of either domain."""
        with seeded(self.seed + 1):
            of_a, of_b = (patch_discriminator(shape, self.width) for _ in range(_TWO))
        return Judges(of_a, of_b, shape)

    def contest(self, train: Split, device: torch.device) -> gan.Contest:
        """See Contested."""
        a, b = self.domains(train, device)
        return Cycle(a, b, self.batch, self.cycle, self.same)


def negative(x: Tensor) -> Tensor:
    """1 - x."""
    return 1 - x


def blurred(x: Tensor) -> Tensor:
    """The mean over 3x3 pixels, black around the image."""
    return F.avg_pool2d(x, 3, stride=1, padding=1)


TRUTHS: Mapping[str, Callable[[Tensor], Tensor]] = {"blurred": blurred, "negative": negative}
"""Images (N, C, H, W) of A as they are in B, by the name of B."""


@dataclass(frozen=True)
class CycleGan(Translation):
    """A pair of translators that are trained without pairs, there and back again (Zhu et al. 2017,
    arXiv:1703.10593).

    A is the first half of the training images, B the other half under a transform that is known, so
    that a translation can be compared with the truth, which training never sees. to: blurred, the
    mean over 3x3 pixels, or negative, 1 - x. cycle: weight of the cycle cost, the L1 distance from
    an image to itself there and back, in both domains; at 0 nothing ties a translation to its
    image. same: weight of the L1 distance from an image of B to its translation to B, and of A
    to A (the paper's option: half of cycle). width: channels of the translators and of the
    discriminators. updates: of the translators; none means 2,000, of images below 512 components
    500; 0 leaves them untrained. batch: images per step and domain. critic: discriminator steps per
    update. lr: Adam's, of all nets. ema: of the averaged weights that are kept. decay: weight of
    the discriminators' squared weights in their loss, halved. seed: of initialisation, order and
    what discriminators are shown again. weights: a file to load instead of training.

    On digits (`bench gan --n 500 --generator cyclegan`, and cyclegan with the keys named here) the
    mean absolute error to blurred falls from 0.177 (images left as they are) to 0.044, there and
    back it is 0.067; with cycle=0.0 every image of A becomes a blank one (0.282). To negative, far
    from where translators start, weight 10 holds images back (0.344 of 0.788), 3 does not (0.069).

    Least squares and a pool of 50 earlier translations as in the paper; nets and training are
    smaller (see models.translation), batches larger, and the learning rate does not fall.
    """

    to: Literal["blurred", "negative"] = "blurred"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to not in TRUTHS:
            raise ValueError(f"to must be one of {', '.join(TRUTHS)}, got {self.to!r}")

    def domains(self, train: Split, device: torch.device) -> tuple[Tensor, Tensor]:
        """See Translation."""
        if len(train) < _TWO:
            raise ValueError(f"cyclegan needs at least 2 training images, got {len(train)}")
        half = len(train) // 2
        first, second = slice(0, half), slice(half, None)
        return train.images(first, device), self.truth(train.images(second, device))

    def truth(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) of A as they are in B."""
        return TRUTHS[self.to](x)

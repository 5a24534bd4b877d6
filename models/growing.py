"""A generator and a discriminator that grow while they are trained (Karras et al. 2018,
arXiv:1710.10196).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.equalised import RECTIFIED, Convolution, Dense, normalised, rectified
from models.nets import Centre, Shape

_SMALLEST = 4
"""Least side that is halved to."""
_WIDEST = 4
"""Most channels of a level, in those of the last."""
_GROWN = 0.5
"""Share of training after which the nets have their full size."""


def sides(shape: Shape, base: int | None = None) -> list[tuple[int, int]]:
    """Heights and widths of the levels of images (C, H, W), each twice the one before.

    base: the shorter side of the first; None: the smallest of at least 4 that halving reaches.
    Raises ValueError where the sides are no common power of two times the first level's.
    """
    height, width = shape[1:]
    shorter = min(height, width)
    if base is None:
        halvings = 0
        while not any(side % 2 ** (halvings + 1) for side in (height, width)) and (
            shorter >> (halvings + 1) >= _SMALLEST
        ):
            halvings += 1
    else:
        halvings = (shorter // base).bit_length() - 1 if base > 0 else -1
        if halvings < 0 or base << halvings != shorter or max(height, width) % 2**halvings:
            raise ValueError(f"{height}x{width} is no power of two times the base {base}")
    return [(height >> up, width >> up) for up in range(halvings, -1, -1)]


def channels(levels: int, width: int) -> list[int]:
    """Channels of each level: width at the last, twice as many at each before, at most 4 width."""
    return [width * min(_WIDEST, 2**up) for up in range(levels - 1, -1, -1)]


def stage(share: float, levels: int) -> tuple[int, float]:
    """The level that is trained when this share of training in [0, 1] is over, and its alpha.

    The last level has half of training for itself (ours; the paper's phases are equally long); the
    other half is equal phases: the first level, then for each further one its fade-in, alpha going
    from 0 to 1, and, before the last, its training at alpha = 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    if levels == 1 or share >= _GROWN:
        return levels - 1, 1.0
    progress = share / _GROWN * (2 * levels - 2)
    phase = int(progress)
    return (phase + 1) // 2, progress - phase if phase % 2 else 1.0


def larger(x: Tensor, times: int = 2) -> Tensor:
    """Each pixel of x (N, C, H, W) as a square of equal ones."""
    return x if times == 1 else F.interpolate(x, scale_factor=times, mode="nearest")


def smaller(x: Tensor, halvings: int = 1) -> Tensor:
    """Images (N, C, H, W) with sides halved so often, by means of squares; undoes `larger`."""
    for _ in range(halvings):
        x = F.avg_pool2d(x, 2)
    return x


class _Active(Convolution):
    """A convolution 3x3 and a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H, W)."""
        return rectified(super().forward(x))


class _Normed(_Active):
    """The same, and pixel norm."""

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, H, W)."""
        return normalised(super().forward(x))


class Generator(nn.Module):
    """Latents (N, d) to images (N, C, H, W) in [0, 1], of full size at every level.

    A dense layer to the first level's size, a convolution 3x3, then per level an upsampling by
    nearest and two convolutions 3x3, each with a leaky rectifier and pixel norm; per level a
    convolution 1x1 to the image, and a sigmoid at the end. A picture of a lower level is upsampled
    by nearest. A fresh net is fully grown: level, an int, is the last, and alpha, a float, is 1.

    `faded` is what real images become beside it: the paper's as it fades in, of means of squares.

    Latents are scaled to variance 1 of their components, where the paper puts them on a sphere; in
    both, pixel norm takes out most of what their length says. width: see `channels`.
    """

    def __init__(self, shape: Shape, latent: int, width: int, base: int | None = None):
        super().__init__()
        sizes = sides(shape, base)
        wide = channels(len(sizes), width)
        self.size, self.spread = (wide[0], *sizes[0]), math.sqrt(latent)
        # A quarter of the usual gain, as in the authors' code: it learns more slowly.
        self.dense = Dense(latent, math.prod(self.size), RECTIFIED / 4)
        self.first = _Normed(wide[0], wide[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(_Normed(before, after), _Normed(after, after))
            for before, after in itertools.pairwise(wide)
        )
        self.images = nn.ModuleList(Convolution(count, shape[0], 1, 1.0) for count in wide)
        self.top = len(sizes) - 1
        self.level, self.alpha = self.top, 1.0

    def grow(self, share: float) -> None:
        """Sets level and alpha by `stage`; the weights stay."""
        self.level, self.alpha = stage(share, self.top + 1)

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1]: the level's picture, faded in over that of the level
        before, which it equals at alpha = 0.
        """
        x = self.dense(z * self.spread).view(len(z), *self.size)
        x = before = self.first(normalised(rectified(x)))
        for number in range(self.level):
            x, before = self.blocks[number](larger(x)), x
        picture: Tensor = self.images[self.level](x)
        if self.alpha < 1:
            lower = larger(self.images[self.level - 1](before))
            picture = torch.lerp(lower, picture, self.alpha)
        return larger(picture, 2 ** (self.top - self.level)).sigmoid()

    def faded(self, images: Tensor) -> Tensor:
        """Real images (N, C, H, W) with what the level can show, faded in over what the one before
        can; a fully grown net leaves them as they are.
        """
        away = self.top - self.level
        if away:
            images = larger(smaller(images, away), 2**away)
        if self.alpha < 1:
            lower = larger(smaller(images, away + 1), 2 ** (away + 1))
            images = torch.lerp(lower, images, self.alpha)
        return images


class Discriminator(nn.Module):
    """Images (N, C, H, W) to scores (N,), fully grown: the generator's mirror image.

    Per level a convolution 1x1 from the image, two convolutions 3x3 and means of squares 2x2; at
    the first level a convolution 3x3 and two dense layers; leaky rectifiers, no normalisation.

    The paper's standard deviation over groups of a batch is left out: real and made images are
    scored in one batch, and slopes are those of each image's own score. Against collapse see pack.
    """

    def __init__(self, shape: Shape, width: int, base: int | None = None):
        super().__init__()
        sizes = sides(shape, base)
        wide = channels(len(sizes), width)
        self.centre = Centre()
        self.images = nn.ModuleList(Convolution(shape[0], count, 1) for count in wide)
        self.blocks = nn.ModuleList(
            nn.Sequential(_Active(after, after), _Active(after, before))
            for before, after in itertools.pairwise(wide)
        )
        self.last = _Active(wide[0], wide[0])
        self.dense = Dense(wide[0] * math.prod(sizes[0]), wide[0])
        self.score = Dense(wide[0], 1, 1.0)
        self.top = len(sizes) - 1
        self.level, self.alpha = self.top, 1.0

    def forward(self, images: Tensor) -> Tensor:
        """One number per image, which is first made as small as the level's; that of the level
        before at alpha = 0.
        """
        images = smaller(self.centre(images), self.top - self.level)
        x = rectified(self.images[self.level](images))
        for number in range(self.level - 1, -1, -1):
            x = smaller(self.blocks[number](x))
            if number == self.level - 1 and self.alpha < 1:
                lower = rectified(self.images[number](smaller(images)))
                x = torch.lerp(lower, x, self.alpha)
        x = rectified(self.dense(self.last(x).flatten(1)))
        scores: Tensor = self.score(x)
        return scores[:, 0]


class GrowingDiscriminator(Discriminator):
    """One that grows as the generator does."""

    def grow(self, share: float) -> None:
        """Sets level and alpha by `stage`; the weights stay."""
        self.level, self.alpha = stage(share, self.top + 1)

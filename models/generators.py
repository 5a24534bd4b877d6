"""Generators, latents (N, d) to images (N, C, H, W) in [0, 1], and the discriminators they play
against, images to scores (N,).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nets import Centre, Shape
from models.priors import PRIORS, Prior

_CHECKED = 64
"""Images that are looked at."""
_TOGETHER = 256


class Generator(nn.Module):
    """A net of latents with what must be known to use it: latent, the number d of components;
    prior, what they are drawn from; shape, of its images; classes, of those that can be asked for:
    the last so many components say which, by the largest of them.

    A net may bring `play(z, random)`, which training calls in place of the net, `grow(share)`,
    which it is told of the share of the training that is over, with `faded(images)`, real images
    beside it, and `codes(z)` with `decoded(codes)` where latents are better added in another space.
    """

    def __init__(self, net: nn.Module, latent: int, prior: str, shape: Shape, classes: int = 0):
        super().__init__()
        self.net, self.latent, self.shape, self.classes = net, latent, shape, classes
        self.prior: Prior = PRIORS[prior]

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of latents (N, d)."""
        images: Tensor = self.net(z)
        return images

    def play(self, z: Tensor, random: torch.Generator) -> Tensor:
        """Images (N, C, H, W) as they are made in training."""
        own: Callable[[Tensor, torch.Generator], Tensor] | None = getattr(self.net, "play", None)
        images: Tensor = self.net(z) if own is None else own(z, random)
        return images

    def faded(self, images: Tensor) -> Tensor:
        """Real images (N, C, H, W) as training compares them with those that the net makes now."""
        own: Callable[[Tensor], Tensor] | None = getattr(self.net, "faded", None)
        return images if own is None else own(images)

    def grow(self, share: float) -> None:
        """Tells a net that grows which share, in [0, 1], of its training is over."""
        own: Callable[[float], None] | None = getattr(self.net, "grow", None)
        if own is not None:
            own(share)

    def labels(self, z: Tensor) -> Tensor | None:
        """The classes (N,) that latents (N, d) ask for; None where none can be asked for."""
        return z[:, -self.classes :].argmax(1) if self.classes else None

    def asked(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (N, d) that ask for classes (N,) in range, otherwise z: the largest of the
        components that say so changes places with the one of the class, so that they are the
        prior's.
        """
        if not self.classes:
            raise ValueError("this generator makes no images of a class that is asked for")
        noise, says = z[:, : -self.classes], z[:, -self.classes :]
        largest, at = says.max(1, keepdim=True)
        wanted = labels.view(-1, 1)
        says = says.scatter(1, at, says.gather(1, wanted)).scatter(1, wanted, largest)
        return torch.cat([noise, says], 1)

    def codes(self, z: Tensor) -> Tensor:
        """What is added where latents (N, d) are: they themselves, or the styles (N, k) of a net
        that makes its images of styles.
        """
        own: Callable[[Tensor], Tensor] | None = getattr(self.net, "codes", None)
        return z if own is None else own(z)

    def decoded(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) of such codes, without a gradient."""
        return self._in_parts(getattr(self.net, "decoded", self), codes)

    def of_class(self, labels: Tensor, seed: int) -> Tensor:
        """Images of the classes (N,), of latents from the prior; refuses a class out of range."""
        low, high = int(labels.min()), int(labels.max())
        if self.classes and (low < 0 or high >= self.classes):
            wrong = low if low < 0 else high
            raise ValueError(f"label must be from 0 to {self.classes - 1}, got {wrong}")
        return self.made(self.asked(self.latents(len(labels), seed), labels))

    def sample(self, count: int, seed: int) -> Tensor:
        """Images of latents from the prior, on the generator's device."""
        return self.made(self.latents(count, seed))

    def made(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) of many latents (N, d), without a gradient."""
        return self._in_parts(self, z)

    @staticmethod
    def _in_parts(net: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([net(part) for part in torch.split(given, _TOGETHER)])

    def latents(self, count: int, seed: int) -> Tensor:
        """Latents (count, d) from the prior, on the generator's device."""
        numbers = torch.rand(count, self.latent, generator=torch.Generator().manual_seed(seed))
        held = next(itertools.chain(self.parameters(), self.buffers()), numbers)
        return self.prior.latents(numbers).to(held.device)


def check(generator: Generator, shape: Shape) -> None:
    """Refuses a generator that does not take its latents, or whose images do not fit a dataset:
    another shape, values that are not floating, not finite or outside [0, 1].
    """
    name = type(generator.net).__name__
    z = generator.latents(_CHECKED, 0)
    try:
        with torch.no_grad():
            images: object = generator(z)
    except RuntimeError as err:
        reason = " ".join(str(err).split())[:200]
        raise ValueError(
            f"generator {name} takes no latents of size {generator.latent}: {reason}"
        ) from err
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"generator {name} must make floating-point images, got {kind}")
    if images.shape != (_CHECKED, *shape):
        got = tuple(images.shape)
        got = got[1:] if got[:1] == (_CHECKED,) else got
        raise ValueError(f"generator {name} must make images of shape {shape}, got {got}")
    if not bool(images.isfinite().all()):
        raise ValueError(f"generator {name} makes images that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"generator {name} must make images in [0, 1], got [{low:.3g}, {high:.3g}]"
        )


class _Grid(nn.Module):
    """Features (N, C * H * W) as (N, C, H, W)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers."""
        return x.view(len(x), *self.shape)


class _Crop(nn.Module):
    """The upper left corner of each channel."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, height, width)."""
        return x[:, :, : self.height, : self.width]


class _Scores(nn.Module):
    """Features (N, F) to scores (N,)."""

    def __init__(self, features: int):
        super().__init__()
        self.linear = nn.Linear(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number per row."""
        scores: Tensor = self.linear(x.flatten(1))
        return scores[:, 0]


class Labelled(nn.Module):
    """A net of latents whose last components are a label, which it is handed as one of `classes`
    numbers that is 1 and the others 0.
    """

    def __init__(self, net: nn.Module, classes: int):
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W)."""
        noise, label = z[:, : -self.classes], z[:, -self.classes :].argmax(1)
        images: Tensor = self.net(torch.cat([noise, F.one_hot(label, self.classes).to(z)], 1))
        return images


class Judging(nn.Module):
    """A net of images that is handed labels (N, p) as channels, for each of its p images `classes`
    of them, one of 1 and the others of 0.
    """

    def __init__(self, net: nn.Module, classes: int):
        super().__init__()
        self.net, self.classes = net, classes

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Scores (N,)."""
        planes = F.one_hot(labels, self.classes).to(x).flatten(1)[:, :, None, None]
        scores: Tensor = self.net(torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], 1))
        return scores


def _normed(kind: type[nn.Module], channels: int, *, norm: bool) -> list[nn.Module]:
    return [kind(channels)] if norm else []


def dcgan(shape: Shape, latent: int, width: int, *, norm: bool = False) -> nn.Module:
    """A linear layer and two transposed convolutions 4x4 of stride 2 (2 width, width channels);
    norm: batch norm before each rectifier.
    """
    channels, height, rows = shape[0], shape[1] // 4, shape[2] // 4
    return nn.Sequential(
        nn.Linear(latent, 2 * width * height * rows),
        *([_Grid(2 * width, height, rows), nn.BatchNorm2d(2 * width)] if norm else []),
        nn.ReLU(),
        *([] if norm else [_Grid(2 * width, height, rows)]),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        *_normed(nn.BatchNorm2d, width, norm=norm),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def dcgan_discriminator(
    shape: Shape, width: int, *, leak: float = 0.2, norm: bool = False
) -> nn.Module:
    """Two convolutions 4x4 of stride 2 (width, 2 width channels) with rectifiers of slope `leak`
    below 0; norm: batch norm before the second.
    """
    channels, height, rows = shape[0], shape[1] // 4, shape[2] // 4
    return nn.Sequential(
        Centre(),
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(leak),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        *_normed(nn.BatchNorm2d, 2 * width, norm=norm),
        nn.LeakyReLU(leak),
        _Scores(2 * width * height * rows),
    )


def mlp(shape: Shape, latent: int, width: int, *, norm: bool = False) -> nn.Module:
    """Two hidden layers with rectifiers (Goodfellow et al. 2014: 1,200 units each), sigmoid output;
    norm: batch norm before each rectifier.
    """
    return nn.Sequential(
        nn.Linear(latent, width),
        *_normed(nn.BatchNorm1d, width, norm=norm),
        nn.ReLU(),
        nn.Linear(width, width),
        *_normed(nn.BatchNorm1d, width, norm=norm),
        nn.ReLU(),
        nn.Linear(width, math.prod(shape)),
        nn.Sigmoid(),
        _Grid(*shape),
    )


def mlp_discriminator(
    shape: Shape, width: int, *, leak: float = 0.2, norm: bool = False
) -> nn.Module:
    """Two hidden layers with rectifiers of slope `leak` below 0; norm: batch norm before the
    second.
    """
    return nn.Sequential(
        Centre(),
        nn.Flatten(),
        nn.Linear(math.prod(shape), width),
        nn.LeakyReLU(leak),
        nn.Linear(width, width),
        *_normed(nn.BatchNorm1d, width, norm=norm),
        nn.LeakyReLU(leak),
        _Scores(width),
    )


def defense_gan(shape: Shape, latent: int, width: int) -> nn.Module:
    """Linear 4x4 x 4 width, 5x5 transposed convolutions of stride 2 to 2 width, width and the
    image's channels, cropped to a quarter of the image after the first; no batch norm, sigmoid
    output.
    """
    channels, height, rows = shape[0], shape[1] // 4, shape[2] // 4

    def up(inputs: int, outputs: int) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)

    return nn.Sequential(
        nn.Linear(latent, 4 * width * 16),
        nn.ReLU(),
        _Grid(4 * width, 4, 4),
        up(4 * width, 2 * width),
        nn.ReLU(),
        _Crop(height, rows),
        up(2 * width, width),
        nn.ReLU(),
        up(width, channels),
        nn.Sigmoid(),
    )


def defense_gan_discriminator(shape: Shape, width: int) -> nn.Module:
    """Three convolutions 5x5 of stride 2 (width, 2 width, 4 width channels) with leaky
    rectifiers.
    """
    channels, sides = shape[0], [-(-side // 8) for side in shape[1:]]
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, _Scores(4 * width * sides[0] * sides[1]))

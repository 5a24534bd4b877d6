"""Generators, latents (N, d) to images (N, C, H, W) in [0, 1], and the discriminators they play
against, images to scores (N,).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from models.nets import Centre, Shape
from models.priors import PRIORS, Prior

_CHECKED = 64
"""Images that are looked at."""


class Generator(nn.Module):
    """A net of latents with what must be known to use it: latent, the number d of components;
    prior, what they are drawn from; shape, of its images.
    """

    def __init__(self, net: nn.Module, latent: int, prior: str, shape: Shape):
        super().__init__()
        self.net, self.latent, self.shape = net, latent, shape
        self.prior: Prior = PRIORS[prior]

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of latents (N, d)."""
        images: Tensor = self.net(z)
        return images

    def sample(self, count: int, seed: int) -> Tensor:
        """Images of latents from the prior, on the generator's device."""
        with torch.no_grad():
            parts = [self(z) for z in torch.split(self.latents(count, seed), 256)]
        return torch.cat(parts)

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


def dcgan(shape: Shape, latent: int, width: int) -> nn.Module:
    """A linear layer and two transposed convolutions 4x4 of stride 2 (2 width, width channels),
    without batch norm.
    """
    channels, height, rows = shape[0], shape[1] // 4, shape[2] // 4
    return nn.Sequential(
        nn.Linear(latent, 2 * width * height * rows),
        nn.ReLU(),
        _Grid(2 * width, height, rows),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def dcgan_discriminator(shape: Shape, width: int) -> nn.Module:
    """Two convolutions 4x4 of stride 2 (width, 2 width channels) with leaky rectifiers."""
    channels, height, rows = shape[0], shape[1] // 4, shape[2] // 4
    return nn.Sequential(
        Centre(),
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        _Scores(2 * width * height * rows),
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

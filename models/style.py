"""A generator whose latent sets a style per layer (Karras et al. 2019, arXiv:1812.04948)."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.equalised import RECTIFIED, Convolution, Dense, normalised, rectified
from models.growing import channels, larger, sides
from models.nets import Shape

_KEPT = 0.995
"""Share of the mean style that a batch leaves."""
_MIXED = 0.9
"""Share of images in training that are mixed."""
_DEPTH = 4
_SLOW = 0.1
"""The mapping's learning rate, in those of other layers; 0.01 in the paper, for eight layers."""
_EPSILON = 1e-8


class _Mapped(nn.Module):
    """A dense layer whose weights are stored larger, so that Adam moves them less."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.scale = RECTIFIED / math.sqrt(inputs) * _SLOW
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / _SLOW)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Rectified features (N, outputs)."""
        return rectified(F.linear(x, self.weight * self.scale, self.bias * _SLOW))


class Styled(nn.Module):
    """A convolution 3x3 whose inputs a style scales and whose outputs are divided by the standard
    deviation that this gives independent inputs of variance 1: StyleGAN2's weight demodulation
    (Karras et al. 2020, arXiv:1912.04958), on features instead of on a kernel per image.
    """

    def __init__(self, inputs: int, outputs: int, style: int):
        super().__init__()
        self.scale = 1 / math.sqrt(inputs * 9)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = Dense(style, inputs, 1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Features (N, outputs, H, W) of x (N, inputs, H, W) and styles w (N, d)."""
        kernel, scales = self.weight * self.scale, 1 + self.style(w)
        variances = scales.square() @ kernel.square().sum((2, 3)).T
        x = F.conv2d(x * scales[..., None, None], kernel, padding=1)
        x = x * (variances + _EPSILON).rsqrt()[..., None, None]
        return rectified(x + self.bias[:, None, None]) * RECTIFIED


class Generator(nn.Module):
    """Latents (N, d) to images (N, C, H, W) in [0, 1].

    A mapping of four dense layers takes normalised latents to styles w; synthesis starts from a
    learned constant of the first level's size and has two styled convolutions per level, the first
    of them after an upsampling by nearest; the pictures of a convolution 1x1 per level are
    upsampled and summed, as in StyleGAN2, and end in a sigmoid. Layers are counted from the
    coarsest, two per level. There are no noise inputs: an image depends on its latent alone.

    w_avg (d,): moving mean of the styles, tracked by `play` alone. width: see growing.channels.
    """

    w_avg: Tensor

    def __init__(self, shape: Shape, latent: int, width: int, base: int | None = None):
        super().__init__()
        sizes = sides(shape, base)
        wide = channels(len(sizes), width)
        self.mapping = nn.Sequential(*(_Mapped(latent, latent) for _ in range(_DEPTH)))
        self.constant = nn.Parameter(torch.randn(1, wide[0], *sizes[0]))
        inputs = [wide[0], *(count for count in wide for _ in range(2))]
        self.layers = nn.ModuleList(
            Styled(before, after, latent) for before, after in itertools.pairwise(inputs)
        )
        self.images = nn.ModuleList(Convolution(count, shape[0], 1, 1.0) for count in wide)
        self.register_buffer("w_avg", torch.zeros(latent))

    def forward(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1]."""
        return self.synthesis(self.styles(z))

    def styles(self, z: Tensor) -> Tensor:
        """Styles (N, L, d) of latents (N, d), equal in each of L layers; of a latent's direction
        alone.
        """
        return self._everywhere(self.codes(z))

    def codes(self, z: Tensor) -> Tensor:
        """Styles (N, d) of latents (N, d), of any one layer."""
        w: Tensor = self.mapping(normalised(z))
        return w

    def decoded(self, codes: Tensor) -> Tensor:
        """Images (N, C, H, W) with a style (N, d) in every layer."""
        return self.synthesis(self._everywhere(codes))

    def _everywhere(self, w: Tensor) -> Tensor:
        return w[:, None].expand(-1, len(self.layers), -1)

    def synthesis(self, w: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of styles (N, L, d)."""
        x = self.constant.expand(len(w), -1, -1, -1)
        picture = x.new_zeros(())
        for number, layer in enumerate(self.layers):
            level, is_second = divmod(number, 2)
            if level and not is_second:
                x, picture = larger(x), larger(picture)
            # Strides are made equal, so that equal styles give equal bits.
            x = layer(x, w[:, number].contiguous())
            if is_second:
                picture = picture + self.images[level](x)
        return picture.sigmoid()

    def mix(self, z_a: Tensor, z_b: Tensor, layer: int) -> Tensor:
        """Images with the styles of latents z_a (N, d) before a layer, counted from 0 at the
        coarsest, and those of z_b from there on; layer = L gives those of z_a, 0 those of z_b.
        """
        if not 0 <= layer <= len(self.layers):
            raise ValueError(f"layer must be from 0 to {len(self.layers)}, got {layer}")
        return self.synthesis(
            torch.cat([self.styles(z_a)[:, :layer], self.styles(z_b)[:, layer:]], 1)
        )

    def truncated(self, z: Tensor, psi: float) -> Tensor:
        """Images of the styles w_avg + psi (w - w_avg), in every layer; psi = 1 changes nothing,
        psi = 0 gives one picture.
        """
        if not 0 <= psi <= 1:
            raise ValueError(f"psi must be in [0, 1], got {psi}")
        return self.synthesis(torch.lerp(self.w_avg, self.styles(z), psi))

    def play(self, z: Tensor, random: torch.Generator) -> Tensor:
        """The images of training: nine of ten take their styles from a random layer on from the
        latent before them in the batch. Tracks w_avg.
        """
        w = self.styles(z)
        with torch.no_grad():
            self.w_avg.lerp_(w[:, 0].mean(0), 1 - _KEPT)
        count, layers, _ = w.shape
        cut = torch.randint(1, layers, (count, 1), generator=random, device=z.device)
        is_mixed = torch.rand(count, 1, generator=random, device=z.device) < _MIXED
        is_other = (torch.arange(layers, device=z.device) >= cut) & is_mixed
        return self.synthesis(torch.where(is_other[..., None], w.roll(1, 0), w))

"""Two ways to give up variety for quality when a trained generator is looked at: latents near the
prior's mean alone, and latents or styles pulled towards the mean.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from models import style
from models.generators import Generator

_BLOCK = 4096
_DRAWS = 200_000
"""Latents that are drawn, at least, before none is expected any more."""


def within(generator: Generator, count: int, seed: int, tau: float = math.inf) -> Tensor:
    """Latents (count, d) of the prior whose norm is at most tau, the others drawn again (Prince
    2023, Understanding Deep Learning, section 15.2.3), on the generator's device.

    A latent's mean square norm is 1, and norms stray from 1 by about 1 / sqrt(2 d); tau = inf gives
    Generator.latents. Raises ValueError where tau is not above 0, or so small that too few are left
    of 200,000 draws, or of 1,000 per latent where that is more.
    """
    if not tau > 0:
        raise ValueError(f"tau must be above 0, got {tau}")
    random = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []
    drawn = found = 0
    while found < count:
        if drawn >= max(_DRAWS, 1000 * count):
            raise ValueError(
                f"tau must be larger: of {drawn:,} latents {found:,} are within {tau} of the mean"
            )
        size = count if not drawn else max(count, _BLOCK)
        z = generator.prior.latents(torch.rand(size, generator.latent, generator=random))
        kept.append(z[z.norm(dim=1) <= tau])
        drawn, found = drawn + size, found + len(kept[-1])
    held = next(itertools.chain(generator.parameters(), generator.buffers()), kept[0])
    return torch.cat(kept)[:count].to(held.device)


def towards(generator: Generator, z: Tensor, psi: float) -> Tensor:
    """Images (N, C, H, W) of latents (N, d) pulled towards the prior's mean, psi z; a net of styles
    pulls its styles (see models.style.Generator.truncated). psi = 1 changes nothing.

    Raises ValueError for psi outside [0, 1].
    """
    if not 0 <= psi <= 1:
        raise ValueError(f"psi must be in [0, 1], got {psi}")
    if isinstance(generator.net, style.Generator):
        return generator.net.truncated(z, psi)
    noise = z.shape[1] - generator.classes
    # What asks for a class is left as it is: all of it at 0 would ask for the first.
    images: Tensor = generator(torch.cat([psi * z[:, :noise], z[:, noise:]], 1))
    return images

"""How a generator's samples are drawn, all of latents or of those near their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.gan.eye import Eye
from bench.report.gan.portrait import PLAIN
from models.generators import Generator
from models.truncation import towards

_TOGETHER = 256
_ROWS, _ACROSS = 10, 10
"""Of samples on the page."""
_ASKED = 100
"""Samples of each class whose class is looked at."""
_SHOWN = 4
"""Seed of the samples of asked classes."""


@dataclass(frozen=True)
class Sampler:
    """Samples of a generator, under a truncation psi towards the mean where there is one."""

    generator: Generator
    psi: float | None = None

    def images(self, count: int, seed: int) -> Tensor:
        """Samples (count, C, H, W)."""
        return self.of(self.generator.latents(count, seed))

    def of(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) of latents (N, d)."""
        return self.generator.made(z) if self.psi is None else pulled(self.generator, z, self.psi)

    def rows(self, drawn: Tensor, labels: Sequence[int]) -> list[tuple[str, Tensor]]:
        """What the page shows, with what stands beside each row: a row per class asked for; of a
        generator that cannot be asked, the first of those drawn.
        """
        if not self.generator.classes:
            return [("", row) for row in torch.split(drawn[: _ROWS * _ACROSS], _ACROSS)]
        wanted = labels or range(min(self.generator.classes, _ROWS))
        z = self.generator.latents(_ACROSS, _SHOWN)
        return [
            (str(label), self.of(self.generator.asked(z, torch.full_like(z[:, 0], label).long())))
            for label in wanted
        ]

    def obeys(self, eye: Eye) -> tuple[float, int]:
        """The share of samples in which a classifier sees the class that was asked for, and how
        many there were, all classes alike.
        """
        classes = self.generator.classes
        z = self.generator.latents(_ASKED * classes, _SHOWN)
        wanted = torch.arange(classes, device=z.device).repeat(_ASKED)
        seen = eye.labels(self.of(self.generator.asked(z, wanted)))
        return float((seen == wanted).double().mean()), len(wanted)

    @property
    def is_whole(self) -> bool:
        """Whether samples are drawn of all latents."""
        return self.psi in (None, 1)

    @property
    def text(self) -> str:
        """What the samples are called."""
        return PLAIN if self.psi is None else f"samples at psi = {self.psi:g}"


def truncated(generator: Generator, count: int, psi: float, seed: int) -> Tensor:
    """Samples (count, C, H, W) pulled towards the mean; psi = 1 changes nothing."""
    return pulled(generator, generator.latents(count, seed), psi)


def pulled(generator: Generator, z: Tensor, psi: float) -> Tensor:
    """Images (N, C, H, W) of many latents (N, d) pulled towards the mean."""
    with torch.no_grad():
        return torch.cat([towards(generator, part, psi) for part in torch.split(z, _TOGETHER)])

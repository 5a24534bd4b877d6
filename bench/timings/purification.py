"""What an inversion costs over the passes of the generator that it cannot do without: L forward and
backward passes on N R latents, with frozen parameters, in the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.timings.clock import interleaved
from bench.timings.row import Row
from models.generators import Generator
from models.inversion import Inversion, Inverted
from models.nets import Shape
from models.registry import generators

IMAGES, RESTARTS, STEPS = 100, 10, 200
BATCH = 256
"""Latents in one batch on the CPU."""
DIGITS: Shape = (1, 8, 8)


@dataclass(frozen=True)
class Bench:
    """An untrained generator, images (N, C, H, W) of its own, and starts (N R, d)."""

    generator: Generator
    x: Tensor
    starts: Tensor

    @classmethod
    def of(cls, shape: Shape, images: int = IMAGES) -> Bench:
        """The generator of a shape with frozen parameters."""
        generator: Generator = generators.get("dcgan:updates=0").build(shape)
        generator.requires_grad_(requires_grad=False)
        starts = generator.latents(images * RESTARTS, 0)
        return cls(generator, generator.sample(images, 1), starts)

    def inverted(self, steps: int) -> Inverted:
        """The whole inversion."""
        inversion = Inversion(steps=steps, restarts=RESTARTS)
        starts = self.starts.view(len(self.x), RESTARTS, -1)
        return inversion.run(self.generator, self.x, starts)

    def floor(self, steps: int) -> None:
        """The passes and nothing else."""
        for z in torch.split(self.starts, BATCH):
            leaf = z.clone().requires_grad_()
            upstream = torch.ones(len(z), *self.generator.shape)
            for _ in range(steps):
                torch.autograd.grad(self.generator(leaf), leaf, upstream)


def rows(rounds: int, *, images: int = IMAGES, steps: int = STEPS) -> Iterator[Row]:
    """The inversion of images of the shape of digits."""
    bench = Bench.of(DIGITS, images)
    bench.floor(1)
    seconds, floor_s = interleaved(
        (lambda: bench.inverted(steps), lambda: bench.floor(steps)), rounds
    )
    yield Row(
        part="purification",
        name=f"{RESTARTS} starts, {steps} steps",
        on=f"dcgan, {images} digits",
        seconds=seconds,
        floor="own passes",
        floor_s=floor_s,
        queries=float(RESTARTS * steps),
    )

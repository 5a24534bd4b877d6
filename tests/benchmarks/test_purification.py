"""What the inversion costs over the passes of the generator that it cannot do without.

The floor of L steps from R starts for N images is L forward and backward passes of the generator on
N R latents, with frozen parameters, in the same batches. Run with
`pytest tests/benchmarks --benchmark-enable` (-m slow for images of MNIST's shape); the ratio of
interleaved runs stands in the table's extra info. Nothing here asserts a time.
"""

import statistics
import time

import pytest
import torch

from models.inversion import Inversion
from models.registry import generators

ROUNDS = 3
IMAGES, RESTARTS, STEPS = 100, 10, 200
BATCH = 256
"""Latents in one batch on the CPU."""


def floor(generator, starts, steps):
    """As many forwards and backwards as the definition needs, and nothing else."""
    for z in torch.split(starts, BATCH):
        leaf = z.clone().requires_grad_()
        upstream = torch.ones(len(z), *generator.shape)
        for _ in range(steps):
            torch.autograd.grad(generator(leaf), leaf, upstream)


def once(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 8, 8), id="digits"),
        pytest.param((1, 28, 28), id="mnist", marks=pytest.mark.slow),
    ],
)
def test_inversion_over_its_passes(benchmark, shape):
    generator = generators.get("dcgan:updates=0").build(shape)
    generator.requires_grad_(requires_grad=False)
    steps = STEPS if benchmark.enabled else 2
    starts = generator.latents(IMAGES * RESTARTS, 0)
    x = generator.sample(IMAGES, 1)
    inversion = Inversion(steps=steps, restarts=RESTARTS)

    def invert():
        return inversion.run(generator, x, starts.view(IMAGES, RESTARTS, -1))

    rounds = ROUNDS if benchmark.enabled else 1
    ratios = [once(invert) / once(lambda: floor(generator, starts, steps)) for _ in range(rounds)]
    benchmark.extra_info["over_floor_median"] = round(statistics.median(ratios), 3)
    found = benchmark.pedantic(invert)
    # The work was done in full: no restart was left out, and the images were approached.
    assert found.errors.shape == (IMAGES, RESTARTS)
    before = (generator(starts).view(IMAGES, RESTARTS, *shape) - x[:, None]).square()
    assert bool((found.error < before.flatten(2).mean(2).amin(1)).all())

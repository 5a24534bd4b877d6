"""What the inversion costs over the passes of the generator that it cannot do without.

The floor and the subject are those of `bench time`. Run with
`pytest tests/benchmarks --benchmark-enable` (-m slow for images of MNIST's shape); the ratio of
interleaved runs stands in the table's extra info. Nothing here asserts a time.
"""

import pytest

from bench.timings.clock import interleaved
from bench.timings.purification import IMAGES, RESTARTS, STEPS, Bench

ROUNDS = 3


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 8, 8), id="digits"),
        pytest.param((1, 28, 28), id="mnist", marks=pytest.mark.slow),
    ],
)
def test_inversion_over_its_passes(benchmark, shape):
    subject = Bench.of(shape)
    steps, rounds = (STEPS, ROUNDS) if benchmark.enabled else (2, 1)
    inverted, bare = interleaved(
        (lambda: subject.inverted(steps), lambda: subject.floor(steps)), rounds
    )
    benchmark.extra_info["over_floor_median"] = round(inverted / bare, 3)
    found = benchmark.pedantic(lambda: subject.inverted(steps))
    # The work was done in full: no restart was left out, and the images were approached.
    assert found.errors.shape == (IMAGES, RESTARTS)
    started = subject.generator(subject.starts).view(IMAGES, RESTARTS, *shape)
    before = (started - subject.x[:, None]).square()
    assert bool((found.error < before.flatten(2).mean(2).amin(1)).all())

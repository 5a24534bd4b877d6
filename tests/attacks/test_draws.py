"""Draws against an independent splitmix64 in Python integers, and what keys per sample promise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from attacks.draws import Draws, sample_ids
from tests.problems import images, numbered

MASK = 2**64 - 1
STRIDE = 0x9E3779B97F4A7C15
KS = 1.95
"""Kolmogorov-Smirnov distance times sqrt(n) that a right distribution exceeds once in 1000."""
SHAPE = torch.Size((5, 1, 4, 3))
METHODS: dict[str, Callable[[Draws], Tensor]] = {
    "bits": lambda draws: draws.bits(draws_shape(draws), "word", 3),
    "uniform": lambda draws: draws.uniform(draws_shape(draws), "word", 3),
    "open_uniform": lambda draws: draws.open_uniform(draws_shape(draws), "word", 3),
    "normal": lambda draws: draws.normal(draws_shape(draws), "word", 3),
    "integers": lambda draws: draws.integers(1000, "word", 3),
    "key": lambda draws: draws.key("word", 3),
}


def draws_shape(draws: Draws) -> torch.Size:
    return torch.Size((len(draws.ids), *SHAPE[1:]))


def mix(z: int) -> int:
    """The output function of splitmix64 (Steele, Lea, Flood 2014), in unsigned 64-bit integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def expected_key(seed: int, purpose: str, sample: int, *counters: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    key = mix((sample & MASK) ^ int.from_bytes(digest, "little"))
    for counter in counters:
        key = mix((key + STRIDE * (counter + 1)) & MASK)
    return key


def unsigned(values: Tensor) -> list[int]:
    return [int(value) & MASK for value in values.flatten()]


def test_the_reference_is_splitmix64() -> None:
    """The first outputs of the generator seeded with 1234567, as published with it."""
    outputs = [mix((1234567 + STRIDE * n) & MASK) for n in range(1, 6)]
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


int64 = st.integers(-(2**63), 2**63 - 1)
counters = st.lists(st.integers(0, 2**40), max_size=3)


@hypothesis.given(
    seed=st.integers(0, 2**70), sample=int64, restart=st.integers(0, 99), rest=counters
)
def test_keys_are_splitmix64(seed: int, sample: int, restart: int, rest: list[int]) -> None:
    draws = Draws(seed, torch.tensor([sample]), torch.tensor([restart]))
    expected = [expected_key(seed, "start", sample, restart, *rest)]
    assert unsigned(draws.key("start", *rest)) == expected
    assert unsigned(draws.key("start", *(torch.tensor([c]) for c in rest))) == expected


def test_values_are_made_of_splitmix64() -> None:
    draws = Draws(11, torch.tensor([5, -6]), torch.tensor([0, 2]))
    shape = torch.Size((2, 3))
    keys = [expected_key(11, "noise", 5, 0, 7), expected_key(11, "noise", -6, 2, 7)]
    bits = [mix((key + STRIDE * place) & MASK) for key in keys for place in (1, 2, 3)]
    assert unsigned(draws.bits(shape, "noise", 7)) == bits
    uniform = draws.uniform(shape, "noise", 7)
    assert uniform.dtype == torch.float32
    assert uniform.flatten().tolist() == [(b >> 40) / 2**24 for b in bits]
    opened = draws.open_uniform(shape, "noise", 7)
    assert opened.flatten().tolist() == [((b >> 41 & (2**23 - 1)) + 0.5) / 2**23 for b in bits]
    normal = draws.normal(shape, "noise", 7).double().flatten().numpy()
    # The inverse of the distribution in float32: 1e-6 relative to values of size 1.
    np.testing.assert_allclose(normal, stats.norm.ppf(opened.double().flatten().numpy()), atol=2e-6)
    integers = draws.integers(10, "noise", 7).tolist()
    assert integers == [(key >> 33 & (2**31 - 1)) % 10 for key in keys]


def ks(values: Tensor, distribution: str) -> float:
    sample = values.double().flatten().numpy()
    return float(stats.kstest(sample, distribution).statistic) * len(sample) ** 0.5


@pytest.mark.parametrize(("count", "each"), [(1, 40000), (40000, 1), (200, 200)])
def test_values_follow_their_distribution(count: int, each: int) -> None:
    """Within a sample, across samples, and both."""
    draws, shape = numbered(count), torch.Size((count, each))
    assert ks(draws.uniform(shape, "uniform"), "uniform") < KS
    assert ks(draws.open_uniform(shape, "open"), "uniform") < KS
    assert ks(draws.normal(shape, "normal"), "norm") < KS


def test_ranges() -> None:
    draws, shape = numbered(100), torch.Size((100, 1000))
    uniform, opened = draws.uniform(shape, "a"), draws.open_uniform(shape, "a")
    assert 0 <= uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    assert 0 < opened.min() < 1e-4
    assert 1 - 1e-4 < opened.max() < 1
    normal = draws.normal(shape, "a")
    assert normal.isfinite().all()
    assert normal.abs().max() < 5.3
    assert (normal != 0).all()


@pytest.mark.parametrize("high", [1, 2, 9, 1000])
def test_integers_reach_every_value_below_high(high: int) -> None:
    values = numbered(20000).integers(high, "target")
    assert values.dtype == torch.int64
    counts = values.bincount(minlength=high)
    assert len(counts) == high
    # Each count is binomial: 5 standard deviations.
    assert (counts - 20000 / high).abs().max() <= 5 * (20000 / high) ** 0.5


def test_neighbouring_values_are_not_correlated() -> None:
    """Across places, samples, counters and restarts: 10000 pairs, 4 standard errors of 0.01."""
    shape = torch.Size((100, 100))
    draws = numbered(100)
    base = draws.normal(shape, "a", 0)
    others = {
        "place": base.roll(1, 1),
        "sample": base.roll(1, 0),
        "counter": draws.normal(shape, "a", 1),
        "restart": draws.at(draws.restart + 1).normal(shape, "a", 0),
        "purpose": draws.normal(shape, "b", 0),
        "seed": numbered(100, seed=1).normal(shape, "a", 0),
    }
    for name, other in others.items():
        correlation = torch.stack([base.flatten(), other.flatten()]).corrcoef()[0, 1]
        assert correlation.abs() < 0.04, name


@pytest.mark.parametrize("method", METHODS)
def test_any_part_of_a_batch_gets_the_same_numbers(method: str) -> None:
    draw, x = METHODS[method], images(5)
    whole = draw(Draws.of(x, seed=3))
    for rows in ([2], [4, 1], [0, 1, 2], [3, 0, 4, 2, 1], [1, 1]):
        assert torch.equal(draw(Draws.of(x[rows], seed=3)), whole[rows])


@pytest.mark.parametrize("method", METHODS)
def test_restarts_are_kept_per_sample(method: str) -> None:
    draw, draws = METHODS[method], Draws.of(images(5), seed=3)
    zero, mixed = draw(draws), draw(draws.at(torch.tensor([0, 1, 0, 2, 1])))
    two = draw(draws.at(torch.full((5,), 2)))
    assert torch.equal(mixed[[0, 2]], zero[[0, 2]])
    assert torch.equal(mixed[3], two[3])
    assert not torch.equal(mixed[1], zero[1])


@pytest.mark.parametrize("method", METHODS)
def test_the_same_arguments_give_the_same_numbers(method: str) -> None:
    draws = Draws.of(images(5), seed=3)
    assert torch.equal(METHODS[method](draws), METHODS[method](draws))


def test_every_argument_opens_another_stream() -> None:
    draws = numbered(50)
    streams = [
        draws.key("start"),
        draws.key("target"),
        draws.key("start", 0),
        draws.key("start", 1),
        draws.key("start", 0, 1),
        draws.key("start", 1, 0),
        draws.at(draws.restart + 1).key("start"),
        numbered(50, seed=1).key("start"),
    ]
    joined = torch.cat(streams)
    assert len(joined.unique()) == len(joined)


def test_ids_are_blake2b_of_the_float32_bytes() -> None:
    x = images(3, shape=(2, 3, 4))
    digests = [
        hashlib.blake2b(row.numpy().astype("<f4").tobytes(), digest_size=8).digest() for row in x
    ]
    expected = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    assert sample_ids(x).tolist() == expected
    assert sample_ids(x).dtype == torch.int64


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(0, 2**31))
def test_bytes_and_floats_of_an_image_have_the_same_id(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    stored = torch.randint(256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    as_float = stored.float() / 255
    assert torch.equal(sample_ids(stored), sample_ids(as_float))
    assert torch.equal(sample_ids(as_float.double()), sample_ids(as_float))


def test_ids_do_not_depend_on_layout_slice_or_gradient() -> None:
    x = images(6, shape=(3, 4, 5))
    ids = sample_ids(x)
    assert torch.equal(sample_ids(x.to(memory_format=torch.channels_last)), ids)
    assert torch.equal(sample_ids(x[1:4]), ids[1:4])
    assert torch.equal(sample_ids(x[::2]), ids[::2])
    assert torch.equal(sample_ids(x.flip(0)), ids.flip(0))
    assert torch.equal(sample_ids(x.clone().requires_grad_()), ids)
    assert len(ids.unique()) == 6
    assert sample_ids(x[:0]).shape == (0,)

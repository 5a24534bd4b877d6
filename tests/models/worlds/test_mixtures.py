"""Ring and grid: what covers how many centres."""

import math

import pytest
import torch

from models.worlds.mixtures import EXPECTED, GRID, RING, Census, Mixture

N = 5000


@pytest.mark.parametrize(("mixture", "modes"), [(RING, 8), (GRID, 25)])
def test_the_mixture_itself_covers_all_of_itself(mixture, modes):
    """The share of good samples is 1 - exp(-9 / 2), here within four standard errors."""
    split = mixture.split(N, 0)
    found = mixture.census(split.x)
    assert (found.found, found.count) == (modes, N)
    error = math.sqrt(EXPECTED * (1 - EXPECTED) / N)
    assert abs(EXPECTED - 0.988891) < 1e-6
    assert found.quality == pytest.approx(EXPECTED, abs=4 * error)
    assert found.divergence < 2 * (modes - 1) / (2 * N) + 0.005


@pytest.mark.parametrize("mixture", [RING, GRID])
def test_samples_are_images_in_the_unit_square_with_their_centre_as_label(mixture):
    split = mixture.split(N, 3)
    assert split.x.shape == (N, 2, 1, 1)
    assert split.x.dtype == torch.float32
    assert split.y.dtype == torch.int64
    assert 0 <= split.x.min() <= split.x.max() <= 1
    gap = split.x.flatten(1) - torch.tensor(mixture.centres)[split.y]
    assert float(gap.std()) == pytest.approx(mixture.sd, rel=0.04)


def test_samples_depend_on_the_seed_alone():
    first, again, other = (RING.split(100, seed) for seed in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.x, other.x)


@pytest.mark.parametrize("mixture", [RING, GRID])
def test_a_constant_covers_one(mixture):
    image = torch.tensor(mixture.centres[3]).view(1, 2, 1, 1)
    found = mixture.census(image.expand(N, 2, 1, 1))
    assert (found.found, found.quality) == (1, 1.0)
    assert found.divergence == pytest.approx(math.log(len(mixture.centres)))


@pytest.mark.parametrize("kept", [1, 5, 20])
def test_a_sampler_of_some_centres_covers_as_many(kept):
    split = GRID.split(N, 4)
    found = GRID.census(split.x[split.y < kept])
    assert found.found == kept
    assert found.divergence == pytest.approx(math.log(25 / kept), abs=0.05)


def test_samples_between_centres_are_good_for_nothing():
    found = RING.census(torch.full((100, 2, 1, 1), 0.5))
    assert (found.found, found.quality, found.divergence) == (0, 0.0, math.inf)


def test_a_centre_needs_a_quarter_of_a_fair_share():
    """100 samples of 4 centres: a fair share is 25, a quarter of it 6.25."""
    assert Census((80, 7, 6, 0), 100).found == 2
    assert Census((80, 6, 6, 0), 100).found == 1


def test_three_standard_deviations_are_the_limit():
    mixture = Mixture("one", ((0.5, 0.5),), 0.1)
    near = torch.tensor([[0.5, 0.79], [0.5, 0.81]]).view(2, 2, 1, 1)
    assert mixture.census(near).good == (1,)


def test_bad_mixtures_and_images_are_refused():
    with pytest.raises(ValueError, match="centres must lie in the unit square"):
        Mixture("out", ((0.5, 1.1),), 0.1)
    with pytest.raises(ValueError, match="centres must lie in the unit square"):
        Mixture("none", (), 0.1)
    with pytest.raises(ValueError, match="sd must be above 0, got 0"):
        Mixture("flat", ((0.5, 0.5),), 0)
    with pytest.raises(ValueError, match=r"images must be \(N, 2, 1, 1\), got \(3, 2\)"):
        RING.census(torch.zeros(3, 2))

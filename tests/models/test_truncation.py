"""Truncation where a generator is looked at: latents near the mean, and pulled towards it."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from models.architectures import Conditional
from models.generators import Generator
from models.seeding import seeded
from models.style import Generator as StyleNet
from models.truncation import towards, within

SHAPE, LATENT = (1, 8, 8), 16


class Spread(nn.Module):
    """The first component as a grey image."""

    def forward(self, z):
        return z[:, :1, None, None].sigmoid().expand(-1, *SHAPE)


def generator(net=None, latent=LATENT, prior="normal"):
    return Generator(net or Spread(), latent, prior, SHAPE)


@pytest.mark.parametrize("prior", ["normal", "uniform", "truncated"])
def test_without_a_bound_latents_are_those_of_the_generator(prior):
    made = generator(prior=prior)
    assert torch.equal(within(made, 50, 3), made.latents(50, 3))


def test_latents_within_a_bound_are_what_resampling_gives():
    made = generator()
    z = within(made, 3000, 3, 0.9)
    assert z.shape == (3000, LATENT)
    assert torch.equal(z, within(made, 3000, 3, 0.9))
    norms = z.norm(dim=1)
    assert float(norms.max()) <= 0.9
    # d times the squared norm is chi-square with d degrees of freedom, cut off at d tau^2.
    edge = stats.chi2(LATENT).cdf(LATENT * 0.9**2)
    rank = stats.chi2(LATENT).cdf(LATENT * norms.square().numpy()) / edge
    assert stats.kstest(rank, "uniform").pvalue > 0.01
    # Directions stay uniform.
    assert float((z / norms[:, None]).mean(0).norm()) < 4 / math.sqrt(3000)


def test_the_first_latents_of_the_generator_that_are_near_come_first():
    made = generator()
    all_of_them = made.latents(200, 5)
    near = all_of_them[all_of_them.norm(dim=1) <= 1]
    assert 0 < len(near) < 200
    assert torch.equal(within(made, 200, 5, 1.0)[: len(near)], near)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_a_bound_that_is_not_above_0_is_refused(tau):
    with pytest.raises(ValueError, match="tau must be above 0, got"):
        within(generator(), 5, 0, tau)


def test_a_bound_that_nothing_is_within_is_refused():
    message = r"tau must be larger: of 2\d\d,\d\d\d latents 0 are within 0.01 of the mean"
    with pytest.raises(ValueError, match=message):
        within(generator(), 5, 0, 0.01)


def test_latents_are_pulled_towards_the_mean():
    made = generator()
    z = made.latents(20, 0)
    assert torch.equal(towards(made, z, 1.0), made(z))
    assert torch.equal(towards(made, z, 0.25), made(z / 4))
    assert torch.equal(towards(made, z, 0.0), torch.full((20, *SHAPE), 0.5))


def test_a_net_of_styles_pulls_those():
    with seeded(0):
        made = generator(StyleNet(SHAPE, LATENT, 2))
    z = made.latents(20, 0)
    made.net.w_avg += 1
    assert torch.equal(towards(made, z, 1.0), made(z))
    assert torch.equal(towards(made, z, 0.3), made.net.truncated(z, 0.3))
    assert not torch.allclose(towards(made, z, 0.3), made(0.3 * z), atol=1e-3)


@pytest.mark.parametrize("psi", [-0.1, 1.5, math.nan])
def test_a_psi_outside_0_to_1_is_refused(psi):
    made = generator()
    with pytest.raises(ValueError, match=r"psi must be in \[0, 1\], got"):
        towards(made, made.latents(2, 0), psi)


def test_a_class_that_is_asked_for_survives_every_truncation():
    generator = Conditional(latent=6, width=2, classes=3).build((1, 8, 8))
    z = generator.asked(generator.latents(4, 0), torch.tensor([0, 1, 2, 2]))
    seen = []
    generator.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for psi in (0.0, 0.5, 1.0):
        towards(generator, z, psi)
        assert generator.labels(seen[-1]).tolist() == [0, 1, 2, 2]
        assert torch.equal(seen[-1][:, :6], psi * z[:, :6])

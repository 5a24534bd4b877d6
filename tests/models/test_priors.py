"""The truncated prior."""

import math

import pytest
import torch
from scipy import stats

from models.priors import PRIORS, Normal, Truncated


def uniform(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def test_the_truncated_prior_is_what_drawing_again_gives():
    numbers = torch.randn(60_000, generator=torch.Generator().manual_seed(1))
    again = numbers[numbers.abs() <= 2]
    z = Truncated().latents(uniform(2000, 16)).flatten()
    # Both to variance 1 before truncation: 0.7737 of it is left at tau = 2.
    left = stats.truncnorm(-2, 2).var()
    assert left == pytest.approx(0.7737, abs=1e-4)
    assert stats.ks_2samp((z * math.sqrt(16 * left)).numpy(), again.numpy()).pvalue > 0.01
    assert float(again.var()) == pytest.approx(left, rel=0.02)
    assert float(z.var()) == pytest.approx(1 / 16, rel=0.02)


@pytest.mark.parametrize("tau", [0.01, 0.5, 2.0, 5.0])
def test_latents_are_quantiles_scaled_to_variance_1_over_d(tau):
    numbers = uniform(3, 7)
    known = stats.truncnorm(-tau, tau)
    expected = known.ppf(numbers.double().numpy()) / math.sqrt(7 * known.var())
    z = Truncated(tau).latents(numbers)
    assert torch.allclose(z, torch.from_numpy(expected).float(), atol=1e-4)
    # At 0 they are at the edge, but for the least number that stands for it.
    least, edge = Truncated(tau).latents(torch.zeros(1, 7)), tau / math.sqrt(7 * known.var())
    assert torch.allclose(least, torch.full((1, 7), -edge), rtol=0.01, atol=0)
    assert torch.equal(Truncated(tau).confined(least), least)


def test_an_infinite_tau_is_the_normal_prior():
    numbers, z = uniform(30, 7), uniform(30, 7) - 0.5
    free, normal = Truncated(math.inf), Normal()
    assert torch.equal(free.latents(numbers), normal.latents(numbers))
    assert torch.equal(free.penalty(z), normal.penalty(z))
    assert torch.equal(free.confined(z), z)
    assert torch.allclose(Truncated(6.0).latents(numbers), normal.latents(numbers), atol=1e-5)


def test_penalties_are_log_densities_and_the_edge_is_at_tau():
    prior, scale = Truncated(1.5), 1 / math.sqrt(4 * stats.truncnorm(-1.5, 1.5).var())
    z = torch.tensor([[0.1, -0.2, 0.3, 0.0], [0.0, 0.5, 0.0, 0.1]])
    density = stats.truncnorm(-1.5, 1.5, scale=scale)
    expected = -density.logpdf(z.numpy()).mean(1)
    got = prior.penalty(z)
    assert float(got[0] - got[1]) == pytest.approx(expected[0] - expected[1], abs=1e-6)
    far = torch.tensor([[9.0, -9.0, 0.1, 0.0]])
    edge = torch.tensor([[1.5 * scale, -1.5 * scale, 0.1, 0.0]])
    assert torch.allclose(prior.confined(far), edge)


@pytest.mark.parametrize("tau", [0.0, 0.009, -1.0, math.nan])
def test_a_tau_outside_its_range_is_refused(tau):
    with pytest.raises(ValueError, match=r"tau must be at least 0.01, got"):
        Truncated(tau)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_squeezed_latents_are_the_priors_and_never_without_a_slope(prior):
    z = torch.linspace(-3, 3, 601)[:, None].expand(-1, 4).clone().requires_grad_()
    inside = prior.squeezed(z)
    assert torch.allclose(prior.confined(inside), inside, atol=1e-6)
    (slope,) = torch.autograd.grad(inside.sum(), z)
    assert (slope > 0).all()
    near = z.abs() < 0.05
    assert torch.allclose(inside[near], z[near], atol=1e-3)

"""Architectures of generators, what latents are drawn from, and the check of what they make."""

import math

import pytest
import torch
from torch import nn

from models.architectures import Dcgan, DefenseGan
from models.generators import Generator, check
from models.priors import PRIORS
from models.seeding import seeded

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
MEGABYTES_3 = 3 * 10**6


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, (2, 12, 20)])
def test_dcgan_makes_images_of_every_shape_in_3_megabytes(shape):
    recipe = Dcgan()
    made = recipe.build(shape)
    z = made.latents(5, 0)
    images = made(z).detach()
    assert images.shape == (5, *shape)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert sum(p.numel() * p.element_size() for p in made.parameters()) <= MEGABYTES_3
    with seeded(0):
        assert recipe.discriminator(shape)(images).shape == (5,)
    # An image depends on no other latent of its batch.
    assert torch.allclose(images[3:4], made(z[3:4]).detach(), atol=1e-6)


@pytest.mark.parametrize("shape", [MNIST, CIFAR])
def test_defensegan_is_the_released_net(shape):
    recipe = DefenseGan()
    made = recipe.build(shape)
    images = made.sample(3, 0)
    assert images.shape == (3, *shape)
    with seeded(0):
        assert recipe.discriminator(shape)(images).shape == (3,)
    sizes = [tuple(p.shape) for p in made.parameters() if p.dim() > 1]
    assert sizes == [(4096, 128), (256, 128, 5, 5), (128, 64, 5, 5), (64, shape[0], 5, 5)]


@pytest.mark.parametrize(
    ("recipe", "shape", "message"),
    [
        (Dcgan(), (1, 10, 12), "images must have sides that are multiples of 4, got 10x12"),
        (DefenseGan(), DIGITS, r"sides from 16 to 32, got \(1, 8, 8\)"),
        (DefenseGan(), (1, 30, 28), "images must have sides that are multiples of 4, got 30x28"),
    ],
)
def test_images_that_an_architecture_cannot_make_are_refused(recipe, shape, message):
    with pytest.raises(ValueError, match=message):
        recipe.build(shape)


# --- priors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
def test_latents_have_mean_0_and_variance_1_over_d(prior):
    made = Dcgan(latent=16, prior=prior).build(DIGITS)
    z = made.latents(20_000, 3)
    count = z.numel()
    # Four standard errors of a mean, and of a variance (kurtosis at most 3).
    assert abs(float(z.mean())) < 4 * math.sqrt(1 / 16 / count)
    assert float(z.var()) == pytest.approx(1 / 16, rel=4 * math.sqrt(2 / count))
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 4 / 16 / math.sqrt(20_000)
    assert torch.equal(made.latents(5, 3), made.latents(5, 3))
    assert not torch.equal(made.latents(5, 3), made.latents(5, 4))


def test_normal_latents_are_the_quantiles_of_the_uniform_numbers():
    numbers = torch.tensor([[0.5, 0.8413447, 0.0227501, 0.0]])
    z = PRIORS["normal"].latents(numbers)
    expected = torch.tensor([0.0, 1.0, -2.0]) / 2
    assert torch.allclose(z[0, :3], expected, atol=1e-5)
    assert bool(z.isfinite().all())


@pytest.mark.parametrize("prior", PRIORS)
def test_penalties_are_log_densities(prior):
    z = torch.tensor([[0.1, -0.2, 0.3, 0.0], [0.0, 0.5, 0.0, 0.1]])
    density = {
        "normal": torch.distributions.Normal(0.0, 1 / 2),
        "uniform": torch.distributions.Uniform(-math.sqrt(3 / 4), math.sqrt(3 / 4)),
        # 0.7737 is what truncation at 2 leaves of a variance of 1.
        "truncated": torch.distributions.Normal(0.0, 1 / 2 / math.sqrt(0.77374)),
    }[prior]
    expected = -density.log_prob(z).mean(1)
    got = PRIORS[prior].penalty(z)
    assert got.shape == (2,)
    assert torch.allclose(got[0] - got[1], expected[0] - expected[1], atol=1e-6)


def test_bounded_priors_alone_confine():
    z = torch.tensor([[2.0, -2.0, 0.1]])
    assert torch.equal(PRIORS["normal"].confined(z), z)
    assert torch.allclose(PRIORS["uniform"].confined(z), torch.tensor([[1.0, -1.0, 0.1]]))
    edge = 2 / math.sqrt(3 * 0.77374)
    assert torch.allclose(PRIORS["truncated"].confined(z), torch.tensor([[edge, -edge, 0.1]]))


# --- the check -----------------------------------------------------------------------------------


class Bare(nn.Module):
    """Whatever a function makes of latents; nothing to train."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, z):
        return self.make(z)


def grey(z):
    return torch.full((len(z), *DIGITS), 0.5)


def test_a_generator_that_fits_is_taken_without_parameters_too():
    check(Generator(Bare(grey), 4, "normal", DIGITS), DIGITS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z: grey(z)[:, :, :7], r"must make images of shape \(1, 8, 8\), got \(1, 7, 8\)"),
        (lambda z: grey(z)[:3], r"of shape \(1, 8, 8\), got \(3, 1, 8, 8\)"),
        (lambda z: grey(z).sum(), r"of shape \(1, 8, 8\), got \(\)"),
        (lambda z: grey(z) * 2.5, r"must make images in \[0, 1\], got \[1.25, 1.25\]"),
        (lambda z: grey(z) - 1, r"must make images in \[0, 1\], got \[-0.5, -0.5\]"),
        (lambda z: grey(z) * math.nan, "makes images that are not finite"),
        (lambda z: grey(z).int(), "must make floating-point images, got torch.int32"),
        (lambda z: [grey(z)], "must make floating-point images, got list"),
        (lambda z: grey(z) * (z @ torch.ones(5, 1)), "takes no latents of size 4: mat1 and mat2"),
    ],
)
def test_a_generator_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=f"^generator Bare .*{message}"):
        check(Generator(Bare(make), 4, "normal", DIGITS), DIGITS)


def test_samples_are_made_in_parts_that_move_nothing():
    made = Dcgan(width=2).build(DIGITS)
    asked = []
    made.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    images = made.sample(300, 0)
    assert asked == [256, 44]
    assert not images.requires_grad
    assert torch.allclose(images[:4], made(made.latents(300, 0)[:4]), atol=1e-6)

"""Nets that grow: sizes, the schedule, the fade-in, and what stays when they do."""

import math

import pytest
import torch

from models import equalised
from models.growing import (
    Discriminator,
    Generator,
    GrowingDiscriminator,
    channels,
    larger,
    sides,
    smaller,
    stage,
)
from models.seeding import seeded

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)


def nets(shape=CIFAR, width=2, base=None):
    with seeded(0):
        return Generator(shape, 6, width, base), GrowingDiscriminator(shape, width, base)


def numbers(*size, seed=1):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "base", "expected"),
    [
        (DIGITS, None, [(4, 4), (8, 8)]),
        (MNIST, None, [(7, 7), (14, 14), (28, 28)]),
        (MNIST, 14, [(14, 14), (28, 28)]),
        (MNIST, 28, [(28, 28)]),
        (CIFAR, None, [(4, 4), (8, 8), (16, 16), (32, 32)]),
        (CIFAR, 1, [(side, side) for side in (1, 2, 4, 8, 16, 32)]),
        ((2, 12, 20), None, [(6, 10), (12, 20)]),
        ((2, 12, 20), 3, [(3, 5), (6, 10), (12, 20)]),
        ((1, 16, 10), None, [(8, 5), (16, 10)]),
        ((1, 15, 15), None, [(15, 15)]),
        ((1, 3, 3), None, [(3, 3)]),
    ],
)
def test_levels_double(shape, base, expected):
    assert sides(shape, base) == expected


@pytest.mark.parametrize(
    ("shape", "base", "message"),
    [
        (MNIST, 5, "28x28 is no power of two times the base 5"),
        (MNIST, 4, "28x28 is no power of two times the base 4"),
        (DIGITS, 16, "8x8 is no power of two times the base 16"),
        (DIGITS, 0, "8x8 is no power of two times the base 0"),
        (DIGITS, -4, "8x8 is no power of two times the base -4"),
        ((1, 8, 10), 4, None),
        ((1, 8, 10), 2, "8x10 is no power of two times the base 2"),
    ],
)
def test_a_base_that_does_not_double_to_the_sides_is_refused(shape, base, message):
    if message is None:
        assert sides(shape, base) == [(4, 5), (8, 10)]
        return
    for make in (Generator, GrowingDiscriminator):
        arguments = (shape, 6, 2, base) if make is Generator else (shape, 2, base)
        with pytest.raises(ValueError, match=f"^{message}$"):
            make(*arguments)


def test_channels_double_downwards_up_to_four_times():
    assert channels(1, 8) == [8]
    assert channels(3, 8) == [32, 16, 8]
    assert channels(5, 8) == [32, 32, 32, 16, 8]


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, (2, 12, 20)])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.3, 0.45, 1.0])
def test_images_are_of_full_size_at_every_level(shape, share):
    generator, discriminator = nets(shape)
    generator.grow(share)
    discriminator.grow(share)
    z = numbers(5, 6) - 0.5
    images = generator(z).detach()
    assert images.shape == (5, *shape)
    assert 0 < float(images.min()) < float(images.max()) < 1
    scores = discriminator(images)
    assert scores.shape == (5,)
    # Nothing depends on the rest of a batch; pixel norm over two channels enlarges rounding.
    assert torch.allclose(images[3:4], generator(z[3:4]), atol=1e-4)
    assert torch.allclose(scores[3:4], discriminator(images[3:4]), atol=1e-4)
    # A picture of a lower level has squares of equal pixels.
    halvings = generator.top - generator.level
    assert torch.equal(larger(images[:, :, :: 2**halvings, :: 2**halvings], 2**halvings), images)


# --- the schedule --------------------------------------------------------------------------------


def test_half_of_training_is_equal_phases_of_fading_in_and_of_training():
    seen = [stage(share / 16, 3) for share in range(9)]
    known = [(0, 1), (0, 1), (1, 0), (1, 0.5), (1, 1), (1, 1), (2, 0), (2, 0.5), (2, 1)]
    assert seen == known
    assert {stage(share / 16, 3) for share in range(8, 17)} == {(2, 1.0)}
    assert [stage(share / 8, 2) for share in range(5)] == [(0, 1), (0, 1), (1, 0), (1, 0.5), (1, 1)]
    assert {stage(share, 1) for share in (0.0, 0.5, 1.0)} == {(0, 1.0)}
    # A level is never left, alpha falls only when the next one starts.
    path = [stage(share / 1000, 4) for share in range(1001)]
    assert path == sorted(path, key=lambda entry: entry[0])
    assert (path[0], path[-1]) == ((0, 1.0), (3, 1.0))
    assert all(type(level) is int and type(alpha) is float for level, alpha in path)


@pytest.mark.parametrize("share", [-0.01, 1.01, math.nan])
def test_a_share_outside_0_to_1_is_refused(share):
    for net in nets(DIGITS):
        with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got"):
            net.grow(share)


def test_a_fresh_net_is_fully_grown():
    for net in nets():
        fresh = (net.level, net.alpha)
        net.grow(1.0)
        assert (net.level, net.alpha) == fresh == (3, 1.0)
    with seeded(0):
        assert not hasattr(Discriminator(DIGITS, 2), "grow")


# --- the fade-in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
def test_at_alpha_0_the_picture_is_that_of_the_lower_level_upsampled(level):
    generator, _ = nets()
    z = numbers(5, 6)
    generator.level, generator.alpha = level - 1, 1.0
    lower = generator(z)
    generator.level, generator.alpha = level, 0.0
    assert torch.equal(generator(z), lower)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_between_the_pictures_are_mixed_before_the_sigmoid(level):
    generator, _ = nets()
    z = numbers(5, 6)
    pictures = []
    for alpha in (0.0, 0.25, 1.0):
        generator.level, generator.alpha = level, alpha
        pictures.append(generator(z).logit())
    lower, between, upper = pictures
    assert not torch.allclose(lower, upper, atol=0.1)
    assert torch.allclose(between, 0.75 * lower + 0.25 * upper, atol=1e-4)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_new_level_of_the_discriminator_changes_nothing_at_alpha_0(level):
    _, discriminator = nets()
    images = numbers(5, *CIFAR)
    scores = []
    for entry in ((level - 1, 1.0), (level, 0.0), (level, 0.5), (level, 1.0)):
        discriminator.level, discriminator.alpha = entry
        scores.append(discriminator(images))
    assert torch.allclose(scores[0], scores[1], atol=1e-5)
    assert not torch.allclose(scores[1], scores[2], atol=1e-4)
    assert not torch.allclose(scores[2], scores[3], atol=1e-4)


def test_a_discriminator_sees_means_of_squares_alone():
    _, discriminator = nets()
    discriminator.grow(0.0)
    images = numbers(5, *CIFAR)
    blurred = larger(smaller(images, 3), 8)
    assert torch.allclose(blurred[:, :, :8, :8], images[:, :, :8, :8].mean((2, 3), keepdim=True))
    assert torch.allclose(discriminator(images), discriminator(blurred), atol=1e-5)
    discriminator.grow(1.0)
    assert not torch.allclose(discriminator(images), discriminator(blurred), atol=1e-3)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_making_smaller_undoes_making_larger_exactly(halvings):
    x = numbers(3, 2, 5, 7) * 100 - 50
    assert torch.equal(smaller(larger(x, 2**halvings), halvings), x)


def test_growing_keeps_the_weights_and_moves_only_what_is_used():
    generator, discriminator = nets()
    before = {name: t.clone() for name, t in generator.state_dict().items()}
    for share in (0.0, 0.2, 0.4, 1.0):
        generator.grow(share)
    assert all(torch.equal(before[name], t) for name, t in generator.state_dict().items())
    for net, out in ((generator, "blocks"), (discriminator, "blocks")):
        net.grow(0.0)
        given = numbers(5, 6) if net is generator else numbers(5, *CIFAR)
        (net(given)).square().sum().backward()
        moved = {name for name, p in net.named_parameters() if p.grad is not None}
        assert not any(name.startswith(out) for name in moved)
        assert {name for name in moved if name.startswith("images")} == {
            "images.0.weight",
            "images.0.bias",
        }


# --- layers --------------------------------------------------------------------------------------


def test_pixel_norm_gives_a_mean_square_of_1_over_channels():
    x = numbers(3, 5, 2, 2) - 0.5
    assert torch.allclose(equalised.normalised(x).square().mean(1), torch.ones(3, 2, 2), atol=1e-5)
    assert torch.equal(equalised.normalised(torch.zeros(1, 5)), torch.zeros(1, 5))


def test_weights_are_of_variance_1_and_scaled_at_run_time():
    with seeded(0):
        dense, convolution = equalised.Dense(300, 400, 3.0), equalised.Convolution(50, 60, 3)
    for weight in (dense.weight, convolution.weight):
        # Four standard errors of a normal variance.
        assert float(weight.detach().var()) == pytest.approx(
            1, abs=4 * math.sqrt(2 / weight.numel())
        )
    x, image = numbers(2, 300), numbers(2, 50, 4, 4)
    with torch.no_grad():
        dense.bias += 1
        convolution.bias += 1
        assert torch.allclose(dense(x), 3 / math.sqrt(300) * x @ dense.weight.T + 1, atol=1e-5)
        corner = (convolution.weight[:, :, 1:, 1:] * image[:1, :, :2, :2]).sum((1, 2, 3))
        expected = math.sqrt(2) / math.sqrt(50 * 9) * corner + 1
        assert torch.allclose(convolution(image)[0, :, 0, 0], expected, atol=1e-5)


def test_real_images_fade_as_the_picture_does():
    net, _ = nets((2, 16, 16))
    x = numbers(3, 2, 16, 16)
    assert net.faded(x) is x
    half = larger(smaller(x))
    net.alpha = 0.0
    assert torch.equal(net.faded(x), half)
    net.alpha = 0.25
    assert torch.allclose(net.faded(x), 0.75 * half + 0.25 * x)
    net.level, net.alpha = 1, 1.0
    assert torch.equal(net.faded(x), half)
    net.alpha = 0.0
    assert torch.allclose(net.faded(x), larger(smaller(x, 2), 4))

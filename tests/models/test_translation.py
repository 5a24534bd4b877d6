"""Nets from images to images, what judges them, and the five costs of a pair."""

import pytest
import torch

from models.seeding import seeded
from models.translation import patch_discriminator, translator

SHAPES = [(1, 2, 2), (1, 8, 8), (3, 7, 5)]


def images(shape, count=4, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fresh_translator_is_nearly_the_identity(shape):
    with seeded(0):
        net = translator(shape, 4)
    x = images(shape)
    x[0], x[1] = 0, 1
    # s(logit(u)) = u, u = 0.01 + 0.98 x.
    torch.testing.assert_close(net(x), 0.01 + 0.98 * x)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_translator_answers_with_images_and_gradients_reach_black_and_white(shape):
    with seeded(0):
        net = translator(shape, 4)
    for value in net.parameters():
        torch.nn.init.normal_(value, std=0.3, generator=torch.Generator().manual_seed(1))
    x = images(shape)
    x[0], x[1] = 0, 1
    made = net(x.requires_grad_())
    assert made.shape == x.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert not torch.allclose(made, x, atol=0.1)
    torch.testing.assert_close(net(x[1:2]), made[1:2])  # depends on its own image alone
    (gradient,) = torch.autograd.grad(made.square().sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_score_is_the_mean_over_patches(shape):
    with seeded(0):
        net = patch_discriminator(shape, 4)
    x = images(shape)
    scores = net(x)
    assert scores.shape == (4,)
    torch.testing.assert_close(scores, net[:-1](x).mean((1, 2, 3)))
    torch.testing.assert_close(net(x[2:3]), scores[2:3])


def test_what_is_far_away_moves_no_patch():
    with seeded(0):
        net = patch_discriminator((1, 28, 28), 4)[:-1]
    x = images((1, 28, 28), 1).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0, 0, 3, 3], x)
    rows = gradient[0, 0].abs().amax(1).nonzero()[:, 0]
    assert (rows.min(), rows.max()) == (12 - 7, 12 + 7), "a patch has 15 pixels"

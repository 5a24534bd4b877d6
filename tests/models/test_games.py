"""Losses of both players: golden values, and closed forms on a linear critic."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.games import (
    Clipped,
    LeastSquares,
    NonSaturating,
    Round,
    Saturating,
    Wasserstein,
    bce,
    non_saturating,
    saturating,
)

SHAPE = (2, 3, 4)


class Linear(nn.Module):
    """D(x) = w.x + 0.3, whose gradient is w wherever it is taken."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(*SHAPE, generator=generator))

    def forward(self, x):
        return (x * self.w).flatten(1).sum(1) + 0.3


class Nothing(nn.Module):
    """Scores of 0."""

    def forward(self, x):
        return x.flatten(1).sum(1) * 0


def turn(update=0):
    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.rand(7, *SHAPE, generator=generator) for _ in range(2))
    return Round(real, fake, torch.rand(7, generator=generator), update)


def test_cross_entropies_of_scores_of_0_are_ln_2():
    game = NonSaturating(penalty=0)
    loss, scores = game.discriminator(Nothing(), turn())
    assert loss.item() == pytest.approx(0.6931472, abs=1e-7)
    assert game.generator(scores[1]).item() == pytest.approx(0.6931472, abs=1e-7)


def test_the_discriminators_loss_is_half_of_real_and_made():
    net, at = Linear(), turn()
    loss, scores = NonSaturating(penalty=0).discriminator(net, at)
    real, fake = net(at.real), net(at.fake)
    assert torch.allclose(scores, torch.stack([real, fake]), atol=1e-6)
    parts = [
        F.binary_cross_entropy_with_logits(real, torch.ones(7)),
        F.binary_cross_entropy_with_logits(fake, torch.zeros(7)),
    ]
    assert loss.item() == pytest.approx(sum(parts).item() / 2, abs=1e-6)
    assert bce(real, fake).item() == pytest.approx(loss.item(), abs=1e-6)


def test_the_generator_maximises_the_log_of_its_images_chances():
    scores = torch.tensor([-3.0, 0.5, 2.0])
    expected = F.binary_cross_entropy_with_logits(scores, torch.ones(3))
    assert NonSaturating(0.1).generator(scores).item() == pytest.approx(expected.item(), abs=1e-7)


def test_large_scores_stay_finite():
    real, fake = torch.tensor([-1e4]), torch.tensor([1e4])
    assert bce(real, fake).item() == pytest.approx(1e4)
    assert NonSaturating(0).generator(real).item() == pytest.approx(1e4)


@pytest.mark.parametrize(("update", "times"), [(0, 8), (1, 0), (7, 0), (8, 8), (16, 8)])
def test_r1_of_a_linear_critic_is_half_its_squared_norm_at_every_eighth_step(update, times):
    net, at = Linear(), turn(update)
    loss, _ = NonSaturating(penalty=0.2).discriminator(net, at)
    bare, _ = NonSaturating(penalty=0).discriminator(net, at)
    expected = times * 0.2 / 2 * net.w.square().sum().item()
    assert (loss - bare).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("lam", [0.0, 10.0])
def test_wasserstein_of_a_linear_critic_has_a_closed_form(lam):
    net, at = Linear(), turn(3)
    loss, scores = Wasserstein(lam).discriminator(net, at)
    between = (net.w * (at.fake.mean(0) - at.real.mean(0))).sum()  # E D(fake) - E D(real)
    # The norm of the whole image: per row of pixels, or per channel, it would be another.
    penalty = lam * (net.w.square().sum().sqrt() - 1).square()
    assert loss.item() == pytest.approx((between + penalty).item(), rel=1e-5)
    assert scores.shape == (2, 7)
    assert Wasserstein(lam).generator(scores[1]).item() == pytest.approx(-scores[1].mean().item())


def test_the_penalty_of_wasserstein_is_taken_between_the_images():
    class Square(nn.Module):
        """|x|^2 / 2, whose gradient is x."""

        def forward(self, x):
            return x.square().flatten(1).sum(1) / 2

    at = turn()
    loss, scores = Wasserstein(10.0).discriminator(Square(), at)
    mix = at.mix.view(-1, 1, 1, 1)
    sizes = (mix * at.real + (1 - mix) * at.fake).flatten(1).norm(dim=1)
    expected = scores[1].mean() - scores[0].mean() + 10 * (sizes - 1).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("game", [Wasserstein(10.0), NonSaturating(0.5)])
def test_penalties_reach_the_discriminators_weights(game):
    net = Linear()
    other = type(game)(0.0)
    with_penalty, without = (
        torch.autograd.grad(one.discriminator(net, turn())[0], net.w)[0] for one in (game, other)
    )
    size = net.w.norm()
    # d/dw of lam (|w| - 1)^2, and of 8 * penalty / 2 |w|^2.
    slope = 20 * (size - 1) * net.w / size if isinstance(game, Wasserstein) else 4 * net.w
    assert torch.allclose(with_penalty - without, slope, rtol=1e-4, atol=1e-4)


def test_a_loss_next_to_0_is_won_where_it_leaves_the_generator_no_slope_of_its_own_cost():
    flat = {"loss_d": 0.009, "slope_saturating": 1e-4, "slope_nonsaturating": 1.0}
    assert Saturating(0.1).is_won(flat)
    assert not NonSaturating(0.1).is_won(flat)
    assert NonSaturating(0.1).is_won({**flat, "slope_nonsaturating": 1e-4})
    assert not Saturating(0.1).is_won({**flat, "loss_d": math.log(2)})
    assert not Wasserstein(10.0).is_won({**flat, "loss_d": 0.0})
    assert NonSaturating(0.1).betas == (0.5, 0.999)
    assert Wasserstein(10.0).betas == (0.5, 0.9)
    assert "0.1 / 2 |dD/dx|^2" in NonSaturating(0.1).text
    assert "10.0 (|dD/dx| - 1)^2" in Wasserstein(10.0).text


def test_the_toys_losses_are_sums_of_ours():
    """UDL book, notebook 15.1: real N(7.5, 1) and z + 3, ten each; D's logit is x - 2."""
    draws = np.random.RandomState  # noqa: TID251  the notebook's own numbers
    real = torch.from_numpy(draws(0).normal(7.5, 1, 10))
    fake = torch.from_numpy(draws(1).normal(0, 1, 10)) + 3
    # Sums over both halves, where ours is the mean of the two means.
    assert 20 * bce(real - 2, fake - 2).item() == pytest.approx(13.814757170851447, abs=1e-9)
    assert -10 * saturating(fake - 2).item() == pytest.approx(13.78437035945412, abs=1e-9)


def test_where_d_is_sure_one_cost_moves_the_generator_9999_times_as_much_as_the_other():
    score = torch.tensor([1e-4], dtype=torch.float64).logit().requires_grad_()
    slopes = [torch.autograd.grad(cost(score), score)[0] for cost in (non_saturating, saturating)]
    assert slopes[0].item() == pytest.approx(-(1 - 1e-4))
    assert slopes[1].item() == pytest.approx(-1e-4)
    assert (slopes[0] / slopes[1]).item() == pytest.approx(9999, rel=1e-9)


def test_both_costs_fall_as_the_images_are_believed():
    """Where the source has both lean towards D(G(z)) near 0."""
    scores = torch.linspace(-5, 5, 11)
    for game in (NonSaturating(0), Saturating(0)):
        costs = torch.stack([game.generator(score[None]) for score in scores])
        assert (costs.diff() < 0).all()


def test_the_saturating_game_differs_on_the_generators_side_alone():
    at, scores = turn(), torch.tensor([-3.0, 0.5, 2.0])
    one, other = (game(0.2).discriminator(Linear(), at)[0] for game in (NonSaturating, Saturating))
    assert torch.equal(one, other)
    expected = -F.binary_cross_entropy_with_logits(scores, torch.zeros(3))
    assert Saturating(0).generator(scores).item() == pytest.approx(expected.item(), abs=1e-7)
    # At D = 1/2 it is worth -ln 2, and the other ln 2.
    assert Saturating(0).generator(torch.zeros(4)).item() == pytest.approx(-math.log(2))


def test_least_squares_on_a_linear_critic():
    net, at = Linear(), turn(3)
    loss, scores = LeastSquares(0.2).discriminator(net, at)
    real, fake = net(at.real), net(at.fake)
    expected = ((real - 1).square().mean() + fake.square().mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    aim = LeastSquares(0.2).generator(scores[1])
    assert aim.item() == pytest.approx(((fake - 1).square().mean() / 2).item(), rel=1e-5)
    with_r1 = LeastSquares(0.2).discriminator(net, turn(8))[0]
    expected = 8 * 0.2 / 2 * net.w.square().sum()
    assert (with_r1 - loss).item() == pytest.approx(expected.item(), rel=1e-4)


def test_clipped_weights_stay_in_the_box_and_the_loss_has_no_penalty():
    net, at, game = Linear(), turn(), Clipped(0.05)
    loss, scores = game.discriminator(net, at)
    assert loss.item() == pytest.approx((scores[1].mean() - scores[0].mean()).item(), rel=1e-6)
    expected = net.w.detach().clamp(-0.05, 0.05)
    game.after(net)
    assert torch.equal(net.w, expected)
    assert isinstance(game.optimiser(net.parameters(), 0.1), torch.optim.RMSprop)
    assert game.generator(scores[1]).item() == pytest.approx(-scores[1].mean().item())


def test_real_and_made_images_can_be_scored_apart():
    sizes = []

    def judge(x):
        sizes.append(len(x))
        return x.flatten(1).sum(1)

    for is_apart in (False, True):
        at = replace(turn(1), is_apart=is_apart)
        _, scores = LeastSquares(0.0).discriminator(judge, at)
        assert scores.shape == (2, 7)
    assert sizes == [14, 7, 7]

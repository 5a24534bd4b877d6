"""Nets from images to images, what judges them, and the five costs of a pair."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.checkpoint import Partial
from models.gan import Settings, fit
from models.seeding import seeded
from models.translation import (
    POOL,
    SHOWN,
    Cycle,
    Judges,
    Pair,
    adversarial_cost,
    cycle_cost,
    discriminator_cost,
    identity_cost,
    patch_discriminator,
    translator,
)

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


# --- the five costs ------------------------------------------------------------------------------


def test_the_costs_of_an_example_by_hand():
    real, made = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
    # ((0 + 1/4) / 2 + (0 + 4) / 2) / 2, and (1 + 1) / 2.
    assert discriminator_cost(real, made) == pytest.approx(17 / 16)
    assert adversarial_cost(made) == 1
    assert discriminator_cost(torch.ones(3), torch.zeros(2)) == 0
    assert adversarial_cost(torch.ones(3)) == 0


def test_the_cycle_cost_of_an_example_by_hand():
    # Of A two images of two pixels, off by 1/2 and by 1/4 in one each; of B one, off by 1 in both.
    a = torch.tensor([[0.0, 0.5], [1.0, 1.0]]).view(2, 1, 1, 2)
    again_a = torch.tensor([[0.5, 0.5], [1.0, 0.75]]).view(2, 1, 1, 2)
    b, again_b = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
    assert cycle_cost(a, again_a, b, again_b) == (1 / 4 + 1 / 8) / 2 + 1
    assert cycle_cost(again_a, a, again_b, b) == (1 / 4 + 1 / 8) / 2 + 1
    with_minus = -cycle_cost(a, 100 * again_a, b, 100 * again_b)
    assert with_minus < -100, "as some notes print it, the worse the better"


class Affine(nn.Module):
    """x to gain x + shift."""

    def __init__(self, gain, shift=0.0):
        super().__init__()
        self.gain, self.shift = gain, shift

    def forward(self, x):
        return self.gain * x + self.shift


def test_identities_and_inverses_have_no_cycle_cost_identities_alone_no_identity_cost():
    a, b = images((1, 3, 3), seed=1), images((1, 3, 3), 5, seed=2)
    same, negative = nn.Identity(), Affine(-1, 1)
    for pair in (Pair(same, same), Pair(negative, negative), Pair(Affine(0.5), Affine(2))):
        cost = cycle_cost(a, pair.again(a), b, pair.there(pair.back(b)))
        assert cost == pytest.approx(0, abs=1e-6)
    assert identity_cost(Pair(same, same), a, b) == 0
    # |(1 - x) - x| = |1 - 2x| of both.
    expected = (1 - 2 * a).abs().mean() + (1 - 2 * b).abs().mean()
    torch.testing.assert_close(identity_cost(Pair(negative, negative), a, b), expected)
    # Each translator is asked about its own domain: F about A, G about B.
    assert identity_cost(Pair(Affine(0.0), same), a, b) == pytest.approx(float(b.mean()))


# --- the contest ---------------------------------------------------------------------------------


class Score(nn.Module):
    """Images to gain times their mean."""

    def __init__(self, gain):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        return self.gain * x.flatten(1).mean(1)


def seated(pair, judges, seed=0):
    random = torch.Generator().manual_seed(seed)
    return SimpleNamespace(generator=pair, discriminator=judges, random=random)


SHAPE = (1, 2, 2)


def constant(value, count=3):
    return torch.full((count, *SHAPE), value)


@pytest.mark.parametrize(("cycle", "identity"), [(0.0, 0.0), (10.0, 0.0), (10.0, 2.0)])
def test_the_loss_of_translators_is_the_sum_of_its_costs(cycle, identity):
    # x = 0.4 of A, y = 0.8 of B; G(x) = x / 2, F(y) = y / 4.
    pair, judges = Pair(Affine(0.5), Affine(0.25)), Judges(Score(2.0), Score(3.0), SHAPE)
    contest = Cycle(constant(0.4), constant(0.8), 2, cycle, identity)
    # D_A(F(y)) = 0.4 and D_B(G(x)) = 0.6; F(G(x)) = 0.05 and G(F(y)) = 0.1; F(x) = 0.1, G(y) = 0.4.
    adversarial = 0.6**2 + 0.4**2
    by_hand = adversarial + cycle * (0.35 + 0.7) + identity * (0.3 + 0.4)
    assert contest.generator(seated(pair, judges)).item() == pytest.approx(by_hand)


def test_the_loss_of_discriminators_is_the_sum_of_both():
    pair, judges = Pair(Affine(0.5), Affine(0.25)), Judges(Score(2.0), Score(3.0), SHAPE)
    contest = Cycle(constant(0.4), constant(0.8), 2)
    loss, told = contest.discriminator(seated(pair, judges), 0)
    # D_A: 0.8 of A, 0.4 of F(y). D_B: 2.4 of B, 0.6 of G(x).
    assert loss.item() == pytest.approx((0.2**2 + 0.4**2) / 2 + (1.4**2 + 0.6**2) / 2)
    assert told.tolist() == pytest.approx([1.6, 0.5])
    assert loss.requires_grad
    assert not told.requires_grad


def test_batches_of_both_domains_are_drawn_independently():
    a = torch.arange(20.0).view(20, 1, 1, 1)
    contest = Cycle(a, a + 100, 8)
    one, other = contest._drawn(seated(None, None))
    assert set(one.flatten().tolist()) <= set(range(20))
    assert set(other.flatten().tolist()) <= set(range(100, 120))
    assert not torch.equal(one, other - 100)
    again, _ = contest._drawn(seated(None, None))
    assert torch.equal(one, again), "from the players' numbers"


def test_the_pool_fills_then_exchanges_about_half_and_loses_nothing():
    judges, random = Judges(nn.Identity(), nn.Identity(), (1, 1, 1)), torch.Generator()
    random.manual_seed(0)
    count, exchanged, alive = 20, 0, set()
    for number in range(40):
        made = torch.arange(number * count, (number + 1) * count).float().view(1, -1, 1, 1, 1)
        made = torch.cat([made, made + 0.5])
        shown = judges.mixed(made, number, random)
        assert torch.equal(shown[1], shown[0] + 0.5), "each domain has its own pool"
        if number * count < POOL:
            assert torch.equal(shown, made)
            alive = set(judges.pool[0].flatten().tolist())
            continue
        is_old = shown[0].flatten() != made[0].flatten()
        assert set(shown[0].flatten()[is_old].tolist()) <= alive
        pooled = set(judges.pool[0].flatten().tolist())
        # What was shown from it leaves it, and what was not shown enters it.
        fresh = set(made[0].flatten()[is_old].tolist())
        assert pooled == alive - set(shown[0].flatten()[is_old].tolist()) | fresh
        assert len(pooled) == POOL
        alive, exchanged = pooled, exchanged + int(is_old.sum())
    # 37 calls of 20 fair coins: 370, standard deviation 13.6.
    assert abs(exchanged - 370) < 5 * 13.6


def test_a_batch_larger_than_the_pool_is_exchanged_in_part():
    judges, random = Judges(nn.Identity(), nn.Identity(), (1, 1, 1)), torch.Generator()
    made = torch.arange(2 * 70.0).view(2, 70, 1, 1, 1)
    assert torch.equal(judges.mixed(made, 0, random), made)
    shown = judges.mixed(made + 1000, 1, random)
    assert torch.equal(shown[:, POOL:], made[:, POOL:] + 1000)
    assert (shown[:, :POOL] < 1000).any()


def test_a_page_shows_images_of_a_in_b_and_back_in_a():
    contest = Cycle(constant(0.4, 12), constant(0.8), 2)
    page = contest.shown(Pair(Affine(0.5), Affine(3.0)))
    assert page.shape == (3 * SHOWN, *SHAPE)
    assert page[:, 0, 0, 0].view(3, SHOWN).mean(1).tolist() == pytest.approx([0.4, 0.2, 0.6])


# --- trained by the one loop ---------------------------------------------------------------------


def players(shape):
    with seeded(1):
        judges = Judges(patch_discriminator(shape, 4), patch_discriminator(shape, 4), shape)
        return Pair(translator(shape, 4), translator(shape, 4)), judges


def test_the_loop_finds_a_shift_of_brightness_that_nobody_paired():
    # A: flat images of 0.2 to 0.4, B of 0.5 to 0.7.
    shape = (1, 4, 4)
    grey = torch.linspace(0, 0.2, 50).view(-1, 1, 1, 1).expand(-1, *shape)
    pair, judges = players(shape)
    contest = Cycle(grey + 0.2, grey + 0.5, 16)
    trained = fit(pair, judges, contest, Settings(60, 16, 1, 1e-2, 0.9, 0))
    with torch.no_grad():
        there, again = pair(contest.a), pair.again(contest.a)
    assert there.mean() == pytest.approx(0.6, abs=0.1)
    assert (again - contest.a).abs().mean() < 0.05
    assert trained.log[-1]["slope_nonsaturating"] > 0
    (page,) = {tuple(images.shape) for images in trained.album.values()}
    assert page == (3 * SHOWN, *shape)


def test_an_interrupted_training_goes_on_to_the_same_weights_the_pool_included(tmp_path):
    shape, settings = (1, 4, 4), Settings(10, 20, 1, 1e-3, 0.9, 0)
    contest = Cycle(images(shape, 30, 1), images(shape, 30, 2), 20)
    whole, _ = trained = players(shape)
    fit(*trained, contest, settings)
    keep, cut = Partial(tmp_path / "state"), players(shape)

    def stop(line):
        if line.startswith("update 5/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(*cut, contest, settings, say=stop, keep=keep)
    again = players(shape)
    fit(*again, contest, settings, keep=keep)
    for one, other in zip(whole.parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)

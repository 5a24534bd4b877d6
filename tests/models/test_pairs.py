"""What a translator is trained for on pairs: both costs by hand, and that pairs stay pairs."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.checkpoint import Partial
from models.gan import Settings, fit
from models.pairs import Paired, discriminator_cost, translator_cost
from models.seeding import seeded
from models.translation import SHOWN, patch_discriminator, translator

SHAPE = (1, 8, 8)


def images(count=12, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


# --- costs ---------------------------------------------------------------------------------------


def test_the_translators_cost_by_hand():
    """Half the pixels off by 1/2: a mean square of 1/8; s(0) = 1/2 and s(ln 3) = 3/4."""
    clean = torch.tensor([[[[0.0, 0.5]]], [[[1.0, 0.25]]]])
    made = torch.tensor([[[[0.5, 0.5]]], [[[0.5, 0.25]]]])
    scores = torch.tensor([0.0, math.log(3)])
    expected = 0.7 / 8 + 0.3 * (math.log(2) + math.log(4 / 3)) / 2
    assert float(translator_cost(made, clean, scores)) == pytest.approx(expected, rel=1e-6)


def test_the_discriminators_cost_by_hand():
    """D(x) = 3/4 and 1/2, D(G(x_adv)) = 1/4 and 1/2; a blind one pays 2 ln 2."""
    clean, made = torch.tensor([math.log(3), 0.0]), torch.tensor([-math.log(3), 0.0])
    expected = math.log(4 / 3) + math.log(2)
    assert float(discriminator_cost(clean, made)) == pytest.approx(expected, rel=1e-6)
    blind = torch.zeros(5)
    assert float(discriminator_cost(blind, blind)) == pytest.approx(2 * math.log(2), rel=1e-6)


def test_what_repairs_perfectly_pays_for_the_discriminator_alone():
    x = images()
    assert float(translator_cost(x, x, torch.zeros(12))) == pytest.approx(0.3 * math.log(2))


# --- steps ---------------------------------------------------------------------------------------


class Score(nn.Module):
    """The mean of an image: what it shows tells which images came together."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return x.flatten(1).mean(1)


def seated(generator, judge):
    random = torch.Generator().manual_seed(4)
    return SimpleNamespace(generator=generator, discriminator=judge, random=random)


def test_pairs_stay_pairs():
    """The attacked image is the clean one and 1 more, so that taking 1 away repairs it."""

    class Minus(nn.Module):
        def forward(self, x):
            return x - 1

    clean, judge = images(), Score()
    contest = Paired(clean + 1, clean, 64)
    players = seated(Minus(), judge)
    loss, told = contest.discriminator(players, 0)
    real, made = judge.seen[0].chunk(2)
    assert len(real) == 64
    torch.testing.assert_close(real, made)
    scores = real.flatten(1).mean(1)
    torch.testing.assert_close(loss, discriminator_cost(scores, scores))
    torch.testing.assert_close(told, scores.sigmoid().mean().expand(2))
    loss = contest.generator(players)
    (made,) = judge.seen[1:]
    expected = 0.3 * -made.flatten(1).mean(1).sigmoid().log().mean()
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(made, real), "pairs of its own"


def test_the_discriminators_step_leaves_the_translator_without_a_gradient():
    with seeded(0):
        net, judge = translator(SHAPE, 4), patch_discriminator(SHAPE, 4)
    contest = Paired(images(seed=1), images(), 5)
    torch.autograd.backward(contest.discriminator(seated(net, judge), 0)[0])
    assert all(value.grad is None for value in net.parameters())
    assert any(value.grad is not None for value in judge.parameters())


def test_what_is_shown_is_attacked_repaired_and_clean():
    attacked, clean = images(seed=1), images()
    page = Paired(attacked, clean, 4).shown(nn.Identity())
    few = slice(0, SHOWN)
    assert torch.equal(page, torch.cat([attacked[few], attacked[few], clean[few]]))


# --- in the loop ---------------------------------------------------------------------------------


def trained(updates, makers=2, **changes):
    clean = images(64)
    with seeded(0):
        net, judge = translator(SHAPE, 8), patch_discriminator(SHAPE, 8)
    settings = Settings(updates, 16, 1, 5e-3, 0.0, 3, makers=makers)
    log = fit(net, judge, Paired(1 - clean, clean, 16), settings, **changes)
    return net, log


def test_it_learns_a_known_repair():
    """What was attacked is the negative: a net that repairs takes it back."""
    net, told = trained(300)
    unseen = images(50, seed=9)
    with torch.no_grad():
        error = float((net(1 - unseen) - unseen).square().mean())
    untouched = float((1 - 2 * unseen).square().mean())
    # Measured: 0.003 of 0.33.
    assert error < 0.01 * untouched
    assert all(math.isfinite(value) for entry in told.log for value in entry.values())
    assert max(told.album) == 300


def test_two_steps_of_the_translator_are_not_one():
    one, two = trained(3, makers=1)[0].state_dict(), trained(3)[0].state_dict()
    assert not all(torch.equal(one[name], two[name]) for name in one)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    class Enough(Exception):
        pass

    def stop(line):
        if line.startswith("update 20/"):
            raise Enough

    keep, whole = Partial(tmp_path / "state.safetensors"), trained(40)[0].state_dict()
    with pytest.raises(Enough):
        trained(40, keep=keep, say=stop)
    lines = []
    again = trained(40, keep=keep, say=lines.append)[0].state_dict()
    assert lines[0].startswith("going on after update ")
    assert all(torch.equal(whole[name], again[name]) for name in whole)

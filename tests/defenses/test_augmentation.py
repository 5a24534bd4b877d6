"""Training on noise to the letter."""

import math

import pytest
import torch
import torch.nn.functional as F

from attacks.draws import Draws
from defenses.augmentation import Noisy, check_noise, noise
from models import nets
from models.seeding import seeded
from models.split import Split
from models.train import Batch, Standard, accuracy


def plain():
    with seeded(0):
        return nets.cnn_small((1, 8, 8), 3)


def batch(count=6, *, epoch=0, places=None):
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    index = torch.arange(count) * 7 if places is None else places
    return Batch(x, torch.arange(count) % 3, index, epoch, 0.0)


def draws(count):
    return Draws(0, torch.arange(count), torch.zeros(count, dtype=torch.int64))


def test_each_kind_is_distributed_as_it_says():
    x = torch.zeros(4, 1, 100, 100)
    drawn = {kind: noise(x, 0.25, kind, draws(4)) for kind in ("normal", "uniform", "sign")}
    deviations = {"normal": 0.25, "uniform": 0.25 / math.sqrt(3), "sign": 0.25}
    for kind, value in drawn.items():  # 40,000 numbers: within four standard errors
        assert value.mean().item() == pytest.approx(0, abs=4 * deviations[kind] / 200)
        assert value.std().item() == pytest.approx(deviations[kind], rel=0.02)
    assert drawn["uniform"].abs().max() <= 0.25
    assert (drawn["sign"].abs() == 0.25).all()
    assert drawn["normal"].abs().max() > 0.75


@pytest.mark.parametrize("kind", ["normal", "uniform", "sign"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_loss_by_hand(kind, clip):
    net, made = plain(), batch(epoch=3)
    own = Draws(5, made.index, torch.full((6,), 3))
    x = made.x + noise(made.x, 0.5, kind, own)
    assert ((x < 0) | (x > 1)).any()
    expected = F.cross_entropy(net(x.clamp(0, 1) if clip else x), made.y)
    assert torch.equal(Noisy(0.5, kind, 5, clip).loss(net, made), expected)


def test_noise_is_the_images_own_and_another_each_epoch():
    objective, made = Noisy(0.5), batch()

    def loss(**changes):
        return objective.loss(plain(), batch(**changes)).item()

    assert loss() == loss()
    assert loss() != loss(epoch=1)
    assert loss() != loss(places=made.index + 1)
    assert loss() != Noisy(0.5, seed=1).loss(plain(), made).item()


def test_no_noise_is_standard_training():
    made, net = batch(), plain()
    for kind in ("normal", "uniform", "sign"):
        objective = Noisy(0.0, kind)
        assert torch.equal(objective.loss(net, made), Standard().loss(net, made))
        assert objective.text == Standard().text
    split = Split(made.x, made.y)
    assert Noisy(0.0).validate(net, split, 1.0) == Standard().validate(net, split, 1.0)


def test_a_checkpoint_is_judged_under_one_fixed_draw_of_the_noise():
    net, made, objective = plain().eval(), batch(600), Noisy(2.0)
    split = Split(made.x, made.y)
    measured = objective.validate(net, split, 1.0)
    moved = Split(objective.points(made.x, Draws.of(made.x, 0)), made.y)
    noisy = accuracy(net, moved)
    assert measured == {"score": noisy, "clean": accuracy(net, split), "noisy": noisy}
    assert noisy != measured["clean"]
    assert objective.validate(net, split, 0.5) == measured


@pytest.mark.parametrize("sigma", [-0.1, math.inf, math.nan])
def test_a_size_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be finite and at least 0, got"):
        check_noise(sigma)

"""Usefulness and robust usefulness of features, against their definitions and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attacks import norms
from defenses import usefulness
from defenses.usefulness import Ball, Groups
from models.penultimate import Penultimate
from models.registry import models
from models.seeding import seeded


def generator(seed):
    return torch.Generator().manual_seed(seed)


def data(count=200, classes=3, seed=0):
    """Images (N, 1, 4, 4) away from the box's walls, and labels that move them."""
    draw = generator(seed)
    y = torch.randint(classes, (count,), generator=draw)
    shift = torch.randn(classes, 1, 4, 4, generator=draw)[y]
    x = 0.5 + 0.02 * torch.randn(count, 1, 4, 4, generator=draw) + 0.02 * shift
    return x.clamp(0.3, 0.7), y


def by_hand(values, y, kind):
    """rho of one feature for a class, in plain words: each group weighs one half."""
    one, rest = values[y == kind].double(), values[y != kind].double()
    mean = (one.mean() + rest.mean()) / 2
    variance = (((one - mean) ** 2).mean() + ((rest - mean) ** 2).mean()) / 2
    return float((one.mean() - rest.mean()) / 2 / variance.sqrt())


def test_the_label_itself_has_rho_one_and_its_negative_too():
    y = torch.tensor([0] * 5 + [1] * 45)
    label = torch.where(y == 0, 1.0, -1.0)
    noise = torch.randn(50, generator=generator(0))
    features = torch.stack([label, -label, 3 + 0.1 * label, noise, torch.ones(50)], 1)
    found = usefulness.usefulness(features, Groups.of(y, 2))
    one = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(found.rho[:3], one, rtol=0, atol=1e-6)
    assert torch.equal(found.sign[0], torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert torch.equal(found.sign[1], -found.sign[0])
    # Under the null rho is within 3 standard errors: sqrt(1/5 + 1/45) / 2 = 0.24.
    assert (found.rho[3] < 3 * 0.24).all()
    assert torch.equal(found.rho[4], torch.zeros(2, dtype=torch.float64)), "constant"


@given(st.integers(0, 10**6))
def test_rho_is_what_its_definition_says(seed):
    x, y = data(60, seed=seed)
    values = x.flatten(1)[:, :3]
    found = usefulness.usefulness(values, Groups.of(y, 3))
    for kind in y.unique().tolist():
        for place in range(3):
            expected = by_hand(values[:, place], y, kind)
            # Variances are differences of squares near 1/4: 1e-16 / 1e-4 of a share.
            assert float(found.rho[place, kind]) == pytest.approx(abs(expected), abs=1e-6)
            assert float(found.sign[place, kind]) * expected >= -1e-9


def test_a_class_without_images_or_without_others_has_no_usefulness():
    x, _ = data(20)
    found = usefulness.usefulness(x.flatten(1), Groups.of(torch.zeros(20, dtype=torch.int64), 2))
    assert torch.equal(found.rho, torch.zeros(16, 2, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_linear_features_lose_eps_times_their_dual_norm(norm):
    """The closed form is the mean of y f at the worst point of each ball."""
    x, y = data()
    weights = torch.randn(4, 16, generator=generator(1), dtype=torch.float64)
    eps, groups = 0.1, Groups.of(y, 3)
    values = x.double().flatten(1) @ weights.T
    useful = usefulness.usefulness(values, groups)
    found = usefulness.linear_gamma(useful, weights, norm, eps)
    worst = {
        "linf": weights.sign(),
        "l2": weights / weights.norm(dim=1, keepdim=True),
        "l1": torch.where(
            weights.abs() == weights.abs().amax(1, keepdim=True), weights.sign(), 0.0
        ),
    }[norm]
    reach = eps * (worst * weights).sum(1)
    for kind in range(3):
        for place in range(4):
            turned = float(useful.sign[place, kind]) * values[:, place]
            mean = float(useful.sign[place, kind] * useful.mean[place, kind])
            f = (turned - mean) / float(useful.sd[place, kind])
            lost = float(reach[place] / useful.sd[place, kind])
            expected = ((f[y == kind] - lost).mean() - (f[y != kind] + lost).mean()) / 2
            assert float(found[place, kind]) == pytest.approx(float(expected), abs=1e-6)
    # The same from the ends of each ball.
    ends = usefulness.gamma(useful, groups, values - reach, values + reach)
    torch.testing.assert_close(ends, found, rtol=0, atol=1e-6)


def net_of(weights):
    """A net whose features are rows of weights times the pixels."""
    inner = nn.Linear(weights.shape[1], len(weights), bias=False)
    outer = nn.Linear(len(weights), 3)
    with torch.no_grad():
        inner.weight.copy_(weights)
    return nn.Sequential(nn.Flatten(), inner, outer)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_features_of_a_net_are_pushed_to_the_closed_form(norm):
    """A linear net, the box slack: PGD must find the exact infimum, and cannot go below it."""
    x, y = data(40)
    weights = torch.randn(4, 16, generator=generator(1))
    with seeded(0):
        features = Penultimate(net_of(weights))
    eps, groups = {"linf": 0.02, "l2": 0.05, "l1": 0.1}[norm], Groups.of(y, 3)
    low, high = usefulness.extremes(features, x, Ball(norm, eps, steps=40))
    with torch.no_grad():
        values = features(x)
    useful = usefulness.usefulness(values, groups)
    reach = eps * norms.size(weights, norms.dual(norm))
    # Steps of eps / 4 leave 0.8^80 of the way, 2e-8: the rest is float32.
    torch.testing.assert_close(low, values - reach, rtol=0, atol=1e-4 * float(reach.max()))
    torch.testing.assert_close(high, values + reach, rtol=0, atol=1e-4 * float(reach.max()))
    found = usefulness.gamma(useful, groups, low, high)
    exact = usefulness.linear_gamma(useful, weights, norm, eps)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
    assert (found >= exact - 1e-4).all(), "an upper bound, up to float32"


def test_the_box_keeps_features_from_moving():
    """Pixels at a wall: f = x_0 can only grow at 0, so inf over the ball is 0."""
    with seeded(0):
        features = Penultimate(net_of(torch.eye(16)[:1]))
    x = torch.zeros(4, 1, 4, 4)
    x[2:] = 1.0
    low, high = usefulness.extremes(features, x, Ball("linf", 0.25, steps=5))
    torch.testing.assert_close(low[:, 0], torch.tensor([0.0, 0.0, 0.75, 0.75]))
    torch.testing.assert_close(high[:, 0], torch.tensor([0.25, 0.25, 1.0, 1.0]))


def test_gamma_is_at_most_rho_whatever_the_net():
    x, y = data(30)
    features = Penultimate(models.get("mlp").build((1, 4, 4), 3))
    low, high = usefulness.extremes(features, x, Ball("l2", 0.1, steps=3))
    with torch.no_grad():
        values = features(x)
    assert (low <= values).all()
    assert (high >= values).all()
    groups = Groups.of(y, 3)
    useful = usefulness.usefulness(values, groups)
    assert (usefulness.gamma(useful, groups, low, high) <= useful.rho + 1e-9).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("l0", 1.0), "norm must be one of linf, l2, l1, got 'l0'"),
        (("l2", 0.0), "eps must be finite and above 0, got 0"),
        (("l2", math.inf), "eps must be finite and above 0, got inf"),
        (("l2", 1.0, 0), "steps must be at least 1, got 0"),
    ],
)
def test_a_bad_ball_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Ball(*fields)

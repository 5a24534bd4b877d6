"""Fidelity: Gaussians with a closed form, sets that cover each other or do not, chunks."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from models import distances
from models.fidelity import Gaussian, Overlap, features, frechet, overlap
from models.registry import models
from models.seeding import seeded


def normal(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def matrix(size, seed):
    root = normal(size, size, seed).double()
    return root @ root.T


def test_features_are_what_enters_the_last_linear_layer(monkeypatch):
    monkeypatch.setattr("models.passes._ROWS", 3)
    with seeded(0):
        net = models.get("cnn_small").build((1, 8, 8), 10)
    x = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = features(net, x)
    assert found.shape == (7, 100)
    assert not found.requires_grad
    torch.testing.assert_close(net[-1](found), net(x))


def test_a_net_without_a_linear_layer_is_refused():
    with pytest.raises(ValueError, match="Flatten has none"):
        features(nn.Flatten(), torch.zeros(1, 1, 2, 2))


# --- Frechet distance ----------------------------------------------------------------------------


def test_gaussians_of_diagonal_covariances():
    # ||m1 - m2||^2 + sum (sigma1 - sigma2)^2 = 25 + (1 - 2)^2 + (3 - 1)^2
    one = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 9.0]).double()))
    other = Gaussian(torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([4.0, 1]).double()))
    assert frechet(one, other) == pytest.approx(30, abs=1e-12)
    assert frechet(other, one) == pytest.approx(30, abs=1e-12)


def test_gaussians_whose_covariances_do_not_commute():
    one, other = (Gaussian(normal(6, 1, s)[:, 0].double(), matrix(6, s)) for s in (1, 2))
    root = scipy.linalg.sqrtm((one.covariance @ other.covariance).numpy())
    wanted = float((one.mean - other.mean).square().sum())
    wanted += float(one.covariance.trace() + other.covariance.trace()) - 2 * np.trace(root).real
    assert frechet(one, other) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("count", [2, 10, 500])
def test_a_set_is_at_no_distance_from_itself(count):
    # Fewer images than features: most directions have no variance at all.
    gaussian = Gaussian.of(normal(count, 100) * 10)
    assert frechet(gaussian, gaussian) == pytest.approx(0, abs=1e-7)


def test_moments_are_those_of_the_sample(monkeypatch):
    monkeypatch.setattr(distances, "_HELD", 12)
    x = normal(50, 4) + 100
    gaussian = Gaussian.of(x)
    assert np.allclose(gaussian.mean.numpy(), x.double().numpy().mean(0), atol=1e-12)
    assert np.allclose(gaussian.covariance.numpy(), np.cov(x.double().numpy().T), atol=1e-12)


def test_a_shift_moves_the_distance_by_its_square():
    x = normal(200, 5).double()
    shift = torch.tensor([3.0, 0, 0, 4.0, 0]).double()
    assert frechet(Gaussian.of(x), Gaussian.of(x + shift)) == pytest.approx(25, rel=1e-9)
    # Twice as wide: the sum of (2 sigma - sigma)^2 = tr S, beside the shift of the mean.
    one, other = Gaussian.of(x), Gaussian.of(2 * x)
    wanted = float(one.covariance.trace() + one.mean.square().sum())
    assert frechet(one, other) == pytest.approx(wanted, rel=1e-9)


def test_fewer_images_seem_farther():
    # Two samples of N(0, I_d): each covariance strays by about d / n, the means by 2 d / n.
    found = [
        frechet(Gaussian.of(normal(n, 20, 1)), Gaussian.of(normal(n, 20, 2))) for n in (100, 10_000)
    ]
    assert found[0] > 20 * found[1] > 0


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused(count):
    with pytest.raises(ValueError, match=f"at least 2 images, got {count}"):
        Gaussian.of(torch.zeros(count, 3))


# --- precision and recall ------------------------------------------------------------------------


def test_a_set_covers_itself():
    x = normal(300, 10)
    assert overlap(x, x) == Overlap(1, 1)
    twice = torch.cat([x[:5].repeat(8, 1), x])
    assert overlap(twice, twice) == Overlap(1, 1)


def test_far_sets_do_not_meet():
    x = normal(300, 10)
    assert overlap(x, x + 100) == Overlap(0, 0)


def test_by_hand_on_a_line():
    # Balls reach to the third neighbour: of 0, 1, 2, 3 these are 3, 2, 2, 3, together [-3, 6].
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    made = torch.tensor([[-3.0], [6.0], [6.5], [-3.5], [5.0], [100.0]])
    # Of -3.5, -3, 5, 6, 6.5, 100 they are 9.5, 9, 8, 9, 9.5, 95: -3 + 9 reaches all that is real.
    assert overlap(real, made) == Overlap(0.5, 1)
    assert overlap(made, real) == Overlap(1, 0.5)


def test_collapsed_images_are_precise_and_recall_nothing():
    real = normal(1000, 8)
    found = overlap(real, real[:1].repeat(1000, 1))
    assert found == Overlap(1, 1 / 1000)
    jitter = real[:1] + 0.01 * normal(1000, 8, 1)
    assert overlap(real, jitter).precision == 1
    assert overlap(real, jitter).recall <= 0.002


def test_half_the_modes_are_half_the_recall():
    real = normal(400, 5)
    real[200:] += 1000
    assert overlap(real, real[:200]).precision == 1
    assert overlap(real, real[:200]).recall == 0.5


def test_shares_do_not_depend_on_the_pieces(monkeypatch):
    real, made = normal(60, 4).double(), normal(50, 4, 1).double() * 1.5
    apart = torch.cdist(made, real, compute_mode="donot_use_mm_for_euclid_dist")
    within = torch.cdist(real, real, compute_mode="donot_use_mm_for_euclid_dist")
    reach = within.sort(1).values[:, 3]
    wanted = float((apart <= reach).any(1).double().mean())
    assert 0 < wanted < 1
    for held in (1, 100, 2**24):
        monkeypatch.setattr(distances, "_HELD", held)
        assert overlap(real, made).precision == wanted


def test_sets_without_neighbours_are_refused():
    with pytest.raises(ValueError, match="images must be more than 3, got 3"):
        overlap(normal(10, 2), normal(3, 2))

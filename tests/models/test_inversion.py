"""Inversion of generators whose inverse is known, and against slow loops written out here."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from models.generators import Generator
from models.inversion import Inversion
from models.priors import PRIORS
from models.seeding import seeded

SHAPE = (1, 2, 3)
SIZE, LATENT = 6, 3


class Linear(nn.Module):
    """G(z) = W z + 0.5 as images; nothing confines them, so that the inverse is least squares."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(SIZE, LATENT, generator=generator))

    def forward(self, z):
        return (z @ self.w.T + 0.5).view(-1, *SHAPE)


def linear(prior="normal"):
    return Generator(Linear(), LATENT, prior, SHAPE)


def smooth():
    """A generator that is curved everywhere."""
    with seeded(0):
        net = nn.Sequential(
            nn.Linear(LATENT, 8),
            nn.Tanh(),
            nn.Linear(8, SIZE),
            nn.Sigmoid(),
            nn.Unflatten(1, SHAPE),
        )
    return Generator(net, LATENT, "normal", SHAPE)


def numbers(*size, seed=1):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def starts(generator, count, each, seed=2):
    return generator.latents(count * each, seed).view(count, each, generator.latent)


def errors_of(images, x):
    return (images - x).square().flatten(1).mean(1)


def reference(generator, x, z, inversion, until=None):
    """One latent's descent, slowly; z and velocity (1, d)."""
    velocity = torch.zeros_like(z)
    for step in range(inversion.steps if until is None else until):
        leaf = z.detach().requires_grad_()
        loss = errors_of(generator(leaf), x).sum()
        loss = loss + inversion.penalty * generator.prior.penalty(leaf).sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        rate = inversion.lr * (0.1 if step >= 0.8 * inversion.steps else 1)
        velocity = inversion.momentum * velocity + slope
        z = generator.prior.confined(z - rate * velocity)
    return z, velocity


# --- where it ends -------------------------------------------------------------------------------


def test_a_linear_generator_is_inverted_to_the_least_squares_solution():
    generator, x = linear(), numbers(5, *SHAPE)
    found = Inversion(steps=2000, lr=0.5).run(generator, x, starts(generator, 5, 3))
    w = generator.net.w.detach()
    exact = torch.linalg.lstsq(w, (x - 0.5).flatten(1).T).solution.T
    assert torch.allclose(found.z, exact, atol=1e-4)
    assert torch.allclose(found.images, generator(exact), atol=1e-4)
    # It is a convex problem: every restart ends there.
    assert torch.allclose(found.errors, errors_of(generator(exact), x)[:, None], atol=1e-5)


def test_own_samples_of_a_linear_generator_are_found_again():
    generator = linear()
    z = generator.latents(4, 7)
    found = Inversion(steps=2000, lr=0.5).run(generator, generator(z), starts(generator, 4, 2))
    assert torch.allclose(found.z, z, atol=1e-4)
    assert float(found.error.max()) < 1e-9


def test_the_penalty_moves_the_solution_as_ridge_regression_does():
    generator, x, penalty = linear(), numbers(5, *SHAPE), 0.3
    found = Inversion(steps=2000, lr=0.5, penalty=penalty).run(
        generator, x, starts(generator, 5, 1)
    )
    # |W z + c - x|^2 / SIZE + penalty |z|^2 / 2: the mean over d of d z^2 / 2.
    w = generator.net.w.detach()
    ridge = w.T @ w + SIZE * penalty / 2 * torch.eye(LATENT)
    exact = torch.linalg.solve(ridge, w.T @ (x - 0.5).flatten(1).T).T
    assert torch.allclose(found.z, exact, atol=1e-4)


def test_uniform_latents_stay_where_the_prior_can_be():
    generator, edge = linear("uniform"), math.sqrt(3 / LATENT)
    x = generator(torch.full((2, LATENT), 3.0)).detach()
    found = Inversion(steps=50, penalty=5.0).run(generator, x, starts(generator, 2, 2))
    assert float(found.z.abs().max()) <= edge
    assert float(found.z.max()) == pytest.approx(edge)
    free = Inversion(steps=50).run(linear(), x, starts(linear(), 2, 2))
    assert float(free.z.max()) > edge


# --- the descent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inversion",
    [
        Inversion(steps=13, restarts=2),
        Inversion(steps=10, restarts=2, lr=0.3, momentum=0.0),
        Inversion(steps=11, restarts=2, lr=2.0, momentum=0.9, penalty=0.1),
    ],
)
@pytest.mark.parametrize("prior", PRIORS)
def test_it_is_the_plain_descent_of_each_restart(inversion, prior):
    generator = smooth()
    generator.prior = PRIORS[prior]
    x, z = numbers(4, *SHAPE), starts(generator, 4, 2)
    found = inversion.run(generator, x, z)
    ends = {
        (n, r): reference(generator, x[n : n + 1], z[n, r][None], inversion)
        for n, r in itertools.product(range(4), range(2))
    }
    for (n, r), (end, _) in ends.items():
        error = errors_of(generator(end), x[n : n + 1])
        assert found.errors[n, r].item() == pytest.approx(error.item(), abs=1e-6)
    for n in range(4):
        best = min(range(2), key=lambda r: found.errors[n, r].item())
        end, velocity = ends[n, best]
        assert torch.allclose(found.z[n], end[0], atol=1e-6)
        assert torch.allclose(found.velocity[n], velocity[0], atol=1e-6)
        assert torch.allclose(found.images[n], generator(end)[0], atol=1e-6)


def test_fewer_steps_are_the_first_ones_on_the_schedule_of_all():
    generator, inversion = smooth(), Inversion(steps=20, restarts=1)
    x, z = numbers(2, *SHAPE), starts(generator, 2, 1)
    for until in (0, 5, 17):
        found = inversion.run(generator, x, z, until=until)
        for n in range(2):
            end, _ = reference(generator, x[n : n + 1], z[n], inversion, until)
            assert torch.allclose(found.z[n], end[0], atol=1e-6)
    assert torch.equal(inversion.run(generator, x, z, until=0).z, z[:, 0])


def test_the_restart_with_the_smallest_error_is_the_one_returned():
    generator, x = smooth(), numbers(6, *SHAPE)
    found = Inversion(steps=3, restarts=5).run(generator, x, starts(generator, 6, 5))
    assert found.errors.shape == (6, 5)
    assert torch.allclose(errors_of(generator(found.z), x), found.errors.amin(1), atol=1e-7)
    assert torch.equal(found.error, found.errors.amin(1))
    assert torch.allclose(found.images, generator(found.z), atol=1e-7)
    assert len(set(found.errors.argmin(1).tolist())) > 1


def test_an_image_is_inverted_the_same_in_any_batch(monkeypatch):
    generator, inversion = smooth(), Inversion(steps=10, restarts=3)
    x, z = numbers(5, *SHAPE), starts(generator, 5, 3)
    whole = inversion.run(generator, x, z)
    alone = [inversion.run(generator, x[n : n + 1], z[n : n + 1]) for n in range(5)]
    assert torch.allclose(whole.errors, torch.cat([one.errors for one in alone]), atol=1e-7)
    assert torch.allclose(whole.z, torch.cat([one.z for one in alone]), atol=1e-6)
    monkeypatch.setattr("models.inversion._TOGETHER", {"cpu": 4})  # 15 latents in 4 batches
    assert torch.allclose(inversion.run(generator, x, z).z, whole.z, atol=1e-6)


def test_an_encoder_gives_the_first_start():
    generator, x = smooth(), numbers(4, *SHAPE)
    z = starts(generator, 4, 2)
    with seeded(4):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(SIZE, LATENT))
    inversion = Inversion(steps=4, restarts=2)
    found = inversion.run(generator, x, z, encoder=encoder)
    with torch.no_grad():
        replaced = torch.stack([encoder(x), z[:, 1]], 1)
    expected = inversion.run(generator, x, replaced)
    assert torch.equal(found.errors, expected.errors)
    assert not torch.equal(found.errors[:, 0], inversion.run(generator, x, z).errors[:, 0])


def test_tolerance_stops_single_restarts_and_moves_no_other():
    generator, x = linear(), numbers(3, *SHAPE)
    x[1] = generator(torch.zeros(1, LATENT)).detach()[0]
    z = starts(generator, 3, 2)
    z[1] = 0  # inverted at once
    free = Inversion(steps=60, lr=0.3).run(generator, x, z)
    near, far = (free.error + torch.tensor([0.0, 9.0, 0.0])).argsort()[:2].tolist()
    limit = float(free.error[near]) * 1.5  # reached by one image on the way
    early = Inversion(steps=60, lr=0.3, tolerance=limit).run(generator, x, z)
    for n, r in itertools.product(range(3), range(2)):
        end, velocity = z[n, r][None], torch.zeros(1, LATENT)
        for step in range(60):
            if errors_of(generator(end), x[n : n + 1]).item() <= limit:
                break
            end, velocity, _ = Inversion(steps=60, lr=0.3).step(
                generator, x[n : n + 1], end, velocity, step
            )
            end, velocity = end.detach(), velocity.detach()
        expected = errors_of(generator(end), x[n : n + 1]).item()
        assert early.errors[n, r].item() == pytest.approx(expected, abs=1e-6)
    assert early.errors[near].max().item() <= limit
    assert (early.errors[near] > free.errors[near] + 1e-5).all(), "stopped on the way"
    assert torch.equal(early.z[1], torch.zeros(LATENT))
    assert torch.allclose(early.errors[far], free.errors[far], atol=1e-7), "never so near"
    assert float(free.error[far]) > limit


def test_a_batch_ends_when_all_restarts_stand_still(monkeypatch):
    generator, asked = linear(), []
    x = generator(torch.zeros(2, LATENT)).detach()
    generator.register_forward_hook(lambda *_: asked.append(1))
    Inversion(steps=200, tolerance=0.1).run(generator, x, torch.zeros(2, 1, LATENT))
    assert len(asked) == 2, "one look and the images"


# --- gradients -----------------------------------------------------------------------------------


def unrolled(generator, x, z, inversion):
    """The images after all steps, as one graph."""
    velocity = torch.zeros_like(z)
    for step in range(inversion.steps):
        leaf = z if z.requires_grad else z.requires_grad_()
        error = errors_of(generator(leaf), x).sum()
        loss = error + inversion.penalty * generator.prior.penalty(leaf).sum()
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        rate = inversion.lr * (0.1 if step >= 0.8 * inversion.steps else 1)
        velocity = inversion.momentum * velocity + slope
        z = generator.prior.confined(z - rate * velocity)
    return generator(z)


@pytest.mark.parametrize("penalty", [0.0, 0.2])
def test_the_gradient_is_that_of_the_unrolled_descent(penalty):
    generator, inversion = smooth(), Inversion(steps=12, restarts=1, penalty=penalty)
    x, z = numbers(3, *SHAPE), starts(generator, 3, 1)
    towards = numbers(3, *SHAPE, seed=5) - 0.5
    one, other = (x.clone().requires_grad_() for _ in range(2))
    images = inversion.differentiable(generator, one, z, last=12)
    slow = unrolled(generator, other, z[:, 0].clone(), inversion)
    assert torch.allclose(images, slow, atol=1e-6)
    got, expected = (
        torch.autograd.grad((end * towards).sum(), leaf)[0]
        for end, leaf in ((images, one), (slow, other))
    )
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_gradient_of_a_linear_generator_is_known():
    # Momentum 0, one step: z' = z - lr (2 / SIZE) W^T (W z + c - x), so dG/dx = lr 2/SIZE W W^T.
    generator = linear()
    inversion = Inversion(steps=1, restarts=1, momentum=0.0)  # a tenth of lr, after 80 % of none
    x = numbers(1, *SHAPE).requires_grad_()
    images = inversion.differentiable(generator, x, starts(generator, 1, 1), last=1)
    (got,) = torch.autograd.grad(images.flatten()[0], x)
    w = generator.net.w.detach()
    assert torch.allclose(got.flatten(), (2 / SIZE * w @ w.T)[0], atol=1e-6)


def test_fewer_last_steps_are_followed_back_along_the_best_restart():
    generator, inversion = smooth(), Inversion(steps=10, restarts=3)
    x, z = numbers(2, *SHAPE), starts(generator, 2, 3)
    leaf = x.clone().requires_grad_()
    images = inversion.differentiable(generator, leaf, z, last=4)
    found = inversion.run(generator, x, z, until=6)
    other = x.clone().requires_grad_()
    at, speed = found.z.requires_grad_(), found.velocity
    for step in range(6, 10):
        at, speed, _ = inversion.step(generator, other, at, speed, step)
    got, expected = (
        torch.autograd.grad(end.square().sum(), end_leaf)[0]
        for end, end_leaf in ((images, leaf), (generator(at), other))
    )
    assert torch.allclose(got, expected, atol=1e-6)
    none = inversion.differentiable(generator, leaf, z, last=0)
    assert torch.allclose(none, inversion.run(generator, x, z).images, atol=1e-6)
    (gradient,) = torch.autograd.grad(none.sum(), leaf)
    assert float(gradient.abs().max()) == 0
    one, other = (inversion.differentiable(generator, leaf, z, last=n) for n in (10, 99))
    assert torch.equal(one, other), "there are no more than all"


def test_nothing_is_left_behind():
    generator, x = smooth(), numbers(2, *SHAPE)
    z, before = starts(generator, 2, 2), torch.get_rng_state()
    kept = z.clone()
    found = Inversion(steps=3, restarts=2).run(generator, x, z)
    assert torch.equal(z, kept)
    assert all(p.grad is None and p.requires_grad for p in generator.parameters())
    assert not found.images.requires_grad
    assert not found.z.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


# --- bad values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"lr": math.inf}, "lr must be above 0, got inf"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"penalty": -1.0}, "penalty must be at least 0, got -1.0"),
        ({"tolerance": math.nan}, "tolerance must be at least 0, got nan"),
    ],
)
def test_bad_values_are_refused(keys, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(Inversion(), **keys)


def test_starts_of_a_wrong_size_are_refused():
    generator, x = smooth(), numbers(2, *SHAPE)
    for wrong in (torch.zeros(2, 1, LATENT + 1), torch.zeros(3, 1, LATENT)):
        got = tuple(wrong.shape)
        with pytest.raises(ValueError, match="starts must be") as refused:
            Inversion().run(generator, x, wrong)
        assert str(refused.value) == f"starts must be (2, R, 3), got {got}"

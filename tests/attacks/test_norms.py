"""Geometry against slow float64 references, and the properties that define each operation."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from attacks import norms
from attacks.draws import Draws
from attacks.threat import NORMS
from tests.problems import Ball, balls, gradients, images, numbered

CONVEX = ("linf", "l2", "l1")
SLACK = {"rtol": 1e-4, "atol": 1e-6}
"""Of a distance: float32 rounds each pixel by 6e-8, and the l2 projection stops after 12 rounds, at
1e-5 by its docstring; a wrong nearest point is off by far more than 1e-4."""
FEWER = hypothesis.settings(max_examples=40)
"""For properties that hold or fail on almost any example."""
KS = 1.95
"""Kolmogorov-Smirnov distance times sqrt(n) that a right distribution exceeds once in 1000."""


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).norm(dim=1)


def bisected(ball: Ball, norm: str) -> Tensor:
    """The nearest point (N, d) float64, by bisection of the multiplier of the ball's constraint."""
    x, radius = ball.x.double(), ball.radius.double()[:, None]
    delta = ball.z.double() - x
    room = torch.where(delta < 0, x, 1 - x)

    def at(multiplier: Tensor) -> Tensor:
        if norm == "l2":
            return (delta.abs() / (1 + multiplier)).minimum(room)
        return (delta.abs() - multiplier).clamp(min=0).minimum(room)

    def excess(multiplier: Tensor) -> Tensor:
        moved = at(multiplier)
        length = moved.norm(dim=1) if norm == "l2" else moved.sum(1)
        return length[:, None] - radius

    low = torch.zeros_like(radius)
    high = torch.full_like(radius, 1e9)
    for _ in range(100):
        middle = (low + high) / 2
        beyond = excess(middle) > 0
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    multiplier = torch.where(excess(torch.zeros_like(radius)) <= 0, 0, high)
    return x + at(multiplier) * delta.sign()


def enumerated(ball: Ball) -> Tensor:
    """The nearest point (N, d) float64 of the l0 ball: the best of every set of components."""
    x, z = ball.x.double(), ball.z.double()
    dim = x.shape[1]
    nearest = x.clone()
    for row, radius in enumerate(ball.radius.floor().int().clamp(max=dim).tolist()):
        for chosen in itertools.combinations(range(dim), radius):
            point = x[row].clone()
            point[list(chosen)] = z[row, list(chosen)].clamp(0, 1)
            if (z[row] - point).norm() < (z[row] - nearest[row]).norm():
                nearest[row] = point
    return nearest


def reference(ball: Ball, norm: str) -> Tensor:
    if norm == "linf":
        x, radius = ball.x.double(), ball.radius.double()[:, None]
        return ball.z.double().clamp(x - radius, x + radius).clamp(0, 1)
    return enumerated(ball) if norm == "l0" else bisected(ball, norm)


@pytest.mark.parametrize("norm", CONVEX)
@hypothesis.given(balls())
def test_project_finds_the_nearest_point(norm: str, ball: Ball) -> None:
    projected = norms.project(ball.z, ball.x, ball.radius, norm)
    nearest = reference(ball, norm)
    assert norms.inside(projected, ball.x, ball.radius, norm).all()
    assert_close(distance(projected, ball.z), distance(nearest, ball.z), **SLACK)


@FEWER
@hypothesis.given(balls(dims=7))
def test_project_finds_the_nearest_point_in_l0(ball: Ball) -> None:
    projected = norms.project(ball.z, ball.x, ball.radius, "l0")
    assert norms.inside(projected, ball.x, ball.radius, "l0").all()
    assert_close(distance(projected, ball.z), distance(enumerated(ball), ball.z), **SLACK)


@pytest.mark.parametrize("norm", CONVEX)
@hypothesis.given(ball=balls(), seed=st.integers(0, 2**31))
def test_no_point_of_the_set_lies_beyond_the_projection(norm: str, ball: Ball, seed: int) -> None:
    """(z - p).(q - p) <= 0 for every q of a convex set: what makes p the projection of z."""
    p = norms.project(ball.z, ball.x, ball.radius, norm).double()
    x, radius = ball.x.double(), ball.radius.double()
    q = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shrink = (radius / norms.size(q - x, norm).clamp(min=1e-12)).clamp(max=1)
    q = x + (q - x) * shrink[:, None]
    towards = ((ball.z.double() - p) * (q - p)).sum(1)
    error = 1e-5 * distance(p, x) + 1e-6  # of p itself; the product carries it twice
    assert (towards <= error * (distance(ball.z, p) + distance(q, p) + error)).all()


@pytest.mark.parametrize("norm", NORMS)
@FEWER
@hypothesis.given(balls())
def test_project_twice_is_project_once(norm: str, ball: Ball) -> None:
    once = norms.project(ball.z, ball.x, ball.radius, norm)
    twice = norms.project(once, ball.x, ball.radius, norm)
    assert_close(twice, once, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
@FEWER
@hypothesis.given(balls())
def test_project_leaves_points_inside_where_they_are(norm: str, ball: Ball) -> None:
    z = ball.z.clamp(0, 1)
    radius = norms.size(z.double() - ball.x.double(), norm).float() * 1.001
    assert_close(norms.project(z, ball.x, radius, norm), z, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@FEWER
@hypothesis.given(balls())
def test_project_to_radius_zero_is_the_image(norm: str, ball: Ball) -> None:
    zero = torch.zeros_like(ball.radius)
    assert torch.equal(norms.project(ball.z, ball.x, zero, norm), ball.x)


@pytest.mark.parametrize("norm", NORMS)
@FEWER
@hypothesis.given(balls())
def test_project_treats_each_row_alone(norm: str, ball: Ball) -> None:
    """A row comes out the same, bit for bit, whatever stands in the others."""
    whole = norms.project(ball.z, ball.x, ball.radius, norm)
    for row in range(len(ball.x)):
        z, x = torch.full_like(ball.z, 0.9), torch.full_like(ball.x, 0.1)
        radius = torch.full_like(ball.radius, 0.3)
        z[row], x[row], radius[row] = ball.z[row], ball.x[row], ball.radius[row]
        assert torch.equal(norms.project(z, x, radius, norm)[row], whole[row])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("reach", [0.5, 1.0, 2.0])
def test_project_into_a_ball_that_just_holds_the_box(norm: str, reach: float) -> None:
    """All four walls are met exactly at the radius: nothing is left over to scale."""
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    z = torch.where(x > 0, 1 - reach, reach)
    radius = norms.size(z.clamp(0, 1) - x, norm)
    assert torch.equal(norms.project(z, x, radius, norm), z.clamp(0, 1))


@pytest.mark.parametrize("norm", CONVEX)
def test_project_on_a_large_image(norm: str) -> None:
    """The same nearest point on 3 x 32 x 32 pixels, a third of them at either wall."""
    x = images(8, shape=(3, 32, 32))
    z = x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    radius = torch.linspace(0.1, 1, 8) * {"linf": 0.3, "l2": 12, "l1": 600}[norm]
    ball = Ball(z.flatten(1), x.flatten(1), radius)
    projected = norms.project(z, x, radius, norm)
    assert projected.shape == x.shape
    assert norms.inside(projected, x, radius, norm).all()
    nearest = reference(ball, norm)
    assert_close(distance(projected.flatten(1), ball.z), distance(nearest, ball.z), **SLACK)
    # The point itself: sqrt(3072) components, each rounded to 6e-8 or scaled by up to 1e-5.
    assert (distance(projected.flatten(1), nearest) < 1e-5 * distance(nearest, ball.x) + 5e-6).all()


def test_project_reads_arguments_of_any_layout_and_changes_none() -> None:
    x = images(4, shape=(3, 5, 6)).to(memory_format=torch.channels_last)
    z = (x + 1).transpose(2, 3).contiguous().transpose(2, 3)
    before = z.clone(), x.clone()
    for norm in NORMS:
        radius = torch.full((4,), 2.0)
        tidy = norms.project(z.contiguous(), x.contiguous(), radius, norm)
        assert torch.equal(norms.project(z, x, radius, norm), tidy)
    assert torch.equal(z, before[0])
    assert torch.equal(x, before[1])


@pytest.mark.parametrize("norm", CONVEX)
@hypothesis.given(gradients())
def test_steepest_attains_the_dual_norm(norm: str, gradient: Tensor) -> None:
    """Up to 100 components l1 puts the step on the largest one, or shares it among equals."""
    direction = norms.steepest(gradient, torch.full_like(gradient, 0.5), norm)
    attained = (direction.double() * gradient.double()).sum(1)
    assert_close(attained, norms.size(gradient.double(), norms.dual(norm)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", CONVEX)
@FEWER
@hypothesis.given(gradients())
def test_steepest_is_of_size_one_or_zero(norm: str, gradient: Tensor) -> None:
    direction = norms.steepest(gradient, torch.full_like(gradient, 0.5), norm)
    nonzero = gradient.abs().amax(1) > 0
    assert direction.isfinite().all()
    assert_close(norms.size(direction.double(), norm), nonzero.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e30, 3e38])
def test_steepest_of_tiny_and_huge_gradients(norm: str, size: float) -> None:
    gradient = torch.tensor([[1.0, -1.0, 0.5, 0.0]]) * size
    direction = norms.steepest(gradient, torch.full_like(gradient, 0.5), norm)
    assert direction.isfinite().all()
    assert_close(norms.size(direction, norm), torch.ones(1))


def test_steepest_l1_leaves_out_what_the_box_stops() -> None:
    gradient = torch.tensor([[9.0, -8.0, 2.0, 1.0]])
    x = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    assert torch.equal(norms.steepest(gradient, x, "l1"), torch.tensor([[0.0, 0.0, 1.0, 0.0]]))


def test_steepest_l1_is_shared_among_the_largest_hundredth() -> None:
    gradient = torch.arange(1.0, 401)[None]
    direction = norms.steepest(gradient, torch.full_like(gradient, 0.5), "l1")
    assert torch.equal(direction.nonzero()[:, 1], torch.arange(396, 400))
    assert_close(direction[0, 396:], torch.full((4,), 0.25))


def test_steepest_has_no_direction_in_l0() -> None:
    with pytest.raises(ValueError, match="l0 has no steepest direction"):
        norms.steepest(torch.ones(1, 4), torch.zeros(1, 4), "l0")


@pytest.mark.parametrize("norm", NORMS)
@FEWER
@hypothesis.given(ball=balls(), seed=st.integers(0, 2**31))
def test_random_point_is_inside(norm: str, ball: Ball, seed: int) -> None:
    draws = numbered(len(ball.x), seed)
    point = norms.random_point(ball.x, ball.radius, norm, draws, "test")
    assert norms.inside(point, ball.x, ball.radius, norm).all()
    again = norms.random_point(ball.x, ball.radius, norm, draws, "test")
    assert torch.equal(again, point)


def ks(values: Tensor, distribution: str = "uniform") -> float:
    """Kolmogorov-Smirnov distance times sqrt(n)."""
    return float(stats.kstest(values.numpy(), distribution).statistic) * len(values) ** 0.5


def spread(norm: str, radius: float, *, dim: int = 5, count: int = 4000) -> Tensor:
    """Points drawn around the middle of the box, as steps (count, dim) in units of the radius."""
    x = torch.full((count, dim), 0.5)
    point = norms.random_point(x, torch.full((count,), radius), norm, numbered(count), "test")
    return (point.double() - x) / radius


def test_random_point_is_uniform_in_linf() -> None:
    delta = spread("linf", 0.4)
    for component in delta.T:
        assert ks((component + 1) / 2) < KS


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_random_point_is_uniform_in_l2_and_l1(norm: str) -> None:
    """The share of the ball's volume within a point is uniform, and no direction is preferred."""
    delta = spread(norm, 0.4)
    assert ks(norms.size(delta, norm) ** 5) < KS
    # Mean and correlations of 4000 points: 4 standard errors, 15 of them tested.
    deviation = delta.std(0)
    assert (delta.mean(0).abs() < 4 * deviation / 4000**0.5).all()
    assert (delta.T.corrcoef() - torch.eye(5)).abs().max() < 4 / 4000**0.5
    # Second moment of one component: r^2 / (d + 2) in l2; 2 r^2 / ((d + 1)(d + 2)) in l1.
    expected = 1 / 7 if norm == "l2" else 2 / 42
    assert_close(deviation**2, torch.full((5,), expected).double(), rtol=0.15, atol=0)


def test_random_point_in_l0_moves_at_most_that_many_components() -> None:
    x = torch.full((4000, 6), 0.5)
    radius = torch.full((4000,), 2.9)
    point = norms.random_point(x, radius, "l0", numbered(4000), "test")
    moved = point != x
    assert moved.sum(1).max() == 2
    assert ks(point[moved]) < KS
    # Each component is chosen for 2 of 6: 1333 expected, standard deviation 30.
    assert (moved.sum(0) - 4000 / 3).abs().max() < 4 * 30


@pytest.mark.parametrize("norm", NORMS)
def test_random_point_differs_between_samples_and_counters(norm: str) -> None:
    x, radius = torch.full((2, 50), 0.5), torch.full((2,), 10.0)
    first, second = (norms.random_point(x, radius, norm, numbered(2), "t", k) for k in (0, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_dual_norms() -> None:
    assert [norms.dual(norm) for norm in CONVEX] == ["l1", "l2", "linf"]


@pytest.mark.parametrize(
    ("norm", "expected"), [("linf", 0.5), ("l2", 0.75), ("l1", 1.25), ("l0", 3.0)]
)
def test_size(norm: str, expected: float) -> None:
    delta = torch.tensor([0.5, -0.5, 0.0, 0.0, 0.25, 0.0]).view(1, 1, 2, 3)
    assert norms.size(delta, norm).item() == expected


EDGE = {
    "linf": torch.tensor([0.1, -0.1, 0.1, 0.1]),
    "l2": torch.tensor([0.1, -0.1, 0.1, 0.1]) / 2,
    "l1": torch.tensor([0.1, -0.1, 0.1, 0.1]) / 4,
}


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize(("beyond", "verdict"), [(0.0, True), (1e-7, True), (2e-6, False)])
def test_inside_allows_a_millionth(norm: str, beyond: float, verdict: bool) -> None:
    """In float64: float32 images near 1/2 would round 1e-7 away."""
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    step = EDGE[norm].double()[None] * (1 + beyond / 0.1)
    assert norms.inside(x + step, x, torch.tensor([0.1]).double(), norm).item() is verdict


def test_inside_allows_more_in_a_large_l1_ball() -> None:
    x = torch.zeros(1, 100, dtype=torch.float64)
    point = torch.full_like(x, 0.5)
    for beyond, verdict in ((4e-5, True), (6e-5, False)):
        radius = torch.tensor([50 - beyond], dtype=torch.float64)
        assert norms.inside(point, x, radius, "l1").item() is verdict


def test_inside_counts_l0_exactly() -> None:
    x = torch.full((3, 4), 0.5)
    point = x + torch.tensor([1e-7, 1e-7, 0, 0])
    radius = torch.tensor([1.0, 1.99, 2.0])
    assert norms.inside(point, x, radius, "l0").tolist() == [False, False, True]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -2e-6, 1 + 2e-6])
def test_inside_refuses_what_is_not_an_image(norm: str, value: float) -> None:
    x = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 0.5]])
    point = x.clone()
    point[1, 0 if value < 0 else 1] = value
    radius = torch.full((2,), 100.0)
    assert norms.inside(point, x, radius, norm).tolist() == [True, False]


def test_inside_is_asked_per_sample() -> None:
    x = torch.full((3, 2, 2), 0.5)
    radius = torch.tensor([0.0, 0.1, 0.3])
    assert norms.inside(x + 0.2, x, radius, "linf").tolist() == [False, False, True]


@pytest.mark.parametrize("norm", ["l3", "Linf", ""])
def test_an_unknown_norm_is_refused(norm: str) -> None:
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, l0"):
        norms.size(torch.zeros(1, 2), norm)


def test_the_norms_of_the_threat_model_have_rows() -> None:
    delta = torch.from_numpy(np.ones((1, 4), np.float32))
    assert [norms.size(delta, norm).item() for norm in NORMS] == [1, 2, 4, 4]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_projected_point_is_inside_at_the_size_of_images(norm, share):
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3 * 64 * 64, generator=draws)
    radius = torch.linspace(0.02, 0.4, 16) if norm == "linf" else torch.linspace(1, 60, 16)
    far = x + share * (torch.rand(x.shape, generator=draws) - 0.5)
    projected = norms.project(far, x, radius, norm)
    assert norms.inside(projected, x, radius, norm).all()
    # Dense starts too: an l1 ball's uniform points lie next to its surface.
    started = norms.random_point(x, radius, norm, Draws.of(x, 0), "start")
    assert norms.inside(started, x, radius, norm).all()
    moved = norms.project(started + 0.01 * (far - x), x, radius, norm)
    assert norms.inside(moved, x, radius, norm).all()

"""Moves to a hyperplane inside the box, against linear programs and the optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor
from torch.testing import assert_close

from attacks import norms, planes
from attacks.draws import Draws
from tests.problems import images

COUNT, DIM = 40, 9


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points with a third of their components at either wall, slopes some of which are 0, gains."""
    generator = torch.Generator().manual_seed(seed)
    x = images(COUNT, seed=seed, shape=(1, 3, 3))
    slope = torch.randn(COUNT, 1, 3, 3, generator=generator)
    slope[torch.rand(slope.shape, generator=generator) < 0.1] = 0
    room = torch.where(slope > 0, 1 - x, x)
    most = (slope.abs() * room).flatten(1).sum(1)
    share = torch.rand(COUNT, generator=generator) * 0.9
    return x, slope, most * share


def programmed(x: NDArray[np.float64], w: NDArray[np.float64], gain: float, norm: str) -> float:
    """The least size of a move with <w, move> = gain inside the box, by a linear program."""
    eye, count = np.eye(DIM), 1 if norm == "linf" else DIM
    of = np.ones((DIM, 1)) if norm == "linf" else eye
    rows = np.vstack([np.hstack([eye, -of]), np.hstack([-eye, -of])])
    bounds = [(-xi, 1 - xi) for xi in x] + [(0.0, None)] * count
    cost = np.append(np.zeros(DIM), np.ones(count))
    equal = np.append(w, np.zeros(count))[None]
    solved = linprog(cost, rows, np.zeros(2 * DIM), equal, [gain], bounds=bounds)
    assert solved.status == 0
    return float(solved.fun)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_move_gains_what_was_asked_inside_the_box(norm: str, sign: int) -> None:
    x, slope, gain = problem(3)
    move = planes.step_to_plane(x, sign * slope, sign * gain, norm)
    assert norms.in_box(x + move).all()
    gained = (sign * slope.double() * move.double()).flatten(1).sum(1)
    assert_close(gained, sign * gain.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_smaller_move_does(norm: str) -> None:
    x, slope, gain = problem(4)
    move = planes.step_to_plane(x, slope, gain, norm)
    sizes = norms.size(move.double(), norm)
    for i in range(COUNT):
        flat = x[i].flatten().double().numpy(), slope[i].flatten().double().numpy()
        assert sizes[i].item() == pytest.approx(
            programmed(*flat, float(gain[i]), norm), rel=1e-5, abs=1e-7
        )


def test_under_l2_the_free_components_share_one_factor() -> None:
    """The optimality conditions: move = t w where the wall is not in the way, and at it elsewhere,
    where t w would lead beyond.
    """
    x, slope, gain = problem(5)
    move = planes.step_to_plane(x, slope, gain, "l2")
    for i in range(COUNT):
        w, m, at = slope[i].flatten(), move[i].flatten(), x[i].flatten()
        room = torch.where(w > 0, 1 - at, at)
        free = (m.abs() < room - 1e-6) & (w != 0)
        assert (m[w == 0] == 0).all()
        if not free.any():
            continue
        factor = (m[free] / w[free]).median()
        assert_close(m[free], factor * w[free], rtol=1e-4, atol=1e-6)
        stopped = ~free & (w != 0)
        assert (factor * w[stopped].abs() >= room[stopped] - 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_out_of_reach_it_goes_to_the_walls(norm: str) -> None:
    x, slope, _ = problem(6)
    slope = torch.where(slope == 0, 1, slope)
    move = planes.step_to_plane(x, slope, torch.full((COUNT,), 1e3), norm)
    assert_close(x + move, (slope > 0).float(), rtol=0, atol=1e-6)


def test_without_a_slope_it_stays() -> None:
    x, slope, gain = problem(7)
    for norm in ("linf", "l2", "l1"):
        assert (planes.step_to_plane(x, 0 * slope, gain, norm) == 0).all()


def test_l0_has_no_such_move() -> None:
    x, slope, gain = problem(8)
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, got 'l0'"):
        planes.step_to_plane(x, slope, gain, "l0")


def test_a_sparse_step_goes_over_the_largest_components() -> None:
    gradient = torch.tensor([[3.0, -2.0, 1.0, 0.0], [0.1, 0.2, -0.3, 0.4]])
    step = norms.sparse_steepest(gradient, torch.tensor([2, 1]))
    assert_close(step, torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_furthest_move_in_the_box(norm: str) -> None:
    x = torch.tensor([[0.0, 0.25, 1.0]])
    expected = {"linf": 1.0, "l2": (1 + 0.75**2 + 1) ** 0.5, "l1": 2.75, "l0": 3.0}[norm]
    assert norms.furthest(x, norm).item() == pytest.approx(expected)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_surface_point_has_the_radius_where_no_wall_is_near(norm: str) -> None:
    x = torch.full((30, 1, 8, 8), 0.5)
    radius = torch.linspace(0.01, 0.3, 30)
    draws = Draws(0, torch.arange(30), torch.zeros(30, dtype=torch.int64))
    point = norms.surface_point(x, radius, norm, draws, "start")
    assert_close(norms.size(point - x, norm), radius, rtol=1e-4, atol=0)
    walled = norms.surface_point(images(30), radius, norm, draws, "start")
    assert norms.in_box(walled).all()
    assert norms.inside(walled, images(30), radius, norm).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_a_projection_without_the_box_keeps_to_the_ball_alone(norm: str) -> None:
    x = images(20)
    z = 3 * x - 1
    radius = torch.full((20,), 3.0 if norm == "l0" else 0.5)
    near = norms.project(z, x, radius, norm, box=False)
    assert (norms.size((near - x).double(), norm) <= radius.double() * (1 + 1e-6)).all()
    assert not norms.in_box(near).all()
    inner = x + 0.001 * (z - x)
    kept = norms.project(inner, x, torch.full((20,), 100.0), norm, box=False)
    assert_close(kept, inner, rtol=0, atol=1e-6)


def test_the_components_furthest_away_are_kept() -> None:
    """By their distance before the box, ties by position."""
    x = torch.tensor([[0.5, 0.5, 0.5, 0.5]]).repeat(3, 1)
    z = torch.tensor([[0.6, 2.5, -0.2, 0.5]]).repeat(3, 1)
    kept = norms.keep_largest(z, x, torch.tensor([0.0, 1.0, 2.9]))
    expected = [[0.5, 0.5, 0.5, 0.5], [0.5, 1.0, 0.5, 0.5], [0.5, 1.0, 0.0, 0.5]]
    assert_close(kept, torch.tensor(expected))

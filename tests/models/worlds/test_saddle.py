"""The bilinear game: growth per step, and what steps in turn keep."""

import numpy as np
import pytest

from models.worlds import saddle


@pytest.mark.parametrize("lr", [0.01, 0.1, 1.0])
def test_steps_at_the_same_time_grow_by_a_known_factor(lr):
    radii = np.linalg.norm(saddle.path(saddle.simultaneous, lr, 200, (0.6, -0.8)), axis=1)
    np.testing.assert_allclose(radii[1:] / radii[:-1], np.sqrt(1 + lr**2), rtol=0, atol=1e-9)
    assert saddle.growth(lr) == pytest.approx(np.sqrt(1 + lr**2))


@pytest.mark.parametrize("lr", [0.01, 0.1, 1.0, 1.9])
def test_steps_in_turn_keep_to_an_ellipse(lr):
    points = saddle.path(saddle.alternating, lr, 2000, (0.6, -0.8))
    kept = saddle.invariant(points, lr)
    np.testing.assert_allclose(kept, kept[0], rtol=0, atol=1e-9)
    assert np.linalg.norm(points, axis=1).max() <= saddle.farthest(points, lr) + 1e-9


def test_the_ellipse_is_reached():
    """2,000 steps of about 0.1 radians come near every point of it."""
    points = saddle.path(saddle.alternating, 0.1, 2000)
    reach = np.linalg.norm(points, axis=1).max()
    assert reach == pytest.approx(saddle.farthest(points, 0.1), rel=1e-4)

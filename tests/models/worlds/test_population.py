"""Distributions against an optimal discriminator."""

import math

import numpy as np
import pytest

from models.worlds import population
from models.worlds.histograms import jsd, normalised

P = normalised([5, 3, 2, 1, 8, 7, 5, 9, 2, 1])
EVEN = np.full(10, 0.1)


def test_a_step_of_length_1_halves_the_distance():
    made = population.path(P, EVEN, 20)
    for number, q in enumerate(made):
        np.testing.assert_allclose(q - P, (EVEN - P) / 2**number, rtol=0, atol=1e-15)


@pytest.mark.parametrize("lr", [0.1, 1.0, 1.5])
def test_the_value_goes_to_minus_log_4(lr):
    made = population.path(P, EVEN, 400, lr)
    values = [population.value(P, q) for q in made]
    assert values[-1] == pytest.approx(-math.log(4), abs=1e-12)
    assert (np.diff(values) <= 1e-15).all()
    np.testing.assert_allclose(made.sum(1), 1, rtol=0, atol=1e-12)


def test_the_value_is_twice_the_divergence_less_log_4():
    assert population.value(P, EVEN) == pytest.approx(2 * jsd(P, EVEN) - math.log(4), abs=1e-12)


def test_an_empty_bin_of_the_data_is_emptied():
    p = normalised([1, 1, 0])
    last = population.path(p, np.full(3, 1 / 3), 60)[-1]
    np.testing.assert_allclose(last, p, rtol=0, atol=1e-12)


def test_what_cannot_move_is_refused():
    with pytest.raises(ValueError, match="must start above 0 everywhere"):
        population.path(P, np.eye(10)[0], 1)

"""Two normals a shift apart: quadrature, closed forms and samples."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from models.worlds import shifts

TABLE = [
    (0.0, 0.0, -1.386294, 0.5),
    (1.0, 0.111421, -1.163452, 0.691462),
    (2.0, 0.336831, -0.712633, 0.841345),
    (4.5, 0.659915, -0.066464, 0.987776),
    (math.inf, math.log(2), 0.0, 1.0),
]
EVEN = ndtri((np.arange(100_000) + 0.5) / 100_000)
"""A normal by its quantiles: what samples say, without their noise."""


@pytest.mark.parametrize(("shift", "jsd", "value", "accuracy"), TABLE)
def test_the_table_of_shifts(shift, jsd, value, accuracy):
    assert shifts.divergence(shift) == pytest.approx(jsd, abs=1e-6)
    assert shifts.value(shift) == pytest.approx(value, abs=1e-6)
    assert shifts.bayes(shift) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 4.5, 10.0, 30.0])
def test_the_value_is_twice_the_divergence_less_log_4(shift):
    assert shifts.value(shift) == pytest.approx(
        2 * shifts.divergence(shift) - math.log(4), abs=1e-9
    )


def test_the_divergence_saturates_where_w1_grows():
    """At shift 20 the tails that overlap are below 1e-20; W1 is the shift itself."""
    assert math.log(2) - shifts.divergence(20.0) < 1e-12
    pair = np.stack([EVEN, EVEN])
    for shift in (1.0, 20.0, 40.0):
        assert shifts.sampled(pair, shift).distance == pytest.approx(shift, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0, 4.5])
def test_samples_say_the_same(shift):
    """Quantiles leave out the outermost 1e-5 of the tails; at 0 the half right is exact."""
    seen = shifts.sampled(np.stack([EVEN, EVEN]), shift)
    assert seen.value == pytest.approx(shifts.value(shift), abs=1e-4)
    assert seen.accuracy == pytest.approx(shifts.bayes(shift), abs=1e-4)


def test_the_optimum_of_the_books_example():
    offset, slope = shifts.optimum(7.5, 3.0)
    assert (slope, offset, -offset / slope) == (4.5, -23.625, 5.25)


def test_logistic_regression_finds_the_optimum():
    offset, slope = shifts.fitted(EVEN + 7.5, EVEN + 3.0)
    assert slope == pytest.approx(4.5, abs=5e-3)
    assert -offset / slope == pytest.approx(5.25, abs=1e-6)

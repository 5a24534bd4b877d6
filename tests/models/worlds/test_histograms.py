"""Distances of histograms: linear programming, its dual, closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.worlds import histograms
from models.worlds.histograms import EXAMPLE, emd, jsd, kl, normalised, places, transport

P, Q = map(normalised, EXAMPLE)
COUNTS = st.lists(st.integers(0, 9), min_size=6, max_size=6).filter(any)


def test_the_example_by_linear_programming_and_in_closed_form():
    found = transport(P, Q, places(10))
    assert found.cost == pytest.approx(0.15148578811369506, abs=1e-9, rel=0)
    assert emd(P, Q) == pytest.approx(0.15148578811369506, abs=1e-9, rel=0)


def test_distances_by_tenths_are_another_number():
    found = transport(P, Q, places(10) * 9 / 10)
    assert found.cost == pytest.approx(0.1363372093, abs=1e-9)


def test_divergences_of_the_example():
    assert kl(P, Q) == math.inf
    assert kl(Q, P) == pytest.approx(0.3647105, abs=5e-8)
    assert jsd(P, Q) == pytest.approx(0.0841782, abs=5e-8)


@given(COUNTS, COUNTS)
def test_plan_dual_and_closed_form_agree(first, second):
    """HiGHS is exact to 1e-7."""
    p, q, distances = normalised(first), normalised(second), places(6)
    found = transport(p, q, distances)
    np.testing.assert_allclose(found.plan.sum(1), p, atol=1e-7)
    np.testing.assert_allclose(found.plan.sum(0), q, atol=1e-7)
    assert (found.plan >= -1e-9).all()
    assert found.cost == pytest.approx(emd(p, q), abs=1e-7)
    f, g = found.potentials
    assert (f[:, None] + g <= distances + 1e-7).all()
    assert p @ f + q @ g == pytest.approx(found.cost, abs=1e-7)


@given(COUNTS, COUNTS)
def test_jsd_stays_between_0_and_log_2(first, second):
    value = jsd(normalised(first), normalised(second))
    assert -1e-15 <= value <= math.log(2) + 1e-15


@pytest.mark.parametrize("gap", [1, 4, 9])
def test_far_histograms_have_one_jsd_and_many_distances(gap):
    p, q = np.eye(10)[0], np.eye(10)[gap]
    assert jsd(p, q) == pytest.approx(math.log(2), abs=1e-15)
    assert emd(p, q) == pytest.approx(gap / 9, abs=1e-15)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [[1, 2]], [1, math.inf], [math.nan, 1]])
def test_what_is_no_histogram_is_refused(counts):
    with pytest.raises(ValueError, match="counts must be a row of numbers from 0 on"):
        normalised(counts)


def test_histograms_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="10 bins need as many and 10x10 distances"):
        transport(P, Q[:9], places(10))
    with pytest.raises(ValueError, match="must hold as much as each other"):
        histograms.transport(P, 2 * Q, places(10))

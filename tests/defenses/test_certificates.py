"""Radii and decisions from counted votes, against published values and scipy's tests."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from defenses.certificates import ceiling, decisive, lower_bound, radius


@pytest.mark.parametrize(
    ("n", "of_sigma"),
    [(100_000, 3.81146), (10_000, 3.19858), (1000, 2.46326), (100, 1.50048)],
)
@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_a_unanimous_vote_certifies_the_ceiling(n: int, of_sigma: float, sigma: float) -> None:
    # the table gives five decimals
    assert ceiling(n, 0.001, sigma) == pytest.approx(sigma * of_sigma, abs=1e-5)
    assert lower_bound(n, n, 0.001) == pytest.approx(0.001 ** (1 / n), rel=1e-12)


def test_the_released_logs_used_another_alpha() -> None:
    assert ceiling(100_000, 0.01, 1.0) == pytest.approx(3.910, abs=1e-3)


def test_golden_radii() -> None:
    assert radius(99_000, 100_000, 0.001, 0.5) == pytest.approx(1.145, abs=5e-4)
    assert radius(990, 1000, 0.001, 0.25) == pytest.approx(0.4945, abs=5e-5)
    assert lower_bound(5100, 10_000, 0.001) == pytest.approx(0.4945, abs=5e-5)
    assert radius(5100, 10_000, 0.001, 0.25) == 0


def test_the_bound_is_the_share_at_which_so_many_votes_have_probability_alpha() -> None:
    votes = np.arange(0, 51)
    lower = lower_bound(votes, 50, 0.01)
    assert lower[0] == 0
    assert (np.diff(lower) > 0).all()
    tail = binom.sf(votes[1:] - 1, 50, lower[1:])
    np.testing.assert_allclose(tail, 0.01, rtol=1e-9)


def test_radii_of_many_are_those_of_each() -> None:
    votes = np.array([[0, 40, 60], [80, 99, 100]])
    many = radius(votes, 100, 0.001, 0.5)
    assert many.shape == (2, 3)
    for place, count in np.ndenumerate(votes):
        assert many[place] == radius(int(count), 100, 0.001, 0.5)
    assert (many >= 0).all()
    assert many[0, 2] == 0, "60 of 100 are not enough"


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
def test_decisive_votes_are_those_of_the_binomial_test(alpha: float) -> None:
    needed = decisive(300, alpha)
    assert needed.shape == (301,)
    assert needed[0] == 1
    for both in (*range(1, 30), 99, 100, 299, 300):
        least = int(needed[both])
        assert both / 2 < least <= both + 1
        if least <= both:
            assert binomtest(least, both, 0.5).pvalue <= alpha
        assert binomtest(least - 1, both, 0.5).pvalue > alpha


def test_eleven_votes_are_the_fewest_that_decide_at_a_thousandth() -> None:
    needed = decisive(11, 0.001)
    assert (needed[:11] > np.arange(11)).all()
    assert needed[11] == 11


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_bound(5, 4, 0.1), "successes must lie in 0 .. n = 4, got 5"),
        (lambda: lower_bound(-1, 4, 0.1), "successes must lie in 0 .. n = 4, got -1"),
        (lambda: radius(1, 4, 1.0, 1.0), "alpha must lie between 0 and 1, got 1.0"),
        (lambda: decisive(0, 0.1), "n must be at least 1, got 0"),
    ],
)
def test_bad_values_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

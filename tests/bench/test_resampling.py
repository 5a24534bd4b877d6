"""Bootstrap intervals against distributions known in closed form, and the two errors of draws."""

import math

import numpy as np
import pytest

from bench.stats import Interval, mean_over_draws, resampled_mean, resampled_median, wilson
from bench.stats.resampling import RESAMPLES, _cumulated

MONTE_CARLO = 4 / RESAMPLES**0.5
"""Four standard errors of a share of the resamples, and more."""


def test_resamples_draw_n_of_n_evenly() -> None:
    counts = np.diff(_cumulated(50), axis=0)
    assert counts.shape == (50, RESAMPLES)
    assert (counts.sum(axis=0) == 50).all()
    # how often a place is drawn is binomial(50, 1 / 50): never in .98^50 of the resamples
    assert (counts == 0).mean() == pytest.approx(0.98**50, abs=MONTE_CARLO / 50**0.5)
    assert counts.mean(axis=1) == pytest.approx(np.ones(50), abs=MONTE_CARLO)
    # independent from one to the next
    assert abs(np.corrcoef(counts[7, :-1], counts[7, 1:])[0, 1]) < MONTE_CARLO


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution() -> None:
    from scipy.stats import binom

    interval = resampled_mean([1.0] * 30 + [0.0] * 70)
    assert interval.value == 0.3
    assert interval.low == pytest.approx(binom.ppf(0.025, 100, 0.3) / 100, abs=0.011)
    assert interval.high == pytest.approx(binom.ppf(0.975, 100, 0.3) / 100, abs=0.011)


def test_the_order_of_samples_moves_nothing_and_scale_only_scales() -> None:
    values = np.array([0, 0.05, 0.1, 0.1, 0.15, 0.15, 0.15, 0.15])
    interval = resampled_mean(values)
    assert resampled_mean(values[::-1]) == interval
    assert resampled_mean(values) == interval
    twice = resampled_mean(2 * values)
    assert (twice.low, twice.high) == pytest.approx((2 * interval.low, 2 * interval.high))


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    """P(median of a resample <= i-th of n) = P(binomial(n, i / n) >= (n + 1) / 2) for odd n."""
    from scipy.stats import binom

    n = 101
    interval = resampled_median(np.arange(1.0, n + 1))
    reached = binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    assert interval.value == 51
    assert interval.low == pytest.approx(1 + int((reached < 0.025).sum()), abs=1)
    assert interval.high == pytest.approx(1 + int((reached < 0.975).sum()), abs=1)


def test_a_median_may_be_infinite() -> None:
    bounded = resampled_median([1.0] * 55 + [math.inf] * 46)
    assert (bounded.value, bounded.low) == (1, 1)
    assert bounded.high == math.inf
    assert resampled_median([math.inf] * 9) == Interval(math.inf, math.inf, math.inf)
    assert resampled_median([1.0, 3.0]).value == 2


def test_one_sample_has_a_point() -> None:
    assert resampled_mean([0.3]) == Interval(0.3, 0.3, 0.3)
    assert resampled_median([0.3]) == Interval(0.3, 0.3, 0.3)


def test_trainings_are_clusters() -> None:
    """Where samples within a training agree, only trainings vary: two of them, 0 and 1, have a
    quarter of all resamples at either end. Where trainings agree, only samples vary.
    """
    apart = np.repeat([[0.0], [1.0]], 40, axis=1)
    assert resampled_mean(apart) == Interval(0.5, 0, 1)
    alone = resampled_mean([1.0] * 30 + [0.0] * 70)
    alike = resampled_mean([[1.0] * 30 + [0.0] * 70] * 3)
    assert alike.value == alone.value
    assert (alike.low, alike.high) == pytest.approx((alone.low, alone.high), abs=0.011)


@pytest.mark.parametrize("statistic", [resampled_mean, resampled_median])
def test_nothing_to_resample_is_refused(statistic) -> None:
    with pytest.raises(ValueError, match=r"at least one sample is needed, got none \(n = 0\)"):
        statistic([])
    with pytest.raises(ValueError, match="values must not be nan"):
        statistic([1.0, math.nan])
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 1"):
        statistic([1.0], alpha=1)


def test_draws_have_two_errors() -> None:
    # draws right on 3, 2 and 1 of 4 samples: standard deviation of .75 .5 .25
    right = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    found = mean_over_draws(right)
    assert found.sampling.value == pytest.approx(0.5, rel=1e-12)
    assert found.sampling.low == pytest.approx(wilson(2, 4).low, rel=1e-12)
    assert found.spread == pytest.approx(0.25, rel=1e-12)
    assert found.error == pytest.approx(0.25 / 3**0.5, rel=1e-12)


def test_one_draw_shows_no_spread_and_none_is_refused() -> None:
    alone = mean_over_draws(np.ones((5, 1), bool))
    assert alone.sampling == wilson(5, 5)
    assert math.isnan(alone.spread)
    assert math.isnan(alone.error)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        mean_over_draws(np.ones((0, 3), bool))

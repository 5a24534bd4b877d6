"""Intervals against published values and values computed by hand."""

import math

import numpy as np
import pytest

from bench.stats import Interval, clopper_pearson, needed_for, student, wilson, wilson_bounds

GOLDEN = [  # successes, n, Wilson 95 %
    (0, 100, 0.0, 0.03699),
    (0, 1000, 0.0, 0.00383),
    (0, 10_000, 0.0, 0.00038),
    (50, 100, 0.40383, 0.59617),
    (893, 1000, 0.87232, 0.91068),
    (8930, 10_000, 0.88679, 0.89891),
    (458, 1000, 0.42734, 0.48898),
    (4580, 10_000, 0.44825, 0.46778),
]


@pytest.mark.parametrize(("successes", "n", "low", "high"), GOLDEN)
def test_wilson_has_the_golden_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert float(interval) == successes / n
    # the table gives five decimals
    assert interval.low == pytest.approx(low, abs=1e-5)
    assert interval.high == pytest.approx(high, abs=1e-5)


EXACT = [  # successes, n, Clopper-Pearson 95 %
    (0, 100, 0.0, 0.03622),
    (0, 1000, 0.0, 0.00368),
    (0, 10_000, 0.0, 0.00037),
    (50, 100, 0.39832, 0.60168),
    (893, 1000, 0.87217, 0.91148),
    (8930, 10_000, 0.88678, 0.89899),
    (458, 1000, 0.42678, 0.48947),
    (4580, 10_000, 0.4482, 0.46783),
]


@pytest.mark.parametrize(("successes", "n", "low", "high"), EXACT)
def test_clopper_pearson_has_the_golden_values(
    successes: int, n: int, low: float, high: float
) -> None:
    interval = clopper_pearson(successes, n)
    assert float(interval) == successes / n
    assert interval.low == pytest.approx(low, abs=1e-5)
    assert interval.high == pytest.approx(high, abs=1e-5)


def test_clopper_pearson_is_exact_at_the_ends() -> None:
    none, every = clopper_pearson(0, 20), clopper_pearson(20, 20)
    assert (none.low, every.high) == (0, 1)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12)
    assert every.low == pytest.approx(0.025 ** (1 / 20), rel=1e-12)


def test_wilson_by_hand() -> None:
    z = 1.959963984540054
    center, spread = (3 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * (2.1 + z**2 / 4) ** 0.5
    interval = wilson(3, 10)
    assert interval.value == 0.3
    assert interval.low == pytest.approx(center - spread, rel=1e-12)
    assert interval.high == pytest.approx(center + spread, rel=1e-12)


def test_bounds_are_exact_at_the_ends() -> None:
    for n in (1, 7, 1000):
        low, high = wilson_bounds([0, n], n)
        assert low[0] == 0
        assert high[1] == 1
        assert 0 < high[0] < 1
        assert high[0] == pytest.approx(1 - low[1], abs=1e-12)


def test_bounds_of_many_are_those_of_each() -> None:
    low, high = wilson_bounds(np.arange(21), 20)
    for successes in range(21):
        one = wilson(successes, 20)
        assert (one.low, one.high) == (low[successes], high[successes])


def test_a_higher_confidence_is_wider() -> None:
    narrow, wide = wilson(30, 100, alpha=0.1), wilson(30, 100, alpha=0.01)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize(
    ("successes", "n", "alpha", "message"),
    [
        (0, 0, 0.05, "n must be at least 1, got 0"),
        (5, 4, 0.05, "successes must lie in 0 .. n = 4, got 5"),
        (-1, 4, 0.05, "successes must lie in 0 .. n = 4, got -1"),
        (1, 4, 1.0, "alpha must lie between 0 and 1, got 1.0"),
    ],
)
def test_wilson_refuses(successes: int, n: int, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wilson(successes, n, alpha)


def test_intervals_overlap_when_they_share_a_point() -> None:
    middle = Interval(0.5, 0.4, 0.6)
    assert middle.overlaps(Interval(0.7, 0.6, 0.8))
    assert Interval(0.7, 0.6, 0.8).overlaps(middle)
    assert middle.overlaps(Interval(0.5, 0.45, 0.55))
    assert not middle.overlaps(Interval(0.8, 0.61, 0.9))


def test_needed_samples_are_the_least_that_suffice() -> None:
    def half_width(share: float, n: int) -> float:
        interval = wilson(share * n, n)
        return (interval.high - interval.low) / 2

    for share in (0, 0.1, 0.46, 0.5, 1):
        for half in (0.005, 0.01, 0.05, 0.2):
            n = needed_for(share, half)
            assert half_width(share, n) <= half * (1 + 1e-12)
            assert n == 1 or half_width(share, n - 1) > half
    # the normal approximation of the reference values, which Wilson's intervals come close to
    for share, half, known in ((0.5, 0.01, 9604), (0.9, 0.01, 3458), (0.46, 0.01, 9543)):
        assert needed_for(share, half) == pytest.approx(known, abs=5)


@pytest.mark.parametrize(("share", "half"), [(0.5, 0), (0.5, 0.5), (1.5, 0.1), (0.5, math.nan)])
def test_needed_samples_refuse(share: float, half: float) -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], half in \(0, 0.5\), got"):
        needed_for(share, half)


def test_student_by_hand() -> None:
    # t at 0.975 with 2 degrees of freedom, from a table; standard deviation 0.1
    interval = student([0.8, 0.6, 0.7])
    spread = 4.302652729696 * 0.1 / 3**0.5
    assert interval.value == 0.7
    assert interval.low == pytest.approx(0.7 - spread, rel=1e-10)
    assert interval.high == pytest.approx(0.7 + spread, rel=1e-10)


def test_student_stays_within_shares() -> None:
    # two values a distance d apart: t(1) d / 2 is 12.706 / 2 times d
    assert student([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)
    assert student([0.49, 0.51]).low == pytest.approx(0.5 - 12.7062047364 * 0.01, rel=1e-9)


def test_student_of_equal_shares_is_a_point_and_of_one_has_no_bounds() -> None:
    assert student([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1)
    alone = student([0.3])
    assert alone.value == 0.3
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


@pytest.mark.parametrize("shares", [[], [0.5, 1.5], [-0.1], [math.nan, 0.5]])
def test_student_refuses(shares: list[float]) -> None:
    with pytest.raises(ValueError, match=r"shares must be one or more numbers in \[0, 1\], got \["):
        student(shares)

"""Paired tests, their adjustment and their power against published and hand-made values."""

import itertools
import math

import numpy as np
import pytest

from bench.stats import holm, mcnemar, mcnemar_p, needed, power_note, smallest_drop


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (10, 2, 0.03857),  # published with the reference values
        (25, 10, 0.01667),
        (5, 0, 2 / 2**5),  # 2 P(no success in 5), by hand
        (0, 6, 2 / 2**6),
        (1, 7, 2 * (1 + 8) / 2**8),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (1, 0, 1.0),
    ],
)
def test_mcnemar_is_exact(only_first: int, only_second: int, p: float) -> None:
    both, neither = 7, 4
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    assert mcnemar(np.array(first), np.array(second)) == pytest.approx(p, abs=1e-5)
    assert float(mcnemar_p(only_first, only_second)) == pytest.approx(p, abs=1e-5)


def test_mcnemar_of_many_is_that_of_each() -> None:
    first, second = np.meshgrid(np.arange(9), np.arange(9))
    together = mcnemar_p(first, second)
    for pair in itertools.product(range(9), repeat=2):
        assert together[pair] == mcnemar_p(first[pair], second[pair])


def test_mcnemar_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match=r"outcomes must be paired, got shapes \(3,\) and \(4,\)"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and none below a smaller one's
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.4, 0.6, 1.0]).tolist() == [1, 1, 1]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    found = (np.arange(1, 30) * 0.37 % 1) ** 3
    assert holm(found.tolist()) == pytest.approx(multipletests(found, method="holm")[1], rel=1e-12)


@pytest.mark.parametrize("found", [[0.1, 1.5], [-0.1], [math.nan]])
def test_holm_refuses(found: list[float]) -> None:
    with pytest.raises(ValueError, match=r"p-values must lie in \[0, 1\], got \["):
        holm(found)


@pytest.mark.parametrize(
    ("worse", "better", "n"),
    [(0.01, 0, 783), (0.015, 0.005, 1568), (0.02, 0.01, 2353), (0.03, 0.02, 3923)],
)
def test_needed_samples_have_the_golden_values(worse: float, better: float, n: int) -> None:
    assert needed(worse, better) == n
    # so many samples see the drop that they were needed for, one fewer does not; where all changes
    # for the worse the exact test, which decides there, wants a little more
    discordant = worse + better
    if better:
        assert smallest_drop(n, discordant) <= worse - better < smallest_drop(n - 1, discordant)
    assert smallest_drop(n, discordant) == pytest.approx(worse - better, rel=0.01)


def test_the_most_favourable_drop_is_exact() -> None:
    """Six discordant samples are needed, 2 / 2**6 < 0.05 < 2 / 2**5: all of 6 must change."""
    assert smallest_drop(6) == pytest.approx(0.8 ** (1 / 6), rel=1e-12)
    for n in (1, 5):
        assert smallest_drop(n) == math.inf
        assert smallest_drop(n, 0.5) == math.inf
    drop = smallest_drop(500)
    fewer = sum(math.comb(500, k) * drop**k * (1 - drop) ** (500 - k) for k in range(6))
    assert 1 - fewer == pytest.approx(0.8, rel=1e-9)
    # the normal formula, which is not exact, is near it
    assert needed(drop, 0) == pytest.approx(500, rel=0.02)


def test_more_samples_see_smaller_drops() -> None:
    for discordant in (0, 0.02, 0.1, 1):
        drops = [smallest_drop(n, discordant) for n in (10, 100, 1000, 10_000)]
        assert drops == sorted(drops, reverse=True)
        assert all(drop >= smallest_drop(n) for n, drop in zip((10, 100), drops, strict=False))


@pytest.mark.parametrize(
    ("n", "discordant", "message"),
    [
        (0, 0.0, "n must be at least 1, got 0"),
        (9, 1.5, r"discordant must lie in \[0, 1\], got 1.5"),
    ],
)
def test_smallest_drop_refuses(n: int, discordant: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smallest_drop(n, discordant)


def test_needed_refuses_what_is_no_drop() -> None:
    with pytest.raises(ValueError, match="shares must be 0 <= better < worse, together at most 1"):
        needed(0.02, 0.02)


def test_the_power_note_is_a_sentence() -> None:
    assert power_note(500).startswith(
        "n = 500 cannot see a drop below 4 points where two rows differ on 10 % of the images"
    )
    assert power_note(6) == (
        "n = 6 cannot see a drop below 96 points where all that changes changes for the worse "
        "(McNemar test at level 0.05, power 80 %)."
    )
    assert power_note(1) == "n = 1 cannot see any drop (exact McNemar test at level 0.05)."

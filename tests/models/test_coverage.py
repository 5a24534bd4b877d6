"""Coverage: constants of samplers of k classes, and histories that are named, each beside one that
is not.
"""

import math

import numpy as np
import pytest

from models.coverage import (
    COLLAPSE,
    DROPPING,
    ROTATING,
    SOUND,
    coverage,
    expected_modes,
    naming,
    tally,
)

TEN = np.ones(10)


def drawn(prior, samples, seed):
    """Counts of so many samples of a prior."""
    shares = np.asarray(prior, float)
    generator = np.random.default_rng(seed)  # noqa: TID251  a generator of its own
    return generator.multinomial(samples, shares / shares.sum())


def of(*named, classes=10, samples=1000):
    """Counts spread evenly over the classes named."""
    found = np.zeros(classes, int)
    found[list(named)] = samples // len(named)
    return found


# --- what counts tell ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "classes", "divergence"),
    [
        (1, 1000, 6.907755),
        (99, 1000, 2.312635),
        (1000, 1000, 0),
        (1, 10, 2.302585),
        (5, 10, 0.693147),
        (10, 10, 0),
    ],
)
def test_a_sampler_of_k_classes(modes, classes, divergence):
    found = coverage(of(*range(modes), classes=classes, samples=100 * modes), np.ones(classes))
    assert (found.samples, found.modes) == (100 * modes, modes)
    assert found.divergence == pytest.approx(math.log(classes / modes), abs=1e-12)
    assert found.divergence == pytest.approx(divergence, abs=1e-6)
    assert found.entropy == pytest.approx(math.log(modes), abs=1e-12)


def test_a_prior_that_is_not_uniform():
    # KL of (1/2, 1/2, 0) from (1/4, 1/4, 1/2) is ln 2, whatever the prior's scale.
    for prior in ([1, 1, 2], [0.25, 0.25, 0.5]):
        assert coverage([5, 5, 0], prior).divergence == pytest.approx(math.log(2))
    assert coverage([1, 3], [1, 3]).divergence == pytest.approx(0, abs=1e-15)
    assert coverage([1, 3], [0, 1]).divergence == math.inf
    assert coverage([0, 3], [0, 1]).divergence == 0


def test_a_finite_sample_diverges_by_its_size():
    found = [coverage(drawn(TEN, 500, seed), TEN).divergence for seed in range(300)]
    # (K - 1) / (2 n) = 0.009; 2 n KL is about chi-squared of 9: standard error 9 %/sqrt(300) * 4.7.
    assert np.mean(found) == pytest.approx(9 / 1000, rel=0.11)


def test_labels_are_counted():
    assert tally(np.array([2, 0, 2, 2]), 4).tolist() == [1, 0, 3, 0]
    assert tally(np.array([], int), 2).tolist() == [0, 0]


def test_expected_modes():
    assert expected_modes(np.ones(1000), 26_000) == pytest.approx(1000, abs=1e-7)
    assert expected_modes([1, 1], 1) == 1
    assert coverage([1, 0], [1, 1]).expected == 1
    assert expected_modes([1, 3, 0], 2) == pytest.approx(1 - 9 / 16 + 1 - 1 / 16)
    found = [coverage(drawn(np.ones(1000), 1000, s), np.ones(1000)).modes for s in range(30)]
    # Standard deviation of one count: about sqrt(1000 (1/e - 2/e^2)) = 9.9.
    assert np.mean(found) == pytest.approx(expected_modes(np.ones(1000), 1000), abs=4 * 9.9 / 5.5)


# --- one look, by name ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "prior", "name"),
    [
        (of(3), TEN, COLLAPSE),
        ([925, 25, 25, 25, 0, 0, 0, 0, 0, 0], TEN, COLLAPSE),
        (of(3, samples=5), TEN, COLLAPSE),
        (of(3, samples=3), TEN, SOUND),  # chance once in a hundred
        ([95, 5], [95, 5], SOUND),  # nearly all, as in the prior
        ([9200, 800], [99, 1], SOUND),  # nearly all, less than in the prior
        (of(7, classes=1000), np.ones(1000), COLLAPSE),
        (of(0, 1, 2, 3, 4, 5, 6, 7, 8), TEN, DROPPING),
        (of(0, 1), TEN, DROPPING),
        ([110] * 9 + [20], TEN, DROPPING),
        ([103] * 9 + [30], TEN, SOUND),  # below its share, not far below
        ([100] * 10, TEN, SOUND),
        ([2, 2, 2, 2, 2, 2, 0, 2, 1, 1], TEN, SOUND),  # 16 samples: one class misses by chance
        ([8] * 8 + [0, 0], TEN, DROPPING),  # 64 samples: two do not
        ([400, 400, 0], [1, 1, 0], SOUND),  # the prior has it not either
    ],
)
def test_a_look_by_name(counts, prior, name):
    assert coverage(counts, prior).name == name


def test_what_is_dropped_is_listed():
    found = coverage([0, 400, 20, 400, 180], np.ones(5))
    assert (found.dropped, found.dominant, found.share) == ((0, 2), 1, 0.4)
    assert coverage([95, 5], [95, 5]).dropped == ()


def test_too_few_samples_for_classes_of_their_own_drop_together():
    # 1,000 samples of 1,000 classes leave 368 empty (standard deviation 10), of 500 classes 568.
    found = coverage(drawn(np.ones(500), 1000, 0).tolist() + [0] * 500, np.ones(1000))
    assert (found.name, found.dropped) == (DROPPING, ())


@pytest.mark.parametrize(
    ("classes", "samples"), [(10, 64), (10, 1000), (1000, 1000), (1000, 26000)]
)
def test_a_sampler_of_the_prior_is_not_named(classes, samples):
    skewed = 1 + np.arange(classes) % 3
    for prior in (np.ones(classes), skewed):
        names = [coverage(drawn(prior, samples, seed), prior).name for seed in range(200)]
        # At most one in 500 by design; by Chernoff bounds far fewer.
        assert names.count(SOUND) == 200


# --- a history, by name --------------------------------------------------------------------------

GOOD = of(*range(10))


@pytest.mark.parametrize(
    ("history", "name"),
    [
        ([of(3)] * 5, COLLAPSE),
        ([of(3), of(7), of(1)], ROTATING),
        ([of(3), of(3), of(3, 7), of(7), of(7, 1), of(1)], ROTATING),
        ([GOOD] * 30 + [of(3), of(7)], ROTATING),
        ([of(3), of(7), of(7, 1)], ROTATING),  # caught between two
        ([of(3), of(7), GOOD], SOUND),  # healed
        ([of(8), of(1), *[of(0, 1, 2, 3)] * 10], DROPPING),  # a start, and classes missing since
        ([of(8), *[GOOD] * 10, of(1), of(1)], COLLAPSE),
        ([GOOD, of(0, 1, 2), GOOD], SOUND),
        ([GOOD, of(0, 1, 2)], DROPPING),
        ([GOOD] * 5, SOUND),
    ],
)
def test_a_history_by_name(history, name):
    assert naming([coverage(counts, TEN) for counts in history]) == name


def test_triples_rotate_too():
    looks = [coverage(of(c, classes=1000), np.ones(1000)) for c in (111, 7, 999)]
    assert naming(looks) == ROTATING


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "prior", "message"),
    [
        ([1, 2], [1, 1, 1], r"must be \(K,\) each, got \(2,\) and \(3,\)"),
        ([[1]], [[1]], r"must be \(K,\) each, got \(1, 1\)"),
        ([0, 0], [1, 1], "of at least one sample"),
        ([-1, 2], [1, 1], "counts must be at least 0"),
        ([], [], "of at least one sample"),
        ([math.nan, 2], [1, 1], "counts must be at least 0"),
        ([1, 1], [0, 0], "prior must be weights"),
        ([1, 1], [-1, 2], "prior must be weights"),
        ([1, 1], [math.nan, 2], "prior must be weights"),
        ([1, 1], [math.inf, 2], "prior must be weights"),
    ],
)
def test_counts_that_tell_nothing_are_refused(counts, prior, message):
    with pytest.raises(ValueError, match=message):
        coverage(counts, prior)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_of_no_class_are_refused(label):
    with pytest.raises(ValueError, match="labels must be from 0 to 3"):
        tally([0, label], 4)


def test_a_history_without_looks_is_refused():
    with pytest.raises(ValueError, match="at least one look"):
        naming([])

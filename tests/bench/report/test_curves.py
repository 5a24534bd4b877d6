"""What is read off one cell: the share of refused claims and the median distance."""

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from bench.report.curves import median_distance, refused_share
from bench.store import Record

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize(
    ("counts", "share"), [([0, 0, 0, 0], 0.0), ([0, 3, 1, 0], 0.5), ([1, 1, 1, 9], 1.0)]
)
def test_refusals_are_counted_per_image(
    record: MakeRecord, counts: list[int], share: float
) -> None:
    cell = record([0, 0.1, 0.2, inf], samples={"refused": np.array(counts)})
    assert refused_share(cell) == share


def test_a_cell_that_counts_no_refusals_has_none(record: MakeRecord) -> None:
    cell = record([0.1, inf])
    del cell.samples["refused"]
    assert refused_share(cell) == 0.0


@pytest.mark.parametrize(
    ("distances", "median"),
    [
        ([0.1, 0.3, 0.2], 0.2),
        ([0.1, 0.4, 0.2, 0.3], 0.25),
        # images wrong without attack are left out
        ([0, 0, 0, 0.1, 0.3, 0.2], 0.2),
        # nothing fooled an image: as far as can be
        ([0.1, 0.2, inf], 0.2),
        ([0.1, 0.2, inf, inf], inf),
        ([0.1, inf, inf], inf),
        ([inf, inf], inf),
        ([0, 0], None),
    ],
)
def test_the_median_distance_is_over_the_images_right_without_attack(
    record: MakeRecord, distances: list[float], median: float | None
) -> None:
    found = median_distance(record(distances, kind="minimal"))
    assert found == (median if median is None else pytest.approx(median, rel=1e-15))


def test_a_success_beyond_the_grid_counts_with_its_distance(record: MakeRecord) -> None:
    distance = np.array([0.1, 0.9, 0.7, np.nan])
    cell = record([0.1, inf, inf, 0], kind="minimal", samples={"distance": distance})
    assert median_distance(cell) == 0.7


@pytest.mark.parametrize("kind", ["budget", "ensemble"])
def test_other_attacks_minimise_no_distance(record: MakeRecord, kind: str) -> None:
    assert median_distance(record([0.1, 0.2], kind=kind)) is None

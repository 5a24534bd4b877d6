"""Pairs of rows on the same samples, computed by hand."""

from collections.abc import Callable
from fractions import Fraction
from math import inf

import pytest

from bench.errors import RequestError
from bench.report import frames, markdown
from bench.report.comparisons import COMPARISONS, MOST_IN_FULL, compared, comparisons
from bench.report.rows import Row
from bench.store import Record

MakeRecord = Callable[..., Record]


def right(*flags: int) -> list[float]:
    """Outcomes of runs of samples: so many right, so many wrong, and so on."""
    values = [inf, 0.1]
    return [values[place % 2] for place, count in enumerate(flags) for _ in range(count)]


def named(row: Row) -> tuple[str, str]:
    return str(row["first_defense"]), str(row["second_defense"])


def test_pairs_are_those_of_a_hand_made_table(record: MakeRecord) -> None:
    # of 40: a right on 0..29; b on 0..19 and 30..31; c on 0..23
    cells = [
        record(right(30, 10), defense="a"),
        record(right(20, 10, 2, 8), defense="b"),
        record(right(24, 16), defense="c"),
    ]
    rows = list(comparisons(cells))
    assert [named(row) for row in rows] == [("a", "c"), ("a", "b"), ("c", "b")]
    counts = [(row["only_first"], row["only_second"]) for row in rows]
    assert counts == [(6, 0), (10, 2), (4, 2)]
    # two-sided binomial tails: 2 / 2^6, 2 (1 + 12 + 66) / 2^12, 2 (1 + 6 + 15) / 2^6
    assert [row["p"] for row in rows] == pytest.approx([2 / 64, 158 / 4096, 44 / 64], rel=1e-12)
    # times 3, 2, 1, and none below a smaller one's
    assert [row["p_holm"] for row in rows] == pytest.approx([6 / 64, 6 / 64, 44 / 64], rel=1e-12)
    assert {row["verdict"] for row in rows} == {"not told apart"}
    first = rows[0]
    assert (first["first_accuracy"], first["second_accuracy"]) == (0.75, 0.6)
    assert first["difference"] == pytest.approx(0.15, rel=1e-12)
    assert 0 < first["difference_low"] < 0.15 < first["difference_high"] < 0.3
    assert (first["n"], first["samples"]) == (40, "samples-40")
    assert list(first) == list(COMPARISONS)


def test_a_difference_that_stands_the_adjustment_is_told(record: MakeRecord) -> None:
    cells = [
        record(right(30, 70), defense="a"),
        record(right(20, 80), defense="b"),
        record(right(19, 81), defense="c"),
    ]
    verdicts = {named(row): row["verdict"] for row in comparisons(cells)}
    assert verdicts == {
        ("a", "b"): "first better",
        ("a", "c"): "first better",
        ("b", "c"): "not told apart",
    }


def test_rows_on_different_samples_are_refused_by_name(record: MakeRecord) -> None:
    one = record(right(3, 1), defense="a")
    other = record(right(3, 1), defense="b", samples_digest="others", fingerprint="f1")
    first, second = (frames.Entry.of_cells([cell]) for cell in (one, other))
    with pytest.raises(RequestError) as refused:
        compared(first, second)
    assert str(refused.value) == (
        "rows must be on the same samples to be compared, got cnn / a on samples samples-4 of "
        "data f0 and cnn / b on samples others of data f1"
    )
    assert len(comparisons([one, other])) == 0


def test_only_rows_of_one_board_are_compared(record: MakeRecord) -> None:
    cells = [
        record(right(3, 1), defense="a"),
        record(right(3, 1), defense="b", norm="l2"),
        record(right(3, 1), defense="c", eps=(Fraction(1, 10),)),
        record(None, defense="broken"),
    ]
    assert len(comparisons(cells)) == 0


def test_a_long_board_is_compared_with_its_best_and_with_neighbours(record: MakeRecord) -> None:
    count = MOST_IN_FULL + 1
    cells = [record(right(60 - i, 40 + i), defense=f"d{i:02}") for i in range(count)]
    rows = [named(row) for row in comparisons(cells)]
    assert len(comparisons(cells[1:])) == MOST_IN_FULL * (MOST_IN_FULL - 1) / 2
    best = [("d00", f"d{i:02}") for i in range(1, count)]
    assert rows == best + [(f"d{i:02}", f"d{i + 1:02}") for i in range(1, count - 1)]


def test_one_sample_each_is_enough(record: MakeRecord) -> None:
    (row,) = comparisons([record([inf], defense="a"), record([0.1], defense="b")])
    assert (row["difference_low"], row["difference"], row["difference_high"]) == (1, 1, 1)
    assert (row["only_first"], row["only_second"], row["p"]) == (1, 0, 1)


def test_the_document_has_a_table_per_board(record: MakeRecord) -> None:
    cells = [
        record(right(30, 70), defense="a|b"),
        record(right(20, 80), defense="b"),
        record(right(30, 70), defense="a|b", norm="l2"),
        record(right(30, 70), defense="b", norm="l2"),
    ]
    text = markdown.comparisons(cells)
    assert text.startswith("# Comparisons\n\n## digits, linf, eps = 0.2\n\n| first")
    first, second = (line for line in text.splitlines() if line.startswith("| cnn"))
    shown = [cell.strip() for cell in first.replace("\\|", "!").split("|")[1:-1]]
    assert shown[:5] == ["cnn / a!b", "cnn / b", "100", "30.0", "20.0"]
    assert shown[5].startswith("10.0 [")
    assert shown[6:] == ["10", "0", "0.002", "0.002", "first better", "none / none"]
    assert second.endswith("| not told apart | none / none |")
    assert "McNemar" in text

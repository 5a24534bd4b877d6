"""Tables made once per report are what they would be made alone."""

from collections.abc import Callable

from bench.report import frames
from bench.report.derived import derived, remembered
from bench.store import Record

MakeRecord = Callable[..., Record]


def test_inside_a_report_a_table_is_made_once_of_the_same_records(record: MakeRecord) -> None:
    asked = []

    @derived
    def names(records):
        asked.append(len(records))
        return [r.attack for r in records]

    one, other = record([0.1], attack="fgsm"), record([0.1], attack="pgd")
    with remembered():
        assert names([one, other]) == names(iter([one, other])) == ["fgsm", "pgd"]
        assert names([other]) == ["pgd"]
        # Equal is not the same: another record is looked at.
        assert names([record([0.1], attack="pgd")]) == ["pgd"]
    assert asked == [2, 1, 1]
    assert names([one]) == ["fgsm"]
    assert names([one]) == ["fgsm"]
    assert asked == [2, 1, 1, 1, 1]


def test_nothing_is_kept_behind_a_report(record: MakeRecord) -> None:
    cells = [record([0.1, 0.2])]
    with remembered():
        first = frames.leaderboard(cells)
        assert frames.leaderboard(cells) is first
    assert frames.leaderboard(cells) is not first
    assert frames.leaderboard(cells) == first

"""The comparison: planted outcomes whose p-values are counted by hand."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from bench.check.baseline import Baseline, Rows, rows_of
from bench.check.compare import Limits, compare, smallest_drop, unique
from bench.errors import RequestError
from tests.bench.report.conftest import make

N = 100
INF = np.inf
ONE = (Fraction(1, 10),)
"""A grid of one radius: with the clean accuracy two tests."""


def row(fallen=range(0), **changes):
    """A row of 100 samples of which these fall at eps 0.1."""
    outcomes = np.full(N, INF)
    outcomes[list(fallen)] = 0.1
    return rows_of([make(outcomes, **{"eps": ONE, "reference": None} | changes)]).complete[0]


def checked(before, after, **limits):
    (finding,) = compare(Baseline((before,)), Rows((after,)), Limits(**limits)).findings
    return finding


def test_a_row_is_equal_to_itself():
    finding = checked(row(range(30)), row(range(30)))
    assert (finding.verdict, finding.reasons, finding.notes) == ("equal", (), ())
    assert [(p.before, p.after, p.p) for p in finding.points] == [(1, 1, 1), (0.7, 0.7, 1)]


def test_p_is_mcnemars_after_holm():
    """10 lost and 1 won: two tails of 1 + 11 in 2**11, twice as there are two tests."""
    finding = checked(row(range(1)), row(range(1, 11)))
    assert finding.verdict == "regression"
    point = finding.points[1]
    assert (point.lost, point.won) == (10, 1)
    assert point.p == pytest.approx(2 * 2 * 12 / 2**11)
    assert point.drop == pytest.approx(0.09)


def test_a_regression_says_what_fell_by_how_much_and_p():
    (reason,) = checked(row(range(10)), row(range(20))).reasons
    assert reason == (
        "accuracy at eps 0.1 fell by 10.0 points, 90.0 % to 80.0 % "
        "(10 samples lost, 0 won, p = 0.0039)"
    )


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [(6, "equal"), (7, "regression")],  # 2 * 2 / 2**6 = 0.0625, 2 * 2 / 2**7 = 0.031
)
def test_a_drop_must_be_significant(lost, verdict):
    assert checked(row(), row(range(lost))).verdict == verdict


def test_a_drop_of_the_margin_itself_is_none():
    assert checked(row(), row(range(10)), max_drop=0.1).verdict == "equal"
    assert checked(row(), row(range(11)), max_drop=0.1).verdict == "regression"


def test_alpha_is_the_level():
    assert checked(row(), row(range(7)), alpha=0.03).verdict == "equal"
    assert checked(row(), row(range(6)), alpha=0.07).verdict == "regression"


def test_an_improvement_passes():
    result = compare(Baseline((row(range(20)),)), Rows((row(range(10)),)), Limits())
    assert result.is_passed
    (finding,) = result.findings
    assert finding.verdict == "improvement"
    assert "rose by 10.0 points, 80.0 % to 90.0 %" in finding.reasons[0]


def test_a_drop_at_any_radius_counts_and_is_told_once():
    grid = {"eps": (Fraction(0), Fraction(1, 10), Fraction(2, 10)), "reference": Fraction(2, 10)}
    before, after = np.full(N, 0.2), np.full(N, 0.2)
    after[:20] = 0.1
    after[:12] = 0
    one, other = (rows_of([make(each, **grid)]).complete[0] for each in (before, after))
    finding = checked(one, other)
    (reason,) = finding.reasons
    assert reason.startswith("accuracy at eps 0.1 fell by 20.0 points")
    assert reason.endswith("; also without attack")
    assert [point.drop for point in finding.points] == pytest.approx([0.12, 0.2, 0])


def test_draws_are_shares():
    """Of two draws one is lost on 9 of 100 samples: 4.5 points, p of 9 to 0."""
    draws = np.full((N, 2), INF)
    fallen = draws.copy()
    fallen[:9, 1] = 0.1
    one, other = (
        rows_of([make(each.min(1), eps=ONE, reference=None, samples={"draws": each})]).complete[0]
        for each in (draws, fallen)
    )
    point = checked(one, other).points[1]
    assert point.drop == pytest.approx(0.045)
    assert (point.lost, point.won, point.p) == (9, 0, pytest.approx(2 * 2 / 2**9))


@pytest.mark.parametrize(
    ("forward", "verdict"),
    [
        (1020, "regression"),
        (1010, "equal"),
        (1005, "equal"),
        (990, "equal"),
        (980, "improvement"),
    ],
)
def test_queries_may_move_by_a_hundredth(forward, verdict):
    finding = checked(row(), replace(row(), forward=forward))
    assert finding.verdict == verdict
    if verdict == "regression":
        assert finding.reasons == ("forward queries rose by 2.0 %, 1,000 to 1,020",)


def test_backward_queries_are_compared_apart():
    assert checked(row(), replace(row(), backward=500)).verdict == "regression"


@pytest.mark.parametrize("change", [{"pipeline": "p2"}, {"weights": "w2"}])
def test_queries_of_other_weights_are_not_compared(change):
    finding = checked(row(), replace(row(), forward=2000, **change))
    assert finding.verdict == "equal"
    assert "not compared" in finding.notes[0]


@pytest.mark.parametrize(
    ("each", "verdict"),
    [
        ((21, 20), "equal"),
        ((22, 20), "regression"),
        ((20, 21), "regression"),
        ((20, 20), "improvement"),
        (None, "regression"),
    ],
)
def test_queries_are_exact_where_nothing_stops_early(each, verdict):
    """Though the sums differ by less than a hundredth, and, of whole counts, whatever the
    weights.
    """
    before = replace(row(), each=(21, 20), forward=10_000)
    after = replace(row(), each=each, forward=10_001)
    assert checked(before, after).verdict == verdict
    other = checked(before, replace(after, weights="w2"))
    assert other.verdict == ("equal" if each is None else verdict)
    assert bool(other.notes) is (each is None)


def test_where_nothing_is_left_to_attack_queries_say_nothing():
    before = replace(row(), each=(21, 20))
    assert checked(before, replace(row(), each=None, forward=0)).verdict == "equal"


def test_the_worst_case_is_compared_too():
    """Two attacks that break 4 more each, not the same ones: 8 together, 2 * 2 / 2**8."""
    before = row(range(10)), row(range(10), attack="square", mode="black-box")
    after = row(range(14)), replace(before[1], outcomes=row([*range(10), *range(14, 18)]).outcomes)
    result = compare(Baseline(before), Rows(after), Limits())
    assert [finding.verdict for finding in result.findings] == ["equal", "equal", "regression"]
    worst = result.findings[2]
    assert worst.title == "digits cnn / none / worst-case (black-box+white-box) linf seed 0"
    assert (worst.points[1].lost, worst.points[1].p) == (8, pytest.approx(4 / 2**8))
    assert worst.queries == (2800, 2800)


def test_the_worst_case_is_over_what_both_sides_hold():
    """A new attack that breaks everything is no change of the model."""
    before = row(), row(attack="square")
    new = row(range(N), attack="cw")
    verdicts = [
        f.verdict for f in compare(Baseline(before), Rows((*before, new)), Limits()).findings
    ]
    assert verdicts == ["equal", "equal", "equal", "new"]


@pytest.mark.parametrize("change", [{"model": "mlp"}, {"norm": "l2"}, {"seed": 1}])
def test_a_worst_case_is_of_one_model_under_one_threat(change):
    before = row(), row(attack="square", **change)
    assert len(compare(Baseline(before), Rows(before), Limits()).findings) == 2


def test_missing_new_and_failed_rows():
    before = row(attack="pgd"), row(attack="cw")
    run = Rows((row(attack="pgd"), row(attack="fgsm")), (("digits ... ead", "no gradient"),))
    result = compare(Baseline(before), run, Limits())
    told = {finding.verdict: (finding.title, finding.reasons) for finding in result.findings}
    assert told == {
        "failed": ("digits ... ead", ("no gradient",)),
        "equal": (before[0].title, ()),
        "missing": (before[1].title, ("not among the results",)),
        "new": (run.complete[1].title, ()),
    }
    assert not result.is_passed


@pytest.mark.parametrize("verdict", ["missing", "failed"])
def test_either_alone_fails_the_gate(verdict):
    run = Rows((), ((row().title, "no gradient"),) if verdict == "failed" else ())
    result = compare(Baseline((row(),)), run, Limits())
    assert [finding.verdict for finding in result.findings] == [verdict]
    assert not result.is_passed


def test_a_row_over_other_radii_is_missing_and_says_so():
    other = row(eps=(Fraction(1, 10), Fraction(2, 10)))
    result = compare(Baseline((row(),)), Rows((other,)), Limits())
    assert "other radii" in result.of("missing")[0].reasons[0]


@pytest.mark.parametrize("name", ["samples", "fingerprint"])
def test_other_samples_are_refused_by_their_fingerprints(name):
    with pytest.raises(RequestError) as refused:
        checked(row(), replace(row(), **{name: "another-digest"}))
    told = str(refused.value)
    assert getattr(row(), name) in told
    assert "another-dige" in told


def test_the_row_on_the_same_samples_is_taken():
    rows = Rows((replace(row(range(50)), samples="more", n=100), row()))
    (finding,) = compare(Baseline((row(),)), rows, Limits()).findings
    assert finding.verdict == "equal"


def test_two_that_answer_to_one_row_are_refused():
    rows = row(), replace(row(), pipeline="other")
    with pytest.raises(RequestError, match="2 cells of digits cnn / none / pgd"):
        compare(Baseline((row(),)), Rows(rows), Limits())
    with pytest.raises(RequestError, match="fresh --out"):
        unique(rows)
    assert unique(rows[:1]) == rows[:1]


def test_ratios_are_compared_where_times_are():
    baseline = Baseline((), {"pgd linf": 1.0, "cw l2": 2.0, "ddn l2": 1.0})
    ratios = {"pgd linf": 1.4, "cw l2": 2.5}
    result = compare(baseline, Rows(()), Limits(max_slowdown=1.3), ratios)
    assert [finding.verdict for finding in result.findings] == ["regression", "equal", "missing"]
    assert result.findings[0].reasons == ("grew 1.40 times, from 1.00 to 1.40",)
    assert compare(baseline, Rows(()), Limits(), {}).findings == ()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_drop": 1}, "max-drop"),
        ({"max_drop": float("nan")}, "max-drop"),
        ({"max_drop": -0.1}, "max-drop"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": 1}, "alpha"),
        ({"max_slowdown": 0.9}, "max-slowdown"),
        ({"max_slowdown": INF}, "max-slowdown"),
    ],
)
def test_limits_out_of_range_are_refused(limits, told):
    with pytest.raises(RequestError, match=told):
        Limits(**limits)


@pytest.mark.parametrize(
    ("n", "tests", "expected"),
    [(500, 1, 6 / 500), (500, 2, 7 / 500), (500, 4, 8 / 500), (6, 1, 1.0), (5, 1, None)],
)
def test_the_smallest_drop_that_samples_can_show(n, tests, expected):
    """2 / 2**6 = 0.031 is the first power below 0.05, 2 / 2**7 = 0.016 below 0.025."""
    assert smallest_drop(n, 0.05, tests) == expected


@pytest.mark.parametrize("lost", range(1, 12))
def test_the_smallest_drop_is_where_the_test_begins_to_see(lost):
    least = smallest_drop(N, 0.05, 2)
    assert (checked(row(), row(range(lost)), max_drop=0).verdict == "regression") is (
        lost / N >= least
    )

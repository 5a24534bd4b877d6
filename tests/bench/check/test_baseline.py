"""The baseline file: small text that gives back what a run found, and what is refused of it."""

import json
from fractions import Fraction

import numpy as np
import pytest

from bench.check.baseline import Baseline, parse, rows_of, shown, text
from bench.errors import RequestError, StoreError
from tests.bench.report.conftest import GRID, make

INF = np.inf
OUTCOMES = [0, 0.1, 0.2, 0.3, INF]


def written(*records, ratios=None):
    return text(Baseline(rows_of(records).complete, ratios or {}))


def assert_same(one, other):
    plain = [{**vars(row), "outcomes": row.outcomes.tolist()} for row in (one, other)]
    assert plain[0] == plain[1]


def test_a_row_is_a_line_with_a_letter_per_sample():
    content = written(make(OUTCOMES), make(OUTCOMES, attack="fgsm"))
    lines = content.splitlines()
    assert len(lines) == 9
    assert [json.loads(line.rstrip(","))["attack"] for line in lines[5:7]] == ["fgsm", "pgd"]
    assert json.loads(content)["rows"][0]["outcomes"] == ["0123."]


def test_what_is_written_is_read():
    row = rows_of([make(OUTCOMES, provenance={"weights": "w"}, query_budget=7)]).complete[0]
    (read,) = parse(written(make(OUTCOMES, provenance={"weights": "w"}, query_budget=7)), "b").rows
    assert_same(read, row)
    assert (read.forward, read.backward, read.each) == (50, 20, None)


def test_the_order_of_the_records_does_not_matter():
    records = [make(OUTCOMES, attack=name) for name in ("pgd", "fgsm", "square")]
    assert written(*records) == written(*reversed(records))


def test_every_draw_has_a_text():
    draws = np.array([[0.1, INF], [0.0, 0.3]])
    content = written(make([0.1, 0.0], samples={"draws": draws}))
    assert json.loads(content)["rows"][0]["outcomes"] == ["10", ".3"]
    assert parse(content, "b").rows[0].outcomes.tolist() == draws.tolist()


def test_a_long_grid_takes_two_letters():
    """62 levels fit in one letter: the clean one and 61 radii."""
    for count, expected in ((61, "0Z."), (62, "00" + "0Z" + "..")):
        eps = tuple(Fraction(i, 100) for i in range(1, count + 1))
        content = written(make([0, 0.61, INF], eps=eps, reference=None))
        assert json.loads(content)["rows"][0]["outcomes"] == [expected]
        assert parse(content, "b").rows[0].outcomes.ravel().tolist() == [0, 0.61, INF]


def test_ratios_are_kept():
    assert parse(written(ratios={"pgd linf": 1.25}), "b").ratios == {"pgd linf": 1.25}


@pytest.mark.parametrize(
    ("eps", "expected"),
    [("0", "0"), ("3/20", "0.15"), ("8/255", "8/255"), ("1/3", "1/3"), ("20", "20")],
)
def test_radii_are_shown_short_and_exact(eps, expected):
    assert shown(Fraction(eps)) == expected


def test_certificates_are_no_rows_and_failures_are_told():
    rows = rows_of([make(OUTCOMES), make(kind="certificate"), make(attack="cw")])
    assert len(rows.complete) == 1
    (failed,) = rows.failed
    assert failed == (
        "digits cnn / none / cw (white-box) linf seed 0",
        "RuntimeError: no gradient",
    )


def test_queries_are_a_recipes_own_where_nothing_stops_early():
    def each(forward, **changes):
        record = make(OUTCOMES, samples={"forward": np.array(forward)}, **changes)
        return rows_of([record]).complete[0].each

    assert each([0, 21, 21, 21, 21], kind="minimal") == (21, 4)
    assert each([0, 21, 21, 22, 21], kind="minimal") is None
    assert each([0, 21, 21, 21, 21], kind="budget") is None


def test_an_outcome_beside_the_grid_is_refused():
    with pytest.raises(StoreError, match="no eps of its grid"):
        written(make([0.15]))


def changed(name, value):
    held = json.loads(written(make(OUTCOMES)))
    held["rows"][0][name] = value
    return json.dumps(held)


def without(name):
    held = json.loads(written(make(OUTCOMES)))
    del held["rows"][0][name]
    return json.dumps(held)


def twice():
    held = json.loads(written(make(OUTCOMES)))
    held["rows"] *= 2
    return json.dumps(held)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must hold rows"),
        ('{"rows": {}}', "must hold rows"),
        ('{"rows": [], "format": 99}', "format 99"),
        ('{"rows": [], "format": 1}', "ratios must be numbers"),
        ('{"rows": [], "format": 1, "ratios": {"pgd": NaN}}', "ratios must be numbers"),
        ('{"rows": [7], "format": 1}', "row 1: must be an object"),
        (without("seed"), "row 1: 'seed' is missing"),
        (changed("seed", "0"), "seed must be a whole number"),
        (changed("n", 0), "n must be at least 1"),
        (changed("n", 10**12), "must be texts of 1000000000000 letters, got 5"),
        (changed("model", 3), "model must be a text"),
        (changed("eps", ["0.2", "0.1"]), "eps must be a grid"),
        (changed("eps", []), "eps must be a grid"),
        (changed("eps", ["1e99999999"]), "eps must be a number"),
        (changed("reference", "0.7"), "holds the reference"),
        (changed("each", [1]), "each must be two numbers"),
        (changed("outcomes", []), "got none"),
        (changed("outcomes", ["0123"]), "must be texts of 5 letters, got 4"),
        (changed("outcomes", ["0129."]), "got '9'"),
        (twice(), "twice"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(content, told):
    with pytest.raises(RequestError, match=told) as refused:
        parse(content, "base.json")
    assert str(refused.value).startswith("base.json")
    assert "\n" not in str(refused.value)


def test_the_grid_of_the_tests_is_the_one_assumed():
    assert [float(eps) for eps in GRID] == [0, 0.1, 0.2, 0.3]

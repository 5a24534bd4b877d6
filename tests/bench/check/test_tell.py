"""What a result is told as: lines, XML that parses, markdown, JSON."""

import json
import xml.etree.ElementTree as ET
from fractions import Fraction

import numpy as np
import pytest

from bench.check import tell
from bench.check.baseline import Baseline, Rows, rows_of
from bench.check.compare import Limits, compare
from tests.bench.report.conftest import make

HOSTILE = "net<\"&'>|\x00\x1b*`"


def row(fallen, **changes):
    outcomes = np.full(100, np.inf)
    outcomes[:fallen] = 0.1
    return rows_of([make(outcomes, **{"eps": (Fraction(1, 10),)} | changes)]).complete[0]


@pytest.fixture
def result():
    before = row(0), row(30, seed=1), row(0, seed=2), row(0, model=HOSTILE)
    after = row(20), row(10, seed=1), row(0, seed=3), row(0, model=HOSTILE)
    failed = (("digits / ead", f"broke at {HOSTILE}"),)
    return compare(Baseline(before), Rows(after, failed), Limits())


def test_a_line_per_thing_that_moved(result):
    lines = list(tell.lines(result, "base.json"))
    first = [line.split(":")[0] for line in lines]
    assert first[:5] == ["failed", "missing", "regression", "improvement", "new"]
    assert "pgd (white-box) linf seed 0: accuracy at eps 0.1 fell by 20.0 points" in lines[2]
    assert lines[-2].startswith("n = 100 at 2 radii cannot show a drop below 7.0 points")
    assert lines[-1] == (
        "failed: 1 as before, 1 worse, 1 missing, 1 failed, 1 better, 1 new, against base.json"
    )
    assert len(lines) == 7


def test_few_samples_show_nothing():
    one = rows_of([make([np.inf])]).complete[0]
    (line,) = tell.power(compare(Baseline((one,)), Rows((one,)), Limits()))
    assert line.startswith("n = 1 at 4 radii cannot show any drop")


def test_junit_parses_and_counts(result):
    root = ET.fromstring(tell.junit(result))  # noqa: S314  our own text
    suite = root.find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "1")
    cases = suite.findall("testcase")
    assert len(cases) == 6
    told = {case.get("name"): case for case in cases}
    assert told["digits / ead"].find("error").get("message") == "broke at net<\"&'>|??*`"
    (hostile,) = [name for name in told if "net<" in name]
    assert hostile.startswith("digits net<\"&'>|??*` / none")
    fallen = told["digits cnn / none / pgd (white-box) linf seed 0"].find("failure")
    assert "fell by 20.0 points" in fallen.text
    assert sum(case.find("failure") is not None for case in cases) == 2


def test_markdown_keeps_its_columns(result):
    text = tell.markdown(result, "base|line.json")
    assert text.startswith("## bench check: failed\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in rows}
    assert bars == {9}
    assert len(rows) == 2 + 6
    (worse,) = [line for line in rows if "| regression" in line]
    assert [cell.strip() for cell in worse.split("|")][3:8] == ["0.1", "100.0", "80.0"] + [
        "100.0"
    ] * 2


def test_json_holds_everything(result):
    told = json.loads(tell.as_json(result, "base.json"))
    assert told["passed"] is False
    assert told["limits"] == {"max_drop": 0.01, "alpha": 0.05, "max_slowdown": None}
    (worse,) = [row for row in told["rows"] if row["verdict"] == "regression"]
    assert (worse["n"], worse["queries_before"], worse["queries_after"]) == (100, 1400, 1400)
    assert worse["points"][1]["lost"] == 20
    assert worse["points"][1]["p"] == pytest.approx(2 * 2 / 2**20)

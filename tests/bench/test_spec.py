"""Grids, requests and settings files: parsed exactly, refused in one line."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import RequestError
from bench.spec import Request, parse_grid, request_of


def test_a_range_is_inclusive_and_exact():
    grid = parse_grid("0:0.4:0.05")
    assert grid == tuple(Fraction(i, 20) for i in range(9))
    # Floats would give 0.15000000000000002 and 0.30000000000000004 here.
    assert [repr(float(e)) for e in grid[2:7]] == ["0.1", "0.15", "0.2", "0.25", "0.3"]


def test_values_are_sorted_and_stand_once():
    assert parse_grid("8/255, 0,2/255,0") == (0, Fraction(2, 255), Fraction(8, 255))


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 12))
def test_a_range_holds_both_ends(first, count, step):
    text = f"{first}/7:{first + count * step}/7:{step}/7"
    assert parse_grid(text) == tuple(Fraction(first + i * step, 7) for i in range(count + 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (",", "empty"),
        ("0.3:0.1:0.1", "empty"),
        ("0:1:0", "step of an eps range must be above 0"),
        ("0:1:-0.1", "step of an eps range must be above 0"),
        ("0:1", "FIRST:LAST:STEP"),
        ("-0.1", "at least 0"),
        ("0.1,abc", "'abc'"),
        ("1/0", "'1/0'"),
        ("nan", "'nan'"),
        ("0:1:1e-9", "at most 10000"),
    ],
)
def test_a_bad_grid_is_refused_in_one_line(text, says):
    with pytest.raises(RequestError, match=says) as err:
        parse_grid(text)
    assert "\n" not in str(err.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attack": "pdg"}, "no attack 'pdg'; did you mean 'pgd'"),
        ({"attack": "pgd:steps"}, "KEY=VALUE"),
        ({"defense": ["none", "advtrian"]}, "did you mean 'advtrain'"),
        ({"dataset": "minst"}, "did you mean 'mnist'"),
        ({"model": "cnn_smal"}, "did you mean 'cnn_small'"),
        ({"norm": "l3"}, "norm must be one of linf, l2, l1, l0"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": "many"}, "n must be of type int"),
        ({"batch-size": 0}, "batch-size must be at least 1"),
        ({"batch-size": "-1"}, "batch-size must be at least 1, got -1"),
        ({"batch-size": "some"}, "batch-size must be auto or a whole number, got 'some'"),
        ({"batch-size": True}, "batch-size must be auto or a whole number, got True"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": True}, "seed must be of type int"),
        ({"device": "tpu"}, "device must be auto"),
        ({"precision": "bogus"}, "precision must be one of auto, fp32, bf16, got 'bogus'"),
        ({"sweep": "bisectt"}, "sweep must be one of"),
        ({"atack": "pgd"}, "no setting 'atack'; did you mean 'attack'"),
        ({"eps": [0.1, "x"]}, "'x'"),
        ({"eps": "0,5"}, "eps must be at most 1 under linf, got 0,5"),
        ({"eps": "0.5", "norm": "l0"}, "a whole number"),
        ({"eps": "1e400", "norm": "l2"}, "at most 1000000"),
        ({"eps": "0:0.1:1e-400000"}, "eps must be a number"),
        ({"device": "mps"}, "device must be auto"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(settings, says):
    with pytest.raises(RequestError) as err:
        request_of(settings)
    assert says in str(err.value)
    assert "\n" not in str(err.value)


def test_settings_become_a_request():
    request = request_of(
        {"attack": ["pgd", "fgsm"], "defense": "advtrain", "eps": [0, 0.1], "n": 5}
    )
    assert request == Request(attacks=("pgd", "fgsm"), defenses=("advtrain",), eps="0,0.1", n=5)
    assert request.rows == ("none", "advtrain")


@pytest.mark.parametrize(("value", "rows"), [("auto", None), (29, 29), ("29", 29)])
def test_a_batch_size_of_auto_is_no_bound(value, rows):
    assert request_of({"batch_size": value}).batch_size == rows


@pytest.mark.parametrize(
    ("defenses", "baseline", "rows"),
    [
        ((), True, ("none",)),
        ((), False, ("none",)),
        (("advtrain",), True, ("none", "advtrain")),
        (("advtrain",), False, ("advtrain",)),
        (("advtrain", "none"), True, ("none", "advtrain")),
    ],
)
def test_the_baseline_is_a_row_unless_declined(defenses, baseline, rows):
    assert Request(defenses=defenses, baseline=baseline).rows == rows


def test_the_reading_half_never_imports_torch():
    code = (
        "import sys, bench, bench.spec, bench.plan, bench.store, bench.stats, bench.cli, "
        "bench.report.write, bench.report.export, bench.datasets, models.registry, "
        "attacks.registry, defenses.registry, attacks, defenses, models; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""`bench time`: what it writes, and that its arithmetic is right; no time is asserted."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from attacks.draws import sample_ids
from attacks.registry import attacks
from attacks.work import Samples
from bench.spec import SWEEPS
from bench.timings import document, startup, sweeps
from bench.timings.clock import interleaved
from bench.timings.row import Row
from bench.timings.steps import TRIALS
from tests.problems import Counting, linear

ROWS = [
    Row("step", "pgd linf", "cnn_small", 3.0, "own passes", 2.0, target=1.05, queries=41.0),
    Row("sweep", "ladder", "none", 1.0, "full", 4.0, queries=100.0, floor_queries=400.0),
    Row("start", "import bench", "a new process", 0.2, "python", 0.1, peak_mb=123.4),
]


def test_works_run_by_turns_and_medians_are_taken():
    asked, clock = [], iter([0, 1, 1, 11, 11, 13, 13, 33, 33, 36, 36, 66])
    works = [lambda: asked.append("a"), lambda: asked.append("b")]
    assert interleaved(works, 3, lambda: next(clock)) == [2, 20]
    assert "".join(asked) == "ababab"


def test_ratios_hold_no_seconds():
    told = json.loads(document.ratios(ROWS))
    assert told["step: pgd linf (cnn_small)"] == {"seconds": 1.5}
    assert told["sweep: ladder (none)"] == {"seconds": 0.25, "queries": 0.25}
    assert list(told) == sorted(told)


def test_the_frame_and_the_document_show_every_row():
    frame = document.frame(ROWS)
    assert list(frame["ratio"]) == [1.5, 0.25, 2.0]
    assert list(frame["query_ratio"].fillna(0)) == [0, 0.25, 0]
    text = document.markdown(ROWS, {"processor": "P", "threads": "1"}, "bench time")
    assert "Measured on processor: P; threads: 1." in text
    for row in ROWS:
        assert f"{row.ratio:.3f}" in text
    assert "100 of 400" in text


@pytest.mark.parametrize(
    ("place", "status"),
    [(0, 0), (1, 0), (2, startup.REFUSED), (3, 0)],
    ids=str,
)
def test_what_is_started_ends_as_it_should(place, status, tmp_path):
    assert startup.start(startup.STARTS[place][1], tmp_path) == status
    assert list(tmp_path.iterdir()) == []


def test_a_full_run_makes_every_query():
    """The floor of a sweep: every step and a last look, at every radius, for every sample."""

    problem = linear("linf", 3, count=4)
    counted = Counting(problem.model)
    work = Samples(problem.x, problem.y, sample_ids(problem.x), np.ones(2))
    sweeps.full(counted, work, attacks.get("pgd:steps=5"))
    assert (counted.forwards, counted.backwards) == (4 * 2 * 6, 4 * 2 * 5)


def test_the_command_writes_everything(tmp_path):
    words = ["time", "--quick", "--quiet", "--out", "out", "--ratios", "out/ratios.json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "timing.csv")
    assert set(table["part"]) == {"start", "step", "sweep", "purification"}
    assert (table["part"] == "step").sum() == len(TRIALS)
    assert list(table.loc[table["part"] == "sweep", "name"]) == list(SWEEPS)
    assert (table["ratio"] > 0).all()
    assert len(json.loads((tmp_path / "out" / "ratios.json").read_text())) == len(table)
    assert "Made by `" in (tmp_path / "out" / "timing.md").read_text()


def test_rounds_below_one_are_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "time", "--rounds", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "bench: rounds must be at least 1, got 0\n"

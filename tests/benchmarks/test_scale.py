"""How long many cells take: planned, reported, and few run. Nothing here asserts a time.

Run with `pytest tests/benchmarks --benchmark-enable`; without, the same at a toy size.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest

import bench.progress  # noqa: F401  its import draws from random, which no test may move
from bench.cli import app
from bench.listing import planned
from bench.plan import AttackPart, Cell, DataPart, Numerics, Part, missing
from bench.report.write import write
from bench.resolution import resolve
from bench.spec import Request
from bench.store import Store

N = 100
EPS = tuple(Fraction(i, 20) for i in range(7))


def cells(each):
    """each**4 cells: models, defenses, attacks and seeds."""
    data = DataPart("digits", "f" * 16, N, "s" * 16, Fraction(3, 20))
    numerics = Numerics("fp32", "cpu", 128, 1, 1)
    for i, j, k, seed in itertools.product(range(each), repeat=4):
        model = Part(f"cnn_small:seed={i}", {"name": "cnn_small", "seed": i})
        name = f"advtrain:eps=0.{j}" if j else "none"
        mode = "oblivious" if j and k % 2 else "white-box"
        attack = AttackPart(f"pgd:steps={k + 1}", {"steps": k}, mode, "budget", 1000)
        defense = Part(name, {"name": name})
        yield Cell(data, model, defense, attack, "linf", EPS, seed, "ladder", numerics)


def arrays(draws):
    """Outcomes of N samples as a block holds them."""
    fell = draws.choice([0, 0.05, 0.15, 0.3, np.inf], N)
    seen = np.where(fell[:, None] <= np.array(EPS, float), draws.integers(1, 40, (N, 1)), -1)
    seen[fell == 0] = 0
    label = np.arange(N) % 10
    return {
        "index": np.arange(N),
        "id": np.arange(N),
        "label": label,
        "clean_prediction": np.where(fell == 0, (label + 1) % 10, label),
        "min_eps": fell,
        "distance": np.where(np.isfinite(fell), fell, np.nan),
        "forward": draws.integers(1, 200, N),
        "backward": draws.integers(1, 200, N),
        "verify": draws.integers(0, 3, N),
        "refused": np.zeros(N, np.int64),
        "queries": seen,
    }


@pytest.fixture
def stored(tmp_path, benchmark):
    """A store of complete cells, and how many."""
    each = 10 if benchmark.enabled else 2
    draws = np.random.default_rng(0)  # noqa: TID251  of its own seed
    facts = {"start": "2026-01-01T00:00:00Z", "command": "bench run", "training_seconds": 1.5}
    with Store.open(tmp_path) as store:
        for cell in cells(each):
            store.add(cell, facts)
            store.put(cell.key, 0, arrays(draws), 0.5)
    return tmp_path, each**4


def test_reporting(benchmark, stored):
    folder, count = stored

    def report():
        with Store.read(folder) as store:
            records = store.records()
        write(records, folder)
        return records

    records = benchmark.pedantic(report)
    assert len(records) == count
    lines = (folder / "timing.csv").read_text().splitlines()
    assert len(lines) == count + 1


def test_planning(benchmark):
    each = 10 if benchmark.enabled else 2
    request = Request(
        models=tuple(f"cnn_small:seed={i}" for i in range(each)),
        defenses=tuple(f"advtrain:eps=0.{i + 1}" for i in range(each - 1)),
        attacks=tuple(f"pgd:steps={i + 1}" for i in range(each)),
        seeds=tuple(range(each)),
        oblivious=False,
        audit=False,
    )

    def plan():
        job = resolve(request)
        todo = missing(job.cells, {})
        planned(job.cells, {})
        return job, todo

    job, todo = benchmark.pedantic(plan)
    assert len(job.cells) == len(todo) == each**4
    assert len({cell.key for cell in job.cells}) == each**4


def test_running_on_digits(benchmark, tmp_path):
    """Two models, three attacks, ten radii; the models are trained before."""
    words = ["run", "--out", str(tmp_path), "--quiet", "--fresh", "--no-audit"]
    words += ["--bounds", "none"]
    words += ["--model", "logreg", "--model", "cnn_small" if benchmark.enabled else "logreg:seed=1"]
    for attack in ("fgsm", "pgd", "noise"):
        words += ["--attack", attack]
    words += ["--eps", "0.03:0.3:0.03", *(() if benchmark.enabled else ("--n", "20"))]
    app(words, standalone_mode=False)
    benchmark.pedantic(lambda: app(words, standalone_mode=False))
    with Store.read(tmp_path) as store:
        assert len(store.records()) == 6

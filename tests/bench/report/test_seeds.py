"""The spread over training seeds, from accuracies that give it by hand."""

from collections.abc import Callable
from fractions import Fraction
from math import inf, isnan, sqrt
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.report import markdown, seeds
from bench.report.write import write
from bench.store import Record

MakeRecord = Callable[..., Record]
T2 = 4.302652729696
"""Student's t at 0.975 with 2 degrees of freedom, as tables give it."""


def outcomes(robust: int, clean: int, n: int = 10) -> list[float]:
    """Of n images so many are right at every eps, and so many without attack."""
    return [inf] * robust + [0.1] * (clean - robust) + [0.0] * (n - clean)


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    def trained(seconds: float) -> dict[str, Any]:
        return {"training_seconds": seconds}

    return [
        record(outcomes(8, 9), defense="fast", provenance=trained(1.0)),
        record(outcomes(6, 9), model="cnn:seed=1", defense="fast", provenance=trained(2.0)),
        record(outcomes(7, 10), model="cnn:seed=2", defense="fast", provenance=trained(4.5)),
        record(outcomes(0, 10)),
    ]


def test_three_seeds_by_hand(cells: list[Record]) -> None:
    row, alone = seeds.seeds(cells).frame().to_dict("records")
    names = ("dataset", "norm", "eps", "model", "defense", "seeds", "n", "note")
    assert [row[name] for name in names] == ["digits", "linf", 0.2, "cnn", "fast", 3, 10, ""]
    assert (row["robust_mean"], row["robust_min"], row["robust_max"]) == (0.7, 0.6, 0.8)
    # 0.8, 0.6, 0.7: standard deviation 0.1
    assert row["robust_ci_low"] == pytest.approx(0.7 - T2 * 0.1 / sqrt(3), rel=1e-10)
    assert row["robust_ci_high"] == pytest.approx(0.7 + T2 * 0.1 / sqrt(3), rel=1e-10)
    # 0.9, 0.9, 1.0: variance 1/300; the interval would end above 1
    assert row["clean_mean"] == pytest.approx(2.8 / 3, rel=1e-12)
    low = 2.8 / 3 - T2 * sqrt(1 / 300) / sqrt(3)
    assert row["clean_ci_low"] == pytest.approx(low, rel=1e-10)
    assert row["clean_ci_high"] == 1.0
    assert row["training_s"] == 2.5
    # each training right on the first 8, 6 and 7 of the same images: images vary by more than seeds
    assert (row["robust_both_low"], row["robust_both_high"]) == pytest.approx((0.4, 1.0), abs=0.07)
    assert (alone["defense"], alone["seeds"], alone["robust_mean"]) == ("none", 1, 0.0)
    missing = (
        "robust_both_low",
        "robust_both_high",
        "robust_ci_low",
        "robust_ci_high",
        "clean_ci_low",
        "clean_ci_high",
        "training_s",
    )
    assert all(isnan(alone[name]) for name in missing)


def test_the_worst_case_over_attacks_is_taken_per_seed(record: MakeRecord) -> None:
    cells = [
        record([inf, inf, inf, 0.1]),
        record([inf, 0.1, inf, inf], attack="square"),
        record([inf, inf, 0.1, inf], model="cnn:seed=1"),
        record([inf, inf, inf, inf], model="cnn:seed=1", attack="square"),
    ]
    (row,) = seeds.seeds(cells).frame().to_dict("records")
    assert (row["robust_min"], row["robust_max"], row["note"]) == (0.5, 0.75, "")


def test_seeds_of_model_and_defense_are_dropped_and_nested_ones_are_not(record: MakeRecord) -> None:
    cells = [
        record([inf], model="cnn:seed=1,epochs=2", defense=f"d:attack=[a:seed={inner}],seed={own}")
        for inner in (5, 6)
        for own in (1, 2)
    ]
    table = seeds.seeds(cells).frame()
    assert list(table["model"]) == ["cnn:epochs=2"] * 2
    assert list(table["defense"]) == ["d:attack=[a:seed=5]", "d:attack=[a:seed=6]"]
    assert list(table["seeds"]) == [2, 2]


def test_what_differs_stays_apart(record: MakeRecord) -> None:
    cells = [
        record([inf] * 4),
        record([inf] * 8, model="cnn:seed=1"),
        record([inf] * 4, model="cnn:seed=2", norm="l2"),
        record([inf] * 4, model="cnn:seed=3", query_budget=100),
        record([inf] * 4, model="cnn:seed=4", dataset="mnist"),
        record([inf] * 4, model="cnn:seed=5,epochs=3"),
        record([inf] * 4, model="cnn:seed=6", eps=(Fraction(1, 10),), reference=None),
        record([inf] * 4, model="not a spec: seed=1, [", seed=3),
    ]
    table = seeds.seeds(cells)
    assert table.column("seeds") == [1] * len(cells)
    assert not seeds.several(table)
    assert "not a spec: seed=1, [" in table.column("model")


def test_a_failed_seed_and_unequal_attacks_are_noted(
    cells: list[Record], record: MakeRecord
) -> None:
    more = [
        record(None, n=10, model="cnn:seed=3", defense="fast"),
        record(outcomes(8, 9), defense="fast", attack="square"),
    ]
    row, _ = seeds.seeds([*cells, *more]).frame().to_dict("records")
    assert row["note"] == "1 of 4 seeds failed; the seeds met 1 to 2 attacks"
    assert (row["seeds"], row["robust_mean"]) == (3, 0.7)
    (lost,) = seeds.seeds([record(None, n=10)]).frame().to_dict("records")
    assert (lost["seeds"], lost["note"]) == (0, "1 of 1 seeds failed")
    assert isnan(lost["robust_mean"])


def test_two_weights_of_one_text_are_one_seed(record: MakeRecord) -> None:
    cells = [
        record([inf, inf], pipeline="old"),
        record([inf, 0.1], pipeline="new"),
        record([0.1, 0.1], model="cnn:seed=1"),
    ]
    (row,) = seeds.seeds(cells).frame().to_dict("records")
    assert (row["seeds"], row["robust_max"], row["robust_min"]) == (2, 0.75, 0.0)


def test_the_document(cells: list[Record]) -> None:
    text = markdown.seeds(cells)
    assert text.startswith("# Training seeds\n\n## digits, linf, eps = 0.2\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    shown = ["cnn", "fast", "3", "10", "70.0 [45.2, 94.8]", "60.0", "80.0"]
    (line,) = (line for line in lines if line[: len(shown)] == shown)
    low, high = (seeds.seeds(cells).column(f"robust_both_{end}")[0] for end in ("low", "high"))
    assert line[len(shown)] == f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert line[len(shown) + 1 :] == ["93.3 [79.0, 100.0]", "90.0", "100.0", "2.5", "none", ""]
    assert [
        "cnn",
        "none",
        "1",
        "10",
        "0.0",
        "0.0",
        "0.0",
        "",
        *["100.0"] * 3,
        "",
        "none",
        "",
    ] in lines
    assert "Student t" in text
    assert "Wilson" in text


def test_it_is_written_where_there_are_several_seeds(cells: list[Record], tmp_path: Path) -> None:
    def names(made: list[Record], folder: Path) -> set[str]:
        return {path.name for path in write(made, folder)}

    assert {"seeds.csv", "seeds.md"} <= names(cells, tmp_path / "several")
    assert not {"seeds.csv", "seeds.md"} & names(cells[2:], tmp_path / "one")
    text = (tmp_path / "several" / "seeds.csv").read_text()
    assert text == seeds.seeds(cells).csv()
    assert text.splitlines()[0] == ",".join(seeds.SEEDS)
    assert pd.read_csv(tmp_path / "several" / "seeds.csv")["robust_mean"].tolist() == [0.7, 0.0]


def test_no_records_make_an_empty_table() -> None:
    table = seeds.seeds([])
    assert list(table.columns) == list(seeds.SEEDS)
    assert not seeds.several(table)

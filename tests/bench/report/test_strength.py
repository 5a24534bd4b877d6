"""The table of attacks, computed by hand from a few samples."""

import re
from collections.abc import Callable
from fractions import Fraction
from math import inf

import numpy as np
import pandas as pd

from bench.report import markdown
from bench.report.strength import LEGEND, attacks
from bench.stats import wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
COLUMNS = (
    "dataset,norm,eps,model,defense,attack,mode,kind,seeds,n,robust_accuracy,ci_low,ci_high,"
    "spread,median_distance,refused,forward_per_image,backward_per_image,wall_s,query_budget,audit,"
    "median_low,median_high"
)


def names(table: pd.DataFrame) -> list[str]:
    return table["attack"].tolist()


def rows_of(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_a_row_says_what_the_attack_did_at_the_reference(record: MakeRecord) -> None:
    samples = {"refused": np.array([0, 0, 1, 0]), "forward": np.array([10, 20, 30, 41])}
    cell = record([0, 0.1, 0.3, inf], kind="minimal", seconds=1.23456, samples=samples)
    table = attacks([cell]).frame()
    assert ",".join(table.columns) == COLUMNS
    (row,) = table.to_dict("records")
    assert [row[name] for name in COLUMNS.split(",")[:10]] == [
        "digits",
        "linf",
        0.2,
        "cnn",
        "none",
        "pgd",
        "white-box",
        "minimal",
        1,
        4,
    ]
    # fooled at or below 0.2: the first two; median of 0.1, 0.3 and nothing
    assert row["robust_accuracy"] == 0.5
    assert (row["ci_low"], row["ci_high"]) == (wilson(2, 4).low, wilson(2, 4).high)
    assert (row["median_distance"], row["refused"]) == (0.3, 0.25)
    # of three samples a resample is all the first, or all the last, once in 27
    assert (row["median_low"], row["median_high"]) == (0.1, inf)
    assert (row["forward_per_image"], row["backward_per_image"]) == (101 / 4, 4)
    assert row["wall_s"] == 1.235
    assert pd.isna(row["spread"])


def test_seeds_of_one_attack_are_one_row(record: MakeRecord) -> None:
    cells = [
        record([0.1, 0.1, 0.1, 0.1], seed=7, kind="minimal", seconds=9.0),
        record([0.1, inf, inf, inf], seed=0, kind="minimal", seconds=1.0),
        record([0.1, 0.1, inf, inf], seed=1, kind="minimal", seconds=5.0),
    ]
    (row,) = attacks(cells).frame().to_dict("records")
    assert (row["seeds"], row["robust_accuracy"], row["spread"]) == (3, 0.75, 0.75)
    assert (row["median_distance"], row["wall_s"]) == (inf, 1.0)


def test_the_strongest_attack_stands_first_of_its_defended_model(record: MakeRecord) -> None:
    cells = [
        record([inf] * 3, attack="weak"),
        record([0.1, 0.1, inf], attack="b", kind="budget"),
        record([0.1, 0.2, inf], attack="far", kind="minimal"),
        record([0.1, 0.1, inf], attack="near", kind="minimal"),
        record([0.1, 0.1, inf], attack="a", kind="budget"),
        record([0.1] * 3, attack="strong"),
        record(None, n=3, attack="broken"),
        record([inf] * 3, model="bnn", defense="z"),
        record([0.1] * 3, model="cnn", defense="a"),
    ]
    table = attacks(cells).frame()
    assert table["model"].tolist() == ["bnn"] + ["cnn"] * 8
    assert table["defense"].tolist() == ["z", "a"] + ["none"] * 7
    assert names(table)[2:] == ["strong", "near", "far", "a", "b", "weak", "broken"]


def test_modes_and_specs_are_apart(record: MakeRecord) -> None:
    cells = [
        record([inf], attack=attack, mode=mode)
        for attack in ("pgd", "pgd:steps=5")
        for mode in ("bpda", "white-box")
    ]
    assert len(attacks(cells).frame()) == 4


def test_each_row_is_read_where_its_own_grid_allows(record: MakeRecord) -> None:
    small = (Fraction(1, 100), Fraction(2, 100))
    cells = [
        record([0.01, 0.02], attack="small", eps=small),
        record([0.1, 0.3], attack="reference"),
        record([0.1, 0.1], attack="none", eps=(Fraction(1, 10),), reference=None),
        record([5, inf], attack="l0", norm="l0", eps=(Fraction(5),), reference=Fraction(5)),
    ]
    table = attacks(cells).frame()
    assert names(table) == ["reference", "small", "none", "l0"]
    assert table["eps"].tolist() == [0.2, 0.02, 0.1, 5]
    assert table["robust_accuracy"].tolist() == [0.5, 0, 0, 0.5]


def test_only_the_largest_sample_set_and_one_cell_per_seed_counts(record: MakeRecord) -> None:
    cells = [
        record([0.1] * 3, seed=0),
        record(None, n=3, seed=1),
        record([0.1] * 4 + [inf], seed=0),
        record([0.1] * 3 + [inf] * 2, seed=0, device="cuda"),
        record([0.1] * 5, seed=0, eps=(Fraction(1, 10),), reference=None),
        record([0.1] * 5, seed=2),
    ]
    (row,) = attacks(cells).frame().to_dict("records")
    assert (row["n"], row["seeds"], row["eps"]) == (5, 2, 0.2)
    assert (row["robust_accuracy"], row["spread"]) == (0.2, 0.2)


def test_failed_seeds_are_a_row_of_their_own(record: MakeRecord) -> None:
    cells = [
        record([0.1, inf], seed=0),
        record(None, n=2, seed=1),
        record(None, n=2, seed=2),
    ]
    done, failed = attacks(cells).frame().to_dict("records")
    assert (done["seeds"], done["robust_accuracy"]) == (1, 0.5)
    assert (failed["seeds"], failed["n"], failed["eps"], failed["kind"]) == (2, 2, 0.2, "budget")
    missing = set(COLUMNS.split(",")[10:]) - {"audit"}
    assert all(pd.isna(failed[name]) for name in missing)
    assert failed["audit"] == "none"


def test_no_records_give_the_columns() -> None:
    assert ",".join(attacks([]).frame().columns) == COLUMNS
    assert len(attacks([]).frame()) == 0


def test_the_document_has_a_section_per_reading_point(record: MakeRecord) -> None:
    cells = [
        record([inf]),
        record([inf], norm="l2"),
        record([inf], norm="l2", attack="far", eps=(Fraction(1, 10),)),
    ]
    text = markdown.attacks(cells)
    assert text.startswith("# Attacks\n\n## digits, linf, eps = 0.2\n\n| model")
    assert re.findall("^## .*", text, re.MULTILINE)[1:] == [
        "## digits, l2, eps = 0.2",
        "## digits, l2, eps = 0.1",
    ]
    for word in ("upper bound", "budget", "minimal", "ensemble", "re-check", "all radii together"):
        assert word in " ".join(LEGEND).replace("\n", " ")
        assert word in text


def test_the_document_shows_percent_points_and_costs(record: MakeRecord) -> None:
    refused = np.zeros(2000, dtype=np.int64)
    refused[0] = 3
    samples = {"refused": refused, "forward": np.full(2000, 1234)}
    cells = [
        record(
            [0.123456] * 1500 + [inf] * 500,
            kind="minimal",
            eps=(Fraction(2, 10), Fraction(3, 10)),
            seconds=0.0123,
            samples=samples,
        ),
        record([0.1] * 2000, attack="a", seed=0),
        record([0.1] * 1990 + [inf] * 10, attack="a", seed=1),
        record([inf] * 2000, attack="weak", kind="minimal"),
        record(None, n=2000, attack="z", kind="ensemble"),
    ]
    several, found, weak, failed = rows_of(markdown.attacks(cells))
    assert found == {
        "model": "cnn",
        "defense": "none",
        "attack (mode)": "pgd (white-box)",
        "kind": "minimal",
        "seeds": "1",
        "n": "2,000",
        "robust": "25.0 [23.2, 26.9]",
        "spread": "",
        "median distance": "0.1235 [0.1235, 0.1235]",
        "refused": "0.1",
        "forward / image": "1,234.0",
        "backward / image": "4.0",
        "seconds": "0.012",
        "audit": "none",
    }
    assert (several["seeds"], several["robust"], several["spread"]) == (
        "2",
        "0.0 [0.0, 0.2]",
        "0.5",
    )
    assert (several["median distance"], several["refused"]) == ("", "")
    assert weak["median distance"] == "inf [inf, inf]"
    assert (failed["kind"], failed["robust"]) == ("ensemble", "failed")
    assert set(list(failed.values())[7:-1]) == {""}
    assert failed["audit"] == "none"

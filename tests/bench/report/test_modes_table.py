"""The table of modes: a row per attack and mode, and the worst of them, by hand."""

from collections.abc import Callable
from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.plan import CERTIFICATE
from bench.report import frames, modes
from bench.report.write import write
from bench.stats import wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
PURIFY = {"defense": "purify"}
COLUMNS = (
    "dataset,norm,eps,model,defense,attack,mode,seed,n,clean_accuracy,accuracy,ci_low,ci_high,"
    "zero_gradient,forward_queries,backward_queries,wall_s,cell,failure,query_budget,audit"
)


def zero(share: float) -> dict[str, object]:
    return {"gradients": {"zero": share, "of": 3}}


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    """A purifier that the oblivious see standing; the latent search and BPDA fool other images."""
    return [
        record([0, 0.1, 0.1, 0.1]),
        record([0, inf, inf, inf], **PURIFY, mode="released", provenance=zero(1.0)),
        record([0, inf, 0.1, inf], **PURIFY, attack="latent", mode="latent"),
        record([0, 0.2, inf, inf], **PURIFY, mode="bpda+eot", provenance=zero(0.0)),
        record([0, inf, inf, 0.3], **PURIFY, mode="oblivious", provenance=zero(0.25)),
        record([0, inf, inf, inf], **PURIFY, mode="transfer"),
    ]


def test_a_row_per_mode_and_the_worst_of_all(cells: list[Record]) -> None:
    table = modes.modes(cells).frame()
    assert ",".join(table.columns) == COLUMNS
    assert list(zip(table["defense"], table["attack"], table["mode"], strict=True)) == [
        ("none", "pgd", "white-box"),
        ("none", "worst-case", "all"),
        ("purify", "pgd", "oblivious"),
        ("purify", "pgd", "transfer"),
        ("purify", "pgd", "bpda+eot"),
        ("purify", "latent", "latent"),
        ("purify", "pgd", "released"),
        ("purify", "worst-case", "all"),
    ]
    assert table["eps"].tolist() == [0.2] * 8
    assert table["accuracy"].tolist() == [0, 0, 0.75, 0.75, 0.5, 0.5, 0.75, 0.25]
    assert table["clean_accuracy"].tolist() == [0.75] * 8
    gradient = table["zero_gradient"].tolist()
    assert gradient[2:7:2] == [0.25, 0.0, 1.0]
    assert all(pd.isna(gradient[place]) for place in (0, 1, 3, 5, 7))


def test_values_of_a_row_and_of_the_worst_case(cells: list[Record]) -> None:
    lines = modes.modes(cells).csv().splitlines()
    half, quarter = wilson(2, 4), wilson(1, 4)
    key = cells[3].key
    assert lines[5] == (
        f"digits,linf,0.2,cnn,purify,pgd,bpda+eot,0,4,0.75,0.5,{half.low!r},{half.high!r},"
        f"0.0,40,16,1.235,{key},,,none"
    )
    assert lines[8] == (
        f"digits,linf,0.2,cnn,purify,worst-case,all,,4,0.75,0.25,{quarter.low!r},{quarter.high!r},"
        ",200,80,6.173,,,,none"
    )


def test_the_worst_case_is_the_leaderboard_s(cells: list[Record]) -> None:
    board = frames.leaderboard(cells).frame().set_index("defense")
    table = modes.modes(cells).frame()
    worst = table[table["attack"] == "worst-case"].set_index("defense")
    for defense in ("none", "purify"):
        row, of = worst.loc[defense], board.loc[defense]
        assert (row.accuracy, row.ci_low, row.ci_high) == (
            of.robust_accuracy,
            of.ci_low,
            of.ci_high,
        )
        assert row.forward_queries == of.forward_queries


@pytest.mark.parametrize(
    "mode", ["bpda", "bpda+eot", "unrolled+eot", "released", "latent", "white-box", "black-box"]
)
def test_modes_that_were_shown_the_pipeline_count_as_adaptive(
    mode: str, record: MakeRecord
) -> None:
    shown = record([0, 0.1, inf, inf], **PURIFY, mode=mode)
    others = [
        record([0, inf, inf, 0.1], **PURIFY, mode="oblivious"),
        record([0, 0.1, 0.1, 0.1], **PURIFY, mode="transfer"),
    ]
    (row,) = frames.leaderboard([*others, shown]).frame().to_dict("records")
    assert row["adaptive_accuracy"] == row["oblivious_accuracy"] == 0.5
    assert row["robust_accuracy"] == 0
    (row,) = frames.leaderboard(others).frame().to_dict("records")
    assert pd.isna(row["adaptive_accuracy"]), "a transferred image knows nothing of the defense"


def test_accuracy_under_draws_is_their_mean(record: MakeRecord) -> None:
    draws = {"draws": np.array([[inf, inf], [inf, 0.1], [0, 0.1], [0, 0]])}
    outcomes = [inf, 0.1, 0, 0]
    cells = [
        record(outcomes, **PURIFY, mode=mode, samples=draws) for mode in ("oblivious", "bpda+eot")
    ]
    table = modes.modes(cells).frame()
    assert table["accuracy"].tolist() == [3 / 8] * 3
    assert table["clean_accuracy"].tolist() == [5 / 8] * 3


def test_without_the_reference_it_is_the_largest_eps(record: MakeRecord) -> None:
    grid = (Fraction(0), Fraction(1, 10), Fraction(3, 10))
    cells = [
        record([0, 0.1, 0.3, inf], **PURIFY, mode=mode, eps=grid) for mode in ("oblivious", "bpda")
    ]
    table = modes.modes(cells).frame()
    assert table["eps"].tolist() == [0.3] * 3
    assert table["accuracy"].tolist() == [0.25] * 3


def test_a_defense_under_one_mode_has_no_table(record: MakeRecord, tmp_path: Path) -> None:
    proof = record([0, inf], defense="smoothing", mode="certified", kind=CERTIFICATE)
    cells = [
        record([0, inf]),
        record([0, inf], attack="square", mode="black-box"),
        record([0, inf], defense="madry"),
        record([0, inf], defense="smoothing", mode="eot"),
        proof,
    ]
    assert modes.modes(cells).csv() == f"{COLUMNS}\n"
    written = {path.name for path in write(cells, tmp_path)}
    assert not {"modes.csv", "modes.md"} & written


def test_the_undefended_model_beside_it_is_the_same_one(
    cells: list[Record], record: MakeRecord
) -> None:
    others = [record([0, inf], model="mlp"), record([0, inf], norm="l2")]
    assert modes.modes([*others, *cells]) == modes.modes(cells)


def test_a_failed_cell_is_a_row(cells: list[Record], record: MakeRecord) -> None:
    failed = record(None, **PURIFY, mode="unrolled+eot", failure="RuntimeError: out of memory")
    (section,) = modes.sections(modes.modes([*cells, failed]))
    row = section.table.rows[5]
    assert row[:9] == ("cnn", "purify", "pgd", "unrolled+eot", "0", "4", "", "failed", "")
    assert section.table.notes == (
        "pgd (unrolled+eot) on purify: RuntimeError: out of memory",
        "worst-case (all) on purify: 1 of 6 attacks failed",
    )


def test_the_table_for_people(cells: list[Record]) -> None:
    (section,) = modes.sections(modes.modes(cells))
    assert section.title == "digits, linf, eps = 0.2"
    shown = section.table
    assert len(shown.header) == len(shown.align) == len(shown.rows[0])
    assert shown.rows[6] == (
        *("cnn", "purify", "pgd", "released", "0", "4", "75.0", "75.0 [30.1, 95.4]"),
        *("100.0", "40", "16", "1.2", "none"),
    )
    assert shown.bold == {1, 7}


def test_the_legend_explains_the_modes_that_occur(cells: list[Record]) -> None:
    reading = " ".join(modes.legend(modes.modes(cells)))
    assert "says nothing about robustness" in reading
    assert "worst-case, is the headline" in reading
    there = {"white-box", "oblivious", "transfer", "bpda", "eot", "latent", "released"}
    assert {name for name in modes.MEANINGS if f"{name}: " in reading} == there


def test_documents_and_page_hold_it(cells: list[Record], tmp_path: Path) -> None:
    written = {path.relative_to(tmp_path).as_posix() for path in write(cells, tmp_path)}
    assert {"modes.csv", "modes.md"} <= written
    text = (tmp_path / "modes.md").read_text(encoding="utf-8")
    assert text.startswith("# Modes of attack\n\n## digits, linf, eps = 0.2\n")
    assert "**worst-case**" in text
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Modes of attack</h2>" in page
    write(cells[:1], tmp_path / "other")
    other = (tmp_path / "other" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Modes of attack</h2>" not in other

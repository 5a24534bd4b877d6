"""Tables of a few samples, computed by hand."""

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.report import frames
from bench.stats import wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
COLUMNS = (
    "dataset,model,defense,attack,mode,norm,eps,seed,n,accuracy,ci_low,ci_high,"
    "clean_accuracy,forward_queries,backward_queries,wall_s,device,precision,audit,cell,"
    "failure,refused,median_distance,query_budget,draws,worst_draw_accuracy,"
    "peak_memory_mb,evidence"
)
OF_LEADERBOARD = (
    "rank,tie,dataset,norm,eps,model,defense,n,robust_accuracy,ci_low,ci_high,"
    "clean_accuracy,attacks,forward_queries,backward_queries,wall_s,audit,note,query_budget,"
    "oblivious_accuracy,adaptive_accuracy,draws,worst_draw_accuracy,training_s,parameters,passes"
)
OF_TIMING = (
    "dataset,model,defense,attack,norm,seed,n,device,precision,threads,shape,wall_s,"
    "forward_queries,backward_queries,verify_queries,queries_per_s,training_s,start,peak_memory_mb"
)


def fooled(right: int, n: int = 100, *, at: float = 0.1) -> list[float]:
    """Outcomes of n samples of which the first `right` were never fooled."""
    return [inf] * right + [at] * (n - right)


def only(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def test_accuracy_is_the_share_not_fooled_up_to_eps(record: MakeRecord) -> None:
    # 4 samples: wrong without attack, fooled at 0.1, at 0.2, never
    table = frames.tidy([record([0, 0.1, 0.2, inf], key="k", seconds=1.23456)]).frame()
    rows = only(table, attack="pgd")
    assert ",".join(table.columns) == COLUMNS
    assert rows["eps"].tolist() == [0.0, 0.1, 0.2, 0.3]
    assert rows["accuracy"].tolist() == [0.75, 0.5, 0.25, 0.25]
    bounds = [(wilson(k, 4).low, wilson(k, 4).high) for k in (3, 2, 1, 1)]
    assert list(zip(rows["ci_low"], rows["ci_high"], strict=True)) == bounds
    first = rows.iloc[0].to_dict()
    assert first["clean_accuracy"] == 0.75
    assert (first["n"], first["seed"]) == (4, 0)
    assert (first["forward_queries"], first["backward_queries"]) == (40, 16)
    assert first["wall_s"] == 1.235
    assert (first["cell"], first["audit"], first["failure"]) == ("k", "none", "")


def test_clean_accuracy_needs_no_eps_0(record: MakeRecord) -> None:
    table = frames.tidy([record([0, 0.1, inf, inf], eps=(Fraction(1, 10),))]).frame()
    assert table["clean_accuracy"].tolist() == [0.75, 0.75]
    assert table["accuracy"].tolist() == [0.5, 0.5]


def test_worst_case_is_the_minimum_per_sample_not_of_the_means(record: MakeRecord) -> None:
    cells = [
        record([0.1, inf, inf, 0.2], attack="pgd", mode="white-box", seconds=1.0),
        record([inf, 0.1, inf, 0.3], attack="square", mode="black-box", seconds=2.5),
    ]
    table = frames.tidy(cells).frame()
    assert table["attack"].tolist() == ["pgd"] * 4 + ["square"] * 4 + ["worst-case"] * 4
    at = only(table, eps=0.1).set_index("attack")["accuracy"]
    assert at.to_dict() == {"pgd": 0.75, "square": 0.75, "worst-case": 0.5}
    worst = only(table, attack="worst-case")
    assert worst["accuracy"].tolist() == [1.0, 0.5, 0.25, 0.25]
    assert set(worst["mode"]) == {"black-box+white-box"}
    assert set(worst["cell"]) == {""}
    assert set(worst["forward_queries"]) == {80}
    assert set(worst["backward_queries"]) == {32}
    assert set(worst["wall_s"]) == {3.5}


def test_modes_of_the_worst_case_are_named_once(record: MakeRecord) -> None:
    modes = ("bpda+eot", "white-box", "bpda")
    cells = [record([inf], attack=f"a{i}", mode=mode) for i, mode in enumerate(modes)]
    assert frames.tidy(cells).frame()["mode"].tolist()[-1] == "bpda+eot+white-box"


def test_a_failed_cell_is_a_row_without_a_number(record: MakeRecord) -> None:
    cells = [record([inf, 0.1]), record(None, n=2, attack="cw", failure="out of memory")]
    table = frames.tidy(cells).frame()
    failed = only(table, attack="cw")
    assert failed["eps"].tolist() == [0.0, 0.1, 0.2, 0.3]
    assert set(failed["failure"]) == {"out of memory"}
    numbers = ["accuracy", "ci_low", "ci_high", "clean_accuracy", "wall_s"]
    assert failed[[*numbers, "forward_queries", "backward_queries"]].isna().all(axis=None)
    worst = only(table, attack="worst-case")
    assert worst["accuracy"].tolist() == [1.0, 0.5, 0.5, 0.5]
    assert set(worst["failure"]) == {"1 of 2 attacks failed"}
    assert str(table["forward_queries"].dtype) == "Int64"


def test_a_group_of_failures_has_no_worst_case(record: MakeRecord) -> None:
    table = frames.tidy([record(None), record(None, attack="cw")]).frame()
    assert set(table["attack"]) == {"pgd", "cw"}
    assert table["accuracy"].isna().all()


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "mnist"},
        {"fingerprint": "f1"},
        {"samples_digest": "other"},
        {"model": "mlp"},
        {"defense": "advtrain"},
        {"norm": "l2"},
        {"eps": (Fraction(1, 10),)},
        {"seed": 1},
        {"device": "cuda"},
        {"sweep": "independent"},
    ],
)
def test_groups_are_not_mixed(record: MakeRecord, change: dict[str, Any]) -> None:
    cells = [record([0.1, inf]), record([inf, 0.1], attack="square", **change)]
    table = only(frames.tidy(cells).frame(), attack="worst-case", eps=0.1)
    assert table["accuracy"].tolist() == [0.5, 0.5]


def test_attacks_that_searched_in_different_precisions_have_one_worst_case(
    record: MakeRecord,
) -> None:
    """What decided is float32 in both."""
    cells = [record([0.1, inf]), record([inf, 0.1], attack="pgd", precision="bf16")]
    table = only(frames.tidy(cells).frame(), eps=0.1)
    assert table["precision"].tolist() == ["fp32", "bf16", "bf16+fp32"]
    assert table["accuracy"].tolist() == [0.5, 0.5, 0.0]


def test_a_groups_rows_stand_together(record: MakeRecord) -> None:
    cells = [record([inf], attack=a, seed=s) for a in ("fgsm", "pgd") for s in (0, 1)]
    rows = only(frames.tidy(cells).frame(), eps=0.1)
    assert list(zip(rows["seed"], rows["attack"], strict=True)) == [
        (seed, attack) for seed in (0, 1) for attack in ("fgsm", "pgd", "worst-case")
    ]


@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (frames.tidy, COLUMNS),
        (frames.leaderboard, OF_LEADERBOARD),
        (frames.timing, OF_TIMING),
    ],
)
def test_nothing_gives_an_empty_table(make: Callable[..., pd.DataFrame], columns: str) -> None:
    assert ",".join(make([]).columns) == columns
    assert len(make([])) == 0


def test_refusals_and_distances_are_the_cells_and_not_the_worst_cases(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, 0.2, 0.3], kind="minimal", samples={"refused": np.array([0, 0, 0, 7])}),
        record([0, 0.1, 0.2, inf], attack="fgsm"),
        record(None, attack="cw", kind="minimal"),
    ]
    table = frames.tidy(cells).frame()
    # of 0.1, 0.2 and 0.3, the image wrong without attack left out
    assert set(only(table, attack="pgd")["median_distance"]) == {0.2}
    assert set(only(table, attack="pgd")["refused"]) == {0.25}
    assert set(only(table, attack="fgsm")["refused"]) == {0.0}
    assert only(table, attack="fgsm")["median_distance"].isna().all()
    for empty in ("cw", "worst-case"):
        rows = only(table, attack=empty)
        assert len(rows) == 4
        assert rows[["refused", "median_distance"]].isna().all(axis=None)


def test_curves_carry_what_the_table_shows(record: MakeRecord) -> None:
    cells = [record([0, 0.1, 0.2, inf]), record(None, attack="cw")]
    curves = frames.curves(cells)
    assert [c.attack for c in curves] == ["pgd", "cw", "worst-case"]
    assert [c.is_complete for c in curves] == [True, False, True]
    assert [c.is_worst for c in curves] == [False, False, True]
    assert curves[0].accuracy.tolist() == [0.75, 0.5, 0.25, 0.25]
    assert curves[0].eps == (0.0, 0.1, 0.2, 0.3)
    assert float(curves[2].clean or 0) == 0.75
    assert curves[2].attacks == 1


# --- leaderboard ---


def test_leaderboard_takes_the_worst_over_all_cells_at_the_reference(record: MakeRecord) -> None:
    cells = [
        record([0.2, inf, inf, inf], seed=0),
        record([inf, 0.1, inf, inf], seed=1),
        record([inf, inf, 0.3, inf], attack="square", mode="black-box"),
        record([inf, inf, inf, 0.15], attack="cw", eps=(Fraction(3, 20), Fraction(1, 4))),
    ]
    (row,) = frames.leaderboard(cells).frame().to_dict("records")
    assert row["eps"] == 0.2
    # fooled at or below 0.2 by some cell: all but the third sample
    assert row["robust_accuracy"] == 0.25
    assert (row["ci_low"], row["ci_high"]) == (wilson(1, 4).low, wilson(1, 4).high)
    assert row["clean_accuracy"] == 1.0
    assert (row["rank"], row["tie"], row["attacks"], row["n"]) == (1, "A", 4, 4)
    assert (row["forward_queries"], row["backward_queries"]) == (160, 64)
    assert row["note"] == ""
    assert ",".join(frames.leaderboard(cells).frame().columns) == OF_LEADERBOARD


def test_without_the_reference_it_is_read_at_the_largest_eps(record: MakeRecord) -> None:
    grids = [(Fraction(1, 10), Fraction(3, 10)), (Fraction(1, 10), Fraction(1, 4))]
    for reference in (Fraction(2, 10), None):
        cells = [record([0.1, inf], eps=grid, reference=reference) for grid in grids]
        assert frames.leaderboard(cells).frame()["eps"].tolist() == [0.3]


def test_rows_read_at_different_eps_are_ranked_apart(record: MakeRecord) -> None:
    small = (Fraction(1, 100),)
    cells = [
        record([inf, inf], defense="a", eps=small),
        record([inf, 0.1], defense="b"),
        record([0.1, 0.1], defense="c"),
    ]
    table = frames.leaderboard(cells).frame()
    assert table["defense"].tolist() == ["b", "c", "a"]
    assert table["eps"].tolist() == [0.2, 0.2, 0.01]
    assert table["rank"].tolist() == [1, 1, 1]
    assert table["tie"].tolist() == ["A", "A", "A"]


def test_only_the_largest_sample_set_counts(record: MakeRecord) -> None:
    cells = [
        record([0.1] * 4),
        record([0.1] + [inf] * 7),
        record(None, n=4, attack="cw", samples_digest="samples-4"),
    ]
    (row,) = frames.leaderboard(cells).frame().to_dict("records")
    assert (row["n"], row["robust_accuracy"], row["attacks"]) == (8, 7 / 8, 1)
    assert row["note"] == ""


def test_ties_are_paired_tests_against_the_best_row_of_the_group(record: MakeRecord) -> None:
    # exact McNemar, the worse one right on a subset: 5 lost gives p = 2/32, 6 lost p = 2/64
    cells = [
        record(fooled(54), defense="c"),
        record(fooled(60), defense="a"),
        record(fooled(55), defense="b"),
        record(fooled(10), defense="d"),
    ]
    table = frames.leaderboard(cells).frame()
    assert table["defense"].tolist() == ["a", "b", "c", "d"]
    assert table["robust_accuracy"].tolist() == [0.6, 0.55, 0.54, 0.1]
    assert table["tie"].tolist() == ["A", "A", "B", "C"]
    assert table["rank"].tolist() == [1, 1, 3, 4]


def test_pairing_sees_what_the_means_hide(record: MakeRecord) -> None:
    first, second = fooled(60), fooled(50)
    # the same accuracies on other samples: 40 against 30 discordant, p = 0.28
    crossed = [0.1] * 40 + [inf] * 50 + [0.1] * 10
    apart = frames.leaderboard([record(first, defense="a"), record(second, defense="b")]).frame()
    tied = frames.leaderboard([record(first, defense="a"), record(crossed, defense="b")]).frame()
    assert apart["robust_accuracy"].tolist() == tied["robust_accuracy"].tolist() == [0.6, 0.5]
    assert apart["tie"].tolist() == ["A", "B"]
    assert tied["tie"].tolist() == ["A", "A"]


def test_different_samples_tie_where_their_intervals_overlap(record: MakeRecord) -> None:
    best = record(fooled(60), defense="a")
    near = record(fooled(45), defense="b", samples_digest="other")
    far = record(fooled(30), defense="b", samples_digest="other")
    assert wilson(45, 100).high > wilson(60, 100).low > wilson(30, 100).high
    assert frames.leaderboard([best, near]).frame()["tie"].tolist() == ["A", "A"]
    assert frames.leaderboard([best, far]).frame()["tie"].tolist() == ["A", "B"]


def test_equal_rows_stand_in_the_order_of_their_names(record: MakeRecord) -> None:
    cells = [
        record([inf, 0.1], defense=d, model=m) for m, d in [("n", "a"), ("m", "b"), ("m", "a")]
    ]
    table = frames.leaderboard(cells).frame()
    assert list(zip(table["model"], table["defense"], strict=True)) == [
        ("m", "a"),
        ("m", "b"),
        ("n", "a"),
    ]
    assert table["rank"].tolist() == [1, 1, 1]


def test_failures_are_noted_and_never_win(record: MakeRecord) -> None:
    cells = [
        record(None, defense="broken", failure="no gradient"),
        record(None, defense="broken", attack="cw", failure="out of memory"),
        record([0.1] * 4, defense="weak"),
        record(None, n=4, defense="weak", attack="cw"),
        record(None, n=4, defense="weak", attack="fab"),
    ]
    table = frames.leaderboard(cells).frame()
    assert table["defense"].tolist() == ["weak", "broken"]
    assert table["note"].tolist() == ["2 of 3 attacks failed", "failed: no gradient (and 1 more)"]
    assert table["attacks"].tolist() == [1, 0]
    last = table.iloc[1]
    assert pd.isna(last["rank"])
    assert last["tie"] == ""
    assert pd.isna(last["robust_accuracy"])
    assert last["eps"] == 0.2


def test_datasets_and_norms_are_ranked_apart(record: MakeRecord) -> None:
    cells = [
        record([inf] * 10, dataset=dataset, norm=norm)
        for dataset, norm in [("digits", "linf"), ("digits", "l2"), ("mnist", "l2")]
    ]
    assert frames.leaderboard(cells).frame()["rank"].tolist() == [1, 1, 1]


def test_there_are_letters_for_any_number_of_groups(record: MakeRecord) -> None:
    cells = [record(fooled(560 - 20 * i, 600), defense=f"d{i:02}") for i in range(28)]
    assert frames.leaderboard(cells).frame()["tie"].tolist()[-4:] == ["Y", "Z", "AA", "AB"]


# --- timing and memory ---


def test_the_peak_of_a_worst_case_is_the_highest_known(record: MakeRecord) -> None:
    cells = [
        record([0.1], attack="fgsm", provenance={"peak_memory_mb": 300.5}),
        record([0.1], attack="pgd", provenance={"peak_memory_mb": 400.0}),
        record([0.1], attack="noise"),
    ]
    peaks = frames.tidy(cells).frame().groupby("attack")["peak_memory_mb"].first()
    assert peaks[["fgsm", "pgd", "worst-case"]].tolist() == [300.5, 400.0, 400.0]
    assert np.isnan(frames.tidy(cells[2:]).frame()["peak_memory_mb"]).all()


def test_timing_counts_every_query(record: MakeRecord) -> None:
    start = "2026-01-02T03:04:05Z"
    facts = {"training_seconds": 12.5, "start": start, "peak_memory_mb": 512.5}
    cells = [
        record([inf, 0.1], seconds=0.5, provenance=facts),
        record(None, attack="cw", provenance={}),
    ]
    table = frames.timing(cells).frame()
    assert ",".join(table.columns) == OF_TIMING
    done, failed = table.to_dict("records")
    costs = ("forward_queries", "backward_queries", "verify_queries", "queries_per_s")
    assert [done[name] for name in costs] == [20, 8, 4, 64.0]
    assert (done["wall_s"], done["training_s"], done["start"]) == (0.5, 12.5, start)
    assert done["peak_memory_mb"] == 512.5
    measured = ("wall_s", "training_s", "peak_memory_mb")
    assert all(pd.isna(failed[name]) for name in (*costs, *measured))
    assert failed["start"] == ""


def test_a_cell_that_took_no_time_has_no_rate(record: MakeRecord) -> None:
    table = frames.timing([record([inf], seconds=0.0)]).frame()
    assert np.isnan(table["queries_per_s"][0])


def test_a_worst_case_has_the_least_evidence_of_its_cells(record: MakeRecord) -> None:
    cells = [
        record([0.1], attack="fgsm", evidence="verified"),
        record([0.1], attack="pgd", evidence="saved"),
    ]
    found = frames.tidy(cells).frame().groupby("attack")["evidence"].first()
    assert found.to_dict() == {"fgsm": "verified", "pgd": "saved", "worst-case": "saved"}
    mixed = frames.tidy([*cells, record([0.1], attack="noise")]).frame()
    assert set(mixed[mixed["attack"] == "worst-case"]["evidence"]) == {"none"}

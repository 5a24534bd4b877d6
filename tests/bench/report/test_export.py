"""Per-sample outcomes as they leave the store."""

from collections.abc import Callable
from math import inf, isnan
from pathlib import Path

import pandas as pd

from bench.report import frames
from bench.report.export import export, samples
from bench.store import Record

MakeRecord = Callable[..., Record]
COLUMNS = (
    "cell,dataset,model,defense,attack,mode,norm,seed,index,id,label,clean_prediction,"
    "min_eps,distance,forward,backward,verify,queries"
)


def test_samples_have_a_row_each(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, inf], key="k", seed=3),
        record(None, attack="cw"),
        record([0.2], attack="square"),
    ]
    table = samples(cells)
    assert ",".join(table.columns) == COLUMNS
    assert table["attack"].tolist() == ["pgd"] * 3 + ["square"]
    assert table["cell"].tolist()[:3] == ["k"] * 3
    # ids -1, 0, 1 of signed 64 bits
    assert table["id"].tolist()[:3] == ["f" * 16, "0" * 16, "0" * 15 + "1"]
    assert table["index"].tolist() == [0, 3, 6, 0]
    assert table["label"].tolist() == [0, 1, 2, 0]
    assert table["clean_prediction"].tolist() == [1, 1, 2, 0]
    assert table["min_eps"].tolist() == [0, 0.1, inf, 0.2]
    assert isnan(table["distance"][2])
    assert table["seed"].tolist() == [3, 3, 3, 0]
    costs = table[["forward", "backward", "verify"]].iloc[0]
    assert costs.tolist() == [10, 4, 2]


def test_what_an_audit_found_is_no_attack_s(record: MakeRecord) -> None:
    look = record([0, 0.1], attack="audit", kind="audit")
    assert samples([record([0, inf]), look])["attack"].tolist() == ["pgd"] * 2


def test_no_complete_cell_gives_the_columns(record: MakeRecord) -> None:
    for cells in ([], [record(None)]):
        assert ",".join(samples(cells).columns) == COLUMNS
        assert len(samples(cells)) == 0


def test_files_hold_the_tables(record: MakeRecord, tmp_path: Path) -> None:
    cells = [record([0, 0.1, inf]), record(None, attack="cw")]
    written = export(cells, tmp_path)
    assert [path.name for path in written] == [
        "samples.parquet",
        "samples.csv",
        "accuracy_vs_eps.parquet",
        "leaderboard.parquet",
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(written[0]), samples(cells))
    pd.testing.assert_frame_equal(pd.read_parquet(written[2]), frames.tidy(cells).frame())
    pd.testing.assert_frame_equal(pd.read_parquet(written[3]), frames.leaderboard(cells).frame())
    lines = written[1].read_text().splitlines()
    assert lines[0] == COLUMNS
    assert lines[3].endswith(",6,0000000000000001,2,2,inf,,10,4,2,-1")
    before = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in export(cells, tmp_path)} == before


def test_nothing_is_exported_with_headers(tmp_path: Path) -> None:
    written = export([], tmp_path)
    assert ",".join(pd.read_parquet(written[0]).columns) == COLUMNS
    assert list(pd.read_parquet(written[2]).columns) == list(frames.TIDY)

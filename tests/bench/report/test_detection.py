"""Facts of detection as a table, a document and ROC curves."""

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from bench.report import detection
from bench.report.tables import interval_text
from bench.report.write import write
from bench.stats import wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
FACT = {
    "eps": 0.2,
    "images": 4,
    "seen": True,
    "trained_on": "pgd",
    "fpr": 0.05,
    "clean_refused": 0.25,
    "fooling": 2,
    "refused": 0.5,
    "passed": 0.25,
    "auc": 0.875,
    "tpr": {"0.01": None, "0.05": 0.5},
    "roc": [[0, 0], [0, 1], [1, 1], [1, 2], [4, 2]],
}
NOTHING = (
    FACT
    | {"seen": False, "fooling": 0, "refused": None, "passed": 0.0, "auc": None}
    | {
        "tpr": {"0.01": None, "0.05": None},
        "roc": [[0, 0], [4, 0]],
    }
)


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    made = {"defense": "safetynet"}
    return [
        record([0, inf], **made, mode="oblivious", provenance={"detection": FACT}),
        record([0, inf], **made, mode="bpda", provenance={"detection": FACT}),
        record([0, inf], **made, attack="fgsm", mode="bpda", provenance={"detection": NOTHING}),
        record([0, inf]),
        record(None, **made, attack="cw", provenance={"detection": FACT}),
    ]


def test_a_row_per_measured_cell(cells: list[Record]) -> None:
    keys = [cell.key for cell in cells]
    some, no = (f"{w.low!r},{w.high!r}" for w in (wilson(1, 4), wilson(0, 4)))
    assert detection.detection(cells).csv().splitlines() == [
        "dataset,norm,eps,model,defense,attack,mode,seed,seen,images,clean_refused,fooling,auc,"
        "tpr_at_1_percent,tpr_at_5_percent,refused,passed,cell,audit,"
        "passed_low,passed_high",
        f"digits,linf,0.2,cnn,safetynet,pgd,oblivious,0,1,4,0.25,2,0.875,,0.5,0.5,0.25,{keys[0]},none,"
        f"{some}",
        f"digits,linf,0.2,cnn,safetynet,pgd,bpda,0,1,4,0.25,2,0.875,,0.5,0.5,0.25,{keys[1]},none,"
        f"{some}",
        f"digits,linf,0.2,cnn,safetynet,fgsm,bpda,0,0,4,0.25,0,,,,,0.0,{keys[2]},none,{no}",
    ]


def test_the_table_for_people(cells: list[Record]) -> None:
    (section,) = detection.sections(detection.detection(cells))
    assert section.title == "digits, linf, eps = 0.2"
    assert section.table.rows[0] == (
        *("cnn", "safetynet", "pgd", "oblivious", "0", "seen"),
        *("4", "25.0", "2", "87.5", "", "50.0", "50.0", interval_text(wilson(1, 4)), "none"),
    )
    assert len(section.table.header) == len(section.table.align) == len(section.table.rows[0])


def test_the_curves_are_the_facts(cells: list[Record]) -> None:
    (axes,) = detection._figure(list(detection._measured(cells[:2]))).axes
    one, other, guess = (
        [list(map(float, axis)) for axis in line.get_data()] for line in axes.lines
    )
    assert one == other == [[0, 0, 25, 25, 100], [0, 50, 50, 100, 100]]
    assert guess == [[0, 100], [0, 100]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", "-"]


def test_a_figure_per_dataset_and_norm_with_a_curve(
    cells: list[Record], record: MakeRecord
) -> None:
    other = record([0], norm="l2", provenance={"detection": NOTHING})
    drawn = detection.drawn([*cells, other])
    assert list(drawn) == ["detection_digits_linf.svg"]
    assert drawn == detection.drawn([*cells, other])


def test_they_are_written_where_there_is_a_detector(cells: list[Record], tmp_path: Path) -> None:
    written = {path.relative_to(tmp_path).as_posix() for path in write(cells, tmp_path)}
    assert {"detection.csv", "detection.md", "figures/detection_digits_linf.svg"} <= written
    text = (tmp_path / "detection.md").read_text(encoding="utf-8")
    assert text.startswith("# Detection\n\n## digits, linf, eps = 0.2\n")
    again = {path.relative_to(tmp_path).as_posix() for path in write(cells[3:], tmp_path)}
    assert "detection.csv" not in again
    assert not (tmp_path / "figures" / "detection_digits_linf.svg").exists()

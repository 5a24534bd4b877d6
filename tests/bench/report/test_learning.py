"""Learning curves: a row per log entry of each trained model, and their figures."""

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from bench.report import learning
from bench.report.write import write
from bench.store import Record

MakeRecord = Callable[..., Record]
LOG = [
    {"epoch": 1, "loss": 2.0, "score": 0.25, "clean": 0.75, "robust": 0.25, "own_attack": 0.5}
    | {"seconds": 1.23},
    {"epoch": 2, "loss": 1.5, "score": 0.0, "clean": 0.875, "robust": 0.0, "own_attack": 1.0}
    | {"seconds": 1.5, "alarm": 1.0, "stop": 1.0},
]
PLAIN = [{"epoch": 1, "loss": 0.5, "score": 0.9, "clean": 0.9, "seconds": 1.0}]


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    fast = {"training_log": LOG, "weights": "w1"}
    return [
        record([0, inf], defense="fast", provenance=fast),
        record([0, inf], defense="fast", attack="square", provenance=fast),
        record([0, inf], provenance={"training_log": PLAIN, "weights": "w0"}),
        record([0, inf], model="given", provenance={"training_log": [], "weights": "w2"}),
    ]


def test_a_row_per_entry_of_each_model_once(cells: list[Record]) -> None:
    assert learning.learning(cells).csv().splitlines() == [
        "dataset,model,defense,norm,weights,epoch,loss,clean,robust,own_attack,alarm",
        "digits,cnn,fast,linf,w1,1,2.0,0.75,0.25,0.5,0",
        "digits,cnn,fast,linf,w1,2,1.5,0.875,0.0,1.0,1",
        "digits,cnn,none,linf,w0,1,0.5,0.9,,,0",
    ]


def test_what_a_detector_learned_is_no_accuracy(record: MakeRecord) -> None:
    log = [{"epoch": 1, "loss": 0.5, "score": 0.9, "told_apart": 0.9, "seconds": 1.0}]
    cells = [record([0], provenance={"training_log": log, "weights": "w0"})]
    assert len(learning.learning(cells).frame()) == 0
    assert learning.drawn(cells) == {}


def test_seeds_are_models_of_their_own(record: MakeRecord) -> None:
    cells = [
        record([0], model=f"cnn:seed={s}", provenance={"training_log": PLAIN, "weights": f"w{s}"})
        for s in (0, 1, 2)
    ]
    assert learning.learning(cells).column("model") == [
        "cnn:seed=0",
        "cnn:seed=1",
        "cnn:seed=2",
    ]


def test_seeds_share_a_colour_and_a_name(record: MakeRecord, cells: list[Record]) -> None:
    seeded = [
        record([0], model=f"cnn:seed={s}", provenance={"training_log": PLAIN, "weights": f"w{s}"})
        for s in (1, 2)
    ]
    rows = learning.learning([*seeded, cells[0]]).frame().to_dict("records")
    drawing = learning._figure(rows)
    first, second, other = (line.get_color() for line in drawing.axes[0].lines[:3])
    assert first == second != other
    (legend,) = drawing.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cnn / none", "cnn / fast"]


def test_a_figure_per_dataset_and_norm(cells: list[Record], record: MakeRecord) -> None:
    other = record([0], norm="l2", provenance={"training_log": PLAIN})
    drawn = learning.drawn([*cells, other])
    assert list(drawn) == ["learning_digits_linf.svg", "learning_digits_l2.svg"]
    assert drawn == learning.drawn([*cells, other])
    assert all(text.startswith("<?xml") for text in drawn.values())


def test_the_lines_are_the_table(cells: list[Record]) -> None:
    rows = learning.learning(cells[:1]).frame().to_dict("records")
    (axes,) = learning._figure(rows).axes
    lines = [[list(map(float, axis)) for axis in line.get_data()] for line in axes.lines]
    assert lines == [[[1, 2], [75, 87.5]], [[1, 2], [25, 0]], [[2], [0]]]


def test_a_training_without_robust_accuracy_draws_its_clean_curve(cells: list[Record]) -> None:
    (axes,) = learning._figure(learning.learning(cells[2:3]).frame().to_dict("records")).axes
    (line,) = axes.lines
    assert [list(map(float, axis)) for axis in line.get_data()] == [[1], [90]]
    assert (line.get_label(), line.get_linestyle()) == ("cnn / none", "--")


def test_they_are_written_where_something_was_trained(cells: list[Record], tmp_path: Path) -> None:
    written = {path.relative_to(tmp_path).as_posix() for path in write(cells, tmp_path)}
    assert {"learning.csv", "figures/learning_digits_linf.svg"} <= written
    again = {path.relative_to(tmp_path).as_posix() for path in write(cells[3:], tmp_path)}
    assert "learning.csv" not in again
    assert not (tmp_path / "figures" / "learning_digits_linf.svg").exists()

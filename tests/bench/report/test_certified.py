"""Certified next to empirical accuracy, from records made by hand."""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.report import certified, frames
from bench.report.tables import interval_text
from bench.report.write import write
from bench.stats import clopper_pearson, wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
L2 = {"norm": "l2", "defense": "smoothing"}
RADII = [0.0, 0.0, 0.1, 0.25, 0.5]
"""Of five images: abstained, wrong, and right with these radii, on a grid 0, 0.1, 0.2, 0.3."""


@pytest.fixture
def proof(record: MakeRecord) -> Callable[..., Record]:
    """A certificate over RADII, or others."""

    def make(**changes: Any) -> Record:
        samples = {
            "distance": np.array(RADII),
            "clean_prediction": np.array([-1, 9, 2, 3, 4]),
        }
        facts = {"attack": "certify", "mode": "certified", "kind": "certificate"}
        facts["identity"] = {"defense": {"fields": {"alpha": "0.001"}}}
        return record([0, 0, 0.2, 0.3, inf], samples=samples, **{**L2, **facts, **changes})

    return make


@pytest.fixture
def cells(record: MakeRecord, proof: Callable[..., Record]) -> list[Record]:
    return [
        record([0.1, 0, 0.2, inf, inf], **L2),
        proof(),
        record([inf, 0, inf, 0.3, inf], attack="square", mode="black-box", **L2),
        record([0, 0, 0, 0, 0], norm="l2"),  # another pipeline
        record([0, 0, 0, 0], **L2),  # other images
        record(None, attack="cw", n=5, **L2),
    ]


def test_shares_are_counted_by_hand(cells: list[Record]) -> None:
    table = certified.certified(cells).frame()
    assert list(table["eps"]) == [0, 0.1, 0.2, 0.3]
    assert list(table["certified_accuracy"]) == [0.6, 0.6, 0.4, 0.2]
    for count, low, high in zip((3, 3, 2, 1), table["ci_low"], table["ci_high"], strict=True):
        exact = clopper_pearson(count, 5)
        assert (low, high) == (exact.low, exact.high)
    assert list(table["empirical_accuracy"]) == [0.8, 0.6, 0.4, 0.2]
    assert (table["certified_accuracy"] <= table["empirical_accuracy"]).all()
    assert list(table["contradictions"]) == [0, 0, 0, 0]
    assert set(table["attacks"]) == {2}
    assert set(table["abstained"]) == {0.2}
    assert table["mean_radius"].tolist() == pytest.approx([0.17] * 4)


def test_an_attack_that_broke_a_certificate_is_seen(
    record: MakeRecord, proof: Callable[..., Record]
) -> None:
    draws = np.array([[inf, inf], [0, 0], [inf, 0], [inf, 0.2], [0.3, 0.3]])
    broken = record([inf, 0, 0, 0.2, 0.3], samples={"draws": draws}, **L2)
    table = certified.certified([proof(), broken]).frame()
    # the fourth holds to 0.25 but fell at 0.2, the last to 0.5 but fell at 0.3; the third was
    # refused without attack under one draw, which is no contradiction
    assert list(table["contradictions"]) == [0, 0, 1, 1]
    assert list(table["empirical_accuracy"]) == [0.7, 0.7, 0.6, 0.4]


def test_without_attacks_there_is_no_upper_bound(proof: Callable[..., Record]) -> None:
    table = certified.certified([proof()]).frame()
    assert table["empirical_accuracy"].isna().all()
    assert table["contradictions"].isna().all()
    assert set(table["attacks"]) == {0}


def test_an_attack_speaks_up_to_the_end_of_its_grid(
    record: MakeRecord, proof: Callable[..., Record]
) -> None:
    short = record([inf] * 5, eps=proof().eps[:2], **L2)
    table = certified.certified([proof(), short]).frame()
    assert list(table["attacks"]) == [1, 1, 0, 0]
    assert table["empirical_accuracy"].isna().tolist() == [False, False, True, True]


def test_certificates_that_failed_are_left_out(record: MakeRecord) -> None:
    failed = record(None, attack="certify", kind="certificate", **L2)
    assert len(certified.certified([failed]).frame()) == 0
    assert certified.figures([failed]) == {}


def test_certificates_are_no_attacks(cells: list[Record]) -> None:
    assert "certify" not in set(frames.tidy(cells).frame()["attack"])


def test_three_rows_per_certificate(cells: list[Record]) -> None:
    (section,) = certified.sections(certified.certified(cells))
    assert section.title == "digits, l2"
    assert section.table.header[7:] == ("0", "0.1", "0.2", "0.3")
    lower, upper, gap = section.table.rows
    assert lower[:3] == ("cnn", "smoothing", "certified (lower, smoothing)")
    assert lower[3:7] == ("", "20.0", "0.170", "")
    assert [entry.split(" ")[0] for entry in lower[7:]] == ["60.0", "60.0", "40.0", "20.0"]
    assert upper[2:7] == ("empirical (upper)", "none", "", "", "0")
    shown = [interval_text(wilson(count, 5)) for count in (4, 3, 2, 1)]
    assert list(upper[7:]) == shown
    assert gap[2:] == ("gap", "", "", "", "", "20.0", "0.0", "0.0", "0.0")


def test_the_gap_and_the_bound_stand_in_the_table(
    cells: list[Record], proof: Callable[..., Record]
) -> None:
    table = certified.certified([*cells, proof(attack="crown", defense="none")]).frame()
    assert {"bound", "gap", "empirical_low", "empirical_high", "audit"} < set(table.columns)
    assert table["bound"].tolist() == ["smoothing"] * 4 + ["crown"] * 4
    assert table["gap"].tolist()[:4] == pytest.approx([0.2, 0, 0, 0])
    # the attack on the pipeline of that name saw the image of radius 0.1 fall at once
    assert table["gap"].tolist()[4:] == pytest.approx([-0.6, -0.6, -0.4, -0.2])


@pytest.fixture
def inside(record: MakeRecord) -> Callable[..., Record]:
    """An attack that breaks the fourth and the fifth image inside their radii."""

    def make(**changes: Any) -> Record:
        return record([inf, 0, 0.2, 0.2, 0.3], **{"norm": "l2", "defense": "none", **changes})

    return make


def test_a_crossed_bracket_names_the_images(
    proof: Callable[..., Record], inside: Callable[..., Record], tmp_path: Path
) -> None:
    own = proof(attack="exact", defense="none")
    assert certified.crossed([own, inside()]) == [
        "digits cnn / none l2: pgd (white-box) seed 0 is inside the bound by exact: "
        "test image 9 at 0.2 (proven to 0.25), 12 at 0.3 (proven to 0.5)"
    ]
    # wrong without attack, or outside the radius, is no contradiction
    assert certified.crossed([own, inside(), own][:1]) == []
    harmless = inside(samples={"min_eps": np.array([0.1, 0, 0.2, 0.3, inf])})
    assert certified.crossed([own, harmless]) == []
    write([own, inside()], tmp_path)
    text = (tmp_path / "certified.md").read_text()
    assert "## Crossed brackets" in text
    assert "test image 9 at 0.2" in text


def test_a_bracket_is_of_one_net(
    proof: Callable[..., Record], inside: Callable[..., Record]
) -> None:
    own = proof(attack="exact", defense="none", provenance={"weights": "a"})
    for changes in ({"provenance": {"weights": "b"}}, {"device": "cuda"}, {"pipeline": "other"}):
        assert certified.crossed([own, inside(**{"provenance": {"weights": "a"}, **changes})]) == []
    assert len(certified.crossed([own, inside(provenance={"weights": "a"})])) == 1


def test_many_images_are_not_all_named(record: MakeRecord) -> None:
    facts = {"attack": "crown", "mode": "certified", "kind": "certificate"}
    own = record([inf] * 8, **facts, samples={"distance": np.full(8, 0.3)})
    (line,) = certified.crossed([own, record([0.1] * 8)])
    assert line.endswith("12 at 0.1 (proven to 0.3) and 3 more")


@pytest.mark.parametrize(("broken", "is_crossed"), [(1, False), (4, False), (5, True)])
def test_smoothing_may_be_wrong_as_often_as_alpha_says(
    record: MakeRecord, broken: int, is_crossed: bool
) -> None:
    # of 400 radii each may be wrong with probability 2 alpha = 0.002: P(X >= 4) = 0.009, and
    # P(X >= 5) = 0.0014 for n = 400; at alpha = 0.0009 it is below a thousandth
    count = 400
    facts = {"attack": "certify", "mode": "certified", "kind": "certificate"}
    alpha = {"defense": {"fields": {"alpha": "0.0009"}}}
    right = {"distance": np.full(count, 0.3)}
    own = record([inf] * count, **L2, **facts, samples=right, identity=alpha)
    fell = record([0.1] * broken + [inf] * (count - broken), **L2)
    assert bool(certified.crossed([own, fell])) is is_crossed


def test_the_curve_steps_down_just_after_each_radius(cells: list[Record]) -> None:
    (axes,) = certified._figure(certified.brackets(cells)).axes
    proven, seen = axes.lines
    assert proven.get_drawstyle() == "steps-pre"  # a value holds up to its eps
    at, shares = (list(map(float, axis)) for axis in proven.get_data())
    assert at == [0, 0.1, 0.25, 0.3]
    assert shares == pytest.approx([60, 60, 40, 20])
    eps, found = (list(map(float, axis)) for axis in seen.get_data())
    assert eps == [0, 0.1, 0.2, 0.3]
    assert found == pytest.approx([80, 60, 40, 20])


def test_files_are_written_where_there_is_a_certificate(
    cells: list[Record], tmp_path: Path
) -> None:
    written = {path.relative_to(tmp_path).as_posix() for path in write(cells, tmp_path)}
    assert {"certified.csv", "certified.md", "figures/certified_digits_l2.svg"} <= written
    assert (tmp_path / "certified.csv").read_text() == certified.certified(cells).csv()
    text = (tmp_path / "certified.md").read_text()
    assert "probability at least 1 - alpha per image" in " ".join(text.split())
    rest = [cell for cell in cells if cell.kind != "certificate"]
    again = {path.relative_to(tmp_path).as_posix() for path in write(rest, tmp_path)}
    assert "certified.csv" not in again
    assert not (tmp_path / "figures" / "certified_digits_l2.svg").exists()


def test_equal_records_give_equal_figures(cells: list[Record]) -> None:
    assert certified.figures(cells) == certified.figures(cells)

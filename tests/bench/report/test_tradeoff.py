"""Clean against robust accuracy: which points are joined, where they stand, what is written."""

from collections.abc import Callable
from fractions import Fraction
from math import inf, sqrt
from pathlib import Path
from typing import Any

import pytest

from bench.report import labels, tradeoff
from bench.report.seeds import seeds
from bench.report.write import write
from bench.store import Record

MakeRecord = Callable[..., Record]
T1 = 12.7062047364
"""Student's t at 0.975 with 1 degree of freedom, as tables give it."""


def outcomes(robust: int, clean: int, n: int = 10) -> list[float]:
    """Of n images so many are right at every eps, and so many without attack."""
    return [inf] * robust + [0.1] * (clean - robust) + [0.0] * (n - clean)


def families(records: list[Record]) -> list[tradeoff.Family]:
    rows = seeds(records).frame().to_dict("records")
    return tradeoff.families(rows, tradeoff._options(records))


def joined(records: list[Record]) -> dict[str, list[float]]:
    return {family.label: list(family.values) for family in families(records)}


@pytest.fixture
def cells(record: MakeRecord) -> list[Record]:
    return [
        record(outcomes(0, 10)),
        record(outcomes(7, 8), defense="advtrain:lam=inf,eps=0.2"),
        record(outcomes(5, 9), defense="advtrain:lam=2.0,eps=0.2"),
        record(outcomes(6, 9), defense="advtrain:lam=10.0,eps=0.2"),
        record(outcomes(3, 9), defense="madry"),
    ]


def test_a_number_joins_points_in_its_order(cells: list[Record]) -> None:
    assert joined(cells) == {
        "advtrain:eps=0.2 (lam beside the points)": [2.0, 10.0, inf],
        "madry": [],
        "undefended": [],
    }


def test_a_default_left_out_of_the_text_is_known_from_the_store(record: MakeRecord) -> None:
    def known(**fields: Any) -> dict[str, Any]:
        return {"defense": {"name": "advtrain", "fields": fields | {"norm": "linf", "seed": 0}}}

    cells = [
        record([inf], defense="advtrain:eps=0.2", identity=known(lam="1.0", eps="0.2")),
        record([inf], defense="advtrain:lam=0.5,eps=0.2", identity=known(lam="0.5", eps="0.2")),
    ]
    assert joined(cells) == {"advtrain:eps=0.2 (lam beside the points)": [0.5, 1.0]}
    texts_alone = [record([inf], defense=cell.defense) for cell in cells]
    assert joined(texts_alone) == {"advtrain:eps=0.2": [], "advtrain:lam=0.5,eps=0.2": []}


def test_points_that_differ_in_more_than_one_number_are_apart(record: MakeRecord) -> None:
    texts = [f"d:lam={lam},eps={eps}" for lam in (1, 2, 3) for eps in (0.1, 0.2)]
    assert joined([record([inf], defense=text) for text in texts]) == {
        "d:eps=0.1 (lam beside the points)": [1, 2, 3],
        "d:eps=0.2 (lam beside the points)": [1, 2, 3],
    }
    words = [record([inf], defense=f"d:attack={attack}") for attack in ("a", "b")]
    assert joined(words) == {"d:attack=a": [], "d:attack=b": []}
    models = [record([inf], model=m, defense=f"d:lam={lam}") for m, lam in (("a", 1), ("b", 2))]
    assert [family.key for family in families(models)] == ["", ""]
    mixed = [record([inf], defense=f"d:lam={lam}") for lam in ("1", "most")]
    assert [family.key for family in families(mixed)] == ["", ""]


def test_seeds_are_one_point_and_never_a_line(record: MakeRecord) -> None:
    cells = [record([inf], model=f"cnn:seed={s}", defense=f"d:seed={s + 1}") for s in (0, 1)]
    (family,) = families(cells)
    assert (family.label, family.key, len(family.rows)) == ("d", "", 1)


def test_lines_stand_at_the_accuracies(cells: list[Record]) -> None:
    (axes,) = tradeoff.figure(families(cells)).axes
    lines = {
        line.get_label(): [list(map(float, axis)) for axis in line.get_data()]
        for line in axes.lines
    }
    assert lines == {
        "advtrain:eps=0.2 (lam beside the points)": [[90, 90, 80], [50, 60, 70]],
        "madry": [[90], [30]],
        "undefended": [[100], [0]],
    }
    assert [text.get_text() for text in axes.texts] == ["2", "10", "inf"]
    assert axes.get_xlabel() == "clean accuracy on n = 10 test images (%)"
    assert axes.get_title() == "digits, linf, eps = 0.2: robust against clean accuracy"


def test_bars_are_the_interval_over_seeds(record: MakeRecord) -> None:
    cells = [
        record(outcomes(50, 90, 100), defense="madry"),
        record(outcomes(52, 90, 100), model="cnn:seed=1", defense="madry"),
        record(outcomes(30, 95, 100), defense="fast"),
    ]
    (axes,) = tradeoff.figure(families(cells)).axes
    bars = [bar.get_segments()[0] for bar in axes.collections]
    spread = 100 * T1 * sqrt(2) * 0.01 / sqrt(2)  # two values 0.02 apart
    (across, up) = ([tuple(map(float, end)) for end in bar] for bar in bars)
    assert across == [(90, 51), (90, 51)]
    assert up == [(90, pytest.approx(51 - spread)), (90, pytest.approx(51 + spread))]
    assert axes.get_xlabel().endswith("\nbars: 95 % over training seeds")


def test_models_have_markers_and_defenses_colours(record: MakeRecord) -> None:
    names = [(m, d) for m in ("a", "b") for d in ("none", "fast", "madry")]
    made = families([record([inf], model=m, defense=d) for m, d in names])
    looks = {label: (colour, marker) for colour, marker, label in tradeoff._looks(made)}
    assert len(set(looks.values())) == 6
    assert looks["a / fast"][0] == looks["b / fast"][0] != looks["a / madry"][0]
    assert looks["a / fast"][1] == looks["a / undefended"][1] != looks["b / fast"][1]


def test_many_defenses_look_different(record: MakeRecord) -> None:
    made = families([record([inf], defense=f"d{number}") for number in range(20)])
    looks = [(colour, marker) for colour, marker, _ in tradeoff._looks(made)]
    assert len(set(looks)) == 20


def test_two_defenses_beside_none_make_a_figure(cells: list[Record], record: MakeRecord) -> None:
    assert list(tradeoff.figures(cells)) == ["tradeoff_digits_linf.svg"]
    assert tradeoff.figures(cells) == tradeoff.figures(cells)
    assert tradeoff.figures(cells[:2]) == {}
    assert tradeoff.figures([cells[0], cells[4], record(None, defense="fast")]) == {}
    assert tradeoff.figures([]) == {}
    later = [
        record([inf], defense=d, eps=(Fraction(1, 2),), reference=None) for d in ("fast", "free")
    ]
    names = ["tradeoff_digits_linf.svg", "tradeoff_digits_linf-2.svg"]
    assert list(tradeoff.figures([*cells, *later])) == names


def test_it_is_written_and_removed_again(cells: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "figures" / "tradeoff_digits_linf.svg"
    assert path in write(cells, tmp_path)
    assert path.read_text() == tradeoff.figures(cells)[path.name]
    assert path not in write(cells[:2], tmp_path)
    assert not path.exists()


# --- where names go ------------------------------------------------------------------------------


def box(point: tuple[float, float], place: tuple[float, float], name: str) -> tuple[float, ...]:
    left, low = point[0] + place[0], point[1] + place[1]
    return left, low, left + labels._WIDE * len(name), low + labels._HIGH


def test_a_name_alone_stands_upper_right() -> None:
    assert labels.offsets([(100, 100)], ["0.5"], []) == [(4, 4)]


def test_names_of_a_close_pair_do_not_overlap() -> None:
    points, texts = [(100.0, 100.0), (104.0, 101.0), (101.0, 104.0)], ["0.5", "10", "inf"]
    places = labels.offsets(points, texts, [])
    boxes = [box(*each) for each in zip(points, places, texts, strict=True)]
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            assert (
                one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            )
        assert not any(one[0] < x < one[2] and one[1] < y < one[3] for x, y in points)


def test_a_name_gets_out_of_a_lines_way() -> None:
    rising = labels.along([(100.0, 100.0), (160.0, 160.0)])
    assert rising[0] == (100, 100)
    assert rising[-1] == (160, 160)
    ((dx, dy),) = labels.offsets([(100, 100)], ["0.5"], rising)
    left, low, right, high = box((100, 100), (dx, dy), "0.5")
    assert not any(left <= x <= right and low <= y <= high for x, y in rising)

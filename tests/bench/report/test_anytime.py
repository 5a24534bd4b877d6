"""Robust accuracy against queries, computed by hand from a few samples; query budgets in tables."""

from collections.abc import Callable
from math import inf
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from bench.report import frames, markdown
from bench.report.anytime import ANYTIME, anytime, seen_at
from bench.report.queries import figure, figures
from bench.stats import wilson
from bench.store import Record

MakeRecord = Callable[..., Record]
QUERIES = np.array([[0, 0, 0, 0], [-1, 7, 7, 7], [-1, -1, 130, 20], [-1, -1, -1, 4]])
"""Of four samples at eps 0, 0.1, 0.2, 0.3: wrong without attack; fell at 0.1; at 0.2; at 0.3."""


def test_the_curve_is_read_at_the_reference(record: MakeRecord) -> None:
    cell = record([0, 0.1, 0.2, 0.3], samples={"queries": QUERIES})
    table = anytime([cell]).frame()
    assert list(table.columns) == list(ANYTIME)
    assert set(table["eps"]) == {0.2}
    points = dict(zip(table["queries"], table["accuracy"], strict=True))
    assert points == {
        **dict.fromkeys((0, 1, 2, 5), 0.75),
        **dict.fromkeys((10, 20, 50, 100), 0.5),
        130: 0.25,
    }
    bounds = zip(table["ci_low"], table["ci_high"], strict=True)
    three, two, one = (wilson(right, 4) for right in (3, 2, 1))
    expected = [*[three] * 4, *[two] * 4, one]
    assert list(bounds) == [(interval.low, interval.high) for interval in expected]
    assert seen_at(cell, cell.eps[3]).tolist() == [0, 7, 20, 4]


def test_an_attack_without_success_is_one_point(record: MakeRecord) -> None:
    table = anytime(
        [record([0, inf, inf, inf], samples={"queries": np.minimum(QUERIES, 0)[[0] * 4]})]
    ).frame()
    assert table[["queries", "accuracy"]].to_numpy().tolist() == [[0, 0.0]]
    nothing = np.full((4, 4), -1)
    table = anytime([record([inf] * 4, samples={"queries": nothing})]).frame()
    assert table[["queries", "accuracy"]].to_numpy().tolist() == [[0, 1.0]]


def test_failed_cells_have_no_curve(record: MakeRecord) -> None:
    assert anytime([record(None)]).frame().empty
    assert "No results yet" in markdown.anytime([])


def test_the_document(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, 0.2, 0.3], samples={"queries": QUERIES}),
        record([0, 0.1, inf, inf], attack="square", mode="black-box"),
    ]
    text = markdown.anytime(cells)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert header[3:] == ["seed", "n", "0", "1", "10", "100", "last", "queries", "audit"]
    assert rows[0][2:] == [
        "pgd (white-box)",
        "0",
        "4",
        "75.0",
        "75.0",
        "50.0",
        "50.0",
        "25.0 [4.6, 69.9]",  # Wilson 95 % of 1/4
        "130",
        "none",
    ]
    names, values = ["square (black-box)", "0", "4"], [*["75.0"] * 2, *["50.0"] * 2]
    assert rows[1][2:] == [*names, *values, "50.0 [15.0, 85.0]", "3", "none"]


def test_a_figure_per_heading_that_moves(record: MakeRecord) -> None:
    still = record([0, inf, inf, inf], norm="l2")
    cells = [record([0, 0.1, 0.2, 0.3], samples={"queries": QUERIES}), still]
    bound = record([0, 0.1, inf, inf], query_budget=50, attack="a <b> & $c$")
    made = figures(anytime([*cells, bound]))
    assert sorted(made) == ["anytime_digits_linf-2.svg", "anytime_digits_linf.svg"]
    assert figures(anytime([*cells, bound])) == made
    for text in made.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")  # noqa: S314  our own text


def test_budgets_are_apart_everywhere(record: MakeRecord) -> None:
    """No worst case, no leaderboard and no strength is taken over two budgets."""
    cells = [record([0, 0.1, inf, inf]), record([0, inf, inf, inf], query_budget=100)]
    tidy = frames.tidy(cells).frame()
    worst = tidy[(tidy.attack == "worst-case") & (tidy.eps == 0.2)]
    assert worst.accuracy.tolist() == [0.5, 0.75]
    board = frames.leaderboard(cells).frame()
    assert board.robust_accuracy.tolist() == [0.5, 0.75]
    assert board["rank"].tolist() == [1, 1]
    assert pd.isna(board.query_budget[0])
    assert board.query_budget[1] == 100
    text = markdown.leaderboard(cells)
    assert "eps = 0.2, at most 100 queries per image\n" in text
    assert "eps = 0.2\n" in text
    assert "query budget" in markdown.accuracy(cells)
    assert markdown.attacks(cells).count("## digits") == 2


def test_what_a_black_box_raised_is_in_the_leaderboard(record: MakeRecord) -> None:
    facts = {"raised": {"TimeoutError: too slow": 3, "OSError: gone": 1}}
    board = frames.leaderboard([record([0, inf, inf, inf], provenance=facts)]).frame()
    assert board.note[0] == "the model raised 4 times (TimeoutError: too slow, OSError: gone)"


def test_of_too_many_curves_the_first_models_are_drawn(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, inf], defense=f"d{d}", attack=f"a{a}") for d in range(11) for a in range(40)
    ]
    assert len(figures(anytime(cells))) == 1
    few = figure(anytime(cells).frame().to_dict("records"))
    shown = [axes for axes in few.axes if axes.get_visible()]
    assert [len(axes.lines) for axes in shown] == [40, 40]
    assert "(the first 2 of 11 models)" in few.get_suptitle()

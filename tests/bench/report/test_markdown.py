"""The markdown, word for word where it matters."""

import re
from collections.abc import Callable
from fractions import Fraction
from math import inf

import pytest

from bench.report import markdown, tables
from bench.store import Record

MakeRecord = Callable[..., Record]
GRID = (Fraction(0), Fraction(1, 10))
FACTS = {"command": "bench run --attack pgd", "versions": {"adversarial-bench": "1.2.3"}}


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_a_row_without_images_is_claimed_where_others_have_them(record: MakeRecord) -> None:
    cells = [
        record([0, inf], eps=GRID, attack="fgsm", evidence="verified"),
        record([0, inf], eps=GRID),
    ]
    header, _, *rows = rows_of(markdown.accuracy(cells))
    assert header[3] == "evidence"
    assert [row[3] for row in rows] == ["verified", "claimed", "**claimed**"]


def test_accuracy_table(record: MakeRecord) -> None:
    cells = [
        record([0, 0.1, inf, inf], eps=GRID),
        record(None, eps=GRID, attack="cw", failure="no <grad> | step 3"),
    ]
    text = markdown.accuracy(cells)
    header, _, *rows = rows_of(text)
    assert header == ["model", "defense", "attack (mode)", "0", "0.1"]
    # Wilson 95 % of 3/4 and 2/4
    assert rows == [
        ["cnn", "none", "pgd (white-box)", "75.0 [30.1, 95.4]", "50.0 [15.0, 85.0]"],
        ["cnn", "none", "cw (white-box) [1]", "failed", "failed"],
        [
            "**cnn**",
            "**none**",
            "**worst-case (white-box) [2]**",
            "**75.0 [30.1, 95.4]**",
            "**50.0 [15.0, 85.0]**",
        ],
    ]
    assert "# Accuracy vs eps\n\n## digits, linf\n\nn = 4 test images." in text
    assert "[1] cw on none failed: no &lt;grad> \\| step 3" in text
    assert "[2] none: 1 of 2 attacks failed; the worst case is taken over the others." in text
    assert "upper bound" in text


def test_a_grid_without_0_gets_a_column_for_clean(record: MakeRecord) -> None:
    grid = (Fraction(8, 255),)
    cells = [record([0, inf], eps=grid), record(None, n=2, eps=grid)]
    header, _, first, failed, _ = rows_of(markdown.accuracy(cells))
    assert header[3:] == ["clean", "8/255 (0.03137)"]
    assert first[3:] == ["50.0 [9.5, 90.5]"] * 2
    assert failed[3:] == ["failed"] * 2


def test_each_sample_set_and_grid_has_its_table(record: MakeRecord) -> None:
    cells = [record([inf]), record([inf, inf]), record([inf], eps=GRID), record([inf], norm="l2")]
    text = markdown.accuracy(cells)
    assert text.count("| model") == 4
    assert re.findall("^## .*", text, re.MULTILINE) == ["## digits, linf", "## digits, l2"]


def test_what_differs_has_a_column(record: MakeRecord) -> None:
    text = markdown.accuracy([record([inf], seed=seed) for seed in (0, 7)])
    header, _, *rows = rows_of(text)
    assert header[3] == "seed"
    assert [row[3] for row in rows] == ["0", "**0**", "7", "**7**"]


def test_leaderboard_document(record: MakeRecord) -> None:
    cells = [
        record([0.1] * 2000, defense="none", seconds=0.0123),
        record([inf] * 1500 + [0] * 500, defense="a|b", seconds=4321.5),
        record(None, n=2000, defense="broken", failure="no gradient"),
    ]
    text = markdown.leaderboard(cells)
    header, _, *rows = rows_of(text)
    assert header[:6] == ["rank", "tie", "model", "defense", "robust", "clean"]
    costs = ["forward queries", "backward queries", "seconds", "training s"]
    assert header[6:] == ["n", "attacks", *costs, "parameters", "passes", "audit", "note"]
    assert rows[0][:6] == ["1", "A", "cnn", "a\\|b", "75.0 [73.1, 76.8]", "75.0"]
    assert rows[0][6:] == ["2,000", "1", "20,000", "8,000", "4,321.5", "", "", "", "none", ""]
    assert rows[1][:6] == ["2", "B", "cnn", "none", "0.0 [0.0, 0.2]", "100.0"]
    assert rows[1][10] == "0.012"
    assert rows[2][:6] == ["", "", "cnn", "broken", "failed", ""]
    assert rows[2][15] == "failed: no gradient"
    assert "## digits, linf, eps = 0.2" in text
    for word in ("upper bound", "McNemar", "Audit"):
        assert word in text


def test_what_a_defense_is_attacked_with_has_columns(record: MakeRecord) -> None:
    costs = {"training_seconds": 12.5, "parameters": 1234, "passes": 3}
    cells = [
        record([0.1, inf], defense="none"),
        record([0.1, inf], defense="d", mode="oblivious", provenance=costs),
        record([0.1, 0.1], defense="d", mode="bpda", provenance=costs),
    ]
    header, _, plain, defended = rows_of(markdown.leaderboard(cells))
    shown = dict(zip(header, defended, strict=True))
    assert shown["robust"].startswith("0.0 ")
    assert (shown["oblivious"], shown["adaptive"]) == ("50.0", "0.0")
    assert (shown["training s"], shown["parameters"], shown["passes"]) == ("12.5", "1,234", "3")
    assert "worst draw" not in header, "nothing is drawn"
    assert dict(zip(header, plain, strict=True))["oblivious"] == ""


def test_timing_document(record: MakeRecord) -> None:
    cells = [record([inf, inf], seconds=0.5), record(None)]
    header, _, done, failed = rows_of(markdown.timing(cells))
    assert dict(zip(header, done, strict=True))["queries/s"] == "64"
    assert dict(zip(header, failed, strict=True))["seconds"] == "failed"


@pytest.mark.parametrize(
    "make", [markdown.accuracy, markdown.leaderboard, markdown.attacks, markdown.timing]
)
def test_documents_say_how_they_were_made(
    record: MakeRecord, make: Callable[[list[Record]], str]
) -> None:
    other = FACTS | {"command": ["bench", "run", "a b"]}
    cells = [
        record([inf], provenance=FACTS),
        record([inf], provenance=other, seed=1),
        record([inf], provenance={}, seed=2),
    ]
    made = "Made by `bench run 'a b'`, `bench run --attack pgd` with adversarial-bench 1.2.3."
    assert make(cells).splitlines()[-1] == made
    assert make([]).splitlines()[1:] == ["", "No results yet."]


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (0.0, "0"),
        (0.05, "0.05"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (float(Fraction(8, 255)), "8/255 (0.03137)"),
        (float(Fraction(2, 51)), "10/255 (0.03922)"),
        (0.2, "0.2"),  # 51/255, but shorter so
        (1.0, "1"),
        (5.0, "5"),
    ],
)
def test_eps_is_printed_short(eps: float, text: str) -> None:
    assert tables.eps_text(eps) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("cnn_small", "cnn_small"),
        ("__init__", "\\_\\_init\\_\\_"),
        ("a|b*c`d<e", "a\\|b\\*c\\`d&lt;e"),
        ("two\nlines", "two lines"),
        ("advtrain:attack=[pgd:steps=7]", "advtrain:attack=[pgd:steps=7]"),
    ],
)
def test_escaping(text: str, escaped: str) -> None:
    assert markdown.escape(text) == escaped


def test_summary(record: MakeRecord) -> None:
    cells = [
        record([0.1] * 1000, seconds=12.0),
        record([inf] * 500 + [0.1] * 500, defense="advtrain", seconds=3.0),
        record(None, n=1000, defense="advtrain", attack="cw"),
    ]
    assert markdown.summary(cells).splitlines() == [
        "digits, linf, eps = 0.2, n = 1,000",
        "",
        "| model | defense  | clean |     robust [95 %] | attacks | queries | seconds |",
        "| ----- | -------- | ----- | ----------------- | ------- | ------- | ------- |",
        "| cnn   | advtrain | 100.0 | 50.0 [46.9, 53.1] |       1 |  14,000 |     3.0 |",
        "| cnn   | none     | 100.0 |    0.0 [0.0, 0.4] |       1 |  14,000 |    12.0 |",
        "cnn / advtrain: 1 of 2 attacks failed",
    ]
    assert markdown.summary([]) == "No results yet."


@pytest.mark.parametrize("model", ["cnn", "somewhere/deep/in/a/folder/file.py:factory:width=512"])
def test_summary_fits_a_terminal(record: MakeRecord, model: str) -> None:
    defense = "advtrain:attack=[pgd:steps=7,restarts=2],lam=1.0,eps=0.3,epochs=5"
    cells = [
        record([0] * 10_000, model=model, defense=defense, seconds=123456.7),
        record(None, n=10_000, model=model, defense="none"),
    ]
    table = [line for line in markdown.summary(cells).splitlines() if line.startswith("|")]
    assert {len(line) for line in table} == {100}
    assert "| advtrain" in table[2]
    assert "pochs=5 |" in table[2]

"""The tables of names as text."""

from dataclasses import dataclass
from typing import ClassVar

from attacks.registry import attacks
from bench import listing
from models.registry import Registry


@dataclass(frozen=True)
class Long:
    """Minimise |x| by many words that go on and on, so that they fill lines (Ng et al. 1999, p. 3).

    Not shown.
    """

    norms: ClassVar = ("l2", "l1")
    access: ClassVar = "gradient"
    kind: ClassVar = "minimal"
    steps: int = 3
    lam: float = 1.0


@dataclass(frozen=True)
class Short:
    """A short one."""


@dataclass(frozen=True)
class Barred:
    """A norm (|x|, Doe 2001)."""


TABLE = Registry("toy", {"long": f"{__name__}:Long", "short": f"{__name__}:Short"})
SUMMARY = "Minimise |x| by many words that go on and on, so that they fill lines."
ENTRY = ["long", "minimal", "l2 l1", "gradient", "steps, lam", SUMMARY, "Ng et al. 1999, p. 3"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]


def test_the_listing_names_everything() -> None:
    header, _, first, second = listing.listing("toys", TABLE).splitlines()
    names = ["toys", "kind", "norms", "access", "keys", "what it is", "paper"]
    assert cells(header) == names
    assert cells(first) == ENTRY
    assert cells(second) == ["short", *[""] * 4, "A short one.", ""]


def test_columns_that_hold_nothing_are_left_out() -> None:
    table = Registry("toy", {"short": f"{__name__}:Short"})
    assert listing.listing("toys", table).splitlines() == [
        "| toys  | what it is   |",
        "| ----- | ------------ |",
        "| short | A short one. |",
    ]


def test_the_listing_fits_the_terminal_and_loses_no_word() -> None:
    lines = listing.listing("toys", TABLE, 100).splitlines()
    assert len(lines) > 4
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 100
    columns = zip(*map(cells, lines[2:-1]), strict=True)
    assert [" ".join(filter(None, column)) for column in columns] == ENTRY


def test_a_terminal_may_be_wide_or_too_narrow() -> None:
    assert listing.listing("toys", TABLE, 1000) == listing.listing("toys", TABLE)
    narrow = listing.listing("toys", TABLE, 10).splitlines()
    assert len({len(line) for line in narrow}) == 1
    # 22 around the cells, 25 for the columns that do not wrap, 10 for keys, at most 16 for the rest
    assert 57 < len(narrow[0]) <= 57 + 2 * 16


def test_the_github_table_has_a_line_per_entry_and_no_summary() -> None:
    lines = listing.markdown("attacks", attacks).splitlines()
    assert len(lines) == 2 + len(attacks.names())
    assert {line.count("|") for line in lines} == {7}
    assert lines[0].replace(" ", "") == "|attacks|kind|norms|access|keys|paper|"


def test_bars_do_not_end_a_cell() -> None:
    table = Registry("toy", {"barred": f"{__name__}:Barred"})
    assert listing.markdown("toys", table).splitlines()[-1] == "| barred | \\|x\\|, Doe 2001 |"

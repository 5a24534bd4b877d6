"""Tables in columns, against the library whose text they are."""

import pytest
from tabulate import tabulate

from bench.grids import github

HEADER = ("a", "longer name", "n")


@pytest.mark.parametrize(
    "rows", [[("x", "y", "1,000"), ("a longer cell", "", "7")], [("", "", "")], []]
)
def test_it_is_the_text_of_tabulate(rows):
    aligned = {"colalign": ("left", "left", "right")} if rows else {}
    expected = tabulate(rows, HEADER, tablefmt="github", disable_numparse=True, **aligned)
    assert github(HEADER, rows, "llr" if rows else "lll") == expected

"""Tables as rows: types, missing values, and the same text and frame as pandas would give."""

import math

import numpy as np
import pandas as pd

from bench.report.rows import FLOAT, INT, TEXT, Rows

COLUMNS = {"name": TEXT, "count": INT, "share": FLOAT}
MADE = [
    {"share": np.float64(0.1) + np.float64(0.2), "name": 'a "b", c', "count": np.int64(3)},
    {"name": "two\nlines", "share": 1},
    {"name": "", "count": 2**40, "share": math.nan},
    {"name": "d", "count": 0, "share": math.inf},
    {"name": "e", "count": True, "share": np.float32(0.5)},
    {"name": "f", "share": 1e-5},
]


def test_rows_hold_every_column_in_order_and_plain_values():
    table = Rows.of(MADE, COLUMNS)
    assert [tuple(row.items()) for row in table][:3] == [
        (("name", 'a "b", c'), ("count", 3), ("share", 0.30000000000000004)),
        (("name", "two\nlines"), ("count", None), ("share", 1.0)),
        (("name", ""), ("count", 2**40), ("share", None)),
    ]
    assert {type(value) for value in table.column("count")} == {int, type(None)}
    assert {type(value) for value in table.column("share")} == {float, type(None)}
    assert len(table) == len(MADE)


def test_the_text_is_that_of_pandas():
    frame = pd.DataFrame(MADE, columns=list(COLUMNS)).astype({"count": INT, "share": FLOAT})
    table = Rows.of(MADE, COLUMNS)
    assert table.csv() == frame.to_csv(index=False, lineterminator="\n")
    pd.testing.assert_frame_equal(table.frame(), frame)


def test_an_empty_table_keeps_its_columns_and_types():
    table = Rows.of([], COLUMNS)
    assert table.csv() == "name,count,share\n"
    assert list(map(str, table.frame().dtypes[["count", "share"]])) == [INT, FLOAT]

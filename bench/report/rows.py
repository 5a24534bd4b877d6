"""Tables as data: rows of plain values under named columns, as text and as a data frame."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

INT, FLOAT, TEXT = "Int64", "float64", ""
"""Types of columns in every table; Int64 holds missing values, text is left as it is."""
_TYPES: Mapping[str, type] = {INT: int, FLOAT: float}


@dataclass(frozen=True)
class Rows:
    """Rows that hold every column, in order; None where a value is missing.

    columns: their types by name. A long table takes a data frame several times as long, most of it
    to make rows of it again.
    """

    columns: Mapping[str, str]
    rows: Sequence[Row]

    @classmethod
    def of(cls, made: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Rows:
        """Rows with exactly these columns; what a row lacks is missing there, and so is nan."""
        blank = dict.fromkeys(columns)
        types = [(name, _TYPES[kind]) for name, kind in columns.items() if kind]
        rows = [{**blank, **row} for row in made]
        for row in rows:
            for name, kind in types:
                value = row[name]
                if value is not None and (type(value) is not kind or value != value):
                    row[name] = None if math.isnan(value) else kind(value)
        return cls(columns, rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """The values under a name."""
        return [row[name] for row in self.rows]

    def csv(self) -> str:
        """As CSV: shortest floats, missing values empty, lines end in a line feed."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(row.values() for row in self.rows)
        return out.getvalue()

    def frame(self) -> pd.DataFrame:
        """As a data frame; the types hold for an empty one too."""
        import pandas as pd

        made = pd.DataFrame(list(self.rows), columns=list(self.columns))
        return made.astype({name: kind for name, kind in self.columns.items() if kind})

"""Names and plans as text: what `bench list` and `bench run --dry-run` print, and README's tables
of attacks and defenses.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

from bench.grids import github
from bench.plan import Cell, missing
from models.registry import Description, Registry

COLUMNS: Mapping[str, Callable[[Description], str]] = {
    "kind": lambda entry: entry.sort,
    "norms": lambda entry: " ".join(entry.norms),
    "access": lambda entry: entry.access,
    "random": lambda entry: entry.traits["randomness"],
    "hides gradients": lambda entry: entry.traits["masking"],
    "refuses": lambda entry: entry.traits["rejection"],
    "adaptive attack": lambda entry: entry.traits["modes"],
    "keys": lambda entry: ", ".join(name for name, _, _ in entry.keys),
    "what it is": lambda entry: entry.summary,
    "paper": lambda entry: entry.paper,
}
"""What stands beside a name, from left to right."""
_WRAPPED = ("random", "hides gradients", "refuses", "keys", "what it is", "paper")
_NARROWEST = 16


def listing(name: str, table: Registry, width: int = 0) -> str:
    """A row per entry under the table's name, without the columns that hold nothing.

    width: letters of the terminal, into which the long columns are wrapped; 0: as wide as it is.
    """
    header, rows = _filled(name, table, tuple(COLUMNS))
    if width:
        limits = _limits(header, rows, width)
        rows = [line for row in rows for line in _wrapped(row, limits)]
    return _grid(header, rows)


def markdown(name: str, table: Registry) -> str:
    """The same as a GitHub table, a line per entry, without what it is."""
    header, rows = _filled(name, table, tuple(c for c in COLUMNS if c != "what it is"))
    return _grid(header, [[cell.replace("|", "\\|") for cell in row] for row in rows])


def _filled(
    name: str, table: Registry, columns: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the columns that hold anything."""
    entries = [table.describe_class(entry) for entry in table.names()]
    made = {column: [COLUMNS[column](entry) for entry in entries] for column in columns}
    kept = {column: cells for column, cells in made.items() if any(cells)}
    rows = zip((entry.name for entry in entries), *kept.values(), strict=True)
    return [name, *kept], list(map(list, rows))


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _limits(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of every column: those that wrap share what the others leave, none wider than it
    needs.
    """
    limits = _widths([header, *rows])
    places = [place for place, column in enumerate(header) if column in _WRAPPED]
    room = width - 3 * len(limits) - 1 - sum(limits) + sum(limits[place] for place in places)
    places.sort(key=limits.__getitem__)
    for done, place in enumerate(places):
        share = max(room // (len(places) - done), _NARROWEST)
        limits[place] = min(limits[place], share)
        room -= limits[place]
    return limits


def _wrapped(row: Sequence[str], limits: Sequence[int]) -> list[list[str]]:
    """A row as the lines that it takes."""
    parts = [
        textwrap.wrap(cell, limit, break_on_hyphens=False)
        for cell, limit in zip(row, limits, strict=True)
    ]
    return [list(line) for line in itertools.zip_longest(*parts, fillvalue="")]


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a GitHub table, built here so that no library's version moves the text of README."""
    widths = _widths([header, *rows])
    lines = [header, ["-" * width for width in widths], *rows]
    padded = [map(str.ljust, line, widths) for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def planned(cells: Sequence[Cell], stored: Mapping[str, Sequence[int]]) -> str:
    """What a run would do: a row per cell with the blocks that are stored already (numbers by key),
    and the forward queries it makes at most.
    """
    todo = {item.cell.key: len(item.blocks) for item in missing(cells, stored)}
    rows = [
        (
            cell.data.name,
            cell.model.text,
            cell.defense.text,
            f"{cell.attack.text} ({cell.attack.mode})",
            cell.norm,
            str(len(cell.eps)),
            str(cell.seed),
            str(cell.data.n),
            f"{cell.blocks - todo.get(cell.key, 0)}/{cell.blocks}",
            _most_queries(cell, todo.get(cell.key, 0)),
        )
        for cell in cells
    ]
    table = github(_PLANNED, rows, "l" * len(_PLANNED))
    done = len(cells) - len(todo)
    return f"{table}\n\n{len(cells)} cells, {done} stored, {len(todo)} to run; nothing was run"


_PLANNED = (
    *("dataset", "model", "defense", "attack", "norm", "eps", "seed", "n"),
    *("blocks stored", "queries at most"),
)


def _most_queries(cell: Cell, blocks: int) -> str:
    # The unknown cost of somebody else's attack is shown as such.
    if cell.most_queries is None:
        return "?" if blocks else "0"
    return f"{cell.most_queries * blocks // cell.blocks:,}"

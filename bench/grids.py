"""Text in columns, as GitHub reads it."""

from __future__ import annotations

from collections.abc import Sequence


def github(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A table whose columns are aligned (align: l or r for each), each two wider than its header at
    least. The text is tabulate's, which looks at the type of every cell: of a long table that takes
    longer than all else.
    """
    least = [len(name) + 2 for name in header]
    columns: Sequence[Sequence[str]] = list(zip(*rows, strict=True)) or [()] * len(least)
    widths = [max([low, *map(len, cells)]) for low, cells in zip(least, columns, strict=True)]
    places = [f"{{:{'<' if a == 'l' else '>'}{w}}}" for a, w in zip(align, widths, strict=True)]
    line = f"| {' | '.join(places)} |"
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line.format(*header), rule, *(line.format(*row) for row in rows)])

"""Figures of robust accuracy against queries, a panel per defended model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.report.figures import MOST, PALETTE, drawn, named
from bench.report.groups import by
from bench.report.rows import Row, Rows
from bench.report.tables import board, board_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "anytime_"
"""Every figure's file is called PREFIX, dataset, norm, and a number where there are several."""
_WIDTH, _HEIGHT, _LINE = 7.6, 2.6, 0.2
"""Inches: the figure, a panel, a line of the legend."""
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")
_COLUMNS = 2
_FEW = 100
"""Lines that are drawn where there are more than anybody tells apart."""


def figures(table: Rows) -> dict[str, str]:
    """File name to SVG text, from the rows of anytime: one per dataset, norm, eps and budget in
    which any attack succeeded.
    """
    made: dict[str, str] = {}
    boards = by(table, board)
    for members in by(boards, lambda rows: (rows[0]["dataset"], rows[0]["norm"])):
        moving = [rows for rows in members if any(row["queries"] > 0 for row in rows)]
        for number, rows in enumerate(moving, 1):
            stem = f"{PREFIX}{named(rows[0]['dataset'])}_{rows[0]['norm']}"
            name = f"{stem}-{number}.svg" if number > 1 else f"{stem}.svg"
            made[name] = drawn(functools.partial(figure, rows))
    return made


def figure(rows: Sequence[Row]) -> Figure:
    """The figure of rows under one heading: steps down, as each attack goes on."""
    from matplotlib.figure import Figure

    every = by(rows, lambda row: (row["model"], row["defense"]))
    panels = _first(every)
    rows = [row for panel in panels for row in panel]
    names = list(dict.fromkeys(row["attack"] for row in rows))
    columns = min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    drawing = Figure(figsize=(_WIDTH, _HEIGHT * lines), layout="constrained")
    grid = drawing.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    part = f" (the first {len(panels)} of {len(every)} models)" if len(panels) < len(every) else ""
    drawing.suptitle(board_title(rows[0]) + part, x=0.01, ha="left", fontsize=11)
    handles: dict[str, Any] = {}
    most = max(int(row["queries"]) for row in rows)
    for axes, panel in zip(grid, panels, strict=False):
        for cell in by(panel, lambda row: row["cell"]):
            place = names.index(cell[0]["attack"])
            colour = PALETTE[place % len(PALETTE)]
            style = _LINES[place // len(PALETTE) % len(_LINES)]
            x = [int(row["queries"]) for row in cell] + [most]
            y = [100 * row["accuracy"] for row in cell] + [100 * cell[-1]["accuracy"]]
            (line,) = axes.step(x, y, where="post", color=colour, linestyle=style)
            handles.setdefault(cell[0]["attack"], line)
        axes.set_title(f"{panel[0]['model']}, {panel[0]['defense']}", fontsize=9)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda queries, _: f"{queries:,.0f}")
        axes.set_xlim(0, most)
        axes.set_xlabel("forward queries per image")
        axes.set_ylim(-2, 102)
        axes.grid(visible=True)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    drawing.supylabel("right, in percent", fontsize=9)
    wide = 1 if max(map(len, handles)) > 40 else 2
    drawing.legend(handles.values(), handles, loc="outside lower center", ncols=wide)
    drawing.set_figheight(_HEIGHT * lines + 0.5 + _LINE * -(-len(handles) // wide))
    return drawing


def _first(panels: Sequence[Sequence[Row]]) -> list[Sequence[Row]]:
    """The panels; where all of them hold too many lines, the first that hold few, at least one."""
    lines = list(itertools.accumulate(len({row["cell"] for row in panel}) for panel in panels))
    if lines[-1] <= MOST:
        return list(panels)
    return list(panels[: max(sum(count <= _FEW for count in lines), 1)])

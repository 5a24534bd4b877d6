"""Figures of clean against robust accuracy: what each defense pays and gets.

A point per model and defense, seeds taken together; what differs in one number is joined by a line.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import labels as names
from bench.report.figures import PALETTE, drawn, named, wrapped
from bench.report.groups import by
from bench.report.rows import Row, Rows
from bench.report.seeds import seedless, seeds
from bench.report.tables import board, board_title, eps_text
from bench.store import Record
from models.grammar import number, parse, without

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREFIX = "tradeoff_"
"""Every figure's file is called PREFIX, dataset, norm, and a number where there are several."""
_LEAST = 2
"""So many defenses beside none make a figure."""
_WIDTH, _HEIGHT, _LINE = 7.6, 4.4, 0.19
"""Inches: the figure, its height without the legend, a line of the legend."""
_LETTERS = 84
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_UNDEFENDED = "none"
_UNDEFENDED_LABEL = "undefended"
_NARROWEST = 4.0
"""Percent that an axis spans at least."""
_INNER = (0.86 * 72 * _WIDTH, 0.78 * 72 * _HEIGHT)
"""About the size of the axes, in points."""

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """Rows of one model and defense that differ in the number under one key, in its order; key
    empty for a single row.

    label: the defense, less that key.
    """

    rows: Sequence[Row]
    key: str
    values: Sequence[float]
    label: str


def figures(records: Sequence[Record]) -> dict[str, str]:
    """File name to SVG text: one per dataset, norm, eps and query budget with at least two defenses
    beside none.
    """
    known = _options(records)
    boards = by(_measured(seeds(records)), board)
    made: dict[str, str] = {}
    for members in by(boards, lambda rows: (rows[0]["dataset"], rows[0]["norm"])):
        wide = [rows for rows in members if len(_defenses(rows)) >= _LEAST]
        for place, rows in enumerate(wide, 1):
            name = figure_name(rows[0]["dataset"], rows[0]["norm"], place)
            made[name] = drawn(functools.partial(figure, families(rows, known)))
    return made


def figure_name(dataset: str, norm: str, place: int = 1) -> str:
    """The file name of a dataset's and norm's figure, the first, second and so on."""
    return f"{PREFIX}{named(dataset)}_{norm}{f'-{place}' if place > 1 else ''}.svg"


def _measured(table: Rows) -> list[Row]:
    return [row for row in table if row["seeds"] > 0]


def _defenses(rows: Sequence[Row]) -> set[str]:
    return {row["defense"] for row in rows} - {_UNDEFENDED}


def _options(records: Sequence[Record]) -> dict[str, Options]:
    """The keys of each defense by its text less the seed: those stored, else those in the text."""
    known: dict[str, Options] = {}
    seedless_of = {text: seedless(text) for text in {record.defense for record in records}}
    for record in records:
        fields = record.identity.get("defense", {}).get("fields")
        if (text := seedless_of[record.defense]) not in known:
            known[text] = fields or _written(record.defense)
    return known


def _written(text: str) -> Options:
    try:
        return dict(parse(text).options)
    except ValueError:
        return {}


def families(rows: Sequence[Row], known: Mapping[str, Options]) -> list[Family]:
    """The rows in families; known: the keys of each defense."""
    kin = by(rows, lambda row: (row["model"], row["n"], _name(row["defense"])))
    return [family for members in kin for family in _split(members, known)]


def _name(defense: str) -> str:
    try:
        return parse(defense).name
    except ValueError:
        return defense


def _split(rows: Sequence[Row], known: Mapping[str, Options]) -> list[Family]:
    """Rows of one defense by name, along the key that leaves the fewest families."""
    options = {row["defense"]: known.get(row["defense"], {}) for row in rows}
    best = [[row] for row in rows]
    along = ""
    for key in _numeric(list(options.values())):
        rest = {defense: _rest(of, key) for defense, of in options.items()}
        parts = [
            [row for row in rows if rest[row["defense"]] == kind]
            for kind in dict.fromkeys(rest.values())
        ]
        if len(parts) < len(best):
            best, along = parts, key
    return [_family(part, along if len(part) > 1 else "", options) for part in best]


def _numeric(options: Sequence[Options]) -> list[str]:
    """The keys, less the seed, that hold a number everywhere."""
    keys = dict.fromkeys(key for of in options for key in of if key != "seed")
    return [key for key in keys if all(_is_number(of.get(key)) for of in options)]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return not math.isnan(number(str(value)))
    except ValueError:
        return False


def _rest(options: Options, key: str) -> Hashable:
    return tuple((k, repr(v)) for k, v in sorted(options.items()) if k not in (key, "seed"))


def _family(rows: Sequence[Row], key: str, options: Mapping[str, Options]) -> Family:
    defense = rows[0]["defense"]
    if not key:
        return Family(rows, "", (), _UNDEFENDED_LABEL if defense == _UNDEFENDED else defense)
    valued = [(number(str(options[row["defense"]][key])), place) for place, row in enumerate(rows)]
    valued.sort()
    label = f"{without(defense, key)} ({key} beside the points)"
    return Family([rows[place] for _, place in valued], key, [v for v, _ in valued], label)


def figure(shown: Sequence[Family]) -> Figure:
    """The figure of families under one heading: colours tell defenses apart, markers models."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = drawing.add_subplot()
    for family, (colour, marker, label) in zip(shown, _looks(shown), strict=True):
        _draw(axes, family, colour, marker, label)
    rows = [row for family in shown for row in family.rows]
    sizes = {int(row["n"]) for row in rows}
    images = f"n = {sizes.pop()} test images" if len(sizes) == 1 else "the test images"
    several = any(row["seeds"] > 1 for row in rows)
    bars = "\nbars: 95 % over training seeds" if several else ""
    axes.set_title(f"{board_title(rows[0])}: robust against clean accuracy", pad=10)
    axes.set_xlabel(f"clean accuracy on {images} (%){bars}")
    axes.set_ylabel("robust accuracy, worst case (%)")
    axes.set_xlim(*_limits([value for row in rows for value in _range(row, "clean")]))
    axes.set_ylim(*_limits([value for row in rows for value in _range(row, "robust")]))
    axes.grid(visible=True)
    _name_points(axes, shown)
    handles, texts = axes.get_legend_handles_labels()
    texts = [wrapped(text, _LETTERS) for text in texts]
    drawing.legend(handles, texts, loc="outside lower center", ncols=1)
    drawing.set_figheight(_HEIGHT + _LINE * sum(text.count("\n") + 1 for text in texts))
    return drawing


def _looks(shown: Sequence[Family]) -> Iterator[tuple[str, str, str]]:
    """Colour, marker and label of each family; black is left to the undefended."""
    models = list(dict.fromkeys(family.rows[0]["model"] for family in shown))
    defended = list(dict.fromkeys(f.label for f in shown if f.label != _UNDEFENDED_LABEL))
    colours = PALETTE[:-1]
    for family in shown:
        model = family.rows[0]["model"]
        label = family.label if len(models) == 1 else f"{model} / {family.label}"
        if family.label == _UNDEFENDED_LABEL:
            yield PALETTE[-1], _MARKERS[models.index(model) % len(_MARKERS)], label
            continue
        again, place = divmod(defended.index(family.label), len(colours))
        kind = models.index(model) + len(models) * again
        yield colours[place], _MARKERS[kind % len(_MARKERS)], label


def _draw(axes: Axes, family: Family, colour: str, marker: str, label: str) -> None:
    """The points of a family, their bars, and the line that joins them."""
    points = [_point(row) for row in family.rows]
    for row, (x, y) in zip(family.rows, points, strict=True):
        if row["seeds"] > 1:
            (left, right), (low, high) = (_range(row, name) for name in ("clean", "robust"))
            axes.errorbar(
                x,
                y,
                xerr=[[x - left], [right - x]],
                yerr=[[y - low], [high - y]],
                color=colour,
                linewidth=0.9,
                capsize=2.5,
                alpha=0.7,
                zorder=2,
            )
    xs, ys = zip(*points, strict=True)
    style: dict[str, Any] = {
        "color": colour,
        "marker": marker,
        "linestyle": "-" if family.key else "none",
    }
    axes.plot(xs, ys, **style, markersize=6, linewidth=1.0, label=label, zorder=3)


def _point(row: Row) -> tuple[float, float]:
    """Clean and robust accuracy in percent."""
    return 100 * row["clean_mean"], 100 * row["robust_mean"]


def _range(row: Row, name: str) -> tuple[float, float]:
    """The interval over seeds in percent; the mean twice where there is one seed."""
    if row["seeds"] == 1:
        return 100 * row[f"{name}_mean"], 100 * row[f"{name}_mean"]
    return 100 * row[f"{name}_ci_low"], 100 * row[f"{name}_ci_high"]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds the values with a margin, at least 4 points apart."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), (_NARROWEST - (high - low)) / 2)
    return max(low - margin, -2.0), min(high + margin, 102.0)


def _name_points(axes: Axes, shown: Sequence[Family]) -> None:
    """Each point of a family with its value under the family's key."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()

    def scaled(point: tuple[float, float]) -> tuple[float, float]:
        return (
            (point[0] - left) / (right - left) * _INNER[0],
            (point[1] - low) / (high - low) * _INNER[1],
        )

    keyed = [family for family in shown if family.key]
    points = [_point(row) for family in keyed for row in family.rows]
    texts = [_text(value) for family in keyed for value in family.values]
    tints = [
        look[0] for family, look in zip(shown, _looks(shown), strict=True) for _ in family.values
    ]
    ink = [p for line in _lines(shown) for p in names.along([scaled(point) for point in line])]
    places = names.offsets([scaled(point) for point in points], texts, ink)
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": names.SIZE, "zorder": 5}
    for point, text, tint, place in zip(points, texts, tints, places, strict=True):
        axes.annotate(text, point, xytext=place, color=tint, **style)


def _lines(shown: Sequence[Family]) -> Iterator[list[tuple[float, float]]]:
    """What is drawn, as lines: those that join families, and the bars."""
    for family in shown:
        yield [_point(row) for row in family.rows]
        for row in family.rows:
            x, y = _point(row)
            yield [(end, y) for end in _range(row, "clean")]
            yield [(x, end) for end in _range(row, "robust")]


def _text(value: float) -> str:
    return "inf" if math.isinf(value) else eps_text(value).split(" ")[0]

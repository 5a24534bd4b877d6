"""Accuracy-vs-eps figures as SVG; equal curves give equal bytes.

Colours tell defended models apart (or attacks, where there is one defended model), markers and
lines the attacks; the worst case is bold. Above eight series single attacks are thin and pale.
Nothing goes through pyplot.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.audit.findings import SUSPECT, level_of
from bench.report import tables
from bench.report.curves import Curve, group
from bench.report.groups import by

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PREFIX = "accuracy_vs_eps_"
"""Every figure's file is called PREFIX, dataset, norm."""
CROWDED = 8
"""Above this many series single attacks are drawn thin, without bands."""
MOST = 400
"""Above this many series only worst cases are drawn: nobody tells so many apart."""
_KEPT = 40
"""Of so many worst cases, the highest ones, that many are drawn then."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours for every kind of colour vision, less the yellow, faint on white."""
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_LINES: tuple[Any, ...] = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_BOLD: tuple[tuple[Any, str], ...] = (("-", "o"), ((0, (4, 1)), "d"), ((0, (1.5, 1)), "*"))
"""Line and marker of bold series; the later ones where the colours start again."""
_GREY, _BLACK = "#666666", "#000000"
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "adversarial-bench",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.markersize": 4.5,
    "text.parse_math": False,
}
_WIDTH, _HEIGHT, _LINE = 7.6, 4.2, 0.19
"""Inches: the figure, its height without the legend, a line of text."""
_DIGITS = 6
"""Of places in a figure, in shares of its sides."""
_LETTER, _HANDLE = 0.068, 0.75
"""Inches that a letter of the legend takes, and what stands beside its label."""
_LABEL, _TICK = 84, 44
"""Letters after which a label in the legend, or beside a row, goes on in the next line."""


@dataclass(frozen=True)
class Series:
    """A complete curve and its looks.

    pipeline, attack: names, as short as they can be without being taken for others; bold: the worst
    case, or the one attack there is.
    """

    curve: Curve
    pipeline: str
    attack: str
    label: str
    colour: str
    line: Any
    marker: str
    bold: bool


def name(dataset: str, norm: str) -> str:
    """The file name."""
    return f"{PREFIX}{named(dataset)}_{norm}.svg"


def named(dataset: str) -> str:
    """A dataset's name for a file: letters that no file can bear give way to a digest."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset)
    if plain != dataset:
        plain += f"-{hashlib.blake2b(dataset.encode(), digest_size=4).hexdigest()}"
    return plain


def figures(curves: Sequence[Curve]) -> dict[str, str]:
    """File name to SVG text, a figure per dataset and norm that has a complete cell."""
    settings = by(curves, lambda curve: (curve.of.dataset, curve.of.norm))
    return {
        name(members[0].of.dataset, members[0].of.norm): svg(members)
        for members in settings
        if any(curve.is_complete for curve in members)
    }


def svg(curves: Sequence[Curve]) -> str:
    """The figure of curves that share dataset and norm, as SVG text."""
    return drawn(lambda: figure(curves))


def drawn(make: Callable[[], Figure]) -> str:
    """A figure in the style of all of them, as SVG text."""
    import matplotlib

    # matplotlib's own settings first, so that a user's matplotlibrc moves no byte
    keep = ("backend", "datapath", "interactive")
    own = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(keep)}
    settings: Any = {**own, **_STYLE}
    with matplotlib.rc_context(settings):
        out = io.StringIO()
        _laid_out(make()).savefig(out, format="svg", metadata={"Date": None})
    return re.sub(r"[ \t]+$", "", out.getvalue(), flags=re.MULTILINE)


def _laid_out(drawing: Figure) -> Figure:
    """The figure with its layout fixed: to find it, savefig would draw everything once more."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas = FigureCanvasSVG(drawing)
    drawing.dpi = canvas.fixed_dpi
    engine = drawing.get_layout_engine()
    if engine is not None:
        engine.execute(drawing)
        drawing.set_layout_engine(None)
    if drawing.subfigs:
        _settle(drawing.subfigs)
        for axes in drawing.axes:
            left, low, width, height = axes.get_position(original=True).bounds
            axes.set_position(_rounded(left, low, width, height))
    return drawing


def _settle(parts: Sequence[SubFigure]) -> None:
    """Rounds where parts of a figure stand: where there are many, the solver's last bits differ
    from one time to the next, and names in the SVG are digests of all bits.
    """
    for part in parts:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(_DIGITS))
        for text in part.texts:
            text.set_position(_rounded(*text.get_position()))
        _settle(part.subfigs)


def _rounded(*places: float) -> Any:
    return tuple(round(place, _DIGITS) for place in places)


def figure(curves: Sequence[Curve]) -> Figure:
    """The figure of curves of one dataset and norm: lines, or rows of points at a single eps."""
    from matplotlib.figure import Figure

    shown = series(curves)
    failed = [curve for curve in curves if not curve.is_complete]
    radii = {eps for each in shown for eps in each.curve.eps if eps > 0}
    drawing = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = drawing.add_subplot()
    of = shown[0].curve.of
    complete = sum(curve.is_complete for curve in curves)
    part = f" (the highest of {complete:,} curves)" if len(shown) < complete > MOST else ""
    axes.set_title(f"{of.dataset}: accuracy under {of.norm} attacks{part}", pad=10)
    if len(radii) == 1:
        _draw_rows(axes, shown, failed, radii.pop())
        drawing.set_figheight(1.1 + 1.5 * _LINE * sum(_lines(label) for label in _row_labels(axes)))
    else:
        _draw_lines(axes, shown)
        handles, labels = _legend(shown, failed)
        columns = _columns(labels, len({each.pipeline for each in shown}))
        drawing.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2)
        drawing.set_figheight(_HEIGHT + _LINE * sum(map(_lines, labels)) / columns)
    return drawing


def series(curves: Sequence[Curve]) -> list[Series]:
    """What is drawn: every complete curve, but no worst case over a single attack."""
    shown = _chosen([c for c in curves if c.is_complete and not (c.is_worst and c.attacks == 1)])
    pipelines, attacks = _pipelines(shown), _attacks(shown)
    places = {text: place for place, text in enumerate(dict.fromkeys(pipelines))}
    kinds = {text: place for place, text in enumerate(dict.fromkeys(_singles(shown, attacks)))}
    members = [group(curve.of) for curve in shown]
    sizes = Counter(members)
    made = []
    for curve, pipeline, attack, member in zip(shown, pipelines, attacks, members, strict=True):
        place, kind = places[pipeline], kinds.get(attack, -1)
        alone = len(places) == 1
        bold = curve.is_worst or sizes[member] == 1
        line, marker = _BOLD[place // len(PALETTE) % len(_BOLD)]
        colour = PALETTE[(kind if alone else place) % (len(PALETTE) - alone)]
        made.append(
            Series(
                curve,
                pipeline,
                attack,
                label=(attack if alone else f"{pipeline}: {attack}") + _doubt(curve),
                colour=_BLACK if alone and curve.is_worst else colour,
                line=line if bold else _LINES[kind % len(_LINES)],
                marker=marker if curve.is_worst else _MARKERS[kind % len(_MARKERS)],
                bold=bold,
            )
        )
    return made


def _doubt(curve: Curve) -> str:
    """What a label says of a curve that is an upper bound at best."""
    return f" ({SUSPECT})" if level_of(curve.audit) == SUSPECT else ""


def _chosen(shown: list[Curve]) -> list[Curve]:
    """All of them, or where they are too many the highest worst cases, in their order."""
    if len(shown) <= MOST:
        return shown
    worst = [curve for curve in shown if curve.is_worst] or shown
    highest = sorted(worst, key=lambda curve: -float(curve.accuracy.mean()))[:_KEPT]
    kept = set(map(id, highest))
    return [curve for curve in worst if id(curve) in kept]


def _singles(curves: Sequence[Curve], attacks: Sequence[str]) -> list[str]:
    return [attack for curve, attack in zip(curves, attacks, strict=True) if not curve.is_worst]


def _pipelines(curves: Sequence[Curve]) -> list[str]:
    """What tells each curve's defended model, and its run, from the others'."""
    extras = tables.varying(curves)
    models = {curve.of.model for curve in curves}
    texts = []
    for curve in curves:
        defense = "undefended" if curve.of.defense == "none" else curve.of.defense
        parts = [f"{curve.of.model} / {defense}" if len(models) > 1 else defense]
        parts += [f"{key} {read(curve)}" for key, read in extras.items()]
        texts.append(", ".join(parts))
    return texts


def _attacks(curves: Sequence[Curve]) -> list[str]:
    """Attack names, with the mode where one attack ran in several."""
    modes: dict[str, set[str]] = {}
    for curve in curves:
        modes.setdefault(curve.attack, set()).add(curve.mode)
    return [
        f"{c.attack} ({c.mode})" if len(modes[c.attack]) > 1 and not c.is_worst else c.attack
        for c in curves
    ]


def _path(curve: Curve) -> tuple[list[float], list[Any]]:
    """eps, and rows of accuracy, low, high in percent; from the clean accuracy at 0 on."""
    points = list(zip(curve.accuracy, curve.low, curve.high, strict=True))
    eps = list(curve.eps)
    if curve.clean is not None and 0.0 not in eps:
        points.insert(0, (curve.clean.value, curve.clean.low, curve.clean.high))
        eps.insert(0, 0.0)
    return eps, list(100 * np.array(points).T)


def _draw_lines(axes: Axes, shown: Sequence[Series]) -> None:
    crowded = len(shown) > CROWDED
    for order, each in enumerate(sorted(shown, key=lambda s: s.bold)):
        eps, (accuracy, low, high) = _path(each.curve)
        faint = crowded and not each.bold
        axes.plot(
            eps,
            accuracy,
            color=each.colour,
            linestyle=each.line,
            marker=each.marker,
            linewidth=2.2 if each.bold else 0.9 if crowded else 1.3,
            markersize=2.5 if faint else None,
            alpha=0.5 if faint else None,
            zorder=3 + order / len(shown),
        )
        if not faint:
            axes.fill_between(eps, low, high, color=each.colour, alpha=0.13, linewidth=0, zorder=2)
    of = shown[0].curve.of
    axes.set_xlabel(f"eps ({of.norm}, {tables.unit(of.norm)})")
    axes.set_ylabel(f"accuracy on {_images(shown)} (%)")
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(visible=True)
    _pixel_ticks(axes, sorted({eps for each in shown for eps in _path(each.curve)[0]}))


def _images(shown: Sequence[Series]) -> str:
    sizes = {each.curve.of.n for each in shown}
    return f"n = {sizes.pop()} test images" if len(sizes) == 1 else "the test images"


def _pixel_ticks(axes: Axes, grid: Sequence[float]) -> None:
    """Ticks at the grid, as far as their labels have room, where the grid counts steps of 1/255."""
    texts = {eps: tables.eps_text(eps).split(" ")[0] for eps in grid}
    if not all("/" in text or text == "0" for text in texts.values()):
        return
    ticks: list[float] = []
    for eps in reversed(grid):
        if not ticks or ticks[-1] - eps > 0.07 * (grid[-1] - grid[0]):
            ticks.append(eps)
    axes.set_xticks(ticks, [texts[eps] for eps in ticks])


def _draw_rows(axes: Axes, shown: Sequence[Series], failed: Sequence[Curve], eps: float) -> None:
    """A row per series: the accuracy at the one eps with its interval; clean: an open circle."""
    labels = [wrapped(each.label, _TICK) for each in shown]
    labels += [wrapped(f"{curve.of.defense}: {curve.attack}", _TICK) for curve in failed]
    for row, each in enumerate(shown):
        _, (accuracy, low, high) = _path(each.curve)
        clean, value = accuracy[0], accuracy[-1]
        spread = [[value - low[-1]], [high[-1] - value]]
        axes.plot([value, clean], [row, row], color=each.colour, linewidth=0.7, alpha=0.5, zorder=2)
        axes.plot(clean, row, "o", color=each.colour, markerfacecolor="white", zorder=3)
        axes.errorbar(
            value,
            row,
            xerr=spread,
            color=each.colour,
            marker=each.marker,
            linewidth=2.2 if each.bold else 1.3,
            capsize=3,
            zorder=4,
        )
    for row, _ in enumerate(failed, start=len(shown)):
        axes.text(1, row, "failed", color=_GREY, verticalalignment="center")
    of = shown[0].curve.of
    at = f"eps = {tables.eps_text(eps).split(' ')[0]} ({of.norm}, {tables.unit(of.norm)})"
    axes.set_xlabel(f"accuracy on {_images(shown)} (%)\nfilled: at {at}; open: clean")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlim(-2, 102)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")


def _row_labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def _legend(shown: Sequence[Series], failed: Sequence[Curve]) -> tuple[list[Any], list[str]]:
    """A handle and a label per series; where crowded, per defended model and then per attack."""
    from matplotlib.lines import Line2D

    def handle(each: Series, colour: str, *, bold: bool) -> Line2D:
        width = 2.2 if bold else 1.3
        return Line2D(
            [], [], color=colour, linestyle=each.line, marker=each.marker, linewidth=width
        )

    if len(shown) <= CROWDED:
        entries = [(each.label, handle(each, each.colour, bold=each.bold)) for each in shown]
    else:
        bold = [each for each in shown if each.bold]
        kinds = {each.attack: each for each in shown if not each.bold}
        alone = len({each.pipeline for each in shown}) == 1
        entries = [(each.label, handle(each, each.colour, bold=True)) for each in bold]
        entries += [
            (attack, handle(each, each.colour if alone else _GREY, bold=False))
            for attack, each in kinds.items()
        ]
    for curve in failed:
        cross = Line2D([], [], color=_GREY, linestyle="none", marker="x")
        entries.append((f"failed: {curve.attack} on {curve.of.defense}", cross))
    return [line for _, line in entries], [wrapped(label, _LABEL) for label, _ in entries]


def wrapped(text: str, width: int) -> str:
    """The text in lines of about that many letters, broken after commas and blanks."""
    lines = [""]
    for piece in re.split(r"(?<=[, ])", text):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("    ")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _lines(label: str) -> int:
    return label.count("\n") + 1


def _columns(labels: Sequence[str], pipelines: int) -> int:
    """How many columns of labels fit; where there are several defended models, one for each."""
    longest = max(len(line) for label in labels for line in label.split("\n"))
    fitting = max(1, int(_WIDTH / (_LETTER * longest + _HANDLE)))
    wanted = pipelines if 1 < pipelines <= fitting and len(labels) <= CROWDED else fitting
    return min(wanted, fitting, len(labels))

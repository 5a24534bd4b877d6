"""The small worlds as a page, tables and one page of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench import __version__
from bench.grids import github
from bench.report import figures as drawing
from bench.report.markdown import escape
from bench.report.rows import FLOAT, INT, TEXT, Row, Rows
from bench.report.tables import count, percent, seconds
from models.coverage import COLLAPSE, DROPPING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHECKS = {
    "world": TEXT,
    "quantity": TEXT,
    "measured": FLOAT,
    "relation": TEXT,
    "expected": FLOAT,
    "tolerance": FLOAT,
    "holds": TEXT,
}
SHIFTS = {
    "shift": FLOAT,
    "jsd": FLOAT,
    "value": FLOAT,
    "value_sampled": FLOAT,
    "w1": FLOAT,
    "w1_sampled": FLOAT,
    "accuracy": FLOAT,
    "accuracy_sampled": FLOAT,
}
MODES = {
    "world": TEXT,
    "generator": TEXT,
    "spec": TEXT,
    "modes": INT,
    "of": INT,
    "good": FLOAT,
    "divergence": FLOAT,
    "wrong": TEXT,
    "n": INT,
    "updates": INT,
    "seconds": FLOAT,
}
"""Columns of worlds.csv, worlds_shifts.csv and worlds_modes.csv in order, and their types."""
FIGURE = "worlds.svg"
SHOWN = 400
"""Samples of a mixture or a generator that are drawn."""
_BLUE, _RED, _GREEN, _PINK = drawing.PALETTE[:4]
_GREY = "#666666"
_WIDTH, _TITLE = 12.5, 9.5
"""Inches of the page, and points of a panel's title."""
_NOTHING = 1e-12
"""Shares of a plan below this are rounding."""
LEGEND = (
    "Line: G(z) = z + theta against a logistic discriminator, ten samples each, losses summed "
    "(Prince 2023, Understanding Deep Learning, notebook 15.1). theta swings about mean(x) - "
    "mean(z) ever less, but D finds no rest: its steps are longer than the curvature of its loss "
    "allows, throw it to and fro, and leave its loss far above 20 log 2.",
    "Shifts: N(0, 1) against N(shift, 1). JSD and the value V(D*, G) by quadrature, W1 and the "
    "accuracy of the optimal discriminator D* in closed form; beside them what samples say. JSD "
    "stands still at log 2 where W1 goes on growing: nothing then tells a generator which way to "
    "go.",
    "Slopes: of the generator's cost by the logit of D, by automatic differentiation: -D of the "
    "saturating cost log(1 - D), -(1 - D) of the non-saturating -log D.",
    "Saddle: min over x, max over y of x y. Steps at the same time grow by sqrt(1 + lr^2) each; "
    "steps in turn stay on an ellipse.",
    "Population: distributions instead of samples, D optimal at every step; V goes to -log 4.",
    "Earth mover: two histograms of ten bins at i / 9, by linear programming and in closed form.",
    "Mixtures: a sample is good within 3 standard deviations of the nearest centre (98.9 % of a "
    "Gaussian's own are); a mode is found when its good samples are at least a quarter of a fair "
    "share of all samples. KL: of the good samples' modes from the uniform distribution, nats. "
    f"Seconds are those of the training, whenever that was, on one thread. The figure has {SHOWN} "
    "of the samples.",
)


@dataclass(frozen=True)
class Check:
    """A number beside the one it must be: relation: = (within the tolerance), <, or >=."""

    world: str
    quantity: str
    measured: float
    expected: float
    tolerance: float = 0.0
    relation: str = "="

    @property
    def holds(self) -> bool:
        """Whether it is as it must be."""
        if self.relation == "<":
            return self.measured < self.expected
        if self.relation == ">=":
            return self.measured >= self.expected
        is_same = self.measured == self.expected
        return is_same or abs(self.measured - self.expected) <= self.tolerance


@dataclass(frozen=True, eq=False)
class Cloud:
    """Samples (n, 2) of a generator, or of the mixture itself, beside the centres (K, 2), in the
    unit square; row: see MODES.
    """

    centres: npt.NDArray[np.float64]
    points: npt.NDArray[np.float32]
    row: Row


@dataclass(frozen=True, eq=False)
class Worlds:
    """What was played.

    shifts: see SHIFTS; curves: (4, n) of shift, W1, accuracy, JSD; slopes: D, saturating and
    non-saturating slope; theta: (rounds + 1,) of the line, target: what it swings about; optimum:
    offset and slope of D*'s logit between two means; spiral, ellipse: (steps + 1, 2) of the saddle;
    values: V + log 4 per step of the population; shares (2, K), plan (K, K): of the earth mover;
    clouds: per mixture, the mixture itself first; command: what made it.
    """

    checks: tuple[Check, ...]
    shifts: tuple[Row, ...]
    curves: npt.NDArray[np.float64]
    slopes: tuple[tuple[float, float, float], ...]
    theta: Sequence[float]
    target: float
    optimum: tuple[float, float]
    means: tuple[float, float]
    spiral: npt.NDArray[np.float64]
    ellipse: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]
    plan: npt.NDArray[np.float64]
    clouds: Mapping[str, tuple[Cloud, ...]]
    command: str

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that do not hold."""
        return tuple(check for check in self.checks if not check.holds)


def checks(worlds: Worlds) -> Rows:
    """A row per check."""
    made = [{**vars(check), "holds": "yes" if check.holds else "no"} for check in worlds.checks]
    return Rows.of(made, CHECKS)


def modes(worlds: Worlds) -> Rows:
    """A row per mixture and generator."""
    return Rows.of([cloud.row for clouds in worlds.clouds.values() for cloud in clouds], MODES)


def files(worlds: Worlds) -> dict[str, str]:
    """Every table and the page, by file name."""
    return {
        "worlds.csv": checks(worlds).csv(),
        "worlds_shifts.csv": Rows.of(worlds.shifts, SHIFTS).csv(),
        "worlds_modes.csv": modes(worlds).csv(),
        "worlds.md": markdown(worlds),
    }


def told(worlds: Worlds) -> str:
    """In a few lines: the mixtures, and what does not hold."""
    lines = [
        f"{row['world']}: {row['generator']}: {row['wrong']}"
        if row["modes"] is None
        else f"{row['world']}: {row['generator']}: {_modes(row)}, {percent(row['good'])} % good, "
        f"wrong: {row['wrong']}"
        for row in modes(worlds)
    ]
    lines.append(f"{len(worlds.checks) - len(worlds.failures)} of {len(worlds.checks)} checks hold")
    lines += [
        f"does not hold: {check.world}, {check.quantity}: {check.measured!r}, not "
        f"{_expected(vars(check))}"
        for check in worlds.failures
    ]
    return "\n".join(lines)


def markdown(worlds: Worlds) -> str:
    """The document worlds.md."""
    return "\n\n".join(
        [
            "# Small worlds",
            f"{len(worlds.checks) - len(worlds.failures)} of {len(worlds.checks)} checks hold.",
            f"![Small worlds](figures/{FIGURE})",
            "## Mixtures",
            _table(_MODES, modes(worlds), "lllrrrlrrr"),
            "## Shifts",
            _table(_SHIFTS, worlds.shifts, "r" * len(_SHIFTS)),
            "## Slopes of the generator's cost",
            github(
                ["D(G(z))", "saturating", "non-saturating", "ratio"],
                [
                    [
                        f"{d:g}",
                        f"{a:.6g}",
                        f"{b:.6g}",
                        f"{b / a:.5g}",
                    ]
                    for d, a, b in worlds.slopes
                ],
                "rrrr",
            ),
            "## Checks",
            _table(_CHECKS, checks(worlds), "llrrl"),
            *map(escape, LEGEND),
            f"Made by `{worlds.command.replace('`', chr(39))}` with adversarial-bench "
            f"{__version__}.\n",
        ]
    )


_Reader = Callable[[Row], str]


def _table(columns: Mapping[str, _Reader], rows: Sequence[Row] | Rows, align: str) -> str:
    cells = [[escape(read(row)) for read in columns.values()] for row in rows]
    return github(list(columns), cells, align)


def _number(name: str, row: Row) -> str:
    value = row[name]
    return "" if value is None else f"{round(value, 9):.6g}"


def _modes(row: Row) -> str:
    return "" if row["modes"] is None else f"{row['modes']} of {row['of']}"


def _expected(row: Mapping[str, Any]) -> str:
    if row["relation"] != "=":
        return f"{row['relation']} {row['expected']:g}"
    within = f" +- {row['tolerance']:g}" if row["tolerance"] else ""
    return f"{row['expected']!r}{within}"


_CHECKS: Mapping[str, _Reader] = {
    "world": lambda row: str(row["world"]),
    "quantity": lambda row: str(row["quantity"]),
    "measured": lambda row: repr(row["measured"]),
    "expected": _expected,
    "holds": lambda row: str(row["holds"]),
}
_SHIFTS: Mapping[str, _Reader] = {
    "shift": partial(_number, "shift"),
    "JSD (nats)": partial(_number, "jsd"),
    "V": partial(_number, "value"),
    "V, samples": partial(_number, "value_sampled"),
    "W1": partial(_number, "w1"),
    "W1, samples": partial(_number, "w1_sampled"),
    "accuracy of D*": partial(_number, "accuracy"),
    "accuracy, samples": partial(_number, "accuracy_sampled"),
}
_MODES: Mapping[str, _Reader] = {
    "world": lambda row: str(row["world"]),
    "generator": lambda row: str(row["generator"]),
    "spec": lambda row: row["spec"] or "",
    "modes": _modes,
    "good %": lambda row: percent(row["good"]),
    "KL": lambda row: "" if row["divergence"] is None else f"{row['divergence']:.3f}",
    "wrong": lambda row: str(row["wrong"]),
    "samples": lambda row: count(row["n"]),
    "updates": lambda row: count(row["updates"]),
    "seconds": lambda row: seconds(row["seconds"]),
}


# --- the page of figures -------------------------------------------------------------------------


def svg(worlds: Worlds) -> str:
    """All figures on one page, as SVG text."""
    return drawing.drawn(partial(_page, worlds))


def _page(worlds: Worlds) -> Figure:
    """Eight small worlds in two rows, and a row of clouds per mixture below."""
    from matplotlib.figure import Figure

    clouds = list(worlds.clouds.values())
    heights = (5.8, 2.9 * len(clouds))
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    places = figure.add_gridspec(2, 1, height_ratios=heights)
    above = places[0].subgridspec(2, 4)
    for place, draw in enumerate(_PANELS):
        draw(figure.add_subplot(above[place // 4, place % 4]), worlds)
    below = places[1].subgridspec(len(clouds), max(map(len, clouds)))
    for line, members in enumerate(clouds):
        for place, cloud in enumerate(members):
            _cloud(figure.add_subplot(below[line, place]), cloud)
    said = f"mixtures: {SHOWN} of {count(clouds[0][0].row['n'])} samples each; circles: centres"
    figure.supxlabel(said, fontsize=_TITLE)
    return figure


def _cloud(axes: Axes, cloud: Cloud) -> None:
    row = cloud.row
    axes.plot(*cloud.centres.T, "o", color=_GREY, fillstyle="none", markersize=7, linewidth=0.5)
    # a lone point would hardly be seen
    size = 2.4 if len(np.unique(cloud.points, axis=0)) > 1 else 8.0
    axes.plot(*cloud.points.T, ".", color=_BLUE, markersize=size, markeredgewidth=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    found = f"{_modes(row)}, {percent(row['good'])} % good" if "modes" in row else "failed"
    named = f", {row['wrong']}" if row["wrong"] in (COLLAPSE, DROPPING) else ""
    axes.set_title(f"{row['world']}: {row['generator']}\n{found}{named}", fontsize=_TITLE)


def _named(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=_TITLE)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True)


def _powers(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda *_: "")


def _theta(axes: Axes, worlds: Worlds) -> None:
    axes.axhline(worlds.target, color=_GREY, linewidth=0.8, label="mean(x) - mean(z)")
    axes.plot(worlds.theta, color=_BLUE, linewidth=1.2, label="theta")
    axes.legend(loc="lower right")
    _named(axes, "line: theta swings about its aim", "rounds of 300 D and 3 G steps", "theta")


def _optimum(axes: Axes, worlds: Worlds) -> None:
    real, fake = worlds.means
    offset, slope = worlds.optimum
    x = np.linspace(fake - 4, real + 4, 400)
    for mean, colour, label in ((real, _GREEN, "data"), (fake, _RED, "made")):
        density = np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
        axes.fill_between(x, density, color=colour, alpha=0.4, linewidth=0, label=label)
    axes.plot(x, 1 / (1 + np.exp(-offset - slope * x)), color=_BLUE, label="D*")
    axes.legend(loc="center left")
    _named(axes, f"line: D*(x) = s({slope:g} x - {-offset:g})", "x", "density, D*")


def _saturation(axes: Axes, worlds: Worlds) -> None:
    shift, *curves = worlds.curves
    names = (("W1", _RED), ("accuracy of D*", _GREEN), ("JSD", _BLUE))
    for curve, (label, colour) in zip(curves, names, strict=True):
        axes.plot(shift, curve, color=colour, label=label)
    axes.axhline(math.log(2), color=_GREY, linewidth=0.8, linestyle="--", label="log 2")
    axes.set_ylim(0, 2.5)
    axes.legend(loc="upper right")
    _named(axes, "shift: JSD saturates, W1 grows", "shift of the mean", "W1, share, nats")


def _slopes(axes: Axes, worlds: Worlds) -> None:
    d, saturating, other = (np.array(column) for column in zip(*worlds.slopes, strict=True))
    axes.loglog(d, -saturating, color=_RED, marker=".", label="saturating: D")
    axes.loglog(d, -other, color=_BLUE, marker=".", label="non-saturating: 1 - D")
    _powers(axes.xaxis)
    _powers(axes.yaxis)
    axes.legend(loc="lower center")
    _named(axes, "slope of G's cost by D's logit", "D(G(z))", "slope, times -1")


def _saddle(axes: Axes, worlds: Worlds) -> None:
    axes.plot(*worlds.spiral.T, color=_RED, linewidth=1.2, label="at the same time")
    axes.plot(*worlds.ellipse.T, color=_BLUE, linewidth=1.2, label="in turn")
    axes.plot(0, 0, "+", color="#000000")
    axes.set_aspect("equal")
    axes.set_xlim(-4.6, 4.6)
    axes.set_ylim(-3.2, 4.2)
    axes.legend(loc="upper center", ncols=2, columnspacing=1.0, handlelength=1.2)
    _named(axes, "saddle: min over x, max over y of xy", "x", "y")


def _population(axes: Axes, worlds: Worlds) -> None:
    # at the precision of floats a difference may be 0 or below
    axes.semilogy(np.maximum(worlds.values, 1e-16), color=_BLUE, marker=".")
    _powers(axes.yaxis)
    _named(axes, "population: V + log 4", "steps, D optimal at each", "nats")


def _histograms(axes: Axes, worlds: Worlds) -> None:
    bins = np.arange(worlds.shares.shape[1])
    for place, (name, colour) in enumerate((("p", _BLUE), ("q", _RED))):
        axes.bar(bins + 0.4 * place - 0.2, worlds.shares[place], 0.4, color=colour, label=name)
    axes.legend(loc="upper right")
    _named(axes, "earth mover: p and q", "bin", "share")


def _plan(axes: Axes, worlds: Worlds) -> None:
    for i, j in zip(*np.nonzero(worlds.plan > _NOTHING), strict=True):
        colour, side = _PINK if i != j else _GREY, 26 * math.sqrt(worlds.plan[i, j])
        axes.plot(i, j, "s", color=colour, markersize=side)
    axes.set_xlim(-0.6, len(worlds.plan) - 0.4)
    axes.set_ylim(-0.6, len(worlds.plan) - 0.4)
    axes.set_aspect("equal")
    axes.set_xticks(range(len(worlds.plan)))
    axes.set_yticks(range(len(worlds.plan)))
    _named(axes, "cheapest plan, shares as areas", "from bin of p", "to bin of q")


_PANELS: Sequence[Callable[[Axes, Worlds], None]] = (
    _theta,
    _optimum,
    _saturation,
    _slopes,
    _saddle,
    _population,
    _histograms,
    _plan,
)

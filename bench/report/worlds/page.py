"""The small worlds as one page of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import figures as drawing
from bench.report.tables import count, percent
from bench.report.worlds.played import SHOWN, Cloud, Worlds, found
from models.coverage import COLLAPSE, DROPPING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "worlds.svg"
_BLUE, _RED, _GREEN, _PINK = drawing.PALETTE[:4]
_GREY = "#666666"
_WIDTH, _TITLE = 12.5, 9.5
"""Inches of the page, and points of a panel's title."""
_NOTHING = 1e-12
"""Shares of a plan below this are rounding."""


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
    told = f"{found(row)}, {percent(row['good'])} % good" if "modes" in row else "failed"
    named = f", {row['wrong']}" if row["wrong"] in (COLLAPSE, DROPPING) else ""
    axes.set_title(f"{row['world']}: {row['generator']}\n{told}{named}", fontsize=_TITLE)


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

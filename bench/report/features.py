"""Features as a table, a text and a scatter: usefulness rho beside robust usefulness gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench import __version__
from bench.report import figures
from bench.report.markdown import escape
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.tables import eps_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEATURES = {
    "dataset": TEXT,
    "model": TEXT,
    "defense": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "n": INT,
    "family": TEXT,
    "feature": INT,
    "class": INT,
    "rho": FLOAT,
    "gamma": FLOAT,
    "method": TEXT,
    "verdict": TEXT,
}
"""Columns of features.csv in order, and their types."""
PREFIX = "features_"
VERDICTS = ("robust", "non-robust", "not useful")
_FLOOR = 3.0
_MARKS: Mapping[str, tuple[str, str, float]] = {
    "pixel": (".", figures.PALETTE[4], 18),
    "logreg row": ("^", figures.PALETTE[1], 42),
    "unit": ("o", figures.PALETTE[0], 22),
}
"""Marker, colour and area of each family; a non-robust one is drawn hollow."""
_INCHES = (7.6, 4.6)
LEGEND = """\
rho: E[y f(x)] of the feature f, of zero mean and unit variance, one class (y = 1) against the rest
(y = -1), both groups weighing one half; the sign of f is turned so that rho >= 0. gamma: E[inf y
f(x + d)] over ||d|| <= eps. Each feature stands for the class that it is most useful for; constant
ones are left out. Pixels: gamma is exact, inside the box [0, 1]. Rows of a softmax regression, w.x:
gamma is rho - eps ||w|| / sd in the dual norm, exact without the box and a lower bound inside it.
Units, what enters the net's last linear layer: gamma is what PGD inside ball and box reaches, an
upper bound.
Not useful: rho below three standard errors of a feature that has nothing to do with the class;
non-robust: useful, and gamma < 0; robust: useful, and gamma >= 0."""


@dataclass(frozen=True)
class Scatter:
    """Features of one dataset, defended model and ball.

    sizes: images per class; rows: family, feature, class, rho, gamma, method of each feature;
    command: what made it.
    """

    dataset: str
    model: str
    defense: str
    norm: str
    eps: float
    sizes: tuple[int, ...]
    rows: tuple[Mapping[str, Any], ...]
    command: str

    @property
    def n(self) -> int:
        """How many images."""
        return sum(self.sizes)

    @property
    def pipeline(self) -> str:
        """The defended model in words."""
        return f"{self.model} / {'undefended' if self.defense == 'none' else self.defense}"

    def verdict(self, row: Mapping[str, Any]) -> str:
        """One of VERDICTS; see LEGEND."""
        size = self.sizes[row["class"]]
        error = math.sqrt(1 / size + 1 / (self.n - size)) / 2
        if row["rho"] <= _FLOOR * error:
            return "not useful"
        return "robust" if row["gamma"] >= 0 else "non-robust"


def features(scatter: Scatter) -> Rows:
    """A row per feature, the most useful of each family first."""
    what = {name: getattr(scatter, name) for name in list(FEATURES)[:6]}
    families = list(dict.fromkeys(row["family"] for row in scatter.rows))
    ordered = sorted(scatter.rows, key=lambda row: (families.index(row["family"]), -row["rho"]))
    return Rows.of([{**what, **row, "verdict": scatter.verdict(row)} for row in ordered], FEATURES)


def markdown(scatter: Scatter) -> str:
    """The document features.md: a line per family."""
    lines = ["family", *VERDICTS, "highest rho", "highest gamma"]
    table = [lines, ["-", *("-:" for _ in lines[1:])]]
    for family, rows in _families(scatter).items():
        said = [scatter.verdict(row) for row in rows]
        counts = [str(said.count(verdict)) for verdict in VERDICTS]
        highest = [f"{max(row[name] for row in rows):.3f}" for name in ("rho", "gamma")]
        table.append([family, *counts, *highest])
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    return "\n\n".join(
        [
            "# Features",
            f"## {escape(_title(scatter))}",
            text,
            escape(LEGEND),
            f"Made by `{scatter.command}` with adversarial-bench {__version__}.\n",
        ]
    )


def figure_name(scatter: Scatter) -> str:
    """The file name."""
    return f"{PREFIX}{figures.named(scatter.dataset)}_{scatter.norm}.svg"


def svg(scatter: Scatter) -> str:
    """The scatter as SVG text."""
    return figures.drawn(lambda: _figure(scatter))


def _title(scatter: Scatter) -> str:
    ball = f"{scatter.norm} eps = {eps_text(scatter.eps)}"
    return f"{scatter.dataset}, {scatter.pipeline}, {ball}, n = {scatter.n}"


def _families(scatter: Scatter) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in scatter.rows:
        found.setdefault(row["family"], []).append(row)
    return found


def _figure(scatter: Scatter) -> Figure:
    """rho across, gamma up: filled marks are robust, hollow ones not, grey ones not useful."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_INCHES, layout="constrained")
    axes = drawing.add_subplot()
    axes.axhline(0, color="#000000", linewidth=1.0, zorder=1)
    for family, rows in _families(scatter).items():
        marker, colour, area = _MARKS[family]
        for verdict in VERDICTS:
            chosen = [row for row in rows if scatter.verdict(row) == verdict]
            if not chosen:
                continue
            edge = "#999999" if verdict == "not useful" else colour
            axes.scatter(
                [row["rho"] for row in chosen],
                [row["gamma"] for row in chosen],
                s=area,
                marker=marker,
                facecolors=edge if verdict == "robust" else "none",
                edgecolors=edge,
                linewidths=0.8,
                zorder=3,
                label=f"{family}: {verdict} ({len(chosen)})",
            )
    axes.set_title(f"{scatter.dataset}: what {scatter.norm} eps = {eps_text(scatter.eps)} leaves")
    # Linear from -1 to 1; what hardly varies in the data falls far below.
    axes.set_yscale("symlog", linthresh=1.0)
    least = min(row["gamma"] for row in scatter.rows)
    powers = [-(10.0**power) for power in range(9) if power == 0 or -(10.0**power) > least]
    ticks = [1.0, 0.5, 0.0, -0.5, *powers]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("usefulness rho")
    axes.set_ylabel("robust usefulness gamma (linear in [-1, 1])")
    axes.grid(visible=True)
    drawing.legend(loc="outside lower center", ncols=3, title=scatter.pipeline)
    return drawing

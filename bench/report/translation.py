"""A pair of translators as a page, a table and figures: images there and back, over time and at the
end, learning curves, and errors against the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench import __version__
from bench.report.figures import PALETTE, drawn, named, wrapped
from bench.report.markdown import escape
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.tables import count, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Images = npt.NDArray[np.float32]
LOG = {
    "update": INT,
    "loss_d": FLOAT,
    "loss_g": FLOAT,
    "d_real": FLOAT,
    "d_fake": FLOAT,
    "slope_saturating": FLOAT,
    "slope_nonsaturating": FLOAT,
    "seconds": FLOAT,
}
"""Columns of gan.csv in order, and their types."""
MEASURES = {"measure": TEXT, "value": FLOAT, "of": TEXT}
"""Columns of gan_measures.csv in order, and their types."""
LEGEND = """\
A: images as they are; B: images under the transform. Error: the mean over images and pixels of the
absolute difference, of A to B from the transform of the image itself, of B to A from the image
whose transform it was; training saw neither. Untranslated: the error of an image that is left as it
is. Cycle error: of an image there and back from itself. Class kept: images that the classifier puts
into the same class after the way as before it. Updates, training time: of the pair, wherever and
whenever it was trained."""
THERE, BACK, AGAIN = "A to B", "B to A", "A to B to A"
_MOMENTS = 5
"""Log entries whose images are drawn."""
_GAP = 1
"""Pixels between images."""
_LEAST_PIXELS = 48
"""Dots of an image's longer side at least: viewers smooth the few that they enlarge."""
_LETTERS = 62
"""Of a line of text under a panel."""
_WIDE, _HIGH, _TOP = 5.2, 4.2, 0.5
"""Inches of a panel, and of the title above them all."""
_SMALL = 7.0


@dataclass(frozen=True)
class Measure:
    """A number, its name, and what it was measured of."""

    name: str
    value: float
    of: str


@dataclass(frozen=True, eq=False)
class Moments:
    """The same training images of A (k, C, H, W) at each log entry: updates, the images in B and
    back in A (U, k, C, H, W), and their mean errors (U,), of B from the truth, of the way back from
    the images.
    """

    updates: Sequence[int]
    images: Images
    truth: Images
    there: Images
    again: Images
    errors: Sequence[float]
    cycles: Sequence[float]


@dataclass(frozen=True, eq=False)
class Portrait:
    """What was measured of a pair.

    source: trained, cached, given or untrained; to: the transform; weights: their digest; log: of
    its training; moments: None where the training was not here; shown: rows of test images by name,
    (k, C, H, W) each; command: what made it.
    """

    dataset: str
    generator: str
    source: str
    to: str
    weights: str
    log: tuple[Mapping[str, Any], ...]
    measures: tuple[Measure, ...]
    moments: Moments | None
    shown: Mapping[str, Images]
    command: str

    @property
    def origin(self) -> str:
        """Where the pair comes from, and how long it was trained."""
        if not self.log:
            return self.source
        took = sum(entry["seconds"] for entry in self.log)
        return f"{self.source}, {count(self.log[-1]['update'])} updates in {seconds(took)} s"


def log(portrait: Portrait) -> Rows:
    """A row per log entry of the training, none where there was none."""
    return Rows.of([{name: entry.get(name) for name in LOG} for entry in portrait.log], LOG)


def measures(portrait: Portrait) -> Rows:
    """A row per measure."""
    made = [{"measure": m.name, "value": m.value, "of": m.of} for m in portrait.measures]
    return Rows.of(made, MEASURES)


def told(portrait: Portrait) -> str:
    """A portrait in a few lines."""
    lines = [f"{portrait.generator} on {portrait.dataset}: {portrait.origin}"]
    lines += [f"{m.name}: {_number(m.value)} ({m.of})" for m in portrait.measures]
    return "\n".join(lines)


def _number(value: float) -> str:
    """Four digits of a number, all of a count."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def markdown(portrait: Portrait, folder: str) -> str:
    """The document gan.md; folder: of the page of figures, beside it."""
    rows = [(m.name, _number(m.value), escape(m.of)) for m in portrait.measures]
    table = [("measure", "value", "of"), ("-", "-:", "-"), *rows]
    return "\n\n".join(
        [
            "# Translation",
            f"## {escape(portrait.dataset)}",
            f"{escape(portrait.generator)}: {portrait.origin}; weights {portrait.weights}",
            "\n".join(f"| {' | '.join(row)} |" for row in table),
            f"![{portrait.dataset}]({folder}/{name(portrait.dataset)})",
            escape(LEGEND),
            f"Made by `{portrait.command.replace('`', chr(39))}` with adversarial-bench "
            f"{__version__}.\n",
        ]
    )


def name(dataset: str) -> str:
    """The file name of the page of figures."""
    return f"gan_{named(dataset)}.svg"


def svg(portrait: Portrait) -> str:
    """The page of figures as SVG text; equal portraits give equal bytes."""
    return drawn(partial(_page, portrait))


def _page(portrait: Portrait) -> Figure:
    from matplotlib.figure import Figure

    panels: list[tuple[str, Callable[[SubFigure], None]]] = [
        ("Test images", partial(_shown, portrait=portrait))
    ]
    if portrait.moments is not None:
        panels.append(("There and back over time", partial(_moments, of=portrait.moments)))
        panels.append(("Errors over time", partial(_errors, of=portrait.moments)))
    if portrait.log:
        panels.append(("Scores and losses", partial(_games, log=portrait.log)))
    rows, across = -(-len(panels) // 2), min(2, len(panels))
    high = _HIGH * rows
    figure = Figure(figsize=(_WIDE * across, high + _TOP), layout="constrained")
    (head,), (body,) = figure.subfigures(2, 1, height_ratios=(_TOP, high), squeeze=False)
    title = f"{portrait.dataset}: {portrait.generator}, {portrait.source}"
    head.text(0.01, 0.9, wrapped(title, 80), fontsize=13, va="top")
    grid = body.subfigures(rows, across, squeeze=False)
    for (heading, draw), part in zip(panels, grid.flat, strict=False):
        part.suptitle(heading, x=0.02, ha="left", fontsize=10.5, fontweight="bold")
        draw(part)
    return figure


def _shown(panel: SubFigure, portrait: Portrait) -> None:
    """A row of test images for each thing that is done to them."""
    axes = _grid(panel, list(portrait.shown.items()))
    _below(axes, *(f"{m.name}: {m.value:.4g}" for m in portrait.measures if "error" in m.name))


def _moments(panel: SubFigure, of: Moments) -> None:
    """The images of A and the truth, then what the pair makes of them after so many updates."""
    most = len(of.updates) - 1
    steps = min(most, _MOMENTS - 1)
    places = [round(step * most / steps) for step in range(steps + 1)] if steps else [most]
    rows = [("A", of.images), ("truth in B", of.truth)]
    for place in places:
        rows += [(f"{of.updates[place]:,}: in B", of.there[place]), ("back in A", of.again[place])]
    axes = _grid(panel, rows)
    _below(axes, "the same training images after so many updates; the pair as it was trained")


def _errors(panel: SubFigure, of: Moments) -> None:
    """Errors of the same training images, per log entry."""
    axes = panel.add_subplot()
    axes.plot(of.updates, of.errors, color=PALETTE[0], marker=".", label=f"{THERE}, from the truth")
    axes.plot(of.updates, of.cycles, color=PALETTE[1], marker=".", label=f"{AGAIN}, from A")
    untranslated = float(np.abs(of.images - of.truth).mean())
    axes.axhline(untranslated, color="#666666", linewidth=0.8, label="untranslated")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean absolute error")
    axes.set_xlabel("update of the pair")
    axes.grid(visible=True)
    axes.legend(loc="best")


def _games(panel: SubFigure, log: Sequence[Mapping[str, Any]]) -> None:
    """Mean scores of real and translated images above, losses below, per log entry."""
    upper, lower = panel.subplots(2, 1, sharex=True)
    for axes, first, title, pair in (
        (upper, 0, "mean score", {"d_real": "D(real)", "d_fake": "D(translated)"}),
        (lower, 2, "mean loss", {"loss_d": "of both D", "loss_g": "of the pair"}),
    ):
        for place, (column, label) in enumerate(pair.items(), start=first):
            points = [entry["update"] for entry in log], [entry[column] for entry in log]
            axes.plot(*points, color=PALETTE[place], marker=".", label=label)
        axes.set_ylabel(title)
        axes.grid(visible=True)
        axes.legend(loc="best", ncols=2)
    lower.set_xlabel("update of the pair")


def _below(axes: Axes, *texts: str) -> None:
    axes.set_xlabel("\n".join(wrapped(text, _LETTERS) for text in texts), fontsize=_SMALL)


def _grid(panel: SubFigure, rows: Sequence[tuple[str, Images]]) -> Axes:
    """Rows of images (N, C, H, W) in one picture, their names beside them."""
    axes: Axes = panel.add_subplot()
    edges = ((0, 0), (0, 0), (0, _GAP), (0, _GAP))
    lines = [np.concatenate(np.pad(images, edges, constant_values=1), axis=2) for _, images in rows]
    mosaic = np.concatenate(lines, axis=1)
    colours = mosaic if len(mosaic) == 3 else np.repeat(mosaic.mean(0, keepdims=True), 3, axis=0)
    high, wide = rows[0][1].shape[2:]
    factor = -(-_LEAST_PIXELS // max(high, wide))
    sharp = (255 * np.moveaxis(colours, 0, 2)).round().astype(np.uint8)
    extent = (0, mosaic.shape[2], mosaic.shape[1], 0)
    axes.imshow(sharp.repeat(factor, 0).repeat(factor, 1), interpolation="none", extent=extent)
    axes.set_xticks([])
    places = [(high + _GAP) * row + high / 2 for row in range(len(rows))]
    axes.set_yticks(places, [label for label, _ in rows])
    axes.tick_params(length=0, labelsize=_SMALL)
    for edge in ("left", "bottom"):
        axes.spines[edge].set_visible(False)
    return axes

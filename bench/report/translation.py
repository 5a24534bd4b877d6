"""A pair of translators as a page, a table and figures: images there and back, over time and at the
end, learning curves, and errors against the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench import __version__
from bench.report.figures import PALETTE, drawn, named
from bench.report.gan import graphs, page
from bench.report.gan.page import Panel, sheet
from bench.report.gan.pictures import Grid, spread
from bench.report.gan.portrait import Images, Log, Measure
from bench.report.gan.table import LOG, MEASURES, number, table
from bench.report.markdown import escape
from bench.report.rows import Rows
from bench.report.tables import count, seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

LEGEND = """\
A: images as they are; B: images under the transform. Error: the mean over images and pixels of the
absolute difference, of A to B from the transform of the image itself, of B to A from the image
whose transform it was; training saw neither. Untranslated: the error of an image that is left as it
is. Cycle error: of an image there and back from itself. Class kept: images that the classifier puts
into the same class after the way as before it, of B to A the classes that it sees in B. D(real),
D(fake): the mean over the discriminators of both domains. Updates, training time: of the pair,
wherever and whenever it was trained."""
THERE, BACK, AGAIN = "A to B", "B to A", "A to B to A"
_MOMENTS = 5
"""Log entries whose images are drawn."""


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
    log: Log
    measures: tuple[Measure, ...]
    moments: Moments | None
    shown: Mapping[str, Images]
    command: str

    @property
    def origin(self) -> str:
        """Where the pair comes from, how long it was trained, and what B is."""
        if not self.log:
            return f"{self.source}; B is {self.to}"
        took = sum(entry["seconds"] for entry in self.log)
        updates = count(self.log[-1]["update"])
        return f"{self.source}, {updates} updates in {seconds(took)} s; B is {self.to}"


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
    lines += [f"{m.name}: {number(m.value)} ({m.of})" for m in portrait.measures]
    return "\n".join(lines)


def markdown(portrait: Portrait, folder: str) -> str:
    """The document gan.md; folder: of the page of figures, beside it."""
    rows = [(m.name, number(m.value), escape(m.of)) for m in portrait.measures]
    return "\n\n".join(
        [
            "# Translation",
            f"## {escape(portrait.dataset)}",
            f"{escape(portrait.generator)}: {portrait.origin}; weights {portrait.weights}",
            table([("measure", "value", "of"), *rows], "lrl"),
            f"![{portrait.dataset}]({folder}/{name(portrait.dataset)})",
            escape(LEGEND),
            f"Made by `{portrait.command.replace('`', chr(39))}` with adversarial-bench "
            f"{__version__}.\n",
        ]
    )


def name(dataset: str) -> str:
    """The file name of the page of figures."""
    return f"gan_{named(dataset)}.svg"


def former(dataset: str, folder: str) -> list[str]:
    """What a generator of samples leaves in a folder that these files stand for; folder: of
    figures.
    """
    return ["gan_coverage.csv", *(f"{folder}/{each}" for each in page.former(dataset))]


def svg(portrait: Portrait) -> str:
    """The page of figures as SVG text; equal portraits give equal bytes."""
    return drawn(partial(_page, portrait))


def _page(portrait: Portrait) -> Figure:
    panels = [Panel("Test images", partial(_shown, portrait=portrait))]
    if portrait.moments is not None:
        panels.append(Panel("There and back over time", partial(_moments, of=portrait.moments)))
        panels.append(Panel("Errors over time", partial(_errors, of=portrait.moments)))
    if portrait.log:
        scores = partial(graphs.games, log=portrait.log, of="pair")
        panels.append(Panel("Scores (mean of both D) and losses", scores))
        slopes = partial(graphs.slopes, log=portrait.log, of="pair")
        panels.append(Panel("Gradients of the pair", slopes))
    title = f"{portrait.dataset}: {portrait.generator}, {portrait.source}; B is {portrait.to}"
    return sheet(title, (), panels)


def _shown(panel: SubFigure, portrait: Portrait) -> None:
    """A row of test images for each thing that is done to them."""
    grid = Grid(panel, list(portrait.shown.values()))
    grid.left(list(portrait.shown))
    errors = [m for m in portrait.measures if "error" in m.name]
    grid.below(
        f"{grid.columns} of {errors[0].of}; mean absolute errors of all of them",
        *(f"{m.name}: {number(m.value)}" for m in errors),
    )


def _moments(panel: SubFigure, of: Moments) -> None:
    """The images of A and the truth, then what the pair makes of them after so many updates."""
    rows = {"A": of.images, "truth in B": of.truth}
    for place in spread(len(of.updates), _MOMENTS):
        update = f"{of.updates[place]:,}"
        rows |= {f"{update}: in B": of.there[place], f"{update}: back": of.again[place]}
    grid = Grid(panel, list(rows.values()))
    grid.left(list(rows))
    grid.below("the same training images after so many updates; the pair as it was trained")


def _errors(panel: SubFigure, of: Moments) -> None:
    """Errors of the same training images, per log entry."""
    axes = panel.add_subplot()
    axes.plot(of.updates, of.errors, color=PALETTE[0], marker=".", label=f"{THERE}, from the truth")
    axes.plot(of.updates, of.cycles, color=PALETTE[1], marker=".", label=f"{AGAIN}, from A")
    untranslated = float(np.abs(of.images - of.truth).mean())
    axes.axhline(untranslated, color="#666666", linewidth=0.8, label="A, untranslated")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean absolute error")
    axes.set_xlabel(f"update of the pair; of {len(of.images)} training images")
    axes.grid(visible=True)
    axes.legend(loc="best")

"""The one page of figures of a generator."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.report.figures import drawn, named, wrapped
from bench.report.gan import graphs, pictures
from bench.report.gan.findings import MANY
from bench.report.gan.portrait import PLAIN, Portrait

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

PREFIX = "gan_"
_ACROSS = 3
_WIDE, _HIGH = 3.9, 3.9
"""Inches of a panel; four rows of three are a sheet of A3."""
_TITLE, _LINE, _MARGIN = 0.26, 0.17, 0.1
"""Inches of a line of the page's title, of a line of text under it, and around them."""
_LETTERS, _HEADING = 170, 100
"""Of a line of text under the title, and of the title."""


@dataclass(frozen=True)
class Panel:
    """A titled part of the page, and what draws it."""

    title: str
    draw: Callable[[SubFigure], None]


def name(dataset: str) -> str:
    """The file name."""
    return f"{PREFIX}{named(dataset)}.svg"


def former(dataset: str) -> list[str]:
    """File names of figures that this one stands for, and that are no longer made."""
    kinds = ("samples", "curves", "inversions", "membership")
    return [f"{PREFIX}{kind}_{named(dataset)}.svg" for kind in kinds]


def svg(portrait: Portrait) -> str:
    """The page as SVG text; equal portraits give equal bytes."""
    return drawn(partial(_page, portrait))


def heading(portrait: Portrait) -> str:
    """The page's title."""
    title = f"{portrait.dataset}: {portrait.generator}, {portrait.source}"
    return title if portrait.sampled == PLAIN else f"{title}, {portrait.sampled}"


def panels(portrait: Portrait) -> list[Panel]:
    """What there is to draw, in order."""
    made = [Panel("Samples", partial(pictures.samples, portrait=portrait))]
    if len(portrait.final.counts) <= MANY:
        made.append(Panel("Classes of samples", partial(graphs.classes, portrait=portrait)))
    made += _of_training(portrait)
    if portrait.stacked is not None:
        draw = partial(graphs.stacked, triples=portrait.stacked)
        made.append(Panel("Stacked digits: triples", draw))
    if portrait.walks:
        made.append(Panel("Interpolation", partial(pictures.walks, ways=portrait.walks)))
    if portrait.arithmetic is not None:
        draw = partial(pictures.arithmetic, sums=portrait.arithmetic)
        made.append(Panel("Latent arithmetic", draw))
    if portrait.truncated:
        draw = partial(graphs.truncation, levels=portrait.truncated)
        made.append(Panel("Truncation", draw))
    if portrait.neighbours is not None:
        draw = partial(pictures.neighbours, found=portrait.neighbours)
        made.append(Panel("Memorisation: nearest training images", draw))
    made.append(Panel("Inversion of test images", partial(pictures.inversions, portrait=portrait)))
    told = [source for source in portrait.sources if source.auc is not None]
    made.append(Panel("Membership: ROC curves", partial(graphs.membership, sources=told)))
    return made


def _of_training(portrait: Portrait) -> list[Panel]:
    """What is seen over time."""
    made = []
    history = portrait.history
    if history is not None:
        made.append(Panel("Samples over time", partial(pictures.album, history=history)))
    if portrait.log:
        made.append(Panel("Scores and losses", partial(graphs.games, log=portrait.log)))
    if graphs.has(portrait.log, list(graphs.SLOPES)):
        draw = partial(graphs.slopes, log=portrait.log)
        made.append(Panel("Gradients of the generator", draw))
    if history is not None:
        made.append(Panel("Class coverage over time", partial(graphs.coverage, history=history)))
    return made


def _page(portrait: Portrait) -> Figure:
    return sheet(heading(portrait), _notes(portrait), panels(portrait))


def sheet(heading: str, texts: Sequence[str], shown: Sequence[Panel]) -> Figure:
    """Panels, at most three in a row, under a title and lines of text."""
    from matplotlib.figure import Figure

    across = min(_ACROSS, len(shown))
    rows = -(-len(shown) // across)
    title = wrapped(heading, _HEADING)
    notes = "\n".join(textwrap.fill(text, _LETTERS) for text in texts)
    under = _MARGIN + _TITLE * len(title.splitlines())
    top = under + _LINE * len(notes.splitlines()) + _MARGIN
    figure = Figure(figsize=(_WIDE * across, _HIGH * rows + top), layout="constrained")
    ratios = (top, _HIGH * rows)
    (head,), (body,) = figure.subfigures(2, 1, height_ratios=ratios, squeeze=False)
    head.text(0.01, 1 - _MARGIN / top, title, fontsize=14, va="top")
    head.text(0.01, 1 - under / top, notes, fontsize=8, va="top")
    grid = body.subfigures(rows, across, squeeze=False)
    for panel, part in zip(shown, grid.flat, strict=False):
        part.suptitle(panel.title, x=0.02, ha="left", fontsize=10.5, fontweight="bold")
        panel.draw(part)
    return figure


def _notes(portrait: Portrait) -> list[str]:
    """What the page says in words: failures by name, and what is not there."""
    named = [f"{finding.name}: {finding.text}" for finding in portrait.findings]
    return named + [f"not shown: {text}" for text in portrait.missing]

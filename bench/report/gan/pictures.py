"""The panels of a generator's page that show images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.report.gan.portrait import TEST, Arithmetic, History, Images, Neighbours, Portrait, Walk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_LETTERS = 62
"""Of a line of text under a panel."""
_GAP = 1
"""Pixels between images."""
_LEAST_PIXELS = 48
"""Dots that an image's longer side is given at least: viewers smooth the few that they enlarge."""
_PAGES, _ACROSS = 10, 10
"""Log entries, and images of each, that are drawn."""
_STRIPS = 4
"""Of each kind of way that are drawn."""
_SMALL = 7.0


def samples(panel: SubFigure, portrait: Portrait) -> None:
    """A row per class that was asked for, or as many rows as there are of any."""
    rows = list(portrait.samples)
    grid = Grid(panel, [images for _, images in rows])
    if any(text for text, _ in rows):
        grid.left([text for text, _ in rows])
        grid.below(f"{portrait.sampled} of the classes asked for")
    else:
        shown = sum(len(images) for _, images in rows)
        grid.below(f"{shown} of {portrait.final.seen.samples:,} {portrait.sampled}")


def album(panel: SubFigure, history: History) -> None:
    """A row per log entry, the same latents in each."""
    places = spread(len(history.updates), _PAGES)
    rows = [history.images[place][:_ACROSS] for place in places]
    grid = Grid(panel, rows)
    grid.left([f"{history.updates[place]:,}" for place in places])
    grid.below("the same latents after so many updates; the generator as it was trained")


def walks(panel: SubFigure, ways: Sequence[Walk]) -> None:
    """Strips from latent to latent, a group of them for each kind of way."""
    rows, labels = [], []
    for way in ways:
        strips = way.images[:_STRIPS]
        rows += list(strips)
        labels += [way.kind, *[""] * (len(strips) - 1)]
    grid = Grid(panel, rows)
    grid.left(labels)
    grid.below(*(f"{way.kind}: {way.text}" for way in ways))


def arithmetic(panel: SubFigure, sums: Arithmetic) -> None:
    """Two sums in a row: the three addends and what comes out of each."""
    blank = np.ones_like(sums.images[0, :1])
    half = -(-len(sums.images) // 2)
    rows, labels = [], []
    for place in range(half):
        first, *others = sums.images[place::half]
        rows.append(np.concatenate([first, *(x for other in others for x in (blank, other))]))
        labels.append(", ".join(sums.rows[place::half]))
    grid = Grid(panel, rows)
    names = [*sums.names, "", *sums.names]
    grid.above(names[: grid.columns])
    grid.left(labels)
    grid.below(sums.text)


def neighbours(panel: SubFigure, found: Neighbours) -> None:
    """Samples, and under each the training image that is nearest to it."""
    grid = _pairs(panel, found.samples, found.nearest, ("sample", "nearest"), lines=3)
    grid.below(found.text)


def inversions(panel: SubFigure, portrait: Portrait) -> None:
    """Test images, and under each what inversion makes of it."""
    grid = _pairs(panel, portrait.images, portrait.inverted, ("x", "G(z*)"), lines=2)
    errors = next(source.errors for source in portrait.sources if source.name == TEST)
    grid.below(
        f"{portrait.inversion}; mean squared error of {len(errors)} test images: median "
        f"{np.median(errors):.3g}"
    )


def filled(*texts: str) -> str:
    """Texts in lines that a panel holds."""
    return "\n".join(textwrap.fill(text, _LETTERS) for text in texts)


def spread(count: int, most: int) -> list[int]:
    """At most so many places out of count, evenly, the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _pairs(
    panel: SubFigure, above: Images, below: Images, names: tuple[str, str], *, lines: int
) -> Grid:
    """Images in so many lines, the others' under each of them."""
    across = -(-len(above) // lines)
    rows, labels = [], []
    for first in range(0, len(above), across):
        rows += [above[first : first + across], below[first : first + across]]
        labels += list(names)
    grid = Grid(panel, rows)
    grid.left(labels)
    return grid


class Grid:
    """Rows of images (N, C, H, W) with gaps between them, in one picture that fills a panel."""

    def __init__(self, panel: SubFigure, rows: Sequence[Images]):
        self.axes: Axes = panel.add_subplot()
        self.count = len(rows)
        _, _, self.high, self.wide = rows[0].shape
        columns = max(map(len, rows))
        self.columns = columns
        edges = ((0, 0), (0, _GAP), (0, _GAP))
        lines = []
        for row in rows:
            full = np.concatenate([row, np.ones((columns - len(row), *row.shape[1:]), row.dtype)])
            lines.append(np.concatenate([np.pad(x, edges, constant_values=1) for x in full], 2))
        mosaic = _colours(np.concatenate(lines, axis=1))
        factor = -(-_LEAST_PIXELS // max(self.high, self.wide))
        sharp = (255 * mosaic).round().astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
        extent = (0, mosaic.shape[1], mosaic.shape[0], 0)
        self.axes.imshow(sharp, interpolation="none", extent=extent)
        self.axes.set_xticks([])
        self.axes.set_yticks([])
        self.axes.tick_params(length=0, labelsize=_SMALL)
        for edge in ("left", "bottom"):
            self.axes.spines[edge].set_visible(False)

    def left(self, labels: Sequence[str]) -> None:
        """What stands beside each row."""
        step = self.high + _GAP
        self.axes.set_yticks([step * row + self.high / 2 for row in range(self.count)], labels)

    def above(self, labels: Sequence[str]) -> None:
        """What stands over each column."""
        step = self.wide + _GAP
        places = [step * column + self.wide / 2 for column in range(self.columns)]
        self.axes.set_xticks(places, labels)
        self.axes.tick_params(labeltop=True, labelbottom=False)

    def below(self, *texts: str) -> None:
        """What is said of them."""
        self.axes.set_xlabel(filled(*texts), fontsize=_SMALL)


def _colours(image: Images) -> Images:
    """An image (C, H, W) as RGB (H, W, 3), grey unless C is 3."""
    rgb = image if len(image) == 3 else np.repeat(image.mean(0, keepdims=True), 3, axis=0)
    return np.moveaxis(rgb, 0, 2)

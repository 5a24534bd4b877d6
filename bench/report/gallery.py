"""Images before and after a defense that changes them: clean, adversarial, and what it makes of
either, a figure per defended model.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.report import figures
from bench.report.groups import by
from bench.report.tables import eps_text
from bench.store import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PREFIX", "Gallery", "decoded", "drawn", "figure_name", "galleries"]

PREFIX = "reconstructions_"
REFUSED = -1
"""The prediction of an image that the pipeline refused."""
Images = NDArray[np.uint8]
_PURIFIED = "purified"
_RED, _GREY, _BLACK = "#b00020", "#666666", "#000000"
_SIDE, _LABEL, _MARGIN, _TOP = 0.62, 0.2, 1.9, 0.3
"""Inches: a row's height without the labels below it, those, the titles to its left, what is free
above and below the figure's own title.
"""
_GAP = 0.06
"""Between two images, of their width."""
_LEAST_PIXELS = 64
"""Of an image's larger side; smaller ones are blown up, so that no viewer blurs them."""
_LETTERS = 30
"""Of a row's title in one line."""
_LETTER, _LINE = 0.085, 0.2
"""Inches of a letter and a line of the figure's title."""
_LONGEST = 60
"""Letters that a dataset, model or defense takes in a file's name."""


@dataclass(frozen=True)
class Gallery:
    """What a cell shows of its first images.

    labels (k,): the true ones; clean, clean_purified, adversarial, purified (k, C, H, W); the two
    `said` (k,): what is predicted of the purified ones, -1 where they are refused; eps: at which
    the adversarial ones were made.
    """

    of: Record
    eps: float
    labels: tuple[int, ...]
    clean: Images
    clean_purified: Images
    adversarial: Images
    purified: Images
    clean_said: tuple[int, ...]
    said: tuple[int, ...]

    @classmethod
    def read(cls, record: Record) -> Gallery | None:
        """The gallery in a record's provenance; None where it has none or failed.

        provenance["gallery"]: shape [C, H, W], labels, eps, and by name images (see `decoded`) and
        said: "clean", "clean purified", "adversarial", "purified".
        """
        fact = record.provenance.get("gallery")
        if not isinstance(fact, Mapping) or record.failure:
            return None
        images = {name: decoded(text, fact["shape"]) for name, text in fact["images"].items()}
        return cls(
            record,
            float(fact["eps"]),
            tuple(fact["labels"]),
            images["clean"],
            images["clean purified"],
            images["adversarial"],
            images[_PURIFIED],
            tuple(fact["said"]["clean purified"]),
            tuple(fact["said"][_PURIFIED]),
        )


@dataclass(frozen=True)
class _Row:
    """Images (k, C, H, W) in a row, and the labels below them, each in a colour."""

    title: str
    images: Images
    labels: tuple[tuple[str, str], ...] = ()


def decoded(text: str, shape: Sequence[int]) -> Images:
    """Images (k, C, H, W) as uint8, from base64 of their bytes packed by zlib; shape: C, H, W."""
    raw = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, *shape)


def galleries(records: Iterable[Record]) -> list[Gallery]:
    """The galleries of the records that have one."""
    return [made for record in records if (made := Gallery.read(record)) is not None]


def drawn(records: Iterable[Record]) -> dict[str, str]:
    """File name to SVG text, a figure per dataset, model, defense and norm that has a gallery."""
    groups = by(galleries(records), lambda gallery: figure_name(gallery.of))
    return {figure_name(group[0].of): figures.drawn(partial(_figure, group)) for group in groups}


def figure_name(of: Record) -> str:
    """The file name of a defended model's figure."""
    names = map(_named, (of.dataset, of.model, of.defense))
    return f"{PREFIX}{'_'.join(names)}_{of.norm}.svg"


def _named(text: str) -> str:
    """A name for a file, the end of a long one replaced by a digest of the whole."""
    name = figures.named(text)
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{name[: _LONGEST - len(digest) - 1]}-{digest}"


def _figure(cells: Sequence[Gallery]) -> Figure:
    """Clean images and what is made of them, then a pair of rows for each attack and mode."""
    from matplotlib.figure import Figure

    rows = _rows(cells)
    height, width = rows[0].images.shape[2:]
    columns = max(len(row.images) for row in rows)
    side = _SIDE * (1 + _GAP)
    wide = _MARGIN + columns * side * width / height
    heights = [side + (_LABEL if row.labels else 0) for row in rows]
    title = figures.wrapped(_title(cells), int(wide / _LETTER))
    top = _TOP + _LINE * len(title.splitlines())
    high = top + sum(heights)
    drawing = Figure(figsize=(wide, high))
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)
    axes.set_axis_off()
    axes.text(0.1, top / 2, title, fontsize=10, va="center")
    for row, down in zip(rows, heights, strict=True):
        _draw(axes, row, top, side * width / height)
        top += down
    return drawing


def _rows(cells: Sequence[Gallery]) -> list[_Row]:
    """What is drawn, from above; clean images that cells share stand over all of them."""
    made: list[_Row] = []
    for group in by(cells, lambda cell: (cell.clean.tobytes(), cell.clean_purified.tobytes())):
        first = group[0]
        true = tuple((str(label), _BLACK) for label in first.labels)
        made.append(_Row("clean", first.clean, true))
        made.append(_Row(_PURIFIED, first.clean_purified, _said(first.clean_said, first.labels)))
        for cell, title in zip(group, _titles(group), strict=True):
            made.append(_Row(title, cell.adversarial))
            said = _said(cell.said, cell.labels, refused=_GREY)
            made.append(_Row(_PURIFIED, cell.purified, said))
    return made


def _said(
    said: Sequence[int], labels: Sequence[int], *, refused: str = _RED
) -> tuple[tuple[str, str], ...]:
    """Predictions as texts, red where wrong; a refusal is right of an adversarial image alone."""
    return tuple(
        ("refused", refused) if one == REFUSED else (str(one), _BLACK if one == label else _RED)
        for one, label in zip(said, labels, strict=True)
    )


def _titles(cells: Sequence[Gallery]) -> list[str]:
    """Attack and mode, and of eps and seed what tells the cells apart."""
    several_eps = len({cell.eps for cell in cells}) > 1
    several_seeds = len({cell.of.seed for cell in cells}) > 1
    titles = []
    for cell in cells:
        parts = [cell.of.attack, cell.of.mode]
        parts += [f"eps {eps_text(cell.eps)}"] if several_eps else []
        parts += [f"seed {cell.of.seed}"] if several_seeds else []
        titles.append(", ".join(parts))
    return titles


def _title(cells: Sequence[Gallery]) -> str:
    of = cells[0].of
    eps = {cell.eps for cell in cells}
    at = f", eps = {eps_text(eps.pop())}" if len(eps) == 1 else ""
    return f"{of.dataset}, {of.model} / {of.defense} ({of.norm}{at})"


def _draw(axes: Axes, row: _Row, top: float, step: float) -> None:
    """A row from `top` down, an image every `step` inches."""
    axes.text(
        _MARGIN - 0.12,
        top + _SIDE / 2,
        figures.wrapped(row.title, _LETTERS),
        fontsize=8,
        ha="right",
        va="center",
    )
    width = step / (1 + _GAP)
    for place, image in enumerate(row.images):
        left = _MARGIN + place * step
        axes.imshow(
            _pixels(image),
            extent=(left, left + width, top + _SIDE, top),
            aspect="auto",
            interpolation="none",
        )
    for place, (text, colour) in enumerate(row.labels):
        centre = _MARGIN + place * step + width / 2
        below = top + _SIDE + _LABEL / 2
        axes.text(centre, below, text, color=colour, fontsize=7, ha="center", va="center")


def _pixels(image: Images) -> Images:
    """An image (C, H, W) as RGB (H, W, 3), grey unless C is 3, blown up where it is small."""
    colours = image if len(image) == 3 else np.repeat(image.mean(0, keepdims=True), 3, axis=0)
    factor = -(-_LEAST_PIXELS // max(image.shape[1:]))
    large = colours.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.moveaxis(large, 0, 2).astype(np.uint8)

"""A generator as a page, a table and figures: samples, learning curves, inversions, membership."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench import __version__
from bench.report import figures as drawing
from bench.report.markdown import escape
from bench.report.rows import FLOAT, INT, Rows
from bench.report.tables import count, percent, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG = {
    "update": INT,
    "loss_d": FLOAT,
    "loss_g": FLOAT,
    "d_real": FLOAT,
    "d_fake": FLOAT,
    "seconds": FLOAT,
}
"""Columns of gan.csv in order, and their types."""
PREFIX = "gan_"
OWN, TEST = "own samples", "test images"
SHOWN, PAIRS = 64, 10
"""Samples, and test images with their inversions, that are drawn."""
_SIDE = 8
_GAP = 1
"""Pixels between images."""
_SHARP = 6
"""Dots per pixel."""
LEGEND = """\
Classes: of own samples, as the classifier sees them; entropy in nats. Errors: mean squared errors
per image, of the restart with the smallest one. AUC: the probability that an own sample has a
smaller error than an image of the source, ties counting half. TPR: own samples that are recognised
by an error below a threshold that at most 1 %, or 5 %, of the source's images stay below too.
Updates, training s: of the generator, wherever and whenever it was trained."""

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """Images of one source: their inversion errors (n,), and, of all but own samples, how well
    errors tell own samples from them: AUC, true-positive by false-positive rate, and the curve of
    both rates, false positives first.
    """

    name: str
    errors: tuple[float, ...]
    auc: float | None = None
    tpr: Mapping[float, float] | None = None
    roc: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Portrait:
    """What was measured of a generator.

    source: trained, cached, pretrained, given or untrained; size: bytes; weights: their digest;
    log: of its training; counts: own samples per class; clean, kept: shares of the test images that
    the classifier gets right as they are and after inversion; samples, images, inverted: (N, C, H,
    W), the latter two of the same test images; command: what made it.
    """

    dataset: str
    generator: str
    source: str
    model: str
    inversion: str
    parameters: int
    size: int
    weights: str
    log: tuple[Mapping[str, Any], ...]
    counts: tuple[int, ...]
    clean: float
    kept: float
    sources: tuple[Source, ...]
    samples: Images
    images: Images
    inverted: Images
    command: str

    @property
    def n(self) -> int:
        """How many images of each source were inverted."""
        return len(self.sources[0].errors)

    @property
    def updates(self) -> int | None:
        """Of the generator; None where nobody knows."""
        return self.log[-1]["update"] if self.log else 0 if self.source == "untrained" else None

    @property
    def seconds(self) -> float | None:
        """Of its training, whenever that was."""
        return sum(entry["seconds"] for entry in self.log) if self.log else None

    @property
    def entropy(self) -> float:
        """Of the classes of own samples, in nats."""
        shares = [number / sum(self.counts) for number in self.counts if number]
        return -sum(share * math.log(share) for share in shares)


def log(portrait: Portrait) -> Rows:
    """A row per log entry of the training, none where there was none."""
    return Rows.of([{name: entry[name] for name in LOG} for entry in portrait.log], LOG)


def told(portrait: Portrait) -> str:
    """A portrait in a few lines."""
    classes = sum(number > 0 for number in portrait.counts)
    lines = [f"{portrait.generator} on {portrait.dataset}: {_origin(portrait)}"]
    lines.append(f"{classes} of {len(portrait.counts)} classes, entropy {portrait.entropy:.2f}")
    lines += [
        f"{source.name}: error {np.median(source.errors):.3g} (median)"
        + ("" if source.auc is None else f", AUC {source.auc:.3f}")
        for source in portrait.sources
    ]
    lines.append(
        f"{portrait.model}: {percent(portrait.clean)} % of {portrait.n} test images right, "
        f"{percent(portrait.kept)} % of their inversions"
    )
    return "\n".join(lines)


def _origin(portrait: Portrait) -> str:
    if not portrait.log:
        return portrait.source
    took = f"{count(portrait.updates)} updates in {seconds(portrait.seconds)} s"
    return f"{portrait.source}, {took}"


def markdown(portrait: Portrait) -> str:
    """The document gan.md."""
    classes = sum(number > 0 for number in portrait.counts)
    most = math.log(len(portrait.counts))
    facts = [
        ("generator", "source", "parameters", "MB", "updates", "training s", "weights"),
        (
            escape(portrait.generator),
            portrait.source,
            count(portrait.parameters),
            f"{portrait.size / 1e6:.2f}",
            count(portrait.updates),
            seconds(portrait.seconds),
            portrait.weights,
        ),
    ]
    counted = [
        ("class", *map(str, range(len(portrait.counts)))),
        ("samples", *map(count, portrait.counts)),
    ]
    return "\n\n".join(
        [
            "# Generator",
            f"## {escape(portrait.dataset)}",
            _table(facts, "llrrrrl"),
            f"{count(sum(portrait.counts))} samples: {classes} of {len(portrait.counts)} classes, "
            f"entropy {portrait.entropy:.3f} of at most {most:.3f} nats",
            _table(counted, "l" + "r" * len(portrait.counts)),
            f"Inversion, {portrait.inversion}, and membership among own samples",
            _table([_ERRORS, *map(_row, portrait.sources)], "lrrrrrr"),
            f"The classifier {escape(portrait.model)} gets {percent(portrait.clean)} % of the "
            f"{portrait.n} test images right, and {percent(portrait.kept)} % of their inversions.",
            escape(LEGEND),
            f"Made by `{portrait.command.replace('`', chr(39))}` with adversarial-bench "
            f"{__version__}.\n",
        ]
    )


_ERRORS = (
    *("images", "n", "mean error", "median error", "AUC", "TPR % at 1 % FPR", "TPR % at 5 % FPR"),
)


def _row(source: Source) -> tuple[str, ...]:
    errors = (np.mean(source.errors), np.median(source.errors))
    rates = ["", ""] if source.tpr is None else [percent(rate) for rate in source.tpr.values()]
    return (
        escape(source.name),
        count(len(source.errors)),
        *(f"{error:.3g}" for error in errors),
        "" if source.auc is None else f"{source.auc:.3f}",
        *rates,
    )


def _table(rows: Sequence[Sequence[str]], align: str) -> str:
    marks = ["-" if letter == "l" else "-:" for letter in align]
    return "\n".join(f"| {' | '.join(line)} |" for line in [rows[0], marks, *rows[1:]])


def names(dataset: str) -> list[str]:
    """The file names of all figures of a dataset."""
    return [f"{PREFIX}{kind}_{drawing.named(dataset)}.svg" for kind in _FIGURES]


def figures(portrait: Portrait) -> dict[str, str]:
    """File name to SVG text; no curves without a log."""
    return {
        name: drawing.drawn(partial(make, portrait))
        for name, make in zip(names(portrait.dataset), _FIGURES.values(), strict=True)
        if make is not _curves or portrait.log
    }


def _samples(portrait: Portrait) -> Figure:
    """A square of samples."""
    figure, axes = _empty(5.0, 5.3)
    rows = [
        portrait.samples[first : first + _SIDE] for first in range(0, len(portrait.samples), _SIDE)
    ]
    _show(axes, [images for images in rows if len(images) == _SIDE])
    axes.set_title(f"{portrait.dataset}: samples of {portrait.generator}")
    return figure


def _inversions(portrait: Portrait) -> Figure:
    """Test images above, what inversion makes of them below, with the errors."""
    figure, axes = _empty(7.6, 2.3)
    _show(axes, [portrait.images, portrait.inverted])
    errors = next(source.errors for source in portrait.sources if source.name == TEST)
    step = portrait.images.shape[3] + _GAP
    places = [step * place + (step - _GAP) / 2 for place in range(len(portrait.images))]
    axes.set_xticks(places, [f"{error:.2g}" for error in errors[: len(places)]])
    axes.set_xlabel("mean squared error per image")
    axes.set_title(f"{portrait.dataset}: test images, and below G(z*), {portrait.inversion}")
    return figure


def _empty(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in ("left", "bottom"):
        axes.spines[edge].set_visible(False)
    axes.tick_params(length=0)
    return figure, axes


def _show(axes: Axes, rows: Sequence[Images]) -> None:
    """Rows of images (N, C, H, W) with gaps between them, in one picture."""
    edges = ((0, 0), (0, 0), (0, _GAP), (0, _GAP))
    lines = [np.concatenate(np.pad(row, edges, constant_values=1), axis=2) for row in rows]
    mosaic = np.concatenate(lines, axis=1).transpose(1, 2, 0)
    if mosaic.shape[2] not in (1, 3):
        mosaic = mosaic.mean(2, keepdims=True)
    height, width = mosaic.shape[:2]
    # Viewers smooth the few pixels of a picture that they enlarge.
    sharp = mosaic.repeat(_SHARP, axis=0).repeat(_SHARP, axis=1)
    extent = (0, width, height, 0)
    axes.imshow(sharp.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="none", extent=extent)


def _curves(portrait: Portrait) -> Figure:
    """Losses above, mean scores of real and made images below, per log entry."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    table = log(portrait)
    for axes, first, pair in (
        (upper, 0, {"loss_d": "loss of D", "loss_g": "loss of G"}),
        (lower, 2, {"d_real": "D(real)", "d_fake": "D(fake)"}),
    ):
        for place, (name, label) in enumerate(pair.items(), start=first):
            colour = drawing.PALETTE[place]
            axes.plot(
                table.column("update"), table.column(name), color=colour, marker=".", label=label
            )
        axes.grid(visible=True)
        axes.legend(loc="best", ncols=2)
    upper.set_title(f"{portrait.dataset}: training of {portrait.generator}")
    upper.set_ylabel("mean loss")
    lower.set_ylabel("mean score")
    lower.set_xlabel("update of the generator")
    return figure


def _membership(portrait: Portrait) -> Figure:
    """ROC curves of own samples against each source."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color="#666666", linewidth=0.6)
    told = [source for source in portrait.sources if source.auc is not None]
    for place, source in enumerate(told):
        false, true = zip(*source.roc, strict=True)
        axes.plot(
            [100 * rate for rate in false],
            [100 * rate for rate in true],
            color=drawing.PALETTE[place % len(drawing.PALETTE)],
            linestyle=("-", "--", ":", "-.")[place % 4],
            linewidth=2.0,
            label=drawing.wrapped(f"{source.name}, AUC {source.auc:.3f}", 84),
        )
    axes.set_title(f"{portrait.dataset}: own samples of {portrait.generator} told from others")
    axes.set_xlabel("others taken for own samples (%)")
    axes.set_ylabel("own samples recognised (%)")
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.grid(visible=True)
    figure.legend(loc="outside lower center", ncols=1, handlelength=3.2)
    return figure


_FIGURES: Mapping[str, Callable[[Portrait], Figure]] = {
    "samples": _samples,
    "curves": _curves,
    "inversions": _inversions,
    "membership": _membership,
}

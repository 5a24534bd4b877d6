"""The one table of measures of a generator, its training log, and its coverage over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from bench import __version__
from bench.report.gan.findings import MANY, listed
from bench.report.gan.page import name
from bench.report.gan.portrait import OWN, Look, Measure, Portrait, Source
from bench.report.markdown import escape
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.tables import count, percent, seconds
from models.coverage import Coverage

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
COVERAGE = {
    "update": INT,
    "samples": INT,
    "classes": INT,
    "kl": FLOAT,
    "entropy": FLOAT,
    "dominant": INT,
    "share": FLOAT,
    "name": TEXT,
    "counts": TEXT,
}
"""Columns of gan_coverage.csv in order, and their types."""
MEASURES = {"measure": TEXT, "value": FLOAT, "of": TEXT}
"""Columns of gan_measures.csv in order, and their types."""
LEGEND = """\
Classes: of samples, as the classifier sees them; entropy, and KL from their shares to those of as
many training images by the same classifier, or to even ones where digits are stacked or classes can
be asked for, in nats. Dropped: missing or below a quarter of their share, and less than chance
leaves; collapse: at least 90 % of the samples in one class. FID: the
Frechet distance of Gaussians fitted to features, which grows as samples get fewer. Precision,
recall: shares, from 0 to 1, of made, and of real, features within reach of the other kind's third
neighbour; samples that are all alike, inside one wide reach, have a precision of 1: read it with
recall. Under truncation: by psi, and by tau, which keeps the latents nearest the mean.
Longest step, detour: of the change of pixels on the way between two latents, the longest step over
the mean one, and the length over the straight distance of the ends. Copies: samples as near to a
training image as the nearest 1 % of test images. Inversion error: mean squared error per image, of
the restart with the smallest one. AUC: the probability that an own sample has a smaller error than
an image of the source, ties counting half. TPR: own samples that are recognised by an error below a
threshold that at most 1 %, or 5 %, of the source's images stay below too. Updates, training time:
of the generator, wherever and whenever it was trained."""

_TOLD = ("FID", "precision", "recall", "copies (%)", "requested label right (%)")
"""Measures that stand among the few lines that are printed."""


def log(portrait: Portrait) -> Rows:
    """A row per log entry of the training, none where there was none."""
    return Rows.of([{name: entry.get(name) for name in LOG} for entry in portrait.log], LOG)


def coverage(portrait: Portrait) -> Rows:
    """A row per update that was looked at, and none where there was no training to look at."""
    looks = () if portrait.history is None else portrait.history.looks
    return Rows.of(map(_covered, looks), COVERAGE)


def _covered(look: Look) -> dict[str, object]:
    return {
        "update": look.update,
        "samples": look.seen.samples,
        "classes": look.seen.modes,
        "kl": look.seen.divergence,
        "entropy": look.seen.entropy,
        "dominant": look.seen.dominant,
        "share": look.seen.share,
        "name": look.seen.name,
        "counts": " ".join(map(str, look.counts)),
    }


def measures(portrait: Portrait) -> Rows:
    """A row per measure."""
    made = [{"measure": m.name, "value": m.value, "of": m.of} for m in measured(portrait)]
    return Rows.of(made, MEASURES)


def measured(portrait: Portrait) -> list[Measure]:
    """Every number that is known of a generator: its classes, what else was measured of its
    samples, inversion, and its training.
    """
    final, classes = portrait.final.seen, len(portrait.final.counts)
    seen = f"{final.samples:,} {portrait.sampled}, seen by {portrait.model}"
    tests = f"{portrait.n:,} test images, seen by {portrait.model}"
    training = [
        Measure("updates", portrait.updates, "training"),
        Measure("training time (s)", portrait.seconds, "training"),
    ]
    return [
        _found(final, f"{seen}; of {classes:,}", classes),
        _dropped(final, seen, classes),
        Measure("class entropy (nats)", final.entropy, f"{seen}; {math.log(classes):.3f} at most"),
        Measure("KL to the class prior (nats)", final.divergence, seen),
        Measure("dominant share (%)", 100 * final.share, f"{seen}; class {final.dominant}"),
        *portrait.measures,
        *(measure for source in portrait.sources for measure in _inverted(source, portrait)),
        Measure("accuracy (%)", 100 * portrait.clean, tests),
        Measure("accuracy after inversion (%)", 100 * portrait.kept, tests),
        *(each for each in training if each.value is not None),
    ]


def _found(seen: Coverage, of: str, classes: int) -> Measure:
    """Classes with a sample, beside what so many samples of the prior hit where that is fewer."""
    if round(seen.expected) < classes:
        of += f", {seen.expected:,.0f} expected of the class prior"
    return Measure("classes found", seen.modes, of)


def _dropped(seen: Coverage, of: str, classes: int) -> Measure:
    """Classes dropped, no number where some are missing and samples are too few to tell which."""
    if seen.dropped:
        return Measure("classes dropped", len(seen.dropped), f"{of}: {listed(seen.dropped)}")
    if seen.modes < classes:
        return Measure("classes dropped", None, f"{of}; too few samples to tell")
    return Measure("classes dropped", 0, of)


def _inverted(source: Source, portrait: Portrait) -> Iterator[Measure]:
    """Errors of one source, and how well they tell own samples from it."""
    name, of = source.name, f"{len(source.errors):,} {_called(source, portrait)}"
    how = f"{of}; {portrait.inversion}"
    yield Measure(f"inversion error, mean, {name}", float(np.mean(source.errors)), how)
    yield Measure(f"inversion error, median, {name}", float(np.median(source.errors)), how)
    beside = f"own {portrait.sampled} beside {of}"
    if source.auc is not None:
        yield Measure(f"membership AUC, {name}", source.auc, beside)
    for rate, true in (source.tpr or {}).items():
        yield Measure(f"membership TPR (%) at {100 * rate:g} % FPR, {name}", 100 * true, beside)


def _called(source: Source, portrait: Portrait) -> str:
    """What the images of a source are called."""
    return f"own {portrait.sampled}" if source.name == OWN else source.name


def told(portrait: Portrait) -> str:
    """A portrait in a few lines."""
    final, classes = portrait.final.seen, len(portrait.final.counts)
    lines = [f"{portrait.generator} on {portrait.dataset}: {_origin(portrait)}"]
    lines.append(f"{final.modes:,} of {classes:,} classes, entropy {final.entropy:.2f}")
    lines += [f"{finding.name}: {finding.text}" for finding in portrait.findings]
    lines += [f"{m.name}: {number(m.value)} ({m.of})" for m in portrait.measures if m.name in _TOLD]
    lines += [
        f"{_called(source, portrait)}: error {np.median(source.errors):.3g} (median)"
        + ("" if source.auc is None else f", AUC {source.auc:.3f}")
        for source in portrait.sources
    ]
    lines.append(
        f"{portrait.model}: {percent(portrait.clean)} % of {portrait.n} test images right, "
        f"{percent(portrait.kept)} % of their inversions"
    )
    lines += [f"not shown: {text}" for text in portrait.missing]
    return "\n".join(lines)


def _origin(portrait: Portrait) -> str:
    if not portrait.log:
        return portrait.source
    took = f"{count(portrait.updates)} updates in {seconds(portrait.seconds)} s"
    return f"{portrait.source}, {took}"


def markdown(portrait: Portrait, folder: str) -> str:
    """The document gan.md; folder: of the page of figures, beside it."""
    rows = [(m.name, number(m.value), escape(m.of)) for m in measured(portrait)]
    picture = f"![{portrait.dataset}]({folder}/{name(portrait.dataset)})"
    counts = portrait.final.counts
    per_class = ", ".join(f"{k}: {count(n)}" for k, n in enumerate(counts))
    notes = [f"{finding.name}: {finding.text}" for finding in portrait.findings]
    notes += [f"not shown: {text}" for text in portrait.missing]
    return "\n\n".join(
        [
            "# Generator",
            f"## {escape(portrait.dataset)}",
            f"{escape(portrait.generator)}: {_origin(portrait)}; weights {portrait.weights}",
            *(["\n".join(f"- {escape(text)}" for text in notes)] if notes else []),
            table([("measure", "value", "of"), *rows], "lrl"),
            *([f"Samples per class: {per_class}"] if len(counts) <= MANY else []),
            picture,
            escape(LEGEND),
            f"Made by `{portrait.command.replace('`', chr(39))}` with adversarial-bench "
            f"{__version__}.\n",
        ]
    )


def number(value: float | None) -> str:
    """Four digits of a number, all of a count."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def table(rows: Sequence[Sequence[str]], align: str) -> str:
    """Rows of cells as a table of markdown, the first its head; align: l or r for each column."""
    marks = ["-" if letter == "l" else "-:" for letter in align]
    return "\n".join(f"| {' | '.join(line)} |" for line in [rows[0], marks, *rows[1:]])

"""What is proven next to what attacks found: the table certified, as data, as text and as figures.

A certificate bounds a pipeline's accuracy from below, attacks bound it from above. Where they
cross, one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.audit.findings import level_of
from bench.plan import CERTIFICATE
from bench.report.curves import share, worst
from bench.report.figures import PALETTE, drawn, named, wrapped
from bench.report.groups import attacked, by
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.tables import (
    Section,
    Table,
    bounded,
    eps_text,
    interval_text,
    percent,
    unit,
)
from bench.report.verdicts import of_pipeline, verdicts
from bench.stats import Interval, clopper_pearson
from bench.store import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CERTIFIED", "LEGEND", "certified", "crossed", "figures", "sections"]

CERTIFIED = {
    "dataset": TEXT,
    "norm": TEXT,
    "model": TEXT,
    "defense": TEXT,
    "n": INT,
    "eps": FLOAT,
    "certified_accuracy": FLOAT,
    "ci_low": FLOAT,
    "ci_high": FLOAT,
    "empirical_accuracy": FLOAT,
    "attacks": INT,
    "contradictions": INT,
    "abstained": FLOAT,
    "mean_radius": FLOAT,
    "cell": TEXT,
    "bound": TEXT,
    "gap": FLOAT,
    "empirical_low": FLOAT,
    "empirical_high": FLOAT,
    "audit": TEXT,
}
"""Columns of certified in order, and their types."""
LEGEND = (
    """\
Certified: the share of all images that are classified right with a radius of at least eps, a lower
bound on the accuracy under any attack of the norm; at eps 0 those right and not abstained. By
smoothing a radius holds with probability at least 1 - alpha per image over the noise that was drawn
to find it (alpha: a key of the defense); by the others it always holds: exact is the distance to
the nearest image of the box that an affine net takes for another class, interval and crown the
largest eps of the grid at which bounds of the net's logits do not meet. The interval is the exact
one of Clopper and Pearson at 95 %, over the choice of test images.""",
    """\
Empirical: the share right under every attack that was run on the same images, an upper bound; empty
where none was run at that eps; with its 95 % Wilson interval, and what the audit says of it (<=
where it is suspect). The truth lies between the two: certified <= true <= empirical. Gap:
what lies between them, in points; the smaller, the better are both. By smoothing a certificate
speaks of the vote over all noise; the pipeline that was attacked takes fewer copies of an image,
and one that it refuses without attack counts as an error there, so that it may stand a little below
what is certified.""",
    """\
Abstained: the share of images without a certificate for any class. Mean radius: over all images, 0
where wrong or abstained. Contradictions: images that an attack made the pipeline misclassify inside
their certified radius. Each tells of a bug in the attack, its re-check or the bound; by smoothing,
those beyond alpha times the images (and once more for the test of the attacked vote) do, of which
chance leaves so many in less than one of a thousand tables. Then the bracket is crossed: the images
are named, and the exit status is 1.""",
)
PREFIX = "certified_"
"""Every figure's file is called PREFIX, dataset, norm."""
SMOOTHING = "smoothing"
"""The bound's name where the defense makes it."""
LEVEL = 0.001
"""Probability below which contradictions are not left to chance."""
_BY_DEFENSE = "certify"
_NAMED = 5
"""Images of a crossed bracket that are named at most, per attack."""
_LINES = 3
"""Of a certificate in a table."""
_INCHES, _LINE, _LETTERS = (7.6, 4.2), 0.19, 84


@dataclass(frozen=True)
class Bracket:
    """A certificate's cell, and the complete cells of attacks on the same pipeline and images."""

    of: Record
    attacks: Sequence[Record]

    @property
    def bound(self) -> str:
        """By what it is proven: smoothing, or the bound's own name."""
        return SMOOTHING if self.of.attack == _BY_DEFENSE else self.of.attack

    @property
    def radii(self) -> NDArray[np.float64]:
        """Certified radii (n,), 0 where wrong or abstained."""
        return np.asarray(self.of.samples["distance"], dtype=np.float64)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether (n,) the image is classified right and not abstained."""
        return np.asarray(self.of.samples["clean_prediction"] == self.of.samples["label"])

    def certified(self, eps: float) -> NDArray[np.bool_]:
        """Whether (n,) the image is certified right at eps."""
        return self.right & (self.radii >= eps)

    def run_at(self, eps: float) -> list[Record]:
        """The attacks whose grid reaches so far."""
        return [cell for cell in self.attacks if float(cell.eps[-1]) >= eps]

    def empirical(self, eps: float) -> Interval | None:
        """Accuracy under all attacks at eps; None where none was run."""
        cells = self.run_at(eps)
        return share(worst(cells) > eps) if cells else None

    def contradictions(self, eps: float) -> int | None:
        """Images certified at eps that an attack broke there under any evaluation draw."""
        cells = self.run_at(eps)
        if not cells:
            return None
        outcomes = worst(cells)
        broken = ((outcomes > 0) & (outcomes <= eps)).any(axis=1)
        return int(np.sum(broken & self.certified(eps)))

    def broken(self, cell: Record) -> NDArray[np.float64]:
        """The eps (n,) at which an attack broke an image inside its certified radius under any
        evaluation draw, inf where it did not.
        """
        outcomes = np.where(cell.outcomes > 0, cell.outcomes, np.inf).min(axis=1)
        return np.where(self.right & (outcomes <= self.radii), outcomes, np.inf)

    @property
    def is_crossed(self) -> bool:
        """Whether attacks broke more images inside their radius than the bound allows."""
        fell = [self.broken(cell) < np.inf for cell in self.attacks]
        count = int(np.any(fell, axis=0).sum()) if fell else 0
        return count > 0 and self._chance(count) < LEVEL

    def _chance(self, count: int) -> float:
        """The probability that so many or more radii do not hold."""
        if self.bound != SMOOTHING:
            return 0.0
        # scipy.stats takes a second to import, for the same number.
        from scipy.special import bdtrc

        # A radius may be wrong, and so may the test that decides the attacked vote.
        alpha = float(self.of.identity["defense"]["fields"]["alpha"])
        proven = int((self.right & (self.radii > 0)).sum())
        return float(bdtrc(count - 1, proven, min(1.0, 2 * alpha)))


def brackets(records: Iterable[Record]) -> list[Bracket]:
    """Every complete certificate, in order."""
    records = list(records)
    complete = [record for record in attacked(records) if not record.failure]
    return [
        Bracket(own, [cell for cell in complete if _pipeline(cell) == _pipeline(own)])
        for own in records
        if own.kind == CERTIFICATE and not own.failure
    ]


def _pipeline(record: Record) -> tuple[str, ...]:
    data = (record.dataset, record.fingerprint, record.samples_digest, record.norm)
    # Nets that are trained elsewhere, or with other threads, are others.
    weights = str(record.provenance.get("weights", ""))
    return (*data, record.model, record.defense, record.pipeline, record.device, weights)


def crossed(records: Iterable[Record]) -> list[str]:
    """A line per certificate and attack whose bracket is crossed: who, and which images."""
    return [
        _crossing(bracket, cell)
        for bracket in brackets(records)
        if bracket.is_crossed
        for cell in bracket.attacks
        if (bracket.broken(cell) < np.inf).any()
    ]


def _crossing(bracket: Bracket, cell: Record) -> str:
    fell = bracket.broken(cell)
    places = np.flatnonzero(fell < np.inf)
    named = [
        f"{cell.samples['index'][place]} at {eps_text(float(fell[place]))} (proven to "
        f"{bracket.radii[place]:.4g})"
        for place in places[:_NAMED]
    ]
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return (
        f"{cell.dataset} {cell.model} / {cell.defense} {cell.norm}: {cell.attack} ({cell.mode}) "
        f"seed {cell.seed} is inside the bound by {bracket.bound}: test image "
        f"{', '.join(named)}{more}"
    )


def certified(records: Iterable[Record]) -> Rows:
    """One row per certificate and eps of its grid; empty where there is none.

    empirical_low and empirical_high: the Wilson interval of the accuracy under all attacks; audit:
    the verdict on it.
    """
    records = list(records)
    told = verdicts(records)
    found = ((bracket, of_pipeline(told, bracket.of).text) for bracket in brackets(records))
    return Rows.of((row for bracket, audit in found for row in _rows(bracket, audit)), CERTIFIED)


def _rows(bracket: Bracket, audit: str) -> Iterable[dict[str, Any]]:
    of = bracket.of
    for eps in map(float, of.eps):
        proven = clopper_pearson(int(bracket.certified(eps).sum()), of.n)
        found = bracket.empirical(eps)
        yield {
            "dataset": of.dataset,
            "norm": of.norm,
            "model": of.model,
            "defense": of.defense,
            "n": of.n,
            "eps": eps,
            "certified_accuracy": proven.value,
            "ci_low": proven.low,
            "ci_high": proven.high,
            "empirical_accuracy": None if found is None else found.value,
            "empirical_low": None if found is None else found.low,
            "empirical_high": None if found is None else found.high,
            "audit": audit,
            "attacks": len(bracket.run_at(eps)),
            "contradictions": bracket.contradictions(eps),
            "abstained": float(np.mean(of.samples["clean_prediction"] < 0)),
            "mean_radius": float(bracket.radii.mean()),
            "cell": of.key,
            "bound": bracket.bound,
            "gap": None if found is None else found.value - proven.value,
        }


def sections(table: Rows) -> list[Section]:
    """A table per dataset, norm, sample size and grid, from the rows of `certified`: eps across,
    three rows per certificate.
    """
    cells = by(table, lambda row: row["cell"])
    boards = by(cells, lambda rows: (*_setting(rows[0]), rows[0]["n"], _grid(rows)))
    return [_section(board) for board in boards]


def _setting(row: Any) -> tuple[str, str]:
    return row["dataset"], row["norm"]


def _grid(rows: Sequence[Any]) -> tuple[float, ...]:
    return tuple(row["eps"] for row in rows)


def _section(board: Sequence[Sequence[Any]]) -> Section:
    of = board[0][0]
    names = ("model", "defense", "bound", "audit", "abstained", "mean radius", "contradictions")
    header = (*names, *map(eps_text, _grid(board[0])))
    lines = tuple(line for rows in board for line in _lines(rows))
    text = (
        f"n = {of['n']:,} test images. Columns: eps ({of['norm']}, {unit(of['norm'])}). Entries: "
        "percent of the images."
    )
    bold = frozenset(range(0, len(lines), _LINES))
    align = "llll" + "r" * (len(header) - 4)
    return Section(", ".join(_setting(of)), text, Table(header, lines, align=align, bold=bold))


def _lines(rows: Sequence[Any]) -> Iterable[tuple[str, ...]]:
    of = rows[0]
    proven = [
        interval_text(Interval(row["certified_accuracy"], row["ci_low"], row["ci_high"]))
        for row in rows
    ]
    radius = "" if of["mean_radius"] is None else f"{of['mean_radius']:.3f}"
    facts = (percent(of["abstained"]), radius, "")
    yield (of["model"], of["defense"], f"certified (lower, {of['bound']})", "", *facts, *proven)
    found = [row["contradictions"] for row in rows if row["contradictions"] is not None]
    most = str(max(found)) if found else ""
    audit = level_of(of["audit"])
    yield (of["model"], of["defense"], "empirical (upper)", audit, "", "", most, *map(_seen, rows))
    gaps = (percent(row["gap"]) for row in rows)
    yield (of["model"], of["defense"], "gap", "", "", "", "", *gaps)


def _seen(row: Any) -> str:
    """The accuracy under attack at an eps; empty where none was run there."""
    if row["empirical_accuracy"] is None:
        return ""
    found = Interval(row["empirical_accuracy"], row["empirical_low"], row["empirical_high"])
    return bounded(interval_text(found), row["audit"]) if row["eps"] else interval_text(found)


def figures(records: Iterable[Record]) -> dict[str, str]:
    """File name to SVG text, a figure per dataset and norm that has a certificate."""
    settings = by(brackets(records), lambda bracket: (bracket.of.dataset, bracket.of.norm))
    return {
        f"{PREFIX}{named(members[0].of.dataset)}_{members[0].of.norm}.svg": drawn(
            partial(_figure, members)
        )
        for members in settings
    }


def _figure(members: Sequence[Bracket]) -> Figure:
    """Certified accuracy solid, the steps of its radii; empirical dashed; a colour per pipeline."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=_INCHES, layout="constrained")
    axes = drawing.add_subplot()
    for number, bracket in enumerate(members):
        _draw(axes, bracket, PALETTE[number % len(PALETTE)])
    of = members[0].of
    axes.set_title(f"{of.dataset}: certified and empirical accuracy, {of.norm}", pad=10)
    axes.set_xlabel(f"eps ({of.norm}, {unit(of.norm)}); solid: certified, dashed: under attacks")
    axes.set_ylabel("accuracy on the test images (%)")
    axes.set_ylim(-2, 102)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(visible=True)
    drawing.legend(loc="outside lower center", ncols=1)
    drawing.set_figheight(_INCHES[1] + _LINE * len(members))
    return drawing


def _draw(axes: Axes, bracket: Bracket, colour: str) -> None:
    of, last = bracket.of, float(bracket.of.eps[-1])
    steps = np.unique(bracket.radii[bracket.right & (bracket.radii <= last)])
    at = [0.0, *steps.tolist(), last]
    proven = [100 * bracket.certified(eps).mean() for eps in at]
    label = wrapped(f"{of.model} / {of.defense} by {bracket.bound}, n = {of.n:,}", _LETTERS)
    # right up to a radius and no further: the step down is just after it
    axes.step(at, proven, where="pre", color=colour, linewidth=2.2, label=label)
    seen = [(eps, bracket.empirical(eps)) for eps in map(float, of.eps)]
    run = [(eps, 100 * found.value) for eps, found in seen if found is not None]
    if run:
        axes.plot(*zip(*run, strict=True), "--o", color=colour, linewidth=1.3)

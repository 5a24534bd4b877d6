"""From records to the rows behind every table; values in, values out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.audit.findings import NOT_AUDITED, SUSPECT, Verdict
from bench.plan import OBLIVIOUS
from bench.report.curves import Cost, Curve, curves, share, share_failed, worst
from bench.report.derived import derived
from bench.report.groups import by, pipelines
from bench.report.rows import FLOAT, INT, TEXT, Rows
from bench.report.verdicts import of_pipeline, verdicts
from bench.stats import ALPHA, mcnemar, mean_over_draws, resampled_mean
from bench.store import Record

__all__ = ["LEADERBOARD", "TIDY", "TIMING", "curves", "leaderboard", "tidy", "timing"]

TIDY = {
    "dataset": TEXT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "mode": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "seed": INT,
    "n": INT,
    "accuracy": FLOAT,
    "ci_low": FLOAT,
    "ci_high": FLOAT,
    "clean_accuracy": FLOAT,
    "forward_queries": INT,
    "backward_queries": INT,
    "wall_s": FLOAT,
    "device": TEXT,
    "precision": TEXT,
    "audit": TEXT,
    "cell": TEXT,
    "failure": TEXT,
    "refused": FLOAT,
    "median_distance": FLOAT,
    "query_budget": INT,
    "draws": INT,
    "worst_draw_accuracy": FLOAT,
    "peak_memory_mb": FLOAT,
    "evidence": TEXT,
}
"""Columns of accuracy_vs_eps in order, and their types; later ones are appended."""
LEADERBOARD = {
    "rank": INT,
    "tie": TEXT,
    "dataset": TEXT,
    "norm": TEXT,
    "eps": FLOAT,
    "model": TEXT,
    "defense": TEXT,
    "n": INT,
    "robust_accuracy": FLOAT,
    "ci_low": FLOAT,
    "ci_high": FLOAT,
    "clean_accuracy": FLOAT,
    "attacks": INT,
    "forward_queries": INT,
    "backward_queries": INT,
    "wall_s": FLOAT,
    "audit": TEXT,
    "note": TEXT,
    "query_budget": INT,
    "oblivious_accuracy": FLOAT,
    "adaptive_accuracy": FLOAT,
    "draws": INT,
    "worst_draw_accuracy": FLOAT,
    "training_s": FLOAT,
    "parameters": INT,
    "passes": INT,
    "auc": FLOAT,
    "auc_low": FLOAT,
    "auc_high": FLOAT,
    "draw_spread": FLOAT,
    "draw_error": FLOAT,
}
TIMING = {
    "dataset": TEXT,
    "model": TEXT,
    "defense": TEXT,
    "attack": TEXT,
    "norm": TEXT,
    "seed": INT,
    "n": INT,
    "device": TEXT,
    "precision": TEXT,
    "threads": INT,
    "shape": INT,
    "wall_s": FLOAT,
    "forward_queries": INT,
    "backward_queries": INT,
    "verify_queries": INT,
    "queries_per_s": FLOAT,
    "training_s": FLOAT,
    "start": TEXT,
    "peak_memory_mb": FLOAT,
}


def tidy(records: Iterable[Record]) -> Rows:
    """One row per cell (or worst case) and eps: the table accuracy_vs_eps.

    Accuracies are fractions; queries (samples through the model) and seconds are the whole cell's
    on each of its rows, and so are refused (the share of the images of which the re-check refused a
    claimed success) and median_distance (of a minimal attack's images, over the images right
    without attack; inf where no more than half were fooled at all). Of a pipeline that draws
    accuracy is the mean over its evaluation draws (draws), and worst_draw_accuracy the share of
    samples right under all of them. peak_memory_mb: the most memory held while the cell was
    attacked, in megabytes (see memory.watched), of a worst case the most of any. evidence: none,
    saved, verified or refuted (see bench.evidence), of a worst case the least of any.
    """
    return Rows.of((row for curve in curves(records) for row in _tidy(curve)), TIDY)


def _tidy(curve: Curve) -> Iterable[dict[str, Any]]:
    of = curve.of
    shared: dict[str, Any] = {
        "dataset": of.dataset,
        "model": of.model,
        "defense": of.defense,
        "attack": curve.attack,
        "mode": curve.mode,
        "norm": of.norm,
        "seed": of.seed,
        "n": of.n,
        "device": of.device,
        "precision": curve.precision,
        "audit": curve.audit,
        "cell": curve.cell,
        "failure": curve.failure,
        "query_budget": of.query_budget,
        "evidence": curve.evidence,
    }
    if curve.clean is None or curve.cost is None:
        return [shared | {"eps": eps} for eps in curve.eps]
    shared |= {
        "clean_accuracy": float(curve.clean),
        "forward_queries": curve.cost.forward,
        "backward_queries": curve.cost.backward,
        "wall_s": curve.cost.seconds,
        "refused": curve.refused,
        "median_distance": curve.median_distance,
        "draws": curve.draws,
        "peak_memory_mb": curve.cost.peak_memory,
    }
    names = ("eps", "accuracy", "ci_low", "ci_high", "worst_draw_accuracy")
    counted = (curve.accuracy, curve.low, curve.high, curve.worst_draw)
    points = zip(curve.eps, *(shares.tolist() for shares in counted), strict=True)
    return [shared | dict(zip(names, point, strict=True)) for point in points]


@dataclass(frozen=True)
class Entry:
    """Where a (model, defense) stands at one eps.

    cells: the complete ones behind it; lowest (n, draws): the least min_eps under any of them,
    empty where there are none.
    """

    of: Record
    eps: Fraction
    cells: list[Record]
    lowest: NDArray[np.float64]
    note: str
    audit: Verdict = NOT_AUDITED

    @functools.cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each sample is right at eps under each draw."""
        return self.lowest > float(self.eps)

    @classmethod
    def of_cells(cls, cells: list[Record], audit: Verdict = NOT_AUDITED) -> Entry:
        """Where the attacked cells of one pipeline leave it, and what its audit says."""
        complete = [cell for cell in cells if not cell.failure]
        largest = max(complete or cells, key=lambda r: (r.n, r.samples_digest))
        used = [cell for cell in complete if cell.samples_digest == largest.samples_digest]
        # a failure on fewer samples is history, one on these or more samples is not
        failed = [cell for cell in cells if cell.failure and cell.n >= largest.n]
        eps = reading_point(used or failed)
        # below the reading point a grid says nothing of it: its attack never ran there
        used = [cell for cell in used if cell.eps[-1] >= eps]
        if not used:
            reasons = list(dict.fromkeys(cell.failure for cell in failed))
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            note = f"failed: {reasons[0]}{more}"
            return cls(largest, eps, [], np.zeros((0, 1)), note, audit)
        notes = [share_failed(used + failed), refused(used), raised(used)]
        return cls(largest, eps, used, worst(used), "; ".join(filter(None, notes)), audit)

    @property
    def is_suspect(self) -> bool:
        """Whether the number is an upper bound that nobody should lean on."""
        return self.audit.level == SUSPECT

    def differs(self, other: Entry) -> bool:
        """Whether the accuracies differ significantly; paired where both saw the same samples."""
        if self.of.samples_digest == other.of.samples_digest:
            return mcnemar(self.right.mean(axis=1), other.right.mean(axis=1)) < ALPHA
        return not share(self.right).overlaps(share(other.right))

    def under(self, is_meant: Callable[[str], bool]) -> float | None:
        """Accuracy under the cells of the modes that are meant alone; None where there is none."""
        cells = [cell for cell in self.cells if is_meant(cell.mode)]
        return float((worst(cells) > float(self.eps)).mean()) if cells else None


@derived
def leaderboard(records: Sequence[Record]) -> Rows:
    """One row per dataset, norm, model and defense, ranked by robust accuracy at the reference eps.

    The number is the share of samples right under every complete cell (any attack, mode, seed,
    grid) on the largest sample set of the pipeline. eps is the reference where a grid of those
    cells holds it, else their largest; cells whose grid ends below it are left out; rows at
    different eps are ranked apart; a row whose audit is suspect has no rank. A tie group runs from
    its best row down to the last row before the first that differs from that best row (exact
    McNemar on the same samples, else disjoint intervals; level 0.05); its rows share one rank.

    oblivious_accuracy: under the attacks made on the undefended model alone; adaptive_accuracy:
    under all that were shown the pipeline or what stands in for it (transfer is neither). draws,
    worst_draw_accuracy: see tidy; draw_spread and draw_error: the standard deviation of the draws'
    accuracies and that of their mean, apart from ci_low and ci_high, which cover the samples.
    training_s, parameters and passes (of a net, per prediction) are what the pipeline costs. auc:
    the mean accuracy over the radii from 0 to eps, the curve taken as falling at radii of the grid
    alone; its interval is a bootstrap over samples.
    """
    return Rows.of((row for board in boards(records) for row in _ranked(board)), LEADERBOARD)


@derived
def boards(records: Sequence[Record]) -> list[list[Entry]]:
    """The entries that are ranked together, boards in the order of the leaderboard."""
    told = verdicts(records)
    standing = [Entry.of_cells(cells, of_pipeline(told, cells[0])) for cells in pipelines(records)]
    found: list[list[Entry]] = []
    for setting in by(standing, lambda e: (e.of.dataset, e.of.norm, e.of.query_budget)):
        setting.sort(key=lambda e: (e.eps != e.of.reference, e.eps))
        found += by(setting, lambda e: e.eps)
    return found


def best_first(board: Iterable[Entry]) -> list[Entry]:
    """The entries that have a number, by it and then by name."""
    names = sorted((e for e in board if e.cells), key=lambda e: (e.of.model, e.of.defense))
    return sorted(names, key=lambda e: -float(np.mean(e.right)))


def refused(cells: Iterable[Record]) -> str:
    """How many claimed successes the re-check did not accept, as a sentence; empty where none."""
    count = sum(int(cell.samples["refused"].sum()) for cell in cells if "refused" in cell.samples)
    return f"{count} successes refused by the re-check" if count else ""


def raised(cells: Iterable[Record]) -> str:
    """How often a black box raised instead of answering, and what, as a sentence."""
    told = [(name, count) for cell in cells for name, count in _raised(cell)]
    names = ", ".join(dict.fromkeys(name for name, _ in told))
    return f"the model raised {sum(count for _, count in told)} times ({names})" if told else ""


def _raised(cell: Record) -> Iterable[tuple[str, int]]:
    counts: dict[str, int] = cell.provenance.get("raised", {})
    return counts.items()


def reading_point(cells: Sequence[Record]) -> Fraction:
    """Where cells are read: at a reference eps that a grid holds, else at the largest of a grid."""
    return _reading_point(frozenset((cell.eps, cell.reference) for cell in cells))


@functools.lru_cache(maxsize=64)
def _reading_point(asked: frozenset[tuple[tuple[Fraction, ...], Fraction | None]]) -> Fraction:
    """Of grids and references: most cells share both."""
    grid = {eps for radii, _ in asked for eps in radii}
    return max(grid & {reference for _, reference in asked} or grid)


def _ranked(board: list[Entry]) -> Iterable[dict[str, Any]]:
    """Rows of entries at one eps, best first; below them and without a rank those that are suspect,
    and last those without a number.
    """
    standing = best_first(board)
    groups: list[list[Entry]] = []
    for entry in (e for e in standing if not e.is_suspect):
        if groups and not groups[-1][0].differs(entry):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    rank = 1
    for number, group in enumerate(groups):
        for entry in group:
            yield row_of(entry) | {"rank": rank, "tie": _letters(number)}
        rank += len(group)
    nameless = sorted((e for e in board if not e.cells), key=lambda e: (e.of.model, e.of.defense))
    for entry in [*(e for e in standing if e.is_suspect), *nameless]:
        yield row_of(entry) | {"tie": ""}


def _letters(number: int) -> str:
    """A .. Z, AA, AB, ... for 0, 1, 2, ..."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("A") + last)


def row_of(entry: Entry) -> dict[str, Any]:
    """The columns of the leaderboard but rank and tie."""
    of = entry.of
    row: dict[str, Any] = {
        "dataset": of.dataset,
        "norm": of.norm,
        "eps": float(entry.eps),
        "model": of.model,
        "defense": of.defense,
        "n": of.n,
        "attacks": len(entry.cells),
        "audit": entry.audit.text,
        "note": entry.note,
        "query_budget": of.query_budget,
    }
    if not entry.cells:
        return row
    robust, cost, facts = share(entry.right), Cost.of(entry.cells), entry.cells[0].provenance
    draws, drawn = entry.right.shape[1], mean_over_draws(entry.right)
    return (
        row
        | _area(entry)
        | {
            "robust_accuracy": robust.value,
            "ci_low": robust.low,
            "ci_high": robust.high,
            "clean_accuracy": float(share(entry.lowest > 0)),
            "forward_queries": cost.forward,
            "backward_queries": cost.backward,
            "wall_s": cost.seconds,
            "oblivious_accuracy": entry.under(lambda mode: mode == OBLIVIOUS),
            "adaptive_accuracy": entry.under(lambda mode: mode not in (OBLIVIOUS, "transfer")),
            "draws": draws,
            "worst_draw_accuracy": float(entry.right.all(axis=1).mean()) if draws > 1 else None,
            "training_s": facts.get("training_seconds"),
            "parameters": facts.get("parameters"),
            "passes": facts.get("passes"),
            "draw_spread": drawn.spread,
            "draw_error": drawn.error,
        }
    )


def _area(entry: Entry) -> dict[str, float]:
    """The area under the curve up to eps, over eps; nothing at eps 0."""
    eps = float(entry.eps)
    if not eps:
        return {}
    area = resampled_mean((np.minimum(entry.lowest, eps) / eps).mean(axis=1))
    return {"auc": area.value, "auc_low": area.low, "auc_high": area.high}


@derived
def timing(records: Sequence[Record]) -> Rows:
    """One row per cell with its costs; empty where the cell failed or the time is not known.

    queries_per_s counts forward, backward and verify queries; training_s is the defended model's
    training, in seconds; peak_memory_mb: see tidy.
    """
    return Rows.of((_timing(record) for record in records), TIMING)


def _timing(record: Record) -> dict[str, Any]:
    row = {
        "dataset": record.dataset,
        "model": record.model,
        "defense": record.defense,
        "attack": record.attack,
        "norm": record.norm,
        "seed": record.seed,
        "n": record.n,
        "device": record.device,
        "precision": record.precision,
        "threads": record.threads,
        "shape": record.shape,
        "training_s": record.provenance.get("training_seconds"),
        "start": str(record.provenance.get("start", "")),
    }
    if record.failure:
        return row
    cost = Cost.of([record])
    queries = cost.forward + cost.backward + cost.verify
    return row | {
        "wall_s": cost.seconds,
        "forward_queries": cost.forward,
        "backward_queries": cost.backward,
        "verify_queries": cost.verify,
        "queries_per_s": round(queries / cost.seconds, 1) if cost.seconds > 0 else None,
        "peak_memory_mb": cost.peak_memory,
    }

"""Runs pairs as `bench run` would, and compares the stored outcomes image by image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from attacks.registry import attacks
from bench import resolution, runner
from bench.errors import BenchError
from bench.executors import LocalExecutor
from bench.plan import missing
from bench.spec import Request
from bench.stats import mcnemar
from bench.store import Record, Store
from tests.agreement.pairs import MODEL, NETS, Pair

LEVEL = 0.05
CLOSE = 1e-3
"""Distances that differ by less than this share are the same."""
POINT = 0.01
"""The robust accuracy by which ours may be weaker."""
NOT_RUN = "not run"
SEEDS = 3
"""Of attacks that draw, where one seed leaves them further apart than that."""
MANY_SEEDS = 8
"""Of those, where ours is still weaker by so much under three."""


@dataclass(frozen=True)
class Side:
    """One attack's outcome on the images that are right without attack: its figure, queries per
    image, seconds, and claims that the re-check refused.
    """

    figure: float
    forward: float
    backward: float
    seconds: float
    refused: int


@dataclass(frozen=True)
class Comparison:
    """A pair compared on n images under some seeds. by: robust accuracy (of all images), or
    distance (median; inf where nothing was found); only_ours: images that ours alone fooled, or
    fooled nearer; p: exact McNemar or Wilcoxon signed-rank; adjusted: by Holm over the table. note:
    why there is none.
    """

    pair: Pair
    n: int = 0
    seeds: int = 1
    by: str = "accuracy"
    ours: Side | None = None
    peer: Side | None = None
    only_ours: int = 0
    only_peer: int = 0
    p: float = 1.0
    adjusted: float = 1.0
    note: str = ""

    @property
    def verdict(self) -> str:
        """Who is weaker, by more than the rule allows or significantly; else that they agree."""
        if self.ours is None or self.peer is None:
            return self.note
        is_clear = self.adjusted < LEVEL
        if is_clear and self.only_peer > self.only_ours:
            return "**ours weaker**"
        if self.by == "accuracy" and self.ours.figure - self.peer.figure > POINT + 1e-9:
            return "**ours weaker by more than 1 point**"
        return "peer weaker" if is_clear else "agree"


def compare(pair: Pair, ours: Sequence[Record], peer: Sequence[Record]) -> Comparison:
    """The paired comparison of two attacks' stored cells, one per seed, on the same images."""
    failure = next((record.failure for record in (*ours, *peer) if record.failure), "")
    if failure:
        return Comparison(pair, note=f"failed: {failure}")
    a, b = _together(ours), _together(peer)
    right = a["clean_prediction"] == a["label"]
    if {ours[0].kind, peer[0].kind} == {"minimal"}:
        one, other = (
            np.where(np.isnan(s["distance"]), np.inf, s["distance"])[right] for s in (a, b)
        )
        nearer, further = _closer(one, other), _closer(other, one)
        p = _signed_rank(one, other, nearer | further)
        by, figures = "distance", (float(np.median(one)), float(np.median(other)))
    else:
        stands, other_stands = (np.isinf(s["min_eps"]) for s in (a, b))
        nearer, further = ~stands & other_stands, stands & ~other_stands
        p = mcnemar(stands, other_stands)
        by, figures = "accuracy", (float(stands.mean()), float(other_stands.mean()))
    seconds = [sum(record.seconds for record in records) for records in (ours, peer)]
    sides = [
        _side(samples, right, figure, took)
        for samples, figure, took in zip((a, b), figures, seconds, strict=True)
    ]
    return Comparison(
        pair,
        len(right) // len(ours),
        len(ours),
        by,
        *sides,
        only_ours=int(nearer.sum()),
        only_peer=int(further.sum()),
        p=p,
    )


def _together(records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    names = ("label", "clean_prediction", "min_eps", "distance", "forward", "backward", "refused")
    return {name: np.concatenate([record.samples[name] for record in records]) for name in names}


def _side(
    samples: dict[str, NDArray[Any]], right: NDArray[np.bool_], figure: float, seconds: float
) -> Side:
    forward, backward = (float(samples[name][right].mean()) for name in ("forward", "backward"))
    return Side(figure, forward, backward, seconds, int(samples["refused"].sum()))


def _closer(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    return one < other * (1 - CLOSE)


def _signed_rank(
    one: NDArray[np.float64], other: NDArray[np.float64], differ: NDArray[np.bool_]
) -> float:
    """Wilcoxon's test of paired distances; one that was not found is further than any other."""
    if not differ.any():
        return 1.0
    finite = np.concatenate([one, other])
    most = 10 * (finite[np.isfinite(finite)].max(initial=1.0))
    capped = (np.minimum(distance[differ], most) for distance in (one, other))
    return float(wilcoxon(*capped).pvalue)


def adjusted(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """With p-values adjusted by Holm over all that were carried out."""
    listed = list(comparisons)
    places = [place for place, one in enumerate(listed) if one.ours is not None]
    if places:
        holm = multipletests([listed[place].p for place in places], method="holm")[1]
        for place, p in zip(places, holm, strict=True):
            listed[place] = dataclasses.replace(listed[place], adjusted=float(p))
    return listed


@dataclass(frozen=True)
class Place:
    """Where pairs are run: the store, the folder of the data, and whether only what is stored
    already is compared.
    """

    store: Store
    root: Path | None
    only_stored: bool = False


def run(pairs: Iterable[Pair], place: Place) -> Iterator[Comparison]:
    """Runs what the store lacks, and compares."""
    for pair in pairs:
        yield _run(pair, place)


def _run(pair: Pair, place: Place) -> Comparison:
    """With one seed, and where that says little with several."""
    one = _under(pair, place, 1)
    if not pair.draws or one.ours is None or one.peer is None:
        return one
    several = _under(pair, place, SEEDS) if abs(_lag(one)) > 0 else one
    if _lag(several) <= 0:
        return several
    many = _under(pair, place, MANY_SEEDS)
    return several if many.ours is None else many


def _lag(one: Comparison) -> float:
    """By how much more than the rule allows ours is weaker, or minus how much it is stronger; 0 in
    between.
    """
    if one.ours is None or one.peer is None:
        return 0.0
    limit = POINT if one.by == "accuracy" else POINT * one.peer.figure
    apart = one.ours.figure - one.peer.figure
    return apart if abs(apart) > limit else 0.0


def _under(pair: Pair, place: Place, seeds: int) -> Comparison:
    net = NETS[pair.net]
    try:
        names = [attacks.get(spec).to_spec() for spec in (pair.ours, pair.peer)]
        job = resolution.resolve(
            Request(
                datasets=(net.dataset,),
                models=(MODEL,),
                attacks=(pair.ours, pair.peer),
                defenses=(net.defense,),
                seeds=tuple(range(seeds)),
                baseline=False,
                norm=pair.norm,
                eps=repr(pair.eps),
                n=pair.n,
                device="cpu",
                audit=False,
                data_root=place.root,
            )
        )
    except (BenchError, ValueError) as err:
        return Comparison(pair, note=f"not run: {err}")
    store, keys = place.store, [cell.key for cell in job.cells]
    if place.only_stored and missing(job.cells, store.blocks(keys)):
        return Comparison(pair, note=NOT_RUN)
    runner.execute(job, store, LocalExecutor(), runner.Silent())
    records = store.records(keys)
    ours, peer = ([record for record in records if record.attack == name] for name in names)
    return compare(pair, ours, peer)

"""The race as markdown."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch

from bench.runner import provenance
from tests.agreement.entrants import FLOOR, OURS, STEPS
from tests.agreement.race import (
    Lap,
    Laps,
    accuracy,
    apart,
    computing_over,
    fastest_first,
    over,
    ratios,
)
from tests.agreement.table import versions

REFERENCE = f"{OURS}independent"
"""Ours that the others of ours are held against, too."""


@dataclass(frozen=True)
class Setup:
    """What was run. dataset; n: images; rounds; radii (R,); not_run: libraries that are not
    installed; command: that was given.
    """

    dataset: str
    n: int
    rounds: int
    radii: tuple[float, ...]
    not_run: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Heat:
    """A race on one net: the laps per entrant, and the machine's load (1 minute) before and
    after.
    """

    title: str
    laps: Laps
    load: tuple[float, float]


def markdown(setup: Setup, single: Heat | None, sweeps: Sequence[Heat]) -> str:
    """The whole page."""
    made = f"adversarial-bench {version('adversarial-bench')}, {versions()}"
    missing = ", ".join(f"{name} (not installed)" for name in setup.not_run)
    run = f"{setup.dataset}: {setup.n} images, {len(setup.radii)} radii, {setup.rounds} rounds"
    said = [
        "# Whole accuracy-vs-eps curves against other libraries",
        _INTRODUCTION,
        f"Made by `{setup.command}` with {made}.",
        f"{run}. {_machine()}",
        *([f"Not run: {missing}."] if missing else []),
        *([] if single is None else _single(single)),
        *(part for heat in sweeps for part in _sweep(heat, len(setup.radii))),
        *(part for heat in sweeps for part in _curves(heat, setup.radii)),
    ]
    return "\n\n".join(said) + "\n"


_INTRODUCTION = """\
PGD with 40 steps of 2.5 eps / 40 from a random start under linf, at every radius, on test
images: each library as its users run it (foolbox with its list of radii; torchattacks,
adversarial-library and ART in a loop over the radii; batches of 128), and ours by `bench.evaluate`
under each sweep. All in one process, in turns; every round has another seed and begins with
another one. Seconds are of the attack alone for the libraries, whose points are judged afterwards,
and of the whole call for ours, with the re-check of every success. computing: those of them that
the process was on a processor. forward, backward: rows through the net per image, those that fill
up a batch and the re-check included. work saved: 40 forwards and backwards of every image at every
radius, over those. outside: points that were returned outside ball or box, which
fool nobody here. seeds apart: the most by which two rounds differ at one radius.

Robust accuracy: the share of images that are right and stay so, by our own check of label, ball and
box, mean over the rounds. Ours under `independent` judges each radius for itself, as the libraries
do; under other sweeps an image that fell at a radius has fallen at larger ones. excess: ours minus
the reference's; above 0 ours is weaker. time, computing, queries: the reference's over ours; those
of seconds are medians over the rounds of the ratio in a round, queries are rows forward and
backward together."""


def _machine() -> str:
    wait = os.environ.get("OMP_WAIT_POLICY", "unset")
    return (
        f"Processor: {provenance('cpu')['processor']}, {os.cpu_count()} logical; torch threads: "
        f"{torch.get_num_threads()}; OMP_WAIT_POLICY: {wait}."
    )


def _title(heat: Heat) -> str:
    before, after = heat.load
    return f"## {heat.title}\n\nLoad of the machine before and after: {before:.2f}, {after:.2f}."


def _single(heat: Heat) -> list[str]:
    """One attack at one radius over its floor."""
    floor, rows = heat.laps[FLOOR], []
    for name, laps in heat.laps.items():
        shares = over(laps, floor)
        spread = f"{min(shares):.3f} to {max(shares):.3f}"
        computing = f"{statistics.median(computing_over(laps, floor)):.3f}"
        rows.append([name, f"{statistics.median(shares):.3f}", spread, computing, *_queries(laps)])
    header = ["", "over the floor", "least to most", "computing", "forward", "backward"]
    return [_title(heat), grid(header, rows)]


def _sweep(heat: Heat, radii: int) -> list[str]:
    """Who took how long; then every reference against every sweep of ours."""
    costs = []
    for name in fastest_first(heat.laps):
        laps = heat.laps[name]
        seconds = [lap.seconds for lap in laps]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        outside = str(max(lap.curve.outside for lap in laps))
        computing = f"{statistics.median(lap.cpu for lap in laps):.1f}"
        rows = statistics.median(lap.forward + lap.backward for lap in laps)
        saved = f"{2 * STEPS * radii / rows:.1f} x"
        shown = [f"{statistics.median(seconds):.1f}", spread, computing, *_queries(laps), saved]
        costs.append([name, *shown, outside, f"{100 * apart(laps):.1f}"])
    header = [
        *("", "seconds", "least to most", "computing", "forward", "backward", "work saved"),
        *("outside", "seeds apart, points"),
    ]
    return [_title(heat), grid(header, costs), grid(_AGAINST, _against(heat.laps))]


_AGAINST = [
    *("reference", "ours", "time", "least to most", "computing", "queries"),
    *("worst excess, points", "mean excess, points"),
]


def _against(laps: Laps) -> Iterable[list[str]]:
    """The fastest reference first."""
    own = [name for name in laps if name.startswith(OURS)]
    for name in fastest_first(laps):
        if name in own and name != REFERENCE:
            continue
        for mine in own:
            if mine == name:
                continue
            one = ratios(laps[name], laps[mine])
            yield [
                name,
                mine.removeprefix(OURS),
                f"{one.time:.2f} x",
                f"{one.least:.2f} to {one.most:.2f}",
                f"{one.cpu:.2f} x",
                f"{one.queries:.2f} x",
                _points(one.worst_excess),
                _points(one.mean_excess),
            ]


def _points(share: float) -> str:
    """A difference of accuracies in percentage points; no minus before what rounds to 0."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def _curves(heat: Heat, radii: Sequence[float]) -> list[str]:
    """Robust accuracy of everybody at every radius."""
    columns = [accuracy(laps) for laps in heat.laps.values()]
    rows = [
        [f"{eps:g}", *(f"{100 * value:.1f}" for value in values)]
        for eps, *values in zip(radii, *columns, strict=True)
    ]
    title = f"## Robust accuracy in percent, {heat.title}"
    return [title, grid(["eps", *heat.laps], rows)]


def _queries(laps: Sequence[Lap]) -> tuple[str, str]:
    forward = statistics.median(lap.forward for lap in laps)
    backward = statistics.median(lap.backward for lap in laps)
    return f"{forward:,.1f}", f"{backward:,.1f}"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

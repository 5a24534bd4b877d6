"""A plant on trial: what an ordinary evaluation reports of it, its truth, and whether the verdict
saves the reader from the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench import data
from bench.api import CellFailed, Run, evaluate
from bench.audit.findings import SUSPECT, Finding, Verdict
from bench.devices import numerics, threads
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.outcomes import Images
from bench.resolution import resolve
from bench.runner import Silent, execute
from bench.selftest.plants import Ground, Plant, Subject
from bench.spec import Request
from bench.stats import Interval
from bench.store import Store
from models.checkpoint import Cache, cache_folder
from models.registry import models

ORDINARY = ("pgd", "fgsm")
"""The attacks of a user who believes the numbers: 40 steps on the cross-entropy, and one."""
CLOSE = 0.02
"""The difference from its truth up to which a plant counts as driven there."""
REFUSED, FAILED = "refused", "failed"
"""Levels in place of a verdict where there is no number."""
CAUGHT = (SUSPECT, REFUSED)
"""Levels that keep a number from being believed."""
REFUSALS = ("answers differently each time", "returns probabilities", "changed itself")
"""What an evaluation says of a model that it refuses to measure; any other failure is one."""


@dataclass(frozen=True)
class Extent:
    """What is evaluated: a dataset, the radius in linf at which the bare net has nothing left,
    epochs enough for a net to plant with, and images.
    """

    dataset: str
    eps: Fraction
    epochs: int
    n: int


EXTENTS = {
    "digits": Extent("digits", Fraction(1, 5), epochs=20, n=100),
    "mnist": Extent("mnist", Fraction(3, 10), epochs=2, n=200),
}


def extent(dataset: str, n: int | None) -> Extent:
    """That of a dataset, with other images where n says how many."""
    if dataset not in EXTENTS:
        raise RequestError(f"dataset must be one of {', '.join(EXTENTS)}, got {dataset!r}")
    known = EXTENTS[dataset]
    return known if n is None else Extent(dataset, known.eps, known.epochs, n)


@dataclass(frozen=True)
class Result:
    """How a plant fared. reported: robust accuracy, None where the evaluation was refused; truth:
    as a share; level: the verdict's, or refused or failed; why: of these two; findings: of the
    audit.
    """

    plant: Plant
    reported: Interval | None
    truth: float
    level: str
    why: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def is_driven(self) -> bool:
        """Whether what was reported is as close to the truth as is asked for."""
        if self.reported is None:
            return False
        return abs(self.reported.value - self.truth) <= CLOSE + 1e-9

    @property
    def is_right(self) -> bool:
        """Whether a reader is told the truth, or warned; of an honest one, not warned in vain."""
        if self.plant.is_honest:
            return self.level not in (*CAUGHT, FAILED)
        return self.level in CAUGHT or self.is_driven


@dataclass
class Trials:
    """Trials on one ground. verdict: of a run; say hears of trainings."""

    extent: Extent
    root: Path | None
    say: Callable[[str], None] = lambda _: None
    verdict: Callable[[Run], Verdict] = lambda run: run.audit
    _truths: dict[int, tuple[Subject, float]] = field(default_factory=dict, init=False)

    def results(self, plants: Sequence[Plant]) -> Iterator[Result]:
        """Every plant in its turn."""
        ground = self.ground()
        for plant in plants:
            yield self.result(plant, ground)

    def ground(self) -> Ground:
        """The undefended net, trained or from the cache, and the images."""
        dataset, device = data.load(self.extent.dataset, self.root), torch.device("cpu")
        images = Images.of(dataset, len(dataset.subset(self.extent.n)), device)
        workshop = dataset.workshop(
            models.get("cnn_small"),
            device,
            numerics={"threads": threads(), "torch": torch.__version__},
            cache=Cache(cache_folder()),
            say=self.say,
        )
        with numerics(threads()):
            net = workshop.undefended()
        return Ground(workshop, net, images.x, images.y, float(self.extent.eps), self.extent.epochs)

    def result(self, plant: Plant, ground: Ground) -> Result:
        """A plant evaluated as anything else, beside its truth."""
        with numerics(threads()):
            subject, bare = plant.make(ground), plant.bare(ground)
        truth = self._truth(bare, plant.strong)
        try:
            run = self._run(subject, ORDINARY, audit=True)
        except CellFailed as err:
            level = REFUSED if any(text in str(err) for text in REFUSALS) else FAILED
            return Result(plant, None, truth, level, str(err))
        verdict = self.verdict(run)
        reported = run.accuracy(float(self.extent.eps))
        return Result(plant, reported, truth, verdict.level, findings=verdict.findings)

    def _truth(self, bare: Subject, strong: str) -> float:
        """The worst case of a pipeline, measured once."""
        if id(bare) not in self._truths:
            run = self._run(bare, [strong], audit=False)
            self._truths[id(bare)] = bare, float(run.accuracy(float(self.extent.eps)))
        return self._truths[id(bare)][1]

    def _run(self, subject: Subject, attacks: Sequence[str], *, audit: bool) -> Run:
        eps, n = f"0,{self.extent.eps}", self.extent.n
        asked: dict[str, Any] = {"eps": eps, "n": n, "precision": "fp32", "audit": audit}
        asked["data_root"] = self.root
        if isinstance(subject, nn.Module):
            return evaluate(subject, self.extent.dataset, attacks, device="cpu", **asked)
        return _by_specs(
            Request(
                datasets=(self.extent.dataset,),
                models=(subject.model,),
                defenses=(subject.defense,),
                attacks=tuple(attacks),
                device="cpu",
                oblivious=False,
                baseline=False,
                **asked,
            )
        )


def _by_specs(request: Request) -> Run:
    """A request for one pipeline carried out as `bench run` does, nothing written."""
    job = resolve(request)
    with Store.in_memory() as store:
        job = execute(job, store, LocalExecutor(), Silent())
        records = store.records(cell.key for cell in job.cells)
    for record in records:
        if record.failure:
            raise CellFailed(f"{record.attack}: {record.failure}")
    return Run(records)

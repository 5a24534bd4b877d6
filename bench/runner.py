"""The driver of a sweep: a request becomes cells, missing blocks become units, events go into the
store.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from attacks import loop
from attacks.base import Attack
from attacks.registry import attacks
from attacks.sourced import Sourced
from bench import data, plan, supplies
from bench.datasets import budget
from bench.errors import RequestError
from bench.evaluation import behaviour, dataset_of, numerics
from bench.executors import Executor
from bench.plan import AttackPart, Cell, DataPart, Numerics, Part, Todo
from bench.spec import ALL, Request, parse_grid, valid
from bench.store import Store
from bench.units import Done, Event, Failed, Moved, Noted, Prepared, Unit
from defenses.base import Defense
from defenses.registry import defenses
from models import checkpoint, train
from models.recipes import Classifier
from models.registry import models

SHAPES = {"cpu": 128}
_SHAPE_ELSEWHERE = 512


@dataclass(frozen=True)
class Sources:
    """The things behind a cell's texts, as units need them: specs, or live objects."""

    data: str | data.Dataset
    model: str | Classifier
    defense: str | Defense
    attack: str | Attack


@dataclass(frozen=True)
class Job:
    """A request resolved: its cells, what stands behind each (by key), and how they are run."""

    cells: tuple[Cell, ...]
    sources: Mapping[str, Sources]
    data_root: Path | None
    device: str
    batch_size: int | None
    cache: Path | None

    def units(self, todo: Sequence[Todo]) -> list[Unit]:
        """The work as units, one per pipeline."""
        made = []
        for group in plan.by_pipeline(todo):
            source = self.sources[group[0].cell.key]
            made.append(
                Unit(
                    data=source.data,
                    data_root=self.data_root,
                    model=source.model,
                    defense=source.defense,
                    attacks={item.cell.key: self.sources[item.cell.key].attack for item in group},
                    todo=tuple(group),
                    device=self.device,
                    batch_size=self.batch_size,
                    cache=self.cache,
                )
            )
        return made


def device_of(wanted: str) -> str:
    """The device that `auto` means here, or the one asked for; refuses one that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = wanted == "cpu" or torch.cuda.is_available()
    if not there or (":" in wanted and int(wanted.partition(":")[2]) >= torch.cuda.device_count()):
        raise RequestError(f"device {wanted} is not available here (bench doctor shows what is)")
    return wanted


def numerics_of(device: str) -> Numerics:
    """Float32 on a type of device with its default compute shape and number of threads."""
    kind = device.partition(":")[0]
    return Numerics("fp32", kind, SHAPES.get(kind, _SHAPE_ELSEWHERE), threads(), loop.REVISION)


def threads() -> int:
    """Torch's threads where OMP_NUM_THREADS sets them, else half of them, at least one.

    Threads on every core stall on each other as soon as the machine does anything else: an update
    of a small net took 35 ms with 2 threads on 2 busy cores, 4 ms with one.
    """
    most = torch.get_num_threads()
    return most if "OMP_NUM_THREADS" in os.environ else max(1, most // 2)


def resolve(request: Request) -> Job:
    """Loads the datasets, builds the recipes and plans the cells; refuses whatever cannot be run,
    before any work.
    """
    device = device_of(request.device)
    numerics = numerics_of(device)
    made: dict[str, tuple[Cell, Sources]] = {}
    for text in request.datasets:
        dataset = dataset_of(text, request.data_root)
        row = budget(dataset.kind, dataset.shape[0], request.norm)
        eps, reference = parse_grid(request.eps or row.grid, request.norm), Fraction(row.reference)
        data_part = data_part_of(dataset, request.n, reference)
        pipelines = [
            (
                model,
                _model_part(model, dataset, data_part.n, device),
                defense,
                _defense_part(defense, request.norm, reference),
            )
            for model, defense in itertools.product(request.models, request.rows)
        ]
        named = [
            (
                attack,
                attack_part_of(
                    valid(attacks.get, attack),
                    request.norm,
                    dataset,
                    eps,
                    request.query_budget,
                    root=request.data_root,
                ),
            )
            for attack in named_attacks(request.attacks, request.norm, dataset.classes)
        ]
        for pipeline, (attack, attack_part), seed in itertools.product(
            pipelines, named, request.seeds
        ):
            model, model_part, defense, defense_part = pipeline
            cell = Cell(
                data=data_part,
                model=model_part,
                defense=defense_part,
                attack=attack_part,
                norm=request.norm,
                eps=eps,
                seed=seed,
                sweep=request.sweep,
                numerics=numerics,
                query_budget=request.query_budget,
            )
            made.setdefault(cell.key, (cell, Sources(text, model, defense, attack)))
    return Job(
        cells=tuple(cell for cell, _ in made.values()),
        sources={key: source for key, (_, source) in made.items()},
        data_root=request.data_root,
        device=device,
        batch_size=request.batch_size,
        cache=checkpoint.cache_folder(),
    )


def data_part_of(dataset: data.Dataset, n: int | None, reference: Fraction | None) -> DataPart:
    """The evaluated subset as plain values; refuses an n that the test set does not hold."""
    positions = dataset.subset(n)
    digest = plan.digest(dataset.ids[positions].tolist())
    return DataPart(dataset.name, dataset.fingerprint, len(positions), digest, reference)


def known_by(net: nn.Module, dataset: data.Dataset, n: int, device: str) -> dict[str, str]:
    """What a given model is known by: the digests of its weights and of its clean answers."""
    shape = numerics_of(device).shape
    with numerics(threads()):
        said = behaviour(net.to(device), dataset, n, shape, device)
    return {"weights": checkpoint.digest(net.state_dict()), "behaviour": said}


def _model_part(text: str, dataset: data.Dataset, n: int, device: str) -> Part:
    """A model as plain values: one to be trained is known by how, one that is given is built
    once and known by its weights.
    """
    model: Classifier = valid(models.get, text)
    identity = model.identity()
    if model.is_trained:
        net = valid(lambda _: model.build(dataset.shape, dataset.classes), text)
        return Part(model.to_spec(), {**identity, **known_by(net, dataset, n, device)})
    if dataset.train is None or dataset.validation is None:
        raise RequestError(
            f"{dataset.name} has no training split for {text}: add train=, or weights= to the model"
        )
    settings = vars(model.settings(len(dataset.train), dataset.shape[0]))
    how = {name: repr(value) for name, value in settings.items()}
    return Part(model.to_spec(), {**identity, "settings": how, "training": train.REVISION})


def _defense_part(text: str, norm: str, reference: Fraction) -> Part:
    """A defense as plain values: shown as asked for, known by what the run fills in."""
    defense: Defense = valid(defenses.get, text)
    filled = valid(lambda _: defense.at(norm, float(reference)), text)
    return Part(defense.to_spec(), filled.identity())


def named_attacks(texts: Sequence[str], norm: str, classes: int) -> list[str]:
    """The specs of attacks, `all` replaced by the names of the table that know the norm, are
    defined for so few classes and need nothing but the model; plug-ins are among them.
    """
    specs: list[str] = []
    for text in texts:
        specs += _every_attack(norm, classes) if text == ALL else [text]
    return list(dict.fromkeys(specs))


def _every_attack(norm: str, classes: int) -> list[str]:
    fitting = []
    for name in attacks.names():
        attack: Attack = attacks.get(name)
        fits = norm in attack.norms and classes >= attack.least_classes(targeted=False)
        if fits and not attack.needs:
            fitting.append(name)
    return fitting


def attack_part_of(
    attack: Attack,
    norm: str,
    dataset: data.Dataset,
    eps: Sequence[Fraction],
    budget: int | None,
    *,
    root: Path | None,
) -> AttackPart:
    """An attack as plain values; refuses a norm or a number of classes it is not defined for, a
    query budget below its minimum, and needs that cannot be supplied.
    """
    classes = dataset.classes
    valid(lambda _: attack.check(norm, classes), norm)
    radii = [float(e) for e in eps if e > 0]
    queries = attack.cost(radii, norm, classes)
    if budget is not None:
        valid(lambda _: attack.check_budget(budget, classes), norm)
    if budget is not None and not isinstance(attack, Sourced):
        runs = 1 if attack.kind == "minimal" else len(radii)
        queries = runs * budget if queries is None else min(queries, runs * budget)
    identity = {**attack.identity(), **supplies.identity(attack, dataset, root)}
    counted = (queries, attack.shared_queries)
    return AttackPart(attack.to_spec(), identity, attack.mode, attack.kind, *counted)


class Watcher(Protocol):
    """Who is told how a run goes."""

    def begin(self, todo: Sequence[Todo]) -> None:
        """The run starts with this work."""

    def say(self, text: str) -> None:
        """A line, such as an epoch of training."""

    def moved(self, cell: Cell, samples: int) -> None:
        """A number of samples of a cell has been settled."""

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell could not be finished."""

    def end(self) -> None:
        """Nothing more follows."""


class Silent:
    """A watcher that keeps still."""

    def begin(self, todo: Sequence[Todo]) -> None:
        """See Watcher."""

    def say(self, text: str) -> None:
        """See Watcher."""

    def moved(self, cell: Cell, samples: int) -> None:
        """See Watcher."""

    def failed(self, cell: Cell, reason: str) -> None:
        """See Watcher."""

    def end(self) -> None:
        """See Watcher."""


def provenance(device: str) -> dict[str, Any]:
    """What a run ran on: versions, processor, GPU, threads, command line, start."""
    names = ("adversarial-bench", "torch", "torchvision", "numpy", "scikit-learn", "safetensors")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in names},
        },
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else "",
        "threads": threads(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def execute(
    job: Job, store: Store, executor: Executor, watcher: Watcher, *, fresh: bool = False
) -> None:
    """Runs what the store lacks; each finished block is committed at once, failures are noted and
    passed over.
    """
    if fresh:
        store.drop(cell.key for cell in job.cells)
    cells = {cell.key: cell for cell in job.cells}
    todo = plan.missing(job.cells, store.blocks(cells))
    watcher.begin(todo)
    try:
        for item in todo:
            store.add(item.cell, provenance(job.device))
        for event in executor.run(job.units(todo), watcher.say):
            _note(event, cells, store, watcher)
    finally:
        watcher.end()


def _note(event: Event, cells: Mapping[str, Cell], store: Store, watcher: Watcher) -> None:
    match event:
        case Prepared(keys, facts):
            for key in keys:
                store.annotate(key, facts)
        case Moved(key, samples):
            watcher.moved(cells[key], samples)
        case Done(key, number, arrays, seconds):
            store.put(key, number, arrays, seconds)
        case Noted(key, facts):
            store.annotate(key, facts)
        case Failed(key, reason, trace):
            store.fail(key, reason)
            store.annotate(key, {"trace": trace})
            watcher.failed(cells[key], reason)

"""The driver of a sweep: missing blocks become units, events go into the store."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from bench import evidence, plan
from bench.devices import name_of, processor, threads
from bench.executors import Executor
from bench.lending import lend
from bench.plan import Cell, Todo
from bench.resolution import Job
from bench.store import Store
from bench.units import Done, Event, Failed, Moved, Noted, Prepared, Shrunk


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

    def warn(self, text: str) -> None:
        """What a user may not expect, a line."""

    def restarted(self, cell: Cell, item: Todo) -> None:
        """A cell is given up for another one, which still needs this work."""

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

    def warn(self, text: str) -> None:
        """See Watcher."""

    def restarted(self, cell: Cell, item: Todo) -> None:
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
        "processor": processor(),
        "gpu": name_of(device) if device.startswith("cuda") else "",
        "threads": threads(),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _program() -> str:
    """What was called; `python -m bench` puts the path of its module there."""
    name = Path(sys.argv[0]).name
    return "bench" if name == "__main__.py" else name


def execute(
    job: Job, store: Store, executor: Executor, watcher: Watcher, *, fresh: bool = False
) -> Job:
    """Runs what the store lacks; each finished block is committed at once, failures are noted and
    passed over. Full blocks that are stored for another number of samples are reused. Cells that
    ran out of memory start again under half their compute shape, as cells of their own: returns the
    job as it was carried out.
    """
    if fresh:
        drop(store, [cell.key for cell in job.cells])
    todo = plan.missing(job.cells, stored(job, store, job.cells))
    known = provenance(job.device)
    # Blocks of others have no adversarial images of this cell's.
    can_lend = not fresh and not job.save_adversarial
    if can_lend and (lent := sum(lend(item, store, known) for item in todo)):
        watcher.say(f"{lent} blocks of {plan.BLOCK} images reused from another number of them")
        todo = plan.missing(job.cells, stored(job, store, job.cells))
    watcher.begin(todo)
    sweep = _Sweep(job, store, watcher, fresh=fresh)
    try:
        while todo:
            known = provenance(job.device)
            for item in todo:
                store.add(item.cell, known)
            for event in executor.run(sweep.job.units(todo), watcher.say):
                sweep.note(event)
            todo = sweep.again()
    finally:
        watcher.end()
    return sweep.job


def stored(job: Job, store: Store, cells: Iterable[Cell]) -> dict[str, list[int]]:
    """The stored block numbers of each cell that need not be run; where adversarial images are
    kept, a block without them is run again.
    """
    wanted = {cell.key: cell for cell in cells}
    have = store.blocks(wanted)
    if not job.save_adversarial or store.folder is None:
        return have
    return {
        key: [
            number
            for number in numbers
            if evidence.is_kept(store.folder, wanted[key], number, store.block(key, number))
        ]
        for key, numbers in have.items()
    }


def drop(store: Store, keys: Sequence[str]) -> None:
    """Forgets cells and their images."""
    if store.folder is not None:
        evidence.drop(store.folder, keys)
    store.drop(keys)


class _Sweep:
    """A job while it is carried out: smaller holds its cells that came out of a restart, kept those
    of them whose shape is kept, waiting the work of restarted ones.
    """

    def __init__(self, job: Job, store: Store, watcher: Watcher, *, fresh: bool):
        self.job, self.store, self.watcher, self.fresh = job, store, watcher, fresh
        self.cells = {cell.key: cell for cell in job.cells}
        self.smaller: set[str] = set()
        self.kept: set[str] = set()
        self.waiting: list[Todo] = []
        self.weights: dict[str, str] = {}

    def note(self, event: Event) -> None:
        """Puts an event into the store, and tells the watcher."""
        cells, store, watcher = self.cells, self.store, self.watcher
        match event:
            case Prepared(keys, facts):
                for key in keys:
                    store.annotate(key, facts)
                    self.weights[key] = str(facts.get("weights", ""))
            case Moved(key, samples):
                watcher.moved(cells[key], samples)
            case Done():
                self._done(event)
            case Noted(key, facts):
                store.annotate(key, facts)
            case Failed(key, reason, trace):
                store.fail(key, reason)
                store.annotate(key, {"trace": trace})
                watcher.failed(cells[key], reason)
            case Shrunk(keys):
                self._restart(keys)

    def _done(self, done: Done) -> None:
        """Puts a block into the store, after its images: what is stored with them has them."""
        store, key, images = self.store, done.key, done.images
        if images is not None and store.folder is not None:
            cell, weights = self.cells[key], self.weights.get(key, "")
            evidence.write(store.folder, cell, done.number, done.arrays, images, weights)
        store.put(key, done.number, done.arrays, done.seconds, anew=images is not None)
        self._keep(key)

    def again(self) -> list[Todo]:
        """What restarted cells still need, handed out once."""
        todo, self.waiting = self.waiting, []
        return todo

    def _keep(self, key: str) -> None:
        """The shape that a restarted cell came down to is kept: the next run begins with it."""
        if key in self.smaller - self.kept:
            self.job.shapes.keep(self.cells[key])
            self.kept.add(key)

    def _restart(self, keys: Sequence[str]) -> None:
        """Gives cells up for those under half their shape; told once, however often that is."""
        given_up = [self.cells[key] for key in keys]
        if not self.smaller.issuperset(keys):
            first, more = given_up[0], len(keys) - 1
            others = f" and {more} more" if more else ""
            self.watcher.warn(
                f"out of memory with {first.numerics.shape} images at once "
                f"({first.title}{others}): starting again with half as many, until it is enough"
            )
        self.job = self.job.halved(keys)
        for cell in given_up:
            half = cell.under(cell.numerics.shape // 2)
            if self.fresh:
                drop(self.store, [half.key])
            self.cells[half.key] = half
            self.smaller.add(half.key)
            missing = plan.missing([half], stored(self.job, self.store, [half]))
            self.waiting += missing
            self.watcher.restarted(cell, missing[0] if missing else Todo(half, ()))
            if not missing:
                self._keep(half.key)

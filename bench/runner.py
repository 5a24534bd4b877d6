"""The driver of a sweep: missing blocks become units, events go into the store."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from bench import plan
from bench.devices import threads
from bench.executors import Executor
from bench.plan import Cell, Todo
from bench.resolution import Job
from bench.store import Store
from bench.units import Done, Event, Failed, Moved, Noted, Prepared


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
        "processor": processor(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else "",
        "threads": threads(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def processor() -> str:
    """The name of the processor, as far as the system tells."""
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
        known = provenance(job.device) if todo else {}
        for item in todo:
            store.add(item.cell, known)
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

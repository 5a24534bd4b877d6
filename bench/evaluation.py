"""A unit of work: one defended pipeline and the cells that wait for it; yields per-sample outcomes
block by block.

A unit and what it yields are plain values that travel between processes. Nothing here writes a
store.
"""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import loop, norms
from attacks.base import Attack
from attacks.call import check_logits
from attacks.oracles import ORACLES, frozen
from attacks.registry import attacks
from attacks.verify import judge_of, predictions
from attacks.work import Samples, Setting, Settled
from bench import data
from bench.plan import BLOCK, Cell, Todo
from bench.store import Arrays
from defenses.base import Defended, Defense, Workshop
from defenses.registry import defenses
from models.checkpoint import Cache
from models.recipes import Classifier
from models.registry import models


@dataclass(frozen=True)
class Unit:
    """One pipeline and its work. data, model, defense and attacks are specs, or the things
    themselves.

    attacks maps a cell's key to its attack; batch_size bounds the rows in flight; cache None trains
    anew.
    """

    data: str | data.Dataset
    data_root: Path | None
    model: str | Classifier
    defense: str | Defense
    attacks: Mapping[str, str | Attack]
    todo: tuple[Todo, ...]
    device: str = "cpu"
    batch_size: int | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """The pipeline stands; facts (weights digest, objective, training log) belong to every cell of
    the unit.
    """

    keys: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Moved:
    """A number of samples of a cell has been settled since the last word."""

    key: str
    samples: int


@dataclass(frozen=True)
class Done:
    """A block of a cell is complete: its arrays, and the seconds of attack since the last block."""

    key: str
    number: int
    arrays: Arrays
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A cell could not be finished; reason is one line, trace what a developer wants."""

    key: str
    reason: str
    trace: str


Event = Prepared | Moved | Done | Failed


@functools.lru_cache(maxsize=1)
def dataset_of(text: str, root: Path | None) -> data.Dataset:
    """A dataset by its spec; the last one is kept, as the units of a run share it."""
    return data.load(text, root)


@contextlib.contextmanager
def numerics(threads: int) -> Iterator[None]:
    """Float32 as such (no TF32) and a fixed number of threads, put back afterwards."""
    before = torch.get_num_threads()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def run(unit: Unit, say: Callable[[str], None]) -> Iterator[Event]:
    """Carries a unit out; say hears lines about training. A failure ends its cell, or all cells
    where the pipeline itself cannot be had; the others go on.
    """
    keys = tuple(item.cell.key for item in unit.todo)
    with numerics(unit.todo[0].cell.numerics.threads):
        try:
            bench = _Bench.of(unit)
            yield bench.deploy(unit, say)
        except Exception as err:  # noqa: BLE001  the one boundary: a failure is data
            yield from (_failed(key, err) for key in keys)
            return
        for item in unit.todo:
            try:
                yield from bench.attack(item, unit)
            except Exception as err:  # noqa: BLE001  the same boundary, for one cell
                yield _failed(item.cell.key, err)


def _failed(key: str, err: Exception) -> Failed:
    reason = " ".join(str(err).split()) or "no message"
    kind = "" if isinstance(err, ValueError | RuntimeError) else f"{type(err).__name__}: "
    return Failed(key, f"{kind}{reason}"[:500], "".join(traceback.format_exception(err)))


@dataclass
class _Bench:
    """The evaluated images on the device, and the pipeline once it is deployed."""

    dataset: data.Dataset
    positions: NDArray[np.int64]
    x: Tensor
    y: Tensor
    ids: Tensor
    device: torch.device
    defended: Defended | None = None
    clean: Tensor | None = None

    @classmethod
    def of(cls, unit: Unit) -> _Bench:
        cell = unit.todo[0].cell
        dataset = dataset_of(unit.data, unit.data_root) if isinstance(unit.data, str) else unit.data
        positions = dataset.subset(cell.data.n)
        index = torch.from_numpy(positions)
        device = torch.device(unit.device)
        x = dataset.test.images(index, device)
        ids = torch.from_numpy(dataset.ids[positions])
        return cls(dataset, positions, x, dataset.test.y[index].to(device), ids.to(device), device)

    def deploy(self, unit: Unit, say: Callable[[str], None]) -> Prepared:
        """Trains or loads the pipeline and asks it for the clean predictions."""
        cell = unit.todo[0].cell
        dataset = self.dataset
        model = models.get(unit.model) if isinstance(unit.model, str) else unit.model
        defense = defenses.get(unit.defense) if isinstance(unit.defense, str) else unit.defense
        reference = cell.data.reference
        defense = defense.at(cell.norm, None if reference is None else float(reference))
        workshop = Workshop(
            model=model,
            train=dataset.train,
            validation=dataset.validation,
            shape=dataset.shape,
            classes=dataset.classes,
            fingerprint=dataset.fingerprint,
            device=self.device,
            numerics={"threads": cell.numerics.threads, "torch": torch.__version__},
            cache=None if unit.cache is None else Cache(unit.cache),
            say=say,
        )
        self.defended = defense.deploy(workshop)
        facts: dict[str, Any] = {}
        for trained in workshop.trained:
            facts |= trained.facts()
        with frozen(self.defended.predict):
            logits = predictions(
                self.defended.predict, self.x, cell.numerics.shape, classes=dataset.classes
            )
        check_logits(logits, self.y)
        self.clean = logits.argmax(1)
        return Prepared(tuple(item.cell.key for item in unit.todo), facts)

    def attack(self, item: Todo, unit: Unit) -> Iterator[Event]:
        """One cell: every missing block, in one stream of samples."""
        if self.defended is None or self.clean is None:
            raise RuntimeError("deploy comes before attack")
        cell = item.cell
        named = unit.attacks[cell.key]
        recipe: Attack = attacks.get(named) if isinstance(named, str) else named
        recipe.check(cell.norm, self.dataset.classes)
        places = np.concatenate([np.arange(*_span(number, cell.data.n)) for number in item.blocks])
        blocks = {number: _Block(self, cell, number) for number in item.blocks}
        right = (self.clean == self.y).cpu().numpy()
        todo = places[right[places]]
        start = time.perf_counter()
        moved = len(places) - len(todo)
        for number, block in blocks.items():
            block.settle_wrong(right)
            if block.is_complete:
                yield Done(cell.key, number, block.arrays, 0.0)
        with frozen(self.defended.predict) as check:
            for settled in self._settled(recipe, cell, todo, unit.batch_size):
                place = int(todo[settled.sample])
                block = blocks[place // BLOCK]
                block.settle(place, settled, self.x[place])
                moved += 1
                if block.is_complete:
                    check()
                    now = time.perf_counter()
                    yield Moved(cell.key, moved)
                    yield Done(cell.key, place // BLOCK, block.arrays, now - start)
                    start, moved = now, 0
                elif moved >= 32:
                    yield Moved(cell.key, moved)
                    moved = 0
        yield Moved(cell.key, moved)

    def _settled(
        self, recipe: Attack, cell: Cell, places: NDArray[np.int64], in_flight: int | None
    ) -> Iterator[Settled]:
        radii = np.array([float(e) for e in cell.eps if e > 0])
        if not len(places) or not len(radii) or self.defended is None:
            for sample in range(len(places)):
                yield Settled(sample, np.zeros(0, dtype=np.bool_), self.x[places[sample]], 0, 0, 0)
            return
        index = torch.from_numpy(places).to(self.device)
        samples = Samples(self.x[index], self.y[index], self.ids[index], radii)
        setting = Setting(
            norm=cell.norm,
            classes=self.dataset.classes,
            seed=cell.seed,
            shape=cell.numerics.shape,
            policy=cell.sweep,
            in_flight=in_flight,
            exact=self.defended.surrogate is self.defended.predict,
        )
        oracle = ORACLES[recipe.access](self.defended.surrogate)
        judge = judge_of(self.defended.predict, samples, setting)
        yield from loop.sweep(recipe, oracle, judge, samples, setting)


def _span(number: int, n: int) -> tuple[int, int]:
    return number * BLOCK, min((number + 1) * BLOCK, n)


class _Block:
    """The arrays of one block while its samples are being settled."""

    def __init__(self, bench: _Bench, cell: Cell, number: int):
        first, last = _span(number, cell.data.n)
        self.first, self.norm, self.eps = first, cell.norm, [e for e in cell.eps if e > 0]
        size, clean = last - first, bench.clean
        if clean is None:
            raise RuntimeError("deploy comes before attack")
        self.open = size
        self.grid = np.array([float(e) for e in cell.eps])
        self.arrays: Arrays = {
            "index": bench.positions[first:last],
            "id": bench.ids[first:last].cpu().numpy(),
            "label": bench.y[first:last].cpu().numpy(),
            "clean_prediction": clean[first:last].cpu().numpy(),
            "min_eps": np.full(size, np.inf),
            "distance": np.full(size, np.nan),
            "forward": np.zeros(size, dtype=np.int64),
            "backward": np.zeros(size, dtype=np.int64),
            "verify": np.zeros(size, dtype=np.int64),
        }
        if cell.sweep == "independent":
            self.arrays["fooled"] = np.zeros((size, len(cell.eps)), dtype=np.uint8)

    @property
    def is_complete(self) -> bool:
        return self.open == 0

    def settle_wrong(self, right: NDArray[np.bool_]) -> None:
        """Misclassified without attack: fooled at 0, and no query spent."""
        wrong = ~right[self.first : self.first + len(self.arrays["index"])]
        self.arrays["min_eps"][wrong] = 0
        self.arrays["distance"][wrong] = 0
        if "fooled" in self.arrays:
            self.arrays["fooled"][wrong] = 1
        self.open -= int(wrong.sum())

    def settle(self, place: int, settled: Settled, x: Tensor) -> None:
        """Notes a sample's result."""
        row = place - self.first
        self.open -= 1
        for name in ("forward", "backward", "verify"):
            self.arrays[name][row] = getattr(settled, name)
        if "fooled" in self.arrays:
            self.arrays["fooled"][row, len(self.grid) - len(self.eps) :] = settled.fooled
        if settled.fooled.any():
            self.arrays["min_eps"][row] = float(self.eps[int(settled.fooled.argmax())])
            delta = settled.x_adv.double() - x.double()
            self.arrays["distance"][row] = float(norms.size(delta[None], self.norm))

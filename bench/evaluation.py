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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import loop, norms
from attacks.base import Attack
from attacks.call import check_answers, check_labels
from attacks.oracles import DIFFERENTIATING, ModelError, Patient, Predict, frozen
from attacks.registry import attacks
from attacks.sourced import Labels, Source, Sourced, Supplies
from attacks.verify import judge_of, predictions
from attacks.work import NEVER, Samples, Setting, Settled
from bench import data
from bench.plan import BLOCK, Cell, Todo
from bench.store import Arrays
from bench.supplies import Stock
from bench.units import Done, Event, Failed, Moved, Noted, Prepared, Unit
from defenses.base import Defended, Workshop
from defenses.registry import defenses
from models.checkpoint import Cache, digest
from models.registry import models

_SAME = 1e-4
"""Difference of logits between two passes from which on a model counts as random (the bound of
AutoAttack's checks)."""
_MOST_UNTOLD = 32
"""Samples settled at most before the watcher hears of them."""


@functools.lru_cache(maxsize=1)
def dataset_of(text: str, root: Path | None) -> data.Dataset:
    """A dataset by its spec; the last one is kept, as the units of a run share it."""
    return data.load(text, root)


@contextlib.contextmanager
def numerics(threads: int) -> Iterator[None]:
    """Float32 as such (no TF32), deterministic convolutions, a fixed number of threads; all of it
    and the global random state are put back afterwards.
    """
    before = torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(threads)
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    cudnn.deterministic = True
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(before)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags


def behaviour(predict: Predict, dataset: data.Dataset, n: int, shape: int, device: str) -> str:
    """A digest of what a given model says of the evaluated images: its weights and its file may be
    the same while it is not. Empty for a model that has no proper answer.
    """
    images = _Images.of(dataset, n, torch.device(device))
    try:
        with frozen(predict):
            return digest({"logits": predictions(predict, images.x, shape)})
    except Exception:  # noqa: BLE001  the same boundary: the cell will fail and say why
        return ""


def run(unit: Unit, say: Callable[[str], None]) -> Iterator[Event]:
    """Carries a unit out; say hears lines about training. A failure ends its cell, or all cells
    where the pipeline itself cannot be had; the others go on.
    """
    keys = tuple(item.cell.key for item in unit.todo)
    with numerics(unit.todo[0].cell.numerics.threads):
        try:
            pipeline = _Pipeline.deployed(unit, say)
        except Exception as err:  # noqa: BLE001  the one boundary: a failure is data
            yield from (_failed(key, err) for key in keys)
            return
        yield Prepared(keys, pipeline.facts)
        for item in unit.todo:
            try:
                yield from pipeline.attacked(item, unit.attacks[item.cell.key], unit.batch_size)
            except Exception as err:  # noqa: BLE001  the same boundary, for one cell
                yield _failed(item.cell.key, err)


def _failed(key: str, err: Exception) -> Failed:
    reason = " ".join(str(err).split()) or "no message"
    kind = "" if isinstance(err, ValueError | RuntimeError) else f"{type(err).__name__}: "
    return Failed(key, f"{kind}{reason}"[:500], "".join(traceback.format_exception(err)))


@dataclass(frozen=True)
class _Images:
    """The evaluated images on the device; positions (n,) are their places in the test set."""

    positions: NDArray[np.int64]
    x: Tensor
    y: Tensor
    ids: Tensor

    @classmethod
    def of(cls, dataset: data.Dataset, n: int, device: torch.device) -> _Images:
        positions = dataset.subset(n)
        index = torch.from_numpy(positions)
        ids = torch.from_numpy(dataset.ids[positions])
        x, y = dataset.test.images(index, device), dataset.test.y[index]
        return cls(positions, x, y.to(device), ids.to(device))


@dataclass(frozen=True)
class _Pipeline:
    """A deployed pipeline, the images it is judged on, and what it says of them clean.

    clean (n, K): logits without attack; facts: of its training, for provenance; stock: what attacks
    are handed beyond it.
    """

    images: _Images
    classes: int
    defended: Defended
    clean: Tensor
    facts: dict[str, Any]
    stock: Stock

    @classmethod
    def deployed(cls, unit: Unit, say: Callable[[str], None]) -> _Pipeline:
        """Trains or loads the pipeline and asks it for the clean predictions."""
        cell, device = unit.todo[0].cell, torch.device(unit.device)
        dataset = dataset_of(unit.data, unit.data_root) if isinstance(unit.data, str) else unit.data
        images = _Images.of(dataset, cell.data.n, device)
        model = models.get(unit.model) if isinstance(unit.model, str) else unit.model
        defense = defenses.get(unit.defense) if isinstance(unit.defense, str) else unit.defense
        reference = cell.data.reference
        workshop = Workshop(
            model=model,
            train=dataset.train,
            validation=dataset.validation,
            shape=dataset.shape,
            classes=dataset.classes,
            fingerprint=dataset.fingerprint,
            device=device,
            numerics={"threads": cell.numerics.threads, "torch": torch.__version__},
            cache=None if unit.cache is None else Cache(unit.cache),
            say=say,
        )
        filled = defense.at(cell.norm, None if reference is None else float(reference))
        defended = filled.deploy(workshop)
        facts: dict[str, Any] = {}
        for trained in workshop.trained:
            facts |= trained.facts()
        predict, shape = defended.predict, cell.numerics.shape
        patient = Patient(predict)
        with frozen(predict):
            logits = predictions(patient, images.x, shape, classes=dataset.classes)
            again = predictions(patient, images.x[:shape], shape, classes=dataset.classes)
        check_labels("labels", images.y, *logits.shape)
        if not torch.allclose(again, logits[:shape], rtol=_SAME, atol=_SAME):
            raise ModelError("the model answers differently each time (dropout left on? noise?)")
        stock = Stock(
            dataset, unit.data_root, device, workshop.numerics, workshop.cache, workshop.say
        )
        return cls(images, dataset.classes, defended, logits, facts, stock)

    def attacked(
        self, item: Todo, named: str | Attack, in_flight: int | None
    ) -> Iterator[Moved | Done | Noted]:
        """One cell: every missing block, in one stream of samples."""
        cell, key = item.cell, item.cell.key
        recipe: Attack = attacks.get(named) if isinstance(named, str) else named
        recipe.check(cell.norm, self.classes)
        places = np.concatenate([np.arange(*_span(number, cell.data.n)) for number in item.blocks])
        blocks = {number: _Block(self, cell, number) for number in item.blocks}
        check_answers(self.clean, self.images.y, recipe.access)
        right = (self.clean.argmax(1) == self.images.y).cpu().numpy()
        todo = places[right[places]]
        start = time.perf_counter()
        moved = len(places) - len(todo)
        for number, block in blocks.items():
            block.settle_wrong(right)
            if block.is_complete:
                yield Done(key, number, block.arrays, 0.0)
        asked = self._asked(recipe)
        found: Iterable[Settled] = self._settled(recipe, asked, cell, todo, in_flight)
        if isinstance(recipe, Sourced):
            handed = self.stock.supplies(recipe)
            start = time.perf_counter()
            source = self._source(recipe, handed, asked, cell)
            yield Noted(key, source.provenance())
            asked = replace(asked, surrogate=source.model)
            # Queries of its own model cost an adversary nothing: no budget holds them.
            free = replace(cell, query_budget=None)
            found = map(_by_looks, self._settled(recipe.inner, asked, free, todo, in_flight))
        with frozen(asked.surrogate), frozen(self.defended.predict) as check:
            for settled in found:
                place = int(todo[settled.sample])
                block = blocks[place // BLOCK]
                block.settle(place, settled, self.images.x[place])
                moved += 1
                if block.is_complete:
                    check()
                    now = time.perf_counter()
                    yield Done(key, place // BLOCK, block.arrays, now - start)
                    start = now
                if block.is_complete or moved >= _MOST_UNTOLD:
                    yield Moved(key, moved)
                    moved = 0
        yield Moved(key, moved)
        if isinstance(asked.predict, Patient) and asked.predict.raised:
            yield Noted(key, {"raised": asked.predict.raised})

    def _asked(self, recipe: Attack) -> Defended:
        """The pipeline as an attack may ask it: a black box may raise now and then."""
        if recipe.access in DIFFERENTIATING:
            return self.defended
        predict = Patient(self.defended.predict)
        return replace(self.defended, predict=predict, surrogate=predict)

    def _source(self, recipe: Sourced, handed: Supplies, asked: Defended, cell: Cell) -> Source:
        """The model that an attack is made on; the pipeline tells it labels alone."""
        shape = cell.numerics.shape
        target = Labels(asked.predict, shape, self.classes)
        setting = Setting(cell.norm, self.classes, cell.seed, shape)
        eps = cell.eps[-1] if cell.data.reference is None else cell.data.reference
        with frozen(self.defended.predict):
            return recipe.prepare(target, handed, setting, self.images.x, float(eps))

    def _settled(
        self,
        recipe: Attack,
        asked: Defended,
        cell: Cell,
        places: NDArray[np.int64],
        in_flight: int | None,
    ) -> Iterator[Settled]:
        x, y = self.images.x, self.images.y
        radii = np.array([float(e) for e in cell.eps if e > 0])
        if not len(places) or not len(radii):
            for sample, place in enumerate(places):
                none = np.zeros(0, dtype=np.int64)
                yield Settled(sample, none > 0, none, none, x[place], 0, 0, 0)
            return
        index = torch.from_numpy(places).to(x.device)
        samples = Samples(x[index], y[index], self.images.ids[index], radii, groups=places // BLOCK)
        setting = Setting(
            norm=cell.norm,
            classes=self.classes,
            seed=cell.seed,
            shape=cell.numerics.shape,
            policy=cell.sweep,
            in_flight=in_flight,
            exact=asked.surrogate is asked.predict,
            budget=cell.query_budget,
        )
        judge = judge_of(asked.predict, samples, setting)
        yield from loop.sweep(recipe, asked.surrogate, judge, samples, setting)


def _by_looks(settled: Settled) -> Settled:
    """The result of an attack made on a source, as the target saw it: the queries of its first
    success are the images it was shown.
    """
    looks = np.where(settled.first > 0, settled.verify, settled.first)
    return replace(settled, first=looks)


def _span(number: int, n: int) -> tuple[int, int]:
    return number * BLOCK, min((number + 1) * BLOCK, n)


class _Block:
    """The arrays of one block while its samples are being settled."""

    def __init__(self, pipeline: _Pipeline, cell: Cell, number: int):
        first, last = _span(number, cell.data.n)
        self.first, self.norm, self.eps = first, cell.norm, [e for e in cell.eps if e > 0]
        size, images = last - first, pipeline.images
        self.open = size
        self.grid = np.array([float(e) for e in cell.eps])
        self.arrays: Arrays = {
            "index": images.positions[first:last],
            "id": images.ids[first:last].cpu().numpy(),
            "label": images.y[first:last].cpu().numpy(),
            "clean_prediction": pipeline.clean[first:last].argmax(1).cpu().numpy(),
            "min_eps": np.full(size, np.inf),
            "distance": np.full(size, np.nan),
            "forward": np.zeros(size, dtype=np.int64),
            "backward": np.zeros(size, dtype=np.int64),
            "verify": np.zeros(size, dtype=np.int64),
            "refused": np.zeros(size, dtype=np.int64),
            "queries": np.full((size, len(cell.eps)), NEVER, dtype=np.int64),
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
        self.arrays["queries"][wrong] = 0
        if "fooled" in self.arrays:
            self.arrays["fooled"][wrong] = 1
        self.open -= int(wrong.sum())

    def settle(self, place: int, settled: Settled, x: Tensor) -> None:
        """Notes a sample's result."""
        row = place - self.first
        self.open -= 1
        for name in ("forward", "backward", "verify", "refused"):
            self.arrays[name][row] = getattr(settled, name)
        if "fooled" in self.arrays:
            self.arrays["fooled"][row, len(self.grid) - len(self.eps) :] = settled.fooled
        self.arrays["queries"][row, len(self.grid) - len(self.eps) :] = settled.first
        if settled.fooled.any():
            self.arrays["min_eps"][row] = float(self.eps[int(settled.fooled.argmax())])
        if settled.found:
            delta = settled.x_adv.double() - x.double()
            self.arrays["distance"][row] = float(norms.size(delta[None], self.norm))

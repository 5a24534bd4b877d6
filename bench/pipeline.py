"""A deployed pipeline, the images it is judged on, and how a cell attacks it: per-sample outcomes,
block by block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks import loop
from attacks.base import Attack
from attacks.call import check_answers, check_labels
from attacks.oracles import DIFFERENTIATING, ModelError, Patient, Predict, frozen
from attacks.precision import Reduced
from attacks.registry import attacks
from attacks.sourced import GENERATOR, Labels, Source, Sourced, Supplies
from attacks.verify import judge_of
from attacks.work import Samples, Setting, Settled
from bench import data, detection, gallery, gradients, memory, proven
from bench.audit.cell import audited
from bench.audit.recipe import Audit
from bench.outcomes import Block, Images, span
from bench.plan import (
    BFLOAT16,
    BLOCK,
    CERTIFICATE,
    OBLIVIOUS,
    TRANSFER,
    Cell,
    Numerics,
    Todo,
)
from bench.supplies import Stock
from bench.units import Done, Moved, Noted, Unit
from defenses.base import Defended
from defenses.registry import defenses
from defenses.workshop import Workshop
from models.checkpoint import Cache
from models.registry import models

_SAME = 1e-4
"""Difference of logits between two passes from which on a model counts as random (the bound of
AutoAttack's checks)."""
_MOST_UNTOLD = 32
"""Samples settled at most before the watcher hears of them."""


@dataclass(frozen=True)
class Pipeline:
    """A deployed pipeline, the images it is judged on, and what it says of them clean.

    clean (n, K): logits without attack, under the first evaluation draw; right (n, draws): whether
    each draw gets it right; facts: of its training, for provenance; stock: what attacks are handed
    beyond it; workshop: where the undefended model comes from; keeps_images: see bench.units.
    """

    images: Images
    classes: int
    defended: Defended
    clean: Tensor
    right: NDArray[np.bool_]
    facts: dict[str, Any]
    stock: Stock
    workshop: Workshop
    keeps_images: bool = False

    @classmethod
    def deployed(cls, unit: Unit, say: Callable[[str], None]) -> Pipeline:
        """Trains or loads the pipeline and asks it for the clean predictions."""
        # An audit looks at the first of the images alone.
        cell = max((item.cell for item in unit.todo), key=lambda cell: cell.data.n)
        device = torch.device(unit.device)
        dataset = unit.data
        if isinstance(dataset, str):
            dataset = data.dataset_of(dataset, unit.data_root)
        images = Images.of(dataset, cell.data.n, device)
        model = models.get(unit.model) if isinstance(unit.model, str) else unit.model
        defense = defenses.get(unit.defense) if isinstance(unit.defense, str) else unit.defense
        reference = cell.data.reference
        workshop = dataset.workshop(
            model,
            device,
            numerics={"threads": cell.numerics.threads, "torch": torch.__version__},
            cache=None if unit.cache is None else Cache(unit.cache),
            say=say,
        )
        filled = defense.at(cell.norm, None if reference is None else float(reference))
        with memory.no_lever("training"):
            defended = filled.deploy(workshop)
        facts: dict[str, Any] = {}
        for trained in workshop.trained:
            facts |= trained.facts()
        facts |= (
            workshop.noted
            | defended.facts()
            | {"training_seconds": round(sum(workshop.seconds), 3), "asked": asked(unit, dataset)}
        )
        predict, shape, classes = defended.predict, cell.numerics.shape, dataset.classes
        patient = Patient(predict)
        with frozen(predict):
            said = [
                images.answers(patient, shape, draw=draw, classes=classes)
                for draw in range(defended.draws if defended.random else 1)
            ]
            again = images.first(shape).answers(patient, shape, classes=classes)
        logits = said[0]
        check_labels("labels", images.y, *logits.shape)
        if not torch.allclose(again, logits[:shape], rtol=_SAME, atol=_SAME):
            raise ModelError("the model answers differently each time (dropout left on? noise?)")
        stock = Stock(
            dataset, unit.data_root, device, workshop.numerics, workshop.cache, workshop.say
        )
        right = torch.stack([one.argmax(1) == images.y for one in said], 1).cpu().numpy()
        keeps = unit.keeps_images
        return cls(images, classes, defended, logits, right, facts, stock, workshop, keeps)

    def attacked(
        self, item: Todo, named: str | Attack | Audit, in_flight: int | None
    ) -> Iterator[Moved | Done | Noted]:
        """One cell: every missing block, in one stream of samples."""
        cell, key = item.cell, item.cell.key
        if cell.attack.kind == CERTIFICATE:
            yield from proven.certified(self, item)
            return
        if isinstance(named, Audit):
            yield from audited(self, item, named)
            return
        recipe: Attack = attacks.get(named) if isinstance(named, str) else named
        recipe.check(cell.norm, self.classes)
        check_answers(self.clean, self.images.y, recipe.access)
        blocks = {number: self.block(cell, number) for number in item.blocks}
        for number, block in blocks.items():
            block.settle_wrong(self.right)
            if block.is_complete:
                yield Done(key, number, block.arrays, 0.0, block.images)
        is_free = cell.attack.mode in (OBLIVIOUS, TRANSFER)
        with memory.no_lever("training"):
            asked = self.asked(recipe, cell.attack.mode)
            handed = self._supplies(recipe) if isinstance(recipe, Sourced) else None
        start = time.perf_counter()
        if isinstance(recipe, Sourced) and handed is not None:
            source = self._source(recipe, handed, asked, cell)
            yield Noted(key, source.provenance())
            asked = replace(asked, surrogate=source.model, exact=False)
            recipe, is_free = source.attack or recipe.inner, True
        yield Moved(key, sum(block.settled for block in blocks.values()))
        # Queries of its own model cost an adversary nothing: no budget holds them.
        held = replace(cell, query_budget=None) if is_free else cell
        found = self._settled(recipe, asked, held, item.blocks, in_flight)
        told = map(_by_looks, found) if is_free else found
        shown: dict[int, Tensor] = {}
        with frozen(asked.surrogate), frozen(self.defended.predict) as check:
            yield from self._gathered(key, blocks, told, check, start, shown)
        if facts := self._seen(recipe, asked, item, shown):
            yield Noted(key, facts)

    def _seen(
        self, recipe: Attack, asked: Defended, item: Todo, shown: Mapping[int, Tensor]
    ) -> dict[str, Any]:
        """What else is known after an attack: how often a black box raised; of a gradient attack
        whether gradients reached the image, and what a detector makes of its images; what a
        purifier makes of those found, the first of which are `shown`.
        """
        facts: dict[str, Any] = {}
        cell = item.cell
        eps = float(cell.eps[-1] if cell.data.reference is None else cell.data.reference)
        images, setting, mode = self.images, self.setting(cell, asked), cell.attack.mode
        # Of a cell that goes on after its first block the first images were found before.
        if asked.purified is not None and 0 in item.blocks:
            facts["gallery"] = gallery.gallery(self.defended, images, shown, eps)
        if isinstance(asked.predict, Patient):
            return facts | ({"raised": asked.predict.raised} if asked.predict.raised else {})
        if recipe.access in DIFFERENTIATING:
            with frozen(asked.surrogate):
                right = images.take(np.flatnonzero(self.right.all(1))[: gradients.MOST])
                facts["gradients"] = gradients.zero(asked.surrogate, right, setting)
        if asked.score is not None and mode != TRANSFER:
            few = images.first(detection.MOST)
            facts["detection"] = detection.facts(
                asked, recipe, asked.surrogate, few.x, few.y, eps, setting
            )
        return facts

    def _supplies(self, recipe: Sourced) -> Supplies:
        """What an attack on another model is handed; one that needs the generator has as its source
        the classifier behind it.
        """
        if GENERATOR not in recipe.needs:
            return self.stock.supplies(recipe)
        behind: Any = self.defended.handed(recipe.mode)
        return Supplies(sources=(behind,), generator=self.defended.generator)

    def _gathered(
        self,
        key: str,
        blocks: Mapping[int, Block],
        found: Iterable[_Found],
        check: Callable[[], None],
        start: float,
        shown: dict[int, Tensor],
    ) -> Iterator[Moved | Done]:
        """Settled samples into their blocks; a block that is complete is told at once. The first
        adversarial images are put into `shown`, by place.
        """
        moved = 0
        for place, settled, image in found:
            block = blocks[place // BLOCK]
            if place < gallery.SHOWN:
                shown[place] = settled.x_adv.clone()
            block.settle(place, settled, image)
            # They may be views into a part of the images, which is over with its last sample.
            del settled, image
            moved += 1
            if block.is_complete:
                check()
                now = time.perf_counter()
                yield Done(key, place // BLOCK, block.arrays, now - start, block.images)
                start = now
            if block.is_complete or moved >= _MOST_UNTOLD:
                yield Moved(key, moved)
                moved = 0
        yield Moved(key, moved)

    def block(self, cell: Cell, number: int) -> Block:
        """A block of a cell before anything is settled."""
        draws, keeps = self.right.shape[1], self.keeps_images
        return Block(self.images, self.clean.argmax(1), draws, cell, number, keeps_images=keeps)

    def asked(self, recipe: Attack, mode: str) -> Defended:
        """The pipeline as an attack may ask it: oblivious ones see the undefended classifier, a
        black box may raise now and then.
        """
        if mode == OBLIVIOUS:
            inside = self.defended.inside
            plain = self.workshop.of(self.workshop.model).undefended() if inside is None else inside
            return replace(self.defended, surrogate=plain, exact=False)
        if mode == TRANSFER and not isinstance(recipe, Sourced):
            return replace(self.defended, surrogate=self._substitute(), exact=False)
        if recipe.access in DIFFERENTIATING:
            handed = self.defended.handed(mode)
            exact = self.defended.exact and handed is self.defended.surrogate
            return replace(self.defended, surrogate=handed, exact=exact)
        predict = Patient(self.defended.predict)
        return replace(self.defended, predict=predict, surrogate=predict)

    def _substitute(self) -> nn.Module:
        """An undefended net that the pipeline has nothing of: the model with another seed, a small
        one where the model is given.
        """
        model = self.workshop.model
        other = models.get("cnn_small") if model.is_trained else model
        return self.workshop.of(replace(other, seed=model.seed + 1)).undefended()

    def _source(self, recipe: Sourced, handed: Supplies, asked: Defended, cell: Cell) -> Source:
        """The model that an attack is made on; the pipeline tells it labels alone."""
        shape = cell.numerics.shape
        target = Labels(asked.predict, shape, self.classes)
        setting = Setting(cell.norm, self.classes, cell.seed, shape)
        eps = cell.eps[-1] if cell.data.reference is None else cell.data.reference
        with frozen(self.defended.predict):
            return recipe.prepare(target, handed, setting, self.images.first(1).x, float(eps))

    def _settled(
        self,
        recipe: Attack,
        asked: Defended,
        cell: Cell,
        blocks: Sequence[int],
        in_flight: int | None,
    ) -> Iterator[_Found]:
        """What an attack found: in one stream where the images fit, else part by part."""
        setting = replace(self.setting(cell, asked), in_flight=in_flight)
        for part in self.images.parts(blocks):
            places = np.concatenate([np.arange(*span(number, cell.data.n)) for number in part])
            places = places[self.right[places].any(1)]
            if len(places):
                yield from self._of_part(recipe, asked, cell, places, setting)

    def _of_part(
        self,
        recipe: Attack,
        asked: Defended,
        cell: Cell,
        places: NDArray[np.int64],
        setting: Setting,
    ) -> Iterator[_Found]:
        """What it found for images that are made together."""
        x = self.images.at(places)
        radii = np.array([float(e) for e in cell.eps if e > 0])
        if not len(radii):
            none = np.zeros(0, dtype=np.int64)
            fell = np.zeros((0, self.right.shape[1]), dtype=np.bool_)
            for sample, place in enumerate(places.tolist()):
                yield place, Settled(sample, fell, none, none, x[sample], 0, 0, 0), x[sample]
            return
        index = torch.from_numpy(places).to(x.device)
        y, ids = self.images.y[index], self.images.ids[index]
        samples = Samples(x, y, ids, radii, groups=places // BLOCK)
        judge = judge_of(asked.predict, samples, setting)
        searched = _searched(asked.surrogate, cell.numerics)
        for settled in loop.sweep(recipe, searched, judge, samples, setting):
            yield int(places[settled.sample]), settled, x[settled.sample]

    def setting(self, cell: Cell, asked: Defended) -> Setting:
        """How the loop runs a cell."""
        return Setting(
            norm=cell.norm,
            classes=self.classes,
            seed=cell.seed,
            shape=cell.numerics.shape,
            policy=cell.sweep,
            exact=not asked.random and (asked.exact or asked.surrogate is asked.predict),
            budget=cell.query_budget,
            eot=cell.eot,
            draws=self.right.shape[1],
        )


def asked(unit: Unit, dataset: data.Dataset) -> dict[str, str]:
    """The specs by which dataset, model and defense can be had again; empty for a live object."""
    specs = {"model": unit.model, "defense": unit.defense}
    texts = {name: spec if isinstance(spec, str) else "" for name, spec in specs.items()}
    return {"dataset": dataset.spec, **texts}


def _searched(model: Predict, how: Numerics) -> Predict:
    """The model as attacks ask it."""
    reduced = how.precision == BFLOAT16
    if reduced or how.channels_last:
        return Reduced(model, bfloat16=reduced, channels_last=how.channels_last)
    return model


_Found = tuple[int, Settled, Tensor]
"""A place, what an attack found there, and the image (...) that it was made of."""


def _by_looks(found: _Found) -> _Found:
    """The result of an attack made on a source, as the target saw it: the queries of its first
    success are the images it was shown.
    """
    place, settled, image = found
    looks = np.where(settled.first > 0, settled.verify, settled.first)
    return place, replace(settled, first=looks), image

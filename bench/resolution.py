"""A request resolved: names become recipes, recipes become cells; whatever cannot be run is refused
before any work.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from torch import nn

from attacks.base import Attack
from attacks.oracles import DIFFERENTIATING
from attacks.pipelines import EOT
from attacks.registry import attacks
from attacks.sourced import GENERATOR, Sourced
from bench import data, plan
from bench.audit.recipe import SAMPLES, Audit
from bench.bounds import Bounded
from bench.data import dataset_of
from bench.datasets import budget
from bench.devices import device_of, numerics_of
from bench.errors import RequestError
from bench.parts import attack_part_of, data_part_of, model_part_of, named_attacks
from bench.plan import (
    CERTIFICATE,
    OBLIVIOUS,
    TRANSFER,
    AttackPart,
    Cell,
    DataPart,
    Numerics,
    Part,
    Todo,
)
from bench.precision import Precisions
from bench.shapes import Shapes
from bench.spec import Request, parse_grid, valid
from bench.units import Unit
from defenses.base import Defense, Usual
from defenses.registry import defenses
from models import checkpoint
from models.recipes import Classifier
from models.registry import models

CERTIFIED = AttackPart(
    "certify", {"name": "certify", "revision": 1}, "certified", CERTIFICATE, None
)
"""What stands in an attack's place in the cell of a certificate."""


@dataclass(frozen=True)
class Sources:
    """The things behind a cell's texts, as units need them: specs, or live objects."""

    data: str | data.Dataset
    model: str | Classifier
    defense: str | Defense
    attack: str | Attack | Audit


@dataclass(frozen=True)
class Job:
    """A request resolved: its cells, what stands behind each (by key), how they are run, where
    compute shapes are kept, notes: what was chosen that a user may not expect, a line each, and
    whether adversarial images are kept.
    """

    cells: tuple[Cell, ...]
    sources: Mapping[str, Sources]
    data_root: Path | None
    device: str
    batch_size: int | None
    cache: Path | None
    shapes: Shapes
    notes: tuple[str, ...] = ()
    save_adversarial: bool = False

    def halved(self, keys: Collection[str]) -> Job:
        """The same with these cells under half their compute shape."""
        made = {
            cell.key: cell.under(cell.numerics.shape // 2) if cell.key in keys else cell
            for cell in self.cells
        }
        sources = {cell.key: self.sources[key] for key, cell in made.items()}
        return replace(self, cells=tuple(made.values()), sources=sources)

    def of(self, cells: Sequence[Cell]) -> Job:
        """The same with some of its cells alone."""
        return replace(
            self, cells=tuple(cells), sources={c.key: self.sources[c.key] for c in cells}
        )

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
                    keeps_images=self.save_adversarial,
                )
            )
        return made


def resolve(request: Request) -> Job:
    """Loads the datasets, builds the recipes and plans the cells; refuses whatever cannot be run,
    before any work.
    """
    device = device_of(request.device)
    shapes = Shapes.on(device)
    made: dict[str, tuple[Cell, Sources]] = {}
    notes: list[str] = []
    for text in request.datasets:
        wanted = _Wanted.of(request, text, device, shapes)
        for planned, sources in wanted.cells():
            cell = shapes.fitted(planned)
            made.setdefault(cell.key, (cell, sources))
        notes += wanted.notes()
    return Job(
        cells=tuple(cell for cell, _ in made.values()),
        sources={key: source for key, (_, source) in made.items()},
        data_root=request.data_root,
        device=device,
        batch_size=request.batch_size,
        cache=checkpoint.cache_folder(),
        shapes=shapes,
        notes=tuple(dict.fromkeys(notes)),
        save_adversarial=request.save_adversarial,
    )


_Asked = tuple[str, Attack, AttackPart]
"""An attack's spec, recipe and part."""


@dataclass(frozen=True)
class _Wanted:
    """What a request asks of one dataset; defenses by their specs."""

    request: Request
    text: str
    dataset: data.Dataset
    defenses: Mapping[str, Defense]
    eps: tuple[Fraction, ...]
    reference: Fraction
    data: DataPart
    device: str
    precisions: Precisions
    shapes: Shapes
    bounded: Bounded

    @classmethod
    def of(cls, request: Request, text: str, device: str, shapes: Shapes) -> _Wanted:
        """The dataset loaded, its grid and its evaluated subset."""
        dataset = dataset_of(text, request.data_root)
        row = budget(dataset.kind, dataset.shape[0], request.norm)
        made: dict[str, Defense] = {name: valid(defenses.get, name) for name in request.rows}
        # Every row of a run is judged on the same images at the same radii, so that they compare.
        usual = [own for each in made.values() if (own := each.usual(dataset.shape)) is not None]
        grid = f"0,{row.reference}" if usual else row.grid
        most = min([len(dataset.test), *(own.n for own in usual)]) if usual else None
        eps, reference = parse_grid(request.eps or grid, request.norm), Fraction(row.reference)
        n = most if request.n is None else request.n
        if request.until_ci is not None:
            n = plan.first_size(request.n, request.until_ci, len(dataset.test))
        part = data_part_of(dataset, n, reference)
        precisions = Precisions(request.precision, device, checkpoint.cache_folder())
        bounded = Bounded(request.bounds, request.norm, dataset.shape, dataset.classes)
        return cls(
            request=request,
            text=text,
            dataset=dataset,
            defenses=made,
            eps=eps,
            reference=reference,
            data=part,
            device=device,
            precisions=precisions,
            shapes=shapes,
            bounded=bounded,
        )

    def cells(self) -> Iterator[tuple[Cell, Sources]]:
        """Every cell: pipelines by attacks and seeds, the modes of each, then certificates."""
        asked = [self._attack(text) for text in self._named()]
        check_generator([attack for _, attack, _ in asked], list(self.defenses.values()))
        for model, name in itertools.product(self.request.models, self.defenses):
            yield from self._of_pipeline(model, name, asked)

    def notes(self) -> Iterator[str]:
        """Which defenses made the run smaller than it would be without them, in what precision the
        cells planned so far search, and which have no bound that was asked for.
        """
        yield from self.precisions.notes
        yield from self.bounded.notes
        free = [f"--{name}" for name in ("n", "eps") if getattr(self.request, name) is None]
        dear = [name for name in self.defenses if self.defenses[name].usual(self.dataset.shape)]
        if dear and free:
            shown = ", ".join(repr(float(e)) for e in self.eps)
            names = f"{', '.join(dear)} on {self.dataset.name}"
            yield (
                f"{names} is dear to ask: every row on {self.data.n} images at eps {shown}; "
                f"{', '.join(free)} ask for more"
            )

    def _of_pipeline(
        self, model: str, name: str, asked: Sequence[_Asked]
    ) -> Iterator[tuple[Cell, Sources]]:
        """The cells of one defended model."""
        request, defense = self.request, self.defenses[name]
        usual = defense.usual(self.dataset.shape)
        known = model_part_of(model, self.dataset, self.data.n, self.device)
        base = Cell(
            data=self.data,
            model=known,
            defense=self._defense(defense),
            attack=CERTIFIED,
            norm=request.norm,
            eps=self.eps,
            seed=request.seeds[0],
            sweep=request.sweep,
            numerics=self._numerics(model, known, usual),
        )
        attacked = [*asked, *self._own(defense, asked)]
        rows: list[tuple[Attack, int | None]] = []
        for (spec, attack, part), seed in itertools.product(attacked, request.seeds):
            for mode in self._modes(attack, defense):
                eot = self._eot(usual) if "eot" in mode.split("+") else 1
                cell = replace(
                    base,
                    attack=replace(part, mode=mode, queries=_queries(attack, part, eot)),
                    seed=seed,
                    query_budget=request.query_budget,
                    eot=eot,
                    numerics=self._searched(attack, model, base.numerics),
                )
                yield cell, Sources(self.text, model, name, spec)
                is_best = mode == defense.adaptive or attack.access not in DIFFERENTIATING
                rows += [(attack, cell.most_queries)] if is_best else []
        if request.norm in defense.certifies:
            yield base, Sources(self.text, model, name, "")
        bound = self.bounded.of(model, name, defense)
        if bound is not None:
            yield replace(base, attack=bound), Sources(self.text, model, name, "")
        if request.audit and self.eps[-1] > 0:
            mode = defense.adaptive
            eot = self._eot(usual) if "eot" in mode.split("+") else 1
            audit = Audit.of(rows)
            yield (
                audited(base, audit, self.dataset, mode, eot),
                Sources(self.text, model, name, audit),
            )

    def _searched(self, attack: Attack, model: str, own: Numerics) -> Numerics:
        """Those of an attack on a model; an untrained net tells how fast its architecture is."""
        if not self.precisions.reduces(attack):
            return own
        shape, classes = self.dataset.shape, self.dataset.classes

        def net() -> nn.Module:
            recipe: Classifier = valid(models.get, model)
            return recipe.build(shape, classes)

        return self.precisions.of(own, model, net, shape, classes)

    def _modes(self, attack: Attack, defense: Defense) -> tuple[str, ...]:
        """Those of the attack; not that on a substitute where there is nothing to train one on."""
        modes = modes_of(attack, defense, oblivious=self.request.oblivious)
        if isinstance(attack, Sourced) or _can_train(self.dataset):
            return modes
        return tuple(mode for mode in modes if mode != TRANSFER)

    def _numerics(self, model: str, known: Part, usual: Usual | None) -> Numerics:
        """Those of the device, under the shape that pays for the model unless the pipeline is dear
        to ask.
        """
        found = _numerics(self.device, usual)
        if usual is not None:
            return found
        shape, classes = self.dataset.shape, self.dataset.classes
        recipe: Classifier = models.get(model)
        return self.shapes.paying(
            found, self.device, known, shape, lambda: recipe.build(shape, classes)
        )

    def _eot(self, usual: Usual | None) -> int:
        """Answers of a random pipeline averaged per query."""
        wanted = self.request.eot
        return wanted or (EOT if usual is None else usual.eot)

    def _defense(self, defense: Defense) -> Part:
        """A defense as plain values: shown as asked for, known by what the run fills in."""
        norm, reference = self.request.norm, float(self.reference)
        filled: Defense = valid(lambda _: defense.at(norm, reference), "")
        validation = self.dataset.validation
        count = 0 if validation is None else len(validation)
        valid(lambda _: filled.check_data(self.dataset.shape, count), "")
        return Part(defense.to_spec(), filled.identity())

    def _named(self) -> list[str]:
        return named_attacks(self.request.attacks, self.request.norm, self.dataset.classes)

    def _own(self, defense: Defense, asked: Sequence[_Asked]) -> list[_Asked]:
        """The attacks built for a defense; one that nobody asked for does not refuse a norm."""
        found: dict[str, Attack] = {
            text: valid(attacks.get, text) for text in defense.own_attacks(self.dataset.shape)
        }
        kinds = {type(attack) for _, attack, _ in asked}
        return [
            self._attack(text)
            for text, attack in found.items()
            if self.request.norm in attack.norms and type(attack) not in kinds
        ]

    def _attack(self, text: str) -> _Asked:
        attack: Attack = valid(attacks.get, text)
        request = self.request
        part = attack_part_of(
            attack,
            request.norm,
            self.dataset,
            self.eps,
            request.query_budget,
            root=request.data_root,
        )
        return text, attack, part


def audited(base: Cell, audit: Audit, dataset: data.Dataset, mode: str, eot: int) -> Cell:
    """The cell of an audit beside those of a pipeline, made with base: its first images at the eps
    where they are read.
    """
    few = data_part_of(dataset, min(base.data.n, SAMPLES), base.data.reference)
    known = base.data.reference in base.eps
    radius = base.data.reference if known and base.data.reference is not None else base.eps[-1]
    return replace(
        base,
        data=few,
        attack=replace(audit.part(), mode=mode),
        eps=(Fraction(0), radius),
        sweep="ladder",
        query_budget=None,
        eot=eot,
    )


def modes_of(attack: Attack, defense: Defense, *, oblivious: bool) -> tuple[str, ...]:
    """What an attack is handed of a defended pipeline, a mode for each cell: gradient attacks what
    the defense declares, and before it the undefended classifier of an adversary who does not know
    of the defense.
    """
    if GENERATOR in attack.needs and not defense.has_generator:
        return ()
    if isinstance(attack, Sourced) or attack.access not in DIFFERENTIATING:
        return (attack.mode,)
    if defense.is_baseline or not oblivious:
        return defense.modes
    return OBLIVIOUS, *defense.modes


def _can_train(dataset: data.Dataset) -> bool:
    return dataset.train is not None and dataset.validation is not None


def check_generator(asked: Sequence[Attack], made: Sequence[Defense]) -> None:
    """Refuses an attack that needs a generator where no defense has one."""
    for attack in asked:
        if GENERATOR in attack.needs and not any(defense.has_generator for defense in made):
            raise RequestError(
                f"{attack.to_spec()} needs a defense with a generator, such as purify"
            )


def _numerics(device: str, usual: Usual | None) -> Numerics:
    """Those of a device, with fewer rows on the CPU for a pipeline that is dear to ask."""
    found = numerics_of(device)
    return found if usual is None or device != "cpu" else replace(found, shape=usual.rows)


def _queries(attack: Attack, part: AttackPart, eot: int) -> int | None:
    """Forward queries at most where a query is the mean of so many answers."""
    return None if part.queries is None else part.queries * max(eot, attack.eot) // attack.eot

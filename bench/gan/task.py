"""What is asked of `bench gan`, every part of it checked before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.registry import attacks
from attacks.threat import ThreatModel
from bench.data import Dataset, assemble
from bench.errors import RequestError
from bench.features import Bench
from bench.gan.drawing import Sampler
from bench.report.gan.portrait import TEST
from bench.spec import Request, valid
from defenses.workshop import Workshop
from models import stacked
from models.external_generator import ExternalGenerator
from models.gans import Gan
from models.inversion import Inversion
from models.penultimate import Penultimate
from models.split import Split
from models.studio import Studio

SAMPLES = 10_000
"""Most samples that are measured where nothing else is asked for."""
LEAST, MOST = 100, 100_000
_SAMPLED, _STACKED = 1, 3
"""Seeds of samples of other generators, and of the draw of stacked digits."""


@dataclass(frozen=True)
class Settings:
    """What is asked for beside dataset, classifier and attack.

    others None: the same generator, untrained; labels: classes asked of a conditional generator,
    () for all; psi: truncation of the samples, None for none; samples None: as many as there are
    training images, at most 10,000, of stacked digits 26,000.
    """

    generator: str
    others: tuple[str, ...] | None
    steps: int
    restarts: int
    labels: tuple[int, ...]
    psi: float | None
    samples: int | None
    stacked: bool
    retrain: bool


@dataclass(frozen=True)
class Task:
    """What is asked for, every part of it checked.

    dataset: what is trained on and looked at, stacked digits where they are asked for; train: its
    training images.
    """

    bench: Bench
    dataset: Dataset
    train: Split
    workshop: Workshop
    recipe: Gan
    others: tuple[Gan, ...]
    inversion: Inversion
    attack: Attack
    samples: int
    settings: Settings
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, request: Request, settings: Settings, say: Callable[[str], None]) -> Task:
        """Loads the dataset; refuses whatever cannot be carried out."""
        bench = Bench.of(request, say)
        recipe: Gan = valid(Gan.from_spec, settings.generator)
        _check(settings, recipe)
        others = _others(recipe, settings.others)
        inversion = valid(lambda _: Inversion(settings.steps, settings.restarts), "")
        _check_stacked(bench.dataset, settings)
        dataset = _stacked(bench.dataset) if settings.stacked else bench.dataset
        workshop = bench.workshop(request.models[0])
        _check_classes(recipe, dataset)
        for build in (recipe.build, *(other.build for other in others)):
            _refused(build, dataset.shape)
        _refused(lambda: Penultimate(workshop.net()))
        index, train = torch.from_numpy(dataset.subset(request.n)), dataset.train
        if train is None:
            raise RequestError(f"{dataset.name} has no training split")
        return cls(
            bench,
            dataset,
            train,
            workshop,
            recipe,
            others,
            inversion,
            _attack(request, dataset.classes),
            settings.samples or _usual(train, settings),
            settings,
            dataset.test.images(index, bench.device),
            dataset.test.y[index].to(bench.device),
        )

    @property
    def studio(self) -> Studio:
        """Where the dataset's generators come from."""
        bench = self.bench
        if self.dataset is bench.dataset:
            return self.workshop.studio()
        cache, numerics = self.workshop.cache, self.workshop.numerics
        model, device, say = self.workshop.model, bench.device, bench.say
        return self.dataset.workshop(
            model, device, numerics=numerics, cache=cache, say=say
        ).studio()

    def images(self, net: nn.Module, studio: Studio) -> dict[str, Tensor]:
        """The images (n, C, H, W) that are no own samples, by where they come from."""
        found = {TEST: self.x}
        for other in self.others:
            made = Sampler(studio.ready(other).generator)
            found[f"samples of {other.to_spec()}"] = made.images(len(self.x), _SAMPLED)
        threat = ThreatModel(self.bench.request.norm, float(self.bench.reference))
        self.bench.say(f"attacking the classifier with {self.attack.to_spec()}")
        name = f"adversarial: {self.attack.to_spec()}, {threat.norm} eps = {threat.eps:g}"
        found[name] = valid(lambda _: self.attack(net, self.x, self.y, threat), "")
        return found


def _check(settings: Settings, recipe: Gan) -> None:
    """Refuses what the recipe and numbers alone tell to be wrong."""
    if settings.retrain and (recipe.is_given or recipe.is_untrained):
        raise RequestError(f"--retrain trains, and {recipe.to_spec()} is not trained")
    if settings.psi is not None and not 0 < settings.psi <= 1:
        raise RequestError(f"truncation must be in (0, 1], got {settings.psi}")
    if settings.samples is not None and not LEAST <= settings.samples <= MOST:
        raise RequestError(f"samples must be from {LEAST} to {MOST}, got {settings.samples}")
    if settings.labels and not recipe.labels:
        raise RequestError(
            f"--label asks for a class, and {recipe.to_spec()} cannot be asked: name a conditional "
            "generator"
        )
    for label in settings.labels:
        if not 0 <= label < recipe.labels:
            raise RequestError(f"label must be from 0 to {recipe.labels - 1}, got {label}")


def _check_stacked(dataset: Dataset, settings: Settings) -> None:
    if settings.stacked and dataset.shape[0] != 1:
        raise RequestError(
            f"--stacked stacks images of one channel, and those of {dataset.name} have "
            f"{dataset.shape[0]}"
        )


def _check_classes(recipe: Gan, dataset: Dataset) -> None:
    """Refuses to train a generator on classes that it cannot be asked for."""
    if recipe.labels and not recipe.is_given and recipe.labels < dataset.classes:
        raise RequestError(
            f"{recipe.to_spec()} can be asked for {recipe.labels} classes, and {dataset.name} has "
            f"{dataset.classes}"
        )


def _refused(build: Callable[..., object], *arguments: object) -> None:
    """Builds what will be needed later, for the refusals alone."""
    valid(lambda _: build(*arguments), "")


def _usual(train: Split, settings: Settings) -> int:
    """How many samples are measured where nothing is said."""
    return stacked.SAMPLES if settings.stacked else max(LEAST, min(SAMPLES, len(train)))


def _stacked(dataset: Dataset) -> Dataset:
    """Stacked digits drawn from either split on its own, as many as there are digits, and for
    training at least as many as samples are looked at.
    """
    train, classes = dataset.train, dataset.classes
    if train is not None:
        count = max(len(train), stacked.SAMPLES)
        train = stacked.stacked(train, classes, count, _STACKED)
    test = stacked.stacked(dataset.test, classes, len(dataset.test), _STACKED)
    return assemble(f"stacked_{dataset.name}", dataset.kind, test, train, classes**3)


def _others(recipe: Gan, texts: tuple[str, ...] | None) -> tuple[Gan, ...]:
    """The generators whose samples are tested, each once; by default the same one untrained, where
    it can be.
    """
    if texts is None:
        # One of the user's own has no updates, and is not trained anyway.
        is_own = isinstance(recipe, ExternalGenerator)
        return () if is_own or recipe.is_untrained else (replace(recipe, updates=0, weights=None),)
    return tuple(dict.fromkeys(valid(Gan.from_spec, text) for text in texts))


def _attack(request: Request, classes: int) -> Attack:
    attack: Attack = valid(attacks.get, request.attacks[0])
    valid(lambda _: attack.check(request.norm, classes), "")
    if attack.needs:
        raise RequestError(f"{attack.to_spec()} needs {' and '.join(attack.needs)}: name another")
    return attack

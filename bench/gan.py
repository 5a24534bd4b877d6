"""What `bench gan` does: a generator trained or loaded, its samples looked at, and how well it
inverts its own samples, test images, those of other generators, and adversarial ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.registry import attacks
from attacks.threat import ThreatModel
from bench.devices import numerics, threads
from bench.errors import RequestError, StoreError
from bench.features import Bench
from bench.report.gan import OWN, PAIRS, SHOWN, TEST, Portrait, Source
from bench.runner import provenance
from bench.spec import Request, valid
from defenses.workshop import Workshop
from models import checkpoint
from models.external_generator import ExternalGenerator
from models.gans import Gan
from models.generators import Generator
from models.inversion import Inversion, Inverted
from models.membership import inverted, membership, roc
from models.registry import generators
from models.studio import Ready, Studio

SAMPLES = 1000
"""Own samples whose classes are counted; those that are inverted and drawn are the first of
them.
"""
_ROWS = 512
_SAMPLED, _STARTED = 1, 2
"""Seeds of samples, and of the inversions' starts."""


@dataclass(frozen=True)
class Settings:
    """What is asked for beside dataset, classifier and attack; others None: the same generator,
    untrained.
    """

    generator: str
    others: tuple[str, ...] | None
    steps: int
    restarts: int
    retrain: bool


@dataclass(frozen=True)
class Task:
    """What is asked for, every part of it checked."""

    bench: Bench
    workshop: Workshop
    recipe: Gan
    others: tuple[Gan, ...]
    inversion: Inversion
    attack: Attack
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, request: Request, settings: Settings, say: Callable[[str], None]) -> Task:
        """Loads the dataset; refuses whatever cannot be carried out."""
        bench = Bench.of(request, say)
        recipe: Gan = valid(generators.get, settings.generator)
        if settings.retrain and (recipe.is_given or recipe.is_untrained):
            raise RequestError(f"--retrain trains, and {recipe.to_spec()} is not trained")
        others = _others(recipe, settings.others)
        workshop, shape = bench.workshop(request.models[0]), bench.dataset.shape
        for build in (recipe.build, *(other.build for other in others)):
            _refused(build, shape)
        _refused(workshop.net)
        index = torch.from_numpy(bench.dataset.subset(request.n))
        return cls(
            bench,
            workshop,
            recipe,
            others,
            valid(lambda _: Inversion(settings.steps, settings.restarts), ""),
            _attack(request, bench.dataset.classes),
            bench.dataset.test.images(index, bench.device),
            bench.dataset.test.y[index].to(bench.device),
        )

    def images(self, net: nn.Module, studio: Studio) -> dict[str, Tensor]:
        """The images (n, C, H, W) that are no own samples, by where they come from."""
        found = {TEST: self.x}
        for other in self.others:
            made = studio.ready(other).generator
            found[f"samples of {other.to_spec()}"] = made.sample(len(self.x), _SAMPLED)
        threat = ThreatModel(self.bench.request.norm, float(self.bench.reference))
        self.bench.say(f"attacking the classifier with {self.attack.to_spec()}")
        name = f"adversarial: {self.attack.to_spec()}, {threat.norm} eps = {threat.eps:g}"
        found[name] = valid(lambda _: self.attack(net, self.x, self.y, threat), "")
        return found


def _refused(build: Callable[..., object], *arguments: object) -> None:
    """Builds what will be needed later, for the refusals alone."""
    valid(lambda _: build(*arguments), "")


@dataclass(frozen=True)
class Made:
    """A generator, what is told of it, and the facts that its file carries."""

    ready: Ready
    portrait: Portrait
    facts: dict[str, Any]


def _others(recipe: Gan, texts: tuple[str, ...] | None) -> tuple[Gan, ...]:
    """The generators whose samples are tested, each once; by default the same one untrained, where
    it can be.
    """
    if texts is None:
        # One of the user's own has no updates, and is not trained anyway.
        is_own = isinstance(recipe, ExternalGenerator)
        return () if is_own or recipe.is_untrained else (replace(recipe, updates=0, weights=None),)
    return tuple(dict.fromkeys(valid(generators.get, text) for text in texts))


def _attack(request: Request, classes: int) -> Attack:
    attack: Attack = valid(attacks.get, request.attacks[0])
    valid(lambda _: attack.check(request.norm, classes), "")
    if attack.needs:
        raise RequestError(f"{attack.to_spec()} needs {' and '.join(attack.needs)}: name another")
    return attack


def look(request: Request, settings: Settings, say: Callable[[str], None]) -> Made:
    """Trains or loads the generator and measures it; refuses what cannot be carried out before any
    work.
    """
    task = Task.of(request, settings, say)
    studio, workshop = task.workshop.studio(), task.workshop
    with numerics(threads()):
        if settings.retrain:
            studio.forget(task.recipe)
        ready = replace(studio, has_pretrained=not settings.retrain).ready(task.recipe)
        net = workshop.undefended()
        drawn = ready.generator.sample(max(SAMPLES, len(task.x)), _SAMPLED)
        images = {OWN: drawn[: len(task.x)], **task.images(net, studio)}
        found = _inverted(ready.generator, images, task.inversion, say)
        again = found[TEST].images
        counts = _counts(net, drawn[:SAMPLES], task.bench.dataset.classes)
        clean, kept = (_right(net, x, task.y) for x in (task.x, again))
    portrait = Portrait(
        dataset=task.bench.dataset.name,
        generator=task.recipe.to_spec(),
        source=ready.source,
        model=workshop.model.to_spec(),
        inversion=f"L = {settings.steps}, R = {settings.restarts}",
        parameters=sum(p.numel() for p in ready.generator.parameters()),
        size=sum(t.numel() * t.element_size() for t in ready.generator.state_dict().values()),
        weights=ready.digest,
        log=tuple(ready.log),
        counts=counts,
        clean=clean,
        kept=kept,
        sources=_sources(found),
        samples=drawn[:SHOWN].cpu().numpy(),
        images=task.x[:PAIRS].cpu().numpy(),
        inverted=again[:PAIRS].cpu().numpy(),
        command=provenance(str(task.bench.device))["command"],
    )
    dataset = task.bench.dataset
    made_of = task.recipe.made_of(dataset.shape, dataset.fingerprint)
    facts = {"log": ready.log, "made_of": made_of, "spec": task.recipe.to_spec()}
    return Made(ready, portrait, facts)


def _inverted(
    generator: Generator,
    images: Mapping[str, Tensor],
    inversion: Inversion,
    say: Callable[[str], None],
) -> dict[str, Inverted]:
    """The inversion of each source's images, all from the same starts."""
    found = {}
    for name, x in images.items():
        say(f"inverting {name}")
        found[name] = inverted(generator, x, inversion, _STARTED)
    return found


def _sources(found: Mapping[str, Inverted]) -> tuple[Source, ...]:
    """Errors per source, and how well they tell it from own samples."""
    own = found[OWN].error
    made = [Source(OWN, tuple(own.tolist()))]
    for name, each in found.items():
        if name != OWN:
            told, (false, true) = membership(own, each.error), roc(own, each.error)
            curve = tuple(zip(false.tolist(), true.tolist(), strict=True))
            made.append(Source(name, tuple(each.error.tolist()), told.auc, told.tpr, curve))
    return tuple(made)


def _answers(net: nn.Module, x: Tensor) -> Tensor:
    """The classes (N,) that the classifier sees."""
    with torch.no_grad():
        return torch.cat([net(rows).argmax(1) for rows in torch.split(x, _ROWS)])


def _counts(net: nn.Module, x: Tensor, classes: int) -> tuple[int, ...]:
    return tuple(torch.bincount(_answers(net, x), minlength=classes).tolist())


def _right(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return int((_answers(net, x) == y).sum()) / len(y)


def write(path: Path, made: Made) -> Path:
    """The generator as a file, with the facts that models.gans.pretrained looks for."""
    try:
        checkpoint.write(path, made.ready.generator.state_dict(), made.facts)
    except OSError as err:
        raise StoreError(f"{path} cannot be written ({err.strerror})") from err
    return path

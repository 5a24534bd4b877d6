"""A generator trained or loaded, and its portrait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.devices import numerics, threads
from bench.errors import StoreError
from bench.gan import growth, measuring, walking
from bench.gan.drawing import Sampler
from bench.gan.eye import Eye
from bench.gan.measuring import Real
from bench.gan.task import Settings, Task
from bench.report.gan.portrait import (
    OWN,
    TEST,
    Arithmetic,
    Look,
    Measure,
    Portrait,
    Source,
    Stacked,
)
from bench.runner import provenance
from bench.spec import Request
from models import checkpoint
from models.generators import Generator
from models.inversion import Inversion, Inverted
from models.membership import inverted, membership, roc
from models.studio import Ready

PAIRS = 10
"""Test images with their inversions that are drawn."""
_SAMPLED, _STARTED = 1, 2
"""Seeds of samples, and of the inversions' starts."""


@dataclass(frozen=True)
class Made:
    """A generator, what is told of it, and the facts that its file carries."""

    ready: Ready
    portrait: Portrait
    facts: dict[str, Any]


def look(request: Request, settings: Settings, say: Callable[[str], None]) -> Made:
    """Trains or loads the generator and measures it; refuses what cannot be carried out before any
    work.
    """
    task = Task.of(request, settings, say)
    studio = task.studio
    with numerics(threads()):
        if settings.retrain:
            studio.forget(task.recipe)
        ready = replace(studio, has_pretrained=not settings.retrain).ready(task.recipe)
        eye = Eye.of(
            task.workshop.undefended(),
            task.workshop.model.to_spec(),
            is_stacked=settings.stacked,
        )
        images = task.images(eye.net, studio)
        portrait = _portrait(task, ready, eye, images)
    made_of = task.recipe.made_of(task.dataset.shape, task.dataset.fingerprint)
    facts = {"log": ready.log, "made_of": made_of, "spec": task.recipe.to_spec()}
    return Made(ready, portrait, facts)


def _portrait(task: Task, ready: Ready, eye: Eye, images: Mapping[str, Tensor]) -> Portrait:
    """Everything that is measured of a generator."""
    generator, settings, say = ready.generator, task.settings, task.bench.say
    sampler = Sampler(generator, settings.psi)
    say(f"drawing {task.samples:,} {sampler.text}")
    drawn = sampler.images(max(task.samples, len(task.x)), _SAMPLED)
    inversion = task.inversion
    found = _inverted(generator, {OWN: drawn[: len(task.x)], **images}, inversion, say)
    again = found[TEST].images
    real = Real.of(task.train, eye, task.samples, task.dataset.classes, task.bench.device)
    # Stacked digits are drawn alike, and so is the class that a latent asks for.
    is_even = settings.stacked or generator.classes > 0
    prior = (1,) * task.dataset.classes if is_even else real.counts
    final = growth.look(drawn[: task.samples], eye, prior)
    past = growth.history(ready.album, eye, prior, task.bench.device)
    say(f"comparing samples with training images on {eye.layer}")
    near, is_blind = measuring.fidelities(drawn[: task.samples], real, eye, sampler.text)
    truncated, under = measuring.truncations(generator, real, eye, task.samples)
    held_out = task.dataset.test
    neighbours, copies = measuring.memories(drawn, task.train, held_out, sampler.text, say)
    ways, smooth = walking.walks(generator, eye)
    sums, added, missed = _arithmetic(generator, eye, settings)
    if sampler.is_whole:
        findings = growth.failures(past, final, ignores_latent=is_blind)
        unnamed = []
    else:
        findings = () if past is None else past.findings
        unnamed = [f"what is wrong by name in the end, as these are {sampler.text}"]
    return Portrait(
        dataset=task.dataset.name,
        generator=task.recipe.to_spec(),
        source=ready.source,
        model=eye.name,
        weights=ready.digest,
        log=tuple(ready.log),
        history=past,
        final=final,
        real=real.counts,
        findings=findings,
        clean=eye.right(task.x, task.y),
        kept=eye.right(again, task.y),
        sources=_sources(found),
        sampled=sampler.text,
        samples=[(k, x.cpu().numpy()) for k, x in sampler.rows(drawn, settings.labels)],
        images=task.x[:PAIRS].cpu().numpy(),
        inverted=again[:PAIRS].cpu().numpy(),
        inversion=f"L = {settings.steps}, R = {settings.restarts}",
        walks=ways,
        arithmetic=sums,
        neighbours=neighbours,
        truncated=truncated,
        stacked=_triples(final) if settings.stacked else None,
        measures=(*near, *under, *copies, *smooth, *added, *_asked(sampler, eye), *_size(ready)),
        missing=(*_unseen(ready), *unnamed, *missed),
        command=provenance(str(task.bench.device))["command"],
    )


def _arithmetic(
    generator: Generator, eye: Eye, settings: Settings
) -> tuple[Arithmetic | None, list[Measure], tuple[str, ...]]:
    """The sums, their measures, and where there are none the reason."""
    if settings.stacked:
        return None, [], ("latent arithmetic, as triples are too many classes",)
    try:
        return *walking.arithmetic(generator, eye), ()
    except ValueError as err:
        return None, [], (f"latent arithmetic, as {err}",)


def _triples(final: Look) -> Stacked:
    return Stacked(np.asarray(final.counts), final.seen.divergence)


def _asked(sampler: Sampler, eye: Eye) -> list[Measure]:
    """Of a conditional generator: how often it makes the class that is asked for."""
    classes = sampler.generator.classes
    if not classes:
        return []
    share, count = sampler.obeys(eye)
    of = f"{count:,} {sampler.text}, {classes} classes alike, seen by {eye.name}"
    return [Measure("requested label right (%)", 100 * share, of)]


def _size(ready: Ready) -> list[Measure]:
    generator = ready.generator
    size = sum(t.numel() * t.element_size() for t in generator.state_dict().values())
    return [
        Measure("parameters", sum(p.numel() for p in generator.parameters()), "generator"),
        Measure("size (MB)", size / 1e6, "generator"),
    ]


def _unseen(ready: Ready) -> tuple[str, ...]:
    """What is not shown of a training that was not here."""
    if ready.album:
        return ()
    what = "samples and coverage over time, as "
    if ready.source in ("given", "untrained"):
        return (f"{what}the generator is {ready.source}",)
    return (f"{what}the training was not here: --retrain trains again",)


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


def write(path: Path, made: Made) -> Path:
    """The generator as a file, with the facts that models.studio.pretrained looks for."""
    try:
        checkpoint.write(path, made.ready.generator.state_dict(), made.facts)
    except OSError as err:
        raise StoreError(f"{path} cannot be written ({err.strerror})") from err
    return path

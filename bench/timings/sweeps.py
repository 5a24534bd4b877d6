"""What a curve over many radii costs against a full run at each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from attacks.base import StepAttack, Task
from attacks.draws import Draws, sample_ids
from attacks.loop import craft, sweep
from attacks.oracles import held
from attacks.registry import attacks
from attacks.verify import judge_of, score
from attacks.work import Samples, Setting, Settled
from bench import memory
from bench.data import load
from bench.spec import SWEEPS
from bench.timings.clock import interleaved
from bench.timings.row import Row
from defenses.registry import defenses
from models.checkpoint import Cache, cache_folder
from models.registry import models

SPEC, NORM = "pgd", "linf"
NETS = ("none", "advtrain")
"""Defenses of the nets: a standard and a robust one."""
REFERENCE = 0.15
CLASSES = 10
RADII = 20
LARGEST = 0.3
IMAGES = 128


def problem(
    defense: str, images: int, radii: int, say: Callable[[str], None]
) -> tuple[nn.Module, Samples]:
    """A trained net (from the cache where it is there), and the first digits that it gets right."""
    dataset = load("digits", None)
    workshop = dataset.workshop(
        models.get("cnn_small"),
        torch.device("cpu"),
        numerics={"threads": torch.get_num_threads(), "torch": torch.__version__},
        cache=Cache(cache_folder()),
        say=say,
    )
    net: nn.Module = defenses.get(defense).at(NORM, REFERENCE).deploy(workshop).predict
    x = dataset.test.images(torch.arange(len(dataset.test)), workshop.device)
    with held(net), torch.no_grad():
        right = torch.nonzero(net(x).argmax(1) == dataset.test.y)[:images, 0]
    grid = LARGEST * np.arange(1, radii + 1) / radii
    return net, Samples(x[right], dataset.test.y[right], sample_ids(x[right]), grid)


def swept(net: nn.Module, samples: Samples, recipe: StepAttack, policy: str) -> list[Settled]:
    """Every sample over all radii."""
    setting = Setting(NORM, CLASSES, 0, IMAGES, policy=policy)
    return list(sweep(recipe, net, judge_of(net, samples, setting), samples, setting))


def full(net: nn.Module, samples: Samples, recipe: StepAttack) -> None:
    """Every step of the attack and a last look, at every radius, from scratch: what a loop over
    radii around an attack that never stops early costs.
    """
    x, y = samples.x, samples.y
    draws = Draws(0, samples.ids, torch.zeros_like(samples.ids))
    for eps in samples.radii:
        radius = torch.full((len(x),), float(eps), device=x.device)
        task = Task(x, y, NORM, radius, CLASSES, draws)
        points = craft(recipe, net, task, steps=recipe.horizon(float(eps), NORM, CLASSES) - 1)
        with torch.no_grad():
            score(net(points), points, x, y, radius, NORM)


def rows(
    rounds: int,
    say: Callable[[str], None],
    *,
    nets: Sequence[str] = NETS,
    images: int = IMAGES,
    radii: int = RADII,
) -> Iterator[Row]:
    """Every sweep that there is, on every net."""
    recipe: StepAttack = attacks.get(SPEC)
    for defense in nets:
        net, samples = problem(defense, images, radii, say)
        whole = sum(recipe.horizon(float(eps), NORM, CLASSES) for eps in samples.radii)
        for policy in SWEEPS:
            run = functools.partial(swept, net, samples, recipe, policy)
            bare = functools.partial(full, net, samples, recipe)
            with held(net):
                found: list[Settled] = []
                peak = memory.watched(samples.x.device)
                found.extend(run())
                most_mb = peak()
                seconds, floor_s = interleaved((run, bare), rounds)
            yield Row(
                part="sweep",
                name=policy,
                on=f"{defense}, {radii} radii, {len(samples)} digits",
                seconds=seconds,
                floor="full run per radius",
                floor_s=floor_s,
                queries=float(np.mean([settled.forward for settled in found])),
                floor_queries=float(whole),
                peak_mb=most_mb,
            )

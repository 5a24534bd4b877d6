"""What a step of an attack costs over its floor: the forwards, losses and gradients to the input
that the attack's definition needs, with frozen parameters, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.base import StepAttack
from attacks.draws import sample_ids
from attacks.loop import sweep
from attacks.losses import CROSS_ENTROPY
from attacks.oracles import held
from attacks.registry import attacks
from attacks.work import Samples, Setting, Settled
from bench import memory
from bench.timings.clock import interleaved
from bench.timings.row import Row
from models.registry import models
from models.seeding import seeded

BATCH = 128
SHAPE = (1, 28, 28)
CLASSES = 10
WITHIN = 1e-6
"""A radius inside which nothing is fooled, so that no step is left out."""
FAR = 28.0
"""One that holds every success that a minimal attack finds."""


@dataclass(frozen=True)
class Trial:
    """An attack whose steps are timed: its spec, norm, the most that it should take over its floor,
    and by net the number of steps (or queries) taken; none for an attack that has no such key.
    """

    spec: str
    norm: str
    target: float
    steps: dict[str, int] = dataclasses.field(default_factory=dict)

    def recipe(self, net: str, most: int | None = None) -> StepAttack:
        """The attack with the steps that it takes on this net, or at most so many."""
        recipe: StepAttack = attacks.get(self.spec)
        if not self.steps:
            return recipe
        count = self.steps[net] if most is None else min(most, self.steps[net])
        changes: Any = {"steps" if hasattr(recipe, "steps") else "queries": count}
        shortened: StepAttack = dataclasses.replace(recipe, **changes)  # type: ignore[type-var]
        return shortened


NETS = ("cnn_small", "cnn")
_FEW = {"cnn_small": 40, "cnn": 6}
TRIALS = (
    Trial("fgsm", "linf", 1.05),
    Trial("pgd", "linf", 1.05, _FEW),
    Trial("apgd", "linf", 1.10, _FEW),
    Trial("ddn", "l2", 1.05, _FEW),
    Trial("fmn", "linf", 1.15, _FEW),
    Trial("fmn", "l2", 1.15, _FEW),
    Trial("cw:search=1", "l2", 1.10, _FEW),
    Trial("deepfool", "l2", 1.5, {"cnn_small": 4, "cnn": 2}),
    Trial("square", "linf", 1.10, {"cnn_small": 100, "cnn": 12}),
)


@dataclass(frozen=True)
class Subject:
    """A net with frozen parameters, and images (BATCH, ...) with the labels that it gives them and
    what their draws are keyed by.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor

    @classmethod
    def of(cls, name: str, device: str = "cpu") -> Subject:
        """An untrained net and random images: a step takes as long on them as on any."""
        with seeded(0):
            net = models.get(name).build(SHAPE, CLASSES)
        net = net.to(device).eval().requires_grad_(requires_grad=False)
        x = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.no_grad():
            return cls(net, x, net(x).argmax(1), sample_ids(x).to(device))

    def swept(self, recipe: StepAttack, norm: str) -> list[Settled]:
        """The attack as the loop runs it, every sample at one radius; without the clean pass and
        the re-check.
        """
        radius = FAR if recipe.kind == "minimal" else WITHIN
        samples = Samples(self.x, self.y, self.ids, np.array([radius]))
        setting = Setting(norm, CLASSES, 0, BATCH)
        return list(sweep(recipe, self.net, _believing, samples, setting))


def _believing(points: Tensor, samples: Any, radius: Tensor) -> Any:  # noqa: ARG001  a judge's signature
    return np.ones((len(points), 1), np.bool_)


@dataclass(frozen=True)
class Passes:
    """Passes of a batch through the model: steps, each a forward with a loss and `backwards`
    gradients to the input, and looks, forwards without a gradient.
    """

    steps: int
    backwards: int
    looks: int


def passes(subject: Subject, recipe: StepAttack, norm: str) -> Passes:
    """Those that the attack's definition needs; of one that stops by itself, those that it made."""
    if recipe.access != "jacobian":
        radius = FAR if recipe.kind == "minimal" else WITHIN
        asked = recipe.horizon(radius, norm, CLASSES)
        return Passes(0, 0, asked) if recipe.access == "logits" else Passes(asked - 1, 1, 1)
    calls = Passed(subject.net)
    dataclasses.replace(subject, net=calls).swept(recipe, norm)
    steps = calls.backwards // CLASSES
    return Passes(steps, CLASSES, calls.forwards - steps)


class Passed(nn.Module):
    """Another model, with the calls that went forward and backward through it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """The other's logits."""
        self.forwards += 1
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._note)  # type: ignore[no-untyped-call]
        return logits

    def _note(self, _: Tensor) -> None:
        self.backwards += 1


def floor(subject: Subject, recipe: StepAttack, needed: Passes) -> None:
    """The passes and nothing else."""
    loss = getattr(recipe, "loss", CROSS_ENTROPY)
    net, x, y = subject.net, subject.x, subject.y
    for _ in range(needed.steps):
        leaf = x.detach().requires_grad_()
        logits = net(leaf)
        if needed.backwards == 1:
            torch.autograd.grad(loss(logits, y).sum(), leaf)
            continue
        each = logits.sum(0)
        for place in range(needed.backwards):
            torch.autograd.grad(each[place], leaf, retain_graph=place + 1 < needed.backwards)
    with torch.no_grad():
        for _ in range(needed.looks):
            net(x)


def pair(
    subject: Subject, recipe: StepAttack, norm: str
) -> tuple[Callable[[], list[Settled]], Callable[[], None]]:
    """The attack and its floor, to be timed by turns."""
    needed = passes(subject, recipe, norm)
    return (
        lambda: subject.swept(recipe, norm),
        lambda: floor(subject, recipe, needed),
    )


def rows(
    rounds: int,
    *,
    nets: Sequence[str] = NETS,
    trials: Sequence[Trial] = TRIALS,
    most: int | None = None,
    device: str = "cpu",
) -> Iterator[Row]:
    """Every trial on every net, with at most so many steps, warmed up once."""
    for name in nets:
        subject = Subject.of(name, device)
        for trial in trials:
            recipe = trial.recipe(name, most)
            with held(subject.net):
                attacked, bare = pair(subject, recipe, trial.norm)
                bare()
                found: list[Settled] = []
                peak = memory.watched(torch.device(device))
                found.extend(attacked())
                most_mb = peak()
                seconds, floor_s = interleaved((attacked, bare), rounds)
            yield Row(
                part="step",
                name=f"{recipe.to_spec()} {trial.norm}",
                on=f"{name}, batch {BATCH}",
                seconds=seconds,
                floor="own passes",
                floor_s=floor_s,
                target=trial.target,
                queries=float(np.mean([settled.forward for settled in found])),
                peak_mb=most_mb,
            )

"""Whole accuracy-vs-eps curves by PGD, as the users of each library get them, and ours; all on a
net that counts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attacks
import bench
from attacks import norms
from attacks.verify import predictions, score
from bench.spec import SWEEPS
from models.seeding import seeded_everywhere

STEPS, BATCH, NORM = 40, 128, "linf"
SHARE = 2.5 / STEPS
"""Of the radius: the step size."""
OURS = "ours: "


@dataclass
class Tally:
    """Rows through a net, forward and backward; copies of the net add to the same."""

    forward: int = 0
    backward: int = 0

    def __deepcopy__(self, memo: object) -> Tally:
        return self


class _Mark(torch.autograd.Function):
    """The identity; counts the rows whose gradient passes back through it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tally: Tally) -> Tensor:
        ctx.tally = tally
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.tally.backward += len(gradient)
        return gradient, None


class Counting(nn.Module):
    """A net that counts the rows it is given, those that only fill a batch included."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.tally = net, Tally()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.tally.forward += len(x)
        logits: Tensor = self.net(_Mark.apply(x, self.tally))
        return logits


@dataclass(frozen=True)
class Task:
    """What is attacked: a net, images x (n, C, H, W), labels y (n,), the radii in ascending order,
    the seed of the random starts.
    """

    net: Counting
    x: Tensor
    y: Tensor
    radii: tuple[float, ...]
    seed: int = 0

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, BATCH at a time."""
        return zip(self.x.split(BATCH), self.y.split(BATCH), strict=True)


@dataclass(frozen=True)
class Curve:
    """What a sweep left: per radius the share of images that stand, and how many of the points
    returned for images right without attack lie outside ball or box.
    """

    accuracy: tuple[float, ...]
    outside: int = 0


Points = Sequence[Tensor]
"""Per radius the images (n, C, H, W) that a library returned."""


def _foolbox(task: Task) -> Points:
    """Its own list of radii."""
    library = importlib.import_module("foolbox")
    attack = library.attacks.LinfPGD(rel_stepsize=SHARE, steps=STEPS, random_start=True)
    model = library.PyTorchModel(task.net, bounds=(0, 1), device=task.x.device)
    parts = [attack(model, x, y, epsilons=list(task.radii))[1] for x, y in task.batches()]
    return [torch.cat(points) for points in zip(*parts, strict=True)]


def _torchattacks(task: Task) -> Points:
    """An attack object per radius."""
    library = importlib.import_module("torchattacks")
    found = []
    for eps in task.radii:
        attack = library.PGD(task.net, eps=eps, alpha=SHARE * eps, steps=STEPS, random_start=True)
        found.append(torch.cat([attack(x, y) for x, y in task.batches()]))
    return found


def _advlib(task: Task) -> Points:
    """A call per radius; random starts are its default."""
    attack = importlib.import_module("adv_lib.attacks").pgd_linf
    keys: dict[str, Any] = {"steps": STEPS, "relative_step_size": SHARE}
    return [
        torch.cat([attack(task.net, x, y, eps, **keys) for x, y in task.batches()])
        for eps in task.radii
    ]


def _art(task: Task) -> Points:
    """An attack object per radius; it takes all images and makes the batches."""
    classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model=task.net,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(task.x.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = importlib.import_module("art.attacks.evasion").ProjectedGradientDescent
    x, y = task.x.numpy(), task.y.numpy()
    keys: dict[str, Any] = {"max_iter": STEPS, "batch_size": BATCH, "verbose": False}
    found = []
    for eps in task.radii:
        one = attack(classifier, eps=eps, eps_step=SHARE * eps, num_random_init=1, **keys)
        found.append(torch.from_numpy(one.generate(x, y)))
    return found


def _ours(task: Task, sweep: str) -> bench.Run:
    """The public call, in which every success is re-checked."""
    return bench.evaluate(
        task.net,
        (task.x, task.y),
        f"pgd:steps={STEPS}",
        norm=NORM,
        eps=list(task.radii),
        seed=task.seed,
        sweep=sweep,
        audit=False,
    )


def verdict(task: Task, points: Points) -> Curve:
    """What our own check of label, ball and box says of a library's points."""
    net, x, y = task.net.net, task.x, task.y
    right = predictions(net, x, BATCH).argmax(1) == y
    accuracy, outside = [], 0
    for eps, made in zip(task.radii, points, strict=True):
        radius = torch.full((len(x),), eps)
        fell = score(predictions(net, made, BATCH), made, x, y, radius, NORM)
        accuracy.append(float((right & ~fell).float().mean()))
        outside += int((right & ~norms.inside(made, x, radius, NORM)).sum())
    return Curve(tuple(accuracy), outside)


def told(run: bench.Run) -> Curve:
    """What ours stores, which is re-checked: a sweep that judges every radius for itself says so,
    else an image stands below the radius at which it fell.
    """
    (record,) = run.records
    samples = record.samples
    grid = np.array([float(eps) for eps in record.eps])
    stands = samples["min_eps"][:, None] > grid
    if "fooled" in samples:
        stands = samples["fooled"] == 0
    return Curve(tuple(map(float, stands.mean(0))))


@dataclass(frozen=True)
class Entrant:
    """Who takes part. sweep: the timed call; read: what is made of its result, untimed; module: the
    library it needs, none for ours; is_frozen: the net's parameters are frozen meanwhile, where a
    user's are trainable.
    """

    name: str
    sweep: Callable[[Task], Any]
    read: Callable[[Task, Any], Curve] = field(default=verdict)
    module: str = ""
    is_frozen: bool = False

    @property
    def is_here(self) -> bool:
        """Whether its library is installed."""
        return not self.module or find_spec(self.module) is not None

    def seeded(self, task: Task) -> Any:
        """The timed call under the task's seed, for libraries that draw from global generators."""
        with seeded_everywhere(task.seed):
            return self.sweep(task)


PEERS = (
    Entrant("foolbox", _foolbox, module="foolbox"),
    Entrant("torchattacks", _torchattacks, module="torchattacks"),
    Entrant("adversarial-library", _advlib, module="adv_lib"),
    Entrant("ART", _art, module="art"),
)


def ours(sweep: str) -> Entrant:
    """Our sweep under a policy."""
    return Entrant(f"{OURS}{sweep}", lambda task: _ours(task, sweep), lambda _, run: told(run))


ENTRANTS = (*PEERS, *map(ours, SWEEPS))


def _floor(task: Task) -> None:
    """As many forwards, losses and gradients to the input as PGD's definition needs."""
    for x, y in task.batches():
        for _ in range(STEPS):
            _gradient(task.net, x, y)


def _bare(task: Task) -> Points:
    """PGD as a few lines of torch."""
    (eps,) = task.radii
    found = []
    for x, y in task.batches():
        point = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(STEPS):
            point = point + SHARE * eps * _gradient(task.net, point, y).sign()
            point = torch.min(torch.max(point, x - eps), x + eps).clamp(0, 1)
        found.append(point)
    return [torch.cat(found)]


def _gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
    return gradient


def _alone(task: Task) -> Points:
    """One attack of ours, called on tensors."""
    (eps,) = task.radii
    recipe = attacks.get(f"pgd:steps={STEPS}")
    threat = attacks.ThreatModel(NORM, eps)
    return [recipe(task.net, task.x, task.y, threat, seed=task.seed, shape=BATCH)]


FLOOR = "floor"
SINGLE = (
    Entrant(FLOOR, _floor, lambda *_: Curve(()), is_frozen=True),
    Entrant("bare loop", _bare, is_frozen=True),
    *PEERS,
    Entrant("ours", _alone),
)
"""One attack at one radius, to be held against its floor."""

"""Attacks of foolbox (github.com/bethgelab/foolbox)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attacks.base import Task
from attacks.foreign.peers import Library, Peer, Traits, class_of, radius_of
from attacks.threat import NORMS

FOOLBOX = Library.with_extra("foolbox", "foolbox", "foolbox")
_ORDERS = {0: "l0", 1: "l1", 2: "l2", float("inf"): "linf"}
_OURS = ("distance", "constraint", "tensorboard")
_BY_LABELS = (
    "AdditiveGaussianNoise",
    "AdditiveUniformNoise",
    "Blended",
    "Binarization",
    "Boundary",
    "ContrastReduction",
    "Dataset",
    "GaussianBlur",
    "HopSkipJump",
    "Inversion",
    "Pointwise",
    "SaltAndPepper",
)
"""Parts of the names of those that see decisions only."""


@dataclass(frozen=True)
class Foolbox(Peer):
    """An attack of foolbox: at a radius its result clipped to the ball, else its nearest one."""

    def craft(self, model: nn.Module, task: Task) -> Tensor:
        """See ForeignAttack."""
        lib = FOOLBOX.load(type(self).__name__)
        distance = getattr(lib.distances, task.norm)
        keys = self.given() | self.fitting(distance=distance, constraint=task.norm)
        criterion = (
            lib.criteria.Misclassification(task.y)
            if task.targets is None
            else lib.criteria.TargetedMisclassification(task.targets)
        )
        asked = lib.PyTorchModel(model, bounds=(0, 1), device=task.x.device)
        eps = radius_of(task) if self.kind == "budget" else None
        _, clipped, _ = self.found(**keys)(asked, task.x.clone(), criterion, epsilons=eps)
        points: Tensor = clipped
        return points


def recipe(name: str) -> type[Peer]:
    """The class of `foolbox:NAME`."""
    lib, kinds = FOOLBOX.load(name), FOOLBOX.load(name, "foolbox.attacks.base")
    wanted = kinds.FixedEpsilonAttack, kinds.MinimizationAttack
    table = {
        key: value
        for key, value in vars(lib.attacks).items()
        if isinstance(value, type) and issubclass(value, wanted) and not inspect.isabstract(value)
    }
    found = FOOLBOX.choose(name, table)
    traits = Traits(
        kind="budget" if issubclass(found, kinds.FixedEpsilonAttack) else "minimal",
        norms=_norms(found),
        access=_access(found.__name__),
        can_target=True,
        revision=FOOLBOX.revision,
    )
    return class_of(Foolbox, f"foolbox:{name}", found, traits, without=_OURS)


def _norms(found: Any) -> tuple[str, ...]:
    parameters = inspect.signature(found).parameters
    if "constraint" in parameters:
        return "linf", "l2"
    if "distance" in parameters:
        return NORMS
    distance = getattr(found, "distance", None)
    if isinstance(distance, property):
        distance = getattr(found(), "distance", None)
    return NORMS if distance is None else (_ORDERS[distance.p],)


def _access(name: str) -> str:
    if name == "GenAttack":
        return "logits"
    return "labels" if any(part in name for part in _BY_LABELS) else "gradient"

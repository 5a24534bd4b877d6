"""Attacks of torchattacks (github.com/Harry24k/adversarial-attacks-pytorch)."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Task
from attacks.foreign.peers import Library, Peer, Traits, class_of, labels_of, radius_of
from attacks.threat import NORMS

TORCHATTACKS = Library(
    "torchattacks",
    "torchattacks",
    "torchattacks",
    ", whose pins clash with current packages; install it beside in an environment of its own",
)
_EPS = ("eps", "max_epsilon")
_OURS = ("model", "norm", "seed", "n_classes", "verbose", *_EPS)
_ACCESS = {
    "GN": "labels",
    "OnePixel": "logits",
    "Pixle": "logits",
    "SPSA": "logits",
    "Square": "logits",
    "VANILA": "labels",
}
_NOT_ALONE = ("LGV", "MultiAttack")
"""Those that need other attacks or data."""


@dataclass(frozen=True)
class Torchattacks(Peer):
    """An attack of torchattacks."""

    def craft(self, model: nn.Module, task: Task) -> Tensor:
        """See ForeignAttack."""
        eps = radius_of(task)
        ours = self.fitting(
            norm=task.norm.title(),
            seed=torch.initial_seed() % 2**31,
            n_classes=task.classes,
            eps=eps,
            max_epsilon=eps,
        )
        attack = self.found(model, **self.given(), **ours)
        if task.targets is not None:
            attack.set_mode_targeted_by_label(quiet=True)
        points: Tensor = attack(task.x.clone(), labels_of(task))
        return points


def recipe(name: str) -> type[Peer]:
    """The class of `torchattacks:NAME`."""
    lib = TORCHATTACKS.load(name)
    table = {
        key: value
        for key, value in vars(lib).items()
        if isinstance(value, type) and key not in _NOT_ALONE
    }
    found = TORCHATTACKS.choose(name, table)
    parameters = inspect.signature(found).parameters
    traits = Traits(
        kind="budget" if any(eps in parameters for eps in _EPS) else "minimal",
        norms=_norms(found),
        access=_ACCESS.get(name, "gradient"),
        can_target="targeted" in found(nn.LayerNorm(1)).supported_mode,
        revision=TORCHATTACKS.revision,
    )
    return class_of(Torchattacks, f"torchattacks:{name}", found, traits, without=_OURS)


def _norms(found: Any) -> tuple[str, ...]:
    """Those of the line `Distance Measure : Linf, L2`."""
    said = re.search(r"Distance Measure\s*:(.*)", inspect.getdoc(found) or "")
    named = [norm for norm in NORMS if said and norm in said.group(1).lower()]
    return tuple(named) or NORMS

"""Attacks of adversarial-library (github.com/jeromerony/adversarial-library)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attacks.base import Task
from attacks.foreign.peers import Library, Peer, Traits, class_of, labels_of, radius_of
from attacks.threat import NORMS

ADVLIB = Library(
    "advlib",
    "adv_lib",
    "adv-lib",
    ", one of whose dependencies no longer builds; install it beside in an environment of its own",
)
_EPS = ("eps", "ε")
_ORDERS = {"linf": float("inf"), "l2": 2, "l1": 1, "l0": 0}
_OURS = ("model", "inputs", "images", "labels", "targeted", "callback", "penalty")
_SET = ("norm", "p", "distance", "num_classes")
"""Those whose values the task decides."""
_NORMS = {
    "alma": "l2 l1",
    "apgd": "linf l2 l1",
    "apgd_targeted": "linf l2 l1",
    "carlini_wagner_l2": "l2",
    "carlini_wagner_linf": "linf",
    "ddn": "l2",
    "df": "linf l2",
    "fab": "linf l2 l1",
    "fga": "l0",
    "fmn": "linf l2 l1 l0",
    "pdgd": "l2",
    "pdpgd": "linf l2 l1 l0",
    "pgd_linf": "linf",
    "sdf": "l2",
    "sigma_zero": "l0",
    "tr": "linf l2",
    "vfga": "l0",
}


@dataclass(frozen=True)
class Advlib(Peer):
    """An attack of adversarial-library."""

    def craft(self, model: nn.Module, task: Task) -> Tensor:
        """See ForeignAttack."""
        order = _ORDERS[task.norm]
        ours = self.fitting(
            norm=order,
            p=order,
            distance=task.norm,
            num_classes=task.classes,
            targeted=task.targets is not None,
        )
        if self.kind == "budget":
            ours |= self.fitting(**dict.fromkeys(_EPS, radius_of(task)))
        points: Tensor = self.found(model, task.x.clone(), labels_of(task), **self.given(), **ours)
        return points


def recipe(name: str) -> type[Peer]:
    """The class of `advlib:NAME`: one with an eps that must be given is a budget attack (an eps
    with a default is something else).
    """
    lib = ADVLIB.load(name, "adv_lib.attacks")
    table = {key: value for key, value in vars(lib).items() if inspect.isfunction(value)}
    found: Any = ADVLIB.choose(name, table)
    parameters = inspect.signature(found).parameters
    is_budget = any(
        eps in parameters and parameters[eps].default is inspect.Parameter.empty for eps in _EPS
    )
    traits = Traits(
        kind="budget" if is_budget else "minimal",
        norms=tuple(_NORMS[name].split()) if name in _NORMS else NORMS,
        can_target="targeted" in parameters,
        revision=ADVLIB.revision,
    )
    without = (*_OURS, *_SET, *(_EPS if is_budget else ()))
    return class_of(Advlib, f"advlib:{name}", found, traits, without=without)

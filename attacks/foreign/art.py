"""Attacks of ART (github.com/Trusted-AI/adversarial-robustness-toolbox)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.base import Task
from attacks.foreign.peers import Library, Peer, Traits, class_of, labels_of, radius_of
from attacks.threat import NORMS

ART = Library.with_extra("art", "art", "adversarial-robustness-toolbox")
_OURS = (
    *("classifier", "estimator", "norm", "eps", "targeted"),
    *("batch_size", "verbose", "summary_writer"),
)
_ORDERS: dict[str, int | float] = {"linf": np.inf, "l2": 2, "l1": 1}
_NORMS = {
    "BasicIterativeMethod": "linf",
    "BoundaryAttack": "l2",
    "CarliniL0Method": "l0",
    "CarliniL2Method": "l2",
    "CarliniLInfMethod": "linf",
    "DeepFool": "l2",
    "ElasticNet": "l1",
    "GeoDA": "linf l2 l1",
    "HopSkipJump": "linf l2",
    "NewtonFool": "l2",
    "PixelAttack": "l0",
    "SaliencyMapMethod": "l0",
    "SignOPTAttack": "l2",
    "SimBA": "l2",
    "VirtualAdversarialMethod": "l2",
    "ZooAttack": "l2",
}
_ACCESS = {
    "BoundaryAttack": "labels",
    "GeoDA": "labels",
    "HopSkipJump": "labels",
    "PixelAttack": "logits",
    "SignOPTAttack": "labels",
    "SimBA": "logits",
    "SpatialTransformation": "labels",
    "SquareAttack": "logits",
    "ThresholdAttack": "logits",
    "ZooAttack": "logits",
}


@dataclass(frozen=True)
class Art(Peer):
    """An attack of ART; its eps_step is at most the radius, as it demands."""

    def craft(self, model: nn.Module, task: Task) -> Tensor:
        """See ForeignAttack."""
        classifiers = ART.load(type(self).__name__, "art.estimators.classification")
        classifier = classifiers.PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(task.x.shape[1:]),
            nb_classes=task.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if task.x.is_cuda else "cpu",
        )
        keys, eps = self.given(), radius_of(task)
        if self.kind == "budget" and "eps_step" in keys:
            keys["eps_step"] = min(keys["eps_step"], eps)
        ours = self.fitting(
            norm=_ORDERS.get(task.norm, task.norm),
            eps=eps,
            targeted=task.targets is not None,
            batch_size=len(task.x),
            verbose=False,
        )
        attack = self.found(classifier, **keys, **ours)
        made = attack.generate(task.x.cpu().numpy(), labels_of(task).cpu().numpy())
        return torch.from_numpy(np.asarray(made, dtype=np.float32)).to(task.x.device)


def recipe(name: str) -> type[Peer]:
    """The class of `art:NAME`."""
    evasion = ART.load(name, "art.attacks.evasion")
    base = ART.load(name, "art.attacks.attack").EvasionAttack
    classifier = ART.load(name, "art.estimators.classification").PyTorchClassifier
    table = {
        key: value
        for key, value in vars(evasion).items()
        if isinstance(value, type) and issubclass(value, base) and _attacks(value, classifier)
    }
    found = ART.choose(name, table)
    parameters = inspect.signature(found).parameters
    traits = Traits(
        kind="budget" if "eps" in parameters else "minimal",
        norms=_norms(name, parameters),
        access=_ACCESS.get(name, "gradient"),
        can_target="targeted" in parameters,
        revision=ART.revision,
    )
    return class_of(Art, f"art:{name}", found, traits, without=_OURS)


def _attacks(found: Any, classifier: type) -> bool:
    """Whether the attack is one on such a classifier."""
    return all(issubclass(classifier, needed) for needed in found._estimator_requirements or ())


def _norms(name: str, parameters: Any) -> tuple[str, ...]:
    """Those of the table; else those that ART numbers where it asks for one, and any where not."""
    if name in _NORMS:
        return tuple(_NORMS[name].split())
    return tuple(_ORDERS) if "norm" in parameters else NORMS

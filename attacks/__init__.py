"""Attacks: recipes over one shared loop. `attacks.get(spec)(model, x, y, attacks.ThreatModel(norm,
eps), seed=0)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attacks import registry
from attacks.threat import NORMS, ThreatModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from attacks.base import Attack
    from attacks.oracles import OnlyLabels

__all__ = ["NORMS", "OnlyLabels", "ThreatModel", "get", "wrap"]


def get(spec: str) -> Attack:
    """The attack that a spec such as `pgd:steps=40,restarts=5` names."""
    attack: Attack = registry.attacks.get(spec)
    return attack


def wrap(function: Callable[..., Tensor]) -> Attack:
    """A callable (model, x, y, **keys) -> x_adv as an attack; see attacks.foreign.callables."""
    from attacks.foreign import callables

    return callables.wrap(function)


def __getattr__(name: str) -> Any:
    # What needs torch is imported when it is asked for: names are listed without it.
    if name == "OnlyLabels":
        from attacks.oracles import OnlyLabels

        return OnlyLabels
    raise AttributeError(f"module 'attacks' has no attribute {name!r}")

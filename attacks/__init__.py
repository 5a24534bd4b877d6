"""Attacks: recipes over one shared loop. `attacks.get(spec)(model, x, y, attacks.ThreatModel(norm,
eps), seed=0)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attacks import registry
from attacks.threat import NORMS, ThreatModel

if TYPE_CHECKING:
    from attacks.base import Attack

__all__ = ["NORMS", "ThreatModel", "get"]


def get(spec: str) -> Attack:
    """The attack that a spec such as `pgd:steps=40,restarts=5` names."""
    attack: Attack = registry.attacks.get(spec)
    return attack

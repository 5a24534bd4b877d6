"""Defenses: recipes that turn a model into the pipeline that is deployed and attacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses import registry

if TYPE_CHECKING:
    from defenses.base import Defense

__all__ = ["get"]


def get(spec: str) -> Defense:
    """The defense that a spec such as `advtrain:lam=1,eps=0.3` names."""
    defense: Defense = registry.defenses.get(spec)
    return defense

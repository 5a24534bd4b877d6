"""The table of defenses; never imports torch."""

from __future__ import annotations

import importlib
from typing import Any

from models.registry import Registry


def _load(name: str) -> Any:
    return importlib.import_module("models.external").attribute(name)


defenses = Registry(
    "defense",
    {
        "none": "defenses.none:NoDefense",
        "advtrain": "defenses.advtrain:AdversarialTraining",
    },
    loader=_load,
)

"""The table of attacks; never imports torch."""

from __future__ import annotations

import importlib
from typing import Any

from models.registry import Registry


def _load(name: str) -> Any:
    return importlib.import_module("models.isolation").subclass(name, "attacks.base:Attack")


attacks = Registry(
    "attack",
    {
        "fgsm": "attacks.fgsm:Fgsm",
        "bim": "attacks.bim:Bim",
        "pgd": "attacks.pgd:Pgd",
        "noise": "attacks.noise:Noise",
    },
    loader=_load,
)

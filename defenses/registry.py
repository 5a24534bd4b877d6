"""The table of defenses; never imports torch."""

from __future__ import annotations

import importlib
from typing import Any

from models.registry import Registry


def _load(name: str) -> Any:
    for place in defenses.table.values():  # while the names they import are ours
        importlib.import_module(place.partition(":")[0])
    return importlib.import_module("models.isolation").subclass(name, "defenses.base:Defense")


defenses = Registry(
    "defense",
    {
        "none": "defenses.none:NoDefense",
        "advtrain": "defenses.advtrain:AdversarialTraining",
        "goodfellow": "defenses.goodfellow:Goodfellow",
        "madry": "defenses.madry:Madry",
        "fast": "defenses.fast:Fast",
        "free": "defenses.free:Free",
        "ensemble": "defenses.ensemble:Ensemble",
        "static": "defenses.static:Static",
        "trades": "defenses.trades:Trades",
        "mart": "defenses.mart:Mart",
        "robust_features": "defenses.features:RobustFeatures",
        "nonrobust_features": "defenses.features:NonrobustFeatures",
    },
    loader=_load,
)

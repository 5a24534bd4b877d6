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
        "detector": "defenses.network:DetectorNetwork",
        "safetynet": "defenses.safetynet:SafetyNet",
        "smoothing": "defenses.smoothing:Smoothing",
        "noise": "defenses.noise:Noise",
        "noisy_input": "defenses.noisy_input:NoisyInput",
        "averaging": "defenses.averaging:Averaging",
        "weight_decay": "defenses.weight_decay:WeightDecay",
        "dropout": "defenses.dropout:Dropout",
        "distillation": "defenses.distillation:Distillation",
        "kwta": "defenses.kwta:Kwta",
        "bitdepth": "defenses.bitdepth:BitDepth",
        "jpeg": "defenses.jpeg:Jpeg",
        "threshold": "defenses.threshold:Threshold",
        "median": "defenses.median:MedianFilter",
        "tv": "defenses.tv:TotalVariation",
        "autoencoder": "defenses.autoencoder:Autoencoder",
        "resizepad": "defenses.resizepad:ResizePad",
        "purify": "defenses.purify:Purify",
        "purify_encoder": "defenses.purify_encoder:PurifyEncoder",
        "purify_cycle": "defenses.purify_cycle:PurifyCycle",
        "ape": "defenses.ape:Ape",
        "robust_features": "defenses.features:RobustFeatures",
        "nonrobust_features": "defenses.features:NonrobustFeatures",
    },
    loader=_load,
)

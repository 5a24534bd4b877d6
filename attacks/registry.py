"""The table of attacks; never imports torch."""

from __future__ import annotations

import importlib
from typing import Any

from models.registry import Registry


def _load(name: str) -> Any:
    return importlib.import_module("attacks.foreign.callables").recipe(name)


attacks = Registry(
    "attack",
    {
        "fgsm": "attacks.fgsm:Fgsm",
        "bim": "attacks.bim:Bim",
        "pgd": "attacks.pgd:Pgd",
        "sign": "attacks.sign:Sign",
        "mifgsm": "attacks.mifgsm:MiFgsm",
        "multitargeted": "attacks.multitargeted:MultiTargeted",
        "apgd": "attacks.apgd:Apgd",
        "deepfool": "attacks.deepfool:DeepFool",
        "penalty": "attacks.penalty:Penalty",
        "lbfgs": "attacks.lbfgs:Lbfgs",
        "cw": "attacks.cw:CarliniWagner",
        "ead": "attacks.ead:ElasticNet",
        "ddn": "attacks.ddn:Ddn",
        "fmn": "attacks.fmn:Fmn",
        "fab": "attacks.fab:Fab",
        "fab_t": "attacks.fab:FabT",
        "sigma_zero": "attacks.sigma_zero:SigmaZero",
        "autoattack": "attacks.autoattack:AutoAttack",
        "cascade": "attacks.cascade:Cascade",
        "square": "attacks.square:Square",
        "nes": "attacks.estimated:Nes",
        "spsa": "attacks.estimated:Spsa",
        "simba": "attacks.simba:SimBa",
        "boundary": "attacks.boundary:Boundary",
        "hopskipjump": "attacks.hopskipjump:HopSkipJump",
        "transfer": "attacks.transfer:Transfer",
        "latent": "attacks.latent:Latent",
        "noise": "attacks.noise:Noise",
    },
    loader=_load,
    families={
        "foolbox": "attacks.foreign.foolbox:recipe",
        "torchattacks": "attacks.foreign.torchattacks:recipe",
        "art": "attacks.foreign.art:recipe",
        "advlib": "attacks.foreign.advlib:recipe",
    },
)

"""Datasets, models and attacks as the plain values that a cell is planned and known by."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import nn

from attacks.base import Attack
from attacks.cascade import Cascade
from attacks.oracles import Predict, frozen
from attacks.registry import attacks
from attacks.sourced import Sourced
from bench import data, memory, plan, supplies
from bench.devices import numerics, numerics_of, threads
from bench.errors import RequestError
from bench.outcomes import Images
from bench.plan import BLOCK, AttackPart, DataPart, Part
from bench.spec import ALL, valid
from models import checkpoint, train
from models.recipes import Classifier
from models.registry import models


def data_part_of(dataset: data.Dataset, n: int | None, reference: Fraction | None) -> DataPart:
    """The evaluated subset as plain values; refuses an n that the test set does not hold."""
    positions = dataset.subset(n)
    ids, n = dataset.ids[positions], len(positions)
    full = range(0, n - n % BLOCK, BLOCK)
    return DataPart(
        dataset.name,
        dataset.fingerprint,
        n,
        plan.digest(ids.tolist()),
        reference,
        tuple(plan.digest(ids[first : first + BLOCK].tolist()) for first in full),
    )


def known_by(net: nn.Module, dataset: data.Dataset, n: int, device: str) -> dict[str, str]:
    """What a given model is known by: the digests of its weights and of its clean answers to the
    first block of the n images, so that more of them leave it what it is.
    """
    shape = numerics_of(device).shape
    with numerics(threads()):
        said = behaviour(net.to(device), dataset, min(n, BLOCK), shape, device)
    return {"weights": checkpoint.digest(net.state_dict()), "behaviour": said}


def model_part_of(text: str, dataset: data.Dataset, n: int, device: str) -> Part:
    """A model as plain values: one to be trained is known by how, one that is given is built
    once and known by its weights.
    """
    model: Classifier = valid(models.get, text)
    identity = model.identity()
    if model.is_trained:
        net = valid(lambda _: model.build(dataset.shape, dataset.classes), text)
        return Part(model.to_spec(), {**identity, **known_by(net, dataset, n, device)})
    if dataset.train is None or dataset.validation is None:
        raise RequestError(
            f"{dataset.name} has no training split for {text}: add train=, or weights= to the model"
        )
    settings = vars(model.settings(len(dataset.train), dataset.shape[0]))
    how = {name: repr(value) for name, value in settings.items()}
    return Part(model.to_spec(), {**identity, "settings": how, "training": train.REVISION})


def named_attacks(texts: Sequence[str], norm: str, classes: int) -> list[str]:
    """The specs of attacks, `all` replaced by the names of the table that know the norm, are
    defined for so few classes and need nothing but the model; plug-ins are among them.
    """
    specs: list[str] = []
    for text in texts:
        specs += _every_attack(norm, classes) if text == ALL else [text]
    return list(dict.fromkeys(specs))


def _every_attack(norm: str, classes: int) -> list[str]:
    fitting = []
    for name in attacks.names():
        attack: Attack = attacks.get(name)
        fits = norm in attack.norms and classes >= attack.least_classes(targeted=False)
        # A cascade runs again what is named anyway.
        if fits and not attack.needs and not isinstance(attack, Cascade):
            fitting.append(name)
    return fitting


def attack_part_of(
    attack: Attack,
    norm: str,
    dataset: data.Dataset,
    eps: Sequence[Fraction],
    budget: int | None,
    *,
    root: Path | None,
) -> AttackPart:
    """An attack as plain values; refuses a norm or a number of classes it is not defined for, a
    query budget below its minimum, and needs that cannot be supplied.
    """
    classes = dataset.classes
    valid(lambda _: attack.check(norm, classes), norm)
    radii = [float(e) for e in eps if e > 0]
    queries = attack.cost(radii, norm, classes)
    if budget is not None:
        valid(lambda _: attack.check_budget(budget, classes), norm)
    if budget is not None and not isinstance(attack, Sourced):
        runs = 1 if attack.kind == "minimal" else len(radii)
        queries = runs * budget if queries is None else min(queries, runs * budget)
    identity = {**attack.identity(), **supplies.identity(attack, dataset, root)}
    counted = (queries, attack.shared_queries)
    return AttackPart(attack.to_spec(), identity, attack.mode, attack.kind, *counted)


def behaviour(predict: Predict, dataset: data.Dataset, n: int, shape: int, device: str) -> str:
    """A digest of what a given model says of the first n images: its weights and its file may be
    the same while it is not. Empty for a model that has no proper answer.
    """
    images = Images.of(dataset, n, torch.device(device))
    try:
        with frozen(predict):
            return checkpoint.digest({"logits": images.answers(predict, shape)})
    except Exception as err:  # noqa: BLE001  the same boundary: the cell will fail and say why
        if not memory.ran_out(err) or shape == 1:
            return ""
    memory.release()
    return behaviour(predict, dataset, n, shape // 2, device)

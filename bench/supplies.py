"""What attacks made on a source model are handed: held-out images, and sources that are trained and
cached as every model is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.sourced import GENERATOR, HALF, SAME, Sourced, Supplies, check_source
from bench import data
from bench.datasets import datasets
from bench.errors import RequestError
from bench.spec import valid
from models import checkpoint, train
from models.recipes import Classifier


@dataclass(frozen=True)
class Stock:
    """Where supplies come from: the target's dataset, the folder of others, and how nets are
    trained (see defenses.workshop.Workshop).
    """

    dataset: data.Dataset
    root: Path | None
    device: torch.device
    numerics: Mapping[str, Any]
    cache: checkpoint.Cache | None
    say: Callable[[str], None]

    def supplies(self, recipe: Sourced) -> Supplies:
        """What the recipe is handed; refuses as `identity` does."""
        identity(recipe, self.dataset, self.root)
        own = origin(recipe.data, self.dataset, self.root)
        most = recipe.images
        return Supplies(
            held_out=held_out(self.dataset, self.dataset, most, self.device),
            own=None if own is self.dataset else held_out(own, self.dataset, most, self.device),
            sources=tuple(self.source(model, own) for model in recipe.models),
            say=self.say,
        )

    def source(self, model: Classifier, dataset: data.Dataset) -> nn.Module:
        """A net trained on a dataset without a defense, or as it is given."""
        workshop = dataset.workshop(
            model,
            self.device,
            numerics=self.numerics,
            cache=self.cache,
            say=self.say,
        )
        return workshop.undefended()


def identity(recipe: Attack, dataset: data.Dataset, root: Path | None) -> dict[str, Any]:
    """What of the supplies moves an outcome, for digests; refuses what cannot be supplied. Empty
    for an attack that needs nothing that the pipeline does not hold.
    """
    if not isinstance(recipe, Sourced) or GENERATOR in recipe.needs:
        return {}
    if dataset.validation is None:
        raise RequestError(
            f"{recipe.to_spec()} needs held-out images, and {dataset.name} has no training split"
        )
    own = origin(recipe.data, dataset, root)
    rows = torch.empty(len(dataset.validation), 0)
    others = None if own is dataset or own.validation is None else len(own.validation)
    supplies = Supplies(rows, None if others is None else torch.empty(others, 0))
    valid(lambda _: recipe.check_supplies(supplies), "")
    return {
        "supplies": {
            "data": own.fingerprint,
            "training": train.REVISION,
            "sources": [_known(model, own) for model in recipe.models],
        }
    }


def _known(model: Classifier, dataset: data.Dataset) -> dict[str, Any]:
    """A source by how it is trained, or by its weights; refuses one that does not fit."""
    net = valid(lambda _: model.build(dataset.shape, dataset.classes), "")
    name = f"source {model.to_spec()}"
    valid(lambda _: check_source(net, torch.zeros(1, *dataset.shape), dataset.classes, name), "")
    if model.is_trained:
        return {"weights": checkpoint.digest(net.state_dict())}
    if dataset.train is None:
        raise RequestError(f"{dataset.name} has no training split for {name}")
    settings = model.settings(len(dataset.train), dataset.shape[0])
    return {key: repr(value) for key, value in vars(settings).items()}


def origin(text: str, dataset: data.Dataset, root: Path | None) -> data.Dataset:
    """The dataset that a source is made of: the target's, its other half, or a foreign one of the
    same image shape and number of classes.
    """
    if text == SAME:
        return dataset
    own = _loaded(other_half(dataset) if text == HALF else text, root)
    if own.shape != dataset.shape or own.classes != dataset.classes:
        raise RequestError(
            f"data={text} must have images {dataset.shape} of {dataset.classes} classes as "
            f"{dataset.name} has, got {own.shape} of {own.classes}"
        )
    if own.validation is None:
        raise RequestError(f"data={text} has no training split")
    return own


@functools.lru_cache(maxsize=2)
def _loaded(text: str, root: Path | None) -> data.Dataset:
    return data.load(text, root)


def other_half(dataset: data.Dataset) -> str:
    """The spec of the half of the training split that a halved dataset leaves out."""
    recipe: Any = datasets.get(dataset.spec) if dataset.spec else None
    half = getattr(recipe, "half", None)
    if half is None:
        raise RequestError(
            f"data={HALF} needs a dataset that is halved, such as mnist:half=1, got {dataset.name}"
        )
    return datasets.describe(replace(recipe, half=3 - half))


def held_out(
    dataset: data.Dataset, target: data.Dataset, most: int, device: torch.device
) -> Tensor:
    """The first images (at most `most`, C, H, W) of a dataset's validation split in stratified
    order; none is in the target's test set.
    """
    split = dataset.validation
    if split is None:
        raise RequestError(f"{dataset.name} has no training split")
    ids = data.ids_of(split)
    order = data.stratified_order(ids, split.y.numpy())
    kept = order[~np.isin(ids[order], target.ids)]
    return split.images(torch.from_numpy(kept[:most]), device)

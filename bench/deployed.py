"""A pipeline deployed again from weights that are kept: nothing is trained for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.data import Dataset
from bench.errors import BenchError
from bench.spec import valid
from defenses.base import Defense
from defenses.registry import defenses
from models.checkpoint import Cache, CorruptWeights, read
from models.recipes import Classifier
from models.registry import canonical, models


class Unchecked(BenchError):
    """Why a row cannot be checked here; nothing is wrong with it."""


@dataclass(frozen=True)
class Kept(Cache):
    """The cache, only read: what it lacks is not made, and what is damaged stays as it is."""

    def get(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See Cache; raises Unchecked for weights that cannot be had."""
        path = self.path(key)
        if not path.is_file():
            raise Unchecked(f"the weights {key} are not in the cache {self.folder}")
        try:
            return read(path)
        except CorruptWeights as err:
            raise Unchecked(str(err)) from err


@dataclass(frozen=True)
class Recipe:
    """How a pipeline is had again: the specs, what the defense was filled in with (norm and
    reference radius), what the weights were trained under (as the cache's keys have it), and what
    model and defense must be, as canonical texts; empty: whatever the specs name.
    """

    model: str
    defense: str
    norm: str
    reference: float | None
    trained_under: tuple[tuple[str, Any], ...]
    model_identity: str = ""
    defense_identity: str = ""


@dataclass(frozen=True)
class Deployed:
    """A pipeline: what it predicts, its evaluation draws, and the digests of its weights."""

    predict: Any
    draws: int
    digests: Mapping[str, str]

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset, device: str, cache: Path) -> Deployed:
        """Raises Unchecked where it cannot be had without training."""
        try:
            return cls._of(recipe, dataset, device, cache)
        except (BenchError, ValueError, TypeError, OSError, RuntimeError) as err:
            raise Unchecked(" ".join(str(err).split())) from err

    @classmethod
    def _of(cls, recipe: Recipe, dataset: Dataset, device: str, cache: Path) -> Deployed:
        model: Classifier = valid(models.get, recipe.model)
        defense: Defense = valid(defenses.get, recipe.defense)
        workshop = dataset.workshop(
            model,
            torch.device(device),
            numerics=dict(recipe.trained_under),
            cache=Kept(cache),
        )
        filled = defense.at(recipe.norm, recipe.reference)
        check_same("model", recipe.model_identity, model.identity())
        check_same("defense", recipe.defense_identity, filled.identity())
        made = filled.deploy(workshop)
        digests = {"model": workshop.trained[-1].weights} if workshop.trained else {}
        if "generator" in workshop.noted:
            digests["generator"] = workshop.noted["generator"]["weights"]
        return cls(made.predict, made.draws if made.random else 1, digests)


def check_same(name: str, known: str, now: Mapping[str, Any]) -> None:
    """Refuses a recipe that is another one by now. known: its identity as stored, as JSON, which
    for a model says more (settings of its training, digests of what is given).
    """
    if not known:
        return
    before, after = json.loads(known), json.loads(canonical(now))
    other = sorted(key for key, value in after.items() if before.get(key) != value)
    if other:
        raise Unchecked(f"the {name} is another one by now: {', '.join(other)}")

"""Pipelines deployed again from kept weights alone."""

import dataclasses

import pytest
import torch

from bench import data
from bench.deployed import Deployed, Recipe, Unchecked
from defenses.registry import defenses
from models import checkpoint
from models.registry import canonical, models

UNDER = {"threads": 1, "torch": "0.0", "device": "cuda"}
RECIPE = Recipe("logreg:epochs=1", "none", "linf", 0.1, tuple(UNDER.items()))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", None)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A cache with weights that another device is said to have made, and their digest."""
    cache = checkpoint.Cache(tmp_path_factory.mktemp("cache"))
    workshop = digits.workshop(
        models.get(RECIPE.model),
        torch.device("cpu"),
        numerics=UNDER,
        cache=cache,
    )
    return cache.folder, checkpoint.digest(workshop.undefended().state_dict())


def test_weights_of_another_device_are_found(trained, digits):
    folder, digest = trained
    made = Deployed.of(RECIPE, digits, "cpu", folder)
    assert made.digests == {"model": digest}
    assert made.draws == 1


def test_weights_made_under_something_else_are_not(trained, digits):
    folder, _ = trained
    here = dataclasses.replace(RECIPE, trained_under=(("threads", 1), ("torch", "0.0")))
    with pytest.raises(Unchecked, match="are not in the cache"):
        Deployed.of(here, digits, "cpu", folder)


def test_damaged_weights_are_named_and_stay(trained, digits, tmp_path):
    folder, _ = trained
    (path,) = (folder / "weights").iterdir()
    damaged = tmp_path / "weights" / path.name
    damaged.parent.mkdir()
    damaged.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Unchecked, match="is not a readable safetensors file"):
        Deployed.of(RECIPE, digits, "cpu", tmp_path)
    assert damaged.is_file()


@pytest.mark.parametrize("which", ["model", "defense"])
def test_a_recipe_that_is_another_one_by_now_is_named(which, trained, digits):
    folder, _ = trained
    table, text = {"model": (models, RECIPE.model), "defense": (defenses, "none")}[which]
    identity = table.get(text).identity()
    name = f"{which}_identity"
    same = dataclasses.replace(RECIPE, **{name: canonical({**identity, "training": 9})})
    assert Deployed.of(same, digits, "cpu", folder).draws == 1
    before = dataclasses.replace(RECIPE, **{name: canonical({**identity, "revision": 0})})
    with pytest.raises(Unchecked, match=f"the {which} is another one by now: revision"):
        Deployed.of(before, digits, "cpu", folder)


@pytest.mark.parametrize("change", [{"model": "nothing"}, {"defense": "nothing"}])
def test_specs_that_name_nothing_are_said(change, trained, digits):
    with pytest.raises(Unchecked, match="nothing"):
        Deployed.of(dataclasses.replace(RECIPE, **change), digits, "cpu", trained[0])

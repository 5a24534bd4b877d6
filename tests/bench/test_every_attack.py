"""`all` in place of an attack: every one that knows the norm and the number of classes."""

import pytest
import torch

import bench
from attacks.registry import attacks
from bench.parts import named_attacks
from models.nets import cnn_small
from models.seeding import seeded


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_all_names_those_that_know_the_norm(norm):
    named = named_attacks(["pgd:steps=3", "all", "noise"], norm, 10)
    assert named[0] == "pgd:steps=3"
    known = {name: attacks.get(name) for name in attacks.table if name != "cascade"}
    fitting = {name for name, recipe in known.items() if norm in recipe.norms and not recipe.needs}
    assert set(named[1:]) == fitting
    assert len(named) == len(set(named))


def test_all_leaves_out_what_needs_more_classes(monkeypatch):
    monkeypatch.setitem(attacks.table, "picky", "tests.bench.test_every_attack:Picky")
    assert "picky" in named_attacks(["all"], "linf", 3)
    assert "picky" not in named_attacks(["all"], "linf", 2)


class Picky(type(attacks.get("pgd"))):
    """PGD that wants three classes."""

    def least_classes(self, *, targeted):
        return 3


def test_all_runs_from_python():
    """Under l0, where they are quickest; the minimal ones know their median distance."""
    with seeded(0):
        net = cnn_small((1, 8, 8), 10).eval()
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x).argmax(1)
    settings = {"norm": "l0", "eps": [1, 4, 64], "audit": False}
    run = bench.evaluate(net, dataset=(x, y), attacks="all", **settings)
    table = run.table.query("eps == 64")
    known = [name for name in attacks.table if name != "cascade"]
    named = {name for name in known if "l0" in attacks.get(name).norms}
    assert set(table.attack) == {*named, "worst-case"}
    minimal = table[table.attack.isin(["fmn", "sigma_zero"])]
    assert (minimal.median_distance > 0).all()
    assert (minimal.accuracy == 0).all()

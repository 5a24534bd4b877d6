"""Bounds asked for by `bench run`, and brackets that a broken projection crosses."""

from pathlib import Path

import numpy as np
import pytest
import torch
import typer.main

from attacks import norms
from bench import cli
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.report.certified import certified, crossed
from bench.resolution import Job, resolve
from bench.runner import Silent, execute
from bench.spec import Request
from bench.store import Record, Store
from models.chain import Chain, chain_of

MODEL = "logreg:epochs=2"


def request(**settings) -> Request:
    return Request(**({"models": (MODEL,), "n": 40, "eps": "0,0.02,0.05,0.1"} | settings))


def executed(job: Job) -> list[Record]:
    with Store.in_memory() as store:
        execute(job, store, LocalExecutor(), Silent())
        return store.records()


def bounds(**settings) -> dict[tuple[str, str], str]:
    """The bounds planned, by model and defense."""
    cells = resolve(request(**settings)).cells
    return {
        (cell.model.text, cell.defense.text): cell.attack.text
        for cell in cells
        if cell.attack.kind == "certificate"
    }


def test_an_affine_net_has_its_exact_bound_by_itself() -> None:
    both = {"defenses": ("weight_decay", "bitdepth"), "models": (MODEL, "mlp_relu", "mlp")}
    exact = {(MODEL, "none"): "exact", (MODEL, "weight_decay"): "exact"}
    assert bounds(**both) == exact
    assert bounds(**both, norm="l2") == exact
    assert bounds(**both, norm="l0", eps="1", attacks=("sigma_zero",)) == {}
    assert bounds(**both, bounds="none") == {}
    others = {("mlp_relu", "none"): "crown", ("mlp_relu", "weight_decay"): "crown"}
    assert bounds(**both, bounds="crown") == exact | others


def test_what_has_no_bound_is_noted_once() -> None:
    asked = {"models": ("mlp", MODEL), "defenses": ("bitdepth",), "bounds": "interval"}
    assert resolve(request(**asked)).notes == (
        "no bound by interval of mlp: Sigmoid is no layer whose bounds are known",
        "no bound by interval of bitdepth: it is more than a net",
    )
    assert resolve(request(**{**asked, "bounds": "exact"})).notes == ()
    noted = resolve(request(norm="l0", eps="1", attacks=("sigma_zero",), bounds="crown")).notes
    assert noted == ("no bound by crown under l0",)


def test_an_unknown_bound_is_refused() -> None:
    with pytest.raises(RequestError, match="bounds must be one of exact, interval, crown, none"):
        request(bounds="tight")


# the others are trained by the same classes, or take long
@pytest.mark.parametrize("name", ["madry", "noise", "weight_decay", "dropout", "distillation"])
def test_a_defense_that_says_so_deploys_the_models_net(name: str) -> None:
    job = resolve(request(models=("logreg:epochs=1",), defenses=(name,), baseline=False, n=5))
    (proof,) = (record for record in executed(job) if record.kind == "certificate")
    assert proof.failure == ""


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_bracket_of_an_affine_net_closes(norm: str) -> None:
    eps = {"linf": "0,0.02,0.05,0.1", "l2": "0,0.2,0.5", "l1": "0,0.5,1"}[norm]
    attack = "multitargeted:steps=20"  # towards each class: the best there is on an affine net
    records = executed(resolve(request(norm=norm, eps=eps, attacks=(attack,), n=60)))
    table = certified(records).frame()
    assert set(table["bound"]) == {"exact"}
    assert (table["gap"] == 0).all()
    assert table["certified_accuracy"].iloc[-1] < table["certified_accuracy"].iloc[0]
    assert crossed(records) == []


def test_bounds_of_a_net_with_rectifiers_are_ordered() -> None:
    asked = {"models": ("cnn_small:epochs=2",), "eps": "0,0.005,0.01,0.05", "n": 20}
    loose, tight = (
        executed(resolve(request(**asked, bounds=bound, attacks=("pgd:steps=5",))))
        for bound in ("interval", "crown")
    )
    below, above = (
        next(r for r in records if r.kind == "certificate").samples["distance"]
        for records in (loose, tight)
    )
    assert (above >= below).all()
    assert set(above) <= {0, 0.005, 0.01, 0.05}
    assert crossed([*loose, *tight]) == []
    assert above.max() > 0


def _let_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection onto balls three times as large, and a re-check that looks at the box alone."""
    project = norms.project

    def beyond(x_adv, x, radius, norm, **settings):
        return project(x_adv, x, 3 * radius, norm, **settings)

    monkeypatch.setattr(norms, "project", beyond)
    monkeypatch.setattr(norms, "inside", lambda x_adv, *_: norms.in_box(x_adv))
    monkeypatch.setattr(norms, "holds", lambda _, distance, __: torch.ones_like(distance) > 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_broken_projection_crosses_the_bracket(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    eps = {"linf": "0,0.02,0.05,0.1", "l2": "0,0.2,0.5"}[norm]
    attack = "pgd:steps=10,alpha=0.3"
    job = resolve(request(norm=norm, eps=eps, attacks=(attack,)))
    assert crossed(executed(job)) == []
    _let_out(monkeypatch)
    records = executed(job)
    (line,) = crossed(records)
    proof = next(r for r in records if r.kind == "certificate").samples
    found = next(r for r in records if r.kind == "budget").samples
    within = (found["min_eps"] > 0) & (found["min_eps"] <= proof["distance"])
    first = np.flatnonzero(within)[0]
    assert f"test image {found['index'][first]} at " in line
    assert line.startswith(f"digits {MODEL} / none {norm}: {attack} (white-box) seed 0 is inside")


def test_a_crossed_bracket_ends_in_status_1_and_keeps_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    command = ["run", "--model", MODEL, "--attack", "pgd:steps=10,alpha=0.3", "--eps", "0,0.05"]
    command += ["--n", "40", "--quiet", "--out", out]
    group = typer.main.get_command(cli.app)
    assert group(command, standalone_mode=False) in (None, 0)
    with monkeypatch.context() as patch:
        _let_out(patch)
        assert group([*command, "--fresh"], standalone_mode=False) == 1
    told = capsys.readouterr().err
    assert "bench: crossed bracket: digits logreg:epochs=2 / none linf: pgd" in told
    assert (tmp_path / "out" / "leaderboard.md").is_file()
    assert "Crossed brackets" in (tmp_path / "out" / "certified.md").read_text()
    # the store holds both: a report from it says so too
    assert group(["report", "--out", out], standalone_mode=False) == 1


def test_the_models_of_the_table_that_are_chains() -> None:
    from models.registry import models

    made = {}
    for name in ("logreg", "mlp_relu", "cnn_small", "cnn"):
        made[name] = chain_of(models.get(name).build((1, 8, 8), 10), (1, 8, 8))
    assert all(isinstance(chain, Chain) for chain in made.values())
    assert [name for name, chain in made.items() if chain.is_affine] == ["logreg"]

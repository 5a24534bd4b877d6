"""What attacks are handed of a defense follows from what it declares, and every row says so."""

import numpy as np
import pandas as pd
import pytest

from attacks.registry import attacks
from bench.errors import RequestError
from bench.executors import LocalExecutor
from bench.report.frames import leaderboard, tidy
from bench.report.strength import attacks as strengths
from bench.resolution import modes_of, resolve
from bench.runner import Silent, execute
from bench.spec import Request
from bench.store import Store
from defenses.registry import defenses

MODEL = "logreg:epochs=3"
DEFENSES = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from attacks.pipelines import Randomised
from defenses.base import Defended, Defense
from defenses.straight import straight_through


class Shaking(Randomised):
    def __init__(self, net, share):
        super().__init__()
        self.net, self.share = net, share

    def forward(self, x, draws):
        # A share of the draws answers class 0 whatever the image is.
        off = draws.uniform(torch.Size((len(x), 1)), "off") < self.share
        zero = torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10) * 1e3
        return torch.where(off, zero.float(), self.net(x))


@dataclass(frozen=True)
class Shaky(Defense):
    """Wrong under a share of its draws."""

    randomness: ClassVar[str] = "now and then it answers 0"
    share: float = 0.3

    def deploy(self, workshop):
        net = workshop.undefended()
        pipeline = Shaking(net, self.share)
        return Defended(predict=pipeline, surrogate=pipeline, inside=net, passes=7)


class Rounding(nn.Module):
    def __init__(self, net, through):
        super().__init__()
        self.net, self.through = net, through

    def forward(self, x):
        levels = (x * 15).round() / 15
        return self.net(straight_through(levels, x) if self.through else levels + 0 * x)


@dataclass(frozen=True)
class Rounded(Defense):
    """Hides gradients: rounding passes none."""

    masking: ClassVar[str] = "rounding"

    def deploy(self, workshop):
        net = workshop.undefended()
        return Defended(predict=Rounding(net, False), surrogate=Rounding(net, True), exact=True)


@dataclass(frozen=True)
class Blind(Rounded):
    """The same, without saying so."""

    masking: ClassVar[str] = ""

    def deploy(self, workshop):
        rounding = Rounding(workshop.undefended(), False)
        return Defended(predict=rounding, surrogate=rounding)


class Refusing(nn.Module):
    refuses = True

    def __init__(self, net, threshold):
        super().__init__()
        self.net, self.threshold = net, threshold

    def forward(self, x):
        logits = self.net(x)
        excess = 100 * (x.flatten(1).mean(1, keepdim=True) - self.threshold)
        return torch.cat([logits, logits.amax(1, keepdim=True) + excess], 1)


@dataclass(frozen=True)
class Picky(Defense):
    """Refuses bright images."""

    rejection: ClassVar[str] = "bright images"
    threshold: float = 0.35

    def deploy(self, workshop):
        net = workshop.undefended()
        pipeline = Refusing(net, self.threshold)
        return Defended(predict=pipeline, surrogate=pipeline, inside=net)


@dataclass(frozen=True)
class Proven(Defense):
    """Claims a radius of 0.3 for every image, abstains from dark ones."""

    certifies: ClassVar[tuple[str, ...]] = ("l2",)

    def deploy(self, workshop):
        net = workshop.undefended()

        def certify(x, draws):
            prediction = net(x).argmax(1)
            dark = x.flatten(1).mean(1) < 0.28
            return torch.where(dark, -1, prediction), torch.where(dark, 0.0, 0.3).double()

        return Defended(predict=net, surrogate=net, certify=certify)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "kinds.py"
    path.write_text(DEFENSES)
    return path


def run(**settings):
    usual = {"models": (MODEL,), "n": 60, "eps": "0,0.05,0.15", "audit": False}
    request = Request(**(usual | settings))
    with Store.in_memory() as store:
        job = resolve(request)
        execute(job, store, LocalExecutor(), Silent())
        records = store.records()
    assert not [record.failure for record in records if record.failure]
    return records


def by_mode(records, defense):
    return {r.mode: r for r in records if r.defense.endswith(defense)}


def test_modes_follow_from_declarations(file):
    adaptive = {
        "none": "white-box",
        "madry": "white-box",
        f"{file}:Shaky": "eot",
        f"{file}:Rounded": "bpda",
        f"{file}:Picky": "white-box",
    }
    for spec, mode in adaptive.items():
        defense = defenses.get(spec)
        aware = (mode,) if spec == "none" else ("oblivious", mode)
        for name in ("pgd", "deepfool", "lbfgs"):
            assert modes_of(attacks.get(name), defense, oblivious=True) == aware
            assert modes_of(attacks.get(name), defense, oblivious=False) == (mode,)
        for name in ("square", "hopskipjump", "noise"):
            assert modes_of(attacks.get(name), defense, oblivious=True) == ("black-box",)
        assert modes_of(attacks.get("transfer"), defense, oblivious=True) == ("transfer",)


def test_a_defense_that_does_both_is_attacked_through_both(file):
    both = file.with_name("both.py")
    both.write_text(
        DEFENSES + "\n\n@dataclass(frozen=True)\nclass Both(Shaky):\n"
        '    """Both."""\n\n    masking: ClassVar[str] = "rounding"\n'
    )
    defense = defenses.get(f"{both}:Both")
    assert modes_of(attacks.get("pgd"), defense, oblivious=False) == ("bpda+eot",)


def test_every_gradient_attack_is_run_obliviously_too(file):
    records = run(attacks=("pgd:steps=5", "noise"), defenses=(f"{file}:Rounded",))
    of = by_mode(records, "Rounded")
    assert set(of) == {"oblivious", "bpda", "black-box"}
    undefended = [r.mode for r in records if r.defense == "none"]
    assert undefended == ["certified", "black-box", "white-box"]  # an affine net proves itself
    # Rounding to 16 levels does nothing to digits, which have 17: both are as strong as on the net.
    (plain,) = [r for r in records if r.defense == "none" and r.mode == "white-box"]
    for mode in ("oblivious", "bpda"):
        both = [float((r.samples["min_eps"] > 0.15).mean()) for r in (of[mode], plain)]
        assert abs(both[0] - both[1]) < 0.2
    board = leaderboard(records).frame().set_index("defense")
    row = board.loc["kinds:Rounded"]
    worst = np.minimum(of["oblivious"].samples["min_eps"], of["bpda"].samples["min_eps"])
    worst = np.minimum(worst, of["black-box"].samples["min_eps"])
    assert row.robust_accuracy == (worst > 0.15).mean()
    assert row.oblivious_accuracy == (of["oblivious"].samples["min_eps"] > 0.15).mean()
    assert row.robust_accuracy <= min(row.oblivious_accuracy, row.adaptive_accuracy)
    assert pd.isna(board.loc["none"].oblivious_accuracy)
    assert {*strengths(records).frame()["mode"]} == {"white-box", "black-box", "oblivious", "bpda"}


def test_a_masked_gradient_is_nothing_to_a_white_box_and_all_to_bpda(file):
    records = run(
        attacks=("pgd:steps=5",),
        defenses=(f"{file}:Rounded", f"{file}:Blind"),
        oblivious=False,
    )
    standing = {(r.defense, r.mode): (r.samples["min_eps"] > 0.15).mean() for r in records}
    plain = standing["none", "white-box"]
    # A white box meets zero gradients and stays at its random start, which fools next to nothing.
    assert standing["kinds:Blind", "white-box"] > plain + 0.3
    assert standing["kinds:Rounded", "bpda"] < plain + 0.1


def test_accuracy_of_a_random_defense_is_the_mean_over_its_draws(file):
    (record, *_) = run(
        attacks=("noise:samples=1",), defenses=(f"{file}:Shaky",), baseline=False, eps="0,0.001"
    )
    outcomes = record.outcomes
    assert outcomes.shape == (60, 10)
    assert np.array_equal(record.samples["min_eps"], outcomes.min(1))
    ones = record.samples["label"] != 0
    # Of images that are not 0, 30 % of the draws are wrong: sd 0.02 over some 540 draws.
    net = (outcomes > 0).mean(1)[ones]
    assert abs(net.mean() - 0.7 * (net > 0).mean()) < 0.08
    table = tidy([record]).frame()
    row = table[(table.attack == "noise:samples=1") & (table.eps == 0)].iloc[0]
    assert row.accuracy == pytest.approx((outcomes > 0).mean())
    assert row.worst_draw_accuracy == pytest.approx((outcomes > 0).all(1).mean())
    assert (row.draws, row.ci_low < row.accuracy < row.ci_high) == (10, True)
    board = leaderboard([record]).frame().iloc[0]
    assert board.worst_draw_accuracy < board.robust_accuracy
    assert board.passes == 7
    assert board.parameters == 64 * 10 + 10


def test_answers_averaged_are_part_of_the_cell(file):
    settings = {"attacks": ("pgd:steps=2",), "defenses": (f"{file}:Shaky",), "baseline": False}
    settings["audit"] = False
    few, many = (
        resolve(Request(models=(MODEL,), n=20, eps="0,0.1", eot=eot, **settings)).cells
        for eot in (2, 10)
    )
    assert [c.attack.mode for c in few] == ["oblivious", "eot"]
    assert few[0].key == many[0].key
    assert few[1].key != many[1].key
    assert many[1].most_queries == 5 * few[1].most_queries
    assert many[1].most_queries == 20 * 10 * 3


def test_a_refused_clean_image_is_an_error_and_a_refused_adversarial_one_no_success(file):
    records = run(attacks=("pgd:steps=5",), defenses=(f"{file}:Picky:threshold=0.3",))
    of = by_mode(records, "Picky:threshold=0.3")
    aware, plain = of["white-box"], next(r for r in records if r.defense == "none")
    refused = aware.samples["clean_prediction"] == 10
    assert refused.any()
    assert (aware.samples["min_eps"][refused] == 0).all()
    accepted = ~refused
    assert np.array_equal(
        aware.samples["clean_prediction"][accepted], plain.samples["clean_prediction"][accepted]
    )
    # A defense may only take successes away from an attack made without knowing of it.
    blind = of["oblivious"].samples["min_eps"]
    assert (blind[accepted] >= plain.samples["min_eps"][accepted] - 0.11).all()


def test_a_certificate_is_a_cell_of_its_own_and_no_attack(file):
    records = run(
        attacks=("pgd:steps=3",),
        defenses=(f"{file}:Proven",),
        norm="l2",
        eps="0,0.25,0.5",
        baseline=False,
        seeds=(0, 1),
    )
    (proof,) = [r for r in records if r.kind == "certificate"]
    right = proof.samples["clean_prediction"] == proof.samples["label"]
    assert proof.samples["distance"] == pytest.approx(np.where(right, 0.3, 0))
    assert (proof.samples["min_eps"] == np.where(right, 0.5, 0)).all()
    assert (proof.samples["clean_prediction"] == -1).any()
    rest = [r for r in records if r.kind != "certificate"]
    assert len(rest) == 4
    pd.testing.assert_frame_equal(leaderboard(records).frame(), leaderboard(rest).frame())
    pd.testing.assert_frame_equal(tidy(records).frame(), tidy(rest).frame())
    under_linf = Request(models=(MODEL,), defenses=(f"{file}:Proven",), n=20)
    planned = [cell for cell in resolve(under_linf).cells if cell.defense.text != "none"]
    assert planned
    assert "certificate" not in {cell.attack.kind for cell in planned}


@pytest.mark.parametrize(
    ("spec", "norm", "message"),
    [
        ("advtrain:eps=9", "l2", "eps must be at most 8 under l2 .* got 9.0"),
        ("static:eps=65", "l1", "eps must be at most 64 under l1 .* got 65.0"),
        ("robust_features:teacher=[madry:eps=9]", "l2", "eps must be at most 8 under l2"),
        ("detector:fpr=0.001", "linf", "fpr=0.001 needs at least 1,000 .* got 129"),
        ("safetynet:fpr=0.005", "linf", "fpr=0.005 needs at least 200 .* got 129"),
    ],
)
def test_what_the_data_cannot_bear_is_refused_before_any_work(spec, norm, message):
    with pytest.raises(RequestError, match=message):
        resolve(Request(models=(MODEL,), defenses=(spec,), norm=norm, n=10))


def test_answers_to_average_are_at_least_one():
    with pytest.raises(RequestError, match="eot must be at least 1, got 0"):
        Request(eot=0)

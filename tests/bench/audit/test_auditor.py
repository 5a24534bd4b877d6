"""Audits of planted pipelines: what each check finds in a model that fakes robustness in one way,
and that it finds nothing in the model that was wrapped.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import bench
from attacks import loop
from attacks.oracles import OnlyLabels
from attacks.registry import attacks
from bench import data
from bench.api import CellFailed
from bench.audit.auditor import rising
from bench.audit.recipe import EACH, SAMPLES, Audit, longer, once_more
from bench.plan import AUDIT
from bench.resolution import resolve
from bench.spec import Request
from tests.problems import Mapped

N = 60
EPS = 0.2


@pytest.fixture(scope="module")
def net():
    """A linear classifier of digits: its classes' means stand for them."""
    digits = data.load("digits", None)
    x, y = digits.train.x.flatten(1).float(), digits.train.y
    means = torch.stack([x[y == k].mean(0) for k in range(10)])
    layer = nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(4 * means)
        layer.bias.copy_(-2 * means.pow(2).sum(1))
    return nn.Sequential(nn.Flatten(), layer)


class Before(nn.Module):
    """A model behind a function of its images."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.net(self.change(x))


def backward_of(scale):
    """The identity whose gradient is multiplied by a number."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * scale

    return Scaled.apply


class Counting(nn.Module):
    """Answers otherwise after so many calls."""

    def __init__(self, net, calls):
        super().__init__()
        self.net, self.calls, self.made = net, calls, 0

    def forward(self, x):
        self.made += 1
        return self.net(x) if self.made < self.calls else self.net(x).flip(1)


def audited(model, attack="pgd:steps=10", **more):
    return bench.evaluate(model, "digits", [attack], eps=[EPS], n=N, **more)


def levels(run):
    return {one.check: one.level for one in run.audit.findings}


def test_nothing_is_found_in_the_model_itself(net):
    run = audited(net)
    assert float(run.accuracy(EPS)) < 0.2
    assert run.audit.text == "pass"
    assert set(levels(run).values()) == {"pass"}


def test_the_audit_is_a_cell_of_its_own_that_no_table_counts(net):
    run = audited(net)
    (cell,) = [record for record in run.records if record.kind == AUDIT]
    assert (cell.n, cell.eps) == (N, (0, Fraction(1, 5)))
    forward, backward, _ = cell.queries
    assert 0 < forward + backward <= cell.provenance["audit"]["budget"] == SAMPLES * EACH
    (own,) = [record for record in run.records if record.kind != AUDIT]
    assert run.table["forward_queries"].unique().tolist() == [own.queries[0]], "counted apart"
    assert list(run.table["attack"].unique()) == ["pgd:steps=10", "worst-case"]
    assert set(run.samples["attack"]) == {"pgd:steps=10"}
    assert audited(net, audit=False).audit.text == "none"


def masked(net):
    """Plants that keep every prediction, and the check that must find each."""
    yield "zero gradient (cross-entropy)", Mapped(net, lambda logits, _: 300 * logits)
    yield "margin beats the rows", Mapped(net, lambda logits, _: 300 * logits)
    yield "zero gradient (margin)", Before(net, backward_of(0.0))
    yield "square beats the rows", Before(net, backward_of(-1.0))
    yield "recorded", Mapped(net, lambda z, _: z.flip(1) if torch.is_grad_enabled() else z)


CHECKS = [
    "zero gradient (cross-entropy)",
    "margin beats the rows",
    "zero gradient (margin)",
    "square beats the rows",
    "recorded",
]


@pytest.mark.parametrize("check", CHECKS)
def test_masked_gradients_are_found(net, check):
    model = next(model for name, model in masked(net) if name == check)
    run = audited(model, "pgd:steps=3")
    assert levels(run)[check] == "suspect"
    assert float(run.accuracy(EPS)) > 0.3, "the attack alone believed the mask"


def test_a_gradient_that_is_not_finite(net):
    # Square alone has a number: gradient attacks fail by name.
    run = audited(Before(net, backward_of(float("inf"))), "square:queries=5")
    assert levels(run)["finite gradient"] == "suspect"


def test_no_gradient_at_all(net):
    run = audited(Before(net, torch.detach), "square:queries=5")
    # That no attack of the rows needed one is to their credit.
    assert levels(run)["gradient path"] == "warn"
    skipped = {one.check for one in run.audit.findings if one.level == "skipped"}
    assert "margin beats the rows" in skipped


def test_logits_that_are_no_numbers_are_told_and_the_rest_is_seen(net):
    """Wherever pixels leave the steps of 1/16 that the images have, the answer is NaN."""
    model = Mapped(net, lambda z, x: torch.where(x[:, :, 0, 0] * 16 % 1 == 0, z, torch.nan))
    run = audited(model, "pgd:steps=1,alpha=0.0625,random=false")
    found = levels(run)
    assert found["cross-entropy answered"] == "warn"
    assert run.audit.level in ("warn", "suspect")


def test_answers_that_change_while_it_is_attacked(net):
    run = audited(Counting(net, 12), "noise:samples=2")
    assert levels(run)["drift"] == "suspect"


def test_answers_that_do_not_change(net):
    run = audited(Before(net, lambda x: x + ((x > 0.47).float() - x).detach()), "noise:samples=2")
    assert levels(run)["constant answers"] == "suspect"


def test_a_weak_attack_is_told_by_what_it_left(net):
    run = audited(net, "pgd:steps=1,alpha=0.001,random=false")
    found = levels(run)
    assert found["probes beat the rows"] == "suspect"
    assert run.audit.level == "suspect"


def test_an_attack_without_bounds_must_break_everything(net):
    run = audited(Before(net, backward_of(-1.0)), "noise:samples=2")
    assert levels(run)["unbounded"] == "suspect"


def test_the_bounds_of_an_audit_are_named(net):
    dear = Audit(budget=0, share=0, again=None)
    cheap = Audit.of([(attacks.get("pgd"), 40 * 9), (attacks.get("square"), 5000)])
    assert cheap.budget == SAMPLES * EACH
    assert cheap.again == attacks.get("pgd")
    assert cheap.share == int(0.05 * 2 * (40 * 9 + 5000))
    many = Audit.of([(attacks.get("pgd"), 10**7)])
    assert many.budget == many.share == 10**6
    assert dear.part().identity["budget"] == 0


def test_what_is_asked_again():
    assert longer(attacks.get("pgd:steps=7")) == attacks.get("pgd:steps=14")
    assert once_more(attacks.get("pgd:restarts=5")) == attacks.get("pgd")
    assert once_more(attacks.get("pgd:random=false")) is None
    assert once_more(attacks.get("bim:steps=3")) is None
    assert Audit.of([(attacks.get("square"), 5000), (attacks.get("fgsm"), 1)]).again is None


def test_a_loss_still_rises_where_its_last_steps_do():
    steps = torch.arange(40.0)
    level = torch.minimum(steps, torch.tensor(20.0))
    last = rising(torch.stack([steps, level, torch.zeros(40)]))
    torch.testing.assert_close(last, torch.tensor([10 / 39, 0.0, 0.0]))


def test_an_attack_that_fails_leaves_no_number(net):
    with pytest.raises(CellFailed, match="probabilities"):
        audited(nn.Sequential(net, nn.Softmax(1)))


def test_labels_of_probabilities_can_be_attacked_and_are_told(net):
    run = audited(nn.Sequential(net, nn.Softmax(1)), "hopskipjump:queries=30,first=10")
    assert levels(run)["probabilities"] == "suspect"


def test_a_plan_has_an_audit_per_pipeline_unless_told_otherwise():
    asked = {"models": ("logreg",), "defenses": ("bitdepth",), "attacks": ("pgd",), "n": 300}
    cells = resolve(Request(**asked)).cells
    audits = [cell for cell in cells if cell.attack.kind == AUDIT]
    assert [cell.defense.text for cell in audits] == ["none", "bitdepth"]
    assert [cell.attack.mode for cell in audits] == ["white-box", "bpda"]
    assert {cell.data.n for cell in audits} == {SAMPLES}
    assert all(cell.eps == (0, cell.data.reference) for cell in audits)
    assert not any(
        cell.attack.kind == AUDIT for cell in resolve(Request(**asked, audit=False)).cells
    )
    assert not any(cell.attack.kind == AUDIT for cell in resolve(Request(**asked, eps="0")).cells)


def test_an_audit_is_repeatable_bit_for_bit(net):
    one, two = (
        next(record for record in audited(net).records if record.kind == AUDIT) for _ in range(2)
    )
    assert one.key == two.key
    for name, values in one.samples.items():
        np.testing.assert_array_equal(values, two.samples[name])
    assert one.provenance["audit"] == two.provenance["audit"]


def test_one_more_restart_starts_elsewhere(net, monkeypatch):
    """From the seed of the rows it would find what they found."""
    seeds, real = {}, loop.sweep

    def spied(recipe, model, judge, samples, setting):
        seeds.setdefault(recipe.to_spec(), set()).add(setting.seed)
        yield from real(recipe, model, judge, samples, setting)

    monkeypatch.setattr(loop, "sweep", spied)
    audited(Before(net, backward_of(-1.0)), "pgd:steps=3")
    assert seeds["pgd:steps=3"] == {0, 2**32}
    assert seeds["pgd:steps=6"] == {0}


def test_the_same_attack_twice_is_one(net):
    run = bench.evaluate(net, "digits", ["fgsm", "fgsm"], eps=[EPS], n=20)
    assert [record.kind for record in run.records].count("budget") == 1


def test_a_black_box_of_labels_is_no_suspect_for_that(net):
    box = OnlyLabels(lambda x: net(x).argmax(1), 10)
    found = levels(audited(box, "hopskipjump:queries=200,first=10"))
    assert found["probabilities"] == "pass"
    assert found["gradient path"] == "warn"


def test_a_model_that_raises_far_away_does_not_end_its_audit(net):
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            if x.requires_grad:
                raise RuntimeError("no gradients here")
            return self.net(x)

    run = audited(Fragile(), "noise:samples=2")
    assert "gradients answered" in levels(run)
    assert run.audit.level in ("warn", "suspect")

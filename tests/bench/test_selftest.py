"""`bench selftest`: plants keep the predictions that they claim to keep, their gradients are what
they say, and trials are judged by the rule.
"""

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attacks.draws import sample_ids
from attacks.pipelines import evaluation_draws, said
from bench import data, selftest_cli
from bench.audit.findings import Finding, Verdict
from bench.errors import RequestError
from bench.selftest import document, masks, trial
from bench.selftest.plants import (
    DECLARED,
    ELSEWHERE,
    GRADIENT,
    ITSELF,
    KEPT,
    ONCE,
    PLANTS,
    Ground,
    Plant,
    Spec,
)
from bench.selftest.trial import Extent, Result, Trials
from bench.stats import wilson
from models.checkpoint import Cache
from models.recipes import CnnSmall
from models.registry import models as classifiers
from tests.problems import BlackBox, Curved, convolutional, images, linear

EPS = 0.2
NAMES = [f"{plant.name} {plant.variant}" for plant in PLANTS]
PLANTED = [plant for plant in PLANTS if not plant.is_honest]


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    """A net trained a little, and some test images of digits."""
    digits = data.load("digits", None)
    workshop = digits.workshop(
        CnnSmall(epochs=3),
        torch.device("cpu"),
        cache=Cache(tmp_path_factory.mktemp("cache")),
    )
    index = torch.from_numpy(digits.subset(30))
    x, y = digits.test.images(index, "cpu"), digits.test.y[index]
    return Ground(workshop, workshop.undefended(), x, y, EPS, epochs=2)


def gradient(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """That of the sum of all logits but the first."""
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(net(leaf)[:, 1:].sum(), leaf)
    return found


def corners(ground: Ground) -> torch.Tensor:
    """Images at distance eps of the evaluated ones, where the box allows."""
    signs = masks.Draws.of(ground.x, 1).signs(ground.x.shape, "corner")
    return (ground.x + EPS * signs).clamp(0, 1)


# The table of plants.


def test_every_plant_has_two_variants_or_more_of_which_the_last_is_held_out():
    for name in {plant.name for plant in PLANTED}:
        variants = [plant for plant in PLANTED if plant.name == name]
        assert len(variants) >= 2
        assert [plant.held_out for plant in variants] == [False] * (len(variants) - 1) + [True]
        assert len({plant.variant for plant in variants}) == len(variants)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: f"{plant.name} {plant.variant}")
def test_its_truth_is_what_the_rule_says(plant, ground):
    """Predictions at images and at corners of their balls, each asked of a plant made afresh."""
    for x in (ground.x, corners(ground)):
        made, bare = plant.make(ground), plant.bare(ground)
        with torch.no_grad():
            if plant.rule in (KEPT, ONCE) or (plant.rule == ELSEWHERE and x is not ground.x):
                assert bare is ground.net
                assert torch.equal(made(x).argmax(1), bare(x).argmax(1))
            elif plant.rule == ELSEWHERE:
                assert torch.equal(made(x).argmax(1), ground.y)
            elif plant.rule == GRADIENT:
                assert torch.equal(made(x).argmax(1), bare(x).argmax(1))
            elif plant.rule == DECLARED:
                assert bare.is_random
                assert not torch.equal(made(x), made(x))
                again = [said(bare, x, evaluation_draws(sample_ids(x), 0)) for _ in range(2)]
                assert torch.equal(*again)
            else:
                assert plant.rule == ITSELF
                assert torch.equal(made(x), bare(x))


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: f"{plant.name} {plant.variant}")
def test_it_leaves_the_net_as_it_was(plant, ground):
    before = {name: value.clone() for name, value in ground.net.state_dict().items()}
    plant.make(ground)(ground.x[:2])
    assert all(torch.equal(value, before[name]) for name, value in ground.net.state_dict().items())
    assert not any(module.training for module in ground.net.modules())


def test_honest_ones_are_pipelines_of_the_product(ground):
    made = {plant.name: plant.make(ground) for plant in PLANTS if plant.is_honest}
    assert made["standard"] == Spec("cnn_small", "none")
    assert made["adversarially trained"] == Spec("cnn_small:epochs=2", "madry")
    assert made["smoothed"] == Spec("cnn_small", "smoothing:samples=32")


# Masks, each against a closed form.


def test_scaled_logits_saturate_the_softmax():
    net, x = Curved(), images(6)
    assert_close(masks.Scaled(net, 100)(x), 100 * net(x))
    leaf = x.clone().requires_grad_()
    logits = masks.Scaled(net, 1e4)(leaf)
    loss = nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum")
    assert not torch.autograd.grad(loss, leaf)[0].any()


def test_probabilities_sum_to_one():
    net, x = Curved(), images(6)
    assert_close(masks.Probabilities(net, 2)(x), net(x).softmax(1).softmax(1))
    assert_close(masks.Probabilities(net, 2)(x).sum(1), torch.ones(6))


def test_rounding_has_levels_and_no_gradient():
    x = torch.tensor([[0.0, 0.07, 0.08, 0.5, 1.0]])
    assert_close(masks.Rounded(8)(x), torch.tensor([[0, 0, 1, 4, 7]]) / 7)
    net = nn.Sequential(masks.Rounded(8), Curved())
    assert not gradient(net, images(4)).any()


def test_stairs_have_no_gradient_and_the_ramp_that_of_the_relu():
    x = torch.linspace(-1, 1, 33)[None] + 0.01
    assert_close(masks.Stairs(0.25)(x), (4 * x.relu()).round() / 4)
    assert torch.equal(masks.Ramp(0.25)(x), masks.Stairs(0.25)(x))
    leaf = x.clone().requires_grad_()
    assert not torch.autograd.grad(masks.Stairs(0.25)(leaf).sum(), leaf)[0].any()
    assert_close(torch.autograd.grad(masks.Ramp(0.25)(leaf).sum(), leaf)[0], (x > 0).float())


def test_a_cliff_is_flat_beside_its_edge():
    x = torch.tensor([[0.0, 0.3, 0.49, 0.51, 0.6, 1.0]])
    for slope in (1e3, torch.inf):
        made = masks.Cliff(slope)
        assert_close(made(x), (x > 0.5).float(), atol=1e-4, rtol=0)
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(made(leaf).sum(), leaf)
        assert not found[:, [0, 1, 4, 5]].any()
        assert found.any() == (slope != torch.inf)


def test_a_negated_gradient_is_exactly_negated():
    net, x = Curved(), images(5)
    assert torch.equal(gradient(masks.Misled(net, masks.negated), x), -gradient(net, x))
    assert torch.equal(masks.Misled(net, masks.negated)(x), net(x))


def test_half_of_the_components_are_negated_the_same_of_every_image():
    x, ones = images(5), torch.ones(5, 1, 8, 8)
    factor = masks.half_negated(ones, x)
    assert torch.equal(factor, factor[:1].expand_as(factor))
    assert 16 < int((factor[0] < 0).sum()) < 48
    assert 0.1 <= float(factor.abs().min()) < float(factor.abs().max()) <= 10


def test_a_drowned_gradient_lies_under_ten_times_its_size():
    x = images(50)
    noise = masks.drowned(torch.full_like(x, 2.0), x) - 2
    assert_close(noise.std(), torch.tensor(20.0), rtol=0.05, atol=0)
    assert torch.equal(noise, masks.drowned(torch.full_like(x, 2.0), x) - 2)
    assert not torch.equal(noise[0], noise[1])


def test_ripples_move_little_and_turn_the_derivative():
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)[None]
    ripples = masks.Ripples(height=1e-3, slope=100)
    assert float((ripples(x) - x).abs().max()) <= 1e-3
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(ripples(leaf).sum(), leaf)
    assert_close(found, 1 + 100 * (1e5 * x).cos())


def test_a_shift_moves_whole_components_and_fills_with_zeros():
    x = images(40) + 1
    draws = masks.Draws.of(x, 0)
    moved = masks.Shifted(1)(x, draws)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    seen = set()
    for image, around in zip(moved, padded, strict=True):
        fits = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.equal(image, around[:, top : top + 8, left : left + 8])
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == 9


def test_undeclared_draws_differ_each_time_and_keyed_ones_do_not():
    pipeline = masks.Riddled(0.5)
    x = torch.ones(4, 1, 8, 8)
    undeclared, keyed = masks.Undeclared(pipeline), masks.Keyed(pipeline)
    assert not torch.equal(undeclared(x), undeclared(x))
    assert not torch.equal(undeclared(x)[0], undeclared(x)[1])
    assert torch.equal(keyed(x), keyed(x))
    assert torch.equal(keyed(x)[0], keyed(x)[1])
    assert not torch.equal(keyed(x)[0] > 0, keyed(x + 1e-6)[0] > 0)
    assert set(keyed(x).unique().tolist()) == {0, 2}


def test_a_decoy_answers_where_gradients_may_be_asked_for():
    net, decoy, x = Curved(), convolutional(), images(3)
    made = masks.DecoyInLoop(net, decoy)
    assert torch.equal(made(x), net(x))
    assert torch.equal(made(x.clone().requires_grad_()), decoy(x))


def test_what_was_asked_is_answered_again():
    net, x = Curved(), images(4) * 0.5
    made = masks.Remembering(net, 0.1, most=3)
    assert torch.equal(made(x), net(x))
    near = x + 0.09
    assert torch.equal(made(near)[:3], net(x)[:3])
    assert torch.equal(made(near)[3], net(near)[3])
    assert torch.equal(made(x + 0.4), net(x + 0.4))
    assert not gradient(made, near)[:3].any()


@pytest.mark.parametrize("radius", [0, 0.05])
def test_a_table_answers_for_its_images_alone(radius):
    net, x, y = Curved(), images(6), torch.arange(6)
    made = masks.Table(net, x, y, radius)
    near, far = x.clone(), x.clone()
    near[:, 0, 0, 0] += 0.9 * radius
    far[:, 0, 0, 0] += 1.1 * radius + 1e-3
    for known in (x, near):
        assert_close(made(known), 10 * nn.functional.one_hot(y, 10).float())
    assert torch.equal(made(far), net(far))
    assert not gradient(made, x).any()


# Trials.


def result(level="pass", reported=0.5, truth=0.5, *, honest=False) -> Result:
    plant = replace(PLANTS[0], is_honest=honest)
    share = None if reported is None else wilson(100 * reported, 100)
    return Result(plant, share, truth, level)


@pytest.mark.parametrize(
    ("fared", "is_right"),
    [
        (result("pass", 0.02, 0.0), True),
        (result("pass", 0.03, 0.0), False),
        (result("warn", 0.9, 0.0), False),
        (result("suspect", 0.9, 0.0), True),
        (result("pass", 0.0, 0.1), False),  # below a truth that is none
        (result("refused", None), True),
        (result("failed", None), False),
        (result("pass", 0.9, 0.0, honest=True), True),
        (result("warn", honest=True), True),
        (result("suspect", honest=True), False),
        (result("refused", None, honest=True), False),
        (result("failed", None, honest=True), False),
    ],
)
def test_a_plant_is_driven_or_flagged_and_an_honest_one_is_not(fared, is_right):
    assert fared.is_right == is_right


def trials(verdict=None) -> Trials:
    extent = Extent("digits", Fraction(1, 5), epochs=2, n=20)
    return Trials(extent, None) if verdict is None else Trials(extent, None, verdict=verdict)


def stub(level: str) -> Verdict:
    return Verdict((Finding("a check", level, "said so"),))


def named(name: str) -> Plant:
    return next(plant for plant in PLANTS if plant.name == name)


def test_a_fooled_evaluation_is_saved_by_its_verdict(ground):
    fared = trials(lambda _: stub("pass")).result(named("flipped gradient"), ground)
    assert fared.reported is not None
    assert fared.reported.value > fared.truth + trial.CLOSE
    assert fared.level == "pass"
    assert not fared.is_right
    assert replace(fared, level="suspect").is_right


def test_the_audit_sees_that_the_softmax_is_saturated(ground):
    fared = trials().result(named("scaled logits"), ground)
    assert fared.level == "suspect"
    assert fared.is_right
    assert {"zero gradient (cross-entropy)", "margin beats the rows"} <= {
        finding.check for finding in fared.findings if finding.level == "suspect"
    }


@pytest.mark.parametrize("name", ["probabilities", "dropout left on"])
def test_what_cannot_be_measured_is_refused(ground, name, monkeypatch):
    monkeypatch.setattr(Trials, "_truth", lambda *_: 0.0)
    fared = trials().result(named(name), ground)
    assert (fared.level, fared.reported) == ("refused", None)
    assert any(text in fared.why for text in trial.REFUSALS)


def test_a_crash_is_no_refusal(ground, monkeypatch):
    monkeypatch.setattr(Trials, "_truth", lambda *_: 0.0)
    broken = replace(named("scaled logits"), make=lambda ground: BlackBox(ground.net))
    fared = trials().result(broken, ground)
    assert fared.level == "failed"
    assert not fared.is_right


def test_the_truth_of_a_linear_net_is_exact(monkeypatch):
    """Its images stand 0.02 from a boundary: all fall at twice that, none at half of it."""
    problem, evaluate = linear("linf", 10), trial.evaluate

    def on_its_own(model, _, attacks, **settings):
        return evaluate(model, (problem.x, problem.y), attacks, **settings)

    monkeypatch.setattr(trial, "evaluate", on_its_own)
    for eps, truth in ((Fraction(4, 100), 0.0), (Fraction(1, 100), 1.0)):
        made = Trials(Extent("digits", eps, epochs=1, n=len(problem.x)), None)
        assert made._truth(problem.model, PLANTS[0].strong) == truth


def test_an_honest_linear_net_is_driven_to_its_exact_truth(ground):
    """By specs, as `bench run`: towards a class the margin is largest at a corner of ball and box,
    known component by component.
    """
    text, eps = "logreg:epochs=3", Fraction(1, 20)
    linear_net = ground.workshop.of(classifiers.get(text)).undefended()
    weight, bias = (value.detach().double() for value in linear_net[1].parameters())
    x, y = ground.x[:20].flatten(1).double(), ground.y[:20]
    low, high = (x - float(eps)).clamp(min=0), (x + float(eps)).clamp(max=1)
    pull = weight[None] - weight[y][:, None]
    most = torch.maximum(pull * low[:, None], pull * high[:, None]).sum(2) + bias - bias[y][:, None]
    most.scatter_(1, y[:, None], -torch.inf)
    exact = float((most < 0).all(1).double().mean())
    honest = replace(named("softmax regression"), make=lambda _: Spec(text, "none"))
    made = Trials(Extent("digits", eps, epochs=1, n=len(x)), None)
    fared = made.result(replace(honest, bare=honest.make), ground)
    assert 0 < fared.truth == exact < 1
    assert fared.reported is not None
    assert fared.reported.value >= exact
    assert fared.is_right


# The command.


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(RequestError, match="dataset must be one of digits, mnist, got 'cifar10'"):
        selftest_cli.selftest(dataset="cifar10", out=tmp_path, quiet=True)
    with pytest.raises(RequestError, match="no plant 'roundin'; did you mean 'rounding'"):
        selftest_cli.selftest(only=["roundin"], out=tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("level", "status"), [("suspect", 0), ("warn", 1)])
def test_the_command_writes_everything_and_ends_as_it_should(
    level, status, tmp_path, monkeypatch, capsys
):
    asked = []

    def fared(self, plants):
        asked.extend(plants)
        yield from (
            Result(plant, wilson(9, 10), 0.1, level, findings=stub(level).findings)
            for plant in plants
        )

    monkeypatch.setattr(Trials, "results", fared)
    names = ["rounding", "thresholding"]
    code = 0
    try:
        selftest_cli.selftest(only=names, held_out=False, out=tmp_path, quiet=True)
    except selftest_cli.typer.Exit as end:
        code = end.exit_code
    assert code == status
    assert [(plant.name, plant.held_out) for plant in asked] == [(n, False) for n in names]
    assert "90.0 [59.6, 98.2]" in capsys.readouterr().out
    text = (tmp_path / "selftest.md").read_text()
    assert ("all ok." in text) == (status == 0)
    assert "Made by `" in text
    table = document.pd.read_csv(tmp_path / "selftest.csv")
    assert list(table["a check"]) == [level] * 2
    assert list(table["ok"]) == [status == 0] * 2


# The whole of it.


@pytest.mark.slow
def test_nobody_is_deceived_on_digits():
    fared = list(Trials(trial.extent("digits", None), None).results(PLANTS))
    assert [(one.plant.name, one.plant.variant) for one in fared if not one.is_right] == []


@pytest.mark.slow
@pytest.mark.data
def test_nobody_is_deceived_on_mnist():
    root = Path(os.environ["BENCH_DATA"])
    fared = list(Trials(trial.extent("mnist", None), root).results(PLANTS))
    assert [(one.plant.name, one.plant.variant) for one in fared if not one.is_right] == []

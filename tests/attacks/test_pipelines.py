"""Pipelines that draw and pipelines that refuse: what attacks see of them, and how they are
judged.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import attacks
from attacks import ThreatModel, loop, norms, verify
from attacks.draws import Draws, sample_ids
from attacks.losses import CROSS_ENTROPY, MARGIN
from attacks.oracles import Aim, GradientOracle, Patient
from attacks.pipelines import (
    DRAWS,
    AsSeen,
    Randomised,
    Witness,
    evaluation_draws,
    is_random,
    merged,
    refuses,
    said,
)
from attacks.work import Samples, Setting, Settled
from tests.problems import Curved, Linear, linear


class Shifted(Randomised):
    """A net that sees its images moved by one normal number per image, and notes whose draws it was
    handed.
    """

    def __init__(self, net: nn.Module, scale: float):
        super().__init__()
        self.net, self.scale = net, scale
        self.seen: list[set[int]] = []

    def shift(self, x: Tensor, draws: Draws) -> Tensor:
        self.seen.append(set(draws.ids.tolist()))
        return self.scale * draws.normal(torch.Size((len(x), 1, 1, 1)), "shift")

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        return self.net(x + self.shift(x, draws))


class Watched(nn.Module):
    """A linear net that refuses images whose mean pixel is above a threshold."""

    refuses: ClassVar[bool] = True

    def __init__(self, net: nn.Module, threshold: float):
        super().__init__()
        self.net, self.threshold = net, threshold

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        excess = 50 * (x.flatten(1).mean(1, keepdim=True) - self.threshold)
        return torch.cat([logits, logits.amax(1, keepdim=True) + excess], 1)


def samples(x: Tensor, y: Tensor, radii: Any) -> Samples:
    return Samples(x, y, sample_ids(x), np.asarray(radii, dtype=np.float64))


def swept(spec: str, model: Any, work: Samples, *, norm: str, **options: Any) -> list[Settled]:
    recipe = attacks.get(spec)
    setting = Setting(norm, **({"classes": 10, "seed": 0, "shape": 16} | options))
    judge = verify.judge_of(model, work, setting)
    found = loop.sweep(recipe, model, judge, work, setting)
    return sorted(found, key=lambda s: s.sample)


def drawn(problem: Any, scale: float) -> tuple[Shifted, dict[str, Any]]:
    return Shifted(problem.model, scale), {"eot": 4, "draws": DRAWS, "exact": False}


# --- draws ---------------------------------------------------------------------------------------


def test_forks_are_streams_of_their_own():
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    draws = Draws.of(x, 3)
    shape = torch.Size((6, 1000))
    streams = [
        draws.uniform(shape, "a"),
        draws.fork("a").uniform(shape, "a"),
        draws.fork("a", 1).uniform(shape, "a"),
        draws.fork("b").uniform(shape, "a"),
        evaluation_draws(draws.ids, 0).uniform(shape, "a"),
        evaluation_draws(draws.ids, 1).uniform(shape, "a"),
    ]
    flat = torch.stack([stream.flatten() for stream in streams])
    # Independent streams of 6,000 numbers correlate by about 0.013; 5 of these are 0.065.
    off = torch.corrcoef(flat) - torch.eye(len(streams))
    assert off.abs().max() < 0.065
    assert torch.equal(streams[2], Draws.of(x, 3).fork("a", 1).uniform(shape, "a"))
    one = Draws.of(x[2:3], 3).fork("a", 1).uniform(torch.Size((1, 1000)), "a")
    assert torch.equal(streams[2][2:3], one), "an image's numbers do not depend on the others"


def test_an_attack_never_meets_the_draws_that_it_is_judged_under():
    problem = linear("l2", 10)
    model, options = drawn(problem, 0.001)
    swept("pgd:steps=3", model, samples(problem.x, problem.y, [0.2]), norm="l2", **options)
    ids = sample_ids(problem.x)
    judged = [set(evaluation_draws(ids, number).ids.tolist()) for number in range(DRAWS)]
    under = [ids for ids in model.seen if any(ids <= own for own in judged)]
    asked = [ids for ids in model.seen if not any(ids & own for own in judged)]
    assert len(under) + len(asked) == len(model.seen)
    assert len(asked) == 4 * 4, "four queries of four answers each"
    assert all(not one & other for i, one in enumerate(asked) for other in asked[:i]), "each fresh"


def test_outcomes_under_each_draw_are_those_of_the_point_that_came_back():
    problem = linear("linf", 10)
    # Shifts as large as the margins: an attack that wins under some draws loses under others.
    model, options = drawn(problem, 0.5)
    work = samples(problem.x, problem.y, [0.01, 0.02, 0.03])
    results = swept("pgd:steps=6", model, work, norm="linf", **options)
    shares = set()
    for settled in results:
        lowest = settled.fell.any(1)
        assert settled.fell.shape == (3, DRAWS)
        assert (settled.fell[:-1] <= settled.fell[1:]).all(), "an image inside a ball stays inside"
        if not lowest.any():
            continue
        rung = int(lowest.argmax())
        point, own = settled.x_adv[None], work.ids[settled.sample : settled.sample + 1]
        assert norms.inside(point, work.x[settled.sample][None], torch.tensor([0.03]), "linf")
        told = [
            bool(model(point, evaluation_draws(own, i)).argmax(1) != work.y[settled.sample])
            for i in range(DRAWS)
        ]
        assert settled.fell[rung].tolist() == told
        shares.add(sum(told))
    assert shares - {0, DRAWS}, "some draws fall and others stand"


def test_queries_count_every_answer_that_is_averaged():
    problem = linear("l2", 10)
    model, options = drawn(problem, 0.001)
    work = samples(problem.x, problem.y, [1e-4])
    for settled in swept("pgd:steps=3,restarts=2", model, work, norm="l2", **options):
        assert (settled.forward, settled.backward) == (2 * 4 * 4, 2 * 3 * 4)
        assert settled.spent.tolist() == [2 * 4 * 4]


@pytest.mark.parametrize("spec", ["pgd:steps=4", "apgd:steps=6", "ddn:steps=6", "square:queries=9"])
def test_what_an_image_gets_does_not_depend_on_its_batch(spec):
    problem = linear("l2", 10)
    model, options = drawn(problem, 0.3)
    work = samples(problem.x, problem.y, [0.05, 0.1])
    together = swept(spec, model, work, norm="l2", **options)
    few = swept(spec, model, work, norm="l2", in_flight=3, **options)
    some = torch.arange(5, 9)
    part = samples(work.x[some], work.y[some], [0.05, 0.1])
    alone = swept(spec, model, part, norm="l2", **options)
    pairs = [*zip(together, few, strict=True), *zip(together[5:9], alone, strict=True)]
    for one, other in pairs:
        assert one.fell.tolist() == other.fell.tolist()
        assert torch.equal(one.x_adv, other.x_adv)


def test_the_mean_over_draws_is_the_gradient_that_attacks_get():
    net, x = Curved(), torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.arange(5)
    model, draws = Shifted(net, 0.2), Draws.of(x, 7)
    aim = Aim(CROSS_ENTROPY, y, torch.ones(5))
    counter = torch.tensor([3, 0, 1, 2, 9])
    oracle = Witness(model, "gradient", 10, 1, 6).oracle(y, draws, counter)
    answer = oracle(x, aim, differentiate=True)
    gradients, values = [], []
    for number in range(6):
        leaf = x.clone().requires_grad_()
        own = draws.fork("query", counter, number)
        value = nn.functional.cross_entropy(model(leaf, own), y, reduction="none")
        gradients.append(torch.autograd.grad(value.sum(), leaf)[0])
        values.append(value.detach())
    assert_close(answer.gradient, torch.stack(gradients).mean(0))
    assert_close(answer.value, torch.stack(values).mean(0))


def test_of_a_model_that_draws_nothing_no_mean_is_taken():
    witness = Witness(Curved(), "gradient", 10, 1, 10)
    assert witness.answers == 1
    ids = torch.zeros(0, dtype=torch.int64)
    assert isinstance(witness.oracle(ids, Draws(0, ids, ids)), GradientOracle)


def test_a_call_from_python_takes_a_pipeline_that_draws():
    problem = linear("linf", 10)
    model = Shifted(problem.model, 0.0)
    threat = ThreatModel("linf", 0.03)
    x_adv = attacks.get("pgd:steps=5")(model, problem.x, problem.y, threat)
    assert (problem.model(x_adv).argmax(1) != problem.y).all()
    with pytest.raises(ValueError, match="must be handed draws"):
        said(model, problem.x, None)


def test_a_black_box_that_draws_stays_one():
    box = Patient(Shifted(Curved(), 0.1))
    assert is_random(box)
    assert not refuses(box)
    assert refuses(Patient(Watched(Curved(), 0.5)))
    assert not is_random(Curved())


# --- refusals ------------------------------------------------------------------------------------


def test_a_refusal_counts_as_the_label():
    logits = torch.tensor([[1.0, 3.0, 2.0, 4.0], [1.0, 3.0, 2.0, -4.0], [5.0, 3.0, 2.0, 4.0]])
    y = torch.tensor([0, 0, 1])
    told = merged(logits, y, 3)
    assert told.tolist() == [[4.0, 3.0, 2.0], [1.0, 3.0, 2.0], [5.0, 4.0, 2.0]]
    # Another class leads exactly where an image is accepted and misclassified.
    accepted = (logits.argmax(1) != y) & (logits.argmax(1) != 3)
    assert torch.equal(told.argmax(1) != y, accepted)
    assert torch.equal(merged(logits[:, :3], y, 3), logits[:, :3])


def test_the_loss_of_what_an_attack_sees_is_a_joint_one():
    net = Curved()
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    model, y = Watched(net, float(x.mean()) - 0.1), net(x).argmax(1)
    wrong = (y + 1) % 10
    seen = AsSeen(model, wrong, 10, None)
    leaf = x.clone().requires_grad_()
    # The image is misclassified and refused: only the refusal is in the adversary's way, at
    # 50 * 0.1 above the top logit, so every pixel wants down at the same slope.
    value = Aim(MARGIN, wrong, torch.ones(1)).value(seen(leaf))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert_close(value, torch.tensor([-50 * 0.1]))
    assert_close(gradient, torch.full_like(x, -50 / 64))


@pytest.mark.parametrize("spec", ["pgd:steps=20,loss=margin", "apgd:steps=20", "fmn:steps=60"])
def test_an_attack_finds_the_way_around_a_refusal(spec):
    problem = linear("linf", 10)
    # Refuses what is brighter than the brightest image: half of the directions out of the class.
    bound = float(problem.x.flatten(1).mean(1).max()) + 0.001
    model = Watched(problem.model, bound)
    radii = [2 * float(problem.distance.max())]
    work = samples(problem.x, problem.y, radii)
    results = swept(spec, model, work, norm="linf")
    for settled in results:
        logits = model(settled.x_adv[None])
        assert settled.fooled.all()
        assert logits.argmax(1) not in (10, work.y[settled.sample])


def test_a_refused_image_is_no_success_and_a_refused_clean_one_is_an_error():
    problem = linear("linf", 10)
    model = Watched(problem.model, 0.0)
    work = samples(problem.x, problem.y, [0.05])
    for settled in swept("pgd:steps=5", model, work, norm="linf"):
        assert not settled.fooled.any()
    logits = verify.predictions(model, problem.x, 16, classes=10)
    assert logits.shape == (len(problem.x), 11)
    assert (logits.argmax(1) != problem.y).all()


@pytest.mark.parametrize("spec", ["square:queries=200", "hopskipjump:queries=300"])
def test_black_boxes_see_refusals_as_their_label(spec):
    problem = linear("l2", 10)
    never = Watched(problem.model, -1.0)
    work = samples(problem.x[:4], problem.y[:4], [5.0])
    for settled in swept(spec, never, work, norm="l2"):
        assert not settled.fooled.any()
    open_ = Watched(problem.model, 2.0)
    assert all(settled.fooled.all() for settled in swept(spec, open_, work, norm="l2"))


def test_other_peoples_attacks_see_the_same():
    problem = linear("linf", 10)

    def one_step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y), leaf)
        assert model(leaf).shape[1] == 10
        return (x + eps * slope.sign()).clamp(0, 1)

    recipe = attacks.wrap(one_step)
    for model, options in (
        (Watched(problem.model, 2.0), {"exact": True}),
        drawn(problem, 0.001),
    ):
        work = samples(problem.x, problem.y, [1.2 * float(problem.distance.max())])
        setting = Setting("linf", 10, 0, 16, **options)
        judge = verify.judge_of(model, work, setting)
        for settled in loop.sweep(recipe, model, judge, work, setting):
            assert settled.fooled.all()
            each = 4 if is_random(model) else 1
            assert (settled.forward, settled.backward) == (2 * each, each)


def test_linear_is_what_the_fixtures_are_made_of():
    """The margin of a shifted image is the closed form, so that shares of draws are what they
    say.
    """
    problem = linear("l2", 2)
    assert isinstance(problem.model, Linear)
    model = Shifted(problem.model, 0.1)
    draws = evaluation_draws(sample_ids(problem.x), 0)
    moved = problem.x + model.shift(problem.x, draws)
    assert_close(model(problem.x, draws), problem.model(moved))

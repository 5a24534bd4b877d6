"""Minimal attacks: how near they come to exact distances, and the curve that one run fills."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import attacks
from attacks import ThreatModel, loop, norms, verify
from attacks.draws import sample_ids
from attacks.work import Samples, Setting, Settled
from tests.attacks.enumeration import DIM, Tiny, exact
from tests.problems import Counting, Mapped, Problem, linear

IMAGES = 8
FAR = 64.0
SPECS = {
    "linf": ["deepfool", "fmn", "fab", "fab_t", "hopskipjump:queries=2000"],
    "l2": [
        *("deepfool", "fmn", "fab", "fab_t", "ddn", "cw", "penalty", "lbfgs", "penalty:loss=ce"),
        *("boundary:queries=2000", "hopskipjump:queries=2000"),
    ],
    "l1": ["fmn", "fab", "fab_t", "ead"],
    "l0": ["fmn", "sigma_zero"],
}
CASES = [(norm, spec) for norm, specs in SPECS.items() for spec in specs]
WEAK = ("deepfool", "penalty", "lbfgs")
"""deepfool takes the first point behind a boundary; penalty and lbfgs aim at one class alone, and a
step that leaves the piece of the net they start in can end anywhere."""


def test_every_minimal_attack_is_among_them() -> None:
    names = attacks.registry.attacks.names()
    recipes = {name: attacks.get(name) for name in names}
    known = {(norm, name) for name, r in recipes.items() if r.kind == "minimal" for norm in r.norms}
    assert known == {(norm, spec.partition(":")[0]) for norm, spec in CASES}


@functools.cache
def enumerated(norm: str) -> tuple[Tiny, Tensor, Tensor, Tensor]:
    """A net, images, their labels and the exact distances (N,)."""
    net = Tiny(seed=1)
    x = torch.rand(IMAGES, 1, 2, 2, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        y = net(x).argmax(1)
    distances = [exact(net, image, int(label), norm) for image, label in zip(x, y, strict=True)]
    return net, x, y, torch.tensor(distances, dtype=torch.float64)


@pytest.mark.parametrize(("norm", "spec"), CASES)
def test_on_a_piecewise_linear_net_whose_minimum_is_enumerated(norm: str, spec: str) -> None:
    """Never nearer than the exact minimum, and mostly at it: the median within 5 % (weak ones: 10).

    Single images may end at the boundary of another piece: a gradient does not see round corners.
    """
    net, x, y, distance = enumerated(norm)
    x_adv = attacks.get(spec)(net, x, y, ThreatModel(norm, FAR))
    with torch.no_grad():
        found = net(x_adv).argmax(1) != y
    reached = norms.size(x_adv.double() - x.double(), norm)
    ratio = torch.where(found, reached / distance, torch.inf)
    # float32 logits can cross the boundary a little early.
    assert (ratio >= 1 - 1e-4).all()
    assert ratio.median() <= (1.1 if spec.startswith(WEAK) else 1.05)


def swept(spec: str, problem: Problem, radii: NDArray[np.float64], **options: str) -> list[Settled]:
    work = Samples(problem.x, problem.y, sample_ids(problem.x), radii)
    setting = Setting(problem.norm, 10, 0, 16, **options)
    judge = verify.judge_of(problem.model, work, setting)
    settled = loop.sweep(attacks.get(spec), problem.model, judge, work, setting)
    return sorted(settled, key=lambda s: s.sample)


@pytest.mark.parametrize("policy", ["ladder", "bisect", "independent"])
@pytest.mark.parametrize(("norm", "spec"), [("l2", "fmn:steps=60"), ("l2", "lbfgs")])
def test_one_run_fills_the_curve(norm: str, spec: str, policy: str) -> None:
    """The queries do not depend on the number of radii; an image is fooled wherever it lies in."""
    problem = linear(norm, 10)
    shares = np.array([0.5, 0.95, 1.06, 1.5])
    many = swept(spec, problem, problem.distance.numpy()[:, None] * shares, policy=policy)
    one = swept(spec, problem, problem.distance.numpy()[:, None] * shares[-1:], policy=policy)
    for settled, alone in zip(many, one, strict=True):
        assert settled.fooled.tolist() == [False, False, True, True]
        assert (settled.forward, settled.backward) == (alone.forward, alone.backward)
        assert torch.equal(settled.x_adv, alone.x_adv)


def test_a_success_beyond_the_grid_is_found_but_fools_no_radius() -> None:
    problem = linear("l2", 10)
    for settled in swept("fmn:steps=60", problem, 0.5 * problem.distance.numpy()[:, None]):
        assert settled.found
        assert not settled.fooled.any()
        delta = (settled.x_adv - problem.x[settled.sample]).double()
        assert norms.size(delta[None], "l2").item() == pytest.approx(
            problem.distance[settled.sample].item(), rel=0.01
        )


@pytest.mark.parametrize(
    ("spec", "forward", "backward"),
    [
        ("fmn:steps=7", 8, 7),
        ("fmn:steps=7,restarts=2", 16, 14),
        ("ddn:steps=7", 8, 7),
        ("cw:steps=7,search=3", 24, 21),
        ("penalty:steps=7,search=3,target=next", 24, 21),
        ("penalty:steps=7,search=3", 25, 21),
        ("penalty:steps=7,lam=0.1,target=next", 8, 7),
    ],
)
def test_queries_are_what_the_schedule_says(spec: str, forward: int, backward: int) -> None:
    """Every step looks once with its gradient, then a last look; a ranked target costs another."""
    problem = linear("l2", 10)
    model = Counting(problem.model)
    work = Samples(problem.x, problem.y, sample_ids(problem.x), np.array([1.0]))
    setting = Setting("l2", 10, 0, 16)
    judge = verify.judge_of(problem.model, work, setting)
    settled = list(loop.sweep(attacks.get(spec), model, judge, work, setting))
    assert {(s.forward, s.backward) for s in settled} == {(forward, backward)}
    assert (model.forwards, model.backwards) == (16 * forward, 16 * backward)
    assert attacks.get(spec).cost([0.5, 1.0], "l2", 10) >= forward


def test_queries_of_two_points_and_of_a_jacobian() -> None:
    """ead looks at iterate and slack, with one gradient. A jacobian costs a backward per class:
    deepfool looks at the image twice, the second time with it, and so at the point behind.
    """
    for spec, norm, forward, backward in (
        ("ead:steps=7,search=2", "l1", 2 * 2 * 8, 2 * 7),
        ("deepfool:steps=7,candidates=4", "l2", 3, 8),
    ):
        problem = linear(norm, 10)
        model = Counting(problem.model)
        work = Samples(problem.x, problem.y, sample_ids(problem.x), np.array([1.0]))
        setting = Setting(norm, 10, 0, 16)
        judge = verify.judge_of(problem.model, work, setting)
        settled = list(loop.sweep(attacks.get(spec), model, judge, work, setting))
        assert {(s.forward, s.backward) for s in settled} == {(forward, backward)}
        assert model.forwards == 16 * forward


def test_queries_of_a_block_attack_are_the_models() -> None:
    problem = linear("l2", 10)
    model = Counting(problem.model)
    work = Samples(problem.x, problem.y, sample_ids(problem.x), np.array([1.0]))
    setting = Setting("l2", 10, 0, 1)
    judge = verify.judge_of(problem.model, work, setting)
    settled = list(loop.sweep(attacks.get("lbfgs"), model, judge, work, setting))
    assert sum(s.forward for s in settled) == model.forwards
    assert sum(s.backward for s in settled) == model.backwards
    assert all(0 < s.forward <= attacks.get("lbfgs").cost([1.0], "l2", 10) for s in settled)


@pytest.mark.parametrize(
    "spec", ["penalty:clip=false,steps=60", "penalty:clip=false,lam=0,steps=60"]
)
def test_a_point_outside_the_box_is_no_success(spec: str) -> None:
    """With every image at a wall, all that the model needs lies outside: refused, and said so."""
    problem = linear("l2", 10)
    outward = Mapped(
        problem.model,
        lambda _, x: torch.stack([torch.zeros(len(x)), -0.05 - x.flatten(1).amin(1)], 1),
    )
    x = torch.zeros(8, 1, 8, 8)
    work = Samples(x, torch.zeros(8, dtype=torch.int64), torch.arange(8), np.array([5.0]))
    setting = Setting("l2", 2, 0, 8)
    judge = verify.judge_of(outward, work, setting)
    for settled in loop.sweep(attacks.get(spec), outward, judge, work, setting):
        assert settled.refused >= 1
        assert not settled.found
        assert not settled.fooled.any()


def test_the_penalty_with_no_weight_goes_further_than_with_one() -> None:
    """lam = 0 may go anywhere; the distance falls as lam grows."""
    problem = linear("l2", 10)
    mean = []
    for lam in (0.0, 0.1, 1.0, 10.0):
        recipe = attacks.get(f"penalty:lam={lam},steps=100,lr=0.02,target=next,loss=ce")
        task = problem_task(problem)
        state = recipe.start(task)
        for _ in range(100):
            state = told(recipe, problem, state)
        end = recipe.ask(state).points[:, 0]
        mean.append(norms.size(end - problem.x, "l2").mean().item())
    assert mean == sorted(mean, reverse=True)
    assert mean[0] > 2 * mean[-1]


def problem_task(problem: Problem) -> attacks.base.Task:
    return attacks.base.Task(
        problem.x,
        problem.y,
        problem.norm,
        torch.ones(len(problem.y)),
        10,
        attacks.draws.Draws.of(problem.x, 0),
    )


def told(recipe: attacks.base.StepAttack, problem: Problem, state: object) -> object:
    query = recipe.ask(state)
    oracle = attacks.oracles.ORACLES[recipe.access](problem.model)
    answer = oracle(query.points[:, 0], query.aim, differentiate=True)
    shaped = attacks.oracles.Answer(answer.logits[:, None], answer.value[:, None], answer.gradient)
    return recipe.tell(state, shaped)


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("cw:steps=2,search=5,first=1", [1.0, 0.5, 0.75, 0.625, 0.6875]),
        ("ead:steps=2,search=5,first=1", [1.0, 0.5, 0.75, 0.625, 0.6875]),
        ("penalty:steps=2,search=5,first=1,target=next", [1.0, 0.01, 0.1, 10**-1.5, 10**-1.25]),
    ],
)
def test_the_search_goes_down_after_a_round_that_succeeded_and_up_after_one_that_did_not(
    spec: str, weights: list[float]
) -> None:
    """Rounds that succeed, fail, succeed, fail: halves of the way, for penalty of its logarithm. A
    success belongs to its own round.
    """
    problem = linear("l2", 10)
    recipe = attacks.get(spec)
    state, seen = recipe.start(problem_task(problem)), []
    for number in range(len(weights)):
        seen.append(state.weight.value[0].item())
        fooled = (problem.y + 1) % 10 if number % 2 == 0 else problem.y
        logits = torch.nn.functional.one_hot(fooled, 10).float()
        many = logits[:, None].expand(-1, recipe.points, -1)
        value = torch.full((16, recipe.points), 1.0 if number % 2 == 0 else -1.0)
        for _ in range(3):
            state = recipe.tell(state, attacks.oracles.Answer(many, value, 0 * problem.x))
    assert state.done.all()
    assert seen == pytest.approx(weights, rel=1e-5)


class Recorder(torch.nn.Module):
    """A net of two classes, with the points that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.points.append(x.detach().clone())
        lead = (4 * x.flatten(1)).sin().sum(1) - 2.6
        return torch.stack([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize(
    "spec", ["lbfgs", "ddn:steps=30,gamma=0.3", "fmn:steps=30", "cw:steps=30,search=4,first=1"]
)
def test_the_nearest_of_all_successes_is_returned(spec: str) -> None:
    """Not the last one: others are asked for, and succeed, behind it."""
    net, later = Recorder(), False
    x = 0.1 + 0.2 * torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    for image in x.split(1):
        y = net(image).argmax(1)
        net.points.clear()
        x_adv = attacks.get(spec)(net, image, y, ThreatModel("l2", FAR), shape=1)
        asked = torch.cat(net.points)
        wrong = asked[net(asked).argmax(1) != y]
        nearest = norms.size(wrong - image, "l2").min().item()
        assert norms.size(x_adv - image, "l2").item() == pytest.approx(nearest, rel=1e-6)
        is_other = (wrong != x_adv).flatten(1).any(1)
        later |= bool(is_other[int(is_other.long().argmin()) :].any())
    assert later


def test_images_have_the_enumerated_size() -> None:
    assert enumerated("l2")[1][0].numel() == DIM


@pytest.mark.parametrize("named", [False, True])
def test_fab_t_turns_back_from_any_success(named: bool) -> None:
    """From a wrong class that is not its target too, unless the caller wants that target."""
    problem = linear("l2", 10)
    targets = (problem.y + 5) % 10
    task = replace(problem_task(problem), targets=targets if named else None)
    recipe = attacks.get("fab_t:target=next")
    wrong = 2 * (problem.y + 1) % 10 + 1  # anything
    state = recipe.start(task)
    goal = replace(state.goal, target=targets)
    point = problem.x + 0.01
    state = replace(state, goal=goal, point=point)
    other = torch.where((wrong == problem.y) | (wrong == targets), (problem.y + 2) % 10, wrong)
    logits = torch.nn.functional.one_hot(other, 10).float()
    zeros = torch.zeros(16, 1)
    told_of = recipe.tell(state, attacks.oracles.Answer(logits[:, None], zeros, 0 * point))
    assert told_of.returned.tolist() == [not named] * 16
    if not named:
        torch.testing.assert_close(told_of.point, problem.x + 0.9 * (point - problem.x))
        assert (told_of.step == 0).all()

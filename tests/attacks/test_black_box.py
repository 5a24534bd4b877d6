"""Attacks that see scores or labels only: their definitions, their queries, their budgets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import ThreatModel, loop, norms, stream, verify
from attacks.base import Attack, Task
from attacks.draws import Draws, sample_ids
from attacks.oracles import ORACLES, Answer, ModelError, OnlyLabels, Patient
from attacks.square import _pattern
from attacks.work import NEVER, Samples, Setting, Settled
from tests.problems import (
    BlackBox,
    Counting,
    Curved,
    Linear,
    Mapped,
    convolutional,
    images,
    linear,
    numbered,
)


def task_of(x: Tensor, norm: str, radius: float, seed: int = 0) -> Task:
    y = torch.zeros(len(x), dtype=torch.int64)
    return Task(x, y, norm, torch.full((len(x),), radius), 10, Draws.of(x, seed))


# Square


@pytest.mark.parametrize(("size", "side"), [(28, 25), (32, 29), (8, 7)])
def test_the_first_square_of_the_paper(size: int, side: int) -> None:
    """0.8 of the image: 25 of 28 pixels (round(sqrt(0.8 * 784)))."""
    assert attacks.get("square").sides(size, size, "linf")[0] == side


def test_the_schedule_of_the_paper() -> None:
    """The side in MNIST's images at the queries where the paper's code halves the share; AutoAttack
    keeps the queries of 10,000 whatever its own number.
    """
    recipe = attacks.get("square:rescale=false")
    sides = recipe.sides(28, 28, "linf")
    assert sides == [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    steps = torch.tensor([1, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 4999])
    assert recipe.level(steps).tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7]
    scaled = attacks.get("square:queries=5000")
    assert scaled.level(steps).tolist() == [0, 1, 1, 2, 2, 3, 5, 6, 7, 9, 9]


def test_the_sides_of_l2_are_odd_and_fit() -> None:
    for size in (8, 28, 32):
        sides = attacks.get("square").sides(size, size, "l2")
        assert all(side % 2 == 1 and 3 <= side <= size for side in sides)


def reference_pattern(side: int) -> np.ndarray:
    """The paper's eta, by loops: two halves of nested rectangles around their middles."""

    def bump(height: int, width: int) -> np.ndarray:
        made = np.zeros((height, width))
        row, column = height // 2, width // 2
        for k in range(max(row, column) + 1):
            for i in range(height):
                for j in range(width):
                    if abs(i - row) <= k and abs(j - column) <= k:
                        made[i, j] += 1 / (k + 1) ** 2
        return made / np.sqrt((made**2).sum()) if height else made

    whole = np.concatenate([bump(side // 2, side), -bump(side - side // 2, side)])
    return whole / np.sqrt((whole**2).sum())


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 13, 25])
def test_the_pattern_of_l2(side: int) -> None:
    assert np.allclose(_pattern(side).numpy(), reference_pattern(side), atol=1e-6)


def test_square_starts_with_stripes_of_eps() -> None:
    x = torch.full((40, 3, 8, 8), 0.5)
    point = attacks.get("square").start(task_of(images(40, shape=(3, 8, 8)) * 0 + x, "linf", 0.1))
    delta = point.point - x
    assert torch.allclose(delta.abs(), torch.full_like(x, 0.1))
    assert (delta == delta[:, :, :1]).all()
    assert 0.4 < (delta > 0).float().mean() < 0.6


def moved_squares(norm: str) -> tuple[Tensor, Tensor, Tensor]:
    """Best points, proposals, and images, some steps into the attack."""
    recipe = attacks.get("square:queries=100,p=0.2")
    x = images(60, shape=(2, 8, 8))
    state = recipe.start(task_of(x, norm, 0.2 if norm == "linf" else 1.0))
    oracle = ORACLES["logits"](Curved(dim=128))
    for _ in range(12):
        query = recipe.ask(state)
        answer = oracle(query.points[:, 0], query.aim, differentiate=False)
        told = Answer(answer.logits[:, None], answer.value[:, None], answer.gradient)
        state = recipe.tell(state, told)
    return state.best, state.point, x


def test_a_query_of_linf_moves_one_square_to_the_walls_of_the_ball() -> None:
    best, point, x = moved_squares("linf")
    moved = (point != best).any(1)
    for sample in range(len(x)):
        if moved[sample].any():
            rows, columns = torch.nonzero(moved[sample], as_tuple=True)
            assert rows.max() - rows.min() < 4
            assert columns.max() - columns.min() < 4
    at_wall = ((point - x).abs() > 0.2 - 1e-6) | (point == 0) | (point == 1)
    assert at_wall.all()


def test_a_query_of_l2_spends_the_whole_radius() -> None:
    """Before the box takes its part: no image here has pixels at its walls."""
    recipe = attacks.get("square:queries=100")
    x = 0.3 + 0.4 * images(60)
    state = recipe.start(task_of(x, "l2", 0.25))
    oracle = ORACLES["logits"](Curved())
    for _ in range(20):
        assert torch.allclose(norms.size(state.point - x, "l2"), torch.full((60,), 0.25), atol=1e-5)
        query = recipe.ask(state)
        answer = oracle(query.points[:, 0], query.aim, differentiate=False)
        told = Answer(answer.logits[:, None], answer.value[:, None], answer.gradient)
        state = recipe.tell(state, told)


# Estimated gradients


@pytest.mark.parametrize("spec", ["nes", "spsa"])
def test_the_estimate_is_the_gradient_in_the_mean(spec: str) -> None:
    """On a linear loss, pixels at the walls of the box among the others: over many directions the
    estimate of each component is the gradient's, within its standard error (|g| / sqrt(pairs)).
    """
    pairs = 1500
    recipe = attacks.get(f"{spec}:attack=[pgd:steps=1,random=false,loss=margin],pairs={pairs}")
    problem = linear("l2", 2, count=2)
    x = problem.x.clone()
    x[:, 0, 0], x[:, 0, 1] = 0.0, 1.0
    y = problem.model(x).argmax(1)
    work = Task(x, y, "l2", torch.full((2,), 0.1), 2, Draws.of(x, 0))
    state = recipe.start(work)
    told: list[Tensor] = []
    oracle = ORACLES["logits"](problem.model)
    with pytest.MonkeyPatch.context() as patch:
        inner = type(recipe.inner)

        def noted(self: Any, state: Any, answer: Answer) -> Any:
            told.append(answer.gradient)
            return real(self, state, answer)

        real = inner.tell
        patch.setattr(inner, "tell", noted)
        for _ in range(1 + 2 * pairs):
            query = recipe.ask(state)
            answer = oracle(query.points[:, 0], query.aim, differentiate=False)
            logits, value = answer.logits[:, None], answer.value[:, None]
            state = recipe.tell(state, Answer(logits, value, answer.gradient))
    weight = problem.model.weight
    expected = (weight[1 - y] - weight[y]).view_as(x)
    assert len(told) == 1
    error = (told[0] - expected).abs() / expected.flatten(1).norm(dim=1)[:, None, None, None]
    assert error.max() < 5 / pairs**0.5


@pytest.mark.parametrize("spec", ["nes", "spsa"])
@pytest.mark.parametrize(("steps", "pairs"), [(1, 1), (3, 4)])
def test_queries_of_an_estimating_attack(spec: str, steps: int, pairs: int) -> None:
    """Each step is a look and two probes per pair; then a last look."""
    problem = linear("linf", 10, count=3)
    recipe = attacks.get(f"{spec}:attack=[pgd:steps={steps},loss=margin],pairs={pairs}")
    for settled in swept(recipe, problem.model, problem.x, problem.y, [0.01 * 0.3]):
        assert settled.forward == steps * (1 + 2 * pairs) + 1
        assert settled.backward == 0


@pytest.mark.parametrize("inner", ["deepfool", "ddn", "noise", "autoattack", "apgd:eot=2"])
def test_only_ascent_inside_eps_is_estimated(inner: str) -> None:
    with pytest.raises(ValueError, match="attack must"):
        attacks.get(f"spsa:attack=[{inner}]")


# SimBA


def test_the_cosine_waves_are_orthonormal_and_the_lowest_come_first() -> None:
    recipe = attacks.get("simba:basis=dct")
    number = torch.arange(2 * 64)
    waves = recipe._wave(number, torch.zeros(128, 2, 8, 8)).flatten(1)
    assert torch.allclose(waves @ waves.T, torch.eye(128), atol=1e-5)
    assert torch.allclose(waves[0, :64], torch.full((64,), 1 / 8))
    low = attacks.get("simba:basis=dct,low=0.25")
    x = torch.zeros(4, 1, 8, 8)
    assert low.start(task_of(x, "l2", 1.0)).order.shape == (4, 4)


def test_simba_uses_every_pixel_once_before_any_twice() -> None:
    """On a linear model under linf each pixel is settled by at most two tries."""
    problem = linear("linf", 2, count=4)
    assert all(
        settled.fooled.all() and settled.forward <= 1 + 2 * 64
        for settled in swept("simba", problem.model, problem.x, problem.y, [0.0202])
    )


# Labels only


@pytest.mark.parametrize(
    ("spec", "norm", "factor"),
    [
        ("hopskipjump:queries=1500", "l2", 1.08),
        ("hopskipjump:queries=1500", "linf", 1.2),
        ("boundary:queries=2000", "l2", 1.03),
    ],
)
def test_labels_are_enough_to_come_near_the_boundary(spec: str, norm: str, factor: float) -> None:
    """A linear model of two classes, whose exact distance is known."""
    problem = linear(norm, 2, count=8)
    far = 0.5 if norm == "linf" else 4.0
    only = OnlyLabels(lambda x: problem.model(x).argmax(1), 2)
    x_adv = attacks.get(spec)(only, problem.x, problem.y, ThreatModel(norm, far))
    ratio = norms.size((x_adv - problem.x).double(), norm) / problem.distance
    assert (problem.model(x_adv).argmax(1) != problem.y).all()
    assert (ratio >= 1 - 1e-4).all()
    assert ratio.median() < factor


@pytest.mark.parametrize("spec", ["boundary:queries=40", "hopskipjump:queries=40,first=10"])
def test_only_the_class_matters(spec: str) -> None:
    """Whatever keeps the order of the logits changes nothing."""
    x, model = images(12), convolutional()
    y = model(x).argmax(1)
    threat = ThreatModel("l2", 2.0)
    expected = attacks.get(spec)(model, x, y, threat)
    for change in (lambda z, _: z**3, lambda z, _: z.softmax(1), lambda z, _: z * 8):
        assert torch.equal(attacks.get(spec)(Mapped(model, change), x, y, threat), expected)


def test_where_no_other_class_is_found_the_attack_ends() -> None:
    model = Linear(torch.zeros(2, 64), torch.tensor([1.0, 0.0]))
    x, y = images(5), torch.zeros(5, dtype=torch.int64)
    for settled in swept("hopskipjump:tries=7", model, x, y, [1.0], norm="l2"):
        assert settled.forward == 7
        assert not settled.found
        assert not settled.fooled.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, _: z.softmax(1), "returns probabilities"),
        (lambda z, _: nn.functional.one_hot(z.argmax(1), 10).float(), "tells only classes"),
        (lambda z, _: z.argmax(1), "wrap a model that tells only classes in attacks.OnlyLabels"),
    ],
)
@pytest.mark.parametrize("spec", ["square", "nes", "simba"])
def test_scores_are_needed(spec: str, change: Any, message: str) -> None:
    x, model = images(4), Curved()
    y = model(x).argmax(1)
    with pytest.raises(ModelError, match=message):
        attacks.get(spec)(Mapped(model, change), x, y, ThreatModel("linf", 0.1))


def test_a_box_of_labels_must_return_classes() -> None:
    only = OnlyLabels(lambda x: torch.zeros(len(x), 2), 2)
    with pytest.raises(ModelError, match="must return classes"):
        only(images(3))


# Budgets and the anytime curve


BUDGETED = [
    ("fgsm", 2),
    ("pgd:steps=20,restarts=3", 25),
    ("pgd:target=all,steps=3", 17),
    ("apgd:eot=3,steps=10", 20),
    ("deepfool", 4),
    ("fmn:restarts=2,steps=8", 13),
    ("autoattack:steps=5,queries=10", 33),
    ("square:restarts=3,queries=20", 47),
    ("spsa:pairs=3", 40),
    ("simba", 30),
    ("hopskipjump:first=5", 60),
    ("boundary", 45),
    ("noise:samples=9", 5),
]


@pytest.mark.parametrize(("spec", "budget"), BUDGETED)
def test_a_budget_is_never_exceeded_and_all_but_used(spec: str, budget: int) -> None:
    """Per sample and radius, restarts and stages together, as the model itself counts. Nobody is
    fooled inside these radii, so that a budget attack goes on until too little is left for its next
    query.
    """
    recipe = attacks.get(spec)
    norm = "linf" if "linf" in recipe.norms else "l2"
    problem = linear(norm, 10, count=4)
    model = Counting(problem.model)
    radii = [0.001, 0.002] if recipe.kind != "minimal" else [0.001]
    results = swept(recipe, model, problem.x, problem.y, radii, norm=norm, shape=1, budget=budget)
    assert sum(s.forward for s in results) == model.forwards
    each = recipe.eot
    for settled in results:
        assert (settled.spent <= budget).all()
        assert settled.forward <= len(radii) * budget
        if recipe.kind == "budget" and recipe.cost([0.001], norm, 10) >= budget:
            assert (settled.spent > budget - each).all()


def test_without_room_nothing_changes() -> None:
    """A budget above what the attack needs is none."""
    x, model = images(12), convolutional()
    y = model(x).argmax(1)
    free, bound = (
        swept("pgd:steps=5,restarts=2", model, x, y, [0.02, 0.05], budget=budget)
        for budget in (None, 12)
    )
    for one, other in zip(free, bound, strict=True):
        assert one.fooled.tolist() == other.fooled.tolist()
        assert torch.equal(one.x_adv, other.x_adv)
        assert one.forward == other.forward


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        *itertools.product(
            ["square:queries=60", "pgd:steps=6", "autoattack:steps=3,queries=15"],
            ["ladder", "bisect", "independent"],
        ),
        ("pgd:steps=20", "independent"),
        ("apgd:steps=20", "ladder"),
        ("apgd:steps=20", "independent"),
    ],
)
def test_the_anytime_curve_of_a_budget_attack_is_what_budgets_give(spec: str, policy: str) -> None:
    """`first` q says: with a budget of q the sample falls at this radius, with q - 1 it does not.

    On a ladder at the lowest radius that falls; one radius alone says the same. A larger radius
    needs no more (fewer, where an earlier stage broke it). Where attempts go on from one another,
    the next test.
    """
    x, model = images(16), convolutional()
    y = model(x).argmax(1)
    radii = [0.03, 0.06, 0.12]
    results = swept(spec, model, x, y, radii, policy=policy)
    assert any(s.fooled.any() for s in results)
    for settled in results:
        assert ((settled.first == NEVER) == ~settled.fooled).all()
        assert (settled.first <= settled.spent.max()).all()
        if not settled.fooled.any():
            continue
        rung = int(settled.fooled.argmax())
        one = slice(settled.sample, settled.sample + 1)
        queries = int(settled.first[rung])
        assert queries > 0
        for budget, falls in ((queries, True), (queries - 1, False)):
            (alone,) = swept(spec, model, x[one], y[one], [radii[rung]], budget=budget)
            assert bool(alone.fooled[0]) == falls
        if policy == "ladder":
            assert (settled.first[rung:] <= queries).all()


@pytest.mark.parametrize("policy", ["ladder", "bisect"])
def test_an_attempt_that_goes_on_counts_what_was_asked_before(policy: str) -> None:
    """Its start cost queries at other radii: all of them, until the success was seen."""
    x, model = images(16), convolutional()
    y = model(x).argmax(1)
    results = swept("pgd:steps=20", model, x, y, [0.01, 0.02, 0.03, 0.06, 0.12], policy=policy)
    fell = [settled for settled in results if settled.fooled.any()]
    assert fell
    further = 0
    for settled in fell:
        rung = int(settled.fooled.argmax())
        assert 0 < settled.first[rung] <= settled.forward
        further += int(settled.first[rung] > settled.spent[rung])
    assert further


@pytest.mark.parametrize(
    "spec", ["fmn:steps=15", "hopskipjump:queries=120,first=10", "deepfool:candidates=3"]
)
def test_the_anytime_curve_of_a_minimal_attack_is_what_budgets_give(spec: str) -> None:
    x, model = images(12), convolutional()
    y = model(x).argmax(1)
    radii = [0.3, 0.6, 1.2, 2.4]
    results = swept(spec, model, x, y, radii, norm="l2")
    assert any(s.fooled.any() for s in results)
    for settled in results:
        assert ((settled.first == NEVER) == ~settled.fooled).all()
        one = slice(settled.sample, settled.sample + 1)
        for rung in np.flatnonzero(settled.fooled):
            queries = int(settled.first[rung])
            for budget, falls in ((queries, True), (queries - 1, False)):
                (alone,) = swept(spec, model, x[one], y[one], radii, norm="l2", budget=budget)
                assert bool(alone.fooled[rung]) == falls


@pytest.mark.parametrize(
    ("spec", "least"), [("fgsm", 2), ("hopskipjump", 103), ("spsa:pairs=5", 12), ("noise", 1)]
)
def test_a_budget_below_the_least_is_refused(spec: str, least: int) -> None:
    x, model = images(4), Curved()
    y = model(x).argmax(1)
    recipe = attacks.get(spec)
    norm = recipe.norms[0]
    if least > 1:
        with pytest.raises(ValueError, match=f"needs a query budget of {least}, got {least - 1}"):
            recipe(model, x, y, ThreatModel(norm, 0.1), query_budget=least - 1)
    recipe(model, x, y, ThreatModel(norm, 0.1), query_budget=least)


# Black boxes that raise


class Raising:
    """A model that raises at every `every`-th call."""

    def __init__(self, model: nn.Module, every: int):
        self.model, self.every, self.calls = model, every, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % self.every == 0:
            raise ConnectionError("timed out")
        logits: Tensor = self.model(x)
        return logits


def test_a_box_that_raises_now_and_then_is_asked_again_and_counted() -> None:
    x, model = images(6), Curved()
    patient = Patient(Raising(model, 3))
    for _ in range(8):
        assert torch.equal(patient(x), model(x))
    assert patient.raised == {"ConnectionError: timed out": 3}


def test_a_box_that_keeps_raising_is_given_up() -> None:
    patient = Patient(Raising(Curved(), 1))
    with pytest.raises(ModelError, match="raised 3 times in a row, last ConnectionError: timed"):
        patient(images(2))
    assert patient.raised == {"ConnectionError: timed out": 3}


@pytest.mark.parametrize("access", ["logits", "labels"])
def test_an_oracle_without_gradients_never_goes_back(access: str) -> None:
    x, model = images(5), BlackBox(Curved())
    aim = attacks.get("noise").ask(attacks.get("noise").start(task_of(x, "linf", 0.1))).aim
    answer = ORACLES[access](model)(x, aim, differentiate=False)
    assert torch.equal(answer.logits.argmax(1), model(x).argmax(1))
    assert (answer.gradient == 0).all()
    if access == "labels":
        assert set(answer.logits.unique().tolist()) == {0.0, 1.0}
    with pytest.raises(ValueError, match="not gradients"):
        ORACLES[access](model)(x, aim, differentiate=True)


def test_random_signs_are_even_and_each_bit_is_used_once() -> None:
    draws = numbered(50)
    signs = draws.signs(torch.Size((50, 3, 70)), "here", 5)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 5 / signs.numel() ** 0.5
    pairs = signs.flatten(1)
    together = (pairs.T @ pairs / 50).fill_diagonal_(0)
    assert together.abs().max() < 0.9
    assert torch.equal(draws.signs(torch.Size((50, 3, 70)), "here", 5), signs)


def swept(
    attack: str | Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: list[float],
    *,
    norm: str = "linf",
    shape: int = 16,
    **options: Any,
) -> list[Settled]:
    """The results in the order of the samples."""
    recipe = attacks.get(attack) if isinstance(attack, str) else attack
    plain = model.net if isinstance(model, Counting) else model
    work = Samples(x, y, sample_ids(x), np.asarray(radii))
    classes = plain(x[:1]).shape[1]
    setting = Setting(norm, classes, seed=0, shape=shape, **options)
    judge = verify.judge_of(plain, work, setting)
    return sorted(loop.sweep(recipe, model, judge, work, setting), key=lambda s: s.sample)


# What a reader of the code found


def test_square_stays_inside_the_ball_at_the_size_of_photographs() -> None:
    """Float32 errs over 150,000 components by more than the re-check forgives."""
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(6, 3, 224, 224, generator=generator)
    radius = torch.full((6,), 5.0)
    state = attacks.get("square:queries=50").start(replace(task_of(x, "l2", 5.0), radius=radius))
    for value in range(4):
        assert norms.inside(state.point, x, radius, "l2").all()
        said = torch.full((6, 1), float(value))
        answer = Answer(torch.zeros(6, 1, 10), said, torch.zeros_like(x))
        state = attacks.get("square:queries=50").tell(state, answer)


def test_simba_asks_nothing_that_the_walls_undo() -> None:
    """Every query moves a pixel, though two thirds stand at a wall of the box and after a pass over
    all of them the rest at one of the ball.
    """
    recipe = attacks.get("simba:queries=300")
    x = images(5)
    state = recipe.start(task_of(x, "linf", 0.1))
    oracle = ORACLES["logits"](Curved())
    asked = 0
    for number in range(400):
        query = recipe.ask(state)
        moves = (query.points[:, 0] != state.best).flatten(1).any(1)
        assert number == 0 or torch.equal(query.wanted, moves & ~state.done)
        asked += int(query.wanted.sum())
        answer = oracle(query.points[:, 0], query.aim, differentiate=False)
        told = Answer(answer.logits[:, None], answer.value[:, None], answer.gradient)
        state = recipe.tell(state, told)
    assert asked == int(state.step.sum()) < 5 * 400


@pytest.mark.parametrize("spec", ["square", "simba", "boundary", "hopskipjump"])
def test_images_without_rows_are_refused_by_name(spec: str) -> None:
    recipe = attacks.get(spec)
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    model = Curved()
    with pytest.raises(ValueError, match=r"takes images \(N, C, H, W\), got \(3, 64\)"):
        recipe(model, x, model(x).argmax(1), ThreatModel(recipe.norms[0], 0.1), shape=3)


@pytest.mark.parametrize("spec", ["boundary:tries=2,queries=100", "square:queries=9", "simba"])
def test_a_finished_row_stays_finished_however_seldom_the_host_looks(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, model = images(8), convolutional()
    y = model(x).argmax(1)
    norm = attacks.get(spec).norms[-1]
    often = swept(spec, model, x, y, [0.01], norm=norm)
    monkeypatch.setattr(stream, "_STEPS_PER_SYNC", {"cpu": 4})
    for one, other in zip(often, swept(spec, model, x, y, [0.01], norm=norm), strict=True):
        assert (one.forward, one.found) == (other.forward, other.found)


@pytest.mark.parametrize(
    ("spec", "budget"),
    [("pgd:steps=20,restarts=3", 23), ("fmn:restarts=2,steps=8", 14), ("square:queries=20", 13)],
)
def test_a_budget_is_kept_however_seldom_the_host_looks(
    spec: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between two looks of the host: the row must stop by itself."""
    problem = linear("linf", 10, count=4)
    work = problem.model, problem.x, problem.y, [0.001]
    often = swept(spec, *work, budget=budget)
    monkeypatch.setattr(stream, "_STEPS_PER_SYNC", {"cpu": 4})
    for one, other in zip(often, swept(spec, *work, budget=budget), strict=True):
        assert one.forward == budget
        assert (one.forward, one.backward) == (other.forward, other.backward)
        assert torch.equal(one.x_adv, other.x_adv)


def test_hopskipjump_finds_its_way_among_many_pixels() -> None:
    """Under linf in 3,072 components, where the paper's probes would be below float32's grain."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 3072, generator=generator)
    x = 0.5 + 0.03 * torch.randn(4, 3, 32, 32, generator=generator)
    level = float((x.flatten(1) @ weight.T).mean()) + 40
    model = Linear(torch.cat([-weight, weight]), torch.tensor([level, -level]))
    y = model(x).argmax(1)
    exact = (model(x)[:, 1] - model(x)[:, 0]).abs() / 2 / weight.abs().sum()
    recipe = attacks.get("hopskipjump:queries=3000")
    x_adv = recipe(model, x, y, ThreatModel("linf", 0.5))
    ratio = norms.size(x_adv - x, "linf") / exact
    assert (model(x_adv).argmax(1) != y).all()
    assert ratio.median() < 4


@pytest.mark.parametrize(
    ("spec", "least", "most"), [("spsa", 0.999, 1.001), ("nes:sigma=0.01", 0.68, 0.78)]
)
def test_how_much_of_a_slope_is_seen_a_sigma_from_a_wall(
    spec: str, least: float, most: float
) -> None:
    """The mean estimate of a slope of 1: random signs see all of it, normal directions less."""
    recipe = attacks.get(spec)
    x = torch.full((40_000, 1, 1, 1), 0.01)
    y = torch.zeros(len(x), dtype=torch.int64)
    draws = numbered(len(x))
    state = recipe.start(Task(x, y, "linf", torch.zeros(len(x)), 2, draws))
    ahead, behind = (
        recipe._next(replace(state, probe=torch.full_like(y, probe))) for probe in (1, 2)
    )
    seen = ((ahead.point - behind.point) * ahead.weight).mean()
    assert least < float(seen) < most

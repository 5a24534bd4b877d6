"""The loop: what it counts, what it believes, and what a sample's result may depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close

import attacks
from attacks import ThreatModel, loop, norms, stream, verify
from attacks.base import Attack, StepAttack, Task
from attacks.draws import Draws, sample_ids
from attacks.estimate import distances
from attacks.losses import MARGIN
from attacks.oracles import Aim, Answer, ModelError, Query
from attacks.pipelines import Witness
from attacks.precision import Reduced
from attacks.work import NEVER, Samples, Setting, Settled, Tally
from tests.problems import BlackBox, Counting, Curved, Linear, Mapped, convolutional, images, linear


@dataclass(frozen=True)
class BrightenState:
    """The one point of a restart."""

    point: Tensor
    y: Tensor
    done: Tensor


@dataclass(frozen=True)
class Brighten(StepAttack):
    """Adds one shift to every pixel, in each restart another share of the radius.

    All that a new attack has to say.
    """

    access: ClassVar[str] = "logits"
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    shares: tuple[float, ...] = (-1.0, 0.25, 1.0)
    restarts: int = 3

    def start(self, task: Task) -> BrightenState:
        share = torch.tensor(self.shares)[task.draws.restart]
        moved = task.x + norms.expand(share * task.radius, task.x)
        point = norms.project(moved, task.x, task.radius, task.norm)
        return BrightenState(point, task.y, torch.zeros_like(task.y, dtype=torch.bool))

    def ask(self, state: BrightenState) -> Query:
        up, never = torch.ones(len(state.y)), torch.zeros_like(state.done)
        return Query(state.point[:, None], Aim(MARGIN, state.y, up), ~state.done, never)

    def tell(self, state: BrightenState, answer: Answer) -> BrightenState:
        return replace(state, done=torch.ones_like(state.done))

    def horizon(self, radius: float, norm: str, classes: int) -> int:
        return 1


BRIGHT = Linear(torch.stack([torch.zeros(64), torch.ones(64) / 64]), torch.tensor([0.0, -0.55]))
"""Class 1 where the mean pixel is above 0.55."""
GREY = torch.full((5, 1, 8, 8), 0.5)

Judge = Callable[[Tensor, NDArray[np.int64], Tensor], NDArray[np.bool_]]
POLICIES = ["ladder", "bisect", "independent"]
LONG = "pgd:steps=12"
"""Long enough to go on from one radius to another."""


def samples(x: Tensor, y: Tensor, radii: Any) -> Samples:
    return Samples(x, y, sample_ids(x), np.asarray(radii, dtype=np.float64))


def swept(
    attack: str | Attack,
    model: nn.Module,
    work: Samples,
    *,
    norm: str = "linf",
    judge: Judge | None = None,
    **options: Any,
) -> list[Settled]:
    """The results in the order of the samples; the judge asks the plain model, not the counted."""
    recipe = attacks.get(attack) if isinstance(attack, str) else attack
    plain = model.net if isinstance(model, Counting | BlackBox) else model
    with torch.no_grad():
        classes = plain(work.x[:1]).shape[1]
    setting = Setting(norm, classes, **({"seed": 0, "shape": 16} | options))
    judge = judge or verify.judge_of(plain, work, setting)
    settled = list(loop.sweep(recipe, model, judge, work, setting))
    assert sorted(s.sample for s in settled) == list(range(len(work)))
    return sorted(settled, key=lambda s: s.sample)


def assert_same(one: Sequence[Settled], other: Sequence[Settled]) -> None:
    """Equal in everything but the number that the sample has in its batch."""
    for a, b in zip(one, other, strict=True):
        assert a.fooled.tolist() == b.fooled.tolist()
        assert torch.equal(a.x_adv, b.x_adv)
        assert (a.forward, a.backward, a.verify) == (b.forward, b.backward, b.verify)


def costs(settled: Settled) -> tuple[int, int, int]:
    return settled.forward, settled.backward, settled.verify


# Queries


@pytest.mark.parametrize("shape", [1, 16])
@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (7, 1), (5, 3)])
def test_queries_of_a_sample_that_is_not_fooled(shape: int, steps: int, restarts: int) -> None:
    """Each restart looks at every iterate and differentiates at all but the last."""
    problem = linear("linf", 2)
    model = Counting(problem.model)
    work = samples(problem.x, problem.y, 0.5 * problem.distance.numpy()[:, None])
    results = swept(f"pgd:steps={steps},restarts={restarts}", model, work, shape=shape)
    expected = ((steps + 1) * restarts, steps * restarts, 0)
    assert [costs(settled) for settled in results] == [expected] * 16
    # 16 rows at a time, all in step: nothing is padding, so the model sees what is counted.
    assert (model.forwards, model.backwards) == (16 * expected[0], 16 * expected[1])


@pytest.mark.parametrize("fooled_at", [1, 2, 5])
def test_queries_of_a_sample_that_is_fooled_on_the_way(fooled_at: int) -> None:
    """Steps of distance / (j - 1/2) cross the boundary with the j-th; the image is iterate 0."""
    problem = linear("linf", 2)
    alpha = 0.02 / (fooled_at - 0.5)
    model = Counting(problem.model)
    work = samples(problem.x[:1], problem.y[:1], [0.1])
    (settled,) = swept(f"pgd:steps=10,random=false,alpha={alpha}", model, work, shape=1)
    assert settled.fooled.all()
    assert costs(settled) == (fooled_at + 1, fooled_at, 1)
    assert model.forwards == fooled_at + 1
    # The last one goes back before its logits are read, which no attack uses: waste, not a query.
    assert model.backwards == fooled_at + 1


def test_queries_of_noise() -> None:
    problem = linear("l2", 10)
    model = Counting(BlackBox(problem.model))
    work = samples(problem.x, problem.y, 0.5 * problem.distance.numpy()[:, None])
    results = swept("noise:samples=6", model, work, norm="l2")
    assert [costs(settled) for settled in results] == [(6, 0, 0)] * 16
    assert (model.forwards, model.backwards) == (6 * 16, 0)


@pytest.mark.parametrize("policy", ["ladder", "independent"])
def test_queries_of_a_sweep_over_radii(policy: str) -> None:
    """One step each: two looks, one gradient. The ladder stops below the third rung."""
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.01, 0.019, 0.021, 0.03])
    results = swept("fgsm", problem.model, work, policy=policy)
    rungs, judged = (3, 1) if policy == "ladder" else (4, 2)
    assert [costs(settled) for settled in results] == [(2 * rungs, rungs, judged)] * 16


def test_nothing_is_asked_of_samples_that_are_never_attacked() -> None:
    """Misclassified images and those of radius 0: the model sees one padded clean pass."""
    model, x = Counting(Curved()), images(12)
    with torch.no_grad():
        y = model.net(x).argmax(1)
    radius = torch.zeros(12)
    radius[:6], y[:6] = 0.1, (y[:6] + 1) % 10
    x_adv = attacks.get("pgd")(model, x, y, ThreatModel("linf", radius), shape=16)
    assert torch.equal(x_adv, x)
    assert (model.forwards, model.backwards) == (16, 0)


def test_a_sweep_over_no_samples_asks_nothing() -> None:
    model = Counting(Curved())
    work = samples(images(1)[:0], torch.zeros(0, dtype=torch.int64), [0.1])
    setting = Setting("linf", 10, 0, 16)
    judge = verify.judge_of(model, work, setting)
    assert list(loop.sweep(attacks.get("pgd"), model, judge, work, setting)) == []
    assert model.forwards == 0


# Rungs


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_rungs_are_fooled_beyond_the_exact_distance(norm: str, policy: str) -> None:
    problem = linear(norm, 10)
    shares = np.array([0.5, 0.95, 1.05, 1.5])
    radii = problem.distance.numpy()[:, None] * shares
    work = samples(problem.x, problem.y, radii)
    results = swept("pgd:steps=12", problem.model, work, norm=norm, policy=policy)
    for settled in results:
        assert settled.fooled.tolist() == [False, False, True, True]
        image = problem.x[[settled.sample]]
        lowest = torch.tensor([radii[settled.sample, 2]])
        assert norms.inside(settled.x_adv[None], image, lowest, norm).item()
        assert problem.model(settled.x_adv[None]).argmax() != problem.y[settled.sample]


def test_radii_may_be_shared() -> None:
    model, x = Curved(), images(20)
    y = model(x).argmax(1)
    radii = [0.02, 0.05, 0.1]
    shared = swept("pgd:steps=3", model, samples(x, y, radii))
    assert_same(shared, swept("pgd:steps=3", model, samples(x, y, [radii] * 20)))


def test_the_ladder_infers_the_rungs_above() -> None:
    """Fooled in a small ball is fooled in every larger one, with no further query."""
    model, x = Curved(), images(20)
    y = model(x).argmax(1)
    work = samples(x, y, [0.01, 0.03, 0.05, 0.1, 0.2, 0.4])
    for settled in swept("pgd:steps=3", model, work):
        assert settled.fooled.tolist() == sorted(settled.fooled.tolist())
        assert settled.verify == settled.fooled.any()
        below = settled.fooled.tolist().count(False)
        assert settled.forward == 24 if below == 6 else 4 * below < settled.forward <= 4 * below + 4


def test_an_image_that_is_never_fooled_is_the_worst_of_the_largest_radius() -> None:
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.005, 0.01])
    for settled in swept("fgsm", problem.model, work):
        assert not settled.fooled.any()
        moved = norms.size((settled.x_adv - problem.x[settled.sample])[None], "linf")
        assert_close(moved, torch.tensor([0.01]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_point_on_the_way_is_kept(targeted: bool) -> None:
    """Of eight random points the one furthest from the label, or nearest to the target."""
    problem = linear("l2", 10)
    radius = (0.5 * problem.distance).float()
    draws = Draws.of(problem.x, seed=0)
    points = [norms.random_point(problem.x, radius, "l2", draws, "noise", k) for k in range(8)]
    against, sign = (problem.nearest, -1) if targeted else (problem.y, 1)
    with torch.no_grad():
        values = torch.stack([sign * MARGIN(problem.model(point), against) for point in points])
    best = values.argmax(0)
    assert len(best.unique()) > 3
    work = samples(problem.x, problem.y, radius.double().numpy()[:, None])
    work = replace(work, targets=problem.nearest if targeted else None)
    for settled in swept("noise:samples=8", problem.model, work, norm="l2"):
        assert torch.equal(settled.x_adv, points[best[settled.sample]][settled.sample])


# Independence of neighbours


def many() -> tuple[nn.Module, Samples]:
    model, x = convolutional(), images(40)
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, samples(x, y, [0.01, 0.03, 0.06])


def chosen(work: Samples, rows: Sequence[int]) -> Samples:
    return Samples(work.x[list(rows)], work.y[list(rows)], work.ids[list(rows)], work.radii)


SWEPT = ["pgd:steps=4,restarts=2", "fgsm:random=0.5", "noise:samples=3", "pgd:steps=9,restarts=2"]


@pytest.mark.parametrize("spec", SWEPT)
@pytest.mark.parametrize("policy", POLICIES)
def test_results_do_not_depend_on_neighbours(spec: str, policy: str) -> None:
    """Work in flight, order and slice change who shares a batch, and nothing else, bit for bit."""
    model, work = many()
    expected = swept(spec, model, work, policy=policy)
    fooled = np.stack([settled.fooled for settled in expected])
    assert 0.05 < fooled.mean() < 0.95
    for in_flight in (1, 7, 256):
        assert_same(swept(spec, model, work, policy=policy, in_flight=in_flight), expected)
    for rows in (range(39, -1, -1), range(11, 19), [33], [*range(1, 40, 2), *range(0, 40, 2)]):
        part = swept(spec, model, chosen(work, rows), policy=policy)
        assert_same(part, [expected[row] for row in rows])


@pytest.mark.parametrize("in_flight", [1, 7])
def test_results_do_not_depend_on_whether_neighbours_ask_for_gradients(in_flight: int) -> None:
    """Some layers (fused attention) answer otherwise while autograd is off; here by far more."""
    net, work = many()
    model = Mapped(net, lambda z, _: z + torch.arange(10) * (0.0 if z.requires_grad else 0.2))
    judge = verify.judge_of(net, work, Setting("linf", 10, 0, 16))
    expected = swept("pgd:steps=4", model, work, judge=judge)
    assert_same(swept("pgd:steps=4", model, work, judge=judge, in_flight=in_flight), expected)


@pytest.mark.parametrize("spec", SWEPT)
@pytest.mark.parametrize("policy", ["ladder", "bisect"])
def test_results_do_not_depend_on_how_often_the_host_looks(
    spec: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator takes several steps unwatched; what idles meanwhile is waste, not queries."""
    model, work = many()
    expected = swept(spec, model, work, policy=policy)
    monkeypatch.setattr(stream, "_STEPS_PER_SYNC", {"cpu": 4})
    assert_same(swept(spec, model, work, policy=policy), expected)


def test_the_seed_is_part_of_the_result() -> None:
    model, work = many()
    one, other = (swept("pgd:steps=4", model, work, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(a.x_adv, b.x_adv) for a, b in zip(one, other, strict=True))


# Sweeps


class Pocket(nn.Module):
    """Class 1 for images within a distance of their grey image only: a model fooled at small radii
    whose gradient leads out of the pocket at large ones.
    """

    def __init__(self, start: float, end: float):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x: Tensor) -> Tensor:
        shift = (x - 0.5).abs().flatten(1).mean(1)
        inside = torch.minimum(shift - self.start, self.end - shift)
        return torch.stack([torch.zeros_like(inside), inside], 1)


def test_a_model_fooled_at_small_radii_alone() -> None:
    """Fooled between 0.03 and 0.045: steps of a quarter of a large radius pass over it. What a
    policy infers makes every larger radius fall with the small one; from scratch they stand.
    """
    model, x = Pocket(0.03, 0.045), GREY + 0.001
    radii = [0.02, 0.04, 0.1, 0.2, 0.4]
    work = samples(x, ZERO, radii)
    spec = "pgd:steps=12,random=false,rel_alpha=0.5"
    fooled = {p: swept(spec, model, work, policy=p)[0].fooled.tolist() for p in POLICIES}
    assert fooled["independent"] == [False, True, False, False, False]
    assert fooled["ladder"] == [False, True, True, True, True]
    # Halves meet the larger radii first: a failure there hides the success below.
    assert fooled["bisect"] == [False] * 5


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_guess_is_the_distance_of_a_linear_model(norm: str, targeted: bool) -> None:
    """Of each sample, whatever shares its call; one query of all, in padded calls of 5."""
    problem = linear(norm, 10)
    model, work = Counting(problem.model), samples(problem.x, problem.y, [1.0])
    work = replace(work, targets=problem.nearest if targeted else None)
    guess = distances(Witness(model, "gradient", 10, 1, 1), work, Setting(norm, 10, 0, 5))
    assert_close(torch.from_numpy(guess), problem.distance, rtol=1e-4, atol=0)
    assert (model.forwards, model.backwards) == (20, 20)


@pytest.mark.parametrize("spec", ["pgd:steps=40", "apgd:steps=20", "pgd:steps=12,restarts=2"])
def test_a_guess_from_below_finds_the_small_radius(spec: str) -> None:
    """The same model with a slope at the image: looks climb from there, and meet it."""
    model, x = Pocket(0.03, 0.045), GREY + 0.001
    radii = np.arange(1, 21) * 0.02
    for settled in swept(spec, model, samples(x, ZERO, radii), policy="bisect"):
        assert settled.fooled.tolist() == [False] + [True] * 19


@pytest.mark.parametrize("spec", ["pgd:steps=40", "pgd:steps=40,loss=margin", "apgd:steps=20"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_bisected_curve_is_exact_for_a_fraction_of_the_queries(spec: str, norm: str) -> None:
    """On a linear model every rung above the distance falls, none below."""
    problem = linear(norm, 10)
    shares = np.sort(np.append(np.linspace(0.2, 2.2, 18), [0.96, 1.04]))
    radii = problem.distance.numpy()[:, None] * shares
    work = samples(problem.x, problem.y, radii)
    whole = swept(spec, problem.model, work, norm=norm, policy="independent")
    for settled, full in zip(
        swept(spec, problem.model, work, norm=norm, policy="bisect"), whole, strict=True
    ):
        assert settled.fooled.tolist() == (shares > 1).tolist()
        assert full.fooled.tolist() == settled.fooled.tolist()
        assert 5 * settled.forward < full.forward


@pytest.mark.parametrize("steps", [1, 4])
def test_a_claim_that_is_refused_is_gone_on_with(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a search in low precision: the first two claims of each sample are refused, the
    third holds; nothing is lost but the judge's time.
    """
    monkeypatch.setattr(stream, "_STEPS_PER_SYNC", {"cpu": steps})
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.03])
    asked: list[int] = []

    def refuse_twice(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        times = [asked.count(sample) for sample in index]
        asked.extend(index.tolist())
        return np.array([[time == 2] for time in times])

    once = swept("pgd:steps=9", problem.model, work)
    for settled, plain in zip(
        swept("pgd:steps=9", problem.model, work, judge=refuse_twice), once, strict=True
    ):
        assert settled.fooled.all()
        assert (settled.verify, settled.refused) == (3, 2)
        # The boundary is crossed for good: the next two points claim it again, and count.
        assert settled.forward == plain.forward + 2


def test_a_gradient_that_breaks_at_a_refused_claim_is_no_robustness() -> None:
    """The attempt goes on with it, and a sign of NaN stands still."""

    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor, z: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            ctx.save_for_backward(z.argmax(1) != 0)
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
            (wrong,) = ctx.saved_tensors
            return torch.where(norms.expand(wrong, gradient), torch.nan, gradient), None

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return BRIGHT(Breaking.apply(x, BRIGHT(x.detach())))

    def refuse(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        return np.zeros((len(points), 1), dtype=np.bool_)

    with pytest.raises(ModelError, match="5 images"):
        swept("pgd:steps=9", Shifted(), samples(GREY, ZERO, [0.1]), judge=refuse)


@pytest.mark.parametrize("spec", ["pgd:steps=12", "pgd:steps=4", "apgd:steps=20"])
def test_under_several_draws_nothing_is_inferred_from_a_rung_that_holds_under_some(
    spec: str,
) -> None:
    """One draw falls above the distance, the other never: bisection would not look lower."""
    problem = linear("linf", 10)
    shares = np.array([0.5, 0.9, 1.1, 1.3, 1.6, 2.0, 2.5])
    work = samples(problem.x, problem.y, problem.distance.numpy()[:, None] * shares)

    def judge(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        wrong = (problem.model(points).argmax(1) != problem.y[index]).numpy()
        return np.stack([wrong, np.zeros_like(wrong)], 1)

    options = {"judge": judge, "exact": False, "draws": 2}
    for policy in POLICIES:
        for settled in swept(spec, problem.model, work, policy=policy, **options):
            assert settled.fell[:, 0].tolist() == (shares > 1).tolist()
            assert not settled.fell[:, 1].any()


def test_a_search_in_low_precision_is_judged_at_the_end_of_each_attempt_too() -> None:
    """What it does not see as fooled may be, in float32: one look of the judge says so."""
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.03])
    # The search sees the label far ahead everywhere; the judge sees the model.
    blind = Mapped(
        problem.model,
        lambda z, _: z + 100 * torch.nn.functional.one_hot(problem.y, 10)[: len(z)].float(),
    )
    judge = verify.judge_of(problem.model, work, Setting("linf", 10, 0, 16))
    setting = Setting("linf", 10, 0, 16)
    seen = Reduced(blind, bfloat16=False)
    found = list(loop.sweep(attacks.get("pgd:steps=9,loss=margin"), seen, judge, work, setting))
    assert all(settled.fooled.all() and settled.verify == 1 for settled in found)
    assert [settled.refused for settled in found] == [0] * 16


def test_a_minimal_success_that_is_refused_is_moved_on() -> None:
    """The nearest success lies where precisions disagree: it counts at the next radius instead."""
    problem = linear("l2", 10)
    radii = problem.distance.numpy()[:, None] * np.array([0.9, 1.1, 1.4])
    work = samples(problem.x, problem.y, radii)

    def from_afar(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        moved = norms.size(points - problem.x[index], "l2") > 1.05 * problem.distance[index]
        wrong = problem.model(points).argmax(1) != problem.y[index]
        return (moved & wrong).numpy()[:, None]

    for settled in swept("ddn:steps=60", problem.model, work, norm="l2", judge=from_afar):
        assert settled.fooled.tolist() == [False, True, True]


def test_a_sample_whose_logits_break_fails_alone() -> None:
    """The others are settled before the error is raised, which says how many failed."""
    net, x = Curved(), images(12)
    with torch.no_grad():
        y = net(x).argmax(1)
    x[3, 0, 0, 0], x[7, 0, 0, 0] = 0.125, 0.125
    model = Mapped(net, lambda z, p: torch.where((p[:, 0, 0, 0] == 0.125)[:, None], torch.nan, z))
    work = samples(x, y, [0.05, 0.1])
    judge = verify.judge_of(net, work, Setting("linf", 10, 0, 16))
    setting = Setting("linf", 10, 0, 16)
    found: list[Settled] = []
    with pytest.raises(ModelError, match=r"under attack, 2 images"):
        found.extend(loop.sweep(attacks.get("bim:steps=3"), model, judge, work, setting))
    assert found
    stream_ = loop.sweep(attacks.get("bim:steps=3"), model, judge, work, setting)
    settled = [next(stream_).sample for _ in range(10)]
    assert sorted(settled) == [s for s in range(12) if s not in (3, 7)]


# Who is believed


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("exact", "steps"), [(True, 1), (True, 4), (False, 1)])
def test_an_attack_is_not_believed(
    policy: str, exact: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle says fooled everywhere; the judge refuses each claim, and nothing counts. An exact
    oracle's attempt goes on where it was left, to its last query.
    """
    monkeypatch.setattr(stream, "_STEPS_PER_SYNC", {"cpu": steps})
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.03, 0.05])

    def refuse(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        assert norms.inside(points, problem.x[index], radius, "linf").all()
        assert (problem.model(points).argmax(1) != problem.y[index]).all()
        return np.zeros(len(points), dtype=np.bool_)

    options = {"policy": policy, "exact": exact, "judge": refuse}
    for settled in swept("pgd:steps=4,restarts=3", problem.model, work, **options):
        assert not settled.fooled.any()
        assert (settled.forward, settled.backward) == (2 * 3 * 5, 2 * 3 * 4)
        assert settled.verify == (settled.refused if exact else 2 * 3)
        inside = norms.inside(
            settled.x_adv[None], problem.x[[settled.sample]], torch.tensor([0.05]), "linf"
        )
        assert inside.item()


def test_a_point_outside_the_ball_does_not_count() -> None:
    """Whoever writes an attack that leaves the ball gains nothing by it, and its points stay in."""

    @dataclass(frozen=True)
    class Cheat(Brighten):
        def start(self, task: Task) -> BrightenState:
            return replace(super().start(task), point=torch.ones_like(task.x))

    results = swept(Cheat(), BRIGHT, samples(GREY, torch.zeros(5, dtype=torch.int64), [0.1]))
    assert not any(settled.fooled.any() for settled in results)
    assert [settled.verify for settled in results] == [3] * 5
    assert torch.equal(Cheat()(BRIGHT, GREY, ZERO, ThreatModel("linf", 0.1)), GREY)


def test_the_verdict_is_on_label_target_and_ball() -> None:
    """Classes 0, 1, 2 and 2 of images labelled 0, the last one outside its ball."""
    logits = torch.eye(3)[[0, 1, 2, 2]]
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    x_adv, radius = x + torch.tensor([0.1, 0.1, 0.1, 0.2]).view(4, 1, 1, 1), torch.full((4,), 0.15)
    for targets, expected in (
        (None, [False, True, True, False]),
        (torch.full((4,), 2), [False, False, True, False]),
        (torch.full((4,), 1), [False, True, False, False]),
    ):
        assert verify.score(logits, x_adv, x, y, radius, "linf", targets).tolist() == expected


def test_the_judge_compares_each_point_with_its_own_sample() -> None:
    """In whatever order points come: image, label, radius and target are those of the sample."""
    problem = linear("l2", 10)
    move = 1.1 * problem.distance.float()
    away = norms.steepest(
        (problem.model.weight[problem.nearest] - problem.model.weight[problem.y]).view_as(
            problem.x
        ),
        problem.x,
        "l2",
    ).detach()
    points = problem.x + norms.expand(move, away) * away
    targets = problem.nearest.clone()
    targets[7] = (targets[7] + 5) % 10
    work = samples(problem.x, problem.y, [1.0])
    index = np.array([9, 7, 0, 12])
    for aimed, hits in ((None, [True] * 4), (targets, [True, False, True, True])):
        setting = Setting("l2", 10, 0, 3)
        judge = verify.judge_of(problem.model, replace(work, targets=aimed), setting)
        assert judge(points[index], index, 1.01 * move[index])[:, 0].tolist() == hits
        assert not judge(points[index], index, 0.99 * move[index]).any()


def test_an_inexact_oracle_is_judged_at_the_end_of_each_restart_only() -> None:
    """A surrogate's word stops nothing: each restart runs through, and its best point is judged."""
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.03])
    asked: list[int] = []

    def refuse_twice(points: Tensor, index: NDArray[np.int64], radius: Tensor) -> NDArray[np.bool_]:
        times = [asked.count(sample) for sample in index]
        asked.extend(index.tolist())
        return np.array(times) == 2

    spec = "pgd:steps=4,restarts=5"
    results = swept(spec, problem.model, work, exact=False, judge=refuse_twice)
    assert all(settled.fooled.all() for settled in results)
    assert [costs(settled) for settled in results] == [(3 * 5, 3 * 4, 3)] * 16


def test_a_surrogate_is_judged_by_the_deployed_model() -> None:
    """Gradients of one model, outcomes of another: what transfers is what counts."""
    problem = linear("linf", 10)
    surrogate = Linear(problem.model.weight.roll(1, 1), problem.model.bias)
    work = samples(problem.x, problem.y, [0.03])
    judge = verify.judge_of(problem.model, work, Setting("linf", 10, 0, 16))
    for settled in swept("pgd:steps=8", surrogate, work, exact=False, judge=judge):
        wrong = problem.model(settled.x_adv[None]).argmax() != problem.y[settled.sample]
        assert settled.fooled.item() == wrong.item()


# Restarts, and an attack of one's own

ZERO = torch.zeros(5, dtype=torch.int64)


def test_a_restart_that_succeeds_is_found() -> None:
    """Of shifts -0.1, 0.025 and 0.1 only the last passes 0.05."""
    for settled in swept(Brighten(), BRIGHT, samples(GREY, ZERO, [0.1])):
        assert settled.fooled.all()
        assert costs(settled) == (3, 0, 1)
        assert_close(settled.x_adv, torch.full((1, 8, 8), 0.6))


@pytest.mark.parametrize(
    ("shares", "tried"), [((1.0, 0.25, -1.0), 1), ((0.25, 1.0, -1.0), 2), ((0.25, -1.0, 1.0), 3)]
)
def test_no_restart_follows_the_one_that_succeeded(shares: tuple[float, ...], tried: int) -> None:
    for settled in swept(Brighten(shares), BRIGHT, samples(GREY, ZERO, [0.1])):
        assert settled.fooled.all()
        assert settled.forward == tried


@pytest.mark.parametrize("shares", [(1.0, 0.25, -1.0), (0.25, 1.0, -1.0), (-1.0, 0.25, 1.0)])
@pytest.mark.parametrize("exact", [True, False])
def test_the_best_restart_is_kept_where_none_succeeds(
    shares: tuple[float, ...], exact: bool
) -> None:
    """At radius 0.04 even the best falls short: not the last restart, not the first, the best."""
    for settled in swept(Brighten(shares), BRIGHT, samples(GREY, ZERO, [0.04]), exact=exact):
        assert not settled.fooled.any()
        assert_close(settled.x_adv, torch.full((1, 8, 8), 0.54))


def test_the_best_restart_is_chosen_for_each_sample() -> None:
    """Upwards is best for one image, downwards for its neighbour."""
    down = Linear(-BRIGHT.weight, torch.tensor([0.0, 0.45]))
    both = Mapped(BRIGHT, lambda z, x: torch.where(x[:, 0, :1, 0] > 0.5, z, down(x)))
    x = GREY.clone()
    x[:, 0, 0, 0] = torch.tensor([0.6, 0.4, 0.6, 0.4, 0.6])
    for settled in swept(Brighten((1.0, -1.0, 0.1)), both, samples(x, ZERO, [0.04])):
        shift = 0.04 if settled.sample % 2 == 0 else -0.04
        assert_close(settled.x_adv, x[settled.sample] + shift)


def flags(text: str) -> NDArray[np.bool_]:
    return np.array([each == "1" for each in text])


def test_a_success_at_a_lower_radius_replaces_the_image_and_one_at_a_higher_does_not() -> None:
    """What is known of a sample with five radii; the queries are those of the first success."""
    tally = Tally(np.zeros((5, 1), np.bool_), np.zeros(5, np.int64), np.full(5, NEVER))
    one, yes = torch.zeros(1), np.array([True])
    for number, (rungs, queries, kept, first) in enumerate(
        [
            ("00011", 10, 0, [NEVER, NEVER, NEVER, 10, 10]),
            ("00001", 20, 0, [NEVER, NEVER, NEVER, 10, 10]),
            ("01111", 30, 2, [NEVER, 30, 30, 10, 10]),
            ("00100", 40, 2, [NEVER, 30, 30, 10, 10]),
            ("11111", 50, 4, [50, 30, 30, 10, 10]),
        ]
    ):
        tally.fool(one + number, flags(rungs), yes, queries)
        assert tally.x_adv is not None
        assert tally.x_adv.item() == kept
        assert tally.first.tolist() == first
        assert tally.fooled.tolist() == [count != NEVER for count in first]


def test_of_minimal_successes_the_nearest_is_kept_and_the_first_is_counted() -> None:
    tally = Tally(np.zeros((3, 1), np.bool_), np.array([7, 7, 7]), np.full(3, NEVER))
    one, yes = torch.zeros(1), np.array([True])
    for number, (distance, rungs, seen, kept, first) in enumerate(
        [
            (0.3, "001", [NEVER, NEVER, 4], 0, [NEVER, NEVER, 4]),
            (0.4, "001", [NEVER, NEVER, 9], 0, [NEVER, NEVER, 4]),
            (0.2, "011", [NEVER, NEVER, 12], 2, [NEVER, 7, 4]),
            (0.25, "001", [NEVER, NEVER, 15], 2, [NEVER, 7, 4]),
        ]
    ):
        tally.near(one + number, distance, flags(rungs), yes, np.array(seen))
        assert tally.x_adv is not None
        assert (tally.x_adv.item(), tally.first.tolist()) == (kept, first)
    assert tally.distance == 0.2
    assert tally.fooled.tolist() == [False, True, True]


def test_an_attack_of_ones_own_is_called_like_any_other() -> None:
    threat = ThreatModel("linf", torch.tensor([0.1, 0.04, 0.0, 0.06, 0.2]))
    x_adv = Brighten()(BRIGHT, GREY, ZERO, threat)
    assert_close(x_adv[:, 0, 0, 0], torch.tensor([0.6, 0.54, 0.5, 0.56, 0.7]))
    with pytest.raises(ValueError, match="knows the norms linf, got l2"):
        Brighten()(BRIGHT, GREY, ZERO, ThreatModel("l2", 0.1))


# What breaks on the way


def test_logits_that_break_under_attack_are_an_error() -> None:
    """Finite on every clean image, NaN on anything else: neither robust nor fooled."""
    net, x = Curved(), (images(12) * 8).round() / 8
    model = Mapped(
        net,
        lambda z, x: torch.where(
            (x * 8 == (x * 8).round()).flatten(1).all(1)[:, None], z, torch.nan
        ),
    )
    y = net(x).argmax(1)
    with pytest.raises(ModelError, match="NaN or infinite logits or gradients under attack"):
        attacks.get("pgd:steps=3")(model, x, y, ThreatModel("linf", 0.1))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gradients_that_break_are_an_error(norm: str, value: float) -> None:
    """The sign of NaN is 0: unnoticed, the attack would stand still and report robustness."""

    class Breaking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return torch.full_like(gradient, value)

    net, x = Curved(), images(12)
    y = net(x).argmax(1)
    model = Mapped(net, lambda z, _: Breaking.apply(z))
    with pytest.raises(ModelError, match="NaN or infinite logits or gradients under attack"):
        attacks.get("pgd:steps=3")(model, x, y, ThreatModel(norm, 0.1))


def test_another_number_of_classes_on_the_way_is_an_error() -> None:
    """The judge counts the columns again."""
    problem = linear("linf", 10)
    work = samples(problem.x, problem.y, [0.03])
    narrow = Mapped(problem.model, lambda z, _: z[:, :9])
    judge = verify.judge_of(narrow, work, Setting("linf", 10, 0, 16))
    with pytest.raises(ModelError, match="must return 10 logits per image, got 9"):
        swept("pgd:steps=4", problem.model, work, judge=judge)

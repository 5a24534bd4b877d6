"""Ensembles and block attacks: who works on what, what is counted, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import ThreatModel, loop, norms, verify
from attacks.base import Ask, Attack, BlockAttack, Ensemble, Kind, StepAttack, Task
from attacks.draws import sample_ids
from attacks.losses import MARGIN
from attacks.oracles import ORACLES, Aim, Answer, MeanOracle, ModelError, Query
from attacks.targets import goal_of
from attacks.work import Samples, Setting, Settled
from tests.problems import Counting, Curved, Mapped, images, linear


def work_of(x: Tensor, y: Tensor, radii: Sequence[float]) -> Samples:
    return Samples(x, y, sample_ids(x), np.asarray(radii, dtype=np.float64))


def swept(
    attack: str | Attack, model: nn.Module, work: Samples, norm: str = "linf", **options: str
) -> list[Settled]:
    recipe = attacks.get(attack) if isinstance(attack, str) else attack
    plain = model.net if isinstance(model, Counting) else model
    setting = Setting(norm, 10, 0, 16, **options)
    judge = verify.judge_of(plain, work, setting)
    settled = list(loop.sweep(recipe, model, judge, work, setting))
    assert sorted(s.sample for s in settled) == list(range(len(work)))
    return sorted(settled, key=lambda s: s.sample)


def curved(count: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    model, x = Curved(), images(count)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


# Ensembles


@dataclass(frozen=True)
class Two(Ensemble):
    """A weak attack, then a strong one."""

    access: ClassVar[str] = "gradient"

    def stages(self, norm: str, classes: int) -> tuple[Attack, ...]:
        return attacks.get("fgsm"), attacks.get("pgd:steps=10,loss=margin")


SQUARE = "square:rescale=false"
RADII = [0.01, 0.02, 0.03, 0.04]


@pytest.mark.parametrize("policy", ["ladder", "bisect", "independent"])
def test_a_later_stage_sees_only_what_still_stands(policy: str) -> None:
    """Its queries are those of the second attack alone on the rungs that the first left."""
    model, x, y = curved()
    first = swept("fgsm", model, work_of(x, y, RADII), policy=policy)
    both = swept(Two(), model, work_of(x, y, RADII), policy=policy)
    left = np.array([~s.fooled for s in first])
    work = work_of(x, y, RADII)
    standing = np.flatnonzero(left.any(1))
    part = work.take(standing, left[standing])
    setting = Setting("linf", 10, 2**32, 16, policy=policy)
    judge = verify.judge_of(model, part, setting)
    second = {
        int(standing[s.sample]): s
        for s in loop.sweep(attacks.get("pgd:steps=10,loss=margin"), model, judge, part, setting)
    }
    assert 0 < len(second) < len(x)
    for settled, before in zip(both, first, strict=True):
        after = second.get(settled.sample)
        fooled = before.fooled | (after.fooled if after else False)
        assert settled.fooled.tolist() == fooled.tolist()
        for count in ("forward", "backward", "verify"):
            own = getattr(after, count) if after else 0
            assert getattr(settled, count) == getattr(before, count) + own


@dataclass(frozen=True)
class Twice(Ensemble):
    """The same attack again."""

    access: ClassVar[str] = "logits"

    def stages(self, norm: str, classes: int) -> tuple[Attack, ...]:
        return (attacks.get("noise:samples=3"),) * 2


def test_no_stage_begins_where_another_did() -> None:
    """All six points of an image differ: the second stage's seed is its own."""
    model, x, y = curved(4)
    asked: list[Tensor] = []

    def seen(logits: Tensor, points: Tensor) -> Tensor:
        asked.append(points[:4].clone())
        return torch.nn.functional.one_hot(y, 10).float()[torch.arange(len(points)) % 4]

    work, setting = work_of(x, y, [0.1]), Setting("linf", 10, 0, 4)
    judge = verify.judge_of(model, work, setting)
    settled = list(loop.sweep(Twice(), Mapped(model, seen), judge, work, setting))
    assert [each.forward for each in settled] == [6] * 4
    for row in range(4):
        assert len(torch.stack(asked)[:, row].flatten(1).unique(dim=0)) == 6


def test_an_ensemble_is_at_least_as_strong_as_each_of_its_attacks() -> None:
    model, x, y = curved()
    for norm, radii in (("linf", RADII), ("l2", [0.1, 0.2, 0.4]), ("l1", [0.5, 1.0, 2.0])):
        recipe = attacks.get("autoattack:steps=20,queries=50")
        whole = np.array([s.fooled for s in swept(recipe, model, work_of(x, y, radii), norm)])
        first = recipe.stages(norm, 10)[0]
        alone = np.array([s.fooled for s in swept(first, model, work_of(x, y, radii), norm)])
        assert (whole >= alone).all()


def test_the_image_kept_is_the_one_of_the_lowest_radius() -> None:
    model, x, y = curved()
    for settled in swept(Two(), model, work_of(x, y, RADII)):
        if settled.fooled.any():
            radius = torch.tensor([RADII[int(settled.fooled.argmax())]])
            assert norms.inside(settled.x_adv[None], x[[settled.sample]], radius, "linf").item()
            assert model(settled.x_adv[None]).argmax() != y[settled.sample]


def test_a_cascade_goes_from_the_cheapest_to_the_dearest() -> None:
    """A gradient counts as two forwards; what nobody knows comes last."""
    recipe = attacks.get("cascade:attacks=[square+[pgd:steps=40]+fgsm+[noise:samples=3]]")
    assert [stage.to_spec() for stage in recipe.stages("linf", 10)] == [
        "noise:samples=3",
        "fgsm",
        "pgd",
        "square",
    ]
    assert recipe.to_spec() == "cascade:attacks=[square+pgd+fgsm+[noise:samples=3]]"
    assert attacks.get(recipe.to_spec()) == recipe
    assert recipe.access == "gradient"
    assert attacks.get("cascade:attacks=[square+simba]").access == "logits"
    assert attacks.get("cascade:attacks=[[noise:samples=3]]").identity() != recipe.identity()


@pytest.mark.parametrize("policy", ["ladder", "bisect", "independent"])
def test_a_cascade_is_the_worst_case_of_its_attacks(policy: str) -> None:
    """Per sample and radius, for fewer queries than they need apart."""
    model, x, y = curved()
    specs = ["fgsm", "pgd:steps=3", "bim:steps=4,alpha=0.02"]
    recipe = attacks.get(f"cascade:attacks=[{'+'.join(f'[{spec}]' for spec in specs)}]")
    work = work_of(x, y, RADII)
    apart = [swept(spec, model, work, policy=policy) for spec in specs]
    for both, *each in zip(swept(recipe, model, work, policy=policy), *apart, strict=True):
        # The second stage's seed is its own: what it draws is not what pgd draws alone.
        least = each[0].fooled | each[2].fooled
        assert (both.fooled >= least).all()
        assert both.forward <= sum(one.forward for one in each)
        if not both.fooled.any() and policy == "independent":
            assert both.forward == sum(one.forward for one in each)


def test_a_cascade_refuses_what_its_attacks_refuse() -> None:
    with pytest.raises(ValueError, match="knows the norms linf, l2, l1, got l0"):
        attacks.get("cascade:attacks=[noise+pgd]").check("l0", 10)
    with pytest.raises(ValueError, match="must need nothing but the model, got transfer"):
        attacks.get("cascade:attacks=[noise+transfer]")


@pytest.mark.parametrize(
    ("version", "norm", "classes", "expected"),
    [
        ("standard", "linf", 10, f"apgd|apgd:loss=dlr,target=all,targets=9|fab_t|{SQUARE}"),
        ("standard", "l1", 10, "apgd:restarts=5|apgd:loss=dlr,target=all,targets=5|fab_t"),
        (
            "plus",
            "l2",
            10,
            f"apgd:restarts=5|apgd:restarts=5,loss=dlr|fab:restarts=5|{SQUARE}|"
            "apgd:loss=dlr,target=all,targets=9|fab_t",
        ),
        ("rand", "linf", 10, "apgd:eot=20|apgd:loss=dlr,eot=20"),
        ("rand", "linf", 2, "apgd:eot=20|apgd:loss=difference,eot=20"),
        ("standard", "linf", 3, f"apgd|apgd:loss=difference,target=all,targets=9|fab_t|{SQUARE}"),
    ],
)
def test_the_stages_of_autoattack(version: str, norm: str, classes: int, expected: str) -> None:
    """As in the authors' code, Square under l1 apart; the margin where DLR is not defined."""
    stages = attacks.get(f"autoattack:version={version}").stages(norm, classes)
    assert "|".join(stage.to_spec() for stage in stages) == expected
    for stage in stages:
        stage.check(norm, classes)


def test_queries_of_a_mean_over_draws() -> None:
    """Every answer counts: 3 of them per query."""
    problem = linear("linf", 2)
    model = Counting(problem.model)
    work = work_of(problem.x, problem.y, 0.5 * problem.distance.numpy()[:, None])
    results = swept("apgd:steps=4,eot=3", model, work)
    assert {(s.forward, s.backward) for s in results} == {(15, 12)}
    assert (model.forwards, model.backwards) == (16 * 15, 16 * 12)


# Block attacks


@dataclass(frozen=True)
class Shift(BlockAttack):
    """Adds `share` of the radius to every pixel; the points that the test asks for."""

    access: ClassVar[str] = "logits"
    norms: ClassVar[tuple[str, ...]] = ("linf",)
    share: float = 1.0
    broken: str = ""

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int:
        return len(radii)

    def craft(self, ask: Ask, task: Task) -> Tensor:
        points = task.x + norms.expand(self.share * task.radius, task.x)
        rows = torch.arange(len(points))
        ask(points, rows, goal_of(task, "none").aim(MARGIN), differentiate=False)
        if self.broken == "nan":
            points = points * torch.nan
        return points[:, :, 1:] if self.broken == "shape" else points


class Bright(nn.Module):
    """Class 1 where the mean pixel is above 0.55."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0 * mean, mean - 0.55], 1)


GREY = torch.full((5, 1, 4, 4), 0.5)
DARK = torch.zeros(5, dtype=torch.int64)


def grey(attack: Attack, **options: str) -> list[Settled]:
    work = work_of(GREY, DARK, [0.02, 0.06, 0.1])
    setting = Setting("linf", 2, 0, 4, **options)
    judge = verify.judge_of(Bright(), work, setting)
    return sorted(loop.sweep(attack, Bright(), judge, work, setting), key=lambda s: s.sample)


def test_a_block_attack_runs_at_every_radius_until_it_fools() -> None:
    for settled in grey(Shift()):
        assert settled.fooled.tolist() == [False, True, True]
        assert (settled.forward, settled.verify, settled.refused) == (2, 2, 0)
        assert settled.x_adv.mean().item() == pytest.approx(0.56)
    for settled in grey(Shift(), policy="independent"):
        assert settled.fooled.tolist() == [False, True, True]
        assert settled.forward == 3


def test_a_point_outside_the_ball_is_refused_and_counted() -> None:
    for settled in grey(Shift(share=3.0)):
        assert not settled.fooled.any()
        assert settled.refused == 3
        assert torch.equal(settled.x_adv, GREY[0])


def test_a_point_that_is_none_is_refused_and_counted() -> None:
    for settled in grey(Shift(broken="nan")):
        assert not settled.fooled.any()
        assert settled.refused == 3
        assert torch.equal(settled.x_adv, GREY[0])


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"Shift.*returned points of shape \(4, 1, 3, 4\)"):
        grey(Shift(broken="shape"))


@dataclass(frozen=True)
class Lost(StepAttack):
    """Asks for points that are none, or of another shape, every time."""

    access: ClassVar[str] = "logits"
    kind: ClassVar[Kind] = "budget"
    broken: str = "nan"

    @dataclass(frozen=True)
    class State:
        task: Task
        step: Tensor
        done: Tensor

    def start(self, task: Task) -> Lost.State:
        return Lost.State(task, torch.zeros_like(task.y), torch.zeros_like(task.y) > 0)

    def ask(self, state: Lost.State) -> Query:
        up = torch.ones_like(state.task.radius)
        points = state.task.x[:, None] * (torch.nan if self.broken == "nan" else 1)
        points = points[..., 1:] if self.broken == "shape" else points
        never = torch.zeros_like(state.done)
        return Query(points, Aim(MARGIN, state.task.y, up), ~state.done, never)

    def tell(self, state: Lost.State, answer: Answer) -> Lost.State:
        return replace(state, step=state.step + 1, done=state.step >= 2)

    def horizon(self, radius: float, norm: str, classes: int) -> int:
        return 3


def test_a_step_attack_that_asks_for_nothing_sound_is_refused_and_counted() -> None:
    """It does not pass for robustness in silence, nor for a fault of the model."""
    for settled in grey(Lost()):
        assert not settled.fooled.any()
        assert settled.refused == 3
        assert torch.equal(settled.x_adv, GREY[0])


def test_a_step_attack_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match="Lost:broken=shape asked for points of shape"):
        grey(Lost("shape"))


def test_the_call_returns_images_whatever_the_attack_returns() -> None:
    for attack in (Shift(share=3.0), Shift(broken="nan"), Lost()):
        x_adv = attack(Bright(), GREY, DARK, ThreatModel("linf", 0.1))
        assert norms.inside(x_adv, GREY, torch.full((5,), 0.1), "linf").all()


def test_a_model_that_fails_inside_lbfgs_is_named_and_nothing_hangs() -> None:
    model = Mapped(Curved(), lambda z, x: torch.where(x.flatten(1)[:, :1] % 1 == 0.5, z, torch.nan))
    x = torch.full((6, 1, 8, 8), 0.5)
    with torch.no_grad():
        y = model(x).argmax(1)
    with pytest.raises(ModelError, match="NaN or infinite logits or gradients under attack"):
        attacks.get("lbfgs")(model, x, y, ThreatModel("l2", 1.0))


def test_a_block_attack_does_not_see_its_block() -> None:
    """Outcomes of lbfgs on single samples and on all together are the same bit for bit."""
    problem = linear("l2", 10)
    recipe = attacks.get("lbfgs:steps=10,search=4")
    threat = ThreatModel("l2", 1.0)
    whole = recipe(problem.model, problem.x, problem.y, threat, shape=16)
    for row in (0, 7, 15):
        part = slice(row, row + 1)
        alone = recipe(problem.model, problem.x[part], problem.y[part], threat, shape=16)
        assert torch.equal(alone, whole[part])


class Alternating(nn.Module):
    """Another model whose logits are scaled by 1 and 3 in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = Curved(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(x) * (3 if self.calls % 2 == 0 else 1)
        return logits


@pytest.mark.parametrize("access", ["gradient", "jacobian"])
def test_a_mean_over_draws_is_the_mean(access: str) -> None:
    """Of logits, value and gradient: twice those of the plain model, for a loss that is linear."""
    x = images(5)
    aim = Aim(MARGIN, torch.arange(5), torch.ones(5))
    plain = ORACLES[access](Curved())(x, aim, differentiate=True)
    mean = MeanOracle([ORACLES[access](Alternating())] * 2)(x, aim, differentiate=True)
    for name in ("logits", "value", "gradient"):
        torch.testing.assert_close(getattr(mean, name), 2 * getattr(plain, name))
    assert plain.gradient.abs().max() > 0


def test_a_jacobian_holds_the_gradient_of_each_class_asked_for() -> None:
    x, net = images(3), Curved()
    aim = Aim(MARGIN, torch.arange(3), torch.ones(3))
    classes = torch.tensor([[4, 0], [1, 9], [7, 7]])
    answer = ORACLES["jacobian"](net)(x, aim, differentiate=True, classes=classes)
    for row in range(3):
        for place in range(2):
            leaf = x[row : row + 1].clone().requires_grad_()
            net(leaf)[0, classes[row, place]].backward()
            torch.testing.assert_close(answer.gradient[row, place], leaf.grad[0])

"""Attacks of others: what they may do, what is counted, judged, and left alone."""

from __future__ import annotations

import random
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attacks
import bench
from attacks import ThreatModel, loop, norms, verify
from attacks.base import Attack
from attacks.draws import sample_ids
from attacks.foreign import peers
from attacks.oracles import ModelError
from attacks.registry import attacks as table
from attacks.work import NEVER, Samples, Setting, Settled
from bench.errors import BenchError
from models.seeding import seeded
from tests.problems import BlackBox, Counting, Curved, Mapped, images, linear

GREY = torch.full((5, 1, 4, 4), 0.5)
DARK = torch.zeros(5, dtype=torch.int64)


class Bright(nn.Module):
    """Class 1 where the mean pixel is above 0.55."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([0 * mean, mean - 0.55], 1)


def up(model: nn.Module, x: Tensor, y: Tensor, eps: float, share: float = 1.0) -> Tensor:
    """Every pixel up by a share of the radius."""
    points = x + share * eps
    model(points)
    return points


def descent(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str, steps: int = 5
) -> Tensor:
    """Gradient steps from a random start drawn from the global generator."""
    radius = torch.full((len(x),), eps)
    points = norms.project(x + eps * torch.randn(x.shape), x, radius, norm)
    for _ in range(steps):
        points.requires_grad_()
        loss = nn.functional.cross_entropy(model(points), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
        points = points.detach() + eps / 2 * norms.steepest(gradient, x, norm)
        points = norms.project(points, x, radius, norm)
    return points.detach()


def swept(
    attack: Callable[..., Any] | Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: list[float],
    **options: Any,
) -> list[Settled]:
    """Each sample's result, in their order."""
    recipe = attack if isinstance(attack, Attack) else attacks.wrap(attack)
    groups = options.pop("groups", None)
    norm = options.pop("norm", "linf")
    classes = model(x[:1]).shape[1]
    plain = model.net if isinstance(model, Counting) else model
    if isinstance(model, Counting):
        model.forwards = model.backwards = 0
    ladder = np.asarray(radii, dtype=np.float64)
    work = Samples(x, y, sample_ids(x), ladder, groups=groups)
    setting = Setting(norm, classes, options.pop("seed", 0), options.pop("shape", 1), **options)
    judge = verify.judge_of(plain, work, setting)
    settled = list(loop.sweep(recipe, model, judge, work, setting))
    assert [s.sample for s in settled] == list(range(len(x)))
    return settled


def curved(count: int = 12) -> tuple[Counting, Tensor, Tensor]:
    model, x = Counting(Curved()), images(count)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


# A callable as an attack


def test_a_callable_runs_at_every_radius_until_it_fools() -> None:
    for settled in swept(up, Bright(), GREY, DARK, [0.02, 0.06, 0.1]):
        assert settled.fooled.tolist() == [False, True, True]
        assert settled.x_adv.mean().item() == pytest.approx(0.56)
        assert (settled.forward, settled.verify, settled.refused) == (2, 2, 0)
        assert settled.spent.tolist() == [1, 1, 0]
        assert settled.first.tolist() == [NEVER, 1, 1]
    for settled in swept(up, Bright(), GREY, DARK, [0.02, 0.06, 0.1], policy="independent"):
        assert settled.fooled.tolist() == [False, True, True]
        assert settled.forward == 3


def test_a_callable_without_eps_is_judged_by_its_distance() -> None:
    def shift(model: nn.Module, x: Tensor, y: Tensor, by: float = 0.07) -> Tensor:
        for part in (0.01, 0.06, by):
            model(x + part)
        return x + by

    recipe = attacks.wrap(shift)
    assert recipe.kind == "minimal"
    for settled in swept(recipe, Bright(), GREY, DARK, [0.06, 0.065, 0.08]):
        assert settled.fooled.tolist() == [False, False, True]
        assert settled.spent.tolist() == [3, 3, 3]
        # The second point fooled it inside the two larger balls, but was not what came back.
        assert settled.first.tolist() == [NEVER, NEVER, 2]


def test_the_norm_and_targets_are_handed_over() -> None:
    seen = []

    def noting(
        model: nn.Module, x: Tensor, y: Tensor, norm: str, targets: Tensor | None, epsilon: float
    ) -> Tensor:
        seen.append((norm, targets, epsilon))
        return x

    recipe = attacks.wrap(noting)
    for norm in ("linf", "l2", "l1", "l0"):
        recipe(Bright(), GREY, DARK, ThreatModel(norm, 1.0))
    assert seen == [(norm, None, 1.0) for norm in ("linf", "l2", "l1", "l0")]
    recipe(Bright(), GREY, DARK, ThreatModel("linf", 0.5), targets=1 - DARK)
    assert seen[-1][1].tolist() == [1] * 5
    with pytest.raises(ValueError, match="takes no targets"):
        attacks.wrap(up)(Bright(), GREY, DARK, ThreatModel("linf", 0.5), targets=1 - DARK)


def test_samples_of_other_radii_are_called_apart() -> None:
    seen = []

    def noting(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        seen.append((eps, len(x)))
        return x + eps

    eps = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.25])
    x_adv = attacks.wrap(noting)(Bright(), GREY, DARK, ThreatModel("linf", eps))
    assert seen == [(0.25, 3), (0.5, 1)]
    assert torch.equal(x_adv, GREY + eps.view(-1, 1, 1, 1))


def test_keys_are_the_other_parameters(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        textwrap.dedent("""
        def attack(model, x, y, eps, norm, share=1.0, steps: int = 3, name: str | None = None):
            "Up by a share of the radius (Nobody 2000)."
            model(x)
            return x + share * eps
        """)
    )
    spec = f"{file}:attack"
    described = table.describe_class(spec)
    assert described.keys == (
        ("share", "float", "1.0"),
        ("steps", "int", "3"),
        ("name", "str or none", "none"),
    )
    assert (described.sort, described.paper) == ("budget", "Nobody 2000")
    recipe = attacks.get(f"{spec}:share=1/2")
    assert recipe.to_spec() == "mine:attack:share=0.5"
    x_adv = recipe(Bright(), GREY, DARK, ThreatModel("linf", 0.2))
    assert torch.allclose(x_adv, GREY + 0.1)
    with pytest.raises(
        ValueError, match=r"no key of attack .* named 'shore'; did you mean 'share'"
    ):
        attacks.get(f"{spec}:shore=2")
    # Known by the content of the file, not by its name.
    before = recipe.identity()
    other = tmp_path / "other.py"
    other.write_text(file.read_text())
    assert attacks.get(f"{other}:attack:share=0.5").identity() == before
    other.write_text(file.read_text() + "\n# changed\n")
    assert attacks.get(f"{other}:attack:share=0.5").identity() != before


def test_a_key_may_not_hide_what_every_attack_has() -> None:
    with pytest.raises(ValueError, match="parameter 'check', a name that attacks use themselves"):
        attacks.wrap(lambda model, x, y, check=1: x)
    # Restarts and classes of somebody else's are theirs.
    recipe = attacks.wrap(lambda model, x, y, restarts=3, classes=7, eot=2: x)
    recipe(Bright(), GREY, DARK, ThreatModel("linf", 0.5), query_budget=1)


def test_what_is_neither_an_attack_nor_callable_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("number = 3\nclass Thing: pass\n")
    for name in ("number", "Thing"):
        with pytest.raises(ValueError, match=r"must be a frozen dataclass and a subclass of"):
            attacks.get(f"{file}:{name}")


# What is counted


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [1, 5, 64])
def test_an_independent_count_sees_the_same_queries(norm: str, shape: int) -> None:
    model, x, y = curved()
    settled = swept(descent, model, x, y, [0.01, 0.02, 0.04], norm=norm, shape=shape)
    assert sum(s.forward for s in settled) == model.forwards
    assert sum(s.backward for s in settled) == model.backwards
    assert model.backwards > 0


def test_calls_are_cut_to_the_shape_and_not_padded() -> None:
    model, x, y = curved(11)
    shapes = set()
    watched = Counting(Mapped(model.net, lambda z, points: shapes.add(len(points)) or z))
    settled = swept(descent, watched, x, y, [0.02], shape=8)
    assert {(s.forward, s.backward) for s in settled} == {(5, 5)}
    assert (watched.forwards, watched.backwards) == (55, 55)
    assert shapes == {8, 3, 1}  # 1: asked for the number of classes by this test


def test_rows_of_a_part_count_for_the_sample_they_are_nearest_to() -> None:
    def partly(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model(x[3:7] + 0.01)
        model(torch.cat([x[4:5]] * 20) + 0.01 * torch.randn(20, *x.shape[1:]))
        part = x[9:].clone().requires_grad_()
        model(part)[:, 0].sum().backward()
        model(x[:0])
        return x

    model, x, y = curved()
    settled = swept(partly, model, x, y, [0.1])
    assert [s.forward for s in settled] == [0, 0, 0, 1, 21, 1, 1, 0, 0, 1, 1, 1]
    assert [s.backward for s in settled] == [0] * 9 + [1] * 3


def test_each_backward_pass_counts() -> None:
    def jacobian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.requires_grad_()
        logits = model(x)
        for k in range(3):
            torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
        return x

    model, x, y = curved()
    assert {(s.forward, s.backward) for s in swept(jacobian, model, x, y, [0.1])} == {(1, 3)}


# What is judged


def wrongly(change: Callable[[Tensor], Any]) -> Callable[..., Any]:
    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Any:
        return change(x + eps)

    return attack


def test_points_outside_the_ball_or_the_box_or_nowhere_are_refused_and_counted() -> None:
    for change in (
        lambda points: points + 0.05,
        lambda points: points + 2,
        lambda points: points * torch.nan,
    ):
        for settled in swept(wrongly(change), Bright(), GREY, DARK, [0.02, 0.06, 0.1]):
            assert not settled.fooled.any()
            assert settled.refused == 3
            assert torch.equal(settled.x_adv, GREY[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: p[1:], ValueError, r"returned points of shape \(4, 1, 4, 4\)"),
        (lambda p: p.double(), ValueError, "type torch.float64"),
        (lambda p: p.numpy(), TypeError, "must return a tensor of images, got ndarray"),
        (lambda p: None, TypeError, "got NoneType"),
    ],
)
def test_what_is_no_batch_of_sample_imagesis_named(
    change: Callable[[Tensor], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        swept(wrongly(change), Bright(), GREY, DARK, [0.1])


def test_an_attack_that_raises_ends_its_cell_and_says_why() -> None:
    def broken(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no such layer")

    with pytest.raises(BenchError, match="broken: no such layer"):
        bench.evaluate(Bright(), (GREY, DARK), [broken], eps=[0.1])


def test_a_model_that_fails_is_named_but_not_for_points_that_are_none() -> None:
    model = Mapped(Curved(), lambda z, x: torch.where(x.flatten(1)[:, :1] == 0.5, z, torch.nan))
    x = torch.full((6, 1, 8, 8), 0.5)
    y = model(x).argmax(1)
    with pytest.raises(ModelError, match="NaN or infinite logits under attack, 6 images"):
        swept(up, model, x, y, [0.1])

    def lost(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x * model(x * torch.nan).sum()

    assert {s.refused for s in swept(lost, Bright(), GREY, DARK, [0.1])} == {1}


def test_a_result_is_not_bettered_by_points_seen_on_the_way() -> None:
    def forgetful(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        model(x + eps)
        return x

    for settled in swept(forgetful, Bright(), GREY, DARK, [0.1]):
        assert not settled.fooled.any()
        assert settled.first.tolist() == [NEVER]


# Query budgets


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 9])
def test_a_budget_is_kept_and_what_was_found_within_it_counts(budget: int) -> None:
    def slowly(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int = 8) -> Tensor:
        try:
            for step in range(steps):
                model(x + eps * (step + 1) / steps)
        except Exception:  # noqa: BLE001  as libraries do
            return x
        return x

    model = Counting(Bright())
    for settled in swept(slowly, model, GREY, DARK, [0.08], budget=budget):
        assert settled.forward <= budget
        # 0.08 * 6 / 8 is the first step above 0.55; only a stop makes it the result.
        assert settled.fooled.tolist() == [6 <= budget < 8]
        if settled.fooled.any():
            assert settled.first.tolist() == [6]
    assert model.forwards <= 5 * budget


def test_a_minimal_attack_that_is_stopped_keeps_its_nearest_success() -> None:
    def nearer(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for by in (0.4, 0.2, 0.01, 0.3, 0.06, 0.06):
            model(torch.cat([x + by, x + by + 0.01]))
        return x

    at = {2: 0.4, 4: 0.2, 8: 0.2, 10: 0.06}
    for budget, distance in at.items():
        for s in swept(nearer, Bright(), GREY[:1], DARK[:1], [0.07, 0.25, 0.5], budget=budget):
            assert s.forward == budget
            assert norms.size((s.x_adv - GREY[0])[None], "linf").item() == pytest.approx(distance)
            assert s.fooled.tolist() == [distance <= 0.07, distance <= 0.25, True]
            assert s.first.tolist() == [
                10 if distance <= 0.07 else NEVER,
                4 if distance <= 0.25 else NEVER,
                2,
            ]


def test_lbfgs_keeps_a_budget_and_its_rows_do_not_see_each_other() -> None:
    problem = linear("l2", 10)
    recipe = attacks.get("lbfgs:steps=10,search=4")
    radii = [0.05, 0.1, 0.2, 1.0]
    model = Counting(problem.model)
    free = swept(recipe, model, problem.x, problem.y, radii, norm="l2")
    assert sum(s.forward for s in free) == model.forwards
    assert sum(s.backward for s in free) == model.backwards
    most = max(s.forward for s in free)
    for budget in (3, most // 2):
        model.forwards = 0
        held = swept(recipe, model, problem.x, problem.y, radii, norm="l2", budget=budget)
        assert max(s.forward for s in held) == budget
        assert sum(s.forward for s in held) == model.forwards
        for row in (0, 7):
            part = slice(row, row + 1)
            alone = swept(
                recipe,
                problem.model,
                problem.x[part],
                problem.y[part],
                radii,
                norm="l2",
                budget=budget,
            )
            assert torch.equal(alone[0].x_adv, held[row].x_adv)
            assert alone[0].first.tolist() == held[row].first.tolist()
    # A success that the free run saw within the budget is one of the held run.
    for one, other in zip(free, held, strict=True):
        assert ((one.first != NEVER) & (one.first <= budget)).tolist() == other.fooled.tolist()


# The model and the random state are left alone


def test_the_model_is_out_of_reach() -> None:
    def rude(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.train().double().requires_grad_(True)
        assert next(model.parameters()).device == x.device
        assert list(model.children()) == []
        for parameter in model.parameters():
            parameter.data.add_(1)
        x.add_(1)
        y.add_(1)
        return model.float() and (x - 1)

    model = Curved().train()
    model.second.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(6)
    kept, y = x.clone(), model(x).argmax(1).detach()
    attacks.wrap(rude)(model, x, y, ThreatModel("linf", 0.1))
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [True, False]
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(x, kept)


def noisy(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Draws from every global generator."""
    signs = random.choice([-1, 1]), int(torch.randint(2, ()).item()) * 2 - 1
    noise = torch.from_numpy(np.random.uniform(-1, 1, x.shape)).float()
    torch.manual_seed(5)
    random.seed(5)
    return (x + eps * noise * signs[0] * signs[1]).clamp(0, 1)


def test_the_global_random_states_are_left_alone_and_a_rerun_is_equal() -> None:
    """What draws them all moves none (a fixture of every test checks it), and depends on the seed
    and on the images.
    """
    model, x, y = curved(24)
    recipe, threat = attacks.wrap(noisy), ThreatModel("linf", 0.05)
    one = recipe(model.net, x, y, threat)
    with seeded(7):
        assert torch.equal(recipe(model.net, x, y, threat), one)
    assert not torch.equal(recipe(model.net, x, y, threat, seed=1), one)
    assert not torch.equal((one - x)[:5], (recipe(model.net, x[:5], y[:5], threat) - x[:5]))


def test_a_group_is_crafted_together_whatever_is_in_flight() -> None:
    seen: list[int] = []

    def noting(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        seen.append(len(x))
        return descent(model, x, y, eps, "linf")

    model, x, y = curved(12)
    groups = np.array([0] * 5 + [2] * 4 + [3] * 3)
    whole = swept(noting, model, x, y, [0.02], shape=4, groups=groups)
    assert seen == [5, 4, 3]
    for options in ({"in_flight": 1}, {"in_flight": 3}):
        again = swept(noting, model, x, y, [0.02], shape=4, groups=groups, **options)
        for one, other in zip(whole, again, strict=True):
            assert torch.equal(one.x_adv, other.x_adv)
    # A resumed run holds some groups only.
    part = swept(noting, model, x[5:9], y[5:9], [0.02], shape=4, groups=groups[5:9])
    for one, other in zip(whole[5:9], part, strict=True):
        assert torch.equal(one.x_adv, other.x_adv)


def test_parts_keep_groups_whole() -> None:
    x = images(10)
    work = Samples(x, DARK, sample_ids(x), np.ones(1), groups=np.repeat([0, 1, 4], [3, 5, 2]))
    work = Samples(x, torch.zeros(10), work.ids, work.radii, groups=work.groups)
    sizes = {most: [len(part) for part in work.parts(most)] for most in (1, 4, 7, 8, 10)}
    assert sizes == {1: [3, 5, 2], 4: [3, 5, 2], 7: [3, 7], 8: [8, 2], 10: [10]}
    plain = Samples(x, torch.zeros(10), work.ids, work.radii)
    assert [part.tolist() for part in plain.parts(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


# From the whole: evaluate, store, dry run


def test_evaluate_takes_functions_and_the_batch_size_moves_nothing() -> None:
    model, x, y = curved(40)
    evaluate = partial(bench.evaluate, model.net, (x, y), eps=[0.01, 0.02], audit=False)
    runs = [evaluate(["fgsm", descent], batch_size=size) for size in (None, 3)]
    for run in runs:
        assert set(run.table.attack) == {"fgsm", "test_foreign:descent", "worst-case"}
    columns = ["id", "attack", "min_eps", "distance"]
    assert runs[0].samples[columns].equals(runs[1].samples[columns])
    alone = evaluate(descent)
    assert len(alone.records) == 1
    assert alone.records[0].mode == "white-box"


def test_closures_are_not_mistaken_for_each_other() -> None:
    def by(share: float) -> Callable[..., Tensor]:
        return lambda model, x, y, eps: x + share * eps

    one, other = attacks.wrap(by(1.0)), attacks.wrap(by(0.1))
    assert one.identity() != other.identity()
    with pytest.raises(BenchError, match="two different attacks are both called 'test_foreign:"):
        bench.evaluate(Bright(), (GREY, DARK), [by(1.0), by(0.1)], eps=[0.1])
    assert attacks.wrap(up).identity() == attacks.wrap(up).identity()


# Libraries


class FakeLibrary(ModuleType):
    """A module with attacks in the manner of torchattacks."""


class Weak:
    r"""
    Weak attack (Nobody 1999).

    Distance Measure : Linf, L2

    Arguments:
        eps (float): the radius.
    """

    def __init__(
        self, model: nn.Module, norm: str = "Linf", eps: float = 1.0, alpha=1, seed=0
    ) -> None:
        self.model, self.norm, self.eps, self.alpha, self.seed = model, norm, eps, alpha, seed
        self.supported_mode = ["default"]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        assert self.norm in ("Linf", "L2")
        self.model(x)
        return (x + self.alpha * self.eps * torch.rand(())).clamp(0, 1)


class Score(Weak):
    """Looks at scores, and tries to differentiate them."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        assert not self.model(x.requires_grad_()).requires_grad
        return x


@pytest.fixture
def torchattacks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake = FakeLibrary("torchattacks")
    vars(fake).update(Weak=Weak, Square=Score)
    monkeypatch.setitem(sys.modules, "torchattacks", fake)
    monkeypatch.setattr(peers, "version", lambda package: "0.0.1")
    return fake


def test_an_attack_of_a_library_is_a_spec(torchattacks: ModuleType) -> None:
    recipe = attacks.get("torchattacks:Weak:alpha=0.5")
    assert recipe.to_spec() == "torchattacks:Weak:alpha=0.5"
    assert (recipe.kind, recipe.norms, recipe.access) == ("budget", ("linf", "l2"), "gradient")
    assert recipe.identity()["revision"] == "torchattacks 0.0.1"
    assert table.describe_class("torchattacks:Weak").keys == (("alpha", "int or float", "1"),)
    x_adv = recipe(Bright(), GREY, DARK, ThreatModel("linf", 0.2))
    assert 0 < (x_adv - GREY).max().item() <= 0.1
    assert torch.equal(recipe(Bright(), GREY, DARK, ThreatModel("linf", 0.2)), x_adv)
    with pytest.raises(ValueError, match="knows the norms linf, l2, got l1"):
        recipe(Bright(), GREY, DARK, ThreatModel("l1", 0.2))
    with pytest.raises(ValueError, match="takes no targets"):
        recipe(Bright(), GREY, DARK, ThreatModel("l2", 0.2), targets=1 - DARK)
    with pytest.raises(
        ValueError, match="no attack of torchattacks named 'Weka'; did you mean 'We"
    ):
        attacks.get("torchattacks:Weka")


def test_black_boxes_of_a_library_get_no_gradient(torchattacks: ModuleType) -> None:
    recipe = attacks.get("torchattacks:Square")
    assert recipe.access == "logits"
    recipe(BlackBox(Curved()), images(3), torch.zeros(3).long(), ThreatModel("linf", 0.2))
    run = bench.evaluate(Bright(), (GREY, DARK), ["torchattacks:Square"], eps=[0.1], audit=False)
    assert run.records[0].mode == "black-box"


def test_the_dry_run_says_that_nobody_knows_the_queries(torchattacks: ModuleType) -> None:
    from typer.testing import CliRunner

    from bench.cli import app

    line = ["run", "--attack", "torchattacks:Weak", "--n", "20", "--dry-run"]
    shown = CliRunner().invoke(app, line).stdout
    assert "| ? " in shown
    shown = CliRunner().invoke(app, [*line, "--query-budget", "10", "--eps", "0.1,0.2"]).stdout
    assert "| 400 " in shown
    shown = CliRunner().invoke(app, ["show", "torchattacks:Weak"]).stdout
    assert "attack torchattacks:Weak" in shown
    assert "norms: linf, l2" in shown


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("foolbox:LinfPGD", 'needs foolbox: pip install "adversarial-bench[foolbox]"'),
        ("art:DeepFool", 'adversarial-robustness-toolbox: pip install "adversarial-bench[art]"'),
        ("torchattacks:PGD:steps=3", "whose pins clash with current packages"),
        ("advlib:fmn", "no longer builds; install it beside in an environment of its own"),
    ],
)
def test_a_library_that_is_missing_is_named_in_one_line(
    spec: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("foolbox", "art", "torchattacks", "adv_lib"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="needs") as raised:
        attacks.get(spec)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_budget_spent_on_one_image_leaves_the_others_theirs() -> None:
    """An attack that goes image by image is stopped at the first that stands, and goes on without
    it.
    """

    model, sample_images = Bright(), 0.2 + 0.5 * images(6)

    def one_by_one(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        found = x.clone()
        for place in range(len(x)):
            for share in torch.linspace(0, 1, 60):
                step = 0 if torch.equal(x[place], sample_images[0]) else share * eps
                point = (x[place] + step).clamp(0, 1)[None]
                if model(point).argmax(1) != y[place]:
                    found[place] = point[0]
                    break
        return found

    y = model(sample_images).argmax(1)
    free = swept(one_by_one, model, sample_images, y, [0.2])
    bound = swept(one_by_one, model, sample_images, y, [0.2], budget=50)
    assert all(settled.forward <= 50 for settled in bound)
    assert [s.fooled.any() for s in bound] == [s.fooled.any() for s in free]
    assert sum(s.fooled.any() for s in free) >= 4


def test_as_many_rows_as_sample_imagesaround_one_image_are_its_queries() -> None:
    def around(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model(x)
        model(x[:1] + 0.001 * torch.arange(len(x))[:, None, None, None] / len(x))
        return x

    net, x, y = curved()
    results = swept(around, net, x, y, [0.1])
    assert [settled.forward for settled in results] == [1 + len(x), *[1] * (len(x) - 1)]

"""Every attack, one row each: the closed-form oracle, then the contract that every attack keeps.

The fixture `_no_unseeded_draws` fails any test here whose attack moved a global random state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import ThreatModel, loop, norms, registry, verify
from attacks.base import Attack, StepAttack, Task
from attacks.draws import Draws, sample_ids
from attacks.oracles import ORACLES, Answer, ModelError
from attacks.threat import NORMS
from attacks.work import Samples, Setting
from tests.problems import (
    DISTANCE,
    BlackBox,
    Counting,
    Curved,
    HalfInside,
    Mapped,
    Problem,
    convolutional,
    images,
    linear,
)

EXACT = {"linf": 1.05, "l2": 1.05, "l1": 1.05}
SPREAD = (
    "a step over two components stays one over two: 2 / 1.5 is rounded up, as in the authors' code"
)
ONE_MORE = "the distance is 2 or 3 pixels, and one more is half as much again"
SEARCH = "a random search, which is near after so few queries"
FACE = "it may end at the face of another class, some 3 times as far; test_black_box has 2 classes"
ESTIMATE = "16 directions leave much of a gradient of 64 components unseen"
NEVER = dict.fromkeys(NORMS, torch.inf)


@dataclass(frozen=True)
class Row:
    """An attack, and per norm it knows the multiple of the exact distance at which it must fool
    every image of a linear model; why, where that is not 1.05. quick: the same with fewer steps,
    for what every result must keep.
    """

    spec: str
    factor: Mapping[str, float]
    why: str = ""
    quick: str = ""


ROWS = [
    Row("fgsm", EXACT),
    Row(
        "fgsm:random=0.5",
        {"linf": 4.0, "l2": 3.2, "l1": 2.4},
        "half of eps goes along random signs, which over 64 pixels undo at most 0.47, 0.375 and "
        "0.15 of what the other half gains (3 standard deviations)",
    ),
    Row("bim:steps=12,alpha=0.005", {"linf": 1.05}),
    Row("pgd:steps=12", EXACT),
    Row("pgd:steps=12,random=false", EXACT),
    Row("pgd:steps=12,loss=margin", EXACT),
    Row("pgd:steps=12,loss=dlr", EXACT),
    Row("pgd:steps=12,loss=squared", EXACT),
    Row("pgd:steps=8,restarts=3", EXACT),
    Row("sign", EXACT),
    Row("mifgsm", EXACT),
    Row("multitargeted:steps=12,targets=2", EXACT),
    Row("apgd:steps=30", EXACT | {"l1": 1.1}, SPREAD),
    Row("apgd:steps=30,loss=margin,eot=2", {"linf": 1.05}),
    Row("apgd:steps=30,loss=dlr", {"l2": 1.05}),
    Row("apgd:steps=30,loss=dlr,target=all,targets=2", {"linf": 1.05, "l1": 1.1}, SPREAD),
    Row("deepfool", {"linf": 1.05, "l2": 1.05}),
    Row("penalty:steps=60", {"l2": 1.05}, quick="penalty:steps=20,search=3"),
    Row("penalty:steps=60,loss=ce", {"l2": 1.05}, quick="penalty:steps=20,search=3,loss=ce"),
    Row("lbfgs", {"l2": 1.05}, quick="lbfgs:search=3"),
    Row("cw:steps=60", {"l2": 1.05}, quick="cw:steps=20,search=3,first=1"),
    Row("ead:steps=100", {"l1": 1.05}, quick="ead:steps=20,search=3,first=1"),
    Row("ddn:steps=60", {"l2": 1.05}, quick="ddn:steps=20"),
    Row("fmn:steps=60", EXACT | {"l0": 1.5}, ONE_MORE, "fmn:steps=20"),
    Row(
        "fmn:steps=30,restarts=2,target=all",
        {"l2": 1.05, "l0": 1.5},
        ONE_MORE,
        "fmn:steps=10,restarts=2,target=most_likely",
    ),
    Row("fab:steps=20", EXACT, quick="fab:steps=6"),
    Row("fab:steps=10,restarts=2", {"linf": 1.05}),
    Row("fab_t:steps=20,targets=2", EXACT, quick="fab_t:steps=6,targets=2"),
    Row("sigma_zero:steps=100", {"l0": 1.5}, ONE_MORE),
    Row("autoattack:steps=20,queries=5", EXACT, quick="autoattack:steps=4,queries=4"),
    Row(
        "autoattack:steps=10,version=plus,queries=5",
        {"l2": 1.05},
        quick="autoattack:steps=3,version=plus,queries=4",
    ),
    Row(
        "autoattack:steps=20,version=rand", {"linf": 1.05}, quick="autoattack:steps=4,version=rand"
    ),
    Row(
        "cascade:attacks=[noise+[fmn:steps=60]]",
        EXACT | {"l0": 1.5},
        ONE_MORE,
        "cascade:attacks=[[noise:samples=2]+[fmn:steps=20]]",
    ),
    Row("square:queries=500", {"linf": 1.3, "l2": 2.0}, SEARCH, "square:queries=12"),
    Row(
        "square:queries=200,restarts=2,p=0.3,rescale=false",
        {"linf": 1.5},
        SEARCH,
        "square:queries=12,restarts=2,p=0.3,rescale=false",
    ),
    Row(
        "nes:attack=[mifgsm:steps=10,loss=margin],pairs=16",
        {"linf": 2.0, "l2": 1.6, "l1": 3.0},
        ESTIMATE,
        "nes:attack=[pgd:steps=3],pairs=3",
    ),
    Row(
        "spsa:attack=[mifgsm:steps=10,loss=margin],pairs=16",
        {"linf": 2.0, "l2": 1.6, "l1": 3.0},
        ESTIMATE,
        "spsa:attack=[pgd:steps=3,loss=margin],pairs=3",
    ),
    Row("simba:queries=300", {"linf": 1.05}, quick="simba:queries=20"),
    Row("simba:queries=2000,alpha=0.01", {"l2": 1.15}, SEARCH, "simba:queries=20,alpha=0.1"),
    Row("simba:queries=300,basis=dct", {"linf": 1.5}, SEARCH, "simba:queries=20,basis=dct,low=0.5"),
    Row("boundary:queries=1500", {"l2": 2.3}, FACE, "boundary:queries=60"),
    Row(
        "hopskipjump:queries=400,first=30",
        {"l2": 3.5, "linf": 4.0},
        FACE,
        "hopskipjump:queries=60,first=10",
    ),
    Row(
        "noise:samples=4", NEVER, "a baseline: it may fail anywhere, and may not beat the distance"
    ),
]
QUICK = [
    pytest.param(
        replace(row, spec=row.quick or row.spec), norm, id=f"{row.quick or row.spec}-{norm}"
    )
    for row in ROWS
    for norm in row.factor
]
BLIND = [case for case in QUICK if attacks.get(case.values[0].spec).access in ("logits", "labels")]
CASES = [pytest.param(row, norm, id=f"{row.spec}-{norm}") for row in ROWS for norm in row.factor]
EACH = [
    pytest.param(row.quick or row.spec, next(iter(row.factor)), id=row.quick or row.spec)
    for row in ROWS
]
"""One norm each, for what cannot depend on it."""
SOLVABLE = [
    pytest.param(row, norm, classes, id=f"{row.spec}-{norm}-{classes}")
    for row in ROWS
    for norm in row.factor
    for classes in (2, 10)
    if classes >= attacks.get(row.spec).least_classes(targeted=False)
]
TARGETED = [
    pytest.param(row, norm, target, id=f"{row.spec}-{norm}-{target}")
    for row in ROWS
    for norm in row.factor
    for target in ("next", "random", "least_likely")
    if row.spec.startswith(("pgd", "bim"))
]
RADIUS = {"linf": 0.1, "l2": 1.0, "l1": 5.0, "l0": 5.0}
SHIFTED = Mapped(Curved(), lambda logits, _: logits - 100)
Change = Callable[[Tensor, Tensor], Tensor]


def test_every_attack_has_a_row_for_every_norm() -> None:
    """Variants of an attack may share its norms among them."""
    known = {(row.spec.partition(":")[0], norm) for row in ROWS for norm in row.factor}
    # What needs more than the model has tests of its own, in test_transfer.
    table = {name: attacks.get(name) for name in registry.attacks.table}
    wanted = {name: recipe.norms for name, recipe in table.items() if not recipe.needs}
    assert known == {(name, norm) for name, knows in wanted.items() for norm in knows}


# The oracle: linear models, whose exact distance is known


def fooled(problem: Problem, spec: str, factor: float, **options: Any) -> Tensor:
    """Whether (N,) the prediction changes at this multiple of the exact distance."""
    radius = (problem.distance * factor).float()
    threat = ThreatModel(problem.norm, radius)
    x_adv = attacks.get(spec)(problem.model, problem.x, problem.y, threat, **options)
    assert norms.inside(x_adv, problem.x, radius, problem.norm).all()
    return predicted(problem.model, x_adv) != problem.y


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


@pytest.mark.parametrize("norm", DISTANCE)
@pytest.mark.parametrize("classes", [2, 10])
def test_no_wall_of_the_box_shortens_the_way(norm: str, classes: int) -> None:
    """The distances below hold without a box: 4 of them (l0: none) fit between image and wall."""
    problem = linear(norm, classes)
    assert (predicted(problem.model, problem.x) == problem.y).all()
    room = torch.minimum(problem.x, 1 - problem.x).flatten(1).amin(1)
    # A step of length 4 d moves one pixel by 4 d in linf, 2.4 d in l1, in l2 its weight's share.
    reach = {"linf": 4.0, "l2": 1.6, "l1": 2.4, "l0": 0.0}[norm]
    assert (room > reach * problem.distance).all()


@pytest.mark.parametrize(("row", "norm", "classes"), SOLVABLE)
def test_fools_beyond_the_exact_distance_and_never_within(
    row: Row, norm: str, classes: int
) -> None:
    problem = linear(norm, classes)
    if row.factor[norm] < torch.inf:
        assert fooled(problem, row.spec, row.factor[norm]).all()
    assert not fooled(problem, row.spec, 0.95).any()


@pytest.mark.parametrize(("row", "norm"), CASES)
def test_reaches_a_target_beyond_the_exact_distance(row: Row, norm: str) -> None:
    problem = linear(norm, 10)
    if row.factor[norm] < torch.inf:
        radius = (problem.distance * row.factor[norm]).float()
        x_adv = attacks.get(row.spec)(
            problem.model, problem.x, problem.y, ThreatModel(norm, radius), targets=problem.nearest
        )
        assert torch.equal(predicted(problem.model, x_adv), problem.nearest)
    assert not fooled(problem, row.spec, 0.95, targets=problem.nearest).any()


@pytest.mark.parametrize(("row", "norm"), CASES)
def test_negative_logits_hide_nothing(row: Row, norm: str) -> None:
    """A class masked out with 0 instead of minus infinity would win among negative logits."""
    problem = linear(norm, 10)
    below = Problem(
        Mapped(problem.model, lambda logits, _: logits - 60),
        *(problem.x, problem.y, norm, problem.distance, problem.nearest),
    )
    if row.factor[norm] < torch.inf:
        assert fooled(below, row.spec, row.factor[norm]).all()
    assert not fooled(below, row.spec, 0.95).any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_large_logits_do_not_hide_from_scale_free_losses(norm: str, loss: str) -> None:
    """Where cross-entropy has no gradient left in float32: it fools nothing here."""
    problem = linear(norm, 10)
    scaled = Problem(
        Mapped(problem.model, lambda logits, _: logits * 1e4),
        *(problem.x, problem.y, norm, problem.distance, problem.nearest),
    )
    assert fooled(scaled, f"pgd:steps=12,random=false,loss={loss}", 1.05).all()
    assert not fooled(scaled, "pgd:steps=12,random=false", 1.05).any()


# The contract, on a curved model and images with a third of their pixels at either wall


@dataclass(frozen=True)
class Case:
    """Twelve images, all but two classified rightly."""

    model: nn.Module
    x: Tensor
    y: Tensor
    wrong: Tensor


def case(model: nn.Module | None = None) -> Case:
    model = Curved() if model is None else model
    x = images(12)
    y = predicted(model, x).clone()
    classes = model(x[:1]).shape[1]
    wrong = torch.zeros(12, dtype=torch.bool)
    wrong[[3, 7]] = True
    y[wrong] = (y[wrong] + 1) % classes
    return Case(model, x, y, wrong)


def run(spec: str, norm: str, at: Case, rows: Any = slice(None), **options: Any) -> Tensor:
    """The attack on some rows of a case, checked for what holds of any result."""
    x, y = at.x[rows], at.y[rows]
    before = x.clone(), y.clone()
    radius = options.pop("radius", torch.full((len(x),), RADIUS[norm]))
    x_adv = attacks.get(spec)(at.model, x, y, ThreatModel(norm, radius), **options)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert norms.inside(x_adv, x, radius, norm).all()
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    return x_adv


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_moves_right_images_and_returns_wrong_ones(row: Row, norm: str) -> None:
    """A minimal attack may find no way out of an image."""
    at = case()
    moved = (run(row.spec, norm, at) != at.x).flatten(1).any(1)
    assert not moved[at.wrong].any()
    assert moved[~at.wrong].sum() >= (9 if attacks.get(row.spec).kind == "minimal" else 10)


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_is_repeatable(row: Row, norm: str) -> None:
    at = case()
    assert torch.equal(run(row.spec, norm, at, seed=5), run(row.spec, norm, at, seed=5))


@pytest.mark.parametrize("spec", ["fgsm:random=0.5", "pgd:steps=2", "noise:samples=2"])
def test_another_seed_draws_other_points(spec: str) -> None:
    at = case()
    assert not torch.equal(run(spec, "linf", at, seed=5), run(spec, "linf", at, seed=6))


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_a_sample_does_not_see_its_batch(row: Row, norm: str) -> None:
    """Slices, a permutation and single samples equal the whole bit for bit, at one shape."""
    at = case(convolutional())
    whole = run(row.spec, norm, at, shape=16)
    for rows in (slice(2, 9), [11, 4, 0, 8, 3, 10, 6, 1, 2, 5, 9, 7], [5], [10]):
        assert torch.equal(run(row.spec, norm, at, rows, shape=16), whole[rows])


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_runs_on_a_batch_of_one(row: Row, norm: str) -> None:
    at = case()
    for sample in (0, 3):
        x_adv = run(row.spec, norm, at, [sample])
        assert torch.equal(x_adv, at.x[[sample]]) == bool(at.wrong[sample])


@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_returns_an_empty_batch(spec: str, norm: str) -> None:
    assert run(spec, norm, case(), slice(0)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(SHIFTED, id="negative"),
        pytest.param(Mapped(Curved(), lambda logits, _: logits * 0), id="all-equal"),
        pytest.param(Mapped(Curved(), lambda logits, _: logits * 100), id="times-100"),
        pytest.param(HalfInside(), id="float16"),
        pytest.param(Curved(3), id="3-classes"),
    ],
)
@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_keeps_its_contract_on(row: Row, norm: str, model: nn.Module) -> None:
    at = case(model)
    least = attacks.get(row.spec).least_classes(targeted=False)
    if model(at.x[:1]).shape[1] < least:
        with pytest.raises(ValueError, match=f"needs at least {least} classes"):
            run(row.spec, norm, at)
    else:
        run(row.spec, norm, at)


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_two_classes_run_or_are_refused_by_name(row: Row, norm: str) -> None:
    least = attacks.get(row.spec).least_classes(targeted=False)
    if least == 2:
        run(row.spec, norm, case(Curved(2)))
        return
    with pytest.raises(ValueError, match=f"{row.spec} needs at least {least} classes, got 2"):
        run(row.spec, norm, case(Curved(2)))


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_moves_off_the_walls(row: Row, norm: str, pixel: float) -> None:
    """Images with no pixel inside the box: an attack in other coordinates could not move there."""
    model = Curved()
    x = torch.full((4, 1, 8, 8), pixel)
    at = Case(model, x, predicted(model, x), torch.zeros(4))
    assert (run(row.spec, norm, at) != x).flatten(1).any(1).all()


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_an_explicit_target_is_what_counts(row: Row, norm: str) -> None:
    """An image already predicted as its target comes back; any other is attacked, right or not,
    though a minimal attack may find no way there.
    """
    at = case()
    targets = (at.y + 2) % 10
    targets[[3, 7]] = predicted(at.model, at.x)[[3, 7]]
    moved = (run(row.spec, norm, at, targets=targets) != at.x).flatten(1).any(1)
    if attacks.get(row.spec).kind == "minimal":
        assert not moved[[3, 7]].any()
    else:
        assert moved.tolist() == [sample not in (3, 7) for sample in range(12)]


@pytest.mark.parametrize(("row", "norm", "target"), TARGETED)
def test_keeps_its_contract_with_a_target_of_its_own(row: Row, norm: str, target: str) -> None:
    at = case()
    moved = (run(f"{row.spec},target={target}", norm, at) != at.x).flatten(1).any(1)
    assert torch.equal(moved, ~at.wrong)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_next_class_is_reached_beyond_its_exact_distance(norm: str) -> None:
    """The next class is the nearest one of these images."""
    problem = linear(norm, 10)
    assert torch.equal(problem.nearest, (problem.y + 1) % 10)
    assert fooled(problem, "pgd:steps=12,target=next", 1.05).all()


def task(model: nn.Module, x: Tensor, restart: int = 0) -> Task:
    y = predicted(model, x)
    draws = Draws.of(x, 0).at(torch.full_like(y, restart))
    return Task(x, y, "linf", torch.full((len(x),), 0.1), 10, draws)


def test_a_random_target_is_another_class_and_another_one_each_restart() -> None:
    model, x = Curved(), images(200)
    recipe = attacks.get("pgd:target=random")
    first, second = (recipe.start(task(model, x, restart)).goal.target for restart in (0, 1))
    away = (first - predicted(model, x)) % 10
    assert set(away.tolist()) == set(range(1, 10))
    assert not torch.equal(first, second)


def told(recipe: StepAttack, model: nn.Module, state: Any) -> Any:
    """The state after one query of the model."""
    query = recipe.ask(state)
    answer = ORACLES[recipe.access](model)(query.points[:, 0], query.aim, differentiate=True)
    logits, value = answer.logits[:, None], answer.value[:, None]
    return recipe.tell(state, Answer(logits, value, answer.gradient))


@pytest.mark.parametrize(
    ("target", "restart", "rank"),
    [("most_likely", 0, -2), ("least_likely", 0, 0), ("all", 0, -2), ("all", 8, 0), ("all", 9, -2)],
)
def test_a_ranked_target_is_read_off_the_image_and_stays(
    target: str, restart: int, rank: int
) -> None:
    """The label is the most likely class here, so that the others' order is that of all classes."""
    model, x = Curved(), images(20)
    recipe = attacks.get(f"pgd:steps=3,target={target}")
    state = recipe.start(task(model, x, restart))
    assert torch.equal(recipe.ask(state).points[:, 0], x)
    assert not recipe.ask(state).differentiate.any()
    expected = model(x).argsort(1)[:, rank]
    for _ in range(4):
        state = told(recipe, model, state)
        assert torch.equal(state.goal.target, expected)
    assert (state.step == 3).all()
    assert recipe.horizon(0.1, "linf", 10) == 5


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_reads_images_of_any_layout(row: Row, norm: str) -> None:
    at = case()
    expected = run(row.spec, norm, at)
    for x in (
        at.x.transpose(2, 3).contiguous().transpose(2, 3),
        at.x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        torch.stack([at.x, at.x], dim=-1)[..., 0],
    ):
        assert not x.is_contiguous()
        assert torch.equal(run(row.spec, norm, Case(at.model, x, at.y, at.wrong)), expected)


@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_an_image_that_requires_a_gradient_gets_none(spec: str, norm: str) -> None:
    at = case()
    expected = run(spec, norm, at)
    leaf = at.x.clone().requires_grad_()
    radius = torch.full((12,), RADIUS[norm])
    x_adv = attacks.get(spec)(at.model, leaf, at.y, ThreatModel(norm, radius))
    assert torch.equal(x_adv, expected)
    assert not x_adv.requires_grad
    assert leaf.requires_grad
    assert leaf.grad is None


@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_the_result_is_not_the_argument(spec: str, norm: str) -> None:
    """Also where nothing is attacked: writing into the one must not change the other."""
    at = case()
    for radius in (0.0, RADIUS[norm]):
        x_adv = attacks.get(spec)(at.model, at.x, at.y, ThreatModel(norm, radius))
        assert x_adv.data_ptr() != at.x.data_ptr()


def trained_in_part() -> nn.Module:
    """A net in training, with one block in eval mode, one frozen parameter and one gradient."""
    net = convolutional().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[0].bias.grad = torch.ones_like(net[0].bias)
    return net


@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_the_model_comes_back_as_it_was(spec: str, norm: str) -> None:
    net = trained_in_part()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    needs = [parameter.requires_grad for parameter in net.parameters()]
    at = case(convolutional())
    run(spec, norm, Case(net, at.x, at.y, at.wrong))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == needs
    for name, parameter in net.named_parameters():
        if name == "0.bias":
            assert torch.equal(parameter.grad, torch.ones_like(parameter))
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_a_model_left_in_training_is_attacked_in_eval_mode(spec: str, norm: str) -> None:
    """Batch statistics would make a prediction depend on its neighbours."""
    at = case(convolutional())
    expected = run(spec, norm, at)
    training = Case(convolutional().train(), at.x, at.y, at.wrong)
    assert torch.equal(run(spec, norm, training), expected)


class Drifting(nn.Module):
    """Counts its calls in a buffer, or switches itself back to training."""

    def __init__(self, *, awake: bool):
        super().__init__()
        self.net, self.awake = Curved(), awake
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.awake:
            self.net.train()
        else:
            self.calls += 1
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize(("awake", "what"), [(False, "calls"), (True, "the mode of Curved")])
@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_a_model_that_changes_itself_is_refused(
    spec: str, norm: str, awake: bool, what: str
) -> None:
    at = case()
    model = Drifting(awake=awake).eval()
    with pytest.raises(ModelError, match=f"changed itself while it was evaluated: {what}"):
        run(spec, norm, Case(model, at.x, at.y, at.wrong))
    assert model.calls == 0
    assert not any(module.training for module in model.modules())


def test_a_buffer_of_nan_is_not_a_changed_one() -> None:
    at = case()
    at.model.register_buffer("unused", torch.tensor([torch.nan, 1.0]))
    run("fgsm", "linf", at)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda z, _: z * torch.nan, "NaN or infinite logits for 12 of 12", id="nan"),
        pytest.param(lambda z, _: z / 0, "NaN or infinite logits for 12 of 12", id="inf"),
        pytest.param(lambda z, _: z[:, 0], r"must return logits \(N, K\)", id="one-dimension"),
        pytest.param(lambda z, _: z[:-1], r"must return logits \(N, K\)", id="a-row-short"),
        pytest.param(lambda z, _: z[..., None], r"must return logits \(N, K\)", id="three"),
        pytest.param(lambda z, _: (z,), "got tuple", id="tuple"),
        pytest.param(lambda z, _: z.softmax(1), "the model returns probabilities", id="softmax"),
    ],
)
@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_a_model_without_logits_is_refused(
    spec: str, norm: str, change: Change, message: str
) -> None:
    """Probabilities are as good as logits to one that sees labels only."""
    at = case()
    broken = Case(Mapped(Curved(), change), at.x, at.y, at.wrong)
    if "probabilities" in message and attacks.get(spec).access == "labels":
        assert torch.equal(run(spec, norm, broken), run(spec, norm, at))
        return
    with pytest.raises(ModelError, match=message):
        run(spec, norm, broken)


@pytest.mark.parametrize(("spec", "norm"), EACH)
def test_nan_under_attack_is_named(spec: str, norm: str) -> None:
    """A model that is sound on the images and nowhere else."""
    at = case()
    known = at.x.flatten(1).sum(1)

    def elsewhere(logits: Tensor, x: Tensor) -> Tensor:
        is_clean = (x.flatten(1).sum(1)[:, None] == known).any(1)
        return torch.where(is_clean[:, None], logits, logits * torch.nan)

    broken = Case(Mapped(Curved(), elsewhere), at.x, at.y, at.wrong)
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        run(spec, norm, broken)


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_queries_are_those_the_model_sees(row: Row, norm: str) -> None:
    """One row at a time, so that none is padding. A success goes back through the model before its
    logits are read: that backward is no query.
    """
    problem = linear(norm, 10, count=2)
    model = Counting(problem.model)
    radius = 0.9 * problem.distance.numpy()[:, None]
    work = Samples(problem.x, problem.y, sample_ids(problem.x), radius)
    setting = Setting(norm, 10, 0, 1)
    recipe = attacks.get(row.spec)
    judge = verify.judge_of(problem.model, work, setting)
    settled = list(loop.sweep(recipe, model, judge, work, setting))
    assert sum(s.forward for s in settled) == model.forwards
    assert sum(s.backward for s in settled) == model.backwards
    assert all(
        0 < s.forward <= recipe.cost([float(r[0])], norm, 10)
        for s, r in zip(settled, radius, strict=True)
    )


@pytest.mark.parametrize(("row", "norm"), BLIND)
def test_a_black_box_attack_asks_for_no_gradient(row: Row, norm: str) -> None:
    at = case()
    blind = Case(BlackBox(Curved()), at.x, at.y, at.wrong)
    assert torch.equal(run(row.spec, norm, blind), run(row.spec, norm, at))


def test_a_black_box_raises_when_asked_for_a_gradient() -> None:
    at = case()
    blind = Case(BlackBox(Curved()), at.x, at.y, at.wrong)
    with pytest.raises(AssertionError, match="a black-box attack asked for a gradient"):
        run("pgd:steps=2", "linf", blind)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.spec)
def test_a_spec_names_its_attack(row: Row) -> None:
    recipe = Attack.from_spec(row.spec)
    assert attacks.get(recipe.to_spec()) == recipe
    assert recipe.identity()["name"] == row.spec.partition(":")[0]


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_radius_zero_gives_the_images_back(row: Row, norm: str) -> None:
    at = case()
    assert torch.equal(run(row.spec, norm, at, radius=torch.zeros(12)), at.x)


@pytest.mark.parametrize(("row", "norm"), QUICK)
def test_each_sample_has_a_radius_of_its_own(row: Row, norm: str) -> None:
    at = case()
    radius = torch.arange(12) % 4 / 3 * RADIUS[norm]
    mixed = run(row.spec, norm, at, radius=radius, shape=16)
    for value in radius.unique():
        alone = run(row.spec, norm, at, radius=torch.full((12,), value), shape=16)
        assert torch.equal(mixed[radius == value], alone[radius == value])


def test_one_radius_may_be_a_number_or_a_tensor() -> None:
    at = case()
    recipe = attacks.get("pgd:steps=3")
    number, tensor, repeated = (
        recipe(at.model, at.x, at.y, ThreatModel("linf", eps))
        for eps in (0.1, torch.tensor(0.1), torch.full((12,), 0.1, dtype=torch.float64))
    )
    assert torch.equal(number, tensor)
    assert torch.equal(number, repeated)

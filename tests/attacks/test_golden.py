"""Published and hand-worked values: the logistic example, step counts and step sizes of the papers.

The logistic example: weights (1, 3, -1, 2, 2, 3), no bias, x = (1, -1, 2, 0, 3, -2), label 0. Its
logit is -4; worked by hand in float64. Its x leaves the box [0, 1], so losses, gradients and steps
are tested on it as it stands, and whole attacks on u = (x + 5) / 10 with the model that reads
10 u - 5: the same problem at a tenth of the radius, with every wall out of reach.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import attacks
from attacks import ThreatModel, loop, norms, verify
from attacks.ascent import AscentAttack
from attacks.base import Task
from attacks.bim import kurakin_steps
from attacks.draws import Draws
from attacks.losses import CROSS_ENTROPY
from attacks.oracles import Aim, GradientOracle
from attacks.rules import adam
from attacks.work import Samples, Setting
from tests.problems import Curved, Linear, images, linear

WEIGHT = torch.tensor([1.0, 3.0, -1.0, 2.0, 2.0, 3.0])
X = torch.tensor([[1.0, -1.0, 2.0, 0.0, 3.0, -2.0]])
Y = torch.tensor([0])
FGSM = torch.tensor([[1.2, -0.8, 1.8, 0.2, 3.2, -1.8]])
EXAMPLE = Linear(torch.stack([0 * WEIGHT, WEIGHT]), torch.zeros(2))
BOXED = Linear(10 * EXAMPLE.weight, torch.stack([torch.tensor(0.0), -5 * WEIGHT.sum()]))
MICRO = {"rtol": 0, "atol": 1e-6}
"""What the values are stated to."""


def logit(x: Tensor) -> float:
    return float((x @ WEIGHT).item())


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_example_is_as_stated() -> None:
    assert logit(X) == -4
    assert sigmoid(-4) == pytest.approx(0.0179862, abs=1e-6)
    assert [norms.size(WEIGHT[None], norm).item() for norm in ("l1", "linf")] == [12, 3]
    assert_close(norms.size(WEIGHT[None], "l2"), torch.tensor([28**0.5]))


def test_loss_and_gradient_of_the_example() -> None:
    up = torch.ones(1)
    answer = GradientOracle(EXAMPLE)(X, Aim(CROSS_ENTROPY, Y, up), differentiate=True)
    assert_close(answer.value, torch.tensor([0.01814993]), **MICRO)
    gradient = [0.01798621, 0.05395863, -0.01798621, 0.03597242, 0.03597242, 0.05395863]
    assert_close(answer.gradient, torch.tensor([gradient]), **MICRO)


def test_the_sign_step_of_the_example() -> None:
    step = norms.steepest(WEIGHT[None], X, "linf")
    worst = X + 0.2 * step
    assert_close(worst, FGSM, **MICRO)
    assert logit(worst) == pytest.approx(-1.6, abs=1e-5)
    assert sigmoid(logit(worst)) == pytest.approx(0.1679816, abs=1e-6)
    loss = CROSS_ENTROPY(EXAMPLE(worst), Y)
    assert_close(loss.detach(), torch.tensor([0.18390074]), **MICRO)
    # The bound of every perturbation of 0.2 in linf: softplus(-4 + 0.2 ||w||_1).
    assert loss.item() == pytest.approx(math.log1p(math.exp(-4 + 0.2 * 12)), abs=1e-6)


def test_a_step_along_the_weights_flips_where_the_sign_step_does_not() -> None:
    """0.2 w has size 0.6 in linf: the two steps are not of one size, whatever the texts say."""
    along = X + 0.2 * WEIGHT
    assert_close(along, torch.tensor([[1.2, -0.4, 1.8, 0.4, 3.4, -1.4]]), **MICRO)
    assert sigmoid(logit(along)) == pytest.approx(0.8320184, abs=1e-6)
    assert norms.size(along - X, "linf").item() == pytest.approx(0.6, abs=1e-6)
    assert logit(X + 0.2 * WEIGHT.sign()) < 0 < logit(along)


def boxed(x: Tensor) -> Tensor:
    return (x + 5) / 10


@pytest.mark.parametrize("spec", ["fgsm", "pgd:steps=10", "bim:steps=20,alpha=0.002"])
def test_the_attack_on_the_example_inside_the_box(spec: str) -> None:
    threat = ThreatModel("linf", 0.02)
    u = attacks.get(spec)(BOXED, boxed(X), Y, threat)
    # u is rounded to 6e-8, x = 10 u - 5 to ten times that.
    assert_close(10 * u - 5, FGSM, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 1 / 3), ("l2", 4 / 28**0.5), ("l1", 4 / 3)])
@pytest.mark.parametrize("spec", ["fgsm", "pgd:steps=10,random=false"])
def test_the_smallest_radius_that_flips_the_example(spec: str, norm: str, radius: float) -> None:
    """0.333333, 0.755929 and 1.333333: |logit| over the dual norm of the weights."""
    for factor, flipped in ((0.9999, False), (1.0001, True)):
        threat = ThreatModel(norm, radius / 10 * factor)
        u = attacks.get(spec)(BOXED, boxed(X), Y, threat)
        assert bool(BOXED(u).argmax() == 1) is flipped


@pytest.mark.parametrize(("eps", "steps"), [(2, 2), (4, 5), (8, 10), (16, 20), (32, 36)])
def test_iterations_of_the_basic_iterative_method(eps: int, steps: int) -> None:
    """min(eps + 4, 1.25 eps), eps in 1/255 (Kurakin et al. 2016), whatever float32 makes of eps."""
    assert kurakin_steps(torch.tensor([eps / 255])).tolist() == [steps]
    assert attacks.get("bim").horizon(eps / 255, "linf", 10) == steps + 1


def test_rounding_of_the_radius_takes_no_iteration_away() -> None:
    """At any eps of n / 255 the count is that of exact fractions."""
    exact = [max(1, math.floor(min(n + 4, Fraction(5, 4) * n))) for n in range(256)]
    assert kurakin_steps(torch.arange(256) / 255).tolist() == exact


def test_the_basic_iterative_method_takes_at_least_a_step() -> None:
    assert kurakin_steps(torch.tensor([0.0, 0.1 / 255])).tolist() == [1, 1]


RADII = torch.tensor([0.0, 0.1, 0.3])


def parts(spec: str) -> tuple[Tensor, Tensor]:
    """Steps and step sizes at the radii."""
    recipe = attacks.get(spec)
    assert isinstance(recipe, AscentAttack)
    composed = recipe.parts("linf")
    return composed.steps(RADII), composed.alpha(RADII)


@pytest.mark.parametrize(
    ("spec", "steps", "alpha"),
    [
        ("fgsm", 1, RADII),
        ("fgsm:random=0.25", 1, 0.75 * RADII),
        ("pgd", 40, 2.5 * RADII / 40),
        ("pgd:steps=10", 10, 2.5 * RADII / 10),
        ("pgd:steps=10,alpha=0.01", 10, torch.full((3,), 0.01)),
        ("pgd:steps=10,rel_alpha=0.2", 10, 0.2 * RADII),
        ("bim:steps=7", 7, torch.full((3,), 1 / 255)),
        ("bim:steps=7,alpha=2/255", 7, torch.full((3,), 2 / 255)),
    ],
)
def test_steps_and_step_sizes(spec: str, steps: int, alpha: Tensor) -> None:
    count, sizes = parts(spec)
    assert count.tolist() == [steps] * 3
    assert_close(sizes, alpha)


DUAL_SIZE = {
    "linf": lambda w: w.abs().sum(1),
    "l2": lambda w: w.pow(2).sum(1).sqrt(),
    "l1": lambda w: w.abs().amax(1),
}


@pytest.mark.parametrize("norm", DUAL_SIZE)
@pytest.mark.parametrize("spec", ["fgsm", "pgd:steps=12,random=false", "pgd:steps=12"])
def test_on_a_linear_model_iterating_gains_nothing(norm: str, spec: str) -> None:
    """The margin falls by eps times the dual norm of the weights: what one step reaches.

    Pixels are rounded to 6e-8, and 64 weights of size 6 sum that to 2e-5. From a random start l2
    only nears the point: small steps of 2.5 eps in all turn tan(angle / 2) from 1 to exp(-2.5), so
    that 0.987 of the way is gained, twelve steps a little less.
    """
    problem = linear(norm, 2)
    weight = problem.model.weight.detach().double()
    pull = weight[1 - problem.y] - weight[problem.y]

    def lead(x: Tensor) -> Tensor:
        return -((x.flatten(1).double() * pull).sum(1))

    radius = (0.9 * problem.distance).float()
    x_adv = attacks.get(spec)(problem.model, problem.x, problem.y, ThreatModel(norm, radius))
    lost = lead(problem.x) - lead(x_adv)
    expected = radius.double() * DUAL_SIZE[norm](pull)
    assert (lost <= expected + 5e-5).all()
    least = 0.97 if (norm, spec) == ("l2", "pgd:steps=12") else 1
    assert (lost >= least * expected - 5e-5).all()


def curved_task(radius: float) -> tuple[Curved, Task]:
    model, x = Curved(), images(16)
    y = model(x).argmax(1)
    return model, Task(x, y, "linf", torch.full((16,), radius), 10, Draws.of(x, seed=4))


def sign_of_gradient(model: Curved, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(leaf), y, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0].sign()


def test_fgsm_is_its_formula() -> None:
    """x + eps sign(grad J(x, y)), clipped to the box, which is ours."""
    model, task = curved_task(0.1)
    expected = (task.x + 0.1 * sign_of_gradient(model, task.x, task.y)).clamp(0, 1)
    crafted = loop.craft(attacks.get("fgsm"), model, task, steps=1)
    assert_close(crafted, expected, **MICRO)


def test_randomised_fgsm_is_its_formula() -> None:
    """x' = x + alpha sign(N(0, I)), x_adv = x' + (eps - alpha) sign(grad J(x')), alpha eps / 4."""
    model, task = curved_task(0.1)
    noise = task.draws.normal(task.x.shape, "start").sign()
    start = (task.x + 0.025 * noise).clamp(0, 1)
    expected = (start + 0.075 * sign_of_gradient(model, start, task.y)).clamp(0, 1)
    crafted = loop.craft(attacks.get("fgsm:random=0.25"), model, task, steps=1)
    assert_close(crafted, expected, **MICRO)


def test_the_basic_iterative_method_is_its_formula() -> None:
    """X_{N+1} = min(1, X + eps, max(0, X - eps, X_N + alpha sign(grad J(X_N, y))))."""
    model, task = curved_task(4 / 255)
    expected = task.x
    for _ in range(5):
        moved = expected + sign_of_gradient(model, expected, task.y) / 255
        low = torch.maximum(torch.zeros_like(moved), task.x - 4 / 255)
        high = torch.minimum(torch.ones_like(moved), task.x + 4 / 255)
        expected = torch.minimum(high, torch.maximum(low, moved))
    crafted = loop.craft(attacks.get("bim"), model, task, steps=5)
    assert_close(crafted, expected, **MICRO)


def test_a_pixel_without_gradient_does_not_move() -> None:
    """sign(0) = 0."""
    model = Linear(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]), torch.tensor([0.0, -9.0]))
    x = torch.full((1, 3), 0.5)
    x_adv = attacks.get("fgsm")(model, x, Y, ThreatModel("linf", 0.1))
    assert_close(x_adv, torch.tensor([[0.6, 0.5, 0.4]]))


# Minimal distances of the logistic example, in u = (x + 5) / 10: a tenth of those in x


@pytest.mark.parametrize(
    ("spec", "norm", "distance"),
    [
        ("deepfool", "linf", 1 / 3),
        ("fmn", "linf", 1 / 3),
        ("fab", "linf", 1 / 3),
        ("fab_t", "linf", 1 / 3),
        ("deepfool", "l2", 4 / 28**0.5),
        ("ddn", "l2", 4 / 28**0.5),
        ("fmn", "l2", 4 / 28**0.5),
        ("fab", "l2", 4 / 28**0.5),
        ("fab_t", "l2", 4 / 28**0.5),
        ("cw", "l2", 4 / 28**0.5),
        ("penalty", "l2", 4 / 28**0.5),
        ("lbfgs", "l2", 4 / 28**0.5),
        ("fmn", "l1", 4 / 3),
        ("fab", "l1", 4 / 3),
        ("fab_t", "l1", 4 / 3),
        ("ead", "l1", 4 / 3),
    ],
)
def test_the_smallest_distance_of_the_example(spec: str, norm: str, distance: float) -> None:
    """0.333333, 0.755929 and 1.333333, to 2 % (deepfool overshoots by that, and 1e-4 in u)."""
    u = attacks.get(spec)(BOXED, boxed(X), Y, ThreatModel(norm, 5.0 if norm != "linf" else 1.0))
    assert BOXED(u).argmax() == 1
    reached = 10 * norms.size(u - boxed(X), norm).item()
    further = 1e-3 if spec == "deepfool" else 0.0
    assert distance * (1 - 1e-5) <= reached <= (distance + further) * 1.0201


def test_lbfgs_is_the_closed_form_of_a_linear_model() -> None:
    """r* = -(w x + b) w / ||w||_2^2: 4 / 28 of the weights (reference: Szegedy et al. 2013)."""
    u = attacks.get("lbfgs:steps=50,search=20")(BOXED, boxed(X), Y, ThreatModel("l2", 5.0))
    assert_close(10 * (u - boxed(X))[0], 4 / 28 * WEIGHT, rtol=0, atol=2e-3)


# The targeted sign attack: 24 steps of 0.1, bound 0.4


class _Recorder(torch.nn.Module):
    """The example in the box, with the points it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Tensor] = []

    def forward(self, u: Tensor) -> Tensor:
        self.points.append(u.detach().clone())
        return BOXED(u) - torch.tensor([0.0, 1e6])


def test_the_sign_attack_steps_on_the_grid() -> None:
    """delta is a multiple of 0.1, at the bound after 4 steps where the sign stays; 24 gradients.

    The target is out of reach, so that nothing stops early.
    """
    model = _Recorder()
    recipe = attacks.get("sign:box=false")
    assert recipe.horizon(0.4, "linf", 2) == 25
    recipe(model, boxed(X), Y, ThreatModel("linf", 0.4), shape=1)
    steps = torch.cat(model.points[1:26]) - boxed(X)
    on_grid = (steps * 10).round() / 10
    assert_close(steps, on_grid, rtol=0, atol=1e-6)
    sizes = norms.size(steps, "linf").tolist()
    assert sizes[:6] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4], abs=1e-6)
    assert_close(steps[4], 0.4 * WEIGHT.sign(), rtol=0, atol=1e-6)


def test_the_sign_attack_is_its_formula() -> None:
    """delta <- clip(delta - alpha sign(grad NLL(x + delta, target)), -eps, eps), the target being
    the class after the label, and the whole clipped to the box.
    """
    model, task = curved_task(0.15)
    expected = task.x
    for _ in range(3):
        moved = expected - 0.1 * sign_of_gradient(model, expected, (task.y + 1) % 10)
        expected = moved.clamp(task.x - 0.15, task.x + 0.15).clamp(0, 1)
    crafted = loop.craft(attacks.get("sign"), model, task, steps=3)
    assert_close(crafted, expected, **MICRO)


def test_the_sign_attack_outside_the_box_is_refused_and_said_so() -> None:
    """With every pixel at a wall whatever moves towards the target leaves the box: each of the 24
    looks after that at the image, at both radii.
    """
    dark = Linear(torch.tensor([[0.0, 0.0], [-1.0, -1.0]]), torch.tensor([0.0, -0.05]))
    x = torch.zeros(6, 2)
    work = Samples(x, torch.zeros(6, dtype=torch.int64), torch.arange(6), np.array([0.2, 0.4]))
    judge = verify.judge_of(dark, work, Setting("linf", 2, 0, 8))
    for spec, refused in (("sign:box=false", 48), ("sign", 0)):
        for settled in loop.sweep(attacks.get(spec), dark, judge, work, Setting("linf", 2, 0, 8)):
            assert not settled.fooled.any()
            assert settled.refused == refused
            assert norms.in_box(settled.x_adv[None]).item() is (spec == "sign")


def test_momentum_is_the_papers() -> None:
    """g <- mu g + grad / ||grad||_1, x <- clip(x + alpha sign(g)) (Dong et al. 2018, eq. 6, 7)."""
    model, task = curved_task(0.1)
    expected, velocity = task.x, torch.zeros_like(task.x)
    for _ in range(4):
        leaf = expected.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(leaf), task.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        length = gradient.abs().flatten(1).sum(1).view(-1, 1, 1, 1)
        velocity = 0.9 * velocity + gradient / length
        moved = expected + 0.025 * velocity.sign()
        expected = moved.clamp(task.x - 0.1, task.x + 0.1).clamp(0, 1)
    crafted = loop.craft(attacks.get("mifgsm:steps=4,decay=0.9"), model, task, steps=4)
    assert_close(crafted, expected, **MICRO)


def test_adam_is_torchs() -> None:
    """Per sample, at a step count of its own."""
    gradients = [torch.randn(3, 5, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    parameter = torch.zeros(3, 5, requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=0.1)
    ours, memory = torch.zeros(3, 5), (torch.zeros(3, 5), torch.zeros(3, 5))
    for k, gradient in enumerate(gradients, 1):
        parameter.grad = gradient.clone()
        optimiser.step()
        direction, memory = adam(gradient, memory, torch.full((3,), k))
        ours = ours - 0.1 * direction
    assert_close(ours, parameter.detach(), rtol=1e-5, atol=1e-6)


def slow_deepfool(model: Curved, x: Tensor, y: int, order: float) -> tuple[Tensor, int]:
    """DeepFool on one image, from the paper's algorithm 2, each step 1e-4 further, overshot and
    ending in the box; its steps.
    """
    dual = {torch.inf: 1.0, 2.0: 2.0}[order]
    point = x
    for taken in range(50):
        leaf = point.clone().requires_grad_()
        logits = model(leaf)[0]
        if int(logits.argmax()) != y:
            return leaf.detach(), taken
        slopes = [torch.autograd.grad(z, leaf, retain_graph=True)[0] for z in logits]
        nearest: tuple[float, Tensor] | None = None
        for k in set(range(len(logits))) - {y}:
            w = (slopes[k] - slopes[y]).flatten()
            distance = abs((logits[k] - logits[y]).item()) / w.norm(p=dual).item()
            if nearest is None or distance < nearest[0]:
                nearest = distance, w
        assert nearest is not None
        distance, w = nearest
        step = w.sign() if order == torch.inf else w / w.norm()
        point = (point + 1.02 * (distance + 1e-4) * step.view_as(x)).clamp(0, 1)
    return x, 50


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2.0)])
def test_deepfool_is_the_slow_one(norm: str, order: float) -> None:
    """Where it gets there in a few steps; further ones part from rounding alone."""
    model, task = curved_task(0.1)
    few = 0
    for x, y in zip(task.x.split(1), task.y.split(1), strict=True):
        expected, steps = slow_deepfool(model, x, int(y), order)
        if steps <= 6:
            few += 1
            x_adv = attacks.get("deepfool")(model, x, y, ThreatModel(norm, 100.0))
            assert_close(x_adv, expected, rtol=0, atol=1e-4)
    assert few >= 8

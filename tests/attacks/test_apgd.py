"""Auto-PGD against the paper's own schedule and a slow version of its algorithm 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import attacks
from attacks import norms
from attacks.apgd import ApgdState
from attacks.base import StepAttack, Task
from attacks.draws import Draws
from attacks.oracles import Answer, GradientOracle
from tests.problems import Curved, images


def curved_task(radius: float, norm: str = "linf") -> tuple[Curved, Task]:
    model, x = Curved(), images(16)
    y = model(x).argmax(1)
    return model, Task(x, y, norm, torch.full((16,), radius), 10, Draws.of(x, seed=4))


def told(recipe: StepAttack, model: Curved, state: ApgdState) -> ApgdState:
    query = recipe.ask(state)
    answer = GradientOracle(model)(query.points[:, 0], query.aim, differentiate=True)
    shaped = Answer(answer.logits[:, None], answer.value[:, None], answer.gradient)
    following: ApgdState = recipe.tell(state, shaped)
    return following


def test_checkpoints() -> None:
    """22, 41, 57, 70, 80, 87, 93, 99 of 100 steps (Croce and Hein 2020: w_j = ceil(p_j N))."""
    model, task = curved_task(0.1)
    recipe = attacks.get("apgd")
    state = recipe.start(task)
    seen = [0]
    for _ in range(101):
        before = int(state.window[0])
        state = told(recipe, model, state)
        if state.since[0] == 0 and state.count[0] > 1:
            seen.append(int(state.count[0]) - 1)
            assert before == seen[-1] - seen[-2]
    assert seen == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert state.done.all()


def checkpoints(steps: int) -> list[int]:
    """Where the slow version looks whether to halve."""
    found, last, window = [], 0, int(0.22 * steps)
    while last + window <= steps:
        last += window
        found.append(last)
        window = max(window - int(0.03 * steps), int(0.06 * steps))
    return found


class Slow:
    """Auto-PGD under linf for one image, straight from the paper's algorithm 1."""

    def __init__(self, model: Curved, x: Tensor, y: Tensor, eps: float):
        self.model, self.x, self.y, self.eps = model, x, y, eps

    def loss(self, z: Tensor) -> tuple[float, Tensor]:
        leaf = z.clone().requires_grad_()
        value = torch.nn.functional.cross_entropy(self.model(leaf), self.y)
        return value.item(), torch.autograd.grad(value, leaf)[0]

    def into(self, z: Tensor) -> Tensor:
        return torch.clamp(z, self.x - self.eps, self.x + self.eps).clamp(0, 1)

    def run(self, start: Tensor, steps: int) -> tuple[Tensor, float]:
        """The best point, and the last step size."""
        alpha, now, before = 2 * self.eps, start, start
        value, slope = self.loss(now)
        best, best_value, best_slope = now, value, slope
        rises, since, old_best, old_alpha = 0, 0, value, -1.0
        for k in range(steps):
            ahead = self.into(now + alpha * slope.sign())
            share = 1.0 if k == 0 else 0.75
            following = self.into(now + share * (ahead - now) + (1 - share) * (now - before))
            before, now, previous = now, following, value
            value, slope = self.loss(now)
            rises, since = rises + (value > previous), since + 1
            if value > best_value:
                best, best_value, best_slope = now, value, slope
            if k + 1 in checkpoints(steps):
                halve = rises <= 0.75 * since or (alpha == old_alpha and best_value <= old_best)
                old_alpha, old_best = alpha, best_value
                if halve:
                    alpha, now, slope = alpha / 2, best, best_slope
                rises = since = 0
        return best, alpha


def test_it_is_the_slow_version() -> None:
    """Its best point and step size, over 60 steps, on a curved net; one image at a time, as the
    sign of a gradient near 0 may depend on how many are multiplied at once.
    """
    model, whole = curved_task(0.05)
    recipe = attacks.get("apgd:steps=60")
    for row in range(16):
        x, y = whole.x[row : row + 1], whole.y[row : row + 1]
        task = Task(x, y, "linf", torch.tensor([0.05]), 10, Draws.of(x, seed=4))
        state = recipe.start(task)
        start = recipe.ask(state).points[:, 0]
        for _ in range(61):
            state = told(recipe, model, state)
        best, alpha = Slow(model, x, y, 0.05).run(start, 60)
        assert_close(state.best, best, rtol=0, atol=1e-5)
        assert state.alpha.item() == pytest.approx(alpha, rel=1e-6)


def test_the_start_is_on_the_surface() -> None:
    """Of size eps but for what the box cuts off; under l1 of three times that, at first."""
    for norm, factor in (("linf", 1.0), ("l2", 1.0), ("l1", 3.0)):
        _, task = curved_task(0.05, norm)
        grey = Task(
            torch.full_like(task.x, 0.5), task.y, norm, task.radius, 10, Draws.of(task.x, seed=1)
        )
        start = attacks.get("apgd").start(grey).point
        sizes = norms.size(start - grey.x, norm)
        assert_close(sizes, torch.full((16,), 0.05 * factor), rtol=1e-4, atol=0)


def test_under_l1_three_balls_one_after_the_other() -> None:
    """3, 2 and 1 eps for 30, 30 and 40 of 100 steps; only points of the last are offered."""
    model, task = curved_task(1.0, "l1")
    recipe = attacks.get("apgd")
    state = recipe.start(task)
    sizes, offered = [], []
    for _ in range(recipe.horizon(1.0, "l1", 10)):
        query = recipe.ask(state)
        sizes.append(norms.size(query.points[:, 0] - task.x, "l1").max().item())
        offered.append(bool(query.offered.all()))
        assert offered[-1] == bool(query.offered.any())
        state = told(recipe, model, state)
    assert state.done.all()
    assert offered == [False] * 62 + [True] * 41
    assert 2 < max(sizes[:31]) <= 3 * (1 + 1e-5)
    assert 1 < max(sizes[31:62]) <= 2 * (1 + 1e-5)
    assert max(sizes[62:]) <= 1 + 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20])
def test_the_last_phase_of_l1_is_at_eps_however_few_the_steps(steps: int) -> None:
    phases = attacks.get(f"apgd:steps={steps}")._phases("l1")
    assert phases[-1][0] == 1.0
    assert sum(count for _, count in phases) == steps
    assert all(count > 0 for _, count in phases)

"""The whole batch in step, as training needs it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import attacks
from attacks import loop, norms
from attacks.base import Task
from attacks.draws import Draws
from tests.problems import convolutional, images, linear


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_craft_is_projected_gradient_descent(norm: str, steps: int) -> None:
    """A hand-written loop from the same start; the same arithmetic, but for fused operations."""
    model, x = convolutional(), images(16)
    with torch.no_grad():
        y = model(x).argmax(1)
    eps = {"linf": 0.1, "l2": 1.0, "l1": 5.0}[norm]
    radius = torch.full((16,), eps)
    task = Task(x, y, norm, radius, 10, Draws.of(x, seed=2))
    crafted = loop.craft(attacks.get("pgd:steps=5"), model, task, steps=steps)

    point = norms.random_point(x, radius, norm, task.draws, "start")
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(leaf), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved = point + 0.5 * eps * norms.steepest(gradient, point, norm)
        point = norms.project(moved, x, radius, norm)
    assert_close(crafted, point, rtol=0, atol=1e-6)
    assert norms.inside(crafted, x, radius, norm).all()
    assert not crafted.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_craft_does_not_stop_at_success() -> None:
    """Training wants the strongest point, not the first that fools."""
    problem = linear("linf", 2)
    radius = torch.full((16,), 0.05)
    task = Task(problem.x, problem.y, "linf", radius, 2, Draws.of(problem.x, seed=0))
    crafted = loop.craft(attacks.get("pgd:steps=10"), problem.model, task, steps=10)
    assert_close(norms.size(crafted - problem.x, "linf"), radius, rtol=0, atol=1e-6)


def test_craft_in_a_model_in_training_leaves_it_in_training() -> None:
    """The caller holds the model as it wants it; parameters keep their requires_grad."""
    model, x = convolutional().train(), images(8)
    task = Task(x, torch.zeros(8).long(), "linf", torch.full((8,), 0.1), 10, Draws.of(x, seed=0))
    loop.craft(attacks.get("fgsm"), model, task, steps=1)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())

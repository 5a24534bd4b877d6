"""The search in latent space, on a generator that can make every image: there it is an attack in
the image, held to the same closed forms.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import ThreatModel, norms
from attacks.latent import Latent
from attacks.sourced import Supplies
from models.generators import Generator
from models.priors import PRIORS
from tests.problems import DIM, IMAGE, Problem, linear


class Everything(nn.Module):
    """G(z) = sigmoid(z), as images."""

    def forward(self, z: Tensor) -> Tensor:
        return z.sigmoid().view(-1, *IMAGE)


def generator(shape: tuple[int, int, int] = IMAGE) -> Generator:
    made: Any = Generator(Everything(), DIM, "normal", shape)
    return made.eval()


SPEC = "latent:steps=150,lr=0.3,inversion=5,tries=2,starts=2,weight=0.001,confidence=0.02"


def run(problem: Problem, factor: float, spec: str = SPEC, **options: Any) -> tuple[Tensor, Tensor]:
    """The adversarial images at a multiple of the exact distance, and which are misclassified."""
    supplies = options.pop("supplies", Supplies(sources=(problem.model,), generator=generator()))
    eps = (factor * problem.distance).float()
    threat = ThreatModel(problem.norm, eps)
    x_adv = attacks.get(spec)(
        problem.model, problem.x, problem.y, threat, supplies=supplies, **options
    )
    assert bool(norms.inside(x_adv, problem.x, eps, problem.norm).all())
    return x_adv, problem.model(x_adv).argmax(1) != problem.y


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("classes", [2, 10])
def test_where_every_image_can_be_made_it_finds_what_is_there(norm: str, classes: int) -> None:
    problem = linear(norm, classes)
    # The search ends within a step of the boundary, and l1 moves many components at once.
    _, fooled = run(problem, {"linf": 1.3, "l2": 1.3, "l1": 2.5}[norm])
    assert fooled.all()
    _, fooled = run(problem, 0.95)
    assert not fooled.any()


def test_equal_arguments_give_equal_images() -> None:
    problem = linear("linf", 10)
    assert torch.equal(run(problem, 1.3)[0], run(problem, 1.3)[0])
    assert not torch.equal(run(problem, 1.3)[0], run(problem, 1.3, seed=1)[0])


def test_what_an_image_gets_does_not_depend_on_its_batch() -> None:
    problem = linear("linf", 10)
    whole, _ = run(problem, 1.3, shape=16)
    one = attacks.get(SPEC)(
        problem.model,
        problem.x[3:4],
        problem.y[3:4],
        ThreatModel("linf", (1.3 * problem.distance[3:4]).float()),
        supplies=Supplies(sources=(problem.model,), generator=generator()),
        shape=16,
    )
    torch.testing.assert_close(one, whole[3:4], atol=1e-4, rtol=0)


def test_targets_are_reached() -> None:
    problem = linear("linf", 10)
    targets = (problem.y + 1) % 10
    x_adv, _ = run(problem, 1.5, targets=targets)
    assert (problem.model(x_adv).argmax(1) == targets).float().mean() >= 0.9


def test_the_nets_come_back_as_they_were() -> None:
    problem, made = linear("linf", 10), generator()
    made.net = nn.Sequential(nn.BatchNorm1d(DIM), Everything())
    made.train()
    before = [copy.deepcopy(net.state_dict()) for net in (problem.model, made)]
    run(problem, 1.3, supplies=Supplies(sources=(problem.model,), generator=made))
    for net, held in zip((problem.model, made), before, strict=True):
        assert all(torch.equal(held[k], v) for k, v in net.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(module.training for module in made.modules())


def test_latents_stay_where_the_prior_has_them() -> None:
    """A purifier finds no others, so that an image of one is not its own purification."""
    problem, made = linear("linf", 10), generator()
    made.prior, seen = PRIORS["uniform"], []
    made.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    run(problem, 4, supplies=Supplies(sources=(problem.model,), generator=made))
    edge = (3 / DIM) ** 0.5
    assert max(float(z.abs().max()) for z in seen) <= edge * (1 + 1e-6)


def test_it_is_a_mode_of_its_own_and_says_what_it_costs() -> None:
    recipe = attacks.get("latent:steps=7,starts=2")
    assert isinstance(recipe, Latent)
    assert (recipe.mode, recipe.kind, recipe.norms) == ("latent", "budget", ("linf", "l2", "l1"))
    assert recipe.cost([0.1, 0.2], "linf", 10) == 2 * 7 * 2
    assert recipe.to_spec() == "latent:steps=7,starts=2"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("latent:steps=0", "steps must be at least 1, got 0"),
        ("latent:starts=11", "starts must be at most tries=10, got 11"),
        ("latent:lr=0", "lr must be above 0, got 0"),
        ("latent:weight=-1", "weight must be above 0, got -1"),
        ("latent:confidence=-1", "confidence must be at least 0, got -1"),
    ],
)
def test_bad_values_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attacks.get(spec)


def test_supplies_that_do_not_fit_are_refused() -> None:
    problem = linear("linf", 10)
    for supplies, message in (
        (None, "needs generator: hand them over as supplies="),
        (Supplies(), "needs supplies= with a generator and one source"),
        (Supplies(generator=generator()), "needs supplies= with a generator and one source"),
        (
            Supplies(sources=(problem.model,), generator=generator((1, 2, 3))),
            r"the generator makes images \(1, 2, 3\), got",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(problem, 1.0, supplies=supplies)

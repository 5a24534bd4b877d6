"""A search in bfloat16: what it leaves alone, and that float32 agrees with what it finds.

Where the hardware has no bfloat16, torch emulates it: slowly, but rounded alike.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attacks
from attacks import loop, norms
from attacks.base import Attack
from attacks.draws import Draws, sample_ids
from attacks.losses import CROSS_ENTROPY
from attacks.oracles import Aim, GradientOracle, ModelError, frozen
from attacks.pipelines import Randomised, is_random, refuses
from attacks.precision import Reduced, bears_rounding
from attacks.registry import attacks as table
from attacks.verify import judge_of
from attacks.work import Samples, Setting, Settled
from bench import data
from models import train
from models.registry import models
from tests.attacks.test_attacks import ROWS
from tests.problems import convolutional, images, linear, numbered

ROUNDING = 2.0**-8
"""Half the distance of bfloat16 from 1 to the next number."""


def test_the_gradient_of_a_linear_model_is_its_rounded_weight() -> None:
    problem = linear("l2", 10)
    aim = Aim(lambda logits, y, _: logits.gather(1, y[:, None])[:, 0], problem.y, torch.ones(16))
    answer = GradientOracle(Reduced(problem.model))(problem.x, aim, differentiate=True)
    weight = problem.model.weight.detach()
    rounded = weight.bfloat16().float()
    assert not torch.equal(rounded, weight)
    assert answer.gradient.dtype == answer.logits.dtype == torch.float32
    assert torch.equal(answer.gradient.flatten(1), rounded[problem.y])


def test_the_model_is_left_as_it_was() -> None:
    net = convolutional().train()
    for layer in (net[1], net[4]):
        layer.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    held = list(net.parameters())
    modes = [module.training for module in net.modules()]
    x = images(4).requires_grad_()
    Reduced(net, channels_last=True)(x).sum().backward(inputs=[x])
    assert x.grad is not None
    assert all(new is old for new, old in zip(net.parameters(), held, strict=True))
    assert all(p.dtype == torch.float32 and p.requires_grad and p.grad is None for p in held)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_reaches_the_first_layer(channels: int) -> None:
    """With one channel torch sees no difference between the layouts but in the strides."""
    seen: list[tuple[int, ...]] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.stride())
            return x.flatten(1)[:, :2]

    x = images(2, shape=(channels, 4, 4))
    assert torch.equal(Reduced(Watched(), bfloat16=False, channels_last=True)(x), Watched()(x))
    assert seen[0] == (16 * channels, 1, 4 * channels, channels)


class Moved(Randomised):
    """A linear net that sees its images moved by one normal number per image."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        moved: Tensor = self.net(x + draws.normal(torch.Size((len(x), 1, 1, 1)), "shift"))
        return moved


class Refusing(nn.Module):
    """A linear net with a column more."""

    refuses: ClassVar[bool] = True

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        return torch.cat([logits, logits.amax(1, keepdim=True) - 1], 1)


def test_it_draws_and_refuses_as_the_model_does() -> None:
    problem = linear("l2", 10)
    plain, drawing = Reduced(problem.model), Reduced(Moved(problem.model))
    refusing = Reduced(Refusing(problem.model))
    assert [is_random(each) for each in (plain, drawing, refusing)] == [False, True, False]
    assert [refuses(each) for each in (plain, drawing, refusing)] == [False, False, True]
    one, other = numbered(16, seed=0), numbered(16, seed=1)
    assert torch.equal(drawing(problem.x, one), drawing(problem.x, one))
    assert not torch.equal(drawing(problem.x, one), drawing(problem.x, other))
    exact = Moved(problem.model)(problem.x, one)
    # 64 products and their sum, every factor rounded once; the result once more.
    largest = (problem.x.abs().flatten(1) + 4) @ problem.model.weight.abs().T
    assert ((drawing(problem.x, one) - exact).abs() <= 4 * ROUNDING * largest).all()
    said = refusing(problem.x)
    assert said.shape == (16, 11)
    assert torch.equal(said[:, :10], plain(problem.x))


def test_who_bears_rounding() -> None:
    named = {name: table.get(name) for name in table.table}
    bear = {name for name, recipe in named.items() if bears_rounding(recipe)}
    ascents = {"fgsm", "bim", "pgd", "sign", "mifgsm", "multitargeted", "apgd", "autoattack"}
    assert ascents <= bear
    told = {name for name, recipe in named.items() if recipe.access in ("logits", "labels")}
    minimal = {name for name, recipe in named.items() if recipe.kind == "minimal"}
    assert not bear & (told - {"transfer"})
    assert not bear & minimal
    assert bears_rounding(table.get("transfer:attack=[pgd:steps=3]"))
    assert not bears_rounding(table.get("transfer:attack=[deepfool]"))


# Parity: a trained net on digits

RADII = {"linf": [0.05, 0.15], "l2": [0.3, 0.8], "l1": [1.0, 3.0]}
BEARING = [
    pytest.param(row.quick or row.spec, list(row.factor)[number % len(row.factor)], id=row.spec)
    for number, row in enumerate(ROWS)
    if bears_rounding(attacks.get(row.spec))
]
"""Of every row one norm, in turn: what is rounded is the model, which knows none."""
APART = 2
"""Of 18 samples, how many more or fewer may fall at a radius (one differs in three rows here):
rounding bends the path, so that one at the edge of a radius may fall at it or at the next, and a
claim that float32 refuses costs that attempt.
"""


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A net, and the digits among the first 20 of its test set that it gets right."""
    digits = data.load("digits", None)
    recipe = models.get("cnn_small:epochs=3")
    net = recipe.build(digits.shape, digits.classes)
    settings = recipe.settings(len(digits.train), digits.shape[0])
    train.fit(net, digits.train, digits.validation, train.Standard(), settings)
    x, y = digits.test.images(slice(0, 20)), digits.test.y[:20]
    with torch.no_grad():
        right = net(x).argmax(1) == y
    return net.eval(), x[right], y[right]


def swept(
    recipe: Attack, model: object, judged: nn.Module, samples: Samples, norm: str
) -> list[Settled]:
    setting = Setting(norm, 10, 0, 16)
    judge = judge_of(judged, samples, setting)
    found = loop.sweep(recipe, model, judge, samples, setting)  # type: ignore[arg-type]
    return sorted(found, key=lambda settled: settled.sample)


@pytest.mark.parametrize(("spec", "norm"), BEARING)
def test_float32_agrees_with_what_bfloat16_finds(
    spec: str, norm: str, trained: tuple[nn.Module, Tensor, Tensor]
) -> None:
    net, x, y = trained
    samples = Samples(x, y, sample_ids(x), np.array(RADII[norm]))
    recipe = attacks.get(spec)
    with frozen(net):
        exact = swept(recipe, net, net, samples, norm)
        reduced = swept(recipe, Reduced(net), net, samples, norm)
    fell = [np.array([settled.fooled for settled in found]) for found in (exact, reduced)]
    assert np.abs(fell[0].sum(0) - fell[1].sum(0)).max() <= APART
    images = torch.stack([settled.x_adv for settled in reduced])
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    won = torch.tensor(fell[1].any(1))
    lowest = torch.tensor(np.array(RADII[norm])[fell[1].argmax(1)], dtype=torch.float32)
    with torch.no_grad():
        assert (net(images).argmax(1) != y)[won].all()
    assert norms.inside(images, x, lowest, norm)[won].all()


def test_a_step_that_is_not_a_number_is_named() -> None:
    """A pipeline that overflows in bfloat16 alone fails, it does not pass for robust."""

    class Overflowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = x.flatten(1) @ torch.eye(64, 10)
            return logits if logits.dtype == torch.float32 else logits / 0

    x, y = images(4), torch.zeros(4, dtype=torch.int64)
    samples = Samples(x, y, sample_ids(x), np.array([0.1]))
    with pytest.raises(ModelError, match="NaN or infinite"):
        swept(attacks.get("fgsm"), Reduced(Overflowing()), Overflowing(), samples, "linf")


def test_the_loss_is_float32() -> None:
    """Of logits that bfloat16 alone could not tell apart from their neighbours."""
    problem = linear("l2", 10)
    aim = Aim(CROSS_ENTROPY, problem.y, torch.ones(16))
    answer = GradientOracle(Reduced(problem.model))(problem.x, aim, differentiate=True)
    assert answer.value.dtype == torch.float32
    assert torch.equal(answer.value, CROSS_ENTROPY(answer.logits, problem.y, None))

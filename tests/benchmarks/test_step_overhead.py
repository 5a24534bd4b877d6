"""What the loop costs over the work the attack's definition needs.

The floor of an attack with k steps is k times (forward, loss, gradient to the input) with frozen
parameters, and one last forward. Run with `pytest tests/benchmarks --benchmark-enable`; the ratio
of interleaved runs stands in the table's extra info. Nothing here asserts a time.
"""

import dataclasses
import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attacks
from models.registry import models
from models.seeding import seeded

ROUNDS = 5
SHAPES = {"cnn": (1, 28, 28), "cnn_small": (1, 28, 28)}


def floor(net, x, y, steps):
    """As many forwards and backwards as the definition needs, and a sign step each."""
    point = x
    for _ in range(steps):
        leaf = point.detach().requires_grad_()
        loss = F.cross_entropy(net(leaf), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        point = (point + 1e-6 * gradient.sign()).clamp(0, 1)
    with torch.no_grad():
        return net(point)


@pytest.fixture
def problem(request):
    """A net, and 128 images that no attack at the radius below fools."""
    shape = SHAPES[request.param]
    net = models.get(request.param).build(shape, 10).requires_grad_(requires_grad=False)
    draws = torch.Generator().manual_seed(0)
    x = torch.rand(128, *shape, generator=draws)
    with seeded(0), torch.no_grad():
        return net, x, net(x).argmax(1)


def measured(benchmark, run, steps, problem):
    """Runs the attack; the ratio of interleaved runs to the floor goes into the table."""
    net, x, y = problem

    def once(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    ratios = [
        once(run) / once(lambda: floor(net, x, y, steps))
        for _ in range(ROUNDS if benchmark.enabled else 1)
    ]
    benchmark.extra_info["over_floor_median"] = round(statistics.median(ratios), 3)
    return benchmark(run)


@pytest.mark.parametrize("problem", ["cnn_small", "cnn"], indirect=True)
@pytest.mark.parametrize("spec", ["fgsm", "pgd", "pgd:random=false", "mifgsm", "apgd"])
def test_attack_over_its_floor(benchmark, problem, spec):
    net, x, y = problem
    threat = attacks.ThreatModel("linf", 1e-6)
    recipe = attacks.get(spec)
    if spec != "fgsm" and not benchmark.enabled:
        recipe = dataclasses.replace(recipe, steps=2)
    steps = recipe.horizon(1e-6, "linf", 10) - 1
    x_adv = measured(benchmark, lambda: recipe(net, x, y, threat, shape=128), steps, problem)
    # The work was done in full: nothing was fooled, so nothing stopped early.
    assert torch.equal(net(x_adv).argmax(1), y)
    assert isinstance(net, nn.Module)


@pytest.mark.parametrize("problem", ["cnn_small", "cnn"], indirect=True)
@pytest.mark.parametrize(
    ("spec", "norm"),
    [("fmn", "linf"), ("fmn", "l2"), ("fmn", "l1"), ("ddn", "l2"), ("cw:search=1", "l2")],
)
def test_minimal_attack_over_its_floor(benchmark, problem, spec, norm):
    """They run to their end, whatever they find on the way."""
    net, x, y = problem
    threat = attacks.ThreatModel(norm, 28.0)
    recipe = attacks.get(spec)
    if not benchmark.enabled:
        recipe = dataclasses.replace(recipe, steps=2)
    steps = recipe.horizon(28.0, norm, 10) - 1
    x_adv = measured(benchmark, lambda: recipe(net, x, y, threat, shape=128), steps, problem)
    assert x_adv.shape == x.shape


def forwards(net, x, count):
    """The floor of an attack that sees no gradient."""
    with torch.no_grad():
        for _ in range(count):
            net(x)


@pytest.mark.parametrize("problem", ["cnn_small", "cnn"], indirect=True)
@pytest.mark.parametrize(
    ("spec", "norm"),
    [
        ("square:queries=200", "linf"),
        ("square:queries=200", "l2"),
        ("simba:queries=200", "linf"),
        ("spsa:attack=[pgd:steps=4],pairs=25", "linf"),
        ("nes:attack=[pgd:steps=4],pairs=25", "linf"),
        ("boundary:queries=200", "l2"),
        ("hopskipjump:queries=200", "l2"),
    ],
)
def test_black_box_attack_over_its_forwards(benchmark, problem, spec, norm):
    """Nothing is fooled inside the radius; minimal ones run to their end."""
    net, x, y = problem
    recipe = attacks.get(spec)
    threat = attacks.ThreatModel(norm, 28.0 if recipe.kind == "minimal" else 1e-6)
    if not benchmark.enabled:
        recipe = dataclasses.replace(recipe, **{("pairs" if "pairs" in spec else "queries"): 2})
    count = recipe.cost([1e-6], norm, 10)
    ratios = []
    for _ in range(ROUNDS if benchmark.enabled else 1):
        start = time.perf_counter()
        recipe(net, x, y, threat, shape=128)
        middle = time.perf_counter()
        forwards(net, x, count)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    benchmark.extra_info["over_forwards_median"] = round(statistics.median(ratios), 3)
    x_adv = benchmark(lambda: recipe(net, x, y, threat, shape=128))
    assert x_adv.shape == x.shape

"""Lower bounds against closed forms, brute force and attacks on many small nets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import attacks
from attacks import norms
from attacks.threat import ThreatModel
from defenses.bounds import NORMS, SLACK, Bounds, exact, largest
from models import nets
from models.chain import Affine, Pool, Rectifier, Unchained, chain_of
from models.nets import Centre
from models.seeding import seeded
from tests.problems import IMAGE, Linear, convolutional, images, linear

SHAPE = (1, 4, 4)
RADII = {"linf": (0.01, 0.02, 0.04), "l2": (0.04, 0.08, 0.16), "l1": (0.1, 0.3, 0.6)}
"""Within which a mean of 16 pixels moves by less than 1/20."""
NETS = 10
"""Of an example."""


def flat(problem) -> nn.Module:
    """A problem's linear model as layers."""
    model = problem.model
    return affine(model.weight.detach(), model.bias.detach())


def affine(weight: Tensor, bias: Tensor) -> nn.Module:
    """Logits x weight^T + bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_exact_distances_are_those_of_the_closed_form(norm: str, classes: int) -> None:
    problem = linear(norm, classes)
    found = exact(chain_of(flat(problem), IMAGE), problem.x, problem.y, norm)
    assert (found < problem.distance).all()
    # less by the tolerance, and by the slack of two sums of 64 magnitudes of some 3 and their bias
    # over a pull of 4 at least
    atol = 2e-6 + SLACK * 2 * (64 * 3.2 + 100) / 4
    torch.testing.assert_close(found, problem.distance, rtol=0, atol=atol)


@pytest.mark.parametrize("norm", NORMS)
def test_an_affine_net_has_the_same_radius_by_every_bound(norm: str) -> None:
    problem = linear(norm, 5)
    chain = chain_of(flat(problem), IMAGE)
    at = exact(chain, problem.x, problem.y, norm)
    # walls are out of reach, where the ball and the box have no more than the ball in common
    below, above = at - 1e-6, problem.distance + 2e-6
    for is_linear in (False, True):
        bounds = Bounds(chain, norm, is_linear)
        assert (bounds.margins(problem.x, problem.y, below) > 0).all()
        assert (bounds.margins(problem.x, problem.y, above).amin(1) < 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_walls_of_the_box_lengthen_exact_distances(norm: str) -> None:
    # z0 - z1 = 2 a + b - 1 over two pixels; at (0.9, 0.2) it is 1
    net = affine(torch.tensor([[2.0, 1.0], [0.0, 0.0]]), torch.tensor([-1.0, 0.0]))
    x = torch.tensor([0.9, 0.2]).view(1, 1, 1, 2)
    chain, y = chain_of(net, (1, 1, 2)), torch.tensor([0])
    # b falls to its wall at 0 in linf and l2, the rest is a's: 2 a = 0.8; in l1 a goes alone
    known = {"linf": 0.4, "l2": (0.4**2 + 0.2**2) ** 0.5, "l1": 0.5}
    found = float(exact(chain, x, y, norm))
    assert known[norm] - 1e-4 < found < known[norm]


@pytest.mark.parametrize("norm", NORMS)
def test_a_class_that_no_point_of_the_box_reaches_is_as_far_as_the_furthest_corner(
    norm: str,
) -> None:
    net = affine(torch.zeros(2, 16), torch.tensor([1.0, 0.0]))
    x = torch.full((1, *SHAPE), 0.25)
    found = exact(chain_of(net, SHAPE), x, torch.tensor([0]), norm)
    furthest = {"linf": 0.75, "l2": 3.0, "l1": 12.0}[norm]
    assert float(found) == pytest.approx(furthest, abs=2e-5)


def test_equal_logits_have_no_radius() -> None:
    net = affine(torch.ones(2, 16), torch.zeros(2))
    x, y = images(3, shape=SHAPE), torch.zeros(3, dtype=torch.int64)
    for norm in NORMS:
        assert exact(chain_of(net, SHAPE), x, y, norm).tolist() == [0, 0, 0]


def drawn(kind: str, seed: int, count: int = 1) -> nn.Module:
    """Small nets of a kind side by side, three classes each; each sees a channel of its own."""

    def layer(inner: int, outer: int, size: int, padding: int = 0) -> nn.Module:
        return nn.Conv2d(inner * count, outer * count, size, padding=padding, groups=count)

    with seeded(seed):
        made = {
            "linear": lambda: [layer(1, 3, 4)],
            "mlp": lambda: [
                Centre(),
                layer(1, 6, 4),
                nn.ReLU(),
                layer(6, 5, 1),
                nn.ReLU(),
                layer(5, 3, 1),
            ],
            "convolutions": lambda: [
                layer(1, 2, 3, padding=1),
                _moved(nn.BatchNorm2d(2 * count)),
                nn.ReLU(),
                nn.AvgPool2d(2),
                layer(2, 3, 2),
                nn.ReLU(),
                nn.Dropout(),
                layer(3, 3, 1),
            ],
            "pooled": lambda: [
                layer(1, 2, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=1),
                layer(2, 3, 2),
                nn.MaxPool2d(1),
                layer(3, 3, 1),
            ],
        }[kind]()
    return nn.Sequential(*made, nn.Flatten()).eval()


def _moved(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    layer.running_mean.normal_(std=0.3)
    layer.running_var.uniform_(0.3, 2)
    nn.init.normal_(layer.weight)
    return layer


KINDS = ("linear", "mlp", "convolutions", "pooled")


class OneOf(nn.Module):
    """Nets side by side as one: the mean of the first channel, in tenths, says which is asked."""

    def __init__(self, nets: nn.Module):
        super().__init__()
        self.nets = nets

    def forward(self, x: Tensor) -> Tensor:
        number = (x[:, 0].flatten(1).mean(1) * NETS).round().long()
        return self.nets(x[:, 1:]).view(len(x), NETS, 3)[torch.arange(len(x)), number]


@settings(max_examples=100)
@given(
    kind=st.sampled_from(KINDS),
    norm=st.sampled_from(NORMS),
    size=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_no_attack_gets_inside_a_bound(kind: str, norm: str, size: int, seed: int) -> None:
    """A thousand nets: each image is attacked at the radius at which it is proven."""
    side_by_side = drawn(kind, seed, NETS)
    number = torch.arange(2 * NETS) % NETS
    inner = images(len(number), seed=seed % 1000, shape=(NETS, *SHAPE[1:]))
    x = torch.cat([(number / NETS).view(-1, 1, 1, 1).expand(-1, *SHAPE), inner], 1)
    model = OneOf(side_by_side).eval()
    y = model(x).argmax(1)
    chain = chain_of(side_by_side, (NETS, *SHAPE[1:]))
    radius = torch.full((len(x),), RADII[norm][size], dtype=torch.float64)
    own = 3 * number[:, None] + torch.arange(3)
    by_intervals, by_lines = (
        Bounds(chain, norm, is_linear).margins(inner, 3 * number + y, radius).gather(1, own)
        for is_linear in (False, True)
    )
    assert (by_lines >= by_intervals).all()
    rows = (by_lines > 0).all(1)
    if rows.any():
        threat = ThreatModel(norm, radius[rows])
        x_adv = attacks.get("pgd:steps=5")(model, x[rows], y[rows], threat, seed=0)
        assert (model(x_adv).argmax(1) == y[rows]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_attack_gets_inside_an_exact_distance(norm: str) -> None:
    for seed in range(5):
        net, x = drawn("linear", seed), images(40, seed=seed, shape=SHAPE)
        y = net(x).argmax(1)
        radius = exact(chain_of(net, SHAPE), x, y, norm)
        threat = ThreatModel(norm, radius)
        x_adv = attacks.get("pgd:steps=10")(net, x, y, threat, seed=0)
        assert (net(x_adv).argmax(1) == y).all()
        if norm == "linf":
            # a step in a straight line to the walls is the best there is: further, one falls
            weight = net[0].weight.detach()
            pulls = (weight[None] - weight[y][:, None]).sign()[:, :, 0]
            further = (radius + 1e-4).view(-1, 1, 1, 1)
            points = (x + further * pulls).clamp(0, 1).float()
            said = net(points.view(-1, *SHAPE)).view(len(x), 3, 3).argmax(2)
            assert (said != y[:, None]).any(1)[radius < 0.9].all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_margins_hold_at_the_corners_and_are_not_idle(kind: str, norm: str) -> None:
    net, x = drawn(kind, 5), images(6, seed=3, shape=SHAPE)
    y, radius = net(x).argmax(1), torch.full((6,), RADII[norm][1], dtype=torch.float64)
    chain = chain_of(net, SHAPE)
    loose, tight = (
        Bounds(chain, norm, is_linear).margins(x, y, radius) for is_linear in (False, True)
    )
    assert (tight >= loose).all()
    generator = torch.Generator().manual_seed(0)
    least = torch.full_like(tight, torch.inf)
    for _ in range(300):
        away = torch.randn(x.shape, generator=generator).sign()
        if norm == "l1":
            away *= torch.rand(x.shape, generator=generator) > 0.9
        size = norms.size(away, norm).clamp(min=1)
        point = (x + norms.expand(radius / size, x) * away).clamp(0, 1).float()
        z = net(point).double()
        least = torch.minimum(least, z.gather(1, y[:, None]) - z)
    least.scatter_(1, y[:, None], torch.inf)
    assert (tight <= least).all()
    # Random corners come near; an idle bound would stay away.
    gap = (least - tight)[~least.isinf()]
    spread = (net(x).gather(1, y[:, None]) - net(x)).abs().mean()
    assert gap.min() < 0.2 * spread


def test_the_radius_is_the_largest_that_is_proven() -> None:
    problem = linear("linf", 4)
    bounds = Bounds(chain_of(flat(problem), IMAGE), "linf", is_linear=True)
    radii = [0.001, 0.019, 0.021, 0.1]
    assert set(largest(bounds, problem.x, problem.y, radii).tolist()) == {0.019}
    assert set(largest(bounds, problem.x, problem.y, [0.021]).tolist()) == {0}
    assert set(largest(bounds, problem.x, problem.y, [0.019]).tolist()) == {0.019}
    assert largest(bounds, problem.x[:0], problem.y[:0], radii).shape == (0,)
    # another class than the one that is predicted has no radius
    other = (problem.y + 1) % 4
    assert set(largest(bounds, problem.x, other, radii).tolist()) == {0}


@pytest.mark.parametrize("name", ["logreg", "mlp_relu", "cnn_small", "cnn"])
def test_a_chain_computes_what_its_net_does(name: str) -> None:
    with seeded(0):
        net = getattr(nets, name)(IMAGE, 10).eval()
    x = images(5)
    now = x.double()
    for step in chain_of(net, IMAGE).steps:
        now, same = step.interval((now, now))
        torch.testing.assert_close(now, same)
    torch.testing.assert_close(now.float(), net(x), rtol=1e-4, atol=1e-5)


def test_a_chain_groups_affine_layers() -> None:
    made = chain_of(convolutional(), IMAGE)
    assert [type(step) for step in made.steps] == [Affine, Rectifier, Affine, Rectifier, Affine]
    assert made.sizes == (64, 256, 256, 72, 72, 10)
    assert not made.is_affine
    nested = nn.Sequential(Centre(), nn.Sequential(nn.Identity(), nn.MaxPool2d(3, 2, padding=1)))
    assert [type(step) for step in chain_of(nested.eval(), IMAGE).steps] == [Affine, Pool]


def test_a_chain_shares_nothing_with_its_net() -> None:
    net = convolutional()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    chain = chain_of(net, IMAGE)
    x, y = images(3), torch.tensor([0, 1, 2])
    radius = torch.full((3,), 0.1, dtype=torch.float64)
    first = Bounds(chain, "linf", is_linear=True).margins(x, y, radius)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    with torch.no_grad():
        net[0].weight.zero_()
    assert torch.equal(Bounds(chain, "linf", is_linear=True).margins(x, y, radius), first)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Sigmoid()), "Sigmoid is no layer whose bounds are known"),
        (Linear(torch.ones(2, 64), torch.zeros(2)), "Linear is no layer whose bounds are known"),
        (nn.Sequential(nn.Flatten(0)), "a Flatten from dimension 0 mixes images"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "a MaxPool2d with dilation, ceil_mode"),
        (
            nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)),
            "a batch norm without running statistics",
        ),
    ],
)
def test_what_is_no_chain_is_refused(net: nn.Module, message: str) -> None:
    with pytest.raises(Unchained, match=message):
        chain_of(net.eval(), IMAGE)


def test_nets_that_may_compute_something_else_are_refused() -> None:
    with pytest.raises(Unchained, match="Sequential is not in eval mode"):
        chain_of(convolutional().train(), IMAGE)
    hooked = convolutional()
    hooked[2].register_forward_hook(lambda *_: None)
    with pytest.raises(Unchained, match="ReLU has hooks"):
        chain_of(hooked, IMAGE)

"""Free adversarial training against its algorithm written out, and what it is with one replay."""

import pytest
import torch
import torch.nn.functional as F

from attacks import norms
from attacks.pgd import Pgd
from defenses.free import Replayed
from defenses.none import NoDefense
from defenses.registry import defenses
from models import nets, train
from models.seeding import seeded
from models.split import Split
from models.train import Batch, Settings, fit

EPS = 0.1
SETTINGS = Settings(epochs=4, batch=10, optimiser="sgd", lr=0.05, decay=0.0, seed=0)
TRAIN = Split(
    torch.rand(27, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(27) % 3
)


def objective(**changes):
    plain = {
        "replays": 2,
        "step": 1.0,
        "eps": EPS,
        "norm": "linf",
        "attack": Pgd(steps=1),
        "warmup": 0.0,
        "seed": 0,
        "classes": 3,
        "collapse": "note",
    }
    return Replayed(**(plain | changes))


def untrained():
    with seeded(0):
        return nets.cnn_small((1, 8, 8), 3)


def by_hand(replays, step):
    """Algorithm 1: one backward pass for weights and perturbation, which the next batch inherits;
    SGD with momentum at the rates of the loop.
    """
    net = untrained().train()
    order = torch.Generator().manual_seed(0)
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    delta, update, epochs = torch.zeros(10, 1, 8, 8), 0, -(-4 // replays)
    updates = epochs * 3 * replays
    for _ in range(epochs):
        for index in torch.split(torch.randperm(27, generator=order), 10):
            x, y = TRAIN.x[index], TRAIN.y[index]
            for _ in range(replays):
                update += 1
                d = delta[: len(x)].clone().requires_grad_()
                loss = F.cross_entropy(net((x + d).clamp(0, 1)), y)
                *gradients, moved = torch.autograd.grad(loss, [*net.parameters(), d])
                rate = 0.05 * train._triangle(update, updates)
                with torch.no_grad():
                    for p, g, v in zip(net.parameters(), gradients, velocity, strict=True):
                        v.mul_(0.9).add_(g)
                        p.sub_(rate * v)
                    d = (d + step * EPS * moved.sign()).clamp(-EPS, EPS)
                    delta[: len(x)] = d
    return net


@pytest.mark.parametrize("replays", [1, 2, 4])
@pytest.mark.parametrize("step", [1.0, 0.25])
def test_training_is_the_algorithm_written_out(replays, step):
    net = untrained()
    fit(net, TRAIN, TRAIN, Last(objective(replays=replays, step=step)), SETTINGS)
    slow = by_hand(replays, step)
    for one, other in zip(net.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # sums in another order


class Last:
    """The objective with scores that keep the last checkpoint."""

    def __init__(self, inner):
        self.inner, self.replays, self.text = inner, inner.replays, inner.text

    def loss(self, net, batch):
        return self.inner.loss(net, batch)

    def validate(self, net, validation, progress):
        return {"score": progress}


class Judged(Last):
    """The objective, its checkpoints judged as those of standard training."""

    def validate(self, net, validation, progress):
        return train.Standard().validate(net, validation, progress)


def test_with_one_replay_a_batch_is_moved_by_the_gradient_of_the_batch_before():
    net, memory, made = untrained().train(), {}, objective(replays=1)
    first, second = (
        Batch(TRAIN.x[rows], TRAIN.y[rows], torch.arange(10), 0, 0.0, number, memory)
        for number, rows in enumerate((slice(0, 10), slice(10, 20)))
    )
    loss = made.loss(net, first)
    assert torch.equal(loss, F.cross_entropy(net(first.x), first.y)), "nothing is carried yet"
    loss.backward()
    leaf = first.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), first.y), leaf)
    moved = (second.x + EPS * gradient.sign()).clamp(0, 1)
    expected = F.cross_entropy(net(moved), second.y)
    torch.testing.assert_close(made.loss(net, second), expected)


def test_with_one_replay_and_no_step_it_is_standard_training_bit_for_bit(workshop):
    standard, other = workshop("cnn_small:epochs=3"), workshop("cnn_small:epochs=3")
    NoDefense().deploy(standard)
    made = defenses.get("free:replays=1,step=0").at("linf", 0.15).objective(0.15, "linf", other)
    other.fit(Judged(made), "a test")
    assert standard.trained[0].weights == other.trained[0].weights


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.7), ("l1", 3.0)])
def test_the_perturbation_stays_in_the_ball_and_is_carried_by_place(norm, eps):
    net, memory = untrained().train(), {}
    made = objective(norm=norm, eps=eps, step=0.7)
    for count in (10, 10, 4, 10):
        batch = Batch(TRAIN.x[:count], TRAIN.y[:count], torch.arange(count), 0, 0.0, 0, memory)
        before = memory.get("perturbation")
        made.loss(net, batch).backward()
        delta = memory["perturbation"]
        assert delta.shape == (10, 1, 8, 8)
        assert (norms.size(delta, norm) <= eps * (1 + 1e-5)).all()
        assert not delta.requires_grad
        if count == 4:
            assert torch.equal(delta[4:], before[4:]), "those without an image stay"
            assert not torch.equal(delta[:4], before[:4])


def test_the_radius_warms_up():
    net, memory = untrained().train(), {}
    made = objective(warmup=0.4)
    for progress, radius in ((0.0, 0.0), (0.1, 0.025), (0.5, 0.1)):
        batch = Batch(TRAIN.x[:10], TRAIN.y[:10], torch.arange(10), 0, progress, 0, memory)
        made.loss(net, batch).backward()
        assert float(memory["perturbation"].abs().max()) == pytest.approx(radius)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("free:replays=0", "replays must be at least 1, got 0"),
        ("free:step=-1", "step must be finite and at least 0, got -1.0"),
        ("free:step=inf", "step must be finite and at least 0, got inf"),
    ],
)
def test_a_value_out_of_range_is_refused(spec, rule):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is what is compared
        defenses.get(spec)
    assert str(caught.value) == f"free: {rule}"

"""The objectives of the family to the letter: by hand, in their limits, against slow loops."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks import norms
from attacks.draws import Draws
from attacks.fgsm import Fgsm
from attacks.losses import CROSS_ENTROPY
from attacks.pgd import Pgd
from defenses.adversarial import InBall
from defenses.advtrain import Weighted
from defenses.crafting import Ball
from defenses.goodfellow import Mixed
from defenses.mart import Aware, boosted
from defenses.nearby import Nearby
from defenses.none import NoDefense
from defenses.registry import defenses
from defenses.trades import Divergence, divergence
from models import nets
from models.seeding import seeded
from models.split import Split
from models.train import Batch, TrainingFailed
from tests.problems import Curved

EPS = 0.1
COMMON = {"eps": EPS, "norm": "linf", "warmup": 0.0, "seed": 0, "classes": 3}


def plain(seed=0):
    """A net that does the same in either mode."""
    with seeded(seed):
        return nets.cnn_small((1, 8, 8), 3).train()


def batch(count=6, *, progress=0.0):
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[0], x[1, :, :4] = 0.0, 1.0  # the walls of the box
    return Batch(x, torch.arange(count) % 3, torch.arange(count) * 7, 0, progress)


class Line(nn.Module):
    """Two classes with logits -s and s, s = 5 (mean of the image - 0.5)."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        score = self.slope * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-score, score], 1)


GREY = Batch(torch.full((1, 1, 2, 2), 0.6), torch.tensor([1]), torch.tensor([0]), 0, 0.0)
"""Class 1 with s = 0.5, so p_y = 1 / (1 + 1 / e) = 0.7310586; FGSM at 0.1 takes it to s = 0."""
P = 1 / (1 + math.exp(-1))
CLEAN, FOOLED = -math.log(P), math.log(2)


@pytest.fixture
def at_the_threshold(monkeypatch):
    """x_adv stands where the two classes are as likely."""
    monkeypatch.setattr(
        InBall, "_crafted", lambda self, net, x, y, eps, draws: torch.full_like(x, 0.5)
    )


# --- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 0.25, 1.0])
def test_goodfellow_by_hand(alpha):
    made = Mixed(**COMMON | {"classes": 2}, attack=Fgsm(), alpha=alpha)
    expected = alpha * CLEAN + (1 - alpha) * FOOLED
    assert made.loss(Line(), GREY).item() == pytest.approx(expected, rel=1e-5)


def test_madry_and_fast_by_hand():
    for spec in ("madry:attack=fgsm", "fast:step=2"):
        recipe = defenses.get(spec)
        made = Weighted(
            **COMMON | {"classes": 2, "lam": math.inf}, attack=recipe.inner
        )  # 2 eps lead from anywhere in the ball to its wall
        assert made.loss(Line(), GREY).item() == pytest.approx(FOOLED, rel=1e-5)


@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_trades_by_hand(beta, at_the_threshold):
    attack = Nearby(CROSS_ENTROPY, 1, 1.0)
    made = Divergence(**COMMON | {"classes": 2}, attack=attack, beta=beta)
    away = P * math.log(2 * P) + (1 - P) * math.log(2 * (1 - P))
    assert made.loss(Line(), GREY).item() == pytest.approx(CLEAN + beta * away, rel=1e-5)


@pytest.mark.parametrize("lam", [0.0, 1.0, 5.0])
def test_mart_by_hand(lam, at_the_threshold):
    attack = Nearby(CROSS_ENTROPY, 1, 1.0)
    made = Aware(**COMMON | {"classes": 2}, attack=attack, lam=lam)
    away = P * math.log(2 * P) + (1 - P) * math.log(2 * (1 - P))
    expected = 2 * FOOLED + lam * away * (1 - P)
    assert made.loss(Line(), GREY).item() == pytest.approx(expected, rel=1e-5)


def test_boosted_cross_entropy_from_probabilities():
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0], [4.0, 1.0, 0.5]])
    labels = torch.tensor([1, 0, 0])
    p = logits.softmax(1)
    rival = torch.stack([p[0, 0], p[1, 2], p[2, 1]])
    expected = -p.gather(1, labels[:, None])[:, 0].log() - (1 - rival).log()
    torch.testing.assert_close(boosted(logits, labels), expected)
    sure = torch.tensor([[0.0, 1000.0, 0.0]])
    assert boosted(sure, torch.tensor([0])).isfinite().all(), "where 1 - p rounds to 0"


def test_divergence_is_torchs():
    one, other = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    expected = F.kl_div(other.log_softmax(1), one.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(one, other), expected)
    assert (divergence(one, one) == 0).all()


# --- limits and identities -----------------------------------------------------------------------


def test_alpha_form_is_the_lambda_form_times_alpha():
    model, given = plain(), batch()
    for lam in (0.25, 1.0, 3.0):
        alpha = 1 / (1 + lam)
        sum_form = Weighted(**COMMON, attack=Pgd(steps=2), lam=lam).loss(model, given)
        mixed = Mixed(**COMMON, attack=Pgd(steps=2), alpha=alpha).loss(model, given)
        torch.testing.assert_close(mixed, alpha * sum_form)  # rounding of the products apart
    half = Mixed(**COMMON, attack=Fgsm(), alpha=0.5).loss(model, given)
    one = Weighted(**COMMON, attack=Fgsm(), lam=1.0).loss(model, given)
    assert torch.equal(half, 0.5 * one), "a factor of a half is exact"


@pytest.mark.parametrize("spec", ["trades:beta=0", "goodfellow:alpha=1"])
def test_without_its_adversarial_term_it_is_standard_training_bit_for_bit(spec, workshop):
    standard, other = workshop("cnn_small:epochs=2"), workshop("cnn_small:epochs=2")
    NoDefense().deploy(standard)
    defenses.get(spec).at("linf", 0.15).deploy(other)
    assert standard.trained[0].weights == other.trained[0].weights
    assert other.trained[0].objective == "L(x, y)"


def test_mart_without_its_second_term_and_with_two_classes_is_twice_the_cross_entropy():
    with seeded(0):
        model = nets.cnn_small((1, 8, 8), 2)
    given = replace(batch(), y=torch.arange(6) % 2)
    common = COMMON | {"classes": 2, "attack": Nearby(CROSS_ENTROPY, 3, 0.5)}
    twice = 2 * Weighted(**common, lam=math.inf).loss(model, given)
    torch.testing.assert_close(Aware(**common, lam=0.0).loss(model, given), twice)


def test_madry_is_advtrain_with_an_infinite_weight(workshop):
    one, other = workshop("cnn_small:epochs=2"), workshop("cnn_small:epochs=2")
    defenses.get("madry").at("linf", 0.15).deploy(one)
    spec = "advtrain:lam=inf,attack=[pgd:steps=7,rel_alpha=0.25]"
    defenses.get(spec).at("linf", 0.15).deploy(other)
    assert one.trained[0].weights == other.trained[0].weights


def test_fast_steps_from_anywhere_in_the_ball_the_box_or_not():
    """The authors' code for MNIST: the gradient is taken at x + d, then ball and box hold."""
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
    y, net = torch.arange(6), Curved()
    draws = Draws.of(x, 3)
    radius = torch.full((6,), EPS)
    crafted = Ball("linf", EPS, 10).crafted(defenses.get("fast").inner, net, x, y, draws)
    leaf = norms.random_point(x, radius, "linf", draws, "start", box=False).requires_grad_()
    outside = ((leaf < 0) | (leaf > 1)).float().mean()
    assert abs(float(outside) - 0.5) < 0.1, "half of d leads out of images of 0 and 1"
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
    moved = leaf.detach() + 1.25 * EPS * gradient.sign()
    expected = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1)
    torch.testing.assert_close(crafted, expected)


# --- the inner attack of TRADES and MART ---------------------------------------------------------


def by_hand(model, given, loss, steps, alpha):
    """The authors' loop: x + 0.001 N(0, I), then sign steps held in ball and box."""
    draws = Draws(0, given.index, torch.zeros_like(given.index))
    point = given.x + 0.001 * draws.normal(given.x.shape, "start")
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(leaf)), leaf)
        moved = point + alpha * gradient.sign()
        point = torch.minimum(torch.maximum(moved, given.x - EPS), given.x + EPS).clamp(0, 1)
    return point


def test_trades_ascends_on_the_divergence():
    model, given = plain(), batch()
    clean = model(given.x).softmax(1).detach()
    expected = by_hand(
        model, given, lambda z: F.kl_div(z.log_softmax(1), clean, reduction="sum"), 3, 0.05
    )
    made = Divergence(**COMMON, attack=Nearby(CROSS_ENTROPY, 3, 0.5), beta=1.0)
    torch.testing.assert_close(made.points(model, given), expected, rtol=0, atol=1e-6)
    assert norms.inside(expected, given.x, torch.full((6,), EPS), "linf").all()


def test_mart_ascends_on_the_cross_entropy():
    model, given = plain(), batch()
    expected = by_hand(
        model, given, lambda z: F.cross_entropy(z, given.y, reduction="sum"), 3, 0.05
    )
    made = Aware(**COMMON, attack=Nearby(CROSS_ENTROPY, 3, 0.5), lam=1.0)
    torch.testing.assert_close(made.points(model, given), expected, rtol=0, atol=1e-6)


def test_the_inner_loop_runs_in_eval_mode_and_the_loss_in_training_mode():
    with seeded(0):
        model = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 3)
        ).train()
    for made in (
        Divergence(**COMMON, attack=Nearby(CROSS_ENTROPY, 2, 0.5), beta=1.0),
        Aware(**COMMON, attack=Nearby(CROSS_ENTROPY, 2, 0.5), lam=1.0),
    ):
        before = int(model[1].num_batches_tracked)
        with seeded(0):
            made.loss(model, batch())
        assert int(model[1].num_batches_tracked) == before + 2, "of x and of x_adv, no more"
        assert all(module.training for module in model.modules())


def test_the_gradient_of_trades_flows_through_the_clean_probabilities(at_the_threshold):
    made = Divergence(**COMMON | {"classes": 2}, attack=Nearby(CROSS_ENTROPY, 1, 1.0), beta=2.0)
    model = Line()
    (slope,) = torch.autograd.grad(made.loss(model, GREY), [model.slope])
    # x_adv stays at s = 0 whatever the slope; with s = 0.1 slope, CE = log(1 + exp(-2 s)) and
    # KL = log 2 - H(p), whose derivative in s is 2 p (1 - p) 2 s.
    s = 0.5
    expected = 0.1 * (-2 * (1 - P) + 2.0 * 4 * s * P * (1 - P))
    assert float(slope) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("spec", ["trades", "mart", "fast", "madry", "goodfellow"])
def test_other_norms_keep_to_their_ball(spec, norm, workshop):
    made = defenses.get(f"{spec}:warmup=0").at(norm, 0.7).objective(0.7, norm, workshop("logreg"))
    given = batch()
    points = replace(made, classes=3).points(plain(), given)
    assert norms.inside(points, given.x, torch.full((6,), 0.7), norm).all()
    assert not torch.equal(points, given.x)


# --- fast: the alarm -----------------------------------------------------------------------------


class Dip(nn.Module):
    """Right at each image and in the corners of its ball, wrong halfway: the margin against the
    mean move u, in units of eps, is (|u| - 0.4)^2 - 0.04. The first pixel names the class.
    """

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        flat = x.flatten(1)
        move = (flat[:, 1:].mean(1) - 0.5) / EPS
        margin = self.scale * ((move.abs() - 0.4) ** 2 - 0.04)
        sign = torch.where(flat[:, 0] > 0.5, 1.0, -1.0)
        return torch.stack([-margin * sign, margin * sign], 1)


def dips(count=20):
    y = torch.arange(count) % 2
    x = torch.full((count, 1, 12, 12), 0.5)
    x[:, 0, 0, 0] = torch.where(y == 1, 0.9, 0.1)
    return Split(x, y)


@pytest.mark.parametrize("collapse", ["stop", "note"])
def test_the_alarm_fires_on_a_constructed_collapse(collapse):
    one_step = defenses.get("fast").inner
    made = Weighted(**COMMON | {"classes": 2, "lam": math.inf}, attack=one_step, collapse=collapse)
    measured = made.validate(Dip(), dips(), 1.0)
    assert measured == {"score": 0.0, "clean": 1.0, "robust": 0.0, "own_attack": 1.0, "alarm": 1.0}
    with pytest.raises(TrainingFailed, match=r"collapsed: 100\.0 % right under its own one step"):
        replace(made, collapse="fail").validate(Dip(), dips(), 1.0)


def test_no_alarm_where_nothing_collapsed():
    made = Weighted(
        **COMMON | {"classes": 2, "lam": math.inf, "eps": 0.05},
        attack=Pgd(steps=1, rel_alpha=1.25),
        collapse="stop",
    )
    x = torch.where(torch.arange(20) % 2 == 1, 0.6, 0.4).view(-1, 1, 1, 1).expand(20, 1, 4, 4)
    measured = made.validate(Line(), Split(x.clone(), torch.arange(20) % 2), 1.0)
    assert measured == {"score": 1.0, "clean": 1.0, "robust": 1.0, "own_attack": 1.0}


@pytest.mark.parametrize(
    ("robust", "alarms", "over"),
    [
        ([0.05], [1], False),  # nothing to lose yet: single steps recover from such a start
        ([0.05, 0.6], [1, 0], False),
        ([0.05, 0.6, 0.35], [1, 0, 1], True),
        ([0.05, 0.6, 0.35], [1, 0, 0], False),
        ([0.6, 0.45], [0, 1], False),
        ([0.6, 0.5, 0.39], [0, 0, 1], True),
    ],
)
def test_fast_stops_at_an_alarm_with_a_fall_of_20_points(robust, alarms, over, workshop):
    log = [
        {"robust": r} | ({"alarm": 1.0} if a else {}) for r, a in zip(robust, alarms, strict=True)
    ]
    for spec, stops in (("fast", True), ("free", True), ("goodfellow", False), ("madry", False)):
        made = defenses.get(spec).objective(0.1, "linf", workshop("logreg"))
        assert made.is_over(log) == (over and stops)


def test_fast_keeps_what_it_had_before_it_collapsed(workshop):
    # The net is the constructed collapse from the second validation on, robust in the first.
    shop = workshop("cnn_small:epochs=8")
    made = defenses.get("fast").at("linf", 0.15).objective(0.15, "linf", shop)

    class Collapsing:
        text, seen = made.text, []

        def loss(self, net, batch):
            return made.loss(net, batch)

        def validate(self, net, validation, progress):
            self.seen.append({name: value.clone() for name, value in net.state_dict().items()})
            judged = (Line().eval(), Split(*FAR)) if len(self.seen) == 1 else (Dip(), dips())
            return replace(made, classes=2, eps=EPS).validate(*judged, progress)

        def is_over(self, log):
            return made.is_over(log)

    collapsing, lines = Collapsing(), []
    shop.say = lines.append
    net = shop.fit(collapsing, "a test")
    assert [entry["robust"] for entry in shop.trained[0].log] == [1.0, 0.0]
    assert ", alarm, stop, " in lines[-1]
    for name, value in net.state_dict().items():
        assert torch.equal(value, collapsing.seen[0][name])


FAR = (
    torch.where(torch.arange(20) % 2 == 1, 0.9, 0.1).view(-1, 1, 1, 1).expand(20, 1, 4, 4).clone(),
    torch.arange(20) % 2,
)
"""Images that no move of EPS takes across the threshold of Line."""


def test_goodfellow_notes_its_collapse_and_goes_on(workshop):
    # Measured: the alarm from epoch 14 of 20 on.
    shop = workshop("cnn_small:epochs=20")
    defenses.get("goodfellow:eps=0.3").at("linf", 0.15).deploy(shop)
    log = shop.trained[0].log
    assert any(entry.get("alarm") for entry in log)
    assert log[-1]["epoch"] == 20


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("goodfellow:alpha=0", "alpha must be in (0, 1], got 0.0"),
        ("goodfellow:alpha=1.5", "alpha must be in (0, 1], got 1.5"),
        ("trades:beta=-1", "beta must be finite and at least 0, got -1.0"),
        ("trades:beta=inf", "beta must be finite and at least 0, got inf"),
        ("trades:steps=0", "steps must be at least 1, got 0"),
        ("trades:rel_alpha=0", "rel_alpha must be finite and above 0, got 0.0"),
        ("trades:norm=l0", "attack nearby knows the norms linf, l2, l1, got l0"),
        ("mart:lam=nan", "lam must be finite and at least 0, got nan"),
        ("mart:steps=0", "steps must be at least 1, got 0"),
        ("fast:step=0", "step must be finite and above 0, got 0.0"),
        ("fast:warmup=1", "warmup must be in [0, 1), got 1.0"),
        ("madry:norm=linf,eps=8", "eps must be at most 1 under linf (the box is [0, 1]), got 8.0"),
    ],
)
def test_a_value_out_of_range_is_refused(spec, rule):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is what is compared
        defenses.get(spec)
    assert str(caught.value) == f"{spec.partition(':')[0]}: {rule}"


def test_a_recipe_names_itself_when_the_run_cannot_fill_it_in(workshop):
    with pytest.raises(ValueError, match="trades: eps= is needed, the dataset names no"):
        defenses.get("trades").at("linf", None)
    with pytest.raises(ValueError, match="mart: eps and norm must be set"):
        defenses.get("mart").deploy(workshop("logreg"))

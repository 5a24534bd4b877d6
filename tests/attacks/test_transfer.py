"""Transfer: what of the target is seen, what is counted, what the substitute is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attacks
from attacks import ThreatModel, norms, substitute
from attacks.draws import Draws, sample_ids
from attacks.losses import CROSS_ENTROPY, MARGIN
from attacks.noise import gaussian
from attacks.oracles import Aim, GradientOracle, OnlyLabels
from attacks.sourced import Labels, Source, Supplies, check_source
from attacks.transfer import Transfer, points_on
from attacks.work import Setting
from models.nets import MeanProbability
from models.registry import models
from models.seeding import seeded
from models.train import Settings
from tests.problems import BlackBox, Counting, Curved, Linear, images

HELD_OUT = images(200, seed=11)
QUICK = "transfer:seeds=20,rounds=3,epochs=4"
ATTACKS = ["pgd:steps=5", "fgsm", "mifgsm:steps=5", "deepfool", "ddn:steps=10", "lbfgs:search=2"]
ATTACKS += ["autoattack:steps=5,version=rand", "noise:samples=2"]


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def run(
    spec: str, model: nn.Module, x: Tensor, y: Tensor, norm: str = "linf", **options: Any
) -> Tensor:
    radius = options.pop("radius", {"linf": 0.2, "l2": 1.5, "l1": 8.0}[norm])
    supplies = options.pop("supplies", Supplies(HELD_OUT))
    threat = ThreatModel(norm, radius)
    return attacks.get(spec)(model, x, y, threat, supplies=supplies, **options)


def settings(**changes: Any) -> Settings:
    return replace(Settings(4, 32, "adam", lr=1e-2, decay=0.0, seed=0), **changes)


def small(classes: int = 10, dim: int = 64, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, classes))


# What is seen of the target


class Teller(nn.Module):
    """Labels and nothing else: anything but a plain forward raises, a gradient too."""

    def __init__(self, net: nn.Module):
        super().__init__()
        object.__setattr__(self, "hidden", net)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        raise AssertionError("the target was asked for its parameters")

    def tell(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.requires_grad:
            raise AssertionError("the target was asked for a gradient")
        label: Tensor = self.hidden(x).argmax(1)
        return label


def test_a_target_that_tells_only_labels_is_enough() -> None:
    """The same points as against the net itself: no score of it moves anything."""
    net = Curved()
    x = images(24)
    y = predicted(net, x)
    blind = OnlyLabels(Teller(net).tell, 10)
    assert torch.equal(run(QUICK, blind, x, y), run(QUICK, net, x, y))


@pytest.mark.parametrize("inner", ATTACKS)
def test_no_gradient_of_the_target_is_asked_for(inner: str) -> None:
    norm = "linf" if "linf" in attacks.get(inner).norms else "l2"
    net = Curved()
    x = images(8)
    y = predicted(net, x)
    x_adv = run(f"{QUICK},attack=[{inner}]", BlackBox(net), x, y, norm)
    assert x_adv.shape == x.shape


def test_labels_are_counted_and_measuring_is_not() -> None:
    model = Counting(Curved())
    target = Labels(model, 8, 10)
    assert torch.equal(target(HELD_OUT[:19]), predicted(model.net, HELD_OUT[:19]))
    assert target.asked == 19
    target.measured(HELD_OUT[:50])
    assert target.asked == 19
    assert model.backwards == 0


# The substitute


def prepared(spec: str, model: nn.Module, held_out: Tensor = HELD_OUT, **changes: Any) -> Source:
    recipe = attacks.get(spec)
    assert isinstance(recipe, Transfer)
    setting = replace(Setting("linf", 10, 0, 32), **changes)
    target = Labels(model, 32, 10)
    source = recipe.prepare(target, Supplies(held_out), setting, held_out[:1], 0.2)
    assert target.asked == source.queries
    return source


def test_the_defaults_ask_for_4800_labels_each_image_once() -> None:
    """150 2^5; epochs=1, as the number of queries does not depend on them."""
    asked: list[Tensor] = []
    net = Curved()

    def tell(x: Tensor) -> Tensor:
        asked.append(x)
        return predicted(net, x)

    recipe = Transfer()
    seeds = images(150, seed=3)
    done = list(
        substitute.trained(
            small(), seeds, tell, settings(epochs=1), rounds=recipe.rounds, lam=recipe.lam
        )
    )
    every = torch.cat(asked)
    assert recipe.shared_queries == len(every) == 150 * 2**5 == 4800
    assert [step.images for step in done] == [150 * 2**k for k in range(6)]
    assert len(sample_ids(every).unique()) == 4800
    assert torch.equal(every[:150], seeds)


def test_the_new_points_are_steps_along_the_sign_of_the_jacobian() -> None:
    """On a linear model dF_y / dx is the row of y; the sign of the step changes every 3 rounds."""
    generator = torch.Generator().manual_seed(0)
    model = Linear(torch.randn(10, 64, generator=generator), torch.zeros(10))
    x = images(30)
    y = torch.arange(30) % 10
    expected = (x + 0.1 * model.weight.detach()[y].sign().view_as(x)).clamp(0, 1)
    assert torch.equal(substitute.augmented(model, x, y, 0.1), expected)
    assert model.weight.grad is None
    assert model.weight.requires_grad


@pytest.mark.parametrize("rounds", [2, 5])
def test_signs_of_the_step(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    def noted(net: nn.Module, x: Tensor, y: Tensor, step: float) -> Tensor:
        steps.append(step)
        return (x + 1e-3 * (len(steps) + 1)).clamp(0, 1)

    monkeypatch.setattr(substitute, "augmented", noted)
    monkeypatch.setattr(substitute, "fit", lambda *_: [])
    list(
        substitute.trained(
            small(),
            images(4),
            lambda x: torch.zeros(len(x), dtype=torch.int64),
            settings(),
            rounds=rounds + 3,
            lam=0.2,
        )
    )
    assert steps == [0.2, 0.2, 0.2, -0.2, -0.2, -0.2, 0.2][: rounds + 2]


def test_a_point_that_is_known_is_neither_kept_nor_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A net without a gradient moves nothing: the set must not grow by copies of itself."""
    monkeypatch.setattr(substitute, "fit", lambda *_: [])
    asked: list[int] = []

    def tell(x: Tensor) -> Tensor:
        asked.append(len(x))
        return torch.zeros(len(x), dtype=torch.int64)

    flat, many = small(), images(20)
    for parameter in flat.parameters():
        nn.init.zeros_(parameter)
    done = list(substitute.trained(flat, many[:12], tell, settings(), rounds=4, lam=0.1))
    assert [step.images for step in done] == [12] * 4
    assert sum(asked) == 12
    # Of points that come twice one is kept; those that are known are not.
    monkeypatch.setattr(substitute, "augmented", lambda *_: torch.cat([many, many]))
    done = list(substitute.trained(flat, many[:12], tell, settings(), rounds=2, lam=0.1))
    assert done[-1].images == 20


def test_agreement_rises() -> None:
    """Noisy images of ten shapes, labelled by the nearest one."""
    generator = torch.Generator().manual_seed(1)
    shapes = torch.rand(10, 64, generator=generator)
    target = Linear(8 * shapes, -4 * (shapes**2).sum(1))
    noise = 0.3 * torch.randn(240, 64, generator=generator)
    held_out = (shapes[torch.arange(240) % 10] + noise).clamp(0, 1).view(-1, 1, 8, 8)
    facts = prepared(
        "transfer:seeds=15,lam=0.25,model=[mlp_relu:lr=0.003,batch=16]", target, held_out
    ).facts
    queries = [fact["queries"] for fact in facts]
    agreement = [fact["agreement"] for fact in facts]
    assert queries == [fact["images"] for fact in facts]
    assert queries == pytest.approx([15 * 2**k for k in range(6)], abs=2)  # few points coincide
    assert all(fact["probes"] == 225 for fact in facts)
    assert min(agreement[1:]) > agreement[0] + 0.3
    assert agreement[-1] == max(agreement) > 0.95


def test_the_substitute_depends_on_the_seed_and_nothing_else() -> None:
    one, same = (prepared(QUICK, Curved()).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    in_parts = prepared(QUICK, Curved(), in_flight=3).model.state_dict()
    assert all(torch.equal(one[name], in_parts[name]) for name in one)
    other = prepared(QUICK, Curved(), seed=1).model.state_dict()
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_norm_that_fgsm_does_not_know_has_no_transfer_rate() -> None:
    facts = prepared(f"{QUICK},attack=[sigma_zero:steps=5]", Curved(), norm="l0").facts
    assert {fact["transfer_rate"] for fact in facts} == {None}


# The contract


@pytest.mark.parametrize("inner", ATTACKS)
def test_keeps_the_contract_of_its_inner_attack(inner: str) -> None:
    net = Curved()
    x = images(12)
    y = predicted(net, x).clone()
    y[[3, 7]] = (y[[3, 7]] + 1) % 10
    spec = f"{QUICK},attack=[{inner}]"
    recipe = attacks.get(spec)
    assert recipe.kind == attacks.get(inner).kind
    assert recipe.mode == "transfer"
    assert attacks.get(recipe.to_spec()) == recipe
    for norm in set(recipe.norms) & {"linf", "l2"}:
        radius = {"linf": 0.2, "l2": 1.5}[norm]
        x_adv = run(spec, net, x, y, norm)
        assert norms.inside(x_adv, x, torch.full((12,), radius), norm).all()
        assert torch.equal(x_adv[[3, 7]], x[[3, 7]])
        assert torch.equal(run(spec, net, x, y, norm), x_adv)
        alone = run(spec, net, x[4:6], y[4:6], norm, shape=16)
        assert torch.equal(run(spec, net, x, y, norm, shape=16)[4:6], alone)


def test_leaves_target_sources_and_supplies_as_found() -> None:
    net, source = Curved().train(), small().train()
    source[1].weight.requires_grad_(False)
    before = {n: t.clone() for n, t in (*net.state_dict().items(), *source.state_dict().items())}
    x = images(8)
    y = predicted(net, x)
    held_out = HELD_OUT.clone()
    supplies = Supplies(held_out, sources=(source, small(seed=1)))
    run("transfer:source=given,attack=fgsm", net, x, y, supplies=supplies)
    run(QUICK, net, x, y, supplies=supplies)
    after = {**net.state_dict(), **source.state_dict()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert net.training
    assert all(module.training for module in source.modules())
    assert [p.requires_grad for p in source.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in (*net.parameters(), *source.parameters()))
    assert torch.equal(held_out, HELD_OUT)


def test_targets_are_reached_by_transfer() -> None:
    """A source that is the target itself: transfer is then the attack itself, judged at its end."""
    net = Curved()
    x = images(24)
    y = predicted(net, x)
    targets = (y + 3) % 10
    supplies = Supplies(sources=(net,))
    spec = "transfer:source=given,attack=[pgd:steps=20]"
    x_adv = run(spec, net, x, y, radius=0.3, targets=targets, supplies=supplies)
    direct = attacks.get("pgd:steps=20")(net, x, y, ThreatModel("linf", 0.3), targets=targets)
    reached = predicted(net, direct) == targets
    assert reached.sum() > 8
    assert (predicted(net, x_adv) == targets)[reached].float().mean() > 0.9


def test_the_target_itself_as_a_source_is_a_white_box() -> None:
    net = Curved()
    x = images(40)
    y = predicted(net, x)
    spec = "transfer:source=given,attack=[pgd:steps=20]"
    transferred = predicted(net, run(spec, net, x, y, supplies=Supplies(sources=(net,)))) != y
    direct = predicted(net, attacks.get("pgd:steps=20")(net, x, y, ThreatModel("linf", 0.2))) != y
    assert transferred.sum() >= direct.sum() - 1


# Several sources


def test_the_gradient_through_several_sources_is_that_of_the_formula() -> None:
    """d/dx of -log(sum_i softmax_i(x)_y / k) is -sum_i p_i (d log p_i / dx) / sum_i p_i."""
    nets = [small(seed=s) for s in range(3)]
    x, y = images(6), torch.arange(6)
    aim = Aim(CROSS_ENTROPY, y, torch.ones(6))
    answer = GradientOracle(MeanProbability(nets))(x, aim, differentiate=True)
    shares, slopes = [], []
    for net in nets:
        leaf = x.clone().requires_grad_()
        log_share = F.log_softmax(net(leaf), 1).gather(1, y[:, None])[:, 0]
        (slope,) = torch.autograd.grad(log_share.sum(), leaf)
        shares.append(log_share.detach().exp())
        slopes.append(slope)
    total = sum(shares)
    expected = -sum(
        norms.expand(share / total, x) * slope for share, slope in zip(shares, slopes, strict=True)
    )
    torch.testing.assert_close(answer.gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(answer.value, -(total / 3).log())


def test_several_sources_are_one_source_when_they_are_equal() -> None:
    net, source = Curved(), small()
    x = images(16)
    y = predicted(net, x)
    spec = "transfer:source=given,attack=[pgd:steps=5,random=false]"
    alone, twice = (
        run(spec, net, x, y, supplies=Supplies(sources=sources))
        for sources in ((source,), (source, source))
    )
    torch.testing.assert_close(alone, twice, atol=0.02, rtol=0)


def test_facts_name_every_source_and_all_of_them() -> None:
    recipe = attacks.get("transfer:source=[[logreg:seed=1]+mlp]")
    assert isinstance(recipe, Transfer)
    assert recipe.source.to_spec() == "[logreg:seed=1]+mlp"
    nets = [models.get(spec).build((1, 8, 8), 10) for spec in ("logreg:seed=1", "mlp")]
    target = Labels(Curved(), 32, 10)
    source = recipe.prepare(
        target, Supplies(HELD_OUT, sources=nets), Setting("linf", 10, 0, 32), HELD_OUT, 0.2
    )
    assert [fact["source"] for fact in source.facts] == ["1: logreg:seed=1", "2: mlp", "all"]
    agreement = (predicted(nets[1], HELD_OUT) == predicted(Curved(), HELD_OUT)).float().mean()
    assert source.facts[1]["agreement"] == pytest.approx(float(agreement), abs=1e-6)
    assert source.queries == target.asked == 0


# What is refused


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("transfer:rounds=0", "transfer: rounds must be at least 1, got 0"),
        ("transfer:rounds=30", "rounds must be at most 12 "),
        ("transfer:epochs=0", "transfer: epochs must be at least 1, got 0"),
        ("transfer:lam=0", r"transfer: lam must be in \(0, 1\], got 0"),
        ("transfer:lam=2", r"lam must be in \(0, 1\], got 2"),
        ("transfer:seeds=0", "seeds must be at least 1, got 0"),
        ("transfer:attack=transfer", "attack must be one that needs no source, got transfer"),
        ("transfer:source=nope", "no model 'nope'"),
        ("transfer:source=mlp+nope", "no model 'nope'"),
        ("transfer:model=nope", "no model 'nope'"),
    ],
)
def test_bad_keys_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attacks.get(spec)


@pytest.mark.parametrize(
    ("spec", "supplies", "message"),
    [
        (QUICK, None, r"needs held_out and sources: hand them over as supplies="),
        (QUICK, Supplies(), "transfer needs held-out images"),
        (QUICK, Supplies(HELD_OUT[:20]), "20 held-out images and one more to measure on, got 20"),
        (QUICK, Supplies(HELD_OUT, own=HELD_OUT[:3]), "transfer needs 20 held-out images, got 3"),
        (
            QUICK,
            Supplies(images(30, shape=(1, 7, 7))),
            r"held_out must hold images \(1, 8, 8\), got \(1, 7, 7\)",
        ),
        ("transfer:source=mlp+logreg", Supplies(sources=(small(),)), "takes 2 nets"),
        ("transfer:source=given", Supplies(), "takes at least 1 nets in supplies, got 0"),
        (
            "transfer:source=given",
            Supplies(sources=(small(dim=49),)),
            r"source 1 does not take images of shape \(1, 8, 8\)",
        ),
        (
            "transfer:source=given",
            Supplies(sources=(small(), small(7))),
            "source 2 must know 10 classes as the target does, got 7",
        ),
    ],
)
def test_supplies_that_do_not_fit_are_refused(spec: str, supplies: Any, message: str) -> None:
    x = images(4)
    with pytest.raises(ValueError, match=message) as refused:
        run(spec, Curved(), x, predicted(Curved(), x), supplies=supplies)
    assert "\n" not in str(refused.value)


def test_a_source_is_left_as_found_when_it_is_checked() -> None:
    net = small().train()
    check_source(net, images(1), 10, "it")
    assert net.training


# The control


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7])
def test_the_control_is_as_large_as_it_is_asked_to_be(share: float) -> None:
    x = images(10)
    size = share * norms.furthest(x, "l2").double() / math.sqrt(2)
    noisy = gaussian(x, size, Draws.of(x, 0))
    assert norms.in_box(noisy).all()
    torch.testing.assert_close(
        norms.size(noisy.double() - x.double(), "l2"), size, rtol=1e-5, atol=1e-6
    )
    assert torch.equal(gaussian(x[3:5], size[3:5], Draws.of(x[3:5], 0)), noisy[3:5])


def test_the_points_on_a_source_do_not_stop_at_its_border() -> None:
    """Transfer wants the highest loss, not the first success."""
    net = Curved()
    x = images(20)
    y = predicted(net, x)
    setting = Setting("linf", 10, 0, 32)
    points = points_on(attacks.get("pgd:steps=20"), net, x, y, 0.2, setting)
    stopped = attacks.get("pgd:steps=20")(net, x, y, ThreatModel("linf", 0.2))
    with torch.no_grad():
        deep, shallow = (F.cross_entropy(net(z), y, reduction="none") for z in (points, stopped))
    assert norms.inside(points, x, torch.full((20,), 0.2), "linf").all()
    assert (deep >= shallow - 1e-5).float().mean() > 0.9
    assert deep.mean() > shallow.mean() + 0.1


def test_the_points_on_a_source_are_those_of_the_highest_loss() -> None:
    """Of eight random points, several of which fool the source: neither the first nor the last."""
    net, x = Curved(), images(20)
    y, radius = predicted(net, x), torch.full((20,), 0.5)
    draws = Draws.of(x, 0)
    drawn = [norms.random_point(x, radius, "linf", draws, "noise", k) for k in range(8)]
    with torch.no_grad():
        values = torch.stack([MARGIN(net(point), y) for point in drawn])
    assert ((values > 0).sum(0) > 1).sum() > 10
    points = points_on(attacks.get("noise:samples=8"), net, x, y, 0.5, Setting("linf", 10, 0, 32))
    best = values.argmax(0).tolist()
    expected = torch.stack([drawn[number][row] for row, number in enumerate(best)])
    assert torch.equal(points, expected)


@pytest.mark.parametrize("inner", ["fmn", "ddn", "lbfgs:search=3"])
def test_what_a_minimal_attack_finds_on_the_source_is_moved_on_to_the_radius(inner: str) -> None:
    """At the source's boundary alone it would fool few targets, however large eps is."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 64, generator=generator)
    other = weight + 0.5 * torch.randn(2, 64, generator=generator)
    target, source = (Linear(w, -w.sum(1) / 2) for w in (weight, other))
    x = 0.2 + 0.6 * torch.rand(100, 1, 8, 8, generator=generator)
    y = target(x).argmax(1)
    recipe = attacks.get(f"transfer:attack=[{inner}],source=given")
    supplies = Supplies(sources=(source,))
    broken = []
    for eps in (0.1, 0.8):
        x_adv = recipe(target, x, y, ThreatModel("l2", eps), supplies=supplies)
        broken.append(float((target(x_adv).argmax(1) != y).float().mean()))
    assert broken[1] > 0.7 > broken[0]

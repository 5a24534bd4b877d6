"""What the loop costs over the work the attack's definition needs.

Trials, subjects and floors are those of `bench time` (bench/timings/steps.py), with some attacks
more. Run with `pytest tests/benchmarks --benchmark-enable`; the ratio of interleaved runs stands in
the table's extra info. Nothing here asserts a time; what is counted is exact.
"""

import dataclasses

import pytest

import attacks
from attacks.oracles import held
from bench.timings.clock import interleaved
from bench.timings.steps import BATCH, NETS, TRIALS, Passed, Subject, Trial, pair, passes
from tests.problems import Counting

ROUNDS = 5
MORE = (
    Trial("pgd:random=false", "linf", 1.05, dict.fromkeys(NETS, 40)),
    Trial("mifgsm", "linf", 1.05, dict.fromkeys(NETS, 40)),
    Trial("fmn", "l1", 1.15, dict.fromkeys(NETS, 40)),
    Trial("square", "l2", 1.10, dict.fromkeys(NETS, 100)),
    Trial("simba", "linf", 1.10, dict.fromkeys(NETS, 100)),
    Trial("boundary", "l2", 1.10, dict.fromkeys(NETS, 100)),
    Trial("hopskipjump", "l2", 1.10, dict.fromkeys(NETS, 100)),
    Trial("spsa:attack=[pgd:steps=2],pairs=5", "linf", 1.10),
    Trial("nes:attack=[pgd:steps=2],pairs=5", "linf", 1.10),
)
ids = [f"{trial.spec} {trial.norm}" for trial in (*TRIALS, *MORE)]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("trial", [*TRIALS, *MORE], ids=ids)
def test_attack_over_its_floor(benchmark, name, trial):
    subject = Subject.of(name)
    recipe = trial.recipe(name, None if benchmark.enabled else 2)
    with held(subject.net):
        attacked, bare = pair(subject, recipe, trial.norm)
        if benchmark.enabled:
            seconds, floor_s = interleaved((attacked, bare), ROUNDS)
            benchmark.extra_info["over_floor_median"] = round(seconds / floor_s, 3)
        found = benchmark(attacked)
    assert len(found) == BATCH


@pytest.mark.parametrize("trial", TRIALS, ids=[f"{t.spec} {t.norm}" for t in TRIALS])
def test_an_attack_makes_no_pass_that_its_definition_does_not_need(trial):
    """By calls of the whole batch: the floor that `bench time` divides by is what is done."""
    subject = Subject.of("cnn_small")
    recipe = trial.recipe("cnn_small", 3)
    needed = passes(subject, recipe, trial.norm)
    calls = Passed(subject.net)
    dataclasses.replace(subject, net=calls).swept(recipe, trial.norm)
    assert calls.forwards == needed.steps + needed.looks
    assert calls.backwards == needed.steps * needed.backwards


GRADIENTS = [t for t in TRIALS if t.spec not in ("square", "deepfool")]


@pytest.mark.parametrize("trial", GRADIENTS, ids=[f"{t.spec} {t.norm}" for t in GRADIENTS])
def test_a_sample_costs_at_most_a_forward_more_than_steps(trial):
    subject = Subject.of("cnn_small")
    recipe = trial.recipe("cnn_small", 3)
    steps = getattr(recipe, "steps", 1)
    counted = Counting(subject.net)
    found = dataclasses.replace(subject, net=counted).swept(recipe, trial.norm)
    assert max(settled.forward for settled in found) <= steps + 1
    assert max(settled.backward for settled in found) <= steps
    assert counted.forwards == sum(settled.forward for settled in found)


@pytest.mark.parametrize("trial", TRIALS, ids=[f"{t.spec} {t.norm}" for t in TRIALS])
def test_no_gradient_of_a_parameter_is_computed(trial):
    """Neither left in .grad nor seen by a hook, though the caller's parameters want gradients."""
    subject = Subject.of("cnn_small")
    seen = []
    for parameter in subject.net.parameters():
        parameter.requires_grad_(requires_grad=True)
        parameter.register_hook(seen.append)
    threat = attacks.ThreatModel(trial.norm, 0.1)
    trial.recipe("cnn_small", 2)(subject.net, subject.x[:4], subject.y[:4], threat)
    assert seen == []
    assert all(parameter.grad is None for parameter in subject.net.parameters())
    assert all(parameter.requires_grad for parameter in subject.net.parameters())


BUDGET = [t for t in TRIALS if attacks.get(t.spec).kind == "budget"]


@pytest.mark.parametrize("trial", BUDGET, ids=[f"{t.spec} {t.norm}" for t in BUDGET])
def test_a_fooled_sample_is_not_asked_again(trial):
    """At a radius that holds every image, where the first points succeed: the queries of a sample
    are those up to its success, and its rows make no more.
    """
    subject = Subject.of("cnn_small")
    # Labels that no answer equals: the first look at any point is a success.
    wrong = (subject.y + 1) % 10
    counted = Counting(subject.net)
    found = dataclasses.replace(subject, net=counted, y=wrong).swept(
        trial.recipe("cnn_small", 3), trial.norm
    )
    assert all(settled.fooled.all() for settled in found)
    assert [settled.forward for settled in found] == [1] * BATCH
    assert [settled.backward for settled in found] == [0] * BATCH
    assert counted.forwards == BATCH

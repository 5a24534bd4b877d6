"""Plans and the scheduler alone: no model, a planted answer for every attempt."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.sweeps import UNLIMITED, Probe, Scheduler, Terms, Work, plan_of

POLICIES = ["ladder", "bisect", "independent"]
RADII = np.round(np.arange(1, 21) * 0.02, 2)


@dataclass
class Planted:
    """Samples whose attempt of a number succeeds at and above a radius of its own, after so many
    queries (of a cut attempt: where these are left). What the scheduler hands out is noted.
    """

    nearest: list[list[float]]
    radii: np.ndarray
    needs: int = 3
    each: int = 1
    history: list[tuple[Work, int, bool]] = field(default_factory=list)

    def answer(self, work: Work, horizon: int) -> tuple[int, bool]:
        """Forward queries of an attempt, and whether it succeeded."""
        most = min(horizon * self.each, work.limit // self.each * self.each)
        at = self.radii[work.rung] >= self.nearest[work.sample][work.attempt]
        needed = self.needs * self.each
        return (needed, True) if at and needed <= most else (most, False)


def run(planted, policy, terms, *, budget=None, standing=None, together=7, guess=None):
    """Runs everything; returns per sample what fell and the queries at each rung."""
    scheduler = Scheduler(planted.each, budget, is_minimal=policy == "once")
    count, rungs = len(planted.nearest), len(planted.radii)
    fell, spent = np.zeros((count, rungs), bool), np.zeros((count, rungs), np.int64)
    settled = []
    for sample in range(count):
        open_ = list(range(rungs)) if standing is None else standing[sample]
        plan = plan_of(policy, planted.radii, open_, terms, guess)
        if not scheduler.add(sample, plan, spent[sample]):
            settled.append(sample)
    while work := scheduler.take(together):
        assert len({w.sample for w in work}) == len(work)
        for piece in work:
            queries, success = planted.answer(piece, terms.horizon)
            assert queries >= planted.each
            planted.history.append((piece, queries, success))
            scheduler.spend(piece, queries)
            if success:
                at = np.arange(rungs) == piece.rung
                fell[piece.sample] |= (
                    at if policy == "independent" else np.arange(rungs) >= piece.rung
                )
            if not scheduler.ended(piece, fell=success):
                settled.append(piece.sample)
    assert sorted(settled) == list(range(count))
    assert not scheduler.open
    return fell, spent


nets = st.lists(st.lists(st.floats(0.01, 0.6), min_size=3, max_size=3), min_size=1, max_size=12)
terms_ = st.builds(
    Terms,
    attempts=st.integers(1, 3),
    horizon=st.integers(1, 60),
    goes_on=st.booleans(),
    hurries=st.booleans(),
    exact=st.booleans(),
)
grids = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=25, unique=True).map(sorted)


@settings(max_examples=40)
@given(
    nets=nets,
    terms=terms_,
    grid=grids,
    policy=st.sampled_from([*POLICIES, "once"]),
    each=st.integers(1, 3),
    needs=st.integers(1, 5),
    together=st.integers(1, 9),
    guess=st.none() | st.floats(0.0, 1.0) | st.just(float("inf")),
)
def test_every_item_ends_once_whoever_runs_beside_it(  # noqa: PLR0913  one argument per choice
    nets, terms, grid, policy, each, needs, together, guess
):
    radii = np.array(grid)
    planted = Planted(nets, radii, needs, each)
    fell, spent = run(planted, policy, terms, together=together, guess=guess)
    numbers = [work.number for work, _, _ in planted.history]
    assert len(set(numbers)) == len(numbers)
    alone = Planted(nets, radii, needs, each)
    again, cost = run(alone, policy, terms, together=1, guess=guess)
    assert (fell == again).all()
    assert (spent == cost).all()
    # With one at a time, a sample is done before the next one starts: none waits for ever.
    assert [k for k, _ in itertools.groupby(w.sample for w, _, _ in alone.history)] == list(
        range(len(nets))
    )
    made = Counter()
    for work, queries, _ in planted.history:
        made[work.sample] += queries
        assert queries <= work.limit
    if policy != "once":
        assert [made[s] for s in range(len(nets))] == spent.sum(1).tolist()


@settings(max_examples=40)
@given(nets=nets, terms=terms_, grid=grids, needs=st.integers(1, 2), each=st.integers(1, 3))
@pytest.mark.parametrize("policy", POLICIES)
def test_the_curve_is_that_of_whole_attempts(policy, nets, terms, grid, needs, each):
    """Where an attempt succeeds at every radius above a first one, every policy finds that: no look
    too short, no rung left out.
    """
    radii = np.array(grid)
    if terms.horizon < needs:
        needs = 1
    fell, _ = run(Planted(nets, radii, needs, each), policy, terms)
    nearest = np.array(nets)[:, : terms.attempts].min(1)
    assert (fell == (radii[None] >= nearest[:, None])).all()


@settings(max_examples=40)
@given(
    nets=nets,
    terms=terms_,
    grid=grids,
    policy=st.sampled_from(POLICIES),
    each=st.integers(1, 3),
    budget=st.integers(1, 90),
)
def test_budgets_are_exact(nets, terms, grid, policy, each, budget):
    """No rung gets more than the budget, and an attempt that fails at a rung that holds used all
    that a whole query fits into, or ran to its end.
    """
    radii = np.array(grid)
    planted = Planted(nets, radii, 2, each)
    fell, spent = run(planted, policy, Terms(terms.attempts, terms.horizon), budget=budget)
    assert (spent <= budget).all()
    whole = min(budget // each, terms.attempts * terms.horizon) * each
    if policy == "independent":
        assert (spent[~fell] == whole).all()


@settings(max_examples=40)
@given(nets=nets, terms=terms_, grid=grids, policy=st.sampled_from(POLICIES), data=st.data())
def test_only_what_stands_is_tried(nets, terms, grid, policy, data):
    radii = np.array(grid)
    below = [data.draw(st.integers(0, len(grid))) for _ in nets]
    planted = Planted(nets, radii)
    run(planted, policy, terms, standing=[list(range(rung)) for rung in below])
    assert all(work.rung < below[work.sample] for work, _, _ in planted.history)


def probes(policy, nearest, terms, *, needs=1, guess=None, radii=RADII):
    planted = Planted([nearest], radii, needs)
    run(planted, policy, terms, guess=guess)
    return [(work, queries) for work, queries, _ in planted.history]


def test_the_ladder_goes_on_with_a_share_of_the_queries():
    """1 - r / r' of the 40 queries: all, 20, 13.3, 10 and never less than 10."""
    made = probes("ladder", [1.0], Terms(1, 40, goes_on=True, hurries=True), needs=99)
    assert [queries for _, queries in made] == [40, 20, 14, *[10] * 17]
    assert [work.goes_on for work, _ in made] == [False, *[True] * 19]


def test_a_ladder_of_two_far_rungs_is_two_whole_attempts():
    terms = Terms(1, 40, goes_on=True, hurries=True)
    made = probes("ladder", [9.0], terms, radii=np.array([0.001, 0.3]))
    assert [queries for _, queries in made] == [40, 40]


def test_an_attack_that_cannot_hurry_climbs_with_whole_attempts():
    """Auto-PGD sets its own step size by the number of steps: a quarter of it is no attack."""
    made = probes("ladder", [9.0], Terms(1, 40, goes_on=True))
    assert all((queries, work.goes_on) == (40, False) for work, queries in made)


@pytest.mark.parametrize("policy", ["ladder", "bisect"])
def test_short_attempts_do_not_go_on(policy):
    made = probes(policy, [0.2], Terms(1, 7, goes_on=True))
    assert not any(work.goes_on for work, _ in made)
    assert all(work.limit == UNLIMITED for work, _ in made)


def test_descending_costs_one_whole_attempt():
    """A sample that falls at rung 9 (0.2) with the first query each time: looks from the guess up,
    then down, and only the rung below the lowest success gets 40 queries.
    """
    made = probes("bisect", [0.2], Terms(1, 40, goes_on=True), guess=0.1)
    whole = [work.rung for work, _ in made if work.limit == UNLIMITED]
    assert whole[-1] == 8
    assert sum(queries for _, queries in made) <= 40 + 5 * 3
    assert made[0][0].rung == 7  # the first radius that is at least 1.5 times the guess


def test_a_descent_that_holds_everywhere_tries_the_largest_radius_in_full():
    made = probes("bisect", [9.0, 9.0], Terms(2, 40, goes_on=True), guess=0.1)
    assert [(work.rung, work.attempt, queries) for work, queries in made][-2:] == [
        (19, 0, 40),
        (19, 1, 40),
    ]
    assert all(queries == 5 for work, queries in made[:-2])


def test_below_each_success_every_attempt_is_made_anew():
    """Attempts reach 0.3, 0.2 and 0.1: 0.08 holds when all three have failed there, in full."""
    planted = Planted([[0.3, 0.2, 0.1]], RADII, needs=1)
    run(planted, "bisect", Terms(3, 40, goes_on=True), guess=0.3)
    last = [w.attempt for w, queries, _ in planted.history if w.rung == 3 and queries == 40]
    assert sorted(last) == [0, 1, 2]


def test_a_rung_below_a_known_success_is_tried_first():
    """A later stage of an ensemble: what stands is below what fell, and mostly holds."""
    planted = Planted([[9.0]], RADII, 1)
    run(planted, "bisect", Terms(1, 40, goes_on=True), standing=[list(range(12))])
    assert [(w.rung, q) for w, q, _ in planted.history] == [(11, 40)]


def test_halving_of_attempts_that_cannot_go_on():
    """log2(20) whole attempts, whatever they find."""
    made = probes("bisect", [0.2], Terms(1, 40))
    assert [work.rung for work, _ in made] == [9, 4, 6, 7, 8]


def test_an_attempt_of_one_step_climbs():
    """Two queries each: nothing to save, and where it is weakest is not where it is largest."""
    made = probes("bisect", [0.2], Terms(1, 2, goes_on=True))
    assert [work.rung for work, _ in made] == list(range(10))


def test_a_plan_that_fell_only_at_a_small_radius_is_found_from_below():
    """An attack that is weak above and strong below is looked at from the guess upwards."""

    class Weak(Planted):
        def answer(self, work: Work, horizon: int) -> tuple[int, bool]:
            most = min(horizon, work.limit)
            return (1, True) if work.rung == 4 else (most, False)

    planted = Weak([[9.0]], RADII)
    fell, _ = run(planted, "bisect", Terms(1, 40, goes_on=True), guess=0.05)
    assert fell[0].tolist() == [False] * 4 + [True] * 16
    # From a guess that lies above, it is missed: what `ladder` and `independent` are for.
    blind, _ = run(Weak([[9.0]], RADII), "bisect", Terms(1, 40, goes_on=True), guess=0.2)
    assert not blind.any()
    for policy in ("ladder", "independent"):
        found, _ = run(Weak([[9.0]], RADII), policy, Terms(1, 40))
        assert found[0, 4]


def test_the_rest_of_an_attempt_is_what_it_has_not_spent():
    scheduler = Scheduler(each=2)
    plan = plan_of("ladder", RADII[:1], [0], Terms(1, 40))
    spent = np.zeros(1, np.int64)
    scheduler.add(0, plan, spent)
    plan.first()
    scheduler.open[0].probe = Probe(0, 0, limit=5)
    (work,) = scheduler.take(1)
    scheduler.spend(work, 4)
    assert scheduler.again(work)
    (rest,) = scheduler.take(1)
    assert rest.limit == 6
    scheduler.spend(rest, 6)
    assert not scheduler.again(rest)
    assert not scheduler.ended(rest, fell=False)
    assert spent.tolist() == [10]


def test_thousands_of_rungs_without_a_query_left_are_no_recursion():
    radii = np.linspace(0.001, 1, 5000)
    scheduler = Scheduler(each=3, budget=2)
    assert not scheduler.add(
        0, plan_of("independent", radii, range(5000), Terms(1, 4)), np.zeros(5000, np.int64)
    )

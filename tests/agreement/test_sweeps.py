"""The arithmetic of the race on laps made up here; its entrants, where they are installed, on a
linear model whose curve is known.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agreement import page, race
from tests.agreement.entrants import (
    ENTRANTS,
    SINGLE,
    STEPS,
    Counting,
    Curve,
    Entrant,
    Task,
    told,
    verdict,
)
from tests.agreement.race import Lap
from tests.hooks.provenance_of_references import says_who_made_it
from tests.problems import DISTANCE, Linear, linear

RADII = (0.95 * DISTANCE["linf"], 1.05 * DISTANCE["linf"])

PEER = [
    Lap(10.0, 9.0, 100.0, 100.0, Curve((0.5, 0.2), outside=3)),
    Lap(30.0, 12.0, 100.0, 100.0, Curve((0.7, 0.2))),
    Lap(12.0, 12.0, 100.0, 100.0, Curve((0.6, 0.2))),
]
LADDER = [
    Lap(5.0, 3.0, 30.0, 20.0, Curve((0.6, 0.1))),
    Lap(5.0, 4.0, 32.0, 18.0, Curve((0.6, 0.1))),
    Lap(6.0, 6.0, 90.0, 70.0, Curve((0.66, 0.1))),
]
INDEPENDENT = [Lap(20.0, 12.0, 200.0, 150.0, Curve((0.6, 0.1)))] * 3
LAPS = {"peer": PEER, "ours: ladder": LADDER, "ours: independent": INDEPENDENT}


def task(radii: tuple[float, ...] = RADII) -> Task:
    """16 images at a known distance, the first with a wrong label."""
    problem = linear("linf", 10)
    y = problem.y.clone()
    y[0] = (y[0] + 5) % 10
    return Task(Counting(problem.model), problem.x, y, radii)


def test_ratios_are_taken_round_by_round() -> None:
    """Times 10/5, 30/5, 12/6, computing 9/3, 12/4, 12/6; rows 200 over the median of 50, 50, 160;
    mean accuracies (0.6, 0.2) against (0.62, 0.1).
    """
    one = race.ratios(PEER, LADDER)
    assert (one.time, one.least, one.most) == pytest.approx((2.0, 2.0, 6.0))
    assert (one.cpu, one.queries) == pytest.approx((3.0, 4.0))
    assert one.worst_excess == pytest.approx(0.02)
    assert one.mean_excess == pytest.approx((0.02 - 0.1) / 2)
    assert race.apart(PEER) == pytest.approx(0.2)
    assert race.fastest_first(LAPS) == ["ours: ladder", "peer", "ours: independent"]


def test_a_net_counts_its_rows_and_its_copies_count_along() -> None:
    net = Counting(Linear(torch.ones(2, 4), torch.zeros(2)))
    x = torch.zeros(3, 1, 2, 2)
    with torch.no_grad():
        net(x)
    assert (net.tally.forward, net.tally.backward) == (3, 0)
    leaf = x.clone().requires_grad_()
    torch.autograd.grad(copy.deepcopy(net)(leaf).sum(), leaf)
    assert (net.tally.forward, net.tally.backward) == (6, 3)


def test_points_are_judged_by_label_ball_and_box() -> None:
    """Class 1 where the one pixel is above 0.5: of five images at 0.4, one is labelled wrongly, one
    is moved across inside the ball, one across beyond it, one not across, one out of the box.
    """
    net = Linear(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5, 0.0]))
    x = torch.full((5, 1, 1, 1), 0.4)
    y = torch.tensor([1, 0, 0, 0, 0])
    made = torch.tensor([0.4, 0.55, 0.7, 0.45, -0.1]).view(5, 1, 1, 1)
    inside_all = torch.full_like(x, 0.6)
    curve = verdict(Task(Counting(net), x, y, (0.2, 0.3)), [made, inside_all])
    assert curve == Curve((pytest.approx(3 / 5), 0.0), outside=2)


def test_our_curve_is_read_from_what_is_stored() -> None:
    """Three images, wrong, fallen at 0.2, never fallen; or with a word for every radius."""
    stored: dict[str, Any] = {"min_eps": np.array([0.0, 0.2, np.inf])}
    record = SimpleNamespace(samples=stored, eps=("0.1", "0.2", "0.3"))
    run: Any = SimpleNamespace(records=[record])
    assert told(run).accuracy == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    stored["fooled"] = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=np.uint8)
    assert told(run).accuracy == pytest.approx((2 / 3, 1 / 3, 2 / 3))


def test_rounds_take_turns_on_a_net_left_as_found() -> None:
    seen: list[tuple[str, int, int, bool]] = []

    def entrant(name: str, *, is_frozen: bool) -> Entrant:
        def sweep(one: Task) -> list[Tensor]:
            weight = one.net.net.weight
            seen.append((name, one.seed, len(one.y), weight.requires_grad))
            if weight.requires_grad:
                one.net(one.x.clone().requires_grad_()).sum().backward()
            return [one.x for _ in one.radii]

        return Entrant(name, sweep, is_frozen=is_frozen)

    given = task()
    entrants = [entrant("a", is_frozen=False), entrant("b", is_frozen=True)]
    laps = race.race(entrants, given, 2, lambda _: None)
    assert seen == [
        ("a", 0, 8, True),  # the first call of each is not timed
        ("b", 0, 8, False),
        ("a", 0, 16, True),
        ("b", 0, 16, False),
        ("b", 1, 16, False),
        ("a", 1, 16, True),
    ]
    assert [(lap.forward, lap.backward) for lap in laps["a"]] == [(1, 1)] * 2
    assert laps["b"][0].curve == Curve((15 / 16, 15 / 16))
    assert given.net.net.weight.grad is None


def test_the_page_holds_every_ratio_and_names_what_was_not_run(tmp_path: Path) -> None:
    command = "python -m tests.agreement.sweeps --n 4"
    setup = page.Setup("mnist", 4, 3, (0.1, 0.25), ("ART",), command)
    floor = [Lap(2.0, 2.0, 40.0, 40.0, Curve(()))] * 3
    single = page.Heat("floor", {"floor": floor, "peer": PEER}, (0.5, 1.0))
    written = tmp_path / "page.md"
    written.write_text(page.markdown(setup, single, [page.Heat("a net", LAPS, (0.0, 0.25))]))
    assert says_who_made_it(written)
    text = written.read_text()
    for line in (
        "Not run: ART (not installed).",
        "Load of the machine before and after: 0.00, 0.25.",
        "| peer | 6.000 | 5.000 to 15.000 | 6.000 | 100.0 | 100.0 |",
        "| peer | 12.0 | 10.0 to 30.0 | 12.0 | 100.0 | 100.0 | 0.8 x | 3 | 20.0 |",
        "| peer | ladder | 2.00 x | 2.00 to 6.00 | 3.00 x | 4.00 x | +2.00 | -4.00 |",
        "| peer | independent | 0.60 x | 0.50 to 1.50 | 1.00 x | 0.57 x | +0.00 | -5.00 |",
        "| ours: independent | ladder | 4.00 x | 3.33 to 4.00 | 3.00 x | 7.00 x | +2.00 | +1.00 |",
        "| 0.25 | 20.0 | 10.0 | 10.0 |",
    ):
        assert line in text.splitlines()
    assert "| ours: ladder | independent" not in text
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entrant", ENTRANTS, ids=lambda entrant: entrant.name)
def test_the_curve_of_a_linear_model_is_found(entrant: Entrant) -> None:
    """All images stand below their distance and fall above, but for the one that is wrong anyway;
    the libraries ask as often as the definition says, or twice more at each radius.
    """
    if not entrant.is_here:
        pytest.skip(f"{entrant.name} is not installed")
    lap = race.lapped(entrant, task())
    assert lap.curve == Curve((15 / 16, 0.0))
    if entrant.module:
        assert lap.backward == 2 * STEPS
        assert 2 * STEPS <= lap.forward <= 2 * (STEPS + 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entrant", SINGLE, ids=lambda entrant: entrant.name)
def test_one_attack_takes_every_step(entrant: Entrant) -> None:
    if not entrant.is_here:
        pytest.skip(f"{entrant.name} is not installed")
    lap = race.lapped(entrant, task((1e-6,)))
    assert lap.curve.accuracy in ((), (15 / 16,))
    assert lap.backward >= STEPS

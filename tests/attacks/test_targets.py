"""What an adversary aims at, and the losses taken so that more is better for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import attacks
from attacks import ThreatModel
from attacks.base import Task
from attacks.draws import Draws
from attacks.losses import LOSSES
from attacks.targets import Target, attempts, goal_of, rivals
from tests.problems import Curved, images

Y = torch.tensor([0, 1, 2, 3])
LOGITS = torch.tensor(
    [
        [9.0, 1.0, 5.0, 3.0, -7.0],
        [9.0, 1.0, 5.0, 3.0, -7.0],
        [-1.0, -2.0, -3.0, -4.0, -5.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


def task(restart: int = 0, targets: Tensor | None = None) -> Task:
    draws = Draws(0, torch.arange(4), torch.full((4,), restart))
    x = torch.zeros(4, 1, 2, 2)
    return Task(x, Y, "linf", torch.ones(4), 5, draws, targets)


@pytest.mark.parametrize(
    ("target", "restart", "expected"),
    [
        ("most_likely", 0, [2, 0, 0, 0]),
        ("least_likely", 0, [4, 4, 4, 4]),
        ("all", 0, [2, 0, 0, 0]),
        ("all", 1, [3, 2, 1, 1]),
        ("all", 3, [4, 4, 4, 4]),
        ("all", 4, [2, 0, 0, 0]),
    ],
)
def test_ranks_are_among_the_wrong_classes(
    target: Target, restart: int, expected: list[int]
) -> None:
    """Equal logits are ranked by number."""
    goal = goal_of(task(restart), target)
    assert goal.unset.all()
    settled = goal.settled(LOGITS)
    assert settled.target is not None
    assert settled.target.tolist() == expected
    assert not settled.unset.any()
    assert torch.equal(settled.settled(-LOGITS).target, settled.target)


def test_named_targets_go_before_the_attacks_own() -> None:
    targets = torch.tensor([4, 4, 4, 4])
    for kind in ("none", "next", "all"):
        goal = goal_of(task(targets=targets), kind)
        assert torch.equal(goal.target, targets)
        assert not goal.unset.any()


def test_the_next_class_is_known_at_once() -> None:
    assert goal_of(task(), "next").target.tolist() == [1, 2, 3, 4]


def test_a_goal_knows_when_it_is_reached() -> None:
    away = goal_of(task(), "none")
    assert away.reached(LOGITS).tolist() == [False, True, True, True]
    to = goal_of(task(targets=torch.tensor([2, 0, 0, 1])), "none")
    assert to.reached(LOGITS).tolist() == [False, True, True, False]


@pytest.mark.parametrize("loss", ["ce", "margin", "difference", "squared"])
def test_the_value_grows_towards_the_goal(loss: str) -> None:
    """Raising the target's logit, or lowering the label's where there is none, raises the value."""
    targets = torch.tensor([1, 0, 0, 0])
    for goal, moved, by in (
        (goal_of(task(), "none"), Y, -0.1),
        (goal_of(task(targets=targets), "none"), targets, 0.1),
    ):
        aim = goal.aim(LOSSES[loss])
        further = LOGITS.clone()
        further[torch.arange(4), moved] += by
        assert (aim.value(further) > aim.value(LOGITS)).all()


def test_targeted_dlr_is_its_formula() -> None:
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12) (Croce and Hein 2020, eq. 7)."""
    goal = goal_of(task(targets=torch.tensor([3, 4, 0, 0])), "none")
    expected = torch.tensor([-6 / (9 - 2), -8 / (9 - 2), 2 / (-1 + 3.5), 0.0])
    assert_close(goal.aim(LOSSES["dlr"]).value(LOGITS), expected)


def test_targeted_dlr_does_not_see_scale_or_shift() -> None:
    goal = goal_of(task(targets=torch.tensor([3, 4, 0, 0])), "none")
    aim = goal.aim(LOSSES["dlr"])
    assert_close(aim.value(LOGITS * 1000 - 50), aim.value(LOGITS))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("targeted", [False, True])
def test_the_aim_of_some_rows_is_that_of_the_whole(loss: str, targeted: bool) -> None:
    """Labels, signs and rivals all follow their rows."""
    targets = torch.tensor([3, 4, 0, 1]) if targeted else None
    aim = goal_of(task(targets=targets), "none").aim(LOSSES[loss])
    rows = torch.tensor([3, 0, 2])
    part = aim.each(lambda t: t[rows])
    assert_close(part.value(LOGITS[rows]), aim.value(LOGITS)[rows])


def test_attempts() -> None:
    assert attempts(2, "none", None, 10) == 2
    assert attempts(2, "all", None, 10) == 18
    assert attempts(1, "all", 9, 100) == 9
    assert attempts(1, "all", 9, 4) == 3
    assert rivals(10, None) == 9
    assert attacks.get("multitargeted:restarts=2,targets=3").attempts(10) == 6
    assert attacks.get("multitargeted:restarts=2").attempts(10) == 18


@pytest.mark.parametrize("spec", ["pgd:steps=2", "fmn:steps=2", "lbfgs", "autoattack:steps=2"])
def test_a_target_equal_to_the_label_is_refused(spec: str) -> None:
    x = images(4)
    y = Curved()(x).argmax(1)
    norm = attacks.get(spec).norms[0]
    targets = torch.stack([y[0], *(y[1:] + 1) % 10])
    with pytest.raises(ValueError, match="targets must differ from the labels, got class"):
        attacks.get(spec)(Curved(), x, y, ThreatModel(norm, 0.1), targets=targets)


@pytest.mark.parametrize("spec", ["pgd:loss=dlr", "apgd:loss=dlr"])
def test_targets_may_need_more_classes(spec: str) -> None:
    """DLR takes three, its targeted form four; with three the untargeted one runs."""
    model, x = Curved(3), images(4)
    y = model(x).argmax(1)
    threat = ThreatModel("linf", 0.1)
    attacks.get(f"{spec},steps=2")(model, x, y, threat)
    with pytest.raises(ValueError, match="needs at least 4 classes, got 3"):
        attacks.get(f"{spec},steps=2")(model, x, y, threat, targets=(y + 1) % 3)
    with pytest.raises(ValueError, match="needs at least 4 classes, got 3"):
        attacks.get(f"{spec},steps=2,target=next")(model, x, y, threat)

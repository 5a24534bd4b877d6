"""What an adversary wants of each sample: to leave its class, or to reach another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attacks.base import Attack, Task
from attacks.losses import Loss
from attacks.oracles import Aim

Target = Literal["none", "next", "random", "most_likely", "least_likely", "all"]
RANKED = ("most_likely", "least_likely", "all")
"""Targets that are read off the logits at the image."""
_UNSET = -1


@dataclass(frozen=True)
class Goal:
    """Per sample: its class y (N,), the target class (N,) or None, and the target's rank (N,).

    is_named: the caller names the targets, so that nothing else is a success. A target below 0 is
    not known yet: it is the class at that rank (0 the most likely) among the others at the image,
    which has to be looked at first.
    """

    y: Tensor
    target: Tensor | None
    rank: Tensor
    is_named: bool = False

    @property
    def unset(self) -> Tensor:
        """Whether (N,) bool the target has still to be read off the logits at the image."""
        return (
            torch.zeros_like(self.y, dtype=torch.bool) if self.target is None else self.target < 0
        )

    def settled(self, logits: Tensor) -> Goal:
        """The goal once the logits (N, K) at the image are known."""
        if self.target is None:
            return self
        others = logits.scatter(1, self.y[:, None], -torch.inf)
        ranked = others.argsort(dim=1, descending=True, stable=True)
        named = ranked.gather(1, self.rank[:, None])[:, 0]
        return replace(self, target=torch.where(self.unset, named, self.target))

    def aim(self, loss: Loss) -> Aim:
        """The loss taken so that a larger value is better for the adversary."""
        up = torch.ones_like(self.y, dtype=torch.float32)
        if self.target is None:
            return Aim(loss, self.y, up)
        target = self.target.clamp(min=0)
        if loss.pair is not None:
            return Aim(loss, self.y, up, rivals=target)
        return Aim(loss, target, -up)

    def succeeded(self, logits: Tensor) -> Tensor:
        """Whether (N,) bool the prediction is a success: any wrong class where the target is only
        the attack's own way there.
        """
        return self.reached(logits) if self.is_named else logits.argmax(1) != self.y

    def reached(self, logits: Tensor) -> Tensor:
        """Whether (N,) bool the prediction is what this goal wants."""
        prediction = logits.argmax(1)
        return prediction != self.y if self.target is None else prediction == self.target


def goal_of(task: Task, target: Target, targets: int | None = None) -> Goal:
    """The goal of a task: its own targets where it has them, else those of an attack's key.

    next: the class after the label. random: another one each restart. most_likely, least_likely: by
    the logits at the image, among the wrong classes. all: each restart another class, the most
    likely first, `targets` of them (all where None), then from the front again.
    """
    zeros = torch.zeros_like(task.y)
    if task.targets is not None:
        return Goal(task.y, task.targets, zeros, is_named=True)
    if target == "none":
        return Goal(task.y, None, zeros)
    if target in ("next", "random"):
        step = 1 if target == "next" else 1 + task.draws.integers(task.classes - 1, "target")
        return Goal(task.y, (task.y + step) % task.classes, zeros)
    rank = {
        "most_likely": zeros,
        "least_likely": torch.full_like(zeros, task.classes - 2),
        "all": task.draws.restart % rivals(task.classes, targets),
    }[target]
    return Goal(task.y, torch.full_like(zeros, _UNSET), rank)


def rivals(classes: int, targets: int | None) -> int:
    """How many wrong classes are aimed at, one after the other."""
    return classes - 1 if targets is None else min(targets, classes - 1)


def attempts(restarts: int, target: Target, targets: int | None, classes: int) -> int:
    """Independent attempts at a sample: restarts, for target `all` those of every class."""
    return restarts * (rivals(classes, targets) if target == "all" else 1)


class Aimed(Attack):
    """Base of attacks with the keys loss and target: what both mean for attempts and classes.

    targets: for target `all`, how many classes; all where None.
    """

    loss: Loss
    target: Target
    targets: int | None = None

    def attempts(self, classes: int, *, targeted: bool = False) -> int:
        """See Attack: for target `all` the restarts of every class."""
        target: Target = "none" if targeted else self.target
        return attempts(self.restarts, target, self.targets, classes)

    def least_classes(self, *, targeted: bool) -> int:
        """See Attack: what the loss needs."""
        return self.loss.least_classes(targeted=targeted or self.target != "none")

    @property
    def looks(self) -> int:
        """Queries of the image itself, which name the target: one where that is ranked."""
        return int(self.target in RANKED)

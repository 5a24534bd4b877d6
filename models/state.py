"""Where a training stands between two epochs: all that must be there again to go on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models import seeding

FORMAT = 1
"""Raised when a kept state is laid out otherwise; older ones are not gone on from."""

Memory = dict[str, Tensor]
"""What an objective carries from one update to the next."""


class Keep(Protocol):
    """A place for one state; see models.checkpoint.Partial."""

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state as it was written last, or None."""
        ...

    def write(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replaces what was there, whole or not at all."""
        ...


@dataclass
class State:
    """A training after `epoch` epochs.

    total: summed losses since the last log entry; seconds: time since then; best: score and weights
    of the best checkpoint; memory: what the objective carries along; is_over: nothing more to do.
    The global generators belong to it while `models.seeding.seeded` holds.
    """

    net: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    order: torch.Generator
    total: Tensor
    best: tuple[float, dict[str, Tensor]] = (-math.inf, {})
    memory: Memory = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    seconds: float = 0.0
    is_over: bool = False

    def write(self, keep: Keep) -> None:
        """Puts it down."""
        tensors = {
            "total": self.total,
            "order": self.order.get_state(),
            **under("net", self.net.state_dict()),
            **under("best", self.best[1]),
            **under("memory", self.memory),
            **under("generator", seeding.states(self.total.device)),
        }
        tensors |= under("optimiser", moments(self.optimiser))
        facts = {
            "format": FORMAT,
            "epoch": self.epoch,
            "score": self.best[0],
            "log": self.log,
            "seconds": self.seconds,
            "is_over": self.is_over,
            "rates": [group["lr"] for group in self.optimiser.param_groups],
            "schedule": self.schedule.state_dict(),
        }
        keep.write(tensors, facts)

    def read(self, keep: Keep) -> bool:
        """Takes up what was put down, if there is any; says whether it did."""
        found = keep.read()
        if found is None or found[1].get("format") != FORMAT:
            return False
        tensors, facts = found
        device = self.total.device
        self.net.load_state_dict(of("net", tensors))
        restore_moments(self.optimiser, of("optimiser", tensors), facts["rates"])
        self.schedule.load_state_dict(facts["schedule"])
        self.order.set_state(tensors["order"])
        seeding.restore(of("generator", tensors), device)
        self.total = tensors["total"].to(device)
        best = {name: value.to(device) for name, value in of("best", tensors).items()}
        self.best = (facts["score"], best)
        self.memory |= {name: value.to(device) for name, value in of("memory", tensors).items()}
        self.log, self.epoch, self.seconds = facts["log"], facts["epoch"], facts["seconds"]
        self.is_over = facts["is_over"]
        return True


def moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state per parameter, by number and name; momentum of a first update is
    absent.
    """
    held: dict[str, Tensor] = {}
    for number, values in optimiser.state_dict()["state"].items():
        held |= under(str(number), {k: v for k, v in values.items() if v is not None})
    return held


def restore_moments(
    optimiser: torch.optim.Optimizer,
    held: Mapping[str, Tensor],
    rates: Sequence[float] | None = None,
) -> None:
    """Puts such a state back, and the learning rates of the groups where they are given."""
    numbers = {int(name.split("/")[0]) for name in held}
    groups: list[dict[str, Any]] = optimiser.state_dict()["param_groups"]
    if rates is not None:
        groups = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    state = {number: of(str(number), held) for number in numbers}
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by names that begin with a name."""
    return {f"{name}/{key}": value for key, value in tensors.items()}


def of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `under` put under a name."""
    first = f"{name}/"
    return {key.removeprefix(first): t for key, t in tensors.items() if key.startswith(first)}

"""Dropout, off or left on at prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.pipelines import Randomised
from defenses.adversarial import exact
from defenses.base import Defended, Defense
from defenses.workshop import Workshop
from models.rebuild import last_of, replaced
from models.train import Batch, Standard


class DroppedLinear(nn.Module):
    """A linear layer, with its own parameters under their names, some of whose inputs are dropped:
    in training mode by torch's generator, else under draws, where there are any.
    """

    def __init__(self, linear: nn.Linear, rate: float):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.rate = rate
        self.training = linear.training
        self._draws: Draws | None = None

    def forward(self, x: Tensor) -> Tensor:
        """What the linear layer makes of x (N, ..., features) times the mask."""
        if self._draws is not None:
            kept = self._draws.uniform(x.shape, "dropout") >= self.rate
            x = x * kept / (1 - self.rate)
        elif self.training:
            x = F.dropout(x, self.rate)
        return F.linear(x, self.weight, self.bias)

    @contextlib.contextmanager
    def under(self, draws: Draws) -> Iterator[None]:
        """Drops by these draws meanwhile."""
        self._draws = draws
        try:
            yield
        finally:
            self._draws = None


def dropping(net: nn.Module, rate: float) -> nn.Module:
    """The net with dropout in front of its last linear layer."""
    last = last_of(net, nn.Linear)
    layer = DroppedLinear(last, rate)
    return replaced(net, lambda module: layer if module is last else None)


class LeftOn(Randomised):
    """A net whose dropout stays on at prediction."""

    def __init__(self, net: nn.Module, rate: float):
        super().__init__()
        self.net = dropping(net, rate)

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        with last_of(self.net, DroppedLinear).under(draws):
            logits: Tensor = self.net(x)
        return logits


@dataclass(frozen=True)
class Dropout(Defense):
    """Dropout: while training, inputs of the last linear layer are dropped at random (Hinton et al.
    2012, arXiv:1207.0580).

    rate: the probability of each; the others are divided by 1 - rate, and 0 is standard training
    bit for bit. on: whether dropout stays on at prediction, one mask per prediction (Gal and
    Ghahramani 2016, arXiv:1506.02142, who average many); off, the net predicts as without. The
    paper also drops inputs and every hidden layer. The model must have a torch.nn.Linear.
    """

    rate: float = 0.5
    on: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {self.rate}")

    @property
    def randomness(self) -> str:  # type: ignore[override]  # as a class it depends on nothing
        """See Defense."""
        return "dropout left on" if self.on else ""

    @property
    def deploys_net(self) -> bool:  # type: ignore[override]  # as a class it depends on nothing
        """See Defense."""
        return not self.on

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; either way it is the same net. Refuses a net without a linear layer."""
        last_of(workshop.net(), nn.Linear)
        objective = Dropping(self.rate)
        net = workshop.fit(objective, {"defense": replace(self, on=False).identity()})
        if not self.on:
            return Defended(predict=net, surrogate=net)
        pipeline = LeftOn(net, self.rate).eval()
        return Defended(predict=pipeline, surrogate=pipeline, inside=net)


@dataclass(frozen=True)
class Dropping(Standard):
    """The objective L(x, y) of a net with dropout in front of its last linear layer; judged by
    clean accuracy without.
    """

    rate: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        how = f"; {exact(self.rate)} of the last linear layer's inputs dropped"
        return super().text + (how if self.rate else "")

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        return super().loss(dropping(net, self.rate) if self.rate else net, batch)

"""L2 weight decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.adversarial import exact
from defenses.base import Defended, Defense
from defenses.workshop import Workshop
from models.train import Batch, Standard


@dataclass(frozen=True)
class WeightDecay(Defense):
    """Weight decay: minimise L(x, y) + decay / 2 |w|^2 (Goodfellow et al. 2014, arXiv:1412.6572,
    section 5).

    w: every parameter, biases among them. decay: 0 is standard training bit for bit. The paper
    compares adversarial training with an L1 penalty; L2 is what is commonly meant. The penalty is
    part of the loss, so that Adam scales its gradient along; what the model's recipe decays anyway
    (bench show resnet18) comes on top.
    """

    deploys_net: ClassVar[bool] = True

    decay: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay must be finite and at least 0, got {self.decay}")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        net = workshop.fit(Penalised(self.decay), {"defense": self.identity()})
        return Defended(predict=net, surrogate=net)


@dataclass(frozen=True)
class Penalised(Standard):
    """The objective L(x, y) + decay / 2 |w|^2; judged by clean accuracy."""

    decay: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"{super().text} + {exact(self.decay / 2)} |w|^2" if self.decay else super().text

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        clean = super().loss(net, batch)
        if self.decay == 0:
            return clean
        squares = torch.stack([parameter.square().sum() for parameter in net.parameters()])
        return clean + self.decay / 2 * squares.sum()

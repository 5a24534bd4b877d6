"""Defensive distillation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.oracles import held
from defenses.adversarial import exact
from defenses.base import Defended, Defense
from defenses.workshop import Workshop
from models import checkpoint
from models.train import Batch, Standard


class Cooled(nn.Module):
    """A net's logits divided by a temperature."""

    def __init__(self, net: nn.Module, temperature: float):
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.net(x)
        return logits / self.temperature


@dataclass(frozen=True)
class Distillation(Defense):
    """Defensive distillation: a net trained at a high temperature on the probabilities of another
    one like it (Papernot et al. 2016, arXiv:1511.04508).

    Teacher and student minimise the cross-entropy of softmax(logits / temperature), the teacher
    against the labels, the student against the teacher's probabilities; both start from the same
    weights, on the same images. What is deployed are the student's logits undivided, so that the
    softmax saturates and its gradient vanishes in float32. Attacks are handed them divided by the
    temperature (Carlini and Wagner 2016, arXiv:1607.04311). temperature: at least 1, 100 at most in
    the paper. The checkpoint most accurate on clean validation images is kept.
    """

    masking: ClassVar[str] = "a saturated softmax"
    deploys_net: ClassVar[bool] = True

    temperature: float = 100.0

    def __post_init__(self) -> None:
        if not 1 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be finite and at least 1, got {self.temperature}")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        hot = AtTemperature(self.temperature)
        shop = workshop.of(workshop.model)
        teacher = shop.fit(hot, {"defense": self.identity(), "role": "teacher"})
        digest = checkpoint.digest(teacher.state_dict())
        identity = {"defense": self.identity(), "role": "student", "teacher": digest}
        net = workshop.fit(Distilled(self.temperature, teacher), identity)
        surrogate = Cooled(net, self.temperature).eval()
        return Defended(predict=net, surrogate=surrogate)


@dataclass(frozen=True)
class AtTemperature(Standard):
    """The objective L at a temperature, against the labels."""

    temperature: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"L(x, y) at temperature {exact(self.temperature)}"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        return F.cross_entropy(net(batch.x) / self.temperature, self.wanted(batch))

    def wanted(self, batch: Batch) -> Tensor:
        """What the probabilities are compared with: labels (n,)."""
        return batch.y


@dataclass(frozen=True)
class Distilled(AtTemperature):
    """The objective L at a temperature, against a teacher's probabilities at that temperature."""

    teacher: nn.Module

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"L(x, teacher(x)) at temperature {exact(self.temperature)}"

    def wanted(self, batch: Batch) -> Tensor:
        """Probabilities (n, K)."""
        with held(self.teacher), torch.no_grad():
            logits: Tensor = self.teacher(batch.x)
        return (logits / self.temperature).softmax(1)

"""k-winners-take-all activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.adversarial import exact
from defenses.base import Defended, Defense
from defenses.straight import straight_through
from defenses.workshop import Workshop
from models.rebuild import last_of, replaced
from models.split import Split
from models.train import Batch, Standard


class Winners(nn.Module):
    """Of each image's activations the k largest as they are, 0 for the others; of equal ones the
    first win.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Activations (N, ...), k = share of their number (at least 1) of each image kept."""
        flat = x.flatten(1)
        k = max(1, round(self.share * flat.shape[1]))
        first = flat.detach().sort(dim=1, descending=True, stable=True).indices[:, :k]
        wins = torch.zeros_like(flat, dtype=torch.bool).scatter(1, first, value=True)
        return torch.where(wins, flat, 0).view_as(x)


class Smoothed(Winners):
    """The same values with the gradient of softplus."""

    def forward(self, x: Tensor) -> Tensor:
        """See Winners."""
        return straight_through(super().forward(x.detach()), F.softplus(x))


def competing(net: nn.Module, activation: Winners) -> nn.Module:
    """The net with this in place of every ReLU."""
    return replaced(net, lambda module: activation if isinstance(module, nn.ReLU) else None)


@dataclass(frozen=True)
class Kwta(Defense):
    """k-winners-take-all: in place of each ReLU, an image's k largest activations of the layer pass
    and the others become 0 (Xiao et al. 2020, arXiv:1905.10510).

    share: k over the number of activations, 0.1 or 0.2 in the paper, which raises it slowly while
    training; here it stands still. Who wins changes everywhere in input space, so that the gradient
    says little of the neighbourhood (Tramer et al. 2020, arXiv:2002.08347, estimate it from many
    points); attacks are handed the gradient of softplus in its place, which on small nets finds
    more than an average of gradients at nearby points. The model must use torch.nn.ReLU modules.
    """

    masking: ClassVar[str] = "activations that jump"

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses a net without ReLU modules."""
        last_of(workshop.net(), nn.ReLU)
        net = workshop.fit(Competing(self.share), {"defense": self.identity()})
        return Defended(
            predict=competing(net, Winners(self.share).eval()),
            surrogate=competing(net, Smoothed(self.share).eval()),
            exact=True,
        )


@dataclass(frozen=True)
class Competing(Standard):
    """The objective L(x, y) of the net with k winners in place of each ReLU."""

    share: float

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"{super().text}; {exact(self.share)} of each layer's activations win"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        return super().loss(competing(net, Winners(self.share)), batch)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:
        """Clean accuracy, which is the score."""
        return super().validate(competing(net, Winners(self.share).eval()), validation, progress)

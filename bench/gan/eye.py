"""The classifier that looks at images, and at stacked digits channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import fidelity
from models.passes import through


class Triples(nn.Module):
    """A classifier of stacked images (N, 3, H, W): logits (N, K^3) of the triple K^2 a + K b + c,
    the sums of the channels' log-probabilities.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K^3); each channel is seen alone."""
        each = self.net(x.flatten(0, 1).unsqueeze(1)).log_softmax(1)
        first, second, third = each.view(len(x), 3, -1).unbind(1)
        pairs = (first[:, :, None] + second[:, None]).flatten(1)
        logits: Tensor = (pairs[:, :, None] + third[:, None]).flatten(1)
        return logits


@dataclass(frozen=True)
class Eye:
    """A classifier in eval mode by its name; single: of one channel, where digits are stacked."""

    net: nn.Module
    name: str
    single: nn.Module | None = None

    @classmethod
    def of(cls, net: nn.Module, name: str, *, is_stacked: bool) -> Eye:
        """Of images as they are, or of stacked ones."""
        return cls(Triples(net).eval(), name, net) if is_stacked else cls(net, name)

    def labels(self, x: Tensor) -> Tensor:
        """The classes (N,) that it sees in images x (N, C, H, W)."""
        return through(_Answer(self.net), x)

    def right(self, x: Tensor, y: Tensor) -> float:
        """The share of images whose class y (N,) it sees."""
        return float((self.labels(x) == y).double().mean())

    def features(self, x: Tensor) -> Tensor:
        """What enters its last linear layer, of stacked images for all channels: (N, F)."""
        if self.single is None:
            return fidelity.features(self.net, x)
        return fidelity.features(self.single, x.flatten(0, 1).unsqueeze(1)).view(len(x), -1)

    @property
    def layer(self) -> str:
        """What the features are, in words."""
        net = self.net if self.single is None else self.single
        names = [name for name, part in net.named_modules() if isinstance(part, nn.Linear)]
        layer = f"layer {names[-1]}" if names and names[-1] else "the last layer"
        each = "" if self.single is None else ", channel by channel"
        return f"features of {self.name}, what enters its {layer}{each}"


class _Answer(nn.Module):
    """A classifier's classes (N,); logits of many triples are not kept."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The classes."""
        return torch.argmax(self.net(x), 1)

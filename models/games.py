"""What a generator and a discriminator play for: losses of the scores D(x), without a squashing
layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WON = 1e-2
_LAZY = 8
"""Updates per R1 penalty."""


@dataclass(frozen=True)
class Round:
    """A discriminator step's images (N, C, H, W), real and made (detached); mix: N numbers in
    [0, 1), update: how many steps came before.
    """

    real: Tensor
    fake: Tensor
    mix: Tensor
    update: int


class Game(Protocol):
    """Both sides' losses."""

    @property
    def text(self) -> str:
        """What the discriminator minimises, for people."""
        ...

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's."""
        ...

    def discriminator(self, net: nn.Module, turn: Round) -> tuple[Tensor, Tensor]:
        """The discriminator's loss, penalties included, and the scores (2, N) of real and made
        images.
        """
        ...

    def generator(self, scores: Tensor) -> Tensor:
        """The generator's loss from the scores (N,) of its images."""
        ...

    def is_won(self, entry: Mapping[str, float]) -> bool:
        """Whether a log entry says that the discriminator has won: nothing is left to learn."""
        ...


def _scores(net: nn.Module, turn: Round) -> Tensor:
    scores: Tensor = net(torch.cat([turn.real, turn.fake]))
    return scores.view(2, -1)


def bce(real: Tensor, fake: Tensor) -> Tensor:
    """(mean of -log s(real) + mean of -log(1 - s(fake))) / 2 of scores, s the logistic function."""
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


@dataclass(frozen=True)
class NonSaturating:
    """Cross-entropy, the generator maximising log s(D(G(z))) (Goodfellow et al. 2014,
    arXiv:1406.2661), with the R1 penalty on real images (Mescheder et al. 2018, arXiv:1801.04406),
    penalty / 2 times the squared norm of D's gradient; taken at every 8th step, times 8.
    """

    penalty: float

    @property
    def text(self) -> str:
        """See Game."""
        return f"(-log s(D(x)) - log(1 - s(D(G(z))))) / 2 + {self.penalty} / 2 |dD/dx|^2"

    @property
    def betas(self) -> tuple[float, float]:
        """Those of DCGAN (Radford et al. 2016, arXiv:1511.06434)."""
        return 0.5, 0.999

    def discriminator(self, net: nn.Module, turn: Round) -> tuple[Tensor, Tensor]:
        """See Game."""
        scores = _scores(net, turn)
        loss = bce(scores[0], scores[1])
        if self.penalty > 0 and turn.update % _LAZY == 0:
            loss = loss + _LAZY * self.penalty / 2 * _slope(net, turn.real).square().sum(1).mean()
        return loss, scores

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return F.softplus(-scores).mean()

    def is_won(self, entry: Mapping[str, float]) -> bool:
        """See Game: its loss is next to 0."""
        return entry["loss_d"] < _WON


@dataclass(frozen=True)
class Wasserstein:
    """E D(G(z)) - E D(x) + penalty E (|dD/dx| - 1)^2 at random points between real and made images
    (Gulrajani et al. 2017, arXiv:1704.00028); the generator maximises E D(G(z)).

    The norm is taken over the whole image; Defense-GAN's released code takes it per row of pixels.
    """

    penalty: float

    @property
    def text(self) -> str:
        """See Game."""
        return f"D(G(z)) - D(x) + {self.penalty} (|dD/dx| - 1)^2"

    @property
    def betas(self) -> tuple[float, float]:
        """Those of the authors' code for MNIST."""
        return 0.5, 0.9

    def discriminator(self, net: nn.Module, turn: Round) -> tuple[Tensor, Tensor]:
        """See Game."""
        scores = _scores(net, turn)
        mix = turn.mix.view(-1, 1, 1, 1)
        between = mix * turn.real + (1 - mix) * turn.fake
        steepness = _slope(net, between).norm(dim=1)
        penalty = self.penalty * (steepness - 1).square().mean()
        return scores[1].mean() - scores[0].mean() + penalty, scores

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return -scores.mean()

    def is_won(self, entry: Mapping[str, float]) -> bool:  # noqa: ARG002  its slope never vanishes
        """See Game: never."""
        return False


def _slope(net: nn.Module, x: Tensor) -> Tensor:
    """The gradient (N, ...) of each image's score, flat, itself differentiable."""
    leaf = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)
    return slope.flatten(1)

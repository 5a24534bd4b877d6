"""What a generator and a discriminator play for: losses of the scores D(x), without a squashing
layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WON, _FLAT = 1e-2, 1e-3
_LAZY = 8
"""Updates per R1 penalty."""
_SMOOTHED = 0.99
"""RMSProp's, as torch has it."""

Judge = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to scores (N,)."""


@dataclass(frozen=True)
class Round:
    """A discriminator step's images (N, C, H, W), real and made (detached); mix: N numbers in
    [0, 1), update: how many steps came before; is_apart: whether real and made images are scored in
    batches of their own, as they must be where a layer looks at the whole batch.
    """

    real: Tensor
    fake: Tensor
    mix: Tensor
    update: int
    is_apart: bool = False


class Game(ABC):
    """Both sides' losses."""

    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)
    """Adam's; those of DCGAN (Radford et al. 2016, arXiv:1511.06434)."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What the discriminator minimises, for people."""

    @property
    def has_penalty(self) -> bool:
        """Whether its loss looks at the slope at single images."""
        return False

    @abstractmethod
    def discriminator(self, judge: Judge, turn: Round) -> tuple[Tensor, Tensor]:
        """The discriminator's loss, penalties included, and the scores (2, N) of real and made
        images.
        """

    @abstractmethod
    def generator(self, scores: Tensor) -> Tensor:
        """The generator's loss from the scores (N,) of its images."""

    def optimiser(
        self, parameters: Iterable[nn.Parameter], lr: float, decay: float = 0.0
    ) -> torch.optim.Optimizer:
        """What moves one side; decay: weight of the squared weights in its loss, halved."""
        return torch.optim.Adam(parameters, lr, self.betas, weight_decay=decay)

    def after(self, net: nn.Module) -> None:  # noqa: B027  most do nothing
        """What happens to the discriminator after each of its steps."""

    def told(self, scores: Tensor) -> Tensor:
        """Scores as D(x) is told: a probability where the game is played for one."""
        return scores

    def is_won(self, entry: Mapping[str, float]) -> bool:  # noqa: ARG002  most slopes never vanish
        """Whether a log entry says that the discriminator has won: nothing is left to learn."""
        return False


def _scores(judge: Judge, turn: Round) -> Tensor:
    if turn.is_apart:
        return torch.stack([judge(turn.real), judge(turn.fake)])
    return judge(torch.cat([turn.real, turn.fake])).view(2, -1)


def bce(real: Tensor, fake: Tensor) -> Tensor:
    """(mean of -log s(real) + mean of -log(1 - s(fake))) / 2 of scores, s the logistic function."""
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def non_saturating(scores: Tensor) -> Tensor:
    """Mean of -log s of made images' scores: its slope is -(1 - s), largest where D is sure."""
    return F.softplus(-scores).mean()


def saturating(scores: Tensor) -> Tensor:
    """Mean of log(1 - s) of made images' scores: its slope is -s, which vanishes where D is
    sure.
    """
    return -F.softplus(scores).mean()


def r1(judge: Judge, turn: Round, penalty: float) -> Tensor:
    """penalty / 2 times the mean squared norm of D's gradient at real images (Mescheder et al.
    2018, arXiv:1801.04406); taken at every 8th step, times 8.
    """
    if penalty == 0 or turn.update % _LAZY:
        return turn.real.new_zeros(())
    return _LAZY * penalty / 2 * _slope(judge, turn.real).square().sum(1).mean()


@dataclass(frozen=True)
class NonSaturating(Game):
    """Cross-entropy, the generator maximising log s(D(G(z))) (Goodfellow et al. 2014,
    arXiv:1406.2661), with the R1 penalty.
    """

    slope: ClassVar[str] = "slope_nonsaturating"

    penalty: float

    @property
    def text(self) -> str:
        """See Game."""
        return f"(-log s(D(x)) - log(1 - s(D(G(z))))) / 2 + {self.penalty} / 2 |dD/dx|^2"

    @property
    def has_penalty(self) -> bool:
        """See Game."""
        return self.penalty > 0

    def discriminator(self, judge: Judge, turn: Round) -> tuple[Tensor, Tensor]:
        """See Game."""
        scores = _scores(judge, turn)
        return bce(scores[0], scores[1]) + r1(judge, turn, self.penalty), scores

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return non_saturating(scores)

    def told(self, scores: Tensor) -> Tensor:
        """See Game."""
        return scores.sigmoid()

    def is_won(self, entry: Mapping[str, float]) -> bool:
        """See Game: its loss is next to 0, and so is the generator's gradient."""
        return entry["loss_d"] < _WON and entry[self.slope] < _FLAT


@dataclass(frozen=True)
class Saturating(NonSaturating):
    """The same game for the same stakes: the generator minimises log(1 - s(D(G(z)))), the minimax
    form of Goodfellow et al. 2014.
    """

    slope: ClassVar[str] = "slope_saturating"

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return saturating(scores)


@dataclass(frozen=True)
class LeastSquares(Game):
    """((D(x) - 1)^2 + D(G(z))^2) / 2, the generator minimising (D(G(z)) - 1)^2 / 2 (Mao et al.
    2017, arXiv:1611.04076), with the R1 penalty.
    """

    penalty: float

    @property
    def text(self) -> str:
        """See Game."""
        return f"((D(x) - 1)^2 + D(G(z))^2) / 2 + {self.penalty} / 2 |dD/dx|^2"

    @property
    def has_penalty(self) -> bool:
        """See Game."""
        return self.penalty > 0

    def discriminator(self, judge: Judge, turn: Round) -> tuple[Tensor, Tensor]:
        """See Game."""
        scores = _scores(judge, turn)
        loss = ((scores[0] - 1).square().mean() + scores[1].square().mean()) / 2
        return loss + r1(judge, turn, self.penalty), scores

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return (scores - 1).square().mean() / 2


@dataclass(frozen=True)
class Wasserstein(Game):
    """E D(G(z)) - E D(x) + penalty E (|dD/dx| - 1)^2 at random points between real and made images
    (Gulrajani et al. 2017, arXiv:1704.00028); the generator maximises E D(G(z)).

    The norm is taken over the whole image; Defense-GAN's released code takes it per row of pixels.
    Adam's betas are those of the authors' code for MNIST.
    """

    betas: ClassVar[tuple[float, float]] = (0.5, 0.9)

    penalty: float

    @property
    def text(self) -> str:
        """See Game."""
        return f"D(G(z)) - D(x) + {self.penalty} (|dD/dx| - 1)^2"

    @property
    def has_penalty(self) -> bool:
        """See Game."""
        return self.penalty > 0

    def discriminator(self, judge: Judge, turn: Round) -> tuple[Tensor, Tensor]:
        """See Game."""
        scores = _scores(judge, turn)
        loss = scores[1].mean() - scores[0].mean()
        if self.penalty == 0:
            return loss, scores
        mix = turn.mix.view(-1, 1, 1, 1)
        between = mix * turn.real + (1 - mix) * turn.fake
        steepness = _slope(judge, between).norm(dim=1)
        return loss + self.penalty * (steepness - 1).square().mean(), scores

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return -scores.mean()


@dataclass(frozen=True)
class Clipped(Game):
    """E D(G(z)) - E D(x) with every weight of D moved back into [-bound, bound] after each of its
    steps (Arjovsky et al. 2017, arXiv:1701.07875), by RMSProp; the generator maximises E D(G(z)).
    """

    bound: float

    @property
    def text(self) -> str:
        """See Game."""
        return f"D(G(z)) - D(x), weights of D in [-{self.bound}, {self.bound}]"

    def discriminator(self, judge: Judge, turn: Round) -> tuple[Tensor, Tensor]:
        """See Game."""
        scores = _scores(judge, turn)
        return scores[1].mean() - scores[0].mean(), scores

    def generator(self, scores: Tensor) -> Tensor:
        """See Game."""
        return -scores.mean()

    def optimiser(
        self, parameters: Iterable[nn.Parameter], lr: float, decay: float = 0.0
    ) -> torch.optim.Optimizer:
        """See Game; with momentum the authors saw the training become unstable."""
        return torch.optim.RMSprop(parameters, lr, _SMOOTHED, weight_decay=decay)

    def after(self, net: nn.Module) -> None:
        """See Game."""
        with torch.no_grad():
            weights: list[Tensor] = list(net.parameters())
            torch._foreach_clamp_min_(weights, -self.bound)
            torch._foreach_clamp_max_(weights, self.bound)


def _slope(judge: Judge, x: Tensor) -> Tensor:
    """The gradient (N, ...) of each image's score, flat, itself differentiable."""
    leaf = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(judge(leaf).sum(), leaf, create_graph=True)
    return slope.flatten(1)

"""Repair of images of which the untouched ones are known: what a translator is trained for on pairs
(APE-GAN, Shen et al. 2017, arXiv:1707.05474).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contests import slopes
from models.games import bce, non_saturating
from models.translation import SHOWN, Translating

if TYPE_CHECKING:
    from models.gan import Players

DISTANCE, ADVERSARIAL = 0.7, 0.3
"""Weights of both parts of the translator's cost, the paper's xi_1 and xi_2."""


def discriminator_cost(clean: Tensor, made: Tensor) -> Tensor:
    """mean -log s(D(x)) + mean -log(1 - s(D(G(x_adv)))) of scores (N,), s the logistic function."""
    return 2 * bce(clean, made)


def translator_cost(made: Tensor, clean: Tensor, scores: Tensor) -> Tensor:
    """0.7 mean (G(x_adv) - x)^2 + 0.3 mean -log s(D(G(x_adv))) of images made (N, C, H, W), the
    clean ones, and the scores (N,) of those made.
    """
    return DISTANCE * F.mse_loss(made, clean) + ADVERSARIAL * non_saturating(scores)


@dataclass(frozen=True, eq=False)
class Paired(Translating):
    """Attacked images (N, C, H, W) and, in the same order, the clean ones they are made of, on the
    translator's device. Each step draws pairs of its own.
    """

    attacked: Tensor
    clean: Tensor
    batch: int

    @property
    def text(self) -> str:
        """See models.gan.Contest."""
        return (
            f"-log s(D(x)) - log(1 - s(D(G(x_adv)))), G {DISTANCE} |G(x_adv) - x|^2 - "
            f"{ADVERSARIAL} log s(D(G(x_adv)))"
        )

    def discriminator(self, players: Players, number: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002  all are alike
        """See models.gan.Contest: D as a probability."""
        attacked, clean = self._drawn(players)
        with torch.no_grad():
            made = players.generator(attacked)
        scores: Tensor = players.discriminator(torch.cat([clean, made])).view(2, -1)
        return discriminator_cost(*scores), scores.detach().sigmoid().mean(1)

    def generator(self, players: Players) -> Tensor:
        """See models.gan.Contest."""
        attacked, clean = self._drawn(players)
        made = players.generator(attacked)
        return translator_cost(made, clean, players.discriminator(made))

    def shown(self, generator: nn.Module) -> Tensor:
        """See models.gan.Contest: the first attacked images, those repaired, the clean ones."""
        few = slice(0, SHOWN)
        return torch.cat([self.attacked[few], generator(self.attacked[few]), self.clean[few]])

    def slopes(self, players: Players) -> Tensor:
        """See models.gan.Contest: of the first batch."""
        made = players.generator(self.attacked[: self.batch])
        return slopes(players.discriminator(made), players.generator)

    def _drawn(self, players: Players) -> tuple[Tensor, Tensor]:
        """A batch of pairs."""
        at, size = self.clean.device, (self.batch,)
        index = torch.randint(len(self.clean), size, generator=players.random, device=at)
        return self.attacked[index], self.clean[index]

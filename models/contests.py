"""Images from latents: what the steps of an ordinary GAN are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from models.games import Game, Judge, Round, non_saturating, saturating
from models.generators import Generator

if TYPE_CHECKING:
    from models.gan import Players, Settings

PAGE = 256
"""Images that show how far a generator is."""
_SHOWN = 2
"""Seed of their latents, and of those whose slopes are measured."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """Made images against training images x (N, C, H, W) on the generator's device.

    labels: (N,), of a conditional pair: the discriminator is handed those of a real image, and of a
    made one the label that was asked for, in its own step the same. pack: images that the
    discriminator judges together, channels side by side (PacGAN, Lin et al. 2018,
    arXiv:1712.04086). noise: standard deviation of what is added to whatever it sees. is_apart: see
    models.games.Round.
    """

    x: Tensor
    labels: Tensor | None
    game: Game
    batch: int
    pack: int = 1
    noise: float = 0.0
    is_apart: bool = False

    def __post_init__(self) -> None:
        if self.batch % self.pack:
            raise ValueError(f"batch must be a multiple of pack {self.pack}, got {self.batch}")

    @property
    def text(self) -> str:
        """See models.gan.Contest."""
        return self.game.text

    def optimisers(
        self, generator: nn.Module, discriminator: nn.Module, settings: Settings
    ) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """See models.gan.Contest."""
        return (
            self.game.optimiser(generator.parameters(), settings.lr),
            self.game.optimiser(discriminator.parameters(), settings.lr, settings.decay),
        )

    def discriminator(self, players: Players, number: int) -> tuple[Tensor, Tensor]:
        """See models.gan.Contest: with fresh noise, and without a gradient for the generator."""
        z = self._latents(players)
        at, size = self.x.device, (self.batch,)
        index = torch.randint(len(self.x), size, generator=players.random, device=at)
        mix = torch.rand((self.batch // self.pack,), generator=players.random, device=at)
        labels = None if self.labels is None else self.labels[index]
        maker = _maker(players)
        with torch.no_grad():
            fake = maker.play(z if labels is None else maker.asked(z, labels), players.random)
        turn = Round(
            self._packed(maker.faded(self.x[index])),
            self._packed(fake),
            mix,
            number,
            is_apart=self.is_apart,
        )
        loss, scores = self.game.discriminator(self._judge(players, labels), turn)
        return loss, self.game.told(scores.detach()).mean(1)

    def generator(self, players: Players) -> Tensor:
        """See models.gan.Contest: with noise of its own."""
        z, maker = self._latents(players), _maker(players)
        made = maker.play(z, players.random)
        return self.game.generator(self._judge(players, maker.labels(z))(self._packed(made)))

    def after(self, discriminator: nn.Module) -> None:
        """See models.gan.Contest."""
        self.game.after(discriminator)

    def shown(self, generator: nn.Module) -> Tensor:
        """See models.gan.Contest."""
        return cast(Generator, generator).sample(PAGE, _SHOWN)

    def slopes(self, players: Players) -> Tensor:
        """See models.gan.Contest: of a batch, without noise on what the discriminator sees."""
        maker = _maker(players)
        z = maker.latents(self.batch, _SHOWN)
        images, labels = self._packed(maker(z)), maker.labels(z)
        net = players.discriminator
        scores = net(images) if labels is None else net(images, self._together(labels))
        return slopes(scores, maker)

    def is_won(self, entry: Mapping[str, float]) -> bool:
        """See models.gan.Contest."""
        return self.game.is_won(entry)

    def _latents(self, players: Players) -> Tensor:
        """Fresh latents from the generator's prior."""
        maker = _maker(players)
        size = (self.batch, maker.latent)
        numbers = torch.rand(size, generator=players.random, device=self.x.device)
        return maker.prior.latents(numbers)

    def _packed(self, images: Tensor) -> Tensor:
        return images.reshape(len(images) // self.pack, -1, *images.shape[2:])

    def _together(self, labels: Tensor) -> Tensor:
        return labels.view(-1, self.pack)

    def _judge(self, players: Players, labels: Tensor | None) -> Judge:
        """The discriminator with the labels at hand, looking through noise."""
        net, random = players.discriminator, players.random

        def judge(x: Tensor) -> Tensor:
            if self.noise > 0:
                dots = torch.randn(x.shape, generator=random, device=x.device, dtype=x.dtype)
                x = x + self.noise * dots
            if labels is None:
                return cast(Tensor, net(x))
            own = self._together(labels)
            # Real and made images, where they come together, share their labels.
            return cast(Tensor, net(x, own.repeat(len(x) // len(own), 1)))

        return judge


def _maker(players: Players) -> Generator:
    return cast(Generator, players.generator)


def slopes(scores: Tensor, net: nn.Module) -> Tensor:
    """The norm (2,) of a net's gradient under the saturating and the non-saturating cost of the
    scores (N,) of its images.
    """
    moved = [p for p in net.parameters() if p.requires_grad]
    norms = [
        # Layers that are not grown yet have no part in it.
        torch.stack([slope.norm() for slope in each]).norm()
        for each in (
            torch.autograd.grad(loss, moved, retain_graph=True, materialize_grads=True)
            for loss in (saturating(scores), non_saturating(scores))
        )
    ]
    return torch.stack(norms)

"""Translation between two kinds of images that nobody has paired: nets from images to images, what
judges their answers, and what they are trained for (CycleGAN, Zhu et al. 2017, arXiv:1703.10593).

Domain A has images x, B images y; G takes A to B, F takes B to A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from models.contests import slopes
from models.nets import Centre, Shape

if TYPE_CHECKING:
    from models.gan import Players, Settings

POOL = 50
"""Earlier translations per domain that a discriminator is shown, the paper's number."""
SHOWN = 10
"""Images of A that show how far a pair is."""
LEAST_SIDE = 2
"""Pixels that images have on each side, for the discriminator's strides."""
_BETAS = 0.5, 0.999
"""Adam's, those of the released code."""

_MARGIN = 0.01
"""How far from 0 and 1 a fresh translator leaves black and white."""
_BLOCKS = 2


class _Residual(nn.Module):
    """Two convolutions 3x3, added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        made: Tensor = x + self.inner(x)
        return made


class _Translator(nn.Module):
    """s(logit(x) + f(x)), s the logistic function and x moved a little away from 0 and 1."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias) if last.bias is not None else None
        self.change = nn.Sequential(
            Centre(),
            nn.Conv2d(channels, width, 3, padding=1),
            *(_Residual(width) for _ in range(_BLOCKS)),
            nn.ReLU(),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1]."""
        # Noise may have moved images out of [0, 1], where there is no logit.
        inside = _MARGIN + (1 - 2 * _MARGIN) * x.clamp(0, 1)
        made: Tensor = torch.sigmoid(torch.logit(inside) + self.change(x))
        return made


def translator(shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W), moved into [0, 1], to images of that shape in (0, 1): a convolution 3x3,
    two residual blocks and a convolution, what it adds to the logit of each pixel.

    Fully convolutional, so for any sides; `width` channels inside. A fresh one changes no pixel by
    more than 0.01, and a gradient reaches every pixel, black and white among them. Zhu et al.
    (2017, arXiv:1703.10593) have two strides, six or nine blocks and instance norm, for images of
    128 and 256 pixels.
    """
    return _Translator(shape[0], width)


class _Patches(nn.Module):
    """Scores (N, 1, h, w) of patches to their mean (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        """One number per image."""
        return x.flatten(1).mean(1)


def patch_discriminator(shape: Shape, width: int) -> nn.Module:
    """Images (N, C, H, W) to scores (N,), each the mean over patches of 15x15 pixels (Isola et al.
    2017, arXiv:1611.07004): two convolutions 3x3 of stride 2 (width, 2 width channels) with leaky
    rectifiers, and one to a score.

    Fully convolutional, for sides of at least 1. No norm, so that an image's score depends on no
    other; the papers' patches have 70x70 pixels, and the cost is taken per patch.
    """
    return nn.Sequential(
        Centre(),
        nn.Conv2d(shape[0], width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, padding=1),
        _Patches(),
    )


class Pair(nn.Module):
    """Two translators: there, of A to B, the paper's G; back, of B to A, its F."""

    def __init__(self, there: nn.Module, back: nn.Module):
        super().__init__()
        self.there, self.back = there, back

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) of A as images of B."""
        made: Tensor = self.there(x)
        return made

    def again(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) of A, there and back."""
        made: Tensor = self.back(self.there(x))
        return made


class Judges(nn.Module):
    """The discriminators of both domains, and the translations that they were shown before."""

    pool: Tensor

    def __init__(self, of_a: nn.Module, of_b: nn.Module, shape: Shape):
        super().__init__()
        self.of_a, self.of_b = of_a, of_b
        self.register_buffer("pool", torch.zeros(2, POOL, *shape))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N,) of images taken for ones of A, and (M,) of others taken for ones of B."""
        return self.of_a(a), self.of_b(b)

    def mixed(self, made: Tensor, number: int, random: torch.Generator) -> Tensor:
        """Translations (2, N, C, H, W) with about half of them exchanged for earlier ones
        (Shrivastava et al. 2017, arXiv:1612.07828), as they are until the pool is full; number: of
        calls before. Of more than 50 the first 50 take part.
        """
        count = min(made.shape[1], POOL)
        fresh, seen = made[:, :count], number * count
        if seen < POOL:
            self.pool[:, torch.arange(seen, seen + count, device=made.device) % POOL] = fresh
            return made
        places = torch.randperm(POOL, generator=random, device=made.device)[:count]
        is_old = torch.rand(count, generator=random, device=made.device) < 1 / 2
        old, chosen = self.pool[:, places], is_old.view(-1, 1, 1, 1)
        self.pool[:, places] = torch.where(chosen, fresh, old)
        return torch.cat([torch.where(chosen, old, fresh), made[:, count:]], 1)


def discriminator_cost(real: Tensor, made: Tensor) -> Tensor:
    """(mean (D(y) - 1)^2 + mean D(G(x))^2) / 2 of one domain's scores (N,), least squares (Mao et
    al. 2017, arXiv:1611.04076).
    """
    return ((real - 1).square().mean() + made.square().mean()) / 2


def adversarial_cost(made: Tensor) -> Tensor:
    """A translator's cost, mean (D(G(x)) - 1)^2 of the scores (N,) of its images."""
    return (made - 1).square().mean()


def distance(one: Tensor, other: Tensor) -> Tensor:
    """The mean over images (N, C, H, W) of |one - other|_1, itself the mean over pixels, as in the
    released code.
    """
    return (one - other).abs().mean()


def cycle_cost(a: Tensor, again_a: Tensor, b: Tensor, again_b: Tensor) -> Tensor:
    """mean |F(G(x)) - x|_1 + mean |G(F(y)) - y|_1, each mean over the images of its own domain;
    at least 0, and 0 for a pair of identities.

    Some lecture notes print it with a minus sign before both terms: minimised, that goes to minus
    infinity with the error of reconstruction, and the averages there run over made images.
    """
    return distance(again_a, a) + distance(again_b, b)


def identity_cost(pair: Pair, a: Tensor, b: Tensor) -> Tensor:
    """mean |F(x) - x|_1 + mean |G(y) - y|_1: what is where it should be stays as it is."""
    return distance(pair.back(a), a) + distance(pair.there(b), b)


class Translating:
    """What contests share whose made images are tied to given ones."""

    def optimisers(
        self, generator: nn.Module, discriminator: nn.Module, settings: Settings
    ) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """See models.gan.Contest."""
        return (
            torch.optim.Adam(generator.parameters(), settings.lr, _BETAS),
            torch.optim.Adam(
                discriminator.parameters(), settings.lr, _BETAS, weight_decay=settings.decay
            ),
        )

    def after(self, discriminator: nn.Module) -> None:
        """See models.gan.Contest: nothing."""

    def is_won(self, entry: Mapping[str, float]) -> bool:  # noqa: ARG002  the tie is left to learn
        """See models.gan.Contest: never."""
        return False


@dataclass(frozen=True, eq=False)
class Cycle(Translating):
    """Images a (N, C, H, W) of A and b (M, C, H, W) of B on the pair's device, drawn independently
    of each other: the five costs, both discriminators', both translators', and `cycle` times the
    cycle's; same: weight of the identity cost, half of `cycle` where the paper has it.
    """

    a: Tensor
    b: Tensor
    batch: int
    cycle: float = 10.0
    same: float = 0.0

    @property
    def text(self) -> str:
        """See models.gan.Contest."""
        return (
            "((D(y) - 1)^2 + D(G(x))^2) / 2 of both domains, G and F (D(G(x)) - 1)^2 of both + "
            f"{self.cycle} (|F(G(x)) - x| + |G(F(y)) - y|) + {self.same} (|F(x) - x| + "
            "|G(y) - y|)"
        )

    def discriminator(self, players: Players, number: int) -> tuple[Tensor, Tensor]:
        """See models.gan.Contest: the sum of both, which share no weight; D is told as the mean
        score over both domains.
        """
        pair, judges = _seats(players)
        a, b = self._drawn(players)
        with torch.no_grad():
            made = torch.stack([pair.back(b), pair.there(a)])
            made = judges.mixed(made, number, players.random)
        (real_a, real_b), (made_a, made_b) = judges(a, b), judges(*made)
        loss = discriminator_cost(real_a, made_a) + discriminator_cost(real_b, made_b)
        told = torch.stack([real_a + real_b, made_a + made_b]).mean(1) / 2
        return loss, told.detach()

    def generator(self, players: Players) -> Tensor:
        """See models.gan.Contest: with images of its own."""
        pair, judges = _seats(players)
        a, b = self._drawn(players)
        made_b, made_a = pair.there(a), pair.back(b)
        of_a, of_b = judges(made_a, made_b)
        loss = adversarial_cost(of_a) + adversarial_cost(of_b)
        if self.cycle > 0:
            again_a, again_b = pair.back(made_b), pair.there(made_a)
            loss = loss + self.cycle * cycle_cost(a, again_a, b, again_b)
        if self.same > 0:
            loss = loss + self.same * identity_cost(pair, a, b)
        return loss

    def shown(self, generator: nn.Module) -> Tensor:
        """See models.gan.Contest: the first images of A, those in B, those back in A."""
        pair, a = cast(Pair, generator), self.a[:SHOWN]
        return torch.cat([a, pair.there(a), pair.again(a)])

    def slopes(self, players: Players) -> Tensor:
        """See models.gan.Contest: of the first batch of each domain, scores taken for logits."""
        pair, judges = _seats(players)
        scores = judges(pair.back(self.b[: self.batch]), pair.there(self.a[: self.batch]))
        return slopes(torch.cat(scores), pair)

    def _drawn(self, players: Players) -> tuple[Tensor, Tensor]:
        """A batch of each domain."""
        at, size = self.a.device, (self.batch,)
        a, b = (
            x[torch.randint(len(x), size, generator=players.random, device=at)]
            for x in (self.a, self.b)
        )
        return a, b


def _seats(players: Players) -> tuple[Pair, Judges]:
    return cast(Pair, players.generator), cast(Judges, players.discriminator)

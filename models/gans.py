"""What every generator recipe has: an architecture, what it plays against, and how it is trained
by default.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from models import checkpoint, gan, generators
from models.contested import Contested
from models.contests import Sampling
from models.games import Clipped, Game, LeastSquares, NonSaturating, Saturating, Wasserstein
from models.generators import Generator
from models.nets import Shape
from models.priors import PRIORS
from models.seeding import seeded
from models.split import Split

Objective = Literal[
    "wasserstein", "wasserstein_clip", "nonsaturating", "saturating", "least_squares"
]
PriorName = Literal["normal", "uniform", "truncated"]
_GAMES: Mapping[str, tuple[type[Game], float]] = {
    "wasserstein": (Wasserstein, 10.0),
    "wasserstein_clip": (Clipped, 0.01),
    "nonsaturating": (NonSaturating, 0.1),
    "saturating": (Saturating, 0.1),
    "least_squares": (LeastSquares, 0.1),
}
"""What is played for, and the penalty where none is named."""


@dataclass(frozen=True)
class Gan(Contested[Generator]):
    """Base of every generator recipe.

    latent: components of a latent; prior: normal, N(0, 1 / latent), uniform of the same variance,
    or truncated, a normal without what is beyond two standard deviations. objective: wasserstein,
    with gradient penalty, wasserstein_clip, with clipped weights, nonsaturating or saturating
    cross-entropy, or least_squares. penalty: weight of the gradient penalty (none: 10), of R1
    (none: 0.1), or the bound of clipped weights (none: 0.01). updates: of the generator, 0 leaves
    it untrained; batch: images per step; critic: discriminator steps per update; lr: the learning
    rate of both; ema: of the averaged weights that are kept; noise: standard deviation of what is
    added to the discriminator's images; decay: weight of its squared weights in its loss, halved;
    pack: images that it judges together (PacGAN); seed: of initialisation, order and noise;
    weights: a safetensors, .pt or .pth file to load instead of training.
    """

    makes: ClassVar[str] = "images of latents"

    latent: int = 64
    prior: PriorName = "normal"
    objective: Objective = "wasserstein"
    penalty: float | None = None
    updates: int | None = None
    batch: int = 64
    critic: int = 2
    lr: float = 1e-3
    ema: float = 0.999
    noise: float = 0.0
    decay: float = 0.0
    pack: int = 1
    seed: int = 0
    weights: str | None = field(default=None, metadata={"content": True})

    def __post_init__(self) -> None:
        self.check_training()
        for name in ("latent", "pack"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._check_game()
        if self.batch % self.pack:
            raise ValueError(f"batch must be a multiple of pack, got {self.batch} and {self.pack}")

    def _check_game(self) -> None:
        if self.objective not in _GAMES or self.prior not in PRIORS:
            raise ValueError(f"no objective {self.objective!r}, or no prior {self.prior!r}")
        if self.penalty is not None and not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")
        if self.penalty == 0 and self.objective == "wasserstein_clip":
            raise ValueError("penalty must be above 0 with wasserstein_clip: it bounds the weights")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be at least 0, got {self.noise}")

    @abstractmethod
    def net(self, shape: Shape) -> nn.Module:
        """A freshly initialised net, latents (N, d) to images (N, C, H, W) in [0, 1]."""

    @abstractmethod
    def discriminator(self, shape: Shape) -> nn.Module:
        """What it plays against, images (M, C, H, W) to scores (M,); where several are judged
        together, C is the channels of all of them.
        """

    @property
    def labels(self) -> int:
        """How many classes can be asked for; as many further components of a latent say which."""
        return 0

    @property
    def is_apart(self) -> bool:
        """Whether the discriminator has layers that look at a whole batch."""
        return False

    @property
    def game(self) -> Game:
        """What is played for."""
        kind, usual = _GAMES[self.objective]
        made: Game = kind(usual if self.penalty is None else self.penalty)  # type: ignore[call-arg]
        return made

    def contest(self, train: Split, device: torch.device) -> gan.Contest:
        """What its training is made of; refuses labels that it cannot be asked for."""
        if self.labels and sorted(set(train.y.tolist())) != list(range(self.labels)):
            raise ValueError(
                f"classes must be those of the data, 0 to {int(train.y.max())}, got {self.labels}"
            )
        return Sampling(
            train.images(slice(None), device),
            train.y.to(device) if self.labels else None,
            self.game,
            self.batch,
            self.pack,
            self.noise,
            is_apart=self.is_apart,
        )

    def opponent(self, shape: Shape) -> nn.Module:
        """The discriminator of images (C, H, W), initialised under the seed after its own."""
        with seeded(self.seed + 1):
            return self.discriminator((shape[0] * self.pack, *shape[1:]))

    def build(self, shape: Shape) -> Generator:
        """The generator in eval mode, initialised under the seed, with the weights where there are
        any; refuses one that does not fit images (C, H, W).
        """
        with seeded(self.seed):
            size = self.latent + self.labels
            made = Generator(self.net(shape), size, self.prior, shape, self.labels)
        if self.weights is not None:
            checkpoint.load_into(self.holder(made), Path(self.weights))
        generators.check(made.eval(), shape)
        return made

    def holder(self, made: Generator) -> nn.Module:
        """What weights= are loaded into."""
        return made

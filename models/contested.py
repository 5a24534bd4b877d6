"""What every recipe has whose net is trained against a discriminator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import nn

from models import gan
from models.nets import Shape, is_small
from models.registry import generators as table
from models.split import Split

Net = TypeVar("Net", bound=nn.Module)


class Contested(ABC, Generic[Net]):
    """Base of recipes that the GAN loop trains: at least the keys updates, batch, critic, lr, ema,
    decay, seed and weights.

    makes: what the net makes of what, for refusals; usual_updates: where the key says none, of
    images below 512 components and of others.
    """

    revision: ClassVar[int] = 1
    makes: ClassVar[str]
    usual_updates: ClassVar[tuple[int, int]] = 600, 6000

    updates: int | None
    batch: int
    critic: int
    lr: float
    ema: float
    decay: float
    seed: int
    weights: str | None

    def check_training(self) -> None:
        """Refuses what is out of range."""
        for name in ("batch", "critic", "width"):
            if getattr(self, name, 1) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.updates is not None and self.updates < 0:
            raise ValueError(f"updates must be at least 0, got {self.updates}")
        self._check_rates()
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"weights must be a file, got {self.weights}")

    def _check_rates(self) -> None:
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay must be at least 0, got {self.decay}")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    @abstractmethod
    def build(self, shape: Shape) -> Net:
        """The net for images (C, H, W) in eval mode, initialised under the seed, with the weights
        where there are any; refuses images that it does not fit.
        """

    @abstractmethod
    def opponent(self, shape: Shape) -> nn.Module:
        """The discriminator of images (C, H, W), initialised under the seed after the net's."""

    @abstractmethod
    def contest(self, train: Split, device: torch.device) -> gan.Contest:
        """What its training is made of."""

    @property
    def is_given(self) -> bool:
        """Whether there is nothing to train."""
        return self.weights is not None

    @property
    def is_untrained(self) -> bool:
        """Whether it is a net that nobody has trained."""
        return self.weights is None and self.updates == 0

    def settings(self, shape: Shape) -> gan.Settings:
        """How it is trained on images (C, H, W)."""
        small, large = self.usual_updates
        usual = small if is_small(shape) else large
        updates = usual if self.updates is None else self.updates
        return gan.Settings(
            updates, self.batch, self.critic, self.lr, self.ema, self.seed, self.decay
        )

    def made_of(self, shape: Shape, fingerprint: str) -> dict[str, Any]:
        """Whatever changes its weights but the machine; fingerprint: the dataset's."""
        return {
            "data": fingerprint,
            "generator": self.identity(),
            "settings": {k: repr(v) for k, v in vars(self.settings(shape)).items()},
            "revision": gan.REVISION,
        }

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The recipe that a spec names."""
        recipe = table.get(text)
        if isinstance(recipe, cls):
            return recipe
        if isinstance(recipe, Contested):
            name = table.name_of(recipe)
            raise ValueError(  # noqa: TRY004  the spec is wrong, not the program
                f"{name} makes {recipe.makes}, and a generator that makes {cls.makes} is needed"
            )
        raise TypeError(f"{text!r} must name a generator, got {type(recipe).__name__}")

    def to_spec(self) -> str:
        """The shortest spec of this recipe."""
        return table.describe(self)

    def identity(self) -> dict[str, Any]:
        """What the recipe is, for digests."""
        return table.identity(self)

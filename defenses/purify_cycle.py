"""Purification by a translator of adversarial images into clean ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks import loop
from attacks.base import Attack
from attacks.pgd import Pgd
from defenses.base import Defended
from defenses.crafting import Ball, CraftingRecipe
from defenses.reformed import MODES, reformed
from defenses.workshop import Workshop
from models import checkpoint, gan
from models.cyclegan import LEAST_SIDE, Translation
from models.nets import Shape
from models.split import Split

_MOST = 5000
"""Training images that are attacked."""


@dataclass(frozen=True)
class PurifyCycle(CraftingRecipe):
    """A translator: the classifier sees what one half of a CycleGAN, trained between adversarial
    and clean images that nobody paired, makes of x (Zhu et al. 2017, arXiv:1703.10593).

    Domain A is the first half of the training images, at most 5,000, after `attack` on the
    undefended classifier; B is the other half as it is, so that no image has its pair. Both
    translators and discriminators are those of `cyclegan`, and so are cycle, the weight of the
    cycle cost, width, channels of every net, and updates (none: 500 of images below 512 components,
    else 2,000). same: weight of the identity cost, which keeps clean images as they are: half of
    the cycle's as in the paper. attack: any budget attack; norm, eps: the ball, by default the
    run's norm and the dataset's reference eps; seed: of the nets, their training and the attack's
    starts. The classifier is the undefended one.

    Nothing hides a gradient: an attack on the whole is white-box and the one to read. bpda (the
    identity in place of the translator backward) and transfer from another net run beside it.
    """

    eps: float | None = None
    norm: str | None = None
    attack: Attack = Pgd(steps=10)  # noqa: RUF009  a frozen dataclass
    cycle: float = 10.0
    same: float = 5.0
    width: int = 16
    updates: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_ball()
        if self.updates == 0:
            raise ValueError("updates must be at least 1, got 0")
        self._cleaning("", _untouched)

    def _cleaning(self, source: str, craft: Callable[[Split], Tensor]) -> Cleaning:
        return Cleaning(
            cycle=self.cycle,
            same=self.same,
            width=self.width,
            updates=self.updates,
            seed=self.seed,
            defense=self,
            source=source,
            craft=craft,
        )

    @property
    def modes(self) -> tuple[str, ...]:
        """See Defense."""
        return MODES

    def identity(self) -> dict[str, Any]:
        """See Defense; the pair is known by how it is trained."""
        return {**super().identity(), "gan": gan.REVISION}

    def check_data(self, shape: Shape, validation: int) -> None:
        """See CraftingRecipe; refuses images too small for a translator, too."""
        super().check_data(shape, validation)
        if min(shape[1:]) < LEAST_SIDE:
            raise ValueError(
                f"purify_cycle needs images of at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got "
                f"{shape[1]} x {shape[2]}"
            )

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; images are attacked only where the cache does not have the pair."""
        eps, norm = self.filled(workshop.classes)
        _, validation = workshop.splits()
        self.check_data(workshop.shape, len(validation))
        net, ball = workshop.undefended(), Ball(norm, eps, workshop.classes)

        def craft(split: Split) -> Tensor:
            workshop.say(f"attacking {len(split):,} training images with {self.attack.to_spec()}")
            return ball.of_split(self.inner, net, split, self.seed, workshop.device)

        cleaning = self._cleaning(checkpoint.digest(net.state_dict()), craft)
        pair = workshop.generator(cleaning).generator.requires_grad_(requires_grad=False)
        return reformed(pair.there, net, workshop, None, inside=net)


@dataclass(frozen=True, kw_only=True)
class Cleaning(Translation):
    """The pair of a defense: A, training images attacked by `craft` (split to images where it has
    them), which is known by the digest of the net they are made on, the source.
    """

    defense: PurifyCycle = field(compare=False)
    source: str
    craft: Callable[[Split], Tensor] = field(compare=False)

    def domains(self, train: Split, device: torch.device) -> tuple[Tensor, Tensor]:
        """See Translation."""
        half = math.ceil(len(train) / 2)
        attacked = self.craft(train.take(torch.arange(min(half, _MOST))))
        return attacked.to(device), train.images(slice(half, None), device)

    def to_spec(self) -> str:
        """The defense's."""
        return self.defense.to_spec()

    def identity(self) -> dict[str, Any]:
        """The defense's, and whose adversarial images they are."""
        made_by = {"engine": loop.CRAFTING, "source": self.source}
        return {"defense": self.defense.identity(), **made_by}


def _untouched(split: Split) -> Tensor:
    """The images as they are: the recipe is looked at without a net."""
    return split.images(slice(None))

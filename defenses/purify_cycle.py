"""Purification by a translator of adversarial images into clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from attacks.base import Attack
from attacks.pgd import Pgd
from defenses.translating import Attacked, OfDefense, TranslatingRecipe
from models.cyclegan import Translation
from models.split import Split
from models.translation import Pair

_MOST = 5000
"""Training images that are attacked."""


@dataclass(frozen=True)
class PurifyCycle(TranslatingRecipe):
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
        self.check()

    def trained(self, attacked: Attacked) -> Cleaning:
        """See TranslatingRecipe."""
        return Cleaning(
            cycle=self.cycle,
            same=self.same,
            width=self.width,
            updates=self.updates,
            seed=self.seed,
            defense=self,
            attacked=attacked,
        )

    def translator(self, net: nn.Module) -> nn.Module:
        """See TranslatingRecipe: the half that cleans."""
        return cast(Pair, net).there


@dataclass(frozen=True, kw_only=True)
class Cleaning(OfDefense, Translation):
    """The pair of a defense: A, attacked training images; B, others."""

    defense: PurifyCycle = field(compare=False)
    attacked: Attacked = field(compare=False)

    def domains(self, train: Split, device: torch.device) -> tuple[Tensor, Tensor]:
        """See Translation."""
        half = math.ceil(len(train) / 2)
        attacked = self.attacked.craft(train.take(torch.arange(min(half, _MOST))))
        return attacked.to(device), train.images(slice(half, None), device)

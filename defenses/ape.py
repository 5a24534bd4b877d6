"""Adversarial perturbation elimination by a translator trained on pairs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import nn

from attacks.base import Attack
from attacks.fgsm import Fgsm
from defenses.translating import Attacked, OfDefense, TranslatingRecipe
from models import gan
from models.contested import Contested
from models.nets import Shape
from models.pairs import Paired
from models.seeding import seeded
from models.split import Split
from models.translation import patch_discriminator, translator

_MAKERS = 2
_MOST = 20_000
"""Training images that are attacked."""


@dataclass(frozen=True)
class Ape(TranslatingRecipe):
    """APE-GAN: the classifier sees what a translator, trained on adversarial images and the clean
    ones they are made of, makes of x (Shen et al. 2017, arXiv:1707.05474).

    Training images, at most 20,000, are attacked once on the undefended classifier. The translator
    G minimises 0.7 |G(x_adv) - x|^2 - 0.3 log s(D(G(x_adv))), the discriminator D its cross-entropy
    between clean and translated images; two steps of G per step of D, Adam with beta1 0.5. attack:
    any budget attack, by default the paper's. norm, eps: the ball, by default the run's norm and
    half the dataset's reference eps, on MNIST the 0.15 of a public implementation; on digits, at
    0.15, a translator trained on all of it (eps=0.15) stands better against attacks on the bare
    classifier and worse against those on the whole, which count. That implementation has lr 2e-4
    and batches of 128. width: channels of both nets, which are those of models.translation, without
    batch norm and smaller than the authors'. updates: of D; none means 2,000, of images below 512
    components 500. batch: pairs per step, drawn anew for each of the three steps. lr: of both.
    seed: of the nets, their training and the attack's starts. The classifier is the undefended one.

    Nothing hides a gradient: an attack on the whole is white-box and the one to read. bpda (the
    identity in place of the translator backward) and transfer from another net run beside it.
    """

    eps: float | None = None
    norm: str | None = None
    attack: Attack = Fgsm()  # noqa: RUF009  a frozen dataclass
    width: int = 16
    updates: int | None = None
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()

    def at(self, norm: str, reference: float | None) -> Self:
        """See CraftingRecipe: half the reference eps."""
        return super().at(norm, None if reference is None else reference / 2)

    def trained(self, attacked: Attacked) -> Repair:
        """See TranslatingRecipe."""
        return Repair(
            width=self.width,
            updates=self.updates,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
            defense=self,
            attacked=attacked,
        )

    def translator(self, net: nn.Module) -> nn.Module:
        """See TranslatingRecipe: the net itself."""
        return net


@dataclass(frozen=True, kw_only=True)
class Repair(OfDefense, Contested[nn.Module]):
    """The translator of the defense as the GAN loop takes it; the weights kept are the last."""

    makes: ClassVar[str] = "images of images"
    usual_updates: ClassVar[tuple[int, int]] = 500, 2000

    width: int
    updates: int | None
    batch: int
    lr: float
    seed: int
    defense: Ape = field(compare=False)
    attacked: Attacked = field(compare=False)
    critic: int = 1
    ema: float = 0.0
    decay: float = 0.0
    weights: str | None = None

    def __post_init__(self) -> None:
        self.check_training()

    def build(self, shape: Shape) -> nn.Module:
        """See Contested."""
        with seeded(self.seed):
            return translator(shape, self.width).eval()

    def opponent(self, shape: Shape) -> nn.Module:
        """See Contested."""
        with seeded(self.seed + 1):
            return patch_discriminator(shape, self.width)

    def settings(self, shape: Shape) -> gan.Settings:
        """See Contested; two steps of the translator per update."""
        return replace(super().settings(shape), makers=_MAKERS)

    def contest(self, train: Split, device: torch.device) -> Paired:
        """See Contested."""
        few = train.take(torch.arange(min(len(train), _MOST)))
        attacked = self.attacked.craft(few).to(device)
        return Paired(attacked, few.images(slice(None), device), self.batch)

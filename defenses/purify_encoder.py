"""Purification by a learned inverse of a generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.oracles import Predict
from defenses.base import Defended
from defenses.purifying import PurifyingRecipe, Train
from defenses.reformed import MODES, mean_error, reformed
from defenses.workshop import Workshop
from models import nets
from models.architectures import Dcgan
from models.gans import Gan
from models.generators import Generator
from models.nets import Shape
from models.recipes import Classifier
from models.split import Split
from models.train import Batch

_LEAST_SIDE = 4
_LATENTS = 0.01
"""Weight of the error in latents, in variances of the prior; see PurifyEncoder."""


@dataclass(frozen=True)
class PurifyEncoder(PurifyingRecipe):
    """A learned inverse: the classifier sees G(E(x)), E a net from images to latents (Zhu et al.
    2016, arXiv:1609.03552).

    E learns while the generator stands still: |G(E(x)) - x|^2 on training images and on as many of
    the generator's own, G(z) of z anew each epoch, and on these 0.01 times the squared error of
    E(G(z)) from z, in variances of the prior. The paper's inverse learns from real images, too;
    from own ones alone, or from latents alone, it inverts images that it has not seen worse. The
    term in latents keeps them those of the prior. The checkpoint with the smallest error on clean
    validation images is kept. epochs: of its training, none means enough for 1,000 updates of 64
    images and no fewer than 6.

    generator, train, images, untrained: as for `purify`. fpr: refuse an image whose reconstruction
    error is above that of all but this share of the clean validation images; none refuses nothing.
    seed: of E and its latents.

    Nothing hides a gradient: an attack on the whole is white-box and the one to read. bpda (the
    identity in place of G(E(x)) backward), transfer from another net, and `latent` run beside it.
    """

    purified: ClassVar[str] = "G(E(x))"

    generator: Gan = Dcgan()  # noqa: RUF009  a frozen dataclass
    train: Train = "clean"
    images: int | None = None
    fpr: float | None = None
    epochs: int | None = None
    untrained: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()
        self._recipe()

    def _recipe(self) -> Encoder:
        return Encoder(seed=self.seed, epochs=self.epochs)

    @property
    def modes(self) -> tuple[str, ...]:
        """See Defense."""
        return MODES

    def check_data(self, shape: Shape, validation: int) -> None:
        """See PurifyingRecipe; refuses images too small for E, too."""
        if min(shape[1:]) < _LEAST_SIDE:
            raise ValueError(
                f"purify_encoder needs images of at least {_LEAST_SIDE} x {_LEAST_SIDE} pixels, "
                f"got {shape[1]} x {shape[2]}"
            )
        super().check_data(shape, validation)

    def check_untrained(self) -> None:
        """See PurifyingRecipe: there is always E to train."""
        super().check_untrained()
        raise ValueError("this dataset has no training split for the encoder: add train=")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses data it cannot work with before anything is trained."""
        _, validation = workshop.splits()
        self.check_data(workshop.shape, len(validation))
        ready = workshop.generator(self.generator)
        generator = ready.generator.requires_grad_(requires_grad=False)
        encoder = self._trained(workshop, generator, ready.digest)
        purifier = Reencoded(generator, encoder).eval()
        net = self.classifier(workshop, purifier, ready.digest)
        inside = net if self.train == "clean" else None
        made = reformed(purifier, net, workshop, self.fpr, inside=inside)
        further: dict[str, Predict] = {**made.further, "latent": net}
        return replace(made, passes=made.passes + 1, further=further, generator=generator)

    def _trained(self, workshop: Workshop, generator: Generator, digest: str) -> nn.Module:
        own = replace(workshop.of(self._recipe()), classes=generator.latent)
        of = {"weights": digest, "prior": repr(generator.prior)}
        identity = {"inverse of": of, "latents": repr(_LATENTS), "seed": self.seed}
        return own.fit(Inverse(generator, self.seed), identity)


@dataclass(frozen=True)
class Encoder(Classifier):
    """E as the training loop takes it: a recipe whose classes are a latent's components."""

    label: ClassVar[str] = "encoder"
    usual_batch: ClassVar[int] = 64

    def architecture(self, shape: Shape, classes: int) -> nn.Module:
        """See nets.encoder."""
        return nets.encoder(shape, classes)


class Reencoded(nn.Module):
    """Images to G(E(x)); what the net says are latents in standard deviations of the prior, bent
    into what the prior can give where that is not all of space.
    """

    def __init__(self, generator: Generator, encoder: nn.Module):
        super().__init__()
        self.generator, self.encoder = generator, encoder

    def latents(self, x: Tensor) -> Tensor:
        """Latents (N, d) of images x (N, C, H, W), those of the prior."""
        return self.generator.prior.squeezed(self.encoder(x) / math.sqrt(self.generator.latent))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1]."""
        return self.generator(self.latents(x))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Inverse:
    """What E is trained for, see PurifyEncoder. seed: of the latents z, which are drawn anew for
    each place in the training split and epoch. A checkpoint's score is minus the mean of
    |G(E(x)) - x|^2 on clean validation images.
    """

    generator: Generator
    seed: int

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"|G(E(x)) - x|^2 + |G(E(G(z))) - G(z)|^2 + {_LATENTS} d |E(G(z)) - z|^2"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective; each a mean over components."""
        purifier, latent = Reencoded(self.generator, net), self.generator.latent
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        uniform = draws.uniform(torch.Size((len(batch.x), latent)), "latent")
        z = self.generator.prior.latents(uniform)
        own = self.generator(z)
        found = purifier.latents(own)
        of_images = F.mse_loss(purifier(batch.x), batch.x) + F.mse_loss(self.generator(found), own)
        return of_images + _LATENTS * latent * F.mse_loss(found, z)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:  # noqa: ARG002
        """The error on clean images, and minus it, which is the score."""
        purifier, device = Reencoded(self.generator, net), next(net.parameters()).device
        error = mean_error(purifier, validation, device)
        return {"score": -error, "error": error}

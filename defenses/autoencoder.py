"""A small autoencoder in front of the classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import norms
from attacks.draws import Draws
from defenses.adversarial import exact
from defenses.augmentation import noise
from defenses.base import Defended, Defense
from defenses.detector import check_enough, check_fpr
from defenses.reformed import mean_error, reformed
from defenses.transformed import OnTransformed, Train
from defenses.workshop import Workshop
from models import checkpoint, nets
from models.nets import Shape
from models.recipes import Classifier
from models.split import Split
from models.train import Batch

_LEAST_SIDE = 2


@dataclass(frozen=True)
class Autoencoder(Defense):
    """MagNet's reformer: the net sees what an autoencoder, trained on clean images, makes of x
    (Meng and Chen 2017, arXiv:1705.09064).

    The autoencoder minimises the mean squared error of its answer to x + n, moved into [0, 1],
    from x; noise: the standard deviation of n, which is drawn anew for each image and epoch (the
    paper draws it once). It has the paper's layers for MNIST. epochs: of its training, none means
    enough for 1,000 updates of 64 images and no fewer than 6; the learning rate goes up to 0.05 and
    down again (the paper: 100 epochs, batches of 256, 0.001). The checkpoint with the smallest
    error on clean validation images is kept. train: clean, the undefended net, as in the paper;
    transformed, one trained on the autoencoder's answers. fpr: where given, images whose mean
    squared error is above a threshold are refused; it is set before any attack on the clean
    validation images, of which it may refuse that share, and needs 1 / fpr of them. The paper's
    detectors have nets of their own and look at the classifier's answers, too. seed: of the
    autoencoder and the noise.

    All of it is differentiable, so an attack on the whole is white-box. MagNet falls even to images
    made without a look at its own nets (Carlini and Wagner 2017, arXiv:1711.08478).
    """

    noise: float = 0.1
    train: Train = "clean"
    fpr: float | None = None
    epochs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0, got {self.noise}")
        if self.fpr is not None:
            check_fpr(self.fpr)
        self._recipe()

    def _recipe(self) -> Coder:
        return Coder(seed=self.seed, epochs=self.epochs)

    @property
    def rejection(self) -> str:  # type: ignore[override]  # as a class it depends on nothing
        """See Defense."""
        return "" if self.fpr is None else "a reconstruction error above a threshold"

    def check_data(self, shape: Shape, validation: int) -> None:
        """See Defense: images too small to be pooled, too few validation images for fpr."""
        if min(shape[1:]) < _LEAST_SIDE:
            raise ValueError(
                f"autoencoder needs images of at least 2 x 2 pixels, got {shape[1]} x {shape[2]}"
            )
        if self.fpr is not None:
            check_enough(validation, self.fpr)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; refuses data it cannot work with before anything is trained."""
        _, validation = workshop.splits()
        self.check_data(workshop.shape, len(validation))
        objective = Reconstruction(self.noise, self.seed)
        identity = {"reconstruction": repr(self.noise), "seed": self.seed}
        coder = workshop.of(self._recipe()).fit(objective, identity)
        is_clean = self.train == "clean"
        net = workshop.undefended() if is_clean else self._trained(coder, workshop)
        return reformed(coder, net, workshop, self.fpr, inside=net if is_clean else None)

    def _trained(self, coder: nn.Module, workshop: Workshop) -> nn.Module:
        """The classifier on the autoencoder's answers; the threshold trains nothing anew."""
        objective = OnTransformed(coder, replace(self, fpr=None).to_spec(), self.seed)
        identity = {
            "defense": replace(self, fpr=None).identity(),
            "autoencoder": checkpoint.digest(coder.state_dict()),
        }
        return workshop.fit(objective, identity)


@dataclass(frozen=True)
class Coder(Classifier):
    """The autoencoder as the training loop takes it: a recipe whose net answers with images."""

    label: ClassVar[str] = "autoencoder"
    usual_batch: ClassVar[int] = 64

    lr: float = 5e-2

    def architecture(self, shape: Shape, classes: int) -> nn.Module:  # noqa: ARG002  images do not depend on them
        """See nets.autoencoder."""
        return nets.autoencoder(shape)


@dataclass(frozen=True)
class Reconstruction:
    """The objective |r(x + n) - x|^2, the mean over pixels, n normal and drawn anew for each image
    and epoch, x + n moved into [0, 1].

    noise: the standard deviation of n; seed: of its random numbers. A checkpoint's score is minus
    the error |r(x) - x|^2 on clean validation images.
    """

    noise: float
    seed: int

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"|r(x + n) - x|^2; n normal, standard deviation {exact(self.noise)}"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        noisy = norms.to_box(batch.x + noise(batch.x, self.noise, "normal", draws))
        return F.mse_loss(net(noisy), batch.x)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:  # noqa: ARG002
        """The error on clean images, and minus it, which is the score."""
        error = mean_error(net, validation, next(net.parameters()).device)
        return {"score": -error, "error": error}

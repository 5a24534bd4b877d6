"""Classifier recipes: an architecture and how it is trained by default."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from models import checkpoint, nets
from models.registry import Joined, Registry, models
from models.seeding import seeded
from models.train import Settings

_LEAST_UPDATES = 1000


@dataclass(frozen=True)
class Classifier(ABC):
    """Base of every model recipe.

    seed: of initialisation and training. epochs: none means enough for 1,000 updates and no fewer
    than the recipe's own least number. batch: images per update; none means the recipe's usual one
    (128 unless it says so), of few images a sixteenth, at least 32. lr: of training. weights: a
    safetensors, .pt or .pth file to load instead of training.
    """

    revision: ClassVar[int] = 1
    least_epochs: ClassVar[int] = 6
    usual_batch: ClassVar[int] = 128
    optimiser: ClassVar[str] = "adam"
    decay: ClassVar[float] = 0.0

    seed: int = 0
    epochs: int | None = None
    batch: int | None = None
    lr: float = 5e-3
    weights: str | None = field(default=None, metadata={"content": True})

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch", self.batch)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"weights must be a file, got {self.weights}")

    @abstractmethod
    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """A freshly initialised net for images (C, H, W) and K classes."""

    @property
    def is_trained(self) -> bool:
        """Whether `build` returns the net that is to be evaluated, rather than one to train."""
        return self.weights is not None

    def build(self, shape: nets.Shape, classes: int) -> nn.Module:
        """The net in eval mode, initialised under the seed, with the weights where there are
        any.
        """
        with seeded(self.seed):
            net = self.architecture(shape, classes)
        if self.weights is not None:
            checkpoint.load_into(net, Path(self.weights))
        return net.eval()

    def settings(self, images: int, channels: int) -> Settings:
        """How the net is trained on a number of images with C channels; colour photographs are
        shifted, mirrored.
        """
        batch = self.batch or min(self.usual_batch, max(32, images // 16))
        auto = max(self.least_epochs, math.ceil(_LEAST_UPDATES * batch / images))
        return Settings(
            epochs=self.epochs or auto,
            batch=batch,
            optimiser=self.optimiser,
            lr=self.lr,
            decay=self.decay,
            seed=self.seed,
            flips=channels == 3,
        )

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The model that a spec names."""
        recipe = models.get(text)
        if not isinstance(recipe, cls):
            raise TypeError(f"{text!r} must name a model, got {type(recipe).__name__}")
        return recipe

    def to_spec(self) -> str:
        """The shortest spec of this model."""
        return models.describe(self)

    def identity(self) -> dict[str, Any]:
        """What the model is, for digests."""
        return models.identity(self)


@dataclass(frozen=True)
class Several(Joined):
    """Models of the table: `[cnn_small:seed=1]+mlp`."""

    table: ClassVar[Registry] = models
    recipes: tuple[Classifier, ...] = ()


@dataclass(frozen=True)
class Logreg(Classifier):
    """Softmax regression on pixels (Goodfellow et al. 2014, arXiv:1412.6572, section 5).

    Keys as for every model: see `bench show cnn_small`.
    """

    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """See nets.logreg."""
        return nets.logreg(shape, classes)


@dataclass(frozen=True)
class Mlp(Classifier):
    """FC100-100-10, two hidden layers of 100 sigmoid units (Szegedy et al. 2013, arXiv:1312.6199).

    Keys as for every model: see `bench show cnn_small`.
    """

    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """See nets.mlp."""
        return nets.mlp(shape, classes)


@dataclass(frozen=True)
class MlpRelu(Classifier):
    """FC200-200-10, two hidden layers of 200 rectified units: cleverhans's substitute (Papernot et
    al. 2017, arXiv:1602.02697).

    Keys as for every model: see `bench show cnn_small`.
    """

    lr: float = 1e-3

    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """See nets.mlp_relu."""
        return nets.mlp_relu(shape, classes)


@dataclass(frozen=True)
class CnnSmall(Classifier):
    """Two strided convolutions and a hidden layer of 100: the fast adversarial training net (Wong
    et al. 2020).

    seed: of initialisation and training. epochs: none means enough for 1,000 updates, at least 6
    epochs. batch: images per update; none means 64, of fewer than 1,024 images a sixteenth, at
    least 32. lr: of training with Adam, the rate rising to lr until 40 % of the updates and falling
    to 0. weights: a safetensors, .pt or .pth file to load instead of training.
    """

    usual_batch: ClassVar[int] = 64

    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """See nets.cnn_small."""
        return nets.cnn_small(shape, classes)


@dataclass(frozen=True)
class Cnn(Classifier):
    """Two 5x5 convolutions, pooling, a hidden layer of 1024: the MNIST challenge net (Madry et al.
    2017).

    Keys as for every model: see `bench show cnn_small`.
    """

    lr: float = 1e-3

    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """See nets.cnn."""
        return nets.cnn(shape, classes)


@dataclass(frozen=True)
class Resnet18(Classifier):
    """Pre-activation ResNet-18 for small colour images (He et al. 2016, arXiv:1603.05027).

    Trained with SGD, momentum 0.9, weight decay 5e-4, at least 15 epochs. Keys as for every model:
    see `bench show cnn_small`.
    """

    least_epochs: ClassVar[int] = 15
    optimiser: ClassVar[str] = "sgd"
    decay: ClassVar[float] = 5e-4
    lr: float = 0.1

    def architecture(self, shape: nets.Shape, classes: int) -> nn.Module:
        """See nets.resnet18."""
        return nets.resnet18(shape, classes)

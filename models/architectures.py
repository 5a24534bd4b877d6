"""Generator recipes whose nets are plain stacks of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from models import generators
from models.gans import Gan
from models.nets import Shape

Norm = Literal["none", "batch"]
_LEAST = 2
"""Images of which batch norm can take a variance."""


@dataclass(frozen=True)
class Plain(Gan):
    """A generator and a discriminator of hidden layers: how many units they have, and what stands
    between them.
    """

    width: int = 16
    leak: float = 0.2
    norm: Norm = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.leak < 1:
            raise ValueError(f"leak must be in [0, 1), got {self.leak}")
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {self.norm!r}")
        least = self.batch // self.pack if self.is_apart else self.batch
        if self.norm == "batch" and least < _LEAST:
            raise ValueError(f"batch norm needs batches of {_LEAST}, got {least}")

    @property
    def is_apart(self) -> bool:
        """See Gan: a penalty on the slope at one image needs scores that hang on that image
        alone.
        """
        return self.norm == "batch" and not self.game.has_penalty


@dataclass(frozen=True)
class Mlp(Plain):
    """Two hidden layers on either side, after the first GAN (Goodfellow et al. 2014,
    arXiv:1406.2661: 1,200 units, and maxout in the discriminator).

    width: units of a hidden layer. The other keys: see `bench show dcgan`.
    """

    width: int = 256

    def net(self, shape: Shape) -> nn.Module:
        """See generators.mlp."""
        return generators.mlp(shape, self.latent, self.width, norm=self.norm == "batch")

    def discriminator(self, shape: Shape) -> nn.Module:
        """See generators.mlp_discriminator."""
        return generators.mlp_discriminator(shape, self.width, leak=self.leak, norm=self.is_apart)


@dataclass(frozen=True)
class Dcgan(Plain):
    """Transposed convolutions from a quarter of the image's size, after DCGAN (Radford et al. 2016,
    arXiv:1511.06434).

    width: channels of the last hidden layer, half of those before. Without batch norm unless norm
    says so, so that in training too a latent's image depends on no other, and with a sigmoid for
    images in [0, 1]; the discriminator has two convolutions of as many channels. The other keys:
    see models.gans.Gan, and below.

    latent: components of a latent. prior: normal, N(0, 1 / latent), uniform of the same variance,
    or truncated, a normal without what is beyond two standard deviations. objective: wasserstein,
    with gradient penalty, wasserstein_clip, with clipped weights and RMSProp (the paper's lr is
    5e-5), nonsaturating or saturating cross-entropy, or least_squares. penalty: weight of the
    gradient penalty (none: 10), of R1 (none: 0.1; the papers of cross-entropy and least squares
    have none), or the bound of clipped weights (none: 0.01). updates: of the generator; none means
    6,000, of images below 512 components 600; 0 leaves it untrained. batch: images per step.
    critic: discriminator steps per update. lr: the learning rate of both. ema: of the averaged
    weights that are kept. noise: standard deviation of what is added to the discriminator's images
    (Arjovsky and Bottou 2017, arXiv:1701.04862). decay: weight of its squared weights in its loss,
    halved. pack: images that it judges together (Lin et al. 2018, arXiv:1712.04086). leak: slope of
    its rectifiers below 0. norm: none, or batch: batch norm in the generator, and in the
    discriminator where no penalty looks at single images. seed: of initialisation, order and noise.
    weights: a file to load instead of training.
    """

    def net(self, shape: Shape) -> nn.Module:
        """See generators.dcgan."""
        check_sides(shape, 4)
        return generators.dcgan(shape, self.latent, self.width, norm=self.norm == "batch")

    def discriminator(self, shape: Shape) -> nn.Module:
        """See generators.dcgan_discriminator."""
        return generators.dcgan_discriminator(shape, self.width, leak=self.leak, norm=self.is_apart)


@dataclass(frozen=True)
class Conditional(Dcgan):
    """A DCGAN whose generator and discriminator are both handed the class (Mirza and Osindero 2014,
    arXiv:1411.1784), as one of `classes` numbers, or channels, that is 1.

    A latent has `classes` components more than `latent`: the largest of them says the class, so
    that whatever takes latents takes these. The discriminator compares real and made images of the
    same classes. classes: how many there are. The other keys: see `bench show dcgan`.
    """

    classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, got {self.classes}")

    @property
    def labels(self) -> int:
        """See Gan."""
        return self.classes

    def net(self, shape: Shape) -> nn.Module:
        """See generators.dcgan and generators.Labelled."""
        check_sides(shape, 4)
        size = self.latent + self.classes
        inner = generators.dcgan(shape, size, self.width, norm=self.norm == "batch")
        return generators.Labelled(inner, self.classes)

    def discriminator(self, shape: Shape) -> nn.Module:
        """See generators.dcgan_discriminator and generators.Judging."""
        channels = shape[0] + self.pack * self.classes
        return generators.Judging(super().discriminator((channels, *shape[1:])), self.classes)


@dataclass(frozen=True)
class DefenseGan(Gan):
    """The generator of Defense-GAN's released code for MNIST, which is that of WGAN-GP (Samangouei
    et al. 2018, arXiv:1805.06605; Gulrajani et al. 2017, arXiv:1704.00028).

    width: net_dim there. For images of 28x28, or of any sides that are multiples of 4 from 16 to
    32. Defaults are the released settings but for updates, of which there were 200,000. Keys, but
    for leak and norm, which it has not: see `bench show dcgan`.
    """

    latent: int = 128
    batch: int = 50
    critic: int = 5
    lr: float = 1e-4
    width: int = 64

    def net(self, shape: Shape) -> nn.Module:
        """See generators.defense_gan."""
        check_sides(shape, 4)
        if not all(16 <= side <= 32 for side in shape[1:]):
            raise ValueError(f"defensegan makes images with sides from 16 to 32, got {shape}")
        return generators.defense_gan(shape, self.latent, self.width)

    def discriminator(self, shape: Shape) -> nn.Module:
        """See generators.defense_gan_discriminator."""
        return generators.defense_gan_discriminator(shape, self.width)


def check_sides(shape: Shape, multiple: int) -> None:
    """Refuses images (C, H, W) whose sides are no multiples of a number."""
    if shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"images must have sides that are multiples of {multiple}, got {shape[1]}x{shape[2]}"
        )

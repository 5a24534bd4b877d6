"""Generator recipes whose nets work at several resolutions, each with sides twice as long as the
one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from models import gan, growing, style
from models.games import Clipped, Game
from models.gans import Gan
from models.nets import Shape, is_small

_UPDATES = 3000
"""Of images that are not small: these nets take longer per update than a DCGAN."""
_BOUND = 1.0
"""Of clipped weights, which have variance 1 and are scaled at run time."""


@dataclass(frozen=True)
class Resolutions(Gan):
    """Nets of convolutions 3x3 at every resolution from the base on."""

    batch: int = 32
    width: int = 8
    base: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base is not None and self.base < 1:
            raise ValueError(f"base must be at least 1, got {self.base}")

    @property
    def game(self) -> Game:
        """See Gan."""
        if self.objective == "wasserstein_clip" and self.penalty is None:
            return Clipped(_BOUND)
        return super().game

    def settings(self, shape: Shape) -> gan.Settings:
        """See Gan."""
        made = super().settings(shape)
        if self.updates is None and not is_small(shape):
            return replace(made, updates=_UPDATES)
        return made


@dataclass(frozen=True)
class Progressive(Resolutions):
    """Nets that are trained on small images first and grow, keeping their weights, to the size of
    the data (Karras et al. 2018, arXiv:1710.10196).

    width: channels at full size, twice as many at each size below, at most 4 width; the paper has
    16 at 1024x1024 and 512 at 32x32. base: the shorter side of the first images, that of the data
    over a power of two; none means the smallest of at least 4: 4 for 8x8 and 32x32, 7 for 28x28.
    Half of the training is of the full size; the other half is divided equally into the first
    size, the fade-in of each further one, and the training of those between. With pixel norm and
    an equalised learning rate; without the paper's standard deviation over a minibatch, for which
    pack stands in. The other keys: see below.

    latent: components of a latent. prior: normal, N(0, 1 / latent), uniform of the same variance,
    or truncated, a normal without what is beyond two standard deviations. objective: wasserstein,
    with gradient penalty, wasserstein_clip, with clipped weights and RMSProp, nonsaturating or
    saturating cross-entropy, or least_squares. penalty: weight of the gradient penalty (none: 10),
    of R1 (none: 0.1), or the bound of clipped weights (none: 1, as weights have variance 1 here).
    updates: of the generator; none means 3,000, of
    images below 512 components 600; 0 leaves it untrained. batch: images per step. critic:
    discriminator steps per update. lr: the learning rate of both. ema: of the averaged weights that
    are kept. noise: standard deviation of what is added to the discriminator's images. decay:
    weight of its squared weights in its loss, halved. pack: images that it judges together. seed:
    of initialisation, order and noise. weights: a file to load instead of training.
    """

    lr: float = 3e-3

    def net(self, shape: Shape) -> nn.Module:
        """See growing.Generator."""
        return growing.Generator(shape, self.latent, self.width, self.base)

    def discriminator(self, shape: Shape) -> nn.Module:
        """See growing.GrowingDiscriminator."""
        return growing.GrowingDiscriminator(shape, self.width, self.base)


@dataclass(frozen=True)
class Style(Resolutions):
    """A style-based generator: the latent, mapped, sets the scales of every convolution (Karras et
    al. 2019, arXiv:1812.04948).

    With the weight demodulation and the summed pictures of StyleGAN2 (Karras et al. 2020,
    arXiv:1912.04958), style mixing in training, a mean style for truncation, and no noise inputs,
    so that an image depends on its latent alone. Plays against the discriminator of progressive,
    which here has its full size from the start. Keys: see `bench show progressive`.
    """

    def net(self, shape: Shape) -> nn.Module:
        """See style.Generator."""
        return style.Generator(shape, self.latent, self.width, self.base)

    def discriminator(self, shape: Shape) -> nn.Module:
        """See growing.Discriminator."""
        return growing.Discriminator(shape, self.width, self.base)

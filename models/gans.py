"""Generator recipes: an architecture, what it plays against, and how it is trained by default."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn

from models import checkpoint, gan, generators
from models.games import Game, NonSaturating, Wasserstein
from models.generators import Generator
from models.nets import Shape, is_small
from models.registry import canonical
from models.registry import generators as table
from models.seeding import seeded
from models.split import Split
from models.train import TrainingFailed

PRETRAINED = Path(__file__).parent / "pretrained"
"""Small generators that come with the package; its README.md names the commands."""

Objective = Literal["wasserstein", "nonsaturating"]


@dataclass(frozen=True)
class Gan(ABC):
    """Base of every generator recipe.

    latent: components of a latent; prior: normal, N(0, 1 / latent), or uniform of the same
    variance; objective: wasserstein, with gradient penalty, or nonsaturating cross-entropy with R1;
    penalty: its weight (none means 10, and 0.1 for nonsaturating); updates: of the generator, 0
    leaves it untrained; batch: images per step; critic: discriminator steps per update; lr: Adam's;
    ema: of the averaged weights that are kept; seed: of initialisation, order and noise; weights: a
    safetensors, .pt or .pth file to load instead of training.
    """

    revision: ClassVar[int] = 1

    latent: int = 64
    prior: Literal["normal", "uniform"] = "normal"
    objective: Objective = "wasserstein"
    penalty: float | None = None
    updates: int | None = None
    batch: int = 64
    critic: int = 2
    lr: float = 1e-3
    ema: float = 0.999
    seed: int = 0
    weights: str | None = field(default=None, metadata={"content": True})

    def __post_init__(self) -> None:
        for name in ("latent", "batch", "critic"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.updates is not None and self.updates < 0:
            raise ValueError(f"updates must be at least 0, got {self.updates}")
        self._check_rates()
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, got {self.seed}")
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"weights must be a file, got {self.weights}")

    def _check_rates(self) -> None:
        if self.penalty is not None and not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty must be at least 0, got {self.penalty}")
        if not self.lr > 0 or not math.isfinite(self.lr):
            raise ValueError(f"lr must be above 0, got {self.lr}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    @abstractmethod
    def net(self, shape: Shape) -> nn.Module:
        """A freshly initialised net, latents (N, d) to images (N, C, H, W) in [0, 1]."""

    @abstractmethod
    def discriminator(self, shape: Shape) -> nn.Module:
        """What it plays against, images to scores (N,)."""

    @property
    def is_given(self) -> bool:
        """Whether there is nothing to train."""
        return self.weights is not None

    @property
    def is_untrained(self) -> bool:
        """Whether `trained` gives a net that nobody has trained."""
        return self.weights is None and self.updates == 0

    @property
    def game(self) -> Game:
        """What is played for."""
        if self.objective == "wasserstein":
            return Wasserstein(10.0 if self.penalty is None else self.penalty)
        return NonSaturating(0.1 if self.penalty is None else self.penalty)

    def build(self, shape: Shape) -> Generator:
        """The generator in eval mode, initialised under the seed, with the weights where there are
        any; refuses one that does not fit images (C, H, W).
        """
        with seeded(self.seed):
            made = Generator(self.net(shape), self.latent, self.prior, shape)
        if self.weights is not None:
            checkpoint.load_into(self.holder(made), Path(self.weights))
        generators.check(made.eval(), shape)
        return made

    def holder(self, made: Generator) -> nn.Module:
        """What weights= are loaded into."""
        return made

    def settings(self, shape: Shape) -> gan.Settings:
        """How it is trained on images (C, H, W)."""
        usual = 600 if is_small(shape) else 6000
        updates = usual if self.updates is None else self.updates
        return gan.Settings(updates, self.batch, self.critic, self.lr, self.ema, self.seed)

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
        """The generator that a spec names."""
        recipe = table.get(text)
        if not isinstance(recipe, cls):
            raise TypeError(f"{text!r} must name a generator, got {type(recipe).__name__}")
        return recipe

    def to_spec(self) -> str:
        """The shortest spec of this generator."""
        return table.describe(self)

    def identity(self) -> dict[str, Any]:
        """What the generator is, for digests."""
        return table.identity(self)


@dataclass(frozen=True)
class Dcgan(Gan):
    """Transposed convolutions from a quarter of the image's size, after DCGAN (Radford et al. 2016,
    arXiv:1511.06434).

    width: channels of the last hidden layer, half of those before. Without batch norm, so that a
    latent's image depends on no other, and with a sigmoid for images in [0, 1]; the discriminator
    has two convolutions of as many channels. The other keys: see models.gans.Gan, and below.

    latent: components of a latent. prior: normal, N(0, 1 / latent), or uniform of the same
    variance. objective: wasserstein, with gradient penalty, or nonsaturating, cross-entropy with
    R1. penalty: its weight; none means 10, and 0.1 for nonsaturating. updates: of the generator;
    none means 6,000, of images below 512 components 600; 0 leaves it
    untrained. batch: images per step.
    critic: discriminator steps per update. lr: Adam's. ema: of the averaged weights that are kept.
    seed: of initialisation, order and noise. weights: a file to load instead of training.
    """

    width: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def net(self, shape: Shape) -> nn.Module:
        """See generators.dcgan."""
        _check_sides(shape, 4)
        return generators.dcgan(shape, self.latent, self.width)

    def discriminator(self, shape: Shape) -> nn.Module:
        """See generators.dcgan_discriminator."""
        return generators.dcgan_discriminator(shape, self.width)


@dataclass(frozen=True)
class DefenseGan(Gan):
    """The generator of Defense-GAN's released code for MNIST, which is that of WGAN-GP (Samangouei
    et al. 2018, arXiv:1805.06605; Gulrajani et al. 2017, arXiv:1704.00028).

    width: net_dim there. For images of 28x28, or of any sides that are multiples of 4 from 16 to
    32. Defaults are the released settings but for updates, of which there were 200,000. Keys: see
    `bench show dcgan`.
    """

    latent: int = 128
    batch: int = 50
    critic: int = 5
    lr: float = 1e-4
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def net(self, shape: Shape) -> nn.Module:
        """See generators.defense_gan."""
        _check_sides(shape, 4)
        if not all(16 <= side <= 32 for side in shape[1:]):
            raise ValueError(f"defensegan makes images with sides from 16 to 32, got {shape}")
        return generators.defense_gan(shape, self.latent, self.width)

    def discriminator(self, shape: Shape) -> nn.Module:
        """See generators.defense_gan_discriminator."""
        return generators.defense_gan_discriminator(shape, self.width)


def _check_sides(shape: Shape, multiple: int) -> None:
    if shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"images must have sides that are multiples of {multiple}, got {shape[1]}x{shape[2]}"
        )


@dataclass(frozen=True)
class Ready:
    """A generator ready for use, in eval mode; digest: of its weights; log: of its training, empty
    where it was given; seconds: of that training; source: given, untrained, pretrained, cached or
    trained.
    """

    generator: Generator
    digest: str
    log: list[dict[str, Any]]
    source: str

    @property
    def seconds(self) -> float:
        """Of its training, whenever that was."""
        return float(sum(entry["seconds"] for entry in self.log))


@dataclass(frozen=True)
class Studio:
    """Where generators come from: the training images, and the cache. fingerprint: the dataset's;
    numerics: whatever else moves a trained weight's last bits; has_pretrained: whether those that
    come with the package are used.
    """

    train: Split | None
    shape: Shape
    fingerprint: str
    device: torch.device
    numerics: Mapping[str, Any]
    cache: checkpoint.Cache | None
    say: Callable[[str], None] = lambda _: None
    has_pretrained: bool = True

    def ready(self, recipe: Gan) -> Ready:
        """The generator as given, as it comes with the package, from the cache, or trained now; an
        interrupted training goes on.

        Raises gan.GanFailed for a training that fails, its last good generator kept in the cache;
        ValueError where a generator does not fit the images, or there are none to train on.
        """
        made = recipe.build(self.shape).to(self.device)
        if recipe.is_given or recipe.is_untrained:
            return self._told(made, [], "given" if recipe.is_given else "untrained")
        parts = recipe.made_of(self.shape, self.fingerprint)
        found = pretrained(parts) if self.has_pretrained else None
        source = "cached" if found is None else "pretrained"
        key = self._key(parts)
        if found is None and self.cache is not None:
            found = self.cache.get(key)
        if found is None:
            found, source = self._trained(recipe, made, key, parts), "trained"
        weights, facts = found
        made.load_state_dict(weights)
        return self._told(made, facts["log"], source)

    def forget(self, recipe: Gan) -> None:
        """Drops its finished weights from the cache; a training that was interrupted stays."""
        if self.cache is not None:
            key = self._key(recipe.made_of(self.shape, self.fingerprint))
            self.cache.path(key).unlink(missing_ok=True)

    def _key(self, parts: Mapping[str, Any]) -> str:
        return checkpoint.key(canonical({**parts, "device": self.device.type, **self.numerics}))

    def _trained(
        self, recipe: Gan, made: Generator, key: str, parts: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if self.train is None:
            raise ValueError("this dataset has no training split to train a generator on")
        with seeded(recipe.seed + 1):
            against = recipe.discriminator(self.shape).to(self.device)
        game, settings = recipe.game, recipe.settings(self.shape)
        self.say(f"training {recipe.to_spec()}: D minimises {game.text}")
        keep = self.cache.partial(key) if self.cache else None
        try:
            log = gan.fit(made, against, self.train, game, settings, say=self.say, keep=keep)
        except gan.GanFailed as err:
            raise self._kept(err, key, parts) from err
        weights = made.state_dict()
        facts = {"log": log, "made_of": parts, "spec": recipe.to_spec()}
        if self.cache is not None and keep is not None:
            self.cache.put(key, weights, facts)
            keep.drop()
        return weights, facts

    def _kept(self, err: gan.GanFailed, key: str, parts: Mapping[str, Any]) -> TrainingFailed:
        """The failure with the place of the last good generator; the way back is dropped, as it
        leads to the same end.
        """
        if self.cache is None:
            return err
        self.cache.partial(key).drop()
        path = self.cache.folder / "failed" / f"{key}.safetensors"
        try:
            checkpoint.write(path, err.weights, {"update": err.update, "made_of": parts})
        except OSError:
            return err
        return TrainingFailed(f"{err}, kept as {path}")

    @staticmethod
    def _told(made: Generator, log: list[dict[str, Any]], source: str) -> Ready:
        return Ready(made.eval(), checkpoint.digest(made.state_dict()), log, source)


@functools.cache
def package() -> dict[str, str]:
    """The generators of the package: name of the file and digest of the weights."""
    return {
        path.name: checkpoint.digest(checkpoint.read(path)[0])
        for path in sorted(PRETRAINED.glob("*.safetensors"))
    }


def pretrained(parts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Weights and facts of the generator of the package that was made of these parts, or None."""
    for path in sorted(PRETRAINED.glob("*.safetensors")):
        weights, facts = checkpoint.read(path)
        if facts.get("made_of") == parts:
            return weights, facts
    return None

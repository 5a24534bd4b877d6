"""Purification by generator inversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from attacks.draws import Draws
from attacks.pipelines import Randomised
from defenses.base import Defended, Usual
from defenses.detector import RandomDetector, RandomScores, RefusingDraws, calibrated
from defenses.purifying import PurifyingRecipe, Train
from defenses.reformed import error
from defenses.transformed import BehindDraws, PassingDraws
from defenses.workshop import Workshop
from models.architectures import Dcgan
from models.gans import Gan
from models.generators import Generator
from models.inversion import Inversion, Inverted
from models.nets import Shape, is_small

_DRAWS = 3
_CALIBRATED = 500
_IMAGES, _SMALL_IMAGES = (200, 10, 50, 2, 10), (50, 4, 15, 1, 5)
"""Steps and restarts of the inversion deployed, those of the one that attacks are handed, and how
many of its last steps are differentiated through.
"""
_COUNTS = "steps", "restarts", "near_steps", "near_restarts", "unroll"


class Purifier(Randomised):
    """Images to the nearest that the generator makes, from starts of their own draws."""

    def __init__(self, generator: Generator, inversion: Inversion):
        super().__init__()
        self.generator, self.inversion = generator, inversion

    def starts(self, x: Tensor, draws: Draws) -> Tensor:
        """Latents (N, R, d) of the prior."""
        count, each, size = len(x), self.inversion.restarts, self.generator.latent
        numbers = draws.uniform(torch.Size((count, each * size)), "latent")
        return self.generator.prior.latents(numbers.view(count, each, size))

    def found(self, x: Tensor, draws: Draws) -> Inverted:
        """All that the inversion found."""
        return self.inversion.run(self.generator, x.detach(), self.starts(x, draws))

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised: images G(z*) (N, C, H, W)."""
        return self.found(x, draws).images


class Unrolled(Purifier):
    """The same images, differentiated through the last steps of the inversion, which the restart
    takes that leads before them.
    """

    def __init__(self, generator: Generator, inversion: Inversion, last: int):
        super().__init__(generator, inversion)
        self.last = last

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        starts = self.starts(x, draws)
        return self.inversion.differentiable(self.generator, x, starts, last=self.last)


class Cut(Purifier):
    """The same images with the gradient of Defense-GAN's released code, exactly zero: z* is updated
    by an optimiser in the graph that no gradient passes.
    """

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        return super().forward(x, draws) + 0 * x


class Watched(RandomDetector):
    """A net behind a purifier; an image is the more suspicious the larger its reconstruction error.

    The error's gradient is 2 (x - G(z*)) over the components: at a minimum in z no other part is
    left.
    """

    def __init__(self, transform: Randomised, net: nn.Module):
        super().__init__()
        self.transform, self.net = transform, net

    def forward(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """See RandomDetector."""
        images = self.transform(x, draws)
        return self.net(images), error(images.detach(), x)


@dataclass(frozen=True)
class Purify(PurifyingRecipe):
    """Defense-GAN: the classifier sees G(z*), the nearest image that a generator makes (Samangouei
    et al. 2018, arXiv:1805.06605).

    z* is sought by `steps` steps (none means 200, of images below 512 components 50) of gradient
    descent with momentum from `restarts` random latents (none: 10, of small images 4), and the
    restart with the smallest error is taken; lr is 10 in the released code, 1 suits our generators.
    penalty: weight of the latent's -log density; tolerance: a mean squared error at which a restart
    stops (see models.inversion.Inversion). generator: dcgan, which comes with the package for MNIST
    and is trained where it does not, or another spec of `bench list generators`, its keys in
    brackets. train: the classifier behind it, trained on clean images, on purified ones, or on
    both; images: training images purified for that, none means 1,000; seed: of the latents they are
    purified from. fpr: refuse an image whose reconstruction error is above that of all but this
    share of 500 clean validation images; none refuses nothing. untrained: take a generator that
    nobody has trained.

    It hides gradients, and is never shown without the attacks that break it (Athalye et al. 2018,
    arXiv:1802.00420): every gradient attack runs as bpda (identity backward), bpda+eot, through the
    `unroll` last steps of the inversion (unrolled+eot; none: 10, of small images 5), as released,
    with the vanishing gradient of the authors' code, and by transfer from another net where the
    dataset has a training split for it; `latent` runs beside them. They are handed an inversion of
    near_steps steps from near_restarts starts (none: 50 and 2, of small images 15 and 1); the
    verdict is the whole pipeline's, under 3 evaluation draws. Unless told otherwise a run with it
    takes 100 images, eps 0 and the reference eps, and the mean of 4 draws.
    """

    randomness: ClassVar[str] = "the latents the search starts from"
    masking: ClassVar[str] = "a search stands between image and classifier"
    purified: ClassVar[str] = "G(z*)"

    steps: int | None = None
    restarts: int | None = None
    lr: float = 1.0
    momentum: float = 0.7
    penalty: float = 0.0
    tolerance: float = 0.0
    generator: Gan = Dcgan()  # noqa: RUF009  a frozen dataclass
    train: Train = "clean"
    images: int | None = None
    fpr: float | None = None
    near_steps: int | None = None
    near_restarts: int | None = None
    unroll: int | None = None
    untrained: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self._inversion(1, 1)
        self.check()
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def modes(self) -> tuple[str, ...]:
        """See Defense."""
        return "bpda", "bpda+eot", "unrolled+eot", "released", "transfer"

    def usual(self, shape: Shape) -> Usual:
        """See Defense."""
        return Usual(n=100, eot=4, rows=100 if is_small(shape) else 25)

    def check_data(self, shape: Shape, validation: int) -> None:
        """See PurifyingRecipe; the first validation images alone set a threshold."""
        super().check_data(shape, min(validation, _CALIBRATED))

    def inversions(self, shape: Shape) -> tuple[Inversion, Inversion]:
        """The deployed one for images (C, H, W), and the one that attacks are handed."""
        steps, restarts, near_steps, near_restarts, _ = self._counts(shape)
        return self._inversion(steps, restarts), self._inversion(near_steps, near_restarts)

    def _counts(self, shape: Shape) -> tuple[int, ...]:
        """What was left open filled in for images (C, H, W)."""
        usual = _SMALL_IMAGES if is_small(shape) else _IMAGES
        asked = self.steps, self.restarts, self.near_steps, self.near_restarts, self.unroll
        return tuple(
            default if count is None else count for count, default in zip(asked, usual, strict=True)
        )

    def _inversion(self, steps: int, restarts: int) -> Inversion:
        return Inversion(steps, restarts, self.lr, self.momentum, self.penalty, self.tolerance)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        ready = workshop.generator(self.generator)
        generator = ready.generator.requires_grad_(requires_grad=False)
        whole, near = self.inversions(workshop.shape)
        purifier, rough = Purifier(generator, whole), Purifier(generator, near)
        net = self.classifier(workshop, purifier, ready.digest)
        behind = self._pipelines(workshop, rough, net)
        score = None if self.fpr is None else RandomScores(Watched(purifier, net)).eval()
        return Defended(
            predict=self._pipelines(workshop, purifier, net)(purifier),
            surrogate=behind(PassingDraws(rough)),
            inside=net if self.train == "clean" else None,
            passes=2 * whole.steps * whole.restarts + 1,
            further={
                "unrolled": behind(Unrolled(generator, near, self._counts(workshop.shape)[-1])),
                "released": behind(Cut(generator, near)),
                "latent": net,
            },
            draws=_DRAWS,
            purified=purifier,
            generator=generator,
            score=score,
        )

    def _pipelines(
        self, workshop: Workshop, purifier: Purifier, net: nn.Module
    ) -> Callable[[Randomised], nn.Module]:
        """What makes a pipeline of a purifier or a stand-in for it. Each has its own threshold: an
        inversion cut short leaves larger errors, and what refuses every image is no stand-in.
        """
        if self.fpr is None:
            return lambda transform: BehindDraws(transform, net).eval()
        _, validation = workshop.splits()
        few = validation.take(torch.arange(min(len(validation), _CALIBRATED)))
        watched = Watched(purifier, net).to(workshop.device).eval()
        at, scale = calibrated(watched, few, self.fpr, workshop.device)

        def refusing(transform: Randomised) -> nn.Module:
            detector, rate = Watched(transform, net), cast(float, self.fpr)
            made = RefusingDraws(detector, threshold=at, scale=scale, fpr=rate, trained_on="")
            return made.to(workshop.device).eval()

        return refusing

    def made_of(self) -> Self:
        """See PurifyingRecipe: nor does what attacks are handed."""
        return replace(super().made_of(), unroll=None, near_steps=None, near_restarts=None)

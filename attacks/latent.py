"""Search in a generator's latent space for an image near the given one that is misclassified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Ask, Attack, BlockAttack, Task, at_least
from attacks.losses import MARGIN
from attacks.oracles import Aim
from attacks.sourced import GENERATOR, Labels, Source, Sourced, Supplies
from attacks.work import Setting
from models.generators import Generator
from models.inversion import Inversion
from models.recipes import Classifier

_BETAS = 0.9, 0.999
_FURTHER = 10.0
_TINY = 1e-8


@dataclass(frozen=True)
class Latent(Sourced):
    """An image that the generator makes, near the given one and misclassified: it is its own
    purification, so that no purifier that searches that generator is of any use (Athalye et al.
    2018, arXiv:1802.00420, section 5.4); a learned inverse may miss it.

    From the `starts` best of `tries` inversions of the image, each of `inversion` steps, Adam takes
    `steps` steps of size lr / sqrt(latent) on z for
    weight max(confidence - margin(G(z)), 0) + |G(z) - P(G(z))|_2^2, P the projection onto the ball
    around the image and the box, margin the lead of the adversary's class; weight is ten times as
    large on each further path, and z stays where the prior has latents. The adversarial image is
    P(G(z)) for the z, on all paths, that is nearest to the ball and misclassified with that
    confidence, else for the one with the least loss under weight 1. The authors minimise |G(z) - x|
    and stop below a bound, from 30 inversions of 3,000 steps; ours aims at the ball itself.

    The adversary holds generator and classifier, so that queries of them cost nothing. From Python,
    supplies= hands both over: generator=, and the classifier as the one source.
    """

    access: ClassVar[str] = "gradient"
    needs: ClassVar[tuple[str, ...]] = (GENERATOR,)

    steps: int = 300
    lr: float = 0.1
    weight: float = 1.0
    confidence: float = 1.0
    starts: int = 3
    tries: int = 10
    inversion: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "starts", "tries", "inversion"):
            at_least(name, getattr(self, name), 1)
        if self.starts > self.tries:
            raise ValueError(f"starts must be at most tries={self.tries}, got {self.starts}")
        for name in ("lr", "weight"):
            if not 0 < getattr(self, name) <= 1e6:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        at_least("confidence", self.confidence, 0)

    @property
    def mode(self) -> str:
        """See Attack."""
        return "latent"

    @property
    def models(self) -> tuple[Classifier, ...]:
        """See Sourced: none."""
        return ()

    @property
    def images(self) -> int:
        """See Sourced: none."""
        return 0

    @property
    def inner(self) -> Attack:
        """See Sourced: a search without a generator, of which only costs and norms can be asked."""
        return _Search(self, None)

    def check(self, norm: str, classes: int, *, targeted: bool = False) -> None:
        """See Attack; a refusal names this recipe and not the search in it."""
        Attack.check(self, norm, classes, targeted=targeted)

    def check_supplies(self, supplies: Supplies) -> None:
        """See Sourced."""
        if supplies.generator is None or len(supplies.sources) != 1:
            raise ValueError("latent needs supplies= with a generator and one source, a classifier")

    def prepare(
        self,
        target: Labels,  # noqa: ARG002  the adversary holds the nets
        supplies: Supplies,
        setting: Setting,  # noqa: ARG002  see Sourced
        x: Tensor,
        eps: float,  # noqa: ARG002  see Sourced
    ) -> Source:
        """See Sourced; refuses a generator of other images."""
        self.check_supplies(supplies)
        generator: Any = supplies.generator
        if tuple(x.shape[1:]) != tuple(generator.shape):
            raise ValueError(
                f"latent: the generator makes images {tuple(generator.shape)}, got "
                f"{tuple(x.shape[1:])}"
            )
        return Source(supplies.sources[0], 0, (), _Search(self, generator))


@dataclass(frozen=True)
class _Search(BlockAttack):
    """The search itself, with the generator in hand."""

    recipe: Latent
    generator: Generator | None

    access: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    def to_spec(self) -> str:
        """The recipe's."""
        return self.recipe.to_spec()

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int:  # noqa: ARG002  no class counts
        """See Attack: of the classifier."""
        return len(radii) * self.recipe.steps * self.recipe.starts

    def craft(self, ask: Ask, task: Task) -> Tensor:
        """See BlockAttack."""
        if self.generator is None:
            raise ValueError("latent needs a generator")
        recipe = self.recipe
        worst = torch.full_like(task.radius, torch.inf)
        best = _Best(task.x.clone(), worst.isfinite(), worst)
        for number, start in enumerate(self._starts(task, self.generator)):
            weight = recipe.weight * _FURTHER**number
            z, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
            for step in range(1, recipe.steps + 1):
                with torch.enable_grad():
                    leaf = z.detach().requires_grad_()
                    images = self.generator(leaf)
                upstream = self._looked(ask, task, images.detach(), weight, best)
                (slope,) = torch.autograd.grad(images, leaf, upstream)
                moved = _adam(z, slope, moments, step, recipe.lr / z.shape[1] ** 0.5)
                z = self.generator.prior.confined(moved)
        return best.points

    def _starts(self, task: Task, generator: Generator) -> tuple[Tensor, ...]:
        """The latents (N, d) of the best inversions, the best first."""
        recipe, count = self.recipe, len(task.x)
        shape = torch.Size((count, recipe.tries * generator.latent))
        uniform = task.draws.uniform(shape, "latent").view(count, recipe.tries, -1)
        inversion = Inversion(steps=recipe.inversion, restarts=recipe.tries)
        found = inversion.every(generator, task.x, generator.prior.latents(uniform))
        order = found.errors.argsort(dim=1, stable=True)[:, : recipe.starts]
        chosen = found.z.gather(1, order[:, :, None].expand(-1, -1, found.z.shape[2]))
        return chosen.unbind(1)

    def _looked(self, ask: Ask, task: Task, points: Tensor, weight: float, best: _Best) -> Tensor:
        """Asks about points G(z), keeps what is better, and gives the loss's gradient in them."""
        rows = torch.arange(len(points), device=points.device)
        moved = norms.project(points, task.x, task.radius, task.norm)
        aimed = task.y if task.targets is None else task.targets
        sign = torch.full_like(task.radius, 1.0 if task.targets is None else -1.0)
        said = ask(points, rows, Aim(MARGIN, aimed, sign), differentiate=True)
        away = points - moved
        short = (self.recipe.confidence - said.value).clamp(min=0)
        best.keep(moved, away.square().flatten(1).sum(1), short)
        wanting = norms.expand((short > 0).float() * weight, points)
        return 2 * away - wanting * said.gradient


@dataclass
class _Best:
    """The best points (N, ...) so far, whether (N,) they are misclassified with confidence, and
    their loss (N,).
    """

    points: Tensor
    sure: Tensor
    loss: Tensor

    def keep(self, points: Tensor, away: Tensor, short: Tensor) -> None:
        """Keeps confident points before others, and of two such the one of less loss."""
        sure, loss = short <= 0, away + short
        better = (sure & ~self.sure) | ((sure == self.sure) & (loss < self.loss))
        self.points = torch.where(norms.expand(better, points), points, self.points)
        self.loss = torch.where(better, loss, self.loss)
        self.sure = self.sure | sure


def _adam(
    z: Tensor, slope: Tensor, moments: tuple[Tensor, Tensor], step: int, rate: float
) -> Tensor:
    """The latents after a step of Adam; its moments move in place."""
    for moment, beta, value in zip(moments, _BETAS, (slope, slope.square()), strict=True):
        moment.lerp_(value, 1 - beta)
    mean, square = (m / (1 - beta**step) for m, beta in zip(moments, _BETAS, strict=True))
    return z - rate * mean / (square.sqrt() + _TINY)

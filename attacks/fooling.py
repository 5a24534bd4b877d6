"""Fooling images: from noise to an image that the model is sure of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks import loop, norms
from attacks.base import Attack, StepAttack, Task, at_least
from attacks.draws import Draws
from attacks.oracles import Predict, frozen
from attacks.pgd import Pgd
from attacks.verify import predictions

_ATTACK = Pgd(steps=40, rel_alpha=0.1, random=False)


@dataclass(frozen=True)
class Fooling:
    """Images that began as noise, and the probability of the class each was driven to.

    images (K, M, C, H, W) in [0, 1]; confidence (K, M): of class k in its M images; before (K, M):
    the same in the noise they began as.
    """

    images: Tensor
    confidence: Tensor
    before: Tensor

    def shares(self, level: float) -> Tensor:
        """The share (K,) of each class's images with a confidence above the level."""
        return (self.confidence > level).double().mean(1)

    @property
    def table(self) -> list[dict[str, float]]:
        """A row per class: shares of images above 0.5 and 0.9, and of the noise above 0.5."""
        half, sure = self.shares(0.5), self.shares(0.9)
        noise = (self.before > 0.5).double().mean(1)
        return [
            {
                "class": k,
                "above_0.5": float(half[k]),
                "above_0.9": float(sure[k]),
                "noise_above_0.5": float(noise[k]),
            }
            for k in range(len(half))
        ]


def fooling_images(  # noqa: PLR0913  one keyword per setting
    model: Predict,
    shape: tuple[int, int, int],
    *,
    count: int = 10,
    attack: str | Attack = _ATTACK,
    norm: str = "linf",
    eps: float = 1.0,
    level: float = 0.9,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Fooling:
    """Drives `count` noise images towards every class of a model (Goodfellow et al. 2014,
    arXiv:1412.6572, section 8, "rubbish class" examples; Nguyen et al. 2015, arXiv:1412.1897).

    model: images (N, C, H, W) in [0, 1] to logits (N, K). Noise is uniform in [0, 1], the same for
    every class and drawn from seed. attack: any budget attack that takes steps; it is aimed at the
    class inside the ball (norm, eps) around the noise, eps 1 under linf being the whole box; an
    image is left alone once its confidence is above `level`. The model is left as found.
    """
    at_least("count", count, 1)
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    if not (0 < eps < math.inf):
        raise ValueError(f"eps must be finite and above 0, got {eps}")
    recipe = Attack.from_spec(attack) if isinstance(attack, str) else attack
    if not isinstance(recipe, StepAttack) or recipe.kind != "budget":
        raise ValueError(f"attack must be a budget attack of steps, got {recipe.to_spec()}")
    ids = torch.arange(count, device=device)
    draws = Draws(seed, ids, torch.zeros_like(ids))
    noise = draws.uniform(torch.Size((count, *shape)), "fooling")
    with frozen(model):
        before = predictions(model, noise, count).softmax(1)
        classes = before.shape[1]
        recipe.check(norm, classes, targeted=True)
        images = [
            _driven(recipe, model, noise, (k, classes), (norm, eps, level), draws)
            for k in range(classes)
        ]
        sure = [
            predictions(model, driven, count).softmax(1)[:, k] for k, driven in enumerate(images)
        ]
    return Fooling(torch.stack(images), torch.stack(sure), before.T.contiguous())


def _driven(
    recipe: StepAttack,
    model: Predict,
    noise: Tensor,
    wanted: tuple[int, int],
    ball: tuple[str, float, float],
    draws: Draws,
) -> Tensor:
    """The noise (M, ...) driven towards class k of K, each image until it is sure enough."""
    (k, classes), (norm, eps, level) = wanted, ball
    target = torch.full((len(noise),), k, dtype=torch.int64, device=noise.device)
    radius = torch.full((len(noise),), eps, device=noise.device)
    # Any other class serves as the label that the noise is said to have.
    task = Task(noise, (target + 1) % classes, norm, radius, classes, draws, targets=target)
    kept, best = noise.clone(), torch.zeros_like(radius)

    def watch(points: Tensor, logits: Tensor) -> bool:
        sure = logits.softmax(1)[:, k]
        better = (best <= level) & (sure > best)
        kept.copy_(torch.where(norms.expand(better, points), points, kept))
        best.copy_(torch.where(better, sure, best))
        return bool((best > level).all())

    loop.craft(recipe, model, task, steps=recipe.horizon(eps, norm, classes), watch=watch)
    return kept

"""What defenses share that put a transform of the image in front of the net."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.draws import Draws, sample_ids
from attacks.pipelines import Randomised, is_random, said
from defenses.base import Defended, Defense
from defenses.straight import straight_through
from defenses.workshop import Workshop
from models.split import Split
from models.train import Batch, accuracy

Train = Literal["clean", "transformed"]
"""What the net behind a transform is trained on."""

_ROWS = 512


class Behind(nn.Module):
    """A net behind a transform of the image."""

    def __init__(self, transform: nn.Module, net: nn.Module):
        super().__init__()
        self.transform = transform
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.net(self.transform(x))
        return logits


class BehindDraws(Randomised):
    """A net behind a random transform of the image."""

    def __init__(self, transform: Randomised, net: nn.Module):
        super().__init__()
        self.transform = transform
        self.net = net

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        logits: Tensor = self.net(self.transform(x, draws))
        return logits


class Passing(nn.Module):
    """A transform with the gradient of the identity."""

    def __init__(self, transform: nn.Module):
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        """Transformed images."""
        with torch.no_grad():
            exact = self.transform(x)
        return straight_through(exact, x)


class PassingDraws(Randomised):
    """A random transform with the gradient of the identity."""

    def __init__(self, transform: Randomised):
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        with torch.no_grad():
            exact = self.transform(x, draws)
        return straight_through(exact, x)


class TransformRecipe(Defense):
    """Base of the transforms: recipes with at least the key `train`, and `seed` where random.

    Where `masking` says that a transform lets no gradient through, attacks are handed the identity
    in its place backward. The bare classifier inside is known where it was trained on clean images;
    one trained on transformed images was not made for others, and there is none.
    """

    train: Train
    seed: int = 0

    @abstractmethod
    def transform(self) -> nn.Module:
        """Images (N, C, H, W) in [0, 1] to images of that shape; Randomised where it draws."""

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense."""
        transform = self.transform()
        clean = self.train == "clean"
        net = workshop.undefended() if clean else self._trained(transform, workshop)
        inside = net if clean else None
        if isinstance(transform, Randomised):
            random = BehindDraws(transform, net).eval()
            return Defended(predict=random, surrogate=random, inside=inside)
        predict = Behind(transform, net).eval()
        if not self.masking:
            return Defended(predict=predict, surrogate=predict, inside=inside)
        surrogate = Behind(Passing(transform), net).eval()
        return Defended(predict=predict, surrogate=surrogate, exact=True, inside=inside)

    def _trained(self, transform: nn.Module, workshop: Workshop) -> nn.Module:
        objective = OnTransformed(transform, self.to_spec(), self.seed)
        return workshop.fit(objective, {"defense": self.identity()})


@dataclass(frozen=True)
class OnTransformed:
    """The objective L(t(x), y), t drawn anew for each image and epoch where it is random.

    named: what t is called; seed: of its random numbers. A checkpoint's score is accuracy on
    transformed validation images, under one fixed draw.
    """

    transform: nn.Module
    named: str
    seed: int

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return f"L(t(x), y); t by {self.named}"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        return F.cross_entropy(net(self._points(batch.x, draws)), batch.y)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:  # noqa: ARG002
        """Accuracy on transformed images, which is the score."""
        device = next(net.parameters()).device
        parts = []
        for index in torch.split(torch.arange(len(validation)), _ROWS):
            x = validation.images(index, device)
            ids = (sample_ids(x) if is_random(self.transform) else index).to(device)
            parts.append(self._points(x, Draws(self.seed, ids, torch.zeros_like(ids))).cpu())
        right = accuracy(net, Split(torch.cat(parts), validation.y))
        return {"score": right, "transformed": right}

    def _points(self, x: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad():
            return said(self.transform, x, draws)

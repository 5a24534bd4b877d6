"""Adversarial images that a defense makes of the training split: the recipe's ball, and points
crafted in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from attacks import loop, norms
from attacks.base import Attack, StepAttack, Task
from attacks.draws import Draws
from attacks.oracles import held
from attacks.threat import NORMS
from defenses import registry
from defenses.base import Defense
from defenses.validation import ROWS
from models.nets import Shape
from models.split import Split


def stepwise(attack: Attack) -> StepAttack:
    """The attack, where training can use it; refuses others."""
    if not isinstance(attack, StepAttack) or attack.kind != "budget":
        raise ValueError(
            "attack must be one that maximises a loss inside eps step by step, such as pgd, "
            f"got {attack.to_spec()} (kind {attack.kind})"
        )
    return attack


class CraftingRecipe(Defense):
    """Base of recipes that craft adversarial images to train with: at least the keys eps, norm and
    seed.
    """

    eps: float | None
    norm: str | None
    attack: Attack
    seed: int

    @property
    def inner(self) -> StepAttack:
        """The attack that crafts the points trained on: the key `attack`, where there is one."""
        return stepwise(self.attack)

    def check_ball(self) -> None:
        """Refuses a norm or eps out of range, and an inner attack that does not know the norm."""
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.eps is not None and not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be above 0, got {self.eps}")
        if self.norm == "linf" and self.eps is not None and self.eps > 1:
            raise ValueError(
                f"eps must be at most 1 under linf (the box is [0, 1]), got {self.eps}"
            )
        inner = self.inner
        if self.norm is not None:
            inner.check(self.norm, inner.least_classes(targeted=False))

    def at(self, norm: str, reference: float | None) -> Self:
        """See Defense."""
        name = registry.defenses.name_of(self)
        if self.eps is None and reference is None:
            raise ValueError(f"{name}: eps= is needed, the dataset names no reference eps")
        if self.eps is None and self.norm not in (None, norm):
            raise ValueError(f"{name}: eps= is needed, norm={self.norm} is not the run's {norm}")
        eps = reference if self.eps is None else self.eps
        filled: Self = replace(cast(Any, self), norm=self.norm or norm, eps=eps)
        return filled

    def check_data(self, shape: Shape, validation: int) -> None:  # noqa: ARG002  see Defense
        """Refuses an eps larger than the box."""
        norm = self.norm or "linf"
        widest = float(norms.size(torch.ones(1, *shape), norm))
        if self.eps is not None and self.eps > widest:
            raise ValueError(
                f"eps must be at most {widest:g} under {norm} (the width of the box [0, 1] for "
                f"images {tuple(shape)}), got {self.eps}"
            )

    def filled(self, classes: int) -> tuple[float, str]:
        """eps and norm; refuses what the run did not fill in, and too few classes."""
        if self.eps is None or self.norm is None:
            name = registry.defenses.name_of(self)
            raise ValueError(f"{name}: eps and norm must be set (Defense.at fills them in)")
        self.inner.check(self.norm, classes)
        return self.eps, self.norm


@dataclass(frozen=True)
class Ball:
    """Where points are crafted: radius eps in the norm, for nets of so many classes."""

    norm: str
    eps: float
    classes: int

    def crafted(
        self, attack: StepAttack, net: nn.Module, x: Tensor, y: Tensor, draws: Draws
    ) -> Tensor:
        """Where the attack stands (n, ...) after its last step, the net frozen in eval mode
        meanwhile.
        """
        radius = torch.full((len(x),), self.eps, device=x.device)
        task = Task(x, y, self.norm, radius, self.classes, draws)
        steps = attack.horizon(self.eps, self.norm, self.classes) - 1
        with held(net):
            return loop.craft(attack, net, task, steps=steps)

    def of_split(
        self, attack: StepAttack, net: nn.Module, split: Split, seed: int, device: torch.device
    ) -> Tensor:
        """The same of each image of a split, once; they lie where the split's images do."""
        parts = []
        for index in torch.split(torch.arange(len(split)), ROWS):
            x = split.images(index, device)
            y, place = split.y[index].to(device), index.to(device)
            draws = Draws(seed, place, torch.zeros_like(place))
            parts.append(self.crafted(attack, net, x, y, draws).to(split.x.device))
        return torch.cat(parts)

"""The attack contract: a frozen dataclass of hyper-parameters with three pure functions over a
state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from attacks import registry
from attacks.draws import Draws
from attacks.oracles import Answer, Predict, Query
from attacks.threat import NORMS, ThreatModel


@dataclass(frozen=True)
class Task:
    """What an attack works on: N samples, each with a radius and a restart of its own.

    x (N, ...) float32 in [0, 1]; y (N,) int64; radius (N,) float32 in the norm; targets (N,) int64
    where the adversary wants these classes, else any wrong class will do; draws keyed by sample and
    restart.
    """

    x: Tensor
    y: Tensor
    norm: str
    radius: Tensor
    classes: int
    draws: Draws
    targets: Tensor | None = None


class State(Protocol):
    """A dataclass whose tensors all lead with the sample dimension; done (N,) says whose restart is
    over.
    """

    @property
    def done(self) -> Tensor:
        """Whether (N,) bool the sample's restart has nothing more to ask."""
        ...


class Attack(ABC):
    """Base of every attack recipe; the loop of attacks.loop runs it.

    access: the oracle it needs (`gradient`, `logits`, `labels`); norms: those it knows; classes:
    the least number it is defined for; restarts: independent starts, of which the best point per
    sample is kept; revision: raised when a change of the code changes outcomes, so that stored ones
    are not reused.
    """

    access: ClassVar[str]
    norms: ClassVar[tuple[str, ...]] = NORMS
    revision: ClassVar[int] = 1
    classes: int = 2
    restarts: int = 1

    @abstractmethod
    def start(self, task: Task) -> Any:
        """The state (see State) before the first query."""

    @abstractmethod
    def ask(self, state: Any) -> Query:
        """The points to look at next, q per sample, q constant."""

    @abstractmethod
    def tell(self, state: Any, answer: Answer) -> Any:
        """The state after the answer, whose tensors have shapes (N, q, ...)."""

    @abstractmethod
    def horizon(self, radius: float) -> int:
        """The most often that `ask` is called in one restart at a radius."""

    def check(self, norm: str, classes: int) -> None:
        """Refuses a norm or a number of classes that the attack is not defined for."""
        name = registry.attacks.name_of(self)
        if norm not in self.norms:
            raise ValueError(f"attack {name} knows the norms {', '.join(self.norms)}, got {norm}")
        if classes < self.classes:
            raise ValueError(
                f"{self.to_spec()} needs at least {self.classes} classes, got {classes}"
            )

    def __call__(
        self,
        model: Predict,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int = 0,
        targets: Tensor | None = None,
        shape: int | None = None,
    ) -> Tensor:
        """Adversarial images (N, C, H, W) for images x in [0, 1] with labels y (N,) int64.

        Every image is in the box and in the ball. One that no restart fooled is the point with the
        highest loss; an image misclassified from the start comes back unchanged. With targets (N,)
        success is that the target is predicted. shape: rows per call of the model (padded to it;
        default: N up to 128); outcomes under the same shape do not depend on the rest of the batch.
        The model and the global random state are left as found.
        """
        from attacks import call

        return call.attack(self, model, x, y, threat, seed=seed, targets=targets, shape=shape)

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The attack that a spec names."""
        recipe = registry.attacks.get(text)
        if not isinstance(recipe, cls):
            raise TypeError(f"{text!r} must name an attack, got {type(recipe).__name__}")
        return recipe

    def to_spec(self) -> str:
        """The shortest spec of this attack."""
        return registry.attacks.describe(self)

    def identity(self) -> dict[str, Any]:
        """What the attack is, for digests: name, every field, revision."""
        return registry.attacks.identity(self)


MOST = 10**9
"""The largest count a hyper-parameter may be."""


def at_least(name: str, value: float, least: float) -> None:
    """Refuses a hyper-parameter below its least value, or absurdly large."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}")


def replicate(task: Task, value: float) -> Tensor:
    """A tensor (N,) float32 that holds one value."""
    return torch.full_like(task.radius, value)

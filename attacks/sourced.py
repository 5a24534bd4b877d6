"""Attacks made on another model than the one they are judged on: what they are handed, and what of
the target they see.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attacks.base import Attack, Kind
from attacks.draws import Draws
from attacks.oracles import ModelError, Predict, frozen
from attacks.pipelines import is_random
from attacks.verify import predictions
from attacks.work import Setting
from models.generators import Generator
from models.recipes import Classifier


@dataclass(frozen=True)
class Supplies:
    """What an attack may need beyond the model.

    held_out (M, ...): images like the attacked ones, in [0, 1], of which neither those nor the
    target's training have any; own (M', ...): the adversary's images where they come from elsewhere
    (other half, foreign data), else the first of held_out are; sources: trained nets in the order
    in which the attack names them; generator: the one inside the target.
    """

    held_out: Tensor | None = None
    own: Tensor | None = None
    sources: Sequence[nn.Module] = ()
    generator: Generator | None = None
    say: Callable[[str], None] = field(default=lambda _: None)


class Labels:
    """The classes (N,) int64 that a target predicts for images, and nothing else of it.

    asked counts the images it was asked about by the adversary.
    """

    def __init__(self, predict: Predict, shape: int, classes: int):
        self.asked = 0

        def classify(x: Tensor) -> Tensor:
            draws = Draws.of(x, 0).fork("label") if is_random(predict) else None
            # Of an image that is refused the class is told, too: the adversary's best case.
            return predictions(predict, x, shape, classes=classes, draws=draws)[:, :classes].argmax(
                1
            )

        self._classify = classify

    def __call__(self, x: Tensor) -> Tensor:
        """The classes of images x (N, ...); each is a query."""
        self.asked += len(x)
        return self.measured(x)

    def measured(self, x: Tensor) -> Tensor:
        """The same for figures that people read and the adversary does not: no query."""
        return self._classify(x)


@dataclass(frozen=True)
class Source:
    """The model that an attack is made on.

    queries: labels asked of the target to have it, once for all samples; facts: rows of what it is
    like, see transfer.Row; attack: what is run on it, where that is not the recipe's inner one.
    """

    model: nn.Module
    queries: int
    facts: tuple[dict[str, Any], ...]
    attack: Attack | None = None

    def provenance(self) -> dict[str, Any]:
        """As the store keeps it beside a cell."""
        return {"shared_queries": self.queries, "transfer": list(self.facts)}


SAME, HALF = "same", "half"
GENERATOR = "generator"
"""What an attack needs that searches the latent space of the target's generator."""


class Sourced(Attack):
    """An attack that an inner one carries out on a source model.

    Of the target it sees labels; whether a point fools the target is decided once per restart, by
    the judge as for every attack. A sample's forward and backward queries are those of the source.
    data: the dataset its source is made of: the target's (same), the half of the training split
    that the target has not seen (half), or a spec.
    """

    data: str = SAME

    @property
    @abstractmethod
    def models(self) -> tuple[Classifier, ...]:
        """The sources that are trained for it."""

    @property
    @abstractmethod
    def images(self) -> int:
        """How many held-out images it has a use for."""

    @abstractmethod
    def check_supplies(self, supplies: Supplies) -> None:
        """Refuses too few images, whatever is on them, and sources that nobody can train."""

    @property
    @abstractmethod
    def inner(self) -> Attack:
        """The attack on the source."""

    @abstractmethod
    def prepare(
        self, target: Labels, supplies: Supplies, setting: Setting, x: Tensor, eps: float
    ) -> Source:
        """The source for attacks on images like x (N, ...); eps: where its transfer is measured.

        Depends on the arguments' values and setting.seed alone, and of x on its shape and device.
        """

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """The inner attack's."""
        return self.inner.kind

    @property
    def norms(self) -> tuple[str, ...]:  # type: ignore[override]
        """The inner attack's."""
        return self.inner.norms

    @property
    def mode(self) -> str:
        """See Attack."""
        return "transfer"

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int | None:
        """See Attack: of the source."""
        return self.inner.cost(radii, norm, classes)

    def least_queries(self, classes: int) -> int:  # noqa: ARG002  a look at the target is one
        """See Attack: a budget is of the target's answers, and one tells whether an image fools;
        the labels for a substitute are shared by all images and stand apart.
        """
        return 1

    def attempts(self, classes: int, *, targeted: bool = False) -> int:
        """See Attack."""
        return self.inner.attempts(classes, targeted=targeted)

    def check(self, norm: str, classes: int, *, targeted: bool = False) -> None:
        """See Attack."""
        self.inner.check(norm, classes, targeted=targeted)

    def least_classes(self, *, targeted: bool) -> int:
        """See Attack."""
        return self.inner.least_classes(targeted=targeted)


def check_source(net: Predict, x: Tensor, classes: int, name: str) -> None:
    """Refuses a source that does not take images like x (N, ...) or knows other classes."""
    known = classes_of(net, x, name)
    if known != classes:
        raise ModelError(f"{name} must know {classes} classes as the target does, got {known}")


def classes_of(net: Predict, x: Tensor, name: str) -> int:
    """How many classes a net knows; refuses one that does not take images like x (N, ...)."""
    shape = tuple(x.shape[1:])
    try:
        with frozen(net), torch.no_grad():
            logits = net(torch.zeros(1, *shape, device=x.device))
    except RuntimeError as err:
        reason = " ".join(str(err).split())[:200]
        raise ModelError(f"{name} does not take images of shape {shape}: {reason}") from err
    if logits.dim() != 2:
        raise ModelError(f"{name} must return logits (N, K), got {tuple(logits.shape)}")
    return int(logits.shape[1])

"""The attack contract: a frozen dataclass of hyper-parameters, and the three kinds there are: steps
that the one loop runs, blocks that run themselves, and ensembles of others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from torch import Tensor, nn

from attacks import registry
from attacks.draws import Draws
from attacks.oracles import ACCESS, Aim, Answer, Predict, Query
from attacks.threat import NORMS, ThreatModel

if TYPE_CHECKING:
    from attacks.sourced import Supplies


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


Kind = Literal["budget", "minimal", "ensemble"]


class Attack(ABC):
    """Base of every attack recipe; attacks.loop runs it.

    access: the oracle it needs (`gradient`, `jacobian`, `logits`, `labels`); kind: whether it
    maximises damage inside eps (budget), minimises the distance of a success, so that one run fills
    the whole curve (minimal), or runs others (ensemble); norms: those it knows; classes: the least
    number it is defined for; restarts: independent starts, of which the best point per sample is
    kept; eot: answers of a random model averaged per query; needs: what it must be handed beyond
    the model, fields of attacks.sourced.Supplies; revision: raised when a change of the code
    changes outcomes, so that stored ones are not reused.
    """

    access: ClassVar[str]
    kind: ClassVar[Kind] = "budget"
    norms: ClassVar[tuple[str, ...]] = NORMS
    revision: ClassVar[int | str] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    classes: int = 2
    restarts: int = 1
    eot: int = 1

    @abstractmethod
    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int | None:
        """Forward queries at most for one sample at all of these radii; None where nobody knows."""

    def least_queries(self, classes: int) -> int:  # noqa: ARG002  some look at every class
        """The smallest query budget that means anything: here an answer, and a look at where it
        led.
        """
        return 2 * self.eot

    def check_budget(self, budget: int, classes: int) -> None:
        """Refuses a query budget that the attack cannot take a step with."""
        least = self.least_queries(classes)
        if budget < least:
            raise ValueError(f"{self.to_spec()} needs a query budget of {least}, got {budget}")

    def attempts(self, classes: int, *, targeted: bool = False) -> int:  # noqa: ARG002  some aim at every class
        """Independent attempts at one sample and radius, of which the best point is kept; targeted:
        the caller names target classes.
        """
        return self.restarts

    @property
    def mode(self) -> str:
        """What tables call it when it is handed the deployed pipeline."""
        return ACCESS[self.access]

    @property
    def shared_queries(self) -> int:
        """Queries at most that are made once, for all samples and radii together."""
        return 0

    def check(self, norm: str, classes: int, *, targeted: bool = False) -> None:
        """Refuses a norm or a number of classes that the attack is not defined for; targeted: the
        caller names target classes.
        """
        name = registry.attacks.name_of(self)
        if norm not in self.norms:
            raise ValueError(f"attack {name} knows the norms {', '.join(self.norms)}, got {norm}")
        least = self.least_classes(targeted=targeted)
        if classes < least:
            raise ValueError(f"{self.to_spec()} needs at least {least} classes, got {classes}")

    def least_classes(self, *, targeted: bool) -> int:  # noqa: ARG002  some losses need more then
        """The least number of classes it is defined for."""
        return self.classes

    def __call__(  # noqa: PLR0913  the public call's arguments
        self,
        model: Predict,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int = 0,
        targets: Tensor | None = None,
        shape: int | None = None,
        query_budget: int | None = None,
        supplies: Supplies | None = None,
    ) -> Tensor:
        """Adversarial images (N, C, H, W) for images x in [0, 1] with labels y (N,) int64.

        Every image is in the box and in the ball. One that no restart fooled is the point with the
        highest loss (of a minimal attack the nearest success moved into the ball, or the image); an
        image misclassified from the start comes back unchanged. With targets (N,), none equal to
        its label, success is that the target is predicted. shape: rows per call of the model
        (padded to it; default: N up to 128); outcomes under the same shape do not depend on the
        rest of the batch. query_budget: forward queries per sample, at which the attack stops.
        supplies: what an attack with `needs` needs. The model and the global random state are left
        as found.
        """
        from attacks import call

        options = call.Options(seed, targets, shape, query_budget, supplies)
        return call.attack(self, model, x, y, threat, options)

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


class StepAttack(Attack):
    """An attack as three pure functions over a state; the loop calls them for whole batches."""

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
    def horizon(self, radius: float, norm: str, classes: int) -> int:
        """The most often that `ask` is called in one attempt at a radius."""

    points: ClassVar[int] = 1
    """Points per query, q."""

    def goes_on(self, norm: str) -> bool:  # noqa: ARG002  some do under some norms
        """Whether an attempt is as good from any point of the ball as from its own start, a random
        one: the loop may then put the field `point` of its state where another attempt ended, and
        cut the attempt short.
        """
        return False

    hurries: ClassVar[bool] = False
    """Whether a cut attempt's `hurried` state makes up for the queries it lacks."""

    def hurried(self, state: Any, share: Tensor) -> Any:  # noqa: ARG002  some set their own pace
        """The state of an attempt that is cut to a share (N,) of its queries."""
        return state

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int:
        """See Attack."""
        at = radii if self.kind == "budget" else [max(radii)] if radii else []
        asked = sum(self.horizon(radius, norm, classes) for radius in at)
        return asked * self.attempts(classes) * self.points * self.eot


class Ask(Protocol):
    """What a block attack is handed: an oracle that counts."""

    def __call__(self, points: Tensor, rows: Tensor, aim: Aim, *, differentiate: bool) -> Answer:
        """The answer for points (m, ...) of the samples rows (m,) int64 of the task; aim (m,)."""
        ...


class BlockAttack(Attack):
    """An attack that cannot be streamed: it runs itself on a block of samples.

    Its queries are counted and its points judged like everyone's.
    """

    @abstractmethod
    def craft(self, ask: Ask, task: Task) -> Tensor:
        """Points (N, ...), a point equal to its image where nothing was found."""


class ForeignAttack(Attack):
    """An attack of somebody else's, which calls a model by itself: run on a block of samples.

    The model it is handed counts its queries, and its points are judged like everyone's. It may
    draw from the global generators: they are seeded before and put back after. What it does to a
    sample may depend on the others of the block, which is why a stored block is never split. A
    query budget stops it for the whole block, before the call that would take any sample beyond;
    the nearest successes seen by then are its points. can_target: whether it takes targets.
    """

    revision: ClassVar[int | str] = 1
    can_target: ClassVar[bool] = False

    @abstractmethod
    def craft(self, model: nn.Module, task: Task) -> Tensor:
        """Points (N, ...) for a task whose samples share one radius."""

    def attempts(self, classes: int, *, targeted: bool = False) -> int:  # noqa: ARG002  it restarts itself
        """One: a field `restarts` is its own."""
        return 1

    def least_classes(self, *, targeted: bool) -> int:  # noqa: ARG002  nobody knows
        """Two: a field `classes` is its own."""
        return 2

    def least_queries(self, classes: int) -> int:  # noqa: ARG002  nobody knows
        """One."""
        return 1

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> None:
        """Not known before it has run."""

    def check(self, norm: str, classes: int, *, targeted: bool = False) -> None:
        """See Attack."""
        super().check(norm, classes, targeted=targeted)
        if targeted and not self.can_target:
            raise ValueError(f"attack {registry.attacks.name_of(self)} takes no targets")


class Ensemble(Attack):
    """Other attacks one after the other, each only on the samples and radii that still stand."""

    kind: ClassVar[Kind] = "ensemble"

    @abstractmethod
    def stages(self, norm: str, classes: int) -> tuple[Attack, ...]:
        """The attacks in their order."""

    def cost(self, radii: Sequence[float], norm: str, classes: int) -> int | None:
        """See Attack."""
        costs = [stage.cost(radii, norm, classes) for stage in self.stages(norm, classes)]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


def check_layout(attack: Attack, x: Tensor) -> None:
    """Refuses what has no rows and columns."""
    if x.dim() != 4:
        got = tuple(x.shape)
        raise ValueError(f"{attack.to_spec()} takes images (N, C, H, W), got {got}")


MOST = 10**9
"""The largest count a hyper-parameter may be."""


def at_least(name: str, value: float, least: float) -> None:
    """Refuses a hyper-parameter below its least value, or absurdly large."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}")

"""Gradient attacks on estimated gradients: finite differences of scores along random directions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attacks import norms
from attacks.base import Attack, StepAttack, Task, at_least
from attacks.draws import Draws
from attacks.losses import MARGIN
from attacks.mifgsm import MiFgsm
from attacks.oracles import Answer, Query
from attacks.rows import pick, where


@dataclass(frozen=True)
class EstimatedState:
    """Per sample: the inner attack's state; which of its queries is due (0: its point itself, then
    the two probes of each pair), the point asked for it, and what a pair's difference says of each
    component; logits (N, 1, K) and value (N, 1) at the inner attack's point; the value at the first
    probe of the pair; the sum of differences so far.
    """

    inner: Any
    point: Tensor
    weight: Tensor
    logits: Tensor
    value: Tensor
    probe: Tensor
    ahead: Tensor
    total: Tensor
    cycle: Tensor
    draws: Draws

    @property
    def done(self) -> Tensor:
        """See State."""
        done: Tensor = self.inner.done
        return done


@dataclass(frozen=True)
class Estimated(StepAttack):
    """Base of attacks that hand an inner gradient attack an estimate in place of the gradient.

    At each of its points x the estimate is the mean over `pairs` random directions u of
    (L(x + s u) - L(x - s u)) / (2 s) u, one query each. Probes are moved into [0, 1], as a black
    box takes images only; a component that the wall stops is weighted up by what it lost. For
    random signs the estimate of a linear loss stays unbiased everywhere, for normal directions at
    the walls and away from them (within a sigma or two of a wall it is up to 30 % too small).
    """

    access: ClassVar[str] = "logits"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    attack: Attack = MiFgsm(steps=20, loss=MARGIN)  # noqa: RUF009  a frozen dataclass
    pairs: int = 50
    sigma: float = 0.01

    def __post_init__(self) -> None:
        at_least("pairs", self.pairs, 1)
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma must be above 0 and at most 1, got {self.sigma}")
        inner = self.inner
        if inner.eot != 1 or inner.points != 1:
            raise ValueError(f"attack must ask one point at a time, got {inner.to_spec()}")

    @abstractmethod
    def directions(self, draws: Draws, like: Tensor, cycle: Tensor, pair: Tensor) -> Tensor:
        """Random directions (N, ...) of unit variance for a pair (N,) of a cycle (N,)."""

    @property
    def inner(self) -> StepAttack:
        """The attack that takes the steps."""
        attack = self.attack
        is_ascent = attack.access == "gradient" and attack.kind == "budget"
        if not isinstance(attack, StepAttack) or not is_ascent:
            raise ValueError(
                "attack must be one that takes steps along a gradient inside eps, such as pgd, got "
                f"{attack.to_spec()}"
            )
        return attack

    def check(self, norm: str, classes: int, *, targeted: bool = False) -> None:
        """See Attack."""
        super().check(norm, classes, targeted=targeted)
        self.inner.check(norm, classes, targeted=targeted)

    def attempts(self, classes: int, *, targeted: bool = False) -> int:
        """See Attack."""
        return self.inner.attempts(classes, targeted=targeted)

    def least_classes(self, *, targeted: bool) -> int:
        """See Attack."""
        return self.inner.least_classes(targeted=targeted)

    def least_queries(self, classes: int) -> int:
        """See Attack: one estimate, and a look at where it led."""
        return self.inner.least_queries(classes) + 2 * self.pairs

    def horizon(self, radius: float, norm: str, classes: int) -> int:
        """See StepAttack."""
        return self.inner.horizon(radius, norm, classes) * (1 + 2 * self.pairs)

    def start(self, task: Task) -> EstimatedState:
        """See StepAttack."""
        zero = torch.zeros_like(task.y)
        value = torch.zeros_like(task.radius)
        inner = self.inner.start(task)
        return EstimatedState(
            inner=inner,
            point=self.inner.ask(inner).points[:, 0],
            weight=torch.zeros_like(task.x),
            logits=torch.zeros(len(task.y), 1, task.classes, device=task.x.device),
            value=value[:, None],
            probe=zero,
            ahead=value.clone(),
            total=torch.zeros_like(task.x),
            cycle=zero.clone(),
            draws=task.draws,
        )

    def ask(self, state: EstimatedState) -> Query:
        """The inner attack's point, or a probe beside it, which is never a result."""
        query = self.inner.ask(state.inner)
        looks = state.probe == 0
        offered = looks if query.offered is None else looks & query.offered
        never = torch.zeros_like(looks)
        return replace(query, points=state.point[:, None], differentiate=never, offered=offered)

    def _next(self, state: EstimatedState) -> EstimatedState:
        """The state with the point of the query that is due."""
        point = self.inner.ask(state.inner).points[:, 0]
        pair = (state.probe - 1) // 2
        along = self.sigma * self.directions(state.draws, point, state.cycle, pair)
        ahead, behind = norms.to_box(point + along), norms.to_box(point - along)
        is_ahead = norms.expand(state.probe % 2 == 1, point)
        room = (1 - point).clamp(max=self.sigma) + point.clamp(max=self.sigma)
        probe = torch.where(is_ahead, ahead, behind)
        return replace(
            state,
            point=pick(state.probe == 0, point, probe),
            weight=(ahead - behind) / (room**2).clamp(min=self.sigma**2),
        )

    def tell(self, state: EstimatedState, answer: Answer) -> EstimatedState:
        """Notes the value; after the last probe the inner attack is told the estimate."""
        query = self.inner.ask(state.inner)
        looks, last = state.probe == 0, state.probe == 2 * self.pairs
        value = answer.value[:, 0]
        is_behind = (state.probe % 2 == 0) & ~looks
        change = torch.where(is_behind, state.ahead - value, 0)
        total = state.total + norms.expand(change, state.weight) * state.weight
        logits = torch.where(looks[:, None, None], answer.logits, state.logits)
        kept = torch.where(looks[:, None], answer.value, state.value)
        due = last | (looks & ~query.differentiate)
        inner = state.inner
        # Most of the time nobody's estimate is complete; asking would stall an accelerator.
        if value.device.type != "cpu" or bool(due.any()):
            told = self.inner.tell(inner, Answer(logits, kept, total / self.pairs))
            inner = where(due, told, inner)
        return self._next(
            replace(
                state,
                inner=inner,
                logits=logits,
                value=kept,
                probe=torch.where(due, 0, state.probe + 1),
                ahead=value,
                total=torch.where(norms.expand(due, total), 0, total),
                cycle=state.cycle + due,
            )
        )


@dataclass(frozen=True)
class Nes(Estimated):
    """Steps along gradients estimated from Gaussian directions, scores only (Ilyas et al. 2018,
    arXiv:1804.08598).

    attack: the gradient attack whose steps are taken, by default with momentum as the paper's, on
    the margin; the paper also lets the step size fall. pairs: antithetic directions per gradient,
    two queries each. sigma: their scale (the paper's 0.001).
    """

    sigma: float = 0.001

    def directions(self, draws: Draws, like: Tensor, cycle: Tensor, pair: Tensor) -> Tensor:
        """See Estimated: standard normal."""
        return draws.normal(like.shape, "direction", cycle, pair)


@dataclass(frozen=True)
class Spsa(Estimated):
    """Steps along gradients estimated from random signs, scores only (Uesato et al. 2018,
    arXiv:1802.05666, after Spall 1992).

    attack: the gradient attack whose steps are taken, by default with momentum, on the margin (the
    paper takes Adam's).
    pairs: directions per gradient, two queries each. sigma: their scale (the paper's 0.01).
    """

    def directions(self, draws: Draws, like: Tensor, cycle: Tensor, pair: Tensor) -> Tensor:
        """See Estimated: -1 or 1."""
        return draws.signs(like.shape, "direction", cycle, pair)

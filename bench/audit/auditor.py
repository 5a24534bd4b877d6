"""An audit carried out: what a pipeline is asked, within a budget of its own, and what is noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks import loop, norms
from attacks.base import Attack, StepAttack, Task
from attacks.draws import Draws
from attacks.losses import CROSS_ENTROPY, MARGIN
from attacks.oracles import DIFFERENTIATING, ModelError
from attacks.pgd import Pgd
from attacks.pipelines import evaluation_draws, is_random, refuses, said
from attacks.verify import judge_of, look_like_probabilities
from attacks.work import Samples, Setting, Settled
from bench import gradients, memory
from bench.audit.case import STOOD
from bench.audit.probes import FAR, PROBES, RESTART, Probe
from bench.audit.recipe import DEAR, Audit
from bench.outcomes import Images
from bench.packing import Arrays
from defenses.base import Defended

LEAST = 10
"""Images without which a probe is left out."""
_NOISES, _RADIUS = 20, 8 / 255
"""Random directions at an image, and twice their largest component (Pintor et al. 2022,
arXiv:2106.09947, who take 100)."""
_EARLY = 0.1
"""Of the budget, that the look at gradients may take."""
_OTHER = 2**32
"""Between the seeds of the rows and of one more restart."""
_TRACE, _LAST = 40, 10
"""Steps whose loss is followed, and those at the end in which it must not rise."""


class Asked(Protocol):
    """Whom an attack of an audit asks."""

    def __call__(self, recipe: Attack) -> tuple[Defended, Setting]:
        """The pipeline as the attack may ask it, and how the loop runs it."""
        ...


@dataclass
class _Ledger:
    """What an audit may ask, and has asked of each image (n,)."""

    budget: int
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    skipped: dict[str, str] = field(default_factory=dict)

    def affords(self, name: str, each: int, wanted: int, until: float = 1.0) -> int:
        """How many images can be asked so many queries each, of the budget up to a share of it;
        none, and a note, where that is too few.
        """
        spent = int(self.forward.sum() + self.backward.sum())
        left = max(0, int(until * self.budget) - spent)
        count = min(wanted, left // max(1, each))
        if count >= min(wanted, LEAST):
            return count
        self.skipped[name] = f"{left} queries left for {wanted} images, {each} each"
        return 0

    def spend(self, places: NDArray[np.int64] | int, forward: int, backward: int = 0) -> None:
        """Notes queries made of each of these images."""
        self.forward[places] += forward
        self.backward[places] += backward


class Auditor:
    """One audit: the images, whether (n, draws) the pipeline gets them right, the radius."""

    def __init__(
        self,
        audit: Audit,
        images: Images,
        right: NDArray[np.bool_],
        defended: Defended,
        asked: Asked,
        norm: str,
        radius: float,
    ):
        self.audit, self.images, self.right = audit, images, right
        self.defended, self.asked, self.norm, self.radius = defended, asked, norm, radius
        # The stand-in for what gradient attacks of the audit see.
        self.handed, self.setting = asked(Pgd())
        dear = defended.passes > DEAR
        count = len(right)
        asked_of = (np.zeros(count, np.int64), np.zeros(count, np.int64))
        self.ledger = _Ledger(audit.share if dear else audit.budget, *asked_of)
        self.stands = right.copy()
        self.least = np.where(right.all(1), np.inf, 0.0)
        self.refused = np.zeros(count, np.int64)
        self.verify = np.zeros(count, np.int64)
        self.noted: Arrays = {}
        self.facts: dict[str, Any] = {}

    @property
    def answers(self) -> int:
        """Those averaged per query of a gradient."""
        return self.setting.eot if is_random(self.handed.surrogate) else 1

    def run(self, clean: Tensor) -> tuple[Arrays, dict[str, Any]]:
        """Everything that the budget allows. clean (n, K): what the pipeline said before; returns
        the arrays of the block and facts for provenance.
        """
        self.facts["labels"] = bool(((clean == 0) | (clean == 1)).all())
        self.facts["probabilities"] = look_like_probabilities(clean) and not self.facts["labels"]
        checks: list[tuple[str, Callable[[], None]]] = [("gradients", self._look)]
        checks += [(probe.name, partial(self._probe, probe)) for probe in PROBES]
        checks += [("landscape", partial(self._noises, clean)), ("loss", self._follow)]
        checks += [("drift", partial(self._drift, clean))]
        for name, check in checks:
            # What one check makes the pipeline answer badly is no reason to leave out the others.
            try:
                check()
            except (ValueError, TypeError, RuntimeError) as err:
                if memory.ran_out(err):
                    raise
                self.facts.setdefault("errors", {})[name] = " ".join(str(err).split())
        ledger = self.ledger
        self.facts |= {"skipped": ledger.skipped, "budget": ledger.budget}
        if self.audit.again is not None:
            self.facts["again"] = self.audit.again.to_spec()
        return self.noted, self.facts

    def _standing(self, most: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.stands.any(1))[:most]

    def _look(self) -> None:
        """Gradients at the images; whether recording them changes the answer."""
        places = self._standing(10**9)
        each = 4 * self.answers
        places = places[: self.ledger.affords("gradients", each, len(places), _EARLY)]
        if not len(places):
            if why := self.ledger.skipped.get("gradients"):
                self.ledger.skipped["recorded"] = why
            return
        few = self.images.take(places)
        try:
            for name, loss in (("cross-entropy", CROSS_ENTROPY), ("margin", MARGIN)):
                flat, broken = gradients.look(self.handed.surrogate, few, self.setting, loss)
                self._note(f"zero:{name}", places, flat.astype(np.float32))
                self._note(f"broken:{name}", places, broken.astype(np.float32))
                self.ledger.spend(places, self.answers, self.answers)
        except ModelError as err:
            self.facts["path"] = str(err)
        if self.handed.surrogate is self.defended.predict:
            self._recorded(few, places)

    def _recorded(self, few: Images, places: NDArray[np.int64]) -> None:
        """Whether the pipeline answers otherwise while gradients are recorded."""
        predict, rows = self.defended.predict, self.setting.shape
        x, draws = few.x[:rows], self._draws(few.ids[:rows])
        with torch.no_grad():
            plain = said(predict, x, draws).float()
        with torch.enable_grad():
            recorded = said(predict, x.clone().requires_grad_(), draws).detach().float()
        self.facts["recorded"] = _apart(plain, recorded)
        self.ledger.spend(places[: len(x)], 2)

    def _draws(self, ids: Tensor) -> Draws | None:
        return evaluation_draws(ids, 0) if is_random(self.defended.predict) else None

    def _noises(self, clean: Tensor) -> None:
        """Answers to random directions at the images that stand: whether they change at all, and
        by how much the margin does. One that draws may well answer with a count of votes.
        """
        places = self._standing(10**9)
        if is_random(self.defended.predict) or self.facts["labels"]:
            drawn = "answers are labels" if self.facts["labels"] else "answers are drawn"
            self.ledger.skipped["landscape"] = drawn
            return
        places = places[: self.ledger.affords("landscape", _NOISES, len(places))]
        if not len(places):
            return
        few, index = self.images.take(places), torch.from_numpy(places).to(clean.device)
        before, draws = clean[index], Draws.of(self.images.take(places).x, self.setting.seed)
        classes, own = self.setting.classes, MARGIN(before[:, : self.setting.classes], few.y)
        change, same = torch.zeros_like(own), torch.zeros_like(own)
        for number in range(_NOISES):
            noise = draws.uniform(few.x.shape, "landscape", number) - 0.5
            moved = replace(few, held=norms.to_box(few.x + noise.to(few.x.dtype) * _RADIUS))
            logits = moved.answers(self.defended.predict, self.setting.shape)
            now = MARGIN(logits[:, :classes], few.y)
            change += ((now - own).abs() / own.abs().clamp(min=1e-12)).clamp(max=1) / _NOISES
            same += (logits == before).all(1).float() / _NOISES
        self._note("unstable", places, change.cpu().numpy())
        self._note("constant", places, same.cpu().numpy())
        self.ledger.spend(places, _NOISES)

    def _probe(self, probe: Probe) -> None:
        """Runs an attack on what stands, within the budget."""
        recipe = probe.made(self.audit)
        if recipe is None:
            return
        if self.norm not in recipe.norms:
            self.ledger.skipped[probe.name] = f"not defined under {self.norm}"
            return
        is_gradient = recipe.access in DIFFERENTIATING
        if is_gradient and "path" in self.facts:
            self.ledger.skipped[probe.name] = "no gradient"
            return
        asked, setting = self.asked(recipe)
        cost = recipe.cost([self.radius], self.norm, setting.classes) or 0
        drawn = max(setting.eot, recipe.eot) if is_random(asked.surrogate) else recipe.eot
        each = cost * drawn // recipe.eot * (1 + is_gradient)
        places = self._standing(probe.most)
        count = self.ledger.affords(probe.name, each, len(places), probe.until)
        places = places[:count]
        if not len(places):
            return
        self._run(probe, recipe, asked, setting, places)

    def _run(
        self,
        probe: Probe,
        recipe: Attack,
        asked: Defended,
        setting: Setting,
        places: NDArray[np.int64],
    ) -> None:
        few = self.images.take(places)
        radii = np.full((len(places), 1), self.radius)
        if probe.name == RESTART:
            # From the seed of the rows it would start where they did.
            setting = replace(setting, seed=setting.seed + _OTHER)
        if probe.name == FAR:
            radii[:, 0] = norms.furthest(few.x, self.norm).double().cpu().numpy()
        samples = Samples(few.x, few.y, few.ids, radii)
        judge = judge_of(asked.predict, samples, setting)
        stood = np.full(len(places), np.nan, np.float32)
        try:
            for settled in loop.sweep(recipe, asked.surrogate, judge, samples, setting):
                place = int(places[settled.sample])
                still = self.stands[place] & ~settled.fell[0]
                self.ledger.spend(place, settled.forward, settled.backward)
                self.verify[place] += settled.verify
                stood[settled.sample] = still.mean()
                if probe.name != FAR:
                    self._fell(place, settled, still)
        finally:
            # Images whose logits are no numbers are told at the end, when the others are settled.
            self._note(STOOD + probe.name, places, stood)

    def _fell(self, place: int, settled: Settled, still: NDArray[np.bool_]) -> None:
        """What a probe inside the ball leaves of an image."""
        self.refused[place] += settled.refused
        if settled.fell.any():
            self.least[place] = min(self.least[place], self.radius)
        self.stands[place] = still

    def _follow(self) -> None:
        """Whether the loss still rises in the last steps (Pintor et al., fourth indicator)."""
        name = "loss"
        places = self._standing(2 * LEAST)
        handed = self.handed.surrogate
        recipe: StepAttack = Pgd(steps=_TRACE, loss=MARGIN)
        if is_random(handed) or refuses(handed) or "path" in self.facts:
            self.ledger.skipped[name] = "no one loss to follow"
            return
        if self.norm not in recipe.norms:
            self.ledger.skipped[name] = f"not defined under {self.norm}"
            return
        places = places[: self.ledger.affords(name, 2 * _TRACE, len(places))]
        if not len(places):
            return
        few = self.images.take(places)
        radius = torch.full((len(places),), self.radius, device=few.x.device)
        task = Task(
            few.x,
            few.y,
            self.norm,
            radius,
            self.setting.classes,
            Draws.of(few.x, self.setting.seed),
        )
        losses: list[Tensor] = []

        def watch(_: Tensor, logits: Tensor) -> bool:
            losses.append(MARGIN(logits[:, : self.setting.classes], few.y))
            return False

        loop.craft(recipe, handed, task, steps=_TRACE, watch=watch)
        self._note("rising", places, rising(torch.stack(losses, 1)).cpu().numpy())
        self.ledger.spend(places, _TRACE, _TRACE)

    def _drift(self, clean: Tensor) -> None:
        """Whether the pipeline says of the first images what it said before."""
        rows = min(self.setting.shape, len(self.right))
        few = self.images.first(self.ledger.affords("drift", 1, rows))
        if not len(few.y):
            return
        again = few.answers(self.defended.predict, self.setting.shape)
        self.facts["drift"] = _apart(again, clean[: len(again)])
        self.ledger.spend(np.arange(len(again)), 1)

    def _note(self, name: str, places: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Values of these images; nan of the others."""
        whole = np.full(len(self.right), np.nan, np.float32)
        whole[places] = values
        self.noted[name] = whole


def rising(losses: Tensor) -> Tensor:
    """By how much (n,) losses (n, steps) still rise in the last 10 steps, of their whole range: the
    best so far, scaled to [0, 1] (Pintor et al. 2022; above 0.05 the search was not over).
    """
    best = losses.cummax(1).values
    low, high = losses.amin(1), best[:, -1]
    return (high - best[:, -1 - _LAST]) / (high - low).clamp(min=1e-12)


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of answers, over the largest answer (1 at least)."""
    scale = max(1.0, float(other.abs().max())) if len(other) else 1.0
    return float((one - other).abs().max()) / scale if len(one) else 0.0

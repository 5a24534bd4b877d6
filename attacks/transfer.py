"""Transfer: adversarial images made on another model than the one they are meant for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from attacks import loop, norms, substitute
from attacks.base import Attack, at_least
from attacks.draws import sample_ids
from attacks.fgsm import Fgsm
from attacks.oracles import Predict, frozen
from attacks.pgd import Pgd
from attacks.sourced import HALF, SAME, Labels, Source, Sourced, Supplies, check_source
from attacks.verify import judge_of, predictions
from attacks.work import Samples, Setting
from models import nets, train
from models.recipes import Classifier, MlpRelu, Several
from models.seeding import seeded
from models.train import Settings

_SEEDS = 150
_BATCH = 128
_MOST_ROUNDS = 12
_PROBES = 500
"""Images at most on which a source is compared with the target."""


@dataclass(frozen=True)
class SourceModels(Several):
    """What `source=` names: `substitute`, `given` (nets handed over from Python), or models."""

    word: str = ""

    @classmethod
    def from_spec(cls, text: str) -> Self:
        """The sources that a text names."""
        return cls(word=text) if text in _WORDS else super().from_spec(text)

    def to_spec(self) -> str:
        """The shortest text that names them."""
        return self.word or super().to_spec()

    def identity(self) -> list[Any]:
        """What they are, for digests."""
        return [self.word, *super().identity()]


_WORDS = ("substitute", "given")
SUBSTITUTE = SourceModels(word="substitute")


@dataclass(frozen=True)
class Transfer(Sourced):
    """Adversarial images of a source model, tried on the target (Papernot et al. 2017,
    arXiv:1602.02697; several sources at once: Liu et al. 2017, arXiv:1611.02770).

    attack: what is run on the source, any other attack; what a minimal one finds there is moved on
    to every radius. source: substitute (see below), or models
    trained without asking the target, several joined by +: `[cnn_small:seed=1]+mlp`; of several the
    loss is taken of the mean of their probabilities, as Liu does with equal weights. A model of the
    target's own spec is the target itself, and one of its seed starts from its weights: give it
    another seed. data: what the source is made of. same, the target's dataset; half, the half of
    the training split that the target has not seen (needs a dataset with half=); or a dataset of
    the same image shape and number of classes. From Python, source=given takes the nets that are
    handed over.

    The substitute is trained on labels that the target gives: on `seeds` held-out images first
    (150, or half of what there is), then in every further round also on x + lam sign(dF_y / dx) for
    every x so far, F the substitute's logits and y the target's label; the sign of lam changes
    after every 3 rounds. These are seeds 2^(rounds - 1) queries, once for all images and radii.
    epochs: per round, going on from the last one's weights. model: of the substitute; its lr and
    batch (128 where it names none) are used, the seed is the attack's. cleverhans starts with a
    negative step, we with a positive one as in the paper; its learning rate stands still, ours
    rises and falls.
    """

    access: ClassVar[str] = "labels"
    revision: ClassVar[int | str] = 2
    needs: ClassVar[tuple[str, ...]] = ("held_out", "sources")
    attack: Attack = Pgd(steps=40)  # noqa: RUF009  a frozen dataclass
    source: SourceModels = SUBSTITUTE
    data: str = SAME
    seeds: int | None = None
    rounds: int = 6
    epochs: int = 10
    lam: float = 0.1
    model: Classifier = MlpRelu()  # noqa: RUF009  a frozen dataclass

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs"):
            at_least(name, getattr(self, name), 1)
        if self.rounds > _MOST_ROUNDS:
            raise ValueError(
                f"rounds must be at most {_MOST_ROUNDS} (each doubles the set), got {self.rounds}"
            )
        if self.seeds is not None:
            at_least("seeds", self.seeds, 1)
        if not 0 < self.lam <= 1:
            raise ValueError(f"lam must be in (0, 1], got {self.lam}")
        self._check_attack()
        if self.model.is_trained:
            raise ValueError(f"model must be one to train, got {self.model.to_spec()}")
        if not self.data:
            raise ValueError(f"data must be {SAME}, {HALF} or a dataset, got nothing")

    def _check_attack(self) -> None:
        if self.attack.needs:
            raise ValueError(
                f"attack must be one that needs no source, got {self.attack.to_spec()}"
            )

    @property
    def inner(self) -> Attack:
        """See Sourced."""
        return self.attack

    @property
    def models(self) -> tuple[Classifier, ...]:
        """See Sourced."""
        return self.source.recipes

    @property
    def images(self) -> int:
        """See Sourced."""
        return (_SEEDS if self.seeds is None else self.seeds) + _PROBES

    def check_supplies(self, supplies: Supplies) -> None:
        """See Sourced."""
        if self.source == SUBSTITUTE:
            self.seed_images(supplies)
        elif not self.models:
            raise ValueError("source=given takes nets that are handed over from Python, supplies=")

    @property
    def shared_queries(self) -> int:
        """See Attack."""
        seeds = _SEEDS if self.seeds is None else self.seeds
        return seeds * 2 ** (self.rounds - 1) if self.source == SUBSTITUTE else 0

    def identity(self) -> dict[str, Any]:
        """See Attack."""
        return {**super().identity(), "training": train.REVISION}

    def prepare(
        self, target: Labels, supplies: Supplies, setting: Setting, x: Tensor, eps: float
    ) -> Source:
        """See Sourced; raises ValueError for supplies that do not fit."""
        for name, images in (("held_out", supplies.held_out), ("own", supplies.own)):
            if images is not None and images.shape[1:] != x.shape[1:]:
                got, wanted = tuple(images.shape[1:]), tuple(x.shape[1:])
                raise ValueError(f"supplies: {name} must hold images {wanted}, got {got}")
        if self.source == SUBSTITUTE:
            return self._substitute(target, supplies, setting, x.device, eps)
        sources = list(supplies.sources)
        count = len(self.source.recipes)
        if not sources or (count and len(sources) != count):
            raise ValueError(
                f"source={self.source.to_spec()} takes {count or 'at least 1'} nets in supplies, "
                f"got {len(sources)}"
            )
        for number, net in enumerate(sources, 1):
            check_source(net, x, setting.classes, f"source {number}")
        named = dict(zip(self._names(sources), sources, strict=True))
        together = sources[0] if len(sources) == 1 else MeanProbability(sources)
        if len(sources) > 1:
            named["all"] = together
        if supplies.held_out is None:
            return Source(together, 0, ())
        probe = _Probe.of(target, supplies.held_out[:_PROBES].to(x.device), setting, eps)
        counted = {"round": 0, "images": 0, "queries": 0}
        facts = [{"source": name, **counted, **probe.figures(net)} for name, net in named.items()]
        return Source(together, 0, tuple(facts))

    def _names(self, sources: Sequence[nn.Module]) -> list[str]:
        """What the sources are called, each name once."""
        specs = [recipe.to_spec() for recipe in self.source.recipes]
        return [
            f"source {number}" if number > len(specs) else f"{number}: {specs[number - 1]}"
            for number in range(1, len(sources) + 1)
        ]

    def seed_images(self, supplies: Supplies) -> tuple[Tensor, Tensor]:
        """The adversary's images, and others to measure on; refuses too few."""
        if supplies.held_out is None:
            raise ValueError("transfer needs held-out images to train a substitute: supplies=")
        apart = supplies.own is None
        have = supplies.held_out if supplies.own is None else supplies.own
        half = max(1, len(have) // 2) if apart else len(have)
        seeds = min(_SEEDS, half) if self.seeds is None else self.seeds
        if len(have) < seeds + apart:
            more = " and one more to measure on" if apart else ""
            raise ValueError(
                f"transfer needs {seeds} held-out images{more}, got {len(have)}; lower seeds="
            )
        rest = supplies.held_out[seeds:] if apart else supplies.held_out
        return have[:seeds], rest[:_PROBES]

    def _substitute(
        self, target: Labels, supplies: Supplies, setting: Setting, device: torch.device, eps: float
    ) -> Source:
        seeds, probes = (images.to(device) for images in self.seed_images(supplies))
        probe = _Probe.of(target, probes, setting, eps)
        with seeded(setting.seed):
            net = self.model.architecture(_shape(seeds), setting.classes).to(seeds.device)
        settings = Settings(
            epochs=self.epochs,
            batch=self.model.batch or _BATCH,
            optimiser=self.model.optimiser,
            lr=self.model.lr,
            decay=self.model.decay,
            seed=setting.seed,
        )
        before, facts = target.asked, []
        for done in substitute.trained(
            net.eval(), seeds, target, settings, rounds=self.rounds, lam=self.lam
        ):
            figures = probe.figures(net)
            queries = target.asked - before
            counted = {"round": done.number, "images": done.images, "queries": queries}
            facts.append({"source": f"substitute {self.model.to_spec()}", **counted, **figures})
            supplies.say(
                f"substitute, round {done.number}/{self.rounds}: {queries:,} queries, agreement "
                f"{100 * figures['agreement']:.1f} %"
            )
        return Source(net, target.asked - before, tuple(facts))


def _shape(x: Tensor) -> nets.Shape:
    """(C, H, W) of images (N, C, H, W)."""
    channels, height, width = x.shape[1:]
    return channels, height, width


class MeanProbability(nn.Module):
    """Several nets as one: the logarithm of the mean of their probabilities.

    Its cross-entropy is -log(sum_i alpha_i softmax_i(x)_y) with equal alpha, the loss of Liu et al.
    (2017, section 4.1).
    """

    def __init__(self, nets: Sequence[nn.Module]):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (N, K), which are logits too."""
        said = torch.stack([net(x).log_softmax(1) for net in self.nets])
        return said.logsumexp(0) - math.log(len(self.nets))


def points_on(
    attack: Attack, source: Predict, x: Tensor, y: Tensor, radius: float, setting: Setting
) -> Tensor:
    """The points (N, ...) that an attack reaches on a source, whatever a target says of them: of a
    budget attack (and the first stage of an ensemble) that of the highest loss, of a minimal one
    the nearest success, moved into the ball.
    """
    samples = Samples(x, y, sample_ids(x).to(x.device), np.array([radius]))
    setting = replace(setting, exact=False, draws=1)
    is_minimal = attack.kind == "minimal"
    judge = judge_of(source, samples, setting) if is_minimal else _never
    points = x.clone()
    for settled in loop.sweep(attack, source, judge, samples, setting):
        points[settled.sample] = settled.x_adv
    allowed = torch.full((len(x),), radius, device=x.device)
    inside = norms.inside(points, x, allowed, setting.norm)
    moved = norms.project(points, x, allowed, setting.norm)
    return torch.where(norms.expand(inside, x), points, moved)


def _never(points: Tensor, index: Any, radius: Tensor) -> Any:  # noqa: ARG001  a judge's signature
    return np.zeros((len(points), 1), dtype=np.bool_)


@dataclass(frozen=True)
class _Probe:
    """Images x that nobody trains on, the target's labels y of them; eps: where FGSM is tried."""

    target: Labels
    x: Tensor
    y: Tensor
    setting: Setting
    eps: float

    @classmethod
    def of(cls, target: Labels, x: Tensor, setting: Setting, eps: float) -> Self:
        return cls(target, x, target.measured(x), setting, eps)

    def figures(self, net: nn.Module) -> dict[str, Any]:
        """agreement: the share of the images that the net labels as the target does; transfer_rate:
        the share whose FGSM image, made on the net at eps, the target labels otherwise (none for a
        norm that FGSM does not know).
        """
        with frozen(net):
            said = predictions(net, self.x, self.setting.shape, classes=self.setting.classes)
            agreement = int((said.argmax(1) == self.y).sum()) / len(self.x)
            rate = None
            if self.setting.norm in Fgsm.norms and self.eps > 0:
                moved = points_on(Fgsm(), net, self.x, self.y, self.eps, self.setting)
                rate = int((self.target.measured(moved) != self.y).sum()) / len(self.x)
        return {
            "agreement": agreement,
            "transfer_rate": rate,
            "probes": len(self.x),
            "eps": self.eps,
        }

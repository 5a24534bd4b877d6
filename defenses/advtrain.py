"""Adversarial training with a weighted loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import loop
from attacks.base import Attack, StepAttack, Task
from attacks.draws import Draws, sample_ids
from attacks.oracles import held
from attacks.pgd import Pgd
from attacks.threat import NORMS, ThreatModel
from defenses.base import Defended, Defense, Workshop
from models.split import Split
from models.train import Batch, Standard, TrainingFailed

CHECK = Pgd(steps=10)
"""The attack that validation trusts more than the one trained with."""

_CHECKED = 500
_ROWS = 128
_GAP, _SHARE = 0.2, 0.5
_LATE = 0.5
"""The share of the updates before which one predicted class is a slow start, not a collapse."""


def _exact(value: float) -> str:
    """The shortest decimal that is this number, whole ones without a point."""
    return repr(float(value)).removesuffix(".0")


@dataclass(frozen=True)
class AdversarialTraining(Defense):
    """Adversarial training: minimise L(x, y) + lam L(x_adv, y) (Madry et al. 2017,
    arXiv:1706.06083).

    L is the mean cross-entropy, x_adv what `attack` finds against the net in training. lam: weight
    of the adversarial term; 0 is standard training bit for bit, inf minimises L(x_adv, y) alone
    (Madry). attack: any budget attack; its last point is used, nothing stops early; the net is in
    eval mode meanwhile. norm, eps: the ball; by default the run's norm and the dataset's reference
    eps. warmup: share of the updates over which eps grows from 0 to its full value. seed: of the
    attack's random starts. Model, epochs, batch and learning rate are the model's.

    The kept checkpoint is the one most accurate under pgd:steps=10 on up to 500 validation images
    once eps is full. Training stops, and says so, when the net's accuracy under its own attack is
    more than 20 points above, and more than twice, its accuracy under that check (catastrophic
    overfitting: Wong et al. 2020, arXiv:2001.03994), or when it predicts one class only after half
    of the updates. Under a norm that the check does not know, `attack` itself is the check.
    """

    lam: float = 1.0
    eps: float | None = None
    norm: str | None = None
    attack: Attack = Pgd(steps=5, rel_alpha=0.35)  # noqa: RUF009  a frozen dataclass
    warmup: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise ValueError(
                f"lam must be at least 0 (inf: the adversarial term alone), got {self.lam}"
            )
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.eps is not None and not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be above 0, got {self.eps}")
        if self.norm == "linf" and self.eps is not None and self.eps > 1:
            raise ValueError(
                f"eps must be at most 1 under linf (the box is [0, 1]), got {self.eps}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")
        inner = self._inner()
        if self.norm is not None:
            inner.check(self.norm, inner.least_classes(targeted=False))

    def _inner(self) -> StepAttack:
        attack = self.attack
        if not isinstance(attack, StepAttack) or attack.kind != "budget":
            raise ValueError(
                "attack must be one that maximises a loss inside eps step by step, such as pgd, "
                f"got {attack.to_spec()} (kind {attack.kind})"
            )
        return attack

    def at(self, norm: str, reference: float | None) -> Self:
        """See Defense."""
        if self.eps is None and reference is None:
            raise ValueError("advtrain: eps= is needed, the dataset names no reference eps")
        if self.eps is None and self.norm not in (None, norm):
            raise ValueError(f"advtrain: eps= is needed, norm={self.norm} is not the run's {norm}")
        eps = reference if self.eps is None else self.eps
        return replace(self, norm=self.norm or norm, eps=eps)

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; raises TrainingFailed for a collapse."""
        if self.eps is None or self.norm is None:
            raise ValueError("advtrain: eps and norm must be set (Defense.at fills them in)")
        self.attack.check(self.norm, workshop.classes)
        objective = Weighted(
            self.lam, self.eps, self.norm, self._inner(), self.warmup, self.seed, workshop.classes
        )
        identity = {"defense": self.identity(), "engine": loop.REVISION}
        net = workshop.fit(objective, identity)
        return Defended(predict=net, surrogate=net)


@dataclass(frozen=True)
class Weighted:
    """The objective L(x, y) + lam L(x_adv, y) of models.train, x_adv in the ball of radius eps."""

    lam: float
    eps: float
    norm: str
    attack: StepAttack
    warmup: float
    seed: int
    classes: int

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        ball = f"{self.norm} eps {_exact(self.eps)}, warm-up {_exact(self.warmup)}"
        ball = f"x_adv by {self.attack.to_spec()}, {ball}"
        if self.lam == 0:
            return Standard().text
        if math.isinf(self.lam):
            return f"L(x_adv, y); {ball}"
        return f"L(x, y) + {_exact(self.lam)} L(x_adv, y); {ball}"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        if self.lam == 0:
            return Standard().loss(net, batch)
        share = 1.0 if self.warmup == 0 else min(1.0, batch.progress / self.warmup)
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        x_adv = self._crafted(net, batch.x, batch.y, self.eps * share, draws)
        adversarial = F.cross_entropy(net(x_adv), batch.y)
        if math.isinf(self.lam):
            return adversarial
        return F.cross_entropy(net(batch.x), batch.y) + self.lam * adversarial

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:
        """Clean accuracy, and accuracy under the check and under the attack trained with; see the
        recipe.
        """
        measured = Standard().validate(net, validation, progress)
        if self.lam == 0:
            return measured
        robust, own, kinds = self._accuracies(net, validation)
        measured |= {"robust": robust, "own_attack": own}
        full = progress >= self.warmup
        measured["score"] = robust if full else -1 + robust
        checked = full and self.norm in CHECK.norms
        if checked and own - robust > _GAP and robust < _SHARE * own:
            raise TrainingFailed(
                f"adversarial training collapsed: {100 * own:.1f} % right under its own "
                f"{self.attack.to_spec()} but {100 * robust:.1f} % under {CHECK.to_spec()} on "
                "validation images; use an inner attack with more steps, or more warmup"
            )
        if full and progress >= _LATE and kinds == 1 and self.classes > 1:
            raise TrainingFailed(
                "adversarial training collapsed: the net predicts one class for every image"
            )
        return measured

    def _accuracies(self, net: nn.Module, validation: Split) -> tuple[float, float, int]:
        """Accuracy under the check, under the own attack, and the number of classes predicted."""
        device = next(net.parameters()).device
        few = slice(0, _CHECKED)
        x, y = validation.images(few, device), validation.y[few].to(device)
        check = CHECK if self.norm in CHECK.norms else self.attack
        x_adv = check(net, x, y, ThreatModel(self.norm, self.eps), seed=self.seed, shape=_ROWS)
        ids = sample_ids(x).to(device)
        right, own, kinds = 0, 0, set[int]()
        for first in range(0, len(x), _ROWS):
            rows = slice(first, first + _ROWS)
            draws = Draws(self.seed, ids[rows], torch.zeros_like(ids[rows]))
            crafted = self._crafted(net, x[rows], y[rows], self.eps, draws)
            with torch.no_grad():
                right += int((net(x_adv[rows]).argmax(1) == y[rows]).sum())
                own += int((net(crafted).argmax(1) == y[rows]).sum())
                kinds |= set(net(x[rows]).argmax(1).tolist())
        return right / len(x), own / len(x), len(kinds)

    def _crafted(self, net: nn.Module, x: Tensor, y: Tensor, eps: float, draws: Draws) -> Tensor:
        """Where the attack stands after its last step, the net frozen in eval mode meanwhile."""
        radius = torch.full((len(x),), eps, device=x.device)
        task = Task(x, y, self.norm, radius, self.classes, draws)
        steps = self.attack.horizon(eps, self.norm, self.classes) - 1
        with held(net):
            return loop.craft(self.attack, net, task, steps=steps)

"""What every adversarial training shares: the ball it is meant for, points crafted in it while the
net trains, and validation under a stronger attack that names a collapse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks import loop
from attacks.base import StepAttack
from attacks.draws import Draws, sample_ids
from attacks.threat import ThreatModel
from defenses.base import Defended
from defenses.crafting import Ball, CraftingRecipe
from defenses.validation import CHECK, ROWS, checked, predicted, share_right, under_check
from defenses.workshop import Workshop
from models.split import Split
from models.train import Batch, Objective, Standard, TrainingFailed

Collapse = Literal["fail", "stop", "note"]
"""What a gap between own attack and check does: training fails; it is an alarm in the log, and
training stops where accuracy under the check has fallen, too; it is an alarm and no more.
"""

_GAP, _SHARE = 0.2, 0.5
_LATE = 0.5
"""The share of the updates before which one predicted class is a slow start, not a collapse."""


def exact(value: float) -> str:
    """The shortest decimal that is this number, whole ones without a point."""
    return repr(float(value)).removesuffix(".0")


class AdversarialRecipe(CraftingRecipe):
    """Base of the adversarial trainings: recipes with at least the keys eps, norm, warmup and
    seed.
    """

    deploys_net: ClassVar[bool] = True

    warmup: float = 0.0

    @abstractmethod
    def objective(self, eps: float, norm: str, workshop: Workshop) -> Objective:
        """What is minimised in the ball of radius eps."""

    def check_ball(self) -> None:
        """See CraftingRecipe; refuses a warmup out of range, too."""
        super().check_ball()
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {self.warmup}")

    def deploy(self, workshop: Workshop) -> Defended:
        """See Defense; raises TrainingFailed for a collapse."""
        eps, norm = self.filled(workshop.classes)
        objective = self.objective(eps, norm, workshop)
        net = workshop.fit(objective, {"defense": self.identity(), "engine": loop.CRAFTING})
        return Defended(predict=net, surrogate=net)


@dataclass(frozen=True, kw_only=True)
class InBall(ABC):
    """An objective of models.train over points that `attack` crafts in the ball of radius eps.

    warmup: share of the updates over which the radius grows from 0 to eps; seed: of the attack's
    random numbers; collapse: what a gap between own attack and check does.
    """

    eps: float
    norm: str
    attack: StepAttack
    warmup: float
    seed: int
    classes: int
    collapse: Collapse = "fail"

    @property
    @abstractmethod
    def text(self) -> str:
        """See models.train.Objective."""

    @abstractmethod
    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""

    @property
    def is_standard(self) -> bool:
        """Whether nothing but L(x, y) is left of it, to be judged as standard training is."""
        return False

    @property
    def ball(self) -> str:
        """How x_adv is made, for `text`."""
        return (
            f"x_adv by {self.attack.to_spec()}, {self.norm} eps {exact(self.eps)}, "
            f"warm-up {exact(self.warmup)}"
        )

    def radius(self, progress: float) -> float:
        """The radius at a share of the updates."""
        return self.eps * (1.0 if self.warmup == 0 else min(1.0, progress / self.warmup))

    def points(self, net: nn.Module, batch: Batch) -> Tensor:
        """x_adv (n, ...) of an update, against this net."""
        draws = Draws(self.seed, batch.index, torch.full_like(batch.index, batch.epoch))
        return self._crafted(net, batch.x, batch.y, self.radius(batch.progress), draws)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:
        """Clean accuracy, and accuracy under the check and under the attack trained with; see the
        recipe.
        """
        measured = Standard().validate(net, validation, progress)
        if self.is_standard:
            return measured
        robust, own, kinds = self._accuracies(net, validation)
        measured |= {"robust": robust, "own_attack": own}
        full = progress >= self.warmup
        measured["score"] = robust if full else -1 + robust
        gap = own - robust > _GAP and robust < _SHARE * own
        if full and gap and self.norm in CHECK.norms:
            measured |= self._collapsed(robust, own)
        if full and progress >= _LATE and kinds == 1 and self.classes > 1:
            raise TrainingFailed(
                "adversarial training collapsed: the net predicts one class for every image"
            )
        return measured

    def _collapsed(self, robust: float, own: float) -> dict[str, float]:
        """What the log says of a gap, where it does not end training."""
        if self.collapse == "fail":
            raise TrainingFailed(
                f"adversarial training collapsed: {100 * own:.1f} % right under its own "
                f"{self.attack.to_spec()} but {100 * robust:.1f} % under {CHECK.to_spec()} on "
                "validation images; use an inner attack with more steps, or more warmup"
            )
        return {"alarm": 1.0}

    def is_over(self, log: Sequence[Mapping[str, Any]]) -> bool:
        """See models.train.Stopping: an alarm after which robust accuracy is more than 20 points
        below its best. Without such a fall it may be a start that single steps recover from.
        """
        if self.collapse != "stop" or not log[-1].get("alarm"):
            return False
        robust = [float(entry["robust"]) for entry in log]
        return max(robust) - robust[-1] > _GAP

    def _accuracies(self, net: nn.Module, validation: Split) -> tuple[float, float, int]:
        """Accuracy under the check, under the own attack, and the number of classes predicted."""
        x, y = checked(net, validation)
        threat = ThreatModel(self.norm, self.eps)
        robust = under_check(net, x, y, threat, own=self.attack, seed=self.seed)
        ids = sample_ids(x).to(x.device)
        crafted = []
        for rows in torch.split(torch.arange(len(x), device=x.device), ROWS):
            draws = Draws(self.seed, ids[rows], torch.zeros_like(ids[rows]))
            crafted.append(self._crafted(net, x[rows], y[rows], self.eps, draws))
        kinds = len(set(predicted(net, x).tolist()))
        return robust, share_right(net, torch.cat(crafted), y), kinds

    def _crafted(self, net: nn.Module, x: Tensor, y: Tensor, eps: float, draws: Draws) -> Tensor:
        """Where the attack stands after its last step, the net frozen in eval mode meanwhile."""
        ball = Ball(self.norm, eps, self.classes)
        return ball.crafted(self.attack_on(net, x), net, x, y, draws)

    def attack_on(self, net: nn.Module, x: Tensor) -> StepAttack:  # noqa: ARG002  some depend on both
        """The attack as it runs on the images x (n, ...) of a net."""
        return self.attack

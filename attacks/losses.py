"""Losses of logits (M, K) against labels (M,), one value (M,) per row; each grows as the row leaves
its label.

An untargeted attack maximises the loss against the true label, a targeted one minimises it against
the target, or maximises its pair form against label and target where it has one. Logits of any
floating type are taken to float32 first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A named loss: function of logits (M, K) and labels (M,) to (M,); classes is the least K it is
    defined for.

    pair: its targeted form where that names both classes, a function of logits, labels and rivals
    (M,), to be maximised; pair_classes is the least K of it.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    classes: int = 2
    pair: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    pair_classes: int = 2

    def __call__(self, logits: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
        """Values (M,) float32."""
        if rivals is not None and self.pair is not None:
            return self.pair(logits.float(), labels, rivals)
        return self.function(logits.float(), labels)

    def least_classes(self, *, targeted: bool) -> int:
        """The least number of classes it is defined for."""
        return self.pair_classes if targeted and self.pair is not None else self.classes

    @classmethod
    def from_spec(cls, text: str) -> Loss:
        """The loss of a name; refuses unknown names."""
        if text not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {text!r}")
        return LOSSES[text]

    @staticmethod
    def choices() -> list[str]:
        """The known names."""
        return list(LOSSES)

    def to_spec(self) -> str:
        """The name."""
        return self.name

    def identity(self) -> str:
        """The name."""
        return self.name


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(z)_y. Its float32 gradient vanishes where the label's probability rounds to
    1.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit (M,) of a class other than the label."""
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{i != y} z_i - z_y: positive exactly where the row is misclassified."""
    return best_other(logits, labels) - logits.gather(1, labels[:, None])[:, 0]


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """-(z_y - max_{i != y} z_i) / (z_1st - z_3rd + 1e-12) (Croce and Hein 2020, arXiv:2003.01690,
    eq. 6).
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_difference_of_logits_ratio(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12) (Croce and Hein 2020, eq. 7)."""
    top = logits.topk(4, dim=1).values
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return difference(logits, labels, rivals) / (spread + 1e-12)


def difference(logits: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """z_t - z_y."""
    return (logits.gather(1, rivals[:, None]) - logits.gather(1, labels[:, None]))[:, 0]


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """1/2 ||softmax(z) - onehot(y)||^2."""
    onehot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return 0.5 * (logits.softmax(1) - onehot).pow(2).sum(1)


CROSS_ENTROPY = Loss("ce", cross_entropy)
MARGIN = Loss("margin", margin)
DIFFERENCE = Loss("difference", margin, pair=difference)
"""The margin; with a target the lead of that class alone, whoever else is ahead."""
LOSSES = {
    "ce": CROSS_ENTROPY,
    "margin": MARGIN,
    "difference": DIFFERENCE,
    "dlr": Loss(
        "dlr",
        difference_of_logits_ratio,
        classes=3,
        pair=targeted_difference_of_logits_ratio,
        pair_classes=4,
    ),
    "squared": Loss("squared", squared_error),
}

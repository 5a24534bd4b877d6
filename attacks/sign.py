"""The targeted iterated sign attack, a preset of pgd."""

from __future__ import annotations

from dataclasses import dataclass

from attacks.pgd import Pgd
from attacks.targets import Target


@dataclass(frozen=True)
class Sign(Pgd):
    """Targeted iterated sign steps from the image, pgd with other defaults (Kolter and Madry 2018,
    adversarial-ml-tutorial.org).

    delta <- clip(delta - alpha sign(grad NLL(x + delta, target)), -eps, eps), 24 times with alpha
    0.1 as the text prints it (its bound is eps = 0.4), so that delta stays on the grid of multiples
    of 0.1. The text clips delta alone: `box=false` does that, and what then leaves [0, 1] is
    refused; the row says for how many images. By default x + delta is kept in [0, 1] too. Keys as
    in pgd; target is the class after the label unless given.
    """

    steps: int = 24
    alpha: float | None = 0.1
    random: bool = False
    target: Target = "next"

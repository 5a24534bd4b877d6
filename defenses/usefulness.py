"""How useful a feature is for telling classes apart, and how much of that an adversary leaves of it
(Ilyas et al. 2019, arXiv:1905.02175, eq. 1 and 2).

A feature f maps images to numbers. The paper has two classes, y in {-1, 1}: f is rho-useful where
E[y f(x)] >= rho, and gamma-robustly useful where E[inf over ||d|| <= eps of y f(x + d)] >= gamma, f
having zero mean and unit variance. With more classes one stands against the rest (y = 1 and -1) and
both groups weigh one half in every mean and variance: f = y has rho = 1 whatever the sizes. The
sign of f is turned so that rho >= 0. Letters: N images, F features, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks import loop, norms
from attacks.base import Task, at_least
from attacks.draws import Draws, sample_ids
from attacks.losses import Loss
from attacks.oracles import held
from attacks.pgd import Pgd

_PAIRS = 1024
_SHARE = 0.25
"""Step over radius. On a linear feature what is missing shrinks by 0.8 squared per step: to 1 % of
the way after 10, to 1e-8 after 40."""
_FLAT = 1e-12
"""Share of its mean square below which a feature's variance is rounding."""


@dataclass(frozen=True)
class Groups:
    """One class against the rest: weights (N, K) float64, of which each group has a half, and signs
    (N, K), the class 1 and the rest -1. Of a class that no image has, or every one, weights are 0.
    """

    weights: Tensor
    signs: Tensor

    @classmethod
    def of(cls, y: Tensor, classes: int) -> Groups:
        """The groups of labels y (N,)."""
        member = nn.functional.one_hot(y, classes).double()
        sizes = member.sum(0)
        rest = len(y) - sizes
        both = (sizes > 0) & (rest > 0)
        shares = member / sizes.clamp(min=1) + (1 - member) / rest.clamp(min=1)
        return cls(shares / 2 * both, 2 * member - 1)


@dataclass(frozen=True)
class Usefulness:
    """rho, standard deviation and mean (F, K) float64 of features, and the sign (F, K) by which
    each is turned. A feature that is constant where it is weighed has rho 0 and sd 0.
    """

    rho: Tensor
    sd: Tensor
    mean: Tensor
    sign: Tensor


def usefulness(features: Tensor, groups: Groups) -> Usefulness:
    """Of features (N, F), each as it stands, against every class."""
    values = features.double()
    mean = values.T @ groups.weights
    square = (values**2).T @ groups.weights
    spread = (square - mean**2).clamp(min=0)
    flat = spread <= _FLAT * square.clamp(min=torch.finfo(torch.float64).tiny)
    sd = spread.sqrt().masked_fill(flat, 0)
    product = values.T @ (groups.weights * groups.signs)
    plain = (product - mean * (groups.weights * groups.signs).sum(0)) / sd.where(sd > 0, 1)
    plain = plain.masked_fill(flat, 0)
    sign = torch.where(plain < 0, -1.0, 1.0).double()
    return Usefulness(plain * sign, sd, mean, sign)


def linear_gamma(useful: Usefulness, weights: Tensor, norm: str, eps: float) -> Tensor:
    """gamma (F, K) of features w.x, weights (F, ...): rho - eps ||w||_dual / sd, the exact infimum
    over the ball (the box [0, 1] left aside, which can only raise it).
    """
    size = norms.size(weights.double(), norms.dual(norm))[:, None]
    return useful.rho - eps * size / useful.sd.where(useful.sd > 0, math.inf)


def gamma(useful: Usefulness, groups: Groups, low: Tensor, high: Tensor) -> Tensor:
    """gamma (F, K) of features whose least and largest values (N, F) in each image's ball are
    known.
    """
    weighed = {1: groups.weights * (groups.signs > 0), -1: groups.weights * (groups.signs < 0)}
    ends = {1: low.double(), -1: high.double()}
    sd = useful.sd.where(useful.sd > 0, math.inf)

    def expected(turn: int) -> Tensor:
        """With f turned or not: y f is least at f's low end where y and the turn agree."""
        total = torch.zeros_like(useful.rho)
        for y, weights in weighed.items():
            direction = y * turn
            total += direction * (ends[direction].T @ weights - useful.mean * weights.sum(0))
        return total / sd

    return torch.where(useful.sign > 0, expected(1), expected(-1))


@dataclass(frozen=True)
class Ball:
    """Where features are pushed: radius eps in the norm, inside the box; by that many steps under a
    seed.
    """

    norm: str
    eps: float
    steps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm not in Pgd.norms:
            raise ValueError(f"norm must be one of {', '.join(Pgd.norms)}, got {self.norm!r}")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {self.eps}")
        at_least("steps", self.steps, 1)


def extremes(features: nn.Module, x: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
    """The least and the largest value (N, F) that PGD finds each feature take in the ball and box
    around each image x, the image among its points: gamma from them is an upper bound.

    features: images to (N, F). Every point that PGD passes counts. A unit whose gradient is zero
    all over the ball (rectified, and off) does not move.
    """
    with held(features), torch.no_grad():
        start = features(x).float()
    count = start.shape[1]
    ids = sample_ids(x).to(x.device)
    ends = []
    for sign in (-1, 1):
        best = start.clone()
        for pairs in torch.split(torch.arange(len(x) * count, device=x.device), _PAIRS):
            row, unit = pairs // count, pairs % count
            found = _pushed(features, x[row], unit, ids[row], sign, ball)
            here = best[row, unit]
            best[row, unit] = torch.where(sign * found > sign * here, found, here)
        ends.append(best)
    return ends[0], ends[1]


def _pushed(
    features: nn.Module, x: Tensor, unit: Tensor, ids: Tensor, sign: int, ball: Ball
) -> Tensor:
    """The furthest value (n,) of each image's unit (n,) in the direction of the sign."""

    def value(found: Tensor, units: Tensor) -> Tensor:
        return sign * found.gather(1, units[:, None])[:, 0]

    furthest = torch.full((len(x),), -math.inf, device=x.device)

    def watch(_: Tensor, found: Tensor) -> bool:
        torch.maximum(furthest, value(found, unit), out=furthest)
        return False

    radius = torch.full((len(x),), ball.eps, device=x.device)
    draws = Draws(ball.seed, ids, unit)
    task = Task(x, unit, ball.norm, radius, 2, draws)
    push = Pgd(steps=ball.steps, rel_alpha=_SHARE, loss=Loss("feature", value))
    with held(features):
        loop.craft(push, features, task, steps=ball.steps + 1, watch=watch)
    return sign * furthest

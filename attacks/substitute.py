"""A substitute of a model that tells only labels, trained on images made along its own jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks import norms
from attacks.draws import sample_ids
from attacks.losses import CROSS_ENTROPY
from attacks.oracles import Aim, JacobianOracle, held
from models.split import Split
from models.train import Batch, Settings, fit

_PERIOD = 3
"""Rounds after which the step changes its sign."""
_ROWS = 512


@dataclass(frozen=True)
class Mimic:
    """The objective of models.train: the target's labels; the last weights are kept, as there are
    no labels to choose others by.
    """

    @property
    def text(self) -> str:
        """See models.train.Objective."""
        return "L(x, O(x))"

    def loss(self, net: nn.Module, batch: Batch) -> Tensor:
        """See models.train.Objective."""
        return F.cross_entropy(net(batch.x), batch.y)

    def validate(self, net: nn.Module, validation: Split, progress: float) -> dict[str, float]:  # noqa: ARG002
        """See models.train.Objective."""
        return {"score": progress}


@dataclass(frozen=True)
class Round:
    """The state after one round: its number from 1, and how many images the set holds."""

    number: int
    images: int


def trained(
    net: nn.Module,
    seeds: Tensor,
    target: Callable[[Tensor], Tensor],
    settings: Settings,
    *,
    rounds: int,
    lam: float,
) -> Iterator[Round]:
    """Trains a net in place to answer as the target does; yields after every round.

    A round trains on the set, whose labels the target gave; before each but the first the set S
    becomes S united with the points `augmented` makes of it, so that seeds (M, ...) grow to M
    2^(rounds - 1) images, each of them asked for once. A point that is in the set already is left
    out: kept twice, it would cost a query and teach nothing.
    """
    x, y = seeds, target(seeds)
    for number in range(rounds):
        if number:
            sign = -1 if (number - 1) // _PERIOD % 2 else 1
            new = _unknown(augmented(net, x, y, sign * lam), x)
            x, y = torch.cat([x, new]), torch.cat([y, target(new)])
        everything = Split(x.cpu(), y.cpu())
        fit(net, everything, everything, Mimic(), settings)
        yield Round(number + 1, len(x))


def augmented(net: nn.Module, x: Tensor, y: Tensor, step: float) -> Tensor:
    """The points x + step sign(dF_y / dx) in the box (N, ...), F_y the logit of class y (N,)."""
    oracle, made = JacobianOracle(net), []
    with held(net):
        for points, labels in zip(torch.split(x, _ROWS), torch.split(y, _ROWS), strict=True):
            aim = Aim(CROSS_ENTROPY, labels, torch.ones(len(labels), device=x.device))
            answer = oracle(points, aim, differentiate=True, classes=labels[:, None])
            direction = norms.steepest(answer.gradient[:, 0], points, "linf")
            made.append(norms.to_box(points + step * direction))
    return torch.cat(made)


def _unknown(points: Tensor, known: Tensor) -> Tensor:
    """The points that are not among the known ones, each once."""
    ids, have = sample_ids(points).numpy(), sample_ids(known).numpy()
    _, first = np.unique(ids, return_index=True)
    kept = np.sort(first[~np.isin(ids[first], have)])
    return points[torch.from_numpy(kept).to(points.device)]

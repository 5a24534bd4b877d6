"""Did this image come out of this generator? Told by how well the generator can make it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from models.generators import Generator
from models.inversion import Inversion, Inverted

RATES = (0.01, 0.05)
"""False-positive rates at which the true-positive rate is told."""

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Membership:
    """How well a threshold on the error tells a generator's own samples from other images.

    auc: the probability that an own sample's error is below another image's, ties counting half;
    tpr: the share of own samples that are recognised where at most 1 %, and 5 %, of the others are
    taken for own.
    """

    auc: float
    tpr: dict[float, float]


def inverted(generator: Generator, x: Tensor, inversion: Inversion, seed: int) -> Inverted:
    """The inversion of images x (N, C, H, W) from starts drawn from the prior under the seed; where
    classes can be asked for, which no gradient moves, the restarts ask for one after the other.
    """
    starts = generator.latents(len(x) * inversion.restarts, seed)
    if generator.classes:
        asked = torch.arange(len(starts), device=starts.device) % inversion.restarts
        starts = generator.asked(starts, asked % generator.classes)
    return inversion.run(generator, x, starts.view(len(x), inversion.restarts, generator.latent))


def scores(generator: Generator, x: Tensor, inversion: Inversion, seed: int) -> Tensor:
    """The smallest mean squared error (N,) of images x (N, C, H, W) over the restarts: the smaller,
    the likelier an own sample.
    """
    return inverted(generator, x, inversion, seed).error


def roc(own: Tensor, others: Tensor) -> tuple[Curve, Curve]:
    """False-positive and true-positive rates as the threshold on the errors (N,) of own samples and
    (M,) of other images rises; refuses an empty side and errors that are no numbers.
    """
    rates = roc_curve(*_labelled(own, others), drop_intermediate=True)
    return np.asarray(rates[0], float), np.asarray(rates[1], float)


def auc(own: Tensor, others: Tensor) -> float:
    """The area under that curve."""
    return float(roc_auc_score(*_labelled(own, others)))


def membership(own: Tensor, others: Tensor) -> Membership:
    """What the errors (N,) of own samples and (M,) of other images tell."""
    labels, values = _labelled(own, others)
    false, true, _ = roc_curve(labels, values, drop_intermediate=False)
    reached = {rate: float(true[false <= rate].max()) for rate in RATES}
    return Membership(float(roc_auc_score(labels, values)), reached)


def _labelled(own: Tensor, others: Tensor) -> tuple[Curve, Curve]:
    """Whether each is an own sample, and its score, larger where it is likelier one."""
    for name, errors in (("own", own), ("others", others)):
        if not len(errors) or errors.dim() != 1:
            raise ValueError(f"{name} must be errors (N,), at least one, got {tuple(errors.shape)}")
        if bool(errors.isnan().any()):
            raise ValueError(f"{name} must be numbers, got NaN")
    values = -torch.cat([own, others]).detach().double().cpu().numpy()
    return np.repeat([1.0, 0.0], [len(own), len(others)]), values

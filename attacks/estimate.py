"""How far the nearest success may be, from one gradient: where a sweep begins to look."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from attacks import norms
from attacks.draws import Draws
from attacks.losses import DIFFERENCE, MARGIN
from attacks.oracles import Aim
from attacks.pipelines import Witness
from attacks.verify import padded
from attacks.work import Samples, Setting


def distances(witness: Witness, samples: Samples, setting: Setting) -> NDArray[np.float64]:
    """Margin over the dual norm of its gradient at the image (N,): the distance at which a linear
    model with this margin and slope is fooled; inf where the slope is 0.

    Costs every sample one query, forward and backward.
    """
    found = []
    for first in range(0, len(samples), setting.shape):
        rows = slice(first, first + setting.shape)
        count = len(samples.y[rows])
        x, y, ids = (padded(t[rows], setting.shape) for t in (samples.x, samples.y, samples.ids))
        targets = None if samples.targets is None else padded(samples.targets[rows], setting.shape)
        draws = Draws(setting.seed, ids, torch.zeros_like(ids)).fork("estimate")
        loss = MARGIN if targets is None else DIFFERENCE
        aim = Aim(loss, y, torch.ones(setting.shape, device=x.device), targets)
        answer = witness.oracle(y, draws)(x, aim, differentiate=True)
        slope = norms.size(answer.gradient, norms.dual(setting.norm))
        found.append((-answer.value / slope)[:count].double().cpu().numpy())
    every: NDArray[np.float64] = np.concatenate(found)
    return np.where(np.isfinite(every), every, np.inf)

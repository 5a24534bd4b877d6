"""Whether gradients reach the image: at which images what an attack is handed has none at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.draws import Draws
from attacks.losses import CROSS_ENTROPY, Loss
from attacks.oracles import Aim, Predict
from attacks.pipelines import Witness
from attacks.rows import rows_of
from attacks.verify import padded
from attacks.work import Setting
from bench.outcomes import Images

MOST = 128
"""Images looked at for a cell."""


def zero(model: Predict, images: Images, setting: Setting) -> dict[str, Any]:
    """zero: the share of the images (of: how many; the first 128 at most) at which the gradient of
    the cross-entropy in the image, over `eot` draws where it draws, is exactly zero everywhere.
    """
    flat, _ = look(model, images, setting, CROSS_ENTROPY)
    return {"zero": float(flat.sum() / max(1, len(flat))), "of": len(flat)}


def look(
    model: Predict, images: Images, setting: Setting, loss: Loss
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether (n,) the gradient of a loss at each image is zero everywhere, and whether (n,) it is
    anywhere not finite; raises ModelError where there is none to be had.
    """
    witness = Witness(model, "gradient", setting.classes, 1, setting.eot)
    x, y = images.x, images.y
    draws = Draws.of(x, setting.seed).fork("look")
    flat, broken = np.zeros(len(x), np.bool_), np.zeros(len(x), np.bool_)
    for first in range(0, len(x), setting.shape):
        rows = slice(first, first + setting.shape)
        points, labels, own = rows_of(
            (x[rows], y[rows], rows_of(draws, lambda t, _: t[rows])),  # noqa: B023  called at once
            lambda t, _: padded(t, setting.shape),
        )
        aim = Aim(loss, labels, torch.ones(len(labels), device=labels.device))
        gradient = witness.oracle(labels, own, 0)(points, aim, differentiate=True).gradient
        few = gradient[: len(x[rows])].flatten(1)
        flat[rows] = (few == 0).all(1).cpu().numpy()
        broken[rows] = (~few.isfinite()).any(1).cpu().numpy()
    return flat, broken

"""Whether gradients reach the image: the share of images at which what an attack is handed has none
at all.
"""

from __future__ import annotations

from typing import Any

import torch

from attacks.draws import Draws
from attacks.losses import CROSS_ENTROPY
from attacks.oracles import Aim, Predict
from attacks.pipelines import Witness
from attacks.rows import rows_of
from attacks.verify import padded
from attacks.work import Setting
from bench.outcomes import Images

MOST = 128
"""Images looked at."""


def zero(model: Predict, images: Images, setting: Setting) -> dict[str, Any]:
    """zero: the share of the images (of: how many; the first 128 at most) at which the gradient of
    the cross-entropy in the image, over `eot` draws where it draws, is exactly zero everywhere.
    """
    few = images.first(MOST)
    witness = Witness(model, "gradient", setting.classes, 1, setting.eot)
    draws = Draws.of(few.x, setting.seed).fork("look")
    flat = 0
    for first in range(0, len(few.x), setting.shape):
        rows = slice(first, first + setting.shape)
        x, y, own = rows_of(
            (few.x[rows], few.y[rows], rows_of(draws, lambda t, _: t[rows])),  # noqa: B023  called at once
            lambda t, _: padded(t, setting.shape),
        )
        aim = Aim(CROSS_ENTROPY, y, torch.ones(len(y), device=y.device))
        gradient = witness.oracle(y, own, 0)(x, aim, differentiate=True).gradient
        count = len(few.x[rows])
        flat += int((gradient[:count] == 0).flatten(1).all(1).sum())
    return {"zero": flat / max(1, len(few.x)), "of": len(few.x)}

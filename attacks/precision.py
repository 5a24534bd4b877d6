"""Search in less than float32: a model as attacks ask it, where the verdict alone needs float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack
from attacks.oracles import DIFFERENTIATING, Predict
from attacks.pipelines import is_random, refuses
from attacks.sourced import Sourced


def bears_rounding(attack: Attack) -> bool:
    """Whether an attack finds in bfloat16 what it finds in float32: one that follows a gradient for
    the highest loss.

    A minimal one ends on the boundary of what it sees, which rounding moves (float32 refused 24 of
    42 digits that FMN held for fooled, 8 of DeepFool's); one that compares logits learns from
    differences smaller than the rounding (NES and SimBA left up to 6 of 40 images more), and what
    it is told is the deployed pipeline's own word.
    """
    asks = attack.inner if isinstance(attack, Sourced) else attack
    return asks.access in DIFFERENTIATING and asks.kind != "minimal"


@dataclass(frozen=True)
class Reduced:
    """A model that computes in bfloat16 wherever torch.autocast deems it safe, forward and, by the
    types that the forward leaves behind, backward; logits (N, K) and all that follows are float32.

    channels_last: images (N, C, H, W) are handed on with their channels last in memory, which
    convolutions keep up; bfloat16: false for this alone. It draws and refuses as the model does
    (see attacks.pipelines), which is neither copied nor changed.
    """

    model: Predict
    bfloat16: bool = True
    channels_last: bool = False

    @property
    def is_random(self) -> bool:
        """See attacks.pipelines."""
        return is_random(self.model)

    @property
    def refuses(self) -> bool:
        """See attacks.pipelines."""
        return refuses(self.model)

    def __call__(self, x: Tensor, *draws: Any) -> Tensor:
        """Logits (N, K), a column more from a pipeline that refuses."""
        if self.channels_last and x.dim() == 4:
            # Not .to(): of images with one channel it would keep strides that torch reads as first.
            x = x.clone(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.model(x, *draws).float()

"""A few images of a cell as they are stored beside it: clean, adversarial, and both purified."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.pipelines import evaluation_draws, is_random, refuses
from bench.outcomes import Images
from defenses.base import Defended

SHOWN = 8
"""Images of a gallery."""


def gallery(
    defended: Defended, images: Images, found: Mapping[int, Tensor], eps: float
) -> dict[str, Any]:
    """The first images, the adversarial ones found for them (by place, the image itself where there
    is none), both purified under the first evaluation draw, and what the pipeline says of these, -1
    where it refuses.
    """
    few = images.first(SHOWN)
    shape = len(few.x)  # a picture, on which no verdict hangs
    moved = torch.stack([found.get(place, few.x[place]) for place in range(len(few.x))])
    shown, said = {}, {}
    for name, x in (("clean", few.x), ("adversarial", moved)):
        shown[name] = x
        after = "purified" if name == "adversarial" else f"{name} purified"
        shown[after] = _purified(defended, few, x)
        logits = replace(few, held=x).answers(defended.predict, shape)
        refused = logits.shape[1] if refuses(defended.predict) else 0
        said[after] = [-1 if c + 1 == refused else c for c in logits.argmax(1).tolist()]
    return {
        "shape": list(few.x.shape[1:]),
        "labels": few.y.tolist(),
        "eps": eps,
        "images": {name: _packed(x) for name, x in shown.items()},
        "said": said,
    }


def _purified(defended: Defended, images: Images, x: Tensor) -> Tensor:
    purified: Any = defended.purified
    with torch.no_grad():
        made: Tensor = (
            purified(x, evaluation_draws(images.ids, 0)) if is_random(purified) else purified(x)
        )
    return made


def _packed(x: Tensor) -> str:
    """Images in [0, 1] as base64 of compressed bytes 0 to 255."""
    raw = (x.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy().tobytes()
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")

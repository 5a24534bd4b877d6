"""Attacks of other libraries that their own front does not offer with the settings of ours."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: str,
    *,
    steps: int = 100,
    queries: int = 5000,
) -> Tensor:
    """The standard stages of torchattacks' AutoAttack with the published number of steps: its own
    class leaves every stage at 10 and has no key for them.
    """
    library = importlib.import_module("torchattacks")
    ours: dict[str, Any] = {
        "eps": eps,
        "norm": norm.title(),
        "seed": torch.initial_seed() % 2**31,
    }
    classes = model(x[:1]).shape[1]
    stages = [
        library.APGD(model, steps=steps, loss="ce", **ours),
        library.APGDT(model, steps=steps, n_classes=classes, **ours),
        library.FAB(model, steps=steps, multi_targeted=True, n_classes=classes, **ours),
        library.Square(model, n_queries=queries, **ours),
    ]
    points: Tensor = library.MultiAttack(stages)(x, y)
    return points

"""Trees of tensors (dataclasses and tuples) that all lead with the sample dimension."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attacks import norms


def rows_of(tree: Any, change: Callable[[Tensor, Any], Any], other: Any = None) -> Any:
    """The tree (dataclasses and tuples of tensors) with change(tensor, other's tensor) in place of
    each tensor.
    """
    if isinstance(tree, Tensor):
        return change(tree, other)
    if isinstance(tree, tuple):
        others = other if other is not None else (None,) * len(tree)
        return tuple(rows_of(part, change, o) for part, o in zip(tree, others, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [f.name for f in dataclasses.fields(tree)]
        parts = {n: rows_of(getattr(tree, n), change, getattr(other, n, None)) for n in names}
        return dataclasses.replace(tree, **parts)
    return tree


def may_hold(which: Tensor) -> bool:
    """Whether a row of `which` (N,) may hold; on an accelerator, which the question would stall,
    always so.
    """
    return which.device.type != "cpu" or bool(which.any())


def pick(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The rows of the first tensor (N, ...) where `which` (N,) holds, else those of the second,
    maybe the tensor itself. On a CPU rows are copied whole: torch.where took ten times as long.
    """
    if which.device.type != "cpu":
        return torch.where(norms.expand(which, one), one, other)
    places = torch.nonzero(which)[:, 0]
    if len(places) == len(which):
        return one
    return other.index_copy(0, places, one[places]) if len(places) else other


def where(which: Tensor, one: Any, other: Any) -> Any:
    """The rows of the first tree where `which` (N,) holds, else those of the second."""
    return rows_of(one, lambda a, b: pick(which, a, b), other)

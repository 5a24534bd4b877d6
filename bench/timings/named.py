"""The ratios of attacks that somebody names: what machines may compare."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch

from attacks.base import StepAttack
from attacks.registry import attacks
from bench.timings import steps
from models.grammar import parse

_NET, _STEPS = "cnn_small", 40


def ratios(named: Iterable[tuple[str, str]], rounds: int) -> dict[str, float]:
    """Of each (spec, norm) with few steps the seconds over those of its own passes, medians of runs
    by turns on one torch thread; by the attack as timed. Left out is what the loop does not run
    step by step, and what no table holds.
    """
    short = dict.fromkeys((_shortened(spec), norm) for spec, norm in named)
    trials = [steps.Trial(spec, norm, math.inf) for spec, norm in short if spec]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = steps.rows(rounds, nets=(_NET,), trials=trials)
        return {row.name: round(row.ratio, 3) for row in rows}
    finally:
        torch.set_num_threads(before)


def _shortened(spec: str) -> str:
    """The spec with few steps, or queries where it counts those; empty for one left out."""
    if parse(spec).name not in attacks.names():
        return ""
    recipe = attacks.get(spec)
    if not isinstance(recipe, StepAttack):
        return ""
    names = {field.name for field in dataclasses.fields(recipe)}  # type: ignore[arg-type]
    counted = next((name for name in ("steps", "queries") if name in names), None)
    if counted is None:
        return recipe.to_spec()
    few: dict[str, Any] = {counted: min(_STEPS, getattr(recipe, counted))}
    shortened: StepAttack = dataclasses.replace(recipe, **few)  # type: ignore[type-var]
    return shortened.to_spec()

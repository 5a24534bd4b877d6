"""Records as the store would yield them, from the eps at which each sample was fooled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from bench.store import Record

MakeRecord = Callable[..., Record]
GRID = (Fraction(0), Fraction(1, 10), Fraction(2, 10), Fraction(3, 10))


def make(min_eps: Sequence[float] | None = None, **changes: Any) -> Record:
    """A cell with these outcomes, else a failed one; a sample costs 10, 4 and 2 queries.

    samples, among the changes, adds to or replaces the arrays.
    """
    outcomes = np.array([] if min_eps is None else min_eps, dtype=np.float64)
    n = len(outcomes) or changes.pop("n", 4)
    changes.pop("n", None)
    values: dict[str, Any] = {
        "dataset": "digits",
        "fingerprint": "f0",
        "samples_digest": f"samples-{n}",
        "n": n,
        "model": "cnn",
        "defense": "none",
        "attack": "pgd",
        "mode": "white-box",
        "kind": "budget",
        "norm": "linf",
        "eps": GRID,
        "reference": Fraction(2, 10),
        "seed": 0,
        "sweep": "ladder",
        "device": "cpu",
        "precision": "fp32",
        "shape": 256,
        "threads": 1,
        "query_budget": None,
        "provenance": {},
        "failure": "" if min_eps is not None else "RuntimeError: no gradient",
        "seconds": 1.23456 if min_eps is not None else 0.0,
        "samples": {},
    } | changes
    if min_eps is not None:
        wrong = outcomes == 0
        labels = np.arange(n) % 10
        values["samples"] = {
            "index": np.arange(n) * 3,
            "id": np.arange(n, dtype=np.int64) - 1,
            "label": labels,
            "clean_prediction": np.where(wrong, (labels + 1) % 10, labels),
            "min_eps": outcomes,
            "distance": np.where(np.isinf(outcomes), np.nan, outcomes),
            "forward": np.full(n, 10),
            "backward": np.full(n, 4),
            "verify": np.full(n, 2),
            "refused": np.zeros(n, dtype=np.int64),
            "queries": _queries(outcomes, values["eps"]),
        } | changes.get("samples", {})
    names = ("dataset", "model", "defense", "attack", "mode", "norm", "eps", "seed", "n", "device")
    facts = repr([values[name] for name in names])
    key = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
    pipeline = repr([values[name] for name in ("fingerprint", "model", "defense")])
    return Record(**({"key": key, "pipeline": pipeline} | values))


def _queries(outcomes: np.ndarray, grid: Sequence[Fraction]) -> np.ndarray:
    """A success is seen after 3 queries."""
    fooled = outcomes[:, None] <= np.array([float(eps) for eps in grid])
    seen = np.where(outcomes == 0, 0, 3)[:, None]
    return np.where(fooled, seen, -1)


@pytest.fixture
def record() -> MakeRecord:
    """The factory of fake records."""
    return make

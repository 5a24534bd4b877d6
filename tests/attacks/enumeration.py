"""A tiny piecewise-linear net whose exact minimal distances are found by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

DIM, HIDDEN, CLASSES = 4, 5, 3
Array = NDArray[np.float64]


class Tiny(nn.Module):
    """Logits V relu(W x + b) + c of images (N, 1, 2, 2)."""

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(3 * torch.randn(HIDDEN, DIM, generator=generator))
        self.b = nn.Parameter(
            -self.w.detach().sum(1) / 2 + torch.randn(HIDDEN, generator=generator)
        )
        self.v = nn.Parameter(torch.randn(CLASSES, HIDDEN, generator=generator))
        self.c = nn.Parameter(torch.randn(CLASSES, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.flatten(1) @ self.w.T + self.b) @ self.v.T + self.c


@dataclass(frozen=True)
class Region:
    """The points of the box with one activation pattern where class k leads y: A x <= b."""

    a: Array
    b: Array


def regions(net: Tiny, y: int) -> list[Region]:
    w, b, v, c = (p.detach().double().numpy() for p in (net.w, net.b, net.v, net.c))
    found = []
    for pattern in itertools.product([0.0, 1.0], repeat=HIDDEN):
        on = np.array(pattern)
        side = np.where(on > 0, -1.0, 1.0)
        slope, height = v @ (on[:, None] * w), v @ (on * b) + c
        for k in set(range(CLASSES)) - {y}:
            rows = np.vstack([side[:, None] * w, slope[y] - slope[k]])
            found.append(Region(rows, np.append(-side * b, height[k] - height[y])))
    return found


def exact(net: Tiny, x: Tensor, y: int, norm: str) -> float:
    """The smallest distance from x (DIM,) to a point of another class; 0 <= x' <= 1."""
    start = x.double().numpy().reshape(-1)
    there = [region for region in regions(net, y) if _holds(region, start, range(DIM))]
    if norm == "l0":
        return _sparsest(there, start)
    return min(_distance(region, start, norm) for region in there)


def _holds(region: Region, x: Array, free: Sequence[int]) -> bool:
    """Whether the region has a point in the box that differs from x in free components alone."""
    box = [(0.0, 1.0) if i in free else (x[i], x[i]) for i in range(DIM)]
    return bool(linprog(np.zeros(DIM), region.a, region.b, bounds=box).status == 0)


def _sparsest(there: list[Region], x: Array) -> float:
    for size in range(1, DIM + 1):
        for chosen in itertools.combinations(range(DIM), size):
            if any(_holds(region, x, chosen) for region in there):
                return float(size)
    return np.inf


def _distance(region: Region, x: Array, norm: str) -> float:
    eye, zero = np.eye(DIM), np.zeros((len(region.a), 1))
    if norm == "linf":  # variables x', t: |x' - x| <= t
        rows = np.vstack([np.hstack([region.a, zero]), *_slack(np.ones((DIM, 1)))])
        bounds = [(0.0, 1.0)] * DIM + [(0.0, None)]
        cost = np.append(np.zeros(DIM), 1.0)
    else:  # variables x', t (DIM,)
        rows = np.vstack([np.hstack([region.a, np.zeros((len(region.a), DIM))]), *_slack(eye)])
        bounds = [(0.0, 1.0)] * DIM + [(0.0, None)] * DIM
        cost = np.append(np.zeros(DIM), np.ones(DIM))
    limits = np.concatenate([region.b, x, -x])
    solved = linprog(cost, rows, limits, bounds=bounds)
    if solved.status != 0:
        return np.inf
    return float(solved.fun) if norm != "l2" else _euclidean(region, x, solved.x[:DIM])


def _slack(of: Array) -> list[Array]:
    return [np.hstack([np.eye(DIM), -of]), np.hstack([-np.eye(DIM), -of])]


def _euclidean(region: Region, x: Array, start: Array) -> float:
    inside = {
        "type": "ineq",
        "fun": lambda z: region.b - region.a @ z,
        "jac": lambda _: -region.a,
    }
    solved = minimize(
        lambda z: float(((z - x) ** 2).sum()),
        start,
        jac=lambda z: 2 * (z - x),
        bounds=[(0.0, 1.0)] * DIM,
        constraints=[inside],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 200},
    )
    assert solved.success or (region.a @ solved.x <= region.b + 1e-8).all()
    return float(np.sqrt(solved.fun))

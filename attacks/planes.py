"""Geometry of hyperplanes: the smallest move inside the box that gains a given inner product."""

from __future__ import annotations

import torch
from torch import Tensor

_NEWTON_ROUNDS = 40


def step_to_plane(point: Tensor, gradient: Tensor, gain: Tensor, norm: str) -> Tensor:
    """The smallest move (N, ...), in the norm, from points in the box along which the inner product
    with the gradient (N, ...) grows by gain (N,), of either sign, without leaving the box.

    Exact, in float64; where the box does not hold such a move, the one that comes
    nearest (Croce and Hein 2020, arXiv:1907.02044, eq. 5). Norms linf, l2, l1.
    """
    flat, pull = point.flatten(1).double(), gradient.flatten(1).double()
    pull = pull * gain.sign()[:, None]
    room = torch.where(pull > 0, 1 - flat, flat).clamp(min=0)
    strength, wanted = pull.abs(), gain.abs().double()[:, None]
    if norm == "l1":
        moved = _fill_in_order(strength, room, wanted)
    elif norm in ("linf", "l2"):
        # Along the path every component moves by rate * t until it meets the wall.
        rate = torch.ones_like(strength) if norm == "linf" else strength
        moved = _fill_together(strength, rate, room, wanted)
    else:
        raise ValueError(f"norm must be one of linf, l2, l1, got {norm!r}")
    return (moved * pull.sign()).to(point.dtype).view_as(point)


def _fill_together(strength: Tensor, rate: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """min(rate t, room) with the least t at which strength times it sums to wanted (N, 1).

    The sum is concave in t, so that Newton's steps from 0 come from the left and never past the
    root; each but the last fills another component.
    """
    tiny = torch.finfo(strength.dtype).tiny
    slope = strength * rate
    moved, t = torch.zeros_like(strength), torch.zeros_like(wanted)
    before = None
    for _ in range(_NEWTON_ROUNDS):
        free = moved < room
        # A row whose set stays has its root; asking would stall an accelerator.
        if before is not None and free.device.type == "cpu" and torch.equal(free, before):
            break
        before = free
        left = wanted - (strength * moved).sum(1, keepdim=True)
        t = t + left.clamp(min=0) / (slope * free).sum(1, keepdim=True).clamp(min=tiny)
        moved = torch.where(slope > 0, rate * t, 0).minimum(room)
    return moved


def _fill_in_order(strength: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Moves the strongest components to the wall, one after the other, the last only as far as
    needed.
    """
    sorted_, order = strength.sort(dim=1, descending=True, stable=True)
    space = room.gather(1, order)
    before = (sorted_ * space).cumsum(1) - sorted_ * space
    tiny = torch.finfo(strength.dtype).tiny
    part = ((wanted - before) / sorted_.clamp(min=tiny)).clamp(min=0).minimum(space)
    part = torch.where(sorted_ > 0, part, 0)
    return torch.zeros_like(part).scatter(1, order, part)

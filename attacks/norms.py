"""The only geometry: size, projection onto ball and box, steepest direction, random point, dual; a
row per norm.

Letters: N samples, ... input dimensions, d their number. Radii have shape (N,). The box is [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.draws import Draws

TOLERANCE = 1e-6
SPARSE_SHARE = 0.01
_L2_ROUNDS = 12
_FAR = 1e9
"""Where walls stand that no point of a ball reaches: finite, so that nothing times it is NaN."""

Walls = tuple[float, float]
_WALLS: dict[bool, Walls] = {True: (0.0, 1.0), False: (-_FAR, _FAR)}


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) shaped to broadcast over like (N, ...)."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def size(delta: Tensor, norm: str) -> Tensor:
    """The norm (N,) of each delta (N, ...), in delta's precision; l0 counts components that are not
    0.
    """
    return _row(norm).size(delta.flatten(1))


def project(x_adv: Tensor, x: Tensor, radius: Tensor, norm: str, *, box: bool = True) -> Tensor:
    """The nearest point (Euclidean) to x_adv in the intersection of the box and the ball around x
    in the box; without box in the ball alone.

    linf, l1 and l0 are exact up to rounding, which goes towards x. l2 approaches the exact point
    from inside the ball: the set of components at the box wall grows each round, and 12 rounds
    leave a relative error below 1e-5 on images (property-tested).
    """
    row = _row(norm)
    return row.project(x_adv.flatten(1), x.flatten(1), radius[:, None], _WALLS[box]).view_as(x)


def steepest(gradient: Tensor, x: Tensor, norm: str) -> Tensor:
    """Direction (N, ...) of size 1 along which the inner product with the gradient (N, ...) grows
    fastest.

    x (N, ...) is the current point: for l1 components that the box stops are left out, and the step
    is spread over the SPARSE_SHARE largest of the others (Tramer and Boneh 2019, arXiv:1904.13000,
    who take a quantile). A zero gradient gives a zero direction.
    """
    return _row(norm).steepest(gradient.flatten(1), x.flatten(1)).view_as(gradient)


def keep_largest(points: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """The points (N, ...) with all but the `count` (N,) components furthest from x put back, then
    moved into the box.
    """
    delta = (points - x).flatten(1)
    kept = _ranks(delta.abs()) < count[:, None].floor()
    return torch.where(kept.view_as(x), points, x).clamp(0, 1)


def sparse_steepest(gradient: Tensor, count: Tensor) -> Tensor:
    """Direction (N, ...) of size 1 in l1, spread over the signs of the `count` (N,) int64 largest
    magnitudes of the gradient (N, ...) (Croce and Hein 2021, arXiv:2103.01208).
    """
    strength = gradient.abs().flatten(1)
    dims = strength.shape[1]
    place = (dims - count).clamp(0, dims - 1)[:, None]
    least = strength.sort(dim=1).values.gather(1, place)
    chosen = gradient.flatten(1).sign() * (strength >= least)
    return (chosen / chosen.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


def surface_point(
    x: Tensor, radius: Tensor, norm: str, draws: Draws, purpose: str, *counters: int | Tensor
) -> Tensor:
    """A random point on the surface of the ball around x, then moved into the box: for linf a
    uniform, for l2 a normal draw of that size, for l1 the nearest point of ball and box to a normal
    draw (the starts of APGD's code).
    """
    if norm == "linf":
        delta = draws.uniform(x.shape, purpose, *counters) * 2 - 1
    else:
        delta = draws.normal(x.shape, purpose, *counters)
    if norm == "l1":
        return project(x + delta, x, radius, norm)
    return to_box(x + expand(radius / size(delta, norm), delta) * delta)


def to_box(points: Tensor) -> Tensor:
    """The nearest points of [0, 1]."""
    return points.clamp(0, 1)


def furthest(x: Tensor, norm: str) -> Tensor:
    """The largest size (N,) that a move from x can have inside the box."""
    return size(torch.maximum(x, 1 - x), norm)


def random_point(
    x: Tensor,
    radius: Tensor,
    norm: str,
    draws: Draws,
    purpose: str,
    *counters: int | Tensor,
    box: bool = True,
) -> Tensor:
    """A point drawn uniformly from the ball around x, then (with box) moved into the box, which
    keeps it in the ball.
    """
    flat = x.flatten(1)
    delta = _row(norm).random(flat, radius[:, None], draws, purpose, counters)
    return _row(norm).place(flat, delta, radius[:, None], _WALLS[box]).view_as(x)


def dual(norm: str) -> str:
    """The norm that bounds an inner product together with this one."""
    return {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]


def in_box(points: Tensor) -> Tensor:
    """Whether (N,) each of points (N, ...) is in [0, 1], with the tolerance."""
    flat = points.flatten(1)
    return (flat.amin(1) >= -TOLERANCE) & (flat.amax(1) <= 1 + TOLERANCE)


def inside(x_adv: Tensor, x: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Whether (N,) each x_adv is finite, in the box and in the ball; see holds."""
    delta = (x_adv.double() - x.double()).flatten(1)
    return in_box(x_adv) & delta.isfinite().all(1) & holds(radius, size(delta, norm), norm)


def holds(radius: Tensor, distance: Tensor, norm: str) -> Tensor:
    """Whether a ball reaches as far as a distance; see reach."""
    return distance <= reach(radius, norm)


def reach(radius: Tensor, norm: str) -> Tensor:
    """The largest distance (N,) float64 that counts as within a radius (N,): design tolerance 1e-6.

    For l1 the tolerance is 1e-6 * max(1, radius); the l0 count has none.
    """
    slack = {"l0": 0.0, "l1": TOLERANCE}.get(norm, TOLERANCE)
    return radius.double() + (slack * radius.double().clamp(min=1) if norm == "l1" else slack)


@dataclass(frozen=True)
class _Row:
    """One norm. Arguments are flat (N, d); radius is (N, 1); walls are those of the box."""

    size: Callable[[Tensor], Tensor]
    place: Callable[[Tensor, Tensor, Tensor, Walls], Tensor]
    project: Callable[[Tensor, Tensor, Tensor, Walls], Tensor]
    steepest: Callable[[Tensor, Tensor], Tensor]
    random: Callable[[Tensor, Tensor, Draws, str, tuple[int | Tensor, ...]], Tensor]


def _row(norm: str) -> _Row:
    if norm not in _ROWS:
        raise ValueError(f"norm must be one of {', '.join(_ROWS)}, got {norm!r}")
    return _ROWS[norm]


def _place_linf(x: Tensor, delta: Tensor, _: Tensor, walls: Walls) -> Tensor:
    """x + delta in the box; rounding moves one component by less than the tolerance."""
    return (x + delta).clamp_(*walls)


def _placing(size: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor, Walls], Tensor]:
    """x + delta in x's precision and in the box, each component rounded towards x.

    Rounded to nearest, components that share a threshold err together: in an l1 ball of 3,072 the
    sum came out 4e-5 too large, and the re-check refused the point.
    """

    def place(x: Tensor, delta: Tensor, radius: Tensor, walls: Walls) -> Tensor:
        exact = delta.double()
        share = radius.double() / size(exact)[:, None].clamp(min=torch.finfo(torch.float64).tiny)
        exact = exact * share.clamp(max=1)
        base = x.double()
        point = (base + exact).to(x.dtype)
        beyond = (point.double() - base).abs_() > exact.abs_()
        return torch.where(beyond, torch.nextafter(point, x), point).clamp_(*walls)

    return place


def _by_shrinking(
    shrink: Callable[[Tensor, Tensor, Tensor], Tensor],
    place: Callable[[Tensor, Tensor, Tensor, Walls], Tensor],
) -> Callable[[Tensor, Tensor, Tensor, Walls], Tensor]:
    """A projection from a map of magnitudes a >= 0, the room to the box wall in each component's
    direction, radius.
    """

    def project(x_adv: Tensor, x: Tensor, radius: Tensor, walls: Walls) -> Tensor:
        delta = x_adv - x
        room = torch.where(delta < 0, x - walls[0], walls[1] - x)
        return place(x, shrink(delta.abs(), room, radius) * delta.sign(), radius, walls)

    return project


def _unit(gradient: Tensor) -> Tensor:
    """The gradient over its largest magnitude: a norm of it can neither overflow nor vanish."""
    scale = gradient.abs().amax(1, keepdim=True)
    return gradient / torch.where(scale > 0, scale, 1)


def _project_linf(x_adv: Tensor, x: Tensor, radius: Tensor, walls: Walls) -> Tensor:
    return torch.clamp(x_adv, x - radius, x + radius).clamp_(*walls)


def _size_linf(delta: Tensor) -> Tensor:
    return delta.abs().amax(1)


def _size_l1(delta: Tensor) -> Tensor:
    return delta.abs().sum(1)


def _random_linf(
    x: Tensor, radius: Tensor, draws: Draws, purpose: str, counters: tuple[int | Tensor, ...]
) -> Tensor:
    return (draws.uniform(x.shape, purpose, *counters) * 2 - 1) * radius


def _size_l2(delta: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta, dim=1)
    return length


def _shrink_l2(a: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The point is min(s a, room) with the s in [0, 1] that meets the radius; s grows to it from
    below.
    """
    scale = torch.zeros_like(radius)
    steep, wall, reach = a.square(), room.square(), radius.square()
    before = None
    for _ in range(_L2_ROUNDS):
        stopped = scale * a >= room
        # A row whose set stays repeats itself; asking would stall an accelerator.
        if before is not None and a.device.type == "cpu" and torch.equal(stopped, before):
            break
        before = stopped
        left = reach - (wall * stopped).sum(1, keepdim=True)
        free = (steep * ~stopped).sum(1, keepdim=True)
        reached = (left.clamp(min=0) / free.clamp(min=torch.finfo(a.dtype).tiny)).sqrt()
        # Never back: rounding, or a wall met exactly at the radius, leaves nothing for the free.
        scale = torch.maximum(scale, reached.clamp(max=1))
    return (scale * a).minimum(room)


def _steepest_l2(gradient: Tensor, _: Tensor) -> Tensor:
    unit = _unit(gradient)
    length = _size_l2(unit)[:, None]
    return unit / torch.where(length > 0, length, 1)


def _random_l2(
    x: Tensor, radius: Tensor, draws: Draws, purpose: str, counters: tuple[int | Tensor, ...]
) -> Tensor:
    direction = draws.normal(x.shape, purpose, *counters)
    share = draws.uniform(torch.Size((len(x), 1)), f"{purpose}-radius", *counters)
    share = share.pow(1 / x.shape[1])
    return direction / _size_l2(direction)[:, None] * share * radius


def _shrink_l1(a: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The point is clamp(a - t, 0, room) with the t >= 0 that meets the radius (piecewise linear in
    t).

    Breakpoints are a (a component leaves 0) and a - room (it reaches the wall); between two the
    slope is constant.
    """
    a, room = a.double(), room.double()
    breaks, order = torch.cat([a, (a - room).clamp(min=0)], 1).sort(dim=1, descending=True)
    turns = torch.cat([torch.ones_like(a), -torch.ones_like(a)], 1).gather(1, order)
    slopes = turns.cumsum(1)
    gaps = breaks - torch.cat([breaks[:, 1:], torch.zeros_like(breaks[:, :1])], 1)
    sizes = (slopes * gaps).cumsum(1)
    at = (sizes < radius).sum(1, keepdim=True).clamp(max=breaks.shape[1] - 1)
    before = torch.where(at > 0, sizes.gather(1, (at - 1).clamp(min=0)), 0)
    threshold = breaks.gather(1, at) - (radius - before) / slopes.gather(1, at).clamp(min=1)
    threshold = torch.where(
        a.minimum(room).sum(1, keepdim=True) <= radius, 0, threshold.clamp(min=0)
    )
    return (a - threshold).clamp(min=0).minimum(room)


def _steepest_l1(gradient: Tensor, x: Tensor) -> Tensor:
    unit = _unit(gradient)
    movable = torch.where(unit > 0, x < 1, x > 0)
    strength = unit.abs() * movable
    count = max(1, math.ceil(SPARSE_SHARE * unit.shape[1]))
    least = strength.topk(count, dim=1).values[:, -1:]
    chosen = ((strength >= least) & (strength > 0)) * unit.sign()
    return chosen / chosen.abs().sum(1, keepdim=True).clamp(min=1)


def _random_l1(
    x: Tensor, radius: Tensor, draws: Draws, purpose: str, counters: tuple[int | Tensor, ...]
) -> Tensor:
    """Signed exponentials over their sum; the sum's extra term makes the point uniform in the
    ball.
    """
    signed = draws.open_uniform(x.shape, purpose, *counters) * 2 - 1
    heights = -torch.log1p(-signed.abs())
    extra = -torch.log(draws.open_uniform(torch.Size((len(x), 1)), f"{purpose}-radius", *counters))
    return heights * signed.sign() / (heights.sum(1, keepdim=True) + extra) * radius


def _size_l0(delta: Tensor) -> Tensor:
    return (delta != 0).sum(1).to(delta.dtype)


def _ranks(values: Tensor) -> Tensor:
    """Place of each component in its row, the largest first, ties by position."""
    return values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _shrink_l0(a: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Keeps the components whose keeping shortens the Euclidean distance most."""
    reached = a.minimum(room)
    gain = a**2 - (a - reached) ** 2
    return reached * (_ranks(gain) < radius.floor())


def _steepest_l0(_: Tensor, __: Tensor) -> Tensor:
    raise ValueError("l0 has no steepest direction: its ball holds every multiple of a sparse step")


def _random_l0(
    x: Tensor, radius: Tensor, draws: Draws, purpose: str, counters: tuple[int | Tensor, ...]
) -> Tensor:
    """A random set of components, each moved to a value drawn uniformly from the box."""
    chosen = _ranks(draws.uniform(x.shape, f"{purpose}-where", *counters)) < radius.floor()
    return (draws.uniform(x.shape, purpose, *counters) - x) * chosen


def _shrinking(
    size: Callable[[Tensor], Tensor],
    shrink: Callable[[Tensor, Tensor, Tensor], Tensor],
    steepest: Callable[[Tensor, Tensor], Tensor],
    random: Callable[[Tensor, Tensor, Draws, str, tuple[int | Tensor, ...]], Tensor],
) -> _Row:
    place = _placing(size)
    return _Row(size, place, _by_shrinking(shrink, place), steepest, random)


_ROWS = {
    "linf": _Row(_size_linf, _place_linf, _project_linf, lambda g, _: g.sign(), _random_linf),
    "l2": _shrinking(_size_l2, _shrink_l2, _steepest_l2, _random_l2),
    "l1": _shrinking(_size_l1, _shrink_l1, _steepest_l1, _random_l1),
    "l0": _shrinking(_size_l0, _shrink_l0, _steepest_l0, _random_l0),
}

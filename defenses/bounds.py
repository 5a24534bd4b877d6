"""Lower bounds on the distance to the nearest image that a plain net takes for another class.

Exact distances for affine nets, interval bounds and CROWN for small nets that models.chain knows.
Computed in float64 here: the wheel of auto_LiRPA on the package index is 0.3 of 2022, which needs
torch below 1.13.

Letters: N images, K classes, d components of an image, R rows of linear functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attacks import norms
from models.chain import Affine, Chain, Interval, Pool

NORMS = ("linf", "l2", "l1")
"""Norms in which there are bounds."""
SLACK = 2e-6
"""What a margin must exceed, as a share of the sum of magnitudes that its two logits are made of.

The nets that decide compute in float32. This is more than ten times what rounding was seen to move
(1.7e-7 of that sum, over the nets of models.nets); of what is summed, as what cancels rounds too.
"""
_AT_ONCE = 2**20
"""Numbers of linear functions that are held at a time: 8 MB."""
_IMAGES = 16
"""Images whose bounds are propagated at a time."""


@dataclass(frozen=True)
class Region:
    """Every point of the box that the re-check lets pass as within the radius (N,) of x (N, ...).

    low, high (N, ...): the smallest box around it. Under l2 and l1 that box and the ball are used,
    whichever bounds better, not what they have in common.
    """

    x: Tensor
    radius: Tensor
    norm: str

    @cached_property
    def box(self) -> Interval:
        """The smallest box around it."""
        wide = norms.expand(self.reach, self.x)
        low, high = -norms.TOLERANCE, 1 + norms.TOLERANCE
        return (self.x - wide).clamp(min=low), (self.x + wide).clamp(max=high)

    @cached_property
    def reach(self) -> Tensor:
        """How far (N,) float64 a point may be that counts as within the radius."""
        return norms.reach(self.radius, self.norm)

    def least(self, rows: Tensor) -> Tensor:
        """A lower bound (N, R) of the rows (N, R, ...) times any point."""
        low, high = (bound[:, None].flatten(2) for bound in self.box)
        flat = rows.flatten(2)
        middle, spread = (flat * (low + high)).sum(2) / 2, (flat.abs() * (high - low)).sum(2) / 2
        found = middle - spread
        if self.norm == "linf":
            return found
        length = norms.size(flat.flatten(0, 1), norms.dual(self.norm)).view(flat.shape[:2])
        inside = (flat * self.x[:, None].flatten(2)).sum(2) - self.reach[:, None] * length
        return torch.maximum(found, inside)


@dataclass(frozen=True)
class Bounds:
    """Bounds of a chain in a norm: by intervals, or where is_linear by linear functions (CROWN:
    Zhang et al. 2018, arXiv:1811.00866), nowhere looser than the intervals.
    """

    chain: Chain
    norm: str
    is_linear: bool

    def margins(self, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        """Lower bounds (N, K) float64 of the logit of y (N,) less each other one's at every point
        of the box within the radius (N,) of x (N, ...), less the slack; inf for y itself.
        """
        region = Region(x.double(), radius, self.norm)
        inner, said = self._propagated(region)
        differences = _differences(said[0].shape[1], y)
        if isinstance(self.chain.steps[-1], Affine):
            # The last map and the difference are one: tighter than bounds of each logit.
            found = self._last(differences, inner[-1], region)
        else:
            found = _weighed(differences, said)
        if self.is_linear:
            linear = self._lower(differences, len(self.chain.steps), inner, region)
            found = torch.maximum(found, linear)
        size = self._magnitude(inner[-1], said)
        own = size.gather(1, y[:, None])
        return (found - SLACK * (size + own)).scatter(1, y[:, None], torch.inf)

    def _propagated(self, region: Region) -> tuple[list[Interval], Interval]:
        """Bounds of what enters each step, and of what the last yields."""
        inner: list[Interval] = []
        now = region.box
        for number, step in enumerate(self.chain.steps):
            inner.append(now)
            now = step.interval(now)
            is_first, is_last = number == 0, number == len(self.chain.steps) - 1
            if isinstance(step, Affine) and is_first:
                now = self._tighter(now, region)
            elif isinstance(step, Affine) and self.is_linear and not is_last:
                now = self._refined(now, number + 1, inner, region)
        return inner, now

    def _tighter(self, now: Interval, region: Region) -> Interval:
        """Bounds of the first map's values: under l2 and l1 also by the lengths of its rows."""
        if self.norm == "linf":
            return now
        first = self.chain.steps[0]
        middle = first.interval((region.x, region.x))[0]
        spread = norms.expand(region.reach, middle) * self._lengths
        return torch.maximum(now[0], middle - spread), torch.minimum(now[1], middle + spread)

    @cached_property
    def _lengths(self) -> Tensor:
        """The dual norm (...) of each row of the first map."""
        first = self.chain.steps[0]
        if not isinstance(first, Affine):
            raise TypeError("the first step must be affine")
        size = first.bias.numel()
        found = [
            norms.size(first.transposed(rows.view(-1, *first.bias.shape)), norms.dual(self.norm))
            for rows in self._units(torch.arange(size, device=first.bias.device), size, 1)
        ]
        return torch.cat(found).view(first.bias.shape)

    def _units(self, places: Tensor, size: int, images: int) -> Iterator[Tensor]:
        """Unit rows (R, size) with a 1 at each of the places, so many as fit for so many images."""
        count = max(1, _AT_ONCE // (images * max(self.chain.sizes)))
        for part in torch.split(places, count):
            rows = torch.zeros(len(part), size, dtype=torch.float64, device=places.device)
            yield rows.scatter(1, part[:, None], 1.0)

    def _refined(
        self, now: Interval, count: int, inner: Sequence[Interval], region: Region
    ) -> Interval:
        """Bounds of what the first steps yield, also by linear functions: where a rectifier
        follows, of the components whose sign is open for any image.
        """
        low, high = (bound.flatten(1).clone() for bound in now)
        is_open = torch.ones_like(low, dtype=torch.bool)
        if not isinstance(self.chain.steps[count], Pool):
            is_open = (low < 0) & (high > 0)
        places = is_open.any(0).nonzero()[:, 0]
        shape = now[0].shape[1:]
        done = 0
        for units in self._units(places, low.shape[1], 2 * len(low)):
            chosen = places[done : done + len(units)]
            rows = torch.cat([units, -units]).view(1, -1, *shape)
            least, most = self._lower(rows, count, inner, region).chunk(2, dim=1)
            low[:, chosen] = torch.maximum(low[:, chosen], least)
            high[:, chosen] = torch.minimum(high[:, chosen], -most)
            done += len(units)
        # Rounding may part bounds that meet.
        low = torch.minimum(low, high)
        return low.view(now[0].shape), high.view(now[1].shape)

    def _lower(self, rows: Tensor, count: int, inner: Sequence[Interval], region: Region) -> Tensor:
        """A lower bound (N, R) of rows (N, R, ...) times what the first steps yield."""
        constant = rows.new_zeros(rows.shape[:2])
        for step, bounds in reversed(list(zip(self.chain.steps[:count], inner, strict=False))):
            rows, more = step.back(rows, bounds)
            constant = constant + more
        return constant + region.least(rows)

    def _last(self, rows: Tensor, inner: Interval, region: Region) -> Tensor:
        """A lower bound (N, R) of rows (N, R, K) times what the last step yields, by intervals."""
        pulled, constant = self.chain.steps[-1].back(rows, inner)
        if len(self.chain.steps) == 1:
            return constant + region.least(pulled)
        return constant + _weighed(pulled, inner)

    def _magnitude(self, inner: Interval, said: Interval) -> Tensor:
        """The largest sum of magnitudes (N, K) that a logit may be made of in the last step."""
        last = self.chain.steps[-1]
        largest = torch.maximum(inner[0].abs(), inner[1].abs())
        if isinstance(last, Affine):
            summed: Tensor = last.absolute(largest) + last.bias.abs()
            return summed
        return torch.maximum(said[0].abs(), said[1].abs())


def _differences(classes: int, y: Tensor) -> Tensor:
    """Rows (N, K, K) that take each logit from that of y (N,)."""
    unit = torch.eye(classes, dtype=torch.float64, device=y.device)
    return unit[y][:, None] - unit


def _weighed(rows: Tensor, bounds: Interval) -> Tensor:
    """The least value (N, R) of rows (N, R, ...) times anything within bounds (N, ...)."""
    low, high = (bound[:, None] for bound in bounds)
    return (rows.clamp(min=0) * low + rows.clamp(max=0) * high).flatten(2).sum(2)


def largest(bounds: Bounds, x: Tensor, y: Tensor, radii: Sequence[float]) -> Tensor:
    """The largest (N,) float64 of the radii within which no point of the box is proven to be taken
    for another class than y (N,) by halving; 0 where that is none.

    A net is proven at a radius by its own margins, so that nothing rests on their falling as the
    radius grows; where they do not, a larger radius may be missed.
    """
    grid = torch.tensor([0.0, *sorted(radii)], dtype=torch.float64, device=x.device)
    proven = [
        _halved(bounds, *part, grid)
        for part in zip(torch.split(x, _IMAGES), torch.split(y, _IMAGES), strict=True)
    ]
    return torch.cat([grid[:0], *proven])


def _halved(bounds: Bounds, x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
    low = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    high = torch.full_like(low, len(grid) - 1)
    while bool((low < high).any()):
        rows = torch.nonzero(low < high)[:, 0]
        middle = (low[rows] + high[rows] + 1) // 2
        holds = (bounds.margins(x[rows], y[rows], grid[middle]) > 0).all(1)
        low[rows] = torch.where(holds, middle, low[rows])
        high[rows] = torch.where(holds, high[rows], middle - 1)
    return grid[low]


def exact(chain: Chain, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The distance (N,) float64 from x (N, ...) to the nearest point of the box that an affine net
    takes for another class than y (N,), less the slack and what the re-check tolerates; where there
    is none, the distance to the furthest point of the box.
    """
    (step,) = chain.steps
    if not isinstance(step, Affine):
        raise TypeError("exact distances are of affine nets")
    flat = x.double().flatten(1)
    classes = step.bias.numel()
    unit = torch.eye(classes, dtype=torch.float64, device=x.device)
    weight = step.transposed(unit.view(classes, *step.bias.shape)).flatten(1)
    logits = flat @ weight.T + step.bias
    size = weight.abs().sum(1) + step.bias.abs()
    # the furthest corner of the box, so that a radius is finite
    found = norms.size(torch.maximum(flat, 1 - flat), norm)
    for other in range(classes):
        pull = weight[other] - weight[y]
        room = torch.where(pull > 0, 1 - flat, flat) + norms.TOLERANCE
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, other]
        gap = gap - SLACK * (size[y] + size[other])
        away = torch.where(gap > 0, _DISTANCE[norm](pull.abs(), room, gap), 0)
        found = torch.where(y == other, found, torch.minimum(found, away))
    return _within(found, norm)


def _within(distance: Tensor, norm: str) -> Tensor:
    """The radius (N,) whose ball, as the re-check tolerates it, ends at a distance (N,)."""
    share = distance / (1 + norms.TOLERANCE)
    less = distance - norms.TOLERANCE
    return (torch.where(less > 1, share, less) if norm == "l1" else less).clamp(min=0)


def _steep(pull: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """l2: components move in proportion to their pull, each as far as its wall."""
    rise = _risen(pull**2, torch.where(pull > 0, room / pull, torch.inf), gap)
    moved = torch.minimum(rise[:, None] * pull, room)
    return torch.where(rise.isinf(), rise, norms.size(moved, "l2"))


def _risen(slope: Tensor, end: Tensor, gap: Tensor) -> Tensor:
    """The least s (N,) at which the sum of slope min(s, end) over the components (N, d) reaches the
    gap (N,), inf where it never does. An end is finite where the slope is above 0.
    """
    ends, order = end.sort(1)
    slopes = slope.gather(1, order)
    gains = torch.where(slopes > 0, slopes * ends, 0)
    before = gains.cumsum(1) - gains
    left = slopes.flip(1).cumsum(1).flip(1)
    reached = torch.where(left > 0, before + left * ends, before)
    first, can = _first(reached, gap)
    rise = (gap[:, None] - before.gather(1, first)) / left.gather(1, first)
    return torch.where(can, rise[:, 0], torch.inf)


def _first(reached: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """The first place (N, 1) of a row (N, d) that is as large as the gap (N,), and whether one
    is.
    """
    is_enough = reached >= gap[:, None]
    return is_enough.to(torch.int64).argmax(1, keepdim=True), is_enough.any(1)


def _one_by_one(pull: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """l1: the strongest component moves to its wall, then the next."""
    pulls, order = pull.sort(1, descending=True)
    walls = room.gather(1, order)
    gains = pulls * walls
    first, can = _first(gains.cumsum(1), gap)
    before = (gains.cumsum(1) - gains).gather(1, first)
    length = (walls.cumsum(1) - walls).gather(1, first)
    moved = length + (gap[:, None] - before) / pulls.gather(1, first)
    return torch.where(can, moved[:, 0], torch.inf)


_DISTANCE: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": _risen,
    "l2": _steep,
    "l1": _one_by_one,
}
"""How far (N,) one must go, in the norm, to gain gaps (N,) above 0 from components of a pull (N, d)
that have room (N, d) to their wall; inf where that is too little.
"""


def by_intervals(chain: Chain, x: Tensor, y: Tensor, norm: str, radii: Sequence[float]) -> Tensor:
    """See Bound."""
    return largest(Bounds(chain, norm, is_linear=False), x, y, radii)


def by_lines(chain: Chain, x: Tensor, y: Tensor, norm: str, radii: Sequence[float]) -> Tensor:
    """See Bound."""
    return largest(Bounds(chain, norm, is_linear=True), x, y, radii)


def by_distance(chain: Chain, x: Tensor, y: Tensor, norm: str, _: Sequence[float]) -> Tensor:
    """See Bound."""
    return exact(chain, x, y, norm)


Bound = Callable[[Chain, Tensor, Tensor, str, Sequence[float]], Tensor]
"""A radius (N,) float64 within which a net provably takes no point of the box for another class
than y (N,), from images (N, ...), a norm, and the radii that are asked about.
"""
EXACT = "exact"
BOUNDS: Mapping[str, Bound] = {EXACT: by_distance, "interval": by_intervals, "crown": by_lines}
"""The bounds there are; exact is for affine nets alone."""
REVISION = 1
"""Raised when a change moves a bound, so that stored ones are not reused."""

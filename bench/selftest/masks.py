"""Modules that fake robustness around a net: they keep, or nearly keep, its predictions and take
the use out of its gradients, or answer an attack with something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attacks.draws import Draws, sample_ids
from attacks.oracles import one_hot
from attacks.pipelines import Randomised
from defenses.resizepad import placed
from defenses.straight import straight_through

Change = Callable[[Tensor, Tensor], Tensor]
"""A gradient (N, ...) and the images (N, ...) it is of to what is handed on in its place."""


class Scaled(nn.Module):
    """A net's logits times a factor."""

    def __init__(self, net: nn.Module, factor: float):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.net(x)
        return logits * self.factor


class Probabilities(nn.Module):
    """A net's logits put through the softmax several times; the order of the classes stays."""

    def __init__(self, net: nn.Module, times: int):
        super().__init__()
        self.net, self.times = net, times

    def forward(self, x: Tensor) -> Tensor:
        """Rows (N, K) that sum to 1."""
        answer: Tensor = self.net(x)
        for _ in range(self.times):
            answer = answer.softmax(1)
        return answer


class Rounded(nn.Module):
    """Components rounded to so many levels from 0 to 1; torch's rounding has zero gradient."""

    def __init__(self, levels: int):
        super().__init__()
        self.steps = levels - 1

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        return (x * self.steps).round() / self.steps


class Stairs(nn.Module):
    """A ReLU whose values are rounded to multiples of a step; zero gradient."""

    def __init__(self, step: float):
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the same shape."""
        return (x.relu() / self.step).round() * self.step


class Ramp(Stairs):
    """The same values with the gradient of the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """See Stairs."""
        return straight_through(super().forward(x.detach()), x.relu())


class Cliff(nn.Module):
    """Components through a sigmoid around the middle, so steep that its derivative is 0 in float32
    nearly everywhere; `slope` infinite: 0 or 1, with a derivative of exactly 0.
    """

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape."""
        if self.slope == torch.inf:
            return (x > 0.5).to(x.dtype) + 0 * x
        return (self.slope * (x - 0.5)).sigmoid()


class Ripples(nn.Module):
    """A ripple on every component, too low to move a prediction and so steep that it alone decides
    the gradient's signs.
    """

    def __init__(self, height: float, slope: float):
        super().__init__()
        self.height, self.slope = height, slope

    def forward(self, x: Tensor) -> Tensor:
        """Images of the same shape, no component moved by more than height; derivative 1 + slope
        cos(x slope / height).
        """
        return x + self.height * (x * (self.slope / self.height)).sin()


class _ChangedGradient(torch.autograd.Function):
    """The identity forward; backward another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        """See torch.autograd.Function."""
        ctx.save_for_backward(x)
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """See torch.autograd.Function."""
        (x,) = ctx.saved_tensors
        return ctx.change(gradient, x), None


class Misled(nn.Module):
    """A net that hands on its input's gradient changed, and answers as before."""

    def __init__(self, net: nn.Module, change: Change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.net(_ChangedGradient.apply(x, self.change))
        return logits


def negated(gradient: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001  a Change
    """Downhill in place of uphill."""
    return -gradient


def half_negated(gradient: Tensor, x: Tensor) -> Tensor:
    """Some components negated, the same of every image, and each scaled by 0.1 to 10."""
    one = torch.zeros(1, dtype=torch.int64, device=x.device)
    draws, shape = Draws(0, one, one), torch.Size((1, *x.shape[1:]))
    return gradient * draws.signs(shape, "sign") * 10 ** (2 * draws.uniform(shape, "size") - 1)


def drowned(gradient: Tensor, x: Tensor) -> Tensor:
    """Under noise of ten times the size of its components, another one at every point."""
    size = gradient.abs().flatten(1).mean(1).view(-1, *[1] * (x.dim() - 1))
    return gradient + 10 * size * Draws.of(x, 0).normal(x.shape, "gradient")


class Shifted(Randomised):
    """Each image moved by up to `most` components in each direction, zeros moved in."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        height, width = (torch.full_like(draws.ids, side) for side in x.shape[2:])
        top, left = (
            draws.integers(2 * self.most + 1, side) - self.most for side in ("top", "left")
        )
        return placed(x, height, width, top, left)


class Riddled(Randomised):
    """Dropout left on in front of a net: each component 0 with this probability."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, draws: Draws) -> Tensor:
        """See Randomised."""
        return x * (draws.uniform(x.shape, "dropout") >= self.rate) / (1 - self.rate)


class Undeclared(nn.Module):
    """A pipeline that draws and does not say so: from a generator of its own, so that it answers
    differently each time.
    """

    def __init__(self, pipeline: Randomised, seed: int = 0):
        super().__init__()
        self.pipeline = pipeline
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        ids = torch.randint(2**62, (len(x),), generator=self._generator).to(x.device)
        logits: Tensor = self.pipeline(x, Draws(0, ids, torch.zeros_like(ids)))
        return logits


class Keyed(nn.Module):
    """A pipeline that draws from the image's own bits: equal images are answered equally, and the
    smallest step draws anew.
    """

    def __init__(self, pipeline: Randomised):
        super().__init__()
        self.pipeline = pipeline

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.pipeline(x, Draws.of(x, 0))
        return logits


class DecoyInLoop(nn.Module):
    """A net in whose place another answers wherever a gradient may be asked for."""

    def __init__(self, net: nn.Module, decoy: nn.Module):
        super().__init__()
        self.net, self.decoy = net, decoy

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = (self.decoy if x.requires_grad else self.net)(x)
        return logits


class Remembering(nn.Module):
    """A net that remembers the first images it was asked about, at most `most`, and answers what
    lies within a radius (linf) of one of them as it answered that one.
    """

    def __init__(self, net: nn.Module, radius: float, most: int = 1000):
        super().__init__()
        self.net, self.radius, self.most = net, radius, most
        self._asked: Tensor | None = None
        self._said: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K); of a remembered query without a gradient."""
        logits: Tensor = self.net(x)
        flat = x.detach().flatten(1)
        if self._asked is None or self._said is None:
            self._asked, self._said = flat[:0], logits.detach()[:0]
        known, place = _nearest(flat, self._asked, self.radius)
        answer = torch.where(known[:, None], _rows(self._said, place, logits), logits)
        self._asked = torch.cat([self._asked, flat[~known]])[: self.most]
        self._said = torch.cat([self._said, logits.detach()[~known]])[: self.most]
        return answer


class Table(nn.Module):
    """A net with a table of images and their labels in front of it: what lies within a radius
    (linf) of one of the images is answered from the table; with radius 0 the image alone.
    """

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor, radius: float):
        super().__init__()
        self.net, self.radius = net, radius
        self._x, self._y = x.flatten(1), y
        self._ids = sample_ids(x).to(x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K); of the table without a gradient."""
        logits: Tensor = self.net(x)
        known, place = self._found(x.detach())
        rows = 10 * one_hot(self._y[place], logits.shape[1])
        return torch.where(known[:, None], rows, logits)

    def _found(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.radius:
            return _nearest(x.flatten(1), self._x, self.radius)
        same = sample_ids(x).to(x.device)[:, None] == self._ids
        return same.any(1), same.byte().argmax(1)


def _nearest(x: Tensor, others: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Whether rows (N, d) lie within the radius (linf) of one of the others (M, d), and the place
    of the nearest (N,), 0 where there are none.
    """
    if not len(others):
        nowhere = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return nowhere.bool(), nowhere
    nearest = torch.cdist(x, others, p=torch.inf).min(1)
    return nearest.values <= radius, nearest.indices


def _rows(table: Tensor, place: Tensor, like: Tensor) -> Tensor:
    """The table's rows at places (N,); where it is empty, rows of zeros."""
    return table[place] if len(table) else torch.zeros_like(like)

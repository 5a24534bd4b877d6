"""Problems whose answers are known: linear models with closed-form distances, models that count or
refuse, and the values that property tests draw.

Letters: N samples, K classes, d components of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from attacks.draws import Draws
from models.seeding import seeded

IMAGE = (1, 8, 8)
DIM = 64
DISTANCE = {"linf": 0.02, "l2": 0.1, "l1": 0.05, "l0": 1.2}
"""The distance at which `linear` places its images; for l0 in l1, some 3 pixels."""
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf", "l0": "linf"}


class Linear(nn.Module):
    """Logits x weight^T + bias; weight (K, d), bias (K,)."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        self.bias = nn.Parameter(bias.float())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


@dataclass(frozen=True)
class Problem:
    """A model, images (N, ...) it classifies rightly, and the exact distance (N,) float64 in the
    norm to the nearest image that it does not; nearest (N,) is the class it then predicts.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    norm: str
    distance: Tensor
    nearest: Tensor


def linear(norm: str, classes: int, *, count: int = 16) -> Problem:
    """A linear model and images near the middle of the box, each beside one boundary only.

    The nearest other class stands `DISTANCE[norm]` away, every other one 10 logits further, so that
    the softmax of the others cannot turn the gradient, and no wall of the box is within reach.
    """
    generator = torch.Generator().manual_seed(classes)
    weight = 4 * torch.randn(classes, DIM, generator=generator)
    bias = -weight.sum(1) / 2  # logits are 0 in the middle of the box
    y = torch.arange(count) % classes
    nearest = (y + 1) % classes
    gap = DISTANCE[norm] * _length(weight[nearest] - weight[y], DUAL[norm])
    logits = -(gap[:, None] + 10).repeat(1, classes)
    rows = torch.arange(count)
    logits[rows, nearest], logits[rows, y] = -gap, 0
    logits -= logits.mean(1, keepdim=True)
    inverse = torch.linalg.pinv(weight).T
    blind = 0.05 * torch.randn(count, DIM, generator=generator)  # what the model does not see
    x = 0.5 + logits @ inverse + blind - blind @ weight.T @ inverse
    model = Linear(weight, bias)
    distance, reached = exact_distance(model, x, y, norm)
    return Problem(model, x.view(-1, *IMAGE), y, norm, distance, reached)


def exact_distance(model: Linear, x: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Distance (N,) float64 to the nearest boundary of a linear model, and the class behind it.

    Towards class j it is (z_y - z_j) / ||w_j - w_y|| in the dual norm, where no wall of the box is
    in the way; in l0 the least number of pixels that, moved to a wall, close the gap.
    """
    weight, flat = model.weight.detach().double(), x.flatten(1).double()
    z = flat @ weight.T + model.bias.detach().double()
    gaps = z.gather(1, y[:, None]) - z
    pull = weight[None] - weight[y][:, None]
    if norm == "l0":
        gains = torch.maximum(pull * (1 - flat[:, None]), -pull * flat[:, None])
        closed = gains.sort(dim=2, descending=True).values.cumsum(2)
        distances = (closed < gaps[:, :, None]).sum(2).double() + 1
    else:
        distances = gaps / _length(pull, DUAL[norm])
    distances.scatter_(1, y[:, None], torch.inf)
    least = distances.min(1)
    return least.values, least.indices


def _length(rows: Tensor, norm: str) -> Tensor:
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(rows, order, dim=-1)


class Curved(nn.Module):
    """A small smooth net with logits of either sign, whose gradient changes along the way."""

    def __init__(self, classes: int = 10, dim: int = DIM):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first = nn.Parameter(torch.randn(32, dim, generator=generator) / dim**0.5 * 4)
        self.second = nn.Parameter(torch.randn(classes, 32, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.first.T) @ self.second.T


def convolutional(classes: int = 10) -> nn.Sequential:
    """A small convolutional net with batch normalisation, in eval mode."""
    with seeded(3):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, classes),
        )
        net[1].running_mean.normal_(std=0.1)
        net[1].running_var.uniform_(0.05, 0.2)
    return net.eval()


class HalfInside(nn.Module):
    """Computes in float16 and returns float16 logits, as a mixed-precision model may."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.net = Curved(classes).half()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.half())
        return logits


class Mapped(nn.Module):
    """Another model's logits, changed by a function of them and of the images."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net(x), x)


class _Counter(torch.autograd.Function):
    """The identity, which tells its owner how many rows pass back through it."""

    @staticmethod
    def forward(ctx, x: Tensor, owner: Counting) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.owner = owner
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        ctx.owner.backwards += len(gradient)
        return gradient, None


class Counting(nn.Module):
    """Another model, with the rows that went forward and backward through it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits: Tensor = self.net(_Counter.apply(x, self))
        return logits


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        raise AssertionError("a black-box attack asked for a gradient")


class BlackBox(nn.Module):
    """Another model, whose backward raises."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(_NoBackward.apply(x))
        return logits


def images(count: int, *, seed: int = 0, shape: tuple[int, ...] = IMAGE) -> Tensor:
    """Images (count, ...) whose pixels are 0, 1 or anything between, a third each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=generator)
    kind = torch.randint(3, x.shape, generator=generator)
    return torch.where(kind == 0, torch.zeros_like(x), torch.where(kind == 1, 1, x))


def numbered(count: int, seed: int = 0) -> Draws:
    """Draws for samples that are known by their number, not by an image."""
    return Draws(seed, torch.arange(count), torch.zeros(count, dtype=torch.int64))


@dataclass(frozen=True)
class Ball:
    """Points z (N, d) to bring back into the balls of radius (N,) around x (N, d) in the box."""

    z: Tensor
    x: Tensor
    radius: Tensor


def _floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32, allow_subnormal=False)


pixels = st.one_of(st.sampled_from([0.0, 1.0]), _floats(0, 1))


@st.composite
def balls(draw: st.DrawFn, *, dims: int = 24, furthest: float = 4.0) -> Ball:
    """Balls around images with many pixels at the walls, and points in and far outside them."""
    count, dim = draw(st.integers(1, 4)), draw(st.integers(1, dims))
    x = draw(arrays(np.float32, (count, dim), elements=pixels))
    z = draw(arrays(np.float32, (count, dim), elements=_floats(-furthest, 1 + furthest)))
    radius = draw(arrays(np.float32, count, elements=st.one_of(_floats(0, 1), _floats(0, dim))))
    return Ball(torch.from_numpy(z), torch.from_numpy(x), torch.from_numpy(radius))


@st.composite
def gradients(draw: st.DrawFn, *, dims: int = 100) -> Tensor:
    """Gradients (N, d) of any size that float32 holds."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, dims))
    scale = draw(st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]))
    values = arrays(np.float32, shape, elements=_floats(-1, 1))
    return torch.from_numpy(draw(values)) * scale


@st.composite
def rated(draw: st.DrawFn, *, least: int = 2, size: float = 50.0) -> tuple[Tensor, Tensor]:
    """Logits (M, K) of either sign, and labels (M,)."""
    rows, classes = draw(st.integers(1, 5)), draw(st.integers(least, 6))
    logits = draw(arrays(np.float32, (rows, classes), elements=_floats(-size, size)))
    labels = draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)
